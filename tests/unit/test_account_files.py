"""Account files in TOML and closed lots in CSV: they read back, and say where they are wrong."""

from __future__ import annotations

import csv
import io
import re
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import CONTRACTS, D, ledgers, tx

from piker.accounting.export import (
    TAX_COLUMNS,
    account_file,
    iso_of,
    read_account_file,
    tax_csv,
    time_of,
)
from piker.accounting.ledger import Ledger
from piker.accounting.lots import Method, lots_of
from piker.accounting.transaction import Contract, Kind, Transaction
from piker.errors import ConfigError
from piker.money import total

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "accounting.md"
SYMBOL = "btcusdt.spot.binance"
SPOT = CONTRACTS[0]


def filled() -> Ledger:
    """Return a ledger with some of everything."""
    trades = [
        tx("1", "1.5", 100, cost=D("0.15"), cost_asset="usdt", oid="o1"),
        tx("2", "-0.5", 110, time_ns=2_000_000_001),
        tx("3", 0, kind=Kind.FUNDING, cost=D("-0.2"), cost_asset="usdt", note='he said "yes" \\o/'),
        tx("4", 0, kind=Kind.SPLIT, new=2, old=1),
        tx("5", 3, symbol="ethusdt.spot.binance", kind=Kind.TRANSFER),
        tx("6", -1, 2000, symbol="btcusd.coinm.perp.binance", value=D("0.05"), leg="short"),
        tx("7", 1, 1, account="other"),
    ]
    return Ledger(trades, contracts={SYMBOL: SPOT, "btcusd.coinm.perp.binance": CONTRACTS[3]})


# -- TOML ----------------------------------------------------------------------------------------
def test_account_file_reads_back_when_written() -> None:
    """The same transactions, contracts and positions; another account's are not in it."""
    ledger = filled()
    account, back = read_account_file(account_file(ledger, "main").encode())
    assert account == "main"
    assert back.transactions() == ledger.transactions("main")
    assert back.positions() == ledger.positions("main")


def test_account_file_is_for_people_when_looked_at() -> None:
    """Plain numbers, one line for each transaction, what is not known said."""
    text = account_file(filled(), "main")
    group = next(p for p in tomllib.loads(text)["position"] if p["symbol"] == SYMBOL)
    assert (group["size"], group["avg_price"], group["realised"]) == ("2", "50", "5")
    assert group["fees"] == {"usdt": "0.15"}
    assert len(group["transactions"]) == 4
    assert '{ time = "1970-01-01T00:00:02.000000001Z", kind = "fill", size = "-0.5"' in text
    assert "unpriced = true" in text


_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


