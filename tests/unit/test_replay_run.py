"""A replay: the same journal every time, in virtual time, through the real router and limits."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from trio._core import _run as trio_run

from piker import clock
from piker.clearing.client import OrderClient
from piker.clearing.journal import open_journal
from piker.clearing.lifecycle import Phase
from piker.clearing.records import Duplicate, Happened, Intent, chain_of, read_row
from piker.clearing.replay import Replay, Result, _Line
from piker.clearing.replay_clock import repeatable
from piker.clearing.replay_feed import UNREAD_TICKS, Moment
from piker.clearing.replay_journal import MemoryJournal
from piker.clearing.risk import Limits
from piker.data.feed import Feed
from piker.errors import DataUnavailable, PikerError, RangeError
from piker.market import Asset, AssetType, MktPair
from piker.orders import Order, TimeInForce
from piker.ticks import Outage, Quote, Resync, Side, Tick, TickType

D = Decimal
BEGAN_NS = 1_700_000_000 * clock.NS
STEP_NS = 10_000_000  # between two moments
Body = Callable[[Feed, OrderClient], Awaitable[object]]
BTC, ETH = (
    MktPair(
        fqme=f"{name}usdt.spot.binance", bs_mktid=f"{name.upper()}USDT",
        dst=Asset(name, AssetType.CRYPTO), src=Asset("usdt", AssetType.CRYPTO),
        price_tick=D("0.01"), size_tick=D("0.001"),
    )
    for name in ("btc", "eth")
)  # fmt: skip
WIDE = Limits(
    messages=10**9, order_notional=D(10**9), gross_exposure=D(10**12), daily_loss=D(10**9),
    duplicate_s=0.0, open_orders=10**6,
)  # fmt: skip


def moments(count: int = 500, seed: int = 5, mkts: tuple[MktPair, ...] = (BTC,)) -> list[Moment]:
    """Return a random walk: a quote each moment, a trade every third; no size comes twice."""
    chance, cents, told = random.Random(seed), dict.fromkeys(mkts, 10_000), []
    for number in range(count):
        time_ns = BEGAN_NS + number * STEP_NS
        item = {}
        for mkt in mkts:
            cents[mkt] += chance.choice((-3, -1, 0, 1, 3))
            bid, ask = cents[mkt] / 100, (cents[mkt] + 2) / 100
            size = 1.0 + number / 1000
            ticks = [
                Tick(TickType.BID, bid, size, time_ns), Tick(TickType.ASK, ask, size, time_ns),
            ]  # fmt: skip
            if number % 3 == 0:
                side = chance.choice((Side.BUY, Side.SELL))
                price = ask if side is Side.BUY else bid
                ticks.append(Tick(TickType.TRADE, price, chance.random() * 3, time_ns, side))
            item[mkt.fqme] = Quote(mkt.fqme, None, bid, size, ask, size, time_ns, ticks)
        told.append((time_ns, item))
    return told


def replay(body: Body, *, told: list[Moment] | None = None, **settings: Any) -> Result:
    """Replay a strategy, by default on the walk."""
    mkts = settings.pop("mkts", (BTC,))
    settings.setdefault("limits", WIDE)
    return Replay(mkts, told or moments(mkts=mkts), **settings).run(body)


async def busy(feed: Feed, ems: OrderClient) -> None:
    """Trade from three tasks that race each other, with orders of every kind."""

    async def quote(every_s: float, side: str, away: str) -> None:
        while True:
            await trio.sleep(every_s)
            price = BTC.round_price(str(99.9 if side == "buy" else 100.1))
            await ems.send(ems.order(BTC.fqme, side, "0.1", price=price + D(away)))

    async def take_back() -> None:
        async for told in ems:
            if getattr(told, "resp", "") == "open" and random.random() < 0.5:
                await ems.cancel(told.oid)  # type: ignore[union-attr]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(quote, 0.05, "buy", "-0.03")
        nursery.start_soon(quote, 0.05, "sell", "0.03")
        nursery.start_soon(quote, 0.07, "buy", "0.2")
        nursery.start_soon(take_back)
        number = 0
        async for _ in feed:
            number += 1
            if number % 40 == 0:
                stop = ems.order(BTC.fqme, "sell", "0.1", trigger="99.9")
                await ems.send(stop)
            if number % 50 == 0:
                await ems.send(ems.order(BTC.fqme, "buy", "0.2"))
        nursery.cancel_scope.cancel()


def phases(result: Result) -> list[str]:
    """Return the newest status of every order, in their order."""
    return [str(status.resp) for status in result.client.dialogs.values()]


# -- the same every time -----------------------------------------------------------------------
@pytest.mark.slow
def test_journal_is_the_same_when_replayed_again_with_the_same_seed() -> None:
    """Racing tasks, chance, sleeps and all; another seed gives another one."""
    first = replay(busy, seed=7, latency_ms=20.0)
    assert first.journal.seq > 200
    assert {"closed", "canceled"} <= set(phases(first))
    again = [replay(busy, seed=7, latency_ms=20.0).journal.chain for _ in range(4)]
    assert set(again) == {first.journal.chain}
    assert replay(busy, seed=8, latency_ms=20.0).journal.chain != first.journal.chain


def test_scheduler_and_chance_are_as_before_when_a_replay_has_ended() -> None:
    """trio's private switches are there, are used, and are put back."""
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate(), random.getstate()
    with repeatable(3):
        assert trio_run._ALLOW_DETERMINISTIC_SCHEDULING is True
        drawn = trio_run._r.random(), random.random()
    with repeatable(3):
        assert (trio_run._r.random(), random.random()) == drawn
    assert before == (
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate(), random.getstate()
    )  # fmt: skip
    assert clock.wall_ns() > BEGAN_NS + 86_400 * clock.NS


