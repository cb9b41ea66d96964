"""Seals over every byte of the journal's files, so that no damage passes for a shorter journal.

SQLite forgets whatever comes after a frame of its write-ahead log that does not check, looks at
no checksum of the pages in its file, and skips bytes that no row uses. Two small files close that:

- ``head``: how long the log is, the digest of those bytes, and the last row's seq and chain.
  Written after every commit's sync and before anybody is told; itself synced only around a
  checkpoint, so it may lag behind the log after a power cut, and is never ahead of it.
- ``sums``: one XXH3 of every page of the database file. That file changes in checkpoints only.

A checkpoint first reckons from the log what every page is to be, puts that into ``sums.next``,
and then lets SQLite copy. docs/adr/0005-journal.md has the whole order of it. Sync, blocking.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Set
from pathlib import Path
from typing import NamedTuple

import msgspec
import xxhash

from piker.errors import JournalDamaged

__all__ = [
    "DATABASE",
    "FRAME",
    "FRAME_HEAD",
    "HEAD",
    "NEXT",
    "PAGE",
    "STANDING",
    "SUMS",
    "WAL",
    "WAL_HEAD",
    "Frames",
    "Head",
    "Sums",
    "check_files",
    "cut_log",
    "damaged",
    "get",
    "last_frames",
    "put",
    "read_head",
    "read_sums",
    "sync_file",
    "sync_folder",
    "write_head",
    "write_sums",
]

DATABASE, WAL, HEAD, SUMS, NEXT = "rows.db", "rows.db-wal", "head", "sums", "sums.next"
STANDING = "standing"  # the snapshot: piker.clearing.journal_snapshot
PAGE = 4096  # bytes: SQLite's default, and the block of the usual file systems
FRAME_HEAD = 24  # bytes before each page in the log (sqlite.org/fileformat2.html, section 4)
FRAME = FRAME_HEAD + PAGE
WAL_HEAD = 32
READ_PAGES = 256  # 1 MiB a read: beyond it the rate of reading no longer grows
_MAGIC = b"pikerjh1"
_HEAD = struct.Struct("<QQ16sQ16s")  # of one length, whatever its numbers
_encoder = msgspec.msgpack.Encoder()

#: Called with the name of each point at which a crash would leave files half changed. Tests
#: put a kill here; nothing else does.
reached: Callable[[str], None] = lambda _: None  # noqa: E731


class Head(msgspec.Struct, frozen=True):
    """How far the journal has come. ``log_digest`` is of the first ``log_bytes`` of the log."""

    generation: int  # checkpoints so far
    log_bytes: int
    log_digest: bytes
    seq: int
    chain: bytes


class Sums(msgspec.Struct, frozen=True):
    """What each page of the database file is after checkpoint ``generation``.

    ``of_log`` is the digest of the log that the checkpoint was made of, ``log_head`` that log's
    first bytes: what the checkpoint puts zeros over when it is done.
    """

    generation: int
    of_log: bytes
    pages: bytes  # 8 bytes a page
    log_head: bytes = b""

    def page(self, number: int) -> bytes:
        """Return the sum of a page; numbers count from 0 here."""
        return self.pages[8 * number : 8 * number + 8]


class Frames(NamedTuple):
    """Where a log has the last committed content of each page, by the page's number from 0."""

    pages: dict[int, int]  # first byte of its frame
    size: int  # pages of the database after the last commit
    end: int  # bytes of the log that count


def damaged(folder: Path, what: str) -> JournalDamaged:
    """Return the error that says what is wrong with a journal."""
    return JournalDamaged(
        f"the journal {folder} is damaged: {what}.",
        what=what,
        remedy="Nothing was changed and trading does not start. Copy the folder away first; "
        "`piker ledger verify` then says which rows hold.",
    )


# -- the two files ------------------------------------------------------------------------------
def _sealed(body: bytes) -> bytes:
    return _MAGIC + len(body).to_bytes(8, "little") + body + xxhash.xxh3_128_digest(body)


def _unsealed(folder: Path, name: str, data: bytes) -> bytes:
    body = data[16:-16]
    if data != _sealed(body):
        raise damaged(folder, f"its file {name!r} does not check ({len(data)} bytes)")
    return body


