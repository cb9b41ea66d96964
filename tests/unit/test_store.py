"""The store: what was written is read, whatever overlaps, is damaged, is full or was killed."""

from __future__ import annotations

import gc
import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piker.cli import store as cli_store
from piker.clock import VirtualClock, use_clock
from piker.data.ranges import Range, subtract, union
from piker.data.store import maintenance, merge
from piker.data.store.database import DamagedManifest
from piker.data.store.manifest import VERSION, Manifest, Origin
from piker.data.store.segment import BLOCK_ROWS, SOURCES, Written
from piker.data.store.series import Series
from piker.data.store.store import Rows, Store
from piker.errors import Bug, ConfigError, StoreError
from piker.ohlcv import KLINE_DTYPE, Timeframe

MINUTES = Series.of("btcusdt.spot.binance", "1m")
T0 = 1_706_745_600  # 1 February 2024, midnight
DAY = 86_400


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Return an empty store."""
    found = Store(tmp_path / "store")
    yield found
    found.close()


def bars(start: int, count: int, *, step: int = 60, price: float = 100.0) -> Rows:
    """Make bars whose close tells their time and ``price``."""
    rows = np.zeros(count, KLINE_DTYPE)
    rows["time"] = start + np.arange(count) * step
    for name in ("open", "high", "low", "close"):
        rows[name] = price + rows["time"] % 977
    rows["volume"], rows["count"], rows["turnover"] = 2.0, 3, 200.0
    return rows


def put(store: Store, rows: Rows, source: str = "archive", series: Series = MINUTES) -> int:
    """Store rows as a whole range."""
    after = series.timeframe.next(int(rows["time"][-1]))
    return store.write(series, rows, int(rows["time"][0]), after, source=source)


# -- reading what was written --------------------------------------------------------------------
def test_bars_are_the_same_when_read_again(store: Store, tmp_path: Path) -> None:
    """Every value, by another process's store too; close_time is a millisecond before the next."""
    rows = bars(T0, 3000)
    put(store, rows)
    for reader in (store, Store(tmp_path / "store")):
        found, codes = reader.rows(MINUTES, T0, T0 + 3000 * 60)
        assert found.tobytes() == rows.tobytes()
        assert set(codes) == {SOURCES.index("archive")}
    table = store.read(MINUTES, T0, T0 + 60).table
    assert table["close_time"][0].value == (T0 + 60) * 10**9 - 1_000_000
    assert store.coverage(MINUTES, T0 - 60, T0 + 120).covered == ((T0, T0 + 120),)


def test_hole_stays_a_hole_when_no_bars_are_stored_in_it_twice(store: Store) -> None:
    """That there is nothing may be said as often as one likes, and confirmed at last."""
    nothing = np.zeros(0, KLINE_DTYPE)
    for sure in (False, True):
        store.write(MINUTES, nothing, T0, T0 + 600, source="rest", confirmed=sure)
    (hole,) = store.coverage(MINUTES, T0, T0 + 600).holes
    assert hole.confirmed
    assert store.read(MINUTES, T0, T0 + 600).table.num_rows == 0


@pytest.mark.slow
def test_databases_are_closed_when_the_threads_that_read_have_ended(store: Store) -> None:
    """Trio's worker threads come and go for as long as a daemon runs.

    SQLite keeps some descriptors of closed databases, to use them again while others are open.
    """
    put(store, bars(T0, 10))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(300):
        thread = threading.Thread(target=store.read, args=(MINUTES, T0, T0 + 600))
        thread.start()
        thread.join()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) < before + 150  # three for each, were they kept


