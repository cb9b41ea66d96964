"""Accounts in emsd: what each may do, how it stands with its venue, and what it holds.

An account is ``<provider>.<name>``; ``<provider>.paper`` is the paper engine's. One that trades
real money is *unarmed* until a person arms it, once; whatever halts it afterwards needs a person to
arm it again. A halt of all of them (account "") stands above each one's own state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Protocol

import msgspec

from piker import clock
from piker.clearing.denials import Denial, DenialCode
from piker.clearing.holdings import DAY_NS
from piker.clearing.lifecycle import OrderState
from piker.clearing.records import Position, RiskChange
from piker.clearing.risk import RiskDesk, TradingState
from piker.clearing.standing import Standing
from piker.clearing.validate import TRIGGERED, too_little
from piker.errors import ConfigError
from piker.market import MktPair
from piker.money import EXACT, is_sane, plain
from piker.orders import (
    AccountStatus,
    Action,
    BrokerdBalance,
    BrokerdPosition,
    BrokerdRequest,
    ExecMode,
    Order,
    OrderKind,
    SyncState,
    TimeInForce,
)

__all__ = ["PAPER", "UNARMED", "Account", "Accounts", "Link", "Mismatch", "split_account"]

PAPER = "paper"
UNARMED = "unarmed"  # AccountStatus.state of an account that was never armed
ZERO = Decimal(0)
_TIMED = (TimeInForce.GTD, TimeInForce.DAY)
_AT_ONCE = (TimeInForce.IOC, TimeInForce.FOK)


class Link(Protocol):
    """The way to one account's broker, live or paper. ``name`` is the ``src`` of its statuses."""

    name: str

    async def send(self, request: BrokerdRequest) -> None:
        """Hand a request over; what becomes of it comes back as events.

        Raises ``PikerError`` when it can not: it may have left, or not.
        """

    def ask_again(self) -> None:
        """Have everything compared with the venue anew."""


def split_account(name: str) -> tuple[str, str]:
    """Return (provider, name) of ``binance.main``; raise ``ConfigError``."""
    provider, dot, own = name.partition(".")
    if not (dot and provider and own) or "." in own:
        raise ConfigError(
            f"{name!r} is no account.",
            remedy="An account is PROVIDER.NAME: binance.paper, or binance.main.",
        )
    return provider, own


class Mismatch(msgspec.Struct, frozen=True):
    """A position that is not what the last one and our own fills since come to."""

    symbol: str  # fqme, or which side of it
    venue: Decimal
    ours: Decimal

    def __str__(self) -> str:
        """Say it to a person."""
        venue = plain(self.venue) if is_sane(self.venue) else f"{self.venue}, which is no size"
        return f"{self.symbol}: the venue has {venue}, we have {plain(self.ours)}"


