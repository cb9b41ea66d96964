"""Captures: bytes come back, secrets do not, damage is told; and what a replay makes of them."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker.clock import NS
from piker.errors import ConfigError, PikerError
from piker.testing.capture import (
    CaptureWriter,
    Header,
    In,
    Open,
    Out,
    Record,
    Rest,
    payload,
    read_capture,
    text_fields,
)
from piker.testing.captures_foreign import read_any
from piker.testing.dialect import Moment
from piker.testing.recorder import CaptureTap
from piker.testing.replay import DIALECTS, make_replay
from piker.testing.replay_times import MINUTE_NS, STILL, Shift, move_stamps
from piker.testing.requests import Request
from piker.testing.scrub import keep_headers, scrub_heard, scrub_said, scrub_url

T = 1_700_000_030 * NS
MS = T // 1_000_000
KEY = (
    "pqia91ma19a5s61cv6a81va65sdf19v8a65a1a5s61cv6a81va65sdf19v8a65a1"  # the documents' listen key
)
STAMP = "2023-11-14T22:13:50.123456Z"


def header(provider: str = "binance") -> Header:
    """Return a header."""
    return Header(version=1, provider=provider, t=T, piker="0", symbols=("btcusdt.spot",))


def binance_records() -> list[Record]:
    """Return a session of a made-up Binance: a book, trades, bars, tops."""
    info = {"serverTime": MS, "symbols": [{"symbol": "BTCUSDT"}]}
    depth = {"lastUpdateId": 10, "bids": [["9.0", "1"], ["8.0", "2"]], "asks": [["11.0", "1"]]}
    kline = [[MS // 60_000 * 60_000 - 60_000, "1", "2", "1", "2", "5", MS, "8", 3, "0", "0", "0"]]
    url = "https://api.binance.com"
    records: list[Record] = [
        Rest(t=T, base=url, path="/api/v3/exchangeInfo", text=json.dumps(info)),
        Rest(t=T, base=url, path="/api/v3/depth", query="symbol=BTCUSDT&limit=1000",
             text=json.dumps(depth)),
        Rest(t=T, base=url, path="/api/v3/klines", query="symbol=BTCUSDT&interval=1m&limit=1000",
             text=json.dumps(kline)),
        Open(t=T, c=1, url="wss://stream.binance.com:9443/stream"),
        Open(t=T, c=2, url="wss://stream.binance.com:9443/ws/btcusdt@trade"),
        Out(t=T, c=1, text='{"method":"SUBSCRIBE","params":["btcusdt@aggTrade"],"id":1}'),
        In(t=T, c=1, text='{"result":null,"id":1}'),
    ]  # fmt: skip
    for n in range(1, 6):
        t, ms = T + n * NS, MS + 1000 * n
        trade = {"e": "aggTrade", "E": ms, "s": "BTCUSDT", "a": n, "p": "10.0", "q": "1", "f": n,
                 "l": n, "T": ms, "m": True}  # fmt: skip
        diff = {"e": "depthUpdate", "E": ms, "s": "BTCUSDT", "U": 10 + n, "u": 10 + n,
                "b": [[f"9.{n}", "1"]], "a": []}  # fmt: skip
        raw = {"e": "trade", "E": ms, "s": "BTCUSDT", "t": MS + n, "p": "10.0", "q": "1", "T": ms}
        top = {"u": 10 + n, "s": "BTCUSDT", "b": f"9.{n}", "B": "1", "a": "11.0", "A": "1"}
        for name, data in (("aggTrade", trade), ("depth@100ms", diff), ("bookTicker", top)):
            text = msgspec.json.encode({"stream": f"btcusdt@{name}", "data": data}).decode()
            records.append(In(t=t, c=1, text=text))
        records.append(In(t=t, c=2, text=msgspec.json.encode(raw).decode()))
    return records


def kraken_records() -> list[Record]:
    """Return a session of a made-up Kraken: v2 book, trades, bars, and a v1 book."""
    pair = {"altname": "XBTUSD", "wsname": "XBT/USD"}
    url = "https://api.kraken.com"
    ticker = {"XXBTZUSD": {"c": ["1", "1"]}}
    rows = {"XXBTZUSD": [["10.0", "1.0", 1_700_000_000.1234, "b", "m", "", 7]], "last": str(T)}
    records: list[Record] = [
        Rest(t=T, base=url, path="/0/public/AssetPairs",
             text=json.dumps({"error": [], "result": {"XXBTZUSD": pair}})),
        Rest(t=T, base=url, path="/0/public/Ticker", query="pair=XBTUSD",
             text=json.dumps({"error": [], "result": ticker})),
        Rest(t=T, base=url, path="/0/public/Trades", query="pair=XBTUSD&since=1",
             text=json.dumps({"error": [], "result": rows})),
        Open(t=T, c=1, url="wss://ws.kraken.com/v2"),
        Open(t=T, c=2, url="wss://ws.kraken.com"),
        Out(t=T, c=1, text='{"method":"subscribe","params":{"channel":"book",'
            '"symbol":["BTC/USD"],"depth":25}}'),
        In(t=T, c=1, text='{"channel":"heartbeat"}'),
    ]  # fmt: skip
    for n in range(1, 6):
        t = T + n * NS
        kind = "snapshot" if n == 1 else "update"
        for channel, row in (
            ("book", f'"bids":[{{"price":{n}.0,"qty":1.0}}],"asks":[],"checksum":{n}'),
            ("trade", f'"price":1.0,"qty":1.0,"side":"buy","trade_id":{n}'),
            ("ohlc", f'"interval":1,"interval_begin":"2023-11-14T22:1{n}:00.000000000Z"'),
            ("ticker", f'"bid":{n}.0'),
        ):
            text = f'{{"channel":"{channel}","type":"{kind}","data":[{{"symbol":"BTC/USD",{row},'
            records.append(In(t=t, c=1, text=f'{text}"timestamp":"{STAMP}"}}]}}'))
        book = {"as": [["11.0", "1", "1700000030.5"]], "bs": [["9.0", "1", "1700000030.5"]]}
        part = book if n == 1 else {"b": [[f"{9 + n / 10}", "1", "1700000031.5"]], "c": "1"}
        text = msgspec.json.encode([336, part, "book-10", "XBT/USD"]).decode()
        records.append(In(t=t, c=2, text=text))
    return records


def written(path: Path, head: Header, records: list[Record]) -> Path:
    """Write a capture."""
    with CaptureWriter(path, head) as writer:
        writer.write(records)
    return path


# -- format ----------------------------------------------------------------------------------------
@given(st.binary(max_size=200))
def test_bytes_come_back_when_they_were_recorded(raw: bytes) -> None:
    """Text as text, what is no UTF-8 as base64."""
    record = In(t=1, c=1, **text_fields(raw))
    line = msgspec.json.encode(record)
    assert payload(msgspec.json.decode(line, type=In)) == raw
    assert b"\n" not in line


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_records_come_back_when_a_capture_is_read(tmp_path: Path, name: str) -> None:
    """Header and records, plain or compressed, nothing torn."""
    path = written(tmp_path / name, header(), binance_records())
    found = read_capture(path)
    assert (found.header, found.records, found.torn) == (header(), binance_records(), "")
    data = path.read_bytes()
    data = gzip.decompress(data) if name.endswith(".gz") else data
    assert data.startswith(b'{"k":"piker-capture","version":1,')


def test_the_last_line_is_dropped_when_it_is_torn(tmp_path: Path) -> None:
    """Wherever a crash cut it: the lines before it stand, and it is told which one was dropped."""
    path = written(tmp_path / "a.jsonl", header(), binance_records()[:5])
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, len(whole) - 1) + 1
    for cut in range(last + 1, len(whole) - 1, 7):
        path.write_bytes(whole[:cut])
        found = read_capture(path)
        assert found.records == binance_records()[:4]
        assert "line 6" in found.torn
    path.write_bytes(whole[:-1])  # the newline alone is missing
    assert read_capture(path).records == binance_records()[:5]


def test_what_was_written_is_read_when_a_compressed_capture_is_cut(tmp_path: Path) -> None:
    """At any byte after the header."""
    path = tmp_path / "a.jsonl.gz"
    with CaptureWriter(path, header()) as writer:
        for record in binance_records():
            writer.write([record])
    whole = path.read_bytes()
    for cut in range(200, len(whole) - 8, 41):
        path.write_bytes(whole[:cut])
        found = read_capture(path)
        assert found.records == binance_records()[: len(found.records)]
        assert found.torn


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"garbage", "malformed"),
        (b'{"k":"in","t":1,"c":9,"text":""}', "never opened"),
        (b'{"k":"in","t":-1,"c":1,"text":""}', ">= 0"),
        (b'{"k":"in","t":1,"c":1,"b64":"!"}', "base64"),
        (b'{"k":"other","t":1}', "other"),
        (b'{"k":"rest","t":1,"path":"/","status":7}', "status"),
        (b"\xff\xfe", "utf-8|malformed"),
    ],
)
def test_file_and_line_are_named_when_a_capture_is_corrupt(
    tmp_path: Path, line: bytes, what: str
) -> None:
    """And nothing of it is used."""
    path = written(tmp_path / "a.jsonl", header(), binance_records()[:5])
    path.write_bytes(path.read_bytes() + line + b"\n" + b'{"k":"open","t":1,"c":3,"url":""}\n')
    with pytest.raises(ConfigError, match=rf"a\.jsonl:7: .*({what})"):
        read_capture(path)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "neither a capture"),
        (b'{"init": 1, "updates": 2}', "not messages"),
        (b'{"k":"piker-capture","version":2,"provider":"x","t":1}\n', "format 2"),
        (b'{"k":"piker-capture","provider":"x"}\n', "header"),
    ],
)
def test_a_sentence_is_given_when_a_file_is_no_capture(
    tmp_path: Path, data: bytes, what: str
) -> None:
    """Of no known shape, or of another version."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=what):
        read_any(path)


