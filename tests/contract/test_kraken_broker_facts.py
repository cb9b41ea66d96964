"""What Kraken's documents say that can cost money: a test for each fact, on the loopback venue."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
import trio
from kraken_client import ALICE, TICK, Trader, middle, top_of
from kraken_trading import account_at, agree, credentials, quick, session, trading, venue_at

from piker.brokers.kraken import broker_history, broker_rest, broker_sync
from piker.brokers.kraken.broker import trade_history
from piker.brokers.kraken.broker_ids import cl_ord_id_of
from piker.brokers.kraken.broker_schema import OrderRow
from piker.brokers.kraken.broker_terms import Markets, order_of_row
from piker.brokers.quality import venue_quality
from piker.clearing.requests import client_id_of
from piker.clock import NS, wall_ns
from piker.errors import DataQuality
from piker.orders import (
    Action,
    BrokerdBalance,
    BrokerdBelief,
    BrokerdOrder,
    BrokerdOrderAck,
    OrderKind,
)
from piker.testing import kraken_account_rest, kraken_account_wire
from piker.testing.faults import Fault
from piker.testing.kraken_account_rest import CALLS, Call

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")


# -- amendments ------------------------------------------------------------------------------
async def test_a_post_only_order_never_takes_when_it_is_moved_across_the_spread() -> None:
    """An amendment is post-only only if it says so: the venue refuses it, and the order stands."""
    async with session() as (venue, _, emsd):
        price = middle(venue)
        await emsd.order("one", "buy", "0.1", price - 50, post_only=True)
        await emsd.status("one", "open")
        txid = emsd.reqid("one")
        await emsd.order("one", "buy", "0.1", price + 500, post_only=True, reqid=txid)
        await emsd.until(lambda: emsd.errors("one"))
        assert emsd.errors("one")[0].reason == "kraken: EOrder:Post only order"
        await emsd.order("one", "buy", "0.1", price - 40, post_only=True, reqid=txid)
        await emsd.until(lambda: len(emsd.of("one", BrokerdOrderAck)) == 2)
        (order,) = account_at(venue).orders.values()
        assert (order.price, order.filled, order.is_open) == (price - 40, 0, True)
        await agree(venue, emsd)


async def sweep(venue: Any, bob: Any, price: Decimal) -> None:
    """Have bob buy all that is offered up to a price."""
    levels = venue.accounts.desk._books["BTC/USD"].takeable(1, price)
    await bob.order("buy", price, sum(size for _, size in levels), timeinforce="IOC")


async def test_limit_and_trigger_stay_known_when_a_stop_limit_was_triggered() -> None:
    """REST shows its limit where the trigger stood then, and nothing as its limit."""
    async with session() as (venue, bob, emsd):
        _, ask = top_of(venue)
        terms = {"kind": OrderKind.STOP_LIMIT, "trigger": ask + 2}
        await emsd.order("one", "buy", "0.01", ask - 500, **terms)
        await emsd.status("one", "open")
        await sweep(venue, bob, ask + 40)
        row = (await Trader(bob.port, ALICE).ask("OpenOrders"))["open"][emsd.reqid("one")]
        shown = (row["descr"]["ordertype"], Decimal(row["descr"]["price"]), row["descr"]["price2"])
        assert shown == ("stop-loss-limit", ask - 500, "0")
        venue.cut()
        await emsd.until(lambda: emsd.sync == "lost")
        await emsd.synced()
        found = order_of_row("O", msgspec.convert(row, OrderRow, strict=False), "a", Markets(()))
        assert found is not None
        assert (found.price, found.trigger) == (ask - 500, None)
        await emsd.cancel("one")
        order = (await emsd.status("one", "canceled")).order
        assert (order.price, order.trigger, order.size) == (ask - 500, ask + 2, Decimal("0.01"))
        assert emsd.errors("one") == []


# -- what was sent, and is not absent ----------------------------------------------------------
def buries(venue: Any, frames: int = 3) -> None:
    """Have neither the answer to the next order nor a word of it come through."""
    venue.gate.add_faults([
        Fault(what="drop", match="answer add_order", count=1),
        Fault(what="drop", match="executions", count=frames),
    ])  # fmt: skip


@pytest.mark.parametrize("side", ["buy", "sell"])
@pytest.mark.parametrize("form", [str, str.upper], ids=["dashes", "upper"])
async def test_an_order_is_known_again_when_its_id_comes_in_another_form(
    monkeypatch: pytest.MonkeyPatch, form: Any, side: str
) -> None:
    """A UUID with dashes, or in upper case: on the stream, open and ended by REST, never absent."""

    def shown(cl_ord_id: str) -> str:
        return form(str(UUID(cl_ord_id)) if form is str else cl_ord_id)

    monkeypatch.setattr(kraken_account_wire, "shown_id", shown)
    async with session(limits=False) as (venue, _, emsd):
        price = middle(venue)
        await emsd.order("told", "buy", "0.01", price - 900)
        await emsd.status("told", "open")
        buries(venue)
        rests = side == "buy"
        await emsd.order("lost", side, "0.01", price + (-900 if rests else -500))
        await emsd.status("lost", "open" if rests else "closed")
        assert "absent" not in emsd.statuses("lost")
        await agree(venue, emsd)
        assert not [event for event in emsd.fills.values() if event.oid != "lost"]


def belief(
    oid: str, side: str, size: str, price: Decimal, reqid: str = "", emsd: Any = None
) -> BrokerdBelief:
    """Return what emsd would believe of an order of a former process, with the fills it knew."""
    order = BrokerdOrder(
        oid=oid, client_id=client_id_of(oid), account="kraken.main", time_ns=wall_ns(),
        symbol="xbtusd.spot", action=Action(side), size=Decimal(size), price=price, reqid=reqid,
    )  # fmt: skip
    if emsd is None:
        return BrokerdBelief(order=order)
    tids = frozenset(tid for tid, fill in emsd.fills.items() if fill.oid == oid)
    return BrokerdBelief(order=order, filled=emsd.filled(oid), tids=tids)


async def test_an_order_is_not_absent_when_the_list_of_what_stands_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is asked for by its own id as well: what is absent may be sent once more."""
    whole = CALLS["OpenOrders"]

    def cut(ask: Any) -> Any:
        said = whole.run(ask)["open"]
        return {"open": said if "cl_ord_id" in ask.fields else dict(list(said.items())[1:])}

    monkeypatch.setitem(CALLS, "OpenOrders", Call(cut))
    async with session(limits=False) as (venue, _, emsd):
        buries(venue)
        await emsd.order("one", "buy", "0.01", middle(venue) - 900)
        await emsd.status("one", "open")
        assert emsd.statuses("one") == ["unknown", "open"]
        await agree(venue, emsd)


