"""Kraken's order backend against the loopback venue: kinds, edits, cancels, fees, the switch."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import Any

import pytest
import trio
from kraken_client import ALICE, CAROL, middle, secret, top_of
from kraken_trading import (
    account_at,
    agree,
    credentials,
    quick,
    session,
    trading,
    venue_at,
)

from piker.brokers.kraken import broker
from piker.brokers.spec import load_backend
from piker.clock import NS, WallClock, use_clock, wall_ns
from piker.errors import BrokerError, ConfigError, Refused
from piker.orders import (
    BrokerdError,
    BrokerdOrderAck,
    BrokerdStatus,
    OrderKind,
    TimeInForce,
    TriggerBy,
)
from piker.testing.accounts import account_of
from piker.testing.faults import Fault

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")


async def sweep(venue: Any, bob: Any, side: int, price: Decimal) -> None:
    """Have bob trade through the book up to a price, and leave nothing there."""
    levels = venue.accounts.desk._books["BTC/USD"].takeable(side, price)
    size = sum(one for _, one in levels)
    await bob.order("buy" if side > 0 else "sell", price, size, timeinforce="IOC")


# -- orders ----------------------------------------------------------------------------------
async def test_an_order_is_acknowledged_filled_and_closed_when_it_trades() -> None:
    """Its fills have fee, asset, maker flag and the execution's id; its end comes after them."""
    async with session() as (venue, bob, emsd):
        price = middle(venue)
        await emsd.order("one", "buy", "0.5", price)
        await emsd.status("one", "open")
        await bob.order("sell", price, "0.2")
        await bob.order("sell", price, "0.3")
        closed = await emsd.status("one", "closed")
        assert (closed.filled, closed.remaining) == (Decimal("0.5"), 0)
        fills = [fill for fill in emsd.fills.values() if fill.oid == "one"]
        assert [fill.size for fill in fills] == [Decimal("0.2"), Decimal("0.3")]
        assert all(fill.maker and fill.fee_asset == "usd" for fill in fills)
        assert fills[0].fee == price * Decimal("0.2") * Decimal("0.0025")
        assert fills[0].symbol == "xbtusd.spot"
        kinds = [type(event) for event in emsd.of("one")]
        assert kinds.count(BrokerdOrderAck) == 1
        assert kinds[-1] is BrokerdStatus
        await agree(venue, emsd)


async def test_every_kind_is_native_when_its_market_moves() -> None:
    """Market, stops, take-profits and the trailing stop are placed as such, and trade as such."""
    async with session() as (venue, bob, emsd):
        _, ask = top_of(venue)
        up = ask + 2
        await emsd.order("stop", "buy", "0.01", kind=OrderKind.STOP, trigger=up)
        await emsd.order("limit", "buy", "0.01", ask - 500, kind=OrderKind.STOP_LIMIT, trigger=up)
        await emsd.order("profit", "sell", "0.01", kind=OrderKind.TAKE_PROFIT, trigger=up)
        await emsd.order(
            "far", "sell", "0.01", ask + 900, kind=OrderKind.TAKE_PROFIT_LIMIT, trigger=up
        )
        await emsd.order("trail", "sell", "0.01", kind=OrderKind.TRAILING_STOP, trail=Decimal("20"))
        for oid in ("stop", "limit", "profit", "far", "trail"):
            told = await emsd.status(oid, "open")
            assert told.filled == 0
        kinds = {o.cl_ord_id: o.kind for o in account_at(venue).orders.values()}
        assert sorted(kinds.values()) == [
            "stop-loss", "stop-loss-limit", "take-profit", "take-profit-limit", "trailing-stop"
        ]  # fmt: skip
        await sweep(venue, bob, 1, ask + 40)
        await emsd.status("stop", "closed")
        await emsd.status("profit", "closed")
        bid, _ = top_of(venue)
        await sweep(venue, bob, -1, bid - 80)
        await emsd.status("trail", "closed")
        assert emsd.statuses("limit")[-1] == emsd.statuses("far")[-1] == "open"
        await emsd.order("now", "sell", "0.01")
        assert (await emsd.status("now", "closed")).filled == Decimal("0.01")
        assert not emsd.fills[next(iter(emsd.fills))].maker
        await agree(venue, emsd)


