"""What a file of the store is, whatever it holds: written whole or not at all, mapped, checked.

Bars are in :mod:`piker.data.store.segment`, ticks in :mod:`piker.data.store.ticks_segment`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from piker.errors import DataQuality, StoreError

__all__ = [
    "checksum",
    "damaged",
    "identity",
    "mapped",
    "open_table",
    "sha256_of",
    "sync_directory",
    "write_durably",
]

Rows = np.ndarray[Any, np.dtype[Any]]


def write_durably(
    draft: Path, name: str, schema: pa.Schema, fill: Callable[[pa.ipc.RecordBatchFileWriter], None]
) -> tuple[int, str]:
    """Write an Arrow file beside its place, and give it its name; return (size, sha256).

    The file and its directory entry are on the disk when this returns. Raises ``StoreError`` when
    the disk is full, and then leaves nothing.
    """
    folder = draft.parent
    try:
        with draft.open("wb") as file:
            with pa.ipc.new_file(file, schema) as writer:
                fill(writer)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        digest = sha256_of(draft)
        draft.rename(folder / name)
        sync_directory(folder)
    except (OSError, pa.ArrowException) as err:
        draft.unlink(missing_ok=True)
        raise StoreError.of(err, folder) from err
    return size, digest


def sync_directory(folder: Path) -> None:
    """Make names in a directory durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_table(path: Path, words: Mapping[bytes, str], names: list[str], rows: int) -> pa.Table:
    """Map a file and compare what it says of itself; raise ``DataQuality`` (kind ``damaged``)."""
    try:
        table = pa.ipc.open_file(mapped(path)).read_all()
    except FileNotFoundError as err:
        raise damaged(path, "the file is gone") from err
    except (OSError, pa.ArrowException, ValueError) as err:
        raise damaged(path, str(err)) from err
    said = table.schema.metadata or {}
    for word, wanted in words.items():
        if said.get(word) != wanted.encode():
            raise damaged(path, f"it is of {said.get(word, b'?').decode()}, not of {wanted}")
    if table.num_rows != rows or table.schema.names != names:
        raise damaged(path, f"it has {table.num_rows} rows, not {rows}")
    return table


def mapped(path: Path) -> pa.Buffer:
    """Map a whole file for reading; no descriptor is kept: a process may map thousands.

    The memory is arrow's. A buffer over an object of Python's needs the interpreter to be let go,
    and ends the process where a thread of polars lets it go after the interpreter has.
    """
    with pa.memory_map(str(path)) as file:
        if not file.size():
            raise ValueError("the file is empty")
        return file.read_buffer()


def identity(place: str) -> tuple[int, ...]:
    """Return what changes when a file is touched; nothing when it is gone."""
    try:
        found = os.stat(place)
    except OSError:
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def checksum(columns: list[Rows], begin: int, end: int) -> int:
    """Return the XXH3 of some rows, column after column."""
    state = xxhash.xxh3_64()
    for column in columns:
        state.update(column[begin:end].view("u1").data)
    return state.intdigest()


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(path: Path, why: str) -> DataQuality:
    """Return the error of a file that is not as it was written."""
    return DataQuality(f"{path.name} is damaged: {why}.", kind="damaged")
