"""Synthetic markets: seeded order flow through a real matching engine, and a past to go with it.

Live trades, book and bars all come from one engine, so they agree exactly. The past is a function
of seed and time: any range can be asked for, nothing is stored, and it ends at the price at which
the engine began. Bars up to an hour are built from seconds, up to a day from minutes, longer ones
from hours.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from piker.ohlcv import OHLC_DTYPE, Timeframe
from piker.testing.engine import BUY, SELL, Fill, MatchingEngine

__all__ = ["Day", "MarketSpec", "SyntheticMarket", "Trade"]

DAY_S = 86_400

LEVELS = 60  # price levels a side that the flow keeps filled
REACH = 500  # units from the last price: 0.5 %; the flow trades with nobody beyond
MAX_ORDERS = 800  # resting orders; the oldest leave first
MAX_POINTS = 500_000  # seconds, minutes or hours that bars are made of at once: 30 MB
MAX_LIVE_S = 2 * 86_400  # seconds of live bars kept: as long as a loopback venue reasonably runs
_CYCLES = (  # 2.3 % together: a price in a test or an example means the same on every day
    (86_400 * 9, 0.01),
    (86_400, 0.005),
    (7200, 0.004),
    (900, 0.002),
    (211, 0.0006),
    (97, 0.0005),
    (23, 0.0002),
)
BLOCK_S = 3600  # seconds of the past that are made from one beginning
_PERIODS = np.array([period for period, _ in _CYCLES])
_WEIGHTS = np.array([weight for _, weight in _CYCLES])
_ANGLES = np.arange(BLOCK_S) % _PERIODS[:, None] * (math.tau / _PERIODS[:, None])
_WITHIN = np.vstack([np.cos(_ANGLES), np.sin(_ANGLES)])


class MarketSpec(NamedTuple):
    """A market's constants: prices are ``tick`` wide, sizes ``lot`` wide."""

    symbol: str
    base: str
    quote: str
    price: float
    tick: float
    lot: float


class Trade(NamedTuple):
    """A trade in the market's units, with its consecutive id."""

    number: int
    time_ms: int
    price: float
    size: float
    side: int
    maker_id: int
    taker_id: int


class Day(NamedTuple):
    """A market's last 24 hours, up to the minute at their beginning."""

    open_s: int
    open: float
    high: float
    low: float
    volume: float
    trades: int
    wap: float  # 0 without trades


