"""Each kind of order that Binance's two markets do themselves, as the order dialog sends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from account_client import ALICE, loopback, top_of
from binance_broker_client import PERP, SPOT, dialog_of, order_of, point_at

#: By what they are, and how they stand at first; a trigger is so many times 200 from the market.
BOTH: list[tuple[dict[str, Any], str]] = [
    ({"tif": "ioc"}, "expired"),
    ({"post_only": True}, "open"),
    ({"kind": "stop", "price": None, "trigger": 1}, "open"),
    ({"kind": "stop_limit", "trigger": 1}, "open"),
    ({"kind": "take_profit", "price": None, "trigger": -1}, "open"),
    ({"kind": "take_profit_limit", "trigger": -1}, "open"),
]
OWN: dict[str, tuple[dict[str, Any], str]] = {
    "spot": ({"tif": "fok"}, "expired"),
    "usdm": ({"tif": "gtd", "expire_ns": 4 * 10**18}, "open"),
}
SYMBOLS = {"spot": SPOT, "usdm": PERP}


@pytest.mark.parametrize(
    ("kind", "more", "status"),
    [(kind, *case) for kind, own in OWN.items() for case in (*BOTH, own)],
)
async def test_each_kind_is_done_by_the_venue_when_it_is_sent(
    kind: str, more: dict[str, Any], status: str, piker_dirs: Path
) -> None:
    """Kinds and times in force; what waits is canceled again, and told so."""
    async with loopback() as (venue, alice, _, _):
        point_at(alice.port)
        bid, ask = top_of(venue, kind)
        said: dict[str, Any] = {"price": bid - 100, "symbol": SYMBOLS[kind], **more}
        if "trigger" in said:
            said["trigger"] = (ask if said["trigger"] > 0 else bid) + 200 * said["trigger"]
            if said["price"]:
                said["price"] = said["trigger"]
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.01", **said))
            told = await ems.view.until_status(order.oid, "open", "closed", "expired")
            assert told.status == status
            if status == "open":
                assert told.order is not None
                for name in ("kind", "price", "trigger", "post_only", "expire_ns"):
                    assert getattr(told.order, name) == getattr(order, name), name
                await ems.cancel(order)
                await ems.view.until_status(order.oid, "canceled")
            assert order.oid not in ems.view.errors
