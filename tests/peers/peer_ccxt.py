"""ccxt and ccxt.pro 4.5.90 against the loopback Binance: public REST calls and streams.

Run by tools/peers.sh in ccxt's own environment, with the venue's HTTP and websocket URLs.
"""

import asyncio
import sys
from urllib.parse import urlsplit

import ccxt.pro

SYMBOL, LINEAR, INVERSE = "BTC/USDT", "BTC/USDT:USDT", "BTC/USD:BTC"


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
    options = {"fetchMargins": False, "fetchMarkets": {"types": ["spot", "linear", "inverse"]}}
    exchange = ccxt.pro.binance({"options": options})
    exchange.has["fetchCurrencies"] = False
    exchange.urls["api"] = redirect(exchange.urls["api"], http, ws)
    # One port: the venue tells its markets apart by path, and so does ccxt, by the word stream.
    exchange.urls["api"]["ws"] |= {"spot": f"{ws}/stream/ws", "inverse": f"{ws}/coinm/ws"}
    try:
        await ask(exchange)
        await watch(exchange)
    finally:
        await exchange.close()


async def ask(exchange):
    """Call REST."""
    markets = await exchange.load_markets()
    assert SYMBOL in markets
    linear = [m for m in markets.values() if m["linear"] and m["future"]]
    inverse = [m for m in markets.values() if m["inverse"] and m["future"]]
    assert len(linear) >= 2, "no quarterly futures of USD-M"
    assert len(inverse) >= 2, "no quarterly futures of COIN-M"
    assert all(m["expiry"] > exchange.milliseconds() for m in linear + inverse)
    for symbol in (SYMBOL, LINEAR, INVERSE, linear[0]["symbol"], inverse[0]["symbol"]):
        assert len(await exchange.fetch_ohlcv(symbol, "1m", limit=10)) == 10
        assert (await exchange.fetch_ticker(symbol))["last"] > 0
        book = await exchange.fetch_order_book(symbol, limit=10)
        assert book["bids"][0][0] < book["asks"][0][0]
        trades = await exchange.fetch_trades(symbol, limit=10)
        assert all(trade["price"] > 0 for trade in trades)
    print("ccxt REST: markets, ohlcv, ticker, order book, trades of spot, perpetuals and futures")
    for symbol in (SYMBOL, LINEAR, INVERSE):
        kind = {"type": "spot"} if symbol == SYMBOL else {}
        names = [symbol]
        assert symbol in await exchange.fetch_tickers(names, kind)
        assert symbol in await exchange.fetch_bids_asks(names, kind)
        assert symbol in await exchange.fetch_last_prices(names, kind)
    for symbol in (LINEAR, INVERSE):
        assert (await exchange.fetch_funding_rate(symbol))["markPrice"] > 0
        assert len(await exchange.fetch_funding_rate_history(symbol, limit=5)) == 5
    assert abs(await exchange.fetch_time() - exchange.milliseconds()) < 60_000
    print("ccxt REST: tickers, bids and asks, last prices, funding rates and their history, time")


async def watch(exchange):
    """Listen to streams."""
    async with asyncio.timeout(90):
        for symbol in (SYMBOL, LINEAR, INVERSE):
            for _ in range(20):
                book = await exchange.watch_order_book(symbol)
                assert book["bids"][0][0] < book["asks"][0][0]
            assert await exchange.watch_trades(symbol)
            assert (await exchange.watch_ticker(symbol))["last"] > 0
            assert await exchange.watch_ohlcv(symbol, "1m")
            assert symbol in await exchange.watch_bids_asks([symbol])
        print("ccxt.pro streams of three markets: order book (20 updates in step), trades, ticker,")
        print("    ohlcv, bids and asks")
        assert (await exchange.watch_mark_price(LINEAR))["markPrice"] > 0
        assert LINEAR in await exchange.watch_mark_prices([LINEAR])
        assert SYMBOL in await exchange.watch_tickers([SYMBOL])
    print("ccxt.pro streams: mark prices, tickers")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