class SyntheticMarket:
    """One market with its order flow. ``step`` moves it; everything else reads it."""

    def __init__(self, spec: MarketSpec, seed: int, start_s: int) -> None:
        self.spec = spec
        self.engine = MatchingEngine()
        self.start_s = start_s
        self.update_id = 1_000_000
        self.trades: list[Trade] = []  # the newest thousand
        self.kept: set[int] = set()  # orders of accounts, which the flow lets be
        self._random = random.Random(f"{seed}:{spec.symbol}")
        self._phases = [self._random.random() * math.tau for _ in _CYCLES]
        self._next_trade = 1
        self._seconds: dict[int, list[float]] = {}
        self._bars_from = start_s
        self._day: dict[str, Any] = {}  # the day's whole minutes, as of one of them
        self._anchor = max(2, round(self._path(np.array([start_s]))[0] / spec.tick))
        self.last = self._anchor * spec.tick
        self._unit = max(1, round(self._anchor * 1e-5))  # ticks between the levels of the flow
        self._fill_book()

    # -- live ----------------------------------------------------------------------------------
    def step(self, time_ms: int) -> list[Trade]:
        """Do one thing that a trader might: rest, take or leave; return the trades it made."""
        roll = self._random.random()
        if roll < 0.55:
            fills = self._rest_one()
        elif roll < 0.80:
            fills = self._take_one(time_ms)
        else:
            fills = []
            self._leave_one()
        self.update_id += 1
        made = [self._record(fill, time_ms) for fill in fills]
        self._refill()
        return made

    # -- orders of others ------------------------------------------------------------------------
    def place(
        self, side: int, price: int | None, size: int, time_ms: int
    ) -> tuple[int, list[Trade]]:  # fmt: skip
        """Place an order that is not the flow's (None: at any price); return (id, trades).

        What does not trade at once rests under that id; id 0 where nothing rests.
        """
        self.update_id += 1
        number = 0
        if price is None:
            fills = self.engine.market(side, size)
        else:
            number, fills = self.engine.limit(side, price, size)
            if sum(fill.size for fill in fills) < size:
                self.kept.add(number)
            else:
                number = 0
        made = [self._record(fill, time_ms) for fill in fills]
        self._refill()
        return number, made

    def withdraw(self, number: int) -> bool:
        """Take such an order out; return whether it was there."""
        self.update_id += 1
        self.kept.discard(number)
        return self.engine.cancel(number)

    def shrink(self, number: int, size: int) -> None:
        """Take ``size`` off such an order without losing its place."""
        self.update_id += 1
        self.engine.shrink(number, size)

    def _of_the_flow(self) -> list[int]:
        orders = self.engine.orders()
        return [number for number in orders if number not in self.kept] if self.kept else orders

    # -- the flow --------------------------------------------------------------------------------
    def _rest_one(self) -> list[Fill]:
        top = self.engine.top()
        side = self._random.choice((BUY, SELL))
        distance = int(self._random.expovariate(1 / 6) * self._unit)
        best = top.ask if side == BUY else top.bid
        price = max(1, (best or self._anchor) - side * (1 + distance))
        return self.engine.limit(side, price, self._size())[1]

    def _take_one(self, time_ms: int) -> list[Fill]:
        # Traders lean back towards the path, so that live prices stay believable.
        target = float(self._path(np.array([time_ms / 1000]))[0])
        pull = (target - self.last) / self.last * 400
        side = BUY if self._random.random() < 0.5 + max(-0.35, min(0.35, pull)) else SELL
        size = self._size() * 2
        if sum(lots for _, lots in self._near(-side, 3)) < size:
            size = min(size, sum(lots for _, lots in self._near(-side, LEVELS)))
        return self.engine.market(side, size) if size else []

    def _leave_one(self) -> None:
        orders = self._of_the_flow()
        if len(orders) > 2 * LEVELS:
            self.engine.cancel(orders[self._random.randrange(len(orders))])

    def _size(self) -> int:
        return max(1, int(self._random.lognormvariate(4, 1)))

    def _fill_book(self) -> None:
        for distance in range(1, LEVELS + 1):
            for side in (BUY, SELL):
                price = self._anchor - side * distance * self._unit
                if price > 0:
                    self.engine.limit(side, price, self._size() * 3)
        self.engine.changed = {BUY: set(), SELL: set()}

    def _near(self, side: int, limit: int) -> list[tuple[int, int]]:
        """Return the first levels, but for what others have resting far from the last price."""
        last = round(self.last / self.spec.tick)
        return [
            level for level in self.engine.depth(side, limit)
            if abs(level[0] - last) <= REACH * self._unit
        ]  # fmt: skip

    def _refill(self) -> None:
        """Keep both sides alive: a market maker that never sleeps."""
        for side in (BUY, SELL):
            levels = self._near(side, 5)
            if len(levels) < 5:
                other = self._near(-side, 1)
                last = round(self.last / self.spec.tick)
                edge = levels[-1][0] if levels else (other[0][0] if other else last)
                for distance in range(1, 11):
                    price = edge - side * distance * self._unit
                    if price > 0:
                        self.engine.limit(side, price, self._size() * 3)
        orders = self._of_the_flow()
        for number in orders[: max(0, len(orders) - MAX_ORDERS)]:
            self.engine.cancel(number)

    def _record(self, fill: Fill, time_ms: int) -> Trade:
        price, size = fill.price * self.spec.tick, fill.size * self.spec.lot
        trade = Trade(
            self._next_trade, time_ms, price, size, fill.side, fill.maker_id, fill.taker_id
        )
        self._next_trade += 1
        self.last = price
        self.trades.append(trade)
        del self.trades[:-1000]
        self._add_to_bar(trade)
        return trade

    def _add_to_bar(self, trade: Trade) -> None:
        second = trade.time_ms // 1000
        bar = self._seconds.get(second)
        if bar is None:
            self._seconds[second] = [
                trade.price, trade.price, trade.price, trade.price,
                trade.size, 1, trade.price * trade.size,
            ]  # fmt: skip
            if len(self._seconds) > MAX_LIVE_S:
                oldest = next(iter(self._seconds))
                del self._seconds[oldest]
            return
        bar[1] = max(bar[1], trade.price)
        bar[2] = min(bar[2], trade.price)
        bar[3] = trade.price
        bar[4] += trade.size
        bar[5] += 1
        bar[6] += trade.price * trade.size

    # -- the day -------------------------------------------------------------------------------
    def day(self, now_s: int) -> Day:
        """Return the last 24 hours, up to now."""
        minute = now_s // 60 * 60
        if self._day.get("minute") != minute:
            self._day = {"minute": minute, **self._minutes_until(minute)}
        past = self._day
        live = [bar for s in range(minute, now_s + 1) if (bar := self._seconds.get(s))]
        volume = past["volume"] + sum(bar[4] for bar in live)
        turnover = past["turnover"] + sum(bar[6] for bar in live)
        return Day(
            minute - DAY_S,
            past["open"],
            max([past["high"], self.last, *(bar[1] for bar in live)]),
            min([past["low"], self.last, *(bar[2] for bar in live)]),
            volume,
            int(past["count"] + sum(bar[5] for bar in live)),
            turnover / volume if volume else 0.0,
        )

    def _minutes_until(self, minute: int) -> dict[str, float]:
        grid = np.arange(minute - DAY_S, minute, 60, dtype=np.int64)
        bars = self._second_bars(grid, 60)
        return {
            "open": float(bars["open"][0]), "high": float(bars["high"].max()),
            "low": float(bars["low"].min()), "volume": float(bars["volume"].sum()),
            "count": float(bars["count"].sum()), "turnover": float(bars["turnover"].sum()),
        }  # fmt: skip

    # -- bars ----------------------------------------------------------------------------------
    def bars(self, timeframe: Timeframe, start_s: int, stop_s: int, now_s: int) -> Any:
        """Return bars with open time in [start_s, stop_s) up to the one in progress.

        ``OHLC_DTYPE``; ``bar_wap`` holds turnover / volume.
        """
        opens: list[int] = []
        time_s = timeframe.floor(start_s)
        time_s = time_s if time_s >= start_s else timeframe.next(start_s)
        while time_s < min(stop_s, now_s + 1):
            opens.append(time_s)
            time_s = timeframe.next(time_s)
        if not opens:
            return np.zeros(0, OHLC_DTYPE)
        step = 1 if timeframe.seconds <= 3600 else 60 if timeframe.seconds <= DAY_S else 3600
        size = max(1, MAX_POINTS * step // timeframe.seconds)
        ends = [*opens[size::size], min(time_s, now_s + 1)]
        parts = [
            self._some_bars(opens[at : at + size], end, step)
            for at, end in zip(range(0, len(opens), size), ends, strict=True)
        ]
        return np.concatenate(parts)

    def _some_bars(self, opens: list[int], end: int, step: int) -> Any:
        """Return the bars that open at ``opens``; the last one goes up to ``end``."""
        rows = np.zeros(len(opens), OHLC_DTYPE)
        grid = np.arange(opens[0], end, step, dtype=np.int64)
        seconds = self._second_bars(grid, step)
        edges = np.searchsorted(grid, np.array(opens))
        rows["time"] = opens
        rows["open"] = seconds["open"][edges]
        ends = np.append(edges[1:], len(grid)) - 1
        rows["close"] = seconds["close"][ends]
        rows["high"] = np.maximum.reduceat(seconds["high"], edges)
        rows["low"] = np.minimum.reduceat(seconds["low"], edges)
        rows["volume"] = np.add.reduceat(seconds["volume"], edges)
        rows["count"] = np.add.reduceat(seconds["count"], edges)
        turnover = np.add.reduceat(seconds["turnover"], edges)
        traded = rows["volume"] > 0
        rows["bar_wap"][traded] = turnover[traded] / rows["volume"][traded]
        return rows

    def _second_bars(self, grid: Any, step: int) -> dict[str, Any]:
        """Return one bar for each grid point: the past by formula, the rest as it was traded."""
        tick = self.spec.tick
        # The end of a bar is the beginning of the next one: one price for both.
        times = np.minimum(np.append(grid, grid[-1] + step), self.start_s)
        edges = np.round(self._path(times) / tick) * tick
        opens, closes = edges[:-1], edges[1:].copy()
        noise = ((grid * 2654435761) % 1000) / 1000
        volume = np.round((0.2 + noise) * step * 20) * self.spec.lot
        out: dict[str, Any] = {
            "open": opens, "close": closes, "high": np.maximum(opens, closes),
            "low": np.minimum(opens, closes), "volume": volume,
            "count": (1 + (grid % 5)) * step, "turnover": volume * (opens + closes) / 2,
        }  # fmt: skip
        live = np.searchsorted(grid, self._bars_from)
        if live and int(grid[live - 1]) + step > self._bars_from:
            self._add_live(out, int(live) - 1, int(grid[live - 1]), step)
        last = float(out["close"][live - 1]) if live else self._close_before(int(grid[0]))
        for at in range(int(live), len(grid)):
            values = self._live_values(int(grid[at]), step, last)
            for name, value in zip(_FIELDS, values, strict=True):
                out[name][at] = value
            last = values[3]
        return out

    def _close_before(self, time_s: int) -> float:
        """Return the price of the last trade before a time."""
        for second in reversed(self._seconds):
            if second < time_s:
                return self._seconds[second][3]
        return float(self._anchor * self.spec.tick)

    def _add_live(self, out: dict[str, Any], at: int, begin: int, step: int) -> None:
        """Add what was traded to a bar that began in the past."""
        values = dict(zip(_FIELDS, self._live_values(begin, step, out["close"][at]), strict=True))
        if not values["count"]:
            return
        out["close"][at] = values["close"]
        out["high"][at] = max(out["high"][at], values["high"])
        out["low"][at] = min(out["low"][at], values["low"])
        for name in ("volume", "count", "turnover"):
            out[name][at] += values[name]

    def _live_values(self, begin: int, step: int, last: float) -> tuple[float, ...]:
        bars = [self._seconds[s] for s in range(begin, begin + step) if s in self._seconds]
        if not bars:
            return (last, last, last, last, 0.0, 0, 0.0)
        return (
            bars[0][0], max(b[1] for b in bars), min(b[2] for b in bars), bars[-1][3],
            sum(b[4] for b in bars), sum(b[5] for b in bars), sum(b[6] for b in bars),
        )  # fmt: skip

    def path(self, times_s: Sequence[int]) -> Any:
        """Return the prices that the flow leans to at those times, as an array."""
        return self._path(np.array(times_s, dtype=np.int64))

    def _path(self, times: Any) -> Any:
        dense = len(times) > BLOCK_S // 10 and times[-1] - times[0] < 2 * len(times)
        total = self._waves_by_block(times) if dense else self._waves(times)
        jitter = (
            (times.astype("u8") * np.uint64(2654435761) >> np.uint64(7)) % np.uint64(997)
        ) / 997 - 0.5
        return self.spec.price * np.exp(total + jitter * 0.0003)

    def _waves(self, times: Any) -> Any:
        total = np.zeros(len(times))
        for (period, weight), phase in zip(_CYCLES, self._phases, strict=True):
            total += weight * np.sin(times % period * (math.tau / period) + phase)
        return total

    def _waves_by_block(self, times: Any) -> Any:
        """Return the same for second after second, without a sine for each of them.

        sin(a + b) = sin a cos b + cos a sin b, where a is a block's beginning and b runs within it.
        Whole seconds are taken modulo the period first, so that both ways agree to the last tick.
        """
        first = int(times[0]) // BLOCK_S
        starts = np.arange(first, int(times[-1]) // BLOCK_S + 1) * BLOCK_S
        angles = starts[:, None] % _PERIODS * (math.tau / _PERIODS) + np.array(self._phases)
        heads = np.hstack([_WEIGHTS * np.sin(angles), _WEIGHTS * np.cos(angles)])
        waves = np.einsum("bk,kr->br", heads, _WITHIN)
        return waves.ravel()[times - first * BLOCK_S]


_FIELDS = ("open", "high", "low", "close", "volume", "count", "turnover")