@pytest.mark.parametrize("interval", ["1s", "5m", "1h", "1d", "3d", "1w", "1M"])
def test_any_timeframe_is_stored_when_it_is_on_its_grid(store: Store, interval: str) -> None:
    """Weeks begin on Mondays, months on the first; both come back as they were."""
    series = Series.of("ethusdt.usdtm.perp.binance", interval)
    grid = Timeframe(interval).grid(T0, T0 + max(400, 30 * Timeframe(interval).seconds))
    rows = np.zeros(len(grid), KLINE_DTYPE)
    rows["time"], rows["close"] = grid, np.arange(len(grid))
    rows = rows[rows["time"] < 1_790_000_000]
    put(store, rows, series=series)
    after = series.timeframe.next(int(rows["time"][-1]))
    table = store.read(series, int(rows["time"][0]), after).table
    assert table["close"].to_pylist() == rows["close"].tolist()
    closes = [value.value // 10**6 for value in table["close_time"]]
    assert closes == [series.timeframe.next(int(time)) * 1000 - 1 for time in rows["time"]]


def test_rows_are_those_of_the_range_when_there_are_holes(store: Store) -> None:
    """Arithmetic finds rows where there is no hole, a search where there is one."""
    rows = bars(T0, 2000)
    kept = np.delete(rows, [5, 6, 1000])
    store.write(MINUTES, kept, T0, T0 + 2000 * 60, source="rest")
    for low, high in ((0, 2000), (5, 7), (4, 8), (900, 1100), (1000, 1001), (1999, 2000)):
        start, end = T0 + low * 60, T0 + high * 60
        found, _ = store.rows(MINUTES, start, end)
        expected = kept[(kept["time"] >= start) & (kept["time"] < end)]
        assert found["time"].tolist() == expected["time"].tolist()
        assert store.column(MINUTES, "close", start, end).tolist() == expected["close"].tolist()
    holes = store.coverage(MINUTES, T0, T0 + 2000 * 60).holes
    assert [(hole.start_s - T0, hole.end_s - T0, hole.confirmed) for hole in holes] == [
        (300, 420, False), (60_000, 60_060, False),
    ]  # fmt: skip


def test_a_hole_is_confirmed_or_filled_when_more_is_known(store: Store) -> None:
    """What the venue says it does not have stays confirmed, what comes later fills it."""
    rows = bars(T0, 100)
    store.write(MINUTES, np.delete(rows, [10, 20]), T0, T0 + 6000, source="archive", why="archive")
    store.write(MINUTES, rows[:0], T0 + 600, T0 + 660, source="rest", confirmed=True, why="halted")
    holes = store.coverage(MINUTES, T0, T0 + 6000).holes
    assert [(h.start_s - T0, h.confirmed, h.why) for h in holes] == [
        (600, True, "halted"), (1200, False, "archive"),
    ]  # fmt: skip
    put(store, rows[20:21], source="rest")
    holes = store.coverage(MINUTES, T0, T0 + 6000).holes
    assert [(h.start_s - T0, h.confirmed) for h in holes] == [(600, True)]
    assert len(store.rows(MINUTES, T0, T0 + 6000)[0]) == 99


def test_markets_and_timeframes_are_apart_when_names_are_alike(store: Store) -> None:
    """A spot bar is never served for a future, a minute never for a month."""
    put(store, bars(T0, 10))
    for fqme, interval in (
        ("btcusdt.usdtm.perp.binance", "1m"), ("btcusdt.spot.kraken", "1m"),
        ("btcusdt.spot.binance", "1M"), ("btcusdt.spot.binance", "5m"),
    ):  # fmt: skip
        found = store.read(Series.of(fqme, interval), T0 - DAY * 40, T0 + DAY)
        assert found.table.num_rows == 0
        assert found.coverage.covered == ()


def test_a_file_of_another_market_is_refused_when_it_has_the_right_name(store: Store) -> None:
    """Identity is in the payload: moving or copying files does not make bars of another market."""
    other = Series.of("ethusdt.spot.binance", "1m")
    put(store, bars(T0, 10))
    put(store, bars(T0, 10, price=5.0), series=other)
    (mine,), (theirs,) = (list(store.folder(one).glob("*.arrow")) for one in (MINUTES, other))
    mine.write_bytes(theirs.read_bytes())
    found = store.read(MINUTES, T0, T0 + 600)
    assert (found.table.num_rows, found.damaged) == (0, 1)
    assert found.coverage.covered == ()
    assert list((store.root / "quarantine").iterdir())


@pytest.mark.parametrize("name", ["../../x", "a/b", "", ".hidden", "a..b", "x" * 200, "a\0b", "A"])
def test_a_name_is_refused_when_it_is_a_path_or_none(name: str) -> None:
    """No symbol leaves the store's directory."""
    with pytest.raises(ConfigError):
        Series("binance", name, "1m")


# -- merging -------------------------------------------------------------------------------------
def test_the_better_source_stays_when_two_overlap(store: Store) -> None:
    """An archive's bar is not replaced by REST's, REST's is by an archive's; counted."""
    put(store, bars(T0, 10, price=1.0), "rest")
    assert put(store, bars(T0 + 300, 10, price=2.0), "archive") == 5
    assert put(store, bars(T0, 10, price=3.0), "live") == 0
    found, codes = store.rows(MINUTES, T0, T0 + 900)
    assert [SOURCES[code] for code in codes] == ["rest"] * 5 + ["archive"] * 10
    assert (found["open"] - found["time"] % 977).tolist() == [1.0] * 5 + [2.0] * 10
    assert len(list(store.folder(MINUTES).glob("*.arrow"))) == 1


def test_a_bar_is_one_row_when_it_is_appended_and_written(store: Store) -> None:
    """Live bars are kept one by one, and give way to the venue's own of the same time."""
    for row in bars(T0, 5):
        assert store.append(MINUTES, row)
    assert len(store.rows(MINUTES, T0, T0 + 300)[0]) == 5
    put(store, bars(T0 + 120, 10, price=50.0), "rest")
    found, codes = store.rows(MINUTES, T0, T0 + 900)
    assert len(found) == 12
    assert [SOURCES[code] for code in codes] == ["live"] * 2 + ["rest"] * 10
    assert not store.append(MINUTES, bars(T0 + 180, 1)[0])


class Appending(Store):
    """A store into which another process appends a bar whenever files were written."""

    def __init__(self, root: Path, offers: list[Rows]) -> None:
        super().__init__(root)
        self.offers = offers
        self.taken: list[bool] = []

    def write_files(self, series: Series, rows: Rows, codes: Rows, span: Range) -> list[Written]:
        """Write, and let the other one append."""
        new = super().write_files(series, rows, codes, span)
        if self.offers:
            other = Store(self.root)
            self.taken.append(other.append(series, self.offers.pop(0)))
            other.close()
        return new


def test_a_bar_is_one_row_when_it_is_appended_while_its_range_is_written(store: Store) -> None:
    """The venue's own stands; one that the venue does not have is kept; files do not overlap."""
    known = np.delete(bars(T0, 100, price=50.0), 20)
    offered = [bars(T0 + at * 60, 1)[0] for at in (10, 20)]
    writer = Appending(store.root, list(offered))
    writer.write(MINUTES, known, T0, T0 + 6000, source="rest")
    writer.close()
    assert writer.taken == [True, True]
    rows, codes = store.rows(MINUTES, T0, T0 + 6000)
    assert rows["time"].tolist() == list(range(T0, T0 + 6000, 60))
    assert [SOURCES[code] for code in codes] == ["rest"] * 20 + ["live"] + ["rest"] * 79
    maintenance.compact(store, MINUTES, always=True)
    assert not [one for one in maintenance.verify(store) if one.problem]
    assert store.rows(MINUTES, T0, T0 + 6000)[0].tobytes() == rows.tobytes()


def test_a_bar_is_one_row_when_it_is_appended_again_while_it_is_put_into_a_file(
    store: Store,
) -> None:
    """The newer word of the two stands, in one place."""
    for row in bars(T0, 5):
        store.append(MINUTES, row)
    newer = bars(T0 + 120, 1, price=50.0)[0]
    writer = Appending(store.root, [newer])
    maintenance.compact(writer, MINUTES, always=True)
    assert writer.taken == [True]
    assert not [one for one in maintenance.verify(store) if one.problem]
    maintenance.compact(writer, MINUTES, always=True)
    writer.close()
    rows, _ = store.rows(MINUTES, T0, T0 + DAY)
    assert rows["time"].tolist() == [T0 + at * 60 for at in range(5)]
    assert rows[2] == newer
    assert not [one for one in maintenance.verify(store) if one.problem]
    assert store.manifest.tail(1, T0, T0 + DAY) == []


pieces = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 40), st.sampled_from(["rest", "archive", "live"])),
    min_size=1, max_size=8,
)  # fmt: skip


