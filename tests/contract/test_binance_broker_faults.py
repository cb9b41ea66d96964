"""Binance's order dialog when the venue answers late, wrongly, twice or not at all."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from account_client import ALICE, account_of, loopback, top_of
from binance_broker_client import PERP, SPOT, dialog_of, order_of, point_at
from binance_broker_soak import soak

from piker.testing.faults import Fault

TICK = Decimal("0.01")
MAKER = account_of("bob:bobkey:bobsecret:USDT=1000000,BTC=1000")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spot", "usdm"])
async def test_the_view_is_the_venues_when_orders_go_through_every_fault(
    kind: str, piker_dirs: Path
) -> None:
    """At quiescence orders, fills, fees and balances are equal; none that stands was refused."""
    seen = await soak(40, kind=kind, seed=7, edits=False)
    assert seen["unknown"]
    print(dict(seen))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spot", "usdm"])
async def test_no_more_is_traded_than_was_asked_for_when_edits_go_through_every_fault(
    kind: str, piker_dirs: Path
) -> None:
    """The same with edits: never two orders for one, never more than its largest size."""
    seen = await soak(60, kind=kind, seed=8, edits=True)
    assert seen["edits done"]
    print(dict(seen))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spot", "usdm"])
async def test_each_fill_counts_once_when_events_are_dropped_doubled_and_late(
    kind: str, piker_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fifth of the user stream is dropped while it looks healthy, another comes twice or late."""
    monkeypatch.setattr("piker.brokers.binance.broker_sync.AUDIT_S", 1.0)
    match = "executionReport|ORDER_TRADE_UPDATE|outboundAccountPosition|ACCOUNT_UPDATE"
    faults = (
        Fault(what="drop", match=match, probability=0.2),
        Fault(what="duplicate", match=match, probability=0.2),
        Fault(what="reorder", match=match, probability=0.1),
        Fault(what="late", match=match, probability=0.1, delay_s=0.4),
        Fault(what="garble", match=match, probability=0.02),
    )
    seen = await soak(40, kind=kind, seed=9, edits=False, faults=faults)
    print(dict(seen))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spot", "usdm"])
async def test_the_view_is_the_venues_when_dialogs_are_killed_under_way(
    kind: str, piker_dirs: Path
) -> None:
    """Orders, edits and cancels in flight at the kill; the next dialog begins with beliefs."""
    seen = await soak(36, kind=kind, seed=10, edits=True, kills=4)
    assert seen["killed"] == 4
    print(dict(seen))


@pytest.mark.full
@pytest.mark.parametrize("kind", ["spot", "usdm"])
async def test_the_view_is_the_venues_when_30_dialogs_are_killed_under_way(
    kind: str, piker_dirs: Path
) -> None:
    """The same, with thirty kills."""
    print(dict(await soak(300, kind=kind, seed=20261123, edits=True, kills=30)))


@pytest.mark.full
@pytest.mark.parametrize("kind", ["spot", "usdm"])
async def test_the_view_is_the_venues_when_1000_orders_go_through_every_fault(
    kind: str, piker_dirs: Path
) -> None:
    """A thousand lives."""
    print(dict(await soak(1000, kind=kind, seed=20261121, edits=False)))


@pytest.mark.full
@pytest.mark.parametrize("kind", ["spot", "usdm"])
async def test_no_more_is_traded_than_was_asked_for_when_300_lives_are_edited(
    kind: str, piker_dirs: Path
) -> None:
    """Three hundred lives with up to two edits each, every request through a fault or none."""
    print(dict(await soak(300, kind=kind, seed=20261122, edits=True)))


@pytest.mark.slow
async def test_fills_are_told_when_the_user_stream_was_away(piker_dirs: Path) -> None:
    """LOST, SYNCING, SYNCED; what was filled and canceled meanwhile is told between."""
    async with loopback(accounts=(ALICE, MAKER)) as (venue, alice, bob):
        point_at(alice.port)
        bid, ask = top_of(venue)
        price = (bid + ask) / 2 // TICK * TICK
        async with dialog_of(ALICE) as ems:
            partly = await ems.send(order_of("buy", "0.5", price))
            gone = await ems.send(order_of("buy", "0.1", price - 100))
            for order in (partly, gone):
                await ems.view.until_status(order.oid, "open")
            venue.cut(refuse_s=0.3)
            await ems.view.until(lambda: ems.view.sync == "lost")
            await bob.order("SELL", price, "0.2")
            await alice.ask(
                "DELETE", "/api/v3/order", symbol="BTCUSDT", origClientOrderId=gone.client_id
            )
            assert not ems.view.fills
            await ems.view.until(lambda: ems.view.sync == "synced")
            assert ems.view.filled(partly.oid) == Decimal("0.2")
            assert ems.view.status[partly.oid].status == "open"
            assert ems.view.status[gone.oid].status == "canceled"
            assert ems.view.events[-1].state == "synced"
            await bob.order("SELL", price, "0.3")
            await ems.view.until_status(partly.oid, "closed")
            assert ems.view.filled(partly.oid) == Decimal("0.5")


