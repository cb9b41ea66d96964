"""IB Flex statements: real to the cent, damaged by line and reason, hostile ones refused."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pytest
from ledgers import D

from piker.accounting.flex import Statement, read_flex
from piker.accounting.flex_rows import symbol_of, time_of
from piker.accounting.flex_xml import MAX_DEPTH, MAX_VALUE
from piker.accounting.ledger import Ledger
from piker.accounting.transaction import Kind, flow_of
from piker.errors import ConfigError, DataQuality
from piker.money import total

MUTATIONS = 3_000  # of each run; the whole is marked full
MUTATIONS_FULL = 200_000
HEAD = '<FlexQueryResponse queryName="q" type="AF">\n<FlexStatements count="1">\n'
TAIL = "\n</FlexStatement></FlexStatements></FlexQueryResponse>"
TRADE = {
    "accountId": "U1", "currency": "USD", "assetCategory": "STK", "symbol": "CDW", "conid": "7",
    "listingExchange": "NASDAQ", "multiplier": "1", "tradeID": "300", "dateTime": "20200729;124452",
    "quantity": "25", "tradePrice": "114.6", "tradeMoney": "2865", "proceeds": "-2865",
    "taxes": "0", "ibCommission": "-5", "ibCommissionCurrency": "USD", "buySell": "BUY",
    "levelOfDetail": "EXECUTION", "transactionType": "ExchTrade", "ibOrderID": "14",
}  # fmt: skip
NOON_IN_JULY = int(
    datetime(2020, 7, 29, 12, 44, 52, tzinfo=ZoneInfo("America/New_York")).timestamp()
)


def element(name: str, base: dict[str, str] | None = None, **changes: str | None) -> str:
    """Return an element; a change of None leaves the attribute out."""
    attributes = {**(TRADE if base is None else base), **changes}
    inner = " ".join(f'{k}="{v}"' for k, v in attributes.items() if v is not None)
    return f"<{name} {inner} />"


def statement(*rows: str, account: str = "U1") -> bytes:
    """Return a statement; its first row is line 4."""
    start = f'{HEAD}<FlexStatement accountId="{account}">\n'
    return (start + "\n".join(rows) + TAIL).encode()


def real_files(shared: Path) -> list[Path]:
    """Return the users' statements."""
    return sorted((shared / "venues/ib/flex-portfolio").glob("*.xml"))


# -- real statements -----------------------------------------------------------------------------
def test_real_statements_come_out_to_the_cent_when_read(shared: Path) -> None:
    """Units, money and commissions of every trade, beside another parser's sums."""
    for path in real_files(shared):
        read = read_flex(path.read_bytes())
        told: dict[str, Decimal] = defaultdict(Decimal)
        for row in ElementTree.parse(path).iter("Trade"):
            told["units"] += D(row.attrib["quantity"])
            told["money"] -= D(row.attrib["proceeds"])
            told["cost"] -= D(row.attrib["ibCommission"]) + D(row.attrib["taxes"])
            told["trades"] += 1
        trades = [
            one for one in read.transactions
            if one.kind in (Kind.FILL, Kind.EXPIRY) and not one.tid.startswith("action-")
        ]  # fmt: skip
        assert len(trades) == told["trades"], path.name
        assert total(one.size for one in trades) == told["units"]
        assert total(one.cost for one in trades) == told["cost"]
        money = total(flow_of(one, read.contracts[one.symbol]) for one in trades)
        assert money == told["money"], path.name


def test_real_statement_follows_the_split_when_ib_booked_one(shared: Path) -> None:
    """12,000 Gran Colombia, 1 for 25: 480 at 6.75; a tender without a cost is said to lack it."""
    path = shared / "venues/ib/flex-portfolio/testIBFlexStatementFile01.xml"
    read = read_flex(path.read_bytes())
    ledger = Ledger(read.transactions, contracts=read.contracts)
    split = ledger.position("U123456", "gcm.cad.ib")
    assert (split.size, split.avg_price) == (D(480), D("6.75"))
    tender = ledger.position("U123456", "uuu_ten2.cad.ib")
    assert (tender.size, tender.realised, tender.unpriced) == (D(0), D(34320), True)
    option = ledger.position("U123456", "fb.cad.20180921.200c.ib")
    assert option.size == 2
    assert read.skipped == {"FxTransaction": 15, "CorporateAction of a split's old contract": 1}


