"""The journal's folder and the SQLite file in it: one writer, append only. Sync, blocking.

The folder holds ``rows.db`` with its log, and the seals of :mod:`piker.clearing.journal_seal`.
It is made whole and renamed into place; whoever writes holds a lock on the folder itself, and
SQLite's exclusive mode keeps every other program from the file, so that a checkpoint happens
when it is said here and never else.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from math import inf
from pathlib import Path

import msgspec
import xxhash

import piker
from piker import clock
from piker.clearing import journal_seal as seal
from piker.clearing.journal_log import Log
from piker.clearing.journal_seal import Frames, Head, Sums
from piker.clearing.records import CHAIN_BYTES, Duplicate, Prepared, Row, chain_of, link, place
from piker.errors import StoreError

__all__ = [
    "CHECKPOINT_BYTES",
    "MIGRATIONS",
    "JournalFile",
    "connect",
    "create",
    "leave",
    "locked",
]

READ_S = 5.0  # a journal that is in use for longer is not being read: a copy takes a second at most
LOOK_S = 0.01
CHECKPOINT_BYTES = 16 * 1024 * 1024  # of log: about 30,000 rows, read at an open in 10 ms
_COLUMNS = "seq, time_ns, kind, account, oid, payload, actor, chain"

Migration = Callable[[sqlite3.Connection], None]


def _first(db: sqlite3.Connection) -> None:
    """Version 1: the rows, and the keys that may be there once."""
    db.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID")
    db.execute(
        "CREATE TABLE rows (seq INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, kind TEXT NOT NULL,"
        " account TEXT NOT NULL, oid TEXT NOT NULL, payload BLOB NOT NULL, actor TEXT NOT NULL,"
        " chain BLOB NOT NULL)"
    )
    db.execute("CREATE TABLE once (key BLOB PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID")
    db.execute("INSERT INTO meta VALUES ('genesis', ?)", (os.urandom(CHAIN_BYTES),))


def _second(db: sqlite3.Connection) -> None:
    """Version 2: rows of the kind ``opened``, which earlier pikers do not know."""


#: What brings a file from one version of its schema to the next. Appended to, never changed.
MIGRATIONS: tuple[Migration, ...] = (_first, _second)


# -- files ----------------------------------------------------------------------------------
def connect(folder: Path) -> sqlite3.Connection:
    """Return a connection that alone uses the file, syncs every commit, and never checkpoints."""
    db = sqlite3.connect(folder / seal.DATABASE, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")  # before the log is touched: no shm file
        db.execute(f"PRAGMA page_size = {seal.PAGE}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 0")
    except sqlite3.Error:
        leave(db)
        raise
    return db


def leave(db: sqlite3.Connection) -> None:
    """Close a connection and leave the log as it is: an interrupted one makes no checkpoint."""
    db.interrupt()
    db.close()


def create(path: Path) -> None:
    """Make an empty journal at ``path`` unless there is one: whole, or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(path.parent, wait_s=inf):
        for left in path.parent.glob(f".{path.name}.new-*"):
            shutil.rmtree(left)
        if path.exists():
            return
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.new-", dir=path.parent))
        with closing(connect(part)) as db:
            db.execute("BEGIN IMMEDIATE")
            _upgrade(db, MIGRATIONS)
            db.execute("COMMIT")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            genesis = _genesis(db)
        _seal_new(part, genesis)
        seal.reached("made")
        os.rename(part, path)
        seal.sync_folder(path.parent)


