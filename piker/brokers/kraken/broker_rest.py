"""Kraken's private REST calls: signed, counted, and their errors sorted by what they prove."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from typing import Any

import msgspec
import trio

from piker.brokers._backoff import Backoff
from piker.brokers.credentials import Credentials
from piker.brokers.kraken.api import PROVIDER, open_client
from piker.brokers.kraken.broker_ids import NonceFile, plain
from piker.brokers.kraken.broker_schema import (
    AssetRow,
    BalanceEx,
    ClosedPage,
    KeyInfo,
    OpenPage,
    OrderRow,
    Token,
    TradeRow,
    TradesPage,
)
from piker.brokers.kraken.schema import Reply
from piker.brokers.limits import Limit, Priority
from piker.brokers.rest import RestClient
from piker.brokers.signing import KRAKEN_TOKEN_PATH, Param, form, kraken_headers, kraken_signer
from piker.errors import DataQuality, Rejected, Transient, Unknown
from piker.log import Secret

__all__ = ["PAGE", "PrivateRest", "open_private", "private_limit"]

PAGE = 50  # rows of ClosedOrders and TradesHistory
MAX_ORDERS, MAX_TRADES = 50, 20  # ids of one QueryOrders, one QueryTrades
_TIERS = {60: (15, 0.33), 125: (20, 0.5), 180: (20, 1.0)}  # Starter, Intermediate, Pro
NONCE_TRIES = 3  # a nonce that another machine's was above proves that nothing was done
OLD_NAMES = {"XBT": "BTC", "XDG": "DOGE"}  # REST's -> websocket v2's
SENT = "private"  # the kind of a call that has been counted already
_FORM = "application/x-www-form-urlencoded"
_INVALID_NONCE = "EAPI:Invalid nonce"
#: Unasked, REST makes one trade of all that a taker's order hit at once ("Query Orders Info",
#: ``consolidate_taker``): the websocket tells each, and under both ids it would count twice.
#: ``OpenOrders`` can not be told so.
_EACH_TRADE: Mapping[str, Param] = {"consolidate_taker": False}
_NO_SUCH_ORDER = ("EOrder:Unknown order", "EOrder:Invalid order")
LISTS = 4  # of ClosedOrders, TradesHistory, Ledgers; the venue's documents say 2, and 4
STOP_WAIT_S = 0.5  # for room in the counter, to stop the dead man's switch
QUERY_TRIES = 3  # of a question that changes nothing: what it is a part of need not begin anew
_AGAIN = Backoff(floor_s=0.1, cap_s=2.0)


_turns: trio.lowlevel.RunVar[dict[str, trio.Lock]] = trio.lowlevel.RunVar("kraken.turns")


def _turn_of(key: str) -> trio.Lock:
    """Return what has a key's calls arrive in order, whoever of this event loop makes them."""
    try:
        turns = _turns.get()
    except LookupError:
        _turns.set(turns := {})
    return turns.setdefault(blake2b(key.encode(), digest_size=8).hexdigest(), trio.Lock())


def _goes_on(at: int, rows: int, count: int | None) -> bool:
    """Tell whether there may be a page at ``at``, by the rows of the last one.

    Without a count, which may be absent, a page that is short is the last one.
    """
    if at == 0:
        return True
    return rows > 0 and at < count if count is not None else rows >= PAGE


def private_limit(account: str, tier: int = 60) -> Limit:
    """Return the counter of an account's private calls; ``tier`` is its trading counter's most."""
    kind = f"private {account}"
    most, fall = _TIERS.get(tier) or (20 * max(1.0, tier / 180), max(1.0, tier / 180))
    return Limit(kind, most, most / fall, "decay", "weight", (kind,), 0.0)


