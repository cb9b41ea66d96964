"""Bars of one market out of its trades, in a bounded number of pages.

``Trades`` runs forward only, from a moment on. Trade ids are consecutive, so the ids at two moments
tell how many pages lie between them: the beginning is chosen so that they are few enough, and the
walk goes from there to the end. The same ids prove that no trade is missing on the way.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import trio

from piker.brokers.kraken.api import PROVIDER, Listing, fetch_exact_trades, fetch_time
from piker.brokers.kraken.trade_bars import PastTrade, TradeBars, past_trades
from piker.brokers.quality import venue_quality
from piker.brokers.rest import RestClient
from piker.clock import NS, wall_ns
from piker.errors import DataQuality, DataUnavailable, NoData, NotOffered
from piker.ohlcv import Timeframe

__all__ = ["MAX_PAGES", "MAX_ROWS", "TradeHistory"]

PAGE = 1000  # trades of an answer (its Trades documents)
MAX_PAGES = 30  # of a call: half a minute at the venue's one a second, then the caller has rows
MAX_BAR_PAGES = 600  # of a single bar that is longer than that: ten minutes
MAX_ROWS = 100_000  # bars of a call, 10 MB: a quiet market has few trades and many seconds
AIM = 0.7  # of MAX_PAGES: what a density that rises does not push over it
PROBES = 12  # pages that look for a beginning, or for the price before it
WIDER = 64  # a beginning is moved away by no more at once
LIVE_S = 120  # a range that ends within it asks the venue's clock what is over
SAMPLE = 100  # trades that tell a density: fewer may be the fills of one order
MAX_MARKS = 64  # ends of earlier calls whose id is known; a caller goes back from one to the next
ROUNDED_NS = 1000  # times of rows are floats: they may be off by 0.2 microseconds

quality = venue_quality(PROVIDER)
Page = tuple[list[PastTrade], int]


class TradeHistory:
    """What is known of one market's trades while a history client is open.

    Calls wait for each other: the venue gives a page a second, to however many.
    """

    def __init__(self, client: RestClient, listing: Listing) -> None:
        self._client = client
        self._listing = listing
        self._density = 1.0  # trades a second, where we last looked
        self._marks: dict[int, int] = {}  # second -> id of the first trade at or after it
        self._lock = trio.Lock()
        self.pages = 0  # fetched so far

    async def bars(
        self, timeframe: Timeframe, start_s: int | None, end_s: int | None
    ) -> np.ndarray[Any, Any]:
        """Return bars that open in [start_s, end_s), of a longer range the newest part.

        The one in progress is the last row where ``end_s`` is None, and left out otherwise. With
        neither bound it is what the newest page holds, where that is a bar at least, and ends with
        the newest trade.

        Blocks for the venue's limits, about a second a page; cancellation leaves nothing behind.
        Raises ``NoData`` where the range holds no bar, ``DataUnavailable`` before the first trade
        ever, ``NotOffered`` for a bar of more than ``MAX_BAR_PAGES`` pages, ``DataQuality`` where
        the venue's ids say that trades are missing.
        """
        async with self._lock:
            if start_s is None and end_s is None:
                rows = await self._newest(timeframe)
                if len(rows):
                    return rows
            return await self._range(timeframe, start_s, end_s)

    async def _newest(self, timeframe: Timeframe) -> np.ndarray[Any, Any]:
        """Return the bars of the newest page, but for its first: trades before it are missing."""
        trades, _ = await self._page(None)
        if not trades:
            raise NoData(f"{self._name}: no trades yet.", frame_size=PAGE)
        begin_s = timeframe.next(trades[0].time_ns // NS)
        stop_s = timeframe.next(trades[-1].time_ns // NS)
        fold = TradeBars(timeframe, begin_s, stop_s, digits=self._listing.price_digits)
        fold.add(trades)
        before = [trade.price for trade in trades if trade.time_ns < begin_s * NS]
        return fold.rows(before[-1])

    async def _range(
        self, timeframe: Timeframe, start_s: int | None, end_s: int | None
    ) -> np.ndarray[Any, Any]:
        """Return a range, or its newest part."""
        now_s = await self._now(timeframe, end_s)
        stop_s = timeframe.next(now_s)
        if end_s is not None:
            stop_s = min(timeframe.next(end_s - 1), timeframe.floor(now_s))
        first_s = _at_or_after(timeframe, max(0, start_s or 0))
        if first_s >= stop_s:
            raise NoData(f"{self._name}: no bar of {timeframe} there.", frame_size=PAGE)
        oldest_s = max(0, stop_s - MAX_ROWS * timeframe.seconds)
        first_s = max(first_s, _at_or_after(timeframe, oldest_s))
        goal = await self._mark(stop_s, open_yet=stop_s > now_s)
        begin_s, page = await self._begin(timeframe, first_s, stop_s, goal)
        begin_id = page[0][0].number if page[0] else goal
        fold = TradeBars(timeframe, begin_s, stop_s, digits=self._listing.price_digits)
        await self._walk(fold, page, goal)
        before = await self._price_before(begin_s, begin_id) if fold.lacks_first else Decimal(0)
        rows = fold.rows(before)
        if not len(rows):
            raise DataUnavailable(f"{self._name} had not been traded by then.")
        self._remember(begin_s, begin_id)
        return rows

    @property
    def _name(self) -> str:
        return self._listing.market.fqme

    async def _now(self, timeframe: Timeframe, end_s: int | None) -> int:
        """Return the second up to which everything is over, by the venue's clock where it matters.

        It is asked before any trade, so that whatever is older than its answer is in the pages.
        """
        now_s = wall_ns() // NS
        if end_s is not None and timeframe.next(end_s - 1) < now_s - LIVE_S:
            return now_s
        return await fetch_time(self._client)

    async def _page(self, since_ns: int | None) -> Page:
        """Fetch a page; its trades come by ascending id."""
        self.pages += 1
        rows, last_ns = await fetch_exact_trades(self._client, self._listing, since_ns)
        return past_trades(rows), last_ns

    # -- where -----------------------------------------------------------------------------
    def _remember(self, time_s: int, number: int) -> None:
        self._marks[time_s] = number
        while len(self._marks) > MAX_MARKS:
            del self._marks[next(iter(self._marks))]

    async def _mark(self, time_s: int, *, open_yet: bool) -> int:
        """Return the id of the first trade at or after a moment, be it one that is still to come.

        ``open_yet`` says that the moment has not come.
        """
        known = self._marks.get(time_s)
        if known is not None:
            return known
        trades: list[PastTrade] = []
        if not open_yet:
            trades, _ = await self._page(time_s * NS - 1)
        if trades:
            self._remember(time_s, trades[0].number)
        else:
            trades, _ = await self._page(None)
            if not trades:
                raise NoData(f"{self._name}: no trades yet.", frame_size=PAGE)
        span_ns = trades[-1].time_ns - trades[0].time_ns
        if span_ns > 0 and len(trades) >= SAMPLE:
            self._density = len(trades) * NS / span_ns
        return self._marks.get(time_s, trades[-1].number + 1)

    async def _begin(
        self, timeframe: Timeframe, first_s: int, stop_s: int, goal: int
    ) -> tuple[int, Page]:
        """Return where to begin, on the grid, and the page from there.

        From there to the end there are at most ``MAX_PAGES`` pages, unless one bar has more.
        """
        most, aim = MAX_PAGES * PAGE, AIM * MAX_PAGES * PAGE
        last_open_s = timeframe.floor(stop_s - 1)
        for probe in range(1, PROBES):
            span_s = int(min(aim / self._density, stop_s - first_s))
            begin_s = max(first_s, min(last_open_s, _at_or_after(timeframe, stop_s - span_s)))
            page, count = await self._count(begin_s, goal)
            enough = count > aim / 4 or begin_s == first_s or probe > PROBES // 2
            at_least = 0 if enough else aim / WIDER
            self._density = max(1, count, at_least) / (stop_s - begin_s)
            if enough and (count <= most or begin_s == last_open_s):
                break
        else:
            begin_s = last_open_s
            page, count = await self._count(begin_s, goal)
        if count > most:
            self._check_one(timeframe, count)
        return begin_s, page

    async def _count(self, begin_s: int, goal: int) -> tuple[Page, int]:
        """Return the page from a moment on, and how many trades there are from there to ``goal``.

        Raises ``DataQuality`` where the ids run backwards.
        """
        page = await self._page(max(0, begin_s * NS - 1))
        count = goal - page[0][0].number if page[0] else 0
        if count < 0:
            raise DataQuality(f"{self._name}: trade ids run backwards.", kind="trade-ids")
        return page, count

    def _check_one(self, timeframe: Timeframe, count: int) -> None:
        pages = -(-count // PAGE)
        if pages > MAX_BAR_PAGES:
            raise NotOffered(
                f"{self._name}: one bar of {timeframe} has {count} trades, which is {pages} pages;"
                f" {MAX_BAR_PAGES} are fetched at most.",
                remedy="Ask for shorter bars, and join them.",
            )

    # -- the walk --------------------------------------------------------------------------
    async def _walk(self, fold: TradeBars, page: Page, goal: int) -> None:
        """Add every trade from a page on to the one before ``goal``.

        A hole in the ids is asked for once more; one that the venue shows twice is counted, and
        taken for its own. Raises ``DataQuality`` where the pages end before ``goal``.
        """
        trades, last_ns = page
        newest, newest_ns = (trades[0].number - 1, trades[0].time_ns) if trades else (goal - 1, 0)
        excused = newest  # the id after which a hole may be
        while True:
            fresh = [trade for trade in trades if newest < trade.number < goal]
            whole = _until_hole(fresh, newest, excused)
            fold.add(whole)
            if whole:
                newest, newest_ns = whole[-1].number, whole[-1].time_ns
            beyond = bool(trades) and trades[-1].number >= goal
            if newest >= goal - 1 or (beyond and excused == newest):
                break
            if len(whole) < len(fresh) or beyond:
                quality.count("trade-ids-hole", f"{self._name}: after trade {newest}")
                excused, last_ns = newest, newest_ns - ROUNDED_NS
            elif not fresh:
                raise DataQuality(
                    f"{self._name}: trades {newest + 1} to {goal - 1} are not to be had.",
                    kind="trade-ids",
                )
            # One back: trades of the very same nanosecond may stand on both sides of a page's end.
            trades, last_ns = await self._page(max(0, last_ns - 1))

    async def _price_before(self, time_s: int, number: int) -> Decimal | None:
        """Return the price of the trade before a moment; None where there was none, ever.

        ``number`` is the id of the first trade at or after it.
        """
        back_s = max(1, round(50 / self._density))
        since_ns = max(0, (time_s - back_s) * NS)
        for _ in range(PROBES):
            trades, last_ns = await self._page(since_ns)
            older = [trade for trade in trades if trade.number < number]
            if older and (older[-1].number == number - 1 or len(older) < len(trades)):
                return older[-1].price
            if older and number - older[-1].number <= 2 * PAGE:
                since_ns = max(0, last_ns - 1)
                continue
            if older:
                back_s = max(1, back_s * PAGE // 2 // (number - older[0].number))
            elif since_ns == 0:
                return None
            else:
                back_s *= WIDER
            since_ns = max(0, (time_s - back_s) * NS)
        raise DataQuality(
            f"{self._name}: the trade before {number} is not to be had.", kind="trade-ids"
        )


def _at_or_after(timeframe: Timeframe, time_s: int) -> int:
    """Return the first open time that is not before a moment."""
    return timeframe.next(time_s - 1)


def _until_hole(fresh: list[PastTrade], newest: int, excused: int) -> list[PastTrade]:
    """Return the trades up to the first hole in their ids, but for one after ``excused``."""
    for at, trade in enumerate(fresh):
        if trade.number not in (newest, newest + 1) and newest != excused:
            return fresh[:at]
        newest = trade.number
    return fresh
