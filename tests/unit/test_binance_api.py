"""Listings of the recorded exchangeInfo, and what the venue's answers mean."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import binance_captures as captures
import msgspec
import pytest

from piker.brokers import limits
from piker.brokers.binance import api, schema
from piker.brokers.quality import venue_quality
from piker.errors import Rejected, SymbolNotFound, Transient
from piker.market import AssetType, parse_fqme
from piker.testing.binance_limits import BinanceLimits


@pytest.mark.parametrize("venue", ["spot", "coinm"])
def test_every_listing_has_an_address_when_the_venue_lists_it(shared: Path, venue: str) -> None:
    """Addresses are unique, canonical, and only pending contracts have none."""
    info = msgspec.json.decode(captures.exchange_info(shared, venue), type=schema.ExchangeInfo)
    markets = captures.markets(shared, venue)
    assert len({market.fqme for market in markets.values()}) == len(markets)
    assert all(str(parse_fqme(market.fqme)) == market.fqme for market in markets.values())
    left = [s for s in api.listings(info) if s.symbol not in markets]
    assert all("PERPETUAL" not in s.contract_type and "_" not in s.symbol for s in left)
    if venue == "spot":
        assert not left


def test_a_spot_market_has_its_rules_when_it_is_read_from_a_recording(shared: Path) -> None:
    """Ticks, lots and least order are the filters' own digits."""
    market = captures.markets(shared, "spot")["NKNUSDT"]
    assert (market.fqme, market.mktid) == ("nknusdt.spot.binance", "nknusdt.spot")
    assert market.price_tick == Decimal("0.0001")
    assert market.price_digits == 4
    assert market.size_tick == Decimal(1)
    assert market.min_notional == Decimal(10)
    assert (market.dst.name, market.src.name) == ("nkn", "usdt")
    assert market.status == "online"


def test_an_inverse_market_has_its_contract_when_it_is_read_from_a_recording(shared: Path) -> None:
    """COIN-M: perpetual and dated, in contracts of dollars."""
    markets = captures.markets(shared, "coinm")
    perp, dated = markets["BTCUSD_PERP"], markets["BTCUSD_211231"]
    assert perp.fqme == "btcusd.coinm.perp.binance"
    assert dated.fqme == "btcusd.coinm.211231.binance"
    assert perp.inverse
    assert perp.contract_size == Decimal(100)
    assert (perp.atype, dated.atype) == (AssetType.PERPETUAL, AssetType.FUTURE)


def listing(symbol: str, contract_type: str, **more: object) -> schema.Symbol:
    """Return a USD-M listing as exchangeInfo has it."""
    body = {
        "symbol": symbol, "contractType": contract_type, "baseAsset": "BTC", "quoteAsset": "USDT",
        "status": "TRADING", "permissionSets": [["A"]], "maxMoveOrderLimit": 10000, **more,
    }  # fmt: skip
    return msgspec.convert(body, schema.Symbol)


@pytest.mark.parametrize(
    ("symbol", "contract_type", "mktid"),
    [
        ("BTCUSDT", "PERPETUAL", "btcusdt.usdtm.perp"),
        ("TSLAUSDT", "TRADIFI_PERPETUAL", "tslausdt.usdtm.perp"),
        ("BTCUSDT_240329", "CURRENT_QUARTER", "btcusdt.usdtm.240329"),
        ("BTCUSDT_240329", "", "btcusdt.usdtm.240329"),
    ],
)
def test_a_linear_future_has_an_address_when_its_type_is_known(
    symbol: str, contract_type: str, mktid: str
) -> None:
    """USD-M: perpetuals of either type, and dated contracts."""
    market = api.market_of(api.KINDS["usdtm"], listing(symbol, contract_type))
    assert market is not None
    assert market.mktid == mktid
    assert not market.inverse


def test_a_listing_is_left_out_when_it_can_not_be_addressed() -> None:
    """Pending contracts, and names that the grammar of addresses does not hold."""
    usdtm = api.KINDS["usdtm"]
    assert api.market_of(usdtm, listing("BTCUSDT", "")) is None
    assert api.market_of(usdtm, listing("币安人生USDT", "PERPETUAL")) is None


