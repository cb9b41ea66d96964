"""What crosses the wire to a venue, shown to whoever records it.

::

    with use_tap(tap):
        ...  # connections and REST clients that are opened in here show it all they hear and say

One tap for the process, that is, for one run of trio. Without one, a connection pays a comparison
with None for each read of its socket, and a REST call one look-up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import trio

from piker.errors import Bug

__all__ = ["WireTap", "current_tap", "use_tap"]


class WireTap(Protocol):
    """What :func:`use_tap` takes. Nothing here may block or raise: it stands in the hot path."""

    def opened(self, venue: str, url: str) -> int:
        """Take note that a websocket's handshake begins; return a number for the connection."""
        ...

    def received(self, number: int, messages: list[bytes], recv_ns: int) -> None:
        """Take the messages of one read, in order; ``recv_ns`` is the wall time of the read."""
        ...

    def sent(self, number: int, text: str) -> None:
        """Take a message that is about to be sent."""
        ...

    def closed(self, number: int, reason: str) -> None:
        """Take note that the connection is of no more use."""
        ...

    def answered(
        self,
        venue: str,
        method: str,
        url: str,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
    ) -> None:
        """Take a REST answer, whatever its status; ``headers`` have names in lower case."""
        ...


_tap: trio.lowlevel.RunVar[WireTap | None] = trio.lowlevel.RunVar("piker.wire_tap", None)


def current_tap() -> WireTap | None:
    """Return the tap in use, or None. Only inside of a trio run."""
    return _tap.get()


@contextmanager
def use_tap(tap: WireTap) -> Iterator[None]:
    """Show ``tap`` what connections and REST clients do that are opened until the block ends.

    A connection keeps the tap that it was opened with. There is one at a time: a second raises
    ``Bug``.
    """
    if _tap.get() is not None:
        raise Bug("the wire is tapped already")
    _tap.set(tap)
    try:
        yield
    finally:
        _tap.set(None)
