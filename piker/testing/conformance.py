"""The conformance kit: rules that every backend must keep, run against a loaded backend.

``piker check-provider`` prints what :func:`check_provider` yields. Each rule is one function that
returns a sentence of what it saw, raises :class:`Broken` with what is wrong, or :class:`Skipped`.
No daemon is needed: the kit calls the endpoints as datad would.
"""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal

import msgspec
import numpy as np
import trio

from piker.brokers.spec import Backend, load_backend
from piker.clock import wall_ns
from piker.data.backfill import regularise
from piker.data.normalise import Item, normalise, quote_rows, split_started
from piker.data.tape import why_refused
from piker.errors import DataQuality, DataUnavailable, NoData, PikerError, SymbolNotFound
from piker.market import MktPair, parse_fqme
from piker.ticks import Outage, Resync, TickBatch

__all__ = ["RULES", "BreakHook", "Broken", "Kit", "RuleResult", "Skipped", "check_provider"]

START_S = 30.0  # a venue that needs longer for a first quote keeps every client waiting
LIVE_S = 30.0  # an illiquid market may take a while to print or quote
WATCH_S = 2.0  # how long messages are collected for the schema rule
STALL_S = 2.0  # how long the slow consumer does not read
CANCEL_S = 5.0  # sockets are closed within this
QUEUE = 4  # messages: small, so that a backend meets a full channel

Status = Literal["pass", "fail", "skip"]
#: Breaks every connection of the backend at the venue, then lets it come back.
BreakHook = Callable[[], Awaitable[None]]


class Broken(Exception):
    """A rule does not hold."""


class Skipped(Exception):
    """A rule can not be checked here."""


class RuleResult(msgspec.Struct, frozen=True):
    """What one rule said."""

    rule: str
    status: Status
    detail: str


class Kit:
    """What the rules work on: a backend, a symbol, and a way to break its connections."""

    def __init__(self, backend: Backend, symbol: str, break_hook: BreakHook | None) -> None:
        self.backend = backend
        self.symbol = symbol
        self.break_hook = break_hook

    @asynccontextmanager
    async def stream(self, queue: int = QUEUE) -> AsyncIterator[Running]:
        """Run ``stream_quotes`` for the block; cancelled at its end."""
        send, receive = trio.open_memory_channel[Any](queue)
        live = trio.Event()
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(START_S) as deadline:
                started = await nursery.start(
                    partial(
                        self.backend.stream_quotes,
                        send_chan=send,
                        symbols=[self.symbol],
                        shm=None,
                        feed_is_live=live,
                        loglevel=None,
                    )
                )
            if deadline.cancelled_caught:
                raise Broken(f"task_status.started() was not called within {START_S:.0f} s")
            yield Running(started, live, receive)
            nursery.cancel_scope.cancel()


class Running:
    """A running stream: its start-up values and its messages."""

    def __init__(
        self, started: object, live: trio.Event, receive: trio.MemoryReceiveChannel[Any]
    ) -> None:
        self.started = started
        self.live = live
        self.receive = receive

    def items(self, within_s: float) -> Items:
        """Return an iterator over normalised items that ends after ``within_s``."""
        return Items(self.receive, trio.current_time() + within_s)


class Items:
    """Normalised items of a stream until a deadline; a bad one is ``Broken``."""

    def __init__(self, receive: trio.MemoryReceiveChannel[Any], deadline: float) -> None:
        self._receive = receive
        self._deadline = deadline
        self._pending: list[Item] = []

    def __aiter__(self) -> Items:
        """Iterate until the deadline or the end of the stream."""
        return self

    async def __anext__(self) -> Item:
        """Return the next item."""
        while not self._pending:
            with trio.CancelScope(deadline=self._deadline) as scope:
                try:
                    sent = await self._receive.receive()
                except trio.EndOfChannel:
                    raise StopAsyncIteration from None
            if scope.cancelled_caught:
                raise StopAsyncIteration
            try:
                self._pending = normalise(sent, wall_ns())
            except DataQuality as err:
                raise Broken(str(err)) from err
        return self._pending.pop(0)


# -- the rules -------------------------------------------------------------------------------
async def startup(kit: Kit) -> str:
    """First quotes come through ``task_status`` or the channel, each with a last price."""
    async with kit.stream() as running:
        try:
            _, quotes = split_started(running.started)
        except DataQuality as err:
            raise Broken(str(err)) from err
        if not quotes:
            async for item in running.items(START_S):
                if isinstance(item, TickBatch) and item.rows:
                    return "first quote came over the channel"
            raise Broken("no first quote, neither from task_status.started() nor on the channel")
        quote = quotes.get(kit.symbol)
        if quote is None:
            raise Broken(f"no first quote for {kit.symbol!r}; there is one for {sorted(quotes)}")
        last = quote.get("last")
        if not isinstance(last, int | float) or not 0 < last < float("inf"):
            raise Broken(f"the first quote's 'last' is {last!r}, not a positive number")
        try:
            list(quote_rows({"symbol": kit.symbol, **quote}, wall_ns()))
        except DataQuality as err:
            raise Broken(str(err)) from err
        return f"last {last:g}"


