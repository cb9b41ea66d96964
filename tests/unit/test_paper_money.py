"""What a paper account has: exact, not overdrawn where it may not be, the same after a start."""

from __future__ import annotations

import random
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from piker import config
from piker.clearing.accounts import Account
from piker.clearing.client import OrderClient
from piker.clearing.journal import open_journal
from piker.clearing.paper import Fees, PaperBroker
from piker.clearing.paper_money import PaperMoney
from piker.clearing.replay import Replay
from piker.clearing.replay_feed import Moment
from piker.clearing.requests import client_id_of
from piker.clearing.risk import Limits, RiskDesk
from piker.clearing.router import Router
from piker.clock import NS, wall_ns
from piker.data.feed import Feed
from piker.errors import ConfigError
from piker.market import Asset, AssetType, MktPair
from piker.money import total
from piker.orders import (
    Action,
    BrokerdBalance,
    BrokerdBelief,
    BrokerdCancel,
    BrokerdError,
    BrokerdEvent,
    BrokerdFill,
    BrokerdMemory,
    BrokerdOrder,
    BrokerdRequest,
    BrokerdSync,
    Order,
    OrderKind,
    Status,
    SyncState,
)
from piker.ticks import Quote, Side, Tick, TickType

D = Decimal
NAME = "binance.paper"
BTC = MktPair(
    fqme="btcusdt.spot.binance", bs_mktid="BTCUSDT", dst=Asset("btc"), src=Asset("usdt"),
    price_tick=D("0.01"), size_tick=D("0.001"),
)  # fmt: skip
PERP = MktPair(
    fqme="btcusdt.usdtm.perp.binance", bs_mktid="BTCUSDT", dst=Asset("btc"), src=Asset("usdt"),
    price_tick=D("0.1"), size_tick=D("0.001"), atype=AssetType.PERPETUAL,
)  # fmt: skip
COIN = MktPair(
    fqme="btcusd.coinm.perp.binance", bs_mktid="BTCUSD_PERP", dst=Asset("btc"), src=Asset("usd"),
    price_tick=D("0.1"), size_tick=D(1), atype=AssetType.PERPETUAL, contract_size=D(100),
    inverse=True,
)  # fmt: skip
FEES = Fees(D("0.001"), D("0.002"))


def broker(start: dict[str, Decimal], memory: BrokerdMemory | None = None) -> PaperBroker:
    """Return a paper broker of three markets, each quoted at 99 and 101."""
    one = PaperBroker(NAME, money=PaperMoney(NAME, start, memory))
    for mkt in (BTC, PERP, COIN):
        one.know(mkt, FEES)
        one.quote(mkt.mktid, (D(99), D(10)), (D(101), D(10)), 1)
    return one


def order(oid: str, size: str, price: str | None = None, mkt: MktPair = BTC) -> BrokerdOrder:
    """Return an order: a buy of a positive size, a sell of a negative one."""
    side = Action.SELL if size.startswith("-") else Action.BUY
    return BrokerdOrder(
        oid=oid, client_id=client_id_of(oid), account=NAME, time_ns=1, symbol=mkt.mktid,
        action=side, size=abs(D(size)), kind=OrderKind.LIMIT if price else OrderKind.MARKET,
        price=D(price) if price else None,
    )  # fmt: skip


def has(one: PaperBroker) -> dict[str, Decimal]:
    """Return the balances that are told."""
    return {told.asset: told.total for told in one.balances(1)}


def told(events: Sequence[BrokerdEvent]) -> dict[str, Decimal]:
    """Return the balances among what a venue says."""
    return {one.asset: one.total for one in events if isinstance(one, BrokerdBalance)}


def test_spot_fill_moves_both_assets_and_the_fee_when_it_trades() -> None:
    """And says so with the fill."""
    one = broker({"USDT": D(1000)})
    events = one.request(order("a", "2"), 1)
    (fill,) = (event for event in events if isinstance(event, BrokerdFill))
    assert fill.moved == {"btc": D(2), "usdt": D("-202.404")}
    assert told(events) == has(one) == {"btc": D(2), "usdt": D("797.596")}
    one.request(order("b", "-1"), 1)
    assert has(one) == {"btc": D(1), "usdt": D("797.596") + 99 - D("0.198")}


