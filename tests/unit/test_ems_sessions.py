"""Whole sessions of emsd's router against a venue with a bad line, drawn by Hypothesis.

The router, the journal on the disk, limits, triggers and brackets are the real ones. Whenever a
session comes to rest, with the line healed and everything compared, emsd, the journal and the venue
must be of one mind.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import threading
from concurrent.futures import Future
from decimal import Decimal
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import trio
import trio.testing
from ems_venue import BadVenue
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from piker.clearing.accounts import Account
from piker.clearing.journal import open_journal, verify
from piker.clearing.lifecycle import TERMINAL, Phase
from piker.clearing.linked import What
from piker.clearing.records import Note, Record
from piker.clearing.requests import client_id_of
from piker.clearing.risk import Limits, RiskDesk, TradingState
from piker.clearing.router import Router
from piker.clock import NS, wall_ns
from piker.market import Asset, AssetType, MktPair
from piker.orders import Action, BrokerdFill, Cancel, Order, OrderKind, Status, SyncState
from piker.ticks import Side, TickType

D = Decimal
ACCOUNT = "binance.main"
BTC = MktPair(
    fqme="btcusdt.spot.binance", bs_mktid="BTCUSDT",
    dst=Asset("btc", AssetType.CRYPTO), src=Asset("usdt", AssetType.CRYPTO),
    price_tick=D("1"), size_tick=D("1"),
)  # fmt: skip
OFFERED = {"market", "limit", "ioc", "fok", "post_only", "edit"}
WIDE = Limits(
    order_notional=D(10**9), gross_exposure=D(10**12), daily_loss=D(10**12), messages=10**9,
    open_orders=10**6, duplicate_s=0.0, price_collar=D(1), max_price_age_s=1e9,
)  # fmt: skip
STEPS = 40  # rules of one session
SOON_S = 60  # nothing here takes longer unless it is broken
PRICES = st.integers(90, 110)
SIZES = st.integers(1, 5)


class Emsd:
    """A router on a journal, in a thread of its own, that can be ended at any moment."""

    def __init__(self, folder: Path, venue: BadVenue) -> None:
        self.folder = folder
        self.venue = venue
        self.router: Router
        self.told: list[Status] = []
        self._started: Future[trio.lowlevel.TrioToken] = Future()
        self._scope = trio.CancelScope()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        self._token = self._started.result(SOON_S)

    async def _main(self) -> None:
        with self._scope:
            async with open_journal(self.folder) as journal, trio.open_nursery() as nursery:
                self.journal = journal
                self.router = Router(journal, nursery)
                desk = RiskDesk(ACCOUNT, WIDE)
                account = Account(ACCOUNT, desk, self.venue, lambda _, what: what in OFFERED)
                self.router.know(BTC)
                await self.router.recover()
                self.router.add(account)
                self.venue.hear = self.router.hear
                async with self.router.news.listen() as news:
                    nursery.start_soon(self._listen, news)
                    self._started.set_result(trio.lowlevel.current_trio_token())
                    await trio.sleep_forever()

    async def _listen(self, news: trio.MemoryReceiveChannel[Any]) -> None:
        async for one in news:
            if isinstance(one, Status):
                self.told.append(one)

    def run(self, call: Any, *args: Any) -> Any:
        """Run an async function in the loop."""
        return trio.from_thread.run(call, *args, trio_token=self._token)

    def do(self, call: Any, *args: Any) -> Any:
        """Run a plain function in the loop."""
        return trio.from_thread.run_sync(call, *args, trio_token=self._token)

    def end(self) -> None:
        """End it, in whatever it is."""
        self.venue.hear = None
        self.venue.is_up = False
        trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
        self._thread.join(SOON_S)
        assert not self._thread.is_alive()

    async def rest(self) -> None:
        """Wait until everything that was said has been worked off."""
        for _ in range(2):
            note = Record(entry=Note("rest"), time_ns=wall_ns())
            await self.journal.append([note])
            await trio.testing.wait_all_tasks_blocked(0.002)
        while self.router._heard:
            await trio.sleep(0.001)


class Sessions(RuleBasedStateMachine):
    """Clients, emsd and the venue."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="piker-ems-"))
        self.venue = BadVenue(ACCOUNT, BTC)
        self.venue.quote(D(99), D(101))
        self.ems = Emsd(self.base / "journal", self.venue)
        self.count = 0
        self.told: list[Status] = []
        self.edited: set[str] = set()
        self.arm()
        self.connect()

    def teardown(self) -> None:
        """Come to rest, compare, start again twice, compare."""
        try:
            self.settle()
            before = self._states()
            for _ in range(2):
                self.restart()
                self.connect()
                self.ems.run(self.ems.rest)
                assert self._states() == before
        finally:
            self.ems.end()
            self.told += self.ems.told
        findings = verify(self.base / "journal")
        assert findings.sound, findings
        self._check_told(before)
        shutil.rmtree(self.base)

    # -- clients -------------------------------------------------------------------------------
    @rule(side=st.sampled_from(("buy", "sell")), size=SIZES, price=PRICES, post=st.booleans())
    def limit(self, side: str, size: int, price: int, post: bool) -> None:
        """Place a limit order."""
        self._submit(action=Action(side), size=D(size), price=D(price), post_only=post)

    @rule(side=st.sampled_from(("buy", "sell")), size=SIZES)
    def market(self, side: str, size: int) -> None:
        """Place a market order."""
        self._submit(action=Action(side), size=D(size), kind=OrderKind.MARKET)

    @rule(side=st.sampled_from(("buy", "sell")), size=SIZES, trigger=PRICES)
    def stop(self, side: str, size: int, trigger: int) -> None:
        """Place a stop, which waits in emsd."""
        self._submit(action=Action(side), size=D(size), kind=OrderKind.STOP, trigger=D(trigger))

    @rule(size=SIZES, price=PRICES)
    def bracket(self, size: int, price: int) -> None:
        """Place an entry with its take-profit and its stop."""
        entry = self._submit(action=Action.BUY, size=D(size), price=D(price))
        out = {"action": Action.SELL, "size": D(size), "parent": entry, "oco": f"g{entry}"}
        self._submit(price=D(price + 4), **out)
        self._submit(kind=OrderKind.STOP, trigger=D(price - 4), **out)

    @rule(size=SIZES, price=PRICES, again=st.booleans())
    def pair(self, size: int, price: int, again: bool) -> None:
        """Place a limit and a stop of which one at most trades, by a name that may be known."""
        out = {"action": Action.SELL, "size": D(size), "oco": "pair" if again else f"p{self.count}"}
        self._submit(price=D(price), **out)
        self._submit(kind=OrderKind.STOP, trigger=D(price - 4), **out)

    @rule(at=st.integers(0, 10**6), size=SIZES, price=PRICES)
    def edit(self, at: int, size: int, price: int) -> None:
        """Give a limit order other terms."""
        states = [one for one in self.ems.router.orders.values() if one.order.price is not None]
        if states:
            known = states[at % len(states)].order
            order = Order(
                oid=known.oid, symbol=BTC.fqme, account=ACCOUNT, action=known.action,
                size=D(size), price=D(price), parent=known.parent, oco=known.oco,
            )  # fmt: skip
            self.edited.add(known.oid)
            self.ems.run(self.ems.router.order, order, "c")

    @rule(at=st.integers(0, 10**6))
    def cancel(self, at: int) -> None:
        """Take any order back, one that has ended too."""
        oids = list(self.ems.router.orders) or ["nobody"]
        cancel = Cancel(oid=oids[at % len(oids)], symbol=BTC.fqme)
        self.ems.run(self.ems.router.cancel, cancel, "c")

    @rule()
    def halt(self) -> None:
        """Stop everything, then arm it again."""
        state = self.ems.router.set_state
        self.ems.run(state, ACCOUNT, TradingState.HALTED, "a test")
        self._submit(action=Action.BUY, size=D(1), price=D(99))
        assert self.ems.router.orders[f"o{self.count}"].phase is Phase.DENIED
        self.arm()

    # -- the market and the venue --------------------------------------------------------------
    @rule(mid=PRICES)
    def move(self, mid: int) -> None:
        """Move the market; triggers see it."""
        self.ems.do(self._move, mid)

    def _move(self, mid: int) -> None:
        self.venue.quote(D(mid - 1), D(mid + 1))
        self.ems.router.price(BTC.fqme, D(mid), wall_ns())
        self.ems.router.see(BTC.fqme, TickType.TRADE, Side.NONE, D(mid))

    @rule(price=PRICES, size=SIZES, side=st.sampled_from((1, -1, 0)))
    def trade(self, price: int, size: int, side: int) -> None:
        """Print a trade."""
        self.ems.do(self.venue.trade, D(price), D(size), side)

    @rule(at=st.integers(0, 10**6))
    def kick(self, at: int) -> None:
        """Have the venue cancel one of our orders by itself."""
        ids = sorted(self.venue.accepted)
        if ids:
            self.ems.do(self.venue.kick, ids[at % len(ids)])

    # -- faults --------------------------------------------------------------------------------
    @initialize(
        loss=st.sampled_from((0.0, 0.1)), again=st.sampled_from((0.0, 0.3)),
        unheard=st.sampled_from((0.1, 0.3)), unanswered=st.sampled_from((0.1, 0.3)),
        seed=st.integers(0, 999),
    )  # fmt: skip
    def begin(
        self, loss: float, again: float, unheard: float, unanswered: float, seed: int
    ) -> None:
        """Begin with a bad line."""
        self.line(loss, again, unheard, unanswered, seed)

    @rule(
        loss=st.sampled_from((0.0, 0.2)), again=st.sampled_from((0.0, 0.4)),
        unheard=st.sampled_from((0.0, 0.3)), unanswered=st.sampled_from((0.0, 0.3)),
        seed=st.integers(0, 999),
    )  # fmt: skip
    def line(self, loss: float, again: float, unheard: float, unanswered: float, seed: int) -> None:
        """Make the line as bad as it gets, or good."""
        self.venue.loss, self.venue.again = loss, again
        self.venue.unheard, self.venue.unanswered = unheard, unanswered
        self.venue.rng.seed(seed)

    @rule()
    def late(self) -> None:
        """Hear what was held back."""
        self.ems.do(self.venue.late)

    @rule()
    def cut(self) -> None:
        """Cut the line."""
        self.venue.is_up = False
        self.ems.run(self.ems.router.lost, ACCOUNT, "cut")

    @rule()
    def connect(self) -> None:
        """Mend the line: everything is compared."""
        self.ems.do(self._connect)

    def _connect(self) -> None:
        self.ems.router.price(BTC.fqme, D(100), wall_ns())
        self.venue.sync(self.ems.router.beliefs(ACCOUNT))

    @rule()
    def restart(self) -> None:
        """End emsd wherever it is, and start it again on its journal."""
        self.ems.end()
        self.told += self.ems.told
        self.ems = Emsd(self.base / "journal", self.venue)

    def arm(self) -> None:
        """Let the account trade."""
        self.ems.run(self.ems.router.set_state, ACCOUNT, TradingState.ACTIVE, "a test")

    # -- what must hold ------------------------------------------------------------------------
    @invariant()
    def counted(self) -> None:
        """Count the steps; what can be checked at any moment is."""
        type(self).steps += 1
        for ids in self.venue.accepted.values():
            assert len(ids) == 1  # one intent, at most one order

    @rule()
    def settle(self) -> None:
        """Come to rest with a good line, and hold emsd against the venue."""
        self.line(0.0, 0.0, 0.0, 0.0, 0)
        for _ in range(3):  # what is sent again may be answered only then
            self.ems.run(self.ems.rest)
            self.connect()
            self.ems.run(self.ems.rest)
            self.ems.run(self.ems.router.expire, wall_ns() + 2 * NS)  # what was refused, again
            self.ems.run(self.ems.rest)
        assert self.ems.router.accounts[ACCOUNT].sync is SyncState.SYNCED
        self._check()

    def _check(self) -> None:
        venue, total = self.venue, D(0)
        standing = {held.order.client_id for held in venue.broker._held.values()}
        for oid, state in self.ems.router.orders.items():
            client_id = client_id_of(oid)
            fills = {fill.tid: fill for fill in venue.fills[client_id]}
            assert state.filled == sum((fill.size for fill in fills.values()), D(0)), oid
            fees = sum((fill.fee for fill in fills.values()), D(0))
            assert state.fees.get("usdt", D(0)) == fees
            total += state.order.side * state.filled
            at_venue = client_id in standing
            assert at_venue == (state.phase in (Phase.OPEN, Phase.PARTIAL)), (oid, state.phase)
            assert state.phase not in (Phase.PENDING, Phase.UNKNOWN)
            assert (state.editing, state.wanted) == (None, None), oid  # no edit is left behind
            if state.phase in (Phase.REJECTED, Phase.DENIED):
                assert not fills
            assert state.filled <= state.order.size or state.editing is not None or fills
            due = self.ems.router.register.due(state)  # WAIT: its parent may still trade
            assert due is None or due.what is What.WAIT, (oid, state)
        assert self.ems.journal.standing.nets.get((ACCOUNT, BTC.fqme), D(0)) == total
        self._check_brackets()

    def _check_brackets(self) -> None:
        """No more goes out than came in, but where a client made an exit larger."""
        orders = self.ems.router.orders
        for entry in orders:
            exits = [one for one in orders.values() if one.order.parent == entry]
            if self.edited.isdisjoint(one.order.oid for one in exits):
                out = sum((one.filled for one in exits), D(0))
                assert out <= orders[entry].filled, (entry, out)

    def _check_told(self, states: dict[str, tuple[str, Decimal]]) -> None:
        """Whatever clients were told to have ended has ended, and no fill was taken back."""
        for status in self.told:
            if status.resp == "error" or status.oid not in states:
                continue
            phase, filled = states[status.oid]
            assert filled >= status.filled
            if status.resp in TERMINAL and status.resp not in ("rejected", "denied"):
                assert phase == status.resp or filled > status.filled, status

    def _states(self) -> dict[str, tuple[str, Decimal]]:
        return {oid: (one.phase, one.filled) for oid, one in self.ems.router.orders.items()}

    def _submit(self, **terms: Any) -> str:
        self.count += 1
        oid = f"o{self.count}"
        order = Order(oid=oid, symbol=BTC.fqme, account=ACCOUNT, **terms)
        self.ems.run(self.ems.router.order, order, "c")
        return oid


