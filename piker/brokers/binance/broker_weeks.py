"""USD-M's trades of an account, week by week: what its ``userTrades`` tells by ``startTime``.

Asked without times it tells the last seven days only, ``fromId`` can not be sent with them, and
what it says of older trades by ``fromId`` alone is nowhere documented.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

from piker.brokers.binance.broker_facts import FillFact
from piker.brokers.signing import Param
from piker.errors import DataQuality

__all__ = ["KEPT_MS", "WEEK_MS", "check", "weeks"]

WEEK_MS = 7 * 86_400_000  # that a question may span
#: Trades are kept for three months since 2026-08-26, and for six before (its "Account Trade List"):
#: 89 days are the least that three months have.
KEPT_MS = 89 * 86_400_000

Ask = Callable[[Mapping[str, Param]], Awaitable[list[FillFact]]]


async def weeks(
    ask: Ask, start: int, until: int, *, page_size: int
) -> AsyncGenerator[list[FillFact], None]:
    """Yield the trades that ``ask`` tells of a market from a moment to another, in ms, in order."""
    told = 0
    while start <= until:
        end = min(start + WEEK_MS - 1, until)
        page = await ask({"startTime": start, "endTime": end, "limit": page_size})
        if len(page) == page_size and page[-1].time_ms <= start:  # one moment has more than a page
            yield [fact for fact in page if fact.trade > told]
            told = max(told, page[-1].trade)
            page = await ask({"fromId": told + 1, "limit": page_size})
            check(page, told + 1)
        fresh = [fact for fact in page if fact.trade > told]
        yield fresh
        if fresh:
            told = fresh[-1].trade
        start = page[-1].time_ms if len(page) == page_size else end + 1


def check(page: list[FillFact], first: int) -> None:
    """Refuse a page that does not begin where it was asked to: it would be asked for for ever."""
    if any(fact.trade < first for fact in page):
        raise DataQuality(f"binance: trades before {first} where those from it on were asked for")