def test_order_that_would_overdraw_is_rejected_and_leaves_nothing_behind() -> None:
    """What stands is set aside, with the taker's fee; a cancel gives it back, an edit asks anew."""
    one = broker({"usdt": D(1000)})
    assert not _refusal(one.request(order("a", "5", "98"), 1))
    assert one.balances(1)[0].available == D(1000) - D(490) * D("1.002")
    why = _refusal(one.request(order("b", "5.2", "98"), 1))
    assert why.startswith("account has insufficient balance: it needs 510.6192 usdt, and 509.02 ")
    assert _refusal(one.request(order("a", "11", "98"), 1))  # the edit of one that stands
    assert not _refusal(one.request(order("a", "10", "98"), 1))
    assert _refusal(one.request(order("c", "1"), 1))
    cancel = BrokerdCancel(oid="a", client_id="", account=NAME, symbol=BTC.mktid, time_ns=1)
    one.request(cancel, 1)
    assert one.balances(1)[0].available == D(1000)
    assert not _refusal(one.request(order("d", "1"), 1))


def test_edit_is_refused_when_more_was_filled_than_it_asks_for() -> None:
    """Its client had not heard of the fills; the order stands with the terms that it had."""
    one = broker({"usdt": D(1000)})
    one.quote(BTC.mktid, (D(99), D(10)), (D(101), D(2)), 1)
    fills = [event for event in one.request(order("a", "5", "101"), 1)
             if isinstance(event, BrokerdFill)]  # fmt: skip
    assert total(fill.size for fill in fills) == 2
    assert _refusal(one.request(order("a", "1", "101"), 1)) == "2 of it were filled"
    one.quote(BTC.mktid, (D(99), D(10)), (D(101), D(2)), 1)
    assert not _refusal(one.request(order("a", "3", "101"), 1))


def _refusal(events: Sequence[BrokerdEvent]) -> str:
    return next((one.reason for one in events if isinstance(one, BrokerdError)), "")


def test_order_that_was_never_taken_overdraws_nothing_when_it_stands_by_its_intent() -> None:
    """Its rejection may be what the kill took back; what had an id stands, whatever it needs."""
    one = broker({"usdt": D(1000)})
    first = msgspec.structs.replace(order("a", "5", "98"), reqid="p1")
    assert not _refusal(one.restore(BrokerdBelief(order=first, filled=D(0)), 1))
    late = order("b", "6", "102")
    why = _refusal(one.restore(BrokerdBelief(order=late, filled=D(0)), 1))
    assert why.startswith("account has insufficient balance")
    assert has(one) == {"usdt": D(1000)}
    assert not _refusal(one.restore(BrokerdBelief(order=order("c", "5", "98"), filled=D(0)), 1))
    one.quote(BTC.mktid, (D(90), D(50)), (D(91), D(50)), 1)
    assert has(one)["usdt"] >= 0


def test_asset_that_is_not_named_may_be_owed() -> None:
    """Selling short on paper goes on as it did; what is named at zero can not be sold."""
    one = broker({})
    assert not _refusal(one.request(order("a", "-3"), 1))
    assert has(one)["btc"] == -3
    assert [told.available for told in one.balances(1)] == [None, None]
    assert "btc" in _refusal(broker({"btc": D(0)}).request(order("a", "-3"), 1))


def test_future_pays_in_what_was_made_when_it_is_closed() -> None:
    """At average cost, through zero, and its fees when they arise; an inverse one in coins."""
    one = broker({"usdt": D(100)})
    one.request(order("a", "4", mkt=PERP), 1)
    paid = D("0.808")
    assert has(one) == {"usdt": 100 - paid}
    one.request(order("b", "-6", mkt=PERP), 1)
    paid += D(6 * 99) * FEES.taker
    assert has(one) == {"usdt": 100 - paid - 4 * 2}
    one.request(order("c", "1", mkt=PERP), 1)
    paid += D(101) * FEES.taker
    assert has(one) == {"usdt": 100 - paid - 4 * 2 - 2}
    coin = broker({"btc": D(10)})
    coin.request(order("a", "5", mkt=COIN), 1)
    coin.request(order("b", "-5", mkt=COIN), 1)
    fees = (D(500) / 101 + D(500) / 99) * FEES.taker
    assert abs(has(coin)["btc"] - (10 + D(500) / 101 - D(500) / 99 - fees)) < D("1e-11")