@pytest.mark.slow
async def test_beliefs_are_answered_when_the_process_began_anew(piker_dirs: Path) -> None:
    """Open, filled while away, replaced by an edit that was not heard of, and never arrived."""
    async with loopback(accounts=(ALICE, MAKER)) as (venue, alice, bob):
        point_at(alice.port, recv_window_ms=500)
        bid, ask = top_of(venue)
        price = (bid + ask) / 2 // TICK * TICK
        async with dialog_of(ALICE) as ems:
            orders = [
                await ems.send(order_of("buy", "0.2", at))
                for at in (price, price - 100, price - 200, price - 300)
            ]
            for order in orders:
                await ems.view.until_status(order.oid, "open")
            await bob.order("SELL", price, "0.1")
            await ems.view.until(lambda: ems.view.filled(orders[0].oid) == Decimal("0.1"))
            beliefs = [ems.view.believe(order) for order in orders]
        filled, still, replaced, canceled = orders
        await bob.order("SELL", price, "0.1")
        assert await _replace(alice, replaced, price - 250) == 200
        await alice.ask(
            "DELETE", "/api/v3/order", symbol="BTCUSDT", origClientOrderId=canceled.client_id
        )
        unheard = order_of("buy", "0.1", price - 400)  # taken, but no answer came before the end
        await alice.order("BUY", price - 400, "0.1", newClientOrderId=unheard.client_id)
        beliefs.append(ems.view.believe(unheard))
        lost = order_of("buy", "0.1", price - 500)
        beliefs.append(ems.view.believe(lost))
        for _ in range(2):  # twice is the same as once
            async with dialog_of(ALICE, beliefs) as ems:
                status = {o.oid: ems.view.status[o.oid].status for o in [*orders, unheard, lost]}
                assert status == {
                    filled.oid: "closed", still.oid: "open", replaced.oid: "open",
                    canceled.oid: "canceled", unheard.oid: "open", lost.oid: "absent",
                }  # fmt: skip
                assert ems.view.filled(filled.oid) == Decimal("0.2")
                assert len(ems.view.fills) == 2
                assert ems.view.reqid[unheard.oid].startswith("spot-BTCUSDT-")
                assert ems.view.status[replaced.oid].order.price == price - 250
                (ack,) = [e for e in ems.view.events if getattr(e, "request", "") == "edit"]
                assert (ack.oid, ack.terms.price) == (replaced.oid, price - 250)
                _, rows = await alice.ask("GET", "/api/v3/openOrders")
                (row,) = [r for r in rows if Decimal(r["price"]) == price - 250]
                assert ems.view.reqid[replaced.oid] == f"spot-BTCUSDT-{row['orderId']}"


async def _replace(alice: Any, order: Any, price: Decimal) -> int:
    """Replace an order as a dialog would, without one."""
    status, _ = await alice.ask(
        "POST", "/api/v3/order/cancelReplace", symbol="BTCUSDT", side="BUY", type="LIMIT",
        timeInForce="GTC", quantity=order.size, price=price, cancelReplaceMode="STOP_ON_FAILURE",
        newClientOrderId=f"{order.client_id}-1", cancelOrigClientOrderId=order.client_id,
    )  # fmt: skip
    return int(status)


