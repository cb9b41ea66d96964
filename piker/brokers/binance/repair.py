"""Missed trades, fetched again: a hole in the ids of a market's trades is filled over REST."""

from __future__ import annotations

from typing import Any

import trio

from piker.brokers.binance import schema
from piker.brokers.binance.api import KINDS, open_client
from piker.brokers.binance.decode import MissedTrades, is_trade
from piker.brokers.quality import venue_quality
from piker.clock import wall_ns
from piker.errors import BrokerError
from piker.log import get_logger
from piker.market import MktPair
from piker.ticks import TRADE, TickBatch, TickRow

__all__ = ["MAX_REPAIR", "fetch_missed", "repair_for_ever"]

MAX_REPAIR = 5000  # trades of one gap: five calls; of a longer gap the newest, bars end with them
PAGE = 1000  # the venue's most per call
WEIGHT = {"spot": 4, "usdm": 20, "coinm": 20}  # by its documents

log = get_logger("binance.repair")


async def repair_for_ever(
    gaps: trio.abc.ReceiveChannel[MissedTrades],
    markets: dict[str, MktPair],
    send_chan: trio.abc.SendChannel[Any],
) -> None:
    """Fetch gap after gap and send the trades, late but with the venue's time.

    A gap that can not be fetched stays one: its Resync has been sent, and it is counted.
    """
    async for gap in gaps:
        try:
            rows = await fetch_missed(gap, markets[gap.symbol])
        except BrokerError as error:
            venue_quality("binance").count("gap-not-filled", f"{gap}: {error}")
            continue
        log.info("gap.filled", symbol=gap.symbol, missed=gap.count, found=len(rows))
        if rows:
            await send_chan.send(TickBatch(rows, wall_ns()))


async def fetch_missed(gap: MissedTrades, market: MktPair) -> list[TickRow]:
    """Return the gap's trades, oldest first, at most the newest ``MAX_REPAIR``."""
    kind = KINDS[market.address.venue]
    end = gap.first_id + gap.count
    at = max(gap.first_id, end - MAX_REPAIR)
    rows: list[TickRow] = []
    async with open_client(kind) as client:
        while at < end:
            found = await client.get_json(
                f"{kind.prefix}/aggTrades",
                {"symbol": market.bs_mktid, "fromId": at, "limit": min(PAGE, end - at)},
                type=list[schema.AggTradeRow],
                weight=WEIGHT[kind.name],
                strict=False,
            )
            inside = [trade for trade in found if at <= trade.a < end]
            rows += [_row(gap.symbol, trade) for trade in inside if is_trade(trade)]
            if not inside:
                break
            at = inside[-1].a + 1
    return rows


def _row(symbol: str, trade: schema.AggTradeRow) -> TickRow:
    side = -1 if trade.m else 1
    return (symbol, TRADE, trade.T * 1_000_000, trade.p, trade.q, 0.0, 0.0, side, trade.a)