def _seal_new(folder: Path, genesis: bytes) -> None:
    data = (folder / seal.DATABASE).read_bytes()
    pages = (data[at : at + seal.PAGE] for at in range(0, len(data), seal.PAGE))
    empty = xxhash.xxh3_128_digest(b"")
    sums = Sums(1, empty, b"".join(xxhash.xxh3_64_digest(page) for page in pages))
    seal.write_sums(folder, sums)
    fd = os.open(folder / seal.HEAD, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        seal.write_head(fd, Head(1, 0, empty, 0, genesis), sync=True)
    finally:
        os.close(fd)
    seal.sync_folder(folder)


def _genesis(db: sqlite3.Connection) -> bytes:
    found = db.execute("SELECT value FROM meta WHERE name = 'genesis'").fetchone()
    return bytes(found[0])


def _upgrade(db: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    """Run the migrations that are missing, inside the caller's transaction."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    for migration in migrations[version:]:
        migration(db)
    db.execute(f"PRAGMA user_version = {len(migrations)}")
    db.execute("INSERT OR REPLACE INTO meta VALUES ('written_by', ?)", (piker.__version__,))


@contextmanager
def locked(folder: Path, *, wait_s: float = 0.0, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a folder; raise ``BlockingIOError`` where it is held for longer than that.

    Readers share it for as long as a copy takes: who writes has to wait for that, not for another
    who writes.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    end_ns = clock.monotonic_ns() + wait_s * clock.NS
    try:
        while True:
            try:
                fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if clock.monotonic_ns() >= end_ns:
                    raise
                time.sleep(LOOK_S)
        yield
    finally:
        os.close(fd)


# -- the open journal -----------------------------------------------------------------------
class JournalFile:
    """An open journal: its lock, its connection, its seals. Not for two threads at once."""

    def __init__(self, path: Path, *, migrations: Sequence[Migration] = MIGRATIONS) -> None:
        """Open the journal at ``path`` for writing, check it, and finish what a crash left.

        Waits while others copy it to read. Raises ``JournalDamaged`` with nothing changed, or
        ``StoreError``: in use by one who writes, of a later piker, no room.
        """
        self.path = path
        self._lock = locked(path, wait_s=READ_S)
        try:
            self._lock.__enter__()
        except BlockingIOError as err:
            raise StoreError(
                f"the journal {path} is in use by another process.",
                remedy="One emsd writes a journal; others may open it to read meanwhile.",
            ) from err
        self._db: sqlite3.Connection | None = None
        self._log = Log(path, b"", Frames({}, 0, 0))
        self._head_fd = -1
        try:
            self._open(migrations)
        except BaseException:
            self.abandon()
            raise

    def _open(self, migrations: Sequence[Migration]) -> None:
        self.head, self.sums, log = seal.check_files(self.path)
        self._head_fd = os.open(self.path / seal.HEAD, os.O_WRONLY | os.O_CLOEXEC)
        for stray in ("sums.part", "standing.part", "backup.part"):
            (self.path / stray).unlink(missing_ok=True)
        if self.sums.generation != self.head.generation:  # only the end of a checkpoint is missing
            self._end_checkpoint(self.sums)
        frames = seal.last_frames(log, self.head.log_bytes)
        end = frames.end
        if len(log) > end:  # of a commit that did not come to its end
            os.truncate(self.path / seal.WAL, end)
        self._db = connect(self.path)
        self._refuse_newer(len(migrations))
        self.genesis = _genesis(self._db)
        self._log = Log(self.path, log[:end], frames)
        self._take_up()
        if self._version() < len(migrations):
            self._migrate(migrations)

    def _version(self) -> int:
        (version,) = self.db.execute("PRAGMA user_version").fetchone()
        return int(version)

    @property
    def db(self) -> sqlite3.Connection:
        """Return the connection; raise ``StoreError`` when the journal is closed."""
        if self._db is None:
            raise StoreError(f"the journal {self.path} is closed.")
        return self._db

    def written_by(self) -> str:
        """Return the name of the piker that last changed the schema."""
        found = self.db.execute("SELECT value FROM meta WHERE name = 'written_by'").fetchone()
        return f"piker {found[0]}" if found else "another piker"

    def _refuse_newer(self, ours: int) -> None:
        version = self._version()
        if version > ours:
            raise StoreError(
                f"the journal {self.path} has version {version} of its schema, written by "
                f"{self.written_by()}; this piker knows {ours}.",
                remedy="Start that version of piker, or a later one.",
            )

    def _take_up(self) -> None:
        """Begin where the rows end: at the head, or beyond it by commits that nobody was told."""
        seq, chain = 0, self.genesis
        if self.head.seq:
            found = self.rows(self.head.seq - 1, 1)
            seq, chain = (found[0].seq, found[0].chain) if found else (0, b"")
        if (seq, chain) != (self.head.seq, self.head.chain):
            raise seal.damaged(self.path, f"row {self.head.seq} is not the one that was written")
        while more := self.rows(seq, 1000):
            for row in more:
                if row.seq != seq + 1 or row.chain != chain_of(row, chain):
                    raise seal.damaged(self.path, f"row {seq + 1} does not follow row {seq}")
                seq, chain = row.seq, row.chain
        if self._log.size:
            size, digest = self._log.size, self._log.digest
            self._put_head(Head(self.head.generation, size, digest, seq, chain))
            self.checkpoint()

    def _put_head(self, head: Head, *, sync: bool = False) -> None:
        seal.write_head(self._head_fd, head, sync=sync)
        self.head = head

    def _migrate(self, migrations: Sequence[Migration]) -> None:
        """Bring the schema to ours in one commit, after a whole copy of the file was synced."""
        part = self.path / "backup.part"
        self.db.execute("VACUUM INTO ?", (str(part),))
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, self.path / f"backup-{self._version()}.db")
        seal.sync_folder(self.path)
        seal.reached("backed up")
        self.db.execute("BEGIN IMMEDIATE")
        _upgrade(self.db, migrations)
        self.db.execute("COMMIT")
        self._seal_commit(self.head.seq, self.head.chain)
        self.checkpoint()

    # -- writing ------------------------------------------------------------------------------
    def append(self, records: Sequence[Prepared]) -> list[int | Duplicate]:
        """Write records in one commit and sync it; return each one's seq, or where it was before.

        Raises ``sqlite3.Error`` or ``OSError``, after which only :meth:`abandon` is left: whether
        the commit reached the disk is known when the journal is opened again.
        """
        first = self.head.seq + 1
        keys = [(ready.key, at) for at, ready in enumerate(records, first) if ready.key is not None]
        self.db.execute("BEGIN IMMEDIATE")
        try:
            self.db.executemany("INSERT INTO once VALUES (?, ?)", keys)
        except sqlite3.IntegrityError:  # of one of them we have a row already: which, is asked
            self.db.execute("ROLLBACK")
            self.db.execute("BEGIN IMMEDIATE")
            answers, fresh = self._list_keys(records)
        else:
            answers, fresh = list(range(first, first + len(records))), [*records]
        seq, chain, rows = self.head.seq, self.head.chain, list[tuple[object, ...]]()
        for ready in fresh:
            seq += 1
            chain = link(place(ready.tail, seq), chain)
            rows.append((seq, *ready.columns, chain))
        self.db.executemany(f"INSERT INTO rows ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        seal.reached("commit")
        self.db.execute("COMMIT")
        if rows:
            seal.reached("committed")
            self._seal_commit(seq, chain)
        return answers

    def _list_keys(
        self, records: Sequence[Prepared]
    ) -> tuple[list[int | Duplicate], list[Prepared]]:
        """List the keys one by one; return the answers, and the records that are not there yet."""
        answers, fresh = list[int | Duplicate](), list[Prepared]()
        for ready in records:
            due = self.head.seq + len(fresh) + 1
            if ready.key is not None:
                entry = (ready.key, due)
                if not self.db.execute("INSERT OR IGNORE INTO once VALUES (?, ?)", entry).rowcount:
                    found = self.db.execute("SELECT seq FROM once WHERE key = ?", entry[:1])
                    answers.append(Duplicate(found.fetchone()[0]))
                    continue
            fresh.append(ready)
            answers.append(due)
        return answers, fresh

    def _seal_commit(self, seq: int, chain: bytes) -> None:
        """Put into the head what the last commit added to the log."""
        self._log.follow()
        self._put_head(Head(self.head.generation, self._log.size, self._log.digest, seq, chain))

    def lay(self) -> None:
        """Lay the log out up to the length at which it is brought in, where it is not yet."""
        self._log.lay(CHECKPOINT_BYTES)

    @property
    def wants_checkpoint(self) -> bool:
        """Tell whether the log has grown to the length at which it is brought in."""
        return self.head.log_bytes >= CHECKPOINT_BYTES

    def checkpoint(self) -> None:
        """Bring the log into the database file. A crash at any point of it is made good."""
        if not self.head.log_bytes:
            return
        self._put_head(self.head, sync=True)
        coming = Sums(
            self.head.generation + 1, self.head.log_digest,
            self._log.page_sums(self.sums.pages), self._log.head(),
        )  # fmt: skip
        seal.write_sums(self.path, coming, seal.NEXT)
        seal.reached("announced")
        busy, *_ = self.db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        if busy:
            raise sqlite3.OperationalError("the log could not be brought in: another user")
        seal.reached("copied")
        self._end_checkpoint(coming)
        self._log.begin_anew()

    def _end_checkpoint(self, coming: Sums) -> None:
        seal.cut_log(self.path)
        seal.reached("cut")
        with suppress(FileNotFoundError):
            os.replace(self.path / seal.NEXT, self.path / seal.SUMS)
        seal.sync_folder(self.path)
        seal.reached("sealed")
        empty = xxhash.xxh3_128_digest(b"")
        head = msgspec.structs.replace(
            self.head, generation=coming.generation, log_bytes=0, log_digest=empty
        )
        self._put_head(head, sync=True)
        self.sums = coming

    # -- reading ------------------------------------------------------------------------------
    def rows(self, since: int, limit: int) -> list[Row]:
        """Return up to ``limit`` rows after ``since``, in order."""
        found = self.db.execute(
            f"SELECT {_COLUMNS} FROM rows WHERE seq > ? ORDER BY seq LIMIT ?", (since, limit)
        )
        return [Row._make(columns) for columns in found]

    # -- the end ------------------------------------------------------------------------------
    def close(self) -> None:
        """Bring the log in and close."""
        self.checkpoint()
        with suppress(FileNotFoundError):
            os.truncate(self.path / seal.WAL, 0)
        self.abandon()

    def abandon(self) -> None:
        """Close and leave the files as they are, as a crash would."""
        db, self._db = self._db, None
        if db is not None:
            leave(db)
        self._log.close()
        if self._head_fd >= 0:
            os.close(self._head_fd)
        self._head_fd = -1
        self._lock.__exit__(None, None, None)
