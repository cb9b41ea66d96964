"""USD-M at the loopback Binance's account side: orders, positions, listen keys, user events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import trio
from account_client import ALICE, Trader, loopback
from trio_websocket import open_websocket_url

from piker.testing.engine import BUY, SELL

PATH = "/fapi/v1/order"


def top_of(venue: Any) -> tuple[Decimal, Decimal]:
    """Return the best bid and ask of the perpetual."""
    engine = venue.listings["usdm", "BTCUSDT"].market.engine
    return engine.depth(BUY, 1)[0][0] * Decimal("0.01"), engine.depth(SELL, 1)[0][0] * Decimal(
        "0.01"
    )


async def order(trader: Trader, side: str, price: Any, size: Any, **more: Any) -> Any:
    """Place an order, limited where it has a price; return its answer."""
    said = {"symbol": "BTCUSDT", "side": side, "quantity": size, "newOrderRespType": "RESULT"}
    if price is None:
        said["type"] = "MARKET"
    else:
        said |= {"type": "LIMIT", "timeInForce": "GTC", "price": price}
    return (await trader.ask("POST", PATH, **said | more))[1]


async def wallet(trader: Trader) -> Decimal:
    """Return the wallet's balance."""
    _, (row,) = await trader.ask("GET", "/fapi/v3/balance")
    return Decimal(row["balance"])


async def positions(trader: Trader) -> dict[str, tuple[Decimal, Decimal]]:
    """Return (amount, entry) by position side."""
    _, rows = await trader.ask("GET", "/fapi/v3/positionRisk", symbol="BTCUSDT")
    return {
        row["positionSide"]: (Decimal(row["positionAmt"]), Decimal(row["entryPrice"]))
        for row in rows
    }


@asynccontextmanager
async def private(trader: Trader, form: str = "/private/ws?listenKey=") -> AsyncIterator[Any]:
    """Listen with a listen key; yield a function that waits for so many events."""
    status, body = await trader.send("POST", "/fapi/v1/listenKey", "")
    assert status == 200
    url = f"ws://127.0.0.1:{trader.port}{form}{body['listenKey']}"
    heard: list[dict[str, Any]] = []
    async with open_websocket_url(url) as socket:

        async def wait(count: int) -> list[dict[str, Any]]:
            with trio.fail_after(10):
                while len(heard) < count:
                    heard.append(json.loads(await socket.get_message()))
            return heard

        yield wait


async def test_a_position_opens_turns_and_closes_when_two_accounts_trade() -> None:
    """Entry, gain and fees to the last digit; what one gains the other loses, but for fees."""
    async with loopback() as (venue, alice, bob, _):
        bid, ask = top_of(venue)
        first, second = bid + Decimal("0.02"), bid + Decimal("0.01")
        assert second < first < ask
        begun = await wallet(alice) + await wallet(bob)
        fees = Decimal(0)
        for price, size, side in ((first, "0.020", "BUY"), (second, "0.030", "SELL")):
            other = "SELL" if side == "BUY" else "BUY"
            resting = await order(alice, side, price, size)
            assert resting["status"] == "NEW"
            taken = await order(bob, other, price, size, timeInForce="IOC")
            assert taken["status"] == "FILLED"
            worth = price * Decimal(size)
            fees += (worth * Decimal("0.0002")).quantize(Decimal("1e-8"), "ROUND_DOWN")
            fees += (worth * Decimal("0.0005")).quantize(Decimal("1e-8"), "ROUND_DOWN")
        assert await positions(alice) == {"BOTH": (Decimal("-0.01"), second)}
        assert await positions(bob) == {"BOTH": (Decimal("0.01"), second)}
        assert await wallet(alice) + await wallet(bob) == begun - fees
        _, rows = await alice.ask("GET", "/fapi/v1/userTrades", symbol="BTCUSDT")
        gain = (second - first) * Decimal("0.02")
        assert [Decimal(row["realizedPnl"]) for row in rows] == [0, gain]
        done = await order(bob, "SELL", None, "0.05", reduceOnly="true")
        assert (done["status"], done["origQty"]) == ("FILLED", "0.01")  # as much as there was
        assert await positions(bob) == {}
        assert (await order(bob, "SELL", None, "0.05", reduceOnly="true"))["code"] == -2022


