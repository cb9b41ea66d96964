"""emsd runs for months: what it has at hand is what is open, and the newest of what has ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path

import pytest
import trio
import trio.testing
from paper_routing import BTC, OFFERED, PAPER, order, routing
from trio_typing import TaskStatus

from piker.clearing import paper, register, standing
from piker.clearing.accounts import Account
from piker.clearing.lifecycle import Phase
from piker.clearing.records import Note
from piker.clearing.replay_journal import MemoryJournal
from piker.clearing.requests import client_id_of, request_of
from piker.clearing.risk import Limits, RiskDesk
from piker.clearing.router import Router
from piker.clearing.turns import Turns
from piker.clock import wall_ns
from piker.orders import (
    Action,
    BrokerdCancel,
    BrokerdFill,
    BrokerdOrder,
    BrokerdOrderAck,
    BrokerdRequest,
    BrokerdStatus,
    BrokerdSync,
    ExecMode,
    SyncState,
    TimeInForce,
)

D = Decimal
HOUR_NS = 3600 * 10**9
WIDE = Limits(
    messages=10**9, order_notional=D(10**9), gross_exposure=D(10**12), duplicate_s=0.001,
    max_price_age_s=1e9,
)  # fmt: skip


class Hasty:
    """A venue that has an order, then calls it by another id, and cancels it at once."""

    name = "binance"

    def __init__(self) -> None:
        self.router: Router | None = None
        self.count = 0

    async def send(self, request: BrokerdRequest) -> None:
        """Answer."""
        assert self.router is not None
        if isinstance(request, BrokerdOrder):
            self.count += 1
            ids = {"oid": request.oid, "reqid": f"r{self.count}", "account": PAPER}
            self.router.hear(PAPER, BrokerdOrderAck(**ids, request="order"))
            self.router.hear(
                PAPER, BrokerdOrderAck(**{**ids, "reqid": f"{ids['reqid']}e"}, request="order")
            )
            self.router.hear(PAPER, BrokerdStatus(**ids, time_ns=1, status="canceled"))

    def ask_again(self) -> None:
        """Have nothing to ask."""


def fill(number: int, **ids: str) -> BrokerdFill:
    """Return a fill of one, by whatever ids."""
    return BrokerdFill(
        **{"reqid": "", **ids}, tid=f"t{number}", time_ns=5, size=D(1), price=D(99),
        action=Action.BUY, account=PAPER, symbol=BTC.mktid,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("count", "kept"),
    [
        pytest.param(1_500, 200, marks=pytest.mark.slow),
        pytest.param(50_000, standing.ENDED_KEPT, marks=pytest.mark.full),
    ],
)
async def test_what_has_ended_is_let_go_of_and_found_again_when_a_fill_is_late(
    count: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orders with groups, ends in time and two ids each; three stay open all the while."""
    monkeypatch.setattr(register, "ENDED_KEPT", kept)
    monkeypatch.setattr(standing, "ENDED_KEPT", kept)
    link, journal = Hasty(), MemoryJournal()
    async with trio.open_nursery() as nursery:
        router = link.router = Router(journal, nursery)
        desk = RiskDesk(PAPER, WIDE)
        router.add(Account(PAPER, desk, link, lambda _, what: what in OFFERED))
        router.know(BTC)
        router.hear(PAPER, BrokerdSync(account=PAPER, state=SyncState.SYNCED, time_ns=wall_ns()))
        router.price(BTC.fqme, D(100), wall_ns())
        end = wall_ns() + 1000 * HOUR_NS
        for number in range(3):
            await router.order(
                order(f"w{number}", exec_mode=ExecMode.DARK, trigger=D(1), size=D(1) + number)
            )
        for number in range(count):
            one = order(
                f"o{number}", tif=TimeInForce.GTD, expire_ns=end, oco=f"g{number // 2}",
                size=D(1) + number,
            )  # fmt: skip
            await router.order(one)
            if number % 100 == 99:
                await trio.testing.wait_all_tasks_blocked()
        assert link.count == count
        book, most = router.register, kept + 3
        assert router.orders[f"o{count - 1}"].phase is Phase.CANCELED
        assert "o0" not in router.orders
        assert [state.order.oid for state in book.live()] == ["w0", "w1", "w2"]
        assert len(router.orders) == len(book._live) + len(book._ended) == most
        assert len(book._by_venue) <= 3 * most
        assert len(book._reqids) <= most
        assert len(book._ties) <= kept
        assert len(book._expiring) <= 2 * 103 + register.SLACK  # a hundred were live at once
        assert len(journal.standing.ended) == kept
        assert not router._heard
        assert not len(router._turns)
        assert not router.deeds.outbox._edits
        assert not len(desk._standing)

        # -- and yet: by the venue's first and second id, by ours, by all; others' are others'
        router.hear(PAPER, fill(1, reqid="r1"))
        router.hear(PAPER, fill(2, reqid="r2e"))
        router.hear(PAPER, fill(3, client_id=client_id_of("o2")))
        router.hear(PAPER, fill(4, oid="o3", reqid="r4"))
        router.hear(PAPER, fill(5, reqid="theirs", client_id="web"))
        router.hear(PAPER, fill(1, reqid="r1"))
        await trio.testing.wait_all_tasks_blocked()
        for number in range(4):
            state = await book.recall(f"o{number}")
            assert state is not None
            assert (state.filled, state.order.size) == (1, number + 1)
        strangers = [one.entry.text async for one in journal.read() if isinstance(one.entry, Note)]
        assert len([text for text in strangers if text.startswith("buy 1 ")]) == 1
        assert len(book._foreign) == 2
        assert len(router.orders) == most
        nursery.cancel_scope.cancel()


