"""A segment: one file, one header page, one writer. docs/internals/shm.md has the layout.

This module knows files, locks and the header; rows are the business of :mod:`piker.data.shm`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import platform
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from piker.clock import monotonic_ns
from piker.data._mirror import Mapping
from piker.errors import ShmError

__all__ = [
    "HEADER_SIZE",
    "KIND_BARS",
    "KIND_TICKS",
    "Segment",
    "Spec",
    "State",
    "Word",
    "read_spec",
]

MAGIC = b"PIKERSHM"
VERSION = 1
HEADER_SIZE = 4096  # one page; data starts on a page boundary so that it can be mapped twice
PAGE = 4096
CHUNK = (
    1 << 20
)  # bytes of the file made real at a time, so that a full disk is an error, not SIGBUS
KIND_BARS, KIND_TICKS = 1, 2
_FIXED = struct.Struct(
    "<8sIIQIIQQQ"
)  # magic version header_size schema row kind capacity period guard
_UNDO = 2048  # where the header keeps what a row was while it is revised
_TEXTS = {"symbol": (256, 128), "provider": (384, 64), "dtype": (512, 1024)}  # offset, size
_FLOCK = struct.Struct("hhqqi4x")  # struct flock on 64-bit Linux


class Word:
    """Indices of the header's 64-bit words that change while it runs."""

    OWNER_PID = 8
    OWNER_START = 9  # start time of the owner in clock ticks, against reused pids
    GENERATION = 10  # how many writers there have been
    STATE = 11
    SEQ = 16
    FIRST = 17
    LAST = 18
    SETTLED = 19
    REVISION = 20
    HEARTBEAT = 21
    REVISED = 22  # one past the number of the row under revision, 0 outside of one


class State:
    """Values of the header's state word."""

    CLOSED, LIVE, RECONNECTING = 0, 1, 2
    NAMES = ("closed", "live", "reconnecting")


