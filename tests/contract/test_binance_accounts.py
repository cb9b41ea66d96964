"""The loopback Binance's account side: signatures, orders, balances, user events, faults."""

from __future__ import annotations

import base64
import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
from account_client import ALICE, Trader, listening, loopback, top_of
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from piker.clock import wall_ns
from piker.errors import ConfigError
from piker.log import Secret
from piker.testing.accounts import AccountSpec, account_of, load_accounts
from piker.testing.binance_account_auth import is_signed, payload_of, socket_payload
from piker.testing.engine import BUY
from piker.testing.faults import Fault
from piker.testing.requests import Request


# -- who asks --------------------------------------------------------------------------------
def test_vectors_hold_when_signatures_are_checked(shared: Path) -> None:
    """Every Binance vector: its signature is right, and wrong once a byte is another."""
    vectors = json.loads((shared / "venues/auth-vectors/auth_vectors.json").read_text())
    own = [vector for vector in vectors if vector["venue"] == "binance"]
    assert len(own) >= 2
    for vector in own:
        spec = AccountSpec(name="x", key=vector["api_key"], secret=Secret(vector["secret"]))
        payload = vector["payload"].encode()
        assert is_signed(spec, payload, vector["signature"])
        assert is_signed(spec, payload, vector["signature"].upper())
        assert not is_signed(spec, payload + b"0", vector["signature"])
        query = f"{vector['payload']}&signature={vector['signature']}"
        for target, body in ((f"/x?{query}", b""), ("/x", query.encode())):
            signed, params = payload_of(Request("POST", "/x", {}, {}, body=body, target=target))
            assert signed == payload
            assert params["signature"] == vector["signature"]


async def test_venues_own_codes_are_told_when_a_request_proves_nothing() -> None:
    """No key, an unknown one, a wrong signature, missing and stale times, no permission."""
    async with loopback() as (_, alice, _, carol):
        path, now = "/api/v3/account", wall_ns() // 1_000_000
        nobody = Trader(alice.port, AccountSpec(name="x", key=""))
        assert await nobody.send("GET", path, "") == (
            401, {"code": -2014, "msg": "API-key format invalid."},
        )  # fmt: skip
        nobody = Trader(alice.port, AccountSpec(name="x", key="nobody", secret=Secret("x")))
        status, body = await nobody.ask("GET", path)
        assert (status, body["code"]) == (401, -2015)
        status, body = await alice.send("GET", path, f"timestamp={now}&signature={'0' * 64}")
        assert (status, body["code"]) == (400, -1022)
        status, body = await alice.send("GET", path, f"timestamp={now}")
        assert body["code"] == -1102
        for skew, window, words in ((-6000, None, "outside of"), (2000, None, "1000ms ahead"),
                                    (-6000, 10_000, None), (-100, 10, "outside of")):  # fmt: skip
            alice.skew_ms = skew
            more = {} if window is None else {"recvWindow": window}
            status, body = await alice.ask("GET", path, **more)
            assert status == (200 if words is None else 400)
            assert words is None or (body["code"] == -1021 and words in body["msg"])
        alice.skew_ms = 0
        assert (await alice.ask("GET", path, recvWindow=60_001))[1]["code"] == -1131
        assert (await carol.order("BUY", 100, 1))[1]["code"] == -2015
        _, rights = await carol.ask("GET", "/sapi/v1/account/apiRestrictions")
        assert rights["enableReading"]
        assert not rights["enableSpotAndMarginTrading"]


async def test_a_body_and_a_query_are_signed_one_after_the_other_when_both_are_sent() -> None:
    """As sent, percent-encoding and all; the signature may stand in either."""
    async with loopback() as (venue, alice, _, _):
        bid, _ = top_of(venue)
        query = "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC&newClientOrderId=a%2Db"
        body = f"quantity=1&price={bid - 100}&timestamp={wall_ns() // 1_000_000}"
        made = alice.sign(query + body)
        status, said = await alice.send("POST", "/api/v3/order", query, f"{body}&signature={made}")
        assert (status, said["clientOrderId"]) == (200, "a-b")
        made = alice.sign(body + query)
        status, said = await alice.send("POST", "/api/v3/order", query, f"{body}&signature={made}")
        assert said["code"] == -1022


