"""What the orders' commands share: an order as a row and as a sentence, what to do about a no.

And how each of them begins, and ends with Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import trio
from rich.console import Console

from piker import log
from piker.brokers.spec import find_backends
from piker.clearing.accounts import PAPER, split_account
from piker.clearing.client import OrderClient, list_accounts, open_ems
from piker.clearing.denials import DenialCode
from piker.clearing.lifecycle import TERMINAL, Phase
from piker.cli.app import EXIT_INTERRUPTED
from piker.config import load_conf, nearest
from piker.errors import ConfigError, PeerLost, PikerError, ProviderError, Transient, Unknown
from piker.money import plain
from piker.orders import Action, Order, Status, TimeInForce, TriggerBy

__all__ = [
    "ENDED",
    "REMEDIES",
    "WORDS",
    "OrderRow",
    "check_account",
    "console",
    "describe",
    "endings",
    "exit_code_of",
    "is_live",
    "named",
    "opening",
    "opening_account",
    "outcome",
    "price_words",
    "refusal",
    "rounded",
    "row_of",
    "show",
    "show_refused",
    "start",
    "told_refusal",
    "utc",
]

PIPED_WIDTH = 200  # characters of a table that nobody sees on a terminal
ANSWER_S = 5.0  # emsd answers in milliseconds; one that is being started, in a second or some
SHORTEST = 6  # characters of an oid's end, at least: fewer look like a number
BY_CLIENT = "by its client"  # the reason of a cancel that was asked for: there is no more to say
ENDED = frozenset(str(phase) for phase in TERMINAL)
#: The phases as people say them; --json has the protocol's words.
WORDS = {
    Phase.HELD: "held", Phase.DARK: "waiting", Phase.PENDING: "pending", Phase.OPEN: "open",
    Phase.PARTIAL: "partial", Phase.UNKNOWN: "UNKNOWN", Phase.DENIED: "denied",
    Phase.REJECTED: "rejected", Phase.FILLED: "filled", Phase.CANCELED: "canceled",
    Phase.EXPIRED: "expired", Phase.TRIGGERED: "triggered",
}  # fmt: skip
#: What a person does about each denial.
REMEDIES = {
    DenialCode.BAD_SIZE: "Give a size above zero, as in 0.01; the command says which way.",
    DenialCode.BAD_PRICE: "Give a price above zero.",
    DenialCode.OFF_TICK: "Take a multiple of the tick.",
    DenialCode.OFF_LOT: "Take a multiple of the lot.",
    DenialCode.TOO_SMALL: "Order more.",
    DenialCode.MISSING_FIELD: "See: piker buy --help",
    DenialCode.SENSELESS: "Leave one of them out; see: piker buy --help",
    DenialCode.WRONG_SYMBOL: "Find the market's address with: piker search",
    DenialCode.MARKET_CLOSED: "Wait until the venue opens it.",
    DenialCode.UNKNOWN_ACCOUNT: "See: piker accounts",
    DenialCode.NOT_ARMED: "Do so only if you mean to trade real money.",
    DenialCode.NOT_SYNCED: "Wait until it is synced: piker accounts",
    DenialCode.DUPLICATE_ID: "Send it again, under another id.",
    DenialCode.UNKNOWN_ORDER: "See: piker orders --all",
    DenialCode.ORDER_OVER: "There is nothing to do; see: piker orders --all",
    DenialCode.NOT_OFFERED: "Leave the option out, or take another market.",
    DenialCode.NO_REFERENCE: "Try again once the market is quoted: piker feed",
    DenialCode.NO_RATE: "Put the rate into conf.toml, under [risk] rates.",
    DenialCode.HALTED: "See who halted it, and why: piker accounts",
    DenialCode.REDUCING: "Make the position smaller, or look why, then: piker arm ACCOUNT",
    DenialCode.ORDER_SIZE: "Order less, or raise [risk] order_size in conf.toml.",
    DenialCode.ORDER_NOTIONAL: "Order less, or raise [risk] order_notional in conf.toml.",
    DenialCode.PRICE_COLLAR: "Take a nearer price, or widen [risk] price_collar in conf.toml.",
    DenialCode.MESSAGE_RATE: "Wait some seconds.",
    DenialCode.OPEN_ORDERS: "Cancel some: piker orders",
    DenialCode.GROSS_EXPOSURE: "Order less, or raise [risk] gross_exposure in conf.toml.",
    DenialCode.DAILY_LOSS: "Trade again tomorrow (UTC): only what closes a position passes today.",
    DenialCode.SUPERSEDED: "The later one counts: piker orders",
    DenialCode.FAILED: "Look whether it stands (piker orders), and report it with the log.",
    DenialCode.DUPLICATE_ORDER: "If you mean it twice, wait a moment and send it again.",
}


class OrderRow(msgspec.Struct, frozen=True, kw_only=True):
    """An order as it stands. ``state`` is its phase, ``where`` it is: dark, provider, or model.

    ``since_ns`` is when it was ordered, None where nobody knows any more; ``level`` where a
    trailing stop would be met now; ``by`` is what wakes it: trades, the side, or the mark.
    """

    oid: str
    account: str
    live: bool
    market: str
    side: str
    kind: str
    size: Decimal
    filled: Decimal
    state: str
    where: str
    price: Decimal | None = None
    trigger: Decimal | None = None
    trail: Decimal | None = None
    level: Decimal | None = None
    by: str = "last"
    tif: str = "gtc"
    expire_ns: int | None = None
    post_only: bool = False
    reduce_only: bool = False
    avg_price: Decimal | None = None
    fees: dict[str, Decimal] = {}
    cancel_called: bool = False
    code: str = ""
    reason: str = ""
    remedy: str = ""
    oco: str = ""
    parent: str = ""
    tag: str = ""
    since_ns: int | None = None

    @property
    def is_over(self) -> bool:
        """Tell whether it has ended."""
        return self.state in ENDED


class RefusedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A cancel or an edit that was refused; ``oid`` is what was typed where it names no order."""

    oid: str
    state: str = "refused"  # of the request: no order ever is
    code: str
    reason: str
    remedy: str


