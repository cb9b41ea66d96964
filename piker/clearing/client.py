"""Orders for clients: strategies, the CLI, charts and notebooks.

    async with open_ems("btcusdt.spot.binance", mode="paper") as ems:
        status = await ems.send(ems.order("btcusdt.spot.binance", "buy", "0.01", price="60000"))
        async for told in ems: ...

An order is acknowledged by its first ``Status``: it is then in emsd's journal. What was sent and
not acknowledged when emsd was lost is sent again when it is back, under the same oid, which emsd
knows if it had it. After every loss the client is given the whole picture anew, and told so with a
``Resync``.
"""

from __future__ import annotations

import random
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec
import trio
from trio_typing import TaskStatus

from piker import clock, service
from piker.brokers.credentials import DEFAULT_ACCOUNT
from piker.clearing._ems import (
    cancel_orders,
    get_accounts,
    get_order,
    open_order_dialog,
    set_account_state,
)
from piker.clearing.accounts import PAPER, split_account
from piker.clearing.lifecycle import TERMINAL, Phase
from piker.errors import Bug, ConfigError, PeerLost, PikerError, RangeError
from piker.log import get_logger
from piker.market import parse_fqme
from piker.orders import (
    AccountStatus,
    Action,
    BrokerdBalance,
    BrokerdPosition,
    Cancel,
    EmsMessage,
    Order,
    OrderKind,
    Status,
    decode,
    encode,
)
from piker.ticks import Resync

__all__ = [
    "OrderClient",
    "Told",
    "arm",
    "cancel_all",
    "choose_account",
    "halt",
    "list_accounts",
    "new_session",
    "open_ems",
]

log = get_logger("orders")
FLOOR_S, CAP_S = 0.05, 2.0  # waits between attempts to reach emsd again
EVENTS = 10_000  # kept for a client that does not iterate; then the oldest go, and are counted
ENDED_KEPT = 10_000  # ended orders that ``dialogs`` remembers
Told = Status | BrokerdPosition | BrokerdBalance | AccountStatus | Resync
Amount = Decimal | str | int
MODES = {"paper": PAPER, "live": DEFAULT_ACCOUNT}  # of a provider's accounts, where none is named
_ENDED = frozenset(str(phase) for phase in TERMINAL)
_PARTIAL = str(Phase.PARTIAL)


def new_session() -> str:
    """Return the beginning of oids that no other client, now or ever, gives out."""
    return f"{clock.wall_ns() // 1_000_000:x}{secrets.token_hex(3)}"


def _exact(value: Amount | None, what: str) -> Decimal | None:
    if value is None or (isinstance(value, Decimal) and not value.is_snan()):
        return value
    if isinstance(value, float):
        raise RangeError(f"the {what} {value!r} is a float.", remedy="Give it as text: '0.01'.")
    try:
        found = Decimal(value)
        if found.is_snan():  # it can not even be compared
            raise ValueError(value)
    except (InvalidOperation, TypeError, ValueError):
        raise RangeError(f"the {what} {value!r} is no number.", remedy="As in '0.01'.") from None
    return found


