"""What to ask of whom. Pure: the store's coverage and the sources' offers in, steps out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from piker.data.ranges import Range, intersect, subtract, union
from piker.data.store.store import Coverage

__all__ = ["Plan", "Step", "Unit", "needed", "plan"]


class Unit(NamedTuple):
    """One thing that a source can be asked for. It may hold more than is wanted of it."""

    start: int
    end: int
    payload: Any = None  # the source's own: a file of an archive, a page


class Step(NamedTuple):
    """A unit, the source to ask for it, and what of it is wanted."""

    source: str
    unit: Unit
    wanted: tuple[Range, ...]


class Plan(NamedTuple):
    """``steps`` do not share wanted ranges; ``left`` is what nobody offers."""

    steps: tuple[Step, ...]
    left: tuple[Range, ...]


def needed(request: Range, coverage: Coverage) -> tuple[Range, ...]:
    """Return what of a request is not in the store and may exist.

    Confirmed holes and what is before the first listed bar do not; holes that nobody has confirmed
    are asked for again.
    """
    open_holes = [(h.start_s, h.end_s) for h in coverage.holes if not h.confirmed]
    wanted = union([*subtract([request], coverage.covered), *intersect([request], open_holes)])
    if coverage.listed_s is not None:
        wanted = intersect(wanted, [(coverage.listed_s, request.end)])
    return wanted


def plan(
    wanted: Iterable[tuple[int, int]],
    offers: Mapping[str, Callable[[Range], Sequence[Unit]]],
    failed: Mapping[str, Iterable[tuple[int, int]]],
) -> Plan:
    """Assign everything wanted to the first source, in the order of ``offers``, that offers it.

    A source is asked for its units of what the sources before it have left over. ``failed`` are
    ranges that a source could not give: they go to the sources after it.
    """
    left = union(wanted)
    steps: list[Step] = []
    for source, offer in offers.items():
        mine = subtract(left, failed.get(source, ()))
        taken: list[Range] = []
        for unit in (unit for span in mine for unit in offer(span)):
            part = subtract(intersect(mine, [unit[:2]]), taken)
            if part:
                steps.append(Step(source, unit, part))
                taken += part
        left = subtract(left, taken)
    return Plan(tuple(steps), left)
