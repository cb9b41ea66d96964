"""What the orders' commands read in the journal: what nobody running has to tell.

When an order was given, those that have ended, what fills came to, and everything where emsd does
not run. A checked copy is read: the journal itself is never touched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from piker.clearing._ems import halt_file, journal_path
from piker.clearing.accounts import PAPER, split_account
from piker.clearing.journal import Journal, open_journal
from piker.clearing.lifecycle import OrderState
from piker.clearing.matching import MODEL
from piker.clearing.records import Intent
from piker.clearing.requests import status_of
from piker.cli.orders import OrderRow, row_of

__all__ = ["begun", "halt_file", "has_journal", "opened", "row_of_state", "started_ns"]

LOOK_ROWS = 100_000  # rows of the journal that are looked through for times: half a second
_MS_DIGITS = 11  # of an oid's beginning that are its session's time: until the year 2527


def has_journal() -> bool:
    """Tell whether anything was ever ordered here."""
    return journal_path().is_dir()


@asynccontextmanager
async def opened() -> AsyncIterator[Journal]:
    """Open a copy of the journal as it is now; raises what :func:`open_journal` raises."""
    async with open_journal(journal_path(), read_only=True) as journal:
        yield journal


async def begun(journal: Journal, oids: Collection[str]) -> dict[str, int]:
    """Return when orders were given; those of long ago are as old as their client's session."""
    found = {oid: time_ns for oid in oids if (time_ns := started_ns(oid)) is not None}
    left = set(oids)
    async for record in journal.read(max(0, journal.seq - LOOK_ROWS)):
        if record.oid in left and isinstance(record.entry, Intent):
            found[record.oid] = record.time_ns
            left.discard(record.oid)
            if not left:
                break
    return found


def started_ns(oid: str) -> int | None:
    """Return when the session began whose id an oid has; None of one that is no client's of ours.

    :func:`piker.clearing.client.new_session` makes them: milliseconds in hex, then chance.
    """
    session, dash, number = oid.partition("-")
    if len(session) != _MS_DIGITS + 6 or not dash or not number.isdigit():
        return None
    try:
        return int(session[:_MS_DIGITS], 16) * 1_000_000
    except ValueError:
        return None


def row_of_state(state: OrderState, since_ns: int | None = None) -> OrderRow:
    """Return what is shown of an order that the journal has."""
    provider, own = split_account(state.order.account)
    return row_of(status_of(state, MODEL if own == PAPER else provider), since_ns)
