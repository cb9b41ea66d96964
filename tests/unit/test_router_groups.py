"""Brackets and groups that kills, refusals and late words have cut through."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from mute_venue import GROUP, SELL, STOP, Mute, bracket, newest, pair, rest, sold_out
from paper_routing import BTC, PAPER, PaperLink, order, routing

from piker.clearing import register
from piker.clearing.duties import ROOM_NS
from piker.clearing.journal import open_journal
from piker.clearing.lifecycle import Phase
from piker.clearing.paper import PaperBroker
from piker.clearing.paper_money import PaperMoney
from piker.clearing.risk import TradingState
from piker.clearing.router import Router
from piker.clock import NS, wall_ns
from piker.orders import Action, BrokerdError, Order, OrderKind, Status, TimeInForce
from piker.ticks import TickType

D = Decimal


def _killed(router: Router) -> None:
    """Have emsd end before it does what follows from what it journals now."""
    router.register._follow = lambda oid: None


# -- kills -------------------------------------------------------------------------------------
async def test_exits_are_set_free_when_a_kill_came_after_the_fill_of_their_entry(
    tmp_path: Path,
) -> None:
    """Ten were bought, and nobody had looked at the exits yet."""
    async with routing(tmp_path, Mute()) as (router, link):
        await bracket(router, link)
        _killed(router)
        link.fills("in", (10,))
        await rest()
        assert router.orders["sl"].phase is Phase.HELD
    async with routing(tmp_path, Mute()) as (router, link):
        await rest()
        assert (router.orders["sl"].phase, router.orders["sl"].order.size) == (Phase.DARK, 10)
        assert [one.oid for one in link.orders] == ["tp"]


async def test_exits_are_not_denied_when_their_account_is_not_open_yet(tmp_path: Path) -> None:
    """What emsd looks at while it starts waits until it can be judged."""
    async with routing(tmp_path, Mute()) as (router, link):
        await bracket(router, link)
        _killed(router)
        link.fills("in", (10,))
        await rest()
    async with open_journal(tmp_path / "journal") as journal, trio.open_nursery() as nursery:
        router = Router(journal, nursery)
        await router.recover()
        await router.duties.follow("sl")
        assert router.orders["sl"].phase is Phase.HELD
        nursery.cancel_scope.cancel()
    async with routing(tmp_path, Mute()) as (router, link):
        await rest()
        assert router.orders["sl"].phase is Phase.DARK


@pytest.mark.parametrize("sold", [10, 4])
async def test_stop_is_as_small_as_it_must_be_when_a_kill_came_after_a_fill_of_its_group(
    tmp_path: Path, sold: int
) -> None:
    """Of ten four were sold, or all: also if the price is there before the venue is."""
    async with routing(tmp_path, Mute()) as (router, link):
        await router.order(order("tp", price=D(103), oco="g", **SELL))
        await router.order(order("sl", oco="g", **STOP))
        link.opens("tp")
        await rest()
        _killed(router)
        link.fills("tp", (sold,), Action.SELL)
        await rest()
        assert router.orders["sl"].order.size == 10
    async with routing(tmp_path, Mute()) as (router, link):
        router.see(BTC.fqme, TickType.TRADE, 0, D(94))
        await rest()
        if sold < 10:
            link.says("tp", "canceled")
            await rest()
        sent = [one.size for one in link.orders if one.oid == "sl"]
        assert sent == ([6] if sold < 10 else [])
        assert router.orders["sl"].is_over is (sold == 10)


# -- exits -------------------------------------------------------------------------------------
async def test_rest_of_an_entry_has_its_stop_when_its_first_part_was_sold(tmp_path: Path) -> None:
    """Four in, four out; the stop waits, and has the six that come then."""
    async with routing(tmp_path, Mute()) as (router, link):
        await sold_out(router, link)
        router.see(BTC.fqme, TickType.TRADE, 0, D(94))  # there is nothing to sell
        await rest()
        assert router.orders["sl"].phase is Phase.DARK
        link.fills("in", (6,))
        await rest()
        assert router.orders["sl"].order.size == 6
        router.see(BTC.fqme, TickType.TRADE, 0, D(94))
        await rest()
        assert [(one.oid, one.size) for one in link.orders][-1] == ("sl", 6)


async def test_entry_is_canceled_when_its_stop_has_gone(tmp_path: Path) -> None:
    """What would still come in would have no exit."""
    async with routing(tmp_path, Mute()) as (router, link):
        await bracket(router, link)
        link.fills("in", (4,))
        await rest()
        link.opens("tp")
        router.see(BTC.fqme, TickType.TRADE, 0, D(94))
        await rest()
        link.says("tp", "canceled")
        await rest()
        assert link.cancels("in") == 0
        link.opens("sl")
        link.fills("sl", (4,), Action.SELL)
        await rest()
        assert link.cancels("in") == 1


async def test_stop_is_sent_once_its_take_profit_has_let_go_of_what_it_sells(
    tmp_path: Path,
) -> None:
    """On a market without margin a venue has it only once."""
    link = PaperLink()
    link.broker = PaperBroker(PAPER, money=PaperMoney(PAPER, {"btc": D(2), "usdt": D(1000)}))
    link.broker.know(BTC)
    async with routing(tmp_path, link) as (router, _):
        router.accounts[PAPER].desk.position(BTC.fqme, D(2))
        out = {"action": Action.SELL, "oco": "g"}
        await router.order(order("tp", price=D(103), **out))
        await router.order(order("sl", kind=OrderKind.STOP, trigger=D(95), price=None, **out))
        await rest()
        assert router.orders["tp"].phase is Phase.OPEN
        router.see(BTC.fqme, TickType.TRADE, 0, D(94))
        await rest()
        assert router.orders["tp"].phase is Phase.CANCELED
        assert router.orders["sl"].phase is Phase.FILLED, router.orders["sl"].reason


async def test_stop_waits_for_room_no_longer_than_it_must(tmp_path: Path) -> None:
    """A venue that does not answer for the take-profit keeps no stop from going."""
    async with routing(tmp_path, Mute()) as (router, link):
        await pair(router, link)
        await router.order(order("sl", oco="g", **STOP))
        router.see(BTC.fqme, TickType.TRADE, 0, D(94))
        await rest()
        assert "sl" not in [one.oid for one in link.orders]
        await router.expire(wall_ns() + 2 * ROOM_NS)
        assert "sl" in [one.oid for one in link.orders]
        assert link.cancels("x") == link.cancels("y") == 1


async def test_both_exits_of_a_spot_bracket_do_not_stand_at_the_venue(tmp_path: Path) -> None:
    """It could do the stop itself, and would want what the take-profit has."""
    async with routing(tmp_path, Mute()) as (router, _):
        account = router.accounts[PAPER]
        account.offers = lambda _, what: what != "reduce_only"
        await router.order(order("alone", **STOP))
        await router.order(order("sl", oco="g", **{**STOP, "size": D(9)}))
        assert router.orders["alone"].phase is Phase.PENDING
        assert router.orders["sl"].phase is Phase.DARK
        account.offers = lambda _, what: True  # a venue with margin
        await router.order(order("far", oco="f", **{**STOP, "size": D(8)}))
        assert router.orders["far"].phase is Phase.PENDING


# -- refusals ----------------------------------------------------------------------------------
@pytest.mark.parametrize("why", ["its time", "halted", "its group"])
async def test_cancel_that_emsd_wants_is_tried_again_when_a_venue_refused_it(
    tmp_path: Path, why: str
) -> None:
    """Once a second; a client's is not."""
    async with routing(tmp_path, Mute()) as (router, link):
        end = wall_ns() + NS
        timed = {"tif": TimeInForce.GTD, "expire_ns": end} if why == "its time" else {}
        await router.order(order(oco="g", **timed))
        await router.order(order("b", oco="g", price=D(98)))
        link.opens("a", "b")
        await rest()
        if why == "its time":
            await router.expire(end + 1)
        elif why == "halted":
            await router.set_state(PAPER, TradingState.HALTED, "a test")
        else:
            link.fills("b", (2,))
        await rest()
        for times in (1, 2, 3):
            assert link.cancels("a") == times
            link.tell([BrokerdError(oid="a", account=PAPER, request="cancel", reason="429")])
            await rest()
            await router.expire(wall_ns())
            assert link.cancels("a") == times
            await router.expire(wall_ns() + 2 * NS)
            await rest()
        link.says("a", "canceled")
        await rest()
        await router.expire(wall_ns() + 9 * NS)
        assert link.cancels("a") == 4


