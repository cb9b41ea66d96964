"""What a forked child can not do: polars' threads are not in it, and its first call would hang.

The archive's files are read with polars, so that a child of a process that had used it does
without the archive. A child of one that had not, or that was spawned, is as any other process.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

__all__ = ["polars_is_lost"]

#: Names of threads that do polars' work; those that it has from its import on are not among them.
_POOL = re.compile(r"polars-[0-9]|tokio-rt|async-exec")
_lost = False
_used_before = False


def polars_is_lost() -> bool:
    """Tell whether a call of polars would hang in this process."""
    return _lost


def _before() -> None:
    """Look whether polars has started its threads, which it does at its first work."""
    global _used_before
    _used_before = _lost or ("polars" in sys.modules and _has_threads())


def _has_threads() -> bool:
    try:
        names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    except OSError:
        return True  # can not tell: then rather without it than hanging
    return any(_POOL.match(name) for name in names)


def _in_child() -> None:
    global _lost
    _lost = _used_before


os.register_at_fork(before=_before, after_in_child=_in_child)
