"""ccxt and ccxt.pro 4.5.90 against the loopback Binance: public REST calls and streams.

Run by tools/peers.sh in ccxt's own environment, with the venue's HTTP and websocket URLs.
"""

import asyncio
import sys
from urllib.parse import urlsplit

import ccxt.pro

SYMBOL = "BTC/USDT"


def redirect(node, http, ws):
    """Point every URL of a tree at the loopback venue."""
    if isinstance(node, dict):
        return {key: redirect(value, http, ws) for key, value in node.items()}
    if isinstance(node, str):
        parts = urlsplit(node)
        return (ws if parts.scheme.startswith("ws") else http) + parts.path
    return node


async def main(http, ws):
    """Call and watch; every step asserts."""
    options = {"fetchMargins": False, "fetchMarkets": {"types": ["spot"]}}
    exchange = ccxt.pro.binance({"options": options})
    exchange.has["fetchCurrencies"] = False
    exchange.urls["api"] = redirect(exchange.urls["api"], http, ws)
    try:
        assert SYMBOL in await exchange.load_markets()
        assert len(await exchange.fetch_ohlcv(SYMBOL, "1m", limit=10)) == 10
        assert await exchange.fetch_trades(SYMBOL, limit=10)
        assert (await exchange.fetch_ticker(SYMBOL))["last"] > 0
        book = await exchange.fetch_order_book(SYMBOL, limit=10)
        assert book["bids"][0][0] < book["asks"][0][0]
        print("ccxt REST: markets, ohlcv, trades, ticker, order book")
        async with asyncio.timeout(40):
            for _ in range(20):
                book = await exchange.watch_order_book(SYMBOL)
                assert book["bids"][0][0] < book["asks"][0][0]
            assert await exchange.watch_trades(SYMBOL)
            assert (await exchange.watch_ticker(SYMBOL))["last"] > 0
            assert await exchange.watch_ohlcv(SYMBOL, "1m")
        print("ccxt.pro streams: order book (20 updates in step), trades, ticker, ohlcv")
    finally:
        await exchange.close()


asyncio.run(main(*sys.argv[1:3]))
