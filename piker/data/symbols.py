"""The symbol database: every market of every provider in one SQLite file, searched offline.

One file, ``symbols.db`` in the data directory, in WAL mode: any number of processes and threads
read while one writes. A market that its venue no longer lists is retired: kept, with when it was
last seen, and left out of answers. Names are found whole, by their beginnings, by words (FTS5), in
part, and where nothing is, by likeness (rapidfuzz).
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from piker.clock import NS, wall_ns
from piker.config import data_dir
from piker.data.store.database import write_ahead
from piker.data.symbol_search import Search
from piker.errors import DataQuality, ProviderError, StoreError
from piker.market import MktPair

__all__ = ["MAX_PATTERN", "Populated", "ProviderState", "SymbolDb", "SymbolEntry"]

VERSION = 1
BUSY_S = 30.0  # how long a write waits for another process's; the largest takes about a second
MAX_PATTERN = 120  # characters: no market's address is longer (piker.market.MAX_FQME)
MAX_WORDS = 8  # of a pattern; an address has five parts at most
LEAST_KEPT = 0.8  # of a provider's markets: an answer with fewer is taken for half of one
LEAST_KNOWN = 20  # markets; of fewer, half may really go at once
_WORD = re.compile(r"\w+")
_SCHEMA = """
CREATE TABLE provider (
    name TEXT PRIMARY KEY, populated_s INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE market (
    id INTEGER PRIMARY KEY, fqme TEXT NOT NULL UNIQUE, provider TEXT NOT NULL, base TEXT NOT NULL,
    size INTEGER NOT NULL, body BLOB NOT NULL, first_s INTEGER NOT NULL, seen_s INTEGER NOT NULL,
    retired_s INTEGER);
CREATE INDEX market_of ON market (provider, retired_s);
CREATE INDEX market_by_base ON market (base, size);
CREATE TABLE name (
    name TEXT NOT NULL, size INTEGER NOT NULL, market INTEGER NOT NULL REFERENCES market,
    PRIMARY KEY (name, size, market)) WITHOUT ROWID;
CREATE INDEX name_of ON name (market);
CREATE VIRTUAL TABLE word USING fts5 (text, content='', prefix='2 3', detail='column',
    tokenize="unicode61 tokenchars '_&+~-'");
CREATE TABLE earliest (
    fqme TEXT NOT NULL, interval TEXT NOT NULL, time_s INTEGER NOT NULL,
    PRIMARY KEY (fqme, interval)) WITHOUT ROWID
"""
_EARLIER = (
    "INSERT INTO earliest VALUES (?, ?, ?) ON CONFLICT (fqme, interval)"
    " DO UPDATE SET time_s = min(time_s, excluded.time_s)"
)
_decode = msgspec.json.Decoder(MktPair)


class SymbolEntry(msgspec.Struct, frozen=True):
    """A market as the database knows it. Times are epoch seconds.

    ``retired_s`` is when it was first missed, 0 while it is listed; ``earliest`` the open time of
    the first bar by interval, as far as anybody has learnt it.
    """

    market: MktPair
    first_s: int
    seen_s: int
    retired_s: int = 0
    earliest: dict[str, int] = {}


class Populated(msgspec.Struct, frozen=True):
    """What one call of ``populate`` did to one provider."""

    provider: str
    listed: int
    added: int = 0
    changed: int = 0
    retired: int = 0
    revived: int = 0


class ProviderState(msgspec.Struct, frozen=True):
    """What is held of a provider, and as of when (epoch seconds)."""

    provider: str
    populated_s: int
    listed: int
    retired: int


class SymbolDb:
    """An open database; made by :meth:`open`. Any thread may use it, one at a time does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._names: tuple[Any, list[str]] = (None, [])  # for likeness, as of a change
        with self._said():
            self._db = sqlite3.connect(
                path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            write_ahead(self._db)
            self._db.execute("PRAGMA synchronous = NORMAL")  # a crash loses a list, not the file
            self._migrate()

    @classmethod
    def open(cls, path: Path | None = None) -> SymbolDb:
        """Open the database, made where it is not there; by default the user's.

        Blocks for the disk. Raises ``StoreError`` for a file that is damaged, of a newer piker, or
        can not be written.
        """
        return cls(path or data_dir() / "symbols.db")

    def close(self) -> None:
        """Close it; using it afterwards is a ``StoreError``."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> SymbolDb:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    # -- the file ------------------------------------------------------------------------------
    @contextmanager
    def _said(self) -> Iterator[None]:
        """Say in a sentence what SQLite has against it."""
        try:
            yield
        except sqlite3.DatabaseError as err:
            if "full" in str(err):
                raise StoreError.of(err, self.path) from err
            raise StoreError(
                f"the symbol database {self.path} can not be used: {err}.",
                remedy="If it is damaged, remove it and run: piker symbols populate",
            ) from err

    def _migrate(self) -> None:
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found > VERSION:
            raise StoreError(
                f"{self.path} was written by a newer piker (format {found}, this knows {VERSION}).",
                remedy="Upgrade piker, or set PIKER_DATA_DIR to another directory.",
            )
        if found == 0:
            with self._commit():
                if self._db.execute("PRAGMA user_version").fetchone()[0] == 0:
                    for statement in _SCHEMA.split(";\n"):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def _commit(self) -> Iterator[None]:
        """Do all of the block or nothing, alone among processes and threads."""
        with self._lock, self._said():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a statement that changes nothing."""
        with self._lock, self._said():
            return self._db.execute(statement, values).fetchall()

    # -- filling -------------------------------------------------------------------------------
    def populate(
        self, provider: str, markets: Iterable[MktPair], *, force: bool = False
    ) -> Populated:
        """Take a provider's whole list of markets; what is not in it is retired. All or nothing.

        The same list twice changes nothing but when it was seen. Raises ``DataQuality`` and changes
        nothing for a list with fewer than ``LEAST_KEPT`` of the markets that are known, unless
        ``force`` says that it is the whole one, and ``ProviderError`` for a market of another
        provider. Blocks for other writers, ``BUSY_S`` at most.
        """
        wanted = {market.fqme: market for market in markets}
        for fqme in wanted:
            if fqme.rpartition(".")[2] != provider:
                raise ProviderError(f"{provider} lists a market of another provider: {fqme}.")
        now_s = wall_ns() // NS
        with self._commit():
            known = {
                fqme: (number, body, retired)
                for number, fqme, body, retired in self._db.execute(
                    "SELECT id, fqme, body, retired_s FROM market WHERE provider = ?", (provider,)
                )
            }
            listed = {fqme for fqme, row in known.items() if row[2] is None}
            kept = len(listed & wanted.keys())
            if not force and _is_half(kept, len(listed), len(wanted)):
                raise DataQuality(
                    f"{provider} lists {kept} of {len(listed)} known markets: taken for half an "
                    "answer, nothing was changed.",
                    kind="half-a-list",
                    remedy="Try again; where the others are really gone, use --force.",
                )
            return self._write(provider, wanted, known, now_s)

    def _write(
        self,
        provider: str,
        wanted: Mapping[str, MktPair],
        known: Mapping[str, tuple[int, bytes, int | None]],
        now_s: int,
    ) -> Populated:
        bodies = {fqme: msgspec.json.encode(market) for fqme, market in wanted.items()}
        new = [fqme for fqme in wanted if fqme not in known]
        changed = [fqme for fqme in wanted if fqme in known and known[fqme][1] != bodies[fqme]]
        back = [fqme for fqme in wanted if fqme in known and known[fqme][2] is not None]
        gone = [fqme for fqme, row in known.items() if row[2] is None and fqme not in wanted]
        db, top = (
            self._db,
            self._db.execute("SELECT coalesce(max(id), 0) FROM market").fetchone()[0],
        )
        ids = {fqme: top + at for at, fqme in enumerate(new, 1)}
        db.executemany(
            "INSERT INTO market VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
            [
                (ids[f], f, provider, wanted[f].dst.name.lower(), len(f), bodies[f], now_s, now_s)
                for f in new
            ],
        )
        for fqme in changed:
            ids[fqme] = known[fqme][0]
            self._forget_names(ids[fqme], _decode.decode(known[fqme][1]))
        db.executemany(
            "UPDATE market SET body = ?, base = ? WHERE id = ?",
            [(bodies[f], wanted[f].dst.name.lower(), ids[f]) for f in changed],
        )
        names = [(n, len(n), ids[f]) for f in (*new, *changed) for n in _names_of(wanted[f])]
        db.executemany("INSERT INTO name VALUES (?, ?, ?)", names)
        db.executemany(
            "INSERT INTO word (rowid, text) VALUES (?, ?)",
            [(ids[f], _words_of(wanted[f])) for f in (*new, *changed)],
        )
        db.executemany("UPDATE market SET retired_s = NULL WHERE fqme = ?", [(f,) for f in back])
        db.executemany("UPDATE market SET retired_s = ? WHERE fqme = ?", [(now_s, f) for f in gone])
        db.execute(
            "UPDATE market SET seen_s = ? WHERE provider = ? AND retired_s IS NULL",
            (now_s, provider),
        )
        db.execute("INSERT OR REPLACE INTO provider VALUES (?, ?)", (provider, now_s))
        return Populated(
            provider, len(wanted), len(new), len(set(changed) - set(back)), len(gone), len(back)
        )

    def _forget_names(self, number: int, before: MktPair) -> None:
        self._db.execute("DELETE FROM name WHERE market = ?", (number,))
        self._db.execute(
            "INSERT INTO word (word, rowid, text) VALUES ('delete', ?, ?)",
            (number, _words_of(before)),
        )

    def note_earliest(self, fqme: str, interval: str, time_s: int) -> None:
        """Note that a market's history of an interval begins at a bar; an earlier one stays."""
        with self._commit():
            self._db.execute(_EARLIER, (fqme, interval, time_s))

    def note_all_earliest(self, learnt: Iterable[tuple[str, str, int]]) -> None:
        """Note many at once: (fqme, interval, epoch seconds)."""
        with self._commit():
            self._db.executemany(_EARLIER, list(learnt))

    # -- reading -------------------------------------------------------------------------------
    def providers(self) -> dict[str, ProviderState]:
        """Return the providers that were populated, by name."""
        rows = self.rows(
            "SELECT name, populated_s, count(market.id) - count(retired_s), count(retired_s)"
            " FROM provider LEFT JOIN market ON provider = name GROUP BY name ORDER BY name"
        )
        return {row[0]: ProviderState(*row) for row in rows}

    def get(self, fqme: str) -> SymbolEntry | None:
        """Return a market by its whole address, retired ones too; None for one never seen."""
        if len(fqme) > MAX_PATTERN or not fqme.isprintable():
            return None
        rows = self.rows(
            "SELECT body, first_s, seen_s, retired_s FROM market WHERE fqme = ?", (fqme.lower(),)
        )
        if not rows:
            return None
        learnt = self.earliest([fqme.lower()]).get(fqme.lower(), {})
        body, first_s, seen_s, retired_s = rows[0]
        return SymbolEntry(_decode.decode(body), first_s, seen_s, retired_s or 0, learnt)

    def search(
        self,
        pattern: str,
        limit: int = 20,
        *,
        providers: Sequence[str] = (),
        retired: bool = False,
    ) -> list[MktPair]:
        """Return the markets that match best: names, bases, beginnings, words, parts, likenesses.

        Any text is taken; one that no name could hold finds nothing. ``providers`` narrows it,
        ``retired`` adds those that are no longer listed. Takes milliseconds.
        """
        wanted = pattern.lower().strip()
        words = _WORD.findall(wanted)[:MAX_WORDS]
        if not words or len(wanted) > MAX_PATTERN or not wanted.isprintable() or limit < 1:
            return []
        return Search(self, wanted, words, limit, tuple(providers), retired).run()

    def earliest(self, fqmes: Sequence[str]) -> dict[str, dict[str, int]]:
        """Return first bars (epoch seconds) by interval, of the markets of which any is known."""
        marks = ", ".join("?" * len(fqmes))
        found: dict[str, dict[str, int]] = {}
        for fqme, interval, time_s in self.rows(
            f"SELECT fqme, interval, time_s FROM earliest WHERE fqme IN ({marks})", fqmes
        ):
            found.setdefault(fqme, {})[interval] = time_s
        return found

    def names(self) -> list[str]:
        """Return every name of a pair, once; read anew when somebody has changed them."""
        with self._lock:
            at = (self.rows("PRAGMA data_version")[0][0], self._db.total_changes)
            if self._names[0] != at:
                self._names = (at, [row[0] for row in self.rows("SELECT DISTINCT name FROM name")])
            return self._names[1]


def _is_half(kept: int, known: int, wanted: int) -> bool:
    """Tell whether a list is too short to be the whole one."""
    return wanted == 0 or (known >= LEAST_KNOWN and kept < LEAST_KEPT * known)


def _names_of(market: MktPair) -> set[str]:
    """Return what one word may call a market: its pair, the venue's symbol, today's names."""
    symbol = market.bs_mktid.lower()
    return {
        market.fqme.partition(".")[0], symbol, symbol.replace("/", ""),
        f"{market.dst.name}{market.src.name}".lower(),
    }  # fmt: skip


def _words_of(market: MktPair) -> str:
    """Return the words by which a market is found."""
    parts = market.fqme.split(".")
    words = dict.fromkeys([*parts, market.dst.name.lower(), market.src.name.lower()])
    return " ".join([*words, *sorted(_names_of(market) - set(parts))])
