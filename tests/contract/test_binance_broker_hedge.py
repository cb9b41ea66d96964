"""Binance's position modes at USD-M, one-way and hedge: the dialog, and emsd's limits on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from account_client import ALICE, Trader, loopback
from binance_broker_client import ACCOUNT, PERP, dialog_of, order_of, point_at

from piker.brokers.binance.api import KINDS, load_markets
from piker.clearing.accounts import Account
from piker.clearing.journal import open_journal
from piker.clearing.lifecycle import Phase
from piker.clearing.risk import Limits, RiskDesk, TradingState
from piker.clearing.router import Router
from piker.clock import wall_ns
from piker.orders import Action, BrokerdSync, Order, OrderKind
from piker.testing.engine import BUY, SELL
from piker.testing.faults import Fault

D = Decimal
TICK = D("0.01")
DUAL = "/fapi/v1/positionSide/dual"


def top_of(venue: Any) -> tuple[Decimal, Decimal]:
    """Return the best bid and ask of the perpetual."""
    engine = venue.listings["usdm", "BTCUSDT"].market.engine
    return engine.depth(BUY, 1)[0][0] * TICK, engine.depth(SELL, 1)[0][0] * TICK


async def hedge(trader: Trader, on: bool = True) -> None:
    """Set an account's position mode."""
    _, body = await trader.ask("POST", DUAL, dualSidePosition=str(on).lower())
    assert body["code"] == 200


async def market(trader: Trader, side: str, size: str, **more: str) -> Any:
    """Trade at the market, past the dialog; return the answer."""
    said = {"symbol": "BTCUSDT", "side": side, "type": "MARKET", "quantity": size, **more}
    return (await trader.ask("POST", "/fapi/v1/order", **said))[1]


def sides(ems: Any) -> tuple[Decimal, Decimal, Decimal] | None:
    """Return what was told of the perpetual: the sum, long and short."""
    told = ems.view.positions.get(PERP)
    return None if told is None else (told.size, told.long, told.short)


def last_sync(ems: Any) -> BrokerdSync:
    """Return the newest word on how the account stands."""
    found = [one for one in ems.view.events if isinstance(one, BrokerdSync)]
    return found[-1]


def _holds(ems: Any, size: Decimal) -> bool:
    told = ems.view.positions.get(PERP)
    return told is not None and bool(told.size == size)


async def done(ems: Any, action: str, size: str, **more: Any) -> Any:
    """Trade at the market; return the status that ended it."""
    order = await ems.send(order_of(action, size, symbol=PERP, **more))
    return await ems.view.until_status(order.oid, "closed", "expired")


@pytest.mark.slow
async def test_one_position_is_told_when_the_account_does_not_hedge(piker_dirs: Path) -> None:
    """Opened, turned over, reduced, closed: never a side by itself, and no mode that hedges."""
    async with loopback() as (_, alice, _, _):
        point_at(alice.port)
        async with dialog_of(ALICE) as ems:
            assert (last_sync(ems).hedges, last_sync(ems).whole) == ((), ("usdtm",))
            for action, size, reduces, left in (
                ("buy", "0.003", False, "0.003"), ("sell", "0.005", False, "-0.002"),
                ("buy", "0.001", True, "-0.001"), ("buy", "0.004", True, "0"),
            ):  # fmt: skip
                await done(ems, action, size, reduce_only=reduces)
                await ems.view.until(partial(_holds, ems, D(left)))
                assert ems.view.positions[PERP].legs == ()
            refused = await ems.send(order_of("sell", "0.001", symbol=PERP, reduce_only=True))
            assert "-2022" in (await ems.view.until_error(refused.oid)).reason


async def test_a_locked_pair_is_told_when_the_account_hedges(piker_dirs: Path) -> None:
    """Both sides with their entries; what reduces closes its own, and no more than there is."""
    async with loopback() as (_, alice, _, _):
        point_at(alice.port)
        await hedge(alice)
        async with dialog_of(ALICE) as ems:
            assert last_sync(ems).hedges == last_sync(ems).whole == ("usdtm",)
            await done(ems, "buy", "0.002")
            await done(ems, "sell", "0.002")
            await ems.view.until(lambda: sides(ems) == (D(0), D("0.002"), D("0.002")))
            _, rows = await alice.ask("GET", "/fapi/v3/positionRisk")
            told = ems.view.positions[PERP]
            assert told.avg_price is None
            assert {(leg.size, leg.avg_price) for leg in told.legs} == {
                (D(row["positionAmt"]), D(row["entryPrice"])) for row in rows
            }
            for action, sizes in (("sell", ("0.001", "0.002")), ("buy", ("0.001", "0.002"))):
                for size in sizes:
                    order = await ems.send(order_of(action, size, symbol=PERP, reduce_only=True))
                    if D(size) == D("0.002"):
                        assert "ReduceOnly" in (await ems.view.until_error(order.oid)).reason
                    else:
                        await ems.view.until_status(order.oid, "closed")
            await ems.view.until(lambda: sides(ems) == (D(0), D("0.001"), D("0.001")))
            await done(ems, "buy", "0.001", reduce_only=True)
            await ems.view.until(lambda: sides(ems) == (D("0.001"), D("0.001"), D(0)))
            assert ems.view.positions[PERP].avg_price is not None