class OrderClient:
    """An open account. ``dialogs`` has the newest status of each order, of all accounts.

    ``account`` is the one that orders go to when none is named; ``accounts``, ``positions`` (by
    account and market id) and ``balances`` (by account and asset) are the newest of each.
    """

    def __init__(
        self, account: str, send: Callable[[Order | Cancel], Awaitable[None]], session: str
    ) -> None:
        self.account = account
        self.dialogs: dict[str, Status] = {}
        self.accounts: dict[str, AccountStatus] = {}
        self.positions: dict[tuple[str, str], BrokerdPosition] = {}
        self.balances: dict[tuple[str, str], BrokerdBalance] = {}
        self.unheard = 0  # events that went by because nobody iterated
        self.nursery: trio.Nursery | None = (
            None  # the transport's to set: of what is not waited for
        )
        self._send = send
        self._session = session
        self._made = 0
        self._asked: dict[str, list[_Asked]] = {}  # by oid: sent, and not acknowledged
        self._events: deque[Told] = deque(maxlen=EVENTS)
        self._changed: trio.Event | None = None  # while somebody waits for anything
        self._by_oid: dict[str, trio.Event] = {}  # set by an order's next status
        self._ended: deque[str] = deque()

    # -- orders --------------------------------------------------------------------------------
    def new_oid(self) -> str:
        """Return an oid that was never used."""
        self._made += 1
        return f"{self._session}-{self._made}"

    def order(
        self, fqme: str, action: Action | str, size: Amount = 0, *, price: Amount | None = None,
        trigger: Amount | None = None, trail: Amount | None = None, kind: str = "", **more: Any,
    ) -> Order:  # fmt: skip
        """Return an order, its numbers exact and its oid new; nothing is sent.

        ``kind`` follows from what is given: a limit where there is a price, a market order where
        there is none, a stop where there is a trigger. Raises ``RangeError`` for what is no number.
        """
        if not kind:
            kind = _kind(price, trigger, trail)
        fields = {
            "oid": self.new_oid(), "account": self.account, **more, "symbol": fqme,
            "action": str(action), "kind": kind, "size": _exact(size, "size"),
            "price": _exact(price, "price"), "trigger": _exact(trigger, "trigger"),
            "trail": _exact(trail, "trail"),
        }  # fmt: skip
        try:
            return msgspec.convert(fields, Order)
        except msgspec.ValidationError as err:
            raise RangeError(f"this is no order: {err}.") from err

    async def send(self, order: Order) -> Status:
        """Send an order, or the edit of one; return its status once emsd has journaled it.

        Of an edit once it holds or was refused: an order at its venue has the answer of that. A
        denial is a status, too (``resp`` "denied", or "error" of an edit). Waits for as long
        as emsd is away. Cancelled, the order may have been sent: look in ``dialogs``.
        """
        return await self._ask(order)

    async def cancel(self, oid: str) -> Status:
        """Ask for an order to be taken back; return once emsd has journaled that."""
        known = self.dialogs.get(oid)
        symbol = known.req.symbol if known is not None and known.req is not None else ""
        return await self._ask(Cancel(oid=oid, symbol=symbol))

    async def update(self, oid: str, **changes: Amount) -> Status:
        """Give an order other terms: ``size``, ``price``, ``trigger``, ``trail``.

        Returns as :meth:`send` does; whether they hold is in the status's ``req``. Raises
        ``RangeError`` for an order that is not known here, and for what is no number.
        """
        return await self.send(self._edited(oid, changes))

    def _edited(self, oid: str, changes: Mapping[str, Amount]) -> Order:
        known = self.dialogs.get(oid)
        if known is None or known.req is None:
            raise RangeError(f"no order {oid!r} is known here.")
        exact = {name: _exact(value, name) for name, value in changes.items()}
        return msgspec.structs.replace(known.req, **exact)

    def send_nowait(self, order: Order) -> str:
        """Do as :meth:`send` from a callback, which can not wait; return the oid at once.

        Nothing has been sent then: what becomes of it is told as a status. Only within the block
        of the client, and in trio's thread. What was not acknowledged when the block is left may
        have been sent.
        """
        self._soon(self.send, order)
        return order.oid

    def cancel_nowait(self, oid: str) -> None:
        """Do as :meth:`cancel` from a callback."""
        self._soon(self.cancel, oid)

    def update_nowait(self, oid: str, **changes: Amount) -> None:
        """Do as :meth:`update` from a callback. Raises ``RangeError`` at once, as it does."""
        self._soon(self.send, self._edited(oid, changes))

    async def ended(self, oid: str) -> Status:
        """Wait until an order has ended; return its last status."""
        return await self.until(oid, _ENDED)

    async def until(self, oid: str, phases: Iterable[str]) -> Status:
        """Wait until an order is in one of some phases; return that status."""
        wanted = frozenset(str(phase) for phase in phases)
        while self.phase(oid) not in wanted:
            await self._news_of(oid).wait()
        return self.dialogs[oid]

    def phase(self, oid: str) -> str:
        """Return the phase that an order is in, "" where nothing was told of it.

        It is the newest status' ``resp``; but one whose last word is a fill stands, partly filled,
        or waits for the word that it is closed (``fill``).
        """
        status = self.dialogs.get(oid)
        if status is None:
            return ""
        order = status.req
        if status.resp == "fill" and order is not None and status.filled < order.size:
            return _PARTIAL
        return status.resp

    async def changed(self) -> None:
        """Wait until emsd tells anything, whatever it is."""
        await self._next().wait()

    def open_orders(self, account: str = "") -> list[Status]:
        """Return the orders that have not ended, of an account where named."""
        return [
            status for status in self.dialogs.values()
            if status.resp not in _ENDED and status.req is not None
            and account in ("", status.req.account)
        ]  # fmt: skip

    # -- what is told --------------------------------------------------------------------------
    def __aiter__(self) -> OrderClient:
        """Iterate for ever over what emsd tells, from the opening on."""
        return self

    async def __anext__(self) -> Told:
        """Return the next thing told."""
        while not self._events:
            await self._next().wait()
        await trio.lowlevel.checkpoint()
        return self._events.popleft()

    def take(self, message: EmsMessage) -> None:
        """Take what emsd tells: the transport's to call."""
        match message:
            case Status():  # nearly always
                self._take_status(message)
            case AccountStatus():
                self.accounts[message.account] = message
            case BrokerdPosition():
                self.positions[message.account, message.symbol] = message
            case BrokerdBalance():
                self.balances[message.account, message.asset] = message
        self._tell(message)

    def begin(self, picture: Sequence[EmsMessage]) -> list[str]:
        """Take the picture of a dialog that begins; return the oids that it leaves in doubt.

        They are those that were open here, or asked for, and are not in it.
        """
        told = {one.oid for one in picture if isinstance(one, Status)}
        for one in picture:
            self.take(one)
        doubtful = [status.oid for status in self.open_orders()] + list(self._asked)
        return [oid for oid in dict.fromkeys(doubtful) if oid not in told]

    def unanswered(self) -> list[Order | Cancel]:
        """Return what must be sent again: what emsd has not acknowledged."""
        waits = (one for asked in self._asked.values() for one in asked if one.answer is None)
        return [one.message for one in waits]

    def resynced(self) -> None:
        """Say to whoever iterates that emsd was lost, and is back."""
        self._tell(Resync("daemon-restart", detail="emsd"))

    # -- inside --------------------------------------------------------------------------------
    async def _ask(self, message: Order | Cancel) -> Status:
        is_new = message.oid not in self._asked and message.oid not in self.dialogs
        asked = _Asked(message, is_new=is_new and isinstance(message, Order))
        self._asked.setdefault(message.oid, []).append(asked)
        try:
            try:
                await self._send(message)
            except PeerLost:  # it is sent again when emsd is back
                log.debug("orders.later", oid=message.oid)
            while asked.answer is None:
                await self._news_of(message.oid).wait()
            return asked.answer
        finally:
            self._asked[message.oid].remove(asked)
            if not self._asked[message.oid]:
                del self._asked[message.oid]

    def _soon(self, do: Callable[..., Awaitable[Status]], *args: object) -> None:
        if self.nursery is None:
            raise Bug("an order was given to a client whose block was left.")
        self.nursery.start_soon(self._unheard, do, *args)

    @staticmethod
    async def _unheard(do: Callable[..., Awaitable[Status]], *args: object) -> None:
        try:
            await do(*args)
        except PikerError as err:  # there is nobody to raise it to
            log.error("orders.nowait", why=str(err))

    def _news_of(self, oid: str) -> trio.Event:
        """Return what the next status of an order sets: a thousand may be waited for at once."""
        return self._by_oid.setdefault(oid, trio.Event())

    def _take_status(self, status: Status) -> None:
        news = self._by_oid.pop(status.oid, None)
        if news is not None:
            news.set()
        for asked in self._asked.get(status.oid, ()):
            is_taken = asked.is_new and status.resp != "error"  # it may have other terms by now
            if asked.answer is None and (is_taken or _answers(status, asked.message)):
                asked.answer = status
        if status.resp == "error":  # of a request; the order is as it was
            return
        known = self.dialogs.get(status.oid)
        if known is not None and known.resp in _ENDED and status.resp == "fill":
            status = msgspec.structs.replace(status, resp=known.resp)
        self.dialogs[status.oid] = status
        if status.resp in _ENDED and (known is None or known.resp not in _ENDED):
            self._ended.append(status.oid)
            if len(self._ended) > ENDED_KEPT:
                self.dialogs.pop(self._ended.popleft(), None)

    def _tell(self, message: Told) -> None:
        events = self._events
        if len(events) == EVENTS:  # the oldest makes room
            self.unheard += 1
        events.append(message)
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def _next(self) -> trio.Event:
        """Return what the next thing told sets."""
        if self._changed is None:
            self._changed = trio.Event()
        return self._changed


