"""What a request for history cost and brought: the report that travels with its bars."""

from __future__ import annotations

import msgspec

from piker.brokers.archive import Defect
from piker.data.store.series import Series

__all__ = ["Missing", "Report", "SourceReport", "iso"]


class Missing(msgspec.Struct, frozen=True):
    """Bars of the range that are not there, and why.

    ``why``: ``confirmed`` (the venue has none either), ``not-listed`` (before its first bar),
    ``not-closed`` (not over yet), ``failed`` (a source could not be read: ``detail``), ``refused``
    (what a source gave can not be trusted), ``not-offered`` (no source has that range, or bringing
    it would cost more requests than one takes upon itself: ``detail``; it is not remembered),
    ``offline`` (only the store was asked).
    """

    start_s: int
    end_s: int
    bars: int
    why: str
    detail: str = ""

    @property
    def final(self) -> bool:
        """Tell whether asking again can not bring more."""
        return self.why in ("confirmed", "not-listed", "not-offered")


class SourceReport(msgspec.Struct):
    """What one source did: bars it brought, requests, bytes on the wire, seconds it was busy."""

    rows: int = 0
    requests: int = 0
    bytes: int = 0
    busy_s: float = 0.0
    failures: int = 0


class FileDefect(msgspec.Struct, frozen=True):
    """What was wrong with one file or answer of a source."""

    source: str
    place: str
    defect: Defect


class Report(msgspec.Struct):
    """The whole of it. ``fetched`` names the ranges that were not in the store, by source."""

    series: Series
    start_s: int
    end_s: int
    rows: int = 0
    expected: int = 0
    stored: int = 0  # rows that were in the store before
    elapsed_s: float = 0.0
    sources: dict[str, SourceReport] = msgspec.field(default_factory=dict)
    fetched: list[tuple[int, int, str]] = msgspec.field(default_factory=list)
    missing: list[Missing] = msgspec.field(default_factory=list)
    defects: list[FileDefect] = msgspec.field(default_factory=list)
    corrections: int = 0  # stored bars that a better source has changed
    damaged: int = 0  # files of the store that were found damaged and fetched anew
    replaced: int = 0  # archive files that the venue had put others in the place of

    @property
    def complete(self) -> bool:
        """Tell whether every bar of the range is there, or is known not to exist."""
        return all(one.why in ("confirmed", "not-listed", "not-closed") for one in self.missing)

    def source(self, name: str) -> SourceReport:
        """Return the entry of a source, made when it is not there."""
        return self.sources.setdefault(name, SourceReport())

    def sentence(self) -> str:
        """Say what is missing, for a person."""
        if not self.missing:
            return f"{self.series}: all {self.rows} bars."
        worst = max(self.missing, key=lambda one: (not one.final, one.bars))
        lost = sum(one.bars for one in self.missing)
        detail = f": {worst.detail}" if worst.detail else ""
        return (
            f"{self.series}: {lost} of {self.expected} bars are missing, most of them from "
            f"{iso(worst.start_s)} to {iso(worst.end_s)} ({worst.why}{detail})."
        )


def iso(time_s: int) -> str:
    """Return a time as people and programs read it."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