async def test_user_events_tell_it_all_when_a_listen_key_is_used() -> None:
    """ORDER_TRADE_UPDATE, TRADE_LITE, ACCOUNT_UPDATE; both forms of the address."""
    for form in ("/private/ws?listenKey=", "/private/ws/", "/usdm/private/ws/"):
        async with loopback() as (venue, alice, bob, _), private(alice, form) as wait:
            price = top_of(venue)[0] + Decimal("0.01")
            placed = await order(alice, "BUY", price, "0.010", newClientOrderId="mine")
            await order(bob, "SELL", price, "0.004", timeInForce="IOC")
            await alice.ask("DELETE", PATH, symbol="BTCUSDT", origClientOrderId="mine")
            events = await wait(5)
            assert [(e["e"], e.get("o", {}).get("x")) for e in events] == [
                ("ORDER_TRADE_UPDATE", "NEW"), ("TRADE_LITE", None),
                ("ORDER_TRADE_UPDATE", "TRADE"), ("ACCOUNT_UPDATE", None),
                ("ORDER_TRADE_UPDATE", "CANCELED"),
            ]  # fmt: skip
            trade, account = events[2]["o"], events[3]["a"]
            assert (trade["i"], trade["c"], trade["z"]) == (placed["orderId"], "mine", "0.004")
            assert (trade["X"], trade["m"], trade["N"]) == ("PARTIALLY_FILLED", True, "USDT")
            assert events[1]["t"] == trade["t"]
            assert account["P"][0]["pa"] == "0.004"
            assert Decimal(account["B"][0]["wb"]) == await wallet(alice)
    async with loopback() as (_, alice, _, _):
        assert (await alice.send("PUT", "/fapi/v1/listenKey", ""))[1]["code"] == -1125


async def test_orders_are_refused_in_the_venues_codes_when_they_are_bad() -> None:
    """Ticks, lots, notional, post-only, FOK, margin, duplicates, conditional kinds, modes."""
    async with loopback() as (venue, alice, _, carol):
        bid, ask = top_of(venue)
        low = bid - 1000
        assert (await order(alice, "BUY", low, "0.01", newClientOrderId="a.b:c/1"))[
            "status"
        ] == "NEW"
        wrong = (
            (low + Decimal("0.001"), "0.01", {}, -4014), (low, "0.0000001", {}, -1111),
            (1, "0.001", {}, -4164), (low, "0.01", {"newClientOrderId": "a.b:c/1"}, -4116),
            (ask + 500, "0.01", {"timeInForce": "GTX"}, -5022),
            (ask, "80", {"timeInForce": "FOK"}, -5021),
            (low, "5000", {}, -2019), (low, "0.01", {"type": "STOP_MARKET"}, -4120),
            (low, "0.01", {"positionSide": "LONG"}, -4061),
            (low, "0.01", {"reduceOnly": "true"}, -2022),
            (low, "0.01", {"timeInForce": "GTD"}, -1102),
            (low, "0.01", {"timeInForce": "GTD", "goodTillDate": 1_700_000_000_000}, -1130),
            (low, "0.01", {"symbol": "NOPE"}, -1121), (low, "0.01", {"timeInForce": "GTE"}, -1115),
        )  # fmt: skip
        for price, size, more, code in wrong:
            body = await order(alice, "BUY", price, size, **more)
            assert body.get("code") == code, (price, size, more, body)
        assert (await order(carol, "BUY", low, "0.01"))["code"] == -2015
        assert len((await alice.ask("GET", "/fapi/v1/openOrders"))[1]) == 1
        _, body = await alice.ask("POST", "/fapi/v1/positionSide/dual", dualSidePosition="true")
        assert body["code"] == -4067


async def test_both_sides_are_held_when_the_account_hedges() -> None:
    """LONG and SHORT of one market; a close larger than the position is refused."""
    async with loopback() as (_, alice, _, _):
        path = "/fapi/v1/positionSide/dual"
        assert (await alice.ask("POST", path, dualSidePosition="true"))[1]["code"] == 200
        assert (await alice.ask("GET", path))[1] == {"dualSidePosition": True}
        await order(alice, "BUY", None, "0.001", positionSide="LONG")
        await order(alice, "SELL", None, "0.002", positionSide="SHORT")
        held = await positions(alice)
        assert {side: amount for side, (amount, _) in held.items()} == {
            "LONG": Decimal("0.001"), "SHORT": Decimal("-0.002"),
        }  # fmt: skip
        body = await order(alice, "SELL", None, "0.005", positionSide="LONG")
        assert body["code"] == -2022
        await order(alice, "SELL", None, "0.001", positionSide="LONG")
        assert set(await positions(alice)) == {"SHORT"}


async def test_an_order_keeps_its_number_when_it_is_modified() -> None:
    """PUT: another price and size; -5027 where nothing changes."""
    async with loopback() as (venue, alice, _, _):
        low = top_of(venue)[0] - 1000
        placed = await order(alice, "BUY", low, "0.01")
        said = {"symbol": "BTCUSDT", "orderId": placed["orderId"], "side": "BUY"}
        _, body = await alice.ask("PUT", PATH, **said, quantity="0.02", price=low - 10)
        assert (body["orderId"], body["origQty"]) == (placed["orderId"], "0.02")
        assert Decimal(body["price"]) == low - 10
        _, body = await alice.ask("PUT", PATH, **said, quantity="0.02", price=low - 10)
        assert body["code"] == -5027


