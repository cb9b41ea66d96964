"""Kraken's metadata and answers, from recorded ones."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from piker.brokers.kraken import api, schema
from piker.errors import PikerError, Rejected, SymbolNotFound, Transient
from piker.market import AssetType
from piker.testing.capture import Rest, payload
from piker.testing.captures_foreign import read_any

PAIRS = schema.Reply[dict[str, schema.Pair]]


def recorded_2021(shared: Path) -> dict[str, schema.Pair]:
    """Return the whole AssetPairs answer of 17 April 2021."""
    records = read_any(shared / "venues/kraken/cryptofeed/KRAKEN").records
    (answer,) = (r for r in records if isinstance(r, Rest) and r.path.endswith("/AssetPairs"))
    return msgspec.json.decode(payload(answer), type=PAIRS).result


def recorded_2025(shared: Path, name: str) -> dict[str, schema.Pair]:
    """Return one of the answers of November 2025 and later."""
    path = shared / f"venues/kraken/nautilus/crate/{name}.json"
    return msgspec.json.decode(path.read_bytes(), type=PAIRS).result


def test_every_recorded_pair_is_a_market(shared: Path) -> None:
    """All but the dark-pool rows and a staking name with a dot, each with another address."""
    pairs = recorded_2021(shared)
    listings = api.listings_of(pairs)
    left_out = set(pairs) - {listing.pair_id for listing in listings.values()}
    assert {name for name in left_out if not name.endswith(".d")} == {"ETH2.SETH"}
    assert len(listings) == 292
    assert not any(".d" in listing.altname for listing in listings.values())
    assert len({listing.wire for listing in listings.values()}) == len(listings)


def test_names_of_rest_become_names_of_the_websocket(shared: Path) -> None:
    """XBT is BTC and XDG is DOGE there, in either place of a pair; nothing else changes."""
    listings = api.listings_of(recorded_2021(shared))
    bitcoin = listings["xbtusd.spot"]
    assert (bitcoin.pair_id, bitcoin.wire, bitcoin.alias) == ("XXBTZUSD", "BTC/USD", "btcusd.spot")
    assert listings["xdgusd.spot"].wire == "DOGE/USD"
    assert listings["ethxbt.spot"].wire == "ETH/BTC"
    assert listings["wavesxbt.spot"].wire == "WAVES/BTC"
    assert bitcoin.market.fqme == "xbtusd.spot.kraken"
    assert (bitcoin.market.dst.name, bitcoin.market.src.atype) == ("btc", AssetType.FIAT)
    assert bitcoin.market.price_tick == Decimal("0.1")  # no tick_size in 2021: from pair_decimals


def test_ticks_and_lots_are_the_venues(shared: Path) -> None:
    """Of today's answers, tokenized stocks too."""
    (found,) = api.listings_of(recorded_2025(shared, "http_asset_pairs")).values()
    market = found.market
    assert market.fqme == "xbtusdt.spot.kraken"
    assert (market.price_digits, market.size_digits) == (1, 8)
    assert market.min_size > 0
    assert market.min_notional > 0
    (stock,) = api.listings_of(recorded_2025(shared, "http_asset_pairs_tokenized")).values()
    assert (stock.market.fqme, stock.wire) == ("aaplxusd.spot.kraken", "AAPLx/USD")
    assert stock.market.atype is AssetType.STOCK


def test_call_beyond_the_limit_waits_for_the_next_when_it_is_refused() -> None:
    """The venue frees about one call a second; others of our address use some of them."""
    error = api._classify(200, {}, b'{"error":["EAPI:Rate limit exceeded"]}')
    assert isinstance(error, Transient)
    assert error.retry_after == 1.0


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("EQuery:Unknown asset pair", SymbolNotFound),
        ("EAPI:Rate limit exceeded", Transient),
        ("EGeneral:Too many requests", Transient),
        ("EService:Unavailable", Transient),
        ("EService:Busy", Transient),
        ("EGeneral:Internal error", Transient),
        ("EGeneral:Invalid arguments:interval", Rejected),
        ("EGeneral:Permission denied", Rejected),
    ],
)
def test_errors_in_a_200_are_found(text: str, kind: type[PikerError]) -> None:
    """By the venue's own words; whatever is not known to pass is a rejection."""
    body = msgspec.json.encode({"error": ["WGeneral:old", text]})
    assert type(api._classify(200, {}, body)) is kind


def test_a_rejection_has_the_venues_code() -> None:
    """Without the argument that it names."""
    error = api._classify(200, {}, b'{"error":["EGeneral:Invalid arguments:interval"]}')
    assert isinstance(error, Rejected)
    assert error.code == "EGeneral:Invalid arguments"


def test_a_throttle_says_when_it_ends() -> None:
    """A time in the past means now; a garbled one means unknown."""
    past = api._classify(200, {}, b'{"error":["EService: Throttled: 17"]}')
    assert isinstance(past, Transient)
    assert past.retry_after == 0.0
    odd = api._classify(200, {}, b'{"error":["EService:Throttled"]}')
    assert isinstance(odd, Transient)
    assert odd.retry_after is None


@pytest.mark.parametrize("body", [b'{"error":[],"result":{}}', b'{"error":["WX:y"]}', b"<html>"])
def test_answers_without_an_error_have_none(body: bytes) -> None:
    """A warning is none; what is no JSON is left to the decoding."""
    assert api._classify(200, {}, body) is None
