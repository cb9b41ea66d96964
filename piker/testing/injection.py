"""What faults do: to the frames of a connection, to requests, to handshakes and connections.

The rules are those of :mod:`piker.testing.faults`. Nothing here waits or touches a socket: what is
to be done is returned, and :mod:`piker.testing.server` does it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from piker.testing.faults import BAR_FLAWS, FILE_FLAWS, REQUEST_FLAWS, Fault, Part

__all__ = ["CUT", "Armed", "FrameFaults", "Injector", "Item", "Late", "Pause",
           "RequestFate", "Slow",
           "frame_of", "garbled", "text_in"]  # fmt: skip

_FRAME = frozenset({"drop", "duplicate", "reorder", "delay", "garble", "slow", "late"})
MAX_FILES = 100_000  # of an archive that faults remember; others stay sound
_FLAWS = REQUEST_FLAWS | FILE_FLAWS
_CHECKSUM = ".CHECKSUM"
_BARS = ("/klines", "/uiKlines")  # requests for bars end so
_RESERVED_BITS = (0x40, 0x20, 0x10)  # RFC 6455 section 5.2
_NUMBER = re.compile(rb"(?<![\w.\-])\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.])")


class Pause(msgspec.Struct, frozen=True):
    """In a queue of frames: what follows is written at ``until``, on trio's clock."""

    until: float


class Late(msgspec.Struct, frozen=True):
    """In a queue of frames: one that is written so much later, before what comes then."""

    frame: bytes
    by_s: float


class Slow(msgspec.Struct, frozen=True):
    """In a queue of frames: one that is written at this rate."""

    frame: bytes
    bytes_per_s: float


class Cut(msgspec.Struct, frozen=True):
    """In a queue of frames: here the connection ends without a word."""


CUT = Cut()
Item = bytes | Pause | Slow | Late | Cut


class Armed:
    """A fault that was added: since when, until when, and how often it hit."""

    def __init__(self, number: int, fault: Fault, now: float) -> None:
        self.number = number
        self.fault = fault
        self.pattern = re.compile(fault.match) if fault.match else None
        self.begins = now + fault.after_s
        self.ends = float("inf") if fault.for_s is None else self.begins + fault.for_s
        self.hits = 0
        self.cleared = False

    def active(self, now: float) -> bool:
        """Return whether it is in force."""
        left = self.fault.count is None or self.hits < self.fault.count
        return self.begins <= now < self.ends and left and not self.cleared

    def finds(self, *texts: str) -> bool:
        """Return whether ``match`` finds one of the texts; it always does without one."""
        return self.pattern is None or any(map(self.pattern.search, texts))

    def state(self) -> dict[str, Any]:
        """Return the fault as JSON has it, with its number and hits."""
        said: dict[str, Any] = msgspec.to_builtins(self.fault)
        return {"number": self.number, **said, "hits": self.hits}


class _Dice:
    """Which occurrences a fault takes, counted in one place: a connection, or the venue."""

    def __init__(self, armed: Armed, seed: str) -> None:
        self._armed = armed
        self._seen = 0
        self._random = random.Random(seed)

    def takes(self) -> bool:
        armed, fault = self._armed, self._armed.fault
        self._seen += 1
        if self._seen % fault.every:
            return False
        if fault.probability < 1 and self._random.random() >= fault.probability:
            return False
        armed.hits += 1
        return True


class RequestFate(msgspec.Struct):
    """What is to be done with one request and its answer."""

    delay_s: float = 0.0
    act: str = ""  # "close", "hang", or "" for an answer
    half: bool = False  # of the answer's body is sent, then the connection is cut
    status: Fault | None = None
    garble: Part | None = None
    bytes_per_s: float = 0.0
    unanswered: Fault | None = None  # it is done, and not answered
    twice: bool = False  # it is done two times


