"""Frames of mapped columns: their own memory, and what they give back of the files."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from piker.clock import monotonic_ns
from piker.data.history.frame import KEPT, RELEASED, to_pandas, to_polars
from piker.data.history.pages import release
from piker.data.store.files import mapped
from piker.data.store.segment import SCHEMA, arrow_of, numpy_of
from piker.data.store.series import Series
from piker.ohlcv import KLINE_DTYPE

MINUTES = Series("binance", "btcusdt.spot", "1m")
T0 = 1_714_521_600
SOON_NS = 20 * 10**9  # nothing here takes longer unless it is broken
COUNT = RELEASED // 8 + 1000


def bars(count: int) -> pa.Table:
    """Return bars of which no two columns are alike."""
    rows = np.zeros(count, KLINE_DTYPE)
    rows["time"] = T0 + 60 * np.arange(count)
    for at, name in enumerate(("open", "high", "low", "close", "volume", "count", "turnover",
                               "taker_volume", "taker_turnover")):  # fmt: skip
        rows[name] = np.arange(count) * 10 + at
    return arrow_of(rows, MINUTES, 2)


def on_disk(table: pa.Table, path: Path) -> pa.Table:
    """Return the same table over a mapped file, as the store maps its own."""
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_file(mapped(path)).read_all()


def resident(path: Path) -> int:
    """Return the bytes of a file that this process has mapped and not given back."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    found = 0
    for line in lines:
        if line.endswith(str(path)):
            found += int(next(one for one in lines if one.startswith("Rss:")).split()[1])
    return found * 1024


def same(frame: Any, table: pa.Table) -> bool:
    """Tell whether a frame has the table's values."""
    return all(
        np.array_equal(
            frame[name].to_numpy("M8[ns]" if name == "close_time" else None),
            numpy_of(table, name),
        )
        for name in SCHEMA.names
        if name not in ("open_time", "source")
    ) and np.array_equal(frame.index.asi8, numpy_of(table, "open_time").view("i8"))


@pytest.mark.slow
def test_frame_and_files_are_not_held_at_once_when_a_frame_is_made(tmp_path: Path) -> None:
    """What is not looked at again is given back, and is still there for the next reader."""
    path = tmp_path / "bars.arrow"
    table = on_disk(bars(COUNT), path)
    for name in SCHEMA.names:
        numpy_of(table, name).view("u1").sum()
    before = resident(path)
    frame = to_pandas(table)
    given_back = [name for name in SCHEMA.names if name not in (*KEPT, "open_time", "source")]
    assert before - resident(path) > 0.9 * len(given_back) * COUNT * 8
    assert same(frame, table)
    assert same(to_pandas(table), table)


@pytest.mark.slow
def test_file_stays_as_it_is_when_a_frame_is_written_to(tmp_path: Path) -> None:
    """A frame's columns are its own memory, and may be written to in every way of pandas'."""
    table = on_disk(bars(100), tmp_path / "bars.arrow")
    frame, other = to_pandas(table), to_pandas(table)
    for name in frame.columns:
        if name not in ("close_time", "source"):
            frame.loc[frame.index[3], name] = 7
    frame.iloc[5, frame.columns.get_loc("close_time")] = frame.index[0]
    frame["close"] += 1
    assert (frame["open"].iloc[3], frame["close"].iloc[3]) == (7, 8)
    assert frame["close_time"].iloc[5] == frame.index[0]
    assert same(other, table)


@pytest.mark.slow
def test_frame_has_every_row_when_its_columns_lie_in_pieces(tmp_path: Path) -> None:
    """Of files that follow each other, the last of them part of a larger one, or empty."""
    whole = bars(300)
    middle = on_disk(whole, tmp_path / "b").slice(100, 150)
    files = [on_disk(whole.slice(0, 100), tmp_path / "a"), middle]
    files += [whole.slice(250, 0), whole.slice(250)]
    frame = to_pandas(pa.concat_tables(files))
    assert same(frame, whole)
    assert str(frame["source"].dtype) == "category"
    assert frame["source"].eq("archive").all()


def test_memory_is_not_given_back_when_there_is_no_other_copy() -> None:
    """Neither what may be written to nor what may not be; less than a page is left alone."""
    for buffer in (pa.py_buffer(bytearray(b"7" * 80_000)), pa.py_buffer(b"7" * 80_000)):
        array = pa.Array.from_buffers(pa.uint8(), 80_000, [None, buffer])
        assert not release(array, 1)
        assert buffer.to_pybytes() == b"7" * 80_000


def test_nothing_is_given_back_when_it_is_less_than_a_page(tmp_path: Path) -> None:
    """Its neighbours on the page are others'."""
    table = on_disk(bars(100), tmp_path / "bars.arrow")
    assert not release(table.column("close").chunks[0], 8)


@contextmanager
def interpreter_kept() -> Iterator[ctypes.PyDLL]:
    """Keep the interpreter from every other thread; yield the C library, called without it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        yield ctypes.PyDLL(None)
    finally:
        sys.setswitchinterval(before)


def summed_in_the_background(table: pa.Table) -> Any:
    """Have polars' threads add a column up, and be the last to hold the frame."""
    return to_polars(table).lazy().select(pl.col("open").sort().sum()).collect(background=True)


def kept_until(libc: ctypes.PyDLL, is_gone: Callable[[], bool]) -> bool:
    """Tell whether something comes to be while no other thread may run the interpreter."""
    end = monotonic_ns() + SOON_NS
    while not is_gone():
        if monotonic_ns() > end:
            return False
        libc.usleep(1000)
    return True


def test_mapped_file_is_let_go_without_the_interpreter_when_polars_is_last(tmp_path: Path) -> None:
    """Else a thread of polars that lets go while Python ends takes the process down with it."""
    table = on_disk(bars(COUNT), tmp_path / "bars.arrow")
    address = table.column("open").chunk(0).buffers()[1].address // mmap.PAGESIZE * mmap.PAGESIZE
    pages = ctypes.create_string_buffer(1)

    with interpreter_kept() as libc:
        libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
        assert libc.mincore(address, mmap.PAGESIZE, pages) == 0
        query = summed_in_the_background(table)
        del table
        assert kept_until(libc, lambda: libc.mincore(address, mmap.PAGESIZE, pages) != 0)
    assert query.fetch_blocking().height == 1


def test_columns_are_let_go_without_the_interpreter_when_polars_is_last() -> None:
    """The same of a table that was made here."""
    before = pa.total_allocated_bytes()
    table = bars(COUNT)
    assert pa.total_allocated_bytes() > before + COUNT * 8
    with interpreter_kept() as libc:
        query = summed_in_the_background(table)
        del table
        assert kept_until(libc, lambda: pa.total_allocated_bytes() <= before)
    assert query.fetch_blocking().height == 1
