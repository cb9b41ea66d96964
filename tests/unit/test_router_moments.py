"""What orders do to each other, and what is asked of them, in the moments when much happens."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.lowlevel
import trio.testing
from mute_venue import GROUP, SELL, STOP, Mute, bracket, newest, pair, rest
from paper_routing import BTC, PAPER, order, routing, told

from piker.clearing.journal import open_journal
from piker.clearing.lifecycle import Phase
from piker.clearing.records import Note
from piker.clearing.risk import TradingState
from piker.clock import wall_ns
from piker.orders import (
    Action,
    Cancel,
    OrderKind,
    SyncState,
)
from piker.ticks import TickType

D = Decimal
ETH = msgspec.structs.replace(BTC, fqme="ethusdt.spot.binance", bs_mktid="ETHUSDT")


# -- brackets and groups -----------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(3))
async def test_child_has_all_that_its_parent_traded_when_fills_are_heard_together(
    tmp_path: Path, seed: int
) -> None:
    """Each fill has a consequence of its own, which are done in any order."""
    async with routing(tmp_path, Mute()) as (router, link):
        await router.order(order("in", size=D(10)))
        for number in range(3):
            await router.order(order(f"sl{number}", parent="in", **STOP))
        link.opens("in")
        await rest()
        link.fills("in", (4, 3, 3))
        await rest()
        assert [router.orders[f"sl{number}"].order.size for number in range(3)] == [10] * 3


async def test_group_takes_every_fill_from_the_others_when_they_are_heard_together(
    tmp_path: Path,
) -> None:
    """Of an order at the venue, while its edit is under way, and of one that waits in the dark."""
    async with routing(tmp_path, Mute()) as (router, link):
        await pair(router, link)
        await router.order(order("sl", oco="g", **STOP))
        link.fills("x", (2, 3), Action.SELL)
        await rest()
        link.fills("x", (1,), Action.SELL)
        await rest()
        assert newest(router.orders["y"]).size == router.orders["sl"].order.size == 4


async def test_price_that_a_client_gave_is_kept_when_the_group_takes_some(tmp_path: Path) -> None:
    """Its edit is under way while the other of the group is filled in part."""
    async with routing(tmp_path, Mute()) as (router, link):
        await pair(router, link)
        await router.order(order("y", price=D(105), oco="g", **SELL))
        link.fills("x", (2,), Action.SELL)
        await rest()
        now = newest(router.orders["y"])
        assert (now.size, now.price) == (8, 105)


async def test_child_grows_by_what_its_parent_traded_and_its_group_did_not(tmp_path: Path) -> None:
    """Four bought, two of them sold, three more bought."""
    async with routing(tmp_path, Mute()) as (router, link):
        await bracket(router, link)
        link.fills("in", (4,))
        await rest()
        link.opens("tp")
        link.fills("tp", (2,), Action.SELL)
        await rest()
        assert router.orders["sl"].order.size == 2
        link.fills("in", (3,))
        await rest()
        assert router.orders["sl"].order.size == 5


async def test_resize_waits_for_no_venue_when_its_account_is_being_compared(tmp_path: Path) -> None:
    """Fills that were missed are told just then: a child grows, a group takes from the others."""
    async with routing(tmp_path, Mute()) as (router, link):
        await bracket(router, link)
        link.fills("in", (4,))
        await rest()
        link.opens("tp")
        link.syncs(SyncState.SYNCING)
        link.fills("in", (6,))
        await rest()
        assert router.orders["sl"].order.size == 10
        link.fills("tp", (3,), Action.SELL)
        await rest()
        assert router.orders["sl"].order.size == 7


async def test_rest_that_is_too_small_for_the_market_goes_with_its_group(tmp_path: Path) -> None:
    """It can not be made so small, and whole it would trade what the other has traded."""
    async with routing(tmp_path, Mute()) as (router, link):
        router.know(msgspec.structs.replace(BTC, min_size=D("0.5")))
        await pair(router, link)
        link.fills("x", ("9.8",), Action.SELL)
        await rest()
        assert router.orders["y"].cancel_called


async def test_child_that_is_too_small_ends_when_its_parent_does(tmp_path: Path) -> None:
    """Held it would be for ever: no fill comes any more."""
    async with routing(tmp_path, Mute()) as (router, link):
        router.know(msgspec.structs.replace(BTC, min_size=D("0.5")))
        await bracket(router, link)
        link.fills("in", ("0.1",))
        await rest()
        assert router.orders["sl"].phase is Phase.HELD
        link.says("in", "canceled")
        await rest()
        assert router.orders["sl"].code == router.orders["tp"].code == "too-small"


async def test_size_that_a_held_child_was_given_counts_when_it_is_set_free(tmp_path: Path) -> None:
    """Also after a restart: five of the ten that were bought."""
    async with routing(tmp_path, Mute()) as (router, link):
        await bracket(router, link)
        await router.order(order("sl", **{**STOP, "size": D(5)}, **GROUP))
    async with routing(tmp_path, Mute()) as (router, link):
        link.fills("in", (10,))
        await rest()
        assert (router.orders["sl"].order.size, router.orders["tp"].order.size) == (5, 10)


# -- limits ------------------------------------------------------------------------------------
@pytest.mark.parametrize("limit", ["daily-loss", "reducing", "gross-exposure"])
async def test_stop_of_a_group_is_sent_when_a_limit_was_passed(tmp_path: Path, limit: str) -> None:
    """It takes the place of the take-profit that stands at the venue, and closes the position."""
    async with routing(tmp_path, Mute()) as (router, link):
        desk = router.accounts[PAPER].desk
        await router.order(order("tp", price=D(120), oco="g", **SELL))
        await router.order(order("sl", oco="g", **STOP))
        link.opens("tp")
        await rest()
        if limit == "daily-loss":
            desk.filled(order("z"), D(1), D(99), D(100_000), fee_asset="usdt", time_ns=wall_ns())
        elif limit == "reducing":
            await router.set_state(PAPER, TradingState.REDUCING, "a test")
        else:
            desk.limits = msgspec.structs.replace(desk.limits, gross_exposure=D(500))
        desk.position(BTC.fqme, D(10))
        router.see(BTC.fqme, TickType.TRADE, 0, D(94))
        await rest()
        link.says("tp", "canceled")
        await rest()
        assert router.orders["sl"].code == ""
        assert [one.oid for one in link.orders] == ["tp", "sl"]


@pytest.mark.parametrize("by_us", [False, True])
async def test_stop_that_its_venue_ends_before_it_is_filled_is_not_silent(
    tmp_path: Path, by_us: bool
) -> None:
    """A market order may be cut for its price: what it was to close is open still."""
    async with routing(tmp_path, Mute()) as (router, link):
        await router.order(order("sl", **STOP))
        router.see(BTC.fqme, TickType.TRADE, 0, D(94))
        await rest()
        link.opens("sl")
        link.fills("sl", (4,), Action.SELL)
        if by_us:
            await router.cancel(Cancel(oid="sl", symbol=BTC.fqme))
        link.says("sl", "canceled", filled=4)
        await rest()
        assert router.orders["sl"].phase is Phase.CANCELED
    async with open_journal(tmp_path / "journal", read_only=True) as journal:
        notes = [one.entry async for one in journal.read() if isinstance(one.entry, Note)]
    words = [(one.about, one.text[:7]) for one in notes]
    assert words == ([] if by_us else [("cut-short", "4 of 10")])


@pytest.mark.parametrize("end", ["canceled", "expired", "rejected", "closed"])
async def test_order_that_stands_though_it_was_told_to_have_ended_is_canceled(
    tmp_path: Path, end: str
) -> None:
    """Its venue's queries were behind for long, and it is seen after all: nobody else would."""
    async with routing(tmp_path, Mute()) as (router, link):
        await router.order(order("a", size=D(4)))
        link.opens("a")
        await rest()
        if end == "closed":  # that word came late
            link.fills("a", (4,))
        link.says("a", end, filled=4 if end == "closed" else 0)
        await rest()
        link.says("a", "open", reqid="ra")
        await rest()
        assert link.cancels("a") == (end != "closed")
        link.says("a", "canceled")
        await rest()
        assert router.orders["a"].phase == end
        assert link.cancels("a") == (end != "closed")


