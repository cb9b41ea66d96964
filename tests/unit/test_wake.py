"""Readers are woken, none is waited for, and nothing of the dead is kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from piker.data.wake import WakeReceiver, WakeSender
from piker.errors import ShmError


def fifos(folder: Path) -> list[str]:
    """Return the fifos in a wake directory."""
    return sorted(path.name for path in folder.iterdir())


async def test_every_reader_wakes_when_the_writer_notifies(tmp_path: Path) -> None:
    """Each has its own fifo; one wake-up may stand for many."""
    readers = [WakeReceiver(tmp_path) for _ in range(3)]
    sender = WakeSender(tmp_path)
    for _ in range(5):
        sender.notify()
    with trio.fail_after(5):
        for reader in readers:
            await reader.wait()
    assert not any(reader.wait_sync(0) for reader in readers)
    sender.notify()
    assert all(reader.wait_sync(0) for reader in readers)
    for reader in readers:
        reader.close()
    sender.close()
    assert fifos(tmp_path) == []


def test_writer_is_never_held_up_when_a_reader_does_not_read(tmp_path: Path) -> None:
    """A fifo takes 64 kB; after that a wake-up is pending anyway."""
    reader, sender = WakeReceiver(tmp_path), WakeSender(tmp_path)
    for _ in range(200_000):
        sender.notify()
    assert reader.wait_sync(0)
    for _ in range(100):  # it drains in a few looks, then sleeps again
        if not reader.wait_sync(0):
            break
    else:
        pytest.fail("the fifo does not run dry")
    sender.notify()
    assert reader.wait_sync(0)
    reader.close()
    sender.close()


def test_reader_is_found_when_it_comes_after_the_writer(tmp_path: Path) -> None:
    """The next scan takes it in."""
    sender = WakeSender(tmp_path)
    reader = WakeReceiver(tmp_path)
    sender.notify()
    assert not reader.wait_sync(0)
    sender.scan()
    sender.notify()
    assert reader.wait_sync(0)
    reader.close()
    sender.close()


def test_dead_reader_is_forgotten_when_its_fifo_is_left_behind(tmp_path: Path) -> None:
    """Of a killed process: the file goes, no descriptor stays, notify raises nothing."""
    reader, sender = WakeReceiver(tmp_path), WakeSender(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    os.close(reader._fd)  # what the kernel does when a reader is killed: its file stays
    reader._fd = -1
    sender.notify()
    sender.scan()
    assert fifos(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before - 2
    sender.notify()
    sender.close()


def test_reader_is_let_go_when_it_closes(tmp_path: Path) -> None:
    """Thousands that come and go leave no descriptor."""
    sender = WakeSender(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(300):
        reader = WakeReceiver(tmp_path)
        sender.scan()
        sender.notify()
        assert reader.wait_sync(0)
        reader.close()
        sender.scan()
    assert len(os.listdir("/proc/self/fd")) == before
    sender.close()


def test_foreign_files_are_left_alone_when_the_writer_scans(tmp_path: Path) -> None:
    """Only *.fifo is looked at: a draft is somebody's who is not ready yet."""
    (tmp_path / "note.txt").write_text("mine")
    os.mkfifo(tmp_path / ".draft.fifo.tmp")
    sender = WakeSender(tmp_path)
    sender.scan()
    sender.notify()
    assert fifos(tmp_path) == [".draft.fifo.tmp", "note.txt"]
    sender.close()


def test_no_fifo_is_a_sentence_when_the_directory_is_gone(tmp_path: Path) -> None:
    """As after somebody cleaned the runtime directory."""
    with pytest.raises(ShmError, match="can not make a fifo"):
        WakeReceiver(tmp_path / "gone")
