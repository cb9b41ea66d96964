"""Map files so that their data region appears twice, back to back.

Any window of a ring is then one contiguous piece of memory, wherever it wraps, and a numpy view of
it needs no copy. The mapping lives as long as anything that looks into it: views hold a reference
to it, so that memory is never unmapped under a reader's feet.
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import lru_cache
from typing import Any

from piker.errors import ShmError

__all__ = ["Mapping"]

_PROT_NONE, _PROT_READ, _PROT_WRITE = 0, 1, 2
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = 0x01, 0x02, 0x10, 0x20
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Mapping:
    """``header`` bytes, then ``data`` bytes, then the same data again.

    Raises ``ShmError`` when the kernel refuses. Sizes must be multiples of the page size.
    """

    __slots__ = ("_address", "_size", "data", "header")

    def __init__(self, fd: int, *, header: int, data: int, writable: bool) -> None:
        self._address = 0
        self._size = header + 2 * data
        self.header = header
        self.data = data
        base = _map(None, self._size, _PROT_NONE, _MAP_PRIVATE | _MAP_ANONYMOUS, -1, 0)
        self._address = base
        access = _PROT_READ | (_PROT_WRITE if writable else 0)
        _map(base, header + data, access, _MAP_SHARED | _MAP_FIXED, fd, 0)
        _map(base + header + data, data, access, _MAP_SHARED | _MAP_FIXED, fd, header)

    def buffer(self) -> Any:  # a ctypes array: the one buffer type that takes an address
        """Return the whole mapping as a buffer that keeps this object alive."""

        view = _view_type(self._size).from_address(self._address)
        view.owner = self
        return view

    def __del__(self) -> None:
        """Unmap, once nothing looks into the memory any more."""
        if self._address:
            _libc.munmap(self._address, self._size)
            self._address = 0


@lru_cache(maxsize=64)
def _view_type(size: int) -> Any:
    """Return a ctypes array type whose instances take an attribute (plain ones do not)."""
    return type("View", (ctypes.c_char * size,), {})


def _map(address: int | None, size: int, access: int, flags: int, fd: int, offset: int) -> int:
    found = _libc.mmap(address, size, access, flags, fd, offset)
    if found == _FAILED or found is None:
        code = ctypes.get_errno()
        raise ShmError(
            f"can not map {size} bytes of shared memory: {os.strerror(code)}.",
            remedy="Free memory, or lower the sizes under [feed] in conf.toml."
            if code == errno.ENOMEM
            else "",
        )
    return int(found)
