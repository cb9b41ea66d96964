"""A venue that replays a capture: a real server, recorded answers and frames.

It is a :class:`piker.testing.server.Host` behind the same gate as the synthetic venues, so faults
and statistics work on it alike. What a protocol has of its own is in a
:class:`~piker.testing.dialect.Dialect`. One clock runs for all clients: it starts a moment after
the first one subscribed to recorded data, and whoever comes later joins in the middle, as at a
venue. docs/reference/capture-format.md describes what is answered from what.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Literal

import trio
from trio_typing import TaskStatus

from piker.clock import NS, monotonic_ns, wall_ns
from piker.config import nearest
from piker.errors import ConfigError
from piker.log import get_logger
from piker.testing.capture import Capture
from piker.testing.dialect import Dialect, Moment
from piker.testing.faults import Fault
from piker.testing.gate import Gate
from piker.testing.injection import frame_of
from piker.testing.recording import Event
from piker.testing.replay_binance import BinanceDialect
from piker.testing.replay_kraken import KrakenDialect
from piker.testing.replay_times import MINUTE_NS, STILL, Shift
from piker.testing.requests import Reply, Request
from piker.testing.server import Client, serve

__all__ = ["DIALECTS", "ReplayVenue", "Times", "make_replay"]

DIALECTS: dict[str, type[BinanceDialect] | type[KrakenDialect]] = {
    "binance": BinanceDialect,
    "kraken": KrakenDialect,
}
QUIET_S = 0.3  # the clock starts when no subscription came for this long: clients send several
QUIET_MAX_S = 3.0  # and this long after the first, at the latest
FLOOD = 64 * 1024  # bytes sent between two looks at whether the clients keep up, at full speed
DRAIN_S = 0.001  # how often that is looked at
LAST_S = 0.2  # at the end, for what is on its way to leave this process
BEHIND_NS = 5 * NS  # times are moved to this long before now at least, and 55 s after it at most:
# a consumer takes ticks of a minute ahead for garbage (piker.data.tape), and clocks differ
SHIFT_TTL_NS = 30 * NS  # before the start, times are moved anew when they were for this long
_PING = b"\x89\x00"
PING_S = 20.0  # as often as Binance's spot servers ping

Times = Literal["now", "recorded"]
State = Literal["waiting", "running", "ended"]

log = get_logger("replay")


class ReplayVenue:
    """The venue. ``hold`` keeps the clock from starting until :meth:`start` is called.

    ``speed`` 0 sends as fast as the clients read. ``ended`` is set when the last frame has left.
    """

    def __init__(
        self,
        dialect: Dialect,
        *,
        speed: float = 1.0,
        at: Times = "now",
        hold: bool = False,
        seed: int = 1,
        faults: Iterable[Fault] = (),
    ) -> None:
        self.dialect = dialect
        self.recording = dialect.recording
        self.speed = speed
        self.at = at
        self.state: State = "waiting"
        self.position = 0
        self.clients: set[Client] = set()
        self.by_stream: dict[str, set[Client]] = defaultdict(set)
        self.ended = trio.Event()
        self.gate = Gate(seed=seed, faults=faults, refusal=dialect.refusal, more=self._stats)
        self._hold = hold
        self._begin = trio.Event()
        self._asked_at = 0.0  # when a subscription to recorded data came last
        self._shift: Shift | None = STILL if at == "recorded" else None
        self._shifted_at = 0

    # -- life ----------------------------------------------------------------------------------
    async def run(
        self, host: str, port: int, task_status: TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled; the started value is the port."""
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(
                lambda task_status: serve(
                    self, self.gate, address=host, port=port, task_status=task_status
                )
            )
            nursery.start_soon(self._play)
            nursery.start_soon(self._ping)
            task_status.started(bound)

    def start(self) -> None:
        """Start the clock. Idempotent."""
        self._hold = False
        self._asked_at = -1e9
        self._begin.set()

    def cut(self, *, refuse_s: float = 0.0) -> None:
        """Cut every websocket without a word, and refuse new ones for a while."""
        self.gate.cut(for_s=refuse_s)

    async def _ping(self) -> None:
        while True:
            await trio.sleep(PING_S)
            for client in list(self.clients):
                client.send_control(_PING)

    def _stats(self) -> dict[str, Any]:
        events = len(self.recording.events)
        return {"replay": self.state, "position": self.position, "events": events}

    # -- time ----------------------------------------------------------------------------------
    @property
    def shift(self) -> Shift:
        """Return how times are moved: fixed once the clock runs, and a short while before."""
        stale = monotonic_ns() - self._shifted_at > SHIFT_TTL_NS
        if self._shift is None or (self.at == "now" and self.state == "waiting" and stale):
            self._shift = self._shift_to_now()
            self._shifted_at = monotonic_ns()
        return self._shift

    def _shift_to_now(self) -> Shift:
        """Move the begin to the next minute from now that fits; at full speed the end to the last.

        Ahead of the clock rather than behind it: whoever begins its bars at the moment of a first
        quote would take the trades of up to a minute for late ones.
        """
        first_ns = self.recording.first_ns
        if not self.speed:
            const_ns = (wall_ns() - self.recording.last_ns) // MINUTE_NS * MINUTE_NS
            return Shift(const_ns, first_ns, 1.0)
        const_ns = -(-(wall_ns() - BEHIND_NS - first_ns) // MINUTE_NS) * MINUTE_NS
        return Shift(const_ns, first_ns, self.speed)

    def moment(self) -> Moment:
        """Return where the replay stands."""
        return Moment(self.position, self.recording.time_at(self.position), self.shift)

    # -- playing -------------------------------------------------------------------------------
    async def _play(self) -> None:
        await self._begin.wait()
        latest = trio.current_time() + QUIET_MAX_S
        while trio.current_time() < min(self._asked_at + QUIET_S, latest):
            await trio.sleep_until(min(self._asked_at + QUIET_S, latest))
        self._shift = self.shift
        self.state = "running"
        log.info("replay.begins", source=self.recording.source, events=len(self.recording.events))
        if self.speed:
            await self._pace()
        else:
            await self._flood()
        self.state = "ended"
        while any(client._waiting and not client.closed for client in self.clients):
            await trio.sleep(DRAIN_S)
        await trio.sleep(LAST_S)
        self.ended.set()
        log.info("replay.ended", source=self.recording.source)

    async def _pace(self) -> None:
        """Send each event when it is due."""
        events, first_ns = self.recording.events, self.recording.first_ns
        began = trio.current_time()
        while self.position < len(events):
            passed_ns = (trio.current_time() - began) * self.speed * NS
            while self.position < len(events):
                event = events[self.position]
                if event.t - first_ns > passed_ns:
                    break
                self._next(event)
            else:
                return
            await trio.sleep_until(began + (event.t - first_ns) / NS / self.speed)

    async def _flood(self) -> None:
        """Send as fast as the slowest client reads."""
        size = 0
        for event in self.recording.events:
            size += len(event.frame)
            self._next(event)
            if size >= FLOOD:
                size = 0
                await trio.lowlevel.checkpoint()
                while any(client._waiting and not client.closed for client in self.clients):
                    await trio.sleep(DRAIN_S)

    def _next(self, event: Event) -> None:
        """Send an event to whoever subscribed its stream, and go on to the next."""
        self.position += 1
        if event.stream:
            clients: Iterable[Client] = self.by_stream.get(event.stream, ())
        elif self.dialect.is_beat(event.frame):
            streams = self.recording.streams_of[event.place]
            clients = [client for client in self.clients if client.streams & streams]
        else:
            return
        if clients:
            self._send(event.frame, event.stream, list(clients))

    def _send(self, frame: bytes, stream: str, clients: list[Client]) -> None:
        shift = self.shift
        if shift.compresses and self.dialect.is_bars(stream):
            return
        if not shift.still:
            frame = self.dialect.moved(frame, shift)
        formed: dict[str, bytes] = {}
        for client in clients:
            form = self.dialect.form(client.request)
            if form not in formed:
                formed[form] = frame_of(self.dialect.formed(frame, stream, form))
            client.send_frame(formed[form], stream)

    # -- clients -------------------------------------------------------------------------------
    def refused(self, request: Request) -> Reply | None:
        """Return why a websocket is refused, or None."""
        return self.dialect.refused(request)

    def connected(self, client: Client) -> None:
        """Take a websocket in."""
        self.clients.add(client)
        for frame in self.dialect.greeting(client.request):
            client.send(frame)
        self._subscribe(client, self.dialect.asked_by_url(client.request))

    def gone(self, client: Client) -> None:
        """Forget a client."""
        self.clients.discard(client)
        for stream in client.streams:
            self.by_stream[stream].discard(client)

    def text(self, client: Client, message: str) -> None:
        """Do what a message says, and answer it."""
        said = self.dialect.message(client.request, client.streams, message)
        for answer in said.answers:
            client.send(answer)
        for stream in said.unsubscribe:
            client.streams.discard(stream)
            self.by_stream[stream].discard(client)
        self._subscribe(client, said.subscribe, said.bare)

    def _subscribe(self, client: Client, streams: list[str], bare: Iterable[str] = ()) -> None:
        for stream in streams:
            client.streams.add(stream)
            self.by_stream[stream].add(client)
            if stream not in self.recording.by_stream:
                continue
            self._asked_at = max(self._asked_at, trio.current_time())
            if not self._hold:
                self._begin.set()
            if self.position and stream not in bare:
                for frame in self.dialect.late(stream, self.moment()):
                    self._send(frame, stream, [client])

    # -- REST ----------------------------------------------------------------------------------
    async def http(self, request: Request) -> Reply:
        """Answer a request."""
        return self.dialect.rest(request, self.moment())


def make_replay(
    name: str,
    capture: Capture,
    *,
    speed: float = 1.0,
    at: Times = "now",
    hold: bool = False,
    seed: int = 1,
    faults: Iterable[Fault] = (),
) -> ReplayVenue:
    """Return the venue of that name over a capture, not yet serving.

    Raises ``ConfigError`` for a venue that can not be replayed, a capture of another one, and one
    that holds no frame of its wire.
    """
    if name not in DIALECTS:
        raise ConfigError(f"there is no replay of {name!r}.", remedy=nearest(name, DIALECTS))
    if speed < 0:
        raise ConfigError(f"a speed of {speed:g} is none.", remedy="0 is as fast as it goes.")
    provider = capture.header.provider
    if provider != name:
        raise ConfigError(
            f"{capture.source} is a capture of {provider!r}, not of {name!r}.",
            remedy=f"Run: piker venue {provider} --replay {capture.source}"
            if provider in DIALECTS
            else "Its backend does not use the venue toolkit, or is not shipped.",
        )
    dialect = DIALECTS[name](capture)
    if not dialect.recording.by_stream:
        quotes = dialect.recording.quotes
        raise ConfigError(
            f"{capture.source} holds no frame of a {name} stream"
            + (f", but {quotes} quotes of a backend with a wire of its own." if quotes else "."),
            remedy="There is nothing to replay.",
        )
    return ReplayVenue(dialect, speed=speed, at=at, hold=hold, seed=seed, faults=faults)