@pytest.mark.parametrize("is_cut", [False, True])
async def test_many_are_asked_for_one_by_one_only_when_the_list_is_seen_to_be_cut(
    monkeypatch: pytest.MonkeyPatch, is_cut: bool
) -> None:
    """Each question counts: a storm of lost answers took minutes; one that stands shows the cut."""
    whole, named = CALLS["OpenOrders"], set[str]()

    def told(ask: Any) -> Any:
        if "cl_ord_id" in ask.fields:
            named.add(ask.fields.word("cl_ord_id"))
        elif is_cut:
            return {"open": {}}
        return {"open": whole.run(ask)["open"]}

    monkeypatch.setitem(CALLS, "OpenOrders", Call(told))
    async with venue_at(limits=False) as (venue, bob):
        price, alice = middle(venue) + 900, Trader(bob.port, ALICE)
        stands = belief("stands", "sell", "0.01", price)
        own = cl_ord_id_of(stands.order.client_id)
        await alice.order("sell", price, "0.01", cl_ord_id=own)
        (txid,) = (await alice.ask("OpenOrders", cl_ord_id=own))["open"]
        named.clear()
        stands = belief("stands", "sell", "0.01", price, reqid=txid)
        never = [belief(f"never{at}", "buy", "0.01", price) for at in range(5)]
        async with trading([stands, *never]) as emsd:
            await emsd.synced()
            assert emsd.statuses("stands")[-1] == "open"
            assert all(emsd.statuses(one.order.oid) == ["absent"] for one in never)
        names = {cl_ord_id_of(one.order.client_id) for one in never}
        assert named == (names if is_cut else set())


