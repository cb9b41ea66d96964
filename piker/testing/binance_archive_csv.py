"""CSV of the loopback archive: bars, aggregated trades and fundings, a piece at a time.

Bars are the text of REST's ``/klines``. Trades are made of the past's seconds, so that every bar
from 1m to 1h has the open, high, low, close, volume and number of trades that its trades have (a
second that trades once trades at its open, so that some 1s bars have another close); turnover
agrees within a few hundred-thousandths, the takers' side does not. Longer bars are made of minutes
and hours and agree in open and close.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from piker.ohlcv import Timeframe
from piker.testing import binance_wire as wire
from piker.testing.bar_table import KLINE_COLUMNS
from piker.testing.binance_bars import bars_between
from piker.testing.binance_market import Listing

__all__ = ["MICROSECONDS_FROM_S", "agg_trade_chunks", "funding_chunks", "kline_chunks"]

MICROSECONDS_FROM_S = 1_735_689_600  # 2025-01-01: spot's files are in microseconds from here on
CHUNK_S = 86_400  # of a file that is made before others have a turn
PIECE_S = 14_400  # of bars that are made at once: what fits the processor's cache
TRADES_PIECE_S = 7200
TRADES_HEADER = (
    "agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time",
    "is_buyer_maker",
)  # fmt: skip
FUNDING_HEADER = ("calc_time", "funding_interval_hours", "last_funding_rate")
#: Trades in the seconds 0 to 4 of every five, summed up to each: 1, 2, 3, 4, 5. Four rows at most.
_BEFORE = np.array([0, 1, 3, 6, 10])
_TRADES_OF_FIVE, _ROWS_OF_FIVE, MAX_ROWS = 15, 14, 4
_SECOND = Timeframe("1s")


def in_microseconds(listing: Listing, start_s: int) -> bool:
    """Tell whether a file that begins then has its times in microseconds."""
    return listing.kind == "spot" and start_s >= MICROSECONDS_FROM_S


def _header(listing: Listing, names: tuple[str, ...]) -> bytes:
    return b"" if listing.kind == "spot" else f"{','.join(names)}\n".encode()


def kline_chunks(
    listing: Listing, timeframe: Timeframe, start_s: int, stop_s: int
) -> Iterator[bytes]:
    """Yield a file of bars; nothing where there are none."""
    header = _header(listing, KLINE_COLUMNS)
    micro = in_microseconds(listing, start_s)
    for begin in range(start_s, stop_s, CHUNK_S):
        # Every one of these bars is over: the file has not been there before that.
        lines = [
            line
            for at in range(begin, min(begin + CHUNK_S, stop_s), PIECE_S)
            for line in bars_between(listing, timeframe, at, at + PIECE_S, timeframe.next(stop_s))
        ]
        if lines:
            lines = [_micro(line) for line in lines] if micro else lines
            yield header + "\n".join([*lines, ""]).encode()
            header = b""


def _micro(line: str) -> str:
    row = line.split(",")
    row[0], row[6] = f"{row[0]}000", f"{row[6]}999"
    return ",".join(row)


def agg_trade_chunks(listing: Listing, start_s: int, stop_s: int) -> Iterator[bytes]:
    """Yield a file of the synthetic past's aggregated trades; nothing where there are none."""
    header = _header(listing, TRADES_HEADER)
    unit = 1_000_000 if in_microseconds(listing, start_s) else 1000
    for begin in range(start_s, stop_s, TRADES_PIECE_S):
        first = max(begin, listing.listed_s)
        end = min(begin + TRADES_PIECE_S, stop_s)
        if first < end:
            yield header + _agg_trades(listing, first, end, unit)
            header = b""


def _agg_trades(listing: Listing, start_s: int, stop_s: int, unit: int) -> bytes:
    spec = listing.spec
    bars = listing.market.bars(_SECOND, start_s, stop_s, stop_s)
    lots = np.rint(bars["volume"] / spec.lot).astype(np.int64)
    trades = bars["count"]
    counts = np.minimum(np.minimum(trades, MAX_ROWS), lots)
    bar = np.repeat(np.arange(len(bars)), counts)
    nth = np.arange(len(bar)) - np.repeat(np.cumsum(counts) - counts, counts)
    of, opened = counts[bar], bars["open"][bar]
    price = opened + (bars["close"][bar] - opened) * (nth / np.maximum(of - 1, 1))
    price = np.rint(price / spec.tick) * spec.tick
    size = (lots[bar] // of + (nth < lots[bar] % of)) * spec.lot
    time_s = bars["time"][bar]
    first_id = _number(listing, time_s, _TRADES_OF_FIVE) + nth
    last_id = first_id + np.where(nth == of - 1, trades[bar] - of, 0)
    falls = bars["close"][bar] < opened
    maker = np.where(bars["close"][bar] == opened, (time_s + nth) % 2 == 0, falls)
    columns = [
        _number(listing, time_s, _ROWS_OF_FIVE) + nth, price, size, first_id, last_id,
        time_s * unit + nth * unit // of, maker,
    ]  # fmt: skip
    tick, lot = wire.decimals_of(spec.tick), wire.decimals_of(spec.lot)
    spot = listing.kind == "spot"
    form = f"%d,%.{tick}f,%.{lot}f,%d,%d,%d,%s" + (",True" if spot else "")
    words = ("False", "True") if spot else ("false", "true")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    lines = [form % (*row[:-1], words[row[-1]]) for row in rows]
    return "\n".join([*lines, ""]).encode()


def _number(listing: Listing, time_s: Any, of_five: int) -> Any:
    """Return the number of a second's first trade, or row, counted from the listing."""
    since = time_s - listing.listed_s // 5 * 5
    return since // 5 * of_five + _BEFORE[since % 5] + 1


def funding_chunks(listing: Listing, start_s: int, stop_s: int) -> Iterator[bytes]:
    """Yield a file of a perpetual's fundings; nothing where there are none."""
    hours = wire.FUNDING_S // 3600
    lines = [
        f"{at_s * 1000},{hours},{wire.funding_rate(listing, at_s)}\n"
        for at_s in wire.funding_times(listing, start_s, stop_s)
    ]
    if lines and listing.kind != "spot":
        yield _header(listing, FUNDING_HEADER) + "".join(lines).encode()
