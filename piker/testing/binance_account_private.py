"""USD-M's user events at the loopback Binance: listen keys, and the sockets that they open."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from typing import Any

import msgspec
import trio

from piker.testing.accounts import Account
from piker.testing.binance_account_params import VenueRefusal
from piker.testing.requests import Request
from piker.testing.server import Client

__all__ = ["LISTEN_KEY_S", "PrivateStreams", "is_private"]

LISTEN_KEY_S = 3600.0  # a key lives so long, and again after each PUT
_LETTERS = string.ascii_letters + string.digits
_encode = msgspec.json.encode


def is_private(request: Request) -> bool:
    """Tell a connection for user events."""
    return "private" in request.path.split("/")


def _key_of(request: Request) -> str:
    tail = request.path.rstrip("/").rpartition("/")[2]
    return request.params.get("listenKey") or ("" if tail == "ws" else tail)


class PrivateStreams:
    """The listen keys of the accounts, and who listens with them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"{seed}:listen-keys")
        self._keys: dict[str, tuple[Account, float]] = {}  # with its end on trio's clock
        self._listeners: dict[Client, tuple[Account, Callable[[dict[str, Any]], None]]] = {}

    def manage(self, method: str, account: Account) -> dict[str, Any]:
        """Make, keep or end the listen key of an account; -1125 where there is none."""
        key = next((key for key, (one, _) in self._keys.items() if one is account), "")
        if method == "POST":
            key = key or "".join(self._random.choices(_LETTERS, k=64))
        if not key:
            raise VenueRefusal(-1125, "This listenKey does not exist.")
        if method == "DELETE":
            del self._keys[key]
            return {}
        self._keys[key] = (account, trio.current_time() + LISTEN_KEY_S)
        return {"listenKey": key}

    def connected(self, client: Client) -> None:
        """Let a connection hear; one with a key that is none never hears anything."""
        account, _ = self._keys.get(_key_of(client.request), (None, 0.0))
        if account is None:
            return
        only = client.request.params.get("events", "")

        def listener(event: dict[str, Any]) -> None:
            if not only or event["e"] in only.split("/"):
                client.send(_encode(event), f"user {event['e']}")

        account.listeners.append(listener)
        self._listeners[client] = (account, listener)

    def gone(self, client: Client) -> None:
        """Forget a connection."""
        account, listener = self._listeners.pop(client, (None, None))
        if account is not None and listener is not None:
            account.listeners.remove(listener)

    def expire(self, now: float, time_ms: int) -> None:
        """End the keys that were not kept alive, and tell who listens with them."""
        for key, (account, end) in list(self._keys.items()):
            if now < end:
                continue
            del self._keys[key]
            body = {"e": "listenKeyExpired", "E": time_ms, "listenKey": key}
            for client, (one, _) in list(self._listeners.items()):
                if one is account:
                    client.send(_encode(body), "user listenKeyExpired")
                    self.gone(client)