async def test_ed25519_keys_may_log_on_when_they_sign() -> None:
    """A base64 signature, percent-encoded in REST; session.logon of the websocket API."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    dora = account_of(f"dora:dorakey:ed25519={public.decode()}")
    async with loopback(accounts=(ALICE, dora)) as (_, alice, trader):
        text = f"timestamp={wall_ns() // 1_000_000}"
        made = quote(base64.b64encode(key.sign(text.encode())).decode(), safe="")
        status, _ = await trader.send("GET", "/api/v3/account", f"{text}&signature={made}")
        assert status == 200
        status, _ = await trader.send("GET", "/api/v3/account", f"{text}0&signature={made}")
        assert status == 400
        async with listening(alice.port, ALICE) as (_, ask):
            assert (await ask("session.logon"))["status"] == 401  # HMAC keys can not
            params = {"apiKey": "dorakey", "timestamp": wall_ns() // 1_000_000}
            payload = socket_payload({k: str(v) for k, v in params.items()})
            made = base64.b64encode(key.sign(payload)).decode()
            said = await ask("session.logon", signed=False, **params, signature=made)
            assert said["result"]["apiKey"] == "dorakey"
            now = wall_ns() // 1_000_000
            said = await ask("account.status", signed=False, timestamp=now)
            assert said["result"]["canTrade"]


# -- orders ----------------------------------------------------------------------------------
async def test_an_order_is_matched_booked_and_told_when_two_accounts_trade() -> None:
    """Maker and taker, each fee from what is received; no satoshi is made or lost."""
    async with loopback() as (venue, alice, bob, _):
        bid, ask = top_of(venue)
        price = (bid + ask) / 2 // Decimal("0.01") * Decimal("0.01")
        assert bid < price < ask
        async with listening(alice.port, ALICE) as (wait, _):
            status, body = await alice.order("BUY", price, "0.5", newClientOrderId="first")
            assert (status, body["status"], body["fills"]) == (200, "NEW", [])
            assert (await alice.balances())["USDT"] == (1_000_000 - price / 2, price / 2)
            status, body = await bob.order("SELL", price, "0.2")
            assert (status, body["status"]) == (200, "FILLED")
            (fill,) = body["fills"]
            assert Decimal(fill["price"]) == price
            assert Decimal(fill["commission"]) == price * Decimal("0.0002")
            events = await wait(4)
            kinds = [(e["e"], e.get("x"), e.get("X")) for e in events]
            moved = ("outboundAccountPosition", None, None)
            assert kinds == [
                ("executionReport", "NEW", "NEW"), moved,
                ("executionReport", "TRADE", "PARTIALLY_FILLED"), moved,
            ]  # fmt: skip
            trade = events[2]
            assert (trade["c"], trade["m"], trade["t"]) == ("first", True, fill["tradeId"])
            assert (trade["l"], trade["n"], trade["N"]) == ("0.20000000", "0.00020000", "BTC")
            status, body = await alice.ask(
                "DELETE", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="first"
            )
            assert (body["status"], body["executedQty"]) == ("CANCELED", "0.20000000")
            events = await wait(6)
            assert (events[4]["x"], events[4]["C"]) == ("CANCELED", "first")
            assert events[4]["c"] == body["clientOrderId"] != "first"
        mine, theirs = await alice.balances(), await bob.balances()
        worth = price * Decimal("0.2")
        assert mine["USDT"] == (1_000_000 - worth, 0)
        assert mine["BTC"] == (Decimal("10.1998"), 0)
        assert theirs["USDT"] == (100_000 + worth * Decimal("0.999"), 0)
        assert theirs["BTC"] == (Decimal("4.8"), 0)
        _, rows = await alice.ask("GET", "/api/v3/myTrades", symbol="BTCUSDT")
        assert [(row["qty"], row["isMaker"]) for row in rows] == [("0.20000000", True)]


async def test_the_flow_fills_a_resting_order_when_it_trades_there() -> None:
    """By price and time, among the flow's own orders; the tape says the same trades."""
    async with loopback(rate=400) as (venue, alice, _, _):
        async with listening(alice.port, ALICE) as (wait, _):
            _bid, ask = top_of(venue)
            _, body = await alice.order("SELL", ask, "0.001")
            events = await wait(2)
            with trio.fail_after(20):
                while not any(e.get("x") == "TRADE" for e in events):
                    events = await wait(len(events) + 1)
            fill = next(e for e in events if e.get("x") == "TRADE")
            assert fill["i"] == body["orderId"]
            tape = {
                trade.number: trade for trade in venue.listings["spot", "BTCUSDT"].market.trades
            }
            assert f"{tape[fill['t']].price:.8f}" == fill["L"]
            assert tape[fill["t"]].size >= float(fill["l"]) - 1e-12


