"""A venue's rate limits, kept for it by everything in the process.

One :class:`Budget` per venue and thread, made by :func:`venue_budget`. Whoever wants to send
something asks it first::

    permit = await budget.acquire(weight=20, kind="data")
    try:
        ...  # the request
    finally:
        permit.done()

**Why a window of ours never breaks one of theirs.** A request is counted by the venue at some
moment between our sending it and our hearing of it. We count it from its permit until a whole
window after ``done()``. Take any window of the venue's, of whatever phase, and the last request
in it to be permitted: every other one in that window was answered after the window began, so it
was still counted when that last permit was given. The same holds for a counter that decays: we
let nothing decay before its answer is in. The clocks of the two sides do not matter.

The venue's own figure, where it sends one, can only raise ours (:meth:`Budget.observe`): other
processes and other machines behind the same address are seen that way.
"""

from __future__ import annotations

import bisect
import math
import threading
import weakref
from collections import deque
from collections.abc import Iterable
from enum import IntEnum

import trio

from piker import clock
from piker.brokers._meter import CONNECT, Limit, Meter
from piker.errors import Bug, Transient
from piker.log import get_logger

__all__ = [
    "BAN_DEFAULT_S",
    "CANCEL",
    "CONNECT",
    "DATA",
    "MAX_WAITERS",
    "ORDER",
    "Budget",
    "Limit",
    "Permit",
    "Priority",
    "venue_budget",
]

log = get_logger("limits")

MAX_WAITERS = 4096  # callers in the queue of one venue; a history scan asks a few hundred at once
FLIGHT_MAX_S = 120.0  # a permit nobody gave back counts as answered then; above any REST deadline
BAN_DEFAULT_S = 120.0  # a 418 without Retry-After: the shortest Binance ban by its documents
KIND_DEFAULT_S = 10.0  # a refused kind without Retry-After that no limit of ours counts
_SOON_S = 0.001  # shortest sleep: below it the event loop would spin on rounding

DATA, ORDER, CANCEL = "data", "order", "cancel"  # kinds of request


class Priority(IntEnum):
    """Who goes first when not all can: getting out of risk, taking it, watching."""

    CANCEL = 0
    ORDER = 1
    DATA = 2


class Permit:
    """The right to send one request. Give it back with ``done()`` when its outcome is in."""

    __slots__ = ("_budget", "_costs", "_since")

    def __init__(self, budget: Budget, costs: dict[str, float], since: float) -> None:
        self._budget: Budget | None = budget
        self._costs = costs
        self._since = since

    def done(self) -> None:
        """Tell the budget that the venue has counted the request. Idempotent; never blocks."""
        budget, self._budget = self._budget, None
        if budget is not None:
            budget._answered(self)


class _Waiter:
    __slots__ = ("costs", "key", "kind", "permit", "wake")

    def __init__(self, key: tuple[int, int], costs: dict[str, float], kind: str) -> None:
        self.key = key
        self.kind = kind
        self.costs = costs
        self.permit: Permit | None = None
        self.wake = trio.Event()


