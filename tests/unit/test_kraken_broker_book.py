"""Kraken's orders without a venue: ids, nonces, terms, and what reports make of an order."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker.brokers.kraken.api import listings_of
from piker.brokers.kraken.broker_asking import proves
from piker.brokers.kraken.broker_book import Book
from piker.brokers.kraken.broker_ids import NonceFile, cl_ord_id_of, client_id_of
from piker.brokers.kraken.broker_schema import (
    BalanceEx,
    BalanceRow,
    Fee,
    OrderRow,
    Report,
    TradeRow,
    decode_head,
)
from piker.brokers.kraken.broker_terms import Markets, add_params, amend_params, order_of_row
from piker.brokers.kraken.schema import Pair
from piker.clearing import requests
from piker.clock import NS, WallClock, use_clock, wall_ns
from piker.errors import ConfigError, Rejected, Transient
from piker.orders import (
    Action,
    BrokerdFill,
    BrokerdOrder,
    BrokerdOrderAck,
    BrokerdStatus,
    OrderKind,
    TimeInForce,
)

PAIR = Pair(
    altname="XBTUSD", wsname="XBT/USD", base="XXBT", quote="ZUSD", pair_decimals=1, lot_decimals=8,
    tick_size="0.1", ordermin="0.00005", costmin="0.5",
)  # fmt: skip
MARKETS = Markets(listings_of({"XXBTZUSD": PAIR}).values())
TXID = "OK4GJX-KSTLS-7DZZO5"


def order(**more: Any) -> BrokerdOrder:
    """Return a limit order of ours."""
    said: dict[str, Any] = {
        "oid": "one", "client_id": requests.client_id_of("one"), "account": "kraken.main",
        "time_ns": 1, "symbol": "xbtusd.spot", "action": Action.BUY, "size": Decimal("0.5"),
        "price": Decimal("26500.5"),
    }  # fmt: skip
    return BrokerdOrder(**said | more)


# -- ids -------------------------------------------------------------------------------------
@given(st.text(min_size=1, max_size=60))
def test_an_id_is_made_back_when_it_is_emsds(oid: str) -> None:
    """128 bits in base32 and in hex digits: nothing is lost either way, and Kraken takes it."""
    client_id = requests.client_id_of(oid)
    theirs = cl_ord_id_of(client_id)
    assert len(theirs) == 32
    assert int(theirs, 16) >= 0
    assert client_id_of(theirs) == client_id
    assert client_id_of(str(UUID(theirs))) == client_id_of(theirs.upper()) == client_id


@given(st.text(max_size=60))
def test_any_id_fits_kraken_when_it_is_not_emsds(text: str) -> None:
    """Short plain ones as they are; all others by a digest, the same each time."""
    theirs = cl_ord_id_of(text)
    assert theirs.isascii()
    assert len(theirs) in range(1, 19) or len(theirs) == 32
    assert cl_ord_id_of(text) == theirs
    if len(theirs) <= 18:
        assert client_id_of(theirs) == theirs == text


class _Set(WallClock):
    def __init__(self, ns: int) -> None:
        self.ns = ns

    def wall_ns(self) -> int:
        """Return the time that it was set to."""
        return self.ns


def test_nonces_rise_when_there_are_two_of_us_and_clocks_jump(tmp_path: Path) -> None:
    """Through restarts, clocks set back, another process with the key, a file that is spoilt."""
    dice, seen = random.Random(5), [0]
    ours, theirs = NonceFile("key", tmp_path), NonceFile("key", tmp_path)
    for _ in range(300):
        with use_clock(_Set(wall_ns() + dice.randrange(-10_000, 10_000) * NS)):
            seen.append(dice.choice((ours, theirs, NonceFile("key", tmp_path))).next())
    assert seen == sorted(set(seen))
    assert ours.file.stat().st_mode & 0o077 == 0
    assert "key" not in ours.file.name.replace("kraken-", "")
    ours.file.write_bytes(b"\xff what is this")
    assert ours.next() > 0
    assert NonceFile("other", tmp_path).file != ours.file


@pytest.mark.parametrize("text", ["1e9999999", "-1e9999999", '"sNaN"', '"NaN"', "1e-9999"])
def test_number_that_can_not_be_makes_a_message_that_can_not_be_read(text: str) -> None:
    """Digits that were harmed on their way; any other error would end the dialog."""
    said = f'{{"asset":"XBT","balance":{text},"qty":{text}}}'.encode()
    for kind in (BalanceRow, BalanceEx, Fee):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(said, type=kind)


def test_nonce_that_can_not_be_had_is_a_failure_of_the_call_alone(tmp_path: Path) -> None:
    """No file may be opened any more, a disk is full: a dialog lives on, and asks again."""
    ours = NonceFile("key", tmp_path)
    ours.next()
    ours.file.unlink()
    ours.file.mkdir()
    with pytest.raises(Transient, match="no nonce"):
        ours.next()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="can not be made"):
        NonceFile("key", tmp_path / "file")


# -- terms -----------------------------------------------------------------------------------
def test_a_request_has_every_digit_when_it_is_made() -> None:
    """JSON numbers without an exponent; the day's end at midnight UTC."""
    listing = MARKETS.find("xbtusd.spot")
    assert listing is not None
    said = order(size=Decimal("1E-8"), tif=TimeInForce.DAY, post_only=True)
    params = add_params(said, listing, 1_700_000_000 * NS)
    text = msgspec.json.encode(params).decode()
    assert '"order_qty":0.00000001' in text
    assert '"limit_price":26500.5' in text
    assert params["expire_time"] == "2023-11-15T00:00:00.000Z"
    assert (params["time_in_force"], params["post_only"]) == ("gtd", True)
    trail = order(kind=OrderKind.TRAILING_STOP, price=None, trail=Decimal(20))
    assert msgspec.json.encode(add_params(trail, listing, 0)["triggers"]) == (
        b'{"reference":"last","price":20,"price_type":"quote"}'
    )
    market = add_params(order(kind=OrderKind.MARKET, price=None), listing, 0)
    assert "time_in_force" not in market


