"""Shared arrays wrap for ever, survive their writer, and never show a torn or wrong row."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piker.data._segment import Word
from piker.data.sampling import Bar
from piker.data.shm import ShmArray, TickRing, attach_token, leftovers, reap
from piker.errors import PeerLost, ShmError
from piker.ohlcv import OHLC_DTYPE
from piker.ticks import TICK_FORMAT

T0 = 1_700_000_000


def bar_of(number: int) -> Bar:
    """Make a bar whose every value is told by its number."""
    price = float(number + 1)
    return Bar(T0 + number, price, price, price, price, price, number, price)


def open_bars(path: Path, rows: int = 512) -> tuple[ShmArray, bool]:
    """Open a small array of seconds for writing."""
    return ShmArray.open_writer("test", "x.spot", period_s=1, rows=rows, path=path)


def pack_tick(index: int) -> bytes:
    """Pack a tick whose values are told by its number."""
    return struct.pack(TICK_FORMAT, index, index, index + 1.0, 1.0, 0.0, 0.0, index, 0, 1, 1, 0)


def test_array_wraps_for_ever_when_rows_are_appended(tmp_path: Path) -> None:
    """Ten times the capacity later rows are contiguous, newest last, with their own numbers."""
    writer, _ = open_bars(tmp_path / "a.seg")
    reader = attach_token(writer.token)
    assert isinstance(reader, ShmArray)
    base = writer.last_index
    for number in range(5120):
        writer.write_bars([bar_of(number)], replaces_last=False)
    rows = reader.read()
    assert len(rows) == 512 - 128
    assert rows["index"].tolist() == list(range(reader.first_index, reader.last_index))
    assert rows["count"].tolist() == [index - base for index in rows["index"].tolist()]
    assert (np.diff(rows["time"]) == 1).all()
    assert np.array_equal(rows, reader.array)


def test_open_row_is_replaced_when_its_bar_goes_on(tmp_path: Path) -> None:
    """The first bar of a write takes the open row's place, and the rest follow."""
    writer, _ = open_bars(tmp_path / "a.seg")
    writer.write_bars([bar_of(0)], replaces_last=False)
    writer.write_bars([bar_of(0)._replace(close=9.0), bar_of(1)], replaces_last=True)
    assert writer.read()["close"].tolist() == [9.0, 2.0]


def test_closed_row_is_rewritten_when_revised(tmp_path: Path) -> None:
    """A revision finds its row by time; a time that is not there is refused."""
    writer, _ = open_bars(tmp_path / "a.seg")
    writer.write_bars([bar_of(number) for number in range(5)], replaces_last=False)
    assert writer.revise_bar(bar_of(2)._replace(close=7.0))
    assert not writer.revise_bar(bar_of(9))
    assert not writer.revise_bar(bar_of(-1))
    assert writer.read()["close"].tolist() == [1.0, 2.0, 7.0, 4.0, 5.0]


def test_history_goes_below_the_first_row_when_prepended(tmp_path: Path) -> None:
    """Prepended rows keep numbers and times going down; what has no room is left out."""
    writer, _ = open_bars(tmp_path / "a.seg")
    writer.write_bars([bar_of(1000)], replaces_last=False)
    history = np.zeros(600, OHLC_DTYPE)
    history["time"] = T0 + 1000 - 600 + np.arange(600)
    history["close"] = 5.0
    written = writer.push(history, prepend=True)
    rows = writer.read()
    assert written == 512 - 128 - 1
    assert (np.diff(rows["time"]) == 1).all()
    assert (np.diff(rows["index"]) == 1).all()
    assert rows["time"][-1] == T0 + 1000


operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 300)),
        st.tuples(st.just("replace"), st.integers(1, 5)),
        st.tuples(st.just("revise"), st.integers(0, 400)),
        st.tuples(st.just("push"), st.integers(0, 900)),
        st.tuples(st.just("adopt"), st.just(0)),
        st.tuples(st.just("reset"), st.just(0)),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(operations)