def test_assigned_option_is_worth_nothing_when_it_becomes_shares(shared: Path) -> None:
    """The premium is made; the shares cost the strike."""
    path = shared / "venues/ib/flex-portfolio/testIBFlexStatementFile02.xml"
    read = read_flex(path.read_bytes())
    ledger = Ledger(read.transactions, contracts=read.contracts)
    put = ledger.position("U1234567", "orcl.usd.20170915.50p.ib")
    assert (put.size, put.realised, put.fees) == (D(0), D(53), {"usd": D("3.5")})
    assert ledger.position("U1234567", "orcl.usd.ib").avg_price == 50


def test_canceled_trade_leaves_nothing_when_reversed(shared: Path) -> None:
    """BUY (Ca.) has no trade id, and the other sign."""
    path = shared / "venues/ib/flex-portfolio/testIBFlexStatementFile09.xml"
    ledger = Ledger(read_flex(path.read_bytes()).transactions)
    (position,) = ledger.positions()
    assert (position.size, position.realised, position.basis) == (D(0), D(0), D(0))


def test_every_recorded_element_is_read_or_named_when_wrapped(shared: Path) -> None:
    """35 sections of other users' queries: imported, skipped by name, or a problem in words."""
    lines = (shared / "venues/ib/flex-ibflex/elements.jsonl").read_text().splitlines()
    kinds: dict[str, str] = {}
    for line in lines:
        case = json.loads(line)
        read = read_flex(statement(case["xml"]), strict=False)
        for problem in read.problems:
            kinds[case["test"]] = problem.why
        named = len(read.transactions) + len(read.problems) + sum(read.skipped.values())
        assert named or case["xml"].startswith("<Flex"), case["test"]
    assert kinds == {
        "TradeAutoFXTestCase": "its money is -1337, but size times price is 1337"  # masked so
    }


# -- rows ----------------------------------------------------------------------------------------
def test_trade_is_a_fill_when_it_is_whole() -> None:
    """Signed units, commission as a cost, New York time in UTC."""
    (one,) = read_flex(statement(element("Trade"))).transactions
    assert (one.account, one.symbol, one.tid, one.oid) == ("U1", "cdw.nasdaq.ib", "300", "14")
    assert (one.kind, one.size, one.price, one.value) == (Kind.FILL, D(25), D("114.6"), None)
    assert (one.cost, one.cost_asset) == (D(5), "usd")
    assert one.time_ns == NOON_IN_JULY * 10**9


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("20200729;124452", "2020-07-29T16:44:52"),
        ("20200729,124452", "2020-07-29T16:44:52"),
        ("20200729 124452", "2020-07-29T16:44:52"),
        ("20200729T124452", "2020-07-29T16:44:52"),
        ("2020-07-29;12:44:52", "2020-07-29T16:44:52"),
        ("2020-07-29, 12:44:52", "2020-07-29T16:44:52"),
        ("2020-07-29 12:44:52", "2020-07-29T16:44:52"),
        ("2020-07-29;124452", "2020-07-29T16:44:52"),
        ("20200129;124452", "2020-01-29T17:44:52"),  # winter
        ("20200729;124452 EST", "2020-07-29T17:44:52"),
        ("20200729;124452 EDT", "2020-07-29T16:44:52"),
        ("2020-07-29T12:44:52Z", "2020-07-29T12:44:52"),
        ("20200729", "2020-07-29T04:00:00"),
        ("2020-07-29", "2020-07-29T04:00:00"),
    ],
)
def test_date_is_read_when_of_a_known_form(text: str, utc: str) -> None:
    """Each that a query can be set to and that means one day only."""
    wanted = datetime.fromisoformat(utc).replace(tzinfo=UTC)
    assert time_of(text, ZoneInfo("America/New_York")) == int(wanted.timestamp()) * 10**9
    (one,) = read_flex(statement(element("Trade", dateTime=text))).transactions
    assert one.time_ns == int(wanted.timestamp()) * 10**9


