"""A market maker: one bid and one offer around the middle of the book, which move as it moves.

Each fill earns ``edge``, less the venue's maker fee, while the price stays; it loses while it runs
one way. So what it holds moves both: with ``limit`` in hand it offers at the middle and does not
bid, and the other way round.

    piker run examples/market_maker.py --paper edge=0.0015 limit=0.05
"""

from decimal import Decimal

from piker.errors import RangeError
from piker.ticks import Resync

MARKETS = ("btcusdt.spot.binance",)
SECOND = 1_000_000_000  # ns
ENDED = ("closed", "canceled", "rejected", "expired", "denied")


class Maker:
    """Both quotes, and what their fills have left in hand."""

    def __init__(self, feed, ems, size):
        (self.fqme,) = feed.flumes
        self.mkt = feed.flumes[self.fqme].mkt
        self.ems, self.size = ems, size
        self.held = Decimal(0)  # less than nothing is sold ahead
        self.standing = {}  # oid of the quote by its side
        self.counted = {}  # what was filled of each of those, as far as `held` has it

    def count(self):
        """Take the fills of both quotes; forget those that ended."""
        for side, oid in tuple(self.standing.items()):
            status = self.ems.dialogs[oid]
            new = status.filled - self.counted[oid]
            self.held += new if side == "buy" else -new
            self.counted[oid] = status.filled
            if status.resp in ENDED:
                del self.standing[side], self.counted[oid]

    async def quote(self, side, price):
        """Have the quote of a side stand at a price: a new order, or an edit of the one there."""
        price = self.mkt.round_price(price)
        oid = self.standing.get(side)
        if oid is None:
            order = self.ems.order(self.fqme, side, self.size, price=price, post_only=True)
            status = await self.ems.send(order)
            if status.resp == "denied":
                print(f"not quoted: {side} at {price}: {status.reason}")
            else:
                self.standing[side], self.counted[order.oid] = order.oid, Decimal(0)
        elif self.ems.dialogs[oid].req.price != price:
            await self.ems.update(oid, price=price)  # refused, it stays where it is

    async def pull(self, side):
        """Take the quote of a side back; what it still trades is counted."""
        if oid := self.standing.get(side):
            await self.ems.cancel(oid)
            await self.ems.ended(oid)
            self.count()

    async def follow(self, middle, edge, limit):
        """Quote around a price; a side on which the limit is reached is pulled."""
        middle *= 1 - edge * self.held / limit
        for side, price, may in (
            ("buy", middle * (1 - edge), self.held + self.size <= limit),
            ("sell", middle * (1 + edge), self.held - self.size >= -limit),
        ):
            await (self.quote(side, price) if may else self.pull(side))


async def strategy(feed, ems, *, edge=Decimal("0.0015"), size=Decimal("0.01"),
                   limit=Decimal("0.05")):  # fmt: skip
    """Keep ``size`` on each side, ``edge`` of the price away; look once a second."""
    if not 0 < size <= limit:
        raise RangeError(f"limit={limit} is to be at least size={size}, and that above 0.")
    maker, looked_ns = Maker(feed, ems, size), 0
    try:
        async for item in feed:
            if isinstance(item, Resync):  # prices were missed: nothing is to stand at old ones
                await maker.pull("buy")
                await maker.pull("sell")
            if not isinstance(item, dict):
                continue
            maker.count()
            quote = item[maker.fqme]
            if quote.bid and quote.ask and quote.time_ns >= looked_ns + SECOND:
                looked_ns = quote.time_ns
                await maker.follow(Decimal(repr((quote.bid + quote.ask) / 2)), edge, limit)
    finally:
        await maker.pull("buy")
        await maker.pull("sell")
        maker.count()
        print(f"left in hand: {maker.held}")
