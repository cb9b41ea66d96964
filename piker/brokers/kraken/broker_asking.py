"""Requests on Kraken's private websocket: each has a number, and its answer or none.

The rates of the trading engine are kept here, by account and market; an order's age makes its
cancel dearer (docs/brokers/kraken.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
import trio

from piker.brokers.kraken.broker_schema import Head
from piker.brokers.limits import Budget, Limit, Permit, Priority
from piker.errors import Transient
from piker.log import Secret, get_logger

__all__ = ["RATE_LIMITED", "TIERS", "Asking", "Rates", "proves"]

log = get_logger("kraken.broker")

#: maxratecount of a tier -> what its counter falls by a second
TIERS = {60: 1.0, 125: 2.34, 180: 3.75}
SMALLEST = 60
ORDER_WAIT_S = 10.0  # an order that waits longer for its turn is refused: the market has moved on
RATE_LIMITED = "EOrder:Rate limit exceeded"
_AGES = {  # deed -> (what it costs, (younger than s, and besides), ...)
    "add": (1, ()),
    "amend": (1, ((5, 3), (10, 2), (15, 1))),
    "cancel": (0, ((5, 8), (10, 6), (15, 5), (45, 4), (90, 2), (300, 1))),
}  # fmt: skip
#: What begins so was refused before it was carried out. Any other error leaves that open.
_PROOFS = ("EOrder:", "EQuery:", "EAPI:", "ESession:", "EAccount:", "EGeneral:Invalid",
           "EGeneral:Permission", "EGeneral:Temporary lockout", "EGeneral:Too many",
           "EGeneral:Unknown method", "EService:Market in")  # fmt: skip
#: What says one of these may mean that an earlier one has arrived: the venue's documents have no
#: words for a cl_ord_id that is in use.
_IN_USE = ("clordid", "duplicate", "in use")


def proves(error: str) -> bool:
    """Tell whether an error proves that a request was not carried out."""
    said = error.lower().replace("_", "")
    return error.startswith(_PROOFS) and not any(words in said for words in _IN_USE)


class Rates:
    """The trading engine's counters of one account, in the venue's shared budget."""

    def __init__(self, budget: Budget, account: str) -> None:
        self._budget, self._account = budget, account
        self._most = SMALLEST
        self._known: set[str] = set()

    def tier(self, most: int) -> None:
        """Take the account's tier as the venue tells it."""
        if most != self._most:
            self._most = most
            self._budget.set_limits([self._limit(market) for market in self._known])

    def _limit(self, market: str) -> Limit:
        kind = f"trading {self._account} {market}"
        fall = TIERS.get(self._most, self._most / 60)
        return Limit(kind, self._most, self._most / fall, "decay", "weight", (kind,))

    async def permit(self, market: str, deed: str, age_s: float) -> Permit:
        """Wait for room; ``Transient`` where an order or amendment would wait too long."""
        if market not in self._known:
            self._known.add(market)
            self._budget.set_limits([self._limit(market)])
        fixed, ages = _AGES[deed]
        cost = fixed + next((more for limit, more in ages if age_s < limit), 0)
        cancels = deed == "cancel"
        return await self._budget.acquire(
            cost, kind=f"trading {self._account} {market}",
            priority=Priority.CANCEL if cancels else Priority.ORDER,
            max_wait_s=math.inf if cancels else ORDER_WAIT_S,
        )  # fmt: skip

    def full(self, market: str) -> None:
        """Take note that the venue's counter was full: ours was behind."""
        self._budget.observe(f"trading {self._account} {market}", self._most)


class _Pending:
    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Head | None = None
        self.why = ""


class Asking:
    """The requests on their way. ``send`` is the websocket's; the token comes with each link."""

    def __init__(self, send: Callable[[str], Any]) -> None:
        self.token = Secret("")
        self._send = send
        self._numbers = count(1)
        self._pending: dict[int, _Pending] = {}

    async def ask(
        self, method: str, params: dict[str, Any], wait_s: float, sent: Callable[[], None]
    ) -> tuple[Head | None, str]:
        """Send a request and return its answer, or None and why there is none.

        Without an answer it may have been carried out or not. ``sent`` is called when it left.
        """
        number, pending = next(self._numbers), _Pending()
        self._pending[number] = pending
        said = {
            "method": method,
            "params": {**params, "token": self.token.reveal()},
            "req_id": number,
        }
        try:
            await self._send(msgspec.json.encode(said).decode())
            sent()
            with trio.move_on_after(wait_s):
                await pending.done.wait()
            return pending.answer, pending.why or f"no answer within {wait_s:g} s"
        except Transient as error:
            return None, error.message
        finally:
            del self._pending[number]

    def answered(self, head: Head) -> bool:
        """Take an answer; return whether somebody waits for it."""
        pending = self._pending.get(head.req_id or 0)
        if pending is None or head.success is None:
            return False
        pending.answer = head
        pending.done.set()
        return True

    def lost(self, why: str) -> None:
        """Tell everybody who waits that the connection is gone."""
        for pending in self._pending.values():
            pending.why = why
            pending.done.set()
