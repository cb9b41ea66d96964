"""Kraken's order backend when things go wrong: outages, restarts, lost frames, unknown outcomes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import trio
from kraken_client import ALICE, TICK, Trader, middle, top_of
from kraken_trading import Proxy, account_at, agree, quick, session, trading, venue_at

from piker.brokers.kraken.broker_ids import cl_ord_id_of
from piker.clearing.requests import client_id_of
from piker.clock import wall_ns
from piker.orders import (
    Action,
    BrokerdBelief,
    BrokerdOrder,
    BrokerdOrderAck,
    BrokerdStatus,
    BrokerdSync,
)
from piker.testing.faults import Fault
from piker.testing.kraken_account_params import Refusal
from piker.testing.kraken_account_rest import CALLS, Call
from piker.testing.loopback import point_backend_at

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")


def belief(oid: str, side: str, size: Any, price: Any, **more: Any) -> BrokerdBelief:
    """Return what emsd would believe of an order; ``reqid`` and ``filled`` if it knows them."""
    filled = Decimal(more.pop("filled", 0))
    order = BrokerdOrder(
        oid=oid, client_id=client_id_of(oid), account="kraken.main", time_ns=wall_ns(),
        symbol="xbtusd.spot", action=Action(side), size=Decimal(size), price=Decimal(price), **more,
    )  # fmt: skip
    return BrokerdBelief(order=order, filled=filled)


def syncs(emsd: Any) -> list[str]:
    """Return the states that were told."""
    return [str(event.state) for event in emsd.events if isinstance(event, BrokerdSync)]


# -- the stream ------------------------------------------------------------------------------
async def test_fills_are_told_when_they_happened_while_we_were_away() -> None:
    """An outage: LOST, SYNCING, and SYNCED after every fill, end and balance."""
    async with session() as (venue, bob, emsd):
        price = middle(venue)
        await emsd.order("part", "buy", "0.5", price)
        await emsd.order("whole", "buy", "0.1", price + TICK)
        await emsd.order("gone", "buy", "0.1", price - 900)
        for oid in ("part", "whole", "gone"):
            await emsd.status(oid, "open")
        await bob.order("sell", price + TICK, "0.05")
        await emsd.until(lambda: emsd.fills)
        venue.cut(refuse_s=1.0)
        await emsd.until(lambda: emsd.sync == "lost")
        await bob.order("sell", price, "0.25")
        alice = Trader(bob.port, ALICE)
        stranger = await alice.order("buy", price + TICK, "0.03")
        await bob.order("sell", price, "0.03")
        desk, account = venue.accounts.desk, account_at(venue)
        desk.end(desk.found(account, emsd.reqid("gone")), "CANCELED", 0, "by hand")
        emsd.events.clear()
        await emsd.synced()
        assert syncs(emsd) == ["syncing", "synced"]
        assert isinstance(emsd.events[-1], BrokerdSync)  # nothing is told after it
        assert emsd.filled("part") == Decimal("0.2")
        assert emsd.filled("whole") == Decimal("0.1")
        assert emsd.statuses("gone")[-1] == "canceled"
        assert [one.size for one in emsd.fills.values() if one.reqid == stranger] == [
            Decimal("0.03")
        ]  # fmt: skip
        balances = {name: one.total for name, one in emsd.balances.items()}
        purse = account_at(venue).purse
        assert balances["btc"] == purse.of("BTC").free + purse.of("BTC").locked
        await agree(venue, emsd)


async def test_a_frame_that_was_lost_is_seen_when_the_next_one_comes() -> None:
    """A gap in the numbers: SYNCING, then all of it is told; nothing twice that counts."""
    faults = [Fault(what="drop", match='"exec_type":"trade"', count=1)]
    async with session(faults=faults) as (venue, bob, emsd):
        price = middle(venue)
        await emsd.order("one", "buy", "0.5", price)
        await emsd.status("one", "open")
        await bob.order("sell", price, "0.2")
        await bob.order("sell", price, "0.3")
        assert (await emsd.status("one", "closed")).filled == Decimal("0.5")
        assert emsd.filled("one") == Decimal("0.5")
        await emsd.synced()
        assert syncs(emsd)[-2:] == ["syncing", "synced"]
        assert "lost" not in syncs(emsd)
        await agree(venue, emsd)


async def test_a_frame_that_was_lost_is_found_when_nothing_follows_it() -> None:
    """The venue is healthy and silent: a look now and then finds the fill and the end."""
    faults = [
        Fault(what="drop", match='"exec_type":"(trade|filled)"'),
        Fault(what="drop", match="ledger_id"),
    ]
    async with session(faults=faults) as (venue, bob, emsd):
        price = middle(venue)
        await emsd.order("one", "buy", "0.5", price)
        await emsd.status("one", "open")
        await bob.order("sell", price, "0.5")
        assert (await emsd.status("one", "closed")).filled == Decimal("0.5")
        assert emsd.filled("one") == Decimal("0.5")


@pytest.mark.parametrize("match", ["executions", "balances", "answer subscribe"])
async def test_an_account_is_synced_when_the_first_message_was_lost(match: str) -> None:
    """An update stands for the snapshot; without one the connection is made anew."""
    faults = [Fault(what="drop", match=match, count=1)]
    async with venue_at(faults=faults) as (venue, bob), trading() as emsd:
        await emsd.synced()
        price = middle(venue)
        await emsd.order("one", "buy", "0.1", price)
        await bob.order("sell", price, "0.1")
        await emsd.status("one", "closed")
        await agree(venue, emsd)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(what="garble", match="executions", count=2, every=3),
        Fault(what="garble", match="executions", part="number", every=4),
        Fault(what="duplicate", match="executions"),
        Fault(what="reorder", match="executions", every=2),
        Fault(what="late", match="executions", every=3, delay_s=0.3),
        Fault(what="late", match="answer", delay_s=0.9),
        Fault(what="duplicate", match="answer"),
        Fault(what="drop", match="answer add_order"),
        Fault(what="drop", match="executions", every=2),
        Fault(what="garble", match="answer", every=2),
        Fault(what="close", match='"exec_type":"new"', every=3),
        pytest.param(  # it is the silence of 15 s that tells
            Fault(what="half-open", match="answer add_order", every=5), marks=pytest.mark.full
        ),
    ],
    ids=lambda fault: f"{fault.what} {fault.match} {fault.part or ''}"[:40].replace('"', ""),
)
@pytest.mark.slow
async def test_what_is_told_equals_what_the_venue_has_when_frames_are_harmed(fault: Fault) -> None:
    """Twelve orders, filled, canceled and edited, under one fault: the same to the digit."""
    async with session(limits=False) as (venue, bob, emsd):
        price = middle(venue)
        venue.gate.add_faults([fault])
        for number in range(12):
            oid = f"o{number}"
            await emsd.order(oid, "buy", "0.01", price - number * TICK)
            if number % 3 == 1:
                await bob.order("sell", price - 100, "0.005")
            if number % 3 == 2:
                await emsd.cancel(oid)
        await trio.sleep(1)
        venue.gate.injector.clear()
        await agree(venue, emsd)
        await emsd.synced()
        for number in range(12):
            oid = f"o{number}"
            placed = any(o.cl_ord_id == _own(oid) for o in account_at(venue).orders.values())
            refused = [e for e in emsd.errors(oid) if e.request == "order"]
            assert placed != bool(refused or "absent" in emsd.statuses(oid)), emsd.of(oid)


def _own(oid: str) -> str:
    from piker.brokers.kraken.broker_ids import cl_ord_id_of

    return cl_ord_id_of(client_id_of(oid))


# -- unknown outcomes ------------------------------------------------------------------------
async def test_an_order_is_unknown_then_proved_when_neither_answer_nor_event_comes() -> None:
    """It stands: unknown is told, then its id and that it is open. It is never called rejected."""
    faults = [
        Fault(what="drop", match="answer add_order", count=1),
        Fault(what="drop", match="executions", count=2),
    ]
    async with session() as (venue, _, emsd):
        venue.gate.add_faults(faults)
        await emsd.order("one", "buy", "0.01", top_of(venue)[0] - 900)
        await emsd.status("one", "unknown")
        await emsd.status("one", "open")
        assert emsd.statuses("one") == ["unknown", "open"]
        assert emsd.reqid("one") == next(iter(account_at(venue).orders.values())).txid
        assert emsd.errors("one") == []


async def test_an_order_is_absent_only_when_the_venue_can_not_carry_it_out_any_more() -> None:
    """It never arrived: unknown, and absent after the engine's deadline, asked twice."""
    async with venue_at(limits=False) as (venue, _), trio.open_nursery() as nursery:
        proxy = Proxy(venue.port)
        point_backend_at("kraken", await nursery.start(proxy.run))
        async with trading() as emsd:
            await emsd.synced()
            proxy.deaf = True
            sent_ns = wall_ns()
            await emsd.order("one", "buy", "0.01", top_of(venue)[0] - 900)
            await emsd.status("one", "unknown")
            proxy.deaf = False
            told = await emsd.status("one", "absent")
            assert told.time_ns - sent_ns > 1.2e9  # the deadline that it was sent with
            assert emsd.statuses("one") == ["unknown", "absent"]
            assert emsd.errors("one") == []
            assert not account_at(venue).orders
            await emsd.order("two", "buy", "0.01", top_of(venue)[0] - 900)
            await emsd.status("two", "open")
            proxy.deaf = True
            await emsd.order("two", "buy", "0.02", top_of(venue)[0] - 900, reqid=emsd.reqid("two"))
            await emsd.cancel("two")
            await emsd.until(lambda: emsd.statuses("two").count("unknown") == 2)
            proxy.deaf = False
            await emsd.until(lambda: len(emsd.errors("two")) == 2)
            assert {error.request for error in emsd.errors("two")} == {"edit", "cancel"}
            assert emsd.statuses("two")[-1] == "open"
            await agree(venue, emsd)
        nursery.cancel_scope.cancel()


