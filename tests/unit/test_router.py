"""The router with a real journal and the paper broker: one truth, told after it is on the disk."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing
from paper_routing import BTC, OFFERED, PAPER, PaperLink, order, routing, told

from piker.clearing.lifecycle import Phase
from piker.clearing.paper import stands_again
from piker.clearing.records import Happened
from piker.clearing.requests import client_id_of
from piker.clearing.risk import Limits, TradingState
from piker.clock import NS, wall_ns
from piker.orders import (
    Action,
    BrokerdCancel,
    BrokerdError,
    BrokerdFill,
    BrokerdOrder,
    BrokerdOrderAck,
    BrokerdRequest,
    BrokerdSync,
    Cancel,
    ExecMode,
    OrderKind,
    Status,
    SyncState,
    TimeInForce,
    TriggerBy,
)
from piker.ticks import TickType

D = Decimal


async def test_order_goes_through_its_life_when_it_is_filled(tmp_path: Path) -> None:
    """Pending, acknowledged, open, filled in two, closed: told to two clients the same."""
    async with (
        routing(tmp_path) as (router, link),
        router.news.listen() as one,
        router.news.listen() as two,
    ):
        await router.order(order(), "me")
        link.tell(link.broker.trade(BTC.mktid, D(99), D(11), -1, wall_ns()))
        await trio.testing.wait_all_tasks_blocked(0.2)
        link.tell(link.broker.trade(BTC.mktid, D(99), D(11), -1, wall_ns()))
        words = await told(one, upto="closed")
        assert words[0] == "pending"
        assert words.count("fill") == 2
        assert await told(two, upto="closed") == words
        state = router.orders["a"]
        assert (state.phase, state.filled, state.avg_price) == (Phase.FILLED, D(2), D(99))
        assert state.fees == {"usdt": D("0.198")}
        assert router.dialogs() == []


async def test_denied_order_is_not_sent_when_it_passes_a_limit(tmp_path: Path) -> None:
    """It is in the journal with its code; nothing has left."""
    async with routing(tmp_path) as (router, link), router.news.listen() as news:
        await router.order(order(price=D(120)))
        (status,) = [await news.receive()]
        assert isinstance(status, Status)
        assert (status.resp, status.code) == ("denied", "price-collar")
        assert link.sent == []
    async with routing(tmp_path) as (router, _):
        assert router.orders["a"].phase is Phase.DENIED


async def test_order_is_there_when_emsd_starts_again(tmp_path: Path) -> None:
    """Open orders are open, what was on its way is unknown until the venue has said."""
    link = PaperLink()
    async with routing(tmp_path, link) as (router, _), router.news.listen() as news:
        await router.order(order())
        await told(news, upto="open")
        link.cut = True
        await router.order(order("b", price=D(98)))
        assert router.orders["b"].phase is Phase.UNKNOWN
    async with routing(tmp_path) as (router, _):
        assert router.orders["a"].phase is Phase.OPEN
        assert router.orders["b"].phase is Phase.UNKNOWN
        assert {one.oid for one in router.dialogs()} == {"a", "b"}
        router.hear(PAPER, BrokerdOrderAck(oid="b", reqid="p9", account=PAPER))
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert router.orders["b"].phase is Phase.PENDING
        await router.order(order())  # an edit to what it is: no second order
        assert sum(isinstance(one, BrokerdOrder) and not one.reqid for one in link.sent) == 2


@pytest.mark.parametrize("post_only", [False, True])
async def test_word_that_a_kill_may_take_back_is_only_of_what_stands_again(
    tmp_path: Path, post_only: bool
) -> None:
    """What is told while it is journaled has no number yet; paperboi lets it stand without it."""
    link = PaperLink()
    async with routing(tmp_path, link) as (router, _), router.news.listen() as news:
        await router.order(order(post_only=post_only))
        numbers = {}
        async for one in news:
            assert isinstance(one, Status)
            numbers[one.resp] = one.seq
            if one.resp == "open":
                break
    assert numbers.pop("pending") > 0
    (asked,) = link.sent
    assert isinstance(asked, BrokerdOrder)
    assert stands_again(asked) is not post_only
    assert (numbers.pop("open") == 0) is stands_again(asked)


async def test_fill_counts_once_when_it_is_delivered_again_after_a_restart(tmp_path: Path) -> None:
    """By the key that the journal keeps."""
    async with routing(tmp_path) as (router, link), router.news.listen() as news:
        await router.order(order(price=D(101)))
        await told(news, upto="closed")
        (fill,) = [one for one in link.told if isinstance(one, BrokerdFill)]
        (ack,) = link.broker.request(link.sent[0], wall_ns())  # it is one order
        assert isinstance(ack, BrokerdOrderAck)
        assert ack.reqid == fill.reqid
    again = PaperLink()
    async with routing(tmp_path, again) as (router, _), router.news.listen() as news:
        router.hear(PAPER, fill)
        await router.cancel(Cancel(oid="nobody", symbol=BTC.fqme))
        await told(news, upto="error")
        assert router.orders["a"].filled == 2


async def test_cancel_works_in_every_phase_when_asked(tmp_path: Path) -> None:
    """At the venue, in the dark, of what is not there, of what has ended."""
    async with routing(tmp_path) as (router, _), router.news.listen() as news:
        await router.order(order())
        await told(news, upto="open")
        await router.cancel(Cancel(oid="a", symbol=BTC.fqme))
        await told(news, upto="canceled")
        await router.order(order("d", exec_mode=ExecMode.DARK, trigger=D(95), price=D(95)))
        assert (await told(news, upto="dark_open")) == ["dark_open"]
        await router.cancel(Cancel(oid="d", symbol=BTC.fqme))
        await told(news, upto="canceled")
        for oid, code in (("a", "order-over"), ("nobody", "unknown-order")):
            await router.cancel(Cancel(oid=oid, symbol=BTC.fqme))
            status = await news.receive()
            assert isinstance(status, Status)
            assert (status.resp, status.code) == ("error", code)


async def test_order_is_canceled_again_when_it_stands_though_all_is_halted(tmp_path: Path) -> None:
    """Its cancel was refused: when the account is compared again, another is sent."""

    class Refusing(PaperLink):
        refuses = True

        async def send(self, request: BrokerdRequest) -> None:
            """Refuse cancels for a while, as a venue that has no such order yet."""
            if isinstance(request, BrokerdCancel) and self.refuses:
                self.tell([BrokerdError(reason="no", oid="a", account=PAPER, request="cancel")])
            else:
                await super().send(request)

    link = Refusing()
    async with routing(tmp_path, link) as (router, _), router.news.listen() as news:
        await router.order(order())
        await told(news, upto="open")
        await router.set_state(PAPER, TradingState.HALTED, "a test")
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert (router.orders["a"].phase, router.orders["a"].cancel_called) == (Phase.OPEN, False)
        link.refuses = False
        router.hear(PAPER, BrokerdSync(account=PAPER, state=SyncState.SYNCED, time_ns=wall_ns()))
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert router.orders["a"].phase is Phase.CANCELED


async def test_dark_order_is_sent_once_when_its_price_comes(tmp_path: Path) -> None:
    """After a restart too: it says that nobody saw when the price passed it."""
    stop = order("s", kind=OrderKind.STOP, exec_mode=ExecMode.DARK, trigger=D(101), price=None)
    async with routing(tmp_path) as (router, link), router.news.listen() as news:
        await router.order(stop)
        assert await told(news, upto="dark_open") == ["dark_open"]
        router.see(BTC.fqme, TickType.TRADE, 0, D(100))
        assert link.sent == []
    async with routing(tmp_path) as (router, link), router.news.listen() as news:
        router.see(BTC.fqme, TickType.TRADE, 0, D(102))
        router.see(BTC.fqme, TickType.TRADE, 0, D(103))
        await told(news, upto="closed")
        (sent,) = link.sent
        assert isinstance(sent, BrokerdOrder)
        assert (sent.kind, sent.trigger) == (OrderKind.MARKET, None)
        assert router.orders["s"].avg_price == 101
        reasons = [
            record.entry.event.reason
            async for record in router.register.journal.read()
            if isinstance(record.entry, Happened) and record.entry.event.kind == "trigger"
        ]
        assert [re.sub(r"at .* UTC", "at T", one) for one in reasons] == [
            "102 met 101 at T, across a gap"
        ]
        assert router.orders["s"].met == reasons[0]


async def test_alert_tells_and_sends_nothing_when_its_price_comes(tmp_path: Path) -> None:
    """From below, then at it."""
    async with routing(tmp_path) as (router, link), router.news.listen() as news:
        await router.order(order("n", action=Action.ALERT, size=D(0), price=None, trigger=D(105)))
        for price in (104, 105):
            router.see(BTC.fqme, TickType.TRADE, 0, D(price))
        with trio.fail_after(10):
            while (one := await news.receive()).resp != "triggered":
                pass
        assert re.fullmatch(r"105 met 105 at 20\d\d-\d\d-\d\d [\d:.]{12} UTC", one.reason)
        assert 0 < one.taken_ns <= one.time_ns
        assert link.sent == []


async def test_trail_and_alert_go_on_from_the_price_they_had_seen_when_emsd_is_killed(
    tmp_path: Path,
) -> None:
    """What the market did meanwhile is not lost on them, and they say that nobody saw it."""
    trail = {"kind": OrderKind.TRAILING_STOP, "exec_mode": ExecMode.DARK, "trail": D(5)}
    alert = {"action": Action.ALERT, "size": D(0), "price": None}
    async with routing(tmp_path) as (router, link):
        await router.order(order("t", action=Action.SELL, price=None, **trail))
        await router.order(order("n", trigger=D(115), **alert))
        for price in (100, 110, 107):
            router.see(BTC.fqme, TickType.TRADE, 0, D(price))
        await router.follow()
        await router.order(order("n", trigger=D(112), **alert))  # it begins anew, from here
        router.see(BTC.fqme, TickType.TRADE, 0, D(108))
        await router.follow()
    async with routing(tmp_path) as (router, link), router.news.listen() as news:
        assert [router.orders[oid].seen for oid in "tn"] == [110, 108]
        assert [one.level for one in router.dialogs()] == [105, None]
        router.see(BTC.fqme, TickType.TRADE, 0, D(113))
        assert await told(news, upto="triggered") == ["triggered"]
        router.see(BTC.fqme, TickType.TRADE, 0, D(107))
        await told(news, upto="closed")
        assert len(link.sent) == 1
        met = {
            record.oid: re.sub(r" at .* UTC", "", record.entry.event.reason)
            async for record in router.register.journal.read()
            if isinstance(record.entry, Happened) and record.entry.event.kind == "trigger"
        }
        assert met == {"n": "113 met 112, across a gap", "t": "107 met 108"}


async def test_alert_is_met_from_where_it_began_when_emsd_is_killed_at_once(tmp_path: Path) -> None:
    """The price that the market had is journaled with it: the first one later is beyond it."""
    alert = {"action": Action.ALERT, "size": D(0), "price": None}
    async with routing(tmp_path) as (router, _):
        router.dark.show(BTC.fqme, 100.0)
        for oid in "ne":
            await router.order(order(oid, trigger=D(115), **alert))
        router.dark.show(BTC.fqme, 101.0)
        await router.order(order("e", trigger=D(112), **alert))
    async with routing(tmp_path) as (router, _), router.news.listen() as news:
        assert [router.orders[oid].seen for oid in "ne"] == [100, 101]
        router.see(BTC.fqme, TickType.TRADE, 0, D(116))
        assert await told(news, upto="triggered") == ["triggered"]
        assert await told(news, upto="triggered") == ["triggered"]
        assert all("across a gap" in router.orders[oid].met for oid in "ne")


async def test_every_stop_is_sent_when_the_market_falls_through_many_at_once(
    tmp_path: Path,
) -> None:
    """They become one and the same market order within a moment, more of them than may be sent."""
    many = Limits().messages + 2
    stop = {"action": Action.SELL, "kind": OrderKind.STOP, "price": None, "size": D("0.001")}
    async with routing(tmp_path) as (router, link), router.news.listen() as news:
        desk = router.accounts[PAPER].desk
        for number in range(many):
            await router.order(order(f"s{number}", trigger=D(95) - number, **stop))
            desk._sent_ns.clear()  # as if they had come one by one
        await told(news, upto="dark_open")
        router.see(BTC.fqme, TickType.TRADE, 0, D(10))
        with trio.fail_after(10):
            while len(link.sent) < many:
                await news.receive()
        assert {router.orders[f"s{number}"].code for number in range(many)} == {""}
        client = order("c", action=Action.SELL, price=None, kind=OrderKind.MARKET, size=D("0.001"))
        await router.order(client)
        assert router.orders["c"].code == "message-rate"


async def test_bracket_protects_what_was_filled_and_ends_as_one(tmp_path: Path) -> None:
    """Entry, then its take-profit at the venue and its stop in the dark; one fills, one goes."""
    out = {"action": Action.SELL, "parent": "in", "oco": "g"}
    stop = {"kind": OrderKind.STOP, "trigger": D(95), "price": None, "exec_mode": ExecMode.DARK}
    async with routing(tmp_path) as (router, link), router.news.listen() as news:
        await router.order(order("in", price=D(101)))
        await told(news, upto="closed")
        await router.order(order("in2", price=D(98)))
        out["parent"] = "in2"
        await router.order(order("tp", price=D(103), **out))
        await router.order(order("sl", **{**out, **stop}))
        await told(news, upto="held")
        link.tell(link.broker.trade(BTC.mktid, D(97), D(2), -1, wall_ns()))
        with trio.fail_after(10):
            while router.orders["tp"].phase is not Phase.OPEN or not len(router.dark):
                await news.receive()
        link.tell(link.broker.trade(BTC.mktid, D(104), D(2), 1, wall_ns()))
        with trio.fail_after(10):
            while not router.orders["sl"].is_over:
                await news.receive()
        assert router.orders["tp"].phase is Phase.FILLED
        assert router.orders["sl"].phase is Phase.CANCELED
        assert len(router.dark) == 0


async def test_halt_cancels_everything_and_lets_nothing_through(tmp_path: Path) -> None:
    """Until it is armed again."""
    async with routing(tmp_path) as (router, _), router.news.listen() as news:
        await router.order(order())
        await router.order(order("d", exec_mode=ExecMode.DARK, trigger=D(95), price=D(95)))
        await told(news, upto="open")
        await router.set_state(PAPER, TradingState.HALTED, "a test")
        with trio.fail_after(5):
            while router.dialogs():
                await news.receive()
        await router.order(order("b", price=D(98)))
        assert router.orders["b"].code == "halted"
    async with routing(tmp_path) as (router, _):  # halted it stays
        await router.order(order("e", price=D(98)))
        assert router.orders["e"].code == "halted"
        await router.set_state(PAPER, TradingState.ACTIVE, "again")
        await router.order(order("c", price=D(98)))
        assert router.orders["c"].phase is not Phase.DENIED


async def test_slow_client_is_let_go_and_delays_nobody(tmp_path: Path) -> None:
    """Its channel ends; the others go on."""
    async with routing(tmp_path) as (router, _), router.news.listen() as slow:
        for _number in range(5000):
            await router.cancel(Cancel(oid="nobody", symbol=BTC.fqme))
        count = 0
        async for _ in slow:
            count += 1
        assert count == 4096


def test_client_id_is_the_same_and_fits_the_venues_when_made() -> None:
    """Letters and digits, 28 of them, of any oid."""
    assert client_id_of("a") == client_id_of("a") != client_id_of("b")
    for oid in ("a", "x" * 500, "ü\n"):
        assert client_id_of(oid).isalnum()
        assert len(client_id_of(oid)) == 28


async def test_child_is_set_free_when_its_parent_was_filled_before_it_came(tmp_path: Path) -> None:
    """Whoever sends the exits after the entry is protected all the same."""
    async with routing(tmp_path) as (router, _), router.news.listen() as news:
        await router.order(order("in", price=D(101)))
        await told(news, upto="closed")
        stop = {"kind": OrderKind.STOP, "trigger": D(95), "price": None}
        await router.order(order("sl", action=Action.SELL, parent="in", **stop))
        await told(news, upto="dark_open")
        assert len(router.dark) == 1


async def test_child_waits_for_more_when_its_parents_first_fill_is_too_small(
    tmp_path: Path,
) -> None:
    """It is never denied while the parent may still be filled; then it has all of it."""
    async with routing(tmp_path) as (router, link), router.news.listen() as news:
        small = msgspec.structs.replace(BTC, min_size=D("0.5"))
        router.know(small)
        await router.order(order("in", price=D(98)))
        await router.order(order("tp", action=Action.SELL, price=D(103), parent="in"))
        await told(news, upto="held")
        link.tell(link.broker.trade(BTC.mktid, D(97), D("0.1"), -1, wall_ns()))
        await told(news, upto="fill")
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert router.orders["tp"].phase is Phase.HELD
        link.tell(link.broker.trade(BTC.mktid, D(97), D(5), -1, wall_ns()))
        with trio.fail_after(10):
            while router.orders["tp"].phase is not Phase.OPEN:
                await news.receive()
        assert router.orders["tp"].order.size == D(2)


async def test_day_order_stands_until_midnight_utc_whoever_restarts(tmp_path: Path) -> None:
    """The day is the one in which it was sent; the venue is told to keep it, and then to cancel."""
    day = 86_400 * NS
    midnight = (wall_ns() // day + 1) * day
    async with routing(tmp_path) as (router, link), router.news.listen() as news:
        await router.order(order(tif=TimeInForce.DAY))
        await told(news, upto="open")
        (sent,) = link.sent
        assert isinstance(sent, BrokerdOrder)
        assert (sent.tif, sent.expire_ns) == (TimeInForce.GTC, None)
        assert router.orders["a"].order.expire_ns == midnight
    async with routing(tmp_path, link) as (router, _), router.news.listen() as news:
        await router.expire(midnight - 1)
        assert not router.orders["a"].cancel_called
        await router.expire(midnight)
        assert router.orders["a"].cancel_called


async def test_market_that_the_backend_does_not_trade_is_denied_before_anything_is_sent(
    tmp_path: Path,
) -> None:
    """Whether the order would be sent at once or wait here; an alert is nobody's to refuse."""
    stop = {"kind": OrderKind.STOP, "trigger": D(101), "price": None}
    async with routing(tmp_path) as (router, link):
        router.accounts[PAPER].offers = lambda venue, what: venue != "spot" and what in OFFERED
        await router.order(order("a"))
        await router.order(order("b", **stop))
        await router.order(order("c", action=Action.ALERT, size=D(0), **stop))
        assert {oid: router.orders[oid].code for oid in "abc"} == {
            "a": "not-offered", "b": "not-offered", "c": "",
        }  # fmt: skip
        assert link.sent == []


async def test_trigger_by_the_mark_is_denied_where_there_is_none(tmp_path: Path) -> None:
    """It would wait for ever."""
    stop = {"kind": OrderKind.STOP, "trigger": D(101), "price": None, "exec_mode": ExecMode.DARK}
    async with routing(tmp_path) as (router, _):
        await router.order(order(trigger_by=TriggerBy.MARK, **stop))
        assert router.orders["a"].code == "senseless"


async def test_reduce_only_is_held_to_when_the_venue_does_not_do_it(tmp_path: Path) -> None:
    """With nothing to reduce it is denied; of what is held, no more than that."""
    async with routing(tmp_path) as (router, _), router.news.listen() as news:
        await router.order(order("a", action=Action.SELL, price=D(103), reduce_only=True))
        assert router.orders["a"].code == "reducing"
        await router.order(order("in", price=D(101)))
        await told(news, upto="closed")
        out = {"action": Action.SELL, "price": D(103), "reduce_only": True}
        await router.order(order("b", size=D(3), **out))
        await router.order(order("c", size=D(2), **out))
        assert router.orders["b"].code == "reducing"
        assert not router.orders["c"].code
