"""Frames of the recorded sessions, and what a venue should never send."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import binance_captures as captures
import pytest

from piker.brokers.binance.decode import Decoder, MissedTrades
from piker.brokers.quality import QualityLog
from piker.ohlcv import ClosedBar
from piker.ticks import QUOTE, TRADE, TickType

VENUES = ("spot", "coinm")
RECV_NS = 1_700_000_000_000_000_000
MS = 1_700_000_000_000


def make(**more: str) -> Decoder:
    """Return a decoder of BTCUSDT and others."""
    return Decoder({"BTCUSDT": "btcusdt.spot", **more}, QualityLog("test"))


def wrap(stream: str, data: dict[str, Any]) -> bytes:
    """Return a combined-stream frame as the venue writes it."""
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":")).encode()


def trade(number: int, *, s: str = "BTCUSDT", p: str = "100.5", q: str = "2", **more: Any) -> bytes:
    """Return an aggTrade frame."""
    data = {"e": "aggTrade", "E": MS, "s": s, "a": number, "p": p, "q": q, "f": 1, "l": 2}
    return wrap(f"{s.lower()}@aggTrade", {**data, "T": MS, "m": True, "M": True, **more})


def top(*, b: str = "100", B: str = "1", a: str = "101", A: str = "2", **more: Any) -> bytes:
    """Return a spot bookTicker frame."""
    data = {"u": 7, "s": "BTCUSDT", "b": b, "B": B, "a": a, "A": A, **more}
    return wrap("btcusdt@bookTicker", data)


def kline(**more: Any) -> bytes:
    """Return a closed kline_1m frame."""
    bar = {
        "t": 1_699_999_980_000, "T": 1_700_000_039_999, "s": "BTCUSDT", "i": "1m", "f": 1, "L": 9,
        "o": "100", "c": "101", "h": "102", "l": "99", "v": "4", "n": 9, "x": True, "q": "402",
        "V": "1", "Q": "100", "B": "0", **more,
    }  # fmt: skip
    return wrap("btcusdt@kline_1m", {"e": "kline", "E": MS, "s": "BTCUSDT", "k": bar})


@pytest.mark.parametrize("venue", VENUES)
def test_every_row_equals_its_frame_when_a_session_is_replayed(shared: Path, venue: str) -> None:
    """Rows come in the frames' order and hold exactly what Python's json reads."""
    decoder = captures.decoder(shared, venue)
    frames = captures.market_frames(shared, venue)
    rows = decoder.decode(frames, RECV_NS)
    expected = []
    for frame in frames:
        data = captures.data_of(frame)
        symbol = decoder.markets[data["s"]]
        if b"@bookTicker" in frame[:60]:
            time_ns = data["T"] * 1_000_000 if "T" in data else RECV_NS
            sides = [float(data[key]) for key in "bBaA"]
            expected.append((symbol, QUOTE, time_ns, *sides, 0, data["u"]))
        elif b"@aggTrade" in frame[:60]:
            price, size, side = float(data["p"]), float(data["q"]), -1 if data["m"] else 1
            time_ns = data["T"] * 1_000_000
            expected.append((symbol, TRADE, time_ns, price, size, 0.0, 0.0, side, data["a"]))
    assert rows == expected
    assert len(rows) > 80
    assert not decoder.quality.counts
    assert decoder.duplicates == 0


@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize("wake", [1, 7, 64])
def test_rows_are_the_same_when_frames_come_in_other_portions(
    shared: Path, venue: str, wake: int
) -> None:
    """How many frames one read brings changes nothing."""
    frames = captures.market_frames(shared, venue)
    whole = captures.decoder(shared, venue).decode(frames, RECV_NS)
    other = captures.decoder(shared, venue)
    rows = []
    for at in range(0, len(frames), wake):
        rows += other.decode(frames[at : at + wake], RECV_NS)
    assert rows == whole


@pytest.mark.parametrize("venue", VENUES)
def test_new_fields_change_nothing_when_a_replay_has_them(shared: Path, venue: str) -> None:
    """Fields that are newer than the recording (nq, st, ps, ...) are ignored."""
    frames = captures.market_frames(shared, venue)
    newer = []
    for frame in frames:
        wrapped = json.loads(frame)
        fresh = {"nq": "0.5", "st": 2, "ps": "X", "executionVenue": {"a": [1, None]}}
        wrapped["data"] = {**fresh, **wrapped["data"], "zz": [{}]}
        newer.append(json.dumps(wrapped, separators=(",", ":")).encode())
    plain, extended = captures.decoder(shared, venue), captures.decoder(shared, venue)
    assert extended.decode(newer, RECV_NS) == plain.decode(frames, RECV_NS)
    assert not extended.quality.counts


def test_bars_are_closed_when_the_recording_covers_a_minute(shared: Path) -> None:
    """COIN-M's closed klines agree with the aggTrades that lie in them, in price and time."""
    decoder = captures.decoder(shared, "coinm")
    rows = decoder.decode(
        [f for f in captures.market_frames(shared, "coinm") if b"@aggTrade" in f[:60]], RECV_NS
    )
    frames = [f for f in captures.market_frames(shared, "coinm") if b"@kline" in f[:60]]
    newest: dict[str, dict[str, Any]] = {}
    for frame in frames:
        newest[captures.data_of(frame)["s"]] = captures.data_of(frame)["k"]
    seen = 0
    for name, bar in newest.items():
        symbol = decoder.markets[name]
        inside = [r for r in rows if r[0] == symbol and bar["t"] <= r[2] // 1_000_000 <= bar["T"]]
        for row in inside:
            assert float(bar["l"]) <= row[3] <= float(bar["h"])
            seen += 1
    assert seen > 10


def test_a_bar_is_given_when_its_kline_is_closed() -> None:
    """``x`` makes a ClosedBar; an open one is left to our own sampling."""
    decoder = make()
    assert decoder.decode([kline(x=False), kline()], RECV_NS) == []
    expected = ClosedBar("btcusdt.spot", 60, 1_699_999_980, 100, 102, 99, 101, 4, 9, 100.5)
    assert decoder.take_outband() == [expected]
    assert decoder.take_outband() == []


def test_wap_is_in_dollars_when_volume_is_contracts() -> None:
    """An inverse market's q is coins: 4 contracts of 100 dollars for 4 coins are 100 each."""
    decoder = Decoder({"BTCUSDT": "x"}, QualityLog("test"), {"x": 100.0})
    decoder.decode([kline(q="4")], RECV_NS)
    (bar,) = decoder.take_outband()
    assert isinstance(bar, ClosedBar)
    assert bar.bar_wap == 100.0


def test_mark_index_and_funding_are_told_when_a_future_sends_them() -> None:
    """One markPrice frame is three rows; a dated future has no funding."""
    decoder = make()
    data = {"e": "markPriceUpdate", "E": MS, "s": "BTCUSDT", "p": "10", "i": "11", "P": "10"}
    perp = wrap("btcusdt@markPrice@1s", {**data, "r": "-0.0003", "T": MS + 60_000})
    dated = wrap("btcusdt@markPrice@1s", {**data, "r": "", "T": 0})
    rows = decoder.decode([perp, dated], RECV_NS)
    kinds = [TickType(row[1]) for row in rows]
    mark, index, funding = TickType.MARK, TickType.INDEX, TickType.FUNDING
    assert kinds == [mark, index, funding, mark, index]
    assert rows[2][3:5] == (-0.0003, 60.0)


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (trade(1, p="NaN"), "nan"),
        (trade(1, q="Infinity"), "huge-value"),
        (trade(1, p="-1"), "negative-price"),
        (trade(1, q="-1"), "negative-size"),
        (trade(1, q="0"), "zero-size"),
        (trade(1, p="1e308"), "huge-value"),
        (trade(1, T=0), "bad-time"),
        (trade(1, T=2**62), "malformed"),
        (trade(2**63), "malformed"),
        (trade(-1), "malformed"),
        (trade(1, s="ETHUSDT"), "wrong-symbol"),
        (top(b="NaN"), "nan"),
        (top(b="102"), "crossed-book"),
        (top(b="101"), "crossed-book"),
        (top(B="-1"), "negative-size"),
        (top(a="-1"), "negative-price"),
        (top(a="0"), "negative-price"),
        (top(A="1e308"), "huge-value"),
        (kline(h="98"), "bad-bar"),
        (kline(t=1_699_999_980_001), "bad-bar"),
        (kline(c="NaN"), "bad-bar"),
        (b"{nonsense", "malformed"),
        (b'{"stream":"btcusdt@aggTrade","data":{"s":"BTCUSDT"}}', "malformed"),
        (b'{"stream":"btcusdt@aggTrade","data":\xff\xfe}', "malformed"),
        (b'{"code":2,"msg":"Invalid request","id":1}', "venue-error"),
        (b'{"error":{"code":2,"msg":"Invalid request"},"id":1}', "venue-error"),
    ],
)
def test_a_bad_frame_costs_only_itself_when_others_surround_it(frame: bytes, kind: str) -> None:
    """It is counted under its kind and nothing of it is delivered."""
    decoder = make()
    rows = decoder.decode([trade(10), top(), frame, top(), trade(11)], RECV_NS)
    assert [row[8] for row in rows] == [10, 7, 7, 11]
    assert decoder.quality.counts == {kind: 1}
    assert decoder.take_outband() == []