def test_date_and_time_are_joined_when_told_apart() -> None:
    """Older queries have tradeDate and tradeTime."""
    row = element("Trade", dateTime=None, tradeDate="20200729", tradeTime="124452")
    (one,) = read_flex(statement(row)).transactions
    assert one.time_ns == NOON_IN_JULY * 10**9


def test_zone_is_the_accounts_when_given() -> None:
    """And is refused when there is none of that name."""
    data = statement(element("Trade", dateTime="20200729;124452"))
    (one,) = read_flex(data, zone="Europe/Zurich").transactions
    assert one.time_ns == (NOON_IN_JULY - 6 * 3600) * 10**9
    with pytest.raises(ConfigError, match="no time zone"):
        read_flex(data, zone="Mars/Olympus")


@pytest.mark.parametrize(
    ("attributes", "symbol"),
    [
        ({"symbol": "BRK B", "assetCategory": "STK", "listingExchange": "NYSE"}, "brk_b.nyse.ib"),
        ({"symbol": "MMM", "assetCategory": "STK", "currency": "EUR"}, "mmm.eur.ib"),
        ({"symbol": "EUR.USD", "assetCategory": "CASH", "currency": "USD"}, "eurusd.idealpro.ib"),
        ({"symbol": "MNQM3", "assetCategory": "FUT", "listingExchange": "CME", "expiry": "20230616",
          "underlyingSymbol": "MNQ"}, "mnq.cme.20230616.ib"),
        ({"symbol": "X  110917C00005500", "assetCategory": "OPT", "currency": "USD",
          "strike": "5.5", "expiry": "2011-09-17", "putCall": "C"}, "x.usd.20110917.5_5c.ib"),
    ],
)  # fmt: skip
def test_market_is_named_when_it_has_what_it_takes(attributes: dict[str, str], symbol: str) -> None:
    """By piker's grammar of addresses."""
    assert symbol_of(attributes) == symbol


def test_caller_names_the_markets_when_it_likes() -> None:
    """None falls back."""
    read = read_flex(
        statement(element("Trade"), element("Trade", symbol="ABC", conid="8", tradeID="2")),
        symbol_of=lambda row: "cdw.island.ib" if row["symbol"] == "CDW" else None,
    )
    assert {one.symbol for one in read.transactions} == {"cdw.island.ib", "abc.nasdaq.ib"}


def test_bond_is_priced_in_percent_when_bought() -> None:
    """10,000 of face at 98.5 are 9,850."""
    row = element("Trade", assetCategory="BOND", quantity="10000", tradePrice="98.5",
                  tradeMoney="9850", proceeds="-9850")  # fmt: skip
    read = read_flex(statement(row))
    (one,) = read.transactions
    assert flow_of(one, read.contracts[one.symbol]) == 9850


def test_booked_money_counts_when_the_price_is_rounded() -> None:
    """An average of partial executions is cut off by IB; the money is not."""
    row = element("Trade", quantity="3", tradePrice="33.333333333", tradeMoney="100",
                  proceeds="-100")  # fmt: skip
    (one,) = read_flex(statement(row)).transactions
    assert one.value == 100


def test_payments_are_funding_or_fees_when_in_cash() -> None:
    """Deposits are neither, and are named as left out."""
    base = {"accountId": "-", "currency": "USD", "dateTime": "20200910", "amount": "9.5"}
    rows = [
        element("CashTransaction", base, type=word, transactionID=str(number))
        for number, word in enumerate(
            ["Dividends", "Payment In Lieu Of Dividends", "Broker Interest Paid", "Withholding Tax",
             "Other Fees", "Deposits/Withdrawals"]
        )
    ]  # fmt: skip
    read = read_flex(statement(*rows))
    assert [one.kind for one in sorted(read.transactions, key=lambda tx: tx.tid)] == [
        Kind.FUNDING, Kind.FUNDING, Kind.FUNDING, Kind.FEE, Kind.FEE,
    ]  # fmt: skip
    assert {one.account for one in read.transactions} == {"U1"}
    assert read.skipped == {"CashTransaction Deposits/Withdrawals": 1}
    (position,) = Ledger(read.transactions).positions()
    assert position.funding == {"usd": D("28.5")}
    assert position.fees == {"usd": D("-19")}  # a tax that was given back