@pytest.mark.slow
def test_chain_is_that_of_the_rows_when_it_is_computed_again() -> None:
    """From nothing, row by row, as in the file; every row can be read."""
    journal = replay(busy).journal
    chain = b""
    for row in journal.rows():
        chain = chain_of(row, chain)
        assert row.chain == chain
        assert read_row(row).time_ns >= BEGAN_NS
    assert chain == journal.chain


@pytest.mark.slow
async def test_journal_in_memory_is_the_one_on_disk_when_both_are_told_the_same(
    tmp_path: Path,
) -> None:
    """The same answers, duplicates included, and the same orders, nets and positions."""
    records = [read_row(row) for row in await trio.to_thread.run_sync(_rows_of_a_replay)]
    memory = MemoryJournal()
    async with open_journal(tmp_path / "journal") as disk:
        for record in [*records, records[0], *records[-5:]]:
            assert await memory.append([record]) == await disk.append([record])
        ours, theirs = memory.standing, disk.standing
        assert (ours.live, dict(ours.ended), ours.nets) == (
            theirs.live, dict(theirs.ended), theirs.nets
        )  # fmt: skip
        assert memory.seq == disk.seq
        assert [one.oid async for one in memory.read(10)] == [
            one.oid async for one in disk.read(10)
        ]
        oid = records[0].oid
        assert await memory.order(oid) == await disk.order(oid)
        assert await memory.fold() == await disk.fold()
        assert isinstance((await memory.append([records[0]]))[0], Duplicate)


def _rows_of_a_replay() -> list[Any]:
    return replay(busy, told=moments(200)).journal.rows()


@pytest.mark.slow
def test_quotes_that_matter_to_no_order_are_not_missed_when_all_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Leaving out what lies between the orders' prices changes nothing."""
    for seed in range(5):
        told = moments(seed=seed)
        lean = replay(busy, told=told, seed=seed)
        with monkeypatch.context() as patch:
            patch.setattr(_Line, "watch", _watch_everything)
            assert replay(busy, told=told, seed=seed).journal.chain == lean.journal.chain


def _watch_everything(line: _Line, standing: Any) -> None:
    anything = bool(list(standing))
    line.below, line.above = (float("inf"), float("-inf")) if anything else (
        float("-inf"), float("inf")
    )  # fmt: skip
    line.watched = anything


# -- time --------------------------------------------------------------------------------------
def test_time_is_the_recordings_when_a_strategy_looks_at_it() -> None:
    """It sleeps for an hour of a minute's recording at once, and is ended with it."""
    seen: list[int] = []

    async def sleeper(feed: Feed, ems: OrderClient) -> None:
        seen.append(clock.wall_ns())
        await trio.sleep(1.5)
        seen.append(clock.wall_ns())
        try:
            await trio.sleep(3600)
        finally:
            seen.append(clock.wall_ns())

    replay(sleeper)
    assert seen[:2] == [BEGAN_NS, BEGAN_NS + 1_500_000_000]
    assert BEGAN_NS + 499 * STEP_NS <= seen[2] < BEGAN_NS + 600 * clock.NS


def test_order_takes_its_latency_when_it_is_sent() -> None:
    """It is acknowledged by emsd at once, and by the paper venue after twenty milliseconds."""
    times: dict[str, int] = {}

    async def one(feed: Feed, ems: OrderClient) -> None:
        status = await ems.send(ems.order(BTC.fqme, "buy", "0.1", price="99.00"))
        times[status.resp] = clock.wall_ns()
        await ems.until(status.oid, ["open"])
        times["open"] = clock.wall_ns()

    replay(one, latency_ms=20.0)
    assert times == {"pending": BEGAN_NS, "open": BEGAN_NS + 20_000_000}


