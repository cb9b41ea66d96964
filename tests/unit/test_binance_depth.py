"""Order books rebuilt from the recorded diffs and snapshots, against the venue's own top."""

from __future__ import annotations

import random
from pathlib import Path
from urllib.parse import parse_qsl

import binance_captures as captures
import msgspec
import pytest

from piker.brokers.binance import schema
from piker.brokers.binance.depth import BookKeeper
from piker.brokers.quality import QualityLog
from piker.testing.capture import payload


def snapshots(shared: Path, venue: str) -> dict[str, schema.Snapshot]:
    """Return the recorded depth snapshots by wire symbol."""
    return {
        dict(parse_qsl(answer.query))["symbol"]: msgspec.json.decode(
            payload(answer), type=schema.Snapshot
        )
        for answer in captures.answers(shared, venue, "/depth")
    }


def times(shared: Path, venue: str) -> dict[str, int]:
    """Return when each snapshot was received."""
    found = captures.answers(shared, venue, "/depth")
    return {dict(parse_qsl(answer.query))["symbol"]: answer.t for answer in found}


@pytest.mark.parametrize("venue", ["spot", "coinm"])
def test_the_top_equals_the_venues_when_a_session_is_replayed(shared: Path, venue: str) -> None:
    """At every update id that both a diff and a bookTicker name, the tops are the same."""
    received, fetched = times(shared, venue), snapshots(shared, venue)
    quality = QualityLog("test")
    keepers = {s: BookKeeper(s, quality, futures=venue == "coinm") for s in fetched}
    tops: dict[tuple[str, int], tuple[str, str, str, str]] = {}
    books: dict[tuple[str, int], tuple[str, str, str, str]] = {}
    shown: set[str] = set()
    for moment, frame in captures.frames(shared, venue):
        data = captures.data_of(frame)
        name = data.get("s", "")
        if b"@bookTicker" in frame[:60]:
            tops[name, data["u"]] = (data["b"], data["B"], data["a"], data["A"])
        if b"@depth" not in frame[:60]:
            continue
        keeper = keepers[name]
        keeper.frame(frame)
        if name not in shown and moment >= received[name]:
            shown.add(name)
            assert keeper.wants == "snapshot"
            keeper.snapshot(fetched[name])
        if keeper.synced and keeper.book.best_bid and keeper.book.best_ask:
            books[name, keeper.update_id] = (*keeper.book.best_bid, *keeper.book.best_ask)
    assert all(keepers[name].synced for name in shown)
    assert not quality.counts
    both = tops.keys() & books.keys()
    assert len(both) > (20 if venue == "spot" else 200)
    assert {key: books[key] for key in both} == {key: tops[key] for key in both}


def diff(first: int, last: int, *, bid: str = "10", size: str = "1", symbol: str = "X") -> bytes:
    """Return a spot diff."""
    data = {"e": "depthUpdate", "E": 1, "s": symbol, "U": first, "u": last, "a": []}
    return msgspec.json.encode({"stream": "x@depth@100ms", "data": {**data, "b": [[bid, size]]}})


def synced() -> BookKeeper:
    """Return a keeper in step at update 5."""
    keeper = BookKeeper("X", QualityLog("test"), futures=False)
    keeper.frame(diff(5, 5))
    assert keeper.wants == "snapshot"
    assert keeper.snapshot(schema.Snapshot(4, [("9", "1")], [("20", "1")]))
    return keeper


def test_a_snapshot_is_wanted_when_a_diff_is_missing() -> None:
    """The book is empty and not in step until a new snapshot fits."""
    keeper = synced()
    assert keeper.frame(diff(6, 7))
    assert not keeper.frame(diff(9, 9))
    assert not keeper.synced
    assert keeper.book.best_bid is None
    assert keeper.wants == "snapshot"
    assert keeper.resyncs == 1
    assert keeper.snapshot(schema.Snapshot(8, [("9", "1")], [("20", "1")]))
    assert keeper.book.best_bid == ("10", "1")


def test_another_snapshot_is_wanted_when_one_is_too_old() -> None:
    """It ends before the first diff begins."""
    keeper = BookKeeper("X", QualityLog("test"), futures=False)
    keeper.frame(diff(10, 11))
    assert not keeper.snapshot(schema.Snapshot(5, [], []))
    assert keeper.wants == "snapshot"
    assert not keeper.synced


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (diff(6, 6, bid="25"), "crossed-book"),
        (diff(6, 6, bid="-1"), "bad-price"),
        (diff(6, 6, size="-1"), "negative-size"),
        (diff(6, 6, size="NaN"), "nan"),
        (diff(6, 6, bid="ten"), "malformed"),
    ],
)
def test_the_book_is_thrown_away_when_a_diff_is_impossible(frame: bytes, kind: str) -> None:
    """A book that may be wrong is worse than none: a fresh connection is asked for."""
    keeper = synced()
    assert not keeper.frame(frame)
    assert keeper.wants == "reconnect"
    assert not keeper.synced
    assert keeper.book.best_bid is None
    assert keeper._quality.counts == {kind: 1}


def test_the_book_stays_when_frames_are_none_of_its_business() -> None:
    """Answers, other markets, and garbage that is no diff."""
    keeper = synced()
    for frame in (b'{"result":null,"id":1}', diff(6, 6, symbol="Y"), b"garbage", b""):
        assert not keeper.frame(frame)
    assert keeper.synced


def test_a_book_never_lies_when_its_frames_are_mutated(shared: Path) -> None:
    """20,000 frames: whatever comes, it is in step and possible, or says that it is not."""
    rng = random.Random(3)
    frames = [f for _, f in captures.frames(shared, "spot") if b"nknusdt@depth" in f[:60]]
    first = snapshots(shared, "spot")["NKNUSDT"]
    keeper = BookKeeper("NKNUSDT", QualityLog("test"), futures=False)
    for number in range(20_000):
        frame = bytearray(frames[number % len(frames)])
        for _ in range(rng.randrange(3)):
            frame[rng.randrange(len(frame))] = rng.randrange(256)
        keeper.frame(bytes(frame))
        if keeper.wants == "snapshot":
            keeper.snapshot(first)
        elif keeper.wants == "reconnect":
            keeper.lost()
        assert not keeper.book.crossed()
