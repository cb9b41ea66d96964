"""What a REST source says of its own work: bytes, bounds, and why it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from piker.brokers.spec import load_backend
from piker.brokers.tap import use_tap
from piker.clock import wall_ns
from piker.data.history.manager import HistoryManager
from piker.data.history.plan import Unit
from piker.data.history.sources import MAX_PAGES, Fetched, RestSource
from piker.data.ranges import Range
from piker.data.store.series import Series
from piker.data.store.store import Store
from piker.errors import DataUnavailable, HistoryError, Transient
from piker.ohlcv import KLINE_DTYPE
from piker.testing.faults import Fault
from piker.testing.loopback import open_loopback, point_backend_at

NOW = wall_ns() // 10**9
MINUTE = 60
BODY = "/klines"


class Scale:
    """A tap that adds up the bodies of answers about klines."""

    def __init__(self) -> None:
        self.bytes = 0

    def __getattr__(self, _: str) -> Any:  # Any: websockets are none of its business
        return lambda *args: None

    def answered(self, venue: str, method: str, url: str, status: int, *rest: Any) -> None:
        """Add an answer, whatever its status."""
        if urlsplit(url).path.endswith(BODY):
            self.bytes += len(rest[-1])


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
async def test_bytes_of_rest_are_counted_when_history_is_fetched(
    piker_dirs: Path, fails: bool
) -> None:
    """To the last one, those of refused attempts too."""
    faults = [Fault(what="status", status=503, match=BODY)] if fails else []
    async with open_loopback("binance", limits=False, faults=faults) as (_, port):
        point_backend_at("binance", port)
        manager = HistoryManager(load_backend("binance"), Store(piker_dirs / "store"))
        scale = Scale()
        with use_tap(scale):
            try:
                got = await manager.get(
                    "btcusdt.spot", "1m", NOW - 3000 * MINUTE, NOW, sources=("rest",)
                )
            except HistoryError as err:
                got = err.partial
        manager.store.close()
        entry = got.report.sources["rest"]
        assert scale.bytes > (100 if fails else 100_000)
        # The one that asks when the market was listed is no part of it.
        assert 0 <= scale.bytes - entry.bytes < 1000
        assert entry.rows == (0 if fails else got.report.rows)


async def test_what_came_is_kept_and_more_promised_when_answers_are_small() -> None:
    """A source of one bar a call is stopped in a unit of a thousand, and said to have more."""
    asked = []

    async def get_ohlc(timeframe: float, end_dt: Any, start_dt: Any) -> Any:
        asked.append(end_dt)
        rows = np.zeros(1, KLINE_DTYPE)
        rows["time"] = int(end_dt.timestamp()) - MINUTE
        rows["open"] = rows["high"] = rows["low"] = rows["close"] = 1
        return rows, start_dt, end_dt

    source = RestSource(Series("binance", "x.spot", "1m"), get_ohlc, {}, 1000)
    (unit,) = source.units(Range(0, 1000 * MINUTE), NOW)
    assert unit == Unit(0, 1000 * MINUTE)
    kept: list[Fetched] = []

    async def keep(fetched: Fetched) -> None:
        kept.append(fetched)

    with pytest.raises(Transient, match="asking again brings more"):
        await source.fetch(unit, NOW, keep)
    assert len(asked) == MAX_PAGES
    assert sum(len(one.rows) for one in kept) == MAX_PAGES


@pytest.mark.parametrize("offered", [False, True])
async def test_no_hole_is_known_when_a_backend_has_no_bars_of_that_length(offered: bool) -> None:
    """What a stranger's backend says of a length that it does not offer is no word about bars."""

    async def get_ohlc(timeframe: float, end_dt: Any, start_dt: Any) -> Any:
        raise DataUnavailable("this venue has 1-minute bars only")

    source = RestSource(Series("x", "y.spot", "1h"), get_ohlc, {}, 10, offered=offered)
    kept: list[Fetched] = []

    async def keep(fetched: Fetched) -> None:
        kept.append(fetched)

    unit = Unit(0, 36_000)
    if not offered:
        with pytest.raises(DataUnavailable, match="1-minute"):
            await source.fetch(unit, NOW, keep)
        assert all(one.start_s == one.end_s for one in kept)
        return
    await source.fetch(unit, NOW, keep)
    assert [(one.start_s, one.end_s, one.final) for one in kept] == [(0, 36_000, True)]
