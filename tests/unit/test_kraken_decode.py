"""Kraken's decoder: recorded and documented frames, gaps, bars, and 20,000 mutated frames."""

from __future__ import annotations

import gc
import json
import math
import random
import tracemalloc
from pathlib import Path

import pytest

from piker.brokers.kraken.decode import Decoder, MissedTrades, time_ns
from piker.brokers.quality import QualityLog
from piker.ohlcv import ClosedBar
from piker.ticks import QUOTE, TRADE, Resync

NAMES = {"BTC/USD": "xbtusd.spot", "MATIC/USD": "maticusd.spot"}
RECV = 1_700_000_000 * 10**9
FILES = ("ws_trade_update", "ws_ticker_snapshot", "ws_ohlc_update", "ws_book_snapshot")


def decoder() -> Decoder:
    """Return a fresh decoder of two markets."""
    return Decoder(dict(NAMES), QualityLog("kraken"))


def recorded(shared: Path) -> list[bytes]:
    """Return the v2 frames that are recorded or quoted, compact as on the wire."""
    folder = shared / "venues/kraken"
    bodies = [json.loads((folder / f"nautilus/crate/{f}.json").read_text()) for f in FILES]
    for line in (folder / "ccxt-comments/kraken.ws.jsonl").read_text().splitlines():
        body = json.loads(line)["json"]
        if body.get("channel") in ("ticker", "trade", "ohlc", "heartbeat"):
            bodies.append(body)
    return [json.dumps(body, separators=(",", ":")).encode() for body in bodies]


def trade(number: int, *, price: object = 100.5, second: int = 0, kind: str = "update") -> bytes:
    """Return a trade frame."""
    row = {
        "symbol": "BTC/USD", "side": "buy", "price": price, "qty": 0.5, "ord_type": "limit",
        "trade_id": number, "timestamp": f"2023-10-06T17:35:{second:02}.440295Z",
    }  # fmt: skip
    return json.dumps({"channel": "trade", "type": kind, "data": [row]}).encode()


def bars(*minutes: int, kind: str = "update", volume: float = 2.0) -> bytes:
    """Return an ohlc frame of bars that begin at these minutes."""
    rows = [
        {
            "symbol": "BTC/USD", "interval": 1, "open": 10.0, "high": 12.0 + minute, "low": 9.0,
            "close": 11.0, "volume": volume, "vwap": 10.5, "trades": 3,
            "interval_begin": f"2023-10-04T16:{minute:02}:00.000000000Z",
        }
        for minute in minutes
    ]  # fmt: skip
    return json.dumps({"channel": "ohlc", "type": kind, "data": rows}).encode()


def test_recorded_frames_become_rows(shared: Path) -> None:
    """Every recorded frame is understood; the values are those of the files."""
    found = decoder()
    rows = found.decode(recorded(shared), RECV)
    assert found.quality.counts == {"wrong-symbol": 1}  # a five-minute bar, which we do not ask for
    assert (
        "xbtusd.spot", TRADE, 1696613755440295000, 105944.2, 0.00027625, 0.0, 0.0, 1, 10218208
    ) in rows  # fmt: skip
    assert (
        "xbtusd.spot", QUOTE, 1671960659123456000, 105944.2, 2.5, 105944.3, 3.2, 0, -1
    ) in rows  # fmt: skip
    assert ("xbtusd.spot", QUOTE, RECV, 108359.8, 0.01362603, 108359.9, 17.17988863, 0, -1) in rows


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2023-10-06T17:35:55Z", 1696613755000000000),
        ("2023-10-06T17:35:55.4Z", 1696613755400000000),
        ("2023-10-06T17:35:55.440295Z", 1696613755440295000),
        ("2023-10-04T16:25:00.000000001Z", 1696436700000000001),
    ],
)
def test_times_of_any_precision(text: str, ns: int) -> None:
    """The venue writes six digits in most places and nine in bars."""
    assert time_ns(text) == ns


@pytest.mark.parametrize("text", ["2023-10-06T17:35:55.4+0", "2023-10-06", "1970-01-01T00:00:00Z"])
def test_times_that_are_none_are_refused(text: str) -> None:
    """Another zone, a date, a time before the venue."""
    with pytest.raises(ValueError, match="time"):
        time_ns(text)


def test_repeated_trades_are_dropped_and_counted() -> None:
    """After a reconnect the snapshot repeats what was seen and brings what was missed."""
    found = decoder()
    assert len(found.decode([trade(1), trade(2), trade(2), trade(1)], RECV)) == 2
    assert found.duplicates == 2
    rows = found.decode([trade(2, kind="snapshot"), trade(3, kind="snapshot")], RECV)
    assert [row[8] for row in rows] == [3]
    assert found.take_outband() == []


def test_first_snapshot_of_trades_is_the_past() -> None:
    """It only says where the ids stand, so that the first hole is seen."""
    found = decoder()
    assert found.decode([trade(7, kind="snapshot")], RECV) == []
    assert [row[8] for row in found.decode([trade(9)], RECV)] == [9]
    (gap,) = found.take_outband()
    assert isinstance(gap, MissedTrades)
    assert (gap.first, gap.last, gap.after_ns) == (8, 8, 1696613700440295000)
    assert gap.resync == Resync("sequence-gap", "xbtusd.spot", 1, since_ns=gap.after_ns)


def test_an_impossible_jump_of_ids_does_not_deafen() -> None:
    """One corrupt id is dropped; ids that start anew are believed after a while."""
    found = decoder()
    found.decode([trade(5_000_000), trade(2**62)], RECV)
    assert found.quality.counts["bad-id"] == 1
    rows = [row for number in range(1, 1100) for row in found.decode([trade(number)], RECV)]
    assert rows[0][8] == 1000
    assert len(rows) == 100
    assert found.quality.counts["ids-restarted"] == 1