async def test_dropped_events_are_made_up_for_when_the_next_one_shows_it(
    piker_dirs: Path,
) -> None:
    """A fill that was never told comes with the next: the venue's own total says that it is due."""
    async with loopback(accounts=(ALICE, MAKER)) as (venue, alice, bob):
        point_at(alice.port)
        bid, ask = top_of(venue)
        price = (bid + ask) / 2 // TICK * TICK
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.5", price))
            await ems.view.until_status(order.oid, "open")
            venue.gate.add_faults([Fault(what="drop", match='"x":"TRADE"', count=1)])
            await bob.order("SELL", price, "0.2")
            assert not ems.view.fills
            await bob.order("SELL", price, "0.3")
            await ems.view.until_status(order.oid, "closed")
            assert [f.size for f in ems.view.fills.values() if f.oid == order.oid] == [
                Decimal("0.3"), Decimal("0.2"),
            ]  # fmt: skip


async def test_a_duplicate_is_not_called_rejected_when_the_first_one_stands(
    piker_dirs: Path,
) -> None:
    """A gateway sends it twice: the answer is of the second, no event tells of the first."""
    async with loopback() as (venue, alice, _, _):
        point_at(alice.port)
        bid, _ = top_of(venue)
        async with dialog_of(ALICE) as ems:
            order = order_of("buy", "0.1", bid - 100)
            venue.gate.add_faults(
                [
                    Fault(what="drop", match="executionReport"),
                    Fault(what="twice", match=f"POST .*{order.client_id}", count=1),
                ]
            )
            await ems.send(order)
            told = await ems.view.until_status(order.oid, "open", "rejected", "absent")
            assert told.status == "open"
            assert order.oid not in ems.view.errors


@pytest.mark.parametrize("kind", ["spot", "usdm"])
async def test_both_orders_are_told_when_a_gateway_doubles_one_that_trades_at_once(
    kind: str, piker_dirs: Path
) -> None:
    """The venue takes an id again whose order is over: nobody can undo it, so it is not hidden."""
    symbol = SPOT if kind == "spot" else PERP
    async with loopback() as (venue, alice, _, _):
        point_at(alice.port)
        async with dialog_of(ALICE) as ems:
            order = order_of("buy", "0.01", symbol=symbol)
            match = f"POST .*{order.client_id}"
            venue.gate.add_faults([Fault(what="twice", match=match, count=1)])
            await ems.send(order)
            await ems.view.until(lambda: ems.view.filled(order.oid) == Decimal("0.02"))
            assert len({fill.reqid for fill in ems.view.fills.values()}) == 2
            told = await ems.view.until_status(order.oid, "closed")
            await ems.view.until(lambda: ems.view.status[order.oid].status == "closed")
            assert order.oid not in ems.view.errors
            assert told.oid == order.oid


async def test_what_others_do_with_the_account_is_told_too(piker_dirs: Path) -> None:
    """Orders of another program: open before, and made while the dialog is open; their fills."""
    async with loopback(accounts=(ALICE, MAKER)) as (venue, alice, bob):
        point_at(alice.port)
        bid, ask = top_of(venue)
        price = (bid + ask) / 2 // TICK * TICK
        _, early = await alice.order("BUY", price - 50, "0.3", newClientOrderId="mine-1")
        async with dialog_of(ALICE) as ems:
            told = ems.view.status[f"spot-BTCUSDT-{early['orderId']}"]
            assert (told.client_id, told.oid, told.status) == ("mine-1", "", "open")
            assert told.order is not None
            assert (told.order.price, told.order.size) == (price - 50, Decimal("0.3"))
            _, late = await alice.order("BUY", price, "0.2", newClientOrderId="mine-2")
            await bob.order("SELL", price, "0.2")
            await ems.view.until_status(f"spot-BTCUSDT-{late['orderId']}", "closed")
            (fill,) = ems.view.fills.values()
            assert (fill.client_id, fill.oid, fill.size) == ("mine-2", "", Decimal("0.2"))


async def test_a_balance_is_zero_when_it_was_spent_while_nobody_heard(piker_dirs: Path) -> None:
    """Spot lists what is not zero: an asset that was told, and is missing, is spent."""
    async with loopback(accounts=(ALICE, MAKER)) as (venue, alice, _):
        point_at(alice.port)
        async with dialog_of(ALICE) as ems:
            assert ems.view.balances["btc"].total == 10
            venue.cut(refuse_s=0.3)
            await ems.view.until(lambda: ems.view.sync == "lost")
            venue.accounts.spot.accounts["alice"].purse.spend("BTC", free=Decimal(10))
            await ems.view.until(lambda: ems.view.sync == "synced")
            held = ems.view.balances["btc"]
            assert (held.total, held.available) == (0, 0)
            assert ems.view.balances["usdt"].total == 1_000_000