def is_live(account: str) -> bool:
    """Tell whether an account trades real money."""
    return split_account(account)[1] != PAPER


def row_of(status: Status) -> OrderRow:
    """Return what is shown of a status that has its order."""
    req, state = status.req, status.resp
    assert req is not None
    if state == "fill":  # of an order that goes on: its end is told by itself
        state = Phase.PARTIAL
    return OrderRow(
        oid=status.oid, account=req.account, live=is_live(req.account), market=req.symbol,
        side=req.action, kind=_kind(req), size=req.size, filled=status.filled, state=state,
        where=_where(status), price=req.price, trigger=req.trigger,
        trail=req.trail, level=status.level, by=req.trigger_by, tif=req.tif,
        expire_ns=req.expire_ns, post_only=req.post_only, reduce_only=req.reduce_only,
        avg_price=status.avg_price, fees=status.fees, cancel_called=status.cancel_called,
        code=status.code, reason=status.reason, remedy=_remedy(status.code), oco=req.oco,
        parent=req.parent, tag=req.tag, since_ns=status.taken_ns or None,
    )  # fmt: skip


def _where(status: Status) -> str:
    """Return where an order is: nowhere when denied; an alert is never anywhere but in piker."""
    if status.resp == Phase.DENIED:
        return ""
    is_alert = status.req is not None and status.req.action is Action.ALERT
    return "dark" if is_alert else status.src


def _kind(order: Order) -> str:
    return "alert" if order.action is Action.ALERT else str(order.kind)


def _remedy(code: str) -> str:
    return next((said for known, said in REMEDIES.items() if known == code), "")


# -- in words ----------------------------------------------------------------------------------
def price_words(row: OrderRow) -> str:
    """Return an order's price, trigger and trail, in few words."""
    words = [plain(row.price)] if row.price is not None else []
    words += [f"trigger {plain(row.trigger)}"] if row.trigger is not None else []
    words += [f"trail {plain(row.trail)}"] if row.trail is not None else []
    words += [f"by {row.by}"] if row.by != TriggerBy.LAST else []
    words += [f"now {plain(row.level)}"] if row.level is not None else []
    return ", ".join(words) or "market"


def describe(row: OrderRow) -> str:
    """Return an order in words: ``buy 0.01 btcusdt.spot.binance, limit 59000``."""
    if row.kind == "alert":
        return f"alert {row.market} at {_number(row.trigger)}"
    words = f"{row.side} {plain(row.size)} {row.market}, {row.kind.replace('_', '-')}"
    terms = price_words(row)
    if terms != "market":
        words += f" {terms}"
    if row.tif == TimeInForce.GTD and row.expire_ns:
        words += f", until {utc(row.expire_ns)}"
    elif row.tif != TimeInForce.GTC:
        words += f", {row.tif}"
    return words + ", post-only" * row.post_only + ", reduce-only" * row.reduce_only