@settings(max_examples=100)
@given(st.lists(st.tuples(ledgers(6), _TEXT, st.sampled_from(CONTRACTS)), max_size=3), _TEXT, _TEXT)
def test_any_ledger_reads_back_when_written(
    groups: list[tuple[list[Transaction], str, Contract]], account: str, note: str
) -> None:
    """Whatever texts its names have; markets that come twice are one."""
    ledger = Ledger()
    for number, (transactions, symbol, contract) in enumerate(groups):
        ledger.define(symbol, contract)
        for one in transactions:
            ledger.add(
                msgspec.structs.replace(
                    one, symbol=symbol, account=account, note=note, tid=f"{number}-{one.tid}"
                )
            )
    name, back = read_account_file(account_file(ledger, account))
    assert name == account
    assert back.transactions() == ledger.transactions()
    assert back.positions() == ledger.positions()


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("format = 1", "format = 2", "format 2; this piker reads 1"),
        ('size = "2"', 'size = "3"', "size of position .* is 3, but its transactions come to 2"),
        ('realised = "5"', 'realised = "6"', "realised of .* is 6"),
        ('price = "110"', 'price = "111"', "come to 5.5"),
        ('price = "110"', 'price = "NaN"', "'NaN' for a number at .*transaction 2"),
        ('price = "110"', 'price = "dear"', "'dear' for a number"),
        ('price = "110", ', "", "transaction 2: .* no price"),
        ('price = "110"', 'prize = "110"', "unknown field"),
        ('price = "110"', "price = 110", "Expected"),
        ('tid = "4"', 'tid = "3"', "twice"),
        ('kind = "funding"', 'kind = "luck"', "luck"),
        ("02.000000001Z", "02", "no time like"),
        ("1970-01-01T00:00:02.", "1970-13-01T00:00:02.", "transaction 2"),
        ('split = "2:1"', 'split = "2"', "transaction 4"),
        ("[[position]]", "[position", "no account file"),
        ('multiplier = "100"', 'multiplier = "1e900"', "multiplier is not 1E.900"),
        ('multiplier = "100"', 'multiplier = "0"', "multiplier is not 0"),
        ('size = "2"', 'size = "2e999999"', "size of"),
        ('account = "main"', "", "account"),
    ],
)
def test_account_file_is_refused_when_it_is_wrong(old: str, new: str, why: str) -> None:
    """By its place and the reason."""
    text = account_file(filled(), "main")
    assert old in text
    with pytest.raises(ConfigError, match=why):
        read_account_file(text.replace(old, new, 1))


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a=" + b"[" * 100_000, b"a = " + b"9" * 10_000])
def test_account_file_is_refused_when_it_is_hostile(data: bytes) -> None:
    """Not UTF-8, nested without end, a number without end."""
    with pytest.raises(ConfigError, match="no account file"):
        read_account_file(data)


@given(st.integers(0, 2**63 - 1))
def test_time_reads_back_when_written(time_ns: int) -> None:
    """To the nanosecond."""
    assert time_of(iso_of(time_ns)) == time_ns


# -- the guide -----------------------------------------------------------------------------------
def test_guide_holds_when_its_examples_are_run(capsys: pytest.CaptureFixture[str]) -> None:
    """From top to bottom, as a reader would; its assertions are the test."""
    text = GUIDE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    assert len(blocks) >= 8
    assert "open_tid" in capsys.readouterr().out


# -- CSV -----------------------------------------------------------------------------------------
def rows_of(text: str) -> list[dict[str, str]]:
    """Return the rows as a spreadsheet has them."""
    return list(csv.DictReader(io.StringIO(text)))


def test_closed_lots_are_linked_when_exported() -> None:
    """One row for each pair of trades, fees apart, by asset."""
    trades = [
        tx("1", 1, 100, cost=D("0.1"), cost_asset="usdt"), tx("2", 1, 110),
        tx("3", -2, 120, cost=D("0.002"), cost_asset="bnb", time_ns=3 * 86_400 * 10**9),
    ]  # fmt: skip
    rows = rows_of(tax_csv([lots_of(trades, SPOT)]))
    assert list(rows[0]) == list(TAX_COLUMNS)
    assert [(r["open_tid"], r["close_tid"], r["gain"], r["days"]) for r in rows] == [
        ("1", "3", "20", "3"),
        ("2", "3", "10", "3"),
    ]
    assert rows[0]["opened"] == "1970-01-01T00:00:01Z"
    assert [(r["fees"], r["fees_other"]) for r in rows] == [
        ("0.1", "0.001 bnb"),
        ("0", "0.001 bnb"),
    ]
    assert {r["currency"] for r in rows} == {"usdt"}


@settings(max_examples=50)
@given(ledgers(), st.sampled_from(list(Method)), st.sampled_from(CONTRACTS))
def test_sums_of_the_file_are_those_of_the_lots_when_exported(
    transactions: list[Transaction], method: Method, contract: Contract
) -> None:
    """No digit is lost on the way to the file."""
    report = lots_of(transactions, contract, method)
    rows = rows_of(tax_csv([report]))
    assert total(D(r["gain"]) for r in rows) == report.realised
    assert total(D(r["size"]) for r in rows) == total(lot.size for lot in report.closed)


def test_text_is_no_formula_when_a_spreadsheet_opens_it() -> None:
    """An id that begins with an equals sign is a text."""
    trades = [tx("=1+1", 1, 1, time_ns=1), tx("2", -1, 1)]
    (row,) = rows_of(tax_csv([lots_of(trades, SPOT)]))
    assert row["open_tid"] == "'=1+1"


def test_unknown_cost_is_said_when_exported() -> None:
    """The gain of units that came without a cost is no gain to tell an office."""
    (row,) = rows_of(tax_csv([lots_of([tx("1", 1, kind=Kind.TRANSFER), tx("2", -1, 5)], SPOT)]))
    assert (row["cost_known"], row["cost"], row["gain"]) == ("no", "0", "5")