def choose_account(fqmes: Sequence[str], mode: str = "", account: str | None = None) -> str:
    """Return the account that a mode means for some markets; see :func:`open_ems`."""
    if mode not in ("", *MODES):
        raise ConfigError(
            f"there is no mode {mode!r} of orders.", remedy='Say mode="paper" or mode="live".'
        )
    if account is None:
        providers = sorted({parse_fqme(one).provider for one in fqmes})
        if len(providers) != 1:
            found = f"they are of {' and '.join(providers)}" if providers else "there is none"
            raise ConfigError(
                f"which account is meant does not follow from the markets: {found}.",
                remedy='Name it: open_ems(..., account="binance.paper").',
            )
        return f"{providers[0]}.{MODES[mode or 'paper']}"
    if account and mode and (mode == "paper") != (split_account(account)[1] == PAPER):
        raise ConfigError(f"{account} is no {mode} account.", remedy="Leave out the mode.")
    return account


class _Asked:
    """A request that waits for its acknowledgement; ``is_new``: an order, not the edit of one."""

    __slots__ = ("answer", "is_new", "message")

    def __init__(self, message: Order | Cancel, *, is_new: bool) -> None:
        self.message = message
        self.is_new = is_new
        self.answer: Status | None = None


def _answers(status: Status, message: Order | Cancel) -> bool:
    """Tell whether a status of the same oid acknowledges a request, or refuses it."""
    if status.resp in _ENDED:
        return True
    if status.resp == "error":  # of one request, which it names where it was an order or an edit
        of = status.req
        return of is None or (isinstance(message, Order) and _terms(of) == _terms(message))
    if isinstance(message, Cancel):
        return status.cancel_called
    return any(
        one is not None and _terms(one) == _terms(message) for one in (status.req, status.edit)
    )


