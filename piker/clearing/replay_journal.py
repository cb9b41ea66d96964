"""A journal in memory: the rows, the keys and the chain of the one on disk, and no disk.

Two replays that did the same have the same rows, and so the same :attr:`MemoryJournal.chain`. It
begins with an empty chain where a file begins with a random one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence, Set

from piker.clearing.journal import Journal
from piker.clearing.journal_find import found_in
from piker.clearing.lifecycle import OrderState
from piker.clearing.records import (
    Duplicate,
    Record,
    Row,
    decode_row,
    encode_row,
    link,
    once_key,
    read_row,
)
from piker.clearing.standing import Standing, fold_orders

__all__ = ["MemoryJournal"]


class MemoryJournal(Journal):
    """What a router asks of a journal. Its calls never wait."""

    def __init__(self) -> None:
        """Begin without rows; the journal on disk is not begun at all."""
        self._keys: dict[bytes, int] = {}
        self._rows: list[bytes] = []  # encoded, but for their chains
        self._chains: list[bytes] = []
        self._folded = Standing()

    @property
    def seq(self) -> int:
        """Return the number of the last row; 0 where there is none."""
        return len(self._rows)

    @property
    def chain(self) -> bytes:
        """Return the last row's chain."""
        return self._chains[-1] if self._chains else b""

    @property
    def standing(self) -> Standing:
        """Return what the rows come to. They are folded when somebody asks."""
        for row in self.rows(self._folded.seq):
            record = read_row(row)
            if self._folded.lacks(record.oid, record.entry):
                state = self._folded_of(record.oid, row.seq)
                if state is not None:
                    self._folded.recall(state)
            self._folded.apply(row.seq, record.account, record.oid, record.entry, record.time_ns)
        self._folded.chain = self.chain
        return self._folded

    async def append(self, records: Sequence[Record]) -> list[int | Duplicate]:
        """Return each record's seq, as the journal on disk does; at once."""
        return [self._add(record) for record in records]

    def post(self, records: Sequence[Record]) -> None:
        """Write records, at once as all others."""
        for record in records:
            self._add(record)

    def _add(self, record: Record) -> int | Duplicate:
        rows, chains = self._rows, self._chains
        seq = len(rows) + 1
        row, key = encode_row(record, seq), once_key(record)
        if key is not None:
            known = self._keys.setdefault(key, seq)
            if known != seq:
                return Duplicate(known)
        chains.append(link(row, chains[-1] if chains else b""))
        rows.append(row)
        return seq

    def rows(self, since: int = 0) -> list[Row]:
        """Return the rows after ``since``, as they would lie in the file."""
        return [self._row(seq) for seq in range(since + 1, self.seq + 1)]

    async def read(self, since: int = 0) -> AsyncIterator[Record]:
        """Yield the records after ``since``."""
        for row in self.rows(since):
            yield read_row(row)

    async def order(self, oid: str) -> OrderState | None:
        """Return any order that there ever was."""
        return self.standing.get(oid) or self._folded_of(oid, self.seq + 1)

    async def find(self, account: str, names: Set[str]) -> dict[str, str]:
        """Return whose ids they are, as the journal on disk does."""
        return found_in(self.rows(), account, names)

    async def fold(self) -> dict[str, OrderState]:
        """Return what all orders are, folded from the first row."""
        orders: dict[str, OrderState] = {}
        fold_orders(orders, [read_row(row) for row in self.rows()])
        return orders

    def _folded_of(self, oid: str, before: int) -> OrderState | None:
        orders: dict[str, OrderState] = {}
        name = oid.encode()
        near = [seq for seq, row in enumerate(self._rows[: before - 1], 1) if name in row]
        rows = [row for row in map(self._row, near) if row.oid == oid]
        fold_orders(orders, [read_row(row) for row in rows])
        return orders.get(oid)

    def _row(self, seq: int) -> Row:
        return decode_row(self._rows[seq - 1], self._chains[seq - 1])
