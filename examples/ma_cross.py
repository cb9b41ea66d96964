"""A moving average cross, each entry in a bracket: a target above, a stop below.

It buys when the average of the last ``fast`` seconds rises over that of the last ``slow`` ones.
Target and stop are of one group: the first that trades ends the other. They live on at emsd when
this program ends: what was bought stays protected.

    piker run examples/ma_cross.py --paper fast=5 slow=20
"""

from collections import deque
from decimal import Decimal
from statistics import fmean

from piker.ticks import Resync

MARKETS = ("btcusdt.spot.binance",)
SECOND = 1_000_000_000  # ns


class Averages:
    """The last price of each of the last ``slow`` seconds."""

    def __init__(self, fast, slow):
        self.fast, self.closes = fast, deque(maxlen=slow)
        self.clear()

    def clear(self):
        """Forget everything: prices were missed."""
        self.closes.clear()
        self.second, self.price, self.rising = 0, 0.0, None

    def take(self, time_ns, price):
        """Take a price; return True when the fast average has just crossed over the slow one."""
        second, last = self.second, self.price
        self.second, self.price = time_ns // SECOND, price
        if second == self.second:
            return False
        if last:
            self.closes.append(last)
        if len(self.closes) < self.closes.maxlen:
            return False
        prices = list(self.closes)
        before, self.rising = self.rising, fmean(prices[-self.fast :]) > fmean(prices)
        return self.rising and before is False


async def bracket(ems, mkt, size, target, stop):
    """Buy now, then set a target and a stop for what was bought; return their oids."""
    entry = await ems.send(ems.order(mkt.fqme, "buy", size))
    entry = await ems.ended(entry.oid)
    if not entry.filled:
        return []
    price, group = entry.avg_price, {"oco": f"{entry.oid}-out"}
    above, below = mkt.round_price(price * (1 + target)), mkt.round_price(price * (1 - stop))
    exits = [
        ems.order(mkt.fqme, "sell", entry.filled, **terms, **group)
        for terms in ({"trigger": below}, {"price": above})
    ]
    for status in [await ems.send(order) for order in exits]:
        if status.resp == "denied":
            print(f"not set: {status.reason}")
    return [order.oid for order in exits]


async def strategy(
    feed, ems, *, fast=5, slow=20, size=Decimal("0.01"), target=Decimal("0.001"),
    stop=Decimal("0.001"),
):  # fmt: skip
    """Hold one bracketed position at a time; ``target`` and ``stop`` are fractions of the price."""
    ((fqme, flume),) = feed.flumes.items()
    averages, oids = Averages(fast, slow), []
    async for item in feed:
        if isinstance(item, Resync):
            averages.clear()
        elif isinstance(item, dict) and item[fqme].bid and item[fqme].ask:
            quote = item[fqme]
            crossed = averages.take(quote.time_ns, (quote.bid + quote.ask) / 2)
            standing = {status.oid for status in ems.open_orders()}
            if crossed and standing.isdisjoint(oids):
                oids = await bracket(ems, flume.mkt, size, target, stop)
