"""Finding markets in the symbol database: each way of looking, from the best to the last resort."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from piker.market import MktPair

__all__ = ["CUTOFF", "Names", "Search"]

CUTOFF = 60.0  # percent of likeness; below it near misses look like anything
_decode = msgspec.json.Decoder(MktPair)


class Names(Protocol):
    """What is searched: the database's tables, and the names of all pairs."""

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a statement."""
        ...

    def names(self) -> list[str]:
        """Return every name of a pair, once."""
        ...


class Search:
    """One search: each way of looking adds what the better ones have not found."""

    def __init__(
        self,
        db: Names,
        wanted: str,
        words: list[str],
        limit: int,
        providers: tuple[str, ...],
        retired: bool,
    ) -> None:
        """Prepare a search for ``wanted``, whose words are ``words``."""
        self._db = db
        self._wanted, self._words = wanted, words
        self._limit = limit
        self._found: dict[int, bytes] = {}
        marks = ", ".join("?" * len(providers))
        self._values = providers
        self._only = f" AND provider IN ({marks})" if providers else ""
        if not retired:
            self._only += " AND retired_s IS NULL"

    def run(self) -> list[MktPair]:
        """Return what was found, the best first."""
        wanted = self._wanted
        self._take("JOIN market ON id = market WHERE name = ?", (wanted,), "name")
        self._take("WHERE fqme = ?", (wanted,))
        self._take("WHERE base = ?", (wanted,))
        if len(self._words) == 1:
            bounds = (wanted, wanted + "\U0010ffff")
            self._take("JOIN market ON id = market WHERE name > ? AND name < ?", bounds, "name")
        quoted = " ".join(f'"{word}"*' for word in self._words)
        self._take("JOIN market ON id = word.rowid WHERE word MATCH ?", (quoted,), "word")
        if len(self._words) == 1 and len(wanted) > 1:
            self._take("JOIN market ON id = market WHERE instr(name, ?) > 1", (wanted,), "name")
        if not self._found and len(wanted) > 2:
            self._alike()
        return [_decode.decode(body) for body in self._found.values()][: self._limit]

    def _take(self, where: str, values: tuple[str, ...], table: str = "market") -> None:
        """Add the shortest markets that a condition gives."""
        if len(self._found) >= self._limit:
            return
        size = "name.size" if table == "name" else "market.size"
        rows = self._db.rows(
            f"SELECT id, body FROM {table} {where}{self._only}"
            f" ORDER BY {size}, market.size, fqme LIMIT ?",
            (*values, *self._values, 2 * self._limit + len(self._found)),
        )
        for number, body in rows:
            self._found.setdefault(number, body)

    def _alike(self) -> None:
        """Add the markets whose names are most like what was asked for."""
        from rapidfuzz import fuzz, process

        near = process.extract(
            self._words[0] if "." in self._wanted else self._wanted,
            self._db.names(), scorer=fuzz.ratio, score_cutoff=CUTOFF, limit=self._limit,
        )  # fmt: skip
        for name, _, _ in near:
            self._take("JOIN market ON id = market WHERE name = ?", (name,), "name")
