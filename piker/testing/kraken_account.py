"""The account side of the loopback Kraken: signed REST, private websocket v2, and who is told.

The matching is the venue's own: orders of accounts stand in the books of its markets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from piker.clock import wall_ns
from piker.testing.accounts import AccountSpec, check_distinct
from piker.testing.kraken_account_auth import Keys
from piker.testing.kraken_account_desk import Announce, KrakenDesk
from piker.testing.kraken_account_params import Refusal, fields_of_body
from piker.testing.kraken_account_rates import CALLS as CALL_RATE
from piker.testing.kraken_account_rates import Counter as Rate
from piker.testing.kraken_account_rates import call_cost
from piker.testing.kraken_account_rest import CALLS, Ask
from piker.testing.kraken_account_ws import PrivateSocket
from piker.testing.kraken_limits import KrakenLimits
from piker.testing.kraken_wire import Listing
from piker.testing.requests import Reply, Request
from piker.testing.synthetic import Trade

__all__ = ["PRIVATE", "AccountSide"]

PRIVATE = "/0/private/"
_NEW_NAMES = {"XBT": "BTC", "XXBT": "BTC", "XDG": "DOGE", "XXDG": "DOGE", "ZUSD": "USD"}
_GIVEN = AccountSpec(name="", key="").balances  # in the default's USDT; here it is USD
_encode = msgspec.json.encode


def _named(spec: AccountSpec) -> AccountSpec:
    """Return an account with its assets by the names of websocket v2."""
    balances = spec.balances
    if balances == _GIVEN:
        balances = {"USD": balances["USDT"], "BTC": balances["BTC"], "ETH": balances["ETH"]}
    named = {_NEW_NAMES.get(asset, asset): amount for asset, amount in balances.items()}
    return msgspec.structs.replace(spec, balances=named)


class AccountSide:
    """The accounts of a venue."""

    def __init__(
        self,
        specs: Iterable[AccountSpec],
        listings: Sequence[Listing],
        limits: KrakenLimits | None,
        announce: Announce,
        *,
        seed: int,
    ) -> None:
        self.specs = tuple(_named(spec) for spec in check_distinct(specs))
        self.keys = Keys(self.specs, seed)
        self.limits = limits
        self.desk = KrakenDesk(self.specs, listings, announce, enforce=limits is not None)
        self.timers: dict[str, int] = {}  # cancel-afters: account -> its end, ms
        self.socket = PrivateSocket(self.keys, self.desk, self.timers, self.refused)
        self.refusals: Counter[str] = Counter()  # by the venue's words
        self._calls = Rate(*CALL_RATE)

    def heed(self, listing: Listing, trades: list[Trade]) -> None:
        """Book what the order flow traded."""
        if self.specs:
            self.desk.heed(listing, trades)

    def tick(self) -> None:
        """Do what is due: orders that expire, dead man's switches."""
        now_ms = wall_ns() // 1_000_000
        self.desk.expire(now_ms)
        for name, end_ms in list(self.timers.items()):
            if now_ms >= end_ms:
                del self.timers[name]
                account = self.desk.accounts[name]
                self.desk.cancel_all(account, now_ms, "Cancel all orders after timeout")

    # -- REST ----------------------------------------------------------------------------------
    def http(self, request: Request) -> Reply | None:
        """Answer a private call; None where it is none."""
        if not request.path.startswith(PRIVATE):
            return None
        try:
            body: dict[str, Any] = {"error": [], "result": self._do(request)}
        except Refusal as refusal:
            body = {"error": [self.refused(refusal)]}
        return Reply(body=_encode(body))

    def _do(self, request: Request) -> Any:  # Any: a JSON body
        name = request.path.removeprefix(PRIVATE)
        fields = fields_of_body(request.body, request.headers.get("content-type", ""))
        spec = self.keys.holder(request, fields)
        if not self._calls.take(spec.key, call_cost(name)) and self.limits is not None:
            self.limits.violations["private"] += 1
            raise Refusal("EAPI:Rate limit exceeded")
        call = CALLS.get(name)
        if call is None or request.method != "POST":
            raise Refusal("EGeneral:Unknown method")
        self.keys.permit(spec, call.right)
        account = self.desk.accounts[spec.name]
        now_ms = wall_ns() // 1_000_000
        return call.run(Ask(self.desk, self.keys, account, fields, now_ms, self.timers))

    def refused(self, refusal: Refusal) -> str:
        """Count a refusal; return its words."""
        words = str(refusal)
        self.refusals[words] += 1
        if self.limits is not None:
            self.limits.violations.update(self.desk.violations)
        self.desk.violations.clear()
        return words

    # -- statistics ----------------------------------------------------------------------------
    def stats(self) -> dict[str, Any]:
        """Return what the control endpoint tells: open orders, fills, refusals, rates."""
        if not self.specs:
            return {}
        found = {
            name: {"open": len(one.open), "orders": len(one.orders), "fills": len(one.fills),
                   "listeners": len(one.listeners), "cancel_after": name in self.timers}
            for name, one in self.desk.accounts.items()
        }  # fmt: skip
        rates = {f"private {name}": level for name, level in self._calls.levels().items()}
        rates |= {f"trading {name}": level for name, level in self.desk.rates.levels().items()}
        return {"accounts": found, "refusals": dict(self.refusals), "rates": rates}
