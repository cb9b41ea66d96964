"""Signed requests to one of Binance's markets: the venue's time, its budget, what answers mean.

A request that changes something has one of four ends: an answer, ``Rejected`` (the venue's proof
that it was not carried out), ``Transient`` (it is proved not to have been carried out and may be
sent again: 429, 418, a refused connection, a time out of the window), or ``Unknown``.
Facts: docs/brokers/binance.md, and the venue's rest-api.md ("HTTP Return Codes", "SIGNED").
"""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import msgspec
import trio

from piker import clock
from piker.brokers.binance import schema
from piker.brokers.binance.api import KINDS, PROVIDER, budget_of, url
from piker.brokers.binance.broker_facts import VenueName
from piker.brokers.limits import CANCEL, DATA, Limit, Priority
from piker.brokers.rest import OverKind, RestClient, open_rest
from piker.brokers.signing import Param, Signer, binance_query, binance_ws_params
from piker.errors import BrokerError, PikerError, Rejected, Transient, Unknown
from piker.log import Secret, get_logger

__all__ = [
    "PATIENCE_S",
    "SLACK_MS",
    "NotServed",
    "Sent",
    "Signed",
    "Skewed",
    "VenueClock",
    "open_signed",
]

log = get_logger("binance.broker")

SAMPLES = 5  # of the venue's time; the best half of them by round trip is trusted
FRESH_S = 1.0  # a measure so young is not taken again because another request was refused too
MEASURE_EVERY_S = 600.0  # a clock that is off by 100 ppm drifts 60 ms in that time
#: The venue's queries are believed when they have said for so long that there is no order; no
#: figure of its own is documented, and reports of -2013 right after an ack speak of seconds.
PATIENCE_S = 60.0
SLACK_MS = 1000  # beyond recvWindow until a request can no longer be taken
DEADLINE_MORE_S = 2.0  # an answer is waited for so much longer than the request is valid
QUERY_DEADLINE_S = 10.0  # the toolkit's own
#: A query that comes late does no harm: it is valid for as long as the venue allows, and may wait
#: its turn behind orders for half of that.
QUERY_WINDOW_MS = 60_000
SIT_OUT_S = 10.0  # the market of an order that waits for longer is another one
CONNECTIONS = {"orders": 8, "cancels": 4, "queries": 4}  # sockets: a flood of one holds no other up

#: The venue's codes for "what became of it is not known", whatever the HTTP status.
_UNKNOWN = frozenset({-1000, -1001, -1006, -1007, -1008, -1016})
_ORDERS = -1015  # too many new orders, of that account: nothing else has to wait
_AGAIN = frozenset({-1003, -1015, -1034})  # not carried out: too many requests, orders, connections
#: A time that the venue refuses; -5028 is that of USD-M's engine, which looks at it once more.
_SKEWED = frozenset({-1021, -5028})

T = TypeVar("T")


class Skewed(Transient):
    """The request's time was not the venue's: it was not carried out."""


class NotServed(Unknown):
    """There is no such path: testnets lack some."""


class _Inner(msgspec.Struct):
    """One half of a cancel-and-replace that failed."""

    msg: str = ""
    code: int = 0


class _Halves(msgspec.Struct, rename="camel"):
    cancel_response: _Inner | None = None
    new_order_response: _Inner | None = None


class _Refusal(msgspec.Struct):
    code: int = 0
    msg: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


