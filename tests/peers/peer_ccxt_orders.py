"""ccxt and ccxt.pro 4.5.90 against the loopback Binance: orders and user events of spot."""

import asyncio
import sys

import ccxt.pro
from peer_ccxt import redirect

SYMBOL, LINEAR = "BTC/USDT", "BTC/USDT:USDT"
KEYS = {"apiKey": "alicekey", "secret": "alicesecret"}
TAKEN = 0.001  # at the market: its book is never so thin that it lacks this


async def main(http, ws):
    """Place, query, edit, cancel, and hear of it; every step asserts."""
    options = {"fetchMargins": False, "fetchMarkets": {"types": ["spot", "linear"]}}
    exchange = ccxt.pro.binance({"options": options, **KEYS})
    exchange.has["fetchCurrencies"] = False
    exchange.urls["api"] = redirect(exchange.urls["api"], http, ws)
    try:
        async with asyncio.timeout(60):
            await exchange.load_markets()
            await trade(exchange)
            await refuse(exchange)
            await stream(exchange)
            await futures(exchange)
            await hedge(exchange)
    finally:
        await exchange.close()


async def trade(exchange):
    """REST: what is owned, what is placed, what became of it."""
    before = await exchange.fetch_balance()
    book = await exchange.fetch_order_book(SYMBOL)
    low = book["bids"][0][0] - 500
    placed = await exchange.create_order(SYMBOL, "limit", "buy", 0.01, low)
    assert placed["status"] == "open"
    held = await exchange.fetch_balance()
    assert abs(held["USDT"]["used"] - 0.01 * placed["price"]) < 1e-6
    assert (await exchange.fetch_order(placed["id"], SYMBOL))["status"] == "open"
    assert placed["id"] in {one["id"] for one in await exchange.fetch_open_orders(SYMBOL)}
    edited = await exchange.edit_order(placed["id"], SYMBOL, "limit", "buy", 0.02, low)
    assert edited["id"] != placed["id"]
    assert (await exchange.cancel_order(edited["id"], SYMBOL))["status"] == "canceled"
    taken = await exchange.create_order(SYMBOL, "market", "buy", TAKEN)
    assert (taken["status"], taken["filled"]) == ("closed", TAKEN)
    assert taken["trades"][0]["fee"]["currency"] == "BTC"
    fills = await exchange.fetch_my_trades(SYMBOL)
    assert {fill["order"] for fill in fills} == {taken["id"]}
    after = await exchange.fetch_balance()
    assert after["USDT"]["used"] == 0
    assert abs(before["USDT"]["total"] - after["USDT"]["total"] - taken["cost"]) < 1e-6
    await exchange.create_order(SYMBOL, "limit", "sell", 0.001, book["asks"][0][0] + 500)
    await exchange.cancel_all_orders(SYMBOL)
    assert await exchange.fetch_open_orders(SYMBOL) == []
    print("ccxt REST: placed, queried, edited, cancelled, taken; balances and fills agree")


async def refuse(exchange):
    """What is wrong comes as ccxt's own errors."""
    wrong = ((9, 60000, {}, ccxt.InsufficientFunds), (0.01, 1, {}, ccxt.BadRequest))
    for size, price, params, error in wrong:
        try:
            await exchange.create_order(SYMBOL, "limit", "buy", size, price, params)
        except error as said:
            print(f"    {error.__name__}: {said}")
        else:
            raise AssertionError(f"no {error.__name__}")
    secret, exchange.secret = exchange.secret, "wrong"
    try:
        await exchange.fetch_balance()
    except ccxt.AuthenticationError as said:
        print(f"    AuthenticationError: {said}")
    else:
        raise AssertionError("a wrong signature was taken")
    exchange.secret = secret