async def test_kinds_and_times_in_force_do_as_they_say_when_the_book_is_thin() -> None:
    """IOC and FOK, market by base and by quote, post-only, stops; nothing stays locked."""
    async with loopback() as (venue, alice, _, _):
        (_bid, ask), before = top_of(venue), await alice.balances()
        _, body = await alice.order("BUY", ask, "1", timeInForce="IOC")
        assert body["status"] == "EXPIRED"
        assert 0 < Decimal(body["executedQty"]) < 1
        _, body = await alice.order("BUY", top_of(venue)[1], "9", timeInForce="FOK")
        assert (body["status"], body["executedQty"]) == ("EXPIRED", "0.00000000")
        _, body = await alice.order("BUY", ask + 500, "1", type="LIMIT_MAKER", timeInForce=None)
        assert body == {"code": -2010, "msg": "Order would immediately match and take."}
        market = {"symbol": "BTCUSDT", "type": "MARKET"}
        path = "/api/v3/order"
        _, body = await alice.ask("POST", path, **market, side="BUY", quoteOrderQty=300)
        assert body["status"] == "FILLED"
        assert 299 < Decimal(body["cummulativeQuoteQty"]) <= 300
        _, body = await alice.ask("POST", path, **market, side="SELL", quantity="0.01")
        assert body["status"] == "FILLED"
        worth = sum(Decimal(f["price"]) * Decimal(f["qty"]) for f in body["fills"])
        assert worth == Decimal(body["cummulativeQuoteQty"])
        after = await alice.balances()
        assert after["USDT"][1] == after["BTC"][1] == 0
        _, rows = await alice.ask("GET", "/api/v3/myTrades", symbol="BTCUSDT")
        bought = sum(Decimal(r["qty"]) - Decimal(r["commission"]) for r in rows if r["isBuyer"])
        assert after["BTC"][0] == before["BTC"][0] + bought - Decimal("0.01")


async def test_a_stop_waits_and_is_sent_when_the_market_trades_there() -> None:
    """STOP_LOSS_LIMIT of a buy: waits unseen, then rests or trades as a limit order."""
    async with loopback() as (venue, alice, bob, _):
        _, ask = top_of(venue)
        stop = ask + 1
        more = {"type": "STOP_LOSS_LIMIT", "stopPrice": stop, "newOrderRespType": "RESULT"}
        _, body = await alice.order("BUY", stop + 50, "0.01", **more)
        assert (body["status"], "workingTime" in body) == ("NEW", False)
        _, refused = await alice.order("BUY", ask, "0.01", **more | {"stopPrice": ask - 500})
        assert refused["msg"] == "Order would trigger immediately."
        size = venue.listings["spot", "BTCUSDT"].market.engine.takeable(BUY, int((stop + 40) * 100))
        lots = sum(one for _, one in size) + 1
        await bob.order("BUY", stop + 40, lots * Decimal("0.00001"), timeInForce="IOC")
        _, row = await alice.ask("GET", "/api/v3/order", symbol="BTCUSDT", orderId=body["orderId"])
        assert row["isWorking"]


REFUSALS = (
    ({"price": "60000.001"}, "Filter failure: PRICE_FILTER"),
    ({"quantity": "0.000001"}, "Filter failure: LOT_SIZE"),
    ({"quantity": "0.000015"}, "Filter failure: LOT_SIZE"),
    ({"price": "1", "quantity": "1"}, "Filter failure: NOTIONAL"),
    ({"quantity": "0.123456789"}, "Parameter 'quantity' has too much precision."),
    ({"quantity": "NaN"}, "Illegal characters found in parameter 'quantity'"),
    ({"quantity": "-1"}, "Illegal characters found in parameter 'quantity'"),
    ({"side": "HOLD"}, "Invalid side."),
    ({"type": "ICEBERG"}, "Invalid orderType."),
    ({"timeInForce": "GTX"}, "Invalid timeInForce."),
    ({"timeInForce": None}, "Mandatory parameter 'timeInForce' was not sent"),
    ({"symbol": "NOPE"}, "Invalid symbol."),
    ({"stopPrice": "1"}, "Parameter 'stopPrice' sent when not required."),
    ({"newClientOrderId": "a b"}, "Illegal characters found in parameter 'newClientOrderId'"),
    ({"price": "999999", "quantity": "8"}, "Account has insufficient balance"),
)