async def test_times_in_force_are_the_venues_when_they_are_sent() -> None:
    """IOC and FOK end at once; a date, and the day's end, are good-till-date there."""
    async with session() as (venue, _, emsd):
        _, ask = top_of(venue)
        await emsd.order("ioc", "buy", "3", ask, tif=TimeInForce.IOC)
        told = await emsd.status("ioc", "canceled")
        assert 0 < told.filled == emsd.filled("ioc") < 3
        await emsd.order("fok", "buy", "9", top_of(venue)[1], tif=TimeInForce.FOK)
        assert (await emsd.status("fok", "canceled")).filled == 0
        date = wall_ns() + 2 * NS
        await emsd.order("gtd", "buy", "0.01", ask - 900, tif=TimeInForce.GTD, expire_ns=date)
        await emsd.status("gtd", "open")
        await emsd.order("day", "buy", "0.01", ask - 900, tif=TimeInForce.DAY)
        await emsd.status("day", "open")
        orders = {o.txid: o for o in account_at(venue).orders.values()}
        assert orders[emsd.reqid("gtd")].expire_ms == date // 1_000_000
        assert orders[emsd.reqid("day")].expire_ms % 86_400_000 == 0
        await emsd.status("gtd", "expired")
        await emsd.order("post", "buy", "0.01", ask - 800, post_only=True)
        await emsd.status("post", "open")
        await emsd.order("cross", "buy", "0.01", ask + 500, post_only=True)
        await emsd.until(lambda: emsd.errors("cross"))
        assert "Post only" in emsd.errors("cross")[0].reason
        await agree(venue, emsd)


REFUSED = (
    ({"reduce_only": True}, "margin"),
    ({"kind": OrderKind.STOP, "trigger": Decimal(9), "trigger_by": TriggerBy.MARK}, "last price"),
    ({"kind": OrderKind.TRAILING_STOP}, "waits for"),
    ({"tif": TimeInForce.GTD}, "date"),
    ({"symbol": "nope.spot"}, "no market"),
)  # fmt: skip


async def test_what_kraken_does_not_do_is_refused_in_words_when_it_is_sent() -> None:
    """By us, before anything leaves; by the venue, in its words. Nothing is in doubt then."""
    async with session() as (venue, _, emsd):
        for at, (wrong, words) in enumerate(REFUSED):
            oid = f"ours{at}"
            await emsd.order(oid, "buy", "0.01", wrong.pop("price", 50_000), **wrong)
            await emsd.until(lambda oid=oid: emsd.errors(oid))
            assert words in emsd.errors(oid)[0].reason, words
        assert not account_at(venue).orders
        await emsd.order("poor", "buy", "9", 999_000)
        await emsd.order("tick", "buy", "0.01", "50000.01")
        await emsd.until(lambda: emsd.errors("poor") and emsd.errors("tick"))
        assert emsd.errors("poor")[0].reason == "kraken: EOrder:Insufficient funds"
        assert emsd.errors("poor")[0].request == "order"
        assert emsd.statuses("poor") == emsd.statuses("tick") == []
        assert emsd.dialog.doubts == []
        await emsd.order("poor", "buy", "0.01", top_of(venue)[0] - 900)  # its id is free again
        await emsd.status("poor", "open")


async def test_an_edit_keeps_the_order_when_the_venue_takes_it() -> None:
    """One txid all along; size, price and trigger change; what can not is refused in words."""
    async with session() as (venue, bob, emsd):
        price = middle(venue)
        order = await emsd.order("one", "buy", "1", price)
        await emsd.status("one", "open")
        txid = emsd.reqid("one")
        await bob.order("sell", price, "0.2")
        await emsd.order("one", "buy", "0.6", price - 5, reqid=txid)
        await emsd.until(lambda: len(emsd.of("one", BrokerdOrderAck)) == 2)
        ack = emsd.of("one", BrokerdOrderAck)[-1]
        assert (ack.request, ack.reqid) == ("edit", txid)
        venues = account_at(venue).orders[1_000_001]
        assert (venues.size, venues.price, venues.filled) == (
            Decimal("0.6"), price - 5, Decimal("0.2"),
        )  # fmt: skip
        await emsd.order("one", "sell", "0.6", price - 5, reqid=txid)
        await emsd.until(lambda: emsd.errors("one"))
        assert "action can not be amended" in emsd.errors("one")[0].reason
        await emsd.order("one", "buy", "900", price, reqid=txid)
        await emsd.until(lambda: len(emsd.errors("one")) == 2)
        assert emsd.errors("one")[1].request == "edit"
        await emsd.order("stop", "sell", "0.01", kind=OrderKind.STOP, trigger=price - 500)
        await emsd.status("stop", "open")
        await emsd.order(
            "stop", "sell", "0.02", kind=OrderKind.STOP, trigger=price - 600,
            reqid=emsd.reqid("stop"),
        )  # fmt: skip
        await emsd.until(lambda: len(emsd.of("stop", BrokerdOrderAck)) == 2)
        await emsd.cancel("one")
        assert (await emsd.status("one", "canceled")).filled == Decimal("0.2")
        await emsd.order("one", "buy", "0.7", price, reqid=txid)
        await emsd.until(lambda: len(emsd.errors("one")) == 3)
        assert order.client_id
        await agree(venue, emsd)


