"""What clients ask, and what halts, starts and links do, while others of a group are under way."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from mute_venue import GROUP, SELL, STOP, Mute, bracket, newest, pair, rest, sold_out
from paper_routing import BTC, PAPER, order, routing

from piker import clock
from piker.clearing.accounts import Account
from piker.clearing.client import _answers
from piker.clearing.journal import open_journal
from piker.clearing.lifecycle import EventKind, Phase
from piker.clearing.records import Happened, Record, RiskChange
from piker.clearing.risk import Limits, RiskDesk, TradingState
from piker.clearing.router import Router
from piker.clock import NS, wall_ns
from piker.errors import Transient
from piker.orders import Action, BrokerdRequest, Cancel, OrderKind, Status, TimeInForce
from piker.ticks import TickType

D = Decimal
ALERT: dict[str, Any] = {"action": Action.ALERT, "size": D(0), "price": None, "trigger": D(90)}


def sent(link: Mute, oid: str = "sl") -> list[Decimal]:
    """Return the sizes that a venue was sent of an order."""
    return [one.size for one in link.orders if one.oid == oid]


def heard(news: trio.MemoryReceiveChannel[Any], oid: str) -> list[Status]:
    """Return what clients were told of an order since they were asked last."""
    found = []
    while news.statistics().current_buffer_used:
        found.append(news.receive_nowait())
    return [one for one in found if isinstance(one, Status) and one.oid == oid]


async def trade(router: Router, price: int = 94) -> None:
    """Have the market trade at a price."""
    router.see(BTC.fqme, TickType.TRADE, 0, D(price))
    await rest()


async def waiting(router: Router, link: Mute) -> None:
    """Have ten bought, and a stop that was met and waits for its take-profit to make room."""
    await bracket(router, link)
    link.fills("in", (10,))
    await rest()
    link.opens("tp")
    await rest()
    await trade(router)
    assert sent(link) == []
    assert "sl" in router.register.unsent


# -- edits -------------------------------------------------------------------------------------
async def test_edit_that_is_denied_is_answered_though_its_size_was_of_before(
    tmp_path: Path,
) -> None:
    """The denial was told of the size that emsd gave it: whoever had asked waited for ever."""
    async with routing(tmp_path, Mute()) as (router, link), router.news.listen() as news:
        await pair(router, link)
        link.fills("x", (2,), Action.SELL)
        await rest()
        heard(news, "y")
        asked = order("y", price=D("105.001"), oco="g", **SELL)  # no multiple of its tick
        await router.order(asked)
        await rest()
        (told,) = heard(news, "y")
        assert (told.resp, _answers(told, asked)) == ("error", True)


async def test_line_that_is_dragged_leaves_what_others_sold_counted(tmp_path: Path) -> None:
    """Four in, four out, and the stop waits at its size of four: two more come in, and two go."""
    async with routing(tmp_path, Mute()) as (router, link):
        await sold_out(router, link)
        dragged = {**STOP, "size": router.orders["sl"].order.size, "trigger": D(96)}
        await router.order(order("sl", **dragged, **GROUP))
        await rest()
        link.fills("in", (2,))
        await rest()
        now = router.orders["sl"].order
        assert (now.size, now.trigger) == (2, 96)


async def test_line_of_a_rest_that_is_too_small_can_be_dragged(tmp_path: Path) -> None:
    """It has its old size until its parent trades on; what was sold counts all the same."""
    async with routing(tmp_path, Mute()) as (router, link):
        router.know(msgspec.structs.replace(BTC, min_size=D("0.5")))
        await bracket(router, link)
        link.fills("in", (4,))
        await rest()
        link.opens("tp")
        link.fills("tp", ("3.8",), Action.SELL)
        await rest()
        dragged = {**STOP, "size": router.orders["sl"].order.size, "trigger": D(96)}
        await router.order(order("sl", **dragged, **GROUP))
        await rest()
        assert router.orders["sl"].order.trigger == 96
        await trade(router)
        link.says("tp", "canceled")
        await rest()
        assert sent(link) == []
        link.fills("in", (2,))
        await rest()
        assert sent(link) == [D("2.2")]


async def test_stop_that_was_met_goes_though_its_trigger_is_dragged(tmp_path: Path) -> None:
    """Merged into what was sent, it was a stop order that the venue does not do: rejected."""
    async with routing(tmp_path, Mute()) as (router, link), router.news.listen() as news:
        await waiting(router, link)
        heard(news, "sl")
        dragged = order("sl", **{**STOP, "trigger": D(90)}, **GROUP)
        await router.order(dragged)
        await rest()
        (told,) = heard(news, "sl")
        assert (told.resp, _answers(told, dragged)) == ("error", True)
        link.says("tp", "canceled")
        await rest()
        assert [one.kind for one in link.orders if one.oid == "sl"] == [OrderKind.MARKET]


async def test_edit_is_not_called_superseded_when_it_holds_but_for_its_size(
    tmp_path: Path,
) -> None:
    """It waits for the answer of the one before, and emsd makes it smaller meanwhile."""
    async with routing(tmp_path, Mute()) as (router, link), router.news.listen() as news:
        await pair(router, link)
        first, second = (order("y", price=D(price), oco="g", **SELL) for price in (105, 106))
        await router.order(first)
        await router.order(second)
        await rest()
        link.fills("x", (2,), Action.SELL)
        await rest()
        now = newest(router.orders["y"])
        assert (now.price, now.size) == (106, 8)
        told = heard(news, "y")
        assert "error" not in [one.resp for one in told]
        assert any(_answers(one, second) for one in told)


# -- starts and halts --------------------------------------------------------------------------
async def test_stop_is_not_denied_when_its_account_is_not_open(tmp_path: Path) -> None:
    """Its table makes no sense, or its backend is gone; its market is open for others."""
    async with routing(tmp_path, Mute()) as (router, link):
        await router.order(order("sl", **STOP))
        trail = {**STOP, "size": D(3), "trigger": None, "trail": D(5)}
        await router.order(order("tr", **{**trail, "kind": OrderKind.TRAILING_STOP}))
        await trade(router, 110)
        await router.follow()
    async with open_journal(tmp_path / "journal") as journal, trio.open_nursery() as nursery:
        router = Router(journal, nursery)
        await router.recover()
        router.know(BTC)
        await trade(router, 112)
        for _ in range(2):
            await trade(router)
        assert [router.orders[oid].phase for oid in ("sl", "tr")] == [Phase.DARK] * 2
        assert router.dark._by_market[BTC.fqme]["tr"].level == 107
        nursery.cancel_scope.cancel()
    async with routing(tmp_path, Mute()) as (router, link):
        await trade(router)
        assert (sent(link), sent(link, "tr")) == ([10], [3])


@pytest.mark.parametrize("how", ["halt", "cancel"])
async def test_order_of_an_account_that_is_not_open_is_canceled_when_it_is(
    tmp_path: Path, how: str
) -> None:
    """The halt of everything failed at it, and left orders of other accounts standing."""
    async with routing(tmp_path, Mute()) as (router, link):
        await router.order(order())
        link.opens("a")
        await rest()
    async with open_journal(tmp_path / "journal") as journal, trio.open_nursery() as nursery:
        router = Router(journal, nursery)
        await router.recover()
        if how == "halt":
            await router.set_state("", TradingState.HALTED, "a test")
        else:
            await router.cancel(Cancel(oid="a", symbol=BTC.fqme))
        assert router.orders["a"].cancel_called
        nursery.cancel_scope.cancel()
    async with routing(tmp_path, Mute()) as (router, link):
        assert [one.order.oid for one in router.beliefs(PAPER)] == ["a"]
        link.says("a", "open", reqid="ra")
        link.syncs()
        await rest()
        assert link.cancels("a")


async def test_halt_that_is_being_journaled_lets_nothing_go_that_waits(tmp_path: Path) -> None:
    """It holds at once; everything is canceled once it is on the disk."""
    async with routing(tmp_path, Mute()) as (router, link):
        await waiting(router, link)
        router.accounts.apply(PAPER, RiskChange(TradingState.HALTED, "a test"))
        link.says("tp", "canceled")
        await rest()
        assert (sent(link), router.orders["sl"].phase) == ([], Phase.CANCELED)


# -- the venue's words -------------------------------------------------------------------------
async def test_venue_is_not_asked_for_an_order_before_it_is_sent(tmp_path: Path) -> None:
    """It would prove it absent just as it comes, and the order would be sent once more."""
    async with routing(tmp_path, Mute()) as (router, link):
        await waiting(router, link)
        append, asked = router.register.journal.append, []

        async def looked_at(records: list[Record]) -> list[Any]:
            for one in records:
                if isinstance(one.entry, Happened) and one.entry.event.kind is EventKind.SUBMIT:
                    asked.append([belief.order.oid for belief in router.beliefs(PAPER)])
            return await append(records)

        router.register.journal.append = looked_at  # type: ignore[assignment,method-assign]
        link.says("tp", "canceled")
        await rest()
        assert sent(link) == [10]
        assert asked == [[]]


@pytest.mark.parametrize("word", ["fill", "open"])
async def test_order_that_its_venue_has_after_all_is_not_sent_again(
    tmp_path: Path, word: str
) -> None:
    """It was proved absent, waits for its group, and then something is heard of it."""
    async with routing(tmp_path, Mute()) as (router, link):
        await waiting(router, link)
        await router.expire(wall_ns() + 10 * NS)
        assert sent(link) == [10]
        link.says("sl", "unknown")
        link.says("sl", "absent")
        await rest()
        assert "sl" in router.register.unsent
        if word == "fill":
            link.fills("sl", (3,), Action.SELL)
        else:
            link.opens("sl")
        link.says("tp", "canceled")
        await rest()
        await router.expire(wall_ns() + 60 * NS)
        assert (sent(link), router.register.unsent) == ([10], {})


# -- what is set free --------------------------------------------------------------------------
async def test_stop_is_not_denied_when_its_limit_is_far_from_the_middle_of_the_book(
    tmp_path: Path,
) -> None:
    """It was judged by its trigger when it came; a sweep trades there before the book follows."""
    async with routing(tmp_path, Mute()) as (router, link):
        far = {**STOP, "kind": OrderKind.STOP_LIMIT, "price": D(94)}
        await router.order(order("sl", **far))
        await trade(router)
        assert (router.orders["sl"].code, sent(link)) == ("", [10])


async def test_alert_that_hangs_on_an_order_is_armed_by_its_first_fill(tmp_path: Path) -> None:
    """It trades nothing and has no size, and was held for ever."""
    async with routing(tmp_path, Mute()) as (router, link):
        await router.order(order("in", size=D(10)))
        await router.order(order("al", parent="in", **ALERT))
        assert router.orders["al"].phase is Phase.HELD
        link.opens("in")
        for size in (4, 6):
            link.fills("in", (size,))
            await rest()
            assert router.orders["al"].phase is Phase.DARK
        await trade(router, 91)
        await trade(router, 89)
        assert router.orders["al"].phase is Phase.TRIGGERED


async def test_name_of_a_group_counts_on_whichever_of_them_ended_last(tmp_path: Path) -> None:
    """A late fill had one of the first ones end after those of the second."""
    async with routing(tmp_path, Mute()) as (router, _):
        for name in ("g#3", "g#2"):
            router.register._count_group(order(oco=name))
        assert router.register._groups == {(PAPER, "g"): 3}


async def test_one_of_two_goes_on_when_one_is_met_while_the_other_is_being_sent(
    tmp_path: Path,
) -> None:
    """That is journaled already, and no venue has it yet."""
    async with routing(tmp_path, Mute()) as (router, link):
        for oid, size in (("b", 10), ("a", 9)):
            await router.order(order(oid, oco="g", **{**STOP, "size": D(size)}))
        append, submits = router.register.journal.append, trio.Event()

        async def slowly(records: list[Record]) -> list[Any]:
            kinds = {
                (one.oid, one.entry.event.kind)
                for one in records
                if isinstance(one.entry, Happened)
            }
            if ("a", EventKind.TRIGGER) in kinds:
                await submits.wait()
            if ("b", EventKind.SUBMIT) in kinds:
                submits.set()
                await rest()
            return await append(records)

        router.register.journal.append = slowly  # type: ignore[assignment,method-assign]
        for _ in range(4):
            await trade(router)
        assert [one.oid for one in link.orders] == ["b"]
        assert router.orders["a"].reason == "b of its group was pending"
        assert router.orders["a"].phase is Phase.CANCELED
        assert link.cancels("b") == 0


class Cut(Mute):
    """A line that can be cut."""

    async def send(self, request: BrokerdRequest) -> None:
        """Take it, if there is a line."""
        if self.cut:
            raise Transient("the line is cut.")
        await super().send(request)


async def test_next_dialog_is_not_asked_what_the_last_one_has_proved(tmp_path: Path) -> None:
    """The proof was heard, and not handled yet: with the next one the stop was sent twice."""
    link, believed = Cut(), []
    async with routing(tmp_path, link) as (router, _), trio.open_nursery() as nursery:

        async def begin_anew() -> None:
            await router.lost(PAPER, "a test")
            believed.extend(belief.order.oid for belief in router.beliefs(PAPER))
            link.cut = False

        await router.order(order("sl", **STOP))
        await trade(router)
        link.says("sl", "unknown")
        await rest()
        with await router._turns.of("sl"):
            link.says("sl", "absent")
            await rest()
            link.cut = True
            nursery.start_soon(begin_anew)
            await rest()
            assert believed == []
        await rest()
        for oid in believed:
            link.says(oid, "absent")
        link.syncs()
        await rest()
        assert sent(link) == [10, 10]


async def test_order_whose_time_is_over_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its venue would have ended it, and never had it."""
    async with routing(tmp_path, Mute()) as (router, link):
        router.accounts[PAPER].offers = lambda _, what: what in {"market", "limit", "gtd"}
        end = wall_ns() + 3600 * NS
        await router.order(order("sl", tif=TimeInForce.GTD, expire_ns=end, **STOP))
        await trade(router)
        link.says("sl", "unknown")
        await rest()
        monkeypatch.setattr(clock, "wall_ns", lambda: end + NS)
        await router.expire(end + NS)
        link.says("sl", "absent")
        await rest()
        assert (sent(link), router.orders["sl"].phase) == ([10], Phase.EXPIRED)


