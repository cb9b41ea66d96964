"""The symbol database: what it finds, what it keeps, and what it refuses."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from piker.clock import NS, VirtualClock, use_clock
from piker.data.symbols import LEAST_KEPT, MAX_PATTERN, Populated, SymbolDb
from piker.errors import DataQuality, ProviderError, StoreError
from piker.market import Asset, MktPair

NOW = 1_763_000_000


def market(
    base: str, quote: str = "usdt", where: str = "spot.binance", symbol: str = "", **more: object
) -> MktPair:
    """Return a market."""
    return MktPair(
        fqme=f"{base}{quote}.{where}",
        bs_mktid=symbol or f"{base}{quote}".upper(),
        dst=Asset(str(more.pop("dst", base))),
        src=Asset(quote),
        price_tick=Decimal("0.01"),
        size_tick=Decimal("0.001"),
        **more,  # type: ignore[arg-type]
    )


BINANCE = [
    market(base, quote)
    for base in ("btc", "eth", "ltc", "btcdom", "wbtc", "sol", "pepe", "1000pepe")
    for quote in ("usdt", "usdc", "eur")
] + [market("btc", "usdt", "usdtm.perp.binance"), market("btc", "usdt", "usdtm.261225.binance")]
KRAKEN = [
    market("xbt", "usd", "spot.kraken", dst="btc"),
    market("eth", "usd", "spot.kraken"),
    market("xdg", "usd", "spot.kraken", dst="doge"),
]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[SymbolDb]:
    """Open a database with two providers."""
    with SymbolDb.open(tmp_path / "symbols.db") as found:
        found.populate("binance", BINANCE)
        found.populate("kraken", KRAKEN)
        yield found


def fqmes(found: list[MktPair]) -> list[str]:
    """Return the addresses."""
    return [one.fqme for one in found]


# -- finding -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("pattern", "first"),
    [
        ("btcusdt", "btcusdt.spot.binance"),
        ("BTCUSDT", "btcusdt.spot.binance"),
        ("btc", "xbtusd.spot.kraken"),
        ("pepe", "pepeeur.spot.binance"),
        ("btcusdt.usdtm.perp.binance", "btcusdt.usdtm.perp.binance"),
        ("btc usdt perp", "btcusdt.usdtm.perp.binance"),
        ("sol eur", "soleur.spot.binance"),
        ("kraken eth", "ethusd.spot.kraken"),
        ("btcusd", "xbtusd.spot.kraken"),
        ("doge", "xdgusd.spot.kraken"),
        ("cdomus", "btcdomusdc.spot.binance"),
        ("btcusdtt", "btcusdt.spot.binance"),
        ("bctusdt", "btcusdt.spot.binance"),
        ("ethsud", "ethusd.spot.kraken"),
        ("261225", "btcusdt.usdtm.261225.binance"),
        ("1000pepe", "1000pepeeur.spot.binance"),
    ],
)
def test_best_match_comes_first_when_searched(db: SymbolDb, pattern: str, first: str) -> None:
    """Whole names, bases, beginnings, words, parts, and names that are nearly right."""
    assert fqmes(db.search(pattern))[0] == first


def test_answers_are_whole_markets_when_found(db: SymbolDb) -> None:
    """What comes out is what went in, each once, and no more than asked for."""
    assert db.search("xbtusd")[0] == KRAKEN[0]
    found = fqmes(db.search("btc", 500))
    assert len(found) == len(set(found)) == 12
    assert len(db.search("btc", 3)) == 3
    assert fqmes(db.search("eth", providers=["kraken"])) == ["ethusd.spot.kraken"]
    assert db.search("eth", providers=["nobody"]) == []
    assert db.search("qqqqqqqq") == []


@pytest.mark.parametrize(
    "pattern",
    ["", " ", "'", '"', '"*', "*", "NEAR(btc usdt)", "btc OR", "AND", "NOT btc", "text:btc",
     "btc\0usdt", "\0", "%", "_", "^btc", "{btc}", "a" * 10_000, "btc " * 5000, "\udc80", "\u202e",
     "');DROP TABLE market;--", "²", "ß", "😀", "--", "\n", "(", "-"],
)  # fmt: skip
def test_hostile_patterns_find_little_and_harm_nothing(db: SymbolDb, pattern: str) -> None:
    """No operator of FTS or SQL is one here; nothing raises."""
    assert len(db.search(pattern)) <= 20
    assert db.get(pattern) is None
    assert db.providers()["kraken"].listed == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(pattern=st.text(max_size=2 * MAX_PATTERN), limit=st.integers(-5, 30))
def test_any_text_is_a_pattern_when_searched(db: SymbolDb, pattern: str, limit: int) -> None:
    """Fuzzed: at most so many markets, each once."""
    found = fqmes(db.search(pattern, limit))
    assert len(found) == len(set(found)) <= max(0, limit)


# -- filling -------------------------------------------------------------------------------------
def test_second_time_changes_nothing_when_the_list_is_the_same(db: SymbolDb) -> None:
    """Idempotent; only when it was last seen moves on."""
    with use_clock(VirtualClock(NOW * NS)):
        assert db.populate("binance", reversed(BINANCE)) == Populated("binance", len(BINANCE))
        assert db.providers()["binance"].populated_s == NOW
    entry = db.get("btcusdt.spot.binance")
    assert entry is not None
    assert entry.seen_s == NOW
    assert entry.first_s > NOW


def test_missing_market_is_retired_and_comes_back_when_listed_again(db: SymbolDb) -> None:
    """Kept with when it was seen last; found only on request; revived with what is new of it."""
    clock = VirtualClock(NOW * NS)
    with use_clock(clock):
        db.populate("binance", BINANCE)
        clock.advance(100)
        left = [one for one in BINANCE if one.bs_mktid != "LTCEUR"]
        assert db.populate("binance", left).retired == 1
        clock.advance(100)
        assert db.populate("binance", left) == Populated("binance", len(left))
        entry = db.get("LTCEUR.spot.binance")
        assert entry is not None
        assert (entry.seen_s, entry.retired_s) == (NOW, NOW + 100)
        assert fqmes(db.search("ltceur")) != ["ltceur.spot.binance"]
        assert "ltceur.spot.binance" not in fqmes(db.search("ltc"))
        assert fqmes(db.search("ltceur", retired=True))[0] == "ltceur.spot.binance"
        assert (db.providers()["binance"].listed, db.providers()["binance"].retired) == (25, 1)
        back = [*left, market("ltc", "eur", status="break")]
        assert db.populate("binance", back) == Populated("binance", 26, revived=1)
        entry = db.get("ltceur.spot.binance")
        assert entry is not None
        assert (entry.retired_s, entry.market.status) == (0, "break")
        assert db.get("ltceur.nowhere.binance") is None


def test_changed_market_is_found_by_its_new_names_when_populated(db: SymbolDb) -> None:
    """The old names are forgotten: words, parts and bases."""
    renamed = [*KRAKEN[:2], market("xdg", "usd", "spot.kraken", dst="shib")]
    assert db.populate("kraken", renamed) == Populated("kraken", 3, changed=1)
    assert fqmes(db.search("shib")) == ["xdgusd.spot.kraken"]
    assert "xdgusd.spot.kraken" not in fqmes(db.search("doge"))
    assert fqmes(db.search("xdg usd")) == ["xdgusd.spot.kraken"]


def test_half_a_list_retires_nothing_when_it_comes(db: SymbolDb) -> None:
    """An answer that lacks a fifth of what is known is refused, unless one insists; so is none."""
    before = db.providers()["binance"]
    few = BINANCE[: int(LEAST_KEPT * len(BINANCE)) - 1]
    for short in (few, [], BINANCE[:1]):
        with pytest.raises(DataQuality, match=r"half an answer.*--force"):
            db.populate("binance", short)
    assert db.providers()["binance"] == before
    assert db.populate("binance", few, force=True).retired == len(BINANCE) - len(few)
    with pytest.raises(DataQuality):
        db.populate("empty", [])
    assert "empty" not in db.providers()
    assert db.populate("kraken", KRAKEN[:1]).retired == 2  # of three markets two may really go


def test_foreign_market_is_refused_and_nothing_of_the_list_is_taken(db: SymbolDb) -> None:
    """A backend's list is about its own markets."""
    with pytest.raises(ProviderError, match="another provider"):
        db.populate("kraken", [*KRAKEN, market("new", "eur", "spot.kraken"), BINANCE[0]])
    assert db.get("neweur.spot.kraken") is None


