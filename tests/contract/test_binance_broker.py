"""Binance's order dialog at spot, against the loopback venue: every outcome is told, and true."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from account_client import ALICE, BOB, POOR, loopback, top_of
from binance_broker_client import SPOT, credentials_of, dialog_of, order_of, point_at

from piker.brokers.binance.broker import key_rights, open_trade_dialog
from piker.brokers.spec import load_backend
from piker.errors import Refused

TICK = Decimal("0.01")


async def test_a_dialog_tells_balances_and_is_synced_when_it_opens(piker_dirs: Path) -> None:
    """SYNCING first, SYNCED last, balances between; futures come with the key's right."""
    async with loopback() as (_, alice, _, _):
        point_at(alice.port)
        async with dialog_of(ALICE) as ems:
            states = [event.state for event in ems.view.events if hasattr(event, "state")]
            assert states == ["syncing", "synced"]
            assert ems.view.balances["usdt"].total == 1_000_000
            assert ems.view.balances["usdt.usdtm"].total == 1_000_000
            assert ems.view.events[-1].state == "synced"


async def test_a_limit_order_rests_is_filled_and_told_when_others_trade(piker_dirs: Path) -> None:
    """Ack, open, fills with fee and maker flag, closed; a taker's too; balances follow."""
    async with loopback() as (venue, alice, bob, _):
        point_at(alice.port)
        bid, ask = top_of(venue)
        price = (bid + ask) / 2 // TICK * TICK
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.5", price))
            await ems.view.until_status(order.oid, "open")
            _, row = await alice.ask(
                "GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId=order.client_id
            )
            assert ems.view.reqid[order.oid] == f"spot-BTCUSDT-{row['orderId']}"
            await bob.order("SELL", price, "0.2")
            await bob.order("SELL", price, "0.3")
            closed = await ems.view.until_status(order.oid, "closed")
            assert (closed.filled, closed.remaining) == (Decimal("0.5"), 0)
            fills = list(ems.view.fills.values())
            assert [(f.size, f.price, f.maker, f.fee, f.fee_asset) for f in fills] == [
                (Decimal("0.2"), price, True, Decimal("0.0002"), "btc"),
                (Decimal("0.3"), price, True, Decimal("0.0003"), "btc"),
            ]
            _, rows = await alice.ask("GET", "/api/v3/myTrades", symbol="BTCUSDT")
            assert [f.tid for f in fills] == [f"t{row['id']}" for row in rows]
            await ems.view.until(lambda: ems.view.balances["btc"].total == Decimal("10.4995"))
            taker = await ems.send(order_of("sell", "0.01"))
            await ems.view.until_status(taker.oid, "closed")
            taken = [f for f in ems.view.fills.values() if f.oid == taker.oid]
            assert {(f.maker, f.fee_asset, f.action) for f in taken} == {(False, "usdt", "sell")}
            assert ems.view.filled(taker.oid) == Decimal("0.01")


async def test_refusals_are_told_in_the_venues_words_when_an_order_is_bad(piker_dirs: Path) -> None:
    """Filters, funds, post-only that would take, kinds it does not have; nothing stands after."""
    async with loopback() as (venue, alice, _, _):
        point_at(alice.port)
        bid, ask = top_of(venue)
        wrong = (
            (order_of("buy", "0.01", bid + Decimal("0.001")), "Filter failure: PRICE_FILTER"),
            (order_of("buy", "100", bid), "insufficient balance"),
            (order_of("buy", "0.01", ask + 100, post_only=True), "immediately match and take"),
            (order_of("buy", "0.01", bid, tif="gtd", expire_ns=1), "no time in force gtd"),
            (order_of("buy", "0.01", kind="trailing_stop", trail=Decimal(5)), "trailing_stop"),
            (order_of("buy", "1", 1, symbol="nope.spot"), "is no market"),
        )
        async with dialog_of(ALICE) as ems:
            for order, words in wrong:
                await ems.send(order)
                error = await ems.view.until_error(order.oid)
                assert words in error.reason, error
                assert error.request == "order"
                assert order.oid not in ems.view.status
            await ems.cancel(wrong[0][0])
            await ems.view.until(lambda: len(ems.view.errors[wrong[0][0].oid]) == 2)
            assert (await alice.ask("GET", "/api/v3/openOrders"))[1] == []


async def test_edits_keep_place_replace_or_cancel_first_when_they_must(piker_dirs: Path) -> None:
    """Smaller: in place. Another price: one for another. Partly filled: what is left, exactly."""
    async with loopback() as (venue, alice, bob, _):
        point_at(alice.port)
        bid, ask = top_of(venue)
        price = (bid + ask) / 2 // TICK * TICK
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.5", price))
            await ems.view.until_status(order.oid, "open")
            first = ems.view.reqid[order.oid]
            assert await ems.edited(order, size=Decimal("0.4")) == first
            second = await ems.edited(order, size=Decimal("0.4"), price=price - TICK)
            assert second != first
            await bob.order("SELL", price - TICK, "0.1")
            await ems.view.until(lambda: ems.view.filled(order.oid) == Decimal("0.1"))
            third = await ems.edited(order, size=Decimal("0.6"), price=price - 2 * TICK)
            assert len({first, second, third}) == 3
            _, (row,) = await alice.ask("GET", "/api/v3/openOrders")
            assert (row["origQty"], row["clientOrderId"]) == (
                "0.50000000", f"{order.client_id}-2",
            )  # fmt: skip
            await bob.order("SELL", price - 2 * TICK, "0.5")
            closed = await ems.view.until_status(order.oid, "closed")
            assert closed.filled == ems.view.filled(order.oid) == Decimal("0.6")
            assert "canceled" not in [
                e.status for e in ems.view.events if getattr(e, "oid", "") == order.oid
                and hasattr(e, "status")
            ]  # fmt: skip


async def test_a_bad_key_is_refused_in_the_venues_words_when_a_dialog_opens(
    piker_dirs: Path,
) -> None:
    """An unknown key and a wrong secret; rights are told, withdrawals among them."""
    async with loopback() as (_, alice, _, _):
        point_at(alice.port)
        for spec in (
            type(ALICE)(name="x", key="nobody", secret=ALICE.secret),
            type(ALICE)(name="x", key=ALICE.key, secret=BOB.secret),
        ):
            into, _ = trio.open_memory_channel[Any](10)
            with pytest.raises(Refused):
                async with open_trade_dialog("binance.main", credentials_of(spec), (), into):
                    pass
        assert await key_rights(credentials_of(ALICE)) == ("read", "spot", "futures")
        assert await key_rights(credentials_of(POOR)) == ("read",)


def test_capabilities_are_declared_when_the_backend_is_loaded() -> None:
    """The dialog is found, spot and USD-M offer what they do, COIN-M nothing."""
    backend = load_backend("binance")
    assert backend.open_trade_dialog is open_trade_dialog
    can = backend.capabilities
    assert can.offers("spot", "stop_limit")
    assert can.offers("usdtm", "gtd")
    assert not can.offers("spot", "gtd")
    assert not can.offers("coinm", "limit")
    assert SPOT == "btcusdt.spot"
