"""Rows of klines, whoever brought them: their mean price, and what no market can have.

The REST interface and the archive give the same twelve columns. Of inverse markets (COIN-M) the
volume is in contracts and the turnover in coins.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from piker.brokers.archive import Defect
from piker.brokers.quality import MAX_VALUE, MAX_VOLUME
from piker.market import MktPair
from piker.ohlcv import Timeframe

__all__ = [
    "AGG_TRADE_DTYPE",
    "FUNDING_DTYPE",
    "INTERVALS",
    "Rows",
    "Times",
    "in_order",
    "leave_out",
    "repeated",
    "set_mean_price",
    "sift",
]

Rows = np.ndarray[Any, np.dtype[Any]]
Times = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

#: A trade as the venue aggregates them: fills of one taker order at one price. ``side`` is the
#: taker's: 1 bought, -1 sold. ``size`` is in contracts where the market is inverse.
AGG_TRADE_DTYPE = np.dtype([
    ("time_ns", "<i8"), ("id", "<i8"), ("first_id", "<i8"), ("last_id", "<i8"),
    ("price", "<f8"), ("size", "<f8"), ("side", "<i8"),
])  # fmt: skip
#: A funding: what a position paid at ``time_ms``, as a part of its worth. ``interval_h`` are the
#: hours since the one before, 0 where the source does not say; ``mark_price`` is NaN where it does
#: not.
FUNDING_DTYPE = np.dtype([
    ("time_ms", "<i8"), ("rate", "<f8"), ("interval_h", "<i8"), ("mark_price", "<f8"),
])  # fmt: skip

#: The venue's names of intervals; ``1s`` is served on spot only.
INTERVALS = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d",
             "1w", "1M")  # fmt: skip
_S = 1_000_000  # microseconds
_DAY = 86_400 * _S


def set_mean_price(rows: Rows, market: MktPair) -> None:
    """Write ``bar_wap`` from volume and turnover, held between low and high.

    The venue rounds its turnover, so that the quotient may lie just outside; of a bar without
    trades, or whose turnover was rounded away, it is 0.0.
    """
    volume, turnover = rows["volume"], rows["turnover"]
    with np.errstate(divide="ignore", invalid="ignore"):
        if market.inverse:
            wap = volume * float(market.contract_size) / turnover
        else:
            wap = turnover / volume
        traded = (volume > 0) & (turnover > 0)
    rows["bar_wap"] = np.where(traded, np.clip(wap, rows["low"], rows["high"]), 0.0)


def sift(
    rows: Rows, times_us: Times, timeframe: Timeframe, *, start_s: int, end_s: int, closed_s: int
) -> tuple[Rows, list[Defect]]:
    """Return the rows that can be believed, ascending and unique, and what was wrong. Pure.

    ``times_us`` are their open times, which must be in [``start_s``, ``end_s``), on the grid of
    the timeframe, and of bars that had closed by ``closed_s``. Of rows of one time that are equal
    one stays; of those that differ none can be trusted. Rows out of order are sorted in.
    """
    defects: list[Defect] = []
    inside = (times_us >= start_s * _S) & (times_us < end_s * _S)
    inside &= _ends_us(times_us, timeframe) <= closed_s * _S
    rows, times_us = leave_out("out-of-range", ~inside, rows, times_us, defects)
    rows, times_us = leave_out("off-grid", _off_grid(times_us, timeframe), rows, times_us, defects)
    rows, times_us = in_order(rows, times_us, defects)
    rows, times_us = leave_out("duplicate", repeated(rows, times_us), rows, times_us, defects)
    rows, times_us = leave_out("impossible-bar", _impossible(rows), rows, times_us, defects)
    return rows, defects


def leave_out(
    kind: str, bad: Mask, rows: Rows, keys: Times, defects: list[Defect]
) -> tuple[Rows, Times]:
    """Return rows and keys without the bad ones, which are added to ``defects`` as ``kind``."""
    if not bad.any():
        return rows, keys
    first = int(np.flatnonzero(bad)[0])
    defects.append(Defect(kind, int(bad.sum()), _words(rows[first])))
    return rows[~bad], keys[~bad]


def in_order(rows: Rows, keys: Times, defects: list[Defect]) -> tuple[Rows, Times]:
    """Sort by key; a row that stands behind one with a larger key counts as unsorted."""
    late = keys[1:] < np.maximum.accumulate(keys)[:-1]
    if not late.any():
        return rows, keys
    first = int(np.flatnonzero(late)[0]) + 1
    defects.append(Defect("unsorted", int(late.sum()), _words(rows[first])))
    order = np.argsort(keys, kind="stable")
    return rows[order], keys[order]


def repeated(rows: Rows, keys: Times) -> Mask:
    """Tell which rows are to go because another has the same key; keys ascend. Pure.

    Of a group of equal rows the first stays; a group whose rows differ goes as a whole.
    """
    go = np.zeros(len(rows), bool)
    same = keys[1:] == keys[:-1]
    if not same.any():
        return go
    go[1:] = same
    pairs = np.flatnonzero(same)
    bytes_of = np.ascontiguousarray(rows).view("u1").reshape(len(rows), -1)
    differ = (bytes_of[pairs] != bytes_of[pairs + 1]).any(axis=1)
    group = np.concatenate(([0], np.cumsum(~same)))
    untrusted: Mask = go | np.isin(group, group[pairs[differ]])
    return untrusted


def _ends_us(times_us: Times, timeframe: Timeframe) -> Times:
    if timeframe.unit != "M":
        return times_us + timeframe.seconds * _S
    return np.array([timeframe.next(int(time) // _S) * _S for time in times_us], np.int64)


def _off_grid(times_us: Times, timeframe: Timeframe) -> Mask:
    """Tell which times are no opens of the venue's.

    Its three-day bars do not begin at multiples of three days: each market has a phase of its own,
    so that theirs is the phase of most of them (docs/brokers/binance.md).
    """
    bad: Mask
    if timeframe.unit == "M":
        opens = [timeframe.floor(int(time) // _S) * _S for time in times_us]
        bad = times_us != np.array(opens, np.int64)
        return bad
    if timeframe.unit == "d" and timeframe.count > 1:
        bad = times_us % _DAY != 0
        phase = times_us // _DAY % timeframe.count
        if not bad.all():
            bad |= phase != np.argmax(np.bincount(phase[~bad]))
        return bad
    first = timeframe.next(0) if timeframe.floor(0) else 0  # weeks begin on Mondays
    bad = (times_us - first * _S) % (timeframe.seconds * _S) != 0
    return bad


def _impossible(rows: Rows) -> Mask:
    """Tell which rows no market could have; comparisons with NaN are false, so NaN fails."""
    low, high = rows["low"], rows["high"]
    good = (low > 0) & (high < MAX_VALUE) & (rows["count"] >= 0)
    for name in ("open", "close"):
        good &= (low <= rows[name]) & (rows[name] <= high)
    for name in ("volume", "turnover", "taker_volume", "taker_turnover"):
        good &= (rows[name] >= 0) & (rows[name] < MAX_VOLUME)
    bad: Mask = ~good
    return bad


def _words(row: Any) -> str:
    """Return the first fields of a row, for a person."""
    return " ".join(f"{name}={row[name]}" for name in row.dtype.names[1:6])
