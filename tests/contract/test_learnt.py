"""What a script's fetch teaches the symbol database, and that it is never in the way."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from dsm_loopback import serve

from piker.data import learnt
from piker.data.symbols import SymbolDb
from piker.dsm import DataProvider, DataSourceManager, Interval, MarketType

FIRST_S = 1_502_928_000  # 2017-08-17, the day of the loopback's first bars
DAYS = datetime(2018, 1, 1, tzinfo=UTC), datetime(2018, 1, 5, tzinfo=UTC)
FQME = "btcusdt.spot.binance"


@pytest.mark.slow
def test_first_bar_is_noted_when_a_script_fetched(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is a database; none is made, and a broken one costs nothing but the note."""
    monkeypatch.setattr(learnt, "_told", set())
    path = piker_dirs / "data" / "symbols.db"
    with serve() as venue:
        manager = DataSourceManager.create(DataProvider.BINANCE, MarketType.SPOT)
        assert len(manager.get_data("BTCUSDT", *DAYS, Interval.HOUR_1)) == 96
        assert not path.exists()
        path.write_bytes(b"no database" * 1000)
        assert len(manager.get_data("BTCUSDT", *DAYS, Interval.HOUR_4)) == 24
        path.unlink()
        SymbolDb.open().close()
        assert len(manager.get_data("BTCUSDT", *DAYS, Interval.DAY_1)) == 4
        with SymbolDb.open() as db:
            assert db.earliest([FQME, "x.y"]) == {FQME: {"1d": FIRST_S}}
            assert learnt.note_store(db) == 3
            known = {"1h": FIRST_S, "4h": FIRST_S, "1d": FIRST_S}
            assert db.earliest([FQME]) == {FQME: known}
        assert venue.errors() == 0


def test_no_store_is_made_when_there_is_none(piker_dirs: Path) -> None:
    """Populating a database is no reason for one."""
    with SymbolDb.open() as db:
        assert learnt.note_store(db) == 0
    assert not (piker_dirs / "data" / "store").exists()
