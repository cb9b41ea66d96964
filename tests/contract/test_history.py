"""History through real HTTP: equal to the venue, whatever its archive, REST or our disk do wrong.

Each way of failing must give the truth, or a typed error with the part that was obtained; and when
the fault is gone the same call gives the truth: nothing wrong was kept.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from piker.brokers.spec import load_backend
from piker.clock import wall_ns
from piker.data.history.manager import HistoryManager
from piker.data.store.series import Series
from piker.data.store.store import Rows, Store
from piker.errors import DataUnavailable, HistoryError, RangeError, StoreError, SymbolNotFound
from piker.testing.faults import Fault
from piker.testing.loopback import Venue, open_loopback, point_backend_at

NOW = wall_ns() // 10**9
DAY = 86_400
END = NOW // DAY * DAY - DAY  # a midnight: all of it is in the archive
START = END - 2 * DAY
MARKET = "btcusdt.spot"


class Rig:
    """A venue, and managers of it with stores of their own."""

    def __init__(self, venue: Venue, folder: Path) -> None:
        self.venue = venue
        self.folder = folder
        self.backend = load_backend("binance")
        self._stores: list[Store] = []

    def manager(self, name: str = "store") -> HistoryManager:
        """Return a manager with the store of that name."""
        store = Store(self.folder / name)
        self._stores.append(store)
        return HistoryManager(self.backend, store)

    def spoil(self, *faults: Fault) -> None:
        """Let the venue do wrong from now on."""
        self.venue.gate.add_faults(faults)

    def heal(self) -> None:
        """Let the venue do right again."""
        self.venue.gate.injector.clear()

    @property
    def requests(self) -> int:
        """Return how many requests the venue has had."""
        return sum(self.venue.gate.counters.requests.values())

    def close(self) -> None:
        """Close the stores."""
        for store in self._stores:
            store.close()


@pytest.fixture
async def rig(piker_dirs: Path) -> AsyncIterator[Rig]:
    """Serve Binance; nothing is wrong with it yet."""
    async with open_loopback("binance", rate=5.0, limits=False) as (venue, port):
        point_backend_at("binance", port)
        found = Rig(venue, piker_dirs)
        yield found
        found.close()


async def truth_of(rig: Rig, market: str, interval: str, start: int, end: int) -> Rows:
    """Return what the venue's REST interface says, through no store."""
    history = await rig.manager("truth").get(
        market, interval, start, end, sources=("rest",), use_store=False
    )
    assert history.report.complete
    return history.rows()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("market", "interval", "days"),
    [
        (MARKET, "1m", 3), (MARKET, "1s", 0.25), (MARKET, "1h", 70), (MARKET, "1w", 400),
        (MARKET, "3d", 200),
        ("btcusdt.usdtm.perp", "5m", 40), ("btcusd.coinm.perp", "1d", 300), (MARKET, "1M", 900),
    ],
)  # fmt: skip
async def test_bars_equal_the_venues_whatever_they_come_from(
    rig: Rig, market: str, interval: str, days: float
) -> None:
    """Archive and REST mixed, REST alone, the store: one truth, no bar doubled or missing."""
    start, end = NOW - int(days * DAY), NOW
    manager = rig.manager()
    history = await manager.get(market, interval, start, end)
    assert history.report.complete
    expected = await truth_of(rig, market, interval, start, end)
    rows = history.rows()
    times = min(len(rows), len(expected))  # a bar may have closed between the two calls
    assert rows[:times].tobytes() == expected[:times].tobytes()
    assert set(history.report.sources) == {"archive", "rest"} or interval not in ("1m", "5m", "1h")
    asked = rig.requests
    again = await manager.get(market, interval, start, int(rows["time"][-1]))
    assert again.rows().tobytes() == rows[:-1].tobytes()
    assert rig.requests == asked, "what is stored costs no request"
    assert again.report.stored == len(rows) - 1