@pytest.mark.parametrize("seed", range(12))
def test_nothing_that_is_named_is_overdrawn_and_nothing_is_lost(seed: int) -> None:
    """Random limit orders, edits, cancels, quotes and trades, with restarts from the fills."""
    rng = random.Random(seed)
    start = {"usdt": D(500), "btc": D(3)}
    one, fills, refused = broker(start), list[BrokerdFill](), 0
    for number in range(300):
        what, oid = rng.random(), f"o{number if rng.random() < 0.8 else rng.randrange(number + 1)}"
        side = "-" if rng.random() < 0.5 else ""
        held = one._held.get(oid)
        if held is not None:
            side = "-" if held.order.action == "sell" else ""
        events: list[BrokerdEvent] = []
        if what < 0.55:
            asked = order(oid, f"{side}{rng.randrange(1, 50) / 10}", str(rng.randrange(90, 110)))
            events = one.request(asked, 1)
        elif what < 0.65:
            cancel = BrokerdCancel(oid=oid, client_id="", account=NAME, symbol=BTC.mktid, time_ns=1)
            events = one.request(cancel, 1)
        elif what < 0.8:
            mid = rng.randrange(92, 108)
            level = D(rng.randrange(1, 9))
            events = one.quote(BTC.mktid, (D(mid - 1), level), (D(mid + 1), level), 1)
        else:
            print_ = D(rng.randrange(90, 110)), D(rng.randrange(1, 9))
            events = one.trade(BTC.mktid, *print_, rng.choice([1, -1, 0]), 1)
        fills += [event for event in events if isinstance(event, BrokerdFill)]
        refused += "insufficient" in _refusal(events)
        assert all(amount >= 0 for amount in has(one).values())
        assert all((balance.available or D(0)) >= 0 for balance in one.balances(1))
        if rng.random() < 0.05:
            standing = [(held.order, held) for held in one._held.values()]
            again = broker(start, _memory(fills))
            assert has(again) == has(one)
            assert len(standing) == len(one.money._aside)  # type: ignore[union-attr]
    assert refused
    assert fills
    sold = total(fill.size for fill in fills if fill.action == "sell")
    bought = total(fill.size for fill in fills if fill.action == "buy")
    assert has(one)["btc"] == 3 + bought - sold


def _memory(fills: list[BrokerdFill]) -> BrokerdMemory:
    moved: dict[str, Decimal] = {}
    for fill in fills:
        for asset, amount in fill.moved.items():
            moved[asset] = moved.get(asset, D(0)) + amount
    return BrokerdMemory(account=NAME, moved=moved)


# -- with emsd -------------------------------------------------------------------------------
class Link:
    """The paper broker behind a router's seam; it begins from the router's memory."""

    name = "paper.queue"

    def __init__(self) -> None:
        self.router: Router
        self.broker: PaperBroker

    async def send(self, request: BrokerdRequest) -> None:
        """Carry it out."""
        self.tell(self.broker.request(request, wall_ns()))

    def ask_again(self) -> None:
        """Have nothing to ask."""

    def tell(self, events: Sequence[BrokerdEvent]) -> None:
        """Let the router hear."""
        for event in events:
            self.router.hear(NAME, event)


