"""How long 30,000 markets take to get into the symbol database, and how long a search takes.

Filling is compared with the least that SQLite needs for the same bytes: one executemany into one
table with one index, in a file of the same journal. Searches are measured in an open database, and
in one that was just opened (a command's case), each against a bare look-up by primary key. Prints
one JSON line; the ratios count, the times are of this machine under whatever load it had.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import string
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from statistics import median

import msgspec

from piker.data.symbols import SymbolDb
from piker.market import Asset, MktPair

QUOTES = ("usdt", "usdc", "btc", "eur", "try", "brl")
SEARCHES = {
    "whole": "btcusdt", "beginning": "btc", "one_letter": "b", "two_words": "btc usdt",
    "every_market": "spot", "part": "cusdt", "misspelt": "btcsudt", "nothing": "qqqqqqqq",
}  # fmt: skip


def markets(count: int) -> list[MktPair]:
    """Return made-up markets, and a few that are searched for."""
    dice = random.Random(1)
    bases = dict.fromkeys(["btc", "eth", "sol"])
    while len(bases) * len(QUOTES) < count:
        bases["".join(dice.choices(string.ascii_lowercase, k=dice.randint(2, 6)))] = None
    found = {
        f"{base}{quote}.spot.bench": MktPair(
            fqme=f"{base}{quote}.spot.bench", bs_mktid=f"{base}{quote}".upper(), dst=Asset(base),
            src=Asset(quote), price_tick=Decimal("0.01"), size_tick=Decimal("0.001"),
        )
        for base in bases
        for quote in QUOTES
    }  # fmt: skip
    return list(found.values())[:count]


def seconds(work: Callable[[], object]) -> float:
    """Return how long something took."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def bare_fill(path: Path, made: list[MktPair]) -> float:
    """Return the time of the least: the same bodies into one table."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("CREATE TABLE market (id INTEGER PRIMARY KEY, fqme TEXT UNIQUE, body BLOB)")

    def fill() -> None:
        rows = [(at, one.fqme, msgspec.json.encode(one)) for at, one in enumerate(made)]
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO market VALUES (?, ?, ?)", rows)
        db.execute("COMMIT")

    taken = seconds(fill)
    db.close()
    return taken


def searches(path: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Return the median in ms of each kind of search, in an open and in a new connection."""
    found: dict[str, dict[str, float]] = {}
    with SymbolDb.open(path) as db:
        db.search("warm up please")
        bare = median(seconds(lambda: db.get("btcusdt.spot.bench")) for _ in range(repeats))
        found["bare_get"] = {"open_ms": round(bare * 1e3, 3)}
        for name, pattern in SEARCHES.items():
            taken = [seconds(lambda p=pattern: db.search(p)) for _ in range(repeats)]  # type: ignore[misc]
            found[name] = {"open_ms": round(median(taken) * 1e3, 2)}
    for name, pattern in SEARCHES.items():
        taken = []
        for _ in range(max(3, repeats // 5)):
            with SymbolDb.open(path) as db:
                taken.append(seconds(lambda p=pattern, d=db: d.search(p)))  # type: ignore[misc]
        found[name]["new_ms"] = round(median(taken) * 1e3, 2)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markets", type=int, default=30_000)
    parser.add_argument("--repeats", type=int, default=50)
    asked = parser.parse_args()
    made = markets(asked.markets)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "symbols.db"
        least = bare_fill(Path(name) / "bare.db", made)
        with SymbolDb.open(path) as db:
            first = seconds(lambda: db.populate("bench", made))
            again = seconds(lambda: db.populate("bench", made))
        found = searches(path, asked.repeats)
        size = path.stat().st_size
    print(
        json.dumps(
            {
                "benchmark": "symbols", "markets": len(made), "populate_s": round(first, 3),
                "populate_again_s": round(again, 3), "bare_insert_s": round(least, 3),
                "populate_to_bare": round(first / least, 1), "bytes_per_market": size // len(made),
                "search": found,
                "slowest_open_ms": max(one["open_ms"] for one in found.values()),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
