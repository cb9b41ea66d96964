"""Binance's REST answers over a recording.

What was recorded is answered as it was. Beyond that an answer is made of the same recording where
it says it: a book of the diffs that were sent so far, bars and trades of the frames and of any
answer that holds them, prices and tops of the newest frames. What it does not say is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from piker.errors import DataQuality
from piker.ohlcv import Timeframe
from piker.testing.dialect import Moment
from piker.testing.recording import Answer, Recording
from piker.testing.replay_depth import Snapshot, depth_at
from piker.testing.replay_times import Shift, move_ints
from piker.testing.requests import Reply, Request

__all__ = ["BinanceAnswers"]

MS_NS = 1_000_000
_PREFIXES = (("/api/v3/", "spot"), ("/fapi/v1/", "usdm"), ("/dapi/v1/", "coinm"))
MAX_ROWS = {"spot": 1000, "usdm": 1500, "coinm": 1500}  # of klines in one answer
_TIMES = re.compile(
    rb'"(?:serverTime|time|E|T|openTime|closeTime|nextFundingTime|fundingTime)":(\d{13})(?!\d)'
)
_BAR_TIMES = re.compile(rb"(?<=[\[,])(\d{13})(?=,)")
_NOT_FOUND = Reply(404, b'{"code":-1,"msg":"Not found"}')
_encode = msgspec.json.encode
Row = list[Any]  # of klines, as the venue sends it


class _Named(msgspec.Struct, frozen=True):
    symbol: str


class _Info(msgspec.Struct, frozen=True):
    symbols: list[msgspec.Raw]


_named = msgspec.json.Decoder(_Named)
_rows = msgspec.json.Decoder(list[Row])
_maps = msgspec.json.Decoder(list[dict[str, Any]] | dict[str, Any])


class _Refused(Exception):
    """The venue's own error."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.reply = Reply(400, _encode({"code": code, "msg": text}))


