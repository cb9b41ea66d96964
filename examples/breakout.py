"""A breakout, in a bracket: it buys when the price rises over all of the last ``seconds``.

The two exits are sent before the entry and are held at emsd until it trades; then they stand for as
much as was filled, and the first that trades ends the other. They live on when this program ends.

    piker run examples/breakout.py --paper seconds=30
"""

from collections import deque
from decimal import Decimal

from piker.ticks import Resync

MARKETS = ("btcusdt.spot.binance",)
SECOND = 1_000_000_000  # ns


class Range:
    """The highest price of each of the last ``seconds``."""

    def __init__(self, seconds):
        self.highs = deque(maxlen=seconds)
        self.clear()

    def clear(self):
        """Forget everything: prices were missed."""
        self.highs.clear()
        self.second, self.high = 0, 0.0

    def is_broken(self, time_ns, price):
        """Take a price; tell whether it is above all of the last seconds."""
        second = time_ns // SECOND
        if second != self.second:
            if self.high:
                self.highs.append(self.high)
            self.second, self.high = second, price
        self.high = max(self.high, price)
        return len(self.highs) == self.highs.maxlen and price > max(self.highs)


async def enter(ems, mkt, price, size, target, stop):
    """Buy, with a target and a stop that wait for it; return the oids that may stand."""
    entry = ems.order(mkt.fqme, "buy", size)
    exact = mkt.round_price(repr(price))
    exits = {"parent": entry.oid, "oco": f"{entry.oid}-out"}
    orders = [
        ems.order(mkt.fqme, "sell", size, price=mkt.round_price(exact * (1 + target)), **exits),
        ems.order(mkt.fqme, "sell", size, trigger=mkt.round_price(exact * (1 - stop)), **exits),
        entry,
    ]
    sent = []
    for order in orders:
        status = await ems.send(order)
        if status.resp == "denied":  # without one of its exits there is to be no entry
            print(f"denied: {status.reason}")
            for oid in sent:
                await ems.cancel(oid)
            return []
        sent.append(order.oid)
    done = await ems.ended(entry.oid)
    print(f"bought {done.filled} at {done.avg_price}; out at {orders[0].price} or below "
          f"{orders[1].trigger}")  # fmt: skip
    return sent


async def strategy(feed, ems, *, seconds=30, size=Decimal("0.01"), target=Decimal("0.002"),
                   stop=Decimal("0.001")):  # fmt: skip
    """Buy each breakout once the last one's exits are done."""
    (flume,) = feed.flumes.values()
    recent, sent = Range(seconds), []
    async for item in feed:
        if isinstance(item, Resync):
            recent.clear()
        if not isinstance(item, dict):
            continue
        quote = item[flume.fqme]
        if not quote.last or not recent.is_broken(quote.time_ns, quote.last):
            continue
        standing = {status.oid for status in ems.open_orders()}
        if standing.isdisjoint(sent):
            sent = await enter(ems, flume.mkt, quote.last, size, target, stop)
