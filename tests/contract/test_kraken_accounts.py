"""The loopback Kraken's account side: signatures, orders, balances, events, rates, faults."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from kraken_client import ALICE, Trader, loopback, private, secret, top_of

from piker.clock import wall_ns
from piker.errors import ConfigError
from piker.testing.accounts import account_of
from piker.testing.engine import BUY
from piker.testing.faults import Fault
from piker.testing.kraken_account_auth import is_signed, secret_of
from piker.testing.kraken_account_wire import number_of, txid

TICK = Decimal("0.1")


def middle(venue: Any) -> Decimal:
    """Return a price between the best bid and ask."""
    bid, ask = top_of(venue)
    assert bid < ask - TICK
    return (bid + ask) / 2 // TICK * TICK


# -- who asks --------------------------------------------------------------------------------
def test_vectors_hold_when_signatures_are_checked(shared: Path) -> None:
    """Kraken's own example: its signature is right, and wrong once a byte is another."""
    vectors = json.loads((shared / "venues/auth-vectors/auth_vectors.json").read_text())
    own = [vector for vector in vectors if vector["venue"] == "kraken"]
    assert own
    for vector in own:
        spec = account_of(f"x:key:{vector['secret']}")
        body, nonce = vector["postdata"].encode(), str(vector["nonce"])
        said = secret_of(spec), vector["path"], nonce
        assert is_signed(*said, body, vector["signature"])
        assert not is_signed(*said, body + b"0", vector["signature"])


def test_ids_are_told_apart_when_they_are_made() -> None:
    """An id is its number; any other text is none."""
    names = {txid("O", number) for number in range(1, 2000)}
    assert len(names) == 1999
    assert all(number_of(txid("O", n), "O") == n for n in (1, 77, 10**9))
    assert number_of("TAAAAA-AAAAA-AAAAAA", "O") == number_of("pk", "O") == 0


async def test_venues_own_words_are_told_when_a_request_proves_nothing() -> None:
    """Unknown key, wrong signature, a nonce that does not rise, no permission."""
    async with loopback() as (_, alice, _, carol):
        path = "/0/private/Balance"
        nobody = Trader(alice.port, account_of(f"x:nobody:{secret('x')}"))
        assert await nobody.ask("Balance") == ["EAPI:Invalid key"]
        said = await alice.send(path, b"nonce=5", "AAAA")
        assert said["error"] == ["EAPI:Invalid signature"]
        stale = ["EAPI:Invalid nonce"]
        for nonce, error in (("5", []), ("5", stale), ("4", stale), ("x", stale), ("6", [])):
            body = f"nonce={nonce}".encode()
            assert (await alice.send(path, body, alice.sign(path, nonce, body)))["error"] == error
        body = json.dumps({"nonce": 7}).encode()
        said = await alice.send(path, body, alice.sign(path, "7", body), "application/json")
        assert said["error"] == []
        assert await carol.order("buy", 100, 1) == ["EGeneral:Permission denied"]
        assert "withdraw-funds" not in (await carol.ask("GetApiKeyInfo"))["permissions"]
        assert "query-funds" in (await carol.ask("GetApiKeyInfo"))["permissions"]
        assert await alice.ask("Nothing") == ["EGeneral:Unknown method"]


async def test_a_token_opens_the_socket_when_it_is_the_accounts() -> None:
    """Another one does not; one that was ended does not either."""
    async with loopback() as (venue, alice, _, carol):
        async with private(alice) as socket:
            socket.token, kept = "wrong", socket.token
            refused = await socket.ask("cancel_all")
            assert (refused["success"], refused["error"]) == (False, "ESession:Invalid session")
            socket.token = kept
            assert (await socket.ask("cancel_all"))["result"] == {"count": 0}
            venue.accounts.keys.end_tokens()
            assert not (await socket.ask("cancel_all"))["success"]
        async with private(carol) as socket:
            assert (await socket.ask("cancel_all"))["error"] == "EGeneral:Permission denied"


def test_secrets_that_are_no_base64_are_refused_when_a_venue_is_made() -> None:
    """With the remedy, the secret unnamed."""
    with pytest.raises(ConfigError, match="base64") as raised:
        secret_of(account_of("x:key:n!o"))
    assert "n!o" not in str(raised.value)


