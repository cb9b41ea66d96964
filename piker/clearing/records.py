"""What the journal keeps: its records, their bytes, and the chain that binds each to all before.

A :class:`Record` is one row. What it says is one of :data:`Entry`, a tagged union: it is decoded
once, fields of a later piker are tolerated, and a kind of a later piker is refused in a sentence.
The chain is BLAKE2b of 16 bytes over the chain of the row before and the row's own bytes, so
that a row can not be changed, removed, doubled or moved without every later one telling.
"""

from __future__ import annotations

from decimal import Decimal
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from piker.clearing.lifecycle import Event, EventKind
from piker.errors import RangeError, StoreError
from piker.orders import BrokerdPosition, Order

__all__ = [
    "CHAIN_BYTES",
    "MAX_ROW_BYTES",
    "Duplicate",
    "Entry",
    "Happened",
    "Intent",
    "Note",
    "Opened",
    "Position",
    "Prepared",
    "Record",
    "RiskChange",
    "Row",
    "chain_of",
    "decode_row",
    "encode_row",
    "intent_key",
    "link",
    "make_ready",
    "once_key",
    "place",
    "prepare",
    "read_row",
]

_FILL = EventKind.FILL
CHAIN_BYTES = 16  # 2**64 rows before two of them are as likely as not to share a value
MAX_ROW_BYTES = 64 * 1024  # a hundred times the longest order; what is longer is a mistake


class Intent(msgspec.Struct, frozen=True, gc=False, tag="intent", omit_defaults=True):
    """A client's order, before anything is sent. One per oid; edits of it are events."""

    order: Order


class Happened(msgspec.Struct, frozen=True, gc=False, tag="event", omit_defaults=True):
    """Something happened to the record's oid. ``symbol`` is the whole fqme of its market."""

    event: Event
    symbol: str = ""


class Position(msgspec.Struct, frozen=True, tag="position", omit_defaults=True):
    """A position as the venue told it; ``net`` is what our own fills came to at that moment.

    ``long`` is what they came to on the long side, where the account held both sides apart.
    """

    told: BrokerdPosition
    net: Decimal = Decimal(0)
    long: Decimal | None = None


class Opened(msgspec.Struct, frozen=True, tag="opened", omit_defaults=True):
    """What an account holds of a market enters its day's result, ``size`` of it at ``price``.

    At midnight all of it, at the last price; else what is held and was never counted: a position
    that was there before us. The record's time says of which day.
    """

    symbol: str  # fqme
    size: Decimal  # signed
    price: Decimal


class RiskChange(msgspec.Struct, frozen=True, tag="risk", omit_defaults=True):
    """The trading state of an account (all of them where the record has none), and why."""

    state: str  # active, reducing or halted
    reason: str = ""


class Note(msgspec.Struct, frozen=True, tag="note", omit_defaults=True):
    """Something worth keeping that changes no order: an overfill, what reconciling found."""

    about: str  # one word: overfill, reconcile, ...
    text: str = ""
    details: dict[str, str] = {}


Entry = Intent | Happened | Position | Opened | RiskChange | Note

KINDS: dict[type[msgspec.Struct], str] = {
    Intent: "intent", Happened: "event", Position: "position", Opened: "opened",
    RiskChange: "risk", Note: "note",
}  # fmt: skip


_KIND_NAMES = frozenset(KINDS.values())


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One row: what is said, of which account and order, by whom. ``seq`` counts from 1.

    ``actor`` is a client's name and uid, ``emsd``, or a backend's name. ``seq`` and ``chain`` are
    the journal's own: what the writer gives is not looked at.
    """

    entry: Entry
    time_ns: int
    account: str = ""
    oid: str = ""
    actor: str = "emsd"
    seq: int = 0
    chain: bytes = b""

    @property
    def kind(self) -> str:
        """Return the entry's tag: intent, event, position, opened, risk or note."""
        return KINDS[type(self.entry)]


class Row(NamedTuple):
    """A record as it lies in the file, its columns in their order."""

    seq: int
    time_ns: int
    kind: str
    account: str
    oid: str
    payload: bytes
    actor: str
    chain: bytes


class Duplicate(NamedTuple):
    """The answer for a record that is there already; ``seq`` is where. Nothing was written."""

    seq: int


_encoder = msgspec.msgpack.Encoder()
_encode = _encoder.encode
_decoder = msgspec.msgpack.Decoder(Entry)
Columns = tuple[int, str, str, str, bytes, str]  # a row's, without seq and chain
_row_decoder = msgspec.msgpack.Decoder(tuple[int, int, str, str, str, bytes, str])
_HASH = blake2b(digest_size=CHAIN_BYTES)
_SEVEN = b"\x97"  # msgpack's head of a list of seven, which all columns but the chain are
_NEVER_NS = 2**63  # more than a row's time can be
_AROUND = 4  # bytes of a row's encoding besides its tail: its head, its number, no chain


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """A record made ready for its row: everything of it but its place."""

    columns: Columns
    tail: bytes  # the columns as the chain takes them
    key: bytes | None


