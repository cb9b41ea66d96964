"""A rebalancer: two markets, each kept at half of what both are worth.

It begins by buying both for ``cash``. Whenever one has become worth more than the other by more
than ``band`` of the whole, it sells some of that one and buys the other.

    piker run examples/rebalancer.py --paper cash=2000 band=0.002
"""

from decimal import Decimal

from piker.ticks import Resync

MARKETS = ("btcusdt.spot.binance", "ethusdt.spot.binance")
SECOND = 1_000_000_000  # ns


async def trade(ems, mkt, amount, price):
    """Buy for an amount of the quote currency, or sell for a negative one; return what was had."""
    side = 1 if amount > 0 else -1
    size = mkt.round_size(abs(amount) / price)
    if size < max(mkt.min_size, mkt.size_tick) or size * price < mkt.min_notional:
        return Decimal(0)
    order = ems.order(mkt.fqme, "buy" if side > 0 else "sell", size, tag="rebalance")
    status = await ems.send(order)
    if status.resp == "denied":
        print(f"denied: {status.reason}")
        return Decimal(0)
    status = await ems.ended(status.oid)
    print(f"{order.action} {status.filled} {mkt.fqme} at {status.avg_price or price:.2f}")
    return side * status.filled


def middle(mkt, quote):
    """Return the middle of the book, exactly, or None while a side is missing."""
    if not (quote.bid and quote.ask):
        return None
    return (mkt.round_price(repr(quote.bid)) + mkt.round_price(repr(quote.ask))) / 2


async def strategy(feed, ems, *, cash=Decimal("2000"), band=Decimal("0.002")):
    """Keep both halves within ``band`` of each other; look once a second."""
    mkts = {fqme: flume.mkt for fqme, flume in feed.flumes.items()}
    held = dict.fromkeys(mkts, Decimal(0))
    prices, looked_ns = {}, 0
    async for item in feed:
        if isinstance(item, Resync):  # what we know is old: wait for both prices anew
            prices.clear()
        if not isinstance(item, dict):
            continue
        for fqme, quote in item.items():
            price = middle(mkts[fqme], quote)
            if price is not None:
                prices[fqme] = price
        now_ns = max(quote.time_ns for quote in item.values())
        if len(prices) < len(mkts) or now_ns < looked_ns + SECOND:
            continue
        looked_ns = now_ns
        worth = {fqme: held[fqme] * price for fqme, price in prices.items()}
        total = sum(worth.values()) or cash
        for fqme, mkt in mkts.items():
            off = total / len(mkts) - worth[fqme]
            if abs(off) > band * total / 2:
                held[fqme] += await trade(ems, mkt, off, prices[fqme])