# -- orders ----------------------------------------------------------------------------------
async def test_an_order_is_matched_booked_and_told_when_two_accounts_trade() -> None:
    """Maker and taker, fees in dollars; no cent is made or lost; sequences have no gap."""
    async with loopback() as (venue, alice, bob, _):
        price = middle(venue)
        async with private(alice) as socket:
            placed = await socket.ask(
                "add_order", order_type="limit", side="buy", symbol="BTC/USD", order_qty=0.5,
                limit_price=float(price), cl_ord_id="first",
            )  # fmt: skip
            order = placed["result"]["order_id"]
            assert placed["result"]["cl_ord_id"] == "first"
            held = price * Decimal("0.5") * Decimal("1.004")
            assert (await alice.balances())["ZUSD"] == (1_000_000, held)
            sold = await bob.order("sell", price, "0.2")
            await socket.until(lambda: len(socket.events["balances"]) == 5)
            assert socket.kinds() == ["pending_new", "new", "trade"]
            fill = socket.events["executions"][-1]
            worth = price * Decimal("0.2")
            assert (fill["order_id"], fill["liquidity_ind"]) == (order, "m")
            assert fill["fees"] == [{"asset": "USD", "qty": worth * Decimal("0.0025")}]
            assert fill["order_status"] == "partially_filled"
            (trade,) = (await bob.ask("QueryOrders", txid=sold, trades="true"))[sold]["trades"]
            row = (await bob.ask("QueryTrades", txid=trade))[trade]
            assert (row["ordertxid"], row["maker"]) == (sold, False)
            assert Decimal(row["fee"]) == worth * Decimal("0.004")
            gone = await socket.ask("cancel_order", cl_ord_id=["first"])
            assert gone["result"] == {"cl_ord_id": "first", "order_id": order}
            assert socket.kinds()[-1] == "canceled"
            for channel in ("executions", "balances"):
                numbers = [m["sequence"] for m in socket.messages if m["channel"] == channel]
                assert numbers == list(range(1, len(numbers) + 1))
        mine, theirs = await alice.balances(), await bob.balances()
        assert mine["ZUSD"] == (1_000_000 - worth * Decimal("1.0025"), 0)
        assert theirs["ZUSD"] == (1_000_000 + worth * Decimal("0.996"), 0)
        assert (mine["XXBT"][0], theirs["XXBT"][0]) == (Decimal("10.2"), Decimal("9.8"))
        history = await alice.ask("TradesHistory")
        assert [row["vol"] for row in history["trades"].values()] == ["0.20000000"]
        closed = await alice.ask("ClosedOrders", cl_ord_id="first", trades="true")
        assert closed["closed"][order]["vol_exec"] == "0.20000000"
        assert closed["closed"][order]["reason"] == "User requested"


