"""Where history meets the live arrays: filled backwards at the start, mended after outages.

Both go through the manager, so that what the store has costs nothing and what is fetched stays.
Rows that we made trade by trade are left alone; rows that are not known to be complete take the
venue's values as soon as it has them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import trio

from piker import clock
from piker.brokers.spec import Backend
from piker.config import HistoryConf
from piker.data.backfill import fill, padded
from piker.data.history.manager import History, HistoryManager
from piker.data.ranges import Range, subtract, union
from piker.data.sampling import BarBuilder
from piker.data.shm import ShmArray
from piker.errors import HistoryError, PikerError
from piker.log import get_logger
from piker.market import MktPair
from piker.ohlcv import Timeframe
from piker.ticks import Backfill

__all__ = ["LiveJoin", "joins_of", "mean_prices"]

AT_ONCE = 3  # calls for history at once, of all markets: each holds megabytes and a connection
CHUNK_ROWS = 20_000  # bars asked for at once, newest first: two weeks of minutes
MEND_AFTER_S = 3.0  # after a Resync: the venue's bars of the outage are there by then
MEND_EVERY_S = 60.0  # rows that are not complete are looked for this often without a Resync
MEND_ROWS = 100_000  # how far back rows are looked at: a day of seconds, two months of minutes
APART_BARS = 500  # incomplete rows nearer than this are asked for together
RETRY_S, RETRY_CAP_S = 15.0, 900.0  # waits after a failure to fill
_log = get_logger("history")


class LiveJoin:
    """One market's arrays and its history. ``run`` serves them until it is cancelled."""

    def __init__(
        self,
        manager: HistoryManager,
        mktid: str,
        builder: BarBuilder,
        array: ShmArray,
        *,
        contract: float,
        depth_s: float,
        turns: trio.CapacityLimiter,
        is_live: Callable[[], bool],
        write: Callable[[], None],
        tell: Callable[[Backfill], None],
    ) -> None:
        self._manager = manager
        self._mktid = mktid
        self._builder = builder
        self._array = array
        self._contract = contract  # what an inverse contract is worth, 0 of other markets
        self._depth_s = depth_s
        self._turns = turns
        self._is_live = is_live
        self._write = write
        self._tell = tell
        self._interval = str(Timeframe.from_seconds(array.period_s))
        self._asked: tuple[Range, ...] = ()  # of what the venue has nothing more to say
        self._wake = trio.Event()

    def resynced(self) -> None:
        """Say that there was an outage: rows of it are looked for soon."""
        self._asked = ()
        self._wake.set()

    async def run(self) -> None:
        """Fill backwards, mend for ever. What fails is tried again, ever more rarely."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._for_ever, self._fill_back)
            nursery.start_soon(self._for_ever, self._mend)

    async def _for_ever(self, work: Callable[[], Awaitable[bool]]) -> None:
        """Do one piece of work after the other while the market is live, until it says False."""
        wait_s = RETRY_S
        while True:
            while not self._is_live():
                await trio.sleep(1)
            try:
                if not await work():
                    return
                wait_s = RETRY_S
            except Exception as err:  # whatever history does, the live feed goes on
                known = isinstance(err, PikerError)
                said = str(err) if known else f"{type(err).__name__}: {err}"
                level = _log.warning if known else _log.error
                level("history.live", market=self._mktid, error=said, wait_s=wait_s)
                await trio.sleep(wait_s)
                wait_s = min(RETRY_CAP_S, wait_s * 2)

    # -- backwards -----------------------------------------------------------------------------
    async def _fill_back(self) -> bool:
        """Put one chunk below the first row; return whether there may be more."""
        array, period = self._array, self._array.period_s
        if not len(array):
            await trio.sleep(1)
            return True
        first = int(array.array["time"][0])
        room = array.room
        oldest = max(clock.wall_ns() // clock.NS - int(self._depth_s), first - room * period)
        start = max(oldest - oldest % period, first - CHUNK_ROWS * period)
        if room <= 0 or start >= first:
            return False
        rows, problem = await self._get(start, first)
        frame = padded(rows, period, first)
        if len(frame):
            if int(array.array["time"][0]) != first:
                return True  # it wrapped meanwhile
            array.push(frame, prepend=True)
            self._tell(Backfill(self._mktid, period, int(frame["time"][0]), first, len(frame)))
        if problem is not None:
            raise problem
        return bool(len(frame)) and int(frame["time"][0]) <= start

    async def _get(self, start: int, end: int) -> tuple[Any, HistoryError | None]:
        """Return what there is, and the error that more was to be had."""
        problem = None
        async with self._turns:
            try:
                history: History = await self._manager.get(self._mktid, self._interval, start, end)
            except HistoryError as err:
                problem, history = err, err.partial
            rows = await trio.to_thread.run_sync(history.rows)
        rows["bar_wap"] = mean_prices(rows, self._contract)
        return rows, problem

    # -- after outages ---------------------------------------------------------------------------
    async def _mend(self) -> bool:
        """Wait for an outage to be over, or a minute; take the venue's bars for incomplete rows."""
        with trio.move_on_after(MEND_EVERY_S):
            await self._wake.wait()
            await trio.sleep(MEND_AFTER_S)
        self._wake = trio.Event()
        period = self._array.period_s
        for span in self._incomplete():
            rows, problem = await self._get(*span)
            if len(rows):
                frame = padded(rows, period, int(rows["time"][-1]) + period)
                fill(self._array, self._builder, frame, closed=True)
                self._write()
                self._tell(Backfill(self._mktid, period, *span, len(rows)))
            if problem is not None:
                raise problem
            settled = Range(span.start, min(span.end, self._settled()))
            self._asked = union([*self._asked, settled])
        return True

    def _settled(self) -> int:
        """Return the time up to which what the venue does not have now it never will."""
        return clock.wall_ns() // clock.NS - 2 * int(MEND_EVERY_S)

    def _incomplete(self) -> tuple[Range, ...]:
        """Return the ranges of rows closed a while ago that are not known to be complete."""
        rows, period = self._array.array[-MEND_ROWS:-1], self._array.period_s
        settled = rows["time"] + period + MEND_AFTER_S <= clock.wall_ns() / clock.NS
        times = rows["time"][np.flatnonzero((rows["count"] < 0) & settled)]
        if not len(times):
            return ()
        spans = subtract([(int(time), int(time) + period) for time in times.tolist()], self._asked)
        joined: list[Range] = []
        for span in spans:
            if joined and span.start - joined[-1].end < APART_BARS * period:
                joined[-1] = Range(joined[-1].start, span.end)
            else:
                joined.append(span)
        return tuple(joined)


