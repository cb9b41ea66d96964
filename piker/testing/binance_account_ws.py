"""Spot's websocket API at the loopback Binance (``/ws-api/v3``): requests, sessions, user events.

Answers are sent as the stream ``answer METHOD`` and user events as ``user TYPE``: that is what the
``match`` of a fault sees besides their text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from piker.clock import wall_ns
from piker.testing.accounts import Account, AccountSpec
from piker.testing.binance_account import AccountSide
from piker.testing.binance_account_auth import socket_payload
from piker.testing.binance_account_calls import SOCKET_CALLS
from piker.testing.binance_account_limits import account_weight, failed_weight
from piker.testing.binance_account_params import VenueRefusal, missing
from piker.testing.binance_limits import WEIGHT_LIMITS, weight_of
from piker.testing.requests import Reply, Request
from piker.testing.server import Client

__all__ = ["SocketApi"]

MARKET_CALLS = {  # methods that answer as REST does at that path
    "ping": "ping", "time": "time", "exchangeInfo": "exchangeInfo", "depth": "depth",
    "trades.recent": "trades", "trades.historical": "historicalTrades",
    "trades.aggregate": "aggTrades", "klines": "klines", "uiKlines": "uiKlines",
    "avgPrice": "avgPrice", "ticker.24hr": "ticker/24hr", "ticker.price": "ticker/price",
    "ticker.book": "ticker/bookTicker",
}  # fmt: skip
MAX_SUBSCRIPTIONS = 1000  # of one connection
_encode = msgspec.json.encode
Market = Callable[[Request], Reply]


class _Ask(msgspec.Struct):
    id: int | str | None = None
    method: str = ""
    params: dict[str, msgspec.Raw] = {}


class _Session:
    """A connection: who logged on, and what it subscribed."""

    def __init__(self, now_ms: int) -> None:
        self.since_ms = now_ms
        self.spec: AccountSpec | None = None
        self.logged_ms = 0
        self.tells_limits = True
        self.subscriptions: dict[int, tuple[Account, Callable[[dict[str, Any]], None]]] = {}
        self.next_subscription = 0


class SocketApi:
    """The connections of the websocket API; ``market`` answers what needs no account."""

    def __init__(self, side: AccountSide, market: Market) -> None:
        self._side = side
        self._market = market
        self._sessions: dict[Client, _Session] = {}

    def connected(self, client: Client) -> None:
        """Take a connection in."""
        session = self._sessions[client] = _Session(wall_ns() // 1_000_000)
        session.tells_limits = client.request.params.get("returnRateLimits") != "false"

    def gone(self, client: Client) -> None:
        """End what a connection subscribed."""
        for account, listener in self._sessions.pop(client).subscriptions.values():
            account.listeners.remove(listener)

    def text(self, client: Client, message: str) -> None:
        """Do what a request says, and answer it."""
        try:
            ask = msgspec.json.decode(message, type=_Ask)
            params = {name: _text_of(raw) for name, raw in ask.params.items()}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            error = {"code": -1135, "msg": "Invalid JSON Request"}
            client.send(_encode({"id": None, "status": 400, "error": error}), "answer")
            return
        session = self._sessions[client]
        if "returnRateLimits" in params:
            session.tells_limits = params["returnRateLimits"] != "false"
        status, body = self._answer(client, session, ask.method, params)
        said: dict[str, Any] = {"id": ask.id, "status": status}
        said["result" if status == 200 else "error"] = body
        if session.tells_limits:
            said["rateLimits"] = self._limits(client)
        client.send(_encode(said), f"answer {ask.method}")

    def _answer(
        self, client: Client, session: _Session, method: str, params: dict[str, str]
    ) -> tuple[int, Any]:  # Any: a JSON body
        call, _, path = SOCKET_CALLS.get(method, "").partition(" ")
        if refused := self._spend(client, call, path or MARKET_CALLS.get(method, ""), params):
            error = msgspec.json.decode(refused.body)
            wait_ms = 1000 * int(refused.headers["Retry-After"])
            now_ms = wall_ns() // 1_000_000
            error["data"] = {"serverTime": now_ms, "retryAfter": now_ms + wait_ms}
            return refused.status, error
        if method in MARKET_CALLS:
            return self._of_market(client, MARKET_CALLS[method], params)
        try:
            if method in SOCKET_CALLS:
                spec = self._who(session, params)
                done = self._side.run("spot", SOCKET_CALLS[method], spec, params)
                if done.refusal is not None:
                    self._spend_failed(client, call, path)
                return done.status, done.body
            return 200, self._session_call(client, session, method, params)
        except VenueRefusal as refusal:
            return refusal.status, self._side.refused(refusal).body

    def _of_market(self, client: Client, path: str, params: dict[str, str]) -> tuple[int, Any]:
        request = Request("GET", f"/api/v3/{path}", params, {}, peer=client.request.peer)
        reply = self._market(request)
        return reply.status, msgspec.Raw(reply.body)

    # -- who asks ------------------------------------------------------------------------------
    def _who(self, session: _Session, params: dict[str, str]) -> AccountSpec:
        """Return who signed a request, or who logged on."""
        if session.spec is not None and "apiKey" not in params:
            if not params.get("timestamp"):
                raise missing("timestamp")
            return session.spec
        spec = self._side.keys.holder(params.get("apiKey", ""))
        self._side.keys.signed(spec, socket_payload(params), params, wall_ns() // 1_000_000)
        return spec

    def _session_call(
        self, client: Client, session: _Session, method: str, params: dict[str, str]
    ) -> Any:  # Any: a JSON body
        if method == "session.logon":
            spec = self._who(session, {**params, "apiKey": params.get("apiKey", "")})
            if not spec.public_key:  # HMAC keys can not log on
                text = "Invalid API-key, IP, or permissions for action."
                raise VenueRefusal(-2015, text, status=401)
            session.spec, session.logged_ms = spec, wall_ns() // 1_000_000
        elif method == "session.logout":
            session.spec, session.logged_ms = None, 0
        elif method == "session.subscriptions":
            return [{"subscriptionId": number} for number in session.subscriptions]
        elif method in ("userDataStream.subscribe", "userDataStream.subscribe.signature"):
            return {"subscriptionId": self._subscribe(client, session, method, params)}
        elif method == "userDataStream.unsubscribe":
            return self._unsubscribe(session, params)
        elif method != "session.status":
            raise VenueRefusal(-1020, "This operation is not supported.")
        return {
            "apiKey": session.spec.key if session.spec else None,
            "authorizedSince": session.logged_ms or None, "connectedSince": session.since_ms,
            "returnRateLimits": session.tells_limits, "serverTime": wall_ns() // 1_000_000,
            "userDataStream": bool(session.subscriptions),
        }  # fmt: skip

    # -- user events ---------------------------------------------------------------------------
    def _subscribe(
        self, client: Client, session: _Session, method: str, params: dict[str, str]
    ) -> int:  # fmt: skip
        if method.endswith("signature"):
            spec = self._who(session, {**params, "apiKey": params.get("apiKey", "")})
        elif session.spec is None:
            raise VenueRefusal(-1002, "You are not authorized to execute this request.", status=401)
        else:
            spec = session.spec
        self._side.keys.permit(spec, "read")
        account = self._side.spot.accounts[spec.name]
        if any(one is account for one, _ in session.subscriptions.values()):
            raise VenueRefusal(-2035, "User Data Stream subscription already active.")
        if session.next_subscription >= MAX_SUBSCRIPTIONS:
            text = "Maximum subscription ID reached for this connection."
            raise VenueRefusal(-2042, text)
        number = session.next_subscription
        session.next_subscription += 1

        def listener(event: dict[str, Any]) -> None:
            body = {"subscriptionId": number, "event": event}
            client.send(_encode(body), f"user {event['e']}")

        account.listeners.append(listener)
        session.subscriptions[number] = (account, listener)
        return number

    @staticmethod
    def _unsubscribe(session: _Session, params: dict[str, str]) -> dict[str, Any]:
        text = params.get("subscriptionId", "")
        numbers = [int(text)] if text.isdecimal() else list(session.subscriptions)
        for number in numbers:
            found = session.subscriptions.pop(number, None)
            if found is None:
                raise VenueRefusal(-2036, "User Data Stream subscription not active.")
            found[0].listeners.remove(found[1])
        return {}

    # -- limits --------------------------------------------------------------------------------
    def _spend(self, client: Client, call: str, path: str, params: dict[str, str]) -> Reply | None:
        """Count a request's weight, 2 of the methods that REST does not have."""
        if self._side.limits is None:
            return None
        weight = account_weight("spot", call, path, params) if call else None
        if weight is None:
            weight = weight_of("spot", path, params) if path else 2
        return self._side.limits.spend("spot", client.request.peer, weight)

    def _spend_failed(self, client: Client, call: str, path: str) -> None:
        if self._side.limits is not None:
            weight = failed_weight("spot", call, path)
            self._side.limits.spend("spot", client.request.peer, weight)

    def _limits(self, client: Client) -> list[dict[str, Any]]:
        used = self._side.limits.used() if self._side.limits is not None else {}
        count = int(used.get(f"spot weight {client.request.peer}", 0))
        weight = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1,
                  "limit": WEIGHT_LIMITS["spot"], "count": count}  # fmt: skip
        return [weight]


def _text_of(raw: msgspec.Raw) -> str:
    """Return a parameter as it was sent: the text of a string, else its JSON."""
    data = bytes(raw)
    return msgspec.json.decode(data, type=str) if data[:1] == b'"' else data.decode()