async def stream(exchange):
    """ccxt.pro: the user events of the websocket API, and orders by it."""
    book = await exchange.fetch_order_book(SYMBOL)
    await exchange.authenticate({"type": "spot"})
    watching = asyncio.create_task(exchange.watch_orders(SYMBOL))
    fills = asyncio.create_task(exchange.watch_my_trades(SYMBOL))
    balances = asyncio.create_task(exchange.watch_balance())
    placed = await exchange.create_order(SYMBOL, "limit", "buy", 0.01, book["asks"][0][0] + 100)
    (event, *_) = await watching
    assert event["id"] == placed["id"]
    assert (await fills)[0]["order"] == placed["id"]
    assert (await balances)["BTC"]["total"] > 0
    by_ws = await exchange.create_order_ws(SYMBOL, "limit", "buy", 0.01, book["bids"][0][0] - 500)
    assert (await exchange.fetch_order_ws(by_ws["id"], SYMBOL))["status"] == "open"
    assert (await exchange.cancel_order_ws(by_ws["id"], SYMBOL))["status"] == "canceled"
    print("ccxt.pro: orders, fills and balances streamed; an order placed and cancelled by it")


async def futures(exchange):
    """USD-M: orders, positions, balances, and the private stream of a listen key."""
    await exchange.authenticate({"type": "future"})
    watching = asyncio.create_task(exchange.watch_orders(LINEAR))
    book = await exchange.fetch_order_book(LINEAR)
    low = book["bids"][0][0] - 500
    placed = await exchange.create_order(LINEAR, "limit", "buy", 0.01, low, {"postOnly": True})
    (event, *_) = await watching
    assert (event["id"], event["status"]) == (placed["id"], "open")
    assert (await exchange.fetch_order(placed["id"], LINEAR))["status"] == "open"
    await exchange.cancel_order(placed["id"], LINEAR)
    assert await exchange.fetch_open_orders(LINEAR) == []
    await exchange.create_order(LINEAR, "market", "sell", TAKEN)
    (held,) = await exchange.fetch_positions([LINEAR])
    assert (held["side"], held["contracts"]) == ("short", TAKEN)
    await exchange.create_order(LINEAR, "market", "buy", TAKEN, None, {"reduceOnly": True})
    assert [one for one in await exchange.fetch_positions([LINEAR]) if one["contracts"]] == []
    stop = {"stopLossPrice": low - 500}
    waits = await exchange.create_order(LINEAR, "market", "sell", TAKEN, None, stop)
    await exchange.cancel_order(waits["id"], LINEAR, {"trigger": True})
    fills = await exchange.fetch_my_trades(LINEAR)
    assert {fill["side"] for fill in fills} == {"buy", "sell"}
    assert (await exchange.fetch_balance({"type": "future"}))["USDT"]["total"] > 0
    print("ccxt USD-M: placed, heard of, cancelled; a position opened and closed")


async def hedge(exchange):
    """USD-M in hedge mode: a pair is locked, and each side closed; back to one-way mode."""
    await exchange.set_position_mode(True, LINEAR)
    assert (await exchange.fetch_position_mode(LINEAR))["hedged"] is True
    for side, held in (("buy", "LONG"), ("sell", "SHORT")):
        await exchange.create_order(LINEAR, "market", side, TAKEN, None, {"positionSide": held})
    pair = {one["side"]: one["contracts"] for one in await exchange.fetch_positions([LINEAR])}
    assert pair == {"long": TAKEN, "short": TAKEN}
    try:
        await exchange.set_position_mode(False, LINEAR)
        raise AssertionError("the mode was changed while a pair was held")
    except ccxt.pro.ExchangeError as error:
        assert "-4068" in str(error)
    for side, held in (("sell", "LONG"), ("buy", "SHORT")):
        await exchange.create_order(LINEAR, "market", side, TAKEN, None, {"positionSide": held})
    assert await exchange.fetch_positions([LINEAR]) == []
    await exchange.set_position_mode(False, LINEAR)
    print("ccxt USD-M: a pair locked in hedge mode, and closed")


asyncio.run(main(*sys.argv[1:3]))
