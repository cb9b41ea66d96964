"""Mutated recordings: nothing bad leaves the decoder, whatever goes in."""

from __future__ import annotations

import json
import random
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import binance_captures as captures
import pytest

from piker.brokers.binance.decode import Decoder, MissedTrades
from piker.brokers.quality import QualityLog
from piker.ohlcv import ClosedBar
from piker.ticks import QUOTE, TRADE, TickRow, TickType

MUTATIONS = 20_000
RECV_NS = 1_700_000_000_000_000_000
NUMBERS = ("NaN", "-1", "1e308", "Infinity", "0", "", "x", "1e-320", "9" * 400)
OTHERS: tuple[Any, ...] = (None, True, [], {}, -1, 2**70, 1.5, "", [[1]], {"a": 1})


def _flip(frame: bytes, rng: random.Random) -> bytes:
    changed = bytearray(frame)
    for _ in range(rng.randrange(1, 6)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _cut(frame: bytes, rng: random.Random) -> bytes:
    return frame[: rng.randrange(len(frame))]


def _double(frame: bytes, rng: random.Random) -> bytes:
    return frame + rng.choice((b"", b",", b" ")) + frame


def _target(data: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    return data["k"] if isinstance(data.get("k"), dict) and rng.random() < 0.8 else data


def _number(frame: bytes, rng: random.Random) -> bytes:
    whole = json.loads(frame)
    target = _target(whole["data"], rng)
    target[rng.choice(sorted(target))] = rng.choice(NUMBERS)
    return json.dumps(whole, separators=(",", ":")).encode()


def _type(frame: bytes, rng: random.Random) -> bytes:
    whole = json.loads(frame)
    target = _target(whole["data"], rng)
    target[rng.choice(sorted(target))] = rng.choice(OTHERS)
    return json.dumps(whole, separators=(",", ":")).encode()


def _drop(frame: bytes, rng: random.Random) -> bytes:
    whole = json.loads(frame)
    target = _target(whole["data"], rng)
    del target[rng.choice(sorted(target))]
    return json.dumps(whole, separators=(",", ":")).encode()


def _stream(frame: bytes, rng: random.Random) -> bytes:
    whole = json.loads(frame)
    whole["stream"] = rng.choice(("a@aggTrade", "a@bookTicker", "a@kline_1m", "a@markPrice@1s", ""))
    return json.dumps(whole, separators=(",", ":")).encode()


MUTATORS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip, _cut, _double, _number, _type, _drop, _stream,
)  # fmt: skip


def check_row(row: TickRow) -> None:
    """Fail for a row that no market can make, or that the tick ring can not hold."""
    _, kind, time_ns, price, size, price2, size2, side, venue_id = row
    assert 0 < time_ns < 2**63
    assert -1 <= venue_id < 2**63
    assert side in (-1, 0, 1)
    if kind == TRADE:
        assert 0 < price < 1e15
        assert 0 < size < 1e15
    elif kind == QUOTE:
        assert 0 <= size < 1e15
        assert 0 <= size2 < 1e15
        if price and price2:
            assert 0 < price < price2 < 1e15
        else:
            assert (price, size) == (0, 0) or (price2, size2) == (0, 0)
            assert min(price, price2) == 0 <= max(price, price2) < 1e15
    elif kind == TickType.FUNDING:
        assert -1 < price < 1
        assert size >= 0
    else:
        assert 0 < price < 1e15


def check_outband(item: object) -> None:
    """Fail for a bar that can not be."""
    if isinstance(item, ClosedBar):
        assert 0 < item.low <= min(item.open, item.close)
        assert max(item.open, item.close) <= item.high < 1e15
        assert 0 <= item.volume < 1e15
        assert item.time_s % item.timeframe_s == 0
        assert item.bar_wap == 0 or item.low <= item.bar_wap <= item.high
    else:
        assert isinstance(item, MissedTrades)
        assert item.count > 0


def renumbered(frame: bytes, number: int) -> bytes:
    """Return a trade with another id, so that it is no repetition."""
    return re.sub(rb'"a":\d+', b'"a":%d' % number, frame)


def mark_frames(symbol: str) -> list[bytes]:
    """Return markPrice frames as venues.md 3.4 has them: the recordings hold none."""
    data = {"e": "markPriceUpdate", "E": 1_626_916_404_000, "s": symbol, "p": "32000.1",
            "i": "32001.5", "P": "32002.0", "r": "0.00010000", "T": 1_626_940_800_000}  # fmt: skip
    stream = f"{symbol.lower()}@markPrice@1s"
    return [json.dumps({"stream": stream, "data": data}, separators=(",", ":")).encode()] * 50


@pytest.mark.parametrize("kind", ["bookTicker", "aggTrade", "kline", "markPrice"])
def test_nothing_bad_leaves_when_frames_are_mutated(shared: Path, kind: str) -> None:
    """20,000 mutations of each kind, in wakes of 1 to 9 frames: no error, no impossible row."""
    rng = random.Random(f"binance {kind}")
    known = captures.decoder(shared, "coinm")
    real = [f for f in captures.market_frames(shared, "coinm") if f"@{kind}".encode() in f[:60]]
    real = real or mark_frames("BTCUSD_PERP")
    closed = [frame.replace(b'"x":false', b'"x":true') for frame in real]
    decoder = Decoder(known.markets, QualityLog("fuzz"), known.contract_sizes)
    done = rows = 0
    while done < MUTATIONS:
        wake = []
        for number in range(done, done + rng.randrange(1, 10)):
            frame = (
                renumbered(rng.choice(closed), number) if kind == "aggTrade" else rng.choice(closed)
            )
            wake.append(rng.choice(MUTATORS)(frame, rng) if rng.random() < 0.9 else frame)
        done += len(wake)
        for row in decoder.decode(wake, RECV_NS):
            check_row(row)
            rows += 1
        for item in decoder.take_outband():
            check_outband(item)
            rows += 1
    assert rows > 1000
    assert decoder.quality.total > 1000
    assert len(decoder.quality.counts) < 30
    assert len(decoder.unknown) <= 64


def test_memory_is_flat_when_bad_frames_never_end(shared: Path) -> None:
    """A venue gone mad does not fill the memory."""
    rng = random.Random(5)
    known = captures.decoder(shared, "coinm")
    decoder = Decoder(known.markets, QualityLog("fuzz"), known.contract_sizes)
    frames = captures.market_frames(shared, "coinm")[:400]
    bad = [rng.choice(MUTATORS)(frame, rng) for frame in frames for _ in range(3)]

    def feed() -> None:
        for at in range(0, len(bad), 8):
            decoder.decode(bad[at : at + 8], RECV_NS)
        decoder.take_outband()

    feed()
    tracemalloc.start()
    try:
        feed()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(5):
            feed()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 50_000