@given(pieces, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_the_order_of_writes_is_of_no_account_when_sources_differ_in_rank(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[int, int, str]],
    chance: random.Random,
) -> None:  # fmt: skip
    """Any order, and anything twice: the same bars, the same coverage."""
    results = []
    for _ in range(2):
        chance.shuffle(found)
        store = Store(tmp_path_factory.mktemp("store"))
        for first, count, source in [*found, found[0]]:
            price = 10.0 * len(source)  # equal sources agree
            put(store, bars(T0 + first * 60, count, price=price), source)
        rows, codes = store.rows(MINUTES, T0, T0 + DAY)
        results.append((rows.tobytes(), codes.tobytes(), store.coverage(MINUTES, T0, T0 + DAY)[0]))
        store.close()
    assert results[0] == results[1]
    expected = union((T0 + a * 60, T0 + (a + n) * 60) for a, n, _ in found)
    assert results[0][2] == expected


# -- refusing what is wrong ----------------------------------------------------------------------
def test_a_bar_that_is_open_is_never_stored(store: Store) -> None:
    """Neither by a write nor by an append."""
    now = int(Timeframe("1d").floor(2_000_000_000))
    future = bars(now, 1, step=DAY)
    series = Series.of("btcusdt.spot.binance", "1d")
    with pytest.raises(Bug, match="not closed"):
        store.write(series, future, now, now + DAY, source="rest")
    with pytest.raises(Bug, match="not closed"):
        store.append(series, future[0])


