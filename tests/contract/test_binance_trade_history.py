"""Binance's trade history against the loopback venue: each fill as the live dialog told it."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from account_client import ALICE, POOR, Trader, account_of, loopback, top_of
from binance_broker_client import PERP, SPOT, credentials_of, dialog_of, order_of, point_at

from piker.accounting import of_fill
from piker.brokers.binance import broker_history
from piker.brokers.binance.broker import trade_history
from piker.errors import BrokerError, ConfigError, Refused, SymbolNotFound
from piker.orders import BrokerdFill
from piker.testing.accounts import AccountSpec
from piker.testing.faults import Fault

TICK = Decimal("0.01")
SOLD = {SPOT: "/api/v3/order", PERP: "/fapi/v1/order"}
KIND = {SPOT: "spot", PERP: "usdm"}


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have two trades to a page."""
    monkeypatch.setattr(broker_history, "PAGE", 2)


async def history(
    symbols: list[str], since_ns: int = 0, spec: AccountSpec = ALICE
) -> list[list[BrokerdFill]]:
    """Return every page that was told."""
    async with trade_history(credentials_of(spec), symbols, since_ns) as pages:
        return [page async for page in pages]


def told(fill: BrokerdFill) -> tuple[Any, ...]:
    """Return all of a fill but who ordered it, and when we heard of it."""
    return (
        fill.tid, fill.reqid, fill.symbol, fill.size, fill.price, fill.action, fill.fee,
        fill.fee_asset, fill.maker, fill.broker_time_ns, fill.account, fill.realised,
    )  # fmt: skip


async def sell(bob: Trader, symbol: str, price: Decimal, size: str) -> None:
    """Have another account sell at a price."""
    await bob.ask(
        "POST", SOLD[symbol], symbol="BTCUSDT", side="SELL", type="LIMIT", timeInForce="IOC",
        price=price, quantity=size,
    )  # fmt: skip


async def trade(ems: Any, venue: Any, bob: Trader, symbol: str) -> list[BrokerdFill]:
    """Be filled as a maker, bit by bit, and as a taker, at several prices in one moment."""
    bid, ask = top_of(venue, KIND[symbol])
    price = (bid + ask) / 2 // TICK * TICK
    rests = await ems.send(order_of("buy", "0.05", price, symbol=symbol))
    await ems.view.until_status(rests.oid, "open")
    for size in ("0.01", "0.015", "0.025"):
        await sell(bob, symbol, price, size)
        await trio.sleep(0.005)  # so that they have times of their own
    await ems.view.until_status(rests.oid, "closed")
    takes = await ems.send(order_of("sell", "3", symbol=symbol))
    await ems.view.until_status(takes.oid, "closed", "expired")
    fills = [one for one in ems.view.fills.values() if one.symbol == symbol]
    assert len(fills) > 6
    assert len({one.broker_time_ns for one in fills if one.oid == takes.oid}) == 1
    return sorted(fills, key=lambda one: int(one.tid[1:]))


@pytest.mark.parametrize("symbol", [SPOT, PERP])
async def test_every_fill_is_told_as_it_was_live_when_history_has_many_pages(
    piker_dirs: Path, symbol: str
) -> None:
    """Beside the dialog that told it: equal in all that counts, oldest first, each once."""
    async with loopback() as (venue, alice, bob, _):
        point_at(alice.port)
        async with dialog_of(ALICE) as ems:
            live = await trade(ems, venue, bob, symbol)
            pages = await history([symbol, symbol])
            fetched = [fill for page in pages for fill in page]
            assert all(len(page) <= 2 for page in pages)
            assert [told(fill) for fill in fetched] == [told(fill) for fill in live]
            fqme = f"{symbol}.binance"
            keys = [[of_fill(one, symbol=fqme).key for one in side] for side in (live, fetched)]
            assert keys[0] == keys[1]
            since = live[2].broker_time_ns
            later = [fill for page in await history([symbol], since) for fill in page]
            assert [fill.tid for fill in later] == [fill.tid for fill in live[2:]]
            assert not any(await history([symbol], live[-1].broker_time_ns + 1))
            assert ems.view.sync == "synced"
            again = await ems.send(order_of("buy", "0.01", symbol=symbol))
            await ems.view.until_status(again.oid, "closed")


async def test_markets_are_told_apart_when_several_are_asked_for(piker_dirs: Path) -> None:
    """One after the other, under their own names; one without a trade is empty."""
    async with loopback() as (venue, alice, bob, _):
        point_at(alice.port)
        async with dialog_of(ALICE) as ems:
            live = [*await trade(ems, venue, bob, SPOT), *await trade(ems, venue, bob, PERP)]
        fetched = [
            fill for page in await history([SPOT, "ethusdt.spot", PERP]) for fill in page
        ]  # fmt: skip
        assert [told(fill) for fill in fetched] == [told(fill) for fill in live]


async def test_history_is_refused_in_words_when_it_can_not_be_asked_for(piker_dirs: Path) -> None:
    """No market, one of COIN-M, one that is none; a key that the venue does not take."""
    async with loopback() as (_, alice, _, _):
        point_at(alice.port)
        with pytest.raises(ConfigError, match="no list of all"):
            await history([])
        with pytest.raises(ConfigError, match="spot and USD-M"):
            await history(["btcusd.coinm.perp"])
        for symbol in ("nope.spot", "nope.usdtm.perp"):
            with pytest.raises(SymbolNotFound, match="Invalid symbol"):
                await history([symbol])
        with pytest.raises(Refused):
            await history([SPOT], spec=account_of("x:nokey:nosecret:USDT=1"))
        assert not any(await history([SPOT, PERP], spec=POOR))


async def test_history_goes_on_or_ends_with_the_error_when_answers_are_lost(
    piker_dirs: Path,
) -> None:
    """A few lost answers change nothing; a venue that stays silent is an error, not an end."""
    async with loopback() as (venue, alice, bob, _):
        point_at(alice.port)
        async with dialog_of(ALICE) as ems:
            live = await trade(ems, venue, bob, SPOT)
        lost = Fault(what="close", on="http", match="myTrades", count=2)
        venue.gate.add_faults([lost, Fault(what="garble", on="http", match="myTrades", count=1)])
        fetched = [fill for page in await history([SPOT]) for fill in page]
        assert [fill.tid for fill in fetched] == [fill.tid for fill in live]
        venue.gate.add_faults([Fault(what="status", on="http", status=503, match="myTrades")])
        with pytest.raises(BrokerError, match="503"):
            await history([SPOT])


async def test_history_ends_at_once_when_it_is_cancelled(piker_dirs: Path) -> None:
    """In the middle of its pages; nothing is asked for afterwards."""
    async with loopback() as (venue, alice, bob, _):
        point_at(alice.port)
        async with dialog_of(ALICE) as ems:
            await trade(ems, venue, bob, SPOT)
        before = venue.gate.counters.requests["/api/v3/myTrades"]
        with trio.CancelScope() as scope:
            async with trade_history(credentials_of(ALICE), [SPOT], 0) as pages:
                async for _ in pages:
                    scope.cancel()
        assert scope.cancelled_caught
        assert venue.gate.counters.requests["/api/v3/myTrades"] == before + 1