async def session(folder: Path, oid: str, mkt: MktPair, size: str) -> dict[str, Decimal]:
    """Run an emsd once: trade something; return what the account had before, as it is told."""
    async with open_journal(folder / "journal") as journal, trio.open_nursery() as nursery:
        link, desk = Link(), RiskDesk(NAME, Limits())
        link.router = router = Router(journal, nursery)
        router.know(BTC)
        router.know(PERP)
        router.add(Account(NAME, desk, link, lambda _, what: True))
        await router.recover()
        (memory,) = router.memory(NAME)
        link.broker = broker({"usdt": D(10_000)}, memory)
        link.tell(link.broker.balances(wall_ns()))
        router.hear(NAME, BrokerdSync(account=NAME, state=SyncState.SYNCED, time_ns=wall_ns()))
        before = {asset: one.total for asset, one in router.accounts[NAME].balances.items()}
        for one in (BTC, PERP):
            router.price(one.fqme, D(100), wall_ns())
        side = Action.SELL if size.startswith("-") else Action.BUY
        asked = Order(
            oid=oid, symbol=mkt.fqme, account=NAME, action=side, size=abs(D(size)),
            kind=OrderKind.MARKET,
        )  # fmt: skip
        async with router.news.listen() as news:
            await router.order(asked)
            with trio.fail_after(10):
                async for said in news:
                    if isinstance(said, Status) and said.resp == "closed":
                        break
        await trio.testing.wait_all_tasks_blocked(0.05)
        # A fill that nobody was told never was: emsd is killed before it has heard of it.
        link.broker.request(order("untold", "1"), wall_ns())
        nursery.cancel_scope.cancel()
    return before


async def test_balances_are_those_of_the_journal_when_emsd_and_paperboi_start_again(
    tmp_path: Path,
) -> None:
    """Spot and futures; a position of before is closed at the cost it had."""
    assert await session(tmp_path, "a", BTC, "2") == {"usdt": D(10_000)}
    spot = D(10_000) - D(202) * D("1.002")
    assert await session(tmp_path, "b", PERP, "4") == {"usdt": spot, "btc": D(2)}
    fee = D(404) * FEES.taker
    assert await session(tmp_path, "c", PERP, "-4") == {"usdt": spot - fee, "btc": D(2)}
    fee += D(396) * FEES.taker
    last = await session(tmp_path, "d", BTC, "-1")
    assert last == {"usdt": spot - fee - 8, "btc": D(2)}


def test_replay_counts_what_the_account_has_when_told_what_it_begins_with() -> None:
    """The same engine, and the same journal for the same seed."""

    def moments() -> list[Moment]:
        found = list[Moment]()
        for number in range(30):
            now, ticks = 1_700_000_000 * NS + number * NS // 100, list[Tick]()
            ticks.append(Tick(TickType.TRADE, 100.0, 1.0, now, Side.BUY))
            quote = Quote(BTC.fqme, None, 99.0, 5.0 + number, 101.0, 5.0 + number, now, ticks)
            found.append((now, {BTC.fqme: quote}))
        return found

    async def one(feed: Feed, ems: OrderClient) -> None:
        assert ems.balances[NAME, "usdt"].total == 1000
        bought = await ems.send(ems.order(BTC.fqme, "buy", 2))
        await ems.ended(bought.oid)
        assert ems.balances[NAME, "btc"].total == 2
        assert ems.balances[NAME, "usdt"].available == D(1000) - D(202) * D("1.001")
        refused = await ems.send(ems.order(BTC.fqme, "buy", 9, price=99))
        refused = await ems.ended(refused.oid)
        assert (refused.resp, "insufficient" in refused.reason) == ("rejected", True)

    chains = set()
    for _ in range(2):
        result = Replay([BTC], moments(), balances={"usdt": D(1000)}).run(one)
        chains.add(result.journal.chain)
        assert result.journal.standing.moved[NAME, "btc"] == 2
    assert len(chains) == 1


@pytest.mark.parametrize("amount", ["-1", "nan", "inf", '"much"'])
def test_balance_that_can_not_be_is_a_sentence_when_configured(tmp_path: Path, amount: str) -> None:
    """Numbers and texts are taken; none below zero."""
    file = tmp_path / "conf.toml"
    file.write_text('[paper]\nbalances = { usdt = 5, btc = "0.5", eth = 0.25 }\n')
    assert config.load_conf(file).paper.balances == {"usdt": 5, "btc": D("0.5"), "eth": D("0.25")}
    file.write_text(f"[paper]\nbalances = {{ usdt = {amount} }}\n")
    with pytest.raises(ConfigError, match="balances"):
        config.load_conf(file)
