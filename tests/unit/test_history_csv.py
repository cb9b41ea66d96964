"""Trade histories as venues let people download them: each form, each bad line, each trade once."""

from __future__ import annotations

import random
from contextlib import suppress
from decimal import Decimal

import pytest

from piker.accounting import Ledger, Transaction
from piker.accounting.history_csv import MADE_UP, form_of, read_csv, unmatched
from piker.errors import DataQuality
from piker.market import Asset, MktPair

D = Decimal
KRAKEN = (
    '"txid","ordertxid","pair","time","type","ordertype","price","cost","fee","vol","margin",'
    '"misc","ledgers"\n'
    '"TABCDE-AAAAA-BBBBBB","OABCDE-1","XXBTZEUR","2021-06-10 12:34:56.7891","buy","limit",'
    '30000.10000,300.00100,0.78000,0.01000000,0.00000,"","L1,L2"\n'
    '"TABCDE-AAAAA-CCCCCC","OABCDE-2","XXBTZEUR","2021-06-11 12:34:56","sell","market",'
    '31000,310,0.8,0.01,0.0,"",""\n'
)
BINANCE = (
    "\ufeffDate(UTC),Pair,Side,Price,Executed,Amount,Fee\n"
    "2022-03-28 13:01:36,SOLBUSD,SELL,110.03,0.1800000000SOL,19.8054BUSD,0.0198054BUSD\n"
    "2022-03-28 13:01:36,SOLBUSD,SELL,110.03,0.1800000000SOL,19.8054BUSD,0.0198054BUSD\n"
    '22-03-29 13:01:36,1INCHUSDT,BUY,"1,000.5",5001INCH,750USDT,0.51INCH\n'
    "2022-03-30 13:01:36,1INCHUSDT,BUY,1.5,5001INCH,750USDT,0.0012BNB\n"
)
OLD = (
    "Date(UTC),Market,Type,Price,Amount,Total,Fee,Fee Coin\n"
    "2019-01-02 03:04:05,SOLBUSD,BUY,2,3,6,0.003,BNB\n"
)
PLAIN = (
    "tid,time,symbol,side,size,price,fee,fee_asset,note\n"
    "7,2024-01-01T00:00:00.25Z,AAPL.nasdaq.ib,buy,10,190.5,1,USD,first\n"
    ",2024-01-02 00:00:00,aapl.nasdaq.ib,SELL,4,191,,,\n"
)


def market(fqme: str, name: str, dst: str, src: str) -> MktPair:
    """Return a spot market."""
    return MktPair(
        fqme=fqme, bs_mktid=name, dst=Asset(dst), src=Asset(src), price_tick=D("0.01"),
        size_tick=D("0.00001"),
    )  # fmt: skip


MARKETS = {
    "XXBTZEUR": market("xbteur.spot.kraken", "XBTEUR", "btc", "eur"),
    "SOLBUSD": market("solbusd.spot.binance", "SOLBUSD", "sol", "busd"),
    "1INCHUSDT": market("1inchusdt.spot.binance", "1INCHUSDT", "1inch", "usdt"),
}


def read(text: str, **options: bool) -> list[Transaction]:
    """Return the transactions of a file."""
    told = read_csv(text.encode(), account="a.main", market_of=MARKETS.get, **options)
    return list(told.transactions)


def test_trades_are_read_when_kraken_wrote_them() -> None:
    """Under Kraken's ids, for the value that Kraken booked, with fees in the quote currency."""
    first, second = read(KRAKEN)
    assert (first.tid, first.symbol, first.size) == (
        "TABCDE-AAAAA-BBBBBB", "xbteur.spot.kraken", D("0.01"),
    )  # fmt: skip
    assert (first.value, first.cost, first.cost_asset) == (D("300.001"), D("0.78"), "eur")
    assert first.time_ns == 1623328496_789100000
    assert (second.size, second.value, second.oid) == (D("-0.01"), D(-310), "OABCDE-2")


def test_trades_are_read_when_binance_wrote_them() -> None:
    """Amounts with their asset, one that begins with a digit too; equal rows are two trades."""
    first, second, third, fourth = read(BINANCE)
    assert (first.size, first.price, first.cost, first.cost_asset) == (
        D("-0.18"), D("110.03"), D("0.0198054"), "busd",
    )  # fmt: skip
    assert first.tid != second.tid
    assert first.time_ns == second.time_ns == 1648472496_000000000
    assert (third.size, third.price, third.cost, third.cost_asset) == (
        D(500), D("1000.5"), D("0.5"), "1inch",
    )  # fmt: skip
    assert (fourth.cost, fourth.cost_asset) == (D("0.0012"), "bnb")
    (old,) = read(OLD)
    assert (old.size, old.cost, old.cost_asset) == (D(3), D("0.003"), "bnb")


