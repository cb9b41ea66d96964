"""What it takes to believe Binance that it does not have an order.

What answers its queries follows what takes orders, and may be behind it: -2013 is said of orders
that were acknowledged a moment ago. And USD-M answers it for an order that was made more than 90
days ago though it stands. So one that the venue had is gone when for twice the account's patience
it said nothing else, does not list it among the open ones then, and was asked for its trades. One
that it may never have had is absent when that patience is over since its request could last be
taken, it is not listed, and nothing was traded there since that nobody knows the order of.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Protocol

import msgspec

from piker.brokers.binance.broker_book import Book, Known, Miss
from piker.brokers.binance.broker_facts import FillFact, OrderFact, reqid_of
from piker.brokers.binance.broker_rest import Sent, Signed
from piker.errors import Rejected
from piker.orders import BrokerdOrder

__all__ = ["ARCHIVED", "FILLS", "FORGOT", "MISSES", "Desk", "Evidence"]

MISSES = 2  # times the venue has to say that there is no such order, when none can come any more
GONE = 2  # times the account's patience until the venue is believed to have forgotten an order
BACK_MS = 7 * 86_400_000  # trades of strangers are looked for so far back: no query lags so long
EARLY_MS = 60_000  # before the order was made by our clock: it is not the venue's
STRANGERS = 20  # orders of others that are asked for at one look
MAX_STRANGERS = 100_000  # numbers of others' orders that are remembered; some 10 MB
FILLS = "fills"  # what is missing, beside ids of orders
FORGOT = "the venue does not know it any more"
ARCHIVED = "-2026"  # canceled or expired without a fill, more than 90 days ago
_NO_MARKET = "-1121"  # it was delisted, or delivered: nothing stands there


class Desk(Protocol):
    """One market kind's requests: spot's or USD-M's."""

    signed: Signed
    edits_price: bool
    is_dual: bool

    async def prepare(self) -> None: ...
    async def learn_mode(self) -> None: ...
    def unfit(self, order: BrokerdOrder) -> str: ...
    def is_algo(self, order: BrokerdOrder) -> bool: ...
    async def place(
        self, order: BrokerdOrder, symbol: str, client_id: str, size: Any, sent: Sent
    ) -> OrderFact: ...
    async def cancel(
        self, symbol: str, number: int, client_id: str, *, is_algo: bool, sent: Sent
    ) -> OrderFact | None: ...
    async def order(
        self, symbol: str, *, number: int = 0, client_id: str = "", is_algo: bool = False
    ) -> OrderFact | None: ...
    async def open_orders(self, symbol: str = "") -> list[OrderFact]: ...
    async def trades(self, leg: OrderFact) -> list[FillFact]: ...
    async def trades_since(self, symbol: str, since_ms: int) -> list[FillFact]: ...
    async def standing(self) -> list[Any]: ...
    def events(self, kind: str, raw: bytes) -> list[Any]: ...


