"""Kraken's public REST answers over a recording: as recorded, or out of the same rows."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from piker.clock import NS
from piker.testing.dialect import Moment
from piker.testing.recording import Answer, Recording
from piker.testing.replay_times import Shift, move_ints, move_stamps
from piker.testing.requests import Reply, Request

__all__ = ["KrakenAnswers"]

PAGE = 1000  # trades of an answer
_PREFIX = "/0/public/"
_ROW_SECONDS = re.compile(rb"\[(\d{10}),")  # OHLC, Spread: the first of a row
_LEVEL_SECONDS = re.compile(rb",(\d{10})\]")  # Depth: the last of a level
_TRADE_SECONDS = re.compile(rb'","[^"]{1,30}",(\d{10})(?=\.)')  # Trades: the third of a row
_LAST_SECONDS = re.compile(rb'"last":"?(\d{10})(?!\d)')
_LAST_NS = re.compile(rb'"last":"?(\d{19})(?!\d)')
_encode = msgspec.json.encode


class _Reply(msgspec.Struct, frozen=True):
    result: dict[str, msgspec.Raw]
    error: list[str] = []


class _Pair(msgspec.Struct, frozen=True):
    altname: str
    wsname: str = ""


_reply = msgspec.json.Decoder(_Reply)


class _Refused(Exception):
    """The venue's own error."""


class KrakenAnswers:
    """Answers to public requests."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._ids = self._names()

    def _names(self) -> dict[str, str]:
        """Return a pair's id by each of its names, of any recorded AssetPairs."""
        found: dict[str, str] = {}
        for key, raw in self._rows("AssetPairs").items():
            try:
                pair = msgspec.json.decode(raw, type=_Pair)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            for name in (pair.wsname, pair.altname, key):
                found.setdefault(name, key)
        return found

    def _rows(self, name: str) -> dict[str, msgspec.Raw]:
        """Return the results of a name's answers by their keys, the oldest where two differ."""
        rows: dict[str, msgspec.Raw] = {}
        for answer in self._recording.of_path(_PREFIX + name):
            for key, raw in _result(answer).items():
                rows.setdefault(key, raw)
        return rows

    # -- which ---------------------------------------------------------------------------------
    def answer(self, request: Request, moment: Moment) -> Reply:
        """Answer a request, times moved; errors come with status 200, as the venue's do."""
        name = request.path.removeprefix(_PREFIX)
        if not request.path.startswith(_PREFIX):
            return Reply(404, b'{"error":["EGeneral:Unknown method"]}')
        asked = _moved_back(request.params, moment.shift)
        try:
            body = self._body(name, asked, moment)
        except _Refused as refused:
            return Reply(body=_encode({"error": [str(refused)]}))
        except (msgspec.DecodeError, UnicodeDecodeError):  # what was recorded is damaged
            return Reply(body=_encode({"error": ["EGeneral:Internal error"]}))
        return Reply(body=_moved(name, body, moment.shift))

    def _body(self, name: str, asked: dict[str, str], moment: Moment) -> bytes:
        if name == "Time":
            now_s = moment.shift.ns(moment.now_ns) // NS
            return _encode({"error": [], "result": {"unixtime": now_s, "rfc1123": ""}})
        exact = self._recording.exact(_PREFIX + name, asked, moment.now_ns)
        if exact is not None and name != "Trades":
            return exact.body
        if name in ("AssetPairs", "Assets", "Ticker"):
            return self._table(name, asked)
        if name in ("OHLC", "Depth", "Trades", "Spread"):
            return self._series(name, asked, moment)
        if name == "SystemStatus":
            now = b'{"status":"online","timestamp":"1970-01-01T00:00:00Z"}'
            return b'{"error":[],"result":' + now + b"}"
        raise _Refused("EGeneral:Unknown method")

    def _table(self, name: str, asked: dict[str, str]) -> bytes:
        """Return the rows of the pairs that were asked for."""
        rows = self._rows(name)
        wanted = asked.get("pair") or asked.get("asset")
        if not rows:
            raise _Refused("EGeneral:Unknown method")
        if wanted:
            keys = [self._ids.get(one, one) for one in wanted.split(",")]
            if any(key not in rows for key in keys):
                raise _Refused("EQuery:Unknown asset pair")
            rows = {key: rows[key] for key in keys}
        return _encode({"error": [], "result": rows})

    def _series(self, name: str, asked: dict[str, str], moment: Moment) -> bytes:
        """Return the rows of one pair: of the newest answer, and for trades of all of them."""
        pair = asked.get("pair", "")
        key = self._ids.get(pair, pair)
        same = [
            answer
            for answer in self._recording.of_path(_PREFIX + name)
            if self._ids.get(answer.params.get("pair", ""), "") == key
            and answer.params.get("interval", "1") == asked.get("interval", "1")
            and _result(answer)
        ]
        if key not in self._ids.values():
            raise _Refused("EQuery:Unknown asset pair")
        if not same:
            raise _Refused("EGeneral:Invalid arguments")
        if name == "Depth":
            return same[-1].body
        column = 2 if name == "Trades" else 0  # where a row has its time
        rows, last = _gathered(same, column, whole=name == "Trades")
        since = asked.get("since", "")
        if since.isdecimal():
            unit = NS if name == "Trades" else 1
            rows = [row for row in rows if row[column] * unit > int(since)]
        if name == "Trades" and len(rows) > PAGE:
            rows = rows[:PAGE] if since.isdecimal() else rows[-PAGE:]
            last = str(round(rows[-1][column] * NS))
        if moment.shift.compresses and name == "OHLC":  # what reaches into the replay is left out
            period_s = 60 * int(asked.get("interval", "1"))
            first_s = self._recording.first_ns // NS
            rows = [row for row in rows if row[0] + period_s <= first_s]
        return _encode({"error": [], "result": {key: rows, "last": last}})


