"""Holdings at average cost, and the day's loss: the same however often emsd is started again."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from piker.accounting import Contract, Kind, Transaction, fold
from piker.clearing.accounts import Account
from piker.clearing.denials import Denial, DenialCode
from piker.clearing.holdings import DAY_NS, Holding, MarketDay, traded
from piker.clearing.journal import Journal, open_journal
from piker.clearing.lifecycle import Event, EventKind
from piker.clearing.records import Happened, Intent, Opened, Position, Record
from piker.clearing.risk import Limits, RiskApproved, RiskDesk
from piker.clearing.router import Router
from piker.clearing.standing import Standing
from piker.clock import VirtualClock, use_clock, wall_ns
from piker.market import Asset, AssetType, MktPair
from piker.money import EXACT
from piker.orders import Action, BrokerdFill, BrokerdPosition, BrokerdSync, Order, SyncState

D = Decimal
ONE = D(1)
NS = 1_000_000_000
NAME = "binance.paper"
BTC = MktPair(
    fqme="btcusdt.spot.binance", bs_mktid="BTCUSDT", dst=Asset("btc"), src=Asset("usdt"),
    price_tick=D("0.01"), size_tick=D("0.001"),
)  # fmt: skip
INVERSE = MktPair(
    fqme="btcusd.coinm.perp.binance", bs_mktid="BTCUSD_PERP", dst=Asset("btc"), src=Asset("usd"),
    price_tick=D("0.1"), size_tick=D(1), atype=AssetType.PERPETUAL, contract_size=D(100),
    inverse=True,
)  # fmt: skip
SIZES = st.decimals("-9", "9", places=3).filter(bool)
PRICES = st.decimals("0.5", "90000", places=2)
FEES = st.tuples(st.decimals("-1", "3", places=4), st.sampled_from(["usdt", "btc", "bnb"]))


@given(st.lists(st.tuples(SIZES, PRICES, FEES), min_size=1, max_size=30))
@settings(max_examples=200)
def test_holding_is_the_position_of_accounting_when_anything_is_traded(
    fills: list[tuple[Decimal, Decimal, tuple[Decimal, str]]],
) -> None:
    """Cost, what was made, fees, and what of it is since the position was last flat."""
    held, txs = Holding(), []
    for number, (size, price, (fee, asset)) in enumerate(fills):
        held = traded(held, size, price, fee, asset)
        txs.append(
            Transaction(
                account=NAME, symbol=BTC.fqme, tid=str(number), time_ns=number, kind=Kind.FILL,
                size=size, price=price, cost=fee, cost_asset=asset,
            )
        )  # fmt: skip
    linear = fold(txs, Contract(settle="usdt", base="btc"))
    assert (held.size, held.linear.basis) == (linear.size, linear.basis)
    assert (held.linear.cash, held.linear.realised) == (linear.cash, linear.realised)
    assert _some(held.fees) == _some(linear.fees)
    if held.size:
        assert EXACT.subtract(held.linear.realised, held.linear.before) == linear.since.realised
        assert _some(held.since) == _some(linear.since.fees)
    inverse = fold(txs, Contract(settle="btc", base="usd", inverse=True))
    assert abs(EXACT.subtract(held.inverse.basis, inverse.basis)) < D("1e-33")
    assert abs(EXACT.subtract(held.inverse.realised, inverse.realised)) < D("1e-33")


def _some(amounts: dict[str, Decimal]) -> dict[str, Decimal]:
    return {asset: amount for asset, amount in amounts.items() if amount}


def test_coins_are_none_when_a_price_is_zero() -> None:
    """Some futures traded at zero; the fold is total."""
    assert traded(Holding(), D(1), D(0)).inverse.basis == 0
    assert MarketDay(1).after(1, D(1), D(0)).coins == 0


# -- a day and its restarts ------------------------------------------------------------------
class Link:
    """An account's link of which nothing is asked here."""

    name = "paper.queue"

    async def send(self, request: object) -> None:
        """Take it, and say nothing."""