@pytest.mark.slow
@pytest.mark.parametrize("sessions", [170, pytest.param(2000, marks=pytest.mark.full)])
def test_emsd_and_venue_are_of_one_mind_when_a_session_comes_to_rest(sessions: int) -> None:
    """Over at least 5,000 steps of clients, market, faults and restarts."""
    Sessions.steps = 0
    run_state_machine_as_test(
        Sessions,
        settings=hypothesis.settings(
            max_examples=sessions, stateful_step_count=STEPS, deadline=None, print_blob=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )  # fmt: skip
    print(f"{Sessions.steps} steps")
    assert Sessions.steps >= 5000 * sessions // 170


@pytest.mark.slow
@pytest.mark.parametrize("states", [20, pytest.param(300, marks=pytest.mark.full)])
def test_halt_works_from_any_state_when_it_is_called(states: int) -> None:
    """Nothing opens from the next turn on, everything ends, and only a person arms it again."""
    for seed in range(states):
        rng = random.Random(seed)
        session = Sessions()
        try:
            walk(session, rng)
            ems = session.ems
            ems.run(ems.router.set_state, rng.choice((ACCOUNT, "")), TradingState.HALTED, "now")
            refused = session._submit(action=Action.BUY, size=D(1), price=D(99))
            assert ems.router.orders[refused].phase is Phase.DENIED
            if rng.random() < 0.5:
                session.restart()
            session.settle()
            router = session.ems.router
            assert not router.register.live(), [one.phase for one in router.register.live()]
            assert not session.venue.broker._held
            refused = session._submit(action=Action.BUY, size=D(1), price=D(99))
            assert router.orders[refused].code == "halted"
            for name in ("", ACCOUNT):
                session.ems.run(router.set_state, name, TradingState.ACTIVE, "again")
            passed = session._submit(action=Action.BUY, size=D(1), price=D(98))
            assert router.orders[passed].phase is not Phase.DENIED
        finally:
            session.teardown()


def walk(session: Sessions, rng: random.Random) -> None:
    """Bring a session into some state: of orders, of the line, of emsd."""
    session.line(0.1, 0.3, 0.2, 0.2, rng.randrange(1000))
    for _ in range(rng.randrange(1, 15)):
        price, size, at = rng.randrange(90, 110), rng.randrange(1, 5), rng.randrange(10**6)
        call, terms = rng.choice([
            (session.limit, ("buy", size, price, False)),
            (session.limit, ("sell", size, price, True)), (session.stop, ("sell", size, price)),
            (session.bracket, (size, price)), (session.edit, (at, size, price)),
            (session.cancel, (at,)), (session.move, (price,)), (session.cut, ()),
            (session.connect, ()), (session.restart, ()), (session.late, ()),
        ])  # fmt: skip
        call(*terms)


@pytest.mark.slow
@pytest.mark.parametrize("count", [4_000, pytest.param(100_000, marks=pytest.mark.full)])
def test_each_fill_counts_once_however_often_and_in_whatever_order_it_comes(count: int) -> None:
    """Each comes 0 to 3 times over a stream and by queries, 20 % of it lost; then all is asked for.

    Positions and fees are exact.
    """
    rng, each = random.Random(5), 100
    session = Sessions()
    session.line(0.0, 0.0, 0.0, 0.0, 0)
    oids = [
        session._submit(action=Action(rng.choice(("buy", "sell"))), size=D(each), price=price)
        for price in (D(rng.choice((80, 120))) for _ in range(count // each))
    ]  # fmt: skip
    session.ems.run(session.ems.rest)
    router = session.ems.router
    standing = [oid for oid in oids if router.orders[oid].phase is Phase.OPEN]
    taken = [oid for oid in oids if oid not in standing]
    fills = [
        BrokerdFill(
            reqid=router.orders[oid].reqid, tid=f"x{oid}-{number}", time_ns=1, size=D(1),
            price=D(rng.randrange(8_000, 12_000)) / 100, action=router.orders[oid].order.action,
            account=ACCOUNT, client_id=client_id_of(oid), symbol=BTC.mktid,
            fee=D(rng.randrange(1, 999)) / 10**9, fee_asset=rng.choice(("usdt", "bnb")),
        )
        for oid in standing for number in range(each)
    ]  # fmt: skip
    told = [fill for fill in fills for _ in range(rng.randrange(4)) if rng.random() > 0.2]
    rng.shuffle(told)
    for part in range(0, len(told), 500):
        for fill in told[part : part + 500]:
            session.ems.do(router.hear, ACCOUNT, fill)
    for fill in fills:  # what a reconciling backend tells in the end
        session.ems.do(router.hear, ACCOUNT, fill)
    session.ems.run(session.ems.rest)
    assert len(standing) > len(taken)
    for oid in standing:
        state, mine = (
            router.orders[oid],
            [fill for fill in fills if fill.tid.startswith(f"x{oid}-")],
        )
        assert (state.phase, state.filled) == (Phase.FILLED, D(each))
        for asset in ("usdt", "bnb"):
            fees = sum((fill.fee for fill in mine if fill.fee_asset == asset), D(0))
            assert state.fees.get(asset, D(0)) == fees
        assert state.value == sum((fill.price for fill in mine), D(0))
    net = sum((one.order.side * one.filled for one in router.orders.values()), D(0))
    assert session.ems.journal.standing.nets[ACCOUNT, BTC.fqme] == net
    print(f"{len(fills)} fills, told {len(told) + len(fills)} times")
    session.ems.end()
    shutil.rmtree(session.base)