def test_an_amendment_names_what_changed_when_it_can_be_amended() -> None:
    """By txid, by cl_ord_id while that is not known; a trigger that stays is not sent again."""
    stop = order(kind=OrderKind.STOP_LIMIT, trigger=Decimal(27_000))
    params = amend_params(msgspec.structs.replace(stop, size=Decimal(1)), stop, TXID)
    assert set(params) == {"order_id", "order_qty", "limit_price"}
    moved = msgspec.structs.replace(stop, trigger=Decimal(27_100))
    assert "trigger_price" in amend_params(moved, stop, "")
    assert amend_params(moved, None, "")["cl_ord_id"] == cl_ord_id_of(stop.client_id)
    post = order(post_only=True)
    assert amend_params(post, post, TXID)["post_only"] is True
    assert "post_only" not in amend_params(order(), order(), TXID)
    with pytest.raises(Rejected, match="tif can not be amended"):
        amend_params(msgspec.structs.replace(stop, tif=TimeInForce.DAY), stop, TXID)


def test_an_error_proves_something_only_when_it_says_so() -> None:
    """What the engine, or a mode of the market, refused was not done; all else is open."""
    for error in ("EOrder:Insufficient funds", "EService:Market in post_only mode",
                  "EGeneral:Invalid arguments:volume", "ESession:Invalid session"):  # fmt: skip
        assert proves(error)
    for error in ("EService:Unavailable", "EService:Deadline elapsed", "EService:Timeout",
                  "EGeneral:Internal error", "EOrder:cl_ord_id already in use", "",
                  "EOrder:Cl_Ord_Id is taken", "EGeneral:Invalid arguments:cl_ord_id",
                  "EOrder:Duplicate clOrdId",
                  "something that no document has"):  # fmt: skip
        assert not proves(error)