async def test_a_cancel_is_refused_when_there_is_no_such_order() -> None:
    """An error of a cancel, and nothing else changes; one that was filled says so."""
    async with session() as (venue, _, emsd):
        await emsd.cancel("never")
        await emsd.until(lambda: emsd.errors("never"))
        assert emsd.errors("never")[0].request == "cancel"
        assert "Unknown order" in emsd.errors("never")[0].reason
        await emsd.order("sold", "sell", "0.01")
        await emsd.status("sold", "closed")
        await emsd.cancel("sold")
        await emsd.until(lambda: emsd.errors("sold"))
        await agree(venue, emsd)


async def test_strangers_orders_are_told_when_somebody_else_places_them() -> None:
    """By their own ids, without an oid; their fills, too."""
    async with session() as (venue, bob, emsd):
        price = middle(venue)
        alice = type(bob)(bob.port, ALICE)
        txid = await alice.order("buy", price, "0.1")
        await bob.order("sell", price, "0.1")
        await emsd.until(lambda: emsd.fills)
        (fill,) = emsd.fills.values()
        assert (fill.reqid, fill.oid, fill.client_id) == (txid, "", "")
        await agree(venue, emsd)
        told = [event for event in emsd.events if isinstance(event, BrokerdStatus)]
        assert [one.status for one in told] == ["open", "closed"]
        assert told[0].order.price == price


async def test_cancels_go_before_orders_when_the_engines_counter_is_full() -> None:
    """The backend keeps the counter: the venue counts no violation, and the cancel is first."""
    async with session() as (venue, _, emsd):
        price = top_of(venue)[0] - 900
        async with trio.open_nursery() as nursery:
            for number in range(13):
                await emsd.order(f"o{number}", "buy", "0.01", price)
            for number in range(13):
                nursery.start_soon(emsd.cancel, f"o{number}")  # 8 each: the last ones wait
            await emsd.until(lambda: "canceled" in emsd.statuses("o11"))
            nursery.start_soon(lambda: emsd.order("late", "buy", "0.01", price))
            await emsd.until(lambda: "canceled" in emsd.statuses("o12"))
            await emsd.status("late", "open")
        assert venue.gate.stats()["violations"] == {}
        events = [e for e in emsd.events if isinstance(e, BrokerdStatus)]
        order = [(e.oid, e.status) for e in events]
        assert order.index(("o12", "canceled")) < order.index(("late", "open"))


async def test_the_tier_is_the_venues_when_it_tells() -> None:
    """The smallest before it is known; an Intermediate account's counters from then on."""
    async with session() as (_, _, emsd):
        limits = {limit.name: limit for limit in emsd.dialog.rest.budget.limits}
        private = limits[f"private {emsd.account}"]
        assert (private.capacity, private.capacity / private.window_s) == (20, 0.5)
        await emsd.order("one", "buy", "0.01", 999)
        await emsd.until(lambda: emsd.of("one"))
        limits = {limit.name: limit for limit in emsd.dialog.rest.budget.limits}
        trading = limits[f"trading {emsd.account} BTC/USD"]
        assert (trading.capacity, trading.capacity / trading.window_s) == (125, 2.34)


# -- the key ---------------------------------------------------------------------------------
async def test_a_key_is_refused_in_the_venues_words_when_it_is_not_taken() -> None:
    """At the entry; one that can not sign is a mistake of the configuration."""
    async with venue_at():
        with pytest.raises(Refused, match="EAPI:Invalid key"):
            async with trading(spec=account_of(f"x:nobody:{secret('x')}")):
                pass
        with pytest.raises(ConfigError, match="base64 of 64 bytes"):
            async with trading(spec=account_of("x:alicekey:c2hvcnQ=")):
                pass


