"""A grid: limit orders on both sides of the price, each filled one answered one step away.

It earns the step, less fees, whenever the price swings over it, and holds what it bought when the
price falls through the grid.

    piker run examples/grid.py --paper step=20 levels=3
"""

from decimal import Decimal

from piker.ticks import Resync

MARKETS = ("btcusdt.spot.binance",)


class Grid:
    """The orders that stand, and what their fills are answered with."""

    def __init__(self, feed, ems, step, size):
        (self.fqme,) = feed.flumes
        self.mkt = feed.flumes[self.fqme].mkt
        self.ems, self.step, self.size = ems, step, size
        self.standing = set()  # oids of ours that we still look after

    async def place(self, side, price):
        """Let one order stand; what is denied is said, and left out."""
        price = self.mkt.round_price(price)
        order = self.ems.order(self.fqme, side, self.size, price=price, post_only=True)
        status = await self.ems.send(order)
        if status.resp == "denied":
            print(f"not placed: {side} at {price}: {status.reason}")
        else:
            self.standing.add(status.oid)

    async def spread(self, middle, levels):
        """Place the whole grid around a price."""
        for level in range(1, levels + 1):
            await self.place("buy", middle - level * self.step)
            await self.place("sell", middle + level * self.step)
        if not self.standing:
            raise RuntimeError("none of the grid's orders was taken")

    async def answer_fills(self):
        """Put an order on the other side of each that was filled; forget those that ended."""
        for oid in sorted(self.standing):
            status = self.ems.dialogs.get(oid)
            if status is None or status.resp not in ("closed", "canceled", "rejected", "expired"):
                continue
            self.standing.discard(oid)
            if status.resp == "closed":
                bought = status.req.action == "buy"
                away = self.step if bought else -self.step
                await self.place("sell" if bought else "buy", status.req.price + away)

    async def clear(self):
        """Take back all that stands."""
        for oid in sorted(self.standing):
            await self.ems.cancel(oid)
        self.standing.clear()


async def strategy(feed, ems, *, step=Decimal("10"), levels=3, size=Decimal("0.01")):
    """Keep ``levels`` orders on each side, ``step`` apart, each of ``size``."""
    grid = Grid(feed, ems, step, size)
    try:
        async for item in feed:
            if isinstance(item, Resync):  # prices were missed: begin anew around those of now
                await grid.clear()
            elif isinstance(item, dict):
                await grid.answer_fills()
                quote = item[grid.fqme]
                if not grid.standing and quote.bid and quote.ask:
                    await grid.spread(Decimal(repr((quote.bid + quote.ask) / 2)), levels)
    finally:
        await grid.clear()
