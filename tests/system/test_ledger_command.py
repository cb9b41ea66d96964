"""``piker ledger`` as a person and as a script use it, while emsd runs and when it does not."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sqlite3
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from piker.clearing.journal import Journal, open_journal
from piker.clearing.lifecycle import Event, EventKind
from piker.clearing.records import Happened, Intent, Record
from piker.data.symbols import SymbolDb
from piker.market import Asset, MktPair
from piker.orders import Action, Order, OrderKind

pytestmark = pytest.mark.slow
SOON_S = 60  # nothing here takes longer unless it is broken
BEGUN_NS = 1_700_000_000 * 10**9  # 2023-11-14 22:13:20 UTC
BTC = "btcusdt.spot.binance"
HISTORY = (
    "Date(UTC),Pair,Side,Price,Executed,Amount,Fee\n"
    "2022-03-28 13:01:36,BTCUSDT,BUY,50000,0.5BTC,25000USDT,25USDT\n"
    "2023-11-14 22:13:25,BTCUSDT,BUY,64000,0.015BTC,960USDT,0.96USDT\n"
)
FLEX = """<FlexQueryResponse><FlexStatements><FlexStatement accountId="U1"><Trades>
<Trade assetCategory="STK" symbol="CDW" listingExchange="NASDAQ" currency="USD" tradeID="300"
 dateTime="20200729;124452" quantity="25" tradePrice="114.6" proceeds="-2865" ibCommission="-5"
 ibCommissionCurrency="USD" buySell="BUY" levelOfDetail="EXECUTION"/>
