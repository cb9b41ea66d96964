"""What the manifest keeps of ticks: its tables, and one row of each as a struct."""

from __future__ import annotations

import msgspec

__all__ = ["SCHEMA", "WHOLE_DAY", "Gap", "Ring", "TickFile"]

WHOLE_DAY = 99  # the level of a file that holds a day which is over

#: Tables that format 2 of the manifest has and format 1 had not.
SCHEMA = """
CREATE TABLE tick_market (
    id INTEGER PRIMARY KEY, provider TEXT NOT NULL, market TEXT NOT NULL,
    UNIQUE (provider, market));
CREATE TABLE tick_file (
    market INTEGER NOT NULL REFERENCES tick_market, day INTEGER NOT NULL, name TEXT NOT NULL,
    ring INTEGER NOT NULL, first INTEGER NOT NULL, last_ring INTEGER NOT NULL,
    last INTEGER NOT NULL, rows INTEGER NOT NULL, size INTEGER NOT NULL,
    low_ns INTEGER NOT NULL, high_ns INTEGER NOT NULL, level INTEGER NOT NULL,
    sha256 TEXT NOT NULL, blocks BLOB NOT NULL, written_ns INTEGER NOT NULL,
    PRIMARY KEY (market, day, ring, first), CHECK (rows > 0)) WITHOUT ROWID;
CREATE TABLE tick_ring (
    market INTEGER NOT NULL REFERENCES tick_market, ring INTEGER NOT NULL, identity TEXT NOT NULL,
    generation INTEGER NOT NULL, position INTEGER NOT NULL, last_row BLOB NOT NULL,
    PRIMARY KEY (market, ring)) WITHOUT ROWID;
CREATE TABLE tick_gap (
    id INTEGER PRIMARY KEY, market INTEGER NOT NULL REFERENCES tick_market, kind TEXT NOT NULL,
    start_ns INTEGER NOT NULL, end_ns INTEGER, why TEXT NOT NULL, missed INTEGER NOT NULL,
    ring INTEGER NOT NULL, row INTEGER NOT NULL);
CREATE INDEX tick_gap_by_time ON tick_gap (market, start_ns);
"""


class TickFile(msgspec.Struct, frozen=True):
    """What the manifest has to know of a file of ticks.

    Its rows ascend by (ring, row number), from (``ring``, ``first``) to (``last_ring``, ``last``).
    ``blocks`` holds for every block of rows its checksum, least and greatest time.
    """

    day: int  # days since the epoch, UTC, by the venue's time
    name: str
    ring: int
    first: int
    last_ring: int
    last: int
    rows: int
    size: int
    low_ns: int
    high_ns: int
    level: int  # 0: one flush; each merge is one more; WHOLE_DAY
    sha256: str
    blocks: bytes


class Ring(msgspec.Struct, frozen=True):
    """A tick ring that was recorded: how far, and how to know it again.

    ``ring`` numbers a market's rings in the order of their recording. ``position`` is the number
    of the first row that is not stored, ``last_row`` the bytes of the one before it.
    """

    ring: int
    identity: str
    generation: int
    position: int
    last_row: bytes


class Gap(msgspec.Struct, frozen=True):
    """Where ticks are missing, or where what follows may not continue what was before.

    ``kind``: ``lap`` (``missed`` rows were overwritten before they were kept), ``break`` (the
    ring says that its writer had lost the venue), ``ring`` (another ring: its writer began anew,
    or nobody recorded), ``outage`` and ``resync`` (what the feed said, and when), ``damaged``
    (a file with ``missed`` ticks was set aside). ``missed`` is -1 where nobody knows.
    ``end_ns`` is None as long as an outage lasts. ``ring`` and ``row`` name the first tick after.
    """

    kind: str
    start_ns: int
    end_ns: int | None
    why: str
    missed: int = -1
    ring: int = 0
    row: int = -1
