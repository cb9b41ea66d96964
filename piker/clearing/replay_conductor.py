"""What happens next in a replay: the recording, what is due, and who waits for it.

Time moves only while no task can run. Then the first of these happens: something that was put down
for a time (:meth:`Conductor.at`), a deadline of the event loop, the next moment of the recording;
and whatever that sets going is done before time moves again. Whoever reads the feed is given a
moment after all else that it caused.

A strategy that does nothing but read costs no turn of the event loop: while nobody else was made
ready to run since all were waiting, its reader moves the time on itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from heapq import heappop, heappush
from math import inf
from typing import Any

import trio
from outcome import Value

from piker.clearing.replay_clock import ReplayClock, Scheduled, unshield
from piker.clearing.replay_feed import UNREAD_TICKS, Moment, merged
from piker.clock import NS
from piker.data.feed import Item
from piker.ticks import Quote, Resync

__all__ = ["Conductor"]

TURN = 1_000  # items given at once before signals and deadlines are looked at
ON_S = 60.0  # virtual time after the recording's end for whoever sleeps then; then it is cancelled
END_S = 3600.0  # and for what it does when it was cancelled: a `finally` that waits for its orders
FAR = 2**63
MOVED: Any = object()  # something happened that is nothing to read


class Conductor:
    """Moves a replay's time. ``show`` is called with each item and its time before it is read.

    Made in the task that will run the strategy.
    """

    def __init__(
        self, clock: ReplayClock, scheduled: Scheduled, moments: Iterator[Moment],
        show: Callable[[Item, int], None],
    ) -> None:  # fmt: skip
        self.items = 0
        self.resyncs = 0  # given to whoever reads
        self.strategy = trio.CancelScope()
        self.hid = False  # the strategy was shielded from its end, and had to be laid open
        self.left = False  # the strategy has returned: what is on its way still arrives
        self.drained = trio.Event()  # and has arrived
        self._strategist = trio.lowlevel.current_task()
        self._clock = clock
        self._scheduled = scheduled
        self._next_deadline: Callable[[], float] | None = None  # the loop's
        self._quiet = -1  # the count when the reader was woken, alone
        self._moments = moments
        self._next = next(moments, None)
        self._show = show
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._work: deque[tuple[Callable[..., Awaitable[object]], tuple[object, ...]]] = deque()
        self._put = 0
        self._turn = 0
        self._reader: trio.lowlevel.Task | None = None
        self._self: trio.lowlevel.Task | None = None
        self._end_s = inf  # when the recording had ended
        self._told = False  # that it has
        self._quotes: dict[str, Quote] = {}  # that nobody has read yet
        self._events: list[Item] = []
        self._missed: dict[str, int] = {}

    def soon(self, do: Callable[..., Awaitable[object]], *args: object) -> None:
        """Have something done before time moves, and before whoever reads is given anything."""
        self._work.append((do, args))

    def at(self, time_ns: int, do: Callable[[], None]) -> None:
        """Have something done at a time; what is put down first is done first."""
        self._put += 1
        heappush(self._due, (time_ns, self._put, do))

    # -- whoever reads -------------------------------------------------------------------------
    async def next_item(self) -> Item:
        """Return the next item; raise ``StopAsyncIteration`` at the end.

        At once where nobody else has anything to do before it.
        """
        scheduled, quiet = self._scheduled, self._quiet
        if scheduled.count == quiet and self._turn < TURN and not (self._quotes or self._events):
            while True:
                item = self._move(reading=True)
                if self._work:
                    await self.work_off()
                if scheduled.count != quiet:  # it set somebody going, who comes first
                    if item is not None and item is not MOVED:
                        self._keep(item)
                    break
                if item is None:
                    break
                if item is not MOVED:
                    self._turn += 1
                    if type(item) is Resync:
                        self.resyncs += 1
                    found: Item = item
                    return found
        return await self._later()

    async def _later(self) -> Item:
        if self._reader is not None:
            raise trio.BusyResourceError("another task reads this feed")
        self._reader = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._reader = None
            return trio.lowlevel.Abort.SUCCEEDED

        item: Item | None = await trio.lowlevel.wait_task_rescheduled(abort)
        if item is None:
            raise StopAsyncIteration
        if type(item) is Resync:
            self.resyncs += 1
        return item

    # -- the task that conducts ----------------------------------------------------------------
    async def run(self) -> None:
        """Conduct, until cancelled."""
        self._clock.on_idle = self._wake
        try:
            while True:
                await self._idle()
                self._turn = 0
                await self._conduct()
        finally:
            self._clock.on_idle = None

    async def _idle(self) -> None:
        """Wait until no other task can run."""
        self._self = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._self = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _wake(self) -> None:
        task, self._self = self._self, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def _conduct(self) -> None:
        """Let things happen until a task can run, or the loop has a deadline to look at."""
        before = self._scheduled.count
        while self._scheduled.count == before:
            if self._reader is not None and (known := self._take()) is not None:
                self._give(known)
                return
            item = self._move(reading=self._reader is not None)
            if item is not None and item is not MOVED:
                self._keep(item)
            if self._work:
                await self.work_off()
            if item is None:
                if self._is_over():
                    self._end()
                return

    async def work_off(self) -> None:
        """Do what was put down to be done at once, and whatever that puts down."""
        while self._work:
            do, args = self._work.popleft()
            await do(*args)

    def _give(self, item: Item | None) -> None:
        assert self._reader is not None
        reader, self._reader = self._reader, None
        trio.lowlevel.reschedule(reader, Value(item))
        self._quiet = self._scheduled.count

    # -- what is next --------------------------------------------------------------------------
    def _move(self, *, reading: bool) -> Any:
        """Let the next thing happen; return it if it is an item, MOVED if it is another.

        None means that there is none, or that the loop has to look at its deadlines first. Once
        the recording has ended, whoever is ``reading`` is told so before time moves on.
        """
        clock, due = self._clock, self._due
        if self._next_deadline is None:
            self._next_deadline = clock.deadlines()
        moment = None if self.left else self._next
        at = moment[0] if moment is not None else FAR
        is_due = bool(due) and due[0][0] <= at
        if is_due:
            at = due[0][0]
        elif at == FAR and reading:
            return None
        deadline = self._next_deadline()
        if deadline < inf and deadline <= (at - clock.start_ns) / NS:
            if at == FAR and deadline > self._patience():
                return None
            clock.to(min(clock.due_ns(deadline), at))
            return None
        if at == FAR:
            return None
        now = clock.to(at)
        if not is_due:
            assert moment is not None
            self._next = next(self._moments, None)
            self.items += 1
            self._show(moment[1], now)
            return moment[1]
        heappop(due)[2]()
        return MOVED

    def _patience(self) -> float:
        """Return until when what sleeps is waited for, once the recording has ended."""
        if self.left:
            return self._clock.current_time()
        if self._end_s == inf:
            self._end_s = self._clock.current_time()
        return self._end_s + (END_S if self.strategy.cancel_called else ON_S)

    def _is_over(self) -> bool:
        if self._due or not (self.left or self._next is None):
            return False
        return self._reader is not None or self._clock.deadlines()() > self._patience()

    def _end(self) -> None:
        """Tell whoever reads; then cancel whoever does something else, even if it hides."""
        if self.left:
            self.drained.set()
        elif self._reader is not None:
            self._give(None)
        elif not self.strategy.cancel_called:
            self.strategy.cancel()
        else:
            self.hid = True
            unshield(self._strategist)

    # -- what nobody has read ------------------------------------------------------------------
    def _keep(self, item: Item) -> None:
        if not isinstance(item, dict):
            self._events.append(item)
            return
        for fqme, quote in item.items():
            known = self._quotes.get(fqme)
            if known is not None:
                quote = merged(known, quote)
            if len(quote.ticks) > UNREAD_TICKS:
                self._missed[fqme] = self._missed.get(fqme, 0) + len(quote.ticks)
                quote.ticks = []
            self._quotes[fqme] = quote

    def _take(self) -> Item | None:
        if self._missed:
            return Resync("lagged", *self._missed.popitem())
        if self._events:
            return self._events.pop(0)
        if self._quotes:
            quotes, self._quotes = self._quotes, {}
            return quotes
        return None