def test_trades_are_read_when_a_person_wrote_them() -> None:
    """Columns in any order; an id, a fee and a note where there are some."""
    first, second = read(PLAIN)
    assert (first.tid, first.symbol, first.cost, first.note) == ("7", "aapl.nasdaq.ib", 1, "first")
    assert first.time_ns == 1704067200_250000000
    assert second.size == -4
    assert second.tid.startswith(MADE_UP)
    assert not second.cost_asset


@pytest.mark.parametrize("text", [KRAKEN, BINANCE, OLD, PLAIN])
def test_file_counts_once_when_it_is_read_again(text: str) -> None:
    """The ids that are made up for its rows are the same, in whatever order it is sorted."""
    head, *rows = text.splitlines()
    random.Random(1).shuffle(rows)
    ledger = Ledger(read(text))
    for one in read("\n".join([head, *rows])):
        assert ledger.add(one) == "duplicate"


def test_trade_counts_once_when_it_was_told_live() -> None:
    """One without an id is the live one of its second, size and price; each stands for one."""
    first, *rest = read(BINANCE)
    live = Transaction(
        account=first.account, symbol=first.symbol, tid="t99", time_ns=first.time_ns + 250_000_000,
        size=first.size, price=first.price,
    )  # fmt: skip
    assert unmatched([live], [first, *rest]) == rest
    assert unmatched([], [first, *rest]) == [first, *rest]
    assert unmatched([first], [first]) == [first]  # it is not told live, and has its own id


BAD = {
    "2024-13-01 00:00:00,x.spot.k,buy,1,2": "is no time",
    "yesterday,x.spot.k,buy,1,2": "is no time",
    "2024-01-01 00:00:00,x.spot.k,hold,1,2": "neither buy nor sell",
    "2024-01-01 00:00:00,x.spot.k,buy,one,2": "no number",
    "2024-01-01 00:00:00,x.spot.k,buy,NaN,2": "no number",
    "2024-01-01 00:00:00,x.spot.k,buy,-1,2": "below zero",
    "2024-01-01 00:00:00,x.spot.k,buy,0,2": "a fill of nothing",
    "2024-01-01 00:00:00,x.spot.k,buy,1e99,2": "over 24 digits",
    "2024-01-01 00:00:00,x/../y.k,buy,1,2": "not a market address",
    "2024-01-01 00:00:00,x.spot.k,buy": "no number",
}


@pytest.mark.parametrize("row", BAD)
def test_line_is_named_when_it_can_not_be_read(row: str) -> None:
    """Nothing of the file is imported; leniently the rest is."""
    good = "2024-01-01 00:00:00,x.spot.k,buy,1,2"
    text = f"time,symbol,side,size,price\n{good}\n{row}\n"
    with pytest.raises(DataQuality, match=rf"line 3: .*{BAD[row]}"):
        read(text)
    told = read_csv(text.encode(), account="a.main", market_of=MARKETS.get, strict=False)
    assert len(told.transactions) == 1
    assert [problem.line for problem in told.problems] == [3]


def test_market_and_margin_are_refused_when_they_are_not_ours() -> None:
    """A market that nobody knows, and a trade on margin, which is no spot trade."""
    with pytest.raises(DataQuality, match="'XETHZUSD' is not known"):
        read(KRAKEN.replace("XXBTZEUR", "XETHZUSD"))
    with pytest.raises(DataQuality, match="on margin"):
        read(KRAKEN.replace("0.01000000,0.00000", "0.01000000,100"))


@pytest.mark.parametrize("data", [b"", b"a,b\n1,2\n", b"\xff\xfe\x00", b"<xml/>"])
def test_file_is_refused_when_it_is_no_trade_history(data: bytes) -> None:
    """With its first line, and what is known."""
    with pytest.raises(DataQuality):
        form_of(data)


def test_only_data_quality_is_raised_when_a_file_is_mutated() -> None:
    """Bytes changed, doubled and dropped at random."""
    chance = random.Random(7)
    for text in (KRAKEN, BINANCE, OLD, PLAIN) * 100:
        data = bytearray(text.encode())
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(data))
            how = chance.randrange(3)
            if how == 0:
                data[at] = chance.randrange(256)
            elif how == 1:
                del data[at : at + chance.randint(1, 9)]
            else:
                data[at:at] = data[at : at + chance.randint(1, 9)]
        with suppress(DataQuality):
            read_csv(bytes(data), account="a.main", market_of=MARKETS.get)
