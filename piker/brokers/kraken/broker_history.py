"""What an account traded at Kraken: ``TradesHistory``, fifty trades at a time, the oldest first.

The venue counts pages from the newest trade on, so the last page comes first here. What trades
meanwhile moves all others up: a page that came when there were more than was reckoned with is asked
for again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager

from piker import clock
from piker.brokers.credentials import Credentials
from piker.brokers.kraken.api import PROVIDER, load_listings
from piker.brokers.kraken.broker_book import Book
from piker.brokers.kraken.broker_rest import PAGE, PrivateRest, open_private
from piker.brokers.kraken.broker_schema import TradeRow, TradesPage
from piker.brokers.kraken.broker_terms import Markets
from piker.clock import NS
from piker.errors import DataQuality, Refused, Rejected
from piker.orders import BrokerdFill

__all__ = ["trade_history"]

#: What the venue says to a key that it does not take, or that may not ask for this.
_BAD_KEY = ("EAPI:Invalid key", "EAPI:Invalid signature", "EGeneral:Permission denied")


@asynccontextmanager
async def trade_history(
    credentials: Credentials, symbols: Sequence[str], since_ns: int
) -> AsyncIterator[AsyncIterator[list[BrokerdFill]]]:
    """Open what an account traded, in some markets or in all; see :mod:`piker.brokers.trading`.

    Entering asks the venue for nothing, and raises ``ConfigError`` for a key that can not sign. The
    venue has no search by market: of some markets all pages are read, too. The iteration raises
    ``Refused`` where the key may not ask for closed orders and trades, ``DataQuality`` for a trade
    on margin, and other ``BrokerError``.
    """
    account = f"{PROVIDER}.{credentials.account}"
    async with open_private(credentials, account) as rest:
        async with aclosing(_pages(rest, account, frozenset(symbols), since_ns)) as pages:
            yield pages


async def _pages(
    rest: PrivateRest, account: str, symbols: frozenset[str], since_ns: int
) -> AsyncGenerator[list[BrokerdFill], None]:
    """Yield the fills of every page."""
    markets = Markets((await load_listings()).values())
    try:
        async with aclosing(_rows(rest, max(0, since_ns // NS - 1))) as pages:
            async for rows in pages:
                told = _told(Book(account, markets), rows)
                yield [
                    fill
                    for fill in told
                    if fill.broker_time_ns >= since_ns and (not symbols or fill.symbol in symbols)
                ]
    except Rejected as error:
        if error.code in _BAD_KEY:
            raise Refused(
                f"{error.message}.",
                remedy="The key must be allowed to query closed orders and trades.",
            ) from error
        raise


def _told(book: Book, rows: dict[str, TradeRow]) -> Iterator[BrokerdFill]:
    """Yield rows as a dialog tells what it missed; ``book`` knows none of them."""
    for tid, row in rows.items():
        if row.margin:
            raise DataQuality(
                f"kraken: the trade {tid} was on margin, which is no spot trade.",
                remedy="Ask for what came after it (--since), or import Kraken's own file with "
                "--lenient, which leaves such lines out.",
            )
        for event in book.trade(tid, row, clock.wall_ns()):
            if isinstance(event, BrokerdFill):
                yield event


async def _rows(rest: PrivateRest, start_s: int) -> AsyncGenerator[dict[str, TradeRow], None]:
    """Yield the rows of every page, the oldest first.

    ``done`` are told: counted from the oldest they keep their numbers, whatever trades meanwhile.
    """
    done = count = 0
    while True:
        at = max(0, count - done - PAGE)
        page = await rest.trades_page(start_s, at)
        rows = sorted(page.trades.items(), key=lambda item: -item[1].time)  # as they should come
        told = _count_of(page)
        if told - at - len(rows) > done:  # there are more than was reckoned with
            _check(told != count, told, done)
            count = told
            continue
        count = told
        fresh = rows[: max(0, count - at - done)]
        done += len(fresh)
        yield dict(reversed(fresh))
        if done >= count:
            return
        _check(bool(fresh), count, done)


def _count_of(page: TradesPage) -> int:
    """Return of how many trades a page is: without it the oldest can not be told from the rest."""
    if page.count is None:
        raise DataQuality(
            "kraken: TradesHistory does not tell how many trades there are.",
            remedy="Fetch again later, or import Kraken's own file: piker ledger import.",
        )
    return page.count


def _check(is_well: bool, count: int, done: int) -> None:
    """Refuse pages that do not hold what they say: some trades would never be seen."""
    if not is_well:
        raise DataQuality(f"kraken: TradesHistory tells of {count} trades and shows {done}")