class PrivateRest:
    """The private calls of one key; made by :func:`open_private`."""

    def __init__(self, client: RestClient, credentials: Credentials, account: str) -> None:
        self._client = client
        self._key = Secret(credentials.key.reveal())
        self._sign = kraken_signer(credentials.secret)
        self._nonces = NonceFile(credentials.key.reveal())
        self._account = account
        self._kind = f"private {account}"
        self._turn = _turn_of(credentials.key.reveal())
        self.budget = client.budget
        limit = private_limit(account)
        if all(known.name != limit.name for known in self.budget.limits):
            self.budget.set_limits([limit])  # else a dialog may have learnt the account's tier

    def tier(self, most: int) -> None:
        """Take the account's tier, by what its trading counter reads at most."""
        self.budget.set_limits([private_limit(self._account, most)])

    async def call(
        self,
        name: str,
        params: Mapping[str, Param],
        type_: Any,  # Any: a decoded result
        *,
        weight: float = 1,
        priority: Priority = Priority.DATA,
        deadline_s: float = 10.0,
    ) -> Any:
        """Send one call and return its result.

        ``Rejected`` is the venue's refusal. ``Transient`` and ``Unknown`` leave open whether a call
        that changes something was carried out. It is signed anew, and sent again, only where its
        nonce was refused.
        """
        permit = await self.budget.acquire(weight, kind=self._kind, priority=priority)
        try:
            for _ in range(NONCE_TRIES):
                try:
                    if priority is Priority.CANCEL:
                        body = await self._send(name, params, deadline_s)
                    else:
                        async with self._turn:  # one after the other: nonces arrive in order
                            body = await self._send(name, params, deadline_s)
                    return self._result(name, body, type_)
                except Rejected as error:
                    if error.code != _INVALID_NONCE:
                        raise
            raise Transient(f"{PROVIDER}: {name}: {_INVALID_NONCE}, {NONCE_TRIES} times.")
        finally:
            permit.done()

    async def query(
        self, name: str, params: Mapping[str, Param], type_: Any, *, weight: float = 1
    ) -> Any:
        """Send a call that changes nothing and return its result: again where its answer is lost.

        Each try counts at the venue. Raises as :meth:`call` does.
        """
        tries = 1
        while True:
            try:
                return await self.call(name, params, type_, weight=weight)
            except (Transient, Unknown, DataQuality) as error:
                wish_s = (isinstance(error, Transient) and error.retry_after) or 0.0
                if tries == QUERY_TRIES or wish_s > _AGAIN.cap_s:
                    raise
                await trio.sleep(max(_AGAIN.wait_s(tries), wish_s))
                tries += 1

    async def _send(self, name: str, params: Mapping[str, Param], deadline_s: float) -> bytes:
        path, nonce = f"/0/private/{name}", self._nonces.next()
        body = form({"nonce": nonce, **params})
        headers = kraken_headers(self._key, self._sign, path=path, nonce=nonce, body=body)
        response = await self._client.request(
            "POST", path, body=body, headers={**headers, "Content-Type": _FORM}, weight=0,
            kind=SENT, deadline_s=deadline_s, idempotent=False,
        )  # fmt: skip
        return response.body

    @staticmethod
    def _result(name: str, body: bytes, type_: Any) -> Any:
        try:
            return msgspec.json.decode(body, type=Reply[type_]).result
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DataQuality(f"{PROVIDER}: {name}: {error}") from error

    # -- who -----------------------------------------------------------------------------------
    async def token(self) -> Secret:
        """Return a new token for the private websocket: the first thing that is asked."""
        name = KRAKEN_TOKEN_PATH.rpartition("/")[2]
        found: Token = await self.call(name, {}, Token, priority=Priority.ORDER)
        return Secret(found.token)

    async def rights(self) -> tuple[str, ...]:
        """Return what the key may do, in the venue's words."""
        found: KeyInfo = await self.query("GetApiKeyInfo", {}, KeyInfo)
        return tuple(found.permissions)

    async def asset_names(self) -> dict[str, str]:
        """Return the names of assets (``btc``) by REST's ids of them (``XXBT``)."""
        said = await self._client.get_json("/0/public/Assets", type=Reply[dict[str, AssetRow]])
        found = {}
        for name, row in said.result.items():
            asset, dot, rest = row.altname.partition(".")
            found[name] = f"{OLD_NAMES.get(asset, asset)}{dot}{rest}".lower()
        return found

    # -- what stands ---------------------------------------------------------------------------
    async def balances(self) -> dict[str, BalanceEx]:
        """Return balances by REST's ids of assets."""
        found: dict[str, BalanceEx] = await self.query("BalanceEx", {}, dict[str, BalanceEx])
        return found

    async def open_orders(self, cl_ord_id: str = "") -> dict[str, OrderRow]:
        """Return the orders that stand, all or one's, by txid; without trades: ``_EACH_TRADE``."""
        asked: dict[str, Param] = {"cl_ord_id": cl_ord_id} if cl_ord_id else {}
        found: OpenPage = await self.query("OpenOrders", asked, OpenPage)
        return found.open

    async def orders(self, txids: Sequence[str]) -> dict[str, OrderRow]:
        """Return orders by txid, open or not, with the ids of their trades; not those unknown."""
        found: dict[str, OrderRow] = {}
        for at in range(0, len(txids), MAX_ORDERS):
            found |= await self._orders(txids[at : at + MAX_ORDERS])
        return found

    async def _orders(self, txids: Sequence[str]) -> dict[str, OrderRow]:
        """Return some orders. The venue's documents do not say what it answers to an unknown id.

        Where it refuses them all for one of them, that one is found by halves.
        """
        asked: dict[str, Param] = {"txid": ",".join(txids), "trades": True, **_EACH_TRADE}
        try:
            found: dict[str, OrderRow] = await self.query("QueryOrders", asked, dict[str, OrderRow])
        except Rejected as error:
            if error.code not in _NO_SUCH_ORDER:
                raise
            half, found = len(txids) // 2, {}
            if half:
                found = await self._orders(txids[:half]) | await self._orders(txids[half:])
        return found

    async def closed_orders(self, cl_ord_id: str) -> dict[str, OrderRow]:
        """Return the orders of one cl_ord_id that have ended."""
        asked: dict[str, Param] = {"trades": True, "cl_ord_id": cl_ord_id, **_EACH_TRADE}
        found: ClosedPage = await self.query("ClosedOrders", asked, ClosedPage, weight=LISTS)
        wanted = ("", plain(cl_ord_id))
        return {k: row for k, row in found.closed.items() if plain(row.cl_ord_id) in wanted}

    async def closed_since(self, start_s: int) -> dict[str, OrderRow]:
        """Return every order that ended, or was placed, after a moment: newest first."""
        found: dict[str, OrderRow] = {}
        at = rows = 0
        count: int | None = None
        while _goes_on(
            at, rows, count
        ):  # what ends meanwhile comes first: pages overlap, and none is missed
            asked: dict[str, Param] = {
                "trades": True, "start": start_s, "ofs": at, **_EACH_TRADE
            }  # fmt: skip
            page: ClosedPage = await self.query("ClosedOrders", asked, ClosedPage, weight=LISTS)
            found |= page.closed
            at, rows, count = at + PAGE, len(page.closed), page.count
        return found

    async def trades(self, names: Sequence[str]) -> dict[str, TradeRow]:
        """Return fills by their ids."""
        found: dict[str, TradeRow] = {}
        for at in range(0, len(names), MAX_TRADES):
            asked = {"txid": ",".join(names[at : at + MAX_TRADES])}
            found |= await self.query("QueryTrades", asked, dict[str, TradeRow])
        return found

    async def trades_page(self, start_s: int, at: int) -> TradesPage:
        """Return a page of the fills after a moment (0: of all), ``at`` from the newest on."""
        asked: dict[str, Param] = {"start": start_s} if start_s > 0 else {}
        page: TradesPage = await self.query(
            "TradesHistory", {**asked, "ofs": at, **_EACH_TRADE}, TradesPage, weight=LISTS
        )
        return page

    async def trades_since(self, start_s: int) -> dict[str, TradeRow]:
        """Return every fill after a moment."""
        found: dict[str, TradeRow] = {}
        at = rows = 0
        count: int | None = None
        while _goes_on(at, rows, count):
            page = await self.trades_page(start_s, at)
            found |= page.trades
            at, rows, count = at + PAGE, len(page.trades), page.count
        return found

    # -- deeds that can not wait for the websocket ---------------------------------------------
    async def cancel(self, params: Mapping[str, Param]) -> None:
        """Cancel one order, by ``txid`` or ``cl_ord_id``."""
        await self.call("CancelOrder", params, Any, weight=0, priority=Priority.CANCEL)

    async def cancel_after(self, timeout_s: int) -> None:
        """Push the dead man's switch back, or stop it with 0.

        It counts at the venue, unlike a cancel. To be stopped it waits for no room: else all that
        stands would be canceled for want of it.
        """
        weight = 1.0
        if not timeout_s:
            try:
                permit = await self.budget.acquire(
                    1, kind=self._kind, priority=Priority.CANCEL, max_wait_s=STOP_WAIT_S
                )
                permit.done()
            except Transient:
                pass
            weight = 0.0
        await self.call(
            "CancelAllOrdersAfter", {"timeout": timeout_s}, Any, weight=weight,
            priority=Priority.CANCEL, deadline_s=5.0,
        )  # fmt: skip


@asynccontextmanager
async def open_private(credentials: Credentials, account: str) -> AsyncIterator[PrivateRest]:
    """Open the private calls of a key, which is forgotten here; ``ConfigError`` for a bad one."""
    async with open_client() as client:
        try:
            rest = PrivateRest(client, credentials, account)
        finally:
            credentials.forget()
        yield rest