class BinanceAnswers:
    """Answers to requests of all three kinds of market."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._listed: dict[str, set[str]] = {}  # kind -> its symbols, of exchangeInfo and frames
        for prefix, kind in _PREFIXES:
            self._listed[kind] = self._symbols(prefix, kind)

    def _symbols(self, prefix: str, kind: str) -> set[str]:
        found = {
            stream.partition("|")[2].partition("@")[0].upper()
            for stream in self._recording.by_stream
            if stream.startswith(f"{kind}|")
        }
        for raw in self._listings(prefix):
            try:
                found.add(_named.decode(raw).symbol)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
        return found

    def _listings(self, prefix: str) -> list[msgspec.Raw]:
        """Return the rows of the recorded exchangeInfo."""
        for answer in self._recording.of_path(f"{prefix}exchangeInfo"):
            try:
                return msgspec.json.decode(answer.body, type=_Info).symbols
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
        return []

    # -- which -------------------------------------------------------------------------------
    def answer(self, request: Request, moment: Moment) -> Reply:
        """Answer a request, times moved."""
        found = next((one for one in _PREFIXES if request.path.startswith(one[0])), None)
        if found is None:
            return _NOT_FOUND
        prefix, kind = found
        name = request.path.removeprefix(prefix)
        asked = _moved_back(request.params, moment.shift)
        make = getattr(self, f"_get_{name.replace('/', '_')}", None)
        try:
            self._check_symbol(kind, asked)
            if make is not None:
                body: bytes = make(prefix, kind, asked, moment)
            else:
                body = self._recorded(request.path, asked, moment)
        except _Refused as refused:
            return refused.reply
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _Refused(-1000, "What this capture has of it is damaged.").reply
        except (ValueError, KeyError) as error:
            text = f"Illegal or missing parameter: {error}."
            return _Refused(-1102, text).reply
        return Reply(body=_moved(name, body, moment.shift))

    def _check_symbol(self, kind: str, asked: dict[str, str]) -> None:
        symbol = asked.get("symbol")
        if symbol is not None and symbol not in self._listed[kind]:
            raise _Refused(-1121, "Invalid symbol.")

    def _recorded(self, path: str, asked: dict[str, str], moment: Moment) -> bytes:
        """Return the recorded answer to these parameters, or to the same symbol."""
        exact = self._recording.exact(path, asked, moment.now_ns)
        if exact is not None:
            return _body(exact)
        for answer in reversed(self._recording.of_path(path)):
            same = answer.params.get("symbol") == asked.get("symbol")
            if answer.status == 200 and same and "symbols" not in asked | answer.params:
                return answer.body
        return self._by_symbol(path, asked)

    def _by_symbol(self, path: str, asked: dict[str, str]) -> bytes:
        """Return the rows of the symbols that were asked for, out of any answer with several."""
        rows = self._known_rows(path)
        wanted = _wanted(asked)
        found = [row for symbol, row in rows.items() if wanted is None or symbol in wanted]
        if not found:
            raise _Refused(-1000, "This capture holds no answer to that.")
        return _encode(found[0] if "symbol" in asked else found)

    def _known_rows(self, path: str) -> dict[str, dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {}
        for answer in self._recording.of_path(path):
            for row in _objects(answer.body):
                if isinstance(row.get("symbol"), str):
                    rows.setdefault(row["symbol"], row)
        return rows

    # -- always ------------------------------------------------------------------------------
    def _get_ping(self, prefix: str, kind: str, asked: dict[str, str], moment: Moment) -> bytes:
        return b"{}"

    def _get_time(self, prefix: str, kind: str, asked: dict[str, str], moment: Moment) -> bytes:
        return _encode({"serverTime": moment.now_ns // MS_NS})

    def _get_exchangeInfo(
        self, prefix: str, kind: str, asked: dict[str, str], moment: Moment
    ) -> bytes:
        path = f"{prefix}exchangeInfo"
        exact = self._recording.exact(path, asked, moment.now_ns)
        if exact is not None:
            return _body(exact)
        for answer in self._recording.of_path(path):
            if answer.status == 200:
                return self._chosen(answer.body, _wanted(asked))
        raise _Refused(-1000, "This capture holds no exchangeInfo.")

    def _chosen(self, body: bytes, wanted: set[str] | None) -> bytes:
        if wanted is None:
            return body
        info = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        rows = msgspec.json.decode(info["symbols"], type=list[msgspec.Raw])
        chosen = [row for row in rows if _named.decode(row).symbol in wanted]
        if len(chosen) < len(wanted):
            raise _Refused(-1121, "Invalid symbol.")
        return _encode({**info, "symbols": chosen})

    # -- the book ----------------------------------------------------------------------------
    def _get_depth(self, prefix: str, kind: str, asked: dict[str, str], moment: Moment) -> bytes:
        """Return the book as it stands, or the recorded one where that is still to come."""
        path, symbol = f"{prefix}depth", asked["symbol"]
        limit = int(asked.get("limit", "100" if kind == "spot" else "500"))
        snapshots = [
            Snapshot.of(answer.body)
            for answer in self._recording.of_path(path)
            if answer.params.get("symbol") == symbol and answer.status == 200
        ]
        diffs = self._sent(kind, symbol, ("depth@100ms", "depth"), moment.position)
        try:
            book = depth_at(snapshots, diffs, futures=kind != "spot")
        except DataQuality as error:
            raise _Refused(-1000, f"This capture's book is spoilt: {error.message}") from None
        if book is None:
            raise _Refused(-1000, "This capture holds no book of it.")
        return book.body(limit)

    def _sent(
        self, kind: str, symbol: str, names: tuple[str, ...], position: int
    ) -> Iterator[dict[str, Any]]:
        """Yield what was sent on the first of these streams that was recorded."""
        for name in names:
            stream = f"{kind}|{symbol.lower()}@{name}"
            if stream in self._recording.by_stream:
                for _, frame in self._recording.sent(stream, position):
                    yield _data(frame)
                return

    # -- bars and trades ---------------------------------------------------------------------
    def _get_klines(self, prefix: str, kind: str, asked: dict[str, str], moment: Moment) -> bytes:
        """Return bars out of every answer and frame so far; a flat one where there is none."""
        symbol, interval = asked["symbol"], asked["interval"]
        period_ms = Timeframe(interval).seconds * 1000
        rows = self._bars(prefix, kind, symbol, interval, moment)
        begin, end = int(asked.get("startTime", "0")), int(asked.get("endTime", str(2**63)))
        now_ms, first_ms = moment.now_ns // MS_NS, self._recording.first_ns // MS_NS
        limit = min(int(asked.get("limit", "500")), MAX_ROWS[kind])
        if moment.shift.compresses:  # bars that reach into the replay can not be compressed
            rows = {at: row for at, row in rows.items() if at + period_ms <= first_ms}
            now_ms = first_ms
        if not rows and (price := self._price(kind, symbol, moment.position)):
            at = now_ms // period_ms * period_ms
            rows = {at: _flat(at, period_ms, price)}
        found = [row for at, row in sorted(rows.items()) if begin <= at <= min(end, now_ms)]
        return _encode(found[:limit] if "startTime" in asked else found[-limit:])

    _get_uiKlines = _get_klines

    def _bars(
        self, prefix: str, kind: str, symbol: str, interval: str, moment: Moment
    ) -> dict[int, Row]:
        rows: dict[int, Row] = {}
        for answer in self._recording.of_path(f"{prefix}klines"):
            if (answer.params.get("symbol"), answer.params.get("interval")) == (symbol, interval):
                try:
                    rows.update({int(row[0]): row for row in _rows.decode(answer.body)})
                except (msgspec.DecodeError, UnicodeDecodeError, IndexError, ValueError, TypeError):
                    continue
        for event in self._sent(kind, symbol, (f"kline_{interval}",), moment.position):
            bar = event.get("k")
            if isinstance(bar, dict) and isinstance(bar.get("t"), int):
                rows[bar["t"]] = [bar.get(key) for key in "tohlcvTqnVQB"]
        return rows

    def _get_aggTrades(
        self, prefix: str, kind: str, asked: dict[str, str], moment: Moment
    ) -> bytes:
        symbol, limit = asked["symbol"], min(int(asked.get("limit", "500")), 1000)
        rows: dict[int, dict[str, Any]] = {}
        for answer in self._recording.of_path(f"{prefix}aggTrades"):
            if answer.params.get("symbol") == symbol:
                rows.update({r["a"]: r for r in _objects(answer.body) if type(r.get("a")) is int})
        for event in self._sent(kind, symbol, ("aggTrade",), moment.position):
            if type(event.get("a")) is int:
                rows[event["a"]] = {k: event[k] for k in "apqflTmM" if k in event}
        ordered = [row for _, row in sorted(rows.items())]
        if "fromId" in asked:
            begin = int(asked["fromId"])
            return _encode([row for row in ordered if row["a"] >= begin][:limit])
        return _encode(ordered[-limit:])

    # -- prices ------------------------------------------------------------------------------
    def _get_ticker_price(
        self, prefix: str, kind: str, asked: dict[str, str], moment: Moment
    ) -> bytes:
        path = f"{prefix}ticker/price"
        exact = self._recording.exact(path, asked, moment.now_ns)
        if exact is not None:
            return _body(exact)
        known = self._known_rows(path)
        for symbol in self._streamed(kind) - known.keys():
            if price := self._price(kind, symbol, moment.position):
                known[symbol] = {"symbol": symbol, "price": price}
        return _table(known, kind, asked)

    def _get_ticker_bookTicker(
        self, prefix: str, kind: str, asked: dict[str, str], moment: Moment
    ) -> bytes:
        path = f"{prefix}ticker/bookTicker"
        exact = self._recording.exact(path, asked, moment.now_ns)
        if exact is not None:
            return _body(exact)
        known = self._known_rows(path)
        for symbol in self._streamed(kind) - known.keys():
            top = self._newest(kind, symbol, "bookTicker", moment.position)
            if {"b", "B", "a", "A"} <= top.keys():
                known[symbol] = {
                    "symbol": symbol, "bidPrice": top["b"], "bidQty": top["B"],
                    "askPrice": top["a"], "askQty": top["A"],
                }  # fmt: skip
        return _table(known, kind, asked)

    def _streamed(self, kind: str) -> set[str]:
        """Return the symbols of which frames were recorded."""
        return {
            stream.partition("|")[2].partition("@")[0].upper()
            for stream in self._recording.by_stream
            if stream.startswith(f"{kind}|") and "@" in stream
        }

    def _newest(self, kind: str, symbol: str, name: str, position: int) -> dict[str, Any]:
        """Return the newest event of a stream, or its first where none was sent yet."""
        stream = f"{kind}|{symbol.lower()}@{name}"
        frame = self._recording.newest(stream, position) or self._recording.first(stream)
        return _data(frame) if frame else {}

    def _price(self, kind: str, symbol: str, position: int) -> str:
        """Return a last price out of trades, bars or tops; empty where none says one."""
        for name in ("aggTrade", "trade", "kline_1m", "kline_1s", "bookTicker"):
            event = self._newest(kind, symbol, name, position)
            bar = event.get("k")
            price = bar.get("c") if isinstance(bar, dict) else event.get("p", event.get("b"))
            if isinstance(price, str) and price:
                return price
        return ""


def _flat(open_ms: int, period_ms: int, price: str) -> Row:
    close_ms = open_ms + period_ms - 1
    return [open_ms, price, price, price, price, "0", close_ms, "0", 0, "0", "0", "0"]


# -- small things --------------------------------------------------------------------------------
def _body(answer: Answer) -> bytes:
    if answer.status != 200:
        refused = _Refused(-1000, "")
        refused.reply = Reply(answer.status, answer.body)
        raise refused
    return answer.body


def _table(rows: dict[str, dict[str, Any]], kind: str, asked: dict[str, str]) -> bytes:
    wanted = _wanted(asked)
    found = [row for symbol, row in sorted(rows.items()) if wanted is None or symbol in wanted]
    if wanted is not None and not found:
        raise _Refused(-1000, "This capture holds no price of it.")
    return _encode(found[0] if "symbol" in asked and kind != "coinm" else found)


def _wanted(asked: dict[str, str]) -> set[str] | None:
    """Return the symbols that were asked for, None for all."""
    if "symbol" in asked:
        return {asked["symbol"]}
    if "symbols" not in asked:
        return None
    try:
        return set(msgspec.json.decode(asked["symbols"], type=list[str]))
    except msgspec.DecodeError as error:
        raise _Refused(-1100, f"Illegal characters found in parameter 'symbols': {error}") from None


def _objects(body: bytes) -> list[dict[str, Any]]:
    try:
        found = _maps.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []
    return found if isinstance(found, list) else [found]


def _data(frame: bytes) -> dict[str, Any]:
    """Return an event without its envelope; empty where it is none."""
    try:
        found = msgspec.json.decode(frame, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    data = found.get("data", found) if "stream" in found else found
    return data if isinstance(data, dict) else {}


def _moved_back(params: dict[str, str], shift: Shift) -> dict[str, str]:
    """Return a request's parameters with its times as they were recorded."""
    if shift.still:
        return params
    times = {
        name: str(shift.back(int(params[name]) * MS_NS) // MS_NS)
        for name in ("startTime", "endTime")
        if params.get(name, "").isdecimal() and len(params[name]) < 16
    }
    return {**params, **times}


def _moved(name: str, body: bytes, shift: Shift) -> bytes:
    if shift.still:
        return body
    pattern = _BAR_TIMES if name in ("klines", "uiKlines") else _TIMES
    return move_ints(pattern, body, shift, MS_NS)
