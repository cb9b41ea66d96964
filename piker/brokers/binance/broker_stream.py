"""Binance's user events: spot's over the websocket API, USD-M's by a listen key.

Spot's listen keys are gone since February 2026; a signed request on the connection subscribes
(``userDataStream.subscribe.signature``), and events come as ``{"subscriptionId", "event"}``.
USD-M's listen key is made, or lengthened, with each connection and every half hour.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import msgspec
import trio

from piker.brokers.binance.api import KINDS, PROVIDER, url
from piker.brokers.binance.broker_rest import Signed
from piker.brokers.ws import Link, Ws, open_ws
from piker.config import load_brokers
from piker.errors import BrokerError, ConfigError, Rejected, Transient
from piker.log import get_logger
from piker.ticks import Outage, Resync

__all__ = ["Hearer", "listen_spot", "listen_usdm", "spot_api_url"]

log = get_logger("binance.broker")

SPOT_API = "wss://ws-api.binance.com:443"
ANSWER_S = 10.0  # a subscription is answered by then, or the connection is given up
KEEP_S = 1800.0  # a listen key lives for 60 minutes: half of that leaves time to try again
KEEP_AGAIN_S = 60.0
NEVER_S = 10 * 365 * 86_400.0  # a quiet user stream proves nothing: at 24 h the venue cuts it
LOCAL = ("127.0.0.1", "localhost", "::1")


class Hearer(Protocol):
    """Who is told what comes over a user stream."""

    def subscribed(self) -> None:
        """Know that from now on events come."""
        ...

    def lost(self, reason: str) -> None:
        """Know that no events come."""
        ...

    def doubted(self, reason: str) -> None:
        """Know that an event came that could not be read."""
        ...

    async def event(self, kind: str, raw: bytes) -> None:
        """Take an event in."""
        ...


def spot_api_url() -> str:
    """Return where the websocket API is: beside a stand-in, where REST was moved to one.

    Raises ``ConfigError`` where REST was moved elsewhere and this was not.
    """
    table = load_brokers().get(PROVIDER)
    urls = table.urls if table else {}
    if chosen := urls.get("spot_ws_api"):
        return chosen.rstrip("/")
    rest = urls.get("spot_http")
    if rest is None:
        return SPOT_API
    if urlsplit(rest).hostname in LOCAL:
        return url(KINDS["spot"], "ws")
    raise ConfigError(
        f"binance: spot_http is {rest}, but spot_ws_api was not said: keys of one venue would go "
        "to another.",
        remedy="Say spot_ws_api under [binance.urls] of brokers.toml, too.",
    )


# -- spot --------------------------------------------------------------------------------------
class _Answer(msgspec.Struct):
    """A frame of the websocket API: an answer, or an event."""

    id: int | str | None = None
    status: int = 0
    error: msgspec.Raw = msgspec.Raw(b"")
    event: msgspec.Raw = msgspec.Raw(b"")


class _Error(msgspec.Struct):
    code: int = 0
    msg: str = ""


class _Event(msgspec.Struct):
    e: str


_ALREADY = -2035  # "User Data Stream subscription already active."
_SKEWED = -1021


async def listen_spot(signed: Signed, hears: Hearer) -> None:
    """Hear an account's events at spot, for ever."""
    stream = _SpotStream(signed, hears)
    async with (
        trio.open_nursery() as nursery,
        open_ws(
            spot_api_url() + "/ws-api/v3", venue=f"{PROVIDER}.spot", on_connect=stream.subscribe,
            is_live=lambda frame: b'"subscriptionId"' in frame,
        ) as ws,
    ):  # fmt: skip
        nursery.start_soon(stream.watch, ws)
        await _hear(ws, hears, stream.frame)


