"""What this face raises besides :mod:`piker.errors`: the same errors, also of the old kinds.

Scripts of seed 001 catch ``ValueError`` for what is wrong with a call and ``RuntimeError`` for data
that could not be had; each of these is one of piker's and one of those.
"""

from __future__ import annotations

from piker.errors import ConfigError, DataUnavailable, HistoryError, SymbolNotFound

__all__ = ["FetchFailed", "NoBars", "SymbolError", "Unsupported"]


class Unsupported(ConfigError, ValueError):
    """A value that is none, or that nothing here can serve; the message names what can be."""


class SymbolError(SymbolNotFound, ValueError):
    """A symbol that can not be of its market type; the remedy names the nearest that can."""


class FetchFailed(HistoryError, RuntimeError):
    """Some of the data could not be had. ``partial`` is a frame of what was obtained."""


class NoBars(FetchFailed, DataUnavailable):
    """There is not one bar in the range, and why is known. ``partial`` is an empty frame."""
