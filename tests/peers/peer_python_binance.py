"""python-binance 1.0.37 against the loopback Binance: public REST calls and streams."""

import asyncio
import sys

from binance import AsyncClient, BinanceSocketManager


async def main(http, ws):
    """Call and listen; every step asserts."""
    BinanceSocketManager.STREAM_URL = ws + "/"
    client = AsyncClient()
    client.API_URL = http + "/api"
    client.FUTURES_URL = http + "/fapi"
    client.FUTURES_COIN_URL = http + "/dapi"
    try:
        assert await client.ping() == {}
        assert (await client.get_server_time())["serverTime"] > 0
        assert (await client.get_exchange_info())["symbols"]
        assert len(await client.get_klines(symbol="BTCUSDT", interval="1m")) == 500
        assert (await client.get_order_book(symbol="BTCUSDT"))["bids"]
        assert await client.get_recent_trades(symbol="BTCUSDT")
        assert await client.get_symbol_ticker(symbol="BTCUSDT")
        assert await client.get_orderbook_ticker(symbol="BTCUSDT")
        assert (await client.futures_exchange_info())["symbols"]
        assert await client.futures_klines(symbol="BTCUSDT", interval="1m")
        assert await client.futures_coin_klines(symbol="BTCUSD_PERP", interval="1m")
        print("python-binance REST: spot, USD-M, COIN-M")
        streams = ["btcusdt@bookTicker", "btcusdt@aggTrade", "btcusdt@depth@100ms"]
        seen = set()
        async with BinanceSocketManager(client).multiplex_socket(streams) as socket:
            async with asyncio.timeout(30):
                while len(seen) < len(streams):
                    seen.add((await socket.recv())["stream"])
        print("python-binance streams:", ", ".join(sorted(seen)))
    finally:
        await client.close_connection()


asyncio.run(main(*sys.argv[1:3]))
