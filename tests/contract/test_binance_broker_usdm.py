"""Binance's order dialog at USD-M, against the loopback venue."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from account_client import ALICE, Trader, account_of, loopback, top_of
from binance_broker_client import PERP, dialog_of, order_of, point_at

from piker.orders import TriggerBy
from piker.testing.engine import BUY

TICK = Decimal("0.01")
PATH = "/fapi/v1/order"


async def trade(trader: Trader, side: str, price: Any, size: Any) -> Any:
    """Have another account trade."""
    return await trader.ask(
        "POST", PATH, symbol="BTCUSDT", side=side, type="LIMIT", timeInForce="IOC", price=price,
        quantity=size,
    )  # fmt: skip


async def test_a_position_is_told_when_orders_are_filled(piker_dirs: Path) -> None:
    """Fills with fee and realised gain, the position with its entry, flat again at the end."""
    async with loopback() as (venue, alice, bob, _):
        point_at(alice.port)
        bid, ask = top_of(venue, "usdm")
        price = (bid + ask) / 2 // TICK * TICK
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.02", price, symbol=PERP))
            await ems.view.until_status(order.oid, "open")
            await trade(bob, "SELL", price, "0.02")
            await ems.view.until_status(order.oid, "closed")
            await ems.view.until(lambda: PERP in ems.view.positions)
            held = ems.view.positions[PERP]
            assert (held.size, held.avg_price) == (Decimal("0.02"), price)
            out = await ems.send(order_of("sell", "0.5", symbol=PERP, reduce_only=True))
            await ems.view.until_status(out.oid, "closed", "expired")
            await ems.view.until(lambda: not ems.view.positions[PERP].size)
            _, rows = await alice.ask("GET", "/fapi/v1/userTrades", symbol="BTCUSDT")
            assert [
                (f.tid, f.fee, f.realised, f.maker, f.fee_asset) for f in ems.view.fills.values()
            ] == [
                (f"t{r['id']}", Decimal(r["commission"]), Decimal(r["realizedPnl"]), r["maker"],
                 "usdt")
                for r in rows
            ]  # fmt: skip


async def test_a_stop_becomes_an_order_when_it_is_triggered(piker_dirs: Path) -> None:
    """The fills of the order that it becomes are its own; nothing is told of a stranger."""
    async with loopback() as (venue, alice, bob, _):
        point_at(alice.port)
        _, ask = top_of(venue, "usdm")
        async with dialog_of(ALICE) as ems:
            stop = await ems.send(
                order_of("buy", "0.01", symbol=PERP, kind="stop", trigger=ask + TICK)
            )
            await ems.view.until_status(stop.oid, "open")
            assert "-a" in ems.view.reqid[stop.oid]
            lots = venue.listings["usdm", "BTCUSDT"].market.engine.takeable(
                BUY, int((ask + 1) / TICK)
            )
            size = (sum(one for _, one in lots) + 2) * Decimal("0.00001")
            await trade(bob, "BUY", ask + 2, size.quantize(Decimal("0.001")))
            await ems.view.until_status(stop.oid, "closed")
            assert ems.view.filled(stop.oid) == Decimal("0.01")
            assert "-a" not in ems.view.reqid[stop.oid]
            assert {f.oid for f in ems.view.fills.values()} == {stop.oid}


async def test_edits_keep_the_number_or_make_another_when_the_kind_asks_for_it(
    piker_dirs: Path,
) -> None:
    """A limit order by PUT, the same terms again too; a stop canceled for another."""
    async with loopback() as (venue, alice, _, _):
        point_at(alice.port)
        bid, ask = top_of(venue, "usdm")
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.02", bid - 100, symbol=PERP))
            await ems.view.until_status(order.oid, "open")
            first = ems.view.reqid[order.oid]
            for _ in range(2):
                again = await ems.edited(order, size=Decimal("0.03"), price=bid - 50)
                assert again == first
            stop = await ems.send(
                order_of("sell", "0.01", symbol=PERP, kind="stop", trigger=bid - 500)
            )
            await ems.view.until_status(stop.oid, "open")
            first = ems.view.reqid[stop.oid]
            assert await ems.edited(stop, trigger=bid - 400) != first
            _, (row,) = await alice.ask("GET", "/fapi/v1/openAlgoOrders")
            assert Decimal(row["triggerPrice"]) == bid - 400
            assert ask > bid


async def test_both_sides_are_traded_when_the_account_hedges(piker_dirs: Path) -> None:
    """Buys open LONG, sells SHORT; what reduces closes; the sum of both is told."""
    async with loopback() as (_, alice, _, _):
        point_at(alice.port)
        await alice.ask("POST", "/fapi/v1/positionSide/dual", dualSidePosition="true")
        async with dialog_of(ALICE) as ems:
            for action, size, reduces in (
                ("buy", "0.003", False), ("sell", "0.002", False), ("buy", "0.001", True),
            ):  # fmt: skip
                order = await ems.send(order_of(action, size, symbol=PERP, reduce_only=reduces))
                await ems.view.until_status(order.oid, "closed")
            await ems.view.until(lambda: ems.view.positions[PERP].size == Decimal("0.002"))
            _, rows = await alice.ask("GET", "/fapi/v3/positionRisk")
            assert {r["positionSide"]: r["positionAmt"] for r in rows} == {
                "LONG": "0.003", "SHORT": "-0.001",
            }  # fmt: skip


async def test_refusals_are_told_when_an_order_is_bad(piker_dirs: Path) -> None:
    """Post-only that would take, FOK, reduce-only without a position, margin, unknown triggers."""
    async with loopback() as (venue, alice, _, _):
        point_at(alice.port)
        bid, ask = top_of(venue, "usdm")
        async with dialog_of(ALICE) as ems:
            for size, price, more, words in (
                ("0.01", ask + 100, {"post_only": True}, "Post Only"),
                ("80", ask, {"tif": "fok"}, "FOK"),
                ("0.01", bid, {"reduce_only": True}, "ReduceOnly"),
                ("500", bid, {}, "Margin is insufficient"),
                ("0.01", None, {"kind": "stop", "trigger": ask + 1,
                                "trigger_by": TriggerBy.SIDE}, "triggers go by"),
            ):  # fmt: skip
                order = await ems.send(order_of("buy", size, price, symbol=PERP, **more))
                assert words in (await ems.view.until_error(order.oid)).reason


async def test_spot_does_not_wait_when_the_key_may_not_trade_futures(piker_dirs: Path) -> None:
    """USD-M is not connected; an order for it is refused, nothing is sent."""
    spec = account_of("dora:dorakey:dorasecret:USDT=1000000,BTC=10:read,spot")
    async with loopback(accounts=(spec,)) as (venue, dora):
        point_at(dora.port)
        async with dialog_of(spec) as ems:
            order = await ems.send(order_of("buy", "0.01", 100, symbol=PERP))
            assert "may not trade USD-M" in (await ems.view.until_error(order.oid)).reason
            assert "usdt.usdtm" not in ems.view.balances
        assert not any(p.startswith("/fapi") for p in venue.gate.counters.requests)


async def test_nothing_of_coinm_is_told_when_its_events_come_the_same_way(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orders and positions by their market's name; a balance without a position is asked for."""
    monkeypatch.setattr("piker.brokers.binance.broker_sync.READ_S", 0.05)
    async with loopback() as (venue, alice, bob, _):
        point_at(alice.port)
        desk = venue.accounts.usdm
        account = desk.accounts["alice"]
        bid, ask = top_of(venue, "usdm")
        price = (bid + ask) / 2 // TICK * TICK
        theirs = {"s": "BTCUSD_PERP", "pa": "5", "ep": "9", "ps": "BOTH"}
        wallet = {"a": "USDT", "wb": "77", "cw": "77"}
        order = {"s": "BTCUSD_PERP", "c": "x", "S": "SELL", "o": "LIMIT", "f": "GTC", "q": "2",
                 "p": "9", "x": "NEW", "X": "NEW", "i": 7, "l": "0", "z": "0", "L": "0", "T": 5,
                 "t": 0, "m": False}  # fmt: skip
        async with dialog_of(ALICE) as ems:
            before = len(ems.view.events)
            for event in (
                {"e": "ORDER_TRADE_UPDATE", "o": order},
                {"e": "ACCOUNT_UPDATE", "a": {"m": "ORDER", "B": [wallet], "P": [theirs]}},
                {"e": "ACCOUNT_UPDATE", "a": {"m": "DEPOSIT", "B": [wallet], "P": []}},
            ):
                account.tell(event)
            desk.margin_of(account).wallet += 5
            await ems.view.until(lambda: ems.view.balances["usdt.usdtm"].total == 1_000_005)
            (told,) = ems.view.events[before:]
            assert told.total == 1_000_005
            ours = await ems.send(order_of("buy", "0.02", price, symbol=PERP))
            await ems.view.until_status(ours.oid, "open")
            await trade(bob, "SELL", price, "0.02")
            await ems.view.until_status(ours.oid, "closed")
            await ems.view.until(lambda: PERP in ems.view.positions)
            assert ems.view.positions[PERP].size == Decimal("0.02")
            assert set(ems.view.positions) == {PERP}
