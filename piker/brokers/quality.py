"""Bad data: counted by kind, logged once per kind, never delivered."""

from __future__ import annotations

from collections import Counter

from piker.log import get_logger

__all__ = ["QualityLog", "venue_quality"]

MAX_KINDS = 256  # a bound on the table: kinds are rules of ours, not words of the venue's
_log = get_logger("quality")
_logs: dict[str, QualityLog] = {}


def venue_quality(provider: str) -> QualityLog:
    """Return the one log of ``provider`` in this process: backend and data floor count together."""
    if provider not in _logs:
        _logs[provider] = QualityLog(provider)
    return _logs[provider]


class QualityLog:
    """The counters of one provider."""

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.counts: Counter[str] = Counter()

    def count(self, kind: str, detail: str = "") -> None:
        """Count one piece of bad data; the first of its kind is logged with its detail."""
        if kind not in self.counts:
            if len(self.counts) >= MAX_KINDS:
                kind = "other"
            _log.warning("data-quality", provider=self.provider, kind=kind, detail=detail[:200])
        self.counts[kind] += 1

    @property
    def total(self) -> int:
        """Return how many there were in all."""
        return sum(self.counts.values())
