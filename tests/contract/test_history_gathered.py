"""A fill of many files of an archive, over real HTTP: few files of the store, and no word lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

from piker.brokers.spec import load_backend
from piker.clock import wall_ns
from piker.data.history.manager import HistoryManager, Progress
from piker.data.store.series import Series
from piker.data.store.store import Rows, Store
from piker.errors import HistoryError
from piker.testing.faults import Fault
from piker.testing.loopback import Venue, open_loopback, point_backend_at

DAY = 86_400
END = wall_ns() // 10**9 // DAY * DAY - 3 * DAY  # a midnight: all of it is in the archive
START = END - 120 * DAY
BARS = 120 * 24
MARKET = "btcusdt.spot"


class Rig(NamedTuple):
    """A venue, and a manager of it with a store of its own."""

    venue: Venue
    manager: HistoryManager


@pytest.fixture
async def rig(piker_dirs: Path) -> AsyncIterator[Rig]:
    """Serve Binance; nothing is wrong with it yet."""
    async with open_loopback("binance", limits=False) as (venue, port):
        point_backend_at("binance", port)
        store = Store(piker_dirs / "store")
        yield Rig(venue, HistoryManager(load_backend("binance"), store))
        store.close()


def known_files(manager: HistoryManager) -> tuple[int, set[str]]:
    """Return how many files the store has, and which of the archive's it knows."""
    ((number, _),) = manager.store.manifest.all_series()
    always = (-(1 << 60), 1 << 60)
    origins = {one.path for one in manager.store.manifest.origins(number, *always)}
    return len(manager.store.manifest.segments(number, *always)), origins


@pytest.mark.slow
async def test_store_has_few_files_when_an_archive_gives_many(rig: Rig) -> None:
    """It knows each file of the archive that bars came from, and what was wrong with each."""
    rig.venue.gate.add_faults([Fault(what="duplicate-rows", match="/data/.*-05[.]zip")])
    told: list[Progress] = []
    history = await rig.manager.get(MARKET, "1h", START, END, progress=told.append)
    report = history.report
    assert (report.rows, report.missing) == (BARS, [])
    files, origins = known_files(rig.manager)
    assert len(origins) == report.sources["archive"].requests >= 4
    assert files <= 2
    assert report.sources["archive"].rows >= BARS
    assert report.defects
    assert {one.place for one in report.defects} <= origins
    assert told[-1] == Progress(BARS, BARS, "archive")
    rig.venue.gate.injector.clear()
    again = await rig.manager.get(MARKET, "1h", START, END, recheck=True)
    assert again.report.replaced == sum("-05.zip" in path for path in origins)
    assert again.rows().tobytes() == history.rows().tobytes()


@pytest.mark.slow
async def test_what_waited_for_others_is_stored_when_the_fill_is_cancelled(rig: Rig) -> None:
    """A person who stops a fill keeps what had been fetched, to the last file."""
    told = 0
    with trio.CancelScope() as scope:

        def stop(far: Progress) -> None:
            nonlocal told
            told += 1
            if told == 3:
                scope.cancel()

        await rig.manager.get(MARKET, "1h", START, END, progress=stop)
    assert scope.cancelled_caught
    kept = await rig.manager.get(MARKET, "1h", START, END, sources=())
    assert kept.report.rows >= 3 * 24
    history = await rig.manager.get(MARKET, "1h", START, END)
    assert history.report.complete
    assert history.report.stored == kept.report.rows


@pytest.mark.slow
async def test_file_costs_only_itself_when_it_can_not_be_stored(rig: Rig) -> None:
    """Bars that are stored together with others fail alone: theirs are missing, and it is said."""
    write, bad = rig.manager.store.write, START + 60 * DAY

    def picky(series: Series, rows: Rows, start_s: int, end_s: int, **words: Any) -> int:
        if start_s <= bad < end_s:
            raise ValueError("bad luck")
        return write(series, rows, start_s, end_s, **words)

    rig.manager.store.write = picky  # type: ignore[method-assign]
    with pytest.raises(HistoryError) as caught:
        await rig.manager.get(MARKET, "1h", START, END, sources=("archive",))
    report = caught.value.partial.report
    assert 0 < sum(one.bars for one in report.missing) <= 31 * 24
    assert {one.why for one in report.missing} == {"failed"}
    assert report.sources["archive"].failures == 1


@pytest.mark.slow
async def test_call_ends_with_the_callers_error_when_it_is_told_and_raises(rig: Rig) -> None:
    """With that error alone, though what waited is still stored, of which it is not told."""

    def fail(far: Progress) -> None:
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        await rig.manager.get(MARKET, "1h", START, END, progress=fail)