@pytest.mark.parametrize("what", ["exit", "stop"])
async def test_exits_are_not_denied_when_their_market_has_no_price_yet(
    tmp_path: Path, what: str
) -> None:
    """It was opened with one side of its book, and no trade."""
    async with routing(tmp_path, Mute()) as (router, link):
        if what == "exit":
            await bracket(router, link)
            router.register._follow = lambda oid: None
            link.fills("in", (10,))
            await rest()
        else:
            await router.order(order("sl", **STOP))
    link = Mute()
    async with open_journal(tmp_path / "journal") as journal, trio.open_nursery() as nursery:
        router = link.router = Router(journal, nursery)
        await router.recover()
        offers = {"market", "limit"}
        desk = RiskDesk(PAPER, Limits())
        router.add(Account(PAPER, desk, link, lambda _, what: what in offers))
        router.know(BTC)
        await trade(router)
        assert router.orders["sl"].phase is (Phase.HELD if what == "exit" else Phase.DARK)
        router.price(BTC.fqme, D(100), wall_ns())
        await rest()
        assert router.orders["sl"].phase is Phase.DARK
        await trade(router)
        assert router.orders["sl"].met
        nursery.cancel_scope.cancel()


async def test_stop_goes_though_its_market_was_closed_when_it_was_opened(tmp_path: Path) -> None:
    """Emsd was started in a maintenance of the venue; a price that meets it was traded."""
    async with routing(tmp_path, Mute()) as (router, link):
        await router.order(order("sl", **STOP))
        router.know(msgspec.structs.replace(BTC, status="maintenance"))
        await router.order(order("a"))
        assert router.orders["a"].code == "market-closed"
        await trade(router)
        assert sent(link) == [10]


