"""datad: one provider's process. pikerd starts it as ``datad.<provider>``."""

from __future__ import annotations

import trio
from trio_typing import TaskStatus

from piker import config, service
from piker.brokers.spec import Backend, load_backend
from piker.clock import wall_ns
from piker.data.bus import Bus
from piker.data.messages import FeedStats, FlumeInfo
from piker.errors import Bug
from piker.market import MktPair

__all__ = ["clock_skew", "feed_stats", "main", "open_feed_bus", "search_markets"]

_bus: Bus | None = None


async def main(name: str, task_status: TaskStatus[None]) -> None:
    """Serve a provider's data until cancelled; raise its ``ProviderError`` at start-up."""
    global _bus
    conf = config.load_conf()
    backend = load_backend(name.partition(".")[2], conf.brokers.modules)
    async with trio.open_nursery() as nursery:
        _bus = Bus(backend, conf, nursery)
        nursery.start_soon(_bus.run_clock)
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            nursery.cancel_scope.cancel()
            _bus.close()
            _bus = None


def _the_bus() -> Bus:
    if _bus is None:
        raise Bug("datad was called before it was ready.")
    return _bus


def _backend() -> Backend:
    return _the_bus().backend


@service.dialog
async def open_feed_bus(talk: service.ServerDialog, symbols: list[str]) -> None:
    """Open markets for a client: first value ``list[FlumeInfo]``, then ``FeedEvent`` messages.

    The markets are given back when the dialog ends, however it ends.
    """
    bus = _the_bus()
    events = bus.listen()
    infos: list[FlumeInfo] = await bus.open(symbols)
    try:
        async with talk.start(infos) as stream, events:
            await stream.relay(events)
    finally:
        events.close()
        bus.release([info.mkt.mktid for info in infos])


@service.request
async def feed_stats() -> FeedStats:
    """Return this datad's counters."""
    return _the_bus().stats


@service.request
async def search_markets(pattern: str, limit: int) -> list[MktPair]:
    """Search the provider's markets; empty where it can not search."""
    search = _backend().search_symbols
    if search is None:
        return []
    found: list[MktPair] = await search(pattern, limit)
    return found


@service.request
async def clock_skew() -> float | None:
    """Return our clock minus the venue's in seconds, half the round trip allowed for."""
    ask = _backend().get_server_time
    if ask is None:
        return None
    before = wall_ns()
    theirs: int = await ask()
    after = wall_ns()
    return ((before + after) // 2 - theirs) / 1e9
