"""Addresses of markets round-trip, and money is rounded to ticks exactly."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker.errors import ConfigError
from piker.market import Asset, MktPair, digits_of, parse_fqme, round_to

GOOD = (
    "btcusdt.binance",
    "btcusdt.spot.binance",
    "btcusdt.usdtm.perp.binance",
    "btcusdt.usdtm.240329.binance",
    "btcusd.coinm.perp.binance",
    "xbtusd.spot.kraken",
    "mnq.cme.20230616.ib",
    "btcusd.options.240329.60000c.deribit",
    "xrpusd.options.240329.1_5p.deribit",
    "1000pepeusdt.usdtm.perp.binance",
)
BAD = (
    "",
    "btcusdt",
    ".binance",
    "btcusdt..binance",
    "btc/usdt.spot.binance",
    "../../etc.passwd",
    "btcusdt.spot.24032.binance",
    "btcusd.options.perp.60000c.deribit",
    "btcusd.options.240329.60000x.deribit",
    "a.b.240329.1c.d.e",
    "btc\nusdt.spot.binance",
    "x" * 200 + ".binance",
)


@pytest.mark.parametrize("text", GOOD)
def test_fqme_round_trips_when_well_formed(text: str) -> None:
    """Parsing and printing give the same address, in any case."""
    assert str(parse_fqme(text)) == text
    assert str(parse_fqme(text.upper())) == text


@pytest.mark.parametrize("text", BAD)
def test_fqme_is_refused_with_its_grammar_when_malformed(text: str) -> None:
    """A bad address gets a sentence that shows the form; nothing else is raised."""
    with pytest.raises(ConfigError, match=r"pair\.venue"):
        parse_fqme(text)


@given(st.text(max_size=150))
def test_fqme_parser_is_total_when_given_any_text(text: str) -> None:
    """Any text is refused or survives the round trip; no part can leave a folder."""
    try:
        parsed = parse_fqme(text)
    except ConfigError:
        return
    assert str(parsed) == text.lower()
    assert "/" not in str(parsed)
    assert ".." not in str(parsed)


def test_fqme_parts_are_named_when_parsed() -> None:
    """An option's address tells pair, venue, expiry, strike and right."""
    parsed = parse_fqme("btcusd.options.240329.60000c.deribit")
    assert (parsed.pair, parsed.venue, parsed.expiry) == ("btcusd", "options", "240329")
    assert (parsed.strike, parsed.right, parsed.provider) == ("60000", "c", "deribit")
    assert parsed.mktid == "btcusd.options.240329.60000c"


@pytest.mark.parametrize(
    ("tick", "digits"), [("0.10", 1), ("1", 0), ("0", 0), ("0.00001000", 5), ("5", 0), ("1E+2", 0)]
)
def test_digits_ignore_trailing_zeros_when_a_venue_pads_them(tick: str, digits: int) -> None:
    """The predecessor counted the zeros of 0.10; we do not."""
    assert digits_of(Decimal(tick)) == digits


def test_rounding_to_a_whole_tick_has_no_decimals_when_tick_is_one() -> None:
    """The predecessor printed one decimal for whole ticks."""
    assert str(round_to(Decimal("12.7"), Decimal(1))) == "13"
    assert str(round_to(Decimal("17"), Decimal(5), "down")) == "15"
    assert str(round_to(Decimal("0.123456"), Decimal("0.00001000"))) == "0.12346"


@given(
    st.decimals(-(10**9), 10**9, allow_nan=False, places=8),
    st.sampled_from(["0.01", "0.5", "1", "25", "0.00000001", "0.0025"]),
)
def test_rounding_is_exact_and_idempotent_when_repeated(value: Decimal, tick: str) -> None:
    """A rounded value is a multiple of its tick, near the value, and rounds to itself."""
    step = Decimal(tick)
    for how in ("nearest", "down", "up"):
        rounded = round_to(value, step, how)  # type: ignore[arg-type]
        assert rounded % step == 0
        assert abs(rounded - value) <= step
        assert round_to(rounded, step, how) == rounded  # type: ignore[arg-type]
    assert round_to(value, step, "down") <= value <= round_to(value, step, "up")


def test_market_rounds_prices_and_sizes_when_asked_and_takes_no_float() -> None:
    """Sizes go towards zero, prices to the nearest tick; a float is a type error."""
    market = MktPair(
        fqme="btcusdt.spot.binance", bs_mktid="BTCUSDT", dst=Asset("btc"), src=Asset("usdt"),
        price_tick=Decimal("0.01"), size_tick=Decimal("0.00001"),
    )  # fmt: skip
    assert market.round_price("100.005") == Decimal("100.00")
    assert market.round_size("-0.000019") == Decimal("-0.00001")
    assert market.address.venue == "spot"
    assert (market.provider, market.mktid) == ("binance", "btcusdt.spot")
    with pytest.raises(TypeError, match="not float"):
        market.round_price(1.5)  # type: ignore[arg-type]