async def test_limits_count_what_stands_while_its_edit_is_being_journaled(tmp_path: Path) -> None:
    """An order that is to be smaller is not smaller yet for the next one."""
    async with routing(tmp_path, Mute()) as (router, link), trio.open_nursery() as nursery:
        desk = router.accounts[PAPER].desk
        desk.limits = msgspec.structs.replace(
            desk.limits, gross_exposure=D(1000), order_notional=D(1000)
        )
        await router.order(order(size=D(10)))
        link.opens("a")
        await rest()
        edit, more = order(size=D(1)), order("b", size=D(8))
        assert desk.check(edit, wall_ns())
        nursery.start_soon(router.order, edit)
        nursery.start_soon(router.order, more)
        await rest()
        assert router.orders["a"].order.size == 10
        assert router.orders["b"].code == "gross-exposure"


@pytest.mark.parametrize(
    "changes", [{"symbol": ETH.fqme}, {"action": Action.SELL, "price": D(103)}]
)
async def test_edit_changes_neither_market_nor_side(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """It would be another order, by other limits; also of one that waits in the dark."""
    async with routing(tmp_path) as (router, _), router.news.listen() as news:
        router.know(ETH)
        router.price(ETH.fqme, D(100), wall_ns())
        await router.order(order())
        await told(news, upto="open")
        await router.order(order(**changes))
        await rest()
        assert newest(router.orders["a"]) == order()


# -- what is asked -----------------------------------------------------------------------------
async def test_paper_refuses_an_edit_as_an_edit(tmp_path: Path) -> None:
    """The order stands as it was: it was not rejected."""
    async with routing(tmp_path) as (router, _), router.news.listen() as news:
        await router.order(order())
        await told(news, upto="open")
        await router.order(order(kind=OrderKind.STOP_LIMIT, trigger=D(102), price=D(103)))
        await rest()
        assert router.orders["a"].phase is Phase.OPEN
        assert newest(router.orders["a"]) == order()


async def test_edit_of_a_stop_is_sent_when_the_stop_itself_had_to_be_sent_again(
    tmp_path: Path,
) -> None:
    """It was asked for while nobody knew whether the venue had the stop."""
    async with routing(tmp_path, Mute()) as (router, link):
        stop = order("sl", **{**STOP, "kind": OrderKind.STOP_LIMIT, "price": D(95)})
        await router.order(stop)
        router.see(BTC.fqme, TickType.TRADE, 0, D(94))
        await rest()
        link.says("sl", "unknown")
        await rest()
        await router.order(msgspec.structs.replace(router.orders["sl"].order, price=D(96)))
        link.says("sl", "absent")
        await rest()
        link.opens("sl")
        await rest()
        assert [one.price for one in link.orders] == [95, 96]


async def test_cancel_is_answered_when_another_one_is_under_way(tmp_path: Path) -> None:
    """Nothing happens by it, and what becomes of the first one may never be told as its own."""
    async with routing(tmp_path, Mute()) as (router, link):
        await router.order(order())
        link.opens("a")
        await rest()
        await router.cancel(Cancel(oid="a", symbol=BTC.fqme))
        async with router.news.listen() as news:
            await router.cancel(Cancel(oid="a", symbol=BTC.fqme))
            assert news.receive_nowait().cancel_called


@pytest.mark.parametrize("asked", ["cancel", "edit"])
async def test_what_was_asked_is_sent_when_an_order_is_found_after_its_account_was_synced(
    tmp_path: Path, asked: str
) -> None:
    """As paperboi finds those of a market that could not be opened at first."""
    async with routing(tmp_path, Mute()) as (router, link):
        await router.order(order())
        link.opens("a")
        await rest()
        if asked == "cancel":
            await router.cancel(Cancel(oid="a", symbol=BTC.fqme))
        else:
            await router.order(order(price=D(98)))
        await rest()
        await router.lost(PAPER, "a test")
        router.beliefs(PAPER)
        link.says("a", "unknown")
        link.syncs()
        await rest()
        assert len(link.sent) == 2
        link.says("a", "open")
        await rest()
        assert [type(one) for one in link.sent[1:]] == [type(link.sent[1])] * 2


# -- halting -----------------------------------------------------------------------------------
async def test_beliefs_say_what_was_to_end(tmp_path: Path) -> None:
    """paperboi lets none stand again whose cancel emsd was killed over."""
    async with routing(tmp_path, Mute()) as (router, link):
        for oid, price in (("a", 98), ("b", 99)):
            await router.order(order(oid, price=D(price)))
            link.opens(oid)
        await rest()
        await router.cancel(Cancel(oid="a", symbol=BTC.fqme))
        assert {one.order.oid: one.ends for one in router.beliefs(PAPER)} == {"a": True, "b": False}


async def test_halted_account_sends_nothing_again_that_was_absent(tmp_path: Path) -> None:
    """emsd was killed when the halt was journaled, and before anything was canceled."""
    async with routing(tmp_path, Mute()) as (router, link):
        await router.order(order("sl", **STOP))
        await router.order(order("waits", **{**STOP, "trigger": D(80)}))
        router.see(BTC.fqme, TickType.TRADE, 0, D(94))
        await rest()
        await router.keeper.set_state(PAPER, TradingState.HALTED, "a test")
    async with routing(tmp_path, Mute()) as (router, link):
        assert [one.ends for one in router.beliefs(PAPER)] == [True]
        link.says("sl", "absent")
        await rest()
        link.syncs()
        await rest()
        assert [router.orders[oid].phase for oid in ("sl", "waits")] == [Phase.CANCELED] * 2
        assert link.sent == []


@pytest.mark.parametrize("seed", range(6))
async def test_halt_ends_what_is_just_being_journaled(tmp_path: Path, seed: int) -> None:
    """An order was judged before it, and is not there yet when all are canceled."""
    async with routing(tmp_path, Mute()) as (router, _), trio.open_nursery() as nursery:
        nursery.start_soon(router.order, order("sl", **STOP))
        nursery.start_soon(router.order, order("b"))
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        await router.set_state(PAPER, TradingState.HALTED, "a test")
        await rest()
        assert [one for one in router.register.live() if not one.cancel_called] == []


async def test_alert_is_kept_when_its_account_is_halted(tmp_path: Path) -> None:
    """It trades nothing: one that was asked for since is no part of what was to end."""
    async with routing(tmp_path, Mute()) as (router, link):
        await router.set_state(PAPER, TradingState.HALTED, "a test")
        alert = order("al", action=Action.ALERT, size=D(0), price=None, trigger=D(90))
        await router.order(alert)
        link.syncs()
        await rest()
        assert router.orders["al"].phase is Phase.DARK