def test_damage_is_told_when_a_compressed_capture_has_some(tmp_path: Path) -> None:
    """It is not taken for a crash."""
    path = written(tmp_path / "a.jsonl.gz", header(), binance_records())
    data = bytearray(path.read_bytes())
    data[60:80] = bytes(20)
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"a\.jsonl\.gz"):
        read_capture(path)


def test_a_file_stays_when_it_exists(tmp_path: Path) -> None:
    """Unless it is to be replaced; a place that can not be written is a sentence."""
    path = written(tmp_path / "a.jsonl", header(), binance_records())
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="exists"):
        CaptureWriter(path, header())
    assert path.read_bytes() == before
    CaptureWriter(path, header(), force=True).close()
    assert read_capture(path).records == []
    with pytest.raises(ConfigError, match="can not write"):
        CaptureWriter(tmp_path / "nowhere" / "a.jsonl", header())


def test_a_sentence_is_given_when_the_disk_is_full() -> None:
    """The system's own full disk."""
    with pytest.raises(PikerError, match="No space left"):
        CaptureWriter(Path("/dev/full"), header(), force=True)


# -- secrets ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://a.com/x?symbol=A&timestamp=5", "https://a.com/x?symbol=A&timestamp=5"),
        ("https://a.com/x?b=1&signature=abc&c=2", "https://a.com/x?b=1&signature=***&c=2"),
        ("wss://a.com/ws?listenKey=abc", "wss://a.com/ws?listenKey=***"),
        (f"wss://a.com:1/ws/{KEY}", f"wss://a.com:1/ws/{'*' * 64}"),
        (f"wss://a.com/s?streams=a@trade/{KEY}", f"wss://a.com/s?streams=a@trade/{'*' * 64}"),
        ("https://me:pw@a.com/x", "https://a.com/x"),
        ("https://a.com/x?TOKEN=abc#frag", "https://a.com/x?TOKEN=***"),
    ],
)  # fmt: skip
def test_secrets_leave_a_url_when_it_is_recorded(url: str, clean: str) -> None:
    """By name, by form, and the user of the place; what is none stays."""
    found, count = scrub_url(url)
    assert found == clean
    assert count == (url != clean)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ('{"token":"abc","x":"y"}', '{"token":"***","x":"y"}'),
        ('{"params":{"apiKey" : "k\\"ey","id":1}}', '{"params":{"apiKey" : "*****","id":1}}'),
        ('{"listenKey":"abc"}', '{"listenKey":"***"}'),
        ('{"nonce":123456}', '{"nonce":000000}'),
        ('{"tokens":"abc","p":"1.0"}', '{"tokens":"abc","p":"1.0"}'),
    ],
)
def test_secrets_leave_a_message_when_it_is_recorded(text: str, clean: str) -> None:
    """Its length and its form stay."""
    for scrub in (scrub_heard, scrub_said):
        found, count = scrub(text.encode())
        assert found.decode() == clean
        assert count == (text != clean)
        assert len(found) == len(text)