def _terms(order: Order) -> tuple[Decimal | str | None, ...]:
    """Return what an edit changes; what is no number as text, for it does not equal itself."""
    terms = order.size, order.price, order.trigger, order.trail
    return tuple(str(one) if one is not None and one.is_nan() else one for one in terms)


def _kind(price: Amount | None, trigger: Amount | None, trail: Amount | None) -> OrderKind:
    if trail is not None:
        return OrderKind.TRAILING_STOP
    if trigger is not None:
        return OrderKind.STOP if price is None else OrderKind.STOP_LIMIT
    return OrderKind.MARKET if price is None else OrderKind.LIMIT


class _Line:
    """The dialog with emsd, kept open for ever."""

    def __init__(self, account: str, fqmes: Sequence[str], name: str) -> None:
        self.client = OrderClient(account, self._send, new_session())
        self._fqmes = list(fqmes)
        self._name = name
        self._dialog: service.Dialog | None = None
        self.peer: service.Peer | None = None

    async def _send(self, message: Order | Cancel) -> None:
        if self._dialog is None:
            raise PeerLost("emsd is not connected.")
        await self._dialog.send(encode(message))

    async def follow(self, start_pikerd: bool, task_status: TaskStatus[None]) -> None:
        """Open the dialog, again and again; the first failure is the opener's to see."""
        first, wait_s = True, FLOOR_S
        while True:
            try:
                async with service.open_service(
                    "emsd", start_pikerd=start_pikerd and first
                ) as peer:
                    async with peer.open_dialog(
                        open_order_dialog, type=list[bytes], stream_type=bytes, client=self._name,
                        account=self.client.account, symbols=self._fqmes,
                    ) as (picture, dialog):  # fmt: skip
                        self.peer, self._dialog = peer, dialog
                        await self._begin([decode(one, EmsMessage) for one in picture])
                        if first:
                            task_status.started()
                        else:
                            self.client.resynced()
                        first, wait_s = False, FLOOR_S
                        async for data in dialog:
                            self.client.take(decode(data, EmsMessage))
                        raise PeerLost("emsd ended the dialog.")
            except PikerError as err:
                if first:
                    raise
                log.warning("orders.emsd_lost", account=self.client.account, why=str(err))
            finally:
                self._dialog = self.peer = None
            await trio.sleep(random.uniform(wait_s / 2, wait_s))
            wait_s = min(CAP_S, wait_s * 2)

    async def _begin(self, picture: list[EmsMessage]) -> None:
        """Take the picture, look for what is not in it, and send again what emsd never had."""
        assert self.peer is not None
        for oid in self.client.begin(picture):
            found = await self.peer.run(get_order, oid=oid)
            if found is not None:
                self.client.take(decode(found, EmsMessage))
        for message in self.client.unanswered():
            await self._send(message)


