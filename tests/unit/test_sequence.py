"""Sequence checks find every loss, and do what the venues' documents say."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker.brokers.book import OrderBook
from piker.brokers.sequence import (
    MAX_BUFFERED,
    MAX_SNAPSHOTS,
    Action,
    DepthSync,
    IdCheck,
    book_crc32,
    crc_digits,
)


# -- the documents' rules ----------------------------------------------------------------------
def test_spot_book_starts_as_venues_md_2_3_says() -> None:
    """Buffer, snapshot, drop what it holds, apply from the first that overlaps it."""
    sync: DepthSync[str] = DepthSync()
    assert sync.event(5, 6, "a").action is Action.SNAPSHOT
    assert sync.event(7, 9, "b").action is Action.WAIT
    assert sync.event(10, 12, "c").action is Action.WAIT
    step = sync.snapshot(8)
    assert (step.action, step.events) == (Action.APPLY, ("b", "c"))
    assert sync.event(13, 13, "d").events == ("d",)
    assert sync.event(11, 13, "d again").action is Action.DROP


def test_spot_snapshot_older_than_the_first_diff_is_fetched_again() -> None:
    """lastUpdateId < U - 1 leaves a hole; equal to U - 1 it joins."""
    sync: DepthSync[str] = DepthSync()
    sync.event(10, 12, "a")
    assert sync.snapshot(8).action is Action.SNAPSHOT
    assert sync.snapshot(9).events == ("a",)


def test_spot_gap_is_a_resync_that_counts_what_was_missed() -> None:
    """U must be the last u + 1."""
    sync: DepthSync[str] = DepthSync()
    sync.event(1, 1, "a")
    sync.snapshot(1)
    step = sync.event(5, 6, "later")
    assert (step.action, step.missed) == (Action.RESYNC, 3)
    assert sync.event(7, 7, "b").action is Action.WAIT
    assert sync.snapshot(4).events == ("later", "b")


def test_futures_chain_is_pu_and_ids_have_holes() -> None:
    """U <= lastUpdateId <= u at first, then pu == u of the one before, whatever U is."""
    sync: DepthSync[str] = DepthSync(futures=True)
    assert sync.event(100, 110, "old", previous=95).action is Action.SNAPSHOT
    sync.event(115, 130, "a", previous=110)
    assert sync.snapshot(120).events == ("a",)
    assert sync.event(140, 150, "b", previous=130).events == ("b",)
    step = sync.event(170, 180, "c", previous=160)
    assert (step.action, step.missed) == (Action.RESYNC, -1)


def test_futures_event_that_ends_at_the_snapshot_is_not_dropped_before_the_chain() -> None:
    """3.4 drops u < lastUpdateId, not u <= lastUpdateId."""
    sync: DepthSync[str] = DepthSync(futures=True)
    sync.event(1, 10, "a", previous=0)
    sync.event(11, 20, "b", previous=10)
    assert sync.snapshot(10).events == ("a", "b")


def test_snapshots_that_never_fit_end_in_a_reconnect() -> None:
    """A bound on everything: the stream itself is distrusted in the end."""
    sync: DepthSync[int] = DepthSync()
    sync.event(100, 101, 0)
    actions = [sync.snapshot(1).action for _ in range(MAX_SNAPSHOTS)]
    assert actions == [Action.SNAPSHOT] * (MAX_SNAPSHOTS - 1) + [Action.RECONNECT]


def test_buffer_is_bounded_while_no_snapshot_comes() -> None:
    """The oldest diffs go first: the snapshot will be newer."""
    sync: DepthSync[int] = DepthSync()
    for number in range(1, MAX_BUFFERED + 500):
        sync.event(number, number, number)
    step = sync.snapshot(1000)
    assert step.events[0] == 1001
    assert len(step.events) == MAX_BUFFERED + 499 - 1000


# -- against a venue that loses things --------------------------------------------------------
class Market:
    """A book that changes, and the diffs and snapshots it publishes."""

    def __init__(self, rng: random.Random, *, futures: bool) -> None:
        self.rng, self.futures = rng, futures
        self.update_id = rng.randint(1, 1000)
        self.published = self.update_id
        self.levels: dict[str, str] = {}

    def diff(self) -> tuple[int, int, int, list[tuple[str, str]]]:
        """Change a few levels and return (U, u, pu, changes)."""
        first = self.update_id + (self.rng.randint(1, 9) if self.futures else 1)
        self.update_id = first + self.rng.randint(0, 4)
        changes = []
        for _ in range(self.rng.randint(1, 4)):
            price, size = str(self.rng.randint(1, 30)), str(self.rng.randint(0, 3))
            changes.append((price, size))
            self.levels[price] = size
        self.levels = {p: s for p, s in self.levels.items() if s != "0"}
        previous, self.published = self.published, self.update_id
        return first, self.update_id, previous, changes


@pytest.mark.parametrize("futures", [False, True], ids=["spot", "futures"])
@pytest.mark.parametrize("seed", range(60))
def test_synced_book_is_the_venue_s_book_whatever_is_lost(futures: bool, seed: int) -> None:
    """Drops and repetitions, snapshots late and early: once told to apply, the book is right."""
    rng = random.Random(seed)
    market, sync = Market(rng, futures=futures), DepthSync[list[tuple[str, str]]](futures=futures)
    book: dict[str, str] = {}
    history: list[tuple[int, dict[str, str]]] = []
    pending: tuple[int, dict[str, str]] | None = None
    applied, recent = 0, market.diff()
    for _ in range(400):
        diff = recent if rng.random() < 0.05 else market.diff()
        recent = diff
        history.append((market.update_id, dict(market.levels)))
        if rng.random() < 0.03:
            continue  # lost on the way
        step = sync.event(diff[0], diff[1], diff[3], previous=diff[2])
        if step.action in (Action.SNAPSHOT, Action.RESYNC):
            pending = history[-1] if rng.random() < 0.5 else history[max(0, len(history) - 9)]
        for changes in step.events:
            apply(book, changes)
        if step.action is Action.APPLY:
            applied += 1
            assert book == market.levels, "an applied book is the venue's, at the same id"
        if pending is not None and rng.random() < 0.4:
            last_id, levels = pending
            answer = sync.snapshot(last_id)
            pending = None
            if answer.action is Action.APPLY:
                book = dict(levels)
                for changes in answer.events:
                    apply(book, changes)
            else:
                pending = history[-1]
    assert applied > 100


def apply(book: dict[str, str], changes: list[tuple[str, str]]) -> None:
    """Apply a diff to a plain dict of levels."""
    for price, size in changes:
        book[price] = size
        if size == "0":
            del book[price]


# -- recorded sessions ------------------------------------------------------------------------
SESSIONS = {"BINANCE": False, "BINANCE_DELIVERY": True}


def records(folder: Path, name: str) -> list[tuple[float, str, str]]:
    """Return (time, symbol, body) of the session's snapshots and frames; symbol "" for frames."""
    found = []
    for path in [*folder.glob(f"{name}.http.*"), *folder.glob(f"{name}.ws.*")]:
        for line in path.read_text().splitlines():
            head, _, body = line.partition(": ")
            if "symbol=" in head and " -> " in head and "depth" in head:
                url, _, time = head.partition(" -> ")
                found.append((float(time), url.split("symbol=")[1].split("&")[0], body))
            elif head.replace(".", "").isdigit():
                found.append((float(head), "", body))
    return sorted(found)


