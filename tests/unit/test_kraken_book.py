"""Kraken's verified book: recorded checksums through the v2 path, and what breaks it."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from piker.brokers.book import OrderBook
from piker.brokers.kraken.api import Listing
from piker.brokers.kraken.book import BookSync, digits
from piker.brokers.quality import QualityLog
from piker.brokers.sequence import book_crc32
from piker.errors import DataQuality
from piker.market import Asset, MktPair
from piker.testing.capture import In
from piker.testing.captures_foreign import read_any


def listing(price_digits: int = 5, size_digits: int = 8) -> Listing:
    """Return BTC/USD with the digits of a recording."""
    market = MktPair(
        fqme="xbtusd.spot.kraken", bs_mktid="XBTUSD", dst=Asset("btc"), src=Asset("usd"),
        price_tick=Decimal("0.1"), size_tick=Decimal("0.00000001"),
    )  # fmt: skip
    return Listing(market, "XXBTZUSD", "XBTUSD", "BTC/USD", price_digits, size_digits)


def sync(depth: int = 10, **digits_of: int) -> BookSync:
    """Return an empty book."""
    return BookSync(listing(**digits_of), depth, QualityLog("kraken"))


def frame(kind: str, bids: list[Any], asks: list[Any], checksum: int) -> bytes:
    """Return a v2 frame whose numbers are the texts given, as the venue writes numbers."""

    def levels(side: list[Any]) -> str:
        return ",".join(f'{{"price":{x[0]},"qty":{x[1]}}}' for x in side)

    return (
        f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"BTC/USD",'
        f'"bids":[{levels(bids)}],"asks":[{levels(asks)}],"checksum":{checksum},'
        f'"timestamp":"2023-08-30T17:35:55.440295Z"}}]}}'
    ).encode()


def recorded_as_v2(shared: Path, *, cut_zeros: bool = False) -> list[bytes]:
    """Return the recorded v1 session as v2 frames, with the checksums that were recorded.

    Only the first snapshot has none in v1: it is given ours.
    """
    capture = read_any(shared / "venues/kraken/python-kraken-sdk/orderbook-v1.json")
    frames: list[bytes] = []
    for record in capture.records:
        message = json.loads(record.text) if isinstance(record, In) else None
        if not isinstance(message, list):
            continue
        merged: dict[str, Any] = {}
        for part in message[1:-2]:
            merged.update(part)
        if "as" in merged:
            book = OrderBook()
            book.load(merged["bs"], merged["as"])
            checksum = book_crc32(book.asks.levels(10), book.bids.levels(10))
            frames.append(frame("snapshot", merged["bs"], merged["as"], checksum))
            continue
        bids, asks = merged.get("b", []), merged.get("a", [])
        if cut_zeros:
            bids, asks = ([[_cut(x[0]), _cut(x[1])] for x in side] for side in (bids, asks))
        frames.append(frame("update", bids, asks, int(merged["c"])))
    return frames


def _cut(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


@pytest.mark.parametrize("cut_zeros", [False, True], ids=["as-written", "without-zeros"])
def test_every_recorded_checksum_holds(shared: Path, cut_zeros: bool) -> None:
    """Whether or not the zeros at the end of a number are sent."""
    found = sync()
    frames = recorded_as_v2(shared, cut_zeros=cut_zeros)
    assert [found.take(one) for one in frames] == ["changed"] * len(frames)
    assert found.checked == len(frames) == 980
    assert found.synced
    assert not found.quality.counts
    assert len(found.book.bids) == len(found.book.asks) == 10


def test_a_lost_update_is_found_and_mended_by_a_snapshot(shared: Path) -> None:
    """Within the next updates; what comes before the new snapshot is not believed."""
    found = sync()
    frames = recorded_as_v2(shared)
    found.take(frames[0])
    verdicts = [found.take(one) for one in frames[2:40]]
    assert "resubscribe" in verdicts
    assert verdicts.count("resubscribe") == 1
    assert not found.synced
    assert len(found.book.bids) == 0
    assert found.quality.counts == {"checksum": 1}
    assert found.take(frames[0]) == "changed"
    assert found.synced


@pytest.mark.parametrize(
    "spoilt",
    [
        b'{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[{"pri',
        b'{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[]}]}',
        frame("update", [["1e999", "1"]], [], 5),
        frame("update", [["-5", "1"]], [], 5),
        frame("update", [["5", "-1"]], [], 5),
        frame("update", [['"x"', "1"]], [], 5),
        frame("update", [["null", "[1]"]], [], 5),
        frame("update", [["5.000001", "1"]], [], 5),
        frame("update", [["9" * 500, "1"]], [], 5),
    ],
)
def test_a_spoilt_update_loses_the_book(shared: Path, spoilt: bytes) -> None:
    """It may have held a change: the book can not be trusted without it."""
    found = sync()
    found.take(recorded_as_v2(shared)[0])
    assert found.take(spoilt) == "resubscribe"
    assert not found.synced
    assert found.failures == 1


def test_what_is_no_book_of_the_market_changes_nothing(shared: Path) -> None:
    """Answers, heartbeats, another market, and updates before any snapshot."""
    found = sync()
    frames = recorded_as_v2(shared)
    assert found.take(frames[1]) == "none"
    found.take(frames[0])
    assert (
        found.take(b'{"method":"subscribe","result":{"channel":"book"},"success":true}') == "none"
    )
    assert found.take(b'{"channel":"heartbeat"}') == "none"
    assert found.take(frames[1].replace(b"BTC/USD", b"ETH/USD")) == "none"
    assert found.synced
    assert found.take(frames[1]) == "changed"


@pytest.mark.parametrize(
    ("raw", "places", "text"),
    [
        ("27120", 1, "27120.0"),
        ("27120.5", 1, "27120.5"),
        ("0.005", 8, "0.00500000"),
        ("5e-8", 8, "0.00000005"),
        ("1E+2", 0, "100"),
        ("12", 0, "12"),
        ("0", 8, "0.00000000"),
    ],
)
def test_numbers_get_the_markets_digits(raw: str, places: int, text: str) -> None:
    """However the venue chose to write them."""
    assert digits(msgspec.Raw(raw.encode()), places) == text


@pytest.mark.parametrize("raw", ["true", '"1"', "null", "{}", "1.25", "9" * 100, "٣"])
def test_what_has_no_such_digits_is_refused(raw: str) -> None:
    """No number, too long, or one that would lose a digit."""
    with pytest.raises(DataQuality):
        digits(msgspec.Raw(raw.encode()), 1)


@pytest.mark.slow
def test_mutated_books_never_lie(shared: Path) -> None:
    """20,000 spoilt frames: no exception, and a book that says it is synced has its checksum."""
    rng = random.Random(7)
    frames = recorded_as_v2(shared)[:300]
    found = sync()
    for number in range(20_000):
        if not found.synced:
            found.take(frames[0])
        one = bytearray(frames[1 + number % 299])
        how = rng.randrange(3)
        at = rng.randrange(len(one))
        if how == 0:
            one[at] = rng.randrange(256)
        elif how == 1:
            del one[at:]
        else:
            one[at:at] = one[at : at + 15]
        found.take(bytes(one))
        bid, ask = found.book.bids.best_price, found.book.asks.best_price
        assert not found.synced or (bid is not None and ask is not None and 0 < bid < ask)
    assert set(found.quality.counts) <= {
        "checksum", "malformed", "digits", "wrong-symbol", "bad-price", "negative-size", "nan",
    }  # fmt: skip