class Injector:
    """The faults of one venue."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.armed: list[Armed] = []
        self.on_frames: list[Armed] = []
        self.hits: Counter[str] = Counter()  # by what, of faults cleared since, too
        self.random = random.Random(f"{seed}:http")  # for what is broken in answers
        self._numbers = 0
        self._dice: dict[int, _Dice] = {}
        self._files: dict[tuple[int, str], bool] = {}  # (fault, zip's path) -> whether it is taken

    # -- the list ------------------------------------------------------------------------------
    def add(self, faults: Iterable[Fault], now: float) -> list[Armed]:
        """Put faults in force, each from its own begin on."""
        added = []
        for fault in faults:
            self._numbers += 1
            added.append(Armed(self._numbers, fault, now))
        self.armed += added
        self.on_frames = [armed for armed in self.armed if _is_on_frames(armed.fault)]
        return added

    def clear(self) -> int:
        """End every fault; return how many there were."""
        for armed in self.armed:
            armed.cleared = True
        count = len(self.armed)
        self.armed, self.on_frames = [], []
        self._dice.clear()
        self._files.clear()
        return count

    def frames_of(self, connection: int) -> FrameFaults:
        """Return what acts on the frames of a connection, the n-th that was upgraded."""
        return FrameFaults(self, connection)

    def takes(self, armed: Armed) -> bool:
        """Return whether the fault takes this occurrence, one of those the venue counts."""
        dice = self._dice.get(armed.number)
        if dice is None:
            dice = self._dice[armed.number] = _Dice(armed, f"{self.seed}:{armed.number}")
        return self._noted(armed, dice)

    def _noted(self, armed: Armed, dice: _Dice) -> bool:
        taken = dice.takes()
        if taken:
            self.hits[armed.fault.what] += 1
        return taken

    def _in_force(self, on: str, now: float) -> Iterable[Armed]:
        return (a for a in self.armed if a.fault.on == on and a.active(now))

    # -- connections, handshakes, requests -----------------------------------------------------
    def refuses_tcp(self, now: float) -> bool:
        """Return whether a TCP connection is closed as soon as it is accepted."""
        faults = [a for a in self._in_force("http", now) if a.fault.what == "refuse"]
        return any(map(self.takes, faults))

    def handshake(self, target: str, now: float) -> Fault | None:
        """Return the fault that refuses a websocket, if one does."""
        for armed in self._in_force("ws", now):
            fault = armed.fault
            refusing = fault.what in ("refuse", "status") or (
                fault.what == "close" and not fault.match and fault.for_s is not None
            )
            if refusing and armed.finds(target) and self.takes(armed):
                return fault
        return None

    def mutes(self, now: float) -> bool:
        """Return whether a new connection is half open from the start."""
        faults = [
            a for a in self._in_force("ws", now)
            if a.fault.what == "half-open" and not a.fault.match
        ]  # fmt: skip
        return any(map(self.takes, faults))

    def request(self, target: str, now: float, *, method: str = "GET") -> RequestFate:
        """Return what is to be done with a request; faults find it by target or by both."""
        fate = RequestFate()
        for armed in self._in_force("http", now):
            fault = armed.fault
            if fault.what == "refuse" or fault.what in _FLAWS:
                continue
            if not armed.finds(target, f"{method} {target}") or not self.takes(armed):
                continue
            if fault.what in ("close", "half-open"):
                fate.act = "close" if fault.what == "close" else "hang"
                break
            if fault.what == "delay":
                fate.delay_s += fault.delay_s or 0.0
            elif fault.what == "status":
                fate.status = fate.status or fault
            elif fault.what == "garble":
                fate.garble = fault.part or "json"
            elif fault.what == "unanswered":
                fate.unanswered = fate.unanswered or fault
            elif fault.what == "twice":
                fate.twice = True
            elif fault.what == "cut-short":
                fate.half = True
            elif fault.what == "slow":
                fate.bytes_per_s = fault.bytes_per_s or 0.0
        return fate

    # -- what the venue itself does wrong ------------------------------------------------------
    def flaws(self, path: str, target: str, now: float) -> tuple[Fault, ...]:
        """Return what the venue does wrong in its answer to a request for a file or for bars."""
        whole = path.removesuffix(_CHECKSUM)
        if not (whole.endswith(".zip") or path.endswith(_BARS)):
            return ()
        return tuple(a.fault for a in self.armed if self._flawed(a, path, target, now))

    def _flawed(self, armed: Armed, path: str, target: str, now: float) -> bool:
        what, whole = armed.fault.what, path.removesuffix(_CHECKSUM)
        if what in REQUEST_FLAWS:
            of_checksum = what in ("no-checksum", "bad-checksum")
            concerned = whole.endswith(".zip") and (
                what == "missing-day" or of_checksum == path.endswith(_CHECKSUM)
            )
        else:
            if what in FILE_FLAWS and whole.endswith(".zip"):
                return self._file_is_flawed(armed, whole, now)
            concerned = what in BAR_FLAWS and path.endswith(_BARS)
        return concerned and armed.active(now) and armed.finds(target) and self.takes(armed)

    def _file_is_flawed(self, armed: Armed, file: str, now: float) -> bool:
        """Return whether a fault takes a file; once decided it stays so until the fault's end."""
        if not armed.begins <= now < armed.ends or not armed.finds(file):
            return False
        key = (armed.number, file)
        taken = self._files.get(key)
        if taken is None:
            room = len(self._files) < MAX_FILES
            taken = room and armed.active(now) and self.takes(armed)
            if room:
                self._files[key] = taken
        return taken


