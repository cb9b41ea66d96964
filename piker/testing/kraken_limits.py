"""Kraken's rate limits for public data, as the venue keeps them. Facts: docs/brokers/kraken.md."""

from __future__ import annotations

from collections import Counter

import msgspec

from piker.testing.gate import Connected
from piker.testing.rates import Level, Rolling
from piker.testing.requests import Reply, Request

__all__ = ["KrakenLimits", "refusal"]

CALLS_AT_ONCE, CALLS_PER_S = 3.0, 1.0  # of an address and pair; "about one a second"
HANDSHAKES, HANDSHAKES_S = 150, 600.0  # of an address
PUBLIC = "/0/public/"


class KrakenLimits:
    """The counters of one loopback Kraken."""

    def __init__(self) -> None:
        self.violations: Counter[str] = Counter()
        self._calls = Level(CALLS_AT_ONCE, CALLS_PER_S)
        self._handshakes = Rolling(HANDSHAKES, HANDSHAKES_S)

    def request(self, request: Request) -> Reply | None:
        """Count a public call; one too many is answered with the venue's error, as a 200."""
        if not request.path.startswith(PUBLIC):
            return None
        if self._calls.take(f"{request.peer} {request.params.get('pair', '')}".rstrip()):
            return None
        self.violations["public"] += 1
        return Reply(200, _error("EAPI:Rate limit exceeded"))

    def headers(self, request: Request) -> dict[str, str]:
        """Return nothing: the venue tells no counts."""
        return {}

    def handshake(self, request: Request) -> Reply | None:
        """Count a connection attempt."""
        wait_s = self._handshakes.take(request.peer)
        if not wait_s:
            return None
        self.violations["handshakes"] += 1
        return Reply(429, b"", {"Retry-After": f"{-(-wait_s // 1):.0f}"})

    def message(self, connection: Connected, late_s: float) -> bool:
        """Let every message pass: the venue states no figure."""
        return True

    def left(self, connection: Connected) -> None:
        """Nothing is kept of a connection."""

    def used(self) -> dict[str, float]:
        """Return the levels of the public counter."""
        return {f"public {key}": level for key, level in self._calls.levels().items()}


def refusal(status: int) -> bytes:
    """Return the body that comes with a status."""
    if status == 429:
        return _error("EGeneral:Too many requests")
    return _error("EService:Unavailable" if status >= 500 else "EGeneral:Permission denied")


def _error(text: str) -> bytes:
    return msgspec.json.encode({"error": [text]})