class Spec(msgspec.Struct, frozen=True):
    """What a segment is to hold; two writers agree on a file when their specs are equal."""

    kind: int
    dtype: tuple[tuple[str, str], ...]
    capacity: int
    period_s: int
    symbol: str
    provider: str

    @classmethod
    def of(
        cls,
        kind: int,
        dtype: np.dtype[Any],
        *,
        rows: int,
        period_s: int,
        symbol: str,
        provider: str,
    ) -> Spec:
        """Round ``rows`` up so that the data fill whole pages."""
        unit = PAGE // np.gcd(PAGE, dtype.itemsize)
        capacity = max(int(-(-rows // unit) * unit), int(unit))
        fields = tuple((str(entry[0]), str(entry[1])) for entry in dtype.descr)
        return cls(kind, fields, capacity, period_s, symbol, provider)

    @property
    def np_dtype(self) -> np.dtype[Any]:
        """Return the row's dtype."""
        return np.dtype(list(self.dtype))

    @property
    def row_size(self) -> int:
        """Return bytes per row."""
        return int(self.np_dtype.itemsize)

    @property
    def guard(self) -> int:
        """Return how many of the oldest rows readers must leave alone: they may be overwritten."""
        return min(1024, self.capacity // 4)

    @property
    def dtype_text(self) -> str:
        """Return the row's layout as it stands in the header."""
        return ",".join(f"{name}:{code}" for name, code in self.dtype)

    @property
    def schema(self) -> int:
        """Return the first 8 bytes of the layout text's SHA-256."""
        return int.from_bytes(hashlib.sha256(self.dtype_text.encode()).digest()[:8], "little")


class Segment:
    """An open segment. ``words`` is the header as 64-bit words, ``rows`` the data, twice.

    ``bytes`` are the data raw; ``undo`` is where a row is kept while it is revised.
    """

    def __init__(self, path: Path, fd: int, spec: Spec, *, writable: bool) -> None:
        self.path = path
        self.spec = spec
        self.writable = writable
        self._fd = fd
        self._reserved: set[int] = set()
        data = spec.capacity * spec.row_size
        mapping = Mapping(fd, header=HEADER_SIZE, data=data, writable=writable)
        buffer = mapping.buffer()
        whole = memoryview(buffer).cast("B")
        self.words = whole[:HEADER_SIZE].cast("Q")
        self.bytes = whole[HEADER_SIZE:]
        self.undo = whole[_UNDO : _UNDO + spec.row_size]
        rows = np.frombuffer(buffer, spec.np_dtype, count=2 * spec.capacity, offset=HEADER_SIZE)
        if not writable:
            rows.flags.writeable = False
            self.words = self.words.toreadonly()
            self.bytes = self.bytes.toreadonly()
            self.undo = self.undo.toreadonly()
        self.rows = rows

    # -- opening -----------------------------------------------------------------------------
    @classmethod
    def create(cls, path: Path, spec: Spec) -> Segment:
        """Make a new file, locked by us, and only then give it its name."""
        _check_machine()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            draft.unlink(missing_ok=True)
            fd = os.open(draft, flags, 0o600)
        except OSError as err:
            raise _full_or(err, path) from err
        try:
            os.ftruncate(fd, HEADER_SIZE + spec.capacity * spec.row_size)
            os.posix_fallocate(fd, 0, HEADER_SIZE)
            if not _lock(fd):
                raise ShmError(f"{draft} is locked by another process.")
            segment = cls(path, fd, spec, writable=True)
            segment._write_header()
            draft.rename(path)
        except OSError as err:
            os.close(fd)
            draft.unlink(missing_ok=True)
            raise _full_or(err, path) from err
        return segment

    @classmethod
    def open_writer(cls, path: Path, spec: Spec) -> tuple[Segment, bool]:
        """Adopt the file at ``path`` or make it; return (segment, adopted).

        A file of another layout is set aside (renamed ``*.bad``). Raises ``ShmError`` when
        another process writes it.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return cls.create(path, spec), False
        if not _lock(fd):
            os.close(fd)
            raise ShmError(
                f"{path} is written by another process.",
                remedy="Two daemons must not share a runtime directory: see `piker services`.",
            )
        try:
            theirs = read_spec(fd, path)
        except ShmError:
            theirs = None
        if theirs != spec:
            path.rename(path.with_name(path.name + ".bad"))
            os.close(fd)
            return cls.create(path, spec), False
        segment = cls(path, fd, spec, writable=True)
        segment._take_over()
        return segment, True

    @classmethod
    def open_reader(cls, path: Path) -> Segment:
        """Map an existing segment read-only."""
        _check_machine()
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ShmError(
                f"there is no live segment {path.name}.",
                remedy="Start the feed first, as with: piker feed <market>.",
            ) from None
        except OSError as err:
            raise ShmError(f"can not open {path}: {err.strerror}.") from err
        try:
            info = os.fstat(fd)
            if info.st_uid != os.getuid():
                raise ShmError(f"{path} belongs to uid {info.st_uid}, not to you.")
            return cls(path, fd, read_spec(fd, path), writable=False)
        except BaseException:
            os.close(fd)
            raise

    # -- state -------------------------------------------------------------------------------
    def beat(self) -> None:
        """Say that the writer lives."""
        self.words[Word.HEARTBEAT] = monotonic_ns()

    def writer_alive(self) -> bool:
        """Tell whether some process holds the writer's lock."""
        probe = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        # A reader's descriptor can not ask for a write lock, but it may ask who has one.
        answer = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, probe)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK) or self.writable

    def reserve(self, start: int, count: int) -> None:
        """Make the file's pages for logical rows real; raise ``ShmError`` when none are left.

        Without it a full tmpfs would kill the writer with SIGBUS at its next store.
        """
        size = self.spec.row_size
        total = self.spec.capacity * size
        begin = (start % self.spec.capacity) * size
        end = begin + count * size
        self._reserve_bytes(begin, min(end, total), total)
        if end > total:  # it wraps
            self._reserve_bytes(0, end - total, total)

    def _reserve_bytes(self, begin: int, end: int, total: int) -> None:
        for chunk in range(begin // CHUNK, (end - 1) // CHUNK + 1):
            if chunk in self._reserved:
                continue
            offset = chunk * CHUNK
            try:
                os.posix_fallocate(self._fd, HEADER_SIZE + offset, min(CHUNK, total - offset))
            except OSError as err:
                raise _full_or(err, self.path) from err
            self._reserved.add(chunk)

    def close(self, *, unlink: bool = False) -> None:
        """Let go of the file; with ``unlink`` its name goes too, mapped views stay valid."""
        if self._fd < 0:
            return
        if self.writable:
            self.words[Word.STATE] = State.CLOSED
            if unlink:
                self.path.unlink(missing_ok=True)
            # A mapping keeps the file description, and with it the lock, until the last view goes.
            _set_lock(self._fd, fcntl.F_UNLCK)
        os.close(self._fd)
        self._fd = -1

    # -- inside ------------------------------------------------------------------------------
    def _write_header(self) -> None:
        spec, raw = self.spec, memoryview(bytearray(HEADER_SIZE))
        _FIXED.pack_into(
            raw, 0, MAGIC, VERSION, HEADER_SIZE, spec.schema, spec.row_size, spec.kind,
            spec.capacity, spec.period_s, spec.guard,
        )  # fmt: skip
        for name, text in (
            ("symbol", spec.symbol), ("provider", spec.provider), ("dtype", spec.dtype_text),
        ):  # fmt: skip
            offset, size = _TEXTS[name]
            encoded = text.encode()
            if len(encoded) >= size:
                raise ShmError(f"{name} {text[:40]!r}... does not fit into a segment's header.")
            raw[offset : offset + len(encoded)] = encoded
        self.words[:] = raw.cast("Q")
        self._own(1)

    def _own(self, generation: int) -> None:
        self.words[Word.OWNER_PID] = os.getpid()
        self.words[Word.OWNER_START] = _start_time()
        self.words[Word.GENERATION] = generation
        self.words[Word.STATE] = State.LIVE
        self.beat()

    def _take_over(self) -> None:
        """Repair what a killed writer left.

        A row under revision is what it was before; new rows it may have been writing are given up.
        """
        words = self.words
        if words[Word.SEQ] & 1:
            if revised := words[Word.REVISED]:
                offset = (revised - 1) % self.spec.capacity * self.spec.row_size
                self.bytes[offset : offset + self.spec.row_size] = self.undo
                words[Word.REVISED] = 0
            else:
                settled = max(words[Word.SETTLED], words[Word.FIRST])
                words[Word.LAST] = min(words[Word.LAST], settled)
            words[Word.REVISION] += 1
            words[Word.SEQ] += 1
        self._own(words[Word.GENERATION] + 1)
        words[Word.STATE] = State.RECONNECTING  # until what feeds the new writer flows again


def read_spec(fd: int, path: Path) -> Spec:
    """Return what the file's header says it holds; raise ``ShmError`` for anything else."""
    raw = os.pread(fd, HEADER_SIZE, 0)
    if len(raw) < HEADER_SIZE or raw[:8] != MAGIC:
        raise ShmError(f"{path} is not a piker segment.", remedy="Remove the file.")
    _, version, header, schema, row_size, kind, capacity, period_s, guard = _FIXED.unpack_from(raw)
    if version != VERSION or header != HEADER_SIZE:
        raise ShmError(f"{path} has format {version}, this piker reads {VERSION}.")
    texts = {name: _text(raw, *place) for name, place in _TEXTS.items()}
    fields = tuple(
        (part.partition(":")[0], part.partition(":")[2]) for part in texts["dtype"].split(",")
    )
    try:
        spec = Spec(kind, fields, capacity, period_s, texts["symbol"], texts["provider"])
        sound = spec.schema == schema and spec.row_size == row_size and spec.guard == guard
    except (TypeError, ValueError):
        sound = False
    if not sound or os.fstat(fd).st_size != HEADER_SIZE + capacity * row_size:
        raise ShmError(f"the header of {path} is damaged.", remedy="Restart its daemon.")
    return spec


def _text(raw: bytes, offset: int, size: int) -> str:
    return raw[offset : offset + size].split(b"\0", 1)[0].decode(errors="replace")


def _lock(fd: int) -> bool:
    try:
        _set_lock(fd, fcntl.F_WRLCK)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _set_lock(fd: int, kind: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))


def _start_time() -> int:
    stat = Path("/proc/self/stat").read_text()
    return int(stat.rpartition(")")[2].split()[19])


def _full_or(err: OSError, path: Path) -> ShmError:
    if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ShmError(
            f"shared memory is full: no room for {path.name} in {path.parent}.",
            remedy="Free some, watch fewer markets, or lower the sizes under [feed] in conf.toml.",
        )
    return ShmError(f"can not make {path}: {err.strerror}.")


def _check_machine() -> None:
    """Refuse a machine whose stores other cores may see out of order (docs/adr/0002)."""
    if platform.machine() in ("x86_64", "AMD64") or os.environ.get("PIKER_ALLOW_WEAK_MEMORY"):
        return
    raise ShmError(
        f"shared memory from Python is only right on x86-64, this is {platform.machine()}.",
        remedy="Set PIKER_ALLOW_WEAK_MEMORY=1 to try it at your own risk.",
    )