def test_rows_of_a_real_answer_are_read_when_they_come(shared: Path) -> None:
    """Kraken's own examples of OpenOrders, ClosedOrders and TradesHistory."""
    folder = shared / "venues/kraken/nautilus/crate"
    said = msgspec.json.decode((folder / "http_open_orders.json").read_bytes())["result"]["open"]
    rows = msgspec.convert(said, dict[str, OrderRow])
    limit, stop = (order_of_row(k, row, "a", MARKETS) for k, row in rows.items())
    assert limit is not None
    assert (limit.size, limit.price) == (Decimal("0.5"), Decimal("29500.0"))
    assert stop is not None
    assert stop.kind is OrderKind.STOP
    said = msgspec.json.decode((folder / "http_trades_history.json").read_bytes())["result"]
    trades = msgspec.json.decode(msgspec.json.encode(said["trades"]), type=dict[str, TradeRow])
    assert [row.maker for row in trades.values()] == [True, False]


# -- reports ---------------------------------------------------------------------------------
def _life(dice: random.Random) -> tuple[list[Report], str, Decimal]:
    """Return an order's reports in their order, its end, and what of it was filled."""
    own, size, filled = cl_ord_id_of(order().client_id), Decimal("0.5"), Decimal(0)
    whole = {
        "symbol": "BTC/USD", "side": "buy", "order_type": "limit", "order_qty": size,
        "limit_price": Decimal("26500.5"), "cl_ord_id": own,
    }  # fmt: skip
    said = [Report(TXID, "pending_new", "pending_new", **whole),
            Report(TXID, "new", "new", cl_ord_id=own)]  # fmt: skip
    end = dice.choice(("filled", "canceled", "expired"))
    parts = [Decimal("0.1")] * (5 if end == "filled" else dice.randrange(5))
    for number, part in enumerate(parts):
        filled += part
        said.append(
            Report(
                TXID, "trade", "partially_filled", cl_ord_id=own, symbol="BTC/USD", side="buy",
                exec_id=f"T{number}", last_qty=part, last_price=Decimal("26500.5"), cum_qty=filled,
                liquidity_ind="m", timestamp="2023-09-22T10:33:05.709993Z",
            )
        )  # fmt: skip
    said.append(Report(TXID, end, end, cl_ord_id=own, cum_qty=filled, reason="why"))
    return said, end, filled


def _row(end: str, filled: Decimal) -> OrderRow:
    row = {
        "status": "closed" if end == "filled" else end, "vol": "0.5", "vol_exec": str(filled),
        "descr": {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "price": "26500.5"},
        "cl_ord_id": cl_ord_id_of(order().client_id),
        "trades": [f"T{n}" for n in range(int(filled * 10))],
    }  # fmt: skip
    return msgspec.convert(row, OrderRow)


@given(st.integers(0, 10**9))
def test_an_order_ends_alike_when_reports_are_lost_doubled_and_out_of_order(seed: int) -> None:
    """A fifth is lost, the rest comes up to three times in any order; REST fills the holes.

    Each fill is told once, its end once and after them; nothing is told open after it.
    """
    dice = random.Random(seed)
    said, end, filled = _life(dice)
    heard = [one for one in said for _ in range(dice.randrange(4)) if dice.random() > 0.2]
    dice.shuffle(heard)
    book = Book("kraken.main", MARKETS)
    held = book.sent(order())
    events = [event for one in heard for event in book.report(one, 1)]
    events += book.row(TXID, _row(end, filled), 1)
    for name in book.wanted_trades():
        trade = TradeRow(TXID, "XXBTZUSD", Decimal(1), "buy", Decimal("26500.5"), Decimal("0.1"))
        events += book.trade(name, trade, 1)
    assert held.txid == TXID
    fills = [event for event in events if isinstance(event, BrokerdFill)]
    assert sorted(fill.tid for fill in fills) == [f"T{n}" for n in range(int(filled * 10))]
    assert all(
        (fill.oid, fill.reqid, fill.symbol) == ("one", TXID, "xbtusd.spot") for fill in fills
    )
    acks = [event for event in events if isinstance(event, BrokerdOrderAck)]
    assert len(acks) == 1
    statuses = [event for event in events if isinstance(event, BrokerdStatus)]
    ends = [one for one in statuses if one.status != "open"]
    assert [one.status for one in ends] == ["closed" if end == "filled" else end]
    assert ends[0].filled == filled
    assert events.index(ends[0]) == len(events) - 1
    assert list(book) == []