def test_bare_keys_leave_what_we_say_when_it_is_recorded() -> None:
    """A listen key is subscribed like a stream; what is heard stays, whatever it looks like."""
    text = f'{{"method":"SUBSCRIBE","params":["btcusdt@depth@100ms","{KEY}"]}}'.encode()
    found, count = scrub_said(text)
    assert KEY.encode() not in found
    assert b"btcusdt@depth@100ms" in found
    assert count == 1
    assert scrub_heard(text) == (text, 0)


def test_headers_are_dropped_when_they_are_not_on_the_list() -> None:
    """Cookies and keys among them."""
    kept = {"content-type": "a", "x-mbx-used-weight-1m": "5", "retry-after": "1"}
    secret = {"set-cookie": "a", "x-mbx-apikey": "b", "authorization": "c", "api-sign": "d"}
    assert keep_headers({**kept, **secret}) == kept


def test_no_secret_is_in_a_record_when_a_tap_sees_one() -> None:
    """URL, message, answer and frame, as the toolkit shows them."""
    tap = CaptureTap()
    number = tap.opened("v", f"wss://a.com/ws/{KEY}?token={KEY[:20]}")
    tap.sent(number, f'{{"token":"{KEY[:20]}","params":["{KEY}"]}}')
    tap.received(number, [f'{{"listenKey":"{KEY}"}}'.encode(), b'{"p":"1"}'], T)
    body = f'{{"result":{{"token":"{KEY[:20]}"}}}}'.encode()
    tap.answered("v", "POST", f"https://a.com/x?signature={KEY}", 200, {"cookie": KEY}, body)
    tap.closed(number, "done")
    lines = [msgspec.json.encode(record) for record in tap.take()]
    assert len(lines) == 6
    assert KEY[:20].encode() not in b"".join(lines)
    assert tap.tally.redacted == 7
    assert tap.tally.frames == 2