def mean_prices(rows: Any, contract: float) -> Any:
    """Return each bar's volume-weighted price, 0 without trades; held within its range.

    Venues round turnovers; of an inverse market it is in coins, its volume in contracts.
    """
    traded = (rows["volume"] > 0) & (rows["turnover"] > 0)
    found = np.zeros(len(rows))
    volume, turnover = rows["volume"][traded], rows["turnover"][traded]
    means = volume * contract / turnover if contract else turnover / volume
    found[traded] = np.clip(means, rows["low"][traded], rows["high"][traded])
    return found


def joins_of(
    backend: Backend,
    manager: HistoryManager,
    mkt: MktPair,
    pairs: list[tuple[BarBuilder, ShmArray]],
    conf: HistoryConf,
    turns: trio.CapacityLimiter,
    is_live: Callable[[], bool],
    write: Callable[[], None],
    tell: Callable[[Backfill], None],
) -> list[LiveJoin]:
    """Return a join for each array whose bars the backend has history of."""
    depths = {1: conf.backfill_1s_days, 60: conf.backfill_1m_days}
    return [
        LiveJoin(
            manager, mkt.mktid, builder, array,
            contract=float(mkt.contract_size) if mkt.inverse else 0.0,
            depth_s=depths[array.period_s] * 86_400, turns=turns, is_live=is_live,
            write=write, tell=tell,
        )
        for builder, array in pairs
        if str(Timeframe.from_seconds(array.period_s)) in backend.capabilities.history
    ]  # fmt: skip
