"""Arithmetic on money that never rounds in silence.

Python's default context keeps 28 digits and drops the rest without a word. Here sums, differences
and products are done in :data:`EXACT`, which has room for all that can come out of values within
:data:`MAX_INTEGER_DIGITS` and :data:`MAX_DECIMALS`, and which raises ``decimal.Inexact`` where
something would be lost all the same. A division happens in two places only: :func:`share`, whose
remainder stays with what is left, so that nothing appears or vanishes; and :func:`ratio`, for
averages that are shown to people and never counted with.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import wraps
from typing import ParamSpec, TypeVar

__all__ = [
    "DIVIDE",
    "EXACT",
    "MAX_DECIMALS",
    "MAX_INTEGER_DIGITS",
    "SHARE_DECIMALS",
    "ZERO",
    "exact",
    "is_bounded",
    "is_sane",
    "plain",
    "ratio",
    "scaled",
    "share",
    "total",
]

ZERO = Decimal(0)
MAX_INTEGER_DIGITS = 24  # a million times the supply of the largest token that is traded
MAX_DECIMALS = 24  # a smallest unit has 18 in ether and its kin; prices quote parts of those
SHARE_DECIMALS = 36  # 18 decimals of a size times 18 of a price
_DIGITS = 256  # size times price times multiplier has 144; a sum of 10**9 of them 153
_SHOWN_DIGITS = 28  # of an average
_MEANT = 2 * _SHOWN_DIGITS  # digits before the point, or zeros behind it, that a person counts
_QUANTUM = Decimal(1).scaleb(-SHARE_DECIMALS)

_TRAPS = [decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow]
#: Sums and products; ``decimal.Inexact`` is raised where a digit would be lost.
EXACT = decimal.Context(
    prec=_DIGITS, rounding=decimal.ROUND_HALF_EVEN, traps=[*_TRAPS, decimal.Inexact]
)
#: Divisions whose remainder is looked after, and roundings that are meant.
DIVIDE = decimal.Context(prec=_DIGITS, rounding=decimal.ROUND_HALF_EVEN, traps=_TRAPS)
_SHOW = decimal.Context(prec=_SHOWN_DIGITS, rounding=decimal.ROUND_HALF_EVEN, traps=_TRAPS)

_P = ParamSpec("_P")
_R = TypeVar("_R")


def exact(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return the function, run in :data:`EXACT`; the caller's context is left as it was."""

    @wraps(function)
    def within(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with decimal.localcontext(EXACT):
            return function(*args, **kwargs)

    return within


def is_sane(value: Decimal) -> bool:
    """Tell whether a number is finite and small and coarse enough to be counted with exactly."""
    if not value.is_finite():
        return False
    text = str(value)  # a twentieth of what as_tuple costs, and enough for nearly all there are
    if len(text) <= min(MAX_INTEGER_DIGITS, MAX_DECIMALS) and "E" not in text:
        return True
    if value.adjusted() >= MAX_INTEGER_DIGITS:
        return False
    return -_exponent(value) <= MAX_DECIMALS or -_stripped(value) <= MAX_DECIMALS


def is_bounded(value: Decimal) -> bool:
    """Tell whether sums with a number stay exact: one that was multiplied, not one that was told.

    Twice the digits of a sane one on either side of the point.
    """
    return (
        value.is_finite()
        and value.adjusted() < 2 * MAX_INTEGER_DIGITS
        and -_exponent(value) <= 4 * MAX_DECIMALS
    )


def _exponent(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    return exponent


def _stripped(value: Decimal) -> int:
    """Return the exponent without trailing zeros."""
    return _exponent(value.normalize(DIVIDE))


def total(values: Iterable[Decimal]) -> Decimal:
    """Return the sum, exactly."""
    out = ZERO
    for value in values:
        out = EXACT.add(out, value)
    return out


def share(amount: Decimal, part: Decimal, whole: Decimal) -> Decimal:
    """Return the part of an amount that goes with ``part`` of ``whole``.

    All of it where the part is the whole. Else rounded, half to even, to 36 decimals or as many as
    the amount has: the caller subtracts what it takes, and what was cut off stays with the rest.
    """
    if part == whole:
        return amount
    return _cut(DIVIDE.divide(DIVIDE.multiply(amount, part), whole), amount)


def scaled(amount: Decimal, new: int, old: int) -> Decimal:
    """Return ``amount * new / old``, rounded as :func:`share` does."""
    return _cut(DIVIDE.divide(DIVIDE.multiply(amount, Decimal(new)), Decimal(old)), amount)


def _cut(value: Decimal, like: Decimal) -> Decimal:
    if (
        _exponent(like) < -SHARE_DECIMALS
    ):  # by its worth: equal amounts are cut alike, however written
        fine = min(_stripped(like), -SHARE_DECIMALS)
        return _trim(value.quantize(Decimal(1).scaleb(fine), context=DIVIDE))
    return _trim(value.quantize(_QUANTUM, context=DIVIDE))


def _trim(value: Decimal) -> Decimal:
    """Drop trailing zeros, so that numbers do not grow with every step."""
    return value.normalize(DIVIDE) if value else ZERO


def ratio(above: Decimal, below: Decimal) -> Decimal:
    """Return a quotient of 28 digits, for people to read."""
    return _SHOW.divide(above, below)


def plain(value: Decimal) -> str:
    """Return a number in digits: no exponent, no trailing zeros, never ``-0``.

    One that nobody means is said as Python says it: its zeros might be a million.
    """
    if not -_MEANT <= value.adjusted() <= _MEANT:
        return str(value)
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
