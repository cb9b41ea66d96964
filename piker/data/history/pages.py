"""Pages of mapped files: given back when what they held has been copied.

A process counts the pages of a file that it has mapped and read, though they are the system's
cache. Whoever copies a mapped column holds it twice until they are given back.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

__all__ = ["release"]

_PAGEMAP = Path("/proc/self/pagemap")
_ENTRY = 8  # bytes a page (proc_pid_pagemap(5))
_IS_FILES = 1 << 61


@cache
def _madvise() -> Any:  # Any: what a C library's function is
    """Return madvise(2), or None where there is none."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return None
    call = ctypes.CDLL(None).madvise
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return call


def release(chunk: pa.Array, width: int) -> bool:
    """Give back the pages below an array of numbers of ``width`` bytes; tell whether it was done.

    They are read again, from the system's cache, by whoever looks at them next. Nothing is done
    to memory that is no file's: it has no other copy.
    """
    buffer = chunk.buffers()[1]
    madvise = _madvise()
    if buffer.is_mutable or madvise is None:  # files are mapped to be read
        return False
    page = mmap.PAGESIZE
    begin = -(-(buffer.address + chunk.offset * width) // page) * page
    end = (buffer.address + (chunk.offset + len(chunk)) * width) // page * page
    if begin >= end or not _is_of_file(begin):
        return False
    return bool(madvise(begin, end - begin, mmap.MADV_DONTNEED) == 0)


def _is_of_file(address: int) -> bool:
    """Tell whether a page in memory is a file's; False where the system does not say."""
    try:
        with _PAGEMAP.open("rb", buffering=0) as file:
            entry = os.pread(file.fileno(), _ENTRY, address // mmap.PAGESIZE * _ENTRY)
    except OSError:
        return False
    return bool(int.from_bytes(entry, "little") & _IS_FILES)
