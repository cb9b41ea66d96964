"""Whose ids they are that a venue tells: looked for in the rows of the journal. Pure.

A venue names an order by its own id, or by the client's that it was given. Orders at hand are found
by both; what this module is for is a late word of one that ended long ago.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

import msgspec

from piker.clearing.records import Row
from piker.clearing.requests import client_id_of

__all__ = ["found_in"]


class _Event(msgspec.Struct):
    reqid: str = ""


class _Row(msgspec.Struct, tag="event"):
    """All that is looked at of a row: the rest of it is passed over."""

    event: _Event


_decoder = msgspec.msgpack.Decoder(_Row)


def found_in(rows: Iterable[Row], account: str, names: Set[str]) -> dict[str, str]:
    """Return the oids of those of the ids that rows of the account have; the last row counts."""
    found: dict[str, str] = {}
    for row in rows:
        if row.account != account:
            continue
        if row.kind == "intent":
            name = client_id_of.__wrapped__(row.oid)  # past the cache: it is of what is newest
        elif row.kind == "event":
            name = _decoder.decode(row.payload).event.reqid
        else:
            continue
        if name in names:
            found[name] = row.oid
    return found