async def test_rights_are_told_in_the_venues_words_when_a_key_is_looked_at() -> None:
    """A key that may withdraw says so: the doctor warns of it."""
    owner = account_of(f"dora:dorakey:{secret('d')}:USD=1:read,withdraw")
    async with venue_at(accounts=(ALICE, CAROL, owner)):
        rights = await broker.key_rights(credentials(owner))
        assert "withdraw-funds" in rights
        assert "withdraw-funds" not in await broker.key_rights(credentials(ALICE))


@pytest.mark.parametrize("times", [2, 3])
async def test_a_question_is_asked_again_when_its_answer_is_lost(times: int) -> None:
    """Twice; what it is a part of need not begin anew. The third loss is the caller's."""
    async with venue_at() as (venue, _):
        venue.gate.add_faults([Fault(what="unanswered", match="GetApiKeyInfo", count=times)])
        if times == 2:
            assert "withdraw-funds" not in await broker.key_rights(credentials(ALICE))
        else:
            with pytest.raises(BrokerError):
                await broker.key_rights(credentials(ALICE))
        assert "EAPI:Invalid nonce" not in venue.gate.stats()["refusals"]


class SetBack(WallClock):
    """The machine's clock, its wall time set back."""

    def __init__(self, back_s: float) -> None:
        self._back_ns = round(back_s * NS)

    def wall_ns(self) -> int:
        """Return the wrong time."""
        return super().wall_ns() + self._back_ns


async def test_nonces_go_on_rising_when_the_clock_is_set_back_and_we_begin_anew() -> None:
    """The file keeps the last one: the venue refuses none."""
    async with venue_at() as (venue, _), trading() as emsd:
        await emsd.synced()
        for back_s in (0.0, -3600.0, -7200.0):
            with use_clock(SetBack(back_s)):
                assert await broker.key_rights(credentials())
        assert "EAPI:Invalid nonce" not in venue.gate.stats()["refusals"]


# -- the dead man's switch -------------------------------------------------------------------
async def test_the_switch_is_set_when_orders_stand_and_stopped_when_we_leave() -> None:
    """Orders of ours alone; at an ordered end, and when cancelled, nothing is canceled."""
    async with venue_at() as (venue, _):
        async with trading() as emsd:
            await emsd.synced()
            price = top_of(venue)[0] - 900
            assert venue.accounts.timers == {}
            await emsd.order("one", "buy", "0.01", price)
            await emsd.status("one", "open")
            await _until(lambda: "alice" in venue.accounts.timers)
            first = venue.accounts.timers["alice"]
            await _until(lambda: venue.accounts.timers["alice"] > first)
            await emsd.cancel("one")
            await _until(lambda: venue.accounts.timers == {})
            await emsd.order("two", "buy", "0.01", price)
            await _until(lambda: "alice" in venue.accounts.timers)
        assert venue.accounts.timers == {}
        with trio.CancelScope() as scope:
            async with trading() as emsd:
                await emsd.synced()
                await emsd.order("three", "buy", "0.01", price)
                await _until(lambda: "alice" in venue.accounts.timers)
                scope.cancel()
        assert venue.accounts.timers == {}
        assert len(account_at(venue).open) == 2


async def _until(holds: Any) -> None:
    with trio.fail_after(20):
        while not holds():
            await trio.sleep(0.01)


# -- the contract ----------------------------------------------------------------------------
def test_the_backend_declares_what_it_does_when_it_is_loaded() -> None:
    """Kinds, times in force, edits and the switch; reduce-only is for margin, and not declared."""
    backend = load_backend("kraken")
    assert backend.open_trade_dialog is broker.open_trade_dialog
    for word in (*OrderKind, *TimeInForce, "post_only", "edit", "cancel_after"):
        assert backend.capabilities.offers("spot", word), word
    assert not backend.capabilities.offers("spot", "reduce_only")


async def test_nothing_secret_is_logged_when_a_session_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither the key, its secret, nor a token."""
    caplog.set_level(logging.DEBUG)
    async with session() as (venue, _, emsd):
        tokens = list(venue.accounts.keys._tokens)
        await emsd.order("one", "buy", "0.01", top_of(venue)[0] - 900)
        await emsd.status("one", "open")
        venue.cut()
        await emsd.until(lambda: emsd.sync == "lost")
        await emsd.synced()
        tokens += venue.accounts.keys._tokens
    assert len(set(tokens)) == 2
    for word in (ALICE.key, secret("a"), *tokens):
        assert word not in caplog.text
        assert not any(word in str(event) for event in emsd.events)
    assert not any(isinstance(event, BrokerdError) for event in emsd.events)