def utc(time_ns: int) -> str:
    """Return a time for people, to the minute."""
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _number(value: Decimal | None) -> str:
    return "?" if value is None else plain(value)


def rounded(value: Decimal, digits: int = 10) -> str:
    """Return a mean price, or an amount, to so many significant digits, for people."""
    return plain(Decimal(f"{value:.{digits}g}"))


def _traded(row: OrderRow) -> str:
    """Return what was traded, as what follows the order's own words."""
    cut = row.reduce_only and row.filled  # a venue cuts it to what there is to be closed
    if row.state == Phase.FILLED and row.filled < row.size and not cut:
        return f"; of its fills only {plain(row.filled)} were heard of: piker ledger verify"
    if not row.filled:
        return ""
    at = f" at {rounded(row.avg_price)}" if row.avg_price is not None else ""
    fees = ", ".join(f"{plain(amount)} {asset}" for asset, amount in row.fees.items())
    part = "," if row.filled == row.size else f"; {plain(row.filled)} of it filled"
    left = "; its venue cut it to what there was to close: piker positions"
    ended = left if row.state == Phase.FILLED and row.filled < row.size else ""
    return f"{part}{at}{f', fee {fees}' if fees else ''}{ended}"


def _place(row: OrderRow) -> str:
    """Return whose order it is, and where: of paper the name of the model that fills it."""
    where = f"model {row.where}" if row.where.startswith(PAPER) else row.where
    return ", ".join(one for one in (row.account, where) if one)


def outcome(row: OrderRow) -> str:
    """Return what has become of an order, as one line."""
    mark = "LIVE " if row.live else ""
    state = WORDS.get(Phase(row.state), row.state)
    state += ", cancel asked" if row.cancel_called and not row.is_over else ""
    why = row.reason.rstrip(".") if row.is_over or row.state == Phase.UNKNOWN else ""
    why = "" if why == BY_CLIENT else why
    told = "; ".join(one for one in (describe(row) + _traded(row), why, _place(row)) if one)
    return f"{mark}{state}: {told}; order {row.oid}"


def refusal(row: OrderRow) -> str:
    """Return the sentence of an order that does not stand, as errors are said."""
    word = WORDS.get(Phase(row.state), row.state)
    code = f" ({row.code})" if row.code else ""
    by = f" by {row.where}" if row.state == Phase.REJECTED and row.where else ""
    reason = row.reason or "no reason was given"
    end = "" if reason.endswith((".", "!", "?")) else "."
    mark = f"LIVE {row.account}: " if row.live else ""
    remedy = row.remedy or "Nothing was traded."
    return f"{word}{by}{code}: {mark}{reason}{end} {remedy}"


def told_refusal(code: str, reason: str) -> str:
    """Return the sentence of a request that emsd refused, with what to do about it."""
    end = "" if reason.endswith((".", "!", "?")) else "."
    return f"refused ({code}): {reason}{end} {_remedy(code)}".strip()


def show_refused(oid: str, code: str, reason: str, *, as_json: bool) -> None:
    """Say that a cancel or an edit was refused: nothing of the order is other than it was."""
    if as_json:
        row = RefusedRow(oid=oid, code=code, reason=reason, remedy=_remedy(code))
        print(msgspec.json.encode(row).decode(), flush=True)
    print(told_refusal(code, reason), file=sys.stderr, flush=True)


def exit_code_of(rows: Iterable[OrderRow]) -> int:
    """Return 1 for a denied or rejected order, 7 for one of which nothing is known, else 0."""
    states = {row.state for row in rows}
    if states & {Phase.DENIED, Phase.REJECTED}:
        return 1
    return Unknown.exit_code if Phase.UNKNOWN in states else 0


def show(row: OrderRow, *, as_json: bool) -> None:
    """Print an order as it stands; a refusal goes to stderr as a sentence, too."""
    if as_json:
        print(msgspec.json.encode(row).decode(), flush=True)
    if row.state in (Phase.DENIED, Phase.REJECTED):
        print(refusal(row), file=sys.stderr, flush=True)
    elif not as_json:
        style = "bold red" if row.live else None
        console().print(outcome(row), style=style, soft_wrap=True, markup=False, highlight=False)