@asynccontextmanager
async def open_ems(
    *fqmes: str, mode: str = "", account: str | None = None, name: str = "client",
    start_pikerd: bool = True,
) -> AsyncIterator[OrderClient]:  # fmt: skip
    """Open an account for orders; yield an :class:`OrderClient` once emsd has it.

    ``mode`` is "paper" (``<provider>.paper`` of the markets) or "live" (``<provider>.main``);
    an ``account`` named, as ``binance.second``, says both. Without either it is paper. ``fqmes``
    are opened at emsd, so that an order in one of them need not wait for its market; others are
    opened by their first order. An ``account`` of "" opens none: orders name theirs, those of
    all are told. ``name`` is whom the journal says did it.

    Raises ``ConfigError`` for an account that there is not or that is not of ``mode``, what a
    market's feed raises, and ``JournalDamaged`` when emsd will not trade. Orders live on when the
    block is left.
    """
    line = _Line(choose_account(fqmes, mode, account), fqmes, name)
    async with service.open_client_runtime(), trio.open_nursery() as nursery:
        await nursery.start(line.follow, start_pikerd)
        line.client.nursery = nursery
        try:
            yield line.client
        finally:
            line.client.nursery = None
            nursery.cancel_scope.cancel()


# -- for all accounts --------------------------------------------------------------------------
async def list_accounts(*, start_pikerd: bool = True) -> list[AccountStatus]:
    """Return the accounts that emsd has open; an ``account`` of "" is the halt of all of them."""
    async with service.open_service("emsd", start_pikerd=start_pikerd) as emsd:
        found: list[AccountStatus] = await emsd.run(get_accounts, type=list[AccountStatus])
        return found


async def halt(account: str = "", reason: str = "by hand", *, name: str = "client") -> None:
    """Halt an account, or all (""): everything is canceled, nothing new passes until it is armed.

    Returns when it is journaled and every cancel is on its way.
    """
    async with service.open_service("emsd", start_pikerd=True) as emsd:
        await emsd.run(
            set_account_state, account=account, state="halted", reason=reason, client=name
        )


async def arm(account: str = "", reason: str = "by hand", *, name: str = "client") -> None:
    """Let an account trade, or lift the halt of all (""). Raises ``Refused`` with a halt file."""
    async with service.open_service("emsd", start_pikerd=True) as emsd:
        await emsd.run(
            set_account_state, account=account, state="active", reason=reason, client=name
        )


async def cancel_all(account: str = "", fqme: str = "", *, name: str = "client") -> list[str]:
    """Ask for every order to be canceled, of an account and market where named; return oids."""
    async with service.open_service("emsd", start_pikerd=True) as emsd:
        found: list[str] = await emsd.run(
            cancel_orders, account=account, symbol=fqme, client=name, type=list[str]
        )
        return found
