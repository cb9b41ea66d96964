"""Pages of mapped files: given back when what they held has been copied.

A process counts the pages of a file that it has mapped and read, though they are the system's
cache. Whoever copies a mapped column holds it twice until they are given back.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import Any

import pyarrow as pa

__all__ = ["release"]

_MREMAP_MAYMOVE = 1
_FAILED = ctypes.c_void_p(-1).value


@cache
def _libc() -> Any:  # Any: a library is what its functions are
    """Return the C library, or None where it can not remap memory (only Linux can)."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mremap") or not hasattr(mmap, "MADV_DONTNEED"):
        return None
    address, size = ctypes.c_void_p, ctypes.c_size_t
    libc.mremap.restype, libc.mremap.argtypes = address, [address, size, size, ctypes.c_int]
    libc.munmap.argtypes = [address, size]
    libc.madvise.argtypes = [address, size, ctypes.c_int]
    return libc


def release(chunk: pa.Array, width: int) -> bool:
    """Give back the pages below an array of numbers of ``width`` bytes; tell whether it was done.

    They are read again, from the system's cache, by whoever looks at them next. Nothing is done
    to memory that is no shared mapping: it has no other copy.
    """
    buffer = chunk.buffers()[1]
    libc = _libc()
    if buffer.is_mutable or libc is None:  # files are mapped to be read
        return False
    page = mmap.PAGESIZE
    begin = -(-(buffer.address + chunk.offset * width) // page) * page
    end = (buffer.address + (chunk.offset + len(chunk)) * width) // page * page
    if begin >= end or not _is_shared(libc, begin):
        return False
    return bool(libc.madvise(begin, end - begin, mmap.MADV_DONTNEED) == 0)


def _is_shared(libc: Any, address: int) -> bool:
    """Tell whether a page is of a shared mapping: of no other does mremap(2) make a second one."""
    second = libc.mremap(address, 0, mmap.PAGESIZE, _MREMAP_MAYMOVE)
    if second is None or second == _FAILED:
        return False
    libc.munmap(second, mmap.PAGESIZE)
    return True