async def test_closing_orders_wait_and_are_edited_when_the_account_hedges(
    piker_dirs: Path,
) -> None:
    """A limit and a stop that close: their terms as emsd knows them, an edit, the trigger."""
    async with loopback() as (venue, alice, bob, _):
        point_at(alice.port)
        await hedge(alice)
        bid, ask = top_of(venue)
        async with dialog_of(ALICE) as ems:
            await done(ems, "buy", "0.004")
            await ems.view.until(lambda: sides(ems) is not None)
            limit = await ems.send(
                order_of("sell", "0.002", ask + 100, symbol=PERP, reduce_only=True)
            )
            stop = await ems.send(
                order_of("sell", "0.002", symbol=PERP, kind="stop", trigger=bid - 1,
                         reduce_only=True)
            )  # fmt: skip
            for order in (limit, stop):
                status = await ems.view.until_status(order.oid, "open")
                assert status.order is not None
                assert (status.order.reduce_only, status.order.action) == (True, Action.SELL)
            await ems.edit(limit, price=ask + 50)
            await ems.view.until(lambda: any(
                getattr(one, "request", "") == "edit" for one in ems.view.events
            ))  # fmt: skip
            assert not ems.view.errors
            _, (row,) = await alice.ask("GET", "/fapi/v1/openOrders")
            assert (D(row["price"]), row["positionSide"]) == (ask + 50, "LONG")
            lots = venue.listings["usdm", "BTCUSDT"].market.engine.takeable(
                SELL, int((bid - 1) / TICK)
            )
            size = (sum(one for _, one in lots) * D("0.00001") + D("0.002")).quantize(D("0.001"))
            await bob.ask(
                "POST", "/fapi/v1/order", symbol="BTCUSDT", side="SELL", type="LIMIT",
                timeInForce="IOC", price=bid - 2, quantity=size,
            )  # fmt: skip
            await ems.view.until_status(stop.oid, "closed")
            await ems.view.until(lambda: sides(ems) == (D("0.002"), D("0.002"), D(0)))


@pytest.mark.slow
async def test_sides_are_the_venues_when_the_stream_was_cut(piker_dirs: Path) -> None:
    """What was traded meanwhile, by us and by another program; a fill of ours counts once."""
    async with loopback() as (venue, alice, bob, _):
        point_at(alice.port)
        await hedge(alice)
        bid, ask = top_of(venue)
        price = (bid + ask) / 2 // TICK * TICK
        async with dialog_of(ALICE) as ems:
            await done(ems, "buy", "0.003")
            await ems.view.until(lambda: sides(ems) == (D("0.003"), D("0.003"), D(0)))
            rests = await ems.send(order_of("sell", "0.002", price, symbol=PERP))
            await ems.view.until_status(rests.oid, "open")
            venue.gate.add_faults([Fault(what="drop", match="user ")])
            await bob.ask(
                "POST", "/fapi/v1/order", symbol="BTCUSDT", side="BUY", type="LIMIT",
                timeInForce="IOC", price=price, quantity="0.002",
            )  # fmt: skip
            await market(alice, "SELL", "0.001", positionSide="LONG")
            venue.gate.injector.armed.clear()
            venue.cut()
            await ems.view.until_status(rests.oid, "closed")
            await ems.view.until(lambda: sides(ems) == (D(0), D("0.002"), D("0.002")))
            await ems.view.until(lambda: ems.view.sync == "synced")
            assert ems.view.filled(rests.oid) == D("0.002")
            await market(alice, "SELL", "0.002", positionSide="LONG")
            await ems.view.until(lambda: sides(ems) == (D("-0.002"), D(0), D("0.002")))
        async with dialog_of(ALICE) as ems:
            assert sides(ems) == (D("-0.002"), D(0), D("0.002"))
            assert last_sync(ems).hedges == ("usdtm",)