</Trades></FlexStatement></FlexStatements></FlexQueryResponse>"""


async def ledger(*words: str) -> Any:
    """Run a command to its end, while this process may write the journal."""
    run = partial(
        trio.run_process, [sys.executable, "-m", "piker.cli", "ledger", *words],
        capture_stdout=True, capture_stderr=True, check=False,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    with trio.fail_after(SOON_S):
        return await run()


async def said(*words: str) -> str:
    """Return what a command prints that succeeds."""
    done = await ledger(*words)
    assert done.returncode == 0, done.stderr.decode()
    text: str = done.stdout.decode()
    return text


async def rows(*words: str) -> list[dict[str, Any]]:
    """Return the JSON lines of a command."""
    return [json.loads(line) for line in (await said(*words, "--json")).splitlines()]


async def refused(*words: str) -> tuple[int, str]:
    """Return the exit code and the sentence of a command that fails."""
    done = await ledger(*words)
    text = done.stderr.decode()
    assert text.startswith("error: "), text
    assert done.returncode
    return done.returncode, text


def order(oid: str, action: Action, size: str, price: str | None = None) -> Order:
    """Return an order of the paper account."""
    return Order(
        oid=f"0193a5d2c4f1b2c3-{oid}", symbol=BTC, account="binance.paper", action=action,
        size=Decimal(size), price=Decimal(price) if price else None,
        kind=OrderKind.LIMIT if price else OrderKind.MARKET,
    )  # fmt: skip


def intent(one: Order, after_s: int) -> Record:
    """Return an order as a client gives it."""
    now = BEGUN_NS + after_s * 10**9
    return Record(entry=Intent(one), time_ns=now, account=one.account, oid=one.oid)


def event(one: Order, kind: EventKind, after_s: int, **fields: Any) -> Record:
    """Return something that happened to an order."""
    now = BEGUN_NS + after_s * 10**9
    told = Event(kind=kind, time_ns=now, **fields)
    entry = Happened(told, one.symbol)
    return Record(entry=entry, time_ns=now, account=one.account, oid=one.oid)


def fill(one: Order, tid: str, size: str, price: str, fee: str, after_s: int) -> Record:
    """Return a fill."""
    return event(
        one, EventKind.FILL, after_s, tid=tid, size=Decimal(size), price=Decimal(price),
        fee=Decimal(fee), fee_asset="usdt",
    )  # fmt: skip


@asynccontextmanager
async def writing(dirs: Path) -> AsyncIterator[Journal]:
    """Be the process that writes the journal, with a small session in it."""
    bought, sold, denied = (
        order("1", Action.BUY, "0.02", "64000"), order("2", Action.SELL, "0.01"),
        order("3", Action.BUY, "99", "64000"),
    )  # fmt: skip
    with SymbolDb.open() as db:
        market = MktPair(
            fqme=BTC, bs_mktid="BTCUSDT", dst=Asset("btc"), src=Asset("usdt"),
            price_tick=Decimal("0.01"), size_tick=Decimal("0.00001"),
        )  # fmt: skip
        db.populate("binance", [market], force=True)
    async with open_journal(dirs / "data" / "journal") as journal:
        await journal.append([
            intent(bought, 0), event(bought, EventKind.OPEN, 1, reqid="7"),
            fill(bought, "t1001", "0.015", "64000", "0.96", 5),
            fill(bought, "t1002", "0.005", "63999.5", "0.32", 6),
            intent(sold, 60), fill(sold, "t1003", "0.01", "64210.37", "0.64", 61),
            intent(denied, 70),
            event(denied, EventKind.DENY, 70, code="order_size", reason="over the limit"),
        ])  # fmt: skip
        yield journal


async def test_books_are_shown_when_emsd_runs_and_when_not(piker_dirs: Path) -> None:
    """Orders and fills of an account as tables and as JSON; the journal is only read."""
    async with writing(piker_dirs):
        text = await said("show", "binance.paper")
    assert await said("show", "binance.paper") == text
    assert re.search(r"2023-11-14 22:13:20 .*buy limit 64000 .*0\.02 at 63999\.875.* filled", text)
    assert re.search(r"22:14:21 .*t1003 .*btcusdt\.spot .*sold .*64210\.37 .*0\.64 usdt", text)
    assert "over the limit (order_size)" in text
    (account,) = await rows("show")
    assert (account["orders"], account["open"], account["fills"]) == (3, 0, 3)
    found = await rows("show", "binance.paper", "--last", "1")
    assert [(row["what"], row["oid"][-1]) for row in found] == [("order", "3"), ("fill", "2")]
    assert [row["size"] for row in found] == ["99", "-0.01"]
    assert await rows("show", "binance.paper", "--market", "ethusdt.spot.binance") == []
    none = await said("show", "binance.paper", "--market", "ethusdt.spot.binance")
    assert none == "binance.paper: no orders and no fills in ethusdt.spot.binance.\n"
    code, sentence = await refused("show", "binance.paper", "--market", "ethusdt")
    assert (code, "'ethusdt' is not a market address" in sentence) == (2, True)
    code, sentence = await refused("show", "binance.papr")
    assert code == 2
    assert "Did you mean 'binance.paper'?" in sentence


async def test_nothing_is_there_when_nothing_was_ordered(piker_dirs: Path) -> None:
    """In words, and without making a journal."""
    assert "nothing was ordered" in await said("show")
    assert "nothing was ordered" in await said("verify")
    assert (await refused("export"))[0] == 2
    assert list((piker_dirs / "data").iterdir()) == []


async def test_first_bad_row_is_named_when_the_journal_is_verified(piker_dirs: Path) -> None:
    """Sound while it is written; exit code 1 once a row was changed, and nothing else works."""
    async with writing(piker_dirs) as journal:
        sound = await said("verify")
        assert "8 rows, 3 orders, 3 fills" in sound
        assert journal.chain.hex() in sound
    db = sqlite3.connect(piker_dirs / "data" / "journal" / "rows.db")
    db.execute("UPDATE rows SET time_ns = 3 WHERE seq = 6")
    db.commit()
    db.close()
    code, text = await refused("verify")
    assert code == 1
    assert "row 6 is not the one that was written there; rows 1 to 5 hold" in text
    verdict = json.loads((await ledger("verify", "--json")).stdout)
    assert (verdict["sound"], verdict["first_bad"], verdict["rows"]) == (False, 6, 5)
    assert "piker ledger verify" in (await refused("show"))[1]


async def test_account_comes_back_when_it_is_exported(piker_dirs: Path) -> None:
    """TOML with everything, CSV with the ids of both ends of a lot; no file is overwritten."""
    async with writing(piker_dirs):
        pass
    told = tomllib.loads(await said("export", "binance.paper"))
    (position,) = told["position"]
    assert (position["size"], position["settle"]) == ("0.01", "usdt")
    assert [one["tid"] for one in position["transactions"]] == ["t1001", "t1002", "t1003"]
    (lot,) = csv.DictReader(io.StringIO(await said("export", "--csv", "--method", "fifo")))
    assert (lot["open_tid"], lot["close_tid"], lot["gain"]) == ("t1001", "t1003", "2.1037")
    assert await said("export", "--csv", "--year", "2022") == ",".join(lot) + "\n"
    lots = csv.DictReader(io.StringIO(await said("export", "--csv", "--method", "lifo")))
    assert [lot["open_tid"] for lot in lots] == ["t1002", "t1001"]
    folder = piker_dirs / "mine"
    names = (await said("export", "--to", str(folder))).split()
    assert [Path(name).name for name in names] == ["binance.paper.toml", "binance.paper.csv"]
    assert (folder / "binance.paper.toml").stat().st_mode & 0o077 == 0
    assert "--force" in (await refused("export", "--to", str(folder)))[1]
    assert await said("export", "--to", str(folder), "--force")
    assert "fifo, lifo" in (await refused("export", "--method", "best"))[1]


async def test_trades_count_once_when_histories_are_imported(piker_dirs: Path) -> None:
    """A trade that was told live, a file that is read twice; the journal is not touched."""
    async with writing(piker_dirs) as journal:
        file, chain = piker_dirs / "history.csv", journal.chain
        file.write_text(HISTORY)
        take = ("import", str(file), "--account", "binance.paper")
        assert "2 transactions: 1 new, 1 known" in await said(*take, "--dry-run")
        assert not (piker_dirs / "data" / "ledger").exists()
        assert "2 transactions: 1 new, 1 known" in await said(*take)
        (again,) = await rows(*take)
        assert (again["new"], again["known"]) == (0, 2)
        (account,) = await rows("show")
        assert (account["fills"], account["imported"]) == (3, 1)
        assert journal.chain == chain
    flex = piker_dirs / "flex.xml"
    flex.write_text(FLEX)
    assert "ib.u1: 1 transaction: 1 new" in await said("import", str(flex))
    (fills,) = await rows("show", "ib.u1")
    assert (fills["market"], fills["source"], fills["cost"]) == ("cdw.nasdaq.ib", "import", "5")
    verdict = json.loads(await said("verify", "--json"))
    assert verdict["imports"] == {"binance.paper": 2, "ib.u1": 1}
    kept = piker_dirs / "data" / "ledger" / "ib.u1.toml"
    kept.write_text(kept.read_text().replace('size = "25"', 'size = "26"', 1))
    code, text = await refused("verify")
    assert code == 1
    assert "ib.u1.toml" in text


async def test_import_says_what_is_missing_when_it_is_refused(piker_dirs: Path) -> None:
    """No account, another venue's account, lines that can not be read, no such file."""
    file = piker_dirs / "history.csv"
    file.write_text(HISTORY)
    assert "--account binance.main" in (await refused("import", str(file)))[1]
    assert "of binance" in (await refused("import", str(file), "--account", "kraken.main"))[1]
    assert "no account" in (await refused("import", str(file), "--account", "../../x"))[1]
    text = (await refused("import", str(file), "--account", "binance.main"))[1]
    assert "line 2: the market 'BTCUSDT' is not known" in text
    assert "piker symbols populate" in text
    assert "can not be read" in (await refused("import", str(piker_dirs / "none.csv")))[1]
    file.write_text("time,symbol,side,size,price\n2024-01-01 00:00:00,x.spot.k,buy,1,2\nbad,,,,\n")
    assert "line 3" in (await refused("import", str(file), "--account", "k.main"))[1]
    done = await ledger("import", str(file), "--account", "k.main", "--lenient")
    assert done.returncode == 1
    assert b"1 transaction: 1 new" in done.stdout
    assert b"line 3" in done.stderr