def test_equal_payments_are_two_when_they_have_no_ids() -> None:
    """And the same two when the file is read again."""
    base = {"currency": "USD", "dateTime": "20200910", "amount": "-1", "type": "Other Fees"}
    data = statement(element("CashTransaction", base), element("CashTransaction", base))
    ledger = Ledger([*read_flex(data).transactions, *read_flex(data).transactions])
    assert len(ledger) == 2


def test_rows_that_add_up_others_are_left_out_when_present() -> None:
    """Orders, lots, summaries and what is told twice; each is counted."""
    rows = [
        element("Trade"), element("Trade"), element("Trade", levelOfDetail="ORDER"),
        element("Order", levelOfDetail="ORDER"), element("Lot", levelOfDetail="CLOSED_LOT"),
        element("OpenPosition"),
    ]  # fmt: skip
    read = read_flex(statement(*rows))
    assert len(read.transactions) == 1
    assert read.skipped == {
        "Trade told twice": 1, "Trade ORDER": 1, "Order": 1, "Lot": 1, "OpenPosition": 1,
    }  # fmt: skip


def test_transfer_moves_units_when_out() -> None:
    """Its size is signed by its direction."""
    row = element("Transfer", quantity="10", direction="OUT", transferPrice="0", date="20200101",
                  dateTime=None, transactionID="5")  # fmt: skip
    (one,) = read_flex(statement(row)).transactions
    assert (one.kind, one.size, one.price, one.tid) == (Kind.TRANSFER, D(-10), None, "transfer-5")


# -- what can not be imported ----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"quantity": "many"}, "quantity is 'many', which is no number"),
        ({"quantity": "1,5"}, "no number"),
        ({"quantity": "NaN"}, "no number"),
        ({"quantity": None}, "it has no quantity: include it in the query"),
        ({"quantity": "0", "buySell": None, "tradeMoney": "0"}, "a fill of nothing"),
        ({"quantity": "-25"}, "it is a BUY of -25"),
        ({"tradePrice": "1e30"}, "tradePrice is '1e30', which no account holds"),
        ({"quantity": "4e950"}, "which no account holds"),
        ({"multiplier": "-1"}, "multiplier is not -1"),
        ({"tradeMoney": "2900"}, "its money is 2900, but size times price is 2865"),
        ({"dateTime": "07/29/2020;124452"}, "no date of a form that is known"),
        ({"dateTime": "20201329;124452"}, "no date"),
        ({"dateTime": "20200729;124452 XYZ"}, "time zone XYZ"),
        ({"dateTime": None}, "it has no date"),
        ({"tradeID": None, "transactionID": None}, "it has no id"),
        ({"symbol": ""}, "its market has no name"),
        ({"currency": None}, "it has no currency"),
        ({"taxes": "-1", "ibCommissionCurrency": "EUR"}, "taxes in usd and a commission in eur"),
        ({"assetCategory": "OPT", "putCall": "C", "strike": "x", "expiry": "20200101"}, "strike"),
        ({"assetCategory": "FUT", "expiry": "2020"}, "can not be named"),
    ],
)
def test_line_and_reason_are_said_when_a_row_is_wrong(
    change: dict[str, str | None], why: str
) -> None:
    """Line 5, in words; the good row before it is not imported either."""
    data = statement(element("Trade", tradeID="1"), element("Trade", **change))
    with pytest.raises(DataQuality, match=rf"line 5 \(Trade\): .*({why}).*Nothing was imported"):
        read_flex(data)
    read = read_flex(data, strict=False)
    assert [(one.line, one.element) for one in read.problems] == [(5, "Trade")]


def test_all_lines_are_named_when_several_are_wrong() -> None:
    """Ten of them; the rest is counted."""
    rows = [element("Trade", tradeID=str(n), quantity="x") for n in range(13)]
    with pytest.raises(DataQuality, match=r"line 4 .*line 13 .*and 3 more"):
        read_flex(statement(*rows))


def test_two_contracts_of_one_name_are_refused_when_met() -> None:
    """They would be one position, by mistake."""
    rows = [element("Trade"), element("Trade", tradeID="2", conid="8")]
    with pytest.raises(DataQuality, match=r"cdw\.nasdaq\.ib is two contracts, 7 and 8"):
        read_flex(statement(*rows))
    other = [element("Trade"), element("Trade", tradeID="2", multiplier="10", tradeMoney="28650")]
    with pytest.raises(DataQuality, match="another multiplier"):
        read_flex(statement(*other))