def test_a_bar_is_final_when_a_later_one_begins() -> None:
    """Not before, once, and with its last values; a bar without trades has no average."""
    found = decoder()
    found.decode([bars(1, 2, kind="snapshot"), bars(2), bars(2, volume=5.0)], RECV)
    assert found.take_outband() == []
    found.decode([bars(3, volume=0.0), bars(2), bars(4)], RECV)
    first, second = found.take_outband()
    assert isinstance(first, ClosedBar)
    assert isinstance(second, ClosedBar)
    assert (first.time_s, first.volume, first.bar_wap, first.count) == (1696435320, 5.0, 10.5, 3)
    assert (second.time_s, second.volume, second.bar_wap) == (1696435380, 0.0, 0.0)
    assert second.timeframe_s == 60


def test_a_snapshot_after_an_outage_closes_what_closed_meanwhile() -> None:
    """And the bar that the outage cut short is final with the snapshot's values."""
    found = decoder()
    found.decode([bars(1, 2, kind="snapshot")], RECV)
    found.decode([bars(1, 2, 3, 4, kind="snapshot", volume=8.0)], RECV)
    closed = [bar for bar in found.take_outband() if isinstance(bar, ClosedBar)]
    assert [(bar.time_s % 3600 // 60, bar.volume) for bar in closed] == [(2, 8.0), (3, 8.0)]


def test_a_bad_frame_costs_only_itself() -> None:
    """Its neighbours of the same wake are delivered in order."""
    found = decoder()
    rows = found.decode([trade(1), b'{"channel":"trade","da', trade(2)], RECV)
    assert [row[8] for row in rows] == [1, 2]
    assert found.quality.counts == {"malformed": 1}


@pytest.mark.parametrize("price", [0, -1, "100", None, True, [1]])
def test_impossible_prices_are_never_delivered(price: object) -> None:
    """They are counted."""
    found = decoder()
    assert found.decode([trade(1, price=price)], RECV) == []
    assert found.quality.total == 1


def test_answers_refusals_and_news_are_told_apart() -> None:
    """An ack is nothing, a refusal is bad, an unknown channel is tolerated, a status is kept."""
    found = decoder()
    found.decode(
        [
            b'{"method":"subscribe","result":{"channel":"trade"},"success":true}',
            b'{"error":"Currency pair not supported X/Y","method":"subscribe","success":false}',
            b'{"channel":"oracle","type":"update","data":[]}',
            b'{"channel":"heartbeat"}',
            b'{"channel":"status","type":"update","data":[{"system":"post_only","v":1}]}',
        ],
        RECV,
    )
    assert found.unknown == {"subscribe": 1, "oracle": 1}
    assert found.quality.counts == {"venue-error": 1}
    assert found.refusals == ["Currency pair not supported X/Y (request)"]
    assert found.system == "post_only"


def test_fields_of_a_newer_venue_are_ignored(shared: Path) -> None:
    """Whatever is added to rows and envelopes, the same rows come out."""
    frames = recorded(shared)
    newer = []
    for frame in frames:
        body = json.loads(frame)
        body["sequence"] = {"a": [1]}
        for row in body.get("data", ()):
            row["execution_venue"] = None
        newer.append(json.dumps(body).encode())
    assert decoder().decode(newer, RECV) == decoder().decode(frames, RECV)


SWAPS: tuple[object, ...] = (-1, 0, 1e308, -1e308, 2**70, None, "x", [], {}, True, float("nan"), "")


def mutated(frame: bytes, rng: random.Random) -> bytes:
    """Return a frame with bytes flipped, cut or doubled, or with a value dropped or swapped."""
    how = rng.randrange(6)
    if how == 0:
        at = rng.randrange(len(frame))
        return frame[:at] + bytes((rng.randrange(256),)) + frame[at + 1 :]
    if how == 1:
        return frame[: rng.randrange(len(frame))]
    if how == 2:
        at = rng.randrange(len(frame))
        return frame[:at] + frame[at : at + 20] + frame[at:]
    body = json.loads(frame)
    place = body
    if rng.random() < 0.9 and isinstance(body.get("data"), list) and body["data"]:
        place = rng.choice(body["data"])
    key = rng.choice(list(place))
    if how == 3:
        del place[key]
    else:
        place[key] = rng.choice(SWAPS)
    return json.dumps(body).encode()


def check_rows(found: Decoder, frames: list[bytes]) -> None:
    """Decode and look at every value that comes out."""
    for symbol, kind, at, price, size, price2, size2, side, number in found.decode(frames, RECV):
        assert symbol in NAMES.values()
        assert all(map(math.isfinite, (price, size, price2, size2)))
        assert price > 0
        assert min(size, size2) >= 0
        assert -1 <= number < 2**63
        assert 0 < at < 2**63
        assert side in (-1, 0, 1)
        assert kind == TRADE or price < price2
    for item in found.take_outband():
        if isinstance(item, ClosedBar):
            assert item.low <= item.open <= item.high
            assert item.time_s % 60 == 0


@pytest.mark.slow
def test_twenty_thousand_mutated_frames_do_no_harm(shared: Path) -> None:
    """No exception, no impossible value, no memory kept; good frames still work after them."""
    rng = random.Random(20_000)
    sources = [*recorded(shared), trade(5), bars(3), bars(4, kind="snapshot")]
    found = decoder()

    def shower(count: int) -> None:
        for _ in range(count // 4):
            check_rows(found, [mutated(rng.choice(sources), rng) for _ in range(4)])

    shower(8_000)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    shower(12_000)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 256 * 1024
    assert found.quality.total > 5_000
    last = found._last["BTC/USD"][0]
    assert len(found.decode([trade(last + 1)], RECV)) == 1