async def test_edits_and_cancels_are_proved_when_their_answers_are_lost() -> None:
    """What was done is told as done, by what the venue has."""
    async with session() as (venue, _, emsd):
        price = top_of(venue)[0] - 900
        await emsd.order("one", "buy", "0.01", price)
        await emsd.status("one", "open")
        venue.gate.add_faults([
            Fault(what="drop", match="answer (amend|cancel)_order"),
            Fault(what="drop", match="executions", count=2),
        ])  # fmt: skip
        await emsd.order("one", "buy", "0.02", price - 1, reqid=emsd.reqid("one"))
        await emsd.until(lambda: len(emsd.of("one", BrokerdOrderAck)) == 2)
        assert emsd.of("one", BrokerdOrderAck)[-1].request == "edit"
        await emsd.cancel("one")
        await emsd.status("one", "canceled")
        assert emsd.errors("one") == []
        venue.gate.injector.clear()
        await agree(venue, emsd)


async def test_an_end_stays_the_last_word_when_an_edit_of_it_is_not_answered() -> None:
    """The order is filled while its edit is under way: refused, and nothing is unknown again."""
    async with session() as (venue, bob, emsd):
        price = middle(venue)
        await emsd.order("one", "buy", "0.1", price)
        await emsd.status("one", "open")
        venue.gate.add_faults([Fault(what="drop", match="answer amend_order")])
        await bob.order("sell", price, "0.1")
        await emsd.order("one", "buy", "0.2", price - 1, reqid=emsd.reqid("one"))
        await emsd.status("one", "closed")
        await emsd.until(lambda: emsd.errors("one"))
        assert emsd.errors("one")[0].request == "edit"
        assert emsd.statuses("one") == ["open", "closed"]