async def test_all_is_cancelled_when_nobody_counts_the_dead_man_down_again() -> None:
    """countdownCancelAll: the orders of that market go, and the account is told."""
    async with loopback() as (venue, alice, _, _), private(alice) as wait:
        await order(alice, "BUY", top_of(venue)[0] - 1000, "0.01")
        said = {"symbol": "BTCUSDT", "countdownTime": 200}
        _, body = await alice.ask("POST", "/fapi/v1/countdownCancelAll", **said)
        assert body == {"symbol": "BTCUSDT", "countdownTime": "200"}
        events = await wait(2)
        assert [event["o"]["x"] for event in events] == ["NEW", "CANCELED"]
        assert (await alice.ask("GET", "/fapi/v1/openOrders"))[1] == []
        assert ALICE.name in str(venue.gate.stats()["accounts"])


async def test_a_conditional_order_is_sent_when_the_market_trades_at_its_trigger() -> None:
    """algoOrder: waits, is told by ALGO_UPDATE, and becomes an order of its own."""
    async with loopback() as (venue, alice, bob, _), private(alice) as wait:
        _, ask = top_of(venue)
        said = {"algoType": "CONDITIONAL", "symbol": "BTCUSDT", "side": "BUY",
                "type": "STOP_MARKET", "quantity": "0.01"}  # fmt: skip
        path = "/fapi/v1/algoOrder"
        _, body = await alice.ask("POST", path, **said, triggerPrice=ask - 500)
        assert body["code"] == -2021
        for name in ("first", "second"):
            _, body = await alice.ask("POST", path, **said, triggerPrice=ask, clientAlgoId=name)
            assert body["algoStatus"] == "NEW"
        assert len((await alice.ask("GET", "/fapi/v1/openAlgoOrders"))[1]) == 2
        _, body = await alice.ask("DELETE", path, algoId=body["algoId"])
        assert body["msg"] == "success"
        await order(bob, "BUY", ask, "0.001", timeInForce="IOC")
        events = await wait(8)
        kinds = [(e["e"], e["o"]["X"]) for e in events if "o" in e]
        assert kinds == [
            ("ALGO_UPDATE", "NEW"), ("ALGO_UPDATE", "NEW"), ("ALGO_UPDATE", "CANCELED"),
            ("ALGO_UPDATE", "TRIGGERED"), ("ORDER_TRADE_UPDATE", "NEW"), *kinds[5:],
        ]  # fmt: skip
        _, rows = await alice.ask("GET", "/fapi/v1/allAlgoOrders", symbol="BTCUSDT")
        assert [row["algoStatus"] for row in rows] == ["FINISHED", "CANCELED"]
        _, row = await alice.ask("GET", PATH, symbol="BTCUSDT", orderId=rows[0]["actualOrderId"])
        assert (row["status"], row["executedQty"]) == ("FILLED", "0.01")


async def test_trades_come_by_weeks_and_numbers_when_they_are_asked_for_so() -> None:
    """A week at most, the last one by default; by numbers all of them; never both."""
    async with loopback() as (venue, alice, bob, _):
        price = top_of(venue)[0] + Decimal("0.01")
        await order(alice, "BUY", price, "0.5")
        for _ in range(5):
            await order(bob, "SELL", price, "0.1")
        path, symbol = "/fapi/v1/userTrades", {"symbol": "BTCUSDT"}
        _, rows = await alice.ask("GET", path, **symbol)
        assert len(rows) == 5
        week, since = 7 * 86_400_000, rows[0]["time"]
        at_once = [row for row in rows if row["time"] == since]
        asked: list[tuple[dict[str, int], Any]] = [
            ({"limit": 2}, rows[-2:]),
            ({"fromId": 0, "limit": 2}, rows[:2]),
            ({"fromId": rows[1]["id"] + 1, "limit": 2}, rows[2:4]),
            ({"startTime": since, "limit": 3}, rows[:3]),
            ({"startTime": since - week, "endTime": since - 1}, []),
            ({"startTime": since - 2 * week}, []),
            ({"endTime": since - 1}, []),
            ({"startTime": since - week, "endTime": since}, at_once),
        ]
        for said, wanted in asked:
            assert (await alice.ask("GET", path, **symbol, **said))[1] == wanted, said
        for said, code in (
            ({"startTime": since, "endTime": since + week + 1}, -1127),
            ({"fromId": 0, "startTime": since}, -1128),
        ):
            assert (await alice.ask("GET", path, **symbol, **said))[1]["code"] == code
