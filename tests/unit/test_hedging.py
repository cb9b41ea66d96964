"""Accounts that hold both sides of a market apart: limits, reconciliation, brackets, restarts."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from paper_routing import PERP

from piker.accounting import Contract, fold
from piker.clearing import keeper
from piker.clearing.accounts import Account
from piker.clearing.denials import Denial, DenialCode
from piker.clearing.journal import open_journal
from piker.clearing.lifecycle import Phase
from piker.clearing.requests import client_id_of
from piker.clearing.risk import Limits, RiskApproved, RiskDesk, TradingState
from piker.clearing.router import Router
from piker.cli import orders_positions
from piker.cli.orders_accounts import row_of_account
from piker.clock import wall_ns
from piker.orders import (
    AccountStatus,
    Action,
    BrokerdEvent,
    BrokerdFill,
    BrokerdOrder,
    BrokerdOrderAck,
    BrokerdPosition,
    BrokerdRequest,
    BrokerdSync,
    EmsMessage,
    Order,
    PositionLeg,
    SyncState,
    decode,
    encode,
)

D = Decimal
MAIN = "binance.main"
OFFERED = {"market", "limit", "reduce_only", "edit"}


def order(oid: str, action: str = "buy", size: Any = 1, **changes: Any) -> Order:
    """Return an order at a hundred."""
    one = Order(
        oid=oid, symbol=PERP.fqme, account=MAIN, action=Action(action), size=D(size), price=D(100)
    )
    return msgspec.structs.replace(one, **changes)


def held(long: Any, short: Any, *, hedged: bool = True) -> BrokerdPosition:
    """Return what a venue tells of a position."""
    legs = [PositionLeg(size=D(size), avg_price=D(100)) for size in (long, -D(short)) if size]
    return BrokerdPosition(
        broker="binance", account=MAIN, symbol=PERP.mktid, size=D(long) - D(short),
        legs=tuple(legs) if hedged else (),
    )  # fmt: skip


# -- messages ------------------------------------------------------------------------------------
def test_both_sides_are_told_when_a_pair_is_locked() -> None:
    """The sum is nothing, the sides are not; they travel, and a message without them is read."""
    locked = held(3, 3)
    assert (locked.size, locked.long, locked.short) == (D(0), D(3), D(3))
    assert decode(encode(locked), BrokerdEvent) == locked
    for long, short in ((2, 0), (0, 2), (0, 0)):
        one = held(long, short, hedged=False)
        assert b"legs" not in encode(one)
        assert (one.long, one.short) == (D(long), D(short))
    assert decode(encode(MAIN_SYNC), BrokerdEvent) == MAIN_SYNC


MAIN_SYNC = BrokerdSync(
    account=MAIN, state=SyncState.SYNCED, time_ns=1, hedges=("usdtm",), whole=("usdtm",)
)


def test_people_see_both_sides_when_a_pair_is_locked() -> None:
    """In the table of positions and in that of accounts."""
    row = orders_positions._row((MAIN, PERP.fqme), fold([], Contract()), None, None, held(3, 3))
    assert (row.venue_size, row.venue_long, row.venue_short) == (D(0), D(3), D(3))
    for wide, column in ((True, 3), (False, 1)):
        assert "3 long, 3 short" in str(orders_positions._cells(row, wide=wide)[column])
    status = AccountStatus(account=MAIN, state="active", hedges=("usdtm",))
    assert row_of_account(status).hedges == ("usdtm",)


# -- limits --------------------------------------------------------------------------------------
def desk(**limits: Any) -> RiskDesk:
    """Return a desk that knows the market and its price."""
    one = RiskDesk(MAIN, Limits(**limits))
    one.know(PERP)
    one.price(PERP.fqme, D(100), 0)
    return one


def code(answer: RiskApproved | Denial) -> DenialCode | None:
    """Return a denial's code, None of an approval."""
    return answer.code if isinstance(answer, Denial) else None


@pytest.mark.parametrize(("hedged", "expected"), [(False, None), (True, DenialCode.GROSS_EXPOSURE)])
def test_gross_exposure_counts_both_sides_when_they_are_held_apart(
    hedged: bool, expected: DenialCode | None
) -> None:
    """A locked pair of three is worth six; held as one it is worth nothing."""
    one = desk(gross_exposure=D(650))
    one.hedges = frozenset({"usdtm"} if hedged else ())
    one.position(PERP.fqme, D(0))
    one.apart(PERP.fqme, D(3), D(3))
    assert code(one.check(order("a", "sell"), 1)) is expected
    assert code(one.check(order("b", "sell", 1, reduce_only=True), 2)) is None


