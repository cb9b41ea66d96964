"""python-binance 1.0.37 against the loopback Binance: public REST calls and streams."""

import asyncio
import sys

from binance import AsyncClient, BinanceSocketManager


async def main(http, ws):
    """Call and listen; every step asserts."""
    BinanceSocketManager.STREAM_URL = ws + "/"
    BinanceSocketManager.FSTREAM_URL = ws + "/usdm/"
    BinanceSocketManager.DSTREAM_URL = ws + "/coinm/"
    client = AsyncClient()
    client.API_URL = http + "/api"
    client.FUTURES_URL = http + "/fapi"
    client.FUTURES_COIN_URL = http + "/dapi"
    try:
        await ask_spot(client)
        await ask_futures(client)
        await listen(BinanceSocketManager(client))
    finally:
        await client.close_connection()


async def ask_spot(client):
    """Call spot's REST."""
    assert await client.ping() == {}
    assert (await client.get_server_time())["serverTime"] > 0
    assert (await client.get_exchange_info())["symbols"]
    assert (await client.get_symbol_info("BTCUSDT"))["status"] == "TRADING"
    assert len(await client.get_klines(symbol="BTCUSDT", interval="1m")) == 500
    assert (await client.get_order_book(symbol="BTCUSDT", limit=5000))["bids"]
    assert await client.get_recent_trades(symbol="BTCUSDT")
    assert await client.get_historical_trades(symbol="BTCUSDT", limit=5)
    assert await client.get_aggregate_trades(symbol="BTCUSDT", limit=5)
    assert (await client.get_avg_price(symbol="BTCUSDT"))["mins"] == 5
    for call in (client.get_symbol_ticker, client.get_orderbook_ticker, client.get_ticker):
        assert (await call(symbol="BTCUSDT"))["symbol"] == "BTCUSDT"
        assert len(await call()) == 3
        assert len(await call(symbols='["BTCUSDT","ETHUSDT"]')) == 2
    print("python-binance REST: spot, with tickers of one, some and all markets")


async def ask_futures(client):
    """Call the REST of both futures markets."""
    for prefix, symbol in (("futures_", "BTCUSDT"), ("futures_coin_", "BTCUSD_PERP")):

        async def call(name, prefix=prefix, **params):
            return await getattr(client, prefix + name)(**params)

        listed = (await call("exchange_info"))["symbols"]
        dated = [x["symbol"] for x in listed if x["contractType"].endswith("_QUARTER")]
        assert len(dated) == 4
        for name in (symbol, dated[0]):
            assert await call("klines", symbol=name, interval="1m")
            assert (await call("order_book", symbol=name, limit=1000))["bids"]
            assert await call("mark_price", symbol=name)
            assert isinstance(await call("recent_trades", symbol=name), list)
            assert isinstance(await call("aggregate_trades", symbol=name), list)
            assert isinstance(await call("historical_trades", symbol=name), list)
            for ticker in ("ticker", "symbol_ticker", "orderbook_ticker"):
                said = await call(ticker, symbol=name)
                assert (said if isinstance(said, dict) else said[0])["symbol"] == name
        assert len(await call("symbol_ticker")) == len(listed)
        assert len(await call("mark_price")) == len(listed)
        assert await call("funding_rate", symbol=symbol)
    print("python-binance REST: USD-M and COIN-M, perpetual and quarterly")


async def listen(manager):
    """Listen to streams of the three markets."""
    streams = {
        "btcusdt@bookTicker", "btcusdt@aggTrade", "btcusdt@depth@100ms", "btcusdt@depth5",
        "btcusdt@depth20@100ms", "btcusdt@kline_1m", "!miniTicker@arr", "!ticker@arr",
    }  # fmt: skip
    await hear("spot", manager.multiplex_socket(sorted(streams)), streams)
    futures = {
        "btcusdt@aggTrade", "btcusdt@markPrice@1s", "!markPrice@arr@1s", "!miniTicker@arr",
        "!bookTicker", "btcusdt@depth10@100ms",
    }  # fmt: skip
    await hear("USD-M", manager.futures_multiplex_socket(sorted(futures)), futures)


async def hear(what, opening, streams):
    """Wait until every stream has brought something."""
    seen = set()
    async with opening as socket, asyncio.timeout(30):
        while seen != streams:
            seen.add((await socket.recv())["stream"])
    print(f"python-binance streams, {what}:", ", ".join(sorted(seen)))


asyncio.run(main(*sys.argv[1:3]))