def prepare(record: Record) -> Prepared:
    """Return a record ready to be written; raise ``RangeError`` for what no row can hold."""
    try:
        entry = record.entry
        columns = (
            record.time_ns, KINDS[type(entry)], record.account, record.oid, _encode(entry),
            record.actor,
        )  # fmt: skip
        return make_ready(columns, once_key(record))
    except UnicodeEncodeError as err:
        raise _no_unicode(record, err) from err


def make_ready(columns: Columns, key: bytes | None) -> Prepared:
    """Return columns and key ready to be written, encoded once; raises as :func:`prepare`."""
    tail = _encode(columns)[1:]
    if len(tail) > MAX_ROW_BYTES - _AROUND or not 0 <= columns[0] < _NEVER_NS:
        raise _out_of_range(columns[3], columns[0], len(tail) + _AROUND)
    return Prepared(columns, tail, key)


def encode_row(record: Record, seq: int) -> bytes:
    """Return a row's columns but its chain, as the chain takes them; raises as :func:`prepare`.

    For who knows the row's number before it is encoded: the same bytes for fewer steps.
    """
    entry = record.entry
    try:
        row = _encode((
            seq, record.time_ns, KINDS[type(entry)], record.account, record.oid, _encode(entry),
            record.actor,
        ))  # fmt: skip
    except UnicodeEncodeError as err:
        raise _no_unicode(record, err) from err
    if len(row) > MAX_ROW_BYTES or not 0 <= record.time_ns < _NEVER_NS:
        raise _out_of_range(record.oid, record.time_ns, len(row))
    return row


def _no_unicode(record: Record, err: UnicodeEncodeError) -> RangeError:
    return RangeError(f"a record of {record.oid!r} has text that is no Unicode: {err}.")


def _out_of_range(oid: str, time_ns: int, size: int) -> RangeError:
    if not 0 <= time_ns < _NEVER_NS:
        return RangeError(f"a record of {oid!r} has the impossible time {time_ns}.")
    what = f"a row of the journal has at most {MAX_ROW_BYTES}."
    return RangeError(f"a record of {oid!r} has {size} bytes; {what}")


def decode_row(row: bytes, chain: bytes) -> Row:
    """Return the row that :func:`encode_row` encoded, with its chain."""
    return Row(*_row_decoder.decode(row), chain)


def place(tail: bytes, seq: int) -> bytes:
    """Return the encoded row at ``seq`` of which :func:`prepare` made ``tail``."""
    return b"".join((_SEVEN, _encode(seq), tail))


def link(row: bytes, before: bytes) -> bytes:
    """Return the chain of an encoded row after one of chain ``before``."""
    digest = _HASH.copy()  # half of what making one costs
    digest.update(before)
    digest.update(row)
    return digest.digest()


def chain_of(row: Row, before: bytes) -> bytes:
    """Return what the row's chain must be, after a row whose chain is ``before``."""
    return blake2b(before + _encoder.encode(row[:-1]), digest_size=CHAIN_BYTES).digest()


def read_row(row: Row, *, written_by: str = "a later piker") -> Record:
    """Return the record of a row; raise ``StoreError`` for a kind that this piker does not know."""
    if row.kind not in _KIND_NAMES:
        raise StoreError(
            f"row {row.seq} of the journal is of the kind {row.kind!r}, which this piker does not "
            f"know; {written_by} wrote it.",
            remedy="Start that version of piker, or a later one.",
        )
    try:
        entry = _decoder.decode(row.payload)
    except msgspec.DecodeError as err:
        raise StoreError(
            f"row {row.seq} of the journal ({row.kind}) can not be read: {err}; {written_by} "
            "wrote it.",
            remedy="Start that version of piker, or a later one.",
        ) from err
    return Record(
        entry=entry, time_ns=row.time_ns, account=row.account, oid=row.oid,
        actor=row.actor, seq=row.seq, chain=row.chain,
    )  # fmt: skip


def once_key(record: Record) -> bytes | None:
    """Return the key that may be in the journal once only, or None for a record without one.

    An intent's is its oid; a fill's its account, market, trade id and order: an account that trades
    with itself has one trade twice, once for each of its orders.
    """
    entry = record.entry
    if isinstance(entry, Intent):
        return intent_key(entry.order.oid)
    if isinstance(entry, Happened) and entry.event.kind is _FILL:
        return _key("fill", record.account, entry.symbol, entry.event.tid, record.oid)
    return None


def intent_key(oid: str) -> bytes:
    """Return the key of an oid's intent."""
    return _key("intent", oid)


def _key(*parts: str) -> bytes:
    digest = _HASH.copy()
    digest.update(_encode(parts))
    return digest.digest()
