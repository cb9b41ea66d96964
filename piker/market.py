"""Assets, markets, and the address of a market: the fqme.

An fqme (fully qualified market endpoint) is lower case, dot separated, provider last::

    <pair>.<venue>[.<expiry>][.<strike><c|p>].<provider>

    btcusdt.spot.binance              spot
    btcusdt.usdtm.perp.binance        linear perpetual, margined in USDT
    btcusdt.usdtm.240329.binance      linear future that expires on 2024-03-29
    btcusd.coinm.perp.binance         inverse perpetual, margined in the coin
    xbtusd.spot.kraken
    btcusd.options.240329.60000c.deribit
    mnq.cme.20230616.ib               a six- or eight-digit expiry
    aapl.nasdaq.ib                    a stock has no quote asset in its name

Two parts (``btcusdt.binance``) are accepted and mean the provider's default venue. Prices and
sizes of orders are :class:`~decimal.Decimal`; a market knows its ticks and rounds to them.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal, InvalidOperation
from enum import StrEnum
from functools import lru_cache
from typing import Literal

import msgspec

from piker.errors import ConfigError

__all__ = ["Asset", "AssetType", "Fqme", "MktPair", "digits_of", "parse_fqme", "round_to"]

MAX_FQME = 120  # characters; the longest known option name is under 50
_PART = re.compile(r"[a-z0-9][a-z0-9_&+~-]*\Z")
_EXPIRY = re.compile(r"perp|\d{6}|\d{8}")
_OPTION = re.compile(r"(\d+(?:_\d+)?)([cp])")  # 1_5c is a strike of 1.5: a dot would split the name

Rounding = Literal["nearest", "down", "up"]
_ROUNDING = {"nearest": ROUND_HALF_EVEN, "down": ROUND_FLOOR, "up": ROUND_CEILING}


class AssetType(StrEnum):
    """What an asset is."""

    CRYPTO = "crypto"
    FIAT = "fiat"
    STOCK = "stock"
    BOND = "bond"
    COMMODITY = "commodity"
    INDEX = "index"
    FUTURE = "future"
    PERPETUAL = "perpetual_future"
    OPTION = "option"
    FUND = "fund"
    UNKNOWN = "unknown"


class Asset(msgspec.Struct, frozen=True):
    """Something that can be held or owed; ``tx_tick`` is the least amount that can move."""

    name: str
    atype: AssetType = AssetType.UNKNOWN
    tx_tick: Decimal = Decimal("1e-8")


class Fqme(msgspec.Struct, frozen=True):
    """The parts of a market's address. ``str()`` gives it back, part for part."""

    pair: str
    provider: str
    venue: str = ""
    expiry: str = ""  # "perp", yymmdd or yyyymmdd; empty for what does not expire
    strike: str = ""  # decimal digits, "." written as "_"
    right: str = ""  # "c" call, "p" put

    def __str__(self) -> str:
        """Return the fqme."""
        parts = (self.pair, self.venue, self.expiry, self.strike + self.right, self.provider)
        return ".".join(part for part in parts if part)

    @property
    def mktid(self) -> str:
        """Return the fqme without its provider: what a backend is asked for."""
        return str(self)[: -len(self.provider) - 1]


def parse_fqme(text: str) -> Fqme:
    """Parse an fqme; raise ``ConfigError`` that shows the grammar.

    Case is folded. Any string survives ``str(parse_fqme(x))`` unchanged or is refused; no part
    can hold a slash, a dot or a control character, so a part is always safe as a file name.
    """
    folded = text.lower()
    parts = folded.split(".")
    if len(folded) > MAX_FQME or not all(_PART.match(part) for part in parts):
        raise _bad(text, "a part holds a character that no market name has")
    if len(parts) < 2:
        raise _bad(text, "the provider is missing")
    pair, *middle, provider = parts
    if len(middle) > 3:
        raise _bad(text, "it has too many parts")
    venue, expiry, contract = (*middle, "", "", "")[:3]
    if expiry and not _EXPIRY.fullmatch(expiry):
        raise _bad(text, f"{expiry!r} is no expiry (perp, yymmdd or yyyymmdd)")
    option = _OPTION.fullmatch(contract)
    if contract and (option is None or expiry == "perp"):
        raise _bad(text, f"{contract!r} is no strike and right (60000c, 1_5p)")
    strike, right = option.groups() if option else ("", "")
    return Fqme(
        pair=pair, provider=provider, venue=venue, expiry=expiry, strike=strike, right=right
    )


