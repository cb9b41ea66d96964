"""Bars that Binance really had, through archive, REST and both: equal to the last digit."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from piker.brokers.spec import load_backend
from piker.data.history.manager import HistoryManager
from piker.data.store.store import Store
from piker.testing.faults import Fault
from piker.testing.loopback import open_loopback, point_backend_at
from piker.testing.recorded_bars import lay_out_recorded_bars

COLUMNS = {
    "open": 1, "high": 2, "low": 3, "close": 4, "volume": 5, "turnover": 7, "count": 8,
    "taker_volume": 9, "taker_turnover": 10,
}  # fmt: skip
MARKETS = {
    "spot": "{}.spot", "um": "{}.usdtm.perp", "cm": "{}.coinm.perp",
}  # fmt: skip


def recorded(path: Path) -> list[list[str]]:
    """Return a file's rows of text, without a header."""
    with path.open(newline="") as file:
        return [row for row in csv.reader(file) if row and row[0][0].isdigit()]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["archive", "rest", "mixed"])
async def test_recorded_bars_are_equal_to_the_last_digit_whatever_they_come_through(
    shared: Path, piker_dirs: Path, tmp_path: Path, way: str
) -> None:
    """Spot as recorded; USD-M and COIN-M twins with contracts and coins in their columns."""
    folder = tmp_path / "bars"
    lay_out_recorded_bars(shared / "venues", folder)
    backend, compared = load_backend("binance"), 0
    async with open_loopback("binance", bars=folder, limits=False) as (venue, port):
        point_backend_at("binance", port)
        if way == "mixed":  # every other file of the archive is missing
            venue.gate.add_faults([Fault(what="missing-day", match=r"-\d\d-\d[13579]\.zip")])
        for path in sorted(folder.rglob("*.csv")):
            symbol, interval = path.stem.split("-")[:2]
            market = MARKETS[path.parent.name].format(symbol.lower().removesuffix("_perp"))
            rows = recorded(path)
            times = [int(row[0]) // (1_000_000 if len(row[0]) > 13 else 1000) for row in rows]
            manager = HistoryManager(backend, Store(tmp_path / f"{way}-{path.parent.name}"))
            sources = ("archive", "rest") if way == "mixed" else (way,)
            period = 3600 if interval == "1h" else 60
            history = await manager.get(
                market, interval, times[0], times[-1] + period, sources=sources
            )
            assert history.report.complete, history.report.sentence()
            found = history.rows()
            assert found["time"].tolist() == times
            for name, at in COLUMNS.items():
                wanted = np.array([float(row[at]) for row in rows])
                assert found[name].astype("f8").tobytes() == wanted.tobytes(), (path.name, name)
            compared += len(rows)
            manager.store.close()
    assert compared >= 3 * 168 + 3 * 10
