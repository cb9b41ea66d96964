"""python-kraken-sdk 3.5.1 against the loopback Kraken: public REST calls and websocket v2."""

import asyncio
import sys
from collections import Counter

from kraken.spot import Market, SpotWSClient


async def main(http, ws):
    """Call and listen; every step asserts."""
    market = Market(url=http)
    pair = {"pair": "XBTUSD"}
    calls = {  # how a call is made, and what must be in its answer
        "get_system_status": ({}, "status"), "get_assets": ({"assets": "XBT"}, "XXBT"),
        "get_asset_pairs": ({}, "XXBTZUSD"), "get_ticker": (pair, "XXBTZUSD"),
        "get_ohlc": ({**pair, "interval": 1}, "XXBTZUSD"), "get_order_book": (pair, "XXBTZUSD"),
        "get_recent_trades": (pair, "XXBTZUSD"), "get_recent_spreads": (pair, "XXBTZUSD"),
    }  # fmt: skip
    for name, (params, key) in calls.items():
        assert getattr(market, name)(**params)[key], name
        await asyncio.sleep(1)  # the venue's limit, which it keeps here, too
    print("python-kraken-sdk REST:", ", ".join(calls))
    seen = Counter()

    class Client(SpotWSClient):
        async def on_message(self, message):
            seen[message.get("channel") or message.get("method")] += 1

    client = Client(ws_url=ws, auth_ws_url=ws)
    await client.start()
    await client.subscribe(params={"channel": "instrument"})
    for channel in ("book", "trade", "ticker", "ohlc"):
        params = {"channel": channel, "symbol": ["BTC/USD"]}
        await client.subscribe(params=params | ({"depth": 10} if channel == "book" else {}))
    async with asyncio.timeout(30):
        wanted = ("book", "trade", "ticker", "ohlc", "instrument", "status", "heartbeat")
        while not all(seen[channel] for channel in wanted):
            await asyncio.sleep(0.1)
    await client.close()
    print("python-kraken-sdk websocket v2:", dict(seen))


asyncio.run(main(*sys.argv[1:3]))
