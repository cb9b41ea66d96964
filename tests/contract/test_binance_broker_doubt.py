"""Binance's order dialog when the venue's queries are behind what takes its orders."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from account_client import ALICE, account_of, loopback, top_of
from binance_broker_client import PERP, SPOT, dialog_of, order_of, point_at
from msgspec.structs import replace

from piker.clock import wall_ns
from piker.testing.binance_account_algo import AlgoDesk
from piker.testing.binance_account_calls import Call
from piker.testing.binance_account_params import VenueRefusal
from piker.testing.binance_account_spot import SpotDesk
from piker.testing.binance_account_usdm import UsdmDesk
from piker.testing.binance_account_usdm_calls import USDM_CALLS
from piker.testing.faults import Fault

BOB = account_of("bob:bobkey:bobsecret:USDT=1000000,BTC=1000")
KINDS = {SPOT: "spot", PERP: "usdm"}
TICK = Decimal("0.01")
EVENTS = "executionReport|ORDER_TRADE_UPDATE|ALGO_UPDATE|TRADE_LITE"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare five times a second."""
    monkeypatch.setattr("piker.brokers.binance.broker_sync.AUDIT_S", 0.2)


def statuses(ems: Any, oid: str) -> list[str]:
    """Return what was told of how an order stands."""
    return [
        e.status for e in ems.view.events if getattr(e, "oid", "") == oid and hasattr(e, "status")
    ]


@asynccontextmanager
async def trading(symbol: str) -> AsyncIterator[tuple[Any, Any, Decimal]]:
    """Run a venue and a dialog; yield the desk of a market, the dialog, and the best bid."""
    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, _):
        point_at(alice.port, recv_window_ms=500)
        bid, _ = top_of(venue, KINDS[symbol])
        async with dialog_of(ALICE) as ems:
            yield venue.accounts.desks[KINDS[symbol]], ems, bid


@pytest.mark.slow
@pytest.mark.parametrize("symbol", [SPOT, PERP])
async def test_an_order_stands_when_queries_deny_it_right_after_its_ack(
    piker_dirs: Path, symbol: str
) -> None:
    """Neither asked for nor among the open ones for a while: it was taken, and that is proved."""
    async with trading(symbol) as (desk, ems, bid):
        desk.lag_ms = 1500
        order = await ems.send(order_of("buy", "0.01", bid - 100, symbol=symbol))
        await ems.view.until_status(order.oid, "open")
        await trio.sleep(2.5)
        assert statuses(ems, order.oid) == ["open"]
        desk.lag_ms = 0
        await ems.cancel(order)
        await ems.view.until_status(order.oid, "canceled")


@pytest.mark.slow
@pytest.mark.parametrize("symbol", [SPOT, PERP])
async def test_an_order_is_followed_again_when_it_was_called_gone_and_is_listed(
    piker_dirs: Path, symbol: str
) -> None:
    """That end was only inferred: the venue never told it."""
    async with trading(symbol) as (desk, ems, bid):
        desk.lag_ms = 60_000
        order = await ems.send(order_of("buy", "0.01", bid - 100, symbol=symbol))
        told = await ems.view.until_status(order.oid, "canceled")
        assert told.reason == "the venue does not know it any more"
        desk.lag_ms = 0
        await ems.view.until_status(order.oid, "open")
        await ems.cancel(order)
        told = await ems.view.until_status(order.oid, "canceled")
        assert not told.reason


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["limit", "stop"])
async def test_an_order_of_long_ago_is_open_when_only_the_list_has_it(
    piker_dirs: Path, kind: str
) -> None:
    """USD-M can not be asked for an order that was made 90 days ago, though it stands."""
    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, _):
        point_at(alice.port, recv_window_ms=500)
        bid, ask = top_of(venue, "usdm")
        more = {"price": bid - 100} if kind == "limit" else {"trigger": ask + 1000}
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.01", kind=kind, symbol=PERP, **more))
            await ems.view.until_status(order.oid, "open")
            beliefs = [ems.view.believe(order)]
        venue.accounts.usdm.memory_ms = -1
        path = "/fapi/v1/order" if kind == "limit" else "/fapi/v1/algoOrder"
        name = {"origClientOrderId" if kind == "limit" else "clientAlgoId": order.client_id}
        assert (await alice.ask("GET", path, symbol="BTCUSDT", **name))[0] == 400
        async with dialog_of(ALICE, beliefs) as ems:
            assert statuses(ems, order.oid) == ["open"]
            await trio.sleep(2.5)
            assert statuses(ems, order.oid) == ["open"]
            await ems.cancel(order)
            await ems.view.until_status(order.oid, "canceled")


