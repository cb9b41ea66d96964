"""Bad data: counted by kind, logged once per kind, never delivered."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from piker.log import get_logger

__all__ = ["MAX_VALUE", "MAX_VOLUME", "QualityLog", "sound_bars", "venue_quality"]

#: No price and no single size is more: that would be the whole supply of the token that is quoted
#: or bought, and the largest ones are some 4e17 (Baby Doge) and 6e14 (Shiba Inu).
MAX_VALUE = 1e18
#: No volume or turnover of a bar is more: a million million trades of all there is. (1e15 would
#: refuse true bars: in a month a supply of 6e14 may change hands more than once.) What a broken
#: frame holds is not a little larger but 1e300, or infinite.
MAX_VOLUME = 1e30
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


def sound_bars(rows: np.ndarray[Any, Any], quality: QualityLog, what: str) -> np.ndarray[Any, Any]:
    """Return ``OHLC_DTYPE`` rows without those that no market could have; count what is left out.

    A row stays when its prices are positive, its open and close lie between low and high, and its
    time, volume and mean are not negative nor beyond what can be (``MAX_VALUE``, ``MAX_VOLUME``).
    ``what`` names the market in the log.
    """
    low, high = rows["low"], rows["high"]
    # Comparisons with NaN are false, so NaN fails them all.
    good = (low > 0) & (high < MAX_VALUE) & (rows["time"] > 0)
    for name in ("open", "close"):
        good &= (low <= rows[name]) & (rows[name] <= high)
    for name, most in (("volume", MAX_VOLUME), ("bar_wap", MAX_VALUE)):
        good &= (rows[name] >= 0) & (rows[name] < most)
    if good.all():
        return rows
    for row in rows[~good]:
        quality.count("impossible-bar", f"{what}: {row}")
    return rows[good]