def test_standing_orders_of_both_sides_count_when_both_may_open() -> None:
    """Held as one, the worse side counts; held apart, both do."""
    for hedged, expected in ((False, None), (True, DenialCode.GROSS_EXPOSURE)):
        one = desk(gross_exposure=D(500), duplicate_s=0)
        one.hedges = frozenset({"usdtm"} if hedged else ())
        assert code(one.check(order("a", "buy", 3), 1)) is None
        assert code(one.check(order("b", "sell", 3), 2)) is expected


def test_only_reduce_only_reduces_when_both_sides_are_held_apart() -> None:
    """A sell of what is long would open short; the denial says what is held."""
    one = desk()
    one.hedges, one.state = frozenset({"usdtm"}), TradingState.REDUCING
    one.position(PERP.fqme, D(2))
    one.apart(PERP.fqme, D(3), D(1))
    denial = one.check(order("a", "sell"), 1)
    assert isinstance(denial, Denial)
    assert (denial.code, "3 long or 1 short" in denial.reason) == (DenialCode.REDUCING, True)
    for oid, action in (("b", "sell"), ("c", "buy")):
        assert code(one.check(order(oid, action, reduce_only=True), 1)) is None


@pytest.mark.parametrize("first", ["fill", "position"])
def test_a_fill_counts_once_when_it_and_the_position_come_in_any_order(first: str) -> None:
    """Neither twice, nor not at all in between."""
    one = desk()
    one.hedges = frozenset({"usdtm"})
    for step in ("fill", "position") if first == "fill" else ("position", "fill"):
        if step == "fill":  # of a market of which nothing was held
            one.filled(order("z", "buy", 1), D(1), D(100))
        else:
            one.apart(PERP.fqme, D(1), D(0))
        assert one.sides(PERP.fqme) == (D(1), D(0))
    one.apart(PERP.fqme, D(1), D(1), agreed=True)
    for step in ("fill", "position") if first == "fill" else ("position", "fill"):
        if step == "fill":
            one.filled(order("a", "sell", 2), D(2), D(100))
        else:
            one.apart(PERP.fqme, D(1), D(3))
        assert one.sides(PERP.fqme) == (D(1), D(3))
    one.filled(order("b", "buy", 3, reduce_only=True), D(3), D(100))
    one.apart(PERP.fqme, D(1), D(0))
    assert one.sides(PERP.fqme) == (D(1), D(0))


def test_no_order_passes_the_limit_when_both_sides_are_held_apart() -> None:
    """3,000 random orders, cancels and fills against a second reckoning of what is at stake."""
    chance = random.Random(20)
    one = desk(gross_exposure=D(2_000), duplicate_s=0, messages=10**6, daily_loss=D(10**9))
    one.hedges = frozenset({"usdtm"})
    standing: dict[str, Order] = {}
    sides = {1: D(0), -1: D(0)}
    passed = 0
    for number in range(3_000):
        asked = order(
            f"o{number}", chance.choice(["buy", "sell"]), chance.randint(1, 9),
            reduce_only=chance.random() < 0.3,
        )  # fmt: skip
        if code(one.check(asked, 0)) is None:
            passed += 1
            standing[asked.oid] = asked
            opening = sum(each.size for each in standing.values() if not each.reduce_only)
            assert asked.reduce_only or (sum(sides.values()) + opening) * 100 <= 2_000
        if standing and chance.random() < 0.8:
            gone = standing.pop(chance.choice(list(standing)))
            one.ended(gone.oid)
            side = gone.side * (-1 if gone.reduce_only else 1)
            size = min(gone.size, sides[side]) if gone.reduce_only else gone.size
            if size and chance.random() < 0.7:
                one.filled(gone, size, D(100))
                sides[side] += -size if gone.reduce_only else size
    assert passed > 300


# -- emsd ----------------------------------------------------------------------------------------
class Line:
    """An account's link whose venue is the test."""

    name = "binance"

    def __init__(self) -> None:
        self.sent: list[BrokerdRequest] = []
        self.router: Router | None = None

    async def send(self, request: BrokerdRequest) -> None:
        """Keep what was sent."""
        self.sent.append(request)

    def ask_again(self) -> None:
        """Have nothing to ask."""

    def tell(self, *events: BrokerdEvent) -> None:
        """Let emsd hear."""
        assert self.router is not None
        for event in events:
            self.router.hear(MAIN, event)

    async def fill(self, oid: str, tid: str, size: Any = 1) -> None:
        """Fill some of the newest order that was sent for an oid; wait until that is counted."""
        assert self.router is not None
        await until(lambda: any(one.oid == oid for one in self.sent))
        before = self.router.orders[oid].filled
        asked = [one for one in self.sent if one.oid == oid][-1]
        assert isinstance(asked, BrokerdOrder)
        said: dict[str, Any] = {"oid": oid, "client_id": asked.client_id, "account": MAIN}
        self.tell(
            BrokerdOrderAck(reqid=f"r-{oid}", **said),
            BrokerdFill(
                reqid=f"r-{oid}", tid=tid, time_ns=wall_ns(), size=D(size), price=D(100),
                action=asked.action, symbol=asked.symbol, **said,
            ),
        )  # fmt: skip
        orders = self.router.orders
        await until(lambda: orders[oid].filled == before + D(size))


