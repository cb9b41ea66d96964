"""Symbols as Binance writes them, as market ids of piker's. Pure work on strings."""

from __future__ import annotations

import re
from typing import NamedTuple

from piker.dsm.enums import MarketType
from piker.dsm.errors import SymbolError, Unsupported

__all__ = ["Named", "named"]

#: Letters and digits and at most one suffix: nothing that could lead out of a directory.
_SYMBOL = re.compile(r"([A-Z0-9]{2,24})(?:_(PERP|[0-9]{6}))?", re.ASCII)
_STABLE = ("USDT", "USDC", "FDUSD", "BUSD", "TUSD")  # quotes of which COIN-M's counterpart is USD


class Named(NamedTuple):
    """A symbol in the venue's form, and the id of its market in piker's addresses."""

    symbol: str
    market: str


def named(symbol: str, market_type: MarketType) -> Named:
    """Return the market that a symbol of any case names.

    COIN-M's perpetuals may be given without ``_PERP``. Raises ``SymbolError`` for one that is none
    or that is not of the market type, with the nearest that is.
    """
    if not isinstance(symbol, str) or not symbol.strip():
        raise SymbolError("the symbol is empty.", remedy=f"Try {_EXAMPLES[market_type]!r}.")
    text = symbol.strip().upper()
    match = _SYMBOL.fullmatch(text)
    if match is None:
        raise SymbolError(
            f"{symbol[:60]!r} can not be a symbol: letters and digits, then _PERP or a date.",
            remedy=f"Try {_EXAMPLES[market_type]!r}.",
        )
    pair, suffix = match[1], match[2] or ""
    return _BUILD[market_type](text, pair, suffix)


def _spot(text: str, pair: str, suffix: str) -> Named:
    if suffix:
        raise _unfit(text, MarketType.SPOT, _with_stable(pair))
    return Named(text, f"{pair.lower()}.spot")


def _usdm(text: str, pair: str, suffix: str) -> Named:
    if suffix == "PERP" or _is_coin(pair):
        dated = f"_{suffix}" if suffix.isdigit() else ""
        raise _unfit(text, MarketType.FUTURES_USDT, _with_stable(pair) + dated)
    return Named(text, f"{pair.lower()}.usdtm.{suffix or 'perp'}")


def _coinm(text: str, pair: str, suffix: str) -> Named:
    if not _is_coin(pair):
        stable = next((quote for quote in _STABLE if pair.endswith(quote)), "")
        coin = pair.removesuffix(stable) + "USD"
        raise _unfit(text, MarketType.FUTURES_COIN, f"{coin}_{suffix or 'PERP'}")
    return Named(f"{pair}_{suffix or 'PERP'}", f"{pair.lower()}.coinm.{suffix.lower() or 'perp'}")


def _options(text: str, pair: str, suffix: str) -> Named:
    raise Unsupported("options are not served.", remedy="Use SPOT, FUTURES_USDT or FUTURES_COIN.")


def _is_coin(pair: str) -> bool:
    """Tell whether a pair is quoted in dollars themselves, as COIN-M's are."""
    return pair.endswith("USD") and not pair.endswith(_STABLE)


def _with_stable(pair: str) -> str:
    return f"{pair}T" if _is_coin(pair) else pair


def _unfit(text: str, market_type: MarketType, instead: str) -> SymbolError:
    return SymbolError(
        f"{text!r} is no symbol of {market_type.name}.", remedy=f"Try using {instead!r} instead."
    )


_BUILD = {
    MarketType.SPOT: _spot, MarketType.FUTURES_USDT: _usdm, MarketType.FUTURES: _usdm,
    MarketType.FUTURES_COIN: _coinm, MarketType.OPTIONS: _options,
}  # fmt: skip
_EXAMPLES = {
    MarketType.SPOT: "BTCUSDT", MarketType.FUTURES_USDT: "BTCUSDT",
    MarketType.FUTURES: "BTCUSDT", MarketType.FUTURES_COIN: "BTCUSD_PERP",
    MarketType.OPTIONS: "BTC-230630-60000-C",
}  # fmt: skip
