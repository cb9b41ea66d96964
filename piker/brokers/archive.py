"""Bulk archives: what a venue's files of history are to the rest of piker.

A backend that has an archive offers ``open_archive_client`` (docs/guides/provider.md); the data
floor plans with :meth:`ArchiveClient.files`, which is pure, and reads with ``fetch``. Fetching and
unzipping are the toolkit's: :mod:`piker.brokers.download`.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from piker.ohlcv import Timeframe

__all__ = [
    "ArchiveAnswer",
    "ArchiveClient",
    "ArchiveFile",
    "ChecksumPolicy",
    "Defect",
    "quarantine_path",
]

#: What becomes of a file whose checksum does not agree, or that has none: ``strict`` refuses it,
#: ``quarantine`` refuses it and keeps it aside for a person to look at, ``warn`` reads it and says
#: so.
ChecksumPolicy = Literal["strict", "quarantine", "warn"]


class ArchiveFile(msgspec.Struct, frozen=True):
    """One file of an archive: what it holds, and where.

    ``path`` is below the archive's root. It is about the open times in [``start_s``, ``end_s``).
    """

    path: str
    kind: Literal["klines", "aggTrades", "fundingRate"]
    interval: str  # "1m"; empty where the rows are no bars
    start_s: int
    end_s: int

    @property
    def name(self) -> str:
        """Return the file's own name, without folders."""
        return PurePosixPath(self.path).name


class Defect(msgspec.Struct, frozen=True):
    """One way in which a file was not as it should be, and what it cost.

    Kinds: ``duplicate``, ``unsorted``, ``off-grid``, ``out-of-range``, ``impossible-bar``,
    ``malformed-row``, ``bad-checksum``, ``no-checksum``. All rows they count are left out, but
    for two: of equal duplicates one stays, and unsorted rows are sorted in, since a row says its
    own time.
    """

    kind: str
    count: int  # rows
    example: str = ""  # the first of them, shortened


class ArchiveAnswer(msgspec.Struct, frozen=True):
    """What a file held: sound rows, ascending and unique, and what was wrong with the others.

    ``rows`` is ``KLINE_DTYPE`` for bars. ``verified`` tells whether its checksum agreed; ``etag``
    and ``modified`` are the server's words, empty where it has none.
    """

    file: ArchiveFile
    rows: np.ndarray[Any, np.dtype[Any]]
    defects: tuple[Defect, ...]
    sha256: str
    size: int  # bytes that were fetched
    etag: str = ""
    modified: str = ""
    verified: bool = True


class ArchiveClient(Protocol):
    """One market's archive."""

    def files(self, frame: Timeframe, start_s: int, end_s: int, *, now_s: int) -> list[ArchiveFile]:
        """Return the files that cover [start_s, end_s) as far as the archive may have it. Pure.

        Ascending, not overlapping, whole months where the range holds them, days otherwise; what
        is too young to be there yet is left out, and so is an interval that the archive has not.
        """
        ...

    def days_of(self, file: ArchiveFile, *, now_s: int) -> list[ArchiveFile]:
        """Return the files to ask for in place of a long one that is missing or broken. Pure."""
        ...

    async def fetch(self, file: ArchiveFile) -> ArchiveAnswer:
        """Fetch, verify and read a file.

        Raises ``NoData`` when the venue has no such file, ``DataQuality`` when it can not be
        trusted (kinds ``bad-checksum``, ``bad-zip``, ``bad-csv``, ``wrong-symbol``), ``Transient``
        when it may work later.
        """
        ...

    async def changed(self, file: ArchiveFile, etag: str) -> bool:
        """Ask whether the venue has put another file in its place since."""
        ...


def quarantine_path(folder: Path, file: ArchiveFile) -> Path:
    """Return where a refused file is kept."""
    return folder / file.path.replace("/", "_")