def test_earliest_bar_is_kept_when_a_later_one_is_noted(db: SymbolDb) -> None:
    """By market and interval; of a market that is not listed yet, too."""
    for time_s in (500, 300, 400):
        db.note_earliest("btcusdt.spot.binance", "1m", time_s)
    db.note_earliest("btcusdt.spot.binance", "1d", 0)
    entry = db.get("btcusdt.spot.binance")
    assert entry is not None
    assert entry.earliest == {"1m": 300, "1d": 0}
    db.note_earliest("neweur.spot.kraken", "1h", 7)
    db.populate("kraken", [*KRAKEN, market("new", "eur", "spot.kraken")])
    entry = db.get("neweur.spot.kraken")
    assert entry is not None
    assert entry.earliest == {"1h": 7}


# -- the file ------------------------------------------------------------------------------------
def test_damaged_or_newer_file_is_a_sentence_when_opened(tmp_path: Path) -> None:
    """What it is, where it lies, and what to do."""
    path = tmp_path / "symbols.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match=r"symbols\.db can not be used.*symbols populate"):
        SymbolDb.open(path)
    newer = tmp_path / "newer.db"
    SymbolDb.open(newer).close()
    with sqlite3.connect(newer) as raw:
        raw.execute("PRAGMA user_version = 99")
    raw.close()
    with pytest.raises(StoreError, match="newer piker"):
        SymbolDb.open(newer)
    with pytest.raises(StoreError):
        SymbolDb.open(tmp_path / "nowhere" / "symbols.db")