async def test_a_bad_order_is_refused_in_the_venues_words_when_it_is_sent() -> None:
    """Filters and parameters by code and text; nothing is locked, nothing is open."""
    async with loopback() as (_, alice, _, _):
        before = await alice.balances()
        for wrong, words in REFUSALS:
            said = {"side": "BUY", "price": "50000", "size": "0.1"} | wrong
            status, body = await alice.order(**said)
            assert status == 400, wrong
            assert body["msg"].startswith(words), (wrong, body)
        assert await alice.balances() == before
        assert (await alice.ask("GET", "/api/v3/openOrders"))[1] == []


async def test_client_ids_are_unique_among_open_orders_when_they_come_again() -> None:
    """-2010 while it is open; free again once it is not."""
    async with loopback() as (venue, alice, bob, _):
        price = top_of(venue)[0] - 1000
        for expected in (200, 400):
            status, body = await alice.order("BUY", price, "0.01", newClientOrderId="mine")
            assert status == expected
        assert body == {"code": -2010, "msg": "Duplicate order sent."}
        assert (await bob.order("BUY", price, "0.01", newClientOrderId="mine"))[0] == 200
        status, body = await alice.ask("DELETE", "/api/v3/openOrders", symbol="BTCUSDT")
        assert [row["origClientOrderId"] for row in body] == ["mine"]
        assert (await alice.order("BUY", price, "0.01", newClientOrderId="mine"))[0] == 200
        _, body = await alice.ask("DELETE", "/api/v3/order", symbol="BTCUSDT", orderId=1)
        assert body == {"code": -2011, "msg": "Unknown order sent."}
        _, body = await alice.ask("GET", "/api/v3/order", symbol="BTCUSDT", orderId=1)
        assert body == {"code": -2013, "msg": "Order does not exist."}
        _, rows = await alice.ask("GET", "/api/v3/allOrders", symbol="BTCUSDT")
        assert [row["status"] for row in rows] == ["CANCELED", "NEW"]


async def test_an_amendment_keeps_the_place_when_an_order_shrinks() -> None:
    """keepPriority: first in the queue still; what it held more is given back."""
    async with loopback() as (venue, alice, bob, _):
        bid, _ask = top_of(venue)
        price = bid + Decimal("0.01")
        _, first = await alice.order("BUY", price, "0.5")
        await bob.order("BUY", price, "0.5")
        said = {"symbol": "BTCUSDT", "orderId": first["orderId"], "newClientOrderId": "less"}
        path = "/api/v3/order/amend/keepPriority"
        status, body = await alice.ask("PUT", path, **said, newQty="0.3")
        amended = body["amendedOrder"]
        assert (status, amended["qty"], amended["clientOrderId"]) == (200, "0.30000000", "less")
        assert (await alice.balances())["USDT"][1] == price * Decimal("0.3")
        assert (await alice.ask("PUT", path, **said, newQty="0.4"))[1]["code"] == -2038
        await bob.order("SELL", price, "0.3", timeInForce="IOC")
        _, row = await alice.ask("GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="less")
        assert row["status"] == "FILLED"


async def test_both_halves_are_told_when_an_order_is_replaced() -> None:
    """-2022 where nothing was done, 409 and -2021 where one half was."""
    async with loopback() as (venue, alice, _, _):
        price = top_of(venue)[0] - 1000
        _, old = await alice.order("BUY", price, "0.01")
        new = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC",
               "quantity": "0.02", "price": price,
               "cancelReplaceMode": "STOP_ON_FAILURE"}  # fmt: skip
        path = "/api/v3/order/cancelReplace"
        status, body = await alice.ask("POST", path, **new, cancelOrderId=old["orderId"])
        assert (status, body["cancelResult"], body["newOrderResult"]) == (200, *["SUCCESS"] * 2)
        newer = body["newOrderResponse"]["orderId"]
        status, body = await alice.ask("POST", path, **new, cancelOrderId=old["orderId"])
        assert (status, body["code"]) == (400, -2022)
        assert body["data"]["newOrderResult"] == "NOT_ATTEMPTED"
        many = new | {"quantity": "9000"}
        status, body = await alice.ask("POST", path, **many, cancelOrderId=newer)
        assert body["code"] == -1013  # wrong by itself: nothing is cancelled
        many = new | {"quantity": "90"}
        status, body = await alice.ask("POST", path, **many, cancelOrderId=newer)
        assert (status, body["code"]) == (409, -2021)
        assert body["data"]["newOrderResponse"]["code"] == -2010
        assert (await alice.ask("GET", "/api/v3/openOrders"))[1] == []