class Account:
    """One account: limits, link, what its venue does itself (``offers``), what it holds."""

    def __init__(
        self, name: str, desk: RiskDesk, link: Link, offers: Callable[[str, str], bool], *,
        protect_ticks: int = 0,
    ) -> None:  # fmt: skip
        self.name = name
        self.provider, own = split_account(name)
        self.is_live = own != PAPER
        self.desk = desk
        self.link = link
        self.offers = offers
        self.protect_ticks = protect_ticks
        self.sync = SyncState.LOST
        self.why = ""  # of the state
        self.sync_why = ""
        self.armed = not self.is_live
        self.positions: dict[str, BrokerdPosition] = {}  # by fqme
        self.unreadable: dict[str, BrokerdPosition] = {}  # by fqme: told last, and no numbers
        self.heard: set[str] = set()  # fqmes of positions that the link's dialog told
        self.whole: frozenset[str] = frozenset()  # venues whose positions are all told
        self.balances: dict[str, BrokerdBalance] = {}  # by asset
        self.asked: frozenset[str] = frozenset()  # oids that the link's dialog began with

    @property
    def state(self) -> str:
        """Return what it may do: active, reducing, halted, or unarmed."""
        halted = self.desk.state is TradingState.HALTED
        return UNARMED if not self.armed and not halted else self.desk.state

    def status(self) -> AccountStatus:
        """Return what clients are told."""
        return AccountStatus(
            account=self.name, state=self.state, sync=self.sync, src=self.link.name,
            reason=self.why or self.sync_why, time_ns=clock.wall_ns(),
            hedges=tuple(sorted(self.desk.hedges)),
        )  # fmt: skip

    def stands(self, state: OrderState, *, at_venue: bool) -> None:
        """Tell the limits how an order stands: what may still trade counts."""
        if at_venue:
            self.desk.standing(state.order, state.remaining, state.worst)
        else:
            self.desk.ended(state.order.oid)

    def fqme(self, symbol: str) -> str:
        """Return the whole address of a market that the backend names without its provider."""
        return f"{symbol}.{self.provider}"

    def emulated(self, order: Order, mkt: MktPair, now_ns: int) -> Order:
        """Return the order as it is taken: what the venue can not wait for waits in emsd.

        So does what hangs on another order, where the venue would need for both what one takes.

        A day order gets the end of its day, so that a restart does not give it another one.
        """
        if order.tif is TimeInForce.DAY and order.expire_ns is None:
            end = (now_ns // DAY_NS + 1) * DAY_NS
            order = msgspec.structs.replace(order, expire_ns=end)
        if order.action is Action.ALERT or order.exec_mode is ExecMode.DARK:
            return order
        venue = _venue(mkt)
        waits = order.kind in TRIGGERED and not self.offers(venue, order.kind)
        if order.oco and order.kind in TRIGGERED and not self.offers(venue, "reduce_only"):
            waits = True  # a venue without margin sets aside what it sells: for one of both alone
        return msgspec.structs.replace(order, exec_mode=ExecMode.DARK) if waits else order

    def protected(self, order: Order, met: Decimal, mkt: MktPair) -> Order:
        """Return what is sent when a waiting order was met: of a market order, how far it may go.

        With ``protect_ticks`` it is a limit order so many ticks beyond the price that met it.
        """
        if not self.protect_ticks or order.kind is not OrderKind.MARKET:
            return order
        price = mkt.round_price(met + order.side * self.protect_ticks * mkt.price_tick)
        return msgspec.structs.replace(
            order, kind=OrderKind.LIMIT, price=max(price, mkt.price_tick)
        )

    def refuses(self, order: Order, mkt: MktPair) -> Denial | None:
        """Return why the account takes no such order now, before any limit is looked at."""
        if self.state == UNARMED:
            what = f"{self.name} trades real money and is not armed."
            return Denial(DenialCode.NOT_ARMED, f"{what} Run: piker arm {self.name}")
        becomes = OrderKind.MARKET if order.price is None else OrderKind.LIMIT
        venue = _venue(mkt)
        is_theirs = self.offers(venue, order.kind) or self.offers(venue, becomes)
        for wanted, needed in (
            (not is_theirs, becomes),
            (order.post_only, "post_only"),
            (order.tif in _AT_ONCE, order.tif),
        ):
            if wanted and not self.offers(venue, needed):
                what = f"{self.link.name} does no {needed} orders in {mkt.fqme}."
                return Denial(DenialCode.NOT_OFFERED, what)
        if order.reduce_only and not self.offers(venue, "reduce_only"):
            held = self.desk.held(order.symbol)
            if held * order.side >= 0 or order.size > abs(held):
                more = f"{plain(order.size)} is more than there is to reduce"
                what = f"{more}: {plain(held)} {order.symbol}."
                return Denial(DenialCode.REDUCING, what)
        if self.sync is not SyncState.SYNCED:
            why = f": {self.sync_why}" if self.sync_why else ""
            return Denial(DenialCode.NOT_SYNCED, f"{self.name} is {self.sync}{why}.")
        if order.kind is OrderKind.MARKET and not order.reduce_only:
            return too_little(order, mkt, self.desk.last(order.symbol))
        return None

    def native_tif(self, order: Order) -> TimeInForce:
        """Return the time in force that the venue is told: emsd ends what the venue can not."""
        if order.tif not in _TIMED or self.offers(order.symbol.split(".")[1], order.tif):
            return order.tif
        return TimeInForce.GTC

    def take_up(self, standing: Standing, now_ns: int) -> None:
        """Let the limits begin where the journal ends: positions, and the day so far."""
        for fqme, size in self.believed(standing).items():
            self.desk.position(fqme, size)
        for (name, fqme), day in standing.days.items():
            if name == self.name and day.day == now_ns // DAY_NS:
                self.desk.resume(fqme, day)

    def believed(self, standing: Standing) -> dict[str, Decimal]:
        """Return the positions as the journal has them, by fqme: told ones with our fills since."""
        found = {fqme: size for (name, fqme), size in standing.nets.items() if name == self.name}
        for (name, symbol), known in standing.positions.items():
            if name == self.name:
                fqme = self.fqme(symbol)
                since = EXACT.subtract(found.get(fqme, ZERO), known.net)
                found[fqme] = EXACT.add(known.told.size, since)
        return found

    def untold(self, standing: Standing, whole: Iterable[str]) -> list[BrokerdPosition]:
        """Return what was held where every position was told by now, and was not told: flat."""
        last = {
            self.fqme(symbol): one.told
            for (name, symbol), one in standing.positions.items() if name == self.name
        } | self.positions  # fmt: skip
        return [
            msgspec.structs.replace(
                told, size=ZERO, avg_price=None, legs=(), time_ns=clock.wall_ns()
            )
            for symbol, told in last.items()
            if symbol not in self.heard and symbol.split(".")[1] in whole
            and (told.size or told.legs)
        ]  # fmt: skip

    def reads(self, symbol: str, told: BrokerdPosition) -> bool:
        """Tell whether a position is one that can be counted with; else it differs from ours."""
        if all(map(is_sane, (told.size, *(leg.size for leg in told.legs)))):
            self.unreadable.pop(symbol, None)
            return True
        self.unreadable[symbol] = told
        return False

    def mismatches(self, standing: Standing) -> list[Mismatch]:
        """Return the positions that differ from what they were, with our own fills since."""
        found = [
            Mismatch(symbol, told.size, self.believed(standing).get(symbol, ZERO))
            for symbol, told in self.unreadable.items()
        ]
        for symbol, told in self.positions.items():
            known = standing.positions.get((self.name, told.symbol))
            net = standing.nets.get((self.name, symbol))
            if known is None:
                if net is None or symbol.split(".")[1] not in self.whole:
                    continue
                # Every position was told before we traded there, and none of this market: flat.
                known = Position(msgspec.structs.replace(told, size=ZERO, legs=()), ZERO)
            net = net or ZERO
            ours = known.told.size + net - known.net
            if ours != told.size:
                found.append(Mismatch(symbol, told.size, ours))
                continue
            long = self._long(standing, symbol)
            if known.long is None or long is None:
                continue
            ours = known.told.long + long - known.long
            if ours != told.long:
                found.append(Mismatch(f"the long side of {symbol}", told.long, ours))
        return found

    def _long(self, standing: Standing, symbol: str) -> Decimal | None:
        """Return what our fills come to on the long side, where both sides are held apart."""
        where = (self.name, symbol)
        return standing.longs.get(where, ZERO) if self.desk.is_hedged(symbol) else None

    def rebased(self, standing: Standing) -> list[Position]:
        """Return the positions to journal: those that the journal has otherwise, or not yet."""
        entries = []
        for symbol, told in self.positions.items():
            net = standing.nets.get((self.name, symbol), ZERO)
            known = standing.positions.get((self.name, told.symbol))
            now = Position(told, net, self._long(standing, symbol))
            if known is None or _sizes(known) != _sizes(now):
                entries.append(now)
        return entries


def _sizes(one: Position) -> tuple[Decimal | None, ...]:
    return (one.told.size, one.told.long, one.net, one.long)


def _venue(mkt: MktPair) -> str:
    return _venue_of(mkt.fqme)


@lru_cache(maxsize=4096)
def _venue_of(fqme: str) -> str:
    return fqme.split(".")[1]


class Accounts(Mapping[str, Account]):
    """All accounts of an emsd, by name; ``halted`` is the halt above all of them, with its why."""

    def __init__(self, standing: Standing) -> None:
        """Begin with the states that the journal has."""
        self._accounts: dict[str, Account] = {}
        self.get = self._accounts.get  # type: ignore[method-assign]  # often, of each event
        self._standing = standing
        top = standing.risk.get("")
        self.halted = top.reason if top is not None and top.state == TradingState.HALTED else None
        self._own: dict[str, RiskChange] = {}

    def __getitem__(self, name: str) -> Account:
        """Return an account that is open."""
        return self._accounts[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._accounts)

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._accounts)

    def add(self, account: Account) -> None:
        """Take an account in, with the state and positions that the journal has of it."""
        self._accounts[account.name] = account
        change = self._own.get(account.name) or self._standing.risk.get(account.name)
        if change is not None:
            self.apply(account.name, change)
        self._settle(account)
        account.take_up(self._standing, clock.wall_ns())

    def own_state(self, name: str) -> TradingState:
        """Return an account's own state, which a halt of all stands above."""
        own = self._own.get(name)
        return TradingState(own.state) if own is not None else TradingState.ACTIVE

    def drop(self, name: str) -> None:
        """Forget an account that could not be opened."""
        del self._accounts[name]

    def apply(self, name: str, change: RiskChange) -> None:
        """Take a change of state, of an account or of all ("")."""
        state = TradingState(change.state)
        if not name:
            self.halted = change.reason if state is TradingState.HALTED else None
            for account in self._accounts.values():
                self._settle(account)
            return
        self._own[name] = change
        if name not in self._accounts:  # it is opened with it
            return
        account = self._accounts[name]
        account.armed = account.armed or state is not TradingState.HALTED
        self._settle(account)

    def _settle(self, account: Account) -> None:
        own = self._own.get(account.name, RiskChange(TradingState.ACTIVE))
        if self.halted is not None:
            own = RiskChange(TradingState.HALTED, f"all accounts: {self.halted}")
        account.desk.state = TradingState(own.state)
        account.desk.all_halted = self.halted is not None
        account.why = own.reason if account.desk.state is not TradingState.ACTIVE else ""
