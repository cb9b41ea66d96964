"""``piker symbols`` and ``piker search`` as processes, against loopback venues."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from piker import service
from piker.data.symbols import SymbolDb
from piker.testing.faults import Fault
from piker.testing.loopback import Venue, brokers_toml, open_loopback

pytestmark = pytest.mark.slow
SOON_S = 60  # nothing here takes longer unless it is broken


async def piker(*arguments: str) -> Any:
    """Run a piker command to its end, while this process serves the venues."""
    run = partial(
        trio.run_process, [sys.executable, "-m", "piker.cli", *arguments],
        capture_stdout=True, capture_stderr=True, check=False,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    with trio.fail_after(SOON_S):
        return await run()


def said(done: Any) -> Any:
    """Return the JSON that a command printed."""
    return json.loads(done.stdout)


@asynccontextmanager
async def venues(
    dirs: Path, *, symbols: int = 6, faults: tuple[Fault, ...] = ()
) -> AsyncIterator[Venue]:
    """Serve both venues; yield Binance's, which has the faults."""
    async with open_loopback("binance", symbols=symbols, rate=1, faults=faults) as (one, port):
        async with open_loopback("kraken", symbols=symbols, rate=1) as (_, other):
            text = brokers_toml("binance", port) + brokers_toml("kraken", other)
            (dirs / "config" / "brokers.toml").write_text(text)
            yield one


async def test_search_works_offline_when_the_database_is_populated(piker_dirs: Path) -> None:
    """Filled from two venues, then both are gone: names are found, and no daemon is started."""
    async with venues(piker_dirs):
        empty = await piker("symbols", "ls")
        assert b"symbols populate" in empty.stdout
        done = await piker("symbols", "populate", "--json")
        assert (done.returncode, said(done)["failed"]) == (0, {})
        assert [one["provider"] for one in said(done)["populated"]] == ["binance", "kraken"]
        assert all(one["added"] == one["listed"] > 0 for one in said(done)["populated"])
        again = await piker("symbols", "populate")
        assert again.stdout.count(b"nothing new") == 2
    found = await piker("search", "btcusd", "--json")
    assert said(found)["asked"] == {"binance": "database", "kraken": "database"}
    names = [one["fqme"] for one in said(found)["markets"]]
    assert {"xbtusd.spot.kraken", "btcusdt.spot.binance", "btcusdt.usdtm.perp.binance"} <= {*names}
    assert names[0] == "xbtusd.spot.kraken"
    with SymbolDb.open() as db:
        db.note_earliest(names[0], "1m", 1_381_095_240)
    info = await piker("symbols", "info", "xbtusd.spot.kraken")
    assert b"XBTUSD" in info.stdout
    assert b"1m: 2013-10-06 21:34 UTC" in info.stdout
    lost = await piker("symbols", "info", "xbtusdd.spot.kraken")
    assert lost.returncode == 3
    assert b"xbtusd.spot.kraken" in lost.stderr
    for pattern in ("'", '"*', "NEAR(", "x" * 10_000, "%"):
        done = await piker("search", pattern, "--json")
        assert (done.returncode, said(done)["markets"]) == (0, [])
    assert service.read_pikerd() is None


async def test_search_asks_the_venue_when_the_database_lacks_it(piker_dirs: Path) -> None:
    """One provider from the database, the other over its daemon; a damaged file is said."""
    async with venues(piker_dirs):
        assert (await piker("symbols", "populate", "kraken")).returncode == 0
        try:
            found = await piker("search", "eth", "--json")
            assert said(found)["asked"] == {"binance": "venue", "kraken": "database"}
            names = [one["fqme"] for one in said(found)["markets"]]
            assert {"ethusd.spot.kraken", "ethusdt.spot.binance"} <= {*names}
            (piker_dirs / "data" / "symbols.db").write_bytes(b"garbage" * 1000)
            for path in (piker_dirs / "data").glob("symbols.db-*"):
                path.unlink()
            found = await piker("search", "eth", "--json", "-p", "kraken")
            assert said(found)["asked"] == {"kraken": "venue"}
            assert b"remove it and run: piker symbols populate" in found.stderr
        finally:
            await piker("services", "--stop")


async def test_venue_that_fails_retires_nothing_when_others_are_populated(
    piker_dirs: Path,
) -> None:
    """Down, or half a list: a sentence, exit code 7, and what was known stays listed."""
    async with venues(piker_dirs, symbols=30):
        assert (await piker("symbols", "populate")).returncode == 0
        with SymbolDb.open() as db:
            before = db.providers()
    down = Fault(what="status", status=503, match="exchangeInfo")
    async with venues(piker_dirs, symbols=30, faults=(down,)):
        done = await piker("symbols", "populate", "--json")
        assert done.returncode == 7
        assert [one["provider"] for one in said(done)["populated"]] == ["kraken"]
        assert list(said(done)["failed"]) == ["binance"]
        assert done.stderr.startswith(b"error: binance")
    async with venues(piker_dirs, symbols=3):
        done = await piker("symbols", "populate", "binance")
        assert done.returncode == 7
        assert b"taken for half an answer" in done.stderr
        with SymbolDb.open() as db:
            now = db.providers()
        assert {name: (x.listed, x.retired) for name, x in now.items()} == {
            name: (x.listed, 0) for name, x in before.items()
        }
        assert (await piker("symbols", "populate", "binance", "--force")).returncode == 0
        with SymbolDb.open() as db:
            assert db.providers()["binance"].retired > 0
            assert db.search("c029usdt", providers=["binance"]) == []
    unknown = await piker("symbols", "populate", "krakn")
    assert unknown.returncode == 4
    assert b"Did you mean 'kraken'" in unknown.stderr


async def test_beginnings_of_history_are_known_when_it_was_fetched(piker_dirs: Path) -> None:
    """By a fetch after the database was filled, or before: populate asks the store."""
    async with venues(piker_dirs) as venue:
        venue.delist("usdm", "BTCUSDT_240329", 1_711_699_200)  # type: ignore[union-attr]
        early = await piker(
            "history", "btcusdt.spot.binance", "-i", "1d", "--start", "2017-08-01", "--days", "30",
            "--json",
        )  # fmt: skip
        assert early.returncode == 0
        assert not (piker_dirs / "data" / "symbols.db").exists()
        done = await piker("symbols", "populate", "binance", "--json")
        assert said(done)["earliest"] == 1
        late = await piker(
            "history", "btcusdt.usdtm.240329.binance", "-i", "1h", "--start", "2024-03-28",
            "--end", "2024-03-30", "--json",
        )  # fmt: skip
        assert late.returncode == 0
        report = said(late)
        assert report["rows"] == 32
        assert [one["why"] for one in report["missing"]] == ["not-offered"]
        assert "listed no more" in report["missing"][0]["detail"]
        fetched = await piker("history", "ethusdt.spot.binance", "-i", "1h", "--days", "20")
        assert fetched.returncode == 0
    found = await piker("search", "btcusdt.spot", "-p", "binance", "--json")
    assert said(found)["earliest"] == {"btcusdt.spot.binance": {"1d": 1_502_928_000}}
    shown = await piker("search", "ethusdt", "-p", "binance", "--limit", "3")
    assert b"history since" in shown.stdout
    assert b"2017-08-17" in shown.stdout
    info = await piker("symbols", "info", "ethusdt.spot.binance", "--json")
    assert said(info)["earliest"] == {"1h": 1_502_928_000}