class Evidence:
    """Asks for orders of one market kind, and weighs what it means that there is none."""

    def __init__(self, desk: Desk, book: Book) -> None:
        self._desk = desk
        self._book = book
        self._strangers: dict[str, None] = {}  # orders that traded and are none of ours

    @property
    def now_ms(self) -> int:
        """Return the venue's time."""
        return self._desk.signed.clock.now_ms()

    @property
    def patience_ms(self) -> int:
        """Return for how long the venue's queries may be behind."""
        return round(self._desk.signed.patience_s * 1000)

    def wait_s(self, known: Known) -> float:
        """Return after how long a look may prove more of an order; 0 where that is not known."""
        ends = [known.expires_ms, known.expires_ms + self.patience_ms]
        ends += [miss.since_ms + GONE * self.patience_ms for miss in known.misses.values()]
        return min((end - self.now_ms for end in ends if end > self.now_ms), default=0) / 1000

    # -- asking --------------------------------------------------------------------------------
    async def order(
        self, symbol: str, *, number: int = 0, client_id: str = "", is_algo: bool = False
    ) -> OrderFact | None:
        """Ask for an order; None where there is none, or no such market any more."""
        try:
            return await self._desk.order(
                symbol, number=number, client_id=client_id, is_algo=is_algo
            )
        except Rejected as error:
            if error.code == _NO_MARKET:
                return None
            raise

    async def _listed(self, symbol: str) -> Sequence[OrderFact]:
        try:
            return await self._desk.open_orders(symbol)
        except Rejected as error:
            if error.code == _NO_MARKET:
                return ()
            raise

    async def _trades(self, leg: OrderFact) -> list[FillFact]:
        if leg.is_algo:
            return []
        try:
            return await self._desk.trades(msgspec.structs.replace(leg, executed=leg.size))
        except Rejected as error:
            if error.code == _NO_MARKET:
                return []
            raise

    # -- an order that the venue had -----------------------------------------------------------
    async def standing(self, known: Known, leg: OrderFact) -> OrderFact | None:
        """Return how a leg stands; None while the venue may only be late with it."""
        try:
            fact = await self.order(
                leg.symbol, number=leg.number, is_algo=leg.is_algo,
                client_id=leg.client_id if leg.is_algo else "",
            )  # fmt: skip
        except Rejected as error:
            if error.code != ARCHIVED:
                raise
            return msgspec.structs.replace(leg, status="canceled", reason="archived")
        return fact if fact is not None else await self.listed_or_gone(known, leg)

    async def listed_or_gone(self, known: Known, leg: OrderFact) -> OrderFact | None:
        """Return how a leg stands that the venue has just said not to have; None: it may be late.

        Its trades are asked for before it is called gone: what it traded is no less true.
        """
        is_over = self._is_denied(known, leg.reqid, GONE * self.patience_ms)
        for row in await self._listed(leg.symbol):
            if row.reqid == leg.reqid:
                return row
        if not is_over:
            return None
        fills = await self._trades(leg)
        done = max(leg.executed, sum((fill.size for fill in fills), Decimal(0)))
        return msgspec.structs.replace(
            leg, status="closed" if done >= leg.size > 0 else "canceled", executed=done,
            fills=tuple(fills), reason=FORGOT, is_inferred=True,
        )  # fmt: skip

    def _is_denied(self, known: Known, name: str, for_ms: int) -> bool:
        """Count that the venue says not to have an order; tell whether it did for so long."""
        miss = known.misses.setdefault(name, Miss(self.now_ms))
        miss.count += 1
        return miss.count >= MISSES and self.now_ms - miss.since_ms >= for_ms

    def has_no_fills(self, known: Known) -> bool:
        """Count that the venue tells fewer fills than it counts; tell whether it did for long."""
        return self._is_denied(known, FILLS, self.patience_ms)

    # -- an order that it may never have had ---------------------------------------------------
    async def never_came(self, known: Known, client_id: str, asked_ms: int) -> bool:
        """Weigh that the venue said, when asked at ``asked_ms``, to have no order of an id.

        Tell whether it is proved that it has none, and will have none. What is found of the
        account's own meanwhile is learnt.
        """
        if asked_ms <= known.expires_ms + self.patience_ms:
            return False
        if not self._is_denied(known, client_id, 0):
            return False
        for row in await self._listed(known.market.wire):
            if row.client_id == client_id:
                self._book.learn(row)
                return False
        return not await self._is_traded(known)

    async def _is_traded(self, known: Known) -> bool:
        """Tell whether there are trades since an order was made that may be its own."""
        symbol, now_ms = known.market.wire, self.now_ms
        made_ms = known.order.time_ns // 1_000_000
        if known.legs:  # it would follow these
            made_ms = max(made_ms, known.newest.time_ms)
        since_ms = max(min(made_ms, now_ms) - EARLY_MS, now_ms - BACK_MS)
        try:
            fills = await self._desk.trades_since(symbol, since_ms)
        except Rejected as error:
            if error.code == _NO_MARKET:
                return False
            raise
        numbers = dict.fromkeys(fill.number for fill in fills)
        names = {reqid_of(known.market.venue, symbol, number): number for number in numbers}
        strange = [
            (reqid, number) for reqid, number in names.items()
            if not self._book.has_leg(reqid) and reqid not in self._strangers
        ]  # fmt: skip
        for reqid, number in strange[:STRANGERS]:
            if await self._is_ours(known, reqid, number):
                return True
        return len(strange) > STRANGERS

    async def _is_ours(self, known: Known, reqid: str, number: int) -> bool:
        """Tell whether an order that traded may be one of ours; what is one is learnt."""
        fact = await self.order(known.market.wire, number=number)
        if fact is None:
            if not self._is_denied(known, reqid, GONE * self.patience_ms):
                return True
        elif self._book.owner(fact) is not None:
            self._book.learn(fact)
            return True
        if len(self._strangers) >= MAX_STRANGERS:
            self._strangers.clear()
        self._strangers[reqid] = None
        return False
