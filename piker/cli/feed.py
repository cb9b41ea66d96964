"""``piker feed``: quotes as lines, for eyes or for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec
import trio

from piker import config, log
from piker.cli.markets import check_markets
from piker.data.feed import open_feed
from piker.ticks import Outage, Quote, Resync

__all__ = ["run"]


def run(
    fqmes: Sequence[str],
    *,
    seconds: float | None,
    as_json: bool,
    throttle: float | None,
    log_level: str | None,
) -> None:
    """Print until the time is up or Ctrl-C."""
    check_markets(fqmes)
    log.configure(log_level, default=config.load_conf().log.level, actor="feed")
    trio.run(_follow, fqmes, seconds, as_json, throttle)


async def _follow(
    fqmes: Sequence[str], seconds: float | None, as_json: bool, throttle: float | None
) -> None:
    async with open_feed(fqmes, tick_throttle=throttle) as feed:
        with trio.move_on_after(seconds or float("inf")):
            async for item in feed:
                if isinstance(item, Resync | Outage):
                    _print_event(item, as_json)
                elif isinstance(item, dict):
                    for quote in item.values():
                        _print_quote(quote, as_json)
                sys.stdout.flush()


def _print_event(event: Resync | Outage, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(event).decode())
        return
    word = "resync" if isinstance(event, Resync) else "outage"
    missed = (
        f", {event.missed} ticks missed" if isinstance(event, Resync) and event.missed > 0 else ""
    )
    print(f"-- {word}: {event.reason}{missed} {event.symbol}".rstrip())


def _print_quote(quote: Quote, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(quote).decode())
        return
    trades = [tick for tick in quote.ticks if tick.type.label == "trade"]
    total = sum(tick.size for tick in trades)
    volume = f"{total:g} in {len(trades)} trade{'s'[: len(trades) > 1]}" if trades else ""
    line = (
        f"{quote.symbol}  last {_number(quote.last)}  bid {_number(quote.bid)} x "
        f"{_number(quote.bid_size)}  ask {_number(quote.ask)} x {_number(quote.ask_size)}  "
        f"{volume}"
    )
    print(line.rstrip())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.10g}"
