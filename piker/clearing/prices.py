"""emsd's prices: the feeds of every market that orders are in, told to limits and triggers.

A price counts for as long as its feed is live: a quiet market's last price is still its price, one
of a feed that has fallen silent is not. What a feed has missed is said to the triggers.
"""

from __future__ import annotations

from decimal import Decimal

import trio

from piker import clock
from piker.clearing.router import Router
from piker.data.feed import Feed, open_feed
from piker.errors import PikerError
from piker.log import get_logger
from piker.market import MktPair
from piker.ticks import Outage, Quote, Resync, Side, TickType

__all__ = ["Prices", "reference", "watch"]

AGAIN_S = 5.0  # between attempts at a market that could not be opened
log = get_logger("ems")
#: Which ticks triggers look at, as Router.see has them.
_SEEN = {
    TickType.TRADE: (TickType.TRADE, Side.NONE), TickType.MARK: (TickType.MARK, Side.NONE),
    TickType.BID: (TickType.QUOTE, Side.BUY), TickType.ASK: (TickType.QUOTE, Side.SELL),
}  # fmt: skip


def reference(quote: Quote, mkt: MktPair) -> Decimal | None:
    """Return what the market's price is: the middle of its book, else its last trade."""
    if quote.bid and quote.ask:
        return (mkt.round_price(repr(quote.bid)) + mkt.round_price(repr(quote.ask))) / 2
    return mkt.round_price(repr(quote.last)) if quote.last else None


def watch(router: Router, mkt: MktPair, quote: Quote) -> None:
    """Tell a quote's ticks to the triggers of its market, in their order."""
    dark = router.dark
    if not dark.waits(mkt.fqme):
        return
    bounds = dark.bounds(mkt.fqme)
    for tick in quote.ticks:
        seen = _SEEN.get(tick.type)
        if seen is None or (span := bounds.get(seen)) is None:
            continue
        low, high = span
        if not low < tick.price < high and tick.price > 0:
            router.see(mkt.fqme, *seen, mkt.round_price(repr(tick.price)))
            bounds = dark.bounds(mkt.fqme)


class _Line:
    """One market: its feed while there is one, and its last price."""

    def __init__(self) -> None:
        self.opened = trio.Event()
        self.failed: PikerError | None = None
        self.feed: Feed | None = None
        self.price: Decimal | None = None


class Prices:
    """The open markets of an emsd."""

    def __init__(self, router: Router, nursery: trio.Nursery) -> None:
        self._router = router
        self._nursery = nursery
        self._lines: dict[str, _Line] = {}

    async def open(self, fqme: str) -> None:
        """Open a market for good; returns once it has a quote. Raises what its feed raises."""
        line = self._lines.get(fqme)
        if line is None:
            line = self._lines[fqme] = _Line()
            self._nursery.start_soon(self._follow, fqme, line)
        if not line.opened.is_set():
            await line.opened.wait()
        if line.failed is not None:
            self._lines.pop(fqme, None)
            raise line.failed

    async def keep_open(self, fqme: str, cap_s: float = AGAIN_S) -> None:
        """Open a market, however long it takes: orders of the journal wait in it.

        ``cap_s`` is the longest pause between two attempts, which come ever more seldom.
        """
        wait_s = AGAIN_S
        while True:
            try:
                await self.open(fqme)
            except PikerError as err:
                log.warning("ems.market", fqme=fqme, why=err.message)
                await trio.sleep(wait_s)
                wait_s = min(cap_s, 2 * wait_s)
            else:
                return

    def refresh(self) -> None:
        """Say again which prices hold: those of feeds that are live."""
        now = clock.wall_ns()
        for fqme, line in self._lines.items():
            if line.feed is None or line.price is None:
                continue
            if line.feed.flumes[fqme].state == "live":
                self._router.price(fqme, line.price, now)

    async def _follow(self, fqme: str, line: _Line) -> None:
        try:
            async with open_feed([fqme], start_pikerd=False) as feed:
                mkt = feed.flumes[fqme].mkt
                self._router.know(mkt)
                self._take(mkt, line, feed.flumes[fqme].first_quote)
                line.feed = feed
                line.opened.set()
                async for item in feed:
                    if isinstance(item, dict):
                        quote = item[fqme]
                        self._take(mkt, line, quote)
                        watch(self._router, mkt, quote)
                    elif isinstance(item, Resync | Outage):
                        log.info("ems.gap", fqme=fqme, why=item.reason)
                        self._router.dark.missed(fqme)
        except PikerError as err:
            line.failed = err
            line.opened.set()
        finally:
            line.feed = None

    def _take(self, mkt: MktPair, line: _Line, quote: Quote) -> None:
        if quote.last:
            self._router.dark.show(mkt.fqme, quote.last)
        price = reference(quote, mkt)
        if price is not None:
            line.price = price
            self._router.price(mkt.fqme, price, clock.wall_ns())