class Budget:
    """The rate limits of one venue, shared by every task of an event loop.

    Not thread-safe: one thread's event loops use it. It outlives an event loop, so a program that
    runs several one after the other keeps its counts.
    """

    def __init__(self, venue: str, limits: Iterable[Limit] = ()) -> None:
        self.venue = venue
        self.blocked_until = -math.inf  # monotonic seconds; nothing but CONNECT is sent before
        self.penalties = 0
        self._kinds_until: dict[str, float] = {}  # the same of one kind of request
        self._meters: dict[str, Meter] = {}
        self._open: deque[Permit] = deque()  # oldest first, to find those never given back
        self._waiters: list[_Waiter] = []  # by (priority, arrival)
        self._leader: _Waiter | None = None  # the one that watches the clock for all
        self._leader_until = math.inf
        self._arrivals = 0
        self.set_limits(limits)

    # -- limits ---------------------------------------------------------------------------
    @property
    def limits(self) -> tuple[Limit, ...]:
        """Return the limits in force."""
        return tuple(meter.limit for meter in self._meters.values())

    def set_limits(self, limits: Iterable[Limit]) -> None:
        """Replace the limits of the same names, and add new ones; counts so far are kept.

        Raises ``Bug`` where a limit makes no sense. A lower limit holds back the next permit.
        """
        now = _now()
        for limit in limits:
            old, new = self._meters.get(limit.name), Meter(limit)
            new.level_at = now
            if old is not None:
                old.settle(now)
                new.open, new.closed, new.closed_sum = old.open, old.closed, old.closed_sum
                new.level, new.seen, new.seen_until = old.level, old.seen, old.seen_until
                if (old.limit.window == "decay") != (limit.window == "decay"):
                    new.closed, new.closed_sum, new.level = deque(), 0.0, 0.0
                    new.observe(old.used(), now)
            self._meters[limit.name] = new
        self._pump()

    def used(self, name: str) -> float:
        """Return our count for the limit ``name`` now; 0 where there is no such limit."""
        meter = self._meters.get(name)
        if meter is None:
            return 0.0
        meter.settle(_now())
        return meter.used()

    def observe(self, name: str, used: float) -> None:
        """Take the venue's own count for ``name``; it raises ours and never lowers it.

        Unknown names are ignored: venues add headers.
        """
        meter = self._meters.get(name)
        if meter is not None and math.isfinite(used) and used >= 0:
            meter.observe(used, _now())

    def penalise(self, retry_after_s: float | None, *, banned: bool = False) -> None:
        """Send nothing for ``retry_after_s`` (429), or until a ban ends (418).

        Without a figure, a ban is taken as ``BAN_DEFAULT_S`` and anything else as the longest
        window. Opening a websocket (kind ``connect``) stays allowed: venues count it apart.
        """
        if retry_after_s is None or not math.isfinite(retry_after_s) or retry_after_s < 0:
            longest = max((limit.window_s for limit in self.limits), default=60.0)
            retry_after_s = BAN_DEFAULT_S if banned else min(longest, BAN_DEFAULT_S)
        self.blocked_until = max(self.blocked_until, _now() + retry_after_s)
        self.penalties += 1
        until = clock.wall_s() + retry_after_s
        if banned:
            log.error("limits.banned", venue=self.venue, wait_s=retry_after_s, until_s=round(until))
        else:
            log.warning("limits.penalty", venue=self.venue, wait_s=retry_after_s)
        self._wake_leader()

    def penalise_kind(self, kind: str, retry_after_s: float | None) -> None:
        """Send nothing of one kind for ``retry_after_s``; whatever is of another goes on.

        Without a figure, for the shortest window that counts that kind.
        """
        if retry_after_s is None or not math.isfinite(retry_after_s) or retry_after_s < 0:
            windows = (limit.window_s for limit in self.limits if kind in limit.kinds)
            retry_after_s = min(windows, default=KIND_DEFAULT_S)
        until = max(self._kinds_until.get(kind, -math.inf), _now() + retry_after_s)
        self._kinds_until[kind] = until
        self.penalties += 1
        log.warning("limits.penalty", venue=self.venue, kind=kind, wait_s=retry_after_s)
        self._wake_leader()

    @property
    def penalty_s(self) -> float:
        """Return for how long nothing will be sent, 0 when something may be."""
        return max(0.0, self.blocked_until - _now())

    def penalty_of(self, kind: str) -> float:
        """Return for how long nothing of a kind will be sent, 0 when something may be."""
        return max(self.penalty_s, self._kinds_until.get(kind, -math.inf) - _now())

    # -- permits --------------------------------------------------------------------------
    async def acquire(
        self,
        weight: float = 1,
        *,
        kind: str = DATA,
        priority: Priority = Priority.DATA,
        max_wait_s: float = math.inf,
    ) -> Permit:
        """Wait until a request may be sent, and return its permit.

        Cancels go before orders before data; within a priority, and as far as they compete for
        the same limit, first come is first served. Always a checkpoint. Cancellation gives the
        place up and counts nothing. Raises ``Transient`` when the wait would pass ``max_wait_s``
        or ``MAX_WAITERS`` already wait, and ``Bug`` for a weight above a whole limit.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        waiter = self._enqueue(weight, kind, priority)
        try:
            with trio.move_on_after(max_wait_s):
                await self._wait(waiter)
        finally:
            self._leave(waiter)
        if waiter.permit is None:
            raise Transient(
                f"{self.venue}: no room in its rate limits within {max_wait_s:g} s",
                retry_after=self.penalty_of(kind) or None,
            )
        return waiter.permit

    def _enqueue(self, weight: float, kind: str, priority: Priority) -> _Waiter:
        if len(self._waiters) >= MAX_WAITERS:
            raise Transient(f"{self.venue}: {MAX_WAITERS} requests already wait for its limits")
        costs = {}
        for name, meter in self._meters.items():
            cost = meter.limit.cost(weight, kind)
            if cost > meter.limit.usable:
                raise Bug(f"{self.venue}: weight {weight:g} never fits {name}")
            if cost:
                costs[name] = cost
        if kind != CONNECT:
            costs.setdefault("", 0.0)  # stands for the penalty
        self._arrivals += 1
        waiter = _Waiter((int(priority), self._arrivals), costs, kind)
        bisect.insort(self._waiters, waiter, key=lambda w: w.key)
        return waiter

    async def _wait(self, waiter: _Waiter) -> None:
        while True:
            delay = self._pump()
            if waiter.permit is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return
            self._lead(waiter, _now() + delay)
            waiter.wake = trio.Event()
            with trio.move_on_after(delay if self._leader is waiter else math.inf):
                await waiter.wake.wait()

    def _lead(self, waiter: _Waiter, until: float) -> None:
        """Make ``waiter`` watch the clock if nobody does, or have it watched more closely."""
        if self._leader is None or self._leader is waiter:
            self._leader, self._leader_until = waiter, until
        elif until < self._leader_until:
            self._leader_until = until
            self._leader.wake.set()

    def _leave(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        if self._leader is waiter:
            self._leader = None
            self._wake_leader()

    def _wake_leader(self) -> None:
        chosen = self._leader or (self._waiters[0] if self._waiters else None)
        if chosen is not None:
            chosen.wake.set()

    def _pump(self) -> float:
        """Permit whatever may go, in order; return the seconds until the next may."""
        now = _now()
        self._forget_lost(now)
        taken: set[str] = set()  # limits that someone ahead is waiting for
        soonest = math.inf
        for waiter in tuple(self._waiters):
            if not taken.isdisjoint(waiter.costs):
                continue
            waits = self._waits(waiter, now)
            if waits:
                taken.update(waits)
                soonest = min(soonest, max(waits.values()))
            else:
                self._permit(waiter, now)
        if math.isinf(soonest) and self._waiters:
            soonest = FLIGHT_MAX_S
        return max(soonest, _SOON_S)

    def _waits(self, waiter: _Waiter, now: float) -> dict[str, float]:
        waits = {}
        for name, cost in waiter.costs.items():
            wait = self._meters[name].room_in(cost, now) if name else self.blocked_until - now
            if wait > 0:
                waits[name] = wait
        wait = self._kinds_until.get(waiter.kind, -math.inf) - now
        if wait > 0:
            waits[f"kind {waiter.kind}"] = wait
        return waits

    def _permit(self, waiter: _Waiter, now: float) -> None:
        for name, cost in waiter.costs.items():
            if name:
                self._meters[name].take(cost)
        waiter.permit = Permit(self, waiter.costs, now)
        self._open.append(waiter.permit)
        self._waiters.remove(waiter)
        waiter.wake.set()

    def _answered(self, permit: Permit) -> None:
        now = _now()
        for name, cost in permit._costs.items():
            if name in self._meters:
                self._meters[name].answered(cost, now)
        self._wake_leader()

    def _forget_lost(self, now: float) -> None:
        while self._open and (
            self._open[0]._budget is None or now - self._open[0]._since > FLIGHT_MAX_S
        ):
            self._open.popleft().done()


def _now() -> float:
    return clock.monotonic_ns() / clock.NS


_budgets: dict[str, Budget] = {}  # of the main thread
_elsewhere = threading.local()
_made: weakref.WeakSet[Budget] = weakref.WeakSet()


def venue_budget(venue: str) -> Budget:
    """Return the one budget of ``venue`` in this thread; its limits are set by the backend.

    ``venue`` names whatever the venue counts apart: ``binance`` and ``binance.usdtm`` are two.
    Event loops that run at the same time are in threads of their own and can not wake each other's
    tasks: each thread has its own budgets, begun with the limits that are known, and sees what the
    others use by the venue's own figures.
    """
    main = threading.current_thread() is threading.main_thread()
    budgets: dict[str, Budget] = _budgets if main else _elsewhere.__dict__
    if venue not in budgets:
        known = (other.limits for other in tuple(_made) if other.venue == venue and other.limits)
        budgets[venue] = Budget(venue, next(known, ()))
        _made.add(budgets[venue])
    return budgets[venue]