def classify(status: int, headers: Mapping[str, str], body: bytes) -> PikerError | None:
    """Return what a refusal means; only a code of the venue's own proves anything."""
    if status < 400:
        return None
    try:
        said = msgspec.json.decode(body, type=_Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = _Refusal()
    if status == 404 and not said.code:
        return NotServed("binance: HTTP 404")
    halves = _halves(said)
    is_open = said.code in _UNKNOWN or any(half.code in _UNKNOWN for half in halves)
    if not said.code or said.code > 0 or is_open or status >= 500:
        return Unknown(f"binance: HTTP {status} {said.msg} ({said.code})")
    why = "".join(f" {half.msg}" for half in halves)
    text = f"binance: {said.msg}{why} ({said.code})"
    if said.code in _SKEWED:
        return Skewed(text)
    if said.code == _ORDERS:
        return OverKind(text)
    return Transient(text) if said.code in _AGAIN else Rejected(text, code=str(said.code))


def _halves(said: _Refusal) -> list[_Inner]:
    """Return the halves of a cancel-and-replace that failed; what became of one may be open."""
    try:
        data = msgspec.json.decode(said.data, type=_Halves | None)
    except msgspec.DecodeError:
        return []
    if data is None:
        return []
    found = (data.cancel_response, data.new_order_response)
    return [half for half in found if half is not None and half.code]


# -- time --------------------------------------------------------------------------------------
class VenueClock:
    """The venue's time, by our monotonic clock: a wall clock that is set changes nothing."""

    def __init__(self, client: RestClient, path: str) -> None:
        self._client = client
        self._path = path
        self._lock = trio.Lock()
        self._ahead_ns = 0  # of the venue's time over our monotonic one
        self._at_ns: int | None = None  # when that was measured

    def now_ms(self) -> int:
        """Return the venue's time now, as far as it is known."""
        return (clock.monotonic_ns() + self._ahead_ns) // 1_000_000

    async def ready(self) -> None:
        """Measure where that was never done, or long ago."""
        if self._at_ns is None or self._age_s() > MEASURE_EVERY_S:
            await self.measure()

    async def measure(self) -> None:
        """Ask for the venue's time; ``Transient`` where no answer comes. Once for all who wait."""
        async with self._lock:
            if self._at_ns is not None and self._age_s() < FRESH_S:
                return
            samples: list[tuple[int, int]] = []  # (round trip, how far the venue is ahead)
            failure: BrokerError | None = None
            for _ in range(SAMPLES):
                try:
                    samples.append(await self._sample())
                except BrokerError as error:
                    failure = error
            if not samples:
                raise Transient(f"binance: its time can not be had: {failure}")
            best = sorted(samples)[: SAMPLES // 2 + 1]
            self._ahead_ns = round(statistics.median(ahead for _, ahead in best))
            self._at_ns = clock.monotonic_ns()
            skew_ms = (self._ahead_ns + self._at_ns - clock.wall_ns()) // 1_000_000
            log.info("binance.clock", ahead_ms=skew_ms, round_trip_ms=best[0][0] // 1_000_000)

    async def _sample(self) -> tuple[int, int]:
        before = clock.monotonic_ns()
        answer = await self._client.request("GET", self._path, weight=1, idempotent=False)
        after = clock.monotonic_ns()
        try:
            said = msgspec.json.decode(answer.body, type=schema.ServerTime)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Transient(f"binance: {self._path}: {error}") from error
        if not 0 < said.server_time < 2**43:  # in ms: until the year 2248
            raise Transient(f"binance: {self._path}: no time: {said.server_time}")
        return after - before, said.server_time * 1_000_000 - (before + after) // 2

    def _age_s(self) -> float:
        return (clock.monotonic_ns() - (self._at_ns or 0)) / clock.NS


# -- requests ----------------------------------------------------------------------------------
class Sent(msgspec.Struct):
    """When the latest attempt of a request was signed, in the venue's time; 0: not yet."""

    at_ms: int = 0


class Signed:
    """Signed requests of one account to one market; made by :func:`open_signed`."""

    def __init__(
        self,
        venue: VenueName,
        account: str,
        sign: Signer,
        key: Secret,
        *,
        clients: Mapping[str, RestClient],
        window_ms: int,
        patience_s: float,
    ) -> None:
        self.venue: VenueName = venue
        self.account = account
        self.window_ms = window_ms
        self.patience_s = patience_s  # for which its queries may be behind what takes orders
        self.order_kind = f"order.{account}"  # the venue counts an account's orders by themselves
        self.budget = budget_of(venue)
        self._sign = sign
        self._key = key
        self._clients = clients
        prefix = _kind(venue).prefix
        self.clock = VenueClock(clients["queries"], f"{prefix}/time")

    async def query(
        self,
        path: str,
        params: Mapping[str, Param] | None = None,
        *,
        type: type[T],
        weight: int,
    ) -> T:
        """Ask for something; ``Rejected`` where the venue says no, else ``BrokerError``."""
        return await self.ask("GET", path, params, type=type, weight=weight)

    async def ask(
        self,
        method: str,
        path: str,
        params: Mapping[str, Param] | None = None,
        *,
        type: type[T],
        weight: int = 1,
        role: str = "queries",
        signed: bool = True,
        sent: Sent | None = None,
    ) -> T:
        """Send one request and return its answer; see the module's text for how it may end.

        ``role`` is ``orders``, ``cancels`` or ``queries``: whose sockets and turn it takes. A time
        that the venue refuses is measured anew and the request signed again, once.
        """
        try:
            return await self._ask(method, path, params, type, weight, role, signed, sent)
        except Skewed:
            await self.clock.measure()
            return await self._ask(method, path, params, type, weight, role, signed, sent)

    async def _ask(
        self, method: str, path: str, params: Mapping[str, Param] | None, type: type[T],
        weight: int, role: str, signed: bool, sent: Sent | None,
    ) -> T:  # fmt: skip
        await self.clock.ready()
        kind, priority = {
            "orders": (self.order_kind, Priority.ORDER), "cancels": (CANCEL, Priority.CANCEL),
        }.get(role, (DATA, Priority.DATA))  # fmt: skip
        await self._sit_out(kind)
        changes = method != "GET"
        window_ms = self.window_ms if changes else QUERY_WINDOW_MS
        now_ms = self.clock.now_ms()
        if sent is not None:
            sent.at_ms = now_ms
        query = ""
        if signed:
            said = {**(params or {}), "recvWindow": window_ms, "timestamp": now_ms}
            query = binance_query(said, self._sign).decode("ascii")
        answer = await self._clients[role].request(
            method, path, params=query, weight=weight, kind=kind, priority=priority,
            deadline_s=window_ms / 1000 + DEADLINE_MORE_S if changes else QUERY_DEADLINE_S,
            idempotent=False, max_wait_s=window_ms / 2000,
        )  # fmt: skip
        try:
            return msgspec.json.decode(answer.body, type=type)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unknown(f"binance: {method} {path}: it can not be read: {error}") from error

    async def _sit_out(self, kind: str) -> None:
        """Wait until the venue's wish for silence is over: a signature does not keep.

        An order waits for ``SIT_OUT_S`` at most; then it is not sent.
        """
        while (wait_s := self.budget.penalty_of(kind)) > 0:
            if kind == self.order_kind and wait_s > SIT_OUT_S:
                text = f"binance: no order may be sent for {wait_s:.0f} s"
                raise Transient(text, retry_after=wait_s)
            await trio.sleep(wait_s)

    def ws_params(self, more: Mapping[str, Param]) -> dict[str, str | int | bool]:
        """Return signed parameters of the websocket API."""
        said: dict[str, Param] = {
            **more, "apiKey": self._key.reveal(), "recvWindow": self.window_ms,
            "timestamp": self.clock.now_ms(),
        }  # fmt: skip
        return binance_ws_params(said, self._sign)

    def set_order_limits(self, rows: list[OrderLimit]) -> None:
        """Keep to what the venue allows this account to send."""
        limits = []
        for row in rows:
            window_s = _SECONDS.get(row.interval, 0) * row.interval_num
            if row.rate_limit_type == "ORDERS" and window_s and row.limit > 0:
                name = f"{self.account} {row.interval_num}{row.interval[:1].lower()}"
                limits.append(
                    Limit(name, row.limit, window_s, counts="requests", kinds=(self.order_kind,))
                )
        self.budget.set_limits(limits)


class OrderLimit(msgspec.Struct, rename="camel"):
    """A row of ``rateLimit/order``."""

    rate_limit_type: str
    interval: str
    interval_num: int
    limit: int


_SECONDS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86_400}


def _kind(venue: VenueName) -> Any:
    return KINDS["spot" if venue == "spot" else "usdtm"]


def _usage(account: str) -> Any:
    """Return what reads the venue's counts out of an answer's headers."""

    def usage(headers: Mapping[str, str]) -> dict[str, float]:
        found = {}
        for name, value in headers.items():
            if not value.isdecimal():
                continue
            if name == "x-mbx-used-weight-1m":
                found["REQUEST_WEIGHT"] = float(value)
            elif name.startswith("x-mbx-order-count-"):
                found[f"{account} {name.removeprefix('x-mbx-order-count-')}"] = float(value)
        return found

    return usage


@asynccontextmanager
async def open_signed(
    venue: VenueName, account: str, sign: Signer, key: Secret, *, window_ms: int,
    patience_s: float = PATIENCE_S,
) -> AsyncIterator[Signed]:  # fmt: skip
    """Open an account's requests to a market; connects nothing by itself."""
    async with AsyncExitStack() as stack:
        clients = {}
        for role, connections in CONNECTIONS.items():
            clients[role] = await stack.enter_async_context(
                open_rest(
                    f"{PROVIDER}.{venue}", url(_kind(venue), "http"), classify=classify,
                    usage=_usage(account), headers={"X-MBX-APIKEY": key.reveal()},
                    connections=connections, max_body=MAX_BODY, budget=budget_of(venue),
                )
            )  # fmt: skip
        yield Signed(
            venue, account, sign, key, clients=clients, window_ms=window_ms, patience_s=patience_s
        )


MAX_BODY = 16 * 2**20  # bytes: a thousand open orders are half a megabyte