def order(oid: str, side: Action, mkt: MktPair = BTC, size: Decimal = ONE) -> Order:
    """Return a limit order far from everything."""
    return Order(
        oid=oid, symbol=mkt.fqme, account=NAME, action=side, size=size, price=D(60_000)
    )  # fmt: skip


def fresh(
    standing: Standing, now_ns: int, prices: dict[str, Decimal], **limits: Decimal
) -> Account:
    """Return the account as a start finds it."""
    wide: dict[str, Any] = {
        "order_notional": D(10**9),
        "gross_exposure": D(10**9),
        "daily_loss": D(1000),
        **limits,
    }
    desk = RiskDesk(NAME, Limits(**wide))
    account = Account(NAME, desk, Link(), lambda _, what: True)  # type: ignore[arg-type]
    for mkt in (BTC, INVERSE):
        desk.know(mkt)
        if mkt.fqme in prices:
            desk.price(mkt.fqme, prices[mkt.fqme], now_ns)
    account.take_up(standing, now_ns)
    return account


class Days:
    """An emsd over days: rows, their fold, and the desk that lives through them."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = 20_000 * DAY_NS + 1
        self.seq = 0
        self.standing = Standing()
        self.prices = {BTC.fqme: D(60_000), INVERSE.fqme: D(60_000)}
        self.desk = fresh(self.standing, self.now, self.prices).desk

    def row(self, entry: Intent | Happened | Opened, oid: str = "") -> None:
        """Journal something, and fold it."""
        self.seq += 1
        self.standing.apply(self.seq, NAME, oid, entry, self.now)

    def fill(self) -> None:
        """Trade something; now and then emsd is killed before its desk has heard of it."""
        oid, mkt = f"o{self.seq}", self.rng.choice([BTC, INVERSE])
        side = self.rng.choice([Action.BUY, Action.SELL])
        size = D(self.rng.randrange(1, 5000)) / 1000
        one = order(oid, side, mkt, size)
        price, fee = self.prices[mkt.fqme] + self.rng.randrange(-5, 5), D("0.01")
        asset = self.rng.choice(["usdt", "btc", "usd", "bnb", ""])
        event = Event(
            kind=EventKind.FILL, time_ns=1, tid=oid, size=size, price=price, fee=fee,
            fee_asset=asset,
        )  # fmt: skip
        self.row(Intent(one), oid)
        self.row(Happened(event, mkt.fqme), oid)
        if self.rng.random() < 0.1:
            self.restart()
        else:
            self.desk.filled(one, size, price, fee, fee_asset=asset, time_ns=self.now)

    def beat(self) -> None:
        """Let emsd look at the time: what enters the day is journaled, or emsd killed before."""
        for fqme, price in self.prices.items():
            self.desk.price(fqme, price, self.now)
        entries = self.desk.open_day(self.now)
        if self.rng.random() < 0.1:
            self.restart()
            entries = self.desk.open_day(self.now)
        for entry in entries:
            self.row(entry)

    def restart(self) -> None:
        """Start again from what the rows come to."""
        self.desk = fresh(self.standing, self.now, self.prices).desk


@pytest.mark.parametrize("seed", range(30))
def test_day_s_result_is_the_same_when_emsd_is_started_again(seed: int) -> None:
    """At any moment of days of fills, prices and midnights; and it is what a ledger would say."""
    rng = random.Random(seed)
    days = Days(rng)
    for _ in range(200):
        what = rng.random()
        if what < 0.4:
            days.fill()
        elif what < 0.7:
            fqme = rng.choice(list(days.prices))
            days.prices[fqme] = D(rng.randrange(50_000, 70_000))
        elif what < 0.75:
            days.now += DAY_NS // 2
        days.now += rng.randrange(NS)
        days.beat()
        again = fresh(days.standing, days.now, days.prices).desk
        assert again.open_day(days.now) == []
        assert again.day_result() == days.desk.day_result()
        held = days.standing.nets
        today = {fqme: day for (_, fqme), day in days.standing.days.items()}
        assert all(today[fqme].size == size for (_, fqme), size in held.items() if size)


def test_new_day_begins_anew_and_counts_from_its_own_price() -> None:
    """A loss of yesterday is no loss of today; what is held counts from midnight's price."""
    days = Days(random.Random(1))
    days.row(Intent(order("a", Action.BUY)), "a")
    event = Event(kind=EventKind.FILL, time_ns=1, tid="t", size=D(1), price=D(60_000))
    days.row(Happened(event, BTC.fqme), "a")
    days.prices[BTC.fqme] = D(59_000)
    desk = fresh(days.standing, days.now, days.prices).desk
    assert desk.day_result() == -1000
    refused = desk.check(order("b", Action.BUY), days.now)
    assert isinstance(refused, Denial)
    assert refused.code is DenialCode.DAILY_LOSS
    assert refused.reason == "today's result is -1000 usd, the limit -1000."
    days.now += DAY_NS
    desk = fresh(days.standing, days.now, days.prices).desk
    assert desk.open_day(days.now) == [Opened(BTC.fqme, D(1), D(59_000))]
    desk.price(BTC.fqme, D(58_500), days.now)
    assert desk.day_result() == -500
    assert isinstance(desk.check(order("b", Action.BUY), days.now), RiskApproved)