def test_order_is_told_of_when_a_callback_gives_it_without_waiting() -> None:
    """Sent, edited and taken back; an edit of what is not known is refused at once."""

    async def run(_: Feed, ems: OrderClient) -> None:
        with pytest.raises(RangeError, match="no order 'nobody' is known"):
            ems.update_nowait("nobody", price="1")
        oid = ems.send_nowait(ems.order(BTC.fqme, "buy", "0.1", price="98"))
        assert oid not in ems.dialogs
        await ems.until(oid, ["open"])
        ems.update_nowait(oid, price="97")
        while (req := ems.dialogs[oid].req) is not None and req.price != 97:
            await ems.changed()
        ems.cancel_nowait(oid)
        assert (await ems.ended(oid)).resp == "canceled"

    assert phases(replay(run)) == ["canceled"]


def test_deadline_of_a_strategy_passes_when_nothing_is_shown() -> None:
    """``move_on_after`` around a read works as it does live."""
    told = [*moments(3), *((at + 5 * clock.NS, item) for at, item in moments(3)[2:])]
    waits: list[bool] = []

    async def waiting(feed: Feed, ems: OrderClient) -> None:
        while True:
            with trio.move_on_after(1) as scope:
                try:
                    await feed.receive()
                except trio.EndOfChannel:
                    return
            waits.append(scope.cancelled_caught)

    replay(waiting, told=told)
    assert waits == [False, False, True, True, True, True, True, False]


def test_timed_order_expires_when_its_time_has_come() -> None:
    """To the nanosecond, though nothing is shown then."""

    async def gtd(feed: Feed, ems: OrderClient) -> None:
        until = clock.wall_ns() + 1_234_567_891
        order = ems.order(
            BTC.fqme, "buy", "0.1", price="98.00", tif=TimeInForce.GTD, expire_ns=until
        )
        status = await ems.send(order)
        status = await ems.ended(status.oid)
        assert clock.wall_ns() == until

    assert phases(replay(gtd)) == ["canceled"]


# -- what a strategy is shown ------------------------------------------------------------------
def test_events_are_in_the_feed_when_they_are_in_the_recording() -> None:
    """In their place, and counted as a live feed counts them."""
    told = moments(4)
    told[2:2] = [
        (told[1][0], Outage("gone", BTC.fqme)),
        (told[1][0], Resync("reconnect", BTC.fqme)),
    ]
    seen: list[str] = []

    async def watching(feed: Feed, ems: OrderClient) -> None:
        async for item in feed:
            seen.append(type(item).__name__)
        seen.append(str(feed.resyncs))

    replay(watching, told=told)
    assert seen == ["dict", "Outage", "Resync", "dict", "dict", "1"]


