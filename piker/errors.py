"""The error tree, sorted by who must act.

Every error says what failed, for which market and venue where that is known, and what to do
next. Foreign exceptions are mapped to these at one boundary per library; ``Unknown`` is never
turned into ``Rejected``, and cancellation is never caught.
"""

from __future__ import annotations

import errno
from typing import Any

__all__ = [
    "BrokerError",
    "Bug",
    "ConfigError",
    "DataQuality",
    "DataUnavailable",
    "HistoryError",
    "JournalDamaged",
    "NoData",
    "NotOffered",
    "PeerLost",
    "PikerError",
    "ProviderError",
    "RangeError",
    "Refused",
    "Rejected",
    "ShmError",
    "StoreError",
    "SymbolNotFound",
    "Transient",
    "Unknown",
]


class PikerError(Exception):
    """Base of every error that piker raises on purpose.

    ``remedy`` is the sentence that tells a person what to do next; faces print it after the
    message. ``exit_code`` is what a CLI command that dies of it returns (docs/reference/cli.md).
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        """Return the message, with its remedy where there is one."""
        return f"{self.message} {self.remedy}".strip()


# -- the user's to mend ---------------------------------------------------------------------
class ConfigError(PikerError):
    """A file, key or command-line value is wrong; nothing was started."""

    exit_code = 2


class RangeError(PikerError, ValueError):
    """A time, range or interval makes no sense: start after end, no zone, an unknown length."""

    exit_code = 2


class SymbolNotFound(PikerError):
    """No market of that name exists at the venue."""

    exit_code = 3


class ProviderError(PikerError):
    """A backend module is missing, or breaks the provider contract; says what and where."""

    exit_code = 4


class Refused(PikerError):
    """A peer was refused: another uid, or no proof of the user's secret."""

    exit_code = 5


class ShmError(PikerError):
    """A shared-memory segment can not be made, mapped or trusted."""

    exit_code = 6


class StoreError(PikerError):
    """The history store can not be read or written: disk full, locked, of a newer format."""

    exit_code = 9

    @classmethod
    def of(cls, err: Exception, place: object) -> StoreError:
        """Return what a failed write to the disk means to a person."""
        code = getattr(err, "errno", None)
        if code in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(err):
            return cls(
                f"the disk is full: nothing was written to {place}.",
                remedy="Free some space; what was stored before is whole.",
            )
        return cls(f"can not write to {place}: {err}.")


class JournalDamaged(PikerError):
    """The journal is not what was written; nothing was changed, and trading does not start.

    ``what`` says which file, bytes or row.
    """

    exit_code = 10

    def __init__(self, message: str, *, what: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.what = what


# -- the venue's ----------------------------------------------------------------------------
class BrokerError(PikerError):
    """Base of what a venue does to us."""

    exit_code = 7


class Transient(BrokerError):
    """It may work later: time-out, 5xx, rate limit, lost connection.

    ``retry_after`` is the venue's own wish in seconds, or None.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after = retry_after


class Rejected(BrokerError):
    """The venue proved that it refused; ``code`` is its own code."""

    def __init__(self, message: str, *, code: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.code = code


class Unknown(BrokerError):
    """The outcome of a request that changes something is not known; never treat as refused."""


class DataQuality(BrokerError):
    """A frame or body is malformed or impossible; it was counted and dropped.

    ``kind`` names the rule that was broken (``nan``, ``negative-size``, ``crossed-book``,
    ``wrong-symbol``, ``malformed``, ...): counters and the once-per-kind log are keyed by it.
    """

    def __init__(self, message: str, *, kind: str = "malformed", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.kind = kind


class DataUnavailable(BrokerError):
    """The venue does not have this data and never will: stop asking."""


class NotOffered(DataUnavailable):
    """The data may exist, but are not to be had here: more would be asked than is reasonable.

    Or a length of bars that is not served. Unlike what a venue never had, it is not remembered
    as missing.
    """


class HistoryError(BrokerError):
    """Some bars of a range could not be had, though they may exist; asking again may bring them.

    ``partial`` is what was obtained (a :class:`piker.data.history.manager.History`), with a report
    of what is missing and why.
    """

    def __init__(self, message: str, *, partial: Any = None, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.partial = partial


class NoData(BrokerError):
    """No data in this range; another range may have some.

    ``frame_size`` is how many rows the empty query spanned, for stepping back.
    """

    def __init__(self, message: str = "no data in this range", *, frame_size: int = 1000) -> None:
        super().__init__(message)
        self.frame_size = frame_size


# -- ours -----------------------------------------------------------------------------------
class PeerLost(PikerError):
    """The process at the other end died or stopped answering."""

    exit_code = 8


class Bug(PikerError):
    """An assertion about our own code failed; please report it."""

    exit_code = 70