async def live(kit: Kit) -> str:
    """``feed_is_live`` is set, and a tick arrives."""
    async with kit.stream() as running:
        seen = 0
        async for item in running.items(LIVE_S):
            seen += len(item.rows) if isinstance(item, TickBatch) else 0
            if seen and running.live.is_set():
                return "live"
        if not running.live.is_set():
            raise Broken(f"feed_is_live was not set within {LIVE_S:.0f} s")
        raise Broken(f"no tick came within {LIVE_S:.0f} s")


async def quote_schema(kit: Kit) -> str:
    """Every message is of a known form; every tick is of the asked symbol and possible."""
    count = 0
    async with kit.stream() as running:
        async for item in running.items(WATCH_S):
            if not isinstance(item, TickBatch):
                continue
            for symbol, kind, time_ns, price, size, price2, size2, _, _ in item.rows:
                if symbol != kit.symbol:
                    raise Broken(f"a tick of {symbol!r} came; only {kit.symbol!r} was asked for")
                why = why_refused(kind, time_ns, price, size, price2, size2, item.recv_ns)
                if why:
                    raise Broken(f"{why}: price {price}, size {size}, ask {price2}, {time_ns} ns")
                count += 1
    return f"{count} ticks in {WATCH_S:.0f} s"


async def history(kit: Kit) -> str:
    """The newest frame is bars; a bounded request stays in its bounds."""
    async with kit.backend.open_history_client(kit.symbol) as opened:
        get_ohlc = opened[0] if isinstance(opened, tuple) else opened
        try:
            array, start, end = await get_ohlc(60.0)
        except DataUnavailable as err:
            raise Skipped(f"no 1-minute history: {err}") from err
        except NoData as err:
            raise Skipped(f"no history yet: {err}") from err
        rows = _checked_frame(array, start, end)
        if len(rows) < 3:
            return f"{len(rows)} bars, too few to ask for a part"
        await _check_part(get_ohlc, rows, end)
    return f"{len(rows)} bars from {start} to {end}"