async def test_orders_are_counted_and_violations_shown_when_there_are_too_many() -> None:
    """100 in ten seconds; the count is told in headers, and -1015 with 429 beyond."""
    async with loopback() as (venue, alice, bob, _):
        statuses = [(await alice.order("BUY", "1", "1"))[0] for _ in range(101)]
        if statuses[-1] == 400:  # ten seconds began anew in between
            statuses += [(await alice.order("BUY", "1", "1"))[0] for _ in range(100)]
        assert set(statuses) == {400, 429}
        assert int(alice.headers["x-mbx-order-count-10s"]) >= 100
        assert venue.gate.stats()["violations"]["ORDERS"] >= 1
        _, body = await alice.order("BUY", "1", "1")
        assert body["code"] in (-1015, -1013)
        assert (await bob.order("BUY", "1", "1"))[0] == 400
        _, rows = await bob.ask("GET", "/api/v3/rateLimit/order")
        assert [row["count"] for row in rows] == [1, 1]


async def test_the_websocket_api_does_the_same_when_orders_come_by_it() -> None:
    """Place, query, amend, cancel; envelopes, limits, refusals, market data."""
    async with loopback() as (venue, alice, _, _):
        async with listening(alice.port, ALICE) as (wait, ask):
            price = str(top_of(venue)[0] - 500)
            order = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC",
                     "quantity": "0.01", "price": price}  # fmt: skip
            assert (await ask("order.test", **order))["result"] == {}
            said = await ask("order.place", **order, newClientOrderId="ws-1")
            assert said["status"] == 200
            assert said["rateLimits"][0]["rateLimitType"] == "REQUEST_WEIGHT"
            again = await ask("order.place", **order, newClientOrderId="ws-1")
            assert (again["status"], again["error"]["code"]) == (400, -2010)
            rows = (await ask("openOrders.status", symbol="BTCUSDT"))["result"]
            assert [row["clientOrderId"] for row in rows] == ["ws-1"]
            done = await ask("order.cancel", symbol="BTCUSDT", origClientOrderId="ws-1")
            assert done["result"]["status"] == "CANCELED"
            assert [e["x"] for e in await wait(4) if "x" in e] == ["NEW", "CANCELED"]
            depth = await ask("depth", signed=False, symbol="BTCUSDT", limit=5)
            assert len(depth["result"]["bids"]) == 5
            assert (await ask("no.such", signed=False))["status"] == 400
            double = await ask("userDataStream.subscribe.signature")
            assert double["error"]["code"] == -2035
            assert (await ask("session.subscriptions", signed=False))["result"] == [
                {"subscriptionId": 0}
            ]
            assert (await ask("userDataStream.unsubscribe", signed=False))["result"] == {}
            await alice.order("BUY", price, "0.01")
            assert len(await wait(4)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_balances_are_what_the_fills_say_when_a_session_is_at_random(seed: int) -> None:
    """300 orders, cancels and amendments of two accounts in a lively market: no digit is off."""
    dice = random.Random(seed)
    async with loopback(rate=300, limits=False, seed=seed) as (venue, alice, bob, _):
        begun = {t.spec.name: await t.balances() for t in (alice, bob)}
        for _ in range(300):
            await one_deed(dice, venue, dice.choice((alice, bob)))
        venue.rate = 0.0  # a quiet moment
        for trader in (alice, bob):
            now = await trader.balances()
            await check_balances(trader, begun[trader.spec.name], now)
            await trader.ask("DELETE", "/api/v3/openOrders", symbol="BTCUSDT")
            assert all(locked == 0 for _, locked in (await trader.balances()).values())


async def one_deed(dice: random.Random, venue: Any, trader: Trader) -> None:
    """Do something that a trader might, near the best prices."""
    roll, side = dice.random(), dice.choice(("BUY", "SELL"))
    best = top_of(venue)[side == "BUY"]
    price = best + dice.randrange(-3000, 3000) * Decimal("0.01")
    size = dice.randrange(20, 2000) * Decimal("0.00001")
    symbol = {"symbol": "BTCUSDT"}
    if roll < 0.6:
        await trader.order(side, price, size, timeInForce=dice.choice(("GTC", "GTC", "IOC", "FOK")))
    elif roll < 0.75:
        said = {"side": side, "type": "MARKET", "quantity": size}
        await trader.ask("POST", "/api/v3/order", **symbol, **said)
    elif roll < 0.85:
        kind = dice.choice(("STOP_LOSS", "TAKE_PROFIT", "STOP_LOSS_LIMIT"))
        priced = {} if kind != "STOP_LOSS_LIMIT" else {"price": price, "timeInForce": "GTC"}
        said = {"side": side, "type": kind, "quantity": size, "stopPrice": price, **priced}
        await trader.ask("POST", "/api/v3/order", **symbol, **said)
    else:
        _, rows = await trader.ask("GET", "/api/v3/openOrders", **symbol)
        if rows:
            name = symbol | {"orderId": dice.choice(rows)["orderId"]}
            if dice.random() < 0.5:
                await trader.ask("DELETE", "/api/v3/order", **name)
            else:
                path = "/api/v3/order/amend/keepPriority"
                await trader.ask("PUT", path, **name, newQty=size)


async def check_balances(trader: Trader, before: Any, now: Any) -> None:
    """Hold the balances against the fills, and what is locked against the open orders."""
    _, fills = await trader.ask("GET", "/api/v3/myTrades", symbol="BTCUSDT", limit=1000, fromId=0)
    assert 20 < len(fills) < 1000
    change = {"BTC": Decimal(0), "USDT": Decimal(0)}
    for row in fills:
        sign = 1 if row["isBuyer"] else -1
        change["BTC"] += sign * Decimal(row["qty"])
        change["USDT"] -= sign * Decimal(row["quoteQty"])
        change[row["commissionAsset"]] -= Decimal(row["commission"])
    _, rows = await trader.ask("GET", "/api/v3/openOrders", symbol="BTCUSDT")
    held = {"BTC": Decimal(0), "USDT": Decimal(0)}
    for row in rows:
        left = Decimal(row["origQty"]) - Decimal(row["executedQty"])
        if row["side"] == "SELL":
            held["BTC"] += left
        else:
            held["USDT"] += left * Decimal(row["price"])
    assert {asset: now[asset][1] for asset in held} == held
    for asset, amount in change.items():
        assert sum(now[asset]) == sum(before[asset]) + amount


# -- between accept and answer -----------------------------------------------------------------
async def test_an_order_stands_when_its_answer_is_lost() -> None:
    """Cut instead of an answer, or 503 and -1007: done all the same, found by its client id."""
    faults = [
        Fault(what="unanswered", match="^POST /api/v3/order", count=1),
        Fault(what="unanswered", match="^POST /api/v3/order", status=408),
    ]
    async with loopback(faults=faults) as (venue, alice, _, _):
        price = top_of(venue)[0] - 1000
        for name, expected in (("one", 0), ("two", 408)):
            status, body = await alice.order("BUY", price, "0.01", newClientOrderId=name)
            assert status == expected
            assert body is None or body["code"] == -1007
            _, row = await alice.ask(
                "GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId=name
            )
            assert row["status"] == "NEW"
        assert venue.gate.stats()["faults"]["unanswered"] >= 2


async def test_an_order_is_one_when_the_request_is_done_twice() -> None:
    """The second time its client id is in use: the answer is a refusal, the order stands."""
    async with loopback(faults=[Fault(what="twice", match="^POST")]) as (venue, alice, _, _):
        price = top_of(venue)[0] - 1000
        status, body = await alice.order("BUY", price, "0.01", newClientOrderId="once")
        assert (status, body["msg"]) == (400, "Duplicate order sent.")
        _, rows = await alice.ask("GET", "/api/v3/openOrders", symbol="BTCUSDT")
        assert [row["clientOrderId"] for row in rows] == ["once"]


async def test_user_events_come_late_twice_or_never_when_faults_say_so() -> None:
    """A fill after the cancel that followed it, one that comes twice, one that never comes."""
    faults = [
        Fault(what="late", match='"x":"TRADE"', delay_s=0.3, count=1),
        Fault(what="duplicate", match='"x":"CANCELED"'),
        Fault(what="drop", match="user outboundAccountPosition"),
        Fault(what="duplicate", match="answer order.cancel"),
    ]
    async with loopback(faults=faults) as (venue, alice, bob, _):
        async with listening(alice.port, ALICE) as (wait, ask):
            price = top_of(venue)[0] + Decimal("0.01")
            order = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC",
                     "quantity": "0.01", "price": str(price)}  # fmt: skip
            await ask("order.place", **order, newClientOrderId="mine")
            await bob.order("SELL", price, "0.004")
            await ask("order.cancel", symbol="BTCUSDT", origClientOrderId="mine")
            events = await wait(4)
            assert [e["x"] for e in events] == ["NEW", "CANCELED", "CANCELED", "TRADE"]
            assert events[1] == events[2]
            assert events[3]["I"] < events[1]["I"]
        assert venue.gate.stats()["faults"]["drop"] >= 3