def test_a_quote_is_taken_when_one_side_is_empty() -> None:
    """A thin market's missing side is 0 x 0."""
    rows = make().decode([top(b="0.000", B="0.0"), top(a="0", A="0")], RECV_NS)
    assert [row[3:7] for row in rows] == [(0, 0, 101, 2), (100, 1, 0, 0)]


def test_a_gap_is_told_once_when_ids_jump() -> None:
    """Which trades are missing is said; they are fetched then, so a late one is dropped."""
    decoder = make()
    assert len(decoder.decode([trade(5), trade(9), trade(10)], RECV_NS)) == 3
    assert decoder.take_outband() == [MissedTrades("btcusdt.spot", 6, 3, RECV_NS)]
    assert [row[8] for row in decoder.decode([trade(7), trade(11)], RECV_NS)] == [11]
    assert decoder.duplicates == 1
    assert decoder.take_outband() == []


def test_trades_are_delivered_once_when_connections_overlap() -> None:
    """A rotation brings some trades twice."""
    decoder = make()
    rows = decoder.decode([trade(n) for n in (1, 2, 3, 2, 3, 4)], RECV_NS)
    assert [row[8] for row in rows] == [1, 2, 3, 4]
    assert decoder.duplicates == 2


def test_ids_start_anew_when_the_venue_goes_far_back() -> None:
    """A venue whose counter restarts is not silenced for ever."""
    decoder = make()
    rows = decoder.decode([trade(5_000_000), trade(1), trade(2)], RECV_NS)
    assert [row[8] for row in rows] == [5_000_000, 1, 2]
    assert decoder.quality.counts == {"id-restart": 1}