def test_array_equals_a_list_when_anything_is_done_to_it(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Against a naive list: the readable rows are always its tail, whole and in order."""
    path = tmp_path_factory.mktemp("model") / "a.seg"
    writer, _ = open_bars(path)
    reader = attach_token(writer.token)
    assert isinstance(reader, ShmArray)
    model: list[Bar] = []
    number = 0
    for what, amount in steps:
        if what == "append":
            bars = [bar_of(number + at) for at in range(amount)]
            writer.write_bars(bars, replaces_last=False)
            model += bars
            number += amount
        elif what == "replace" and model:
            bars = [bar_of(number - 1 + at)._replace(volume=99.0) for at in range(amount)]
            writer.write_bars(bars, replaces_last=True)
            model[-1:] = bars
            number += amount - 1
        elif what == "revise" and model:
            at = amount % min(len(model), len(writer))
            revised = model[-1 - at]._replace(high=1e6)
            assert writer.revise_bar(revised)
            model[-1 - at] = revised
        elif what == "push" and amount:
            rows = np.zeros(amount, OHLC_DTYPE)
            bars = [bar_of(number + at) for at in range(amount)]
            for at, bar in enumerate(bars):
                rows[at] = (0, *bar)
            writer.push(rows)
            model += bars
            number += amount
        elif what == "adopt":
            writer.close()
            writer, adopted = open_bars(path)
            assert adopted
        elif what == "reset":
            writer.reset()
            model.clear()
    rows = reader.read()
    assert len(rows) == min(len(model), 512 - 128) or len(rows) == len(model)
    assert [tuple(row)[1:] for row in rows.tolist()] == [tuple(bar) for bar in model[-len(rows) :]][
        : len(rows)
    ]
    writer.close(unlink=True)


def test_second_writer_is_refused_when_one_is_there(tmp_path: Path) -> None:
    """Two processes, or two halves of one, never write the same segment."""
    writer, _ = open_bars(tmp_path / "a.seg")
    with pytest.raises(ShmError, match="written by another"):
        open_bars(tmp_path / "a.seg")
    writer.close()
    assert open_bars(tmp_path / "a.seg")[1]


def test_adoption_gives_up_the_open_row_when_the_writer_died_in_it(tmp_path: Path) -> None:
    """An odd sequence number means a torn tail: rows from the settled one on are dropped."""
    writer, _ = open_bars(tmp_path / "a.seg")
    reader = attach_token(writer.token)
    assert isinstance(reader, ShmArray)
    writer.write_bars([bar_of(0), bar_of(1), bar_of(2)], replaces_last=False)
    writer._words[Word.SEQ] += 1  # as if killed in mid-write
    writer.close()
    with pytest.raises(PeerLost, match="mid-row"):
        reader.read()
    again, adopted = open_bars(tmp_path / "a.seg")
    assert adopted
    assert again.generation == 2
    assert reader.read()["count"].tolist() == [0, 1]
    revision = again._words[Word.REVISION]
    again.write_bars([bar_of(1)._replace(close=9.0)], replaces_last=True)
    assert again._words[Word.REVISION] == revision + 1, "readers take row 1 for settled"


def test_adoption_restores_the_row_when_the_writer_died_revising_it(tmp_path: Path) -> None:
    """What a row was stays in the header until its revision is whole; no other row is given up."""
    writer, _ = open_bars(tmp_path / "a.seg")
    writer.write_bars([bar_of(number) for number in range(4)], replaces_last=False)
    before = writer.read()
    assert writer.revise_bar(bar_of(1)._replace(close=9.0))
    writer._words[Word.SEQ] -= 1  # as if killed before the end of it
    writer._words[Word.REVISED] = int(before["index"][1]) + 1
    writer.close()
    again, _ = open_bars(tmp_path / "a.seg")
    assert again.read().tobytes() == before.tobytes()
    assert again._words[Word.REVISED] == 0


def test_segment_of_another_layout_is_set_aside_when_opened(tmp_path: Path) -> None:
    """A file that is no segment, or of another size, is renamed and replaced, never trusted."""
    path = tmp_path / "a.seg"
    path.write_bytes(b"garbage" * 1000)
    writer, adopted = open_bars(path)
    assert not adopted
    assert path.with_name("a.seg.bad").exists()
    writer.close()
    _, adopted = open_bars(path, rows=1024)
    assert not adopted


@given(st.integers(0, 200), st.integers(0, 255))
@settings(deadline=None)
def test_reader_refuses_a_segment_when_its_header_is_damaged(
    tmp_path_factory: pytest.TempPathFactory, offset: int, value: int
) -> None:
    """Any byte of the fixed header may be wrong: the reader maps it or raises a typed error."""
    path = tmp_path_factory.mktemp("damaged") / "a.seg"
    writer, _ = open_bars(path)
    writer.close()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes([value]))
    try:
        ShmArray(
            attach_token(writer.token)._segment,
        ).read()
    except (ShmError, PeerLost):
        return


def test_ring_tells_how_many_ticks_a_lapped_reader_missed(tmp_path: Path) -> None:
    """A cursor that is lapped gets the exact count of lost rows, then goes on without a gap."""
    ring, _ = TickRing.open_writer("test", "x", rows=256, path=tmp_path / "r.seg")
    reader = attach_token(ring.token)
    assert isinstance(reader, TickRing)
    cursor = reader.cursor()
    for index in range(1000):
        ring.extend_packed(pack_tick(index))
    taken = cursor.take()
    assert taken.missed + len(taken.rows) == 1000
    assert taken.rows["index"].tolist() == list(range(taken.missed, 1000))
    ring.extend_packed(b"".join(pack_tick(index) for index in range(1000, 1010)))
    assert cursor.take().rows["venue_id"].tolist() == list(range(1000, 1010))
    assert cursor.pending() == 0


def test_ring_takes_a_batch_larger_than_itself_when_extended(tmp_path: Path) -> None:
    """A batch beyond the capacity is written in parts; the newest rows are what is left."""
    ring, _ = TickRing.open_writer("test", "x", rows=256, path=tmp_path / "r.seg")
    ring.extend_packed(b"".join(pack_tick(index) for index in range(1000)))
    assert ring.array["index"].tolist() == list(range(1000 - 192, 1000))


def test_views_stay_valid_when_the_segment_is_closed(tmp_path: Path) -> None:
    """A numpy view keeps the memory mapped: reading it after close is safe."""
    writer, _ = open_bars(tmp_path / "a.seg")
    writer.write_bars([bar_of(3)], replaces_last=False)
    view = writer.array
    writer.close(unlink=True)
    del writer
    assert view["count"].tolist() == [3]


def test_readers_can_not_write_when_attached(tmp_path: Path) -> None:
    """A reader's mapping is read-only in numpy and in the page tables."""
    writer, _ = open_bars(tmp_path / "a.seg")
    writer.write_bars([bar_of(0)], replaces_last=False)
    reader = attach_token(writer.token)
    with pytest.raises(ValueError, match="read-only"):
        reader.array["close"][0] = 1.0
    with pytest.raises(TypeError):
        reader._words[Word.LAST] = 0
    assert os.stat(tmp_path / "a.seg").st_mode & 0o777 == 0o600


@pytest.fixture
def tiny_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of a few pages, or skip where that is not allowed."""
    place = tmp_path / "tiny"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1100k", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_full_memory_is_a_sentence_when_a_row_needs_a_page(tiny_tmpfs: Path) -> None:
    """No room for the next page is a ShmError with its remedy, not a SIGBUS."""
    writer, _ = open_bars(tiny_tmpfs / "a.seg", rows=200_000)

    def fill() -> None:
        for number in range(200_000):
            writer.write_bars([bar_of(number)], replaces_last=False)

    with pytest.raises(ShmError, match=r"full.*Free some"):
        fill()
    rows = writer.read()
    assert len(rows) > 1000
    assert rows["count"].tolist() == list(range(len(rows)))
    writer.close()


def test_leftovers_are_what_nobody_writes_when_listed(tmp_path: Path) -> None:
    """A killed writer's file is a leftover and can be reaped; a living one's is not."""
    alive, _ = open_bars(tmp_path / "alive.seg")
    dead, _ = open_bars(tmp_path / "dead.seg")
    dead.close()
    assert leftovers(tmp_path) == [tmp_path / "dead.seg"]
    assert reap(tmp_path) == 1
    assert leftovers(tmp_path) == []
    assert (tmp_path / "alive.seg").exists()
    alive.close()


def test_nothing_leaks_when_segments_are_opened_and_closed(tmp_path: Path) -> None:
    """A thousand openings leave no descriptor and no mapping behind."""

    def held() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text().count(str(tmp_path))
        return len(os.listdir("/proc/self/fd")), maps

    open_bars(tmp_path / "a.seg")[0].close()
    before = held()
    for _ in range(1000):
        writer, _ = open_bars(tmp_path / "a.seg")
        reader = attach_token(writer.token)
        reader.close()
        writer.close()
    del reader, writer
    assert held() == before
