"""A stop whose trigger was met, and the take-profit that stands at the venue: one of both sells."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
import trio
import trio.lowlevel
from mute_venue import GROUP, SELL, STOP, Mute, bracket, rest
from paper_routing import BTC, PAPER, order, routing

from piker.clearing.duties import ROOM_NS
from piker.clearing.lifecycle import OrderState, Phase
from piker.clearing.linked import Tied, What, due
from piker.clearing.risk import TradingState
from piker.clearing.router import Router
from piker.clock import NS, wall_ns
from piker.orders import Action, Cancel, OrderKind, Status, SyncState
from piker.ticks import TickType

D = Decimal
LIMIT = {**STOP, "kind": OrderKind.STOP_LIMIT, "price": D(95)}


@asynccontextmanager
async def met(folder: Path, **stop: object) -> AsyncIterator[tuple[Router, Mute]]:
    """Have ten bought, the take-profit at the venue, and the stop just met."""
    async with routing(folder, Mute()) as (router, link):
        await bracket(router, link)
        if stop:
            await router.order(order("sl", **{**STOP, **stop}, **GROUP))
        link.fills("in", (10,))
        await rest()
        link.opens("tp")
        await rest()
        router.see(BTC.fqme, TickType.TRADE, 0, D(94))
        await rest()
        assert sent(link) == []
        assert link.cancels("tp") == 1
        yield router, link


def sent(link: Mute, oid: str = "sl") -> list[Decimal]:
    """Return the sizes that a venue was sent of an order."""
    return [one.size for one in link.orders if one.oid == oid]


async def away(router: Router, link: Mute) -> None:
    """Have the venue away, and back: it has not answered for its orders yet."""
    await router.lost(PAPER, "a test")
    await rest()
    assert "sl" not in [one.order.oid for one in router.beliefs(PAPER)]
    link.syncs(SyncState.SYNCING)
    await rest()


async def test_stop_that_was_met_is_journaled_at_once(tmp_path: Path) -> None:
    """A kill while it waits does not forget that: the price may never come back to it."""
    async with met(tmp_path) as (router, _):
        assert (router.orders["sl"].phase, sent(router.accounts[PAPER].link)) == (Phase.PENDING, [])
    async with routing(tmp_path, Mute()) as (router, link):
        assert {one.order.oid for one in router.beliefs(PAPER)} == {"tp", "sl"}
        link.syncs()
        link.says("sl", "absent")
        await rest()
        assert link.cancels("tp")
        assert sent(link) == []
        link.says("tp", "canceled")
        await rest()
        assert sent(link) == [10]


async def test_stop_waits_without_end_for_a_venue_that_is_away(tmp_path: Path) -> None:
    """It could not be sent; meanwhile the take-profit may sell all that it would sell."""
    async with met(tmp_path) as (router, link):
        await away(router, link)
        await router.expire(wall_ns() + 10 * ROOM_NS)
        await rest()
        assert sent(link) == []
        link.syncs()
        await rest()
        now = wall_ns()
        await router.expire(now)
        await router.expire(now + ROOM_NS - NS)
        assert sent(link) == []
        await router.expire(now + 2 * ROOM_NS)
        assert sent(link) == [10]  # protection counts for more than a venue that says nothing


@pytest.mark.parametrize("taken", [0, 4, 10])
async def test_stop_sells_what_its_take_profit_left(tmp_path: Path, taken: int) -> None:
    """What was sold while the venue was away is told when it is back."""
    async with met(tmp_path) as (router, link):
        await away(router, link)
        if taken:
            link.fills("tp", (taken,), Action.SELL)
        if taken < 10:
            link.says("tp", "canceled")
        link.syncs()
        await rest()
        assert sent(link) == ([10 - taken] if taken < 10 else [])
        phase = router.orders["sl"].phase
        assert phase is (Phase.PENDING if taken < 10 else Phase.CANCELED)


async def test_stop_that_is_absent_waits_for_room_like_any_other(tmp_path: Path) -> None:
    """It was sent after three seconds; nobody knows whether it, or the cancel, was heard."""
    async with met(tmp_path) as (router, link):
        await router.expire(wall_ns() + 2 * ROOM_NS)
        assert sent(link) == [10]
        await router.lost(PAPER, "a test")
        assert {one.order.oid for one in router.beliefs(PAPER)} == {"tp", "sl"}
        link.says("sl", "absent")
        await rest()
        link.fills("tp", (3,), Action.SELL)
        link.syncs()
        await rest()
        assert sent(link) == [10]
        link.says("tp", "canceled")
        await rest()
        assert sent(link) == [10, 7]


async def test_beliefs_name_the_fills_that_they_count(tmp_path: Path) -> None:
    """A backend tells what lacks by them, whatever its venue calls a fill the next time."""
    async with met(tmp_path) as (router, link):
        link.fills("tp", (3, 2), Action.SELL)
        await rest()
        (known,) = router.beliefs(PAPER)
        assert (known.order.oid, known.filled) == ("tp", 5)
        assert known.tids == router.orders["tp"].tids
        assert len(known.tids) == 2


@pytest.mark.parametrize(("status", "filled"), [("closed", 10), ("closed", 0), ("canceled", 4)])
async def test_stop_does_not_sell_what_its_venue_says_was_sold(
    tmp_path: Path, status: str, filled: int
) -> None:
    """The fills of its take-profit come later than its end, or never; then they count once."""
    async with met(tmp_path) as (router, link):
        link.says("tp", status, filled=filled)
        await rest()
        assert sent(link) == ([6] if status == "canceled" else [])
        link.fills("tp", (filled or 10,), Action.SELL)
        await rest()
        assert sent(link) == ([6] if status == "canceled" else [])
        assert router.orders["tp"].traded == (filled or 10)


async def test_exits_have_what_the_venue_says_their_entry_has_traded(tmp_path: Path) -> None:
    """It was filled, and its fills are not told yet: what was bought is to be protected."""
    async with routing(tmp_path, Mute()) as (router, link):
        await bracket(router, link)
        link.says("in", "closed", filled=10)
        await rest()
        assert (router.orders["sl"].phase, router.orders["sl"].order.size) == (Phase.DARK, 10)
        link.fills("in", (10,))
        await rest()
        assert router.orders["sl"].order.size == 10


async def test_order_that_is_sent_again_is_pending_and_asked_for_no_more(tmp_path: Path) -> None:
    """It was UNKNOWN until its venue had proved that it has it not."""
    async with routing(tmp_path, Mute()) as (router, link):
        asked = []
        link.ask_again = lambda: asked.append(1)
        await router.order(order("sl", **STOP))
        router.see(BTC.fqme, TickType.TRADE, 0, D(94))
        await rest()
        await router.lost(PAPER, "a test")
        router.beliefs(PAPER)
        link.says("sl", "absent")
        await rest()
        assert router.orders["sl"].phase is Phase.PENDING
        link.syncs()
        await rest()
        assert (asked, sent(link)) == ([], [10, 10])


async def test_stop_goes_by_the_trigger_that_an_edit_gave_it_in_the_same_moment(
    tmp_path: Path,
) -> None:
    """The edit was being journaled when the market met the old one, and is acknowledged."""
    async with routing(tmp_path, Mute()) as (router, link), trio.open_nursery() as nursery:
        await router.order(order("sl", **STOP))
        nursery.start_soon(router.order, order("sl", **{**STOP, "trigger": D(90)}))
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        router.see(BTC.fqme, TickType.TRADE, 0, D(94))
        await rest()
        assert (router.orders["sl"].phase, sent(link)) == (Phase.DARK, [])
        router.see(BTC.fqme, TickType.TRADE, 0, D(90))
        await rest()
        assert sent(link) == [10]


async def test_rest_that_is_too_small_is_not_sent(tmp_path: Path) -> None:
    """The venue takes no such order; the stop ends and says why."""
    async with met(tmp_path) as (router, link):
        router.know(msgspec.structs.replace(BTC, min_size=D("0.5")))
        link.fills("tp", ("9.8",), Action.SELL)
        link.says("tp", "canceled")
        await rest()
        assert (sent(link), router.orders["sl"].phase) == ([], Phase.CANCELED)


async def test_order_that_only_waited_is_told_to_have_been_in_the_dark(tmp_path: Path) -> None:
    """No venue ever had it."""
    async with routing(tmp_path, Mute()) as (router, link):
        await router.order(order("sl", **STOP))
        await router.order(order("in"))
        link.opens("in")
        await rest()
        async with router.news.listen() as news:
            for oid in ("sl", "in"):
                await router.cancel(Cancel(oid=oid, symbol=BTC.fqme))
            link.says("in", "canceled")
            await rest()
            told = []
            while news.statistics().current_buffer_used:
                told.append(news.receive_nowait())
        ends = {one.oid: one.src for one in told if one.resp == "canceled"}
        assert ends == {"sl": "dark", "in": link.name}


async def test_cancel_and_halt_end_what_waits_for_room_at_once(tmp_path: Path) -> None:
    """No venue has it: none is asked."""
    async with met(tmp_path / "cancel") as (router, link):
        await router.cancel(Cancel(oid="sl", symbol=BTC.fqme))
        assert router.orders["sl"].phase is Phase.CANCELED
        assert (link.cancels("sl"), router.register.unsent) == (0, {})
    async with met(tmp_path / "halt") as (router, link):
        await router.set_state(PAPER, TradingState.HALTED, "a test")
        assert router.orders["sl"].phase is Phase.CANCELED
        link.says("tp", "canceled")
        await rest()
        assert (sent(link), router.register.unsent) == ([], {})


async def test_edits_of_what_waits_for_room_are_its_terms_when_it_goes(tmp_path: Path) -> None:
    """Of two the later one; the other is refused as superseded."""
    async with met(tmp_path, **LIMIT) as (router, link), router.news.listen() as news:
        waits = router.orders["sl"].order
        edits = [msgspec.structs.replace(waits, price=D(price)) for price in (97, 96)]
        for edit in edits:
            await router.order(edit)
        link.fills("tp", (4,), Action.SELL)
        link.says("tp", "canceled")
        await rest()
        assert [(one.size, one.price) for one in link.orders if one.oid == "sl"] == [(6, 96)]
        state = router.orders["sl"]
        assert (state.order.size, state.editing, state.wanted) == (6, None, None)
        told = []
        while news.statistics().current_buffer_used:
            told.append(news.receive_nowait())
        of = [one for one in told if isinstance(one, Status) and one.oid == "sl"]
        assert [one.req for one in of if one.code == "superseded"] == [edits[0]]
        assert edits[1] in [one.edit for one in of]
        link.opens("sl")
        await rest()
        assert len(sent(link)) == 1


async def test_stop_that_was_met_waits_for_what_its_entry_may_still_buy(tmp_path: Path) -> None:
    """The take-profit had sold all there was; what comes in now is sold at once."""
    async with routing(tmp_path, Mute()) as (router, link):
        await bracket(router, link)
        link.fills("in", (4,))
        await rest()
        link.opens("tp")
        await rest()
        router.see(BTC.fqme, TickType.TRADE, 0, D(94))
        await rest()
        link.fills("tp", (4,), Action.SELL)
        await rest()
        assert (sent(link), router.orders["sl"].phase) == ([], Phase.PENDING)
        link.fills("in", (2,))
        await rest()
        assert sent(link) == [2]


async def test_one_of_two_goes_on_when_both_are_met_at_once(tmp_path: Path) -> None:
    """Neither knew of the other; they do not end each other."""
    async with routing(tmp_path, Mute()) as (router, link):
        sizes = {"a": 10, "b": 9}  # alike, the second would be taken for a stuck key
        for oid, size in sizes.items():
            await router.order(order(oid, oco="g", **{**STOP, "size": D(size)}))
        assert [router.orders[oid].phase for oid in sizes] == [Phase.DARK] * 2
        router.see(BTC.fqme, TickType.TRADE, 0, D(94))
        await rest()
        gone = [oid for oid in ("a", "b") if router.orders[oid].is_over]
        assert len(gone) == 1
        (goes,) = {"a", "b"}.difference(gone)
        assert sent(link, goes) == [sizes[goes]]


def test_of_two_that_were_met_one_ends_the_other() -> None:
    """Whoever is looked at first; and one that was filled in part and has ended leaves the rest."""
    states = {
        oid: OrderState(
            order=order(oid, oco="g", **SELL), phase=Phase.PENDING, asked=D(10), freed=True, met="x"
        )
        for oid in ("a", "b")
    }
    found = {
        oid: due(state, Tied(None, [states["b" if oid == "a" else "a"]], []))
        for oid, state in states.items()
    }
    assert found["a"] is None
    assert found["b"] is not None
    assert found["b"].what is What.CANCEL
    sent_first = Tied(None, [states["a"]], [], unsent={"a"})
    assert due(states["b"], sent_first) is None
    part = msgspec.structs.replace(states["b"], phase=Phase.CANCELED, filled=D(3))
    left = due(states["a"], Tied(None, [part], []))
    assert left is not None
    assert left.order is not None
    assert (left.what, left.order.size) == (What.RESIZE, 7)
