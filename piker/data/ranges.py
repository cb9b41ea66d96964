"""Half-open ranges of time: [start, end) in epoch seconds, and sets of them. All of it is pure.

A set is a tuple of ranges, ascending, none empty, none touching the next one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Range", "intersect", "subtract", "union"]


class Range(NamedTuple):
    """[start, end) in epoch seconds."""

    start: int
    end: int

    def overlaps(self, other: Range) -> bool:
        """Tell whether both hold some same second."""
        return self.start < other.end and other.start < self.end


def union(ranges: Iterable[tuple[int, int]]) -> tuple[Range, ...]:
    """Return the set of everything that is in any of the ranges, which may overlap."""
    found: list[Range] = []
    for start, end in sorted(ranges):
        if start >= end:
            continue
        if found and start <= found[-1].end:
            found[-1] = Range(found[-1].start, max(found[-1].end, end))
        else:
            found.append(Range(start, end))
    return tuple(found)


def subtract(
    ranges: Iterable[tuple[int, int]], others: Iterable[tuple[int, int]]
) -> tuple[Range, ...]:
    """Return what is in ``ranges`` and in none of ``others``."""
    taken = union(others)
    left: list[Range] = []
    for start, end in union(ranges):
        at = start
        for gone in taken:
            if gone.end <= at:
                continue
            if gone.start >= end:
                break
            if gone.start > at:
                left.append(Range(at, gone.start))
            at = max(at, gone.end)
        if at < end:
            left.append(Range(at, end))
    return tuple(left)


def intersect(
    ranges: Iterable[tuple[int, int]], others: Iterable[tuple[int, int]]
) -> tuple[Range, ...]:
    """Return what is in both."""
    whole = union(ranges)
    return subtract(whole, subtract(whole, others))
