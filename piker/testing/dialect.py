"""What a replay asks of a venue's protocol: streams, commands, answers and times."""

from __future__ import annotations

from typing import Protocol

import msgspec

from piker.testing.recording import Recording
from piker.testing.replay_times import Shift
from piker.testing.requests import Reply, Request

__all__ = ["Dialect", "Moment", "Said"]


class Moment(msgspec.Struct, frozen=True):
    """Where a replay stands."""

    position: int  # events sent so far
    now_ns: int  # recorded time
    shift: Shift


class Said(msgspec.Struct):
    """What a client's message comes to; ``answers`` go before any data."""

    answers: list[bytes] = []
    subscribe: list[str] = []
    bare: list[str] = []  # of those, what was subscribed without a snapshot
    unsubscribe: list[str] = []


class Dialect(Protocol):
    """One venue's protocol over one recording."""

    recording: Recording

    def refusal(self, status: int) -> bytes:
        """Return the body that the venue sends with such a status."""
        ...

    def refused(self, request: Request) -> Reply | None:
        """Return why a websocket at this path is refused, or None."""
        ...

    def greeting(self, request: Request) -> list[bytes]:
        """Return what a new connection is sent first."""
        ...

    def asked_by_url(self, request: Request) -> list[str]:
        """Return the streams that a connection's URL subscribes."""
        ...

    def message(self, request: Request, streams: set[str], text: str) -> Said:
        """Return what a client's message means; ``streams`` are what it has subscribed."""
        ...

    def is_bars(self, stream: str) -> bool:
        """Tell whether a stream carries bars."""
        ...

    def is_beat(self, frame: bytes) -> bool:
        """Tell a heartbeat, which goes to whoever subscribed anything of its connection."""
        ...

    def form(self, request: Request) -> str:
        """Return a name for how this connection wants frames; the same name, the same frames."""
        ...

    def formed(self, frame: bytes, stream: str, form: str) -> bytes:
        """Return a frame in that form."""
        ...

    def moved(self, frame: bytes, shift: Shift) -> bytes:
        """Return a frame with the venue's times moved, of the same length."""
        ...

    def late(self, stream: str, moment: Moment) -> list[bytes]:
        """Return what one who subscribes now must be sent first, times not yet moved."""
        ...

    def rest(self, request: Request, moment: Moment) -> Reply:
        """Answer a request; the times in it are moved."""
        ...