async def test_order_ends_when_its_venue_does_not_make_it_as_small_as_it_must_be(
    tmp_path: Path,
) -> None:
    """It would sell what the other of its group has sold."""
    async with routing(tmp_path, Mute()) as (router, link):
        await pair(router, link)
        link.fills("x", (6,), Action.SELL)
        await rest()
        assert newest(router.orders["y"]).size == 4
        link.tell([BrokerdError(oid="y", account=PAPER, request="edit", reason="429")])
        await rest()
        await router.expire(wall_ns() + 2 * NS)
        assert router.orders["y"].cancel_called


# -- clients -----------------------------------------------------------------------------------
async def test_price_that_is_dragged_leaves_the_size_that_the_group_has_left(
    tmp_path: Path,
) -> None:
    """The client drew its line when it was ten; it is told which edit that was."""
    async with routing(tmp_path, Mute()) as (router, link), router.news.listen() as news:
        await pair(router, link)
        link.fills("x", (2,), Action.SELL)
        await rest()
        drawn = order("y", price=D(105), oco="g", **SELL)
        await router.order(drawn)
        await rest()
        assert (newest(router.orders["y"]).size, newest(router.orders["y"]).price) == (8, 105)
        told = []
        while news.statistics().current_buffer_used:
            told.append(news.receive_nowait())
        assert drawn in [one.edit for one in told if isinstance(one, Status)]


