"""What Kraken's documents say that can cost money: a test for each fact, on the loopback venue."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from kraken_client import top_of
from kraken_trading import account_at, agree, quick, session

from piker.orders import BrokerdOrderAck

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")
TICK = Decimal("0.1")


def middle(venue: Any) -> Decimal:
    """Return a price between the best bid and ask."""
    bid, ask = top_of(venue)
    return (bid + ask) / 2 // TICK * TICK


# -- amendments ------------------------------------------------------------------------------
async def test_a_post_only_order_never_takes_when_it_is_moved_across_the_spread() -> None:
    """An amendment is post-only only if it says so: the venue refuses it, and the order stands."""
    async with session() as (venue, _, emsd):
        price = middle(venue)
        await emsd.order("one", "buy", "0.1", price - 50, post_only=True)
        await emsd.status("one", "open")
        txid = emsd.reqid("one")
        await emsd.order("one", "buy", "0.1", price + 500, post_only=True, reqid=txid)
        await emsd.until(lambda: emsd.errors("one"))
        assert emsd.errors("one")[0].reason == "kraken: EOrder:Post only order"
        await emsd.order("one", "buy", "0.1", price - 40, post_only=True, reqid=txid)
        await emsd.until(lambda: len(emsd.of("one", BrokerdOrderAck)) == 2)
        (order,) = account_at(venue).orders.values()
        assert (order.price, order.filled, order.is_open) == (price - 40, 0, True)
        await agree(venue, emsd)