def _bad(text: str, why: str) -> ConfigError:
    shown = text if len(text) <= 60 else text[:57] + "..."
    return ConfigError(
        f"{shown!r} is not a market address: {why}.",
        remedy="The form is pair.venue[.expiry][.strike+c|p].provider, "
        "as in btcusdt.spot.binance or btcusdt.usdtm.perp.binance.",
    )


def digits_of(tick: Decimal) -> int:
    """Return how many decimals a multiple of ``tick`` can have; trailing zeros do not count."""
    if tick == 0:
        return 0
    exponent = tick.normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    return max(0, -exponent)


def round_to(value: Decimal, tick: Decimal, how: Rounding = "nearest") -> Decimal:
    """Round to a multiple of ``tick``, with exactly the decimals that the tick has.

    A tick of zero means that the venue does not restrict: the value is returned as it is.
    """
    if tick == 0:
        return value
    if tick < 0 or not value.is_finite():
        raise ValueError(f"can not round {value} to ticks of {tick}")
    steps = (value / tick).to_integral_value(rounding=_ROUNDING[how])
    return (steps * tick).quantize(_unit_of(tick))


@lru_cache(maxsize=4096)
def _unit_of(tick: Decimal) -> Decimal:
    """Return one of the last digit that a multiple of a tick can have."""
    return Decimal(1).scaleb(-digits_of(tick))


class MktPair(msgspec.Struct, frozen=True, kw_only=True):
    """A market: buying turns ``src`` into ``dst``.

    ``bs_mktid`` is the venue's own symbol (``BTCUSDT``, ``XBT/USD``); ``contract_size`` the units
    of ``dst`` (or of quote currency for inverse contracts) that one contract stands for.
    """

    fqme: str
    bs_mktid: str
    dst: Asset
    src: Asset
    price_tick: Decimal
    size_tick: Decimal
    atype: AssetType = AssetType.CRYPTO
    contract_size: Decimal = Decimal(1)
    inverse: bool = False
    min_size: Decimal = Decimal(0)
    min_notional: Decimal = Decimal(0)
    status: str = "online"

    @property
    def address(self) -> Fqme:
        """Return the parsed fqme."""
        return parse_fqme(self.fqme)

    @property
    def provider(self) -> str:
        """Return the provider's name."""
        return self.fqme.rpartition(".")[2]

    @property
    def mktid(self) -> str:
        """Return the fqme without the provider."""
        return self.fqme.rpartition(".")[0]

    @property
    def price_digits(self) -> int:
        """Return the decimals of a price."""
        return digits_of(self.price_tick)

    @property
    def size_digits(self) -> int:
        """Return the decimals of a size."""
        return digits_of(self.size_tick)

    def round_price(self, price: Decimal | str, how: Rounding = "nearest") -> Decimal:
        """Round a price to the market's tick; floats are not taken."""
        return round_to(_decimal(price), self.price_tick, how)

    def round_size(self, size: Decimal | str, how: Rounding = "down") -> Decimal:
        """Round a size to the market's lot, towards zero unless told otherwise."""
        value = _decimal(size)
        if how == "down" and value < 0:
            return -round_to(-value, self.size_tick, "down")
        return round_to(value, self.size_tick, how)


def _decimal(value: object) -> Decimal:
    if not isinstance(value, Decimal | str | int):
        raise TypeError("prices and sizes are Decimal, not float: pass Decimal or str")
    try:
        return Decimal(value)
    except InvalidOperation:
        raise ValueError(f"{value!r} is not a number") from None