async def test_kinds_and_times_in_force_do_as_they_say_when_the_book_is_thin() -> None:
    """IOC, FOK, GTD, market, post-only; nothing stays held."""
    async with loopback() as (venue, alice, _, _):
        before = await alice.balances()
        _, ask = top_of(venue)
        rest = await alice.order("buy", ask, "3", timeinforce="IOC")
        row = (await alice.ask("QueryOrders", txid=rest))[rest]
        assert (row["status"], 0 < Decimal(row["vol_exec"]) < 3) == ("canceled", True)
        none = await alice.order("buy", top_of(venue)[1], "9", timeinforce="FOK")
        assert (await alice.ask("QueryOrders", txid=none))[none]["vol_exec"] == "0.00000000"
        assert await alice.order("buy", ask + 500, "1", oflags="post") == ["EOrder:Post only order"]
        sold = await alice.order("sell", None, "0.01", ordertype="market")
        assert (await alice.ask("QueryOrders", txid=sold))[sold]["status"] == "closed"
        soon = await alice.order("buy", ask - 900, "1", timeinforce="GTD", expiretm="+2")
        assert soon in (await alice.ask("OpenOrders"))["open"]
        venue.accounts.desk.expire(wall_ns() // 1_000_000 + 2000)
        assert (await alice.ask("QueryOrders", txid=soon))[soon]["status"] == "expired"
        after = await alice.balances()
        assert after["ZUSD"][1] == after["XXBT"][1] == 0
        assert after["XXBT"][0] == before["XXBT"][0] + Decimal(row["vol_exec"]) - Decimal("0.01")


async def test_stops_wait_and_trailing_ones_follow_when_the_market_moves() -> None:
    """Each waits unseen; a trade at its trigger sends it to the book."""
    async with loopback() as (venue, alice, bob, _):
        _, ask = top_of(venue)
        stop = await alice.order("buy", ask + 1, "0.01", ordertype="stop-loss")
        limit = await alice.order(
            "buy", ask + 1, "0.01", ordertype="stop-loss-limit", price2=ask - 500
        )
        profit = await alice.order("sell", ask + 1, "0.01", ordertype="take-profit")
        trail = await alice.order("sell", "+20", "0.01", ordertype="trailing-stop")
        assert set((await alice.ask("OpenOrders"))["open"]) == {stop, limit, profit, trail}
        size = sum(
            one for _, one in venue.accounts.desk._books["BTC/USD"].takeable(BUY, ask + 40)
        )  # fmt: skip
        await bob.order("buy", ask + 40, size, timeinforce="IOC")
        rows = await alice.ask("QueryOrders", txid=f"{stop},{limit},{profit}")
        assert [rows[one]["status"] for one in (stop, limit, profit)] == [
            "closed",
            "open",
            "closed",
        ]
        following = (await alice.ask("QueryOrders", txid=trail))[trail]
        assert Decimal(following["stopprice"]) > ask - 20
        bid, _ = top_of(venue)
        size = sum(
            one for _, one in venue.accounts.desk._books["BTC/USD"].takeable(-1, bid - 60)
        )  # fmt: skip
        await bob.order("sell", bid - 60, size, timeinforce="IOC")
        assert (await alice.ask("QueryOrders", txid=trail))[trail]["status"] == "closed"


REFUSALS = (
    ({"price": "60000.01"}, "EOrder:Tick size check failed"),
    ({"volume": "0.00001"}, "EOrder:Order minimum not met"),
    ({"volume": "0.00015"}, "EGeneral:Invalid arguments:volume"),
    ({"price": "1", "volume": "0.1"}, "EOrder:Cost minimum not met"),
    ({"volume": "NaN"}, "EGeneral:Invalid arguments:volume"),
    ({"volume": "-1"}, "EGeneral:Invalid arguments:volume"),
    ({"type": "hold"}, "EGeneral:Invalid arguments:type"),
    ({"ordertype": "iceberg"}, "EGeneral:Invalid arguments:ordertype"),
    ({"timeinforce": "GTX"}, "EGeneral:Invalid arguments:timeinforce"),
    ({"timeinforce": "GTD"}, "EGeneral:Invalid arguments:expiretm"),
    ({"pair": "NOPE"}, "EQuery:Unknown asset pair"),
    ({"price": None}, "EOrder:Invalid price"),
    ({"cl_ord_id": "a" * 19}, "EGeneral:Invalid arguments:cl_ord_id"),
    ({"cl_ord_id": "x", "userref": 3}, "EGeneral:Invalid arguments:userref"),
    ({"leverage": "2:1"}, "EOrder:Margin trading is not enabled"),
    ({"oflags": "fcib"}, "EGeneral:Invalid arguments:oflags"),
    ({"price": "999999", "volume": "8"}, "EOrder:Insufficient funds"),
    ({"deadline": "2020-01-01T00:00:00Z"}, "EService:Deadline elapsed"),
)


async def test_a_bad_order_is_refused_in_the_venues_words_when_it_is_sent() -> None:
    """Nothing is held, nothing is open."""
    async with loopback() as (_, alice, _, _):
        before = await alice.balances()
        for wrong, words in REFUSALS:
            said = {"side": "buy", "price": "50000", "size": "0.1"} | wrong
            assert await alice.order(**said) == [words], wrong
        assert await alice.balances() == before
        assert (await alice.ask("OpenOrders"))["open"] == {}


async def test_client_ids_are_unique_among_open_orders_when_they_come_again() -> None:
    """Free again once the order is closed; another account may have the same."""
    async with loopback() as (venue, alice, bob, _):
        price = top_of(venue)[0] - 1000
        first = await alice.order("buy", price, "0.01", cl_ord_id="mine")
        again = await alice.order("buy", price, "0.01", cl_ord_id="mine")
        assert again == ["EOrder:cl_ord_id already in use"]
        assert isinstance(await bob.order("buy", price, "0.01", cl_ord_id="mine"), str)
        assert await alice.ask("CancelOrder", cl_ord_id="mine") == {"count": 1}
        assert await alice.ask("CancelOrder", cl_ord_id="mine") == ["EOrder:Unknown order"]
        second = await alice.order("buy", price, "0.01", cl_ord_id="mine")
        assert set((await alice.ask("OpenOrders", cl_ord_id="mine"))["open"]) == {second} != {first}


async def test_an_amendment_keeps_the_order_when_its_terms_change() -> None:
    """Less keeps its place, another price moves it, less than was filled ends it."""
    async with loopback() as (venue, alice, bob, _):
        price = middle(venue)
        async with private(alice) as socket:
            name = await alice.order("buy", price, "1", cl_ord_id="one")
            engine_id = venue.accounts.desk.found(
                venue.accounts.desk.accounts["alice"], name
            ).engine_id  # fmt: skip
            said = await socket.ask("amend_order", cl_ord_id="one", order_qty=0.6)
            assert said["result"]["order_id"] == name
            order = venue.accounts.desk.found(venue.accounts.desk.accounts["alice"], name)
            assert (order.engine_id, order.left) == (engine_id, Decimal("0.6"))
            await bob.order("sell", price, "0.2")
            said = await socket.ask("amend_order", order_id=name, limit_price=float(price - 5))
            assert said["success"]
            row = (await alice.ask("OpenOrders"))["open"][name]
            assert (row["vol"], row["vol_exec"]) == ("0.60000000", "0.20000000")
            held = (price - 5) * Decimal("0.4") * Decimal("1.004")
            assert (await alice.balances())["ZUSD"][1] == held
            crossing = await socket.ask(
                "amend_order", order_id=name, limit_price=float(price + 500), post_only=True
            )
            assert crossing["error"] == "EOrder:Post only order"
            assert (await socket.ask("amend_order", order_id=name, order_qty=0.1))["success"]
            assert socket.kinds()[-1] == "canceled"
        old = await alice.order("buy", price - 50, "1")
        edited = await alice.ask("EditOrder", txid=old, volume="0.5", price=price - 60)
        assert edited["originaltxid"] == old != edited["txid"]
        assert set((await alice.ask("OpenOrders"))["open"]) == {edited["txid"]}


async def test_an_amendment_takes_unless_it_says_itself_that_it_is_post_only() -> None:
    """The flag of an order does not hold for its amendments: one without it may cross."""
    async with loopback() as (venue, alice, _, _):
        price = middle(venue)
        async with private(alice) as socket:
            name = await alice.order("buy", price, "0.01", oflags="post")
            across = {"order_id": name, "limit_price": float(price + 500)}
            refused = await socket.ask("amend_order", **across, post_only=True)
            assert refused["error"] == "EOrder:Post only order"
            assert (await socket.ask("amend_order", **across))["success"]
            row = (await alice.ask("QueryOrders", txid=name))[name]
            assert (row["status"], row["oflags"]) == ("closed", "post,fciq")


async def test_the_dead_mans_switch_cancels_when_it_is_not_pushed_back() -> None:
    """Every order of the account and nobody else's; 0 stops it."""
    async with loopback() as (venue, alice, bob, _):
        price = top_of(venue)[0] - 1000
        async with private(alice) as socket:
            await alice.order("buy", price, "0.01")
            await bob.order("buy", price, "0.01")
            said = await socket.ask("cancel_all_orders_after", timeout=60)
            assert said["result"]["triggerTime"] > said["result"]["currentTime"]
            said = await socket.ask("cancel_all_orders_after", timeout=0)
            assert said["result"]["triggerTime"] == "0"
            assert venue.accounts.timers == {}
            await socket.ask("cancel_all_orders_after", timeout=1)
            await socket.until(lambda: "canceled" in socket.kinds())
        assert (await alice.ask("OpenOrders"))["open"] == {}
        assert len((await bob.ask("OpenOrders"))["open"]) == 1


async def test_a_batch_is_placed_when_every_order_of_it_is_sound() -> None:
    """Several ids in one answer; a bad one refuses all; a cancel of many is answered one by one."""
    async with loopback() as (venue, alice, _, _):
        price = float(top_of(venue)[0] - 1000)
        one = {"order_type": "limit", "side": "buy", "order_qty": 0.01, "limit_price": price}
        async with private(alice) as socket:
            bad = await socket.ask("batch_add", symbol="BTC/USD", orders=[one, one | {"side": "x"}])
            assert not bad["success"]
            said = await socket.ask(
                "batch_add", symbol="BTC/USD", orders=[one | {"cl_ord_id": "a"}, one]
            )
            names = [row["order_id"] for row in said["result"]]
            assert set((await alice.ask("OpenOrders"))["open"]) == set(names)
            answers = await socket.ask("cancel_order", answers=3, order_id=[*names, "ONONE"])
            assert [answer["success"] for answer in answers] == [True, True, False]


# -- rates -----------------------------------------------------------------------------------
async def test_the_engines_counter_refuses_when_orders_come_too_fast() -> None:
    """A cancel of a young order costs 8: violations are counted, and time lowers the level."""
    async with loopback() as (venue, alice, _, _):
        price = top_of(venue)[0] - 1000
        for _ in range(13):  # 9 each
            name = await alice.order("buy", price, "0.01")
            assert await alice.ask("CancelOrder", txid=name) == {"count": 1}
        name = await alice.order("buy", price, "0.01")
        refused = await alice.ask("CancelOrder", txid=name)
        assert refused == ["EOrder:Rate limit exceeded"]
        stats = venue.gate.stats()
        assert stats["violations"]["trading"] == 1
        assert stats["refusals"]["EOrder:Rate limit exceeded"] == 1
        assert stats["rates"]["trading alice BTC/USD"] > 100
        other = await alice.order("buy", 2000, "0.01", pair="ETHUSD")  # a market has its own
        assert isinstance(other, str)


async def test_private_calls_are_counted_by_key_when_there_are_too_many() -> None:
    """Twenty at once of an Intermediate account; histories count 2, orders 0, the switch 1."""
    async with loopback() as (venue, alice, bob, _):
        for _ in range(9):
            await alice.ask("TradesHistory")
        for _ in range(2):
            assert "triggerTime" in await alice.ask("CancelAllOrdersAfter", timeout=60)
        assert await alice.ask("CancelAllOrdersAfter", timeout=0) == ["EAPI:Rate limit exceeded"]
        assert await alice.ask("Balance") == ["EAPI:Rate limit exceeded"]
        assert "ZUSD" in await bob.ask("Balance")
        assert isinstance(await alice.order("buy", top_of(venue)[0] - 900, "0.01"), str)
        assert venue.gate.stats()["violations"]["private"] == 2


# -- faults ----------------------------------------------------------------------------------
async def test_an_order_stands_when_its_answer_is_kept_back() -> None:
    """By REST the connection is cut after the deed; done twice, the second is refused by its id."""
    faults = [Fault(what="unanswered", match="AddOrder", count=1)]
    async with loopback(faults=faults) as (venue, alice, _, _):
        price = top_of(venue)[0] - 1000
        path, nonce = "/0/private/AddOrder", "9000000000000000"
        body = f"nonce={nonce}&pair=XBTUSD&type=buy&ordertype=limit&price={price}&volume=0.01"
        sent = body.encode()
        assert await alice.send(path, sent, alice.sign(path, nonce, sent)) is None
        desk = venue.accounts.desk
        assert len(desk.open_orders(desk.accounts["alice"])) == 1


async def test_frames_are_lost_and_late_when_the_connection_is_healthy() -> None:
    """An answer that never comes, a fill that comes late: the sequence tells of it."""
    faults = [
        Fault(what="drop", match="answer add_order", count=1),
        Fault(what="late", match='"exec_type":"trade"', delay_s=0.3, count=1),
    ]
    async with loopback(faults=faults) as (venue, alice, bob, _):
        price = middle(venue)
        async with private(alice) as socket:
            with trio.move_on_after(0.2) as waiting:
                await socket.ask(
                    "add_order", order_type="limit", side="buy", symbol="BTC/USD",
                    order_qty=0.1, limit_price=float(price), cl_ord_id="lost",
                )  # fmt: skip
            assert waiting.cancelled_caught
            assert len((await alice.ask("OpenOrders", cl_ord_id="lost"))["open"]) == 1
            await bob.order("sell", price, "0.1")
            await socket.until(lambda: "trade" in socket.kinds())
            assert socket.kinds()[-2:] == ["filled", "trade"]
            numbers = [m["sequence"] for m in socket.messages if m["channel"] == "executions"]
            assert numbers == [1, 2, 3, 5, 4]


@pytest.mark.slow
async def test_nothing_is_made_or_lost_when_accounts_trade_at_random() -> None:
    """400 deeds of two accounts amid the flow: balances equal what the trades say, to the digit."""
    dice = random.Random(4)
    async with loopback(rate=200, limits=False) as (venue, alice, bob, _):
        desk, before = venue.accounts.desk, {}
        for name in ("alice", "bob"):
            purse = desk.accounts[name].purse
            before[name] = {asset: one.free for asset, one in purse.assets.items()}
        for _ in range(400):
            trader = dice.choice((alice, bob))
            bid, ask = top_of(venue)
            side, size = dice.choice(("buy", "sell")), Decimal(dice.randrange(1, 900)) / 10_000
            price = (bid if side == "buy" else ask) + TICK * dice.randrange(-60, 60)
            names = [o.txid for o in desk.open_orders(desk.accounts[trader.spec.name])]
            what = dice.random()
            if what < 0.2 and names:
                await trader.ask("CancelOrder", txid=dice.choice(names))
            elif what < 0.4 and names:
                await trader.ask("AmendOrder", txid=dice.choice(names), order_qty=size)
            elif what < 0.5:
                kind = dice.choice(("stop-loss", "take-profit", "trailing-stop"))
                at = f"+{TICK * dice.randrange(1, 400)}" if kind == "trailing-stop" else price
                await trader.order(side, at, size, ordertype=kind)
            else:
                tif = dice.choice(("GTC", "GTC", "IOC", "FOK"))
                await trader.order(side, price, size, timeinforce=tif)
        for name in ("alice", "bob"):
            account = desk.accounts[name]
            want = {asset: before[name].get(asset, Decimal(0)) for asset in account.purse.assets}
            for row in account.fills:
                sign = 1 if row["type"] == "buy" else -1
                want["BTC"] += sign * Decimal(row["vol"])
                want["USD"] -= sign * Decimal(row["price"]) * Decimal(row["vol"])
                want["USD"] -= Decimal(row["fee"])
            assert account.fills
            for asset, one in account.purse.assets.items():
                assert one.free + one.locked == want[asset]
            desk.cancel_all(account, wall_ns() // 1_000_000)
            assert all(one.locked == 0 for one in account.purse.assets.values())


def test_default_balances_are_dollars_when_none_are_given() -> None:
    """Kraken's markets here are in USD."""
    from piker.testing.kraken_account import AccountSide

    side = AccountSide([account_of(f"x:k:{secret('x')}")], [], None, lambda *_: None, seed=1)
    assert side.specs[0].balances["USD"] == 100_000
    assert ALICE.balances["BTC"] == 10


async def test_trades_come_by_fifties_when_there_are_more() -> None:
    """The newest first, with how many there are in all; after a moment, and up to one."""
    async with loopback(limits=False) as (venue, alice, bob, _):
        price = top_of(venue)[0] + Decimal("0.1")
        await alice.order("buy", price, "1")
        for _ in range(53):
            await bob.order("sell", price, "0.01")
        first = await alice.ask("TradesHistory")
        second = await alice.ask("TradesHistory", ofs=50)
        assert (len(first["trades"]), len(second["trades"])) == (50, 3)
        assert first["count"] == second["count"] == 53
        rows = [*first["trades"].items(), *second["trades"].items()]
        times = [row["time"] for _, row in rows]
        assert times == sorted(times, reverse=True)
        assert len(dict(rows)) == 53
        later = await alice.ask("TradesHistory", start=times[-1])
        assert later["count"] == sum(time > times[-1] for time in times)
        upto = await alice.ask("TradesHistory", end=times[-1])
        assert upto["count"] == sum(time == times[-1] for time in times)
