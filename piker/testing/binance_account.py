"""The account side of the loopback Binance: signed requests, and who is told of orders.

The matching is the venue's own: orders of accounts stand in the books of its markets. Spot is by
REST (``/api/v3``) and the websocket API (:mod:`piker.testing.binance_account_ws`), USD-M by REST
(``/fapi``) and listen keys (:mod:`piker.testing.binance_account_private`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from piker.clock import wall_ns
from piker.testing.accounts import AccountSpec, check_distinct
from piker.testing.binance_account_algo import AlgoDesk
from piker.testing.binance_account_auth import Keys, payload_of
from piker.testing.binance_account_calls import SPOT_CALLS, Call
from piker.testing.binance_account_desk import BinanceDesk
from piker.testing.binance_account_limits import OrderCounts, failed_weight
from piker.testing.binance_account_params import Params, VenueRefusal
from piker.testing.binance_account_private import PrivateStreams
from piker.testing.binance_account_spot import SpotDesk
from piker.testing.binance_account_usdm_calls import USDM_CALLS
from piker.testing.binance_limits import BinanceLimits, kind_of
from piker.testing.binance_market import Listing
from piker.testing.binance_streams import Streams
from piker.testing.engine import Top
from piker.testing.requests import Reply, Request
from piker.testing.synthetic import Trade

__all__ = ["AccountSide", "Done"]

RESTRICTIONS = "/sapi/v1/account/apiRestrictions"
_encode = msgspec.json.encode


class Done(msgspec.Struct, frozen=True):
    """What a request came to: a body, or the venue's refusal; and whose it was."""

    body: Any  # JSON
    refusal: VenueRefusal | None = None
    account: str = ""
    counted: bool = False  # as an order

    @property
    def status(self) -> int:
        """Return it as HTTP has it."""
        return 200 if self.refusal is None else self.refusal.status


