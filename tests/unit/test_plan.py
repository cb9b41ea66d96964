"""Plans cover exactly what is missing, merging is idempotent and of no order: 10,000 cases each."""

from __future__ import annotations

import random

import numpy as np
import pytest

from piker.data.history.plan import Unit, needed, plan
from piker.data.ranges import Range, intersect, subtract, union
from piker.data.store import merge
from piker.data.store.manifest import Hole
from piker.data.store.segment import SOURCES
from piker.data.store.store import Coverage, Rows
from piker.ohlcv import KLINE_DTYPE

CASES = 10_000


def seconds(ranges: object) -> set[int]:
    """Return the seconds of some ranges, the slow way."""
    return {s for a, b in ranges for s in range(a, b)}  # type: ignore[attr-defined]


def some_ranges(chance: random.Random, count: int) -> list[tuple[int, int]]:
    """Make ranges within 60 seconds, some of them overlapping."""
    starts = [chance.randrange(60) for _ in range(chance.randrange(count + 1))]
    return [(start, start + chance.randrange(1, 15)) for start in starts]


@pytest.mark.slow
def test_a_plan_covers_exactly_what_is_missing_for_10000_coverages_and_requests() -> None:
    """Compared second by second with what a child would work out."""
    chance = random.Random(20)
    for _ in range(CASES):
        start = chance.randrange(50)
        request = Range(start, start + chance.randrange(1, 30))
        covered = union(some_ranges(chance, 6))
        holes = tuple(
            Hole(*span, chance.random() < 0.5, "")
            for span in intersect(union(some_ranges(chance, 3)), covered)
        )
        listed = chance.choice([None, chance.randrange(60)])
        wanted = needed(request, Coverage(covered, holes, listed))
        sure = seconds((h.start_s, h.end_s) for h in holes if h.confirmed)
        doubtful = seconds((h.start_s, h.end_s) for h in holes if not h.confirmed)
        expected = {
            s
            for s in range(*request)
            if (s not in seconds(covered) or s in doubtful) and s not in sure
            and s >= (listed or 0)
        }  # fmt: skip
        assert seconds(wanted) == expected

        offers = {
            name: [Unit(*span) for span in some_ranges(chance, 5)] for name in ("archive", "rest")
        }
        asked = {name: (lambda _, units=units: units) for name, units in offers.items()}
        failed = {name: some_ranges(chance, 2) for name in offers}
        found = plan(wanted, asked, failed)
        parts = [part for step in found.steps for part in step.wanted]
        planned = seconds(parts)
        assert sum(b - a for a, b in parts) == len(planned), "nothing is asked for twice"
        assert planned | seconds(found.left) == expected
        assert not planned & seconds(found.left)
        can = {n: seconds(u[:2] for u in offers[n]) - seconds(failed[n]) for n in offers}
        by = {n: seconds(p for s in found.steps if s.source == n for p in s.wanted) for n in offers}
        assert by["archive"] == expected & can["archive"]
        assert by["rest"] == expected & can["rest"] - can["archive"]
        assert all(not subtract(step.wanted, [step.unit[:2]]) for step in found.steps)


def some_rows(chance: random.Random, source: int) -> tuple[Rows, Rows]:
    """Make bars at some of twenty times; what a source says of a time is always the same."""
    times = sorted(chance.sample(range(20), chance.randrange(1, 12)))
    rows = np.zeros(len(times), KLINE_DTYPE)
    rows["time"] = times
    rows["close"] = rows["time"] * 10 + source
    return rows, np.full(len(times), source, "u1")


@pytest.mark.slow
def test_merging_is_idempotent_and_of_no_order_for_10000_sets_of_rows() -> None:
    """Whatever the order, and with everything twice, the better source's bar is there once."""
    chance = random.Random(21)
    for _ in range(CASES):
        parts = [some_rows(chance, chance.randrange(len(SOURCES))) for _ in range(3)]
        results = set()
        for order in (parts, chance.sample(parts, len(parts))):
            rows, codes = order[0]
            for part in (*order[1:], order[0], order[-1]):
                rows, codes, _ = merge.merge([(rows, codes)], part)
            results.add((rows.tobytes(), codes.tobytes()))
        assert len(results) == 1
        assert (np.diff(rows["time"]) > 0).all()
        for time, code in zip(rows["time"], codes, strict=True):
            offers = [c[0] for r, c in parts if time in r["time"]]
            assert merge.RANK[code] == max(merge.RANK[offer] for offer in offers)