# -- times -----------------------------------------------------------------------------------------
@given(
    st.integers(0, 2**61),
    st.integers(-(2**40), 2**40),
    st.sampled_from([0.5, 1.0, 2.0, 10.0]),
)
def test_a_time_comes_back_when_it_is_moved(t: int, minutes: int, speed: float) -> None:
    """To within what the division by the speed rounds."""
    shift = Shift(minutes * MINUTE_NS, T, speed)
    assert abs(shift.back(shift.ns(t)) - t) <= abs(t - T) * 1e-12 + 16
    if t <= T:
        assert shift.ns(t) - t == minutes * MINUTE_NS


def test_digits_stay_when_stamps_are_moved() -> None:
    """Any precision; what is no time stays as it is."""
    shift = Shift(MINUTE_NS * 61, T, 1.0)
    for fraction in ("", ".1", ".123456", ".000000001"):
        text = f'"2023-12-31T23:59:59{fraction}Z"'.encode()
        assert move_stamps(text, shift) == f'"2024-01-01T01:00:59{fraction}Z"'.encode()
    assert move_stamps(b'"2023-13-31T23:59:59Z"', shift) == b'"2023-13-31T23:59:59Z"'


def test_ids_stay_when_frames_are_moved(tmp_path: Path) -> None:
    """Of the same length; a trade's id that looks like a time is none, a bar's open is one."""
    capture = read_any(written(tmp_path / "a.jsonl", header(), binance_records()))
    dialect = DIALECTS["binance"](capture)
    shift = Shift(MINUTE_NS * 1000, T, 1.0)
    frame = b'{"e":"trade","E":1700000031000,"s":"X","t":1700000031000,"T":1700000031000}'
    moved = json.loads(dialect.moved(frame, shift))
    assert (moved["t"], moved["T"]) == (1_700_000_031_000, 1_700_000_031_000 + 60_000_000)
    frame = b'{"e":"kline","E":1700000031000,"k":{"t":1700000031000,"T":1700000031999,"v":"1"}}'
    moved = json.loads(dialect.moved(frame, shift))
    assert moved["k"]["t"] == 1_700_000_031_000 + 60_000_000
    assert len(dialect.moved(frame, shift)) == len(frame)