def test_one_id_for_two_things_is_refused_when_met() -> None:
    """Which of them would count is not for us to choose."""
    with pytest.raises(DataQuality, match="the id 300 was used before"):
        read_flex(statement(element("Trade"), element("Trade", quantity="26", tradeMoney="2979.6")))


# -- hostile files -------------------------------------------------------------------------------
LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (LAUGHS.encode() + statement(element("Trade", symbol="&b;")), "line 1 .*document type"),
        (b'<!DOCTYPE x SYSTEM "file:///etc/passwd">' + statement(), "document type"),
        (b'<?xml version="1.0"?>\n<?php x ?>' + statement(), "line 2 .*processing instruction"),
        (statement(element("Trade", symbol="&undefined;")), "line 4 .*no well-formed XML"),
        (statement("<a x='1'>" * MAX_DEPTH), "line 4 .*deeper"),
        (statement(element("Trade", note="x" * (MAX_VALUE + 1))), "line 4 .*characters"),
        (statement(element("Trade", {f"a{n}": "1" for n in range(500)})), "line 4 .*wider"),
        (statement("<Trade"), "no well-formed XML"),
        (b"", "no well-formed XML"),
        (b"\x00" * 100, "no well-formed XML"),
        (b"PK\x03\x04", "no well-formed XML"),
        (b"<html><body>Please log in</body></html>", "begins with FlexQueryResponse"),
        (b'<FlexStatementResponse timestamp="x"><Status>Warn</Status></FlexStatementResponse>',
         "the web service's reply"),
        (b"<FlexQueryResponse/>", "no FlexStatement"),
        (b'<?xml version="1.0" encoding="klingon"?><FlexQueryResponse/>', "line 1"),
        (b'<?xml version="1.0" encoding="utf-16"?><FlexQueryResponse/>', "line 1"),
    ],
)  # fmt: skip
def test_file_is_refused_when_it_is_no_statement(data: bytes, why: str) -> None:
    """Before anything in it is expanded or fetched."""
    with pytest.raises(DataQuality, match=why):
        read_flex(data, strict=False)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return the bytes with a few changed, cut out, doubled or put in."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at, to = sorted(chance.randrange(len(out) + 1) for _ in range(2))
        to = min(to, at + chance.choice([1, 4, 40, 400]))
        choice = chance.randrange(4)
        if choice == 0 and at < len(out):
            out[at] = chance.randrange(256)
        elif choice == 1 and to - at < len(out) // 2:
            del out[at:to]
        elif choice == 2:
            out[at:at] = out[at:to]
        else:
            out[at:at] = chance.choice(
                [b'"', b"<", b"&x;", b"-", b"9" * 30, b"e9", b"\xff", b"NaN"]
            )
    return bytes(out)


def mutate(files: list[Path], times: int, seed: int) -> dict[str, int]:
    """Read so many damaged statements; return how they came out."""
    chance = random.Random(seed)
    bodies = [path.read_bytes() for path in files]
    seen = {"whole": 0, "by line": 0, "refused": 0}
    for _ in range(times):
        try:
            read = read_flex(mutated(chance.choice(bodies), chance), strict=False)
        except DataQuality as err:
            seen["refused"] += 1 if "line " in err.message else 0
            continue
        assert isinstance(read, Statement)
        assert all(problem.line and problem.why for problem in read.problems)
        Ledger(read.transactions, contracts=read.contracts).positions()
        seen["by line" if read.problems else "whole"] += 1
    assert sum(seen.values()) == times  # each refusal named a line
    return seen


@pytest.mark.slow
def test_damaged_statements_are_read_or_refused_in_words_when_mutated(shared: Path) -> None:
    """No other error, whatever is done to a real file: 3,000 of them."""
    seen = mutate(real_files(shared), MUTATIONS, seed=4)
    assert all(seen.values()), seen


@pytest.mark.full
def test_damaged_statements_are_refused_in_words_when_very_many(shared: Path) -> None:
    """The whole: 200,000."""
    seen = mutate(real_files(shared), MUTATIONS_FULL, seed=5)
    print(f"flex, seed 5: {seen}")
    assert all(seen.values()), seen
