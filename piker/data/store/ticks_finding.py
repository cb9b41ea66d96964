"""What a look at the store finds: one struct for bars and ticks."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Finding"]


class Finding(NamedTuple):
    """What ``verify`` saw of one file, or of a series: ``problem`` is empty when it is sound."""

    series: str
    file: str
    rows: int
    problem: str
