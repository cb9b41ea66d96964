"""What the manifest says of ticks: files, rings and gaps of each market."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from piker.clock import wall_ns
from piker.data.store.manifest import Manifest
from piker.data.store.ticks_schema import Gap, Ring, TickFile
from piker.data.store.ticks_segment import DAY_NS, TickSeries

__all__ = ["TickManifest"]

_FILE = ", ".join(TickFile.__struct_fields__)
_ORDER = "ORDER BY day, ring, first"


class TickManifest:
    """The tick tables of an open manifest. Changes are made inside of its ``commit`` block."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self.commit = manifest.commit

    # -- markets -----------------------------------------------------------------------------
    def find(self, series: TickSeries) -> int | None:
        """Return a market's number, None when no tick of it was ever recorded."""
        rows = self._manifest.ask(
            "SELECT id FROM tick_market WHERE provider = ? AND market = ?",
            series.provider, series.market,
        )  # fmt: skip
        return rows[0][0] if rows else None

    def add(self, series: TickSeries) -> int:
        """Return a market's number, made if it is not there."""
        self._manifest.tell(
            "INSERT OR IGNORE INTO tick_market (provider, market) VALUES (?, ?)",
            [(series.provider, series.market)],
        )
        found = self.find(series)
        assert found is not None
        return found

    def all_series(self) -> list[tuple[int, TickSeries]]:
        """Return every market with its number, by name."""
        rows = self._manifest.ask("SELECT id, provider, market FROM tick_market ORDER BY 2, 3")
        return [(number, TickSeries(*names)) for number, *names in rows]

    # -- files -------------------------------------------------------------------------------
    def files(self, number: int, start_ns: int, end_ns: int) -> list[TickFile]:
        """Return the files that have ticks in [start_ns, end_ns), by day, then as they came."""
        rows = self._manifest.ask(
            f"SELECT {_FILE} FROM tick_file WHERE market = ? AND day >= ? AND day <= ?"
            f" AND low_ns < ? AND high_ns >= ? {_ORDER}",
            number, start_ns // DAY_NS, end_ns // DAY_NS, end_ns, start_ns,
        )  # fmt: skip
        return [TickFile(*row) for row in rows]

    def day_files(self, number: int, day: int) -> list[TickFile]:
        """Return a day's files, in the order of their rows."""
        rows = self._manifest.ask(
            f"SELECT {_FILE} FROM tick_file WHERE market = ? AND day = ? {_ORDER}", number, day
        )
        return [TickFile(*row) for row in rows]

    def all_files(self, number: int) -> list[TickFile]:
        """Return all files of a market."""
        rows = self._manifest.ask(
            f"SELECT {_FILE} FROM tick_file WHERE market = ? {_ORDER}", number
        )
        return [TickFile(*row) for row in rows]

    def days(self, number: int) -> list[tuple[int, int]]:
        """Return (day, how many files it has), ascending."""
        return self._manifest.ask(
            "SELECT day, count(*) FROM tick_file WHERE market = ? GROUP BY day ORDER BY day", number
        )

    def put_files(self, number: int, files: Iterable[TickFile]) -> None:
        """Name files."""
        now, marks = wall_ns(), ", ".join("?" * (len(TickFile.__struct_fields__) + 2))
        self._manifest.tell(
            f"INSERT INTO tick_file (market, {_FILE}, written_ns) VALUES ({marks})",
            [(number, *msgspec.structs.astuple(one), now) for one in files],
        )

    def drop_files(self, number: int, files: list[TickFile]) -> bool:
        """Name files no more; return whether all of them were named."""
        gone = self._manifest.tell(
            "DELETE FROM tick_file WHERE market = ? AND day = ? AND name = ?",
            [(number, one.day, one.name) for one in files],
        )
        return gone == len(files)

    # -- rings -------------------------------------------------------------------------------
    def rings(self, number: int) -> list[Ring]:
        """Return the rings that were recorded, the newest first."""
        rows = self._manifest.ask(
            "SELECT ring, identity, generation, position, last_row FROM tick_ring"
            " WHERE market = ? ORDER BY ring DESC",
            number,
        )  # fmt: skip
        return [Ring(*row) for row in rows]

    def put_ring(self, number: int, ring: Ring) -> None:
        """Remember a ring, in the place of what was known of it."""
        self._manifest.tell(
            "INSERT OR REPLACE INTO tick_ring VALUES (?, ?, ?, ?, ?, ?)",
            [(number, *msgspec.structs.astuple(ring))],
        )

    # -- gaps --------------------------------------------------------------------------------
    def gaps(self, number: int, start_ns: int, end_ns: int) -> list[Gap]:
        """Return the gaps that touch [start_ns, end_ns), as they came."""
        rows = self._manifest.ask(
            "SELECT kind, start_ns, end_ns, why, missed, ring, row FROM tick_gap"
            " WHERE market = ? AND start_ns < ? AND (end_ns IS NULL OR end_ns >= ?)"
            " ORDER BY start_ns, id",
            number, end_ns, start_ns,
        )  # fmt: skip
        return [Gap(*row) for row in rows]

    def put_gaps(self, number: int, gaps: Iterable[Gap]) -> None:
        """Keep gaps."""
        self._manifest.tell(
            "INSERT INTO tick_gap (market, kind, start_ns, end_ns, why, missed, ring, row)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [(number, *msgspec.structs.astuple(gap)) for gap in gaps],
        )

    def open_outages(self, number: int) -> list[tuple[int, int]]:
        """Return (id, start_ns) of the outages that last."""
        return self._manifest.ask(
            "SELECT id, start_ns FROM tick_gap WHERE market = ? AND end_ns IS NULL", number
        )

    def end_outage(self, gap: int, end_ns: int) -> None:
        """Say when an outage ended."""
        self._manifest.tell("UPDATE tick_gap SET end_ns = ? WHERE id = ?", [(end_ns, gap)])