def test_order_is_denied_when_a_market_of_the_day_has_no_price_yet() -> None:
    """Just after a start the day's loss may be anything; what reduces passes."""
    days = Days(random.Random(1))
    one = order("a", Action.BUY, INVERSE)
    days.row(Intent(one), "a")
    event = Event(kind=EventKind.FILL, time_ns=1, tid="t", size=D(1), price=D(60_000))
    days.row(Happened(event, INVERSE.fqme), "a")
    desk = fresh(days.standing, days.now, {BTC.fqme: D(60_000)}).desk
    assert desk.unpriced() == [INVERSE.fqme]
    refused = desk.check(order("b", Action.BUY), days.now)
    assert isinstance(refused, Denial)
    assert (refused.code, "traded today" in refused.reason) == (DenialCode.NO_REFERENCE, True)
    desk.price(INVERSE.fqme, D(60_000), days.now)
    assert isinstance(desk.check(order("b", Action.BUY), days.now), RiskApproved)


def test_stranger_s_trade_is_no_profit_when_the_venue_tells_it() -> None:
    """A position that our fills do not come to enters the day at the price of that moment."""
    standing = Standing()
    told = BrokerdPosition(broker="binance", account=NAME, symbol="btcusdt.spot", size=D(5))
    standing.apply(1, NAME, "", Position(told, D(0)), 1)
    desk = fresh(standing, 2, {BTC.fqme: D(60_000)}).desk
    assert desk.held(BTC.fqme) == 5
    assert desk.open_day(2) == [Opened(BTC.fqme, D(5), D(60_000))]
    desk.position(BTC.fqme, D(7))
    desk.price(BTC.fqme, D(60_010), 3)
    assert desk.day_result() == 50
    assert desk.open_day(3) == [Opened(BTC.fqme, D(2), D(60_010))]
    assert desk.day_result() == 50


async def test_day_survives_a_restart_on_a_journal_of_the_disk(tmp_path: Path) -> None:
    """By its rows and by its snapshot."""

    async def written(journal: Journal) -> None:
        for number in range(40):
            one = order(f"o{number}", Action.BUY)
            event = Event(
                kind=EventKind.FILL, time_ns=1, tid=f"t{number}", size=D(1), price=D(60_000),
                moved={"btc": D(1), "usdt": D(-60_000)},
            )  # fmt: skip
            for entry in (Intent(one), Happened(event, BTC.fqme)):
                await journal.append([
                    Record(entry=entry, time_ns=DAY_NS, account=NAME, oid=one.oid)
                ])  # fmt: skip
        opened = Opened(BTC.fqme, D(2), D(59_000))
        await journal.append([Record(entry=opened, time_ns=DAY_NS, account=NAME)])

    async with open_journal(tmp_path / "journal") as journal:
        await written(journal)
        left = vars(journal.standing)
    async with open_journal(tmp_path / "journal") as journal:
        assert vars(journal.standing) == left
        day = journal.standing.days[NAME, BTC.fqme]
        assert (day.day, day.size, day.cost) == (1, 42, 40 * 60_000 + 2 * 59_000)
        assert journal.standing.moved == {(NAME, "btc"): D(40), (NAME, "usdt"): D(-2_400_000)}
        assert Standing.of(journal.standing.snapshot()).days == journal.standing.days


