"""Ticks in the store: once each, in order, whole; damage, gaps and full disks are said."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker.clock import NS, VirtualClock, use_clock
from piker.data.shm import TickRing
from piker.data.store import maintenance, ticks_upkeep
from piker.data.store.series import Series
from piker.data.store.store import Store
from piker.data.store.ticks import Batch, Ticks, TickStore, gaps_of, heard
from piker.data.store.ticks_schema import WHOLE_DAY, Gap, Ring
from piker.data.store.ticks_segment import DAY_NS, series_of, table_of, tick_rows
from piker.errors import Bug, ConfigError, RangeError, StoreError
from piker.ohlcv import KLINE_DTYPE
from piker.ticks import TICK_DTYPE, TRADE

FQME = "btcusdt.spot.binance"
SERIES = series_of(FQME)
DAY = 20_000  # days since the epoch: 2024-10-04
T0 = DAY * DAY_NS
EVER = (0, 1 << 62)

#: What format 1 of the manifest was, to the letter.
FORMAT_1 = """
CREATE TABLE series (
    id INTEGER PRIMARY KEY, provider TEXT NOT NULL, market TEXT NOT NULL, interval TEXT NOT NULL,
    listed_s INTEGER, origin_s INTEGER, UNIQUE (provider, market, interval));
CREATE TABLE segment (
    series INTEGER NOT NULL REFERENCES series, name TEXT NOT NULL,
    start_s INTEGER NOT NULL, end_s INTEGER NOT NULL, rows INTEGER NOT NULL, size INTEGER NOT NULL,
    sha256 TEXT NOT NULL, blocks BLOB NOT NULL, written_ns INTEGER NOT NULL,
    PRIMARY KEY (series, start_s), CHECK (start_s < end_s)) WITHOUT ROWID;
CREATE TABLE hole (
    series INTEGER NOT NULL REFERENCES series, start_s INTEGER NOT NULL, end_s INTEGER NOT NULL,
    confirmed INTEGER NOT NULL, why TEXT NOT NULL, seen_ns INTEGER NOT NULL,
    PRIMARY KEY (series, start_s), CHECK (start_s < end_s)) WITHOUT ROWID;
CREATE TABLE origin (
    series INTEGER NOT NULL REFERENCES series, path TEXT NOT NULL, source TEXT NOT NULL,
    start_s INTEGER NOT NULL, end_s INTEGER NOT NULL, sha256 TEXT NOT NULL, etag TEXT NOT NULL,
    verified INTEGER NOT NULL, checked_ns INTEGER NOT NULL,
    PRIMARY KEY (series, path)) WITHOUT ROWID;
CREATE TABLE tail (
    series INTEGER NOT NULL REFERENCES series, time_s INTEGER NOT NULL, source INTEGER NOT NULL,
    row BLOB NOT NULL, PRIMARY KEY (series, time_s)) WITHOUT ROWID;