FLAWS = (
    "missing-day", "no-checksum", "bad-checksum", "truncated-zip", "duplicate-rows",
    "missing-rows", "off-grid", "future-bar", "impossible-bar", "unsorted", "unit-switch",
    "wrong-symbol", "zip-bomb", "zip-path", "two-members", "empty-csv",
)  # fmt: skip
ARCHIVE_FAULTS = [
    *(Fault(what=what, match="/data/") for what in FLAWS),
    Fault(what="zip-bomb", part="hidden"),
    Fault(what="status", status=500, match="/data/"),
    Fault(what="status", status=403, match="/data/"),
    Fault(what="status", status=429, retry_after_s=0.1, match="/data/", count=3),
    Fault(what="garble", on="http", match="/data/"),
    Fault(what="close", on="http", match="/data/"),
]  # fmt: skip
REST_FAULTS = [
    Fault(what="status", status=500, match="/klines"),
    Fault(what="status", status=503, match="/klines"),
    Fault(what="status", status=429, retry_after_s=0.1, match="/klines", count=2),
    Fault(what="status", status=404, match="/klines"),
    Fault(what="status", status=400, match="/klines"),
    Fault(what="garble", on="http", match="/klines"),
    Fault(what="garble", on="http", part="number", match="/klines"),
    Fault(what="close", on="http", match="/klines"),
    Fault(what="duplicate-rows", match="/klines"),
    Fault(what="missing-rows", match="/klines", count=1),
    Fault(what="missing-rows", match="/klines", count=2),
    Fault(what="off-grid", match="/klines"),
    Fault(what="future-bar", match="/klines"),
    Fault(what="impossible-bar", match="/klines"),
    Fault(what="status", status=500, match="/exchangeInfo"),
]


def name_of(fault: Fault) -> str:
    """Name a case."""
    words = [fault.what, fault.part or "", fault.status or "", fault.count or "", fault.match]
    return "-".join(str(word).strip("/") for word in words if word)


async def result_of(manager: HistoryManager, **options: Any) -> tuple[Rows, bool]:
    """Return what a call obtained, and whether it said that this is all."""
    with trio.fail_after(120):
        try:
            history, whole = await manager.get(MARKET, "5m", START, END, **options), True
        except HistoryError as err:
            history, whole = err.partial, False
    lost = sum(one.bars for one in history.report.missing)
    assert lost + history.report.rows == 2 * 288
    assert whole or not history.report.complete
    return history.rows(), history.report.complete


def check(rows: Rows, expected: Rows, *, complete: bool) -> None:
    """A complete answer is the truth, a part of it is a part of the truth."""
    if complete:
        assert rows.tobytes() == expected.tobytes()
    kept = expected[np.isin(expected["time"], rows["time"])]
    assert rows.tobytes() == kept.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ARCHIVE_FAULTS, ids=name_of)
async def test_the_truth_is_told_when_the_archive_fails(rig: Rig, fault: Fault) -> None:
    """REST fills in for it; alone, the archive gives a part and says so, or all."""
    expected = await truth_of(rig, MARKET, "5m", START, END)
    rig.spoil(fault)
    manager = rig.manager()
    rows, complete = await result_of(manager)
    assert complete
    check(rows, expected, complete=True)
    alone = rig.manager("alone")
    rows, complete = await result_of(alone, sources=("archive",))
    check(rows, expected, complete=complete)
    rig.heal()
    for healed in (manager, alone):
        rows, complete = await result_of(healed)
        assert complete
        check(rows, expected, complete=True)


@pytest.mark.slow
@pytest.mark.parametrize("fault", REST_FAULTS, ids=name_of)
async def test_the_truth_is_told_when_rest_fails(rig: Rig, fault: Fault) -> None:
    """All of it or a part with its error; never a bar that is not the venue's, never kept."""
    expected = await truth_of(rig, MARKET, "5m", START, END)
    rig.spoil(fault)
    manager = rig.manager()
    rows, complete = await result_of(manager, sources=("rest",))
    check(rows, expected, complete=complete)
    rig.heal()
    rows, complete = await result_of(manager, sources=("rest",))
    assert complete
    check(rows, expected, complete=True)


def _flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def _forge(path: Path, chance: random.Random) -> None:
    """Change a price in the manifest's idea of a file: its checksums."""
    db = sqlite3.connect(path.parents[3] / "manifest.db")
    db.execute("UPDATE segment SET blocks = zeroblob(length(blocks))")
    db.commit()
    db.close()


def _rename_in_manifest(path: Path, chance: random.Random) -> None:
    db = sqlite3.connect(path.parents[3] / "manifest.db")
    db.execute("UPDATE segment SET name = 'nothing.arrow'")
    db.commit()
    db.close()


def _swap(path: Path, chance: random.Random) -> None:
    other = path.parents[1] / "15m" / path.name
    other.parent.mkdir(exist_ok=True)
    shutil.copy(path, other)
    path.write_bytes(other.read_bytes()[:-8] + b"ARROW2\0\0")