@pytest.mark.slow
@pytest.mark.parametrize("symbol", [SPOT, PERP])
async def test_an_order_that_traded_is_not_absent_when_queries_show_it_late(
    piker_dirs: Path, symbol: str
) -> None:
    """Its answer and its events were lost: a stop that emsd had set free it would send again."""
    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, _):
        point_at(alice.port, recv_window_ms=500, patience_s=2)
        desk = venue.accounts.desks[KINDS[symbol]]
        async with dialog_of(ALICE) as ems:
            order = order_of("buy", "0.01", symbol=symbol)
            desk.lag_ms = 2800
            lost = Fault(what="unanswered", match=f"POST .*{order.client_id}", count=1)
            venue.gate.add_faults([lost, Fault(what="drop", match=EVENTS)])
            await ems.send(order)
            await ems.view.until_status(order.oid, "closed", "absent")
            assert statuses(ems, order.oid) == ["unknown", "closed"]
            assert ems.view.filled(order.oid) == order.size


@pytest.mark.slow
async def test_an_edit_is_followed_when_its_new_order_was_not_answered_inside_the_venue(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """409 and -2021: the old order is canceled, and what became of the new one it does not know."""
    new = SpotDesk.new

    def silent(desk: SpotDesk, account: Any, p: Any, now_ms: int, **more: Any) -> Any:
        answer = new(desk, account, p, now_ms, **more)
        if "cancelOrderId" in p:
            text = "Timeout waiting for response from backend server. Send status unknown"
            raise VenueRefusal(-1007, f"{text}; execution status unknown.")
        return answer

    monkeypatch.setattr(SpotDesk, "new", silent)
    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, _):
        point_at(alice.port, recv_window_ms=500)
        bid, _ = top_of(venue)
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.01", bid - 100))
            await ems.view.until_status(order.oid, "open")
            venue.accounts.spot.lag_ms = 1500
            venue.gate.add_faults([Fault(what="drop", match=EVENTS)])
            await ems.edited(order, price=bid - 50)
            assert statuses(ems, order.oid)[:2] == ["open", "unknown"]
            await ems.view.until_status(order.oid, "open")
            assert "canceled" not in statuses(ems, order.oid)


async def test_a_cancel_is_sent_again_when_the_engine_refuses_its_time(
    piker_dirs: Path,
) -> None:
    """-5028 is the -1021 of USD-M's engine: nothing was done."""
    refused = []

    def late(desk: UsdmDesk, account: Any, p: Any, now_ms: int) -> Any:
        if len(refused) < 3:
            refused.append(p)
            raise VenueRefusal(-5028, "Timestamp for this request is outside of the ME recvWindow.")
        return desk.cancel(account, p, now_ms)

    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, _):
        venue.accounts.calls["usdm"] = {**USDM_CALLS, "DELETE order": Call(late, "futures")}
        point_at(alice.port)
        bid, _ = top_of(venue, "usdm")
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.01", bid - 100, symbol=PERP))
            await ems.view.until_status(order.oid, "open")
            await ems.cancel(order)
            await ems.view.until_status(order.oid, "canceled")
            assert len(refused) == 3
            assert not ems.view.errors


@pytest.mark.parametrize("price", [None, -600])
async def test_what_a_trigger_made_is_canceled_when_it_came_before_the_cancel(
    piker_dirs: Path, price: int | None
) -> None:
    """The cancel of a conditional order is accepted all the same: that is not its end."""

    def raced(desk: AlgoDesk, account: Any, p: Any, now_ms: int) -> Any:
        assert "algoId" not in p
        order = desk._found_algo(account, p)
        assert order is not None
        desk.place_of(order.market).book.withdraw(order, now_ms)
        desk.triggered(order, now_ms)
        return {"algoId": order.number, "clientAlgoId": order.client_id, "code": "200",
                "msg": "success"}  # fmt: skip

    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, _):
        venue.accounts.calls["usdm"] = {**USDM_CALLS, "DELETE algoOrder": Call(raced, "futures")}
        point_at(alice.port, recv_window_ms=500)
        bid, _ = top_of(venue, "usdm")
        more = {"price": bid + price} if price else {}
        kind = "take_profit_limit" if price else "take_profit"
        async with dialog_of(ALICE) as ems:
            order = await ems.send(
                order_of("buy", "0.01", symbol=PERP, kind=kind, trigger=bid - 500, **more)
            )
            await ems.view.until_status(order.oid, "open")
            venue.gate.add_faults([Fault(what="drop", match=EVENTS)])
            await ems.cancel(order)
            if price:
                await ems.view.until_status(order.oid, "canceled")
                assert not ems.view.filled(order.oid)
            else:
                assert "ended: closed" in (await ems.view.until_error(order.oid)).reason
                assert ems.view.filled(order.oid) == order.size
            assert not venue.accounts.usdm.accounts["alice"].open


