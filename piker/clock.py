"""The only place that reads time.

``wall_ns``/``monotonic_ns`` are what every other module calls. A :class:`VirtualClock` installed
with :func:`use_clock` replaces both, so that thirty days can pass in a second of a test.
Trio deadlines are not routed through here: tests use trio's own ``MockClock`` for those.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol

__all__ = [
    "NS",
    "Clock",
    "VirtualClock",
    "WallClock",
    "monotonic_ns",
    "use_clock",
    "utc",
    "wall_ns",
    "wall_s",
]

NS = 1_000_000_000  # nanoseconds in a second


class Clock(Protocol):
    """Where time comes from."""

    def wall_ns(self) -> int:
        """Return nanoseconds since the Unix epoch, UTC."""
        ...

    def monotonic_ns(self) -> int:
        """Return nanoseconds that never step back, comparable between processes of one host."""
        ...


class WallClock:
    """The machine's own clocks (``CLOCK_REALTIME`` and ``CLOCK_MONOTONIC``)."""

    def wall_ns(self) -> int:
        """Return nanoseconds since the Unix epoch, UTC."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Return ``CLOCK_MONOTONIC`` in nanoseconds: the same in every process of the host."""
        return time.monotonic_ns()


class VirtualClock:
    """A clock that moves only when told."""

    def __init__(self, start_ns: int = 0) -> None:
        self._wall_ns = start_ns
        self._monotonic_ns = 0

    def wall_ns(self) -> int:
        """Return the virtual wall time."""
        return self._wall_ns

    def monotonic_ns(self) -> int:
        """Return the virtual monotonic time."""
        return self._monotonic_ns

    def advance(self, seconds: float) -> None:
        """Move both times forward by ``seconds``; negative values are refused."""
        if seconds < 0:
            raise ValueError("a clock can not be advanced by a negative time; use step_wall")
        step = round(seconds * NS)
        self._wall_ns += step
        self._monotonic_ns += step

    def step_wall(self, seconds: float) -> None:
        """Step the wall time alone, either way, as NTP or an operator would."""
        self._wall_ns += round(seconds * NS)


_clock: Clock = WallClock()


def wall_ns() -> int:
    """Return nanoseconds since the Unix epoch, UTC, by the clock in use."""
    return _clock.wall_ns()


def wall_s() -> float:
    """Return seconds since the Unix epoch, UTC, by the clock in use."""
    return _clock.wall_ns() / NS


def monotonic_ns() -> int:
    """Return monotonic nanoseconds by the clock in use."""
    return _clock.monotonic_ns()


def utc(time_ns: int) -> str:
    """Return a time in words, to the millisecond: ``2026-11-21 18:29:21.123 UTC``."""
    seconds, rest = divmod(time_ns, NS)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{rest // 1_000_000:03} UTC"


@contextmanager
def use_clock(clock: Clock) -> Iterator[Clock]:
    """Use ``clock`` in this process until the block ends. For tests and replays."""
    global _clock
    before, _clock = _clock, clock
    try:
        yield clock
    finally:
        _clock = before
