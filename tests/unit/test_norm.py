"""Venues' own records of trades: the recorded shapes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ledgers import D, tx

from piker.accounting.norm import (
    binance_coinm,
    binance_funding,
    binance_spot,
    binance_usdm,
    kraken_spot,
)
from piker.accounting.position import fold
from piker.accounting.transaction import Kind, contract_of, order_key
from piker.errors import DataQuality
from piker.market import Asset, MktPair

BNB = MktPair(
    fqme="bnbbtc.spot.binance", bs_mktid="BNBBTC", dst=Asset("bnb"), src=Asset("btc"),
    price_tick=D("1e-8"), size_tick=D("1e-8"),
)  # fmt: skip
PERP = msgspec.structs.replace(BNB, fqme="btcusdt.usdtm.perp.binance", bs_mktid="BTCUSDT")
COIN = msgspec.structs.replace(
    BNB, fqme="btcusd.coinm.200626.binance", bs_mktid="BTCUSD_200626", dst=Asset("btc"),
    src=Asset("usd"), contract_size=D(100), inverse=True,
)  # fmt: skip
XBT = MktPair(
    fqme="xbtusd.spot.kraken", bs_mktid="XBTUSD", dst=Asset("btc"), src=Asset("usd"),
    price_tick=D("0.1"), size_tick=D("1e-8"),
)  # fmt: skip


def recorded(path: Path) -> Any:
    """Return the JSON of a recording: below three lines that say what was asked."""
    return json.loads(path.read_text(encoding="utf-8").split("\n", 3)[3])


def test_spot_trade_is_read_when_as_recorded(shared: Path) -> None:
    """The fee is in BNB, the time in milliseconds."""
    (row,) = recorded(
        shared / "venues/binance/binance.net/Endpoints/Spot/Trading/GetUserTrades.txt"
    )
    assert binance_spot(row, market=BNB, account="main") == tx(
        "t28457", "12", "4.000001", time_ns=1499865549590 * 10**6, cost=D("10.1"), cost_asset="bnb",
        oid="100234", symbol=BNB.fqme,
    )  # fmt: skip


def test_futures_trade_has_a_leg_when_the_account_hedges(shared: Path) -> None:
    """Sold short; a fee below zero is a rebate."""
    (row,) = recorded(
        shared / "venues/binance/binance.net/Endpoints/UsdFutures/Trading/GetUserTrades.txt"
    )
    trade = binance_usdm(row, market=PERP, account="main")
    assert (trade.size, trade.price, trade.leg) == (D("-0.002"), D("7819.01"), "short")
    assert (trade.cost, trade.cost_asset) == (D("-0.07819010"), "usdt")
    assert binance_usdm({**row, "positionSide": "BOTH"}, market=PERP, account="a").leg == ""


def test_coin_margined_trade_counts_contracts_when_as_recorded(shared: Path) -> None:
    """One contract of 100 dollars at 8800: 0.01136364 coins to eight decimals, sold."""
    (row,) = recorded(
        shared / "venues/binance/binance.net/Endpoints/CoinFutures/Trading/GetUserTrades.txt"
    )
    trade = binance_coinm(row, market=COIN, account="main")
    position = fold([trade], contract_of(COIN))
    assert position.size == -1
    assert round(position.basis, 8) == D(row["baseQty"])
    assert position.fees == {"btc": D("0.00000454")}


def test_funding_is_read_when_income_has_some() -> None:
    """Paid is a cost; transfers and commissions are not funding."""
    row = {
        "symbol": "BTCUSDT", "incomeType": "FUNDING_FEE", "income": "-0.375", "asset": "USDT",
        "time": 1570608000000, "tranId": 9689322392, "tradeId": "",
    }  # fmt: skip
    paid = binance_funding(row, market=PERP, account="main")
    assert paid is not None
    assert (paid.kind, paid.cost, paid.tid) == (Kind.FUNDING, D("0.375"), "funding-9689322392")
    assert fold([paid]).funding == {"usdt": D("-0.375")}
    assert binance_funding({**row, "incomeType": "COMMISSION"}, market=PERP, account="m") is None


@pytest.mark.parametrize(
    "name",
    ["kraken/nautilus/crate/http_trades_history.json",
     "kraken/xchange/xchange-kraken/kraken/dto/trading/example-tradehistory-data.json",
     "kraken/kraken.net/JsonResponses/SpotTrading/GetUserTradesAsync.txt"],
)  # fmt: skip
def test_kraken_trades_are_read_when_as_recorded(shared: Path, name: str) -> None:
    """Every row of every recording; value and fee are Kraken's own, in the quote currency."""
    trades = json.loads((shared / "venues" / name).read_text(encoding="utf-8"))["result"]["trades"]
    for tid, row in trades.items():
        trade = kraken_spot(tid, row, market=XBT, account="main")
        sign = 1 if row["type"] == "buy" else -1
        assert (trade.tid, trade.size) == (tid, sign * D(row["vol"]))
        assert (trade.value, trade.cost) == (sign * D(row["cost"]), D(row["fee"]))
        assert abs(trade.time_ns - row["time"] * 1e9) < 1000
        assert trade.time_ns % 100_000 == 0  # no dust of a float


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"symbol": "ETHBTC"}, "was told for"),
        ({"qty": "many"}, "qty"),
        ({"qty": "NaN"}, "not finite"),
        ({"qty": "0"}, "fill of nothing"),
        ({"isBuyer": 7}, "isBuyer"),
        ({"time": None}, "time"),
    ],
)
def test_row_is_refused_when_it_is_wrong(change: dict[str, object], why: str) -> None:
    """With the field that is."""
    row = {
        "symbol": "BNBBTC", "id": 1, "orderId": 2, "price": "4", "qty": "12", "commission": "0",
        "commissionAsset": "BNB", "time": 1499865549590, "isBuyer": True,
    }  # fmt: skip
    with pytest.raises(DataQuality, match=why):
        binance_spot({**row, **change}, market=BNB, account="main")


def test_side_or_time_is_refused_when_it_is_none() -> None:
    """Of Kraken and of Binance futures."""
    row = {"ordertxid": "O", "pair": "XBTUSD", "time": 1.5, "type": "swap", "price": "1",
           "cost": "1", "fee": "0", "vol": "1"}  # fmt: skip
    with pytest.raises(DataQuality, match="neither bought nor sold"):
        kraken_spot("T", row, market=XBT, account="main")
    for time in ("1e999999", "NaN", 1e300):
        with pytest.raises(DataQuality, match="time"):
            kraken_spot("T", {**row, "type": "buy", "time": time}, market=XBT, account="main")
    mine = {"symbol": "BTCUSDT", "id": 1, "orderId": 2, "side": "BUY", "price": "1", "qty": "1",
            "time": 1, "positionSide": "UP"}  # fmt: skip
    with pytest.raises(DataQuality, match="position's side"):
        binance_usdm(mine, market=PERP, account="main")


def test_trades_of_one_millisecond_keep_their_order_when_numbers_have_a_letter() -> None:
    """9 before 10, as Binance's backend names them."""
    keys = [order_key(1, tid) for tid in ("t9", "t10", "t", "tx")]
    assert keys == sorted(keys)