@pytest.mark.parametrize("late", [0, 2], ids=["orders", "all but trades"])
async def test_an_order_is_not_absent_when_only_its_trade_is_shown_yet(
    monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    """Lists of orders are behind: the trade leads to the order, once that can be asked for."""
    asked = 0
    query = CALLS["QueryOrders"]

    def behind(ask: Any) -> Any:
        nonlocal asked
        asked += 1
        return query.run(ask) if asked > late else {}

    monkeypatch.setitem(CALLS, "OpenOrders", Call(lambda ask: {"open": {}}))
    monkeypatch.setitem(CALLS, "ClosedOrders", Call(lambda ask: {"closed": {}, "count": 0}))
    monkeypatch.setitem(CALLS, "QueryOrders", Call(behind))
    async with venue_at(limits=False) as (venue, bob):
        price = middle(venue)
        sent = belief("one", "sell", "0.01", price - 500)
        own = cl_ord_id_of(sent.order.client_id)
        await Trader(bob.port, ALICE).order("sell", price - 500, "0.01", cl_ord_id=own)
        async with trading([sent]) as emsd:
            await emsd.synced()
            assert emsd.statuses("one") == ["closed"]
            assert emsd.filled("one") == Decimal("0.01")
            assert asked > late


@pytest.mark.parametrize("has_count", [True, False])
async def test_every_page_is_read_when_no_count_is_told(
    monkeypatch: pytest.MonkeyPatch, has_count: bool
) -> None:
    """The count may be absent: pages go on until one is short, and end well where none is."""
    for module in (broker_rest, broker_history, kraken_account_rest):
        monkeypatch.setattr(module, "PAGE", 5)
    for name in ("TradesHistory", "ClosedOrders"):

        def uncounted(ask: Any, call: Call = CALLS[name]) -> Any:
            said = call.run(ask)
            return said if has_count else {k: v for k, v in said.items() if k != "count"}

        monkeypatch.setitem(CALLS, name, Call(uncounted))
    async with venue_at(limits=False) as (venue, bob):
        alice, price = Trader(bob.port, ALICE), middle(venue)
        async with broker_rest.open_private(credentials(), f"kraken.c{has_count}") as rest:
            rest.tier(18_000)
            for count in (10, 12):
                while len(account_at(venue).fills) < count:
                    await alice.order("sell", price - 500, "0.001")
                assert len(await rest.trades_since(0)) == count
                assert len(await rest.closed_since(0)) == count
        opened = trade_history(credentials(), (), 0)
        async with opened as pages:
            if has_count:
                assert sum([len(page) async for page in pages]) == 12
            else:
                with pytest.raises(DataQuality, match="does not tell how many") as caught:
                    await anext(aiter(pages))
                assert "ledger import" in caught.value.remedy


# -- fills under two names -----------------------------------------------------------------------
MERGES = pytest.mark.parametrize("merges", ["", "first", "own"])


async def offer(bob: Any, price: Decimal, levels: int = 3) -> Decimal:
    """Have bob offer a little at several prices; return the last of them."""
    for level in range(levels):
        await bob.order("sell", price + level * TICK, "0.02")
    return price + (levels - 1) * TICK


def bought(account: Any) -> Decimal:
    """Return what an account bought, less what it sold, by the venue."""
    signed = {"buy": 1, "sell": -1}
    return sum((signed[row["type"]] * Decimal(row["vol"]) for row in account.fills), Decimal(0))


def told(emsd: Any) -> Decimal:
    """Return what it bought by what emsd was told, each fill counted once by its id."""
    signed = {Action.BUY: 1, Action.SELL: -1}
    return sum((signed[one.action] * one.size for one in emsd.fills.values()), Decimal(0))


@MERGES
async def test_positions_equal_the_venues_when_rest_names_fills_otherwise(merges: str) -> None:
    """Told live, then asked for after a cut: what REST calls by other names is not told again.

    What came while we were away is; so are fills of others' orders.
    """
    async with session(limits=False) as (venue, bob, emsd):
        desk, account = venue.accounts.desk, account_at(venue)
        desk.merges = merges
        top = await offer(bob, middle(venue))
        await emsd.order("one", "buy", "0.1", top)
        await emsd.until(lambda: emsd.filled("one") == Decimal("0.06"))
        odd = venue_quality("kraken").counts["fill-ids"]
        venue.cut(refuse_s=0.5)
        await emsd.until(lambda: emsd.sync == "lost")
        await bob.order("sell", top, "0.03")
        await offer(bob, top + TICK)
        await Trader(bob.port, ALICE).order("buy", top + 3 * TICK, "0.06")
        await emsd.synced()
        assert told(emsd) == bought(account) == Decimal("0.15")
        assert emsd.filled("one") == Decimal("0.09")
        await bob.order("sell", top, "0.01")
        assert (await emsd.status("one", "closed")).filled == emsd.filled("one") == Decimal("0.1")
        assert told(emsd) == bought(account)
        assert (venue_quality("kraken").counts["fill-ids"] > odd) == bool(merges)


@MERGES
async def test_no_fill_is_told_once_more_when_a_former_dialog_told_it(merges: str) -> None:
    """By the ids that emsd has, and by the sum that they come to; what is new is told."""
    async with venue_at(limits=False) as (venue, bob):
        venue.accounts.desk.merges = merges
        top = await offer(bob, middle(venue))
        async with trading() as emsd:
            await emsd.synced()
            await emsd.order("one", "buy", "0.1", top)
            await emsd.until(lambda: emsd.filled("one") == Decimal("0.06"))
        await bob.order("sell", top, "0.03")
        known = belief("one", "buy", "0.1", top, emsd.reqid("one"), emsd)
        async with trading([known]) as again:
            await again.synced()
            assert [fill.size for fill in again.fills.values()] == [Decimal("0.03")]
            await bob.order("sell", top, "0.01")
            closed = await again.status("one", "closed")
            assert (closed.filled, again.filled("one")) == (Decimal("0.1"), Decimal("0.04"))


@MERGES
@pytest.mark.parametrize("what", ["drop", "late"])
async def test_a_fill_counts_once_when_rest_was_quicker_than_the_stream(
    merges: str, what: str
) -> None:
    """Its report is lost, or comes after REST has told the same under other names."""
    async with session(limits=False) as (venue, bob, emsd):
        venue.accounts.desk.merges = merges
        top = await offer(bob, middle(venue))
        delay = {"delay_s": 1.0} if what == "late" else {}
        venue.gate.add_faults([Fault(what=what, match='"exec_type":"trade"', count=3, **delay)])
        await emsd.order("one", "buy", "0.06", top)
        await emsd.status("one", "closed")
        await trio.sleep(1.2)
        await emsd.synced()
        assert told(emsd) == bought(account_at(venue)) == Decimal("0.06")


async def test_a_fill_is_told_when_its_orders_sum_was_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A trade is shown before its order has it: it is withheld, asked for again, and told."""
    query, asked = CALLS["QueryOrders"], 0

    def behind(ask: Any) -> Any:
        nonlocal asked
        asked += 1
        rows = query.run(ask)
        if asked == 1:
            rows = {name: {**row, "vol_exec": "0.00000000"} for name, row in rows.items()}
        return rows

    monkeypatch.setitem(CALLS, "QueryOrders", Call(behind))
    async with session(limits=False) as (venue, bob, emsd):
        price = middle(venue)
        await emsd.order("one", "buy", "0.1", price)
        await emsd.status("one", "open")
        monkeypatch.setitem(CALLS, "OpenOrders", Call(lambda ask: {"open": {}}))
        venue.cut(refuse_s=0.3)
        await emsd.until(lambda: emsd.sync == "lost")
        venue.gate.add_faults([Fault(what="drop", match="executions", count=1)])
        await bob.order("sell", price, "0.04")
        await emsd.synced()
        assert emsd.filled("one") == Decimal("0.04")
        assert asked > 1


# -- the private counter -------------------------------------------------------------------------
async def test_the_switch_is_not_tried_all_the_time_when_it_can_not_be_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each try by REST counts, and what it uses up is missing elsewhere."""
    assert broker_sync.GUARD_AGAIN_S == 5
    for name, value in (("GUARD_S", 0.02), ("GUARD_WAIT_S", 0.02), ("GUARD_AGAIN_S", 0.5)):
        monkeypatch.setattr(broker_sync, name, value)
    fault = Fault(what="status", status=500, match="CancelAllOrdersAfter")
    faults = [Fault(what="drop", match="answer cancel_all_orders_after"), fault]
    async with session(limits=False) as (venue, _, emsd):
        venue.gate.add_faults(faults)
        await emsd.order("one", "buy", "0.01", middle(venue) - 900)
        await emsd.status("one", "open")
        await trio.sleep(1.6)
        hits = sum(one.hits for one in venue.gate.injector.armed if one.fault is fault)
        assert 2 <= hits <= 4
        venue.gate.injector.clear()


async def test_the_switch_is_stopped_when_we_leave_and_there_is_no_room_in_the_counter() -> None:
    """It counts one like a question; without room it is sent all the same, and in time."""
    async with venue_at() as (venue, _):
        async with trading() as emsd:
            await emsd.synced()
            await emsd.order("one", "buy", "0.01", middle(venue) - 900)
            await emsd.status("one", "open")
            with trio.fail_after(10):
                while "alice" not in venue.accounts.timers:
                    await trio.sleep(0.01)
            rest = emsd.dialog.rest
            rest.budget.observe(f"private {emsd.account}", 20)
        assert venue.accounts.timers == {}
        assert len(account_at(venue).open) == 1


async def test_lists_of_what_is_over_count_as_the_dearer_of_two_documents_has_it() -> None:
    """Four of the counter each, a question one, the switch one: of twenty, ten are left or less."""
    async with venue_at(limits=False):
        async with broker_rest.open_private(credentials(), "kraken.counted") as rest:
            for ask, least in (
                (lambda: rest.trades_since(0), 4), (lambda: rest.closed_since(0), 4),
                (lambda: rest.closed_orders("x"), 4), (lambda: rest.cancel_after(60), 1),
            ):  # fmt: skip
                before = _used(rest)
                await ask()
                assert _used(rest) - before > least - 0.5, ask


def _used(rest: Any) -> float:
    """Return what is used up of a key's counter, by our reckoning."""
    return float(rest.budget.used(f"private {rest._account}"))


@pytest.mark.parametrize("is_answered", [True, False])
async def test_an_amendment_makes_an_order_young_again_for_the_engines_counter(
    is_answered: bool,
) -> None:
    """Its cancel costs eight again, told by the answer or by the stream: ours counts as theirs."""
    async with session() as (venue, _, emsd):
        price = middle(venue) - 900
        await emsd.order("one", "buy", "0.01", price)
        await emsd.status("one", "open")
        txid, long_ago_ns = emsd.reqid("one"), wall_ns() - 400 * NS
        held = emsd.dialog.book.find("", txid)
        (order,) = account_at(venue).orders.values()
        held.made_ns, order.made_ms = long_ago_ns, long_ago_ns // 1_000_000
        if not is_answered:
            venue.gate.add_faults([Fault(what="drop", match="answer amend_order")])
        await emsd.order("one", "buy", "0.02", price, reqid=txid)
        await emsd.until(lambda: held.order.size == Decimal("0.02"))
        kind = f"trading {emsd.account} BTC/USD"
        before = emsd.dialog.rest.budget.used(kind), venue.accounts.desk.rates.now("alice BTC/USD")
        await emsd.cancel("one")
        await emsd.status("one", "canceled")
        after = emsd.dialog.rest.budget.used(kind), venue.accounts.desk.rates.now("alice BTC/USD")
        assert [7 < late - early <= 8 for early, late in zip(before, after, strict=True)] == [
            True, True
        ]  # fmt: skip


# -- balances ------------------------------------------------------------------------------------
async def test_what_earns_is_no_balance_that_can_be_traded() -> None:
    """By update, by snapshot and by REST: the spot wallet's alone, and still so after a trade."""
    async with session() as (venue, _, emsd):
        desk, account = venue.accounts.desk, account_at(venue)
        has = account.purse.of("BTC").free
        desk.allocate(account, "BTC", Decimal(4), wall_ns() // 1_000_000)
        await emsd.until(lambda: emsd.balances["btc"].total == has - 4)
        del emsd.events[:]
        venue.cut()
        await emsd.until(lambda: emsd.sync == "lost")
        await emsd.synced()
        told = [one for one in emsd.events if isinstance(one, BrokerdBalance)]
        btc = [one for one in told if one.asset == "btc"]
        assert len(btc) >= 2  # the snapshot's, and REST's
        assert {one.total for one in btc} == {has - 4}
        assert {one.total for one in told if one.asset == "xbt.f"} == {Decimal(4)}
        await emsd.order("one", "sell", "0.5")
        await emsd.status("one", "closed")
        await agree(venue, emsd)
