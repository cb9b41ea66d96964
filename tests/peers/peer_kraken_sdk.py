"""python-kraken-sdk 3.5.1 against the loopback Kraken: public REST calls and websocket v2."""

import asyncio
import sys
from collections import Counter

from kraken.spot import Market, SpotWSClient


async def main(http, ws):
    """Call and listen; every step asserts."""
    market = Market(url=http)
    assert "XXBTZUSD" in market.get_asset_pairs()
    assert len(market.get_ohlc(pair="XBTUSD", interval=1)["XXBTZUSD"]) > 100
    assert market.get_ticker(pair="XBTUSD")
    assert market.get_order_book(pair="XBTUSD")
    print("python-kraken-sdk REST: asset pairs, ohlc, ticker, order book")
    seen = Counter()

    class Client(SpotWSClient):
        async def on_message(self, message):
            seen[message.get("channel") or message.get("method")] += 1

    client = Client(ws_url=ws, auth_ws_url=ws)
    await client.start()
    for channel in ("book", "trade", "ticker", "ohlc"):
        params = {"channel": channel, "symbol": ["BTC/USD"]}
        await client.subscribe(params=params | ({"depth": 10} if channel == "book" else {}))
    async with asyncio.timeout(30):
        while not all(seen[channel] for channel in ("book", "trade", "ticker", "ohlc")):
            await asyncio.sleep(0.1)
    await client.close()
    print("python-kraken-sdk websocket v2:", dict(seen))


asyncio.run(main(*sys.argv[1:3]))