async def test_the_mode_is_learnt_anew_when_it_was_changed(piker_dirs: Path) -> None:
    """By a refusal, or by an event of another program's trade; the next order is right."""
    async with loopback() as (_, alice, _, _):
        point_at(alice.port)
        async with dialog_of(ALICE) as ems:
            await hedge(alice)
            refused = await ems.send(order_of("buy", "0.001", symbol=PERP))
            assert "-4061" in (await ems.view.until_error(refused.oid)).reason
            await ems.view.until(lambda: last_sync(ems).hedges == ("usdtm",))
            await done(ems, "buy", "0.001")
            await done(ems, "sell", "0.001", reduce_only=True)
            await hedge(alice, on=False)
            await market(alice, "BUY", "0.001")
            await ems.view.until(lambda: last_sync(ems).state == "synced"
                                 and not last_sync(ems).hedges)  # fmt: skip
            await ems.view.until(lambda: sides(ems) == (D("0.001"), D("0.001"), D(0)))
            assert ems.view.positions[PERP].legs == ()
            await done(ems, "sell", "0.001", reduce_only=True)


# -- with emsd's router on top ---------------------------------------------------------------------
class DialogLink:
    """An account's link: the dialog, in this process."""

    name = "binance"

    def __init__(self, ems: Any) -> None:
        self._ems = ems

    async def send(self, request: Any) -> None:
        """Hand a request over."""
        await self._ems.dialog.send(request)

    def ask_again(self) -> None:
        """Have nothing to ask."""


@asynccontextmanager
async def routed(folder: Path, ems: Any) -> AsyncIterator[Router]:
    """Run a router whose account is an open dialog's; it hears all that was told, and is told."""
    limits = Limits(duplicate_s=0.0, order_notional=D(10**6), gross_exposure=D(10**6))
    async with open_journal(folder / "journal") as journal, trio.open_nursery() as nursery:
        router = Router(journal, nursery)
        router.add(Account(ACCOUNT, RiskDesk(ACCOUNT, limits), DialogLink(ems), lambda *_: True))
        markets = await load_markets(KINDS["usdtm"])
        (mkt,) = [one for one in markets.values() if one.mktid == PERP]
        router.know(mkt)
        await router.recover()
        await router.set_state(ACCOUNT, TradingState.ACTIVE, "for the test")
        told, take = list(ems.view.events), ems.view.take

        def hear(event: Any) -> None:
            take(event)
            router.hear(ACCOUNT, event)

        ems.view.take = hear
        for event in told:
            router.hear(ACCOUNT, event)
        yield router
        nursery.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("hedged", [False, True])
async def test_gross_exposure_counts_both_sides_when_the_account_hedges(
    hedged: bool, tmp_path: Path, piker_dirs: Path
) -> None:
    """The same orders: one-way they end at nothing, hedged at a pair that uses the limit up."""
    async with loopback() as (venue, alice, _, _):
        point_at(alice.port)
        if hedged:
            await hedge(alice)
        async with dialog_of(ALICE) as ems, routed(tmp_path, ems) as router:
            fqme = f"{PERP}.binance"
            account, orders = router.accounts[ACCOUNT], router.orders
            bid, ask = top_of(venue)
            price = (bid + ask) / 2
            most = price * D("0.05")
            account.desk.limits = msgspec.structs.replace(account.desk.limits, gross_exposure=most)

            async def send(oid: str, action: str, size: str, **more: Any) -> Phase:
                router.price(fqme, price, wall_ns())
                await router.order(
                    Order(oid=oid, symbol=fqme, account=ACCOUNT, action=Action(action),
                          size=D(size), kind=OrderKind.MARKET, **more)
                )  # fmt: skip
                with trio.fail_after(20):
                    while not orders[oid].is_over:
                        await trio.sleep(0.005)
                return orders[oid].phase

            assert await send("a", "buy", "0.02") is Phase.FILLED
            assert await send("b", "sell", "0.02") is Phase.FILLED
            phase = await send("c", "buy", "0.02")
            assert phase is (Phase.DENIED if hedged else Phase.FILLED)
            assert orders["c"].code == ("gross-exposure" if hedged else "")
            assert await send("d", "sell", "0.01", reduce_only=True) is Phase.FILLED
            left = (D("0.01"), D("0.02")) if hedged else (D("0.01"), D(0))
            await ems.view.until(lambda: (sides(ems) or ())[1:] == left)
            standing = router.keeper._journal.standing
            venue.cut()
            before = len(ems.view.events)
            await ems.view.until(lambda: any(
                isinstance(one, BrokerdSync) and one.state == "synced"
                for one in ems.view.events[before:]
            ))  # fmt: skip
            with trio.fail_after(20):
                while account.rebased(standing):
                    await trio.sleep(0.005)
            assert not account.mismatches(standing)
            assert account.state == "active"
            assert not hedged or account.desk.sides(fqme) == left