async def test_no_answer_about_another_conditional_order_is_believed(piker_dirs: Path) -> None:
    """A cancel is by the client id, and the answer has to name it."""

    def another(desk: AlgoDesk, account: Any, p: Any, now_ms: int) -> Any:
        return {"algoId": 1, "clientAlgoId": "another", "code": "200", "msg": "success"}

    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, _):
        venue.accounts.calls["usdm"] = {**USDM_CALLS, "DELETE algoOrder": Call(another, "futures")}
        point_at(alice.port, recv_window_ms=500)
        bid, _ = top_of(venue, "usdm")
        async with dialog_of(ALICE) as ems:
            order = await ems.send(
                order_of("sell", "0.01", symbol=PERP, kind="stop", trigger=bid - 500)
            )
            await ems.view.until_status(order.oid, "open")
            await ems.cancel(order)
            assert "'another'" in (await ems.view.until_error(order.oid)).reason
            assert statuses(ems, order.oid) == ["open", "unknown", "open"]


@pytest.mark.slow
@pytest.mark.parametrize("symbol", [SPOT, PERP])
async def test_an_account_is_synced_when_fills_of_an_order_can_not_be_had(
    piker_dirs: Path, symbol: str
) -> None:
    """The venue keeps no trades of long ago: what was believed counts, what is missing is told."""
    kind = KINDS[symbol]
    path = "/api/v3/order" if symbol == SPOT else "/fapi/v1/order"
    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, bob):
        point_at(alice.port, recv_window_ms=500)
        bid, ask = top_of(venue, kind)
        price = (bid + ask) / 2 // TICK * TICK

        async def sell(size: str) -> None:
            await bob.ask(
                "POST", path, symbol="BTCUSDT", side="SELL", type="LIMIT", timeInForce="IOC",
                price=price, quantity=size,
            )  # fmt: skip

        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.05", price, symbol=symbol))
            await ems.view.until_status(order.oid, "open")
            await sell("0.01")
            await ems.view.until(lambda: ems.view.filled(order.oid) == Decimal("0.01"))
            beliefs = [ems.view.believe(order)]
        await sell("0.01")
        venue.accounts.desks[kind].trades_kept_ms = -1000
        async with dialog_of(ALICE, beliefs) as ems:
            told = ems.view.status[order.oid]
            assert (told.status, told.filled, len(ems.view.fills)) == ("open", Decimal("0.02"), 0)
            await sell("0.03")
            told = await ems.view.until_status(order.oid, "closed")
            assert (told.filled, ems.view.filled(order.oid)) == (Decimal("0.05"), Decimal("0.03"))


@pytest.mark.slow
async def test_no_order_of_others_is_waited_for_when_its_fills_can_not_be_had(
    piker_dirs: Path,
) -> None:
    """What spot routed to other books has no trades of its own: nobody would ever be synced."""
    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, bob):
        point_at(alice.port, patience_s=600)
        bid, ask = top_of(venue)
        price = (bid + ask) / 2 // TICK * TICK
        _, theirs = await alice.order("BUY", price, "0.05", newClientOrderId="mine-1")
        await bob.order("SELL", price, "0.01")
        venue.accounts.spot.trades_kept_ms = -1000
        async with dialog_of(ALICE) as ems:
            told = ems.view.status[f"spot-BTCUSDT-{theirs['orderId']}"]
            assert (told.status, told.filled) == ("open", Decimal("0.01"))


@pytest.mark.slow
@pytest.mark.parametrize("is_known", [True, False])
async def test_an_order_is_canceled_when_the_venue_has_archived_it(
    piker_dirs: Path, is_known: bool
) -> None:
    """By its number and by its client id: it was there, so it is not absent."""
    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, _):
        point_at(alice.port, recv_window_ms=500)
        bid, _ = top_of(venue)
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.01", bid - 100))
            await ems.view.until_status(order.oid, "open")
            belief = ems.view.believe(order)
            await ems.cancel(order)
            await ems.view.until_status(order.oid, "canceled")
        if not is_known:
            belief = replace(belief, order=replace(order, reqid=""))
        venue.accounts.spot.archive_ms = -1000
        async with dialog_of(ALICE, [belief]) as ems:
            assert statuses(ems, order.oid) == ["canceled"]