def test_an_absurd_id_is_refused_when_it_is_far_ahead() -> None:
    """One impossible id must not make repetitions of all that follow."""
    decoder = make()
    rows = decoder.decode([trade(1), trade(2**60), trade(2)], RECV_NS)
    assert [row[8] for row in rows] == [1, 2]
    assert decoder.quality.counts == {"bad-id": 1}


def test_data_is_found_when_the_envelope_is_written_otherwise() -> None:
    """The order of keys and white space are the venue's business."""
    frame = json.dumps({"data": json.loads(trade(3))["data"], "stream": "btcusdt@aggTrade"})
    decoder = make()
    assert [row[8] for row in decoder.decode([frame.encode(), trade(4)], RECV_NS)] == [3, 4]


@pytest.mark.parametrize(
    "frame",
    [
        b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}',
        b'{"e":"serverShutdown","E":1}',
    ],
)
def test_a_shutdown_is_noticed_when_the_venue_announces_it(frame: bytes) -> None:
    """Both forms, with and without envelope."""
    decoder = make()
    decoder.decode([trade(1), frame], RECV_NS)
    assert decoder.shutdown
    assert not decoder.quality.counts


def test_unknown_messages_are_counted_when_they_are_no_fault() -> None:
    """Answers and new kinds of streams are tolerated, and their names bounded."""
    decoder = make()
    decoder.decode([b'{"result":null,"id":1}', b'{"hello":1}', b"[1]"], RECV_NS)
    decoder.decode([wrap("btcusdt@blockTrade", {"e": "x"})], RECV_NS)
    assert decoder.unknown == {"answer": 1, "unnamed": 2, "blockTrade": 1}
    decoder.decode([wrap(f"btcusdt@new{n}", {}) for n in range(1000)], RECV_NS)
    assert len(decoder.unknown) <= 64
    assert not decoder.quality.counts


def test_frames_of_a_market_are_no_fault_when_it_was_just_left() -> None:
    """What was under way when a symbol was unsubscribed is dropped in silence."""
    decoder = make(ETHUSDT="ethusdt.spot")
    decoder.remove(["ETHUSDT"])
    assert decoder.decode([trade(1, s="ETHUSDT")], RECV_NS) == []
    assert not decoder.quality.counts


def test_numbers_are_exact_when_read_as_floats() -> None:
    """Lax decoding rounds as Python's float does."""
    text = "67123.123456789012"
    (row,) = make().decode([trade(1, p=text)], RECV_NS)
    assert row[3] == float(text)
    assert not math.isnan(row[3])
