"""Clients of the loopback Kraken's accounts, with nothing of piker's own in them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import count
from typing import Any
from urllib.parse import urlencode

import h11
import trio
from trio_websocket import open_websocket_url

from piker.clock import wall_ns
from piker.testing.accounts import AccountSpec, account_of
from piker.testing.engine import BUY, SELL
from piker.testing.loopback import open_loopback


def secret(letter: str) -> str:
    """Return a secret of the right shape."""
    return base64.b64encode(letter.encode() * 64).decode()


ALICE = account_of(f"alice:alicekey:{secret('a')}:USD=1000000,BTC=10,ETH=100")
BOB = account_of(f"bob:bobkey:{secret('b')}:USD=1000000,BTC=10,ETH=100")
CAROL = account_of(f"carol:carolkey:{secret('c')}:USD=10:read")
OWNERS = (ALICE, BOB, CAROL)
TICK = Decimal("0.1")  # of BTC/USD


class Trader:
    """A client with one account's key, by REST."""

    def __init__(self, port: int, spec: AccountSpec) -> None:
        self.port, self.spec = port, spec

    def sign(self, path: str, nonce: str, body: bytes) -> str:
        """Return API-Sign."""
        assert self.spec.secret is not None
        key = base64.b64decode(self.spec.secret.reveal())
        said = path.encode() + hashlib.sha256(nonce.encode() + body).digest()
        return base64.b64encode(hmac.new(key, said, hashlib.sha512).digest()).decode()

    async def ask(self, name: str, **params: Any) -> Any:
        """Send a signed call; return its result, or the list of errors."""
        path, nonce = f"/0/private/{name}", str(wall_ns() // 1000)
        body = urlencode({"nonce": nonce, **params}).encode()
        said = await self.send(path, body, self.sign(path, nonce, body))
        return said["error"] or said["result"] if said is not None else None

    async def send(self, path: str, body: bytes, sign: str, kind: str = "") -> Any:
        """Send a request as it is; None where the connection is cut instead of an answer."""
        wire = h11.Connection(h11.CLIENT)
        head = {
            "Host": "x", "Content-Length": str(len(body)), "Connection": "close",
            "Content-Type": kind or "application/x-www-form-urlencoded",
            "API-Key": self.spec.key, "API-Sign": sign,
        }  # fmt: skip
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            request = h11.Request(method="POST", target=path, headers=list(head.items()))
            await stream.send_all((wire.send(request) or b"") + body)
            data = b""
            while chunk := await stream.receive_some(65_536):
                data += chunk
        content = data.partition(b"\r\n\r\n")[2]
        return json.loads(content, parse_float=Decimal) if content else None

    async def order(self, side: str, price: Any, size: Any, **more: Any) -> Any:
        """Place a limit order in XBTUSD; return its txid, or the errors."""
        said = {"pair": "XBTUSD", "type": side, "ordertype": "limit", "price": price,
                "volume": size} | more  # fmt: skip
        found = await self.ask("AddOrder", **{k: v for k, v in said.items() if v is not None})
        return found["txid"][0] if isinstance(found, dict) else found

    async def balances(self) -> dict[str, tuple[Decimal, Decimal]]:
        """Return (total, held) by asset."""
        rows = await self.ask("BalanceEx")
        return {
            name: (Decimal(row["balance"]), Decimal(row["hold_trade"]))
            for name, row in rows.items()
        }


@asynccontextmanager
async def loopback(*, rate: float = 0.01, **more: Any) -> AsyncIterator[Any]:
    """Serve a venue whose own flow is almost still; yield (venue, alice, bob, carol)."""
    owners = more.pop("accounts", OWNERS)
    async with open_loopback("kraken", symbols=2, rate=rate, accounts=owners, **more) as (
        venue,
        port,
    ):
        yield venue, *(Trader(port, spec) for spec in owners)
        assert venue.gate.counters.errors == 0


def top_of(venue: Any) -> tuple[Decimal, Decimal]:
    """Return the best bid and ask of BTC/USD."""
    engine = venue.listings[0].market.engine
    return engine.depth(BUY, 1)[0][0] * TICK, engine.depth(SELL, 1)[0][0] * TICK


def middle(venue: Any) -> Decimal:
    """Return a price between the best bid and ask."""
    bid, ask = top_of(venue)
    return (bid + ask) / 2 // TICK * TICK


class Socket:
    """A private connection: its events by channel, and answers by number."""

    def __init__(self, socket: Any, token: str) -> None:
        self.token = token
        self.events: dict[str, list[dict[str, Any]]] = {"executions": [], "balances": []}
        self.messages: list[dict[str, Any]] = []
        self.answers: dict[int, list[dict[str, Any]]] = {}
        self._socket, self._news, self._numbers = socket, trio.Event(), count(1)

    async def read(self) -> None:
        """Take what comes."""
        while True:
            text = await self._socket.get_message()
            said = json.loads(text, parse_float=Decimal)
            if said.get("channel") in self.events:
                self.messages.append(said)
                self.events[said["channel"]] += said["data"]
            elif "req_id" in said:
                self.answers.setdefault(said["req_id"], []).append(said)
            self._news.set()
            self._news = trio.Event()

    async def ask(self, method: str, answers: int = 1, **params: Any) -> Any:
        """Send a request; return its answer, or the list of them where there are more."""
        number = next(self._numbers)
        said = {"method": method, "params": {"token": self.token, **params}, "req_id": number}
        await self._socket.send_message(json.dumps(said))
        await self.until(lambda: len(self.answers.get(number, ())) >= answers)
        return self.answers[number][0] if answers == 1 else self.answers[number]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds of what came."""
        with trio.fail_after(10):
            while not holds():
                await self._news.wait()

    def kinds(self) -> list[str]:
        """Return the exec_types that came, in order."""
        return [row["exec_type"] for row in self.events["executions"]]


@asynccontextmanager
async def private(trader: Trader) -> AsyncIterator[Socket]:
    """Open a private connection with both channels subscribed."""
    token = (await trader.ask("GetWebSocketsToken"))["token"]
    async with open_websocket_url(f"ws://127.0.0.1:{trader.port}/v2") as raw:
        socket = Socket(raw, token)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(socket.read)
            for channel in ("executions", "balances"):
                assert (await socket.ask("subscribe", channel=channel))["success"]
            yield socket
            nursery.cancel_scope.cancel()
