"""SQLite's write-ahead log as our one writer sees it: what each commit added to it. Blocking.

docs/internals/journal.md says how the log is laid out and used again.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from pathlib import Path

import xxhash

from piker.clearing import journal_seal as seal
from piker.clearing.journal_seal import Frames

__all__ = ["Log"]

LAID_BEYOND = (
    1024 * 1024
)  # of log laid in one write, and beyond what is asked: a long commit's worth
READ_FRAMES = 4  # of log at a time, and as many more as the last commit had: mostly all of this one
_FRAME = struct.Struct(">II")  # a frame's page from 1, and its commit mark: 0, or pages in all


class Log:
    """A journal's log. ``size`` are the bytes that count, ``frames`` where each page's last is."""

    def __init__(self, folder: Path, written: bytes, frames: Frames) -> None:
        """Begin with what is ``written`` already, whose ``frames`` are known."""
        self._path = folder / seal.WAL
        self._fd = -1
        self._sum = xxhash.xxh3_128(written)
        self._buffer = bytearray(seal.WAL_HEAD + READ_FRAMES * seal.FRAME)
        self._likely = 0  # bytes of the next commit
        self.size = len(written)
        self.frames = frames

    @property
    def digest(self) -> bytes:
        """Return the digest of the bytes that count."""
        return self._sum.digest()

    def follow(self) -> None:
        """Take in what one commit has added: up to its commit mark."""
        begin, buffer, pages = self.size, self._buffer, self.frames.pages
        at, ended, there = 0 if begin else seal.WAL_HEAD, 0, 0
        while not ended:
            if there < at + seal.FRAME:
                there = self._read_more(begin, there)
                continue
            number, ended = _FRAME.unpack_from(buffer, at)
            pages[number - 1] = begin + at
            at += seal.FRAME
        if not begin and not any(buffer[: seal.WAL_HEAD]):
            raise sqlite3.OperationalError("the log was not begun anew after a checkpoint")
        with memoryview(buffer) as added:
            self._sum.update(added[:at])
        self.size, self._likely = begin + at, at
        self.frames = Frames(pages, ended, self.size)

    def _read_more(self, begin: int, there: int) -> int:
        """Read the bytes after ``begin`` into the buffer, from ``there`` on; return its end."""
        end = max(self._likely, there) + READ_FRAMES * seal.FRAME
        if end > len(self._buffer):
            self._buffer.extend(bytes(end))
        with memoryview(self._buffer) as room:
            more = os.preadv(self._open(), [room[there:end]], begin + there)
        if not more:
            raise sqlite3.OperationalError("the log is shorter than what was written")
        return there + more

    def _open(self) -> int:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self._fd

    def head(self) -> bytes:
        """Return its first bytes, without which its frames are of no log."""
        return os.pread(self._open(), seal.WAL_HEAD, 0)

    def page_sums(self, before: bytes) -> bytes:
        """Return the sums of all pages as they will be; ``before`` are those of the file now."""
        size = 8 * self.frames.size
        sums = bytearray(before[:size].ljust(size, b"\0"))
        for number, at in self.frames.pages.items():
            if 8 * number < size:
                page = os.pread(self._open(), seal.PAGE, at + seal.FRAME_HEAD)
                sums[8 * number : 8 * number + 8] = xxhash.xxh3_64_digest(page)
        return bytes(sums)

    def begin_anew(self) -> None:
        """Count from nothing, as a checkpoint has brought all of it in."""
        self._sum, self.size, self.frames = xxhash.xxh3_128(), 0, Frames({}, 0, 0)

    def lay(self, size: int) -> None:
        """Put zeros where the log will be: to sync what lengthens no file costs a third less.

        SQLite takes zeros for the end of the log, as it takes whatever has not its sums. Once
        laid it is used again and again.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            there = max(os.fstat(fd).st_size, self.size)
            if there < size + LAID_BEYOND:
                for at in range(there, size + LAID_BEYOND, LAID_BEYOND):
                    os.pwrite(fd, bytes(LAID_BEYOND), at)
                os.fsync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close; harmless when closed."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