def endings(oids: Sequence[str]) -> dict[str, str]:
    """Return the shortest ends that tell each oid from the others, of one length."""
    longest = max((len(oid) for oid in oids), default=0)
    for length in range(SHORTEST, longest):
        if len({oid[-length:] for oid in oids}) == len(set(oids)):
            return {oid: oid[-length:] for oid in oids}
    return {oid: oid for oid in oids}


def named(ems: OrderClient, text: str) -> str:
    """Return the open order that a text names; what names none is returned as it is."""
    oids = [status.oid for status in ems.open_orders()]
    if text in oids:
        return text
    found = [oid for oid in oids if oid.endswith(text)]
    if len(found) > 1:
        names = ", ".join(endings(found).values())
        raise ConfigError(
            f"{len(found)} open orders end in {text!r}: {names}.", remedy="Type more of it."
        )
    return found[0] if found else text


def console(*, stderr: bool = False) -> Console:
    """Return where to print: as wide as the terminal; wide and plain where there is none."""
    file = sys.stderr if stderr else sys.stdout
    wide = None if file.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return Console(stderr=stderr, width=wide)


@contextmanager
def opening(text: str) -> Iterator[Callable[[], None]]:
    """Show on a terminal that something is on its way, until what is yielded is called."""
    status = console(stderr=True).status(text)
    status.start()
    try:
        yield status.stop
    finally:
        status.stop()


@asynccontextmanager
async def opening_account(account: str, fqmes: Sequence[str] = ()) -> AsyncIterator[OrderClient]:
    """Open an account as :func:`open_ems` does; say so when it is its venue that is not there."""
    opened = False
    try:
        async with open_ems(*fqmes, account=account, name="cli") as ems:
            opened = True
            yield ems
    except PeerLost as err:
        if opened or not await _answers():
            raise
        raise Transient(
            f"{account} could not be opened: its venue does not answer.",
            remedy="Try again; `piker doctor` tells whether it is the network.",
        ) from err


async def _answers() -> bool:
    """Tell whether emsd is there, and well."""
    try:
        with trio.fail_after(ANSWER_S):
            await list_accounts(start_pikerd=False)
    except (PikerError, trio.TooSlowError):
        return False
    return True


# -- what is typed -----------------------------------------------------------------------------
def check_account(name: str, *, whatever: bool = False) -> str:
    """Return an account's name as it is written; raise for one that can not be, or no provider.

    ``whatever`` is that of :func:`start`: without a conf.toml only the form is looked at.
    """
    name = name.lower()
    provider, _ = split_account(name)
    try:
        known = find_backends(load_conf().brokers.modules)
    except ConfigError:
        if whatever:
            return name
        raise
    if provider not in known:
        near = nearest(provider, known)
        raise ProviderError(f"{name}: there is no provider {provider!r}.", remedy=near)
    if not name.isprintable() or any(one in name for one in " /\\"):
        raise ConfigError(f"{name!r} is no account.", remedy="As in binance.paper.")
    return name


# -- starting ----------------------------------------------------------------------------------
def start(
    work: Callable[[], Awaitable[int]], left: Callable[[], str], *, whatever: bool = False
) -> int:
    """Run a command's work with the log as configured; return its exit code.

    On Ctrl-C the work is ended, what ``left`` then returns is printed (what lives on), and the
    shell's 130 returned. An error of a process that is gone says where to look. With ``whatever``
    a conf.toml that can not be read is a warning: nobody mends a file before pulling a plug.
    """
    try:
        level = load_conf().log.level
    except ConfigError as err:
        if not whatever:
            raise
        print(f"warning: {err}", file=sys.stderr)
        level = "WARNING"
    log.configure(None, default=level, actor="cli")
    try:
        return trio.run(_until_interrupted, work, left)
    except PeerLost as err:
        err.remedy = err.remedy or "See what runs: piker services. To stop trading: piker halt"
        raise


async def _until_interrupted(work: Callable[[], Awaitable[int]], left: Callable[[], str]) -> int:
    code: list[int] = []
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(end)
            code.append(await work())
            nursery.cancel_scope.cancel()
    if code:
        return code[0]
    print(left(), file=sys.stderr)
    return EXIT_INTERRUPTED