@pytest.mark.parametrize("symbol", [SPOT, PERP])
async def test_a_cancel_is_sent_when_too_many_orders_were(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch, symbol: str
) -> None:
    """429 with -1015 is about new orders of that account: cancels and queries go on."""
    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, _):
        point_at(alice.port)
        bid, _ = top_of(venue, KINDS[symbol])
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.01", bid - 100, symbol=symbol))
            await ems.view.until_status(order.oid, "open")
            counts = venue.accounts.counts[KINDS[symbol]]
            monkeypatch.setattr(counts, "add", lambda *_, **__: "100 orders per 10 SECOND")
            venue.accounts.retry_after_s = 600
            for _ in range(2):
                more = await ems.send(order_of("buy", "0.01", bid - 100, symbol=symbol))
                await ems.view.until_error(more.oid)
            assert venue.accounts.refusals["-1015"] == 1
            with trio.fail_after(5):
                assert await ems.dialog.venues[KINDS[symbol]].desk.open_orders()
                await ems.cancel(order)
                await ems.view.until_status(order.oid, "canceled")


@pytest.mark.slow
async def test_an_edit_is_refused_when_its_order_stands_though_there_is_much_patience(
    piker_dirs: Path,
) -> None:
    """One is canceled for the other: where it stands after its request's time, there is none."""
    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, _):
        point_at(alice.port, recv_window_ms=500, patience_s=600)
        bid, _ = top_of(venue)
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.01", bid - 100))
            await ems.view.until_status(order.oid, "open")
            venue.gate.add_faults(
                [Fault(what="half-open", on="http", match="cancelReplace", count=1)]
            )
            await ems.edit(order, price=bid - 50)
            await ems.view.until_error(order.oid)
            await ems.view.until_status(order.oid, "open")
            await ems.cancel(order)
            await ems.view.until_status(order.oid, "canceled")
            assert not venue.accounts.spot.accounts["alice"].open


@pytest.mark.slow
@pytest.mark.parametrize("symbol", [SPOT, PERP])
async def test_what_an_edit_may_have_made_is_canceled_at_once_when_a_cancel_comes(
    piker_dirs: Path, symbol: str
) -> None:
    """Nobody knows for minutes whether it stands: the cancel does not wait for that."""
    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, _):
        point_at(alice.port, recv_window_ms=500, patience_s=600)
        desk = venue.accounts.desks[KINDS[symbol]]
        account = desk.accounts["alice"]
        bid, ask = top_of(venue, KINDS[symbol])
        more = {"price": bid - 100} if symbol == SPOT else {"kind": "stop", "trigger": ask + 1000}
        changed = {"price": bid - 50} if symbol == SPOT else {"trigger": ask + 900}
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.01", symbol=symbol, **more))
            await ems.view.until_status(order.oid, "open")
            lost = Fault(what="unanswered", match=f"POST .*{order.client_id}-1", count=1)
            venue.gate.add_faults([lost, Fault(what="drop", match=EVENTS)])
            desk.lag_ms = 10**9
            await ems.edit(order, **changed)
            await ems.view.until_status(order.oid, "unknown")
            await ems.cancel(order)
            with trio.fail_after(10):
                while account.open or (symbol == PERP and desk._open_algos(account)):
                    await trio.sleep(0.02)
            desk.lag_ms = 0
            await ems.view.until_status(order.oid, "canceled")


@pytest.mark.parametrize("symbol", [SPOT, PERP])
async def test_dropped_events_are_found_when_another_order_is_in_doubt(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch, symbol: str
) -> None:
    """The minute's comparison waits for no proof: only an account that is not synced does."""
    path = "/api/v3/order" if symbol == SPOT else "/fapi/v1/order"
    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, _):
        point_at(alice.port, patience_s=600)
        desk = venue.accounts.desks[KINDS[symbol]]
        bid, _ = top_of(venue, KINDS[symbol])
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.01", bid - 100, symbol=symbol))
            await ems.view.until_status(order.oid, "open")
            now_ms = wall_ns() // 1_000_000
            monkeypatch.setattr(desk, "shows", lambda at_ms: at_ms <= now_ms)
            await trio.sleep(0.01)
            doubted = await ems.send(order_of("buy", "0.01", bid - 200, symbol=symbol))
            await ems.view.until_status(doubted.oid, "open")
            await trio.sleep(0.5)
            venue.gate.add_faults([Fault(what="drop", match=EVENTS)])
            name = {"symbol": "BTCUSDT", "origClientOrderId": order.client_id}
            await alice.ask("DELETE", path, **name)
            await ems.view.until_status(order.oid, "canceled")
            assert statuses(ems, doubted.oid) == ["open"]