STORE_FAULTS: dict[str, Callable[[Path, random.Random], object]] = {
    "flipped-1": _flip, "flipped-2": _flip, "flipped-3": _flip, "flipped-4": _flip,
    "half": lambda path, _: os.truncate(path, path.stat().st_size // 2),
    "one-byte-short": lambda path, _: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path, _: os.truncate(path, 0),
    "gone": lambda path, _: path.unlink(),
    "folder-gone": lambda path, _: shutil.rmtree(path.parent),
    "garbage": lambda path, _: path.write_bytes(os.urandom(9000)),
    "longer": lambda path, _: path.write_bytes(path.read_bytes() * 2),
    "no-arrow": _swap,
    "forged-checksums": _forge,
    "renamed-in-manifest": _rename_in_manifest,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", STORE_FAULTS)
async def test_the_truth_is_told_when_the_store_is_damaged(rig: Rig, name: str) -> None:
    """Found, set aside, fetched anew; offline the part that is sound, and what is not there."""
    manager = rig.manager()
    rows, complete = await result_of(manager)
    expected, chance = rows, random.Random(name)
    assert complete
    for path in list(manager.store.root.glob("*/*/*/*.arrow")):
        if path.exists():
            STORE_FAULTS[name](path, chance)
    manager.store.close()
    offline = await rig.manager().get(MARKET, "5m", START, END, sources=())
    check(offline.rows(), expected, complete=False)
    assert offline.report.rows + sum(one.bars for one in offline.report.missing) == 576
    rows, complete = await result_of(rig.manager())
    assert complete
    check(rows, expected, complete=True)


async def test_a_manifest_that_is_no_database_is_a_sentence(rig: Rig) -> None:
    """Nothing is fetched over it, nothing is deleted; the remedy is named."""
    manager = rig.manager()
    await result_of(manager)
    manager.store.close()
    (manager.store.root / "manifest.db").write_bytes(b"no database at all" * 500)
    with pytest.raises(StoreError, match="piker store repair"):
        await result_of(rig.manager())


# -- asking badly ----------------------------------------------------------------------------------
async def test_requests_that_make_no_sense_are_refused_before_anything_is_asked(rig: Rig) -> None:
    """Empty and reversed ranges, unknown timeframes and markets: sentences."""
    manager = rig.manager()
    for start, end in ((END, END), (END, START)):
        with pytest.raises(RangeError):
            await manager.get(MARKET, "5m", start, end)
    assert rig.requests == 0
    with pytest.raises(SymbolNotFound, match="btcusdt"):
        await manager.get("btcusdx.spot", "5m", START, END)


async def test_a_range_before_the_first_bar_is_refused_with_its_time(rig: Rig) -> None:
    """Wholly before: when there are bars. In part: they are there, the rest was not listed."""
    manager, day = rig.manager(), 1_502_928_000  # 2017-08-17, when the venue listed it
    with pytest.raises(DataUnavailable, match="2017-08-17"):
        await manager.get(MARKET, "1d", day - 30 * DAY, day - 10 * DAY)
    asked = rig.requests
    with pytest.raises(DataUnavailable, match="2017-08-17"):
        await manager.get(MARKET, "1d", day - 300 * DAY, day - 10 * DAY)
    assert rig.requests <= asked + 1, "no file is asked for that can not be there"
    history = await manager.get(MARKET, "1d", day - 10 * DAY, day + 10 * DAY)
    (missing,) = history.report.missing
    assert (missing.why, missing.bars, history.report.rows) == ("not-listed", 10, 10)
    assert history.report.complete


async def test_bars_that_are_not_closed_are_said_to_be_so(rig: Rig) -> None:
    """A range that reaches into the future gives what is closed, and says what is not."""
    history = await rig.manager().get(MARKET, "1h", NOW - 7200, NOW + 7200)
    (missing,) = history.report.missing
    assert missing.why == "not-closed"
    assert missing.bars + history.report.rows == history.report.expected
    assert history.report.complete


async def test_nothing_is_asked_when_only_the_store_may_be(rig: Rig) -> None:
    """Offline is offline: not even what markets there are."""
    history = await rig.manager().get(MARKET, "1h", START, END, sources=())
    assert (history.report.rows, rig.requests) == (0, 0)
    assert [one.why for one in history.report.missing] == ["offline"]


@pytest.mark.slow
async def test_source_is_asked_no_more_when_it_has_not_the_series(rig: Rig) -> None:
    """Seconds of a future, for hours: one word of it for all of them, and no failure."""
    history = await rig.manager().get(
        "btcusdt.usdtm.perp", "1s", END - 36_000, END, sources=("rest",)
    )
    entry = history.report.source("rest")
    assert entry.failures == 0
    assert entry.requests <= 3  # those that were asked for at once; there are ten
    assert {one.why for one in history.report.missing} == {"not-offered"}
    assert sum(one.bars for one in history.report.missing) == 36_000


async def test_what_was_fetched_stays_when_a_call_is_cancelled(rig: Rig) -> None:
    """The next call goes on where it was."""
    rig.spoil(Fault(what="delay", on="http", match="/klines", delay_s=0.05))
    manager = rig.manager()
    start = END - 20 * DAY
    with trio.move_on_after(0.6):
        await manager.get(MARKET, "1m", start, END, sources=("rest",))
    offline = await manager.get(MARKET, "1m", start, END, sources=())
    kept = offline.report.rows
    history = await manager.get(MARKET, "1m", start, END, sources=("rest",))
    assert history.report.complete
    assert history.report.stored == kept
    assert history.report.sources["rest"].rows == 20 * 1440 - kept


async def test_a_file_that_the_venue_replaced_is_noticed_when_asked(rig: Rig) -> None:
    """Another ETag: the new file is read, and the bars that changed are counted."""
    manager = rig.manager()
    rig.spoil(Fault(what="missing-rows", match="/data/"))
    first = await manager.get(MARKET, "5m", START, END, sources=("archive",))
    assert first.report.rows < 576
    rig.heal()
    second = await manager.get(MARKET, "5m", START, END, sources=("archive",))
    assert second.report.rows == first.report.rows, "what is known is not asked for again"
    third = await manager.get(MARKET, "5m", START, END, sources=("archive",), recheck=True)
    assert third.report.replaced > 0
    check(third.rows(), await truth_of(rig, MARKET, "5m", START, END), complete=True)


@pytest.mark.slow
@pytest.mark.parametrize("market", [MARKET, "btcusd.coinm.perp"])
async def test_three_day_bars_open_on_the_markets_own_grid_when_it_is_not_the_epochs(
    rig: Rig, market: str
) -> None:
    """Counted from its first bar; archive, REST and the store agree on it, each gap is on it."""
    manager = rig.manager()
    history = await manager.get(market, "3d", NOW - 100 * DAY, NOW)
    assert history.report.complete
    assert set(history.report.sources) == {"archive", "rest"}
    times = history.rows()["time"]
    assert (np.diff(times) == 3 * DAY).all()
    first = await rig.backend.fetch_first_open(market, "3d")
    assert (times - first).tolist() == [int(t - first) // (3 * DAY) * 3 * DAY for t in times]
    assert (times % (3 * DAY) != 0).all(), "the loopback's markets have phases of their own"
    rest = await truth_of(rig, market, "3d", NOW - 100 * DAY, NOW)
    assert history.rows()[: len(rest)].tobytes() == rest.tobytes()
    asked = rig.requests
    again = await rig.manager().get(market, "3d", int(times[2]), int(times[-1]))
    assert again.rows()["time"].tolist() == times[2:-1].tolist()
    assert rig.requests == asked


@pytest.mark.slow
async def test_three_day_bars_of_another_phase_are_refused_when_one_is_known(rig: Rig) -> None:
    """None is moved onto the grid, none is stored off it; the report says what they were."""
    manager = rig.manager()
    first = await rig.backend.fetch_first_open(MARKET, "3d")
    series = Series("binance", MARKET, "3d", origin_s=first + DAY)
    with manager.store.manifest.commit():
        number = manager.store.manifest.add(series)
        manager.store.manifest.set_listing(number, first + DAY, first + DAY)
    end = END - (END - first - DAY) % (3 * DAY)  # every bar of that phase is closed there
    with pytest.raises(HistoryError) as caught:
        await manager.get(MARKET, "3d", end - 90 * DAY, end)
    report = caught.value.partial.report
    assert report.rows == 0
    assert {one.defect.kind for one in report.defects} == {"off-grid"}
    assert {one.why for one in report.missing} == {"refused"}
    assert manager.store.read(series, end - 90 * DAY, end).table.num_rows == 0