def _gathered(answers: list[Answer], column: int, *, whole: bool) -> tuple[list[list[Any]], Any]:
    """Return the rows of all answers, each once, and the newest ``last``.

    Two rows are the same when they are so as a ``whole``, or in their first column.
    """
    rows: dict[bytes, list[Any]] = {}
    last: Any = 0
    for answer in answers:
        for at, raw in _result(answer).items():
            value = msgspec.json.decode(raw)
            if at == "last":
                last = value
            elif isinstance(value, list):
                for row in value:
                    if _is_row(row, column):
                        rows[_encode(row if whole else row[0])] = row
    return list(rows.values()), last


def _is_row(row: Any, column: int) -> bool:
    return isinstance(row, list) and len(row) > column and type(row[column]) in (int, float)


def _result(answer: Answer) -> dict[str, msgspec.Raw]:
    try:
        return _reply.decode(answer.body).result
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _moved_back(params: dict[str, str], shift: Shift) -> dict[str, str]:
    """Return parameters with ``since`` as it was recorded: in s, or in ns for trades."""
    since = params.get("since", "")
    if shift.still or not since.isdecimal() or len(since) not in (10, 19):
        return params
    unit = NS if len(since) == 10 else 1
    return {**params, "since": str(shift.back(int(since) * unit) // unit)}


def _moved(name: str, body: bytes, shift: Shift) -> bytes:
    if shift.still or name == "Time":
        return body
    if name == "SystemStatus":
        return move_stamps(body, shift)
    pattern = {"OHLC": _ROW_SECONDS, "Spread": _ROW_SECONDS, "Depth": _LEVEL_SECONDS,
               "Trades": _TRADE_SECONDS}.get(name)  # fmt: skip
    if pattern is None:
        return body
    body = move_ints(pattern, body, shift, NS)
    body = move_ints(_LAST_NS, body, shift, 1)
    return move_ints(_LAST_SECONDS, body, shift, NS)