class FrameFaults:
    """What the faults of a venue do to the text frames of one connection."""

    def __init__(self, injector: Injector, connection: int) -> None:
        self._injector = injector
        self._connection = connection
        self._dice: dict[int, _Dice] = {}
        self._held: list[Item] = []  # a frame that waits for the next one to go first

    def through(self, frame: bytes, name: str, now: float) -> list[Item] | None:
        """Return what to write in place of a frame; None: nothing, from now on."""
        text: str | None = None
        pause_s, copies, held, rate, late_s = 0.0, 1, False, 0.0, 0.0
        for armed in self._injector.on_frames:
            if not armed.active(now):
                continue
            if armed.pattern is not None:
                if text is None:
                    text = text_in(frame).decode("utf-8", "replace")
                if not armed.finds(name, text):
                    continue
            dice = self._dice_of(armed)
            if not self._injector._noted(armed, dice):
                continue
            fault = armed.fault
            if fault.what == "drop":
                return []
            if fault.what == "close":
                return [CUT]
            if fault.what == "half-open":
                return None
            if fault.what == "garble":
                frame = _garbled_frame(frame, fault.part or "json", dice._random)
            if fault.what == "late":
                late_s += fault.delay_s or 0.0
            else:
                pause_s += fault.delay_s or 0.0
            copies += fault.what == "duplicate"
            held = held or fault.what == "reorder"
            rate = fault.bytes_per_s or rate
        if late_s:
            return [Late(frame, late_s)] * copies
        one: Item = Slow(frame, rate) if rate else frame
        items = [*([Pause(now + pause_s)] if pause_s else []), *[one] * copies]
        if held and not self._held:
            self._held = items
            return []
        items, self._held = items + self._held, []
        return items

    def _dice_of(self, armed: Armed) -> _Dice:
        dice = self._dice.get(armed.number)
        if dice is None:
            seed = f"{self._injector.seed}:{armed.number}:{self._connection}"
            dice = self._dice[armed.number] = _Dice(armed, seed)
        return dice


def _is_on_frames(fault: Fault) -> bool:
    if fault.on != "ws":
        return False
    return fault.what in _FRAME or (fault.what in ("close", "half-open") and bool(fault.match))


# -- bytes -------------------------------------------------------------------------------------
def frame_of(text: bytes) -> bytes:
    """Return a text frame as a server sends it: unmasked, in one piece."""
    size = len(text)
    if size < 126:
        return b"\x81" + bytes([size]) + text
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + text
    return b"\x81\x7f" + size.to_bytes(8, "big") + text


def text_in(frame: bytes) -> bytes:
    """Return the text of such a frame."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


def garbled(text: bytes, part: Part, dice: random.Random) -> bytes:
    """Return a text that is broken for sure: JSON that is none, or a number that is none."""
    numbers = list(_NUMBER.finditer(text)) if part == "number" else []
    if numbers:
        chosen = dice.choice(numbers)
        begin, end = chosen.span()
        flaw = dice.choice((b"NaN", b"1e999", b"N" + text[begin + 1 : end]))
        return text[:begin] + flaw + text[end:]
    if not text:
        return b"\x01"
    at = dice.randrange(len(text))
    return text[:at] + b"\x01" + text[at + 1 :]


def _garbled_frame(frame: bytes, part: Part, dice: random.Random) -> bytes:
    if part == "header":
        return bytes([frame[0] | dice.choice(_RESERVED_BITS)]) + frame[1:]
    return frame_of(garbled(text_in(frame), part, dice))