def _checked_frame(array: Any, start: Any, end: Any) -> np.ndarray[Any, Any]:
    if not isinstance(array, np.ndarray) or array.dtype.names is None:
        raise Broken(f"get_ohlc returned a {type(array).__name__}, not a structured numpy array")
    try:
        rows = regularise(array, 60, now_s=wall_ns() // 10**9)
    except DataQuality as err:
        raise Broken(str(err)) from err
    if len(array) and (np.diff(array["time"]) <= 0).any():
        raise Broken("times must ascend and be unique")
    if len(array) and int(start.timestamp()) != int(array["time"][0]):
        raise Broken(f"the first datetime ({start}) is not the first bar's time")
    if len(array) and int(end.timestamp()) < int(array["time"][-1]):
        raise Broken(f"the second datetime ({end}) is before the last bar's time")
    return rows


async def _check_part(get_ohlc: Any, rows: np.ndarray[Any, Any], end: Any) -> None:
    edge = type(end).fromtimestamp(int(rows["time"][-2]), tz=end.tzinfo)
    part, _, _ = await get_ohlc(60.0, end_dt=edge)
    if len(part) and part["time"][-1] >= rows["time"][-2]:
        raise Broken(f"a request up to {edge} gave a bar at or after it: the end is exclusive")
    try:
        await get_ohlc(7.0)
    except DataUnavailable:
        return
    except PikerError as err:
        raise Broken(f"7-second bars raised {type(err).__name__}, not DataUnavailable") from err
    raise Broken("7-second bars were answered; a timeframe the venue lacks is DataUnavailable")


async def search(kit: Kit) -> str:
    """Search finds the market by its name; an unknown market is SymbolNotFound."""
    backend = kit.backend
    if backend.search_symbols is None and backend.get_mkt_info is None:
        raise Skipped("neither search_symbols nor get_mkt_info: the defaults hold")
    if backend.search_symbols is not None:
        pair = parse_fqme(f"{kit.symbol}.{backend.name}").pair
        found = await backend.search_symbols(pair, 20)
        if not all(isinstance(market, MktPair) for market in found):
            raise Broken("search_symbols must return a list of MktPair")
        if not any(market.mktid.startswith(pair) for market in found):
            raise Broken(f"a search for {pair!r} does not find {kit.symbol!r}")
    if backend.get_mkt_info is not None:
        market = await backend.get_mkt_info(f"{kit.symbol}.{backend.name}")
        if not isinstance(market, MktPair):
            raise Broken(f"get_mkt_info returned a {type(market).__name__}, not a MktPair")
        try:
            await backend.get_mkt_info(f"nosuchmarketqqq.{backend.name}")
        except SymbolNotFound:
            return market.fqme
        raise Broken("get_mkt_info of an unknown market must raise SymbolNotFound")
    return f"{kit.symbol} found"


async def reconnect(kit: Kit) -> str:
    """A broken connection gives Outage or Resync, and then ticks again."""
    if kit.break_hook is None:
        raise Skipped("nobody to cut the connections of: checked with --loopback only")
    told = ticks_after = 0
    async with kit.stream() as running:
        await _first_tick(running)
        await kit.break_hook()
        async for item in running.items(LIVE_S):
            told += isinstance(item, Outage | Resync)
            ticks_after += bool(told and isinstance(item, TickBatch) and item.rows)
            if ticks_after >= 2:
                return "told, and live again"
    if not told:
        raise Broken("the connection broke and neither Outage nor Resync came")
    raise Broken(f"no tick within {LIVE_S:.0f} s of a broken connection")


async def slow_consumer(kit: Kit) -> str:
    """A consumer that stalls finds the stream alive when it reads again."""
    async with kit.stream() as running:
        await _first_tick(running)
        await trio.sleep(STALL_S)
        for _ in range(QUEUE + 1):  # what was queued, then something that was sent after
            await _first_tick(running)
    return f"alive after {STALL_S:.0f} s without reading"


async def cancellation(kit: Kit) -> str:
    """Cancelling ends the stream soon, and no socket stays open."""
    gc.collect()
    before = _open_sockets()
    cancelled_at = 0.0
    async with kit.stream() as running:
        await _first_tick(running)
        cancelled_at = trio.current_time()
    took_s = trio.current_time() - cancelled_at
    if took_s > CANCEL_S:
        raise Broken(f"the stream took {took_s:.1f} s to end after its cancellation")
    gc.collect()
    left = _open_sockets() - before
    if left > 0:
        raise Broken(f"{left} socket(s) stayed open")
    return "ends, nothing stays open"


async def _first_tick(running: Running) -> None:
    async for item in running.items(LIVE_S):
        if isinstance(item, TickBatch) and item.rows:
            return
    raise Broken(f"no tick came within {LIVE_S:.0f} s")


def _open_sockets() -> int:
    count = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{entry}").startswith("socket:")
        except OSError:
            continue
    return count


RULES: dict[str, Callable[[Kit], Awaitable[str]]] = {
    "start-up": startup,
    "live": live,
    "quote schema": quote_schema,
    "history": history,
    "search": search,
    "reconnect": reconnect,
    "slow consumer": slow_consumer,
    "cancellation": cancellation,
}


async def check_provider(
    name: str,
    *,
    symbol: str,
    modules: tuple[str, ...] = (),
    break_hook: BreakHook | None = None,
) -> AsyncIterator[RuleResult]:
    """Load the backend and run every rule; yield each result as it is known.

    Raises nothing for a bad backend: a rule that raises, or a contract that is broken, is a
    failed result. Takes some seconds per rule.
    """
    try:
        backend = load_backend(name, modules)
    except PikerError as err:
        yield RuleResult("contract", "fail", str(err))
        return
    yield RuleResult("contract", "pass", repr(backend))
    kit = Kit(backend, symbol.lower(), break_hook)
    for rule, check in RULES.items():
        yield await _run(rule, check, kit)


async def _run(rule: str, check: Callable[[Kit], Awaitable[str]], kit: Kit) -> RuleResult:
    try:
        return RuleResult(rule, "pass", await check(kit))
    except BaseExceptionGroup as group:
        _, rest = group.split(Exception)
        if rest is not None:
            raise  # cancellation, Ctrl-C
        errors = list(_leaves(group))
        told = next((e for e in errors if isinstance(e, Skipped)), None)
        broken = next((e for e in errors if isinstance(e, Broken)), errors[0])
        return _verdict(rule, told or broken)
    except Exception as err:
        return _verdict(rule, err)


def _verdict(rule: str, err: BaseException) -> RuleResult:
    if isinstance(err, Skipped):
        return RuleResult(rule, "skip", str(err))
    if isinstance(err, Broken):
        return RuleResult(rule, "fail", str(err))
    return RuleResult(rule, "fail", f"raised {type(err).__name__}: {err}")


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for err in group.exceptions:
        found.extend(_leaves(err) if isinstance(err, BaseExceptionGroup) else [err])
    return found
