"""The market's price, where what was typed is compared with it before it is sent."""

from __future__ import annotations

from decimal import Decimal

from piker.clearing.prices import reference
from piker.data.feed import open_feed

__all__ = ["price_of"]


async def price_of(fqme: str, *, last: bool) -> Decimal | None:
    """Return a market's price: of its ``last`` trade, which wakes triggers, or of its book.

    None where there is none. Raises what :func:`open_feed` does; pikerd has to run.
    """
    async with open_feed([fqme], start_pikerd=False) as feed:
        flume = feed.flumes[fqme]
        quote = flume.first_quote
        if last and quote.last:
            return flume.mkt.round_price(repr(quote.last))
        return reference(quote, flume.mkt)
