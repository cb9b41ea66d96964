"""Markets that the venue lists no more: their archive serves them, and says where it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
from dsm_loopback import serve

from piker.brokers.binance import api, retired
from piker.brokers.spec import load_backend
from piker.clock import wall_ns
from piker.data.history.manager import HistoryManager
from piker.data.store.store import Store
from piker.dsm import DataProvider, DataSource, DataSourceManager, Interval, MarketType
from piker.errors import HistoryError, SymbolNotFound
from piker.market import AssetType
from piker.testing.binance import BinanceVenue
from piker.testing.faults import Fault
from piker.testing.loopback import open_loopback, point_backend_at

NOW = wall_ns() // 10**9
DAY = 86_400
END = NOW // DAY * DAY - 50 * DAY  # when markets are delisted here: a midnight
EXPIRY = int(datetime(2024, 3, 29, 8, tzinfo=UTC).timestamp())


class Rig:
    """A venue that has delisted markets, and a manager."""

    def __init__(self, venue: BinanceVenue, folder: Path) -> None:
        self.venue = venue
        self.manager = HistoryManager(load_backend("binance"), Store(folder / "store"))


@pytest.fixture
async def rig(piker_dirs: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    """Serve Binance; nothing is delisted yet."""
    monkeypatch.setattr(retired, "_known", {})
    monkeypatch.setattr(api, "_cache", {})
    async with open_loopback("binance", symbols=2, limits=False) as (venue, port):
        point_backend_at("binance", port)
        assert isinstance(venue, BinanceVenue)
        found = Rig(venue, piker_dirs)
        yield found
        found.manager.store.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "wire", "market"),
    [
        ("spot", "ETHUSDT", "ethusdt.spot"),
        ("usdm", "ETHUSDT", "ethusdt.usdtm.perp"),
        ("coinm", "ETHUSD_PERP", "ethusd.coinm.perp"),
    ],
)
@pytest.mark.parametrize("interval", ["1h", "1d", "1w"])
async def test_the_archive_serves_a_market_when_it_is_delisted(
    rig: Rig, kind: str, wire: str, market: str, interval: str
) -> None:
    """The bars that it had while it was listed, to the last digit; what is after them is said."""
    start = END - 40 * DAY
    apart = await rig.manager.get(market, interval, start, END, use_store=False)
    rig.venue.delist(kind, wire, END)
    api._cache.clear()
    got = await rig.manager.get(market, interval, start, END + 20 * DAY)
    rows, before = got.rows(), apart.rows()
    last = got.series.timeframe.floor(END - 1)  # what it was when it ended, its bar may lack
    assert (rows["time"] < END).all()
    whole = before[before["time"] < last]
    assert rows[: len(whole)].tobytes() == whole.tobytes()
    assert len(rows) == len(before[before["time"] < END])
    assert set(got.report.sources) == {"archive", "rest"}
    assert not got.report.complete
    (missing,) = got.report.missing
    assert (missing.why, missing.start_s) == ("not-offered", got.series.timeframe.next(END - 1))
    assert "listed no more" in missing.detail
    assert got.report.sources["rest"].failures == 0
    asked = rig.venue.gate.counters.requests.total()
    again = await rig.manager.get(market, interval, start, END)
    assert again.rows().tobytes() == rows.tobytes()
    assert rig.venue.gate.counters.requests.total() == asked, "what is stored costs no request"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "wire", "market"),
    [
        ("usdm", "BTCUSDT_240329", "btcusdt.usdtm.240329"),
        ("coinm", "BTCUSD_240329", "btcusd.coinm.240329"),
    ],
)
async def test_an_expired_future_is_served_from_listing_to_delivery(
    rig: Rig, kind: str, wire: str, market: str
) -> None:
    """Found by its address alone; before it was listed there is nothing, and that is known."""
    rig.venue.delist(kind, wire, EXPIRY)
    got = await rig.manager.get(market, "1h", EXPIRY - 200 * DAY, EXPIRY + 2 * DAY)
    rows = got.rows()
    listed = EXPIRY - 182 * DAY
    assert rows["time"].tolist() == list(range(listed, EXPIRY, 3600))
    whys = [one.why for one in got.report.missing]
    assert set(whys) == {"not-listed", "not-offered"}
    # Of the day of its listing the archive's file begins with the hour of it.
    assert got.report.missing[0].why == "not-listed"
    if kind == "coinm":
        wap = rows["volume"] * 100 / rows["turnover"]
        assert np.all((wap > rows["low"] * 0.99) & (wap < rows["high"] * 1.01))


@pytest.mark.slow
@pytest.mark.parametrize("status", ["BREAK", "SETTLING"])
async def test_a_market_is_served_when_it_is_listed_but_traded_no_more(
    rig: Rig, status: str
) -> None:
    """REST still has its bars; if it refuses them, the archive has them."""
    kind = "spot" if status == "BREAK" else "usdm"
    market = "ethusdt.spot" if kind == "spot" else "ethusdt.usdtm.perp"
    rig.venue.delist(kind, "ETHUSDT", END, status=status)
    info = await rig.manager.backend.get_mkt_info(market)
    assert info.status == status.lower()
    got = await rig.manager.get(market, "1h", END - 5 * DAY, END)
    assert got.report.complete
    assert len(got.rows()) == 120
    refuse = Fault(what="status", status=404, match="/v[13]/klines")
    rig.venue.gate.add_faults([refuse])
    rest = await rig.manager.get(market, "4h", END - 5 * DAY, END)
    assert rest.report.complete
    assert rest.rows()["close"].tolist() == got.rows()["close"][3::4].tolist()


@pytest.mark.slow
async def test_a_market_is_refused_when_nobody_ever_had_it(rig: Rig) -> None:
    """With the nearest that there are; whatever the address, and REST alone is no way round."""
    for name in ("ethusdx.spot", "ethusdt.spot.perp", "ethusdt.usdtm", "x.coinm.perp", "a/../b"):
        with pytest.raises(SymbolNotFound):
            await retired.open_archive_client(name).__aenter__()
    rig.venue.delist("spot", "ETHUSDT", END)
    early = await rig.manager.get("ethusdt.spot", "1h", END - DAY, END, sources=("rest",))
    (missing,) = early.report.missing  # REST's list is an hour old at most, and still has it
    assert (missing.why, missing.bars) == ("not-offered", 24)
    assert "Invalid symbol" in missing.detail
    api._cache.clear()
    with pytest.raises(SymbolNotFound):
        await rig.manager.get("ethusdt.spot", "1h", END - DAY, END, sources=("rest",))
    got = await rig.manager.get("ethusdt.spot", "1h", END - DAY, END, sources=("archive",))
    assert got.report.complete


@pytest.mark.slow
async def test_it_is_said_when_the_index_can_not_be_asked(rig: Rig) -> None:
    """Nobody knows then; once it can be asked the same call serves it."""
    rig.venue.delist("spot", "ETHUSDT", END)
    rig.venue.gate.add_faults([Fault(what="status", status=503, match=r"^/\?")])
    with pytest.raises((SymbolNotFound, HistoryError), match="could not be asked"):
        await rig.manager.get("ethusdt.spot", "1h", END - DAY, END)
    rig.venue.gate.injector.clear()
    assert (await rig.manager.get("ethusdt.spot", "1h", END - DAY, END)).report.complete


@pytest.mark.slow
async def test_what_is_known_of_a_retired_market_is_what_its_name_says(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its life, from the index: read page by page."""
    rig.venue.delist("coinm", "ETHUSD_240329", EXPIRY)
    from piker.testing import binance_archive_index as index

    monkeypatch.setattr(index, "PAGE", 3)
    monkeypatch.setattr(retired, "MAX_PAGES", 100)
    found = await retired.find_retired("ethusd.coinm.240329.binance")
    assert found is not None
    market = found.market
    assert (market.bs_mktid, market.atype, market.inverse) == (
        "ETHUSD_240329", AssetType.FUTURE, True,
    )  # fmt: skip
    assert (market.contract_size, market.status) == (10, "delisted")
    assert found.end_s == EXPIRY // DAY * DAY + DAY
    assert found.start_s <= EXPIRY - 182 * DAY < found.start_s + 31 * DAY
    assert msgspec.json.decode(msgspec.json.encode(market), type=type(market)) == market
    asked = rig.venue.gate.counters.requests["/"]
    assert await retired.find_retired("ethusd.coinm.240329") == found
    assert rig.venue.gate.counters.requests["/"] == asked