PRAGMA user_version = 1;
"""
BAR_TABLES = ("series", "segment", "hole", "origin", "tail")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TickStore]:
    """Return an empty store."""
    found = Store(tmp_path / "store")
    yield TickStore(found)
    found.close()


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[TickRing]:
    """Return a ring to write to."""
    found, _ = TickRing.open_writer("binance", "btcusdt.spot", rows=4096, path=tmp_path / "ring")
    yield found
    found.close()


def ticks(first: int, count: int, *, start_ns: int = T0, step_ns: int = 1_000_000) -> Any:
    """Make rows that say which they are, one a millisecond."""
    rows = np.zeros(count, TICK_DTYPE)
    rows["index"] = np.arange(first, first + count)
    rows["time_ns"] = start_ns + rows["index"] * step_ns
    rows["price"], rows["size"] = 100.0 + rows["index"] % 977, 1.0
    rows["venue_id"], rows["type"], rows["side"] = rows["index"] * 7, TRADE, -1
    rows["recv_lag_us"], rows["flags"] = 500, 0
    return rows


def begin(store: TickStore, ring: TickRing) -> int:
    """Attach to a ring; return its number."""
    return store.attach(SERIES, ring).ring


def put(store: TickStore, rows: Any, *said: Gap, ring: int = 1) -> int:
    """Store rows; return how many were new."""
    (kept,) = store.append([Batch(SERIES, ring, rows, said)])
    return kept.rows


def stored(store: TickStore, start_ns: int = 0, end_ns: int = 1 << 62) -> Any:
    """Return the stored rows of a range."""
    return tick_rows(store.read(FQME, start_ns, end_ns).table)[0]


def sound(store: TickStore) -> bool:
    """Tell whether every file is as written."""
    return not any(one.problem for one in ticks_upkeep.verify(store))


# -- what goes in comes out ----------------------------------------------------------------------
def test_ticks_are_the_same_when_read_again(store: TickStore, ring: TickRing) -> None:
    """Every field of every row, in files of a day whose names say what they are."""
    begin(store, ring)
    rows = ticks(0, 5000)
    assert put(store, rows) == 5000
    found = store.read(FQME, *EVER)
    assert tick_rows(found.table)[0].tobytes() == rows.tobytes()
    assert (found.gaps, found.damaged) == ((), 0)
    (path,) = store.store.root.rglob("*.arrow")
    assert path.parent == store.store.root / "binance/btcusdt.spot/ticks/2024-10-04"
    with pa.memory_map(str(path)) as file:  # any reader of Arrow reads it
        assert pa.ipc.open_file(file).read_all().num_rows == 5000


def test_table_is_the_mapped_file_when_read(store: TickStore, ring: TickRing) -> None:
    """No column is copied: two readings show the same memory."""
    begin(store, ring)
    put(store, ticks(0, 1000))
    tables = [store.read(FQME, T0, T0 + 500_000_000).table for _ in range(2)]
    addresses = [[c.chunk(0).buffers()[1].address for c in t.columns] for t in tables]
    assert addresses[0] == addresses[1]
    assert tables[0].num_rows == 500


def test_ticks_lie_in_the_day_of_their_time_when_midnight_passes(
    store: TickStore, ring: TickRing
) -> None:
    """Also such as come late: each day has its own, in the order they came."""
    begin(store, ring)
    rows = ticks(0, 100, start_ns=T0 + DAY_NS - 50_000_000)
    rows["time_ns"][[48, 52]] = rows["time_ns"][[52, 48]]
    put(store, rows)
    days = [day for day, _ in store.manifest.days(1)]
    assert days == [DAY, DAY + 1]
    late = stored(store, T0, T0 + DAY_NS)
    assert late["index"].tolist() == [*range(48), 49, 52]
    assert stored(store, T0 + DAY_NS, T0 + 2 * DAY_NS)["index"].tolist() == [
        48, 50, 51, *range(53, 100),
    ]  # fmt: skip
    assert sound(store)


times = st.lists(st.integers(0, 400), min_size=1, max_size=60)


@given(times, st.integers(0, 400), st.integers(1, 200), st.integers(1, 20))
def test_reading_finds_what_a_filter_finds_when_times_do_not_ascend(
    offsets: list[int], low: int, width: int, flush: int
) -> None:
    """Whatever the venue's times are, and however they were cut into files."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store = TickStore(Store(Path(folder) / "store"))
        found, _ = TickRing.open_writer("binance", "btcusdt.spot", rows=64, path=Path(folder, "r"))
        begin(store, found)
        rows = ticks(0, len(offsets))
        rows["time_ns"] = T0 + np.array(offsets) * (DAY_NS // 200)
        for at in range(0, len(rows), flush):
            put(store, rows[at : at + flush])
        ticks_upkeep.tidy(store, SERIES)
        start, stop = (T0 + edge * (DAY_NS // 200) for edge in (low, low + width))
        wanted = rows[(rows["time_ns"] >= start) & (rows["time_ns"] < stop)]
        wanted = wanted[np.argsort(wanted["time_ns"] // DAY_NS, kind="stable")]
        assert stored(store, start, stop).tobytes() == wanted.tobytes()
        found.close()
        store.store.close()


def test_ranges_and_names_are_refused_when_they_are_none(store: TickStore) -> None:
    """An empty range, a path in the place of a market; an unknown market has no ticks."""
    with pytest.raises(RangeError):
        store.read(FQME, 5, 5)
    with pytest.raises(ConfigError):
        store.read("../../etc.binance", *EVER)
    assert store.read("ethusdt.spot.binance", *EVER).table.num_rows == 0
    with pytest.raises(Bug):
        put(store, ticks(0, 3))  # nobody attached


# -- once each -----------------------------------------------------------------------------------
def test_rows_are_stored_once_when_they_are_brought_again(store: TickStore, ring: TickRing) -> None:
    """By one recorder or by two: what is stored already is left out."""
    begin(store, ring)
    assert put(store, ticks(0, 100)) == 100
    assert put(store, ticks(0, 100)) == 0
    assert put(store, ticks(50, 100)) == 50
    assert stored(store).tobytes() == ticks(0, 150).tobytes()


def test_recording_goes_on_in_the_same_ring_when_the_recorder_is_new(
    store: TickStore, ring: TickRing, tmp_path: Path
) -> None:
    """The last stored row, found in the ring, proves it: even after its writer was replaced."""
    ring.extend_packed(ticks(0, 300).tobytes())
    assert store.attach(SERIES, ring) == (1, 0)
    put(store, ticks(0, 200))
    assert store.attach(SERIES, ring) == (1, 200)
    ring.close()
    adopted, was_there = TickRing.open_writer(
        "binance", "btcusdt.spot", rows=4096, path=tmp_path / "ring"
    )
    assert was_there
    assert store.attach(SERIES, adopted) == (1, 200)
    adopted.close()


def test_a_ring_is_another_when_it_does_not_hold_what_was_stored(
    store: TickStore, ring: TickRing, tmp_path: Path
) -> None:
    """Row numbers begin anew, so they alone would double ticks or lose some."""
    ring.extend_packed(ticks(0, 300).tobytes())
    begin(store, ring)
    put(store, ticks(0, 200))
    ring.close(unlink=True)
    fresh, _ = TickRing.open_writer("binance", "btcusdt.spot", rows=4096, path=tmp_path / "ring")
    rows = ticks(0, 900, start_ns=T0 + 60 * NS)
    rows["flags"][0] = 1
    fresh.extend_packed(rows.tobytes())
    assert store.attach(SERIES, fresh) == (2, 0)
    put(store, rows, ring=2)
    found = store.read(FQME, *EVER)
    kept, rings = tick_rows(found.table)
    assert kept.tobytes() == ticks(0, 200).tobytes() + rows.tobytes()
    assert rings.tolist() == [1] * 200 + [2] * 900
    (gap,) = found.gaps
    assert (gap.kind, gap.start_ns, gap.end_ns, gap.missed) == (
        "ring", T0 + 199_000_000, T0 + 60 * NS, -1,
    )  # fmt: skip
    fresh.close()


def test_missing_rows_are_counted_when_the_ring_lapped_a_stopped_recorder(
    store: TickStore, ring: TickRing
) -> None:
    """The last stored row is gone from the ring: the file tells that it is the same one."""
    ring.extend_packed(ticks(0, 1000).tobytes())
    begin(store, ring)
    put(store, ticks(0, 1000))
    for at in range(1000, 9000, 500):
        ring.extend_packed(ticks(at, 500).tobytes())
    place = store.attach(SERIES, ring)
    assert place == (1, 1000)
    put(store, ticks(ring.first_index, 100))
    (gap,) = store.read(FQME, *EVER).gaps
    assert (gap.kind, gap.missed, gap.row) == ("lap", ring.first_index - 1000, ring.first_index)


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=30))
def test_gaps_are_where_numbers_jump_or_rows_say_so(steps: list[tuple[int, bool]]) -> None:
    """Exactly there, with the exact count of rows that are missing."""
    index = np.cumsum([step for step, _ in steps]) + 9
    rows = ticks(0, len(steps))
    rows["index"], rows["flags"] = index, [flag for _, flag in steps]
    found = gaps_of(rows, Ring(3, "", 1, 10, b"x"), T0)
    wanted = [
        (int(at), step - 1 if step > 1 else -1)
        for at, (step, flag) in zip(index, steps, strict=True)
        if step > 1 or flag
    ]
    assert [(gap.row, gap.missed) for gap in found] == wanted
    assert sum(max(0, gap.missed) for gap in found) == index[-1] + 1 - 10 - len(steps)


def test_an_outage_ends_with_the_first_tick_received_after_it(
    store: TickStore, ring: TickRing
) -> None:
    """Until then it lasts; ticks that had come before it was heard of do not end it."""
    begin(store, ring)
    with use_clock(VirtualClock(T0 + 100_000_000)):
        said = heard("outage", "the venue is silent")
    put(store, ticks(0, 50), said)
    assert store.read(FQME, *EVER).gaps[0].end_ns is None
    put(store, ticks(50, 200))
    (gap,) = store.read(FQME, *EVER).gaps
    assert (gap.kind, gap.why) == ("outage", "the venue is silent")
    assert gap.end_ns == T0 + 100_500_000
    assert store.read(FQME, T0 + DAY_NS, T0 + 2 * DAY_NS).gaps == ()


# -- compaction ----------------------------------------------------------------------------------
def test_a_day_is_one_file_when_it_is_over(store: TickStore, ring: TickRing) -> None:
    """Two days of flushes become two files with the same rows; tables that were read stay."""
    begin(store, ring)
    for at in range(0, 2000, 50):
        put(store, ticks(at, 50, step_ns=DAY_NS // 1000))
    held: Ticks = store.read(FQME, *EVER)
    before = stored(store)
    assert ticks_upkeep.tidy(store, SERIES) == 38
    assert len(list(store.store.root.rglob("*.arrow"))) == 2
    assert {one.level for one in store.manifest.all_files(1)} == {WHOLE_DAY}
    assert (
        stored(store).tobytes()
        == before.tobytes()
        == ticks(0, 2000, step_ns=DAY_NS // 1000).tobytes()
    )
    assert tick_rows(held.table)[0].tobytes() == before.tobytes()
    assert ticks_upkeep.tidy(store, SERIES) == 0
    assert sound(store)


def test_today_is_merged_in_tiers_when_it_is_not_over(store: TickStore, ring: TickRing) -> None:
    """32 flushes are one file; the order of rows stays; a day that is asked for is merged whole."""
    begin(store, ring)
    with use_clock(VirtualClock(T0 + DAY_NS // 2)):
        for at in range(0, 700, 10):
            put(store, ticks(at, 10))
        assert ticks_upkeep.tidy(store, SERIES) == 62
        assert [one.level for one in store.manifest.all_files(1)] == [1, 1, 0, 0, 0, 0, 0, 0]
        assert stored(store).tobytes() == ticks(0, 700).tobytes()
        assert ticks_upkeep.compact(store, SERIES) == 7
        put(store, ticks(700, 10))
        assert stored(store).tobytes() == ticks(0, 710).tobytes()
        assert ticks_upkeep.compact(store, SERIES) == 1
    assert sound(store)


def test_late_ticks_do_not_rewrite_a_day_that_is_one_file(store: TickStore, ring: TickRing) -> None:
    """A snapshot of yesterday's last price stays beside the day until it is asked for."""
    begin(store, ring)
    for at in range(0, 30, 10):
        put(store, ticks(at, 10))
    ticks_upkeep.tidy(store, SERIES)
    put(store, ticks(30, 1))
    assert ticks_upkeep.tidy(store, SERIES) == 0
    assert ticks_upkeep.compact(store, SERIES) == 1
    assert stored(store).tobytes() == ticks(0, 31).tobytes()


@pytest.mark.slow
def test_large_days_are_read_by_blocks_when_merged(store: TickStore, ring: TickRing) -> None:
    """Several batches of blocks: any range is right, damage in one block harms no other."""
    begin(store, ring)
    count, step = 2_500_000, 30_000
    for at in range(0, count, 250_000):
        put(store, ticks(at, 250_000, step_ns=step))
    ticks_upkeep.compact(store, SERIES)
    (known,) = store.manifest.all_files(1)
    assert known.rows == count
    chance = random.Random(5)
    for _ in range(20):
        low, high = sorted(chance.sample(range(count), 2))
        found = stored(store, T0 + low * step, T0 + high * step)
        assert found.tobytes() == ticks(low, high - low, step_ns=step).tobytes()
    assert sound(store)
    flip(store, known.size - known.size // 10)
    assert len(stored(store, T0, T0 + 1000 * step)) == 1000
    assert store.read(FQME, T0, T0 + count * step).damaged == 1


def test_leftovers_are_removed_when_a_writer_was_killed(store: TickStore, ring: TickRing) -> None:
    """Files that no commit named were never acknowledged: they go, and nothing else does."""
    begin(store, ring)
    put(store, ticks(0, 10))
    (path,) = store.store.root.rglob("*.arrow")
    shutil.copy(path, path.with_name("1-0-1-9-feed.arrow"))
    (path.parent / ".half.tmp").write_bytes(b"half")
    assert [one.problem for one in ticks_upkeep.repair(store)] == [
        "2 files of killed writers removed"
    ]
    assert stored(store).tobytes() == ticks(0, 10).tobytes()


@pytest.mark.slow
def test_nothing_is_lost_when_threads_append_read_and_merge_at_once(
    store: TickStore, ring: TickRing
) -> None:
    """Two recorders of one ring, one that merges, one that reads: every row once, in order."""
    begin(store, ring)
    failures: list[str] = []
    ends = threading.Event()

    def record(width: int) -> None:
        for at in range(0, 3000, width):
            put(store, ticks(at, width))

    def merge() -> None:
        while not ends.is_set():
            ticks_upkeep.compact(store, SERIES)

    def read() -> None:
        seen = 0
        while not ends.is_set():
            index = stored(store)["index"]
            if index.tolist() != list(range(len(index))) or len(index) < seen:
                failures.append(f"{len(index)} rows after {seen}")
            seen = len(index)

    writers = [threading.Thread(target=record, args=(width,)) for width in (20, 50)]
    others = [threading.Thread(target=work) for work in (merge, read)]
    for thread in (*writers, *others):
        thread.start()
    for thread in writers:
        thread.join()
    ends.set()
    for thread in others:
        thread.join()
    assert failures == []
    assert stored(store).tobytes() == ticks(0, 3000).tobytes()
    assert store.read(FQME, *EVER).gaps == ()


# -- damage --------------------------------------------------------------------------------------
def flip(store: TickStore, at: int, number: int = 0) -> Path:
    """Change one byte of a file."""
    path = sorted(store.store.root.glob("binance/*/ticks/*/*.arrow"))[number]
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0x55]))
    return path


@pytest.mark.parametrize("damage", ["byte", "short", "gone", "empty", "other"])
def test_damage_is_found_and_said_when_read(store: TickStore, ring: TickRing, damage: str) -> None:
    """The file is set aside, a gap says what was in it, the rest is read, recording goes on."""
    begin(store, ring)
    for at in (0, 1000, 2000):
        put(store, ticks(at, 1000))
    path = store.path(SERIES, store.manifest.all_files(1)[1])
    raw = bytearray(path.read_bytes())
    if damage == "byte":
        raw[len(raw) // 2] ^= 1
    other = store.path(SERIES, store.manifest.all_files(1)[0]).read_bytes()
    contents = {"byte": bytes(raw), "short": bytes(raw[:-200]), "empty": b"", "other": other}
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(contents[damage])
    if damage != "other":  # a sound file of the same day and length is found by its checksums
        assert not sound(store)
    found = store.read(FQME, *EVER)
    rows, _ = tick_rows(found.table)
    assert found.damaged == 1
    assert rows.tobytes() == ticks(0, 1000).tobytes() + ticks(2000, 1000).tobytes()
    (gap,) = found.gaps
    assert (gap.kind, gap.missed) == ("damaged", 1000)
    assert (gap.start_ns, gap.end_ns) == (T0 + 10**9, T0 + 2 * 10**9 - 10**6)
    assert damage == "gone" or any((store.store.root / "quarantine").iterdir())
    assert put(store, ticks(3000, 10)) == 10
    assert sound(store)


def test_another_markets_file_is_refused_when_it_lies_in_the_place(
    store: TickStore, ring: TickRing
) -> None:
    """Identity stands in the payload, too: a spot tick is never served for a future."""
    other = series_of("btcusdt.usdtm.perp.binance")
    begin(store, ring)
    store.attach(other, ring)
    put(store, ticks(0, 100))
    store.append([Batch(other, 1, ticks(0, 100))])
    files = [store.path(s, store.manifest.all_files(n)[0]) for n, s in store.manifest.all_series()]
    shutil.copy(files[1], files[0])
    assert store.read(FQME, *EVER).damaged == 1


def test_a_lost_manifest_is_made_anew_from_the_files(store: TickStore, ring: TickRing) -> None:
    """All ticks are there, and a recorder goes on after the last of them."""
    ring.extend_packed(ticks(0, 400).tobytes())
    begin(store, ring)
    for at in range(0, 300, 100):
        put(store, ticks(at, 100))
    ticks_upkeep.compact(store, SERIES)
    put(store, ticks(300, 50))
    store.store.close()
    assert maintenance.rebuild_manifest(store.store.root) == 2
    again = TickStore(Store(store.store.root))
    assert stored(again).tobytes() == ticks(0, 350).tobytes()
    assert again.attach(SERIES, ring) == (1, 350)
    assert sound(again)
    again.store.close()


# -- a manifest of format 1 ----------------------------------------------------------------------
def test_a_store_of_format_1_loses_nothing_when_it_is_opened(tmp_path: Path) -> None:
    """Bars and holes are there, the old manifest is kept aside, and ticks can be stored."""
    root = tmp_path / "store"
    bars, old = Series.of(FQME, "1m"), Store(root)
    rows = np.zeros(100, KLINE_DTYPE)
    rows["time"], rows["close"] = 1_706_745_600 + np.arange(100) * 60, 5.0
    old.write(bars, np.delete(rows, [7]), 1_706_745_600, 1_706_745_600 + 6000, source="rest")
    old.append(bars, rows[99])
    before = old.rows(bars, 0, 1 << 40)[0].tobytes()
    old.close()
    make_format_1(root / "manifest.db")
    told = dump(root / "manifest.db")

    store = Store(root)
    assert store.rows(bars, 0, 1 << 40)[0].tobytes() == before
    assert len(store.coverage(bars, 0, 1 << 40).holes) == 1
    assert dump(root / "manifest.db") == told
    assert dump(root / "manifest.db.v1") == told
    with sqlite3.connect(root / "manifest.db.v1") as kept:
        assert kept.execute("PRAGMA user_version").fetchone() == (1,)
        assert kept.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    kept.close()
    assert sorted(path.name for path in root.glob("manifest.db.v1*")) == ["manifest.db.v1"]
    assert not [one for one in maintenance.verify(store) if one.problem]
    ring, _ = TickRing.open_writer("binance", "btcusdt.spot", rows=64, path=tmp_path / "r")
    ticks_too = TickStore(store)
    begin(ticks_too, ring)
    put(ticks_too, ticks(0, 10))
    assert len(stored(ticks_too)) == 10
    ring.close()
    store.close()


def test_format_1_is_migrated_once_when_many_open_it_at_once(tmp_path: Path) -> None:
    """The copy that is kept is of format 1, whoever of them made it."""
    root = tmp_path / "store"
    Store(root).manifest.close()
    make_format_1(root / "manifest.db")
    stores = [Store(root) for _ in range(8)]
    threads = [threading.Thread(target=lambda one=one: one.manifest.all_series()) for one in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in stores:
        assert one.manifest.integrity() == "ok"
        one.close()
    kept = sqlite3.connect(root / "manifest.db.v1")
    assert kept.execute("PRAGMA user_version").fetchone() == (1,)
    kept.close()


def make_format_1(path: Path) -> None:
    """Make of a manifest what piker wrote before it knew ticks."""
    rows = dump(path)
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(FORMAT_1)
    for table, values in rows.items():
        if values:
            marks = ", ".join("?" * len(values[0]))
            db.executemany(f"INSERT INTO {table} VALUES ({marks})", values)
    db.commit()
    db.close()


def dump(path: Path) -> dict[str, list[Any]]:
    """Return everything that a manifest says of bars."""
    db = sqlite3.connect(path)
    found = {table: sorted(db.execute(f"SELECT * FROM {table}").fetchall()) for table in BAR_TABLES}
    db.close()
    return found


# -- a full disk ---------------------------------------------------------------------------------
@pytest.mark.slow
def test_stored_ticks_are_whole_when_the_disk_is_full(ring: TickRing, tmp_path: Path) -> None:
    """What does not fit is said and can be stored later; what was there is whole."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place]).returncode:
        pytest.skip("tmpfs can not be mounted here")
    try:
        store = TickStore(Store(place / "store"))
        begin(store, ring)
        put(store, ticks(0, 1000))
        ballast = place / "ballast"
        ballast.write_bytes(b"x" * 1_500_000)
        with pytest.raises(StoreError, match="disk is full"):
            put(store, ticks(1000, 30_000))
        assert stored(store).tobytes() == ticks(0, 1000).tobytes()
        assert sound(store)
        assert len(list(store.store.root.rglob("*.arrow"))) == 1
        ballast.unlink()
        assert put(store, ticks(1000, 20_000)) == 20_000
        assert stored(store).tobytes() == ticks(0, 21_000).tobytes()
        store.store.close()
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_tables_hold_every_field_when_made_of_rows() -> None:
    """There and back, of any values."""
    chance = np.random.default_rng(3)
    rows = np.frombuffer(chance.bytes(64 * 1000), TICK_DTYPE)
    back, rings = tick_rows(table_of(rows, 7))
    assert back.tobytes() == rows.tobytes()
    assert set(rings.tolist()) == {7}