async def until(what: Callable[[], Any]) -> None:
    """Wait until something holds."""
    with trio.fail_after(20):
        while not what():
            await trio.sleep(0.005)


async def reconciled(router: Router) -> None:
    """Wait until what was told of positions is journaled: they agree."""
    account, standing = router.accounts[MAIN], router.keeper._journal.standing
    with trio.fail_after(20):
        while account.rebased(standing) or account.state != "active":
            await trio.sleep(0.005)


@asynccontextmanager
async def emsd(
    folder: Path, *first: BrokerdEvent, agrees: bool = True
) -> AsyncIterator[tuple[Router, Line]]:
    """Run a router on the journal in a folder; its account hedges."""
    line = Line()
    async with open_journal(folder / "journal") as journal, trio.open_nursery() as nursery:
        router = line.router = Router(journal, nursery)
        limits = Limits(gross_exposure=D(1_000), duplicate_s=0.0)
        router.add(Account(MAIN, RiskDesk(MAIN, limits), line, lambda _, what: what in OFFERED))
        router.know(PERP)
        await router.recover()
        if router.accounts[MAIN].state == "unarmed":
            await router.set_state(MAIN, TradingState.ACTIVE, "for the test")
        line.tell(*first, MAIN_SYNC)
        if agrees:
            await reconciled(router)
        router.price(PERP.fqme, D(100), wall_ns())
        yield router, line
        nursery.cancel_scope.cancel()


async def test_a_locked_pair_is_seen_and_counted_when_its_venue_tells_of_it(
    tmp_path: Path,
) -> None:
    """Clients are told both sides; what would pass the limit with them is denied."""
    async with emsd(tmp_path, held(4, 4)) as (router, line), router.news.listen() as news:
        account = router.accounts[MAIN]
        assert account.positions[PERP.fqme].long == account.positions[PERP.fqme].short == 4
        await router.order(order("a", "sell", 3))
        assert router.orders["a"].phase is Phase.DENIED
        assert "worth 1100 usd" in router.orders["a"].reason
        await router.order(order("b", "sell", 3, reduce_only=True))
        await line.fill("b", "1", 3)
        line.tell(held(1, 4))
        await router.order(order("c", "sell", 3))
        assert router.orders["c"].phase is Phase.PENDING
        line.tell(held(1, 4))
        told = [one async for one in _waiting(news) if isinstance(one, BrokerdPosition)]
        assert [(one.size, one.long) for one in told] == [(D(-3), D(1))] * 2
        assert account.status().hedges == ("usdtm",)
        told_of = decode(encode(account.status()), EmsMessage)
        assert isinstance(told_of, AccountStatus)
        assert told_of.hedges == ("usdtm",)