# -- accounts as they are given ----------------------------------------------------------------
def test_accounts_are_refused_in_words_when_they_make_no_sense(tmp_path: Path) -> None:
    """Each names what is wrong, and never the secret."""
    for text in ("a:b", "a:b:c:USDT", "a:b:c:USDT=-1", "a:b:c::fly", "a:b:ed25519=xyz"):
        with pytest.raises(ConfigError) as caught:
            account_of(text)
        assert ":c" not in str(caught.value)
    file = tmp_path / "accounts.toml"
    file.write_text('[[account]]\nname = "a"\nkey = "k"\nsecrets = "s"\n')
    with pytest.raises(ConfigError, match="unknown key 'secrets'"):
        load_accounts(file)
    file.write_text('[[account]]\nname = "a"\nkey = "k"\nsecret = "s"\nbalances = "USDT=5"\n')
    (spec,) = load_accounts(file)
    assert spec.balances == {"USDT": 5}
    assert "'s'" not in repr(spec)


async def test_no_account_trades_with_itself_when_its_orders_meet() -> None:
    """The one that rests expires, as the venue's markets do by default; the other one trades on."""
    async with loopback() as (venue, alice, _, _):
        bid, ask = top_of(venue)
        price = (bid + ask) / 2 // Decimal("0.01") * Decimal("0.01")
        _, resting = await alice.order("BUY", price, "0.5")
        _, taker = await alice.order("SELL", price, "0.2")
        assert (taker["status"], taker["fills"]) == ("NEW", [])
        _, row = await alice.ask(
            "GET", "/api/v3/order", symbol="BTCUSDT", orderId=resting["orderId"]
        )
        assert (row["status"], row["executedQty"]) == ("EXPIRED_IN_MATCH", "0.00000000")
        assert (await alice.balances())["USDT"][1] == 0