def read_head(folder: Path) -> Head:
    """Return the head; raise ``JournalDamaged`` when it is not there or does not check."""
    try:
        data = (folder / HEAD).read_bytes()
    except FileNotFoundError as err:
        raise damaged(folder, f"its file {HEAD!r} is missing") from err
    fixed = data[len(_MAGIC) : -16]
    if len(fixed) != _HEAD.size or data != _MAGIC + fixed + xxhash.xxh3_128_digest(fixed):
        raise damaged(folder, f"its file {HEAD!r} does not check ({len(data)} bytes)")
    return Head(*_HEAD.unpack(fixed))


def write_head(fd: int, head: Head, *, sync: bool) -> None:
    """Put ``head`` into its open file, in one write below a sector; ``sync`` it or not."""
    fixed = _HEAD.pack(*msgspec.structs.astuple(head))
    os.pwrite(fd, _MAGIC + fixed + xxhash.xxh3_128_digest(fixed), 0)
    if sync:
        os.fsync(fd)


def read_sums(folder: Path, name: str = SUMS) -> Sums | None:
    """Return the sums, or None where there is no such file; raise where they do not check."""
    body = get(folder, name)
    return None if body is None else msgspec.msgpack.decode(body, type=Sums)


def write_sums(folder: Path, sums: Sums, name: str = SUMS) -> None:
    """Put sums in place at once and wholly, and on the disk before this returns."""
    put(folder, name, _encoder.encode(sums), "sums written")


def put(folder: Path, name: str, body: bytes, point: str) -> None:
    """Put a sealed file in place at once and wholly, and on the disk before this returns."""
    part = folder / f"{name.partition('.')[0]}.part"
    with open(part, "wb", opener=_private) as file:
        file.write(_sealed(body))
        file.flush()
        os.fsync(file.fileno())
    reached(point)
    os.replace(part, folder / name)
    sync_folder(folder)


def get(folder: Path, name: str) -> bytes | None:
    """Return what a sealed file says, or None where there is none; raise where it fails to check.

    The error is ``JournalDamaged``.
    """
    try:
        data = (folder / name).read_bytes()
    except FileNotFoundError:
        return None
    return _unsealed(folder, name, data)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def sync_file(path: Path, flags: int = 0) -> None:
    """Bring a file, and how long it is, to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    sync_file(folder, os.O_DIRECTORY)


# -- the log ------------------------------------------------------------------------------------
def last_frames(log: bytes, known: int) -> Frames:
    """Return the pages that SQLite would take from ``log``.

    The first ``known`` bytes are those that the head's digest has vouched for; whatever was
    written after them counts as far as SQLite's own checksums and commit marks go.
    """
    if len(log) < WAL_HEAD + FRAME or not any(log[:WAL_HEAD]):
        return Frames({}, 0, 0)  # too short, or laid and not yet written to
    order = ">" if int.from_bytes(log[:4], "big") & 1 else "<"
    pages: dict[int, int] = {}
    pending: dict[int, int] = {}
    size, at, good, sums = 0, WAL_HEAD, 0, (-1, -1)
    while at + FRAME <= len(log):
        number, commit = struct.unpack_from(">II", log, at)
        end = at + FRAME
        if end > known:
            if log[at + 8 : at + 16] != log[16:24]:
                break
            if sums == (-1, -1):
                sums = _sums_before(log, at, order)
            part = log[at : at + 8] + log[at + FRAME_HEAD : end]
            sums = _log_sum(part, order, sums)
            told = struct.unpack_from(">II", log, at + 16)
            if sums != told:
                break
        pending[number - 1] = at
        if commit:
            pages.update(pending)
            pending, size, good = {}, commit, end
        at = end
    return Frames({number: at for number, at in pages.items() if number < size}, size, good)


def _sums_before(log: bytes, at: int, order: str) -> tuple[int, int]:
    """Return SQLite's running checksum before the frame at ``at``."""
    if at == WAL_HEAD:
        sums = _log_sum(log[:24], order, (0, 0))
        told: tuple[int, int] = struct.unpack_from(">II", log, 24)
        return sums if sums == told else (-2, -2)
    before: tuple[int, int] = struct.unpack_from(">II", log, at - PAGE - FRAME_HEAD + 16)
    return before