async def test_requests_are_refused_and_cancels_go_by_rest_when_there_is_no_stream() -> None:
    """Nothing is sent without the stream but what lowers risk."""
    async with session() as (venue, _, emsd):
        price = top_of(venue)[0] - 900
        await emsd.order("one", "buy", "0.01", price)
        await emsd.status("one", "open")
        venue.cut(refuse_s=1.5)
        await emsd.until(lambda: emsd.sync == "lost")
        await emsd.order("two", "buy", "0.01", price)
        await emsd.until(lambda: emsd.errors("two"))
        assert "not connected; nothing was sent" in emsd.errors("two")[0].reason
        await emsd.cancel("one")
        await emsd.status("one", "canceled")
        await emsd.synced()
        await agree(venue, emsd)


async def test_a_session_is_renewed_when_its_token_has_ended() -> None:
    """The request is refused, which proves that nothing was done; the next one goes through."""
    async with session() as (venue, _, emsd):
        price = top_of(venue)[0] - 900
        venue.accounts.keys.end_tokens()
        await emsd.order("one", "buy", "0.01", price)
        await emsd.until(lambda: emsd.errors("one"))
        assert "ESession" in emsd.errors("one")[0].reason
        await emsd.until(lambda: emsd.sync != "synced")
        await emsd.synced()
        await emsd.order("two", "buy", "0.01", price)
        await emsd.status("two", "open")