# -- with emsd -------------------------------------------------------------------------------
@asynccontextmanager
async def emsd(folder: Path, price: Decimal) -> AsyncIterator[Router]:
    """Run a router on the journal of a folder, its one market priced."""
    async with open_journal(folder / "journal") as journal, trio.open_nursery() as nursery:
        router = Router(journal, nursery)
        router.know(BTC)
        desk = RiskDesk(
            NAME, Limits(daily_loss=D(500), order_notional=D(10**6), gross_exposure=D(10**6))
        )
        router.add(Account(NAME, desk, Link(), lambda _, what: True))  # type: ignore[arg-type]
        await router.recover()
        router.hear(NAME, BrokerdSync(account=NAME, state=SyncState.SYNCED, time_ns=1))
        await trio.testing.wait_all_tasks_blocked(0.02)
        router.price(BTC.fqme, price, wall_ns())
        yield router
        nursery.cancel_scope.cancel()


async def opened(router: Router) -> list[Opened]:
    """Return what entered days, by the journal."""
    rows = [record.entry async for record in router.register.journal.read()]
    return [entry for entry in rows if isinstance(entry, Opened)]


async def test_day_goes_on_and_ends_when_emsd_is_killed_in_it(tmp_path: Path) -> None:
    """A trader has no new allowance after a kill; at midnight, awake or not, there is one."""
    with use_clock(VirtualClock(20_000 * DAY_NS + DAY_NS // 2)) as time:
        assert isinstance(time, VirtualClock)
        async with emsd(tmp_path, D(60_000)) as router:
            await router.order(order("a", Action.BUY))
            fill = BrokerdFill(
                reqid="v1", tid="t1", time_ns=1, size=ONE, price=D(60_000), action=Action.BUY,
                account=NAME, oid="a", symbol=BTC.mktid, fee=D("0.001"), fee_asset="btc",
            )  # fmt: skip
            router.hear(NAME, fill)
            await trio.testing.wait_all_tasks_blocked(0.05)
            router.price(BTC.fqme, D(59_400), wall_ns())
            lost = router.accounts[NAME].desk.day_result()
            assert lost == -600 - D("59.4")
        for _ in range(2):
            async with emsd(tmp_path, D(59_400)) as router:
                await router.keeper.open_days(wall_ns())
                assert router.accounts[NAME].desk.day_result() == lost
                await router.order(order(f"b{_}", Action.BUY))
                assert router.orders[f"b{_}"].code == DenialCode.DAILY_LOSS
                assert await opened(router) == []
        time.advance(86_400)  # it slept over midnight
        for price in (D(59_000), D(58_990)):
            async with emsd(tmp_path, price) as router:
                await router.keeper.open_days(wall_ns())
                await router.keeper.open_days(wall_ns())
                assert await opened(router) == [Opened(BTC.fqme, ONE, D(59_000))]
                assert router.accounts[NAME].desk.day_result() == price - 59_000
        async with emsd(tmp_path, D(58_900)) as router:
            time.advance(86_400)  # and is awake at the next one
            router.price(BTC.fqme, D(58_800), wall_ns())
            await router.keeper.open_days(wall_ns())
            assert (await opened(router))[1:] == [Opened(BTC.fqme, ONE, D(58_800))]
            assert router.accounts[NAME].desk.day_result() == 0