def test_closed_database_is_a_sentence_when_used(tmp_path: Path) -> None:
    """Not a traceback of SQLite's."""
    db = SymbolDb.open(tmp_path / "symbols.db")
    db.close()
    with pytest.raises(StoreError):
        db.search("btc")


def test_threads_share_a_database_when_one_of_them_fills_it(db: SymbolDb) -> None:
    """Searches see the list before or after, never between; nobody raises."""
    failures: list[object] = []

    def fill() -> None:
        for turn in range(15):
            db.populate("kraken", KRAKEN if turn % 2 else KRAKEN[:2])

    def look() -> None:
        for _ in range(60):
            found = len(db.search("usd", providers=["kraken"]))
            if found not in (2, 3):
                failures.append(found)

    def run(work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in (fill, look, look)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


PROCESS = """
import sys
from pathlib import Path
from decimal import Decimal
from piker.data.symbols import SymbolDb
from piker.market import Asset, MktPair
path, name = Path(sys.argv[1]), sys.argv[2]
markets = [MktPair(fqme=f"{name}{n}usd.spot.{name}", bs_mktid=f"{name}{n}", dst=Asset(f"{name}{n}"),
           src=Asset("usd"), price_tick=Decimal(1), size_tick=Decimal(1)) for n in range(200)]
with SymbolDb.open(path) as db:
    for turn in range(10):
        db.populate(name, markets[: 200 - turn])
        db.note_earliest("all.spot.x", "1m", 1000 - turn)
        assert len(db.search(name, 500, providers=[name])) == 200 - turn
"""


@pytest.mark.slow
def test_processes_share_a_database_when_they_fill_it_at_once(tmp_path: Path) -> None:
    """Three make, fill and search the same new file; each finds its own whole."""
    path = tmp_path / "symbols.db"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(path), name], stderr=subprocess.PIPE, text=True
        )
        for name in ("one", "two", "three")
    ]
    for process in running:
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    with SymbolDb.open(path) as db:
        assert [(x.listed, x.retired) for x in db.providers().values()] == [(191, 9)] * 3


KILLED = PROCESS.replace("range(10)", "range(10**9)").replace("200 - turn", "190 + turn % 10")


@pytest.mark.slow
def test_file_is_whole_when_its_writer_is_killed(tmp_path: Path) -> None:
    """SIGKILL at any moment: the next one opens it, and a list is the one before or after."""
    path = tmp_path / "symbols.db"
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path), "one"])
        while not path.exists() or "one" not in _providers(path):
            pass
        process.kill()
        process.wait()
        with SymbolDb.open(path) as db:
            state = db.providers()["one"]
            assert state.listed >= 190
            assert len(db.search("one", 500)) == state.listed
            assert db.rows("PRAGMA integrity_check") == [("ok",)]


def _providers(path: Path) -> set[str]:
    with SymbolDb.open(path) as db:
        return set(db.providers())