@pytest.mark.parametrize("ahead_s", [-5, 5])
async def test_no_harm_is_done_when_the_clocks_differ(ahead_s: float) -> None:
    """An order whose deadline was long over is proved absent; the next answer sets the clock."""
    async with session(limits=False) as (venue, _, emsd):
        price = top_of(venue)[0] - 900
        emsd.dialog.ahead_ns = round(ahead_s * 1e9)
        await emsd.order("one", "buy", "0.01", price)
        late = ahead_s < 0
        await emsd.status("one", "absent" if late else "open")
        assert emsd.statuses("one") == (["unknown", "absent"] if late else ["open"])
        await emsd.order("two", "buy", "0.01", price)
        await emsd.status("two", "open")
        assert abs(emsd.dialog.ahead_ns) < 1e9
        await agree(venue, emsd)


# -- restarts --------------------------------------------------------------------------------
async def test_every_belief_has_its_answer_when_a_dialog_begins() -> None:
    """Open, edited, filled while away, canceled, in doubt, and one that never arrived."""
    async with venue_at() as (venue, bob):
        price = middle(venue)
        async with trading() as emsd:
            await emsd.synced()
            for oid in ("open", "part", "whole", "ended", "doubt"):
                await emsd.order(
                    oid, "buy", "0.1", price if oid in ("part", "whole") else price - 900
                )
                await emsd.status(oid, "open")
            await bob.order("sell", price, "0.04")
            await emsd.until(lambda: emsd.fills)
            ids = {oid: emsd.reqid(oid) for oid in ("open", "part", "whole", "ended")}
            early = set(emsd.fills)
        await bob.order("sell", price, "0.13")
        await Trader(bob.port, ALICE).ask("CancelOrder", txid=ids["ended"])
        beliefs = [
            belief("open", "buy", "0.1", price - 900, reqid=ids["open"]),
            belief("part", "buy", "0.1", price, reqid=ids["part"], filled="0.04"),
            belief("whole", "buy", "0.1", price, reqid=ids["whole"]),
            belief("ended", "buy", "0.1", price - 900, reqid=ids["ended"]),
            belief("doubt", "buy", "0.1", price - 900),
            belief("never", "buy", "0.1", price),
        ]
        async with trading(beliefs) as again:
            await again.synced()
            assert [again.statuses(b.order.oid)[-1] for b in beliefs] == [
                "open", "closed", "open", "canceled", "open", "absent",
            ]  # fmt: skip
            assert again.filled("part") == Decimal("0.1")
            assert again.filled("whole") == Decimal("0.07")
            assert early <= set(again.fills)
            assert again.reqid("doubt")
            sync = [at for at, e in enumerate(again.events) if isinstance(e, BrokerdSync)]
            assert (syncs(again), sync[-1]) == (["syncing", "synced"], len(again.events) - 1)
            await again.cancel("doubt")
            await again.status("doubt", "canceled")
            await agree(venue, again)


