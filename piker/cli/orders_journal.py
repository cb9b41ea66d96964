"""What the orders' commands read in the journal: what nobody running has to tell.

Orders that have ended, what fills came to, and everything where emsd does not run. A checked
copy is read: the journal itself is never touched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from piker.clearing._ems import halt_file, journal_path
from piker.clearing.accounts import PAPER, split_account
from piker.clearing.denials import DenialCode
from piker.clearing.journal import Journal, open_journal
from piker.clearing.lifecycle import OrderState
from piker.clearing.matching import MODEL
from piker.clearing.requests import status_of
from piker.clearing.standing import ENDED_KEPT
from piker.cli.orders import OrderRow, describe, row_of

__all__ = [
    "NOT_RUNNING",
    "ended",
    "halt_file",
    "has_journal",
    "opened",
    "row_of_state",
    "why_not_open",
]


NOT_RUNNING = "note: pikerd does not run: this is what the journal has. To start it: pikerd"


def has_journal() -> bool:
    """Tell whether anything was ever ordered here."""
    return journal_path().is_dir()


@asynccontextmanager
async def opened() -> AsyncIterator[Journal]:
    """Open a copy of the journal as it is now; raises what :func:`open_journal` raises."""
    async with open_journal(journal_path(), read_only=True) as journal:
        yield journal


async def ended(journal: Journal, account: str, last: int) -> list[OrderState]:
    """Return the newest orders that have ended, of an account where named; 0 for all of them.

    Those that the journal's standing has cost nothing. Where more are asked for every row is
    folded: some ten seconds for a million rows on a quiet machine.
    """
    found = [one for one in journal.standing.ended.values() if account in ("", one.order.account)]
    if (not last or len(found) < last) and len(journal.standing.ended) >= ENDED_KEPT:
        every = await journal.fold()
        found = [
            one for one in every.values() if one.is_over and account in ("", one.order.account)
        ]
    return found[-last:] if last else found


def row_of_state(state: OrderState) -> OrderRow:
    """Return what is shown of an order that the journal has."""
    provider, own = split_account(state.order.account)
    return row_of(status_of(state, MODEL if own == PAPER else provider))


async def why_not_open(text: str) -> tuple[DenialCode, str]:
    """Return what to say of an order that is not open: whether there ever was one."""
    async with opened() as journal:
        ended = [oid for oid in journal.standing.ended if oid.endswith(text)]
        if not ended:
            return DenialCode.UNKNOWN_ORDER, f"no open order's id is {text!r}, or ends so."
        row = row_of_state(journal.standing.ended[ended[-1]])
    return DenialCode.ORDER_OVER, f"{describe(row)} has ended: {row.state}; order {row.oid}."