def _log_sum(part: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """Return SQLite's checksum of ``part``, begun with ``sums`` (fileformat2, section 4.2)."""
    one, two = sums
    words = struct.unpack(f"{order}{len(part) // 4}I", part)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        one = (one + even + two) & 0xFFFFFFFF
        two = (two + odd + one) & 0xFFFFFFFF
    return one, two


def cut_log(folder: Path) -> None:
    """Make the log empty, and that durable: without a head its frames are of no log.

    The file stays as long as it is, so that the next commits lengthen none. A log begun anew has
    other salts than the one before it (fileformat2, section 4.1): nothing left of that counts.
    """
    try:
        fd = os.open(folder / WAL, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if os.fstat(fd).st_size:
            os.pwrite(fd, bytes(WAL_HEAD), 0)
        os.fsync(fd)
    finally:
        os.close(fd)


# -- checking -----------------------------------------------------------------------------------
def check_files(folder: Path) -> tuple[Head, Sums, bytes]:
    """Check every byte that head and sums vouch for; return head, sums and the log.

    The sums are those of the database file as it is, or, in a checkpoint that did not come to
    its end, as it was: the log then has the rest. Raises ``JournalDamaged``.
    """
    head = read_head(folder)
    sums, coming = read_sums(folder), read_sums(folder, NEXT)
    if sums is None:
        raise damaged(folder, f"its file {SUMS!r} is missing")
    log_path = folder / WAL
    log = log_path.read_bytes() if log_path.exists() else b""
    sound = xxhash.xxh3_128_digest(log[: head.log_bytes]) == head.log_digest
    if sums.generation == head.generation and sound and len(log) >= head.log_bytes:
        if coming is not None:
            _check_coming(folder, head, coming)
        copied = last_frames(log, head.log_bytes).pages.keys() if coming else set[int]()
        _check_pages(folder, sums, copied)
        return head, sums, log
    done = coming if sums.generation == head.generation else sums
    if done is None or done.generation != head.generation + 1 or not _is_cut(log, head, done):
        raise damaged(folder, _of_log(head, sums, log))
    _check_coming(folder, head, done)
    _check_pages(folder, done, set())
    return head, done, log


def _is_cut(log: bytes, head: Head, done: Sums) -> bool:
    """Tell whether a log is the head's with zeros for its first bytes, or gone as SQLite cuts."""
    if not done.log_head or any(log[:WAL_HEAD]):
        return not log
    was = xxhash.xxh3_128(done.log_head)
    was.update(memoryview(log)[WAL_HEAD : head.log_bytes])
    return was.digest() == head.log_digest


def _check_coming(folder: Path, head: Head, coming: Sums) -> None:
    if coming.generation != head.generation + 1 or coming.of_log != head.log_digest:
        raise damaged(folder, f"its file {NEXT!r} is of another checkpoint")


def _of_log(head: Head, sums: Sums, log: bytes) -> str:
    if sums.generation not in (head.generation, head.generation + 1):
        return f"{HEAD!r} is of checkpoint {head.generation}, {SUMS!r} of {sums.generation}"
    if len(log) < head.log_bytes:
        return f"{WAL!r} has {len(log)} bytes where {head.log_bytes} were written"
    return f"the first {head.log_bytes} bytes of {WAL!r} are not those that were written"


def _check_pages(folder: Path, sums: Sums, copied: Set[int]) -> None:
    """Hold the database file against its sums; pages in ``copied`` lie whole in the log."""
    try:
        file = open(folder / DATABASE, "rb")  # noqa: SIM115 - closed below, whatever happens
    except FileNotFoundError as err:
        raise damaged(folder, f"its file {DATABASE!r} is missing") from err
    with file:
        size, due = os.fstat(file.fileno()).st_size, len(sums.pages) // 8
        if size != due * PAGE and not copied:
            raise damaged(folder, f"{DATABASE!r} has {size} bytes instead of {due * PAGE}")
        number = 0
        while block := file.read(PAGE * READ_PAGES):
            for at in range(0, len(block), PAGE):
                if number not in copied and number < due:
                    page = block[at : at + PAGE]
                    if xxhash.xxh3_64_digest(page) != sums.page(number):
                        first = number * PAGE
                        raise damaged(
                            folder, f"bytes {first} to {first + PAGE - 1} of {DATABASE!r} differ"
                        )
                number += 1
        if any(missing not in copied for missing in range(number, due)):
            raise damaged(folder, f"{DATABASE!r} has {size} bytes instead of {due * PAGE}")
