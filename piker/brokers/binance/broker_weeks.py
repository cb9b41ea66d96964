"""An account's trades by time: what USD-M's ``userTrades`` tells by weeks, spot's by days.

Asked without times USD-M tells the last seven days only, ``fromId`` can not be sent with them, and
what it says of older trades by ``fromId`` alone is nowhere documented. Nor is it which rows a page
holds that is cut, the oldest or the newest: half of its time is asked for then, until none is cut.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing

from piker.brokers.binance.broker_facts import FillFact
from piker.brokers.signing import Param
from piker.errors import DataQuality

__all__ = ["DAY_MS", "KEPT_MS", "WEEK_MS", "check", "following", "weeks"]

DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS  # that a question may span at USD-M; at spot a day
#: Trades are kept for three months since 2026-08-26, and for six before (its "Account Trade List"):
#: 89 days are the least that three months have.
KEPT_MS = 89 * DAY_MS
FAR = 10  # pages: a market's own trades in a millisecond are fewer than an account's so many

Ask = Callable[[Mapping[str, Param]], Awaitable[list[FillFact]]]


async def weeks(
    ask: Ask, start: int, until: int, *, page_size: int, span_ms: int = 0
) -> AsyncGenerator[list[FillFact], None]:
    """Yield the trades that ``ask`` tells of a market from a moment to another, in ms, in order."""
    span = widest = span_ms or WEEK_MS
    while start <= until:
        end = min(start + span - 1, until)
        page = await ask({"startTime": start, "endTime": end, "limit": page_size})
        if len(page) >= page_size and end > start:
            span = (end - start + 1) // 2
            continue
        if len(page) >= page_size:
            async with aclosing(_moment(ask, page, page_size)) as pages:
                async for page in pages:
                    yield page
        else:
            yield sorted(page, key=lambda fact: (fact.time_ms, fact.trade))
        start = end + 1
        span = min(2 * span, widest)


async def _moment(
    ask: Ask, page: list[FillFact], page_size: int
) -> AsyncGenerator[list[FillFact], None]:
    """Yield all trades of a moment that has more than a page, of which ``page`` is one.

    They are asked for by number, from one on that is before the first of them.
    """
    moment = page[0].time_ms
    first = max(0, min(fact.trade for fact in page) - FAR * page_size)
    told: set[tuple[int, int]] = set()
    while True:
        page = await ask({"fromId": first, "limit": page_size})
        check(page, first)
        here = {(one.trade, one.number): one for one in page if one.time_ms == moment}
        yield [one for name, one in here.items() if name not in told]
        if len(page) < page_size or page[-1].time_ms > moment:
            return
        first, told = following(page, first), set(here)


def following(page: list[FillFact], first: int) -> int:
    """Return from which number on to ask after a page that is full.

    It is that of its last trade, once more: two orders of the account that traded with each other
    have one number. Only a page that holds nothing else is followed by the next one.
    """
    return max(page[-1].trade, first + 1)


def check(page: list[FillFact], first: int) -> None:
    """Refuse a page that does not begin where it was asked to: it would be asked for for ever."""
    if any(fact.trade < first for fact in page):
        raise DataQuality(f"binance: trades before {first} where those from it on were asked for")
