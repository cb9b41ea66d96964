"""python-binance 1.0.37 against the loopback Binance: orders and user events of spot."""

import asyncio
import sys
from decimal import Decimal

from binance import AsyncClient, BinanceSocketManager
from binance.exceptions import BinanceAPIException


async def main(http, ws):
    """Place, query, cancel, and hear of it; every step asserts."""
    AsyncClient.WS_API_URL = ws + "/ws-api/v3"
    BinanceSocketManager.STREAM_URL = ws + "/"
    client = AsyncClient("alicekey", "alicesecret")
    BinanceSocketManager.FSTREAM_URL = ws + "/usdm/"
    client.API_URL = http + "/api"
    client.FUTURES_URL = http + "/fapi"
    try:
        async with asyncio.timeout(60):
            await trade(client)
            await stream(client)
            await futures(client)
    finally:
        await client.close_connection()


async def price_of(client, side, away):
    """Return a price so far from the best of a side, as text."""
    book = await client.get_order_book(symbol="BTCUSDT", limit=5)
    return str(Decimal(book[side][0][0]).quantize(Decimal("0.01")) + away)


async def trade(client):
    """REST: orders, tests of orders, queries, cancels, refusals."""
    low = await price_of(client, "bids", -400)
    said = {"symbol": "BTCUSDT", "quantity": "0.01", "price": low}
    assert await client.create_test_order(
        **said, side="BUY", type="LIMIT", timeInForce="GTC"
    ) == {}  # fmt: skip
    placed = await client.order_limit_buy(**said)
    assert placed["status"] == "NEW"
    name = {"symbol": "BTCUSDT", "orderId": placed["orderId"]}
    assert (await client.get_order(**name))["price"] == placed["price"]
    assert len(await client.get_open_orders(symbol="BTCUSDT")) == 1
    assert (await client.cancel_order(**name))["status"] == "CANCELED"
    taken = await client.order_market_sell(symbol="BTCUSDT", quantity="0.001")
    assert taken["status"] == "FILLED"
    assert await client.get_my_trades(symbol="BTCUSDT", orderId=taken["orderId"])
    assert (await client.get_asset_balance(asset="BTC"))["locked"] == "0.00000000"
    assert (await client.get_all_orders(symbol="BTCUSDT"))[-1]["orderId"] == taken["orderId"]
    said = {}
    try:
        await client.order_limit_buy(symbol="BTCUSDT", quantity="0.000001", price=low)
    except BinanceAPIException as error:
        said = {"code": error.code, "msg": error.message}
    assert said == {"code": -1013, "msg": "Filter failure: LOT_SIZE"}
    print("python-binance REST: placed, tested, queried, cancelled, taken, refused")


async def stream(client):
    """The user socket, and orders by the websocket API."""
    async with BinanceSocketManager(client).user_socket() as socket:
        placed = await client.ws_create_order(
            symbol="BTCUSDT", side="BUY", type="LIMIT", timeInForce="GTC", quantity="0.01",
            price=await price_of(client, "bids", -400),
        )  # fmt: skip
        await client.ws_cancel_order(symbol="BTCUSDT", orderId=placed["orderId"])
        heard = []
        while "CANCELED" not in heard:
            event = await socket.recv()
            event = event.get("event", event)
            if event.get("e") == "executionReport" and event["i"] == placed["orderId"]:
                heard.append(event["x"])
        assert heard == ["NEW", "CANCELED"]
    print("python-binance streams: user events; an order placed and cancelled by websocket")


async def futures(client):
    """USD-M: orders, positions, and the private stream of a listen key."""
    async with BinanceSocketManager(client).futures_user_socket() as socket:
        book = await client.futures_order_book(symbol="BTCUSDT", limit=5)
        low = str(Decimal(book["bids"][0][0]) - 400)
        said = {"symbol": "BTCUSDT", "side": "BUY", "quantity": "0.01"}
        placed = await client.futures_create_order(
            **said, type="LIMIT", timeInForce="GTX", price=low
        )
        name = {"symbol": "BTCUSDT", "orderId": placed["orderId"]}
        assert (await client.futures_get_order(**name))["status"] == "NEW"
        assert len(await client.futures_get_open_orders(symbol="BTCUSDT")) == 1
        assert (await client.futures_cancel_order(**name))["status"] == "CANCELED"
        await client.futures_create_order(**said, type="MARKET")
        (held,) = await client.futures_position_information(symbol="BTCUSDT")
        assert Decimal(held["positionAmt"]) == Decimal("0.01")
        heard = []
        while "ACCOUNT_UPDATE" not in heard:
            heard.append((await socket.recv())["e"])
        assert heard[:3] == ["ORDER_TRADE_UPDATE", "ORDER_TRADE_UPDATE", "ORDER_TRADE_UPDATE"]
        assert await client.futures_account_trades(symbol="BTCUSDT")
        assert (await client.futures_account())["assets"]
        assert (await client.futures_get_position_mode()) == {"dualSidePosition": False}
    print("python-binance USD-M: placed, queried, cancelled, taken; heard of by its listen key")


asyncio.run(main(*sys.argv[1:3]))
