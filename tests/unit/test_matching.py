"""The paper model: it never flatters."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

from piker.clearing.matching import PaperFill, PaperMarket
from piker.clearing.paper import PaperBroker
from piker.market import Asset, AssetType, MktPair
from piker.orders import Action, BrokerdFill, BrokerdOrder, OrderKind, TimeInForce

D = Decimal


def order(
    oid: str = "o", action: Action = Action.BUY, size: str = "5", **fields: Any
) -> BrokerdOrder:
    """Return an order to buy five at 99."""
    fields = {"price": D(99), "symbol": "btcusdt.spot"} | fields
    return BrokerdOrder(
        oid=oid, client_id="c", account="paper", time_ns=0, action=action, size=D(size),
        **fields,
    )  # fmt: skip


def market(bid: str = "99", bids: str = "10", ask: str = "101", asks: str = "4") -> PaperMarket:
    """Return a market that shows ten bid at 99 and four offered at 101."""
    one = PaperMarket()
    assert one.quote(D(bid), D(bids), D(ask), D(asks)) == []
    return one


def test_maker_waits_behind_what_is_shown_when_trades_come() -> None:
    """Ten stand before us; the eleventh that is sold is ours."""
    one = market()
    assert one.submit(order()) == ([], "")
    assert one.trade(D(99), D(9), -1) == []
    assert one.trade(D(99), D(3), -1) == [PaperFill("o", D(2), D(99), maker=True)]
    assert one.trade(D(99), D(3), 1) == []  # a buyer took the other side
    assert one.trade(D(99), D(9), -1) == [PaperFill("o", D(3), D(99), maker=True)]
    assert one.resting == {}


def test_queue_is_never_longer_than_what_is_shown() -> None:
    """Six were canceled: at most four can stand before us."""
    one = market()
    one.submit(order())
    one.quote(D(99), D(4), D(101), D(4))
    assert one.trade(D(99), D(5), -1) == [PaperFill("o", D(1), D(99), maker=True)]
    one.quote(D(99), D(50), D(101), D(4))  # who comes later stands behind us
    assert one.trade(D(99), D(4), -1) == [PaperFill("o", D(4), D(99), maker=True)]


def test_deeper_order_is_not_filled_when_its_price_is_only_touched() -> None:
    """Its queue is counted from when its price is the best; a trade through it fills it."""
    one = market()
    one.submit(order(price=D(98)))
    assert one.trade(D(98), D(100), -1) == []
    one.quote(D(98), D(7), D(100), D(1))
    assert one.trade(D(98), D(8), -1) == [PaperFill("o", D(1), D(98), maker=True)]
    assert one.trade(D("97.5"), D(2), -1) == [PaperFill("o", D(2), D(98), maker=True)]


def test_taker_gets_what_is_shown_when_it_takes() -> None:
    """Four at 101; the rest stands at its limit, and those four are not there again."""
    one = market()
    assert one.submit(order(price=D(101))) == ([PaperFill("o", D(4), D(101), maker=False)], "")
    assert one.submit(order("p", price=D(101))) == ([], "")
    assert one.quote(D(99), D(10), D(101), D(4)) == []  # the same level: nothing new was shown
    assert one.quote(D(99), D(10), D(101), D(6)) == [
        PaperFill("o", D(1), D(101), maker=True), PaperFill("p", D(5), D(101), maker=True),
    ]  # fmt: skip


def test_market_order_waits_for_the_next_quote_when_more_is_wanted() -> None:
    """At whatever price that has."""
    one = market()
    order_ = order(kind=OrderKind.MARKET, price=None)
    assert one.submit(order_) == ([PaperFill("o", D(4), D(101), maker=False)], "")
    assert one.quote(D(99), D(10), D(103), D(9)) == [PaperFill("o", D(1), D(103), maker=False)]


def test_order_is_gone_when_it_may_not_stand() -> None:
    """Immediate, all or nothing, post-only."""
    one = market()
    fills, why = one.submit(order(price=D(101), tif=TimeInForce.IOC))
    assert (fills[0].size, why) == (D(4), "the rest does not trade at once")
    assert market().submit(order(price=D(101), tif=TimeInForce.FOK))[0] == []
    assert market().submit(order(price=D(101), size="4", tif=TimeInForce.FOK))[1] == "closed"
    assert "post-only" in market().submit(order(price=D(101), post_only=True))[1]
    assert one.resting == {}


def test_amend_keeps_its_place_only_when_it_gets_smaller() -> None:
    """Larger, or at another price, it goes to the back."""
    one = market()
    one.submit(order())
    one.trade(D(99), D(8), -1)
    assert one.amend(order(size="3"), D(0)) == ([], "")
    assert one.resting["o"].ahead == 2
    assert one.amend(order(size="9"), D(0)) == ([], "")
    assert one.resting["o"].ahead == 10
    assert one.amend(order("x"), D(0)) is None
    assert one.amend(order(size="2"), D(2)) == ([], "closed")


def test_post_only_order_takes_nothing_when_it_is_amended() -> None:
    """It stands as it was; at a price that does not trade at once it is amended."""
    one = market()
    one.submit(order(post_only=True))
    fills, why = one.amend(order(price=D(101), post_only=True), D(0)) or ([], "gone")
    assert (fills, "post-only" in why, one.resting["o"].limit) == ([], True, D(99))
    assert one.amend(order(price=D(100), post_only=True), D(0)) == ([], "")
    assert one.resting["o"].limit == 100


def test_no_fill_is_better_than_the_market_when_anything_comes() -> None:
    """Random quotes, prints, orders: every fill at a price that was quoted or passed, in size."""
    for seed in range(60):
        rng = random.Random(seed)
        one, mid = market(), 100
        limits: dict[str, tuple[int, Decimal, Decimal]] = {}
        got: dict[str, Decimal] = {}
        for number in range(300):
            mid = max(20, mid + rng.randint(-1, 1))
            bid, ask = D(mid - rng.randint(1, 2)), D(mid + rng.randint(1, 2))
            sizes = D(rng.randint(1, 9)), D(rng.randint(1, 9))
            shown = one.quote(bid, sizes[0], ask, sizes[1])
            assert sum(each.size for each in shown) <= sum(sizes)
            price, size = rng.choice([bid, ask]), D(rng.randint(1, 9))
            printed = one.trade(price, size, -1 if price == bid else 1)
            assert sum(each.size for each in printed) <= size
            for each in (*shown, *printed):
                side, limit, _ = limits[each.oid]
                assert (limit - each.price) * side >= 0
                best = ask if side > 0 else bid
                reached = min(best, price) if side > 0 else max(best, price)
                assert (each.price - reached) * side >= 0  # never through an untouched price
                got[each.oid] = got.get(each.oid, D(0)) + each.size
            oid, side = f"o{number}", rng.choice([1, -1])
            limit = D(mid + rng.randint(-4, 4))
            wanted = D(rng.randint(1, 12))
            limits[oid] = side, limit, wanted
            action = Action.BUY if side > 0 else Action.SELL
            fills, _ = one.submit(order(oid, action, str(wanted), price=limit))
            for each in fills:
                assert each.price == (ask if side > 0 else bid)
                got[oid] = got.get(oid, D(0)) + each.size
            if rng.random() < 0.3 and one.resting:
                one.cancel(rng.choice(list(one.resting)))
        assert all(size <= limits[oid][2] for oid, size in got.items())
        assert got


class _LooksAtAll(PaperMarket):
    """A market that passes nothing over."""

    def reach(self) -> tuple[Decimal, Decimal]:
        """Reach everywhere."""
        return D("Infinity"), D(0)


def test_nothing_is_passed_over_when_trades_and_quotes_are_out_of_reach() -> None:
    """The same fills, and the same orders left, over random markets."""
    for seed in range(60):
        rng = random.Random(seed)
        one, whole = PaperMarket(), _LooksAtAll()
        for number in range(120):
            low = rng.randrange(95, 104)
            bid, ask = D(low), D(low + rng.randrange(1, 4))
            sizes = D(rng.randrange(1, 9)), D(rng.randrange(1, 9))
            action = rng.choice((Action.BUY, Action.SELL))
            placed = order(str(number), action, str(rng.randrange(1, 7)), price=D(low - 1))
            if rng.random() < 0.1:
                placed = order(str(number), action, "5", price=None, kind=OrderKind.MARKET)
            print_ = D(rng.randrange(93, 109)), D(rng.randrange(1, 9)), rng.choice((1, -1, 0))
            do = rng.random()
            oid = str(rng.randrange(number + 1))
            for made in (one, whole):
                if do < 0.4 or not number:
                    made.fills = made.quote(bid, sizes[0], ask, sizes[1])  # type: ignore[attr-defined]
                elif do < 0.6:
                    made.fills = made.submit(placed)  # type: ignore[attr-defined]
                elif do < 0.65:
                    made.fills = made.cancel(oid) is None  # type: ignore[attr-defined]
                elif do < 0.7:
                    terms = order(oid, size=str(placed.size + 1), price=placed.price or D(low))
                    made.fills = made.amend(terms, D(1))  # type: ignore[attr-defined]
                else:
                    made.fills = made.trade(*print_)  # type: ignore[attr-defined]
            assert one.fills == whole.fills  # type: ignore[attr-defined]
            kept, one._reach = one.reach(), None
            assert one.reach() == kept  # as it is when all that rests is looked at
        assert one.resting.keys() == whole.resting.keys()
        for oid, left in one.resting.items():
            other = whole.resting[oid]
            assert (left.left, left.ahead) == (other.left, other.ahead)


def test_fee_of_an_inverse_contract_has_no_more_digits_than_a_coin() -> None:
    """A third of a coin is rounded: what has no end could not be counted with."""
    mkt = MktPair(
        fqme="btcusd.coinm.perp.binance", bs_mktid="BTCUSD_PERP",
        dst=Asset("btc", AssetType.CRYPTO), src=Asset("usd", AssetType.CRYPTO),
        price_tick=D("0.1"), size_tick=D(1), contract_size=D(100), inverse=True,
    )  # fmt: skip
    broker = PaperBroker("binance.paper")
    broker.know(mkt)
    broker.quote(mkt.mktid, (D(29_999), D(9)), (D(30_000), D(9)), 1)
    placed = order(symbol=mkt.mktid, price=None, kind=OrderKind.MARKET)
    (fill,) = [one for one in broker.request(placed, 2) if isinstance(one, BrokerdFill)]
    assert fill.fee == D("0.000016666666667")  # 0.1 % of 500 / 30,000
    assert fill.fee_asset == "btc"
