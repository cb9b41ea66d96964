"""The journal recomputed from its first row: every chain and key, and its snapshot. Blocking."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from piker.clearing import journal_seal as seal
from piker.clearing.journal_copy import copy_of
from piker.clearing.journal_file import connect, leave
from piker.clearing.journal_snapshot import fold, read_snapshot
from piker.clearing.records import Record, Row, chain_of, once_key, read_row
from piker.clearing.standing import Snapshot, Standing
from piker.errors import JournalDamaged, StoreError

__all__ = ["Findings", "Progress", "verify"]

STEP = 10_000  # rows between two words of progress: a tenth of a second
#: Called with how many rows of how many were read.
Progress = Callable[[int, int], None]


class Findings(NamedTuple):
    """What :func:`verify` found: ``rows`` that hold from the first on, and what does not."""

    rows: int
    chain: bytes
    first_bad: int | None = None  # seq of the first row that does not hold
    problem: str = ""  # of that row
    files: str = ""  # what is wrong with the files, where something is

    @property
    def sound(self) -> bool:
        """Tell whether everything holds."""
        return self.first_bad is None and not self.files


def verify(path: Path, told: Progress | None = None) -> Findings:
    """Recompute a journal, in use or not, from its first row; blocks. Changes nothing.

    ``told`` is called now and then with how far it is; of a damaged journal the whole may be 0.

    A damaged journal is read as far as it goes: the first row that does not hold is told, and
    everything before it is what was written.
    """
    with copy_of(path, check=False) as copy:
        files, due = "", 0
        try:
            due = seal.check_files(copy)[0].seq
        except JournalDamaged as err:
            files = err.what
            try:
                due = seal.read_head(copy).seq
            except JournalDamaged:
                due = 0  # nothing says how many there were
        found = _walk(copy, read_snapshot(copy), lambda row: told(row, due) if told else None)
    if found.first_bad is None and found.rows < due:
        problem = f"rows {found.rows + 1} to {due} are missing"
        found = found._replace(first_bad=found.rows + 1, problem=problem)
    return found._replace(files=files or found.files)


def _walk(folder: Path, snapshot: Snapshot | str, told: Callable[[int], None]) -> Findings:
    """Follow the chain from the first row to the last, or to the first that does not hold."""
    standing, files = Standing(), snapshot if isinstance(snapshot, str) else ""
    try:
        db = connect(folder)
        try:
            (genesis,) = db.execute("SELECT value FROM meta WHERE name = 'genesis'").fetchone()
            standing.chain = bytes(genesis)
            rows = db.execute(
                "SELECT seq, time_ns, kind, account, oid, payload, actor, chain FROM rows"
                " ORDER BY seq"
            )
            for columns in rows:
                row = Row._make(columns)
                record, problem = _checked(db, row, standing.seq + 1, standing.chain)
                if record is None:
                    return _findings(standing, files, problem)
                fold(standing, record, db)
                if row.seq % STEP == 0:
                    told(row.seq)
                if not isinstance(snapshot, str) and row.seq == snapshot.seq:
                    files = _compared(standing, snapshot)
        finally:
            leave(db)
    except (sqlite3.Error, StoreError, TypeError, OverflowError) as err:
        return _findings(standing, files, str(err))
    if not isinstance(snapshot, str) and snapshot.seq > standing.seq:
        problem = f"{seal.STANDING!r} was made of {snapshot.seq} rows"
        return _findings(standing, files, problem)
    return _findings(standing, files)


def _findings(standing: Standing, files: str, problem: str = "") -> Findings:
    first_bad = standing.seq + 1 if problem else None
    return Findings(standing.seq, standing.chain, first_bad, problem, files)


def _compared(standing: Standing, snapshot: Snapshot) -> str:
    if vars(Standing.of(snapshot)) == vars(standing):
        return ""
    return f"its file {seal.STANDING!r} is not what the rows up to {snapshot.seq} come to"


def _checked(
    db: sqlite3.Connection, row: Row, due: int, before: bytes
) -> tuple[Record | None, str]:
    """Return a row's record, or None and what is wrong with the row."""
    if row.seq != due:
        return None, f"row {due} is missing, row {row.seq} comes instead"
    if row.chain != chain_of(row, before):
        return None, f"row {due} is not the one that was written there"
    record = read_row(row)
    key = once_key(record)
    if key is not None:
        there = db.execute("SELECT seq FROM once WHERE key = ?", (key,)).fetchone()
        if there is None or there[0] != due:
            return None, f"row {due} is not the one that is listed for its order or trade"
    return record, ""
