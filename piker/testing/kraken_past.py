"""What a market of the loopback Kraken traded: before it began by formula, then as it happened.

Trades come first and bars are made of them, so that both always agree, to the last digit. The past
is a function of seed and time: each hour has as many takers' orders, at times of its own, and each
order as many fills, all at the same nanosecond. Nothing of it is kept but its minutes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from piker.clock import NS
from piker.ohlcv import OHLC_DTYPE, Timeframe
from piker.testing.synthetic import SyntheticMarket, Trade

__all__ = ["PAST_DAYS", "Fill", "KrakenMarket", "Tape"]

PAST_DAYS = 40  # how long a market has been listed: 720 bars of an hour and some
MAX_LIVE_TRADES = 500_000  # 20 MB; of what traded live, the older half is forgotten then
MAX_LIVE_MINUTES = 43_200  # 30 days of live bars
HOUR_S, DAY_MINUTES = 3600, 1440
ORDERS = 180  # takers' orders of an hour: a minute in twenty is quiet
_FILLS = (1, 1, 4, 1, 2, 3, 1, 1, 5, 1, 2, 2)  # of order after order
_PATTERN = np.resize(np.array(_FILLS), ORDERS)
_ORDER_OF = np.repeat(np.arange(ORDERS), _PATTERN)  # of each fill of an hour
_NTH = np.concatenate([np.arange(n) for n in _PATTERN])  # its place within the order
TRADES = len(_ORDER_OF)  # of an hour
_EPOCH_HOUR = 1_577_836_800 // HOUR_S  # 2020-01-01: ids count from there, whenever the venue began
_MICRO = 1000  # ns
_SECOND_US = 1_000_000
_FIELDS = 8  # of a minute: its number, then ints as in _minute_of

Array = np.ndarray[Any, np.dtype[Any]]


class Fill(NamedTuple):
    """A trade as the venue keeps it: price in ticks, size in lots, the taker's side."""

    ns: int
    price: int
    size: int
    side: int
    number: int


class KrakenMarket(SyntheticMarket):
    """A synthetic market whose trades are numbered on from those of its past."""

    def number_from(self, number: int) -> None:
        """Give the next trade this id."""
        self._next_trade = number


