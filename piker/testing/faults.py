"""Fault plans: what a loopback venue does wrong, as data.

A plan is a list of faults, in a TOML file (``piker venue binance --faults FILE``)::

    [[fault]]
    what = "drop"
    match = "btcusdt@aggTrade"
    every = 50

or in JSON while the venue runs (``POST /_piker/faults``)::

    [{"what": "status", "status": 429, "retry_after_s": 2, "match": "/klines", "count": 3}]

What each does, by where it is on (the first one is the default):

==========  ========  ============================================================================
what        on        an occurrence is, and what happens to it
==========  ========  ============================================================================
drop        ws        a text frame: it is not sent
duplicate   ws        a text frame: it is sent twice in a row
reorder     ws        a text frame: it is sent right after the next one
delay       ws        a text frame: it is sent ``delay_s`` later; what is behind it waits, too
..          http      a request: it is answered ``delay_s`` later
garble      ws        a text frame: bytes of it are changed (``part``, below)
..          http      a request: bytes of the answer's body are changed
slow        ws        a text frame: it is written at ``bytes_per_s``
..          http      a request: the answer is written at ``bytes_per_s``
half-open   ws        with ``match`` a text frame, else a connection: nothing is sent from it on,
                      no pong either, but the connection stays open
..          http      a request: it is never answered, and the connection stays open
close       ws        with ``match`` a text frame, else a connection: it is cut without a word
..          http      a request: the connection is cut instead of an answer
cut-short   http      a request: the answer's head and half of its body are sent, then the
                      connection is cut
refuse      ws        a handshake: it is answered 503. Open connections are cut when it begins
..          http      a TCP connection: it is closed as soon as it is accepted
status      http      a request: it is answered with ``status``
..          ws        a handshake: it is answered with ``status``
unanswered  http      a request: it is done, then the connection is cut instead of the answer, or,
                      with ``status``, answered with that
twice       http      a request: it is done twice, as a gateway does that repeats; the second
                      answer is the one that is sent
late        ws        a text frame: it is sent ``delay_s`` later; what is behind it does not wait
==========  ========  ============================================================================

A venue with an archive (``/data/...``) does these itself, always ``http``. For the first group an
occurrence is a request, as above. For the others it is a *file*, zip and CHECKSUM together, when it
is first asked for: that file stays as it was made while the fault lasts, so that a count of 1 is
one bad file, and the end of ``for_s`` is its being uploaded anew. ``match`` sees the zip's path.
Those with a star are for requests for bars, too (``.../klines``), an occurrence being one request.

================  ==================================================================================
what              what happens
================  ==================================================================================
missing-day       a request for a zip or its CHECKSUM: 404
no-checksum       a request for a CHECKSUM: 404
bad-checksum      a request for a CHECKSUM: it names another hash
truncated-zip     a request for a zip: the second half of the file is missing
================  ==================================================================================
duplicate-rows *  a tenth of the rows, in the middle, comes twice
conflicting-rows* a tenth of the bars, in the middle, comes twice, with two volumes
missing-rows *    a tenth of the rows, in the middle, is missing
off-grid *        one bar is 7 s late (of 1 s bars: 0.4 s)
future-bar *      a bar of the year 2100 follows the last one
impossible-bar *  one bar's high is below its low
unsorted          the second half of the rows comes before the first
unit-switch       from the middle on, times are in the other unit: us for ms, ms for us
wrong-symbol      the file is another market's, under this one's name
zip-bomb          the CSV inflates to 2 GiB, of which the header tells (``part`` = ``declared``, the
                  default) or does not (``hidden``)
zip-path          the member's name is ``../../`` and the right one
two-members       there is a second member
empty-csv         the member has no bytes
================  ==================================================================================

conflicting-rows, off-grid, future-bar, impossible-bar, unit-switch and wrong-symbol change files of
bars alone; "a tenth" is at least one row. Checksum, ETag and length always agree with such a file.

When. A fault begins ``after_s`` after it was added and lasts ``for_s``, for ever without one.
Every text frame, request, handshake or connection that ``match`` finds (a regular expression, on
the frame's stream name and text, or on the path and query as they were sent) is an occurrence; of
those every ``every``-th is taken, of these each with ``probability``, and of what is left at most
``count`` in all. ``half-open`` and ``close`` without ``match`` take the connections that are open
when they begin. While it lasts ``half-open`` takes each new one, too; ``close`` does so only with
``for_s``: then handshakes are refused (503) until its end. A TCP connection has no path: ``match``
is not allowed there.

Frames are counted for each connection apart, and each has its own dice, made of the venue's seed,
the fault's number and the connection's: the same plan does the same to the same frames of the n-th
connection. Faults act in the order of the list; what one drops or cuts the next ones do not see.
Pings, pongs and close frames are no text frames: ``half-open`` alone concerns them. The answers to
``/_piker/`` are never touched.

``part`` of garble: ``json`` (the default) puts a control character into the text, which no JSON
may hold; ``number`` makes a number of it impossible: not a number or below zero; ``header`` (ws)
sets a reserved bit of the frame, which ends a connection.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from piker.config import nearest
from piker.errors import ConfigError

__all__ = [
    "BAR_FLAWS",
    "FILE_FLAWS",
    "MAX_FAULTS",
    "REQUEST_FLAWS",
    "Fault",
    "On",
    "Part",
    "What",
    "faults_of_json",
    "load_faults",
    "outage",
]

What = Literal[
    "drop", "duplicate", "reorder", "delay", "garble", "slow", "half-open", "close", "refuse",
    "status", "cut-short", "unanswered", "twice", "late",
    "missing-day", "no-checksum", "bad-checksum", "truncated-zip",
    "duplicate-rows", "conflicting-rows", "missing-rows", "off-grid", "future-bar",
    "impossible-bar", "unsorted", "unit-switch", "wrong-symbol", "zip-bomb", "zip-path",
    "two-members", "empty-csv",
]  # fmt: skip
On = Literal["ws", "http"]
Part = Literal["json", "number", "header", "declared", "hidden"]

#: What an archive does wrong with one request, with a file, and what answers with bars have, too.
REQUEST_FLAWS = frozenset({"missing-day", "no-checksum", "bad-checksum", "truncated-zip"})
BAR_FLAWS = frozenset({
    "duplicate-rows", "conflicting-rows", "missing-rows", "off-grid", "future-bar",
    "impossible-bar",
})  # fmt: skip
FILE_FLAWS = BAR_FLAWS | {
    "unsorted", "unit-switch", "wrong-symbol", "zip-bomb", "zip-path", "two-members", "empty-csv",
}  # fmt: skip

MAX_FAULTS = 1000  # of a venue; each is looked at for every frame
MAX_MATCH = 1000  # characters of a pattern
MAX_SECONDS = 366 * 86_400.0  # of every time in a plan

_PLACES: dict[str, tuple[On, ...]] = {
    "drop": ("ws",), "duplicate": ("ws",), "reorder": ("ws",), "delay": ("ws", "http"),
    "garble": ("ws", "http"), "slow": ("ws", "http"), "half-open": ("ws", "http"),
    "close": ("ws", "http"), "refuse": ("ws", "http"), "status": ("http", "ws"),
    "cut-short": ("http",), "unanswered": ("http",), "twice": ("http",), "late": ("ws",),
    **dict.fromkeys((*REQUEST_FLAWS, *FILE_FLAWS), ("http",)),
}  # fmt: skip
_ARGUMENTS = {  # argument -> who has it, and whether it must
    "delay_s": {"delay": True, "late": True},
    "status": {"status": True, "unanswered": False},
    "retry_after_s": {"status": False},
    "bytes_per_s": {"slow": True},
}
_PARTS = {"garble": ("json", "number", "header"), "zip-bomb": ("declared", "hidden")}
_WORDS: dict[str, tuple[str, ...]] = {
    "what": get_args(What), "on": get_args(On), "part": get_args(Part),
}  # fmt: skip


class Fault(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One fault; the module's text says what each field does. Raises ``ConfigError``."""

    what: What
    on: On | None = None  # never None once it is made
    match: str = ""
    after_s: float = 0.0
    for_s: float | None = None
    every: int = 1
    probability: float = 1.0
    count: int | None = None
    delay_s: float | None = None
    status: int | None = None
    retry_after_s: float | None = None
    bytes_per_s: float | None = None
    part: Part | None = None

    def __post_init__(self) -> None:
        """Fill in where it is on, and refuse what makes no sense."""
        places = _PLACES[self.what]
        if self.on is None:
            msgspec.structs.force_setattr(self, "on", places[0])
        elif self.on not in places:
            raise ConfigError(f"{self.what} is never on {self.on}.", remedy=f"Use {places[0]}.")
        self._check_arguments()
        self._check_bounds()
        try:
            re.compile(self.match)
        except re.error as error:
            raise ConfigError(f"match: {self.match!r} is no pattern: {error}.") from None

    def _check_arguments(self) -> None:
        for name, owners in _ARGUMENTS.items():
            given = getattr(self, name) is not None
            if given and self.what not in owners:
                whose = " and ".join(owners)
                raise ConfigError(f"{name} belongs to {whose}, not to {self.what}.")
            if owners.get(self.what) and not given:
                raise ConfigError(f"{self.what} needs {name}.")
        if self.part is not None and self.part not in _PARTS.get(self.what, ()):
            which = " or ".join(_PARTS.get(self.what, ())) or "none"
            raise ConfigError(f"part: {self.what} has {which}, not {self.part}.")
        if self.part == "header" and self.on == "http":
            raise ConfigError("garble: part: an answer over http has no frame header.")
        if self.match and self.what == "refuse" and self.on == "http":
            raise ConfigError("refuse: match: a TCP connection has no path yet.")

    def _check_bounds(self) -> None:
        for name in ("after_s", "for_s", "delay_s", "retry_after_s"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= MAX_SECONDS:
                raise ConfigError(f"{name}: {value:g} is not within 0 and {MAX_SECONDS:g}.")
        if not 0 <= self.probability <= 1:
            raise ConfigError(f"probability: {self.probability:g} is not within 0 and 1.")
        if self.every < 1 or (self.count is not None and self.count < 1):
            raise ConfigError("every and count are 1 or more.")
        if self.status is not None and not 300 <= self.status <= 599:
            raise ConfigError(f"status: {self.status} is not within 300 and 599.")
        if self.bytes_per_s is not None and not 1 <= self.bytes_per_s <= 1e12:
            raise ConfigError(f"bytes_per_s: {self.bytes_per_s:g} is not 1 or more.")
        if len(self.match) > MAX_MATCH:
            raise ConfigError(f"match: more than {MAX_MATCH} characters.")


def outage(for_s: float = 0.0) -> Fault:
    """Return the fault that cuts every websocket, and refuses new ones for so long."""
    return Fault(what="close", for_s=for_s or None)


# -- reading ---------------------------------------------------------------------------------
def load_faults(file: Path) -> tuple[Fault, ...]:
    """Read a plan's TOML file; raise ``ConfigError`` with file, line, key and nearest word."""
    try:
        text = file.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except OSError as error:
        what = f"can not read {file}: {error.strerror}."
        raise ConfigError(what, remedy="Name the file of a plan.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8: {error}.", remedy="Mend the file.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}.", remedy="Mend that line.") from None
    for key in raw:
        if key != "fault":
            line = _line_of(text, -1, key)
            raise ConfigError(
                f"{file}:{line}: unknown key {key!r}.", remedy=nearest(key, ["fault"])
            )
    tables = raw.get("fault", [])
    if not isinstance(tables, list):
        raise ConfigError(f"{file}: fault is no list of tables.", remedy="Write [[fault]].")
    return _faults_of(tables, lambda at, key: f"{file}:{_line_of(text, at, key)}")


def faults_of_json(body: bytes) -> tuple[Fault, ...]:
    """Return the faults of a JSON list, or of a single object; raise ``ConfigError``."""
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"not JSON: {error}.", remedy='Send [{"what": "close"}].') from None
    tables = [raw] if isinstance(raw, dict) else raw
    if not isinstance(tables, list):
        raise ConfigError("not a list of faults.", remedy='Send [{"what": "close"}].')
    return _faults_of(tables, lambda at, key: "the request")


