"""One counter of a venue, and what we believe it reads. Used by :mod:`piker.brokers.limits`."""

from __future__ import annotations

import math
from collections import deque

import msgspec

from piker import clock
from piker.errors import Bug

__all__ = ["CONNECT", "MARGIN", "Limit", "Meter"]

CONNECT = "connect"  # the kind of a websocket handshake: counted only by limits that name it
MARGIN = 0.05  # share of every limit left unused: requests of a browser at the same address
GUARD_S = 0.001  # a window of ours is this much longer: clocks round to ns, floats further
BOUNDARY_SLACK_S = 1.0  # the venue's minute may begin this much after ours (NTP-kept clocks)


class Limit(msgspec.Struct, frozen=True):
    """One counter of the venue.

    ``counts`` is ``weight`` or ``requests``; ``kinds`` names the kinds of request it counts, all
    (but ``connect``) when empty. ``window`` says how the venue counts: ``fixed`` (resets on
    multiples of ``window_s``), ``rolling``, or ``decay`` (a level that falls by
    ``capacity / window_s`` a second). Ours never exceeds ``capacity * (1 - margin)``.
    """

    name: str
    capacity: float
    window_s: float
    window: str = "fixed"
    counts: str = "weight"
    kinds: tuple[str, ...] = ()
    margin: float = MARGIN

    def __post_init__(self) -> None:
        """Refuse a limit that can not be kept."""
        if self.window not in ("fixed", "rolling", "decay"):
            raise Bug(f"limit {self.name}: unknown window {self.window!r}")
        if self.counts not in ("weight", "requests"):
            raise Bug(f"limit {self.name}: counts is 'weight' or 'requests', not {self.counts!r}")
        if not (self.capacity > 0 and self.window_s > 0 and 0 <= self.margin < 1):
            raise Bug(f"limit {self.name}: capacity, window and margin make no sense")

    @property
    def usable(self) -> float:
        """Return what we let ourselves use: never less than one unit of the capacity."""
        return max(self.capacity * (1 - self.margin), min(1.0, self.capacity))

    def cost(self, weight: float, kind: str) -> float:
        """Return what a request of this weight and kind costs here."""
        if self.kinds:
            if kind not in self.kinds:
                return 0.0
        elif kind == CONNECT:
            return 0.0
        return weight if self.counts == "weight" else 1.0


class Meter:
    """What we think one counter of the venue reads, never less than it does."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.open = 0.0  # permitted, not answered
        self.closed: deque[tuple[float, float]] = deque()  # (answered at, cost), for windows
        self.closed_sum = 0.0
        self.level = 0.0  # for decay: as of level_at
        self.level_at = 0.0
        self.seen = 0.0  # the venue's figure plus all we permitted since, until seen_until
        self.seen_until = -math.inf

    def settle(self, now: float) -> None:
        """Let go of what the venue has forgotten by ``now``."""
        if self.limit.window == "decay":
            fallen = (now - self.level_at) * self.limit.capacity / self.limit.window_s
            self.level = max(0.0, self.level - fallen)
            self.level_at = now
            return
        oldest = now - self.limit.window_s - GUARD_S
        while self.closed and self.closed[0][0] <= oldest:
            self.closed_sum -= self.closed.popleft()[1]
        if not self.closed:
            self.closed_sum = 0.0  # no drift from rounding
        if now >= self.seen_until:
            self.seen = 0.0

    def used(self) -> float:
        """Return the count as of the last ``settle``."""
        return max(self.open + self.closed_sum + self.level, self.seen)

    def take(self, cost: float) -> None:
        """Count a request that is about to be sent."""
        self.open += cost
        self.seen += cost if self.seen else 0.0

    def answered(self, cost: float, now: float) -> None:
        """Count a request as answered: its window starts to run."""
        self.open = max(0.0, self.open - cost)
        if self.limit.window == "decay":
            self.settle(now)
            self.level += cost
        else:
            self.closed.append((now, cost))
            self.closed_sum += cost

    def observe(self, used: float, now: float) -> None:
        """Believe the venue's own figure where it is above ours."""
        self.settle(now)
        if self.limit.window == "decay":
            self.level = max(self.level, used)
            return
        figure = used + self.open  # what is on its way may not be in it yet
        if figure <= self.used():
            return
        self.seen = figure
        self.seen_until = now + self._remaining()

    def _remaining(self) -> float:
        window_s = self.limit.window_s
        if self.limit.window == "rolling":
            return window_s
        return window_s - clock.wall_s() % window_s + BOUNDARY_SLACK_S

    def room_in(self, cost: float, now: float) -> float:
        """Return the seconds until ``cost`` may fit: 0 if it does now, inf if answers must come."""
        self.settle(now)
        excess = self.used() + cost - self.limit.usable
        if excess <= 1e-9:
            return 0.0
        if self.limit.window == "decay":
            rate = self.limit.capacity / self.limit.window_s
            return excess / rate if self.open + cost <= self.limit.usable else math.inf
        waits = [self.seen_until - now] if self.seen + cost > self.limit.usable else []
        short = self.open + self.closed_sum + cost - self.limit.usable
        if short > 0:
            waits.append(self._freed_in(short, now))
        return max(waits, default=0.0)

    def _freed_in(self, short: float, now: float) -> float:
        for answered_at, cost in self.closed:
            short -= cost
            if short <= 1e-9:
                return answered_at + self.limit.window_s + GUARD_S - now
        return math.inf