@pytest.mark.parametrize("name", SESSIONS)
def test_recorded_books_agree_with_the_venue_s_own_ticker(shared: Path, name: str) -> None:
    """At the same update id, the top of the synced book is the bookTicker's."""
    futures = SESSIONS[name]
    books: dict[str, OrderBook] = {}
    syncs: dict[str, DepthSync[dict[str, object]]] = {}
    tickers: dict[tuple[str, int], tuple[str, str]] = {}
    compared = gaps = 0
    for _, symbol, body in records(shared / "venues/binance/cryptofeed", name):
        data = json.loads(body)
        if symbol:
            step = syncs.setdefault(symbol, DepthSync(futures=futures)).snapshot(
                data["lastUpdateId"]
            )
            book = books.setdefault(symbol, OrderBook())
            book.load(data["bids"], data["asks"])
        else:
            data = data.get("data", data)
            symbol = data.get("s", "")
            if "B" in data and "A" in data and "u" in data:
                tickers[symbol, data["u"]] = (data["b"], data["a"])
                continue
            if data.get("e") != "depthUpdate":
                continue
            sync = syncs.setdefault(symbol, DepthSync(futures=futures))
            step = sync.event(data["U"], data["u"], data, previous=data.get("pu", -1))
        gaps += step.action is Action.RESYNC
        for event in step.events:
            book = books[symbol]
            book.apply(event["b"], event["a"])  # type: ignore[arg-type]
            top = tickers.get((symbol, event["u"]))  # type: ignore[arg-type]
            if top is not None and book.best_bid and book.best_ask:
                assert (float(book.best_bid[0]), float(book.best_ask[0])) == tuple(map(float, top))
                compared += 1
            assert not book.crossed()
    assert gaps == 0
    assert compared >= 20