@pytest.mark.parametrize("sold", [4, 10])
@pytest.mark.parametrize("late", [SELL, STOP])
async def test_order_belongs_to_its_group_though_the_other_traded_before_it_came(
    tmp_path: Path, sold: int, late: dict[str, Any]
) -> None:
    """The two were sent one after the other; what is left is sold, and never as if it were all."""
    async with routing(tmp_path, Mute()) as (router, link):
        await router.order(order("x", price=D(100), oco="g", **SELL))
        link.opens("x")
        link.fills("x", (sold,), Action.SELL)
        await rest()
        await router.order(order("y", oco="g", **{"price": D(103), **late}))
        await rest()
        state = router.orders["y"]
        assert state.order.oco == "g"
        if sold == 10:
            assert state.phase is Phase.CANCELED
            assert state.reason == "x of its group was closed"
            assert [one.oid for one in link.sent] == ["x"]
        else:
            assert state.order.size == 6
            assert [one.size for one in link.orders[1:]] == ([6] if late is SELL else [])


async def test_name_of_a_group_is_free_once_all_of_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first ones traded is of no concern to the next, after a restart neither."""
    monkeypatch.setattr(register, "TOGETHER_NS", 0)

    async def place(router: Router, link: Mute, turn: int) -> list[Order]:
        oids = [f"{name}{turn}" for name in "xy"]
        for oid, price in zip(oids, (103, 104), strict=True):
            await router.order(order(oid, price=D(price + turn), oco="g", **SELL))
        link.opens(*oids)
        await rest()
        return [router.orders[oid].order for oid in oids]

    for turn in range(3):
        async with routing(tmp_path, Mute()) as (router, link):
            first, second = await place(router, link, turn)
            assert first.oco == second.oco == ("g" if not turn else f"g#{turn + 1}")
            link.fills(first.oid, (4,), Action.SELL)
            await rest()
            assert newest(router.orders[second.oid]).size == 6
            link.fills(first.oid, (6,), Action.SELL)
            await rest()
            link.says(second.oid, "canceled")
            await rest()
            assert not router.register.live()


async def test_stop_that_closes_is_sent_though_as_many_orders_stand_as_may(tmp_path: Path) -> None:
    """It was counted when it came."""
    async with routing(tmp_path, Mute()) as (router, link):
        desk = router.accounts[PAPER].desk
        desk.position(BTC.fqme, D(10))
        await router.order(order("sl", **STOP))
        await router.order(order("a"))
        desk.limits = msgspec.structs.replace(desk.limits, open_orders=1)
        router.see(BTC.fqme, TickType.TRADE, 0, D(94))
        await rest()
        assert [one.oid for one in link.orders] == ["a", "sl"]


async def test_child_of_a_parent_of_long_ago_is_set_free(tmp_path: Path) -> None:
    """It came after its parent had been filled."""
    async with routing(tmp_path, Mute()) as (router, link):
        await router.order(order("in", size=D(10)))
        link.opens("in")
        link.fills("in", (10,))
        await rest()
        await router.order(order("sl", **STOP, **GROUP))
        await rest()
        assert router.orders["sl"].phase is Phase.DARK