async def _waiting(news: Any) -> AsyncIterator[Any]:
    while True:
        try:
            yield news.receive_nowait()
        except trio.WouldBlock:
            return


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the last look at positions that differ at once."""
    monkeypatch.setattr(keeper, "SETTLE_S", 0.0)


async def test_a_side_that_differs_reduces_the_account_when_the_sum_agrees(
    tmp_path: Path,
) -> None:
    """Our fills explain the sides across a restart; a pair that somebody locked is found."""
    async with emsd(tmp_path, held(0, 0)) as (router, line):
        await router.order(order("a", "buy", 3))
        await line.fill("a", "1", 3)
        await router.order(order("b", "sell", 2))
        await line.fill("b", "2", 2)
        await router.order(order("c", "sell", 1, reduce_only=True))
        await line.fill("c", "3", 1)
        line.tell(held(2, 2), MAIN_SYNC)
        await reconciled(router)
    async with emsd(tmp_path, held(2, 2)) as (router, line):
        await router.order(order("d", "buy", 2, reduce_only=True))
        await line.fill("d", "4", 2)
        line.tell(held(2, 0), MAIN_SYNC)
        await reconciled(router)
        account = router.accounts[MAIN]
        line.tell(held(3, 1), MAIN_SYNC)
        await until(lambda: account.state == "reducing")
        assert "the long side of btcusdt.usdtm.perp.binance: the venue has 3" in account.why
        line.tell(held(2, 0), MAIN_SYNC)
        await reconciled(router)


async def test_positions_compare_by_their_sum_when_the_mode_was_changed(tmp_path: Path) -> None:
    """What was held as one says nothing of the sides that are held apart now, and back."""
    whole = msgspec.structs.replace(MAIN_SYNC, hedges=())
    async with emsd(tmp_path, held(0, 0)) as (router, line):
        line.tell(whole)
        await reconciled(router)
        await router.order(order("a", "buy", 2))
        await line.fill("a", "1", 2)
        await router.order(order("b", "sell", 2))
        await line.fill("b", "2", 2)
        for sync in (MAIN_SYNC, whole, MAIN_SYNC):
            line.tell(held(0, 0), sync)
            await reconciled(router)


async def test_a_first_position_is_not_taken_for_the_base_when_a_fill_of_it_is_still_to_come(
    tmp_path: Path,
) -> None:
    """Flat before our own orders: what is held and not explained by fills is looked at again.

    Were it taken as it is, the fill that comes after it would count twice, over restarts, too.
    """
    async with emsd(tmp_path) as (router, line):
        await reconciled(router)
        await router.order(order("a", "buy", 3))
        await line.fill("a", "1", 1)
        line.tell(held(3, 0), MAIN_SYNC)
        await until(lambda: router.accounts[MAIN].state == "reducing")
        assert "the venue has 3, we have 1" in router.accounts[MAIN].why
        await router.keeper.agree_again()
        assert router.accounts[MAIN].state == "reducing"
        await line.fill("a", "2", 2)
        await router.keeper.agree_again()
        assert router.accounts[MAIN].state == "active"
        await router.order(order("b", "sell", 1, reduce_only=True))
        await line.fill("b", "3", 1)
    async with emsd(tmp_path, held(2, 0)) as (router, _):
        await reconciled(router)


async def test_what_is_not_told_is_flat_when_all_was_told(tmp_path: Path) -> None:
    """A position that was closed elsewhere while nobody heard; not where nothing was told."""
    async with emsd(tmp_path, held(2, 2)) as (router, line):
        assert router.accounts[MAIN].positions[PERP.fqme].long == 2
        await router.lost(MAIN, "its process is gone")
        line.tell(BrokerdSync(account=MAIN, state=SyncState.SYNCED, time_ns=1))
        assert router.accounts[MAIN].positions[PERP.fqme].long == 2
        line.tell(MAIN_SYNC)
        assert router.accounts[MAIN].positions[PERP.fqme].legs == ()
        await until(lambda: router.accounts[MAIN].state == "reducing")
        assert "the long side of" in router.accounts[MAIN].why
        await router.set_state(MAIN, TradingState.ACTIVE, "a person has looked")
        line.tell(held(0, 1), MAIN_SYNC)
        await until(lambda: router.accounts[MAIN].state == "reducing")
        await router.set_state(MAIN, TradingState.ACTIVE, "a person has looked")
    async with emsd(tmp_path, held(0, 1)) as (router, line):
        pass
    async with emsd(tmp_path, agrees=False) as (router, line):
        await until(lambda: "the venue has 0, we have -1" in router.accounts[MAIN].why)


def _has_id(router: Router, oid: str) -> bool:
    return bool(router.orders[oid].reqid)


def _has_sent(line: Line, count: int) -> bool:
    return len(line.sent) == count


async def test_a_brackets_exit_closes_when_both_sides_are_held_apart(tmp_path: Path) -> None:
    """It is set free as reduce-only; one that goes the parent's way is left as it is."""
    for hedges in (True, False):
        async with emsd(tmp_path / str(hedges)) as (router, line):
            if not hedges:
                line.tell(msgspec.structs.replace(MAIN_SYNC, hedges=()))
            await router.order(order("exit", "sell", 2, parent="in", price=D(104)))
            await router.order(order("more", "buy", 1, parent="in", price=D(98)))
            await router.order(order("in", "buy", 2))
            await line.fill("in", "1", 2)
            await until(partial(_has_sent, line, 3))
            sent = {one.oid: one for one in line.sent if isinstance(one, BrokerdOrder)}
            assert (sent["exit"].reduce_only, sent["more"].reduce_only) == (hedges, False)
            assert router.orders["exit"].order.reduce_only is hedges
            assert client_id_of("exit") == sent["exit"].client_id
            line.tell(BrokerdOrderAck(oid="exit", reqid="r-exit", account=MAIN))
            await until(partial(_has_id, router, "exit"))
            await router.order(order("exit", "sell", 2, parent="in", price=D(104)))  # asked again
            assert len(line.sent) == 3
            await router.order(order("exit", "sell", 2, parent="in", price=D(103)))
            edited = line.sent[3]
            assert isinstance(edited, BrokerdOrder)
            assert (edited.reduce_only, edited.price) == (hedges, D(103))