@pytest.mark.parametrize(
    ("filters", "least"),
    [
        ([{"filterType": "MIN_NOTIONAL", "minNotional": "10.0"}], Decimal("10.0")),
        ([{"filterType": "MIN_NOTIONAL", "notional": "5"}], Decimal(5)),
        (
            [{"filterType": "NOTIONAL", "minNotional": "7", "applyMinToMarket": True}],
            Decimal(7),
        ),
    ],
)
def test_the_least_order_is_read_when_filters_are_old_or_new(
    filters: list[dict[str, object]], least: Decimal
) -> None:
    """MIN_NOTIONAL of spot and of futures, and its successor NOTIONAL."""
    market = api.market_of(api.KINDS["usdtm"], listing("BTCUSDT", "PERPETUAL", filters=filters))
    assert market is not None
    assert market.min_notional == least


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, b'{"code":-1121,"msg":"Invalid symbol."}', SymbolNotFound),
        (400, b'{"code":-1021,"msg":"Timestamp outside"}', Transient),
        (503, b'{"code":-1008,"msg":"Server overloaded"}', Transient),
        (400, b'{"code":-1100,"msg":"Illegal characters"}', Rejected),
        (403, b"<html>WAF</html>", type(None)),
        (200, b'{"code":-1121}', type(None)),
    ],
)
def test_an_answer_is_an_error_when_the_venue_codes_it(
    status: int, body: bytes, error: type
) -> None:
    """The venue's own codes decide; what has none is left to the toolkit."""
    assert type(api._classify(status, {}, body)) is error


def test_the_used_weight_is_read_when_the_venue_tells_it() -> None:
    """The header of one minute is REQUEST_WEIGHT."""
    assert api._usage({"x-mbx-used-weight-1m": "120"}) == {"REQUEST_WEIGHT": 120.0}
    assert api._usage({"x-mbx-used-weight-1m": "lots"}) == {}


def test_a_bad_listing_costs_only_itself_when_the_others_are_sound() -> None:
    """Its neighbours are there; it is counted."""
    body = (
        b'{"symbols":[{"symbol":"AB","baseAsset":"A","quoteAsset":"B"},{"symbol":5},"x",'
        b'{"symbol":"CD","baseAsset":"C","quoteAsset":"D","filters":[{"filterType":"NEW","z":[]}]}]}'
    )
    before = venue_quality("binance").counts["bad-listing"]
    found = api.listings(msgspec.json.decode(body, type=schema.ExchangeInfo))
    assert [symbol.symbol for symbol in found] == ["AB", "CD"]
    assert venue_quality("binance").counts["bad-listing"] == before + 2


@pytest.mark.parametrize(
    ("wanted", "mktid", "rank"),
    [
        ("btcusdt", "btcusdt.usdtm.perp", 0),
        ("btcusdt.spot", "btcusdt.spot", 0),
        ("btc", "btcusdt.spot", 1),
        ("usdt", "btcusdt.spot", 2),
        ("btc perp", "btcusdt.usdtm.perp", 3),
        ("btc/usdt", "btcusdt.spot", 3),
        ("bcut", "btcusdt.spot", 4),
        ("xyz", "btcusdt.spot", 5),
    ],
)
def test_a_market_ranks_by_how_it_matches_when_it_is_searched(
    wanted: str, mktid: str, rank: int
) -> None:
    """Exact, beginning, part, words, letters in order, not at all."""
    assert api.rank(wanted, mktid) == rank


def test_futures_share_one_weight_and_one_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    """USD-M and COIN-M are counted together by address, spot apart; the lower limit is kept."""
    monkeypatch.setattr(limits, "_budgets", {})
    monkeypatch.setattr(api, "_weights", {})

    def said(weight: int) -> schema.ExchangeInfo:
        row = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1,
               "limit": weight}  # fmt: skip
        return msgspec.convert({"rateLimits": [row], "symbols": []}, schema.ExchangeInfo)

    spot, usdm, coinm = (api.budget_of(name) for name in ("spot", "usdm", "coinm"))
    assert usdm is coinm
    assert spot is not usdm
    for kind, weight in (("usdtm", 2400), ("coinm", 6000), ("spot", 6000)):
        api._set_limits(api.KINDS[kind], said(weight))
    usdm.observe("REQUEST_WEIGHT", 700)
    assert (coinm.used("REQUEST_WEIGHT"), spot.used("REQUEST_WEIGHT")) == (700, 0)
    assert [one.capacity for one in coinm.limits if one.name == "REQUEST_WEIGHT"] == [2400]
    coinm.penalise(30)
    assert (usdm.penalty_s > 29, spot.penalty_s) == (True, 0)


def test_the_loopback_counts_both_futures_together() -> None:
    """What one used up the other lacks, and a ban holds for both."""
    venue = BinanceLimits()
    assert venue.spend("usdm", "here", 2000) is None
    assert venue.spend("coinm", "there", 2000) is None
    reply = venue.spend("coinm", "here", 401)
    assert reply is not None
    assert reply.status == 429
    assert venue.spend("spot", "here", 2000) is None