class _SpotStream:
    def __init__(self, signed: Signed, hears: Hearer) -> None:
        self._signed = signed
        self._hears = hears
        self._number = 0
        self._asked = trio.Event()  # a subscription was sent
        self._answered = trio.Event()

    async def subscribe(self, link: Link) -> None:
        """Subscribe on a new connection."""
        await self._signed.clock.ready()
        self._number += 1
        self._answered = trio.Event()
        said = {
            "id": f"subscribe-{self._number}", "method": "userDataStream.subscribe.signature",
            "params": self._signed.ws_params({}),
        }  # fmt: skip
        await link.send(msgspec.json.encode(said).decode())
        self._asked.set()

    async def watch(self, ws: Ws) -> None:
        """Give a connection up on which the subscription is not answered."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            with trio.move_on_after(ANSWER_S) as waiting:
                await self._answered.wait()
            if waiting.cancelled_caught and not self._asked.is_set():
                ws.reset("the subscription was not answered")

    async def frame(self, ws: Ws, frame: bytes) -> None:
        """Take a frame in."""
        said = msgspec.json.decode(frame, type=_Answer)
        if said.event:
            kind = msgspec.json.decode(said.event, type=_Event).e
            if kind == "eventStreamTerminated":
                ws.reset("the venue ended the user stream")
            elif kind == "serverShutdown":
                ws.rotate(kind)
            else:
                await self._hears.event(kind, bytes(said.event))
            return
        if said.id != f"subscribe-{self._number}":
            return
        # One that can not be read is none: the connection is given up when its time is over.
        refused = said.status != 200 and said.error
        error = msgspec.json.decode(said.error, type=_Error) if refused else _Error()
        self._answered.set()
        if said.status == 200:
            self._hears.subscribed()
            return
        if error.code == _ALREADY:
            self._hears.subscribed()
            return
        log.error("binance.no_user_stream", venue="spot", code=error.code, why=error.msg)
        if error.code == _SKEWED:
            await _measure(self._signed)
        ws.reset(f"no user stream: {error.msg} ({error.code})")


async def _measure(signed: Signed) -> None:
    try:
        await signed.clock.measure()
    except BrokerError as error:
        log.info("binance.no_time", why=error)


async def _hear(
    ws: Ws,
    hears: Hearer,
    take: Callable[[Ws, bytes], Awaitable[None]],
    *,
    again: Callable[[], None] = lambda: None,
) -> None:
    """Hand on what a connection brings; call ``again`` at another one, after the loss was told."""
    async for item in ws:
        if isinstance(item, Outage):
            hears.lost(item.reason)
        elif isinstance(item, Resync):
            again()
        else:
            for frame in item.frames:
                try:
                    await take(ws, frame)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    hears.doubted(f"a frame that can not be read: {error}")


# -- USD-M -------------------------------------------------------------------------------------
class _ListenKey(msgspec.Struct, rename="camel"):
    listen_key: str


async def listen_usdm(signed: Signed, hears: Hearer) -> None:
    """Hear an account's events at USD-M, for ever."""
    stream = _UsdmStream(signed, hears)
    async with (
        trio.open_nursery() as nursery,
        open_ws(
            stream.url, venue=f"{PROVIDER}.usdm", on_connect=stream.connected,
            rotate_after_s=NEVER_S,
        ) as ws,
    ):  # fmt: skip
        nursery.start_soon(stream.keep, ws)
        await _hear(ws, hears, stream.frame, again=hears.subscribed)


class _UsdmStream:
    def __init__(self, signed: Signed, hears: Hearer) -> None:
        self._signed = signed
        self._hears = hears
        self._begun = False

    async def _manage(self, method: str, kind: type[Any]) -> Any:  # Any: of that type
        return await self._signed.ask(
            method, "/fapi/v1/listenKey", type=kind, signed=False, weight=1
        )

    async def url(self) -> str:
        """Return an address with a key that is valid for an hour."""
        try:
            made = await self._manage("POST", _ListenKey)
        except BrokerError as error:  # it is tried again: an absent venue is no error
            if isinstance(error, Rejected):
                log.error("binance.no_user_stream", venue="usdm", why=error)
            raise Transient(f"binance: no listen key: {error}") from error
        return f"{url(KINDS['usdtm'], 'ws')}/private/ws?listenKey={quote(made.listen_key)}"

    async def connected(self, link: Link) -> None:
        """Know of the first connection that events come: the address alone subscribes.

        Of a later one that is told in its turn (``again``): it may be there before whoever hears
        has come as far as the loss of the one before, and would take that for its own.
        """
        if not self._begun:
            self._begun = True
            self._hears.subscribed()

    async def keep(self, ws: Ws) -> None:
        """Keep the listen key alive; connect anew where it is gone."""
        wait_s = KEEP_S
        while True:
            await trio.sleep(wait_s)
            wait_s = KEEP_S
            try:
                await self._manage("PUT", dict)
            except Rejected as error:
                ws.reset(f"the listen key is gone: {error.code}")
            except BrokerError:
                wait_s = KEEP_AGAIN_S

    async def frame(self, ws: Ws, frame: bytes) -> None:
        """Take a frame in."""
        kind = msgspec.json.decode(frame, type=_Event).e
        if kind == "listenKeyExpired":
            ws.reset("the listen key has expired")
        elif kind == "serverShutdown":
            ws.rotate(kind)
        else:
            await self._hears.event(kind, frame)
