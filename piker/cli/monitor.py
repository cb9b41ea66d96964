"""``piker monitor``: live candles, quotes, rates and feed state in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import trio
from rich.console import Console
from rich.live import Live

from piker import config, log
from piker.cli.candles import Candle
from piker.cli.markets import check_markets
from piker.cli.screen import MarketView, render
from piker.clock import wall_ns
from piker.data.feed import Feed, Flume, Item, open_feed
from piker.ticks import Backfill, Outage, Quote, Resync

__all__ = ["Tally", "follow", "run"]

FRAMES_PER_S = 8  # a terminal; more is flicker
RATE_S = 2.0  # over which ticks per second are counted
MAX_COLUMNS = 400  # candles kept ready for the widest terminal


class Tally:
    """What was seen of a feed, by market."""

    def __init__(self) -> None:
        self.quotes: Counter[str] = Counter()
        self.ticks: Counter[str] = Counter()
        self.last: dict[str, Quote] = {}
        self.lag_ms: dict[str, float] = {}
        self.resyncs = 0
        self.outages = 0
        self.note = ""

    def take(self, item: Item) -> None:
        """Count one item of a feed."""
        if isinstance(item, Resync):
            self.resyncs += 1
            self.note = f"resync: {item.reason}"
        elif isinstance(item, Outage):
            self.outages += 1
            self.note = f"outage: {item.reason}"
        elif not isinstance(item, Backfill):
            for fqme, quote in item.items():
                self.quotes[fqme] += 1
                self.ticks[fqme] += len(quote.ticks)
                self.last[fqme] = quote
                self.lag_ms[fqme] = max(0.0, (wall_ns() - quote.time_ns) / 1e6)


def run(fqmes: Sequence[str], *, seconds: float | None, log_level: str | None) -> None:
    """Show the markets until the time is up or Ctrl-C."""
    check_markets(fqmes)
    log.configure(log_level, default=config.load_conf().log.level, actor="monitor")
    trio.run(_watch, fqmes, seconds)


async def _watch(fqmes: Sequence[str], seconds: float | None) -> None:
    console = Console()
    with console.status("Starting the feed ..."):
        opened = open_feed(fqmes, tick_throttle=FRAMES_PER_S)
        feed = await opened.__aenter__()
    try:
        await follow(feed, Tally(), seconds, console)
    finally:
        await opened.__aexit__(None, None, None)


async def follow(feed: Feed, tally: Tally, seconds: float | None, console: Console) -> None:
    """Draw an open feed until the time is up, and tally what is seen."""
    deadline = trio.current_time() + seconds if seconds else float("inf")
    with trio.CancelScope(deadline=deadline):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_count, feed, tally)
            await _draw(feed, tally, console)


async def _count(feed: Feed, tally: Tally) -> None:
    async for item in feed:
        tally.take(item)


async def _draw(feed: Feed, tally: Tally, console: Console) -> None:
    rates: dict[str, float] = {}
    before: Counter[str] = Counter()
    counted_at = trio.current_time()
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            now = trio.current_time()
            if now - counted_at >= RATE_S:
                span = now - counted_at
                rates = {fqme: (tally.ticks[fqme] - before[fqme]) / span for fqme in feed.flumes}
                before, counted_at = tally.ticks.copy(), now
            views = [_view(flume, tally, rates) for flume in feed.flumes.values()]
            live.update(render(views, console.width, console.height - 1), refresh=True)
            await trio.sleep(1 / FRAMES_PER_S)


def _view(flume: Flume, tally: Tally, rates: dict[str, float]) -> MarketView:
    rows = flume.bars_1s.array[-MAX_COLUMNS:]
    columns = (rows[name].tolist() for name in ("open", "high", "low", "close"))
    return MarketView(
        fqme=flume.fqme,
        digits=min(8, flume.mkt.price_digits or 2),
        quote=tally.last.get(flume.fqme, flume.first_quote),
        candles=[Candle(*prices) for prices in zip(*columns, strict=True)],
        timeframe="1s",
        state=flume.state,
        ticks_per_s=rates.get(flume.fqme, 0.0),
        quotes=tally.quotes[flume.fqme],
        resyncs=tally.resyncs,
        lag_ms=tally.lag_ms.get(flume.fqme),
        note=tally.note,
    )