async def test_trades_come_by_pages_when_they_are_asked_for_from_a_number_on() -> None:
    """As many as were asked for, the next from the last one's number; else the newest, or a day."""
    async with loopback() as (venue, alice, bob, _):
        price = top_of(venue)[0] + Decimal("0.01")
        await alice.order("BUY", price, "0.7")
        for _ in range(7):
            await bob.order("SELL", price, "0.1")
        path, symbol = "/api/v3/myTrades", {"symbol": "BTCUSDT"}
        _, rows = await alice.ask("GET", path, **symbol)
        assert len(rows) == 7
        pages, first = [], 0
        while True:
            _, page = await alice.ask("GET", path, **symbol, fromId=first, limit=3)
            pages.append(page)
            if len(page) < 3:
                break
            first = page[-1]["id"] + 1
        assert [len(page) for page in pages] == [3, 3, 1]
        assert [row for page in pages for row in page] == rows
        assert (await alice.ask("GET", path, **symbol, limit=2))[1] == rows[-2:]
        since = rows[0]["time"]
        assert (await alice.ask("GET", path, **symbol, startTime=since, limit=2))[1] == rows[:2]
        _, refused = await alice.ask("GET", path, **symbol, fromId=0, startTime=since)
        assert refused["code"] == -1128
        _, refused = await alice.ask(
            "GET", path, **symbol, startTime=since, endTime=since + 86_400_001
        )
        assert refused["code"] == -1127