def test_recorded_kraken_books_have_their_checksums(shared: Path) -> None:
    """Every one of the recorded v1 checksums, from the digits we kept."""
    path = shared / "venues/kraken/python-kraken-sdk/orderbook-v1.json"
    capture = json.loads(path.read_text())
    book, checked = OrderBook(), 0
    for message in [*capture["init"], *capture["updates"]]:
        if not isinstance(message, list):
            continue
        for part in message[1:-2]:
            if "as" in part:
                book.load(part["bs"], part["as"])
                continue
            book.apply(part.get("b", ()), part.get("a", ()))
            book.truncate(10)
            if "c" in part:
                assert book_crc32(book.asks.levels(10), book.bids.levels(10)) == int(part["c"])
                checked += 1
    assert checked == 979


@pytest.mark.parametrize(
    ("text", "digits"), [("0.00500000", "500000"), ("27120.00000", "2712000000"), ("0.0", "")]
)
def test_checksum_digits(text: str, digits: str) -> None:
    """No point, no leading zeros; trailing zeros stay."""
    assert crc_digits(text) == digits


# -- ids --------------------------------------------------------------------------------------
def test_ids_in_order_are_new_and_repetitions_are_not() -> None:
    """The common case, and a venue that sends a trade twice."""
    check = IdCheck()
    assert [check.check(n).new for n in (7, 8, 9, 9, 8, 10)] == [True] * 3 + [False] * 2 + [True]
    assert (check.missed, check.repeated) == (0, 2)


def test_ids_that_only_grow_have_no_holes() -> None:
    """A bookTicker's u skips; standing still or stepping back is a repetition."""
    check = IdCheck(dense=False)
    assert [check.check(n).new for n in (5, 90, 90, 7, 91)] == [True, True, False, False, True]
    assert check.missed == 0


def test_hole_is_counted_and_a_late_id_fills_it() -> None:
    """Reordering looks like a loss until the late one comes."""
    check = IdCheck()
    assert [check.check(n).missed for n in (1, 2, 5, 3)] == [0, 0, 2, 0]
    assert check.missed == 1
    assert not check.check(3).new
    check.reset()
    assert check.check(1).new


@given(st.lists(st.integers(0, 400), max_size=200))
def test_every_id_is_new_once_and_missed_is_what_never_came(numbers: list[int]) -> None:
    """Whatever the order, within the memory: a set says the same."""
    check, seen = IdCheck(memory=500), set[int]()
    for number in numbers:
        late = bool(seen) and number < min(seen)
        new = check.check(number).new
        assert new == (number not in seen and not late)
        if not late:
            seen.add(number)
    if seen:
        assert check.missed == max(seen) - min(seen) + 1 - len(seen)