def _faults_of(tables: Sequence[Any], where: Callable[[int, str], str]) -> tuple[Fault, ...]:
    """Return the faults of decoded tables; Any: whatever TOML or JSON can hold."""
    if len(tables) > MAX_FAULTS:
        raise ConfigError(f"{where(0, '')}: {len(tables)} faults; {MAX_FAULTS} are allowed.")
    found = []
    for at, table in enumerate(tables):
        try:
            found.append(_fault_of(table))
        except _Wrong as error:
            raise ConfigError(
                f"{where(at, error.key)}: fault {at + 1}: {error.message}", remedy=error.remedy
            ) from None
    return tuple(found)


class _Wrong(ConfigError):
    """What is wrong with one table, and with which key of it."""

    def __init__(self, message: str, key: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.key = key


def _fault_of(table: Any) -> Fault:
    if not isinstance(table, dict):
        raise _Wrong(f"{str(table)[:40]!r} is no table.")
    for key, value in table.items():
        if key not in Fault.__struct_fields__:
            names = nearest(key, Fault.__struct_fields__)
            raise _Wrong(f"unknown key {key!r}.", key, names)
        if key in _WORDS and value not in _WORDS[key]:
            raise _Wrong(f"{key}: {value!r} is none.", key, nearest(str(value), _WORDS[key]))
    if "what" not in table:
        raise _Wrong("what is missing.", "", nearest("", _WORDS["what"]))
    try:
        return msgspec.convert(table, Fault)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        key = path.strip("`.")
        raise _Wrong(f"{key}: {message}." if key else f"{message}.", key) from None
    except ConfigError as error:
        raise _Wrong(error.message, _key_in(error.message, table), error.remedy) from None


def _key_in(message: str, table: dict[str, Any]) -> str:
    """Return the table's key that a message speaks of, for the line's sake."""
    return next((key for key in table if key in re.split(r"\W+", message)), "")


def _line_of(text: str, at: int, key: str) -> int:
    """Return the line of a key in the ``at``-th fault (-1: before all), else that table's."""
    number, best = -1, 1
    for line_number, line in enumerate(text.splitlines(), start=1):
        stripped = line.split("#", 1)[0].strip()
        if stripped.startswith("["):
            number += re.sub(r"\s", "", stripped) == "[[fault]]"
            if number == at or stripped.strip("[] ") == key:
                best = line_number
        elif number == at and key and stripped.split("=", 1)[0].strip().strip("\"'") == key:
            return line_number
    return best
