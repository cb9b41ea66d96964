"""The arithmetic of money under the name by which users of accounting know it: piker.money."""

from __future__ import annotations

from piker.money import (
    DIVIDE,
    EXACT,
    MAX_DECIMALS,
    MAX_INTEGER_DIGITS,
    SHARE_DECIMALS,
    ZERO,
    exact,
    is_sane,
    plain,
    ratio,
    scaled,
    share,
    total,
)

__all__ = [
    "DIVIDE",
    "EXACT",
    "MAX_DECIMALS",
    "MAX_INTEGER_DIGITS",
    "SHARE_DECIMALS",
    "ZERO",
    "exact",
    "is_sane",
    "plain",
    "ratio",
    "scaled",
    "share",
    "total",
]
