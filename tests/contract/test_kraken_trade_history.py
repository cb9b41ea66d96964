"""Kraken's trade history against the loopback venue: each fill as the live dialog told it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import trio
from kraken_client import ALICE, BOB, CAROL, secret, top_of
from kraken_trading import account_at, quick, session, venue_at

from piker.accounting import of_fill
from piker.brokers.credentials import Credentials, ErasableSecret
from piker.brokers.kraken import broker_history
from piker.brokers.kraken.broker import trade_history
from piker.brokers.limits import venue_budget
from piker.errors import BrokerError, DataQuality, Refused
from piker.orders import BrokerdFill
from piker.testing import kraken_account_rest
from piker.testing.accounts import AccountSpec, account_of
from piker.testing.faults import Fault

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")
TICK = Decimal("0.1")
PAGE = 5


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have five trades to a page, there and here."""
    for module in (broker_history, kraken_account_rest):
        monkeypatch.setattr(module, "PAGE", PAGE)


def key_of(spec: AccountSpec, account: str) -> Credentials:
    """Return the key of an account, under the name that its dialog has."""
    assert spec.secret is not None
    return Credentials(
        venue="kraken", account=account.partition(".")[2], key=ErasableSecret(spec.key),
        secret=ErasableSecret(spec.secret.reveal()), source="test",
    )  # fmt: skip


async def history(
    account: str, symbols: tuple[str, ...] = (), since_ns: int = 0, spec: AccountSpec = ALICE
) -> list[list[BrokerdFill]]:
    """Return every page that was told."""
    async with trade_history(key_of(spec, account), symbols, since_ns) as pages:
        return [page async for page in pages]


def told(fill: BrokerdFill) -> tuple[Any, ...]:
    """Return all of a fill but who ordered it, and when we heard of it."""
    return (
        fill.tid, fill.reqid, fill.symbol, fill.size, fill.price, fill.action, fill.fee,
        fill.fee_asset, fill.maker, fill.broker_time_ns, fill.account,
    )  # fmt: skip


async def trade(venue: Any, bob: Any, emsd: Any) -> dict[str, BrokerdFill]:
    """Be filled as a maker, bit by bit, as a taker at several prices, and in another market."""
    bid, ask = top_of(venue)
    price = (bid + ask) / 2 // TICK * TICK
    await emsd.order("rests", "buy", "0.6", price)
    await emsd.status("rests", "open")
    for _ in range(6):
        await bob.order("sell", price, "0.1")
        await trio.sleep(0.005)
    await emsd.status("rests", "closed")
    await emsd.order("takes", "sell", "3")
    await emsd.until(lambda: {"closed", "canceled"} & set(emsd.statuses("takes")))
    await emsd.order("other", "buy", "0.5", symbol="ethusd.spot")
    await emsd.status("other", "closed")
    assert len(emsd.fills) > 2 * PAGE
    assert {fill.symbol for fill in emsd.fills.values()} == {"xbtusd.spot", "ethusd.spot"}
    return dict(emsd.fills)


async def test_every_fill_is_told_as_it_was_live_when_history_has_many_pages() -> None:
    """Beside the dialog that told it: equal in all that counts, oldest first, each once."""
    async with session(limits=False) as (venue, bob, emsd):
        live = await trade(venue, bob, emsd)
        pages = await history(emsd.account)
        fetched = [fill for page in pages for fill in page]
        assert max(map(len, pages)) == PAGE
        assert len(fetched) == len(live)
        assert {one.tid: told(one) for one in fetched} == {k: told(v) for k, v in live.items()}
        times = [fill.broker_time_ns for fill in fetched]
        assert times == sorted(times)
        for fill in fetched:
            fqme = f"{fill.symbol}.kraken"
            assert of_fill(fill, symbol=fqme).key == of_fill(live[fill.tid], symbol=fqme).key
        tier = {one.name: one.capacity for one in venue_budget("kraken").limits}
        assert tier[f"private {emsd.account}"] > 15  # what the dialog learnt, not the least again
        since = times[3]
        wanted = ("xbtusd.spot",)
        some = [one for page in await history(emsd.account, wanted, since) for one in page]
        assert {one.tid for one in some} == {
            one.tid for one in live.values()
            if one.broker_time_ns >= since and one.symbol == wanted[0]
        }  # fmt: skip
        assert emsd.sync == "synced"
        await emsd.order("after", "buy", "0.01")
        await emsd.status("after", "closed")


async def test_no_fill_is_missed_when_the_account_trades_while_it_is_asked() -> None:
    """Every trade that was there at the beginning, each once, though the pages move."""
    async with session(limits=False) as (venue, bob, emsd):
        live, found, number = await trade(venue, bob, emsd), [], 0
        async with trade_history(key_of(ALICE, emsd.account), (), 0) as pages:
            async for page in pages:
                found += page
                if number < 2:
                    number += 1
                    await emsd.order(f"more-{number}", "buy", "0.02")
                    await emsd.status(f"more-{number}", "closed")
        names = [fill.tid for fill in found]
        assert len(set(names)) == len(names)
        assert set(live) <= set(names) <= set(emsd.fills)


async def test_a_trade_on_margin_is_refused_when_it_is_met() -> None:
    """It is no spot trade: nothing is made of the account then, and the remedy is said."""
    async with session(limits=False) as (venue, bob, emsd):
        await trade(venue, bob, emsd)
        row = account_at(venue).fills[3]
        row["margin"] = "12.50000"
        with pytest.raises(DataQuality, match="on margin") as caught:
            await history(emsd.account)
        assert row["id"] in caught.value.message
        assert "--lenient" in caught.value.remedy


async def test_nothing_is_told_when_an_account_never_traded() -> None:
    """No pages but an empty one; a moment to come is no error."""
    async with venue_at(limits=False):
        assert not any(await history("kraken.none", spec=BOB))
        assert not any(await history("kraken.none", ("xbtusd.spot",), 10**19, spec=BOB))


async def test_a_key_that_is_not_taken_is_refused_and_lost_answers_are_asked_for_again() -> None:
    """In the venue's words; a venue that stays away ends it with that, whatever was told."""
    stranger = account_of(f"x:nokey:{secret('x')}:USD=1")
    async with venue_at(limits=False) as (venue, _):
        with pytest.raises(Refused, match="Invalid key"):
            await history("kraken.bad", spec=stranger)
        venue.gate.add_faults([Fault(what="close", on="http", match="TradesHistory", count=2)])
        assert not any(await history("kraken.lost", spec=CAROL))
        venue.gate.add_faults([Fault(what="status", status=503, match="TradesHistory", on="http")])
        with pytest.raises(BrokerError):
            await history("kraken.away", spec=CAROL)
