"""The feed bus: datad's markets, who uses them, and the streams that fill them.

One bus per datad. A market is opened by its first client, shared by all, and released a while
after its last one left. One ``stream_quotes`` task serves all markets that were asked for
together; when it fails it is started again, and clients are told.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import trio

from piker.brokers.quality import venue_quality
from piker.brokers.spec import Backend
from piker.clock import NS, wall_ns
from piker.config import Conf
from piker.data._segment import State
from piker.data.backfill import bars_of, fill, regularise
from piker.data.messages import FeedEvent, FeedStats, FlumeInfo
from piker.data.normalise import Item, normalise, quote_rows, split_started
from piker.data.quotes import QuoteMaker
from piker.data.sampling import REVISABLE
from piker.data.shm import ShmArray, TickRing
from piker.data.tape import Tape, Tapes
from piker.data.wake import WakeSender, wake_dir
from piker.errors import (
    BrokerError,
    DataQuality,
    DataUnavailable,
    NoData,
    PikerError,
    ProviderError,
    ShmError,
    StoreError,
    Transient,
)
from piker.log import get_logger
from piker.market import Asset, MktPair
from piker.ohlcv import ClosedBar
from piker.ticks import Outage, Quote, Resync, TickBatch

if TYPE_CHECKING:
    from piker.data.history.live import LiveJoin
    from piker.data.history.manager import HistoryManager

__all__ = ["Bus"]

QUEUE = 256  # messages between a backend and the bus; a full queue makes the backend wait
EVENTS = 256  # events waiting for one client's dialog; a client that far behind is cut off
START_S = 30.0  # a backend must call started() within this
HISTORY_S = 20.0  # how long a first client waits for history before it gets the live rows alone
CLOCK_S = 0.05  # how often bars are closed by the clock, and new readers found
RECENT = 256  # ticks that a first quote is made from
BEAT_S = 0.2  # heartbeat of the segments; readers call a second of silence a loss
GRACE_NS = 250_000_000  # a second is closed this long after its end, for trades still on their way
FLOOR_S, CAP_S = 0.5, 30.0  # waits before a failed stream is started again
_log = get_logger("bus")


class Market:
    """One open market: its metadata, segments and users."""

    def __init__(self, mkt: MktPair, tape: Tape) -> None:
        self.mkt = mkt
        self.tape = tape
        self.users = 0
        self.joins: list[LiveJoin] = []
        self.live = False
        self.was_live = False  # it has been live before: coming back is a Resync
        self.ready = trio.Event()  # first quote and history are in
        self.error: PikerError | None = None


class Bus:
    """All open markets of one provider."""

    def __init__(self, backend: Backend, conf: Conf, nursery: trio.Nursery) -> None:
        self.backend = backend
        self.conf = conf
        self._history: HistoryManager | None = None
        self._turns: trio.CapacityLimiter | None = None
        self.quality = venue_quality(backend.name)
        self.tapes = Tapes(self.quality.count)
        self.markets: dict[str, Market] = {}
        self._nursery = nursery
        self._lock = trio.Lock()
        self._released = trio.Event()
        self._listeners: set[trio.MemorySendChannel[FeedEvent]] = set()
        self._wake = WakeSender(wake_dir(backend.name))
        self._counts = {"reconnects": 0, "resyncs": 0, "restarts": 0}

    # -- clients -----------------------------------------------------------------------------
    async def open(self, asked: Sequence[str]) -> list[FlumeInfo]:
        """Open (or share) markets for one client; raise the error of the first that can not be.

        ``asked`` are fqmes or market ids of this provider, in any case. Each must be given back
        with :meth:`release`.
        """
        async with self._lock:
            mkts = [await self._resolve(name) for name in asked]
            fresh = {mkt.mktid: mkt for mkt in mkts if mkt.mktid not in self.markets}
            if fresh:
                self._begin(list(fresh.values()))
            markets = [self.markets[mkt.mktid] for mkt in mkts]
            for market in markets:
                market.users += 1
        try:
            for market in markets:
                await market.ready.wait()
                if market.error is not None:
                    raise market.error
        except BaseException:
            self.release([market.mkt.mktid for market in markets])
            raise
        return [self._info(name, market) for name, market in zip(asked, markets, strict=True)]

    def release(self, mktids: Sequence[str]) -> None:
        """Give markets back; the last user's leaving starts the grace time."""
        for mktid in mktids:
            market = self.markets.get(mktid)
            if market is not None:
                market.users -= 1
        self._released.set()
        self._released = trio.Event()

    def listen(self) -> trio.MemoryReceiveChannel[FeedEvent]:
        """Return a channel of events for one client; it is closed when the client falls behind."""
        send, receive = trio.open_memory_channel[FeedEvent](EVENTS)
        self._listeners.add(send)
        return receive

    @property
    def stats(self) -> FeedStats:
        """Return the counters."""
        builders = [b for tape in self.tapes.by_symbol.values() for b in tape.builders]
        return FeedStats(
            ticks=self.tapes.ticks,
            markets=len(self.markets),
            clients=len(self._listeners),
            corrections=sum(builder.corrections for builder in builders),
            late_trades=sum(builder.late for builder in builders),
            data_quality=dict(self.quality.counts),
            **self._counts,
        )

    # -- the daemon's tasks ------------------------------------------------------------------
    async def run_clock(self) -> None:
        """Close bars by the venue's clock and beat the segments' hearts, for ever."""
        next_beat = trio.current_time()
        while True:
            now_ns = wall_ns()
            self._guarded(self.tapes.advance, now_ns, GRACE_NS)
            if trio.current_time() >= next_beat:
                self._beat()
                next_beat = trio.current_time() + BEAT_S
            self._wake.scan()
            self._wake.notify()
            await trio.sleep(CLOCK_S)

    def close(self) -> None:
        """Remove every segment: this daemon ends in order and nobody will adopt them."""
        for market in self.markets.values():
            _close_tape(market.tape, unlink=True)
        self._wake.close()

    # -- opening -----------------------------------------------------------------------------
    async def _resolve(self, name: str) -> MktPair:
        provider = self.backend.name
        folded = name.lower()
        fqme = folded if folded.endswith(f".{provider}") else f"{folded}.{provider}"
        if self.backend.get_mkt_info is not None:
            mkt: MktPair = await self.backend.get_mkt_info(fqme)
            return mkt
        unknown = Asset("")
        mktid = fqme[: -len(provider) - 1]
        return MktPair(
            fqme=fqme,
            bs_mktid=mktid,
            dst=unknown,
            src=unknown,
            price_tick=Decimal(0),
            size_tick=Decimal(0),
        )

    def _begin(self, mkts: list[MktPair]) -> None:
        """Make segments for new markets and start one stream for all of them."""
        made: list[Market] = []
        try:
            for mkt in mkts:
                made.append(Market(mkt, self._make_tape(mkt)))
        except ShmError:
            for market in made:
                _close_tape(market.tape, unlink=True)
            raise
        for market in made:
            self.markets[market.mkt.mktid] = market
            self.tapes.add(market.tape)
        self._nursery.start_soon(self._run_group, made)

    def _make_tape(self, mkt: MktPair) -> Tape:
        name, conf, mktid = self.backend.name, self.conf.feed, mkt.mktid
        ring, _ = TickRing.open_writer(name, mktid, rows=conf.ring_ticks)
        seconds, _ = ShmArray.open_writer(name, mktid, period_s=1, rows=conf.rows_1s)
        minutes, _ = ShmArray.open_writer(name, mktid, period_s=60, rows=conf.rows_1m)
        for segment in (ring, seconds, minutes):
            segment.set_state(State.RECONNECTING)
        tape = Tape(mktid, ring, (seconds, minutes), inverse=mkt.inverse)
        for builder, array in zip(tape.builders, tape.bars, strict=True):
            builder.resume(bars_of(array.read()[-REVISABLE:]))  # of a writer that died, if any
        return tape

    def _info(self, asked: str, market: Market) -> FlumeInfo:
        tape = market.tape
        return FlumeInfo(
            asked=asked,
            mkt=market.mkt,
            first_quote=QuoteMaker(Quote(market.mkt.fqme)).fold(
                tape.ring.array[-RECENT:].tobytes()
            ),
            ticks=tape.ring.token,
            bars_1s=tape.bars[0].token,
            bars_1m=tape.bars[1].token,
        )

    # -- a group's stream --------------------------------------------------------------------
    async def _run_group(self, group: list[Market]) -> None:
        """Stream a group until nobody has used any of it for the grace time."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stream_for_ever, group)
            for market in group:
                nursery.start_soon(self._join_history, market)
            await self._until_unused(group)
            nursery.cancel_scope.cancel()
        for market in group:
            self.markets.pop(market.mkt.mktid, None)
            self.tapes.remove(market.mkt.mktid)
            _close_tape(market.tape, unlink=True)
        _log.info("feed.released", markets=[market.mkt.mktid for market in group])

    async def _join_history(self, market: Market) -> None:
        """Fill a market's arrays backwards, and mend them after outages, for ever."""
        await market.ready.wait()
        if market.error is not None:
            return
        # In a thread: importing pyarrow takes longer than a live feed may stand still.
        live = await trio.to_thread.run_sync(import_module, "piker.data.history.live")
        tape = market.tape
        try:
            self._history = self._history or live.HistoryManager(self.backend)
            self._turns = self._turns or trio.CapacityLimiter(live.AT_ONCE)
        except StoreError as err:
            _log.error("history.store", error=str(err))
            return
        market.joins = live.joins_of(
            self.backend, self._history, market.mkt,
            list(zip(tape.builders, tape.bars, strict=True)), self.conf.history,
            self._turns, lambda: market.live, lambda: self._guarded(tape.write_bars), self._tell,
        )  # fmt: skip
        async with trio.open_nursery() as nursery:
            for join in market.joins:
                nursery.start_soon(join.run)

    async def _until_unused(self, group: list[Market]) -> None:
        while True:
            while any(market.users > 0 for market in group):
                await self._released.wait()
            if not any(market.error for market in group):
                await trio.sleep(self.conf.feed.release_after_s)
            if all(market.users <= 0 for market in group):
                return

    async def _stream_for_ever(self, group: list[Market]) -> None:
        """Run the backend's stream; on a failure tell, wait, and run it again."""
        wait_s = FLOOR_S
        while True:
            began = trio.current_time()
            try:
                await self._stream_once(group)
                error: Exception = Transient("the backend's stream ended by itself.")
            except* Exception as caught:
                error = _leaf(caught)
            if self._is_final(error, group):
                return
            self._told_lost(group, str(error))
            wait_s = FLOOR_S if trio.current_time() - began > CAP_S else min(CAP_S, wait_s * 2)
            self._counts["restarts"] += 1
            _log.error("feed.restart", error=str(error), kind=type(error).__name__, wait_s=wait_s)
            await trio.sleep(random.uniform(wait_s / 2, wait_s))

    def _is_final(self, error: Exception, group: list[Market]) -> bool:
        """Give a first failure to the clients that wait; nobody waits for a later one."""
        if all(market.ready.is_set() for market in group):
            return False
        told = (
            error
            if isinstance(error, PikerError)
            else ProviderError(
                f"the backend {self.backend.name!r} failed: {type(error).__name__}: {error}.",
                remedy=f"Run: piker check-provider {self.backend.name}",
            )
        )
        for market in group:
            market.error = market.error or told
            market.ready.set()
        return True

    async def _stream_once(self, group: list[Market]) -> None:
        symbols = [market.mkt.mktid for market in group]
        send, receive = trio.open_memory_channel[Any](QUEUE)
        live = trio.Event()
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(START_S) as deadline:
                started = await nursery.start(
                    partial(
                        self.backend.stream_quotes,
                        send_chan=send,
                        symbols=symbols,
                        shm=group[0].tape.bars[0],
                        feed_is_live=live,
                        loglevel=None,
                    )
                )
            if deadline.cancelled_caught:
                raise ProviderError(
                    f"the backend {self.backend.name!r} did not call task_status.started() "
                    f"within {START_S:.0f} s."
                )
            nursery.start_soon(self._prepare, group, started)
            nursery.start_soon(self._mark_live, group, live)
            await self._consume(receive)

    async def _mark_live(self, group: list[Market], live: trio.Event) -> None:
        await live.wait()
        again = any(market.was_live for market in group)
        self._told_back(Resync("reconnect", detail="stream restarted") if again else None, group)

    async def _consume(self, receive: trio.MemoryReceiveChannel[Any]) -> None:
        async for sent in receive:
            if type(sent) is TickBatch:
                self._apply(sent)
                continue
            try:
                items = normalise(sent, wall_ns())
            except DataQuality as err:
                self.quality.count(err.kind, str(err))
                continue
            for item in items:
                self._apply(item)

    def _apply(self, item: Item) -> None:
        if isinstance(item, TickBatch):
            self._guarded(self.tapes.apply, item)
            self._wake.notify()
        elif isinstance(item, ClosedBar):
            self._guarded(self.tapes.correct, item)
        elif isinstance(item, Outage):
            names = [item.symbol] if item.symbol else []
            self.tapes.interrupt(names)
            self._set_state(names, State.RECONNECTING)
            self._tell(item)
        else:
            self._counts["reconnects"] += item.reason == "reconnect"
            self._back([item.symbol] if item.symbol else [], item)

    # -- start-up of a market ----------------------------------------------------------------
    async def _prepare(self, group: list[Market], started: object) -> None:
        """Load history and first quotes; then whoever waits gets the markets."""
        _, quotes = split_started(started)
        async with trio.open_nursery() as nursery:
            for market in group:
                if not market.ready.is_set():
                    nursery.start_soon(self._load, market)
        for market in group:
            quote = quotes.get(market.mkt.mktid)
            if quote is not None:
                rows = list(quote_rows({**quote, "symbol": market.mkt.mktid}, wall_ns()))
                self._apply(TickBatch(rows, wall_ns()))
                if quote.get("last"):
                    market.tape.seed(float(quote["last"]), wall_ns() // NS)
                    market.tape.write_bars()
            market.ready.set()

    async def _load(self, market: Market) -> None:
        """Fill both arrays with recent bars, as far as the backend has them."""
        tape = market.tape
        for builder, array in zip(tape.builders, tape.bars, strict=True):
            try:
                with trio.fail_after(HISTORY_S):
                    frame = await self._fetch(market.mkt.mktid, array.period_s)
            except (DataUnavailable, NoData):
                continue
            except (BrokerError, trio.TooSlowError) as err:
                _log.warning("history.failed", market=market.mkt.mktid, error=str(err))
                continue
            except Exception as err:  # a backend's bug in history must not end its stream
                self.quality.count("history-failed", f"{type(err).__name__}: {err}")
                continue
            self._guarded(fill, array, builder, frame)
            if market.live:
                self.tapes.resumed(market.mkt.mktid, wall_ns())
            self._guarded(tape.write_bars)

    async def _fetch(self, mktid: str, period_s: int) -> Any:
        async with self.backend.open_history_client(mktid) as opened:
            get_ohlc = opened[0] if isinstance(opened, tuple) else opened
            frame, _, _ = await get_ohlc(float(period_s))
        return regularise(frame, period_s, now_s=wall_ns() // NS)

    # -- telling -----------------------------------------------------------------------------
    def _told_lost(self, group: list[Market], why: str) -> None:
        for market in group:
            self._apply(Outage(why[:200], market.mkt.mktid))

    def _told_back(self, event: Resync | None, group: list[Market]) -> None:
        self._back([market.mkt.mktid for market in group], event)

    def _back(self, names: Sequence[str], event: Resync | None) -> None:
        """Markets flow again: bars are complete from here on, what is before is mended."""
        since_ns = event.since_ns if event is not None else 0
        self.tapes.restore(names, now_ns=wall_ns(), since_ns=since_ns)
        self._set_state(names, State.LIVE)
        if event is not None:
            self._counts["resyncs"] += 1
            self._tell(event)
        for market in self.markets.values():
            if not names or market.mkt.mktid in names:
                for join in market.joins:
                    join.resynced()

    def _tell(self, event: FeedEvent) -> None:
        for listener in list(self._listeners):
            try:
                listener.send_nowait(event)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._listeners.discard(listener)
                listener.close()

    def _set_state(self, names: Sequence[str], state: int) -> None:
        for market in self.markets.values():
            if not names or market.mkt.mktid in names:
                market.live = state == State.LIVE
                market.was_live |= market.live
                for segment in (market.tape.ring, *market.tape.bars):
                    segment.set_state(state)
        self._wake.notify()

    def _beat(self) -> None:
        for market in self.markets.values():
            market.tape.ring.beat()
            for array in market.tape.bars:
                array.beat()

    def _guarded(self, call: Any, *arguments: Any) -> None:
        """Survive full shared memory: counted and logged once, rows are lost, the daemon is not."""
        try:
            call(*arguments)
        except ShmError as err:
            self.quality.count("shm-full", str(err))
            for market in self.markets.values():
                market.tape.recover()


def _close_tape(tape: Tape, *, unlink: bool) -> None:
    for segment in (tape.ring, *tape.bars):
        segment.close(unlink=unlink)


def _leaf(group: BaseExceptionGroup[Any]) -> Exception:
    err: Any = group
    while isinstance(err, BaseExceptionGroup):
        ours = [e for e in err.exceptions if isinstance(e, PikerError)]
        err = ours[0] if ours else err.exceptions[0]
    assert isinstance(err, Exception)
    return err