async def test_late_fill_is_found_in_the_file_when_its_order_was_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the venue's id, and by ours of one that the venue never acknowledged."""
    monkeypatch.setattr(register, "ENDED_KEPT", 1)
    monkeypatch.setattr(standing, "ENDED_KEPT", 1)
    async with routing(tmp_path) as (router, link):
        for number, oid in enumerate("abc"):
            await router.order(order(oid, size=D(2) + number))
            await trio.testing.wait_all_tasks_blocked(0.05)
            reqid = router.orders[oid].reqid
            link.tell(
                [BrokerdStatus(oid=oid, reqid=reqid, time_ns=1, status="canceled", account=PAPER)]
            )
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert list(router.orders) == ["c"]
        link.tell([fill(1, reqid="p1"), fill(2, client_id=client_id_of("b"))])
        with trio.fail_after(10):
            while router._heard:
                await trio.sleep(0.01)
        for oid in ("a", "b"):
            state = await router.register.recall(oid)
            assert state is not None
            assert state.filled == 1
        assert await router.register.journal.find(PAPER, {"p3", "nobody's"}) == {"p3": "c"}
        assert await router.register.journal.find("binance.other", {"p3"}) == {}


async def test_oid_that_was_used_long_ago_leaves_nothing_standing_when_it_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is denied by the journal, after the limits had let it through."""
    monkeypatch.setattr(register, "ENDED_KEPT", 1)
    async with routing(tmp_path) as (router, link):
        for number, oid in enumerate("ab"):
            await router.order(order(oid, price=D(90) + number))
            await trio.testing.wait_all_tasks_blocked(0.05)
            reqid = router.orders[oid].reqid
            link.tell(
                [BrokerdStatus(oid=oid, reqid=reqid, time_ns=1, status="canceled", account=PAPER)]
            )
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert "a" not in router.orders
        async with router.news.listen() as news:
            await router.order(order("a", price=D(95)))
            assert news.receive_nowait().code == "duplicate-id"  # type: ignore[union-attr]
        assert not len(router.accounts[PAPER].desk._standing)


async def test_turns_are_taken_in_order_and_given_up_when_cancelled() -> None:
    """First come, first served; whoever is cancelled while it waits never has it."""
    turns, had = Turns(), list[int]()

    async def take(number: int) -> None:
        with await turns.of("a"):
            had.append(number)
            await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        with await turns.of("a"), await turns.of("b"):
            for number in range(3):
                scope = await nursery.start(_begun, take, number)
                await trio.testing.wait_all_tasks_blocked()
                if number == 1:
                    scope.cancel()
            assert len(turns) == 2
    assert had == [0, 2]
    assert not len(turns)


async def _begun(
    take: Callable[[int], Awaitable[None]], number: int,
    task_status: TaskStatus[trio.CancelScope],
) -> None:  # fmt: skip
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await take(number)


def test_paper_venue_does_no_order_twice_and_forgets_the_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of those that have ended it knows the newest; one that stands is known as long as it does."""
    monkeypatch.setattr(paper, "SEEN_KEPT", 5)
    broker = paper.PaperBroker(PAPER)
    broker.know(BTC)
    broker.quote(BTC.mktid, (D(99), D(10)), (D(101), D(10)), 1)

    def ask(number: int) -> list[str]:
        one = request_of(order(f"o{number}"), BTC.mktid, TimeInForce.GTC, "")
        return [type(event).__name__ for event in broker.request(one, 1)]

    for number in range(20):
        assert ask(number) == ["BrokerdStatus"]
        cancel = BrokerdCancel(
            oid=f"o{number}", client_id="", account=PAPER, symbol=BTC.mktid, time_ns=1
        )
        broker.request(cancel, 1)
        assert ask(number) == ["BrokerdOrderAck"]  # and no more than that
    assert len(broker._seen) == 5
    assert not broker.has_orders(BTC.mktid)