@pytest.mark.slow
@pytest.mark.parametrize("source", [DataSource.AUTO, DataSource.VISION])
def test_dsm_serves_what_is_listed_no_more(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch, source: DataSource
) -> None:
    """A delisted spot market and an expired future; REST alone says that it has no such market."""
    monkeypatch.setattr(retired, "_known", {})
    with serve(symbols=2) as found:
        found.venue.delist("usdm", "BTCUSDT_240329", EXPIRY)
        found.venue.delist("spot", "ETHUSDT", END)
        future = DataSourceManager.create(DataProvider.BINANCE, MarketType.FUTURES_USDT)
        frame = future.get_data(
            "BTCUSDT_240329", "2024-03-28", "2024-03-30", Interval.HOUR_1, enforce_source=source
        )
        assert frame["close"].notna().sum() == 32
        assert set(frame["_data_source"].dropna()) == {"VISION"}
        (gap,) = frame.attrs["report"]["missing"]
        assert (gap["why"], gap["bars"]) == ("not-offered", 16)
        assert ("listed no more" in gap["detail"]) == (source is DataSource.AUTO)
        spot = DataSourceManager.create(DataProvider.BINANCE, MarketType.SPOT)
        whole = spot.get_data(
            "ETHUSDT", datetime.fromtimestamp(END - DAY, UTC), datetime.fromtimestamp(END, UTC),
            Interval.MINUTE_1, enforce_source=source,
        )  # fmt: skip
        assert len(whole) == 1440
        assert whole["close"].notna().all()
        with pytest.raises(SymbolNotFound):
            spot.get_data("ETHUSDT", "2024-03-28", "2024-03-30", enforce_source=DataSource.REST)
        assert found.errors() == 0
