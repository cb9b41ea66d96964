"""A capture as a replay uses it: frames by stream and in order, answers by path and parameters."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from urllib.parse import parse_qsl

import msgspec

from piker.testing.capture import Capture, In, Open, Out, Quoted, Rest, payload

__all__ = ["Answer", "Event", "Place", "Recording"]

PASSING = (418, 429)  # statuses that belong to the moment, as every 5xx does: never replayed


class Place(msgspec.Struct):
    """A recorded websocket: where it led, and what was said on it so far."""

    number: int
    url: str
    said: list[bytes]


class Event(msgspec.Struct, frozen=True):
    """A recorded frame. ``stream`` is empty where it belongs to none."""

    t: int
    place: int
    stream: str
    frame: bytes


class Answer(msgspec.Struct, frozen=True):
    """A recorded REST answer."""

    t: int
    method: str
    path: str
    params: dict[str, str]
    status: int
    body: bytes


class Recording:
    """What was recorded; ``stream_of(frame, place)`` names a frame's stream.

    Positions count events: at position n the first n events have been sent. Times of events never
    go back, whatever the recorder's clock did.
    """

    def __init__(self, capture: Capture, stream_of: Callable[[bytes, Place], str]) -> None:
        self.source = capture.source
        self.header = capture.header
        self.torn = capture.torn
        self.events: list[Event] = []
        self.answers: list[Answer] = []
        self.places: dict[int, Place] = {}
        self.quotes = 0  # records of a backend that does not use the toolkit
        self.by_stream: dict[str, list[int]] = defaultdict(list)  # positions of a stream's events
        self.streams_of: dict[int, set[str]] = defaultdict(set)  # by place
        self._by_path: dict[str, list[Answer]] = defaultdict(list)
        t = 0
        for record in capture.records:
            t = max(t, record.t)
            if isinstance(record, In):
                place = self.places[record.c]
                frame = payload(record)
                self._event(Event(t, record.c, stream_of(frame, place), frame))
            elif isinstance(record, Out):
                self.places[record.c].said.append(payload(record))
            elif isinstance(record, Open):
                self.places[record.c] = Place(record.c, record.url, [])
            elif isinstance(record, Rest):
                self._answer(record, t)
            elif isinstance(record, Quoted):
                self.quotes += 1

    def _event(self, event: Event) -> None:
        if event.stream:
            self.by_stream[event.stream].append(len(self.events))
            self.streams_of[event.place].add(event.stream)
        self.events.append(event)

    def _answer(self, record: Rest, t: int) -> None:
        if record.status in PASSING or record.status >= 500:
            return
        params = dict(parse_qsl(record.query, keep_blank_values=True))
        answer = Answer(t, record.method, record.path, params, record.status, payload(record))
        self.answers.append(answer)
        self._by_path[record.path].append(answer)

    @property
    def first_ns(self) -> int:
        """Return the time of the first frame, or of the capture's begin where it has none."""
        return self.events[0].t if self.events else self.header.t

    @property
    def last_ns(self) -> int:
        """Return the time of the last frame."""
        return self.events[-1].t if self.events else self.header.t

    def time_at(self, position: int) -> int:
        """Return the recorded time of the newest event that was sent, at least the first's."""
        return (
            self.events[max(0, min(position, len(self.events)) - 1)].t
            if self.events
            else (self.header.t)
        )

    def sent(self, stream: str, position: int) -> Iterator[tuple[int, bytes]]:
        """Yield (number, frame) of a stream's events before ``position``, oldest first."""
        found = self.by_stream.get(stream, [])
        for number in found[: bisect_left(found, position)]:
            yield number, self.events[number].frame

    def newest(self, stream: str, position: int) -> bytes:
        """Return the newest frame of a stream before ``position``, empty where there is none."""
        found = self.by_stream.get(stream, [])
        at = bisect_left(found, position)
        return self.events[found[at - 1]].frame if at else b""

    def first(self, stream: str) -> bytes:
        """Return the first frame of a stream, empty where there is none."""
        found = self.by_stream.get(stream)
        return self.events[found[0]].frame if found else b""

    def of_path(self, path: str) -> list[Answer]:
        """Return the answers of a path, oldest first."""
        return self._by_path.get(path, [])

    def exact(self, path: str, params: dict[str, str], now_ns: int) -> Answer | None:
        """Return the answer to just these parameters: the newest by then, else the next one."""
        found = [one for one in self.of_path(path) if one.params == params]
        past = [one for one in found if one.t <= now_ns]
        return past[-1] if past else found[0] if found else None