class Tape:
    """Every trade of one market, and its bars of whole minutes."""

    def __init__(self, market: KrakenMarket, seed: int) -> None:
        self._market = market
        self._key = np.uint64(crc32(f"{seed}:{market.spec.symbol}".encode()) << 20)
        self._step = max(1, round(market.spec.price / market.spec.tick * 1e-5))  # between fills
        self._stop_ns = market.start_s * NS
        self.first_hour = market.start_s // HOUR_S - PAST_DAYS * 24
        self._last_hour = market.start_s // HOUR_S
        self._days: dict[int, Array] = {}  # day -> its minutes; of PAST_DAYS and one at most
        self._live = tuple(array("q") for _ in Fill._fields)
        self._minutes: dict[int, list[int]] = {}  # live ones
        self._keys: list[int] = []  # of the same, ascending
        last = self._hours(self._last_hour, self._last_hour + 1)
        done = int(last[-1][-1]) if len(last[0]) else self._number(self._last_hour)
        self._last_ns = self._stop_ns
        market.number_from(done + 1)

    # -- live ----------------------------------------------------------------------------------
    def note(self, made: list[Trade]) -> list[Fill]:
        """Keep what was traded just now; return it with its times, each later than the last."""
        spec, found = self._market.spec, []
        for trade in made:
            self._last_ns = max(trade.time_ms * 1_000_000, self._last_ns + _MICRO)
            price, size = round(trade.price / spec.tick), round(trade.size / spec.lot)
            fill = Fill(self._last_ns, price, size, trade.side, trade.number)
            for column, value in zip(self._live, fill, strict=True):
                column.append(value)
            self._to_minute(fill)
            found.append(fill)
        if len(self._live[0]) > MAX_LIVE_TRADES:
            for column in self._live:
                del column[: MAX_LIVE_TRADES // 2]
        return found

    def _to_minute(self, fill: Fill) -> None:
        number = fill.ns // (60 * NS)
        row = self._minutes.get(number)
        if row is None:
            self._minutes[number] = _minute_of(number, fill)
            self._keys.append(number)
            if len(self._keys) > MAX_LIVE_MINUTES:
                del self._minutes[self._keys.pop(0)]
            return
        _add(row, _minute_of(number, fill))

    # -- trades --------------------------------------------------------------------------------
    def newest(self, count: int, *, live: bool = False) -> list[Fill]:
        """Return the last ``count`` trades; with ``live``, only those since the venue began."""
        found = [Fill(*row) for row in zip(*(c[-count:] for c in self._live), strict=True)]
        if live or len(found) >= count:
            return found[-count:]
        hours = -(-(count - len(found)) // TRADES) + 1
        past = self._hours(max(self.first_hour, self._last_hour + 1 - hours), self._last_hour + 1)
        return (_fills(past) + found)[-count:]

    def after(self, since_ns: int, count: int) -> list[Fill]:
        """Return up to ``count`` trades later than a moment, oldest first."""
        found: list[Fill] = []
        if since_ns < self._stop_ns:
            hour = max(self.first_hour, since_ns // NS // HOUR_S)
            end = min(self._last_hour, hour + -(-count // TRADES) + 1) + 1
            past = self._hours(hour, end)
            at = int(np.searchsorted(past[0], since_ns, side="right"))
            found = _fills(tuple(column[at : at + count] for column in past))
        if len(found) < count:
            times = self._live[0]
            at = bisect_left(times, since_ns + 1)
            columns = (column[at : at + count - len(found)] for column in self._live)
            found += [Fill(*row) for row in zip(*columns, strict=True)]
        return found

    def _number(self, hour: int) -> int:
        """Return how many trades there were before an hour."""
        return (hour - _EPOCH_HOUR) * TRADES

    def _hours(self, first: int, end: int) -> tuple[Array, ...]:
        """Return the columns of the past's trades in the hours [first, end)."""
        hours = np.arange(first, end, dtype=np.int64)
        orders = (hours[:, None] * ORDERS + np.arange(ORDERS)).astype(np.uint64)
        dice = _mix(orders + self._key)
        micros = np.sort((dice % np.uint64(HOUR_S * _SECOND_US)).astype(np.int64), axis=1)
        # REST tells times as floats: none so close to a second's end that it would round over.
        micros -= micros % _SECOND_US == _SECOND_US - 1
        ns = (hours[:, None] * HOUR_S * _SECOND_US + micros) * _MICRO
        ns += (dice >> np.uint64(40)).astype(np.int64) % _MICRO
        path = self._market.path((ns // NS).ravel().tolist()).reshape(ns.shape)
        mid = np.round(path / self._market.spec.tick).astype(np.int64)
        mid += (dice >> np.uint64(20)).astype(np.int64) % 7 - 3
        side = np.where(dice & np.uint64(1 << 33), 1, -1)
        numbers = (hours[:, None] - _EPOCH_HOUR) * TRADES + np.arange(1, TRADES + 1)
        sizes = _mix(numbers.astype(np.uint64) + self._key)
        size = (sizes % np.uint64(97) + 1) * (sizes >> np.uint64(32)) % np.uint64(13 * 97) + 1
        side = side[:, _ORDER_OF]
        price = np.maximum(1, mid[:, _ORDER_OF] + side * _NTH * self._step)
        columns = (ns[:, _ORDER_OF], price, size.astype(np.int64), side, numbers)
        flat = tuple(column.ravel() for column in columns)
        stop = int(np.searchsorted(flat[0], self._stop_ns))
        return tuple(column[:stop] for column in flat)

    # -- bars ----------------------------------------------------------------------------------
    def minutes(self, begin: int, end: int) -> Array:
        """Return the minutes in [begin, end) that had trades: (n, 8) whole numbers.

        Columns: minutes since the epoch, open, high, low, close (ticks), lots, trades, and the sum
        of ticks times lots.
        """
        begin = max(begin, self.first_hour * 60)
        past_end = min(end, self._stop_ns // (60 * NS) + 1)
        days = range(begin // DAY_MINUTES, -(-past_end // DAY_MINUTES))
        parts = [self._day(day) for day in days if past_end > begin]
        past = np.concatenate(parts) if parts else np.zeros((0, _FIELDS), np.int64)
        past = past[(past[:, 0] >= begin) & (past[:, 0] < past_end)]
        keys = self._keys[bisect_left(self._keys, begin) : bisect_left(self._keys, end)]
        rows = [list(self._minutes[key]) for key in keys]
        if rows and len(past) and past[-1, 0] == rows[0][0]:
            joined = past[-1].tolist()
            _add(joined, rows[0])
            past, rows[0] = past[:-1], joined
        return np.concatenate([past, np.array(rows, np.int64).reshape(-1, _FIELDS)])

    def _day(self, day: int) -> Array:
        if day not in self._days:
            hours = range(day * 24, day * 24 + 24)
            first, end = max(hours[0], self.first_hour), min(hours[-1], self._last_hour) + 1
            self._days[day] = _minutes_of(self._hours(first, end))
        return self._days[day]

    def bars(self, minutes: int, begin_s: int, now_s: int) -> Array:
        """Return bars from ``begin_s``, or the first trade, to the one in progress.

        ``OHLC_DTYPE``. ``bar_wap`` is cut to whole ticks, as the venue's is, and 0 for a bar
        without trades, which repeats the last close.
        """
        timeframe, spec = Timeframe(f"{minutes}m"), self._market.spec
        begin_s = max(begin_s, timeframe.floor(self.first_hour * HOUR_S))
        opens, at = [], timeframe.floor(begin_s)
        while at <= now_s:
            opens.append(at)
            at = timeframe.next(at)
        traded = self.minutes(begin_s // 60, now_s // 60 + 1)
        rows = np.zeros(len(opens), OHLC_DTYPE)
        rows["time"] = opens
        edges = np.searchsorted(traded[:, 0], np.array([*opens, at]) // 60)
        full = edges[1:] > edges[:-1]
        first, last = edges[:-1][full], edges[1:][full] - 1
        if len(first):
            rows["open"][full] = traded[first, 1] * spec.tick
            rows["high"][full] = np.maximum.reduceat(traded[:, 2], first) * spec.tick
            rows["low"][full] = np.minimum.reduceat(traded[:, 3], first) * spec.tick
            rows["close"][full] = traded[last, 4] * spec.tick
            lots, turnover = (np.add.reduceat(traded[:, column], first) for column in (5, 7))
            rows["volume"][full] = lots * spec.lot
            rows["count"][full] = np.add.reduceat(traded[:, 6], first)
            rows["bar_wap"][full] = turnover // lots * spec.tick
        self._fill_quiet(rows, full)
        return rows

    def _fill_quiet(self, rows: Array, full: Array) -> None:
        """Repeat the last close where nothing traded."""
        if full.all() or not len(rows):
            return
        last = np.maximum.accumulate(np.where(full, np.arange(len(rows)), -1))
        before = self._close_before(int(rows["time"][0])) if last[0] < 0 else 0.0
        close = np.where(last < 0, before, rows["close"][last])
        for name in ("open", "high", "low", "close"):
            rows[name] = np.where(full, rows[name], close)

    def _close_before(self, time_s: int) -> float:
        """Return the price of the last trade before a time, in money."""
        minute = time_s // 60
        at = bisect_left(self._keys, minute)
        if at:
            return self._minutes[self._keys[at - 1]][4] * self._market.spec.tick
        found = self.minutes(minute - DAY_MINUTES, minute)
        return float(found[-1, 4] * self._market.spec.tick) if len(found) else self._market.last


def _minute_of(number: int, fill: Fill) -> list[int]:
    turnover = fill.price * fill.size
    return [number, fill.price, fill.price, fill.price, fill.price, fill.size, 1, turnover]


def _add(row: list[int], later: list[int]) -> None:
    """Add what was traded later to a minute."""
    row[2], row[3], row[4] = max(row[2], later[2]), min(row[3], later[3]), later[4]
    for column in (5, 6, 7):
        row[column] += later[column]


def _minutes_of(columns: tuple[Array, ...]) -> Array:
    """Return the minutes of some trades."""
    ns, price, size = columns[:3]
    if not len(ns):
        return np.zeros((0, _FIELDS), np.int64)
    numbers, first = np.unique(ns // (60 * NS), return_index=True)
    last = np.append(first[1:], len(ns)) - 1
    return np.stack(
        [
            numbers, price[first], np.maximum.reduceat(price, first),
            np.minimum.reduceat(price, first), price[last], np.add.reduceat(size, first),
            last - first + 1, np.add.reduceat(price * size, first),
        ],
        axis=1,
    )  # fmt: skip


def _fills(columns: tuple[Array, ...]) -> list[Fill]:
    return [Fill(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _mix(values: Array) -> Array:
    """Return well-mixed 64-bit numbers (the finaliser of SplitMix64, Steele et al. 2014)."""
    mixed = values * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