def test_unread_quotes_come_together_when_a_strategy_was_busy() -> None:
    """One quote of now with all ticks since; too many of them are lost, and that is told."""
    busy_for = STEP_NS * 10 / clock.NS
    ticks: list[int] = []

    async def slow(feed: Feed, ems: OrderClient) -> None:
        async for item in feed:
            if isinstance(item, Resync):
                ticks.append(-item.missed)
            elif isinstance(item, dict):
                ticks.append(len(item[BTC.fqme].ticks))
            await trio.sleep(busy_for)

    replay(slow, told=moments(30))
    assert sum(ticks) == sum(len(item[BTC.fqme].ticks) for _, item in moments(30)[1:])
    assert len(ticks) == 4
    many = [Tick(TickType.BID, 100.0, 1.0, BEGAN_NS)] * (UNREAD_TICKS // 2)
    flood: list[Moment] = [
        (at, {BTC.fqme: Quote(BTC.fqme, None, 100.0, 1.0, 101.0, 1.0, at, many)})
        for at, _ in moments(8)
    ]
    ticks.clear()
    replay(slow, told=flood)
    assert min(ticks) < -UNREAD_TICKS


def test_replay_has_no_bars_when_asked_and_says_so() -> None:
    """In a sentence with what to do instead."""

    async def greedy(feed: Feed, ems: OrderClient) -> None:
        feed.flumes[BTC.fqme].bars_1s.read()

    with pytest.raises(DataUnavailable, match="Make bars of the quotes"):
        replay(greedy)


def test_market_without_quotes_is_named_when_the_recording_has_none() -> None:
    """Before the strategy begins."""
    with pytest.raises(DataUnavailable, match=r"ethusdt\.spot\.binance"):
        replay(busy, told=moments(mkts=(BTC,)), mkts=(BTC, ETH))


# -- orders ------------------------------------------------------------------------------------
def test_limits_judge_by_the_price_of_now_when_the_market_has_moved() -> None:
    """An order far from the last quote is denied, however old the first one is."""
    told = moments(3)
    for number, (at, item) in enumerate(told):
        assert isinstance(item, dict)
        quote = item[BTC.fqme]
        quote.bid, quote.ask = 100.0 + number * 20, 100.02 + number * 20
        told[number] = at, item

    async def two(feed: Feed, ems: OrderClient) -> None:
        async for _ in feed:
            await ems.send(ems.order(BTC.fqme, "buy", "0.1", price="145"))

    assert sorted(phases(replay(two, told=told))) == ["closed", "denied"]


def test_group_ends_when_one_of_it_trades() -> None:
    """A stop in the dark and a target at the venue: one is filled, the other canceled."""

    async def group(feed: Feed, ems: OrderClient) -> None:
        for terms in ({"price": "100.05"}, {"trigger": "99.95"}):
            await ems.send(ems.order(BTC.fqme, "sell", "0.001", oco="out", **terms))  # type: ignore[arg-type]
        await feed.receive()
        while any(status.resp not in ("closed", "canceled") for status in ems.dialogs.values()):
            await feed.receive()

    assert sorted(phases(replay(group))) == ["canceled", "closed"]


def test_intents_stand_before_their_events_when_rows_are_read() -> None:
    """Each order's first row is its intent, by the strategy's name."""
    seen: set[str] = set()
    for row in replay(busy, name="mine").journal.rows():
        record = read_row(row)
        if isinstance(record.entry, Intent):
            assert record.actor == "mine"
            seen.add(record.oid)
        elif isinstance(record.entry, Happened):
            assert record.oid in seen


# -- the end -----------------------------------------------------------------------------------
def test_orders_on_their_way_arrive_when_a_strategy_returns() -> None:
    """What was sent in the last moment is in the journal as it came out."""

    async def hasty(feed: Feed, ems: OrderClient) -> None:
        await ems.send(ems.order(BTC.fqme, "buy", "0.1", price="101"))

    assert phases(replay(hasty, latency_ms=50.0)) == ["closed"]


def test_strategy_can_tidy_up_when_it_is_ended() -> None:
    """One that waits for what never comes is cancelled, and its ``finally`` may send orders."""

    async def stubborn(feed: Feed, ems: OrderClient) -> None:
        status = await ems.send(ems.order(BTC.fqme, "buy", "0.1", price="98.00"))
        try:
            await ems.until(status.oid, ["never"])
        finally:
            with trio.CancelScope(shield=True):
                await ems.cancel(status.oid)
                await ems.ended(status.oid)

    assert phases(replay(stubborn, latency_ms=5.0)) == ["canceled"]


def test_strategy_that_never_ends_is_an_error_when_it_hides_from_cancellation() -> None:
    """A sentence, not a hang."""

    async def deaf(feed: Feed, ems: OrderClient) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    with pytest.raises(PikerError, match="the strategy did not"):
        replay(deaf)


def test_error_of_a_strategy_is_its_own_when_it_raises() -> None:
    """Nothing of trio's or ours around it."""

    async def broken(feed: Feed, ems: OrderClient) -> None:
        await feed.receive()
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        replay(broken)


def test_another_reader_is_refused_when_one_waits() -> None:
    """As by any stream of trio's."""
    told: list[str] = []

    async def two(feed: Feed, ems: OrderClient) -> None:
        async def read() -> None:
            try:
                await feed.receive()
            except trio.BusyResourceError:
                told.append("busy")

        await trio.sleep(1)  # both have to wait: nothing is at hand
        async with trio.open_nursery() as nursery:
            async for _ in feed:
                break
            nursery.start_soon(read)
            nursery.start_soon(read)

    replay(two)
    assert told == ["busy"]


def _walk(mkts: tuple[MktPair, ...]) -> Iterator[Moment]:
    yield from moments(mkts=mkts)


def test_positions_are_the_fills_when_two_markets_are_traded() -> None:
    """The journal's nets are what the orders say they have filled."""

    async def both(feed: Feed, ems: OrderClient) -> None:
        number = 0
        async for _ in feed:
            number += 1
            mkt = (BTC, ETH)[number % 2]
            if number % 7 == 0:
                await ems.send(ems.order(mkt.fqme, "buy" if number % 3 else "sell", "0.4"))

    result = replay(both, told=list(_walk((BTC, ETH))), mkts=(BTC, ETH), latency_ms=1.0)
    net = {BTC.fqme: D(0), ETH.fqme: D(0)}
    for status in result.client.dialogs.values():
        assert isinstance(status.req, Order)
        net[status.req.symbol] += status.req.side * status.filled
    assert {fqme: size for (_, fqme), size in result.journal.standing.nets.items()} == net
    assert any(state.phase is Phase.FILLED for state in result.journal.standing.ended.values())