def test_rows_are_refused_when_they_are_off_the_grid_or_out_of_order(store: Store) -> None:
    """A fault of ours is never written down."""
    for rows in (bars(T0 + 7, 3), bars(T0, 3)[::-1], np.concatenate([bars(T0, 2), bars(T0, 2)])):
        with pytest.raises(Bug):
            store.write(MINUTES, rows, T0, T0 + 600, source="rest")
    assert store.coverage(MINUTES, 0, T0 * 2).covered == ()


# -- damage --------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(40))
def test_damage_is_found_when_any_byte_of_a_file_changes(store: Store, seed: int) -> None:
    """Flipped, cut short, emptied or gone: never a wrong bar, the file is set aside."""
    rows = bars(T0, 2 * BLOCK_ROWS + 100, step=60)
    put(store, rows)
    store.close()
    path = next(store.folder(MINUTES).glob("*.arrow"))
    chance, data = random.Random(seed), bytearray(path.read_bytes())
    if seed % 4 == 3:
        data = data[: chance.randrange(len(data))]
    else:
        at = chance.randrange(len(data)) if seed % 4 else chance.randrange(4096)
        data[at] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    found = store.read(MINUTES, T0, T0 + len(rows) * 60)
    count = found.table.num_rows
    if count:  # padding between columns: nothing that is read
        assert found.table["close"].to_numpy().tobytes() == rows["close"].tobytes()
        assert [one.problem for one in maintenance.verify(store)] != [""]
    else:
        assert found.damaged == 1
        assert (found.coverage.covered, list(maintenance.repair(store))) == ((), [])
        put(store, rows)
        assert len(store.rows(MINUTES, T0, T0 + len(rows) * 60)[0]) == len(rows)


def test_damage_is_found_when_a_file_changes_under_an_open_store(store: Store) -> None:
    """A file that was checked before is checked again when it was touched."""
    put(store, bars(T0, 1000))
    store.read(MINUTES, T0, T0 + 60)
    path = next(store.folder(MINUTES).glob("*.arrow"))
    path.write_bytes(path.read_bytes()[:-2000])
    assert store.read(MINUTES, T0, T0 + 60).damaged == 1