@pytest.mark.parametrize("refuses", [False, True])
async def test_an_order_that_the_venue_had_is_not_absent_when_it_forgot_it(
    monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    """What is absent never traded, and emsd would send again what it had set free itself.

    Whether the venue leaves it out of its answer, or refuses the whole question for it.
    """
    told = CALLS["QueryOrders"]

    def strict(ask: Any) -> Any:
        found = told.run(ask)
        if len(found) < len(ask.fields.names("txid")):
            raise Refusal("EOrder:Unknown order")
        return found

    if refuses:
        monkeypatch.setitem(CALLS, "QueryOrders", Call(strict))
    async with venue_at(limits=False) as (venue, bob):
        price, ended = top_of(venue)[0] - 900, []
        trader = Trader(bob.port, ALICE)
        for _ in range(3):
            placed = await trader.ask(
                "AddOrder", pair="XBTUSD", type="buy", ordertype="limit", price=str(price),
                volume="0.01",
            )  # fmt: skip
            ended.append(placed["txid"][0])
            await trader.ask("CancelOrder", txid=ended[-1])
        ids = [*ended[:2], "OAAAAA-BBBBB-CCCCCC", ended[2]]
        names = [str(number) for number in range(len(ids))]
        beliefs = [
            belief(name, "buy", "0.01", price, reqid=txid)
            for name, txid in zip(names, ids, strict=True)
        ]
        async with trading(beliefs) as emsd:
            await emsd.synced()
            assert [emsd.statuses(name)[-1] for name in names] == ["canceled"] * 4


@pytest.mark.parametrize("size", ["0.06", "0.1"])
async def test_fills_have_the_ids_of_the_websocket_when_rest_tells_them(size: str) -> None:
    """A taker's three are not made one: under two ids they would count twice. Ended, and open."""
    async with venue_at() as (venue, bob):
        price = middle(venue)
        for level in range(3):
            await bob.order("sell", price + level * TICK, "0.02")
        placed = await Trader(bob.port, ALICE).ask(
            "AddOrder", pair="XBTUSD", type="buy", ordertype="limit", price=str(price + 2 * TICK),
            volume=size, cl_ord_id=cl_ord_id_of(client_id_of("one")),
        )  # fmt: skip
        taken = belief("one", "buy", size, price + 2 * TICK, reqid=placed["txid"][0])
        async with trading([taken]) as emsd:
            await emsd.synced()
            own = [row for row in account_at(venue).fills if row["ordertxid"] == placed["txid"][0]]
            assert len(own) == 3
            assert {row["id"] for row in own} <= set(emsd.fills)
            assert emsd.filled("one") == Decimal("0.06")
            assert emsd.statuses("one")[-1] == ("closed" if size == "0.06" else "open")


async def test_what_a_former_process_sent_is_not_absent_while_it_may_still_arrive() -> None:
    """It comes late, and within the deadline that it was sent with: it stands, and is ours."""
    async with venue_at() as (venue, bob):
        price = top_of(venue)[0] - 900
        async with trading([belief("one", "buy", "0.01", price)]) as emsd:
            await trio.sleep(0.9)
            name = cl_ord_id_of(client_id_of("one"))
            await Trader(bob.port, ALICE).ask(
                "AddOrder", pair="XBTUSD", type="buy", ordertype="limit", price=str(price),
                volume="0.01", cl_ord_id=name,
            )  # fmt: skip
            await emsd.synced()
            assert emsd.statuses("one") == ["open"]


async def test_unknown_stays_unknown_when_the_venue_can_not_be_asked() -> None:
    """Queries that fail, in every way: nothing is told absent, nothing is synced before it is."""
    faults = [
        Fault(what="status", status=503, match="OpenOrders", count=2),
        Fault(what="unanswered", match="OpenOrders|BalanceEx", count=1),
        Fault(what="garble", match="ClosedOrders|BalanceEx", on="http", count=2),
        Fault(what="close", match="ClosedOrders", on="http", count=1),
        Fault(what="cut-short", match="ClosedOrders|OpenOrders", count=1),
    ]
    async with venue_at(limits=False) as (venue, _):
        venue.gate.add_faults(faults)
        async with trading([belief("never", "buy", "0.1", 50_000)]) as emsd:
            await emsd.synced()
            assert emsd.statuses("never") == ["absent"]
            assert sum(one.hits for one in venue.gate.injector.armed) == 7
            kinds = [type(e) for e in emsd.events]
            assert kinds.index(BrokerdStatus) < len(kinds) - 1


# -- many ------------------------------------------------------------------------------------
HARM = (
    Fault(what="drop", match="answer", probability=0.05),
    Fault(what="drop", match="executions", probability=0.05),
    Fault(what="drop", match="balances", probability=0.05),
    Fault(what="duplicate", match="answer|executions", probability=0.1),
    Fault(what="reorder", match="executions", probability=0.05),
    Fault(what="late", match="executions|answer", probability=0.05, delay_s=0.2),
    Fault(what="late", match="answer", probability=0.02, delay_s=1.0),
    Fault(what="garble", match="answer|executions", probability=0.02),
    Fault(what="garble", match="executions", part="number", probability=0.02),
    Fault(what="close", match="answer add_order", probability=0.01),
    Fault(what="close", match='"exec_type":"new"', probability=0.01),
    Fault(what="status", status=503, probability=0.05),
    Fault(what="status", status=429, probability=0.02, retry_after_s=0.2),
    Fault(what="unanswered", probability=0.05),
    Fault(what="twice", match="CancelOrder", probability=0.3),
    Fault(what="garble", on="http", probability=0.05),
    Fault(what="garble", on="http", part="number", probability=0.05),
    Fault(what="close", on="http", probability=0.05),
    Fault(what="cut-short", probability=0.03),
)


#: Almost half of what the stream says is lost, and a third of what is asked comes to nothing.
HEAVY = (
    Fault(what="drop", match="answer", probability=0.4),
    Fault(what="drop", match="executions", probability=0.4),
    Fault(what="late", match="executions|answer", probability=0.2, delay_s=0.8),
    Fault(what="duplicate", match="answer|executions", probability=0.3),
    Fault(what="unanswered", probability=0.15),
    Fault(what="twice", probability=0.2),
    Fault(what="status", status=503, probability=0.1),
    Fault(what="garble", on="http", part="number", probability=0.1),
    Fault(what="close", match="answer", probability=0.02),
)


async def _trade_through(
    count: int, seed: int, *, rate: float = 30.0, harm: Sequence[Fault] = HARM
) -> Counter[str]:
    """Send so many orders, with edits and cancels, through every fault; return what was counted."""
    dice = random.Random(seed)
    async with session(limits=False, rate=rate, seed=seed) as (venue, _, emsd):
        venue.gate.add_faults(harm)
        for number in range(count):
            bid, ask = top_of(venue)
            side = dice.choice(("buy", "sell"))
            away = dice.choice((-3, -1, 0, 1, 400))
            price = bid - away if side == "buy" else ask + away
            if dice.random() < 0.95:  # some are sent all the same while there is no stream
                await emsd.until(lambda: emsd.dialog.live, 60)
            await emsd.order(f"o{number}", side, "0.01", price)
            other = f"o{dice.randrange(number + 1)}"
            what = dice.random()
            if what < 0.3:
                await emsd.cancel(other)
            elif what < 0.45:
                sent = next((s for s in emsd.of(other, BrokerdStatus) if s.order), None)
                if sent is not None and emsd.reqid(other):
                    edit = msgspec.structs.replace(
                        sent.order, oid=other, client_id=client_id_of(other),
                        account=emsd.account, size=Decimal("0.02"), reqid=emsd.reqid(other),
                    )  # fmt: skip
                    await emsd.dialog.send(edit)
            if number % 50 == 49 and dice.random() < 0.5:
                venue.cut(refuse_s=dice.random())
            if number % 7 == 0:
                await trio.sleep(0.02)
        venue.gate.injector.clear()
        venue.rate = 0.0001  # the flow rests: what stands, stands
        desk, account = venue.accounts.desk, account_at(venue)
        await emsd.until(lambda: not emsd.dialog.doubts and emsd.sync == "synced", 300)
        await agree(venue, emsd, wait_s=120)
        await emsd.synced()
        placed = {order.cl_ord_id for order in account.orders.values()}
        assert len(placed) == len(account.orders)  # none twice
        found: Counter[str] = Counter(placed=len(placed), fills=len(emsd.fills), twice=emsd.twice)
        for number in range(count):
            oid = f"o{number}"
            gone = [e for e in emsd.errors(oid) if e.request == "order"]
            statuses = emsd.statuses(oid)
            found["unknown"] += "unknown" in statuses
            found["absent"] += "absent" in statuses
            found["refused"] += bool(gone)
            assert (_own(oid) in placed) != bool(gone or "absent" in statuses), emsd.of(oid)
        assert len(desk.open_orders(account)) == len(account.open)
        found["lost"] = syncs(emsd).count("lost")
        return found


@pytest.mark.slow
async def test_local_equals_the_venue_when_a_hundred_submits_go_through_every_fault() -> None:
    """Orders, fills, fees, ends and balances to the digit; none twice, none called rejected."""
    found = await _trade_through(100, 11)
    assert found["placed"] > 20
    assert found["unknown"] > 0


@pytest.mark.slow
async def test_local_equals_the_venue_when_almost_half_of_what_it_says_is_lost() -> None:
    """Fifty orders; what is told after an order's end is never anything but its end."""
    found = await _trade_through(50, 6, harm=HEAVY)
    assert found["placed"] > 30


@pytest.mark.full
async def test_local_equals_the_venue_when_it_goes_on_so_for_long() -> None:
    """Two hundred and fifty, with the seed that once found an end that was taken back."""
    print(dict(await _trade_through(250, 5, harm=HEAVY)))


@pytest.mark.full
async def test_local_equals_the_venue_when_a_thousand_submits_go_through_every_fault() -> None:
    """The same, a thousand times; it prints what was counted."""
    print(dict(await _trade_through(1000, 12)))
