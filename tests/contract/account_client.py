"""Clients of the loopback Binance's accounts, with nothing of piker's own in them."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import h11
import trio
from trio_websocket import open_websocket_url

from piker.clock import wall_ns
from piker.testing.accounts import AccountSpec, account_of
from piker.testing.binance_account_auth import socket_payload
from piker.testing.engine import BUY, SELL
from piker.testing.loopback import open_loopback

ALICE = account_of("alice:alicekey:alicesecret:USDT=1000000,BTC=10")
BOB = account_of("bob:bobkey:bobsecret:USDT=100000,BTC=5")
POOR = account_of("carol:carolkey:carolsecret:USDT=10:read")
OWNERS = (ALICE, BOB, POOR)


class Trader:
    """A client with one account's key; ``skew_ms`` is what its clock is wrong by."""

    def __init__(self, port: int, spec: AccountSpec, **more: Any) -> None:
        self.port, self.spec, self.skew_ms = port, spec, 0
        self.window = more.get("window", "")
        self.headers: dict[str, str] = {}

    def sign(self, text: str) -> str:
        """Return the HMAC of a text."""
        assert self.spec.secret is not None
        return hmac.new(
            self.spec.secret.reveal().encode(), text.encode(), hashlib.sha256
        ).hexdigest()

    async def ask(self, method: str, path: str, **params: Any) -> tuple[int, Any]:
        """Send a signed request; return (status, body)."""
        params["timestamp"] = wall_ns() // 1_000_000 + self.skew_ms
        text = urlencode(params)
        return await self.send(method, path, f"{text}&signature={self.sign(text)}")

    async def send(self, method: str, path: str, query: str, body: str = "") -> tuple[int, Any]:
        """Send a request as it is; (0, None) where the connection is cut instead of an answer."""
        wire = h11.Connection(h11.CLIENT)
        key = {"X-MBX-APIKEY": self.spec.key} if self.spec.key else {}
        head = {"Host": "x", "Content-Length": str(len(body)), "Connection": "close", **key}
        target = path + (f"?{query}" if query else "")
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            request = h11.Request(method=method, target=target, headers=list(head.items()))
            await stream.send_all((wire.send(request) or b"") + body.encode())
            data = b""
            while chunk := await stream.receive_some(65_536):
                data += chunk
        if not data:
            return 0, None
        top, _, content = data.partition(b"\r\n\r\n")
        lines = top.decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:])
        self.headers = {name.lower(): value for name, value in pairs}
        return int(lines[0].split()[1]), json.loads(content)

    async def order(self, side: str, price: Any, size: Any, **more: Any) -> tuple[int, Any]:
        """Place a limit order."""
        said = {"symbol": "BTCUSDT", "side": side, "type": "LIMIT", "timeInForce": "GTC",
                "quantity": size, "price": price} | more  # fmt: skip
        said = {name: value for name, value in said.items() if value is not None}
        return await self.ask("POST", "/api/v3/order", **said)

    async def balances(self) -> dict[str, tuple[Decimal, Decimal]]:
        """Return (free, locked) by asset."""
        _, body = await self.ask("GET", "/api/v3/account")
        return {
            row["asset"]: (Decimal(row["free"]), Decimal(row["locked"])) for row in body["balances"]
        }


@asynccontextmanager
async def loopback(*, rate: float = 0.01, **more: Any) -> AsyncIterator[Any]:
    """Serve a venue whose own flow is almost still; yield (venue, alice, bob, carol)."""
    owners = more.pop("accounts", OWNERS)
    async with open_loopback("binance", symbols=2, rate=rate, accounts=owners, **more) as (
        venue,
        port,
    ):
        yield venue, *(Trader(port, spec) for spec in owners)
        assert venue.gate.counters.errors == 0


def top_of(venue: Any, kind: str = "spot") -> tuple[Decimal, Decimal]:
    """Return the best bid and ask of BTCUSDT."""
    engine = venue.listings[kind, "BTCUSDT"].market.engine
    tick = Decimal("0.01")
    return engine.depth(BUY, 1)[0][0] * tick, engine.depth(SELL, 1)[0][0] * tick


@asynccontextmanager
async def listening(port: int, spec: AccountSpec) -> AsyncIterator[Any]:
    """Subscribe the user events of an account; yield (events, ask) of the connection."""
    events: list[dict[str, Any]] = []
    answers: dict[Any, Any] = {}
    news = trio.Event()

    async with open_websocket_url(f"ws://127.0.0.1:{port}/ws-api/v3") as socket:

        async def read() -> None:
            nonlocal news
            while True:
                said = json.loads(await socket.get_message())
                if "event" in said:
                    events.append(said["event"])
                else:
                    answers.setdefault(said["id"], []).append(said)
                news.set()
                news = trio.Event()

        async def ask(method: str, signed: bool = True, **params: Any) -> Any:
            if signed:
                params |= {"apiKey": spec.key, "timestamp": wall_ns() // 1_000_000}
                secret = spec.secret.reveal() if spec.secret else ""
                payload = socket_payload({k: str(v) for k, v in params.items()})
                made = hmac.new(secret.encode(), payload, hashlib.sha256).hexdigest()
                params["signature"] = made
            number = f"{method} {len(answers)}"
            await socket.send_message(
                json.dumps({"id": number, "method": method, "params": params})
            )
            with trio.fail_after(10):
                while number not in answers:
                    await news.wait()
            return answers[number][0]

        async def wait(count: int) -> list[dict[str, Any]]:
            with trio.fail_after(10):
                while len(events) < count:
                    await news.wait()
            return events

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            assert (await ask("userDataStream.subscribe.signature"))["result"] == {
                "subscriptionId": 0
            }
            yield wait, ask
            nursery.cancel_scope.cancel()