async def test_size_given_to_a_stop_that_has_nothing_to_sell_is_of_what_came_in(
    tmp_path: Path,
) -> None:
    """Four in, four out, and three instead of four wanted: of two more that come in one is left."""
    async with routing(tmp_path, Mute()) as (router, link):
        await sold_out(router, link)
        await router.order(order("sl", **{**STOP, "size": D(3)}, **GROUP))
        await rest()
        link.fills("in", (2,))
        await rest()
        assert newest(router.orders["sl"]).size == 1


async def test_edit_holds_but_for_its_size_when_its_order_had_to_be_sent_again(
    tmp_path: Path,
) -> None:
    """It and the new size of emsd's were asked for while nobody knew what the venue had."""
    async with routing(tmp_path, Mute()) as (router, link), router.news.listen() as news:
        await bracket(router, link)
        link.fills("in", (10,))
        await rest()
        link.says("tp", "unknown")
        await rest()
        asked = msgspec.structs.replace(router.orders["tp"].order, price=D(104))
        await router.order(asked)
        await router.order(order("other", price=D(100), **SELL, **GROUP))
        await rest()
        link.opens("other")
        link.fills("other", (3,), Action.SELL)
        await rest()
        link.says("tp", "absent")
        await rest()
        told = heard(news, "tp")
        assert "error" not in [one.resp for one in told]
        assert any(_answers(one, asked) for one in told)
        assert [(one.size, one.price) for one in link.orders if one.oid == "tp"][-1] == (7, 104)
