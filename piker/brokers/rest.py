"""REST calls to a venue: deadlines, retries, typed errors, and its rate limits respected.

::

    async with open_rest("binance", "https://api.binance.com", classify=classify) as rest:
        info = await rest.get_json("/api/v3/exchangeInfo", type=ExchangeInfo, weight=20)

The HTTP itself is asks' (https://github.com/theelous3/asks). What asks raises is mapped to
:mod:`piker.errors` here and nowhere else:

=============================  =====================  ==========================
what happened                  idempotent call        call that changes something
=============================  =====================  ==========================
no connection could be made    Transient              Transient (nothing was sent)
time-out, lost, garbage        Transient              Unknown
429, 418                       Transient, penalty     Transient, penalty
5xx                            Transient              Unknown
other 3xx, 4xx                 Rejected               Rejected
=============================  =====================  ==========================

``classify`` of the venue has the first word on every answer but 429 and 418, except that
nothing it says turns a 5xx of a changing call into a rejection. Of a 429 it may say that it is for
requests of that kind alone (:class:`OverKind`): new orders of one account.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from importlib.metadata import version
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import msgspec
import trio

from piker.brokers._http import Http, Params, Response, encode_params
from piker.brokers.limits import CANCEL, DATA, Budget, Priority, venue_budget
from piker.brokers.tap import current_tap
from piker.errors import (
    Bug,
    ConfigError,
    DataQuality,
    PikerError,
    Rejected,
    Transient,
    Unknown,
)
from piker.log import get_logger

__all__ = [
    "DEADLINE_S",
    "MAX_BODY",
    "Classify",
    "OverKind",
    "Params",
    "Response",
    "RestClient",
    "Usage",
    "encode_params",
    "open_rest",
]

log = get_logger("rest")

DEADLINE_S = 10.0  # connect, send and read of one attempt; Binance gives up on its side after 10 s
MAX_BODY = 64 * 2**20  # bytes, after decompression; the largest exchangeInfo recorded is 12 MB
MAX_CONNECTIONS = 8  # sockets per client; venues queue more than a few per address anyway
SLOT_S = 60.0  # wait for a free socket; with a deadline, below a permit's life (FLIGHT_MAX_S)
MAX_ATTEMPTS = 4  # of an idempotent call: three retries span some 3 s, an outage is the caller's
RETRY_BASE_S, RETRY_CAP_S = 0.25, 5.0  # full jitter up to base * 2^n, at most the cap
MAX_RETRY_AFTER_S = 60.0  # a longer wish of the venue is handed to the caller at once
EXCERPT = 200  # characters of a body that an error message may quote

T = TypeVar("T")
#: (status, headers in lower case, body) -> the error it means, or None where it means none.
Classify = Callable[[int, Mapping[str, str], bytes], PikerError | None]
#: headers in lower case -> {limit name: used}, for :meth:`Budget.observe`.
Usage = Callable[[Mapping[str, str]], Mapping[str, float]]


class OverKind(Transient):
    """A 429 that is for requests of its kind alone; what ``classify`` returns for it."""


class _Call(msgspec.Struct, frozen=True):
    """One call as its attempts need it."""

    method: str
    path: str
    url: str
    body: bytes | None
    headers: dict[str, str]
    weight: float
    kind: str
    priority: Priority
    idempotent: bool
    deadline_s: float
    accept: tuple[int, ...]
    stall_s: float

    @property
    def name(self) -> str:
        """Return what logs and errors call it: never the query, it may be signed."""
        return f"{self.method} {self.path}"


class RestClient:
    """Calls to one base URL of a venue; made by :func:`open_rest`, used by any number of tasks."""

    def __init__(
        self,
        venue: str,
        base_url: str,
        *,
        budget: Budget,
        classify: Classify | None,
        usage: Usage | None,
        headers: Mapping[str, str],
        http: Http,
        connections: int,
    ) -> None:
        self.venue = venue
        self.base_url = base_url.rstrip("/")
        self.budget = budget
        self.calls = 0  # attempts that were sent
        self.retries = 0
        self._classify = classify
        self._usage = usage
        self._headers = dict(headers)
        self._http = http
        self._slots = trio.CapacityLimiter(connections)

    # -- calls ----------------------------------------------------------------------------
    async def get(
        self,
        path: str,
        params: Params | None = None,
        *,
        weight: float = 1,
        deadline_s: float = DEADLINE_S,
        headers: Mapping[str, str] | None = None,
        priority: Priority = Priority.DATA,
    ) -> Response:
        """Ask, and ask again on a passing failure; see :meth:`request`."""
        return await self.request(
            "GET",
            path,
            params=params,
            weight=weight,
            deadline_s=deadline_s,
            headers=headers,
            priority=priority,
            idempotent=True,
        )

    async def get_json(
        self,
        path: str,
        params: Params | None = None,
        *,
        type: type[T],
        weight: float = 1,
        deadline_s: float = DEADLINE_S,
        headers: Mapping[str, str] | None = None,
        strict: bool = True,
    ) -> T:
        """Return the answer decoded as ``type``; raise ``DataQuality`` when it does not fit.

        Unknown fields are left alone. ``strict=False`` also reads numbers out of strings.
        """
        response = await self.get(
            path, params, weight=weight, deadline_s=deadline_s, headers=headers
        )
        try:
            decoded: T = _decoder(cast(Hashable, type), strict).decode(response.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DataQuality(f"{self.venue}: GET {path}: {error}") from error
        return decoded

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: bytes | None = None,
        weight: float = 1,
        kind: str = DATA,
        priority: Priority = Priority.DATA,
        headers: Mapping[str, str] | None = None,
        deadline_s: float = DEADLINE_S,
        idempotent: bool | None = None,
        max_wait_s: float = float("inf"),
        accept: tuple[int, ...] = (),
        stall_s: float = float("inf"),
    ) -> Response:
        """Send one call and return its answer; raise what the module's table says.

        An answer whose status is in ``accept`` (304, say) is returned like a 2xx. A large body may
        have a long ``deadline_s`` and still fail soon: when ``stall_s`` pass without any of it.

        Blocks for the venue's rate limits (at most ``max_wait_s``, else ``Transient``), for one of
        the client's sockets, and then ``deadline_s`` per attempt. Only idempotent calls (GET
        and HEAD, unless told otherwise) are sent again, at most ``MAX_ATTEMPTS`` times.
        Cancellation closes the socket in use; a changing call that is cancelled has an unknown
        outcome.
        """
        query = encode_params(params)
        call = _Call(
            method,
            path,
            f"{self.base_url}{path}" + (f"?{query}" if query else ""),
            body,
            {**self._headers, **(headers or {})},
            weight,
            kind,
            priority,
            method in ("GET", "HEAD") if idempotent is None else idempotent,
            deadline_s,
            accept,
            stall_s,
        )
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return await self._attempt(call, max_wait_s)
            except Transient as error:
                wait_s = _backoff_s(attempt, error.retry_after)
                if not call.idempotent or attempt == MAX_ATTEMPTS or wait_s is None:
                    raise
                log.info("rest.retry", venue=self.venue, call=call.name, wait_s=wait_s, why=error)
            self.retries += 1
            await trio.sleep(wait_s)
        raise Bug("unreachable: the last attempt returns or raises")

    # -- one attempt ----------------------------------------------------------------------
    async def _attempt(self, call: _Call, max_wait_s: float) -> Response:
        permit = await self.budget.acquire(
            call.weight, kind=call.kind, priority=call.priority, max_wait_s=max_wait_s
        )
        try:
            await self._slot(call)
            try:
                response = await self._send(call)
            finally:
                self._slots.release()
        finally:
            permit.done()
        self._judge(call, response)
        return response

    async def _slot(self, call: _Call) -> None:
        with trio.move_on_after(SLOT_S) as waiting:
            await self._slots.acquire()
        if waiting.cancelled_caught:
            raise Transient(f"{self.venue}: {call.name}: no socket was free for {SLOT_S:g} s")

    async def _send(self, call: _Call) -> Response:
        self.calls += 1
        reached = trio.Event()
        end = trio.current_time() + call.deadline_s
        try:
            with trio.fail_after(min(call.deadline_s, call.stall_s)) as scope:

                def progress() -> None:
                    scope.deadline = min(end, trio.current_time() + call.stall_s)

                response = await self._http.exchange(
                    call.method,
                    call.url,
                    body=call.body,
                    headers=call.headers,
                    reached=reached,
                    progress=progress,
                )
        except trio.TooSlowError as error:
            stalled = trio.current_time() < end
            what = "nothing came for" if stalled else "no answer within"
            what = f"{what} {call.stall_s if stalled else call.deadline_s:g} s"
            raise self._lost(call, what, reached=reached.is_set()) from error
        except DataQuality as error:
            if not call.idempotent:  # it was answered, but not so that we know what
                raise self._lost(call, error.message, reached=True) from error
            raise DataQuality(f"{self.venue}: {call.name}: {error}", kind=error.kind) from error
        except Exception as error:  # asks and what it stands on raise whatever they meet
            what = f"{type(error).__name__}: {error}"
            raise self._lost(call, what, reached=reached.is_set()) from error
        if (tap := current_tap()) is not None:
            tap.answered(
                self.venue, call.method, call.url, response.status, response.headers, response.body
            )
        return response

    def _lost(self, call: _Call, what: str, *, reached: bool) -> PikerError:
        message = f"{self.venue}: {call.name}: {what}."
        if call.idempotent or not reached:
            return Transient(message)
        return Unknown(message, remedy="Ask the venue for its outcome before sending it again.")

    # -- what an answer means -------------------------------------------------------------
    def _judge(self, call: _Call, response: Response) -> None:
        """Raise the error that ``response`` means; the one place where answers become errors."""
        if self._usage is not None:
            for name, used in self._usage(response.headers).items():
                self.budget.observe(name, used)
        status = response.status
        if status in call.accept:
            return
        if status in (418, 429):
            retry_after = _retry_after_s(response.headers)
            self._penalise(call, response, retry_after)
            raise Transient(
                self._said(call, response),
                retry_after=self.budget.penalty_of(call.kind) or retry_after,
            )
        error = self._classify(status, response.headers, response.body) if self._classify else None
        if status >= 500 and not call.idempotent and not isinstance(error, (Transient, Unknown)):
            raise Unknown(
                self._said(call, response),
                remedy="Ask the venue for its outcome before sending it again.",
            )
        if error is not None:
            raise error
        if status >= 500:
            retry_after = _retry_after_s(response.headers)
            raise Transient(self._said(call, response), retry_after=retry_after)
        if not 200 <= status < 300:
            raise Rejected(self._said(call, response), code=str(status))

    def _penalise(self, call: _Call, response: Response, retry_after: float | None) -> None:
        """Have the budget do without what was one too many: all, or what that kind is told."""
        status = response.status
        error = self._classify(status, response.headers, response.body) if self._classify else None
        if status == 418 or not isinstance(error, OverKind):
            self.budget.penalise(retry_after, banned=status == 418)
        elif call.kind not in (DATA, CANCEL):
            self.budget.penalise_kind(call.kind, retry_after)

    def _said(self, call: _Call, response: Response) -> str:
        excerpt = response.body[:EXCERPT].decode("utf-8", "replace")
        return f"{self.venue}: {call.name}: HTTP {response.status} {excerpt}".rstrip()


def _backoff_s(attempt: int, retry_after: float | None) -> float | None:
    """Return the seconds to wait, or None when the venue's wish is too long to sit out."""
    wait_s = random.uniform(0, min(RETRY_CAP_S, RETRY_BASE_S * 2**attempt))
    if retry_after is None:
        return wait_s
    return retry_after + wait_s if retry_after <= MAX_RETRY_AFTER_S else None


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of Retry-After, or None. Venues send seconds, never the date form."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