# -- what a replay makes of it ---------------------------------------------------------------------
def asked(path: str, **params: str) -> Request:
    """Return a request."""
    query = "&".join(f"{name}={value}" for name, value in params.items())
    target = f"{path}?{query}" if query else path
    return Request("GET", path, params, {}, b"", "127.0.0.1", target)


def moment(position: int, shift: Shift = STILL) -> Moment:
    """Return where a replay stands after so many events."""
    return Moment(position, T + position * NS, shift)


def test_a_book_is_rolled_forward_when_it_is_asked_for_late(tmp_path: Path) -> None:
    """As recorded at the begin; with every diff that was sent by then later on."""
    venue = make_replay("binance", read_any(written(tmp_path / "a", header(), binance_records())))
    dialect, events = venue.dialect, len(venue.recording.events)
    request = asked("/api/v3/depth", symbol="BTCUSDT", limit="1000")
    first = json.loads(dialect.rest(request, moment(0)).body)
    assert first["lastUpdateId"] == 10
    last = json.loads(dialect.rest(request, moment(events)).body)
    assert last["lastUpdateId"] == 15
    assert [level[0] for level in last["bids"]] == [f"9.{n}" for n in (5, 4, 3, 2, 1)] + [
        "9.0",
        "8.0",
    ]
    two = asked("/api/v3/depth", symbol="BTCUSDT", limit="2")
    assert len(json.loads(dialect.rest(two, moment(events)).body)["bids"]) == 2


@pytest.mark.parametrize(
    ("path", "params", "code"),
    [
        ("/api/v3/depth", {"symbol": "NOPE"}, -1121),
        ("/api/v3/depth", {}, -1102),
        ("/api/v3/klines", {"symbol": "BTCUSDT", "interval": "7x"}, -1102),
        ("/api/v3/trades", {"symbol": "BTCUSDT"}, -1000),
        ("/api/v3/ticker/price", {"symbols": "["}, -1100),
        ("/fapi/v1/exchangeInfo", {}, -1000),
        ("/other", {}, -1),
    ],
)
def test_the_venues_error_is_given_when_a_capture_has_no_answer(
    tmp_path: Path, path: str, params: dict[str, str], code: int
) -> None:
    """In its own form, with its own codes."""
    venue = make_replay("binance", read_any(written(tmp_path / "a", header(), binance_records())))
    reply = venue.dialect.rest(asked(path, **params), moment(0))
    assert reply.status >= 400
    assert json.loads(reply.body)["code"] == code


