"""python-kraken-sdk 3.5.1 against the loopback Kraken: signed REST, orders and executions by v2."""

import asyncio
import base64
import sys
import time
from decimal import Decimal

from kraken.exceptions import KrakenOrderMinimumNotMetError
from kraken.spot import Market, SpotWSClient, Trade, User

KEY, SECRET = "alicekey", base64.b64encode(b"a" * 64).decode()


def price_of(market, away):
    """Return a price so far from the best bid."""
    time.sleep(1)  # the venue's limit for public calls
    book = market.get_order_book(pair="XBTUSD", count=1)["XXBTZUSD"]
    return Decimal(book["bids"][0][0]) + away


def rest(http):
    """Orders, amendments, edits, queries, cancels and refusals; every step asserts."""
    market = Market(url=http)
    trade, user = Trade(key=KEY, secret=SECRET, url=http), User(key=KEY, secret=SECRET, url=http)
    low = price_of(market, -400)
    limit = {"ordertype": "limit", "side": "buy", "pair": "XBTUSD", "volume": "0.01"}
    (name,) = trade.create_order(**limit, price=low, truncate=False)["txid"]
    assert name in user.get_open_orders()["open"]
    assert trade.amend_order(txid=name, order_qty="0.02")["amend_id"]
    assert user.get_open_orders()["open"][name]["vol"] == "0.02000000"
    assert user.get_orders_info(txid=name)[name]["descr"]["type"] == "buy"
    assert trade.cancel_order(txid=name)["count"] == 1
    assert user.get_closed_orders()["closed"][name]["status"] == "canceled"
    (sold,) = trade.create_order(
        ordertype="market", side="sell", pair="XBTUSD", volume="0.01"
    )["txid"]  # fmt: skip
    trades = user.get_trades_history()["trades"]
    assert any(row["ordertxid"] == sold for row in trades.values())
    assert user.get_trades_info(txid=next(iter(trades)))
    assert Decimal(user.get_account_balance()["XXBT"]) < 10
    assert trade.cancel_all_orders_after_x(60)["triggerTime"] != "0"
    assert trade.cancel_all_orders_after_x(0)["triggerTime"] == "0"
    assert trade.cancel_all_orders()["count"] == 0
    try:
        trade.create_order(**limit | {"volume": "0.00001"}, price=low)
    except KrakenOrderMinimumNotMetError:
        pass
    else:
        raise AssertionError("an order below the minimum was taken")
    print("python-kraken-sdk REST: placed, queried, cancelled, taken, refused")
    return low


class Client(SpotWSClient):
    """Keeps what comes."""

    def __init__(self, **more):
        super().__init__(**more)
        self.heard, self.answers = [], {}

    async def on_message(self, message):
        """Sort what comes."""
        if message.get("channel") == "executions":
            self.heard += message["data"]
        elif "req_id" in message:
            self.answers[message["req_id"]] = message

    async def ask(self, number, method, **params):
        """Send a request, and wait for its answer."""
        await self.send_message({"method": method, "params": params, "req_id": number})
        while number not in self.answers:
            await asyncio.sleep(0.05)
        return self.answers[number]


async def stream(http, ws, low):
    """A private connection: token, executions, orders by message."""
    client = Client(key=KEY, secret=SECRET, rest_url=http, ws_url=ws, auth_ws_url=ws)
    await client.start()
    async with asyncio.timeout(60):
        await client.subscribe(params={"channel": "executions", "snap_orders": True})
        limit = {"order_type": "limit", "side": "buy", "symbol": "BTC/USD", "order_qty": 0.01}
        placed = await client.ask(1, "add_order", **limit, limit_price=float(low), cl_ord_id="sdk")
        name = placed["result"]["order_id"]
        amended = await client.ask(2, "amend_order", order_id=name, order_qty=0.02)
        assert amended["success"], amended
        gone = await client.ask(3, "cancel_order", order_id=[name])
        assert gone["success"], gone
        while not any(row["exec_type"] == "canceled" for row in client.heard):
            await asyncio.sleep(0.05)
        kinds = [row["exec_type"] for row in client.heard if row["order_id"] == name]
        assert kinds == ["pending_new", "new", "amended", "canceled"], kinds
        refused = await client.ask(4, "cancel_order", cl_ord_id=["sdk"])
        assert refused["error"] == "EOrder:Unknown order", refused
    await client.close()
    print("python-kraken-sdk websocket v2:", ", ".join(kinds))


def main(http, ws):
    """Do both; the first is synchronous, as the library is."""
    low = rest(http)
    asyncio.run(stream(http, ws, low))


main(*sys.argv[1:3])