@lru_cache(maxsize=256)  # one per message type; a backend has a few dozen
def _decoder(kind: Any, strict: bool) -> msgspec.json.Decoder[Any]:  # Any: the caller's type
    return msgspec.json.Decoder(kind, strict=strict)


@asynccontextmanager
async def open_rest(
    venue: str,
    base_url: str,
    *,
    budget: Budget | None = None,
    classify: Classify | None = None,
    usage: Usage | None = None,
    headers: Mapping[str, str] | None = None,
    connections: int = MAX_CONNECTIONS,
    max_body: int = MAX_BODY,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[RestClient]:
    """Open a client of ``base_url`` (http or https); its sockets are closed with the block.

    ``budget`` is ``venue_budget(venue)`` unless given. Connects nothing by itself. Raises
    ``ConfigError`` when ``base_url`` is no URL.
    """
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise ConfigError(
            f"{venue}: {base_url!r} is not a REST base URL",
            remedy="It looks like https://api.venue.com, without a query.",
        )
    http = Http(connections=connections, ssl_context=ssl_context, max_body=max_body)
    client = RestClient(
        venue,
        base_url,
        budget=budget or venue_budget(venue),
        classify=classify,
        usage=usage,
        headers={
            "User-Agent": f"piker/{version('piker')}",
            "Accept": "application/json",
            "Accept-Encoding": "gzip, deflate",
            "Connection": "keep-alive",
            **(headers or {}),
        },
        http=http,
        connections=connections,
    )
    try:
        yield client
    finally:
        await http.aclose()
