"""How long to wait before trying a venue again. Used by :mod:`piker.brokers.ws`."""

from __future__ import annotations

import random

import msgspec

__all__ = ["Backoff"]


class Backoff(msgspec.Struct, frozen=True):
    """How long to wait before connecting again: full jitter, between a floor and a cap.

    The n-th wait in a row is uniform between ``floor_s`` and ``floor_s * 2**n``, at most
    ``cap_s``. A connection that held for ``healthy_s`` ends the row.
    """

    floor_s: float = 0.5
    cap_s: float = 60.0
    healthy_s: float = 30.0

    def wait_s(self, failures: int) -> float:
        """Return the wait after so many failures in a row (1 is the first)."""
        doublings = min(failures, 32)  # beyond that a float would only overflow
        return random.uniform(self.floor_s, max(self.floor_s, self._ceiling(doublings)))

    def _ceiling(self, doublings: int) -> float:
        return min(self.cap_s, self.floor_s * 2.0**doublings)
