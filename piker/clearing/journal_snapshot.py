"""Snapshots of what the journal comes to, so that a start folds the last rows only. Blocking.

``standing`` is one more file in the journal's folder: never needed, never trusted over the rows.
One that does not check, or that another fold made, is left alone and the rows are folded from
the first. One that checks and speaks of rows that are not there is damage, and says so: it was
written after those rows were on the disk.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

import msgspec

from piker.clearing import journal_seal as seal
from piker.clearing.journal_file import JournalFile
from piker.clearing.lifecycle import OrderState
from piker.clearing.records import Record, Row, intent_key, read_row
from piker.clearing.standing import Snapshot, Standing, fold_orders
from piker.errors import JournalDamaged

__all__ = ["TakenUp", "fold", "keep", "read_snapshot", "recall", "take_up"]

ROWS_AT_ONCE = 4096  # 2 MB of rows: reading more at a time is no faster

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Snapshot)


class TakenUp(NamedTuple):
    """What a start found: the standing, the rows folded for it, and why no snapshot was used."""

    standing: Standing
    folded: int
    unused: str = ""


def keep(folder: Path, snapshot: Snapshot) -> None:
    """Put a snapshot in the place of the one before, wholly and on the disk, or leave that one."""
    seal.put(folder, seal.STANDING, _encoder.encode(snapshot), "snapshot written")
    seal.reached("snapshot kept")


def read_snapshot(folder: Path) -> Snapshot | str:
    """Return the snapshot of a folder, or why there is none to use; nothing where none is."""
    try:
        body = seal.get(folder, seal.STANDING)
    except JournalDamaged as err:
        return err.what
    if body is None:
        return ""
    try:
        snapshot = _decoder.decode(body)
    except msgspec.DecodeError:
        return f"its file {seal.STANDING!r} is of another piker"
    if not snapshot.is_ours:
        return f"its file {seal.STANDING!r} is of another fold"
    return snapshot


def take_up(file: JournalFile) -> TakenUp:
    """Return what all rows come to, from the snapshot where one holds.

    Raises ``JournalDamaged`` when the snapshot speaks of rows that are not there, ``StoreError``
    for a row that this piker can not read.
    """
    found = read_snapshot(file.path)
    if isinstance(found, str):
        standing, unused = Standing(file.genesis), found
    else:
        standing, unused = Standing.of(found), ""
        rows = file.rows(found.seq - 1, 1)
        if not rows or (rows[0].seq, rows[0].chain) != (found.seq, found.chain):
            raise seal.damaged(
                file.path, f"{seal.STANDING!r} was made of {found.seq} rows that are not there"
            )
    begun = standing.seq
    while rows := file.rows(standing.seq, ROWS_AT_ONCE):
        for row in rows:
            fold(standing, read_row(row), file.db)
    return TakenUp(standing, standing.seq - begun, unused)


def fold(standing: Standing, record: Record, db: sqlite3.Connection) -> None:
    """Fold one row of the file into ``standing``, with what it has forgotten of its order."""
    if standing.lacks(record.oid, record.entry):
        state = recall(db, record.oid, record.seq)
        if state is not None:
            standing.recall(state)
    standing.apply(record.seq, record.account, record.oid, record.entry, record.time_ns)
    standing.chain = record.chain


def recall(db: sqlite3.Connection, oid: str, before: int) -> OrderState | None:
    """Return an order as its rows before ``before`` have it; None of one that is not there.

    Reads from the order's intent on: a tenth of a second for a million rows.
    """
    found = db.execute("SELECT seq FROM once WHERE key = ?", (intent_key(oid),)).fetchone()
    if found is None:
        return None
    rows = db.execute(
        "SELECT seq, time_ns, kind, account, oid, payload, actor, chain FROM rows"
        " WHERE seq >= ? AND seq < ? AND oid = ? ORDER BY seq",
        (found[0], before, oid),
    )
    orders: dict[str, OrderState] = {}
    fold_orders(orders, (read_row(Row._make(columns)) for columns in rows))
    return orders.get(oid)
