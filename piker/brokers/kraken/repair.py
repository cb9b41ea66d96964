"""Missed trades, fetched again: a hole in the ids of a market's trades is filled over REST."""

from __future__ import annotations

from typing import Any

import trio

from piker.brokers.kraken import schema
from piker.brokers.kraken.api import PROVIDER, Listing, fetch_trades, open_client
from piker.brokers.kraken.decode import MissedTrades
from piker.brokers.quality import venue_quality
from piker.brokers.rest import RestClient
from piker.clock import wall_ns
from piker.errors import BrokerError
from piker.log import get_logger
from piker.ticks import TRADE, TickBatch, TickRow

__all__ = ["MAX_PAGES", "fetch_missed", "repair_for_ever"]

MAX_PAGES = 10  # of 1000 trades and a second each; of a longer hole the oldest are fetched

log = get_logger("kraken.repair")


async def repair_for_ever(
    gaps: trio.abc.ReceiveChannel[MissedTrades],
    listings: dict[str, Listing],
    send_chan: trio.abc.SendChannel[Any],
) -> None:
    """Fetch hole after hole and send the trades, late but with the venue's time.

    A hole that can not be filled stays one: its Resync has been sent, and it is counted.
    """
    async for gap in gaps:
        try:
            async with open_client() as client:
                rows = await fetch_missed(client, gap, listings[gap.symbol])
        except BrokerError as error:
            venue_quality(PROVIDER).count("gap-not-filled", f"{gap}: {error}")
            continue
        log.info("gap.filled", symbol=gap.symbol, missed=gap.count, found=len(rows))
        if rows:
            await send_chan.send(TickBatch(rows, wall_ns()))


async def fetch_missed(client: RestClient, gap: MissedTrades, listing: Listing) -> list[TickRow]:
    """Return the missing trades, oldest first, of at most ``MAX_PAGES`` answers."""
    rows: list[TickRow] = []
    since = gap.after_ns - 1  # the venue's own mark of that trade may have digits below ours
    for _ in range(MAX_PAGES):
        found, last = await fetch_trades(client, listing, since)
        rows += [_row(gap.symbol, one) for one in found if gap.first <= one[6] <= gap.last]
        if not found or found[-1][6] >= gap.last or last <= since:
            break
        since = last
    return rows


def _row(symbol: str, trade: schema.RestTrade) -> TickRow:
    price, size, at, side, _, _, number = trade
    time_ns = round(at * 1e6) * 1000  # a float of seconds holds microseconds
    return (symbol, TRADE, time_ns, price, size, 0.0, 0.0, 1 if side == "b" else -1, number)
