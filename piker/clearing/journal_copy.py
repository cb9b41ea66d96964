"""A checked copy of a journal, in use or not: what readers look at. Sync, blocking."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from piker.clearing import journal_seal as seal
from piker.clearing.journal_file import locked
from piker.errors import JournalDamaged, StoreError

__all__ = ["copy_of"]

COPY_ATTEMPTS = 50  # copies of a journal that is being written: each takes what one checkpoint does


@contextmanager
def copy_of(path: Path, *, check: bool = True) -> Iterator[Path]:
    """Copy a journal, in use or not, into a private folder that lasts as long as the block.

    With ``check`` the copy's seals hold, or ``JournalDamaged`` is raised: a copy taken in the
    middle of a writer's checkpoint does not check either, and is taken again.
    """
    if not path.is_dir():
        raise StoreError(f"there is no journal at {path}.")
    with tempfile.TemporaryDirectory(prefix="piker-journal-") as room:
        copy = Path(room) / path.name
        for attempt in range(COPY_ATTEMPTS):
            try:
                with locked(path, shared=True):
                    _copy(path, copy)
                    in_use = False
            except BlockingIOError:
                _copy(path, copy)
                in_use = True
            if not check and not in_use:
                break
            try:
                seal.check_files(copy)
                break
            except JournalDamaged as err:
                if not in_use or attempt == COPY_ATTEMPTS - 1:
                    if not check:
                        break
                    raise seal.damaged(path, err.what) from err
        yield copy


def _copy(path: Path, copy: Path) -> None:
    """Copy the files, the head first: what is copied of the log later is never less.

    The snapshot goes before it: it never speaks of rows that the head does not know.
    """
    if copy.exists():
        shutil.rmtree(copy)
    copy.mkdir(mode=0o700)
    for name in (seal.STANDING, seal.HEAD, seal.WAL, seal.DATABASE, seal.SUMS, seal.NEXT):
        with suppress(FileNotFoundError):
            shutil.copyfile(path / name, copy / name)