def test_bars_and_trades_are_gathered_when_they_are_asked_for(tmp_path: Path) -> None:
    """Out of answers and frames, in the replay's time."""
    venue = make_replay("binance", read_any(written(tmp_path / "a", header(), binance_records())))
    events = len(venue.recording.events)
    shift = Shift(MINUTE_NS * 10, T, 1.0)
    request = asked("/api/v3/klines", symbol="BTCUSDT", interval="1m", limit="1000")
    (bar,) = json.loads(venue.dialect.rest(request, moment(0, shift)).body)
    assert bar[0] == MS // 60_000 * 60_000 - 60_000 + 600_000
    later = asked("/api/v3/klines", symbol="BTCUSDT", interval="1m", startTime=str(bar[0] + 1))
    assert json.loads(venue.dialect.rest(later, moment(0, shift)).body) == []
    (flat,) = json.loads(
        venue.dialect.rest(asked("/api/v3/klines", symbol="BTCUSDT", interval="1s"), moment(0)).body
    )
    assert (flat[1], flat[5], flat[8]) == ("10.0", "0", 0)
    trades = asked("/api/v3/aggTrades", symbol="BTCUSDT", fromId="2", limit="2")
    assert [t["a"] for t in json.loads(venue.dialect.rest(trades, moment(events)).body)] == [2, 3]


def test_a_late_kraken_client_gets_a_snapshot_of_what_was_sent(tmp_path: Path) -> None:
    """Of each channel, in the venue's digits, with the newest checksum."""
    path = written(tmp_path / "a", header("kraken"), kraken_records())
    venue = make_replay("kraken", read_any(path))
    events = len(venue.recording.events)

    def late(stream: str) -> Any:
        (frame,) = venue.dialect.late(stream, moment(events))
        return json.loads(frame)

    book = late("book:25|BTC/USD")
    assert book["type"] == "snapshot"
    assert [level["price"] for level in book["data"][0]["bids"]] == [5.0, 4.0, 3.0, 2.0, 1.0]
    assert book["data"][0]["checksum"] == 5
    assert [row["trade_id"] for row in late("trade:|BTC/USD")["data"]] == [1, 2, 3, 4, 5]
    assert len(late("ohlc:1|BTC/USD")["data"]) == 5
    assert late("ticker:|BTC/USD")["data"][0]["bid"] == 5.0
    old = late("v1:book-10|XBT/USD")
    assert [level[0] for level in old[1]["bs"]][:2] == ["9.5", "9.4"]
    assert old[2:] == ["book-10", "XBT/USD"]


def test_a_snapshot_is_not_sent_when_kraken_is_asked_for_none(tmp_path: Path) -> None:
    """And the instrument channel is granted whatever was recorded."""
    venue = make_replay(
        "kraken", read_any(written(tmp_path / "a", header("kraken"), kraken_records()))
    )
    request = asked("/v2")
    ask = {"method": "subscribe", "params": {"channel": "trade", "symbol": ["BTC/USD"]}}
    said = venue.dialect.message(request, set(), json.dumps(ask))
    assert (said.subscribe, said.bare) == (["trade:|BTC/USD"], [])
    ask["params"] = {"channel": "instrument", "snapshot": False}
    said = venue.dialect.message(request, set(), json.dumps(ask))
    assert (said.subscribe, said.bare) == (["instrument:|"], ["instrument:|"])
    ask["params"] = {"channel": "book", "symbol": ["BTC/USD"], "depth": 500}
    (answer,) = venue.dialect.message(request, set(), json.dumps(ask)).answers
    assert not json.loads(answer)["success"]
    assert "book:25" in json.loads(answer)["error"]


def test_only_its_own_venue_replays_a_capture(tmp_path: Path) -> None:
    """And only one that holds frames; a capture of quotes says whose they are."""
    path = written(tmp_path / "a", header(), binance_records())
    with pytest.raises(ConfigError, match="not of 'kraken'"):
        make_replay("kraken", read_any(path))
    with pytest.raises(ConfigError, match=r"no replay of 'binanec'.*binance"):
        make_replay("binanec", read_any(path))
    empty = written(tmp_path / "b", header(), binance_records()[:3])
    with pytest.raises(ConfigError, match="no frame"):
        make_replay("binance", read_any(empty))