def test_the_manifest_is_made_anew_when_it_is_lost(store: Store) -> None:
    """Files say what they are: bars of sound ones are there again, those of damaged ones not."""
    put(store, bars(T0, 1000))
    put(store, bars(T0 + DAY, 1000))
    store.close()
    _first, second = sorted(store.folder(MINUTES).glob("*.arrow"))
    data = bytearray(second.read_bytes())
    data[len(data) // 2] ^= 4
    second.write_bytes(data)
    (store.root / "manifest.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreError, match="piker store repair"):
        store.read(MINUTES, T0, T0 + 60)
    assert maintenance.rebuild_manifest(store.root) == 1
    again = Store(store.root)
    assert again.coverage(MINUTES, T0, T0 + 2 * DAY).covered == ((T0, T0 + 60_000),)
    assert len(again.rows(MINUTES, T0, T0 + 2 * DAY)[0]) == 1000
    again.close()


def test_no_manifest_is_begun_when_there_are_files_that_it_would_not_name(store: Store) -> None:
    """A new one would make left-overs of them."""
    put(store, bars(T0, 10))
    store.close()
    (store.root / "manifest.db").unlink()
    with pytest.raises(DamagedManifest, match="piker store repair"):
        Store(store.root).rows(MINUTES, T0, T0 + 600)
    assert maintenance.rebuild_manifest(store.root) == 1
    assert len(store.rows(MINUTES, T0, T0 + 600)[0]) == 10


def test_repair_makes_a_manifest_anew_only_when_it_is_lost_or_broken(
    piker_dirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not for one that a newer piker wrote: that would cost what only it knows."""
    with closing(Store()) as ours:
        put(ours, bars(T0, 10))
        ours.append(MINUTES, bars(T0 + 600, 1)[0])
    path = ours.root / "manifest.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="newer piker"):
        cli_store.repair(as_json=True)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {VERSION}")
    for spoil in (lambda: path.write_bytes(b"garbage" * 1000), path.unlink):
        with closing(Store()) as ours:
            rows, _ = ours.rows(MINUTES, T0, T0 + DAY)
            assert rows["time"][:10].tolist() == bars(T0, 10)["time"].tolist()
        spoil()
        cli_store.repair(as_json=True)
        assert "1 files are in it" in capsys.readouterr().err


class Passing(VirtualClock):
    """A clock by which ten seconds pass, and something may happen, whenever it is read."""

    def __init__(self, happens: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.happens = happens

    def monotonic_ns(self) -> int:
        """Return the time after that."""
        self.happens()
        self.advance(10)
        return super().monotonic_ns()


def test_a_new_store_is_opened_when_another_process_is_just_making_it(tmp_path: Path) -> None:
    """SQLite refuses at once to switch a file that somebody is writing; the opener waits."""
    path, asked = tmp_path / "manifest.db", []
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE begun (x)")
    other.execute("BEGIN IMMEDIATE")

    def release() -> None:
        asked.append(other.in_transaction)
        if len(asked) == 3:
            other.execute("COMMIT")

    with use_clock(Passing(release)):
        manifest = Manifest(path)
    assert asked == [True] * 3
    assert manifest.all_series() == []
    manifest.close()
    other.close()


def test_a_store_that_is_busy_is_not_to_be_made_anew(tmp_path: Path) -> None:
    """Whoever waits in vain is told to try again: the manifest is sound."""
    other = sqlite3.connect(tmp_path / "manifest.db", isolation_level=None)
    other.execute("CREATE TABLE begun (x)")
    other.execute("BEGIN IMMEDIATE")
    with use_clock(Passing()), pytest.raises(StoreError, match="Try again") as caught:
        Manifest(tmp_path / "manifest.db")
    assert not isinstance(caught.value, DamagedManifest)
    other.close()


def test_a_newer_store_is_left_alone_when_this_piker_is_older(store: Store) -> None:
    """Said in a sentence, nothing changed."""
    put(store, bars(T0, 10))
    store.close()
    db = sqlite3.connect(store.root / "manifest.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="newer piker"):
        Store(store.root).read(MINUTES, T0, T0 + 60)


@pytest.mark.skipif(os.geteuid() != 0, reason="a full disk is made by mounting one: needs root")
def test_nothing_is_lost_when_the_disk_is_full(tmp_path: Path) -> None:
    """A write that does not fit says so; what was there before is whole, and room helps."""
    import subprocess

    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place])
    if mounted.returncode:
        pytest.skip("tmpfs can not be mounted here")
    try:
        store = Store(place / "store")
        put(store, bars(T0, 1000))
        ballast = place / "ballast"
        ballast.write_bytes(b"x" * 1_500_000)
        with pytest.raises(StoreError, match="disk is full"):
            put(store, bars(T0 + DAY, 20_000))
        assert all(not one.problem for one in maintenance.verify(store))
        assert store.coverage(MINUTES, T0, T0 + 90 * DAY).covered == ((T0, T0 + 60_000),)
        ballast.unlink()
        put(store, bars(T0 + DAY, 10_000))
        assert len(store.rows(MINUTES, T0, T0 + 90 * DAY)[0]) == 11_000
        store.close()
    finally:
        subprocess.run(["umount", "-l", place], check=True)


# -- compaction ----------------------------------------------------------------------------------
def test_few_files_are_left_when_a_year_of_days_is_compacted(store: Store) -> None:
    """One file for a calendar year, holes and sources as they were; readers go on reading."""
    start = 1_640_995_200 - 3 * DAY  # three days before 2022
    held = store.read(MINUTES, start, start + DAY)
    for day in range(12):
        put(store, bars(start + day * DAY, 1440), "rest" if day % 2 else "archive")
    for row in bars(start + 12 * DAY, 30):
        store.append(MINUTES, row)
    before = store.rows(MINUTES, start, start + 20 * DAY)
    held = store.read(MINUTES, start, start + 20 * DAY)
    assert maintenance.compact(store, MINUTES, always=True) == 11
    assert len(list(store.folder(MINUTES).glob("*.arrow"))) == 2
    after = store.rows(MINUTES, start, start + 20 * DAY)
    assert [one.tobytes() for one in after] == [one.tobytes() for one in before]
    assert held.table["close"].to_numpy().tobytes() == after[0]["close"].tobytes()
    assert not [one for one in maintenance.verify(store) if one.problem]
    assert maintenance.compact(store, MINUTES, always=True) == 0


def test_leftovers_are_removed_when_a_writer_was_killed(store: Store) -> None:
    """Files that no commit named were never acknowledged: they go, and nothing else does."""
    put(store, bars(T0, 10))
    folder = store.folder(MINUTES)
    (folder / ".1-2-ab.arrow.tmp").write_bytes(b"half")
    (folder / "1-2-abcd.arrow").write_bytes(b"whole, but never committed")
    assert [one.problem for one in maintenance.repair(store)] == [
        "2 files of killed writers removed"
    ]
    assert len(store.rows(MINUTES, T0, T0 + 600)[0]) == 10


DIES = """
import os, signal, sys
from pathlib import Path
import numpy as np
from piker.data.store.series import Series
from piker.data.store.store import Store
from piker.ohlcv import KLINE_DTYPE

def hear(event, args):
    if event == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

rows = np.zeros(10, KLINE_DTYPE)
rows["time"], rows["close"] = 1_706_745_600 + np.arange(10) * 60, 7.0
store = Store(Path(sys.argv[1]))
store.manifest.all_series()
sys.addaudithook(hear)
store.write(Series.of("btcusdt.spot.binance", "1m"), rows, 1_706_745_600, 1_706_746_200,
            source="rest")
"""


@pytest.mark.slow
@pytest.mark.parametrize("at", ["os.rename", "os.remove"])
def test_leftovers_are_removed_by_the_next_opener_when_a_writer_was_killed(
    store: Store, at: str
) -> None:
    """Before the commit a file that nobody knows, after it the one that was replaced."""
    put(store, bars(T0, 10), "rest")
    dead = subprocess.run([sys.executable, "-c", DIES, str(store.root), at])
    assert dead.returncode == -signal.SIGKILL
    files = [one for one in store.folder(MINUTES).iterdir() if one.name != ".lock"]
    assert len(files) == 2
    other = Store(store.root)
    found, _ = other.rows(MINUTES, T0, T0 + 600)
    other.close()
    assert len(found) == 10
    assert (found["close"] == (7.0 if at == "os.remove" else bars(T0, 10)["close"])).all()
    assert len([one for one in store.folder(MINUTES).iterdir() if one.name != ".lock"]) == 1


FORKS = """
import os, sys
from pathlib import Path
from piker.data.store.series import Series
from piker.data.store.store import Store

series = Series.of("btcusdt.spot.binance", "1m")
ended, ends = os.pipe()
with Store(Path(sys.argv[1])).lock(series):
    if not os.fork():
        os.close(ends)
        os.read(ended, 1)  # until its parent is gone
        os._exit(0)
with Store(Path(sys.argv[1])).lock(series, wait_s=0):
    print("ours")
"""


@pytest.mark.slow
def test_a_lock_is_given_up_when_a_child_was_forked_meanwhile(tmp_path: Path) -> None:
    """The child has the lock file open as long as it lives, and never heard of it."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout == "ours\n", done.stderr


def test_nothing_is_removed_by_an_opener_when_a_writer_is_at_work(store: Store) -> None:
    """Its files are not named yet, and are no left-overs."""
    put(store, bars(T0, 10))
    with store.lock(MINUTES):
        new = store.write_files(
            MINUTES, bars(T0 + 600, 10), np.ones(10, "u1"), Range(T0 + 600, T0 + 1200)
        )
        other = Store(store.root)
        assert len(other.rows(MINUTES, T0, T0 + 600)[0]) == 10
        other.close()
        assert (store.folder(MINUTES) / new[0].name).exists()


# -- others --------------------------------------------------------------------------------------
@pytest.mark.slow
def test_nothing_is_lost_when_threads_write_read_and_compact_at_once(store: Store) -> None:
    """Every acknowledged bar is read from its write on, by everybody."""
    days, failures = 12, []

    def write(first: int) -> None:
        for day in range(first, days, 3):
            put(store, bars(T0 + day * DAY, 1440))
            if len(store.rows(MINUTES, T0 + day * DAY, T0 + (day + 1) * DAY)[0]) != 1440:
                failures.append(day)
            maintenance.compact(store, MINUTES, always=True)

    threads = [threading.Thread(target=write, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    rows, _ = store.rows(MINUTES, T0, T0 + days * DAY)
    assert rows.tobytes() == bars(T0, days * 1440).tobytes()


def test_origins_tell_whence_bars_came_when_asked(store: Store) -> None:
    """An archive file's etag is kept, so that a new upload is noticed."""
    origin = Origin("a/b.zip", "archive", T0, T0 + DAY, "ab" * 32, '"etag"', True)
    store.write(MINUTES, bars(T0, 1440), T0, T0 + DAY, source="archive", origin=origin)
    number = store.manifest.find(MINUTES)
    assert number is not None
    (kept,) = store.manifest.origins(number, T0, T0 + 60)
    assert (kept.path, kept.etag, kept.verified) == ("a/b.zip", '"etag"', True)


ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8)


@given(ranges, ranges)
def test_sets_of_ranges_are_right_when_compared_second_by_second(
    ours: list[tuple[int, int]], theirs: list[tuple[int, int]]
) -> None:
    """Union and difference equal those of sets of seconds; the form is canonical."""
    seconds = [{s for a, b in group for s in range(a, b)} for group in (ours, theirs)]
    for found, expected in (
        (union(ours), seconds[0]),
        (subtract(ours, theirs), seconds[0] - seconds[1]),
    ):
        assert {s for a, b in found for s in range(a, b)} == expected
        assert all(a < b for a, b in found)
        assert all(one.end < two.start for one, two in itertools.pairwise(found))


@given(st.sets(st.integers(0, 100)))
def test_missing_runs_are_what_is_not_there(present: set[int]) -> None:
    """Runs of absent bars, each as long as it is."""
    times = np.array(sorted(60 * number for number in present), np.int64)
    found = merge.missing_runs(Timeframe("1m"), times, Range(0, 6060))
    seconds = {s // 60 for a, b in found for s in range(a, b, 60)}
    assert seconds == set(range(101)) - present
    assert all(one.end < two.start for one, two in itertools.pairwise(found))
