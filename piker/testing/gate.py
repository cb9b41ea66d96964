"""What stands before every loopback venue, wherever its frames come from.

Faults, rate limits, statistics, and the endpoint that controls them::

    GET    /_piker/faults   the faults in force, with their hits
    POST   /_piker/faults   add faults: a JSON list (piker/testing/faults.py), or one object
    DELETE /_piker/faults   end them all
    GET    /_piker/stats    what happened so far
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec
import trio

from piker.errors import ConfigError
from piker.log import get_logger
from piker.testing.faults import MAX_FAULTS, Fault, faults_of_json, outage
from piker.testing.injection import Armed, FrameFaults, Injector, RequestFate, garbled
from piker.testing.requests import Reply, Request

__all__ = ["Connected", "Gate", "Limits"]

MAX_PATHS = 500  # that are counted apart; a venue has some dozens
CONTROL = "/_piker/"
TURN_S = 0.05  # how finely it is noticed that this process was not able to read
_encode = msgspec.json.encode
log = get_logger("venue")


class Connected(Protocol):
    """A websocket connection as the gate sees it."""

    request: Request

    def cut(self) -> None:
        """Close it without a word."""
        ...

    def mute(self) -> None:
        """Send nothing from now on."""
        ...


class Limits(Protocol):
    """A venue's rate limits, and how it says that one was passed."""

    violations: Counter[str]

    def request(self, request: Request) -> Reply | None:
        """Count a request; return its refusal where there is no room for it."""
        ...

    def headers(self, request: Request) -> dict[str, str]:
        """Return what the venue tells of the count in every answer."""
        ...

    def handshake(self, request: Request) -> Reply | None:
        """Count a connection; return its refusal where there are too many."""
        ...

    def message(self, connection: Connected, late_s: float) -> bool:
        """Count a message from a client; return whether the connection may go on.

        ``late_s``: for so long this process was not able to read lately.
        """
        ...

    def left(self, connection: Connected) -> None:
        """Forget a connection."""
        ...

    def used(self) -> dict[str, float]:
        """Return the counts as they stand, by limit and client."""
        ...


class Counters(msgspec.Struct):
    """What happened since the venue began."""

    accepted: int = 0  # TCP connections
    refused: int = 0  # TCP connections and handshakes, by faults and limits
    upgraded: int = 0
    cut: int = 0  # websockets, by faults, limits and for being too far behind
    frames: int = 0  # written to websockets, control frames among them
    bytes: int = 0
    requests: Counter[str] = msgspec.field(default_factory=Counter)  # by path
    errors: int = 0  # requests and messages that the venue itself failed on