# -- fuzz ------------------------------------------------------------------------------------------
def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return data with a few bytes changed, cut, doubled or moved."""
    one = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(one))
        how = rng.randrange(5)
        if how == 0:
            one[at] = rng.randrange(256)
        elif how == 1:
            del one[at : at + rng.randrange(1, 60)]
        elif how == 2:
            one[at:at] = one[at : at + rng.randrange(1, 60)]
        elif how == 3:
            one[at:at] = rng.choice(
                [b"NaN", b"-1", b"null", b"[]", b"1e999", b'"', b"{}", b"9" * 30]
            )
        else:
            digits = [i for i, byte in enumerate(one) if chr(byte).isdigit()]
            if digits:
                one[rng.choice(digits)] = rng.choice(b"0123456789-")
        one = one or bytearray(b"0")
    return bytes(one)


def exercise(name: str, path: Path) -> None:
    """Do everything that a replay does with a capture, but the waiting."""
    venue = make_replay(name, read_any(path))
    recording, dialect = venue.recording, venue.dialect
    shift = Shift(MINUTE_NS * 10, recording.first_ns, 1.0)
    end = Moment(len(recording.events), recording.last_ns, shift)
    for event in recording.events:
        moved = dialect.moved(event.frame, shift)
        assert len(moved) == len(event.frame)
        for form in ("combined", "raw"):
            dialect.formed(moved, event.stream, form)
    for stream in recording.by_stream:
        dialect.late(stream, end)
    paths = {answer.path: answer.params for answer in recording.answers}
    paths |= {"/api/v3/ticker/price": {}, "/api/v3/ticker/bookTicker": {}}
    for path_asked, params in paths.items():
        reply = dialect.rest(asked(path_asked, **params), end)
        assert reply.status in (200, 400, 404) or reply.status < 600
    for params in ({"symbol": "BTCUSDT", "interval": "1m"}, {"pair": "XBTUSD"}):
        for path_asked in ("/api/v3/depth", "/api/v3/klines", "/api/v3/aggTrades",
                           "/0/public/Trades", "/0/public/OHLC", "/0/public/Ticker"):  # fmt: skip
            dialect.rest(asked(path_asked, **params), end)


def spoilt(records: list[Record], rng: random.Random) -> list[Record]:
    """Return the records with the content of a few of them mutated."""
    changed = list(records)
    for _ in range(3):
        at = rng.randrange(len(changed))
        record = changed[at]
        if isinstance(record, In | Out | Rest) and payload(record):
            fields = {"text": "", "b64": "", **text_fields(mutated(payload(record), rng))}
            changed[at] = msgspec.structs.replace(record, **fields)
    return changed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["binance", "kraken"])
def test_a_mutated_capture_works_or_says_a_sentence(tmp_path: Path, name: str) -> None:
    """2,000 files, and as many with whole lines and mutated content: no other error, ever."""
    records = binance_records() if name == "binance" else kraken_records()
    whole = written(tmp_path / "a.jsonl", header(name), records).read_bytes()
    path = tmp_path / "b.jsonl"
    rng = random.Random(5)
    worked = 0
    for number in range(2000):
        if number % 2:
            path.write_bytes(mutated(whole, rng))
        else:
            path.unlink(missing_ok=True)
            written(path, header(name), spoilt(records, rng))
        try:
            exercise(name, path)
            worked += 1
        except ConfigError:
            assert number % 2
    assert worked > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["kraken/cryptofeed/KRAKEN.ws.48.0", "kraken/python-kraken-sdk/orderbook-v1.json"]
)
def test_a_mutated_foreign_recording_works_or_says_a_sentence(
    shared: Path, tmp_path: Path, name: str
) -> None:
    """The readers of other people's files are no less careful."""
    whole = (shared / "venues" / name).read_bytes()
    if name.endswith(".json"):
        messages = json.loads(whole)
        whole = json.dumps({**messages, "updates": messages["updates"][:20]}, indent=1).encode()
    path = tmp_path / name.rpartition("/")[2]
    rng = random.Random(6)
    worked = 0
    for _ in range(300):
        path.write_bytes(mutated(whole, rng))
        try:
            exercise("kraken", path)
            worked += 1
        except ConfigError:
            continue
    assert 0 < worked < 300
