"""Kraken's long bars through the manager: of its days, and never a hole where one was too dear."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import trio

from piker.brokers.kraken import api, history, trade_history
from piker.brokers.limits import Limit, venue_budget
from piker.brokers.spec import load_backend
from piker.clock import NS, wall_ns
from piker.data.history.manager import HistoryManager
from piker.data.store.store import Rows, Store
from piker.ohlcv import Timeframe
from piker.testing.kraken import KrakenVenue
from piker.testing.loopback import open_loopback, point_backend_at

MARKET = "xbtusd.spot"
NOW = wall_ns() // NS
DAY = 86_400
WEEK = Timeframe("1w")
SOON_S = 60


@pytest.fixture
def dirs(piker_dirs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return private directories; listings are nobody else's, and limits are off."""
    monkeypatch.setattr(api, "_cache", {})
    monkeypatch.setattr(api, "LIMITS", (Limit("public", 1e6, 1),))
    venue_budget("kraken").set_limits([Limit("public", 1e6, 1)])
    return piker_dirs


@asynccontextmanager
async def manager_of(dirs: Path) -> AsyncIterator[tuple[HistoryManager, KrakenVenue]]:
    """Serve the venue, and open the history of it."""
    with trio.fail_after(SOON_S):
        async with open_loopback("kraken", symbols=1, rate=1.0, limits=False) as (venue, port):
            point_backend_at("kraken", port)
            assert isinstance(venue, KrakenVenue)
            manager = HistoryManager(load_backend("kraken"), Store(dirs / "store"))
            try:
                yield manager, venue
            finally:
                manager.store.close()


async def of_trades(interval: str, start: int, end: int) -> Rows:
    """Return the bars that the backend makes of trades."""
    moments = [np.datetime64(at, "s").item() for at in (start, end)]
    async with history.open_history_client(MARKET) as (get_ohlc, _):
        rows, _, _ = await get_ohlc(interval, end_dt=moments[1], start_dt=moments[0])
    return rows


@pytest.mark.slow
@pytest.mark.parametrize(("interval", "days"), [("1w", 60), ("1M", 90), ("3d", 30), ("12h", 20)])
async def test_long_bars_are_composed_of_the_venues_own_when_it_lacks_them(
    dirs: Path, interval: str, days: int
) -> None:
    """One request of days, not one of trades; equal to the bars that all the trades make."""
    async with manager_of(dirs) as (manager, venue):
        got = await manager.get(MARKET, interval, NOW - days * DAY, NOW)
        requests = venue.gate.counters.requests
        assert got.report.complete
        assert got.report.sources["rest"].bytes > 1000
        asked = requests["/0/public/Trades"]
        rows = got.rows()
        assert len(rows) >= (1 if interval == "1M" else 4)
        last = int(rows["time"][-1])
        made = await of_trades(interval, last, got.series.timeframe.next(last))
        for name in ("time", "open", "high", "low", "close", "count"):
            assert made[name] == rows[name][-1:], name
        np.testing.assert_allclose(made["volume"], rows["volume"][-1:], rtol=1e-9)
        # Trades are asked for only for what is before the first one ever.
        assert asked <= 2 * trade_history.PROBES if days > 40 else asked == 0
        before = requests.total()
        again = await manager.get(MARKET, interval, NOW - days * DAY, last)
        assert again.rows().tobytes() == rows[:-1].tobytes()
        assert requests.total() == before, "what was composed is stored"


@pytest.mark.slow
@pytest.mark.parametrize("interval", ["1d", "1w"])
async def test_what_was_too_dear_is_said_and_not_remembered_as_a_hole(
    dirs: Path, monkeypatch: pytest.MonkeyPatch, interval: str
) -> None:
    """With a reason that a person can use; the same call brings it once it is affordable."""
    async with manager_of(dirs) as (manager, _):
        end = WEEK.floor(NOW)
        start = end - 14 * DAY
        with monkeypatch.context() as dear:
            dear.setattr(history, "_may_serve", lambda frame, end_s: False)
            dear.setattr(trade_history, "MAX_PAGES", 1)
            dear.setattr(trade_history, "MAX_BAR_PAGES", 2)
            got = await manager.get(MARKET, interval, start, end)
        assert not got.report.rows
        assert not got.report.complete
        (missing,) = got.report.missing[:1]
        assert missing.why == "not-offered"
        assert "pages" in missing.detail
        assert "trades" in missing.detail
        assert manager.store.coverage(got.series, start, end).covered == ()
        again = await manager.get(MARKET, interval, start, end)
        assert again.report.rows == again.report.expected > 0
        assert not again.report.missing