class Gate:
    """One per venue; :func:`piker.testing.server.serve` asks it about everything.

    ``refusal(status)`` returns the body that the venue sends with such a status, and ``more()``
    what it adds to the statistics.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        faults: Iterable[Fault] = (),
        limits: Limits | None = None,
        refusal: Callable[[int], bytes] = lambda status: b"",
        more: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self.injector = Injector(seed)
        self.limits = limits
        self.counters = Counters()
        self.clients: dict[Connected, int] = {}  # with the connection's number, in order
        self._refusal = refusal
        self._more = more
        self._at_start = tuple(faults)
        self._nursery: trio.Nursery | None = None
        self._turn = 0.0  # when this process last had its turn
        self._late: list[tuple[float, float]] = []  # (when, how long) it was late

    # -- faults --------------------------------------------------------------------------------
    async def run(self) -> None:
        """Wait for faults to begin, until cancelled. The plan's time runs from here on."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.add_faults(self._at_start)
            await self._watch_turns()

    async def _watch_turns(self) -> None:
        """Note when this process was kept from reading: what waited did not come at once."""
        self._turn = trio.current_time()
        while True:
            await trio.sleep(TURN_S)
            now = trio.current_time()
            late_s = now - self._turn - TURN_S
            self._turn = now
            self._late = [(at, s) for at, s in self._late if at > now - 1]
            if late_s > TURN_S:
                self._late.append((now, late_s))

    def _late_s(self) -> float:
        waiting = max(0.0, trio.current_time() - self._turn - TURN_S)
        return waiting + sum(late_s for _, late_s in self._late)

    def add_faults(self, faults: Iterable[Fault]) -> list[Armed]:
        """Put faults in force; those that begin now have struck when this returns."""
        added = self.injector.add(faults, trio.current_time())
        for armed in added:
            if armed.fault.on != "ws" or not _strikes(armed.fault):
                continue
            if not armed.fault.after_s:
                self._strike(armed)
            elif self._nursery is not None:
                self._nursery.start_soon(self._strike_later, armed)
        return added

    def cut(self, *, for_s: float = 0.0) -> None:
        """Cut every websocket, and refuse new ones for a while."""
        self.add_faults([outage(for_s)])

    async def _strike_later(self, armed: Armed) -> None:
        await trio.sleep_until(armed.begins)
        if not armed.cleared:
            self._strike(armed)

    def _strike(self, armed: Armed) -> None:
        """Do to open connections what the beginning of a fault does to them."""
        fault = armed.fault
        for client in list(self.clients):
            if fault.what == "refuse":
                if armed.finds(client.request.target):
                    self.drop(client)
            elif not self._spent(armed) and self.injector.takes(armed):
                if fault.what == "close":
                    self.drop(client)
                else:
                    client.mute()

    @staticmethod
    def _spent(armed: Armed) -> bool:
        return armed.fault.count is not None and armed.hits >= armed.fault.count

    def drop(self, client: Connected) -> None:
        """Cut a websocket, and count that once."""
        if self.clients.pop(client, None) is not None:
            self.counters.cut += 1
        client.cut()

    # -- what the server asks ------------------------------------------------------------------
    def accepts(self) -> bool:
        """Count a TCP connection; return whether it may stay."""
        self.counters.accepted += 1
        refused = self.injector.refuses_tcp(trio.current_time())
        self.counters.refused += refused
        return not refused

    def handshake(self, request: Request) -> Reply | None:
        """Count a websocket handshake; return its refusal, if it is to be refused."""
        fault = self.injector.handshake(request.target, trio.current_time())
        reply = None
        if fault is not None:
            reply = self._status(fault.status or 503, fault.retry_after_s)
        elif self.limits is not None:
            reply = self.limits.handshake(request)
        self.counters.refused += reply is not None
        return reply

    def joined(self, client: Connected) -> FrameFaults:
        """Take note of a websocket; return what its frames pass through."""
        self.counters.upgraded += 1
        self.clients[client] = self.counters.upgraded
        if self.injector.mutes(trio.current_time()):
            client.mute()
        return self.injector.frames_of(self.counters.upgraded)

    def left(self, client: Connected) -> None:
        """Forget a websocket."""
        self.clients.pop(client, None)
        if self.limits is not None:
            self.limits.left(client)

    def hears(self, client: Connected) -> bool:
        """Count a message from a websocket; return whether the connection may go on."""
        if self.limits is None or self.limits.message(client, self._late_s()):
            return True
        self.drop(client)
        return False

    async def answer(
        self, request: Request, ask: Callable[[Request], Any]
    ) -> Reply:  # Any: an awaitable Reply
        """Answer a request: by ``ask``, unless limits or faults have another answer."""
        if request.path.startswith(CONTROL):
            return self.control(request)
        path = request.path
        known = path in self.counters.requests or len(self.counters.requests) < MAX_PATHS
        self.counters.requests[path if known else "other"] += 1
        now = trio.current_time()
        fate = self.injector.request(request.target, now, method=request.method)
        if flaws := self.injector.flaws(path, request.target, now):
            request = msgspec.structs.replace(request, flaws=flaws)
        if fate.delay_s:
            await trio.sleep(fate.delay_s)
        if fate.act:
            return Reply(fate="close" if fate.act == "close" else "hang")
        reply = self.limits.request(request) if self.limits is not None else None
        if fate.status is not None:
            reply = self._status(fate.status.status or 503, fate.status.retry_after_s)
        elif reply is None:
            reply = await self._asked(request, ask)
            if fate.twice:
                reply = await self._asked(request, ask)
            if fate.unanswered is not None:
                if fate.unanswered.status is None:
                    return Reply(fate="close")
                reply = self._status(fate.unanswered.status, None)
        return self._finished(request, reply, fate)

    async def _asked(self, request: Request, ask: Callable[[Request], Any]) -> Reply:
        try:
            reply: Reply = await ask(request)
        except Exception as error:  # one request's fault must not end the venue for everybody
            self.failed(request.path, error)
            return self._status(500, None)
        return reply

    def failed(self, path: str, error: Exception) -> None:
        """Count and log a request or message that the venue itself failed on."""
        self.counters.errors += 1
        log.error("venue.failed", path=path, error=repr(error))

    def _finished(self, request: Request, reply: Reply, fate: RequestFate) -> Reply:
        told = self.limits.headers(request) if self.limits is not None else {}
        body = reply.body
        if fate.garble is not None and request.method != "HEAD" and reply.status != 304:
            body = garbled(body, fate.garble, self.injector.random)
        return Reply(
            reply.status, body, {**told, **reply.headers}, "half" if fate.half else "answer",
            fate.bytes_per_s,
        )  # fmt: skip

    def _status(self, status: int, retry_after_s: float | None) -> Reply:
        headers = {} if retry_after_s is None else {"Retry-After": f"{retry_after_s:g}"}
        return Reply(status, self._refusal(status), headers)

    # -- control -------------------------------------------------------------------------------
    def control(self, request: Request) -> Reply:
        """Answer a request to ``/_piker/``; a bad one gets 400 and a sentence."""
        what, method = request.path.removeprefix(CONTROL), request.method
        if what == "stats" and method == "GET":
            return Reply(body=_encode(self.stats()))
        if what == "faults" and method == "GET":
            return Reply(body=self._listed(self.injector.armed))
        if what == "faults" and method == "DELETE":
            return Reply(body=_encode({"cleared": self.injector.clear()}))
        if what == "faults" and method == "POST":
            return self._post(request.body)
        if what in ("stats", "faults"):
            return _error(405, f"{method} is not for {request.path}.")
        return _error(404, f"There is no {request.path}: try /_piker/stats or /_piker/faults.")

    def _post(self, body: bytes) -> Reply:
        try:
            faults = faults_of_json(body)
        except ConfigError as error:
            return _error(400, str(error))
        if len(self.injector.armed) + len(faults) > MAX_FAULTS:
            return _error(400, f"More than {MAX_FAULTS} faults: DELETE /_piker/faults first.")
        return Reply(body=self._listed(self.add_faults(faults)))

    def _listed(self, armed: Iterable[Armed]) -> bytes:
        now = trio.current_time()
        return _encode([{**one.state(), "active": one.active(now)} for one in armed])

    def stats(self) -> dict[str, Any]:
        """Return what happened so far."""
        counters: dict[str, Any] = msgspec.to_builtins(self.counters)
        limits = self.limits
        return {
            "clients": len(self.clients),
            **counters,
            "faults": dict(self.injector.hits),
            "used": limits.used() if limits is not None else {},
            "violations": dict(limits.violations) if limits is not None else {},
            **self._more(),
        }


def _strikes(fault: Fault) -> bool:
    """Tell whether the beginning of a fault does something to open connections."""
    return fault.what == "refuse" or (fault.what in ("close", "half-open") and not fault.match)


def _error(status: int, sentence: str) -> Reply:
    return Reply(status, _encode({"error": sentence}))
