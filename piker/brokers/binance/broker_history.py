"""What an account traded at Binance: spot and USD-M, market by market, a thousand trades at a time.

Spot's ``myTrades`` goes from the first trade ever by ``fromId`` (rest-api.md, "Account trade
list"): it has no search from a moment that is both documented and longer than a day, so what is
older than ``since`` is read and left out. USD-M's ``userTrades`` goes by weeks
(:mod:`piker.brokers.binance.broker_weeks`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import TypeVar

import trio

from piker.brokers._backoff import Backoff
from piker.brokers.binance.api import KINDS, PROVIDER, load_markets
from piker.brokers.binance.broker_book import Market, market_by_name, told_fill
from piker.brokers.binance.broker_facts import FillFact
from piker.brokers.binance.broker_key import load_options, raise_refused, take_over
from piker.brokers.binance.broker_rest import open_signed
from piker.brokers.binance.broker_spot import SpotDesk
from piker.brokers.binance.broker_usdm import UsdmDesk
from piker.brokers.binance.broker_weeks import KEPT_MS, check, following, weeks
from piker.brokers.credentials import Credentials
from piker.brokers.signing import Param
from piker.errors import ConfigError, Rejected, SymbolNotFound, Transient, Unknown
from piker.orders import BrokerdFill

__all__ = ["trade_history"]

PAGE = 1000  # trades of one answer: the most that both markets give
TRIES = 4  # of one question: it changes nothing
AGAIN = Backoff(floor_s=0.25, cap_s=4.0)
AHEAD_MS = 60_000  # of the venue's time as we reckon it: nothing is missed for a clock
_MS = 1_000_000
_NO_MARKET = "-1121"

T = TypeVar("T")
Facts = AsyncGenerator[list[FillFact], None]


@asynccontextmanager
async def trade_history(
    credentials: Credentials, symbols: Sequence[str], since_ns: int
) -> AsyncIterator[AsyncIterator[list[BrokerdFill]]]:
    """Open what an account traded in some markets; see :mod:`piker.brokers.trading`.

    Entering asks the venue for nothing. Raises ``ConfigError`` without markets, for one of COIN-M
    and for a key that can not sign; the iteration raises ``Refused`` for a key that the venue does
    not take, ``SymbolNotFound`` for a market that it does not know, and ``BrokerError``.
    """
    account = f"{PROVIDER}.{credentials.account}"
    sign, key = take_over(credentials)
    if not symbols:
        raise ConfigError(
            "binance has no list of all that an account traded.", remedy="Name the markets."
        )
    for symbol in symbols:
        if not symbol.endswith(".spot") and ".usdtm." not in symbol:
            raise ConfigError(
                f"{symbol}: trades of spot and USD-M can be asked for, no others.",
                remedy="As in btcusdt.spot or btcusdt.usdtm.perp.",
            )
    window_ms = load_options().recv_window_ms
    async with AsyncExitStack() as stack:
        spot = await stack.enter_async_context(
            open_signed("spot", account, sign, key, window_ms=window_ms)
        )
        usdm = await stack.enter_async_context(
            open_signed("usdm", account, sign, key, window_ms=window_ms)
        )
        del sign, key
        pages = _pages(account, SpotDesk(spot), UsdmDesk(usdm), symbols, since_ns)
        yield await stack.enter_async_context(aclosing(pages))


async def _pages(
    account: str, spot: SpotDesk, usdm: UsdmDesk, symbols: Sequence[str], since_ns: int
) -> AsyncGenerator[list[BrokerdFill], None]:
    """Yield the fills of one market after the other."""
    since_ms = -(-since_ns // _MS)
    for symbol in dict.fromkeys(symbols):
        market = await _asked(partial(_market, symbol))
        is_spot = market.venue == "spot"
        walk = _spot(spot, market.wire) if is_spot else _usdm(usdm, market.wire, since_ms)
        async with aclosing(walk) as pages:
            async for page in pages:
                yield [
                    told_fill(fact, account=account, symbol=symbol)
                    for fact in page
                    if fact.time_ms >= since_ms
                ]


async def _market(symbol: str) -> Market:
    """Return where a market is; one that is listed no more by its name."""
    named = market_by_name(symbol)
    listed = (await load_markets(KINDS["spot" if named.venue == "spot" else "usdtm"])).get(symbol)
    return Market(named.venue, listed.bs_mktid) if listed is not None else named


async def _spot(desk: SpotDesk, wire: str) -> Facts:
    """Yield every trade of a market, by its number."""
    first = 0
    told: set[tuple[int, int]] = set()
    while True:
        page = await _asked(partial(desk.trade_page, wire, {"fromId": first, "limit": PAGE}))
        check(page, first)
        yield [fact for fact in page if (fact.trade, fact.number) not in told]
        if len(page) < PAGE:
            return
        first = following(page, first)
        told = {(fact.trade, fact.number) for fact in page if fact.trade >= first}


async def _usdm(desk: UsdmDesk, wire: str, since_ms: int) -> Facts:
    """Yield the trades of a market, week by week, from a moment on."""
    await _asked(desk.signed.clock.ready)
    now_ms = desk.signed.clock.now_ms() + AHEAD_MS
    start = max(since_ms, now_ms - KEPT_MS)

    def ask(said: Mapping[str, Param]) -> Awaitable[list[FillFact]]:
        return _asked(partial(desk.trade_page, wire, said))

    async with aclosing(weeks(ask, start, now_ms, page_size=PAGE)) as pages:
        async for page in pages:
            yield page


async def _asked(question: Callable[[], Awaitable[T]]) -> T:
    """Return an answer; ask again where it was lost, and say what a refusal means."""
    for failures in range(1, TRIES):
        try:
            return await _once(question)
        except (Transient, Unknown):
            await trio.sleep(AGAIN.wait_s(failures))
    return await _once(question)


async def _once(question: Callable[[], Awaitable[T]]) -> T:
    try:
        return await question()
    except Rejected as error:
        raise_refused(error)
        if error.code == _NO_MARKET:
            raise SymbolNotFound(
                error.message, remedy="It may be listed no more: leave it out."
            ) from error
        raise