class AccountSide:
    """The accounts of a venue."""

    def __init__(
        self,
        specs: Iterable[AccountSpec],
        listings: Mapping[tuple[str, str], Listing],
        streams: Streams,
        limits: BinanceLimits | None,
        *,
        seed: int,
    ) -> None:
        self.specs = check_distinct(specs)
        self.keys = Keys(self.specs)
        self.limits = limits
        self._streams = streams
        self.spot = SpotDesk(self.specs, listings, self._announce, seed=seed)
        self.usdm = AlgoDesk(self.specs, listings, self._announce, seed=seed)
        self.desks: dict[str, BinanceDesk] = {"spot": self.spot, "usdm": self.usdm}
        self.calls: dict[str, dict[str, Call]] = {"spot": SPOT_CALLS, "usdm": USDM_CALLS}
        self.private = PrivateStreams(seed)
        self.counts = {kind: OrderCounts(kind) for kind in self.desks}
        self.retry_after_s = 1  # that a 429 for too many orders tells
        self.refusals: Counter[str] = Counter()  # by the venue's code

    # -- the markets ---------------------------------------------------------------------------
    def heed(self, listing: Listing, trades: list[Trade]) -> None:
        """Book what the order flow traded."""
        desk = self.desks.get(listing.kind)
        if desk is not None:
            desk.heed(listing, trades)

    def _announce(self, listing: Listing, before: Top, trades: list[Trade], time_ms: int) -> None:
        """Publish what orders of accounts did to a book."""
        market = self._streams.markets.get((listing.kind, listing.name))
        if market is None:
            return
        if trades and market.streams:
            self._streams.traded(market, trades, time_ms)
        self._streams.moved(market, before, time_ms)

    # -- REST ----------------------------------------------------------------------------------
    def http(self, request: Request) -> Reply | None:
        """Answer a request; None where it is none of an account."""
        if request.path == RESTRICTIONS:
            return self._reply("spot", self.do("spot", "", request))
        kind, path = kind_of(request.path)
        name = f"{request.method} {path}"
        if (kind, path) == ("usdm", "listenKey"):
            return self._reply(kind, self._listen_key(request))
        if kind not in self.calls or (name not in self.calls[kind] and not _is_count(name)):
            return None
        done = self.do(kind, name, request)
        if done.refusal is not None and self.limits is not None:
            self.limits.spend(kind, request.peer, failed_weight(kind, request.method, path))
        return self._reply(kind, done)

    def _listen_key(self, request: Request) -> Done:
        """Manage the listen key of whose API key was sent; it takes no signature."""
        try:
            spec = self.keys.holder(request.headers.get("x-mbx-apikey", ""))
            self.keys.permit(spec, "futures")
            account = self.usdm.accounts[spec.name]
            return Done(self.private.manage(request.method, account), account=spec.name)
        except VenueRefusal as refusal:
            return self.refused(refusal)

    def tick(self, now: float, time_ms: int) -> None:
        """Do what is due; ``now`` is trio's clock."""
        self.usdm.tick(time_ms)
        self.private.expire(now, time_ms)

    def _reply(self, kind: str, done: Done) -> Reply:
        headers = self.counts[kind].headers(done.account) if done.counted else {}
        if done.status == 429:
            headers["Retry-After"] = str(self.retry_after_s)
        return Reply(done.status, _encode(done.body), headers)

    def do(self, kind: str, name: str, request: Request) -> Done:
        """Check who asks, and do what is asked."""
        payload, params = payload_of(request)
        now_ms = wall_ns() // 1_000_000
        try:
            spec = self.keys.holder(request.headers.get("x-mbx-apikey", ""))
            self.keys.signed(spec, payload, params, now_ms)
        except VenueRefusal as refusal:
            return self.refused(refusal)
        if not name:
            return Done(_restrictions(spec), account=spec.name)
        return self.run(kind, name, spec, params)

    def run(self, kind: str, name: str, spec: AccountSpec, params: Mapping[str, str]) -> Done:
        """Do what an account asks that has proved who it is."""
        now_ms = wall_ns() // 1_000_000
        if _is_count(name):
            return Done(self.counts[kind].rows(spec.name), account=spec.name)
        call, desk = self.calls[kind][name], self.desks[kind]
        try:
            self.keys.permit(spec, call.right)
            if call.counts:
                self._count(kind, spec)
            body = call.run(desk, desk.accounts[spec.name], Params(params, kind), now_ms)
        except VenueRefusal as refusal:
            return self.refused(refusal, spec.name, counted=call.counts)
        return Done(body, account=spec.name, counted=call.counts)

    def _count(self, kind: str, spec: AccountSpec) -> None:
        passed = self.counts[kind].add(spec.name, enforce=self.limits is not None)
        if passed:
            if self.limits is not None:
                self.limits.violations["ORDERS"] += 1
            text = f"Too many new orders; current limit is {passed}."
            raise VenueRefusal(-1015, text, status=429)

    def refused(self, refusal: VenueRefusal, account: str = "", *, counted: bool = False) -> Done:
        """Count a refusal, and return what it comes to."""
        self.refusals[str(refusal.code)] += 1
        return Done(refusal.body, refusal, account, counted)

    # -- statistics ----------------------------------------------------------------------------
    def stats(self) -> dict[str, Any]:
        """Return what the control endpoint tells: open orders, fills, refusals by code."""
        if not self.specs:
            return {}
        found: dict[str, Any] = {}
        for kind, desk in self.desks.items():
            for name, account in desk.accounts.items():
                found[f"{kind} {name}"] = {
                    "open": len(account.open), "orders": len(account.orders),
                    "fills": len(account.fills), "listeners": len(account.listeners),
                }  # fmt: skip
        return {"accounts": found, "refusals": dict(self.refusals)}


def _is_count(name: str) -> bool:
    return name == "GET rateLimit/order"


def _restrictions(spec: AccountSpec) -> dict[str, Any]:
    rights = spec.permissions
    return {
        "ipRestrict": False, "createTime": 1_698_645_219_000, "enableReading": "read" in rights,
        "enableSpotAndMarginTrading": "spot" in rights, "enableFutures": "futures" in rights,
        "enableWithdrawals": "withdraw" in rights, "enableInternalTransfer": False,
        "enableMargin": False, "permitsUniversalTransfer": False, "enableVanillaOptions": False,
        "enableFixApiTrade": False, "enableFixReadOnly": False,
        "enablePortfolioMarginTrading": False,
    }  # fmt: skip