@given(st.integers(0, 10**9), st.sampled_from(["each", "first", "own"]))
def test_no_more_is_told_than_the_venue_says_was_filled_whatever_fills_are_called(
    seed: int, names: str
) -> None:
    """The stream makes one of some, or calls them otherwise; half is lost, the rest in any order.

    Never more than the venue's sum at that moment; all of it once REST has told each.
    """
    dice, part = random.Random(seed), Decimal("0.1")
    said, count = [Report(TXID, "new", "new", cl_ord_id=cl_ord_id_of(order().client_id))], 0
    while count < 5:
        size = 1 if names == "each" else dice.randrange(1, 6 - count)
        name = f"T{count}" if names != "own" or size == 1 else f"C{count}"
        count += size
        told = Report(
            TXID, "trade", "partially_filled", side="buy", symbol="BTC/USD", exec_id=name,
            last_qty=size * part, last_price=Decimal("26500.5"), cum_qty=count * part,
        )  # fmt: skip
        said.append(told)
    heard: list[Report | str] = [one for one in said for _ in range(dice.randrange(3))]
    heard += [f"T{number}" for number in range(5) if dice.random() < 0.5]
    dice.shuffle(heard)
    book = Book("kraken.main", MARKETS)
    held = book.sent(order())
    events = book.row(TXID, _row("open", Decimal(0)), 1)
    trade = TradeRow(TXID, "XXBTZUSD", Decimal(1), "buy", Decimal("26500.5"), part)
    for one in [*heard, None, *(f"T{number}" for number in reversed(range(5)))]:
        if one is None:
            events += book.row(TXID, _row("filled", 5 * part), 1)
        else:
            events += book.trade(one, trade, 1) if isinstance(one, str) else book.report(one, 1)
        fills = [event for event in events if isinstance(event, BrokerdFill)]
        assert sum(fill.size for fill in fills) <= held.filled
        assert len({fill.tid for fill in fills}) == len(fills)
    assert sum(fill.size for fill in fills) == held.filled == 5 * part
    assert (held.missing, held.told) == (0, "closed")


def test_a_strangers_fill_is_ours_when_its_order_turns_out_to_be() -> None:
    """Told once more, with our ids: emsd did not know whose it was."""
    book = Book("kraken.main", MARKETS)
    held = book.sent(order())
    trade = TradeRow(TXID, "XBTUSD", Decimal(1), "buy", Decimal("26500.5"), Decimal("0.1"))
    (first,) = book.trade("T0", trade, 1)
    assert isinstance(first, BrokerdFill)
    assert first.oid == ""
    book.row(TXID, _row("canceled", Decimal("0.1")), 1)
    assert (held.txid, book.wanted_trades()) == (TXID, ["T0"])
    again, ended = book.trade("T0", trade, 1)
    assert isinstance(again, BrokerdFill)
    assert (again.oid, again.tid) == ("one", "T0")
    assert isinstance(ended, BrokerdStatus)
    assert ended.status == "canceled"


def test_kinds_that_we_have_no_word_for_are_told_when_others_place_them() -> None:
    """An iceberg order of somebody else: its status, without terms."""
    book = Book("kraken.main", MARKETS)
    said = Report(TXID, "new", "new", symbol="BTC/USD", side="buy", order_type="iceberg",
                  order_qty=Decimal(1), cl_ord_id="theirs")  # fmt: skip
    (told,) = book.report(said, 1)
    assert isinstance(told, BrokerdStatus)
    assert (told.status, told.order, told.client_id) == ("open", None, "theirs")


@given(st.binary(max_size=200))
def test_no_frame_does_harm_when_it_is_garbage(data: bytes) -> None:
    """It is a message, or a decoding error: nothing else is raised."""
    try:
        head = decode_head(data)
        msgspec.json.decode(head.data, type=list[Report])
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
