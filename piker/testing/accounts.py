"""Accounts of a loopback venue: who may log in, what they own, and their orders.

Nothing here knows a venue's wire. Money is ``Decimal``, and moves between *free* and *locked* and
between assets exactly; an account can not owe anything.

An account is given as ``NAME:KEY:SECRET[:BALANCES[:PERMISSIONS]]``, or in a TOML file::

    [[account]]
    name = "alice"
    key = "..."                      # what the client sends
    secret = "..."                   # HMAC; or public_key = "..." (Ed25519, 32 bytes in base64)
    balances = "USDT=10000,BTC=0.5"  # the default: plenty of the well-known ones
    permissions = "read,spot"        # of read, spot, futures, withdraw; default: the first three

In the first form an Ed25519 key's SECRET is ``ed25519=`` and its public key.
"""

from __future__ import annotations

import base64
import binascii
import tomllib
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import msgspec

from piker.config import nearest
from piker.errors import Bug, ConfigError
from piker.log import Secret

__all__ = [
    "MAX_ACCOUNTS",
    "PERMISSIONS",
    "ZERO",
    "Account",
    "AccountSpec",
    "Holding",
    "Purse",
    "VenueOrder",
    "account_of",
    "check_distinct",
    "load_accounts",
]

ZERO = Decimal(0)
MAX_ACCOUNTS = 100  # of one venue: each key is looked up for every request
PERMISSIONS = ("read", "spot", "futures", "withdraw")
MAX_HISTORY = 100_000  # orders, and fills, that an account remembers; the oldest go first
_GIVEN = {"USDT": Decimal(100_000), "BTC": Decimal(10), "ETH": Decimal(100), "BNB": Decimal(100)}
_OPEN = frozenset({"NEW", "PARTIALLY_FILLED"})


class AccountSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Who an account is, and what it has at first."""

    name: str
    key: str
    secret: Secret | None = None  # of HMAC keys
    public_key: bytes = b""  # of Ed25519 keys
    balances: dict[str, Decimal] = msgspec.field(default_factory=_GIVEN.copy)
    permissions: frozenset[str] = frozenset({"read", "spot", "futures"})


def account_of(text: str) -> AccountSpec:
    """Return the account of a command-line value; raise ``ConfigError``, its secret unnamed."""
    parts = text.split(":")
    if not 3 <= len(parts) <= 5:
        raise ConfigError(
            f"account {parts[0][:40]!r}: {len(parts)} parts.",
            remedy="Say NAME:KEY:SECRET[:USDT=1000,BTC=2[:read,spot]].",
        )
    name, key, secret, balances, permissions = (*parts, "", "")[:5]
    kind, _, public = secret.partition("=")
    table = {"name": name, "key": key, "balances": balances, "permissions": permissions}
    table |= {"public_key": public} if kind == "ed25519" else {"secret": secret}
    return _spec_of({word: value for word, value in table.items() if value}, f"account {name!r}")


def load_accounts(file: Path) -> tuple[AccountSpec, ...]:
    """Read a TOML file of accounts; raise ``ConfigError`` with the file and what is wrong."""
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"can not read {file}: {error.strerror}.") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: not TOML: {error}.", remedy="Mend the file.") from None
    tables = raw.get("account", [])
    if not isinstance(tables, list) or set(raw) - {"account"}:
        raise ConfigError(f"{file}: not a list of accounts.", remedy="Write [[account]].")
    return tuple(_spec_of(table, f"{file}: account {at + 1}") for at, table in enumerate(tables))


def _spec_of(table: dict[str, Any], where: str) -> AccountSpec:  # Any: what TOML can hold
    known = ("name", "key", "secret", "public_key", "balances", "permissions")
    for word, value in table.items():
        if word not in known:
            raise ConfigError(f"{where}: unknown key {word!r}.", remedy=nearest(word, known))
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{where}: {word} is no text.")
    if not table.get("name") or not table.get("key"):
        raise ConfigError(f"{where}: name and key must be there.")
    if ("secret" in table) == ("public_key" in table):
        raise ConfigError(f"{where}: say one of secret and public_key.")
    spec = AccountSpec(
        name=table["name"],
        key=table["key"],
        secret=Secret(table["secret"]) if "secret" in table else None,
        public_key=_public(table["public_key"], where) if "public_key" in table else b"",
    )
    if "balances" in table:
        spec = msgspec.structs.replace(spec, balances=_balances(table["balances"], where))
    if "permissions" in table:
        words = [word.strip() for word in table["permissions"].split(",")]
        for word in words:
            if word not in PERMISSIONS:
                raise ConfigError(f"{where}: {word!r}.", remedy=nearest(word, PERMISSIONS))
        spec = msgspec.structs.replace(spec, permissions=frozenset(words))
    return spec


def _public(text: str, where: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != 32:
        raise ConfigError(f"{where}: public_key is not the 32 bytes of an Ed25519 key in base64.")
    return raw


def _balances(text: str, where: str) -> dict[str, Decimal]:
    found = {}
    for part in text.split(","):
        asset, _, amount = part.partition("=")
        try:
            value = Decimal(amount)
        except InvalidOperation:
            value = Decimal(-1)
        if not asset or not value.is_finite() or value < 0:
            raise ConfigError(f"{where}: balance {part!r}.", remedy="Say USDT=1000,BTC=0.5.")
        found[asset.strip().upper()] = value
    return found


class Holding(msgspec.Struct):
    """An asset of an account: what it may use, and what its open orders hold."""

    free: Decimal = ZERO
    locked: Decimal = ZERO


class Purse:
    """The assets of an account; nothing in it is ever below zero."""

    def __init__(self, balances: dict[str, Decimal]) -> None:
        self.assets = {asset: Holding(free=amount) for asset, amount in balances.items()}
        self.touched: set[str] = set()  # since last taken

    def of(self, asset: str) -> Holding:
        """Return an asset's holding, zero where there was none."""
        return self.assets.setdefault(asset, Holding())

    def lock(self, asset: str, amount: Decimal) -> bool:
        """Set an amount aside; return whether there was enough."""
        if self.of(asset).free < amount:
            return False
        self._move(asset, -amount, amount)
        return True

    def release(self, asset: str, amount: Decimal) -> None:
        """Give back what was set aside."""
        self._move(asset, amount, -amount)

    def spend(self, asset: str, *, free: Decimal = ZERO, locked: Decimal = ZERO) -> None:
        """Take out of both sides."""
        self._move(asset, -free, -locked)

    def add(self, asset: str, amount: Decimal) -> None:
        """Put in what is free to use."""
        self._move(asset, amount, ZERO)

    def take_touched(self) -> list[str]:
        """Return the assets that changed since the last call, sorted."""
        touched, self.touched = sorted(self.touched), set()
        return touched

    def _move(self, asset: str, free: Decimal, locked: Decimal) -> None:
        holding = self.of(asset)
        if holding.free + free < 0 or holding.locked + locked < 0:
            raise Bug(f"{asset} of a loopback account would be below zero.")
        holding.free += free
        holding.locked += locked
        self.touched.add(asset)


class VenueOrder(msgspec.Struct, kw_only=True, eq=False):
    """An order at the venue. ``kind``, ``tif`` and ``status`` are the venue's own words."""

    number: int
    client_id: str
    account: Account
    market: str  # the venue's symbol
    side: int  # BUY or SELL of the engine
    kind: str
    tif: str
    price: Decimal = ZERO  # 0 of market orders
    size: Decimal = ZERO
    quote_size: Decimal = ZERO  # where the size was said in the quote asset
    stop: Decimal = ZERO
    rises: bool = False  # whether the stop is met from below
    filled: Decimal = ZERO
    worth: Decimal = ZERO  # of what was filled, in the quote asset
    locked: Decimal = ZERO  # set aside for it
    status: str = "NEW"
    made_ms: int = 0
    changed_ms: int = 0
    working_ms: int = 0  # since when it is in the book; 0 while it waits for its trigger
    engine_id: int = 0  # 0 where it is in no book
    reduce_only: bool = False
    position_side: str = ""
    original_id: str = ""  # the client's id before an amendment
    more: dict[str, Any] = {}  # Any: what the venue's answers repeat of the request

    @property
    def left(self) -> Decimal:
        """Return what is not filled yet."""
        return self.size - self.filled

    @property
    def is_open(self) -> bool:
        """Tell whether it may still be filled."""
        return self.status in _OPEN


class Account:
    """One account of one kind of market: its purse, its orders, and who listens to it."""

    def __init__(self, spec: AccountSpec) -> None:
        self.spec = spec
        self.purse = Purse(spec.balances)
        self.orders: dict[int, VenueOrder] = {}  # by number, oldest first
        self.open: dict[str, VenueOrder] = {}  # by client id
        self.fills: list[dict[str, Any]] = []  # Any: rows as the venue shows them
        self.listeners: list[Callable[[dict[str, Any]], None]] = []

    def add(self, order: VenueOrder) -> None:
        """Remember a new order."""
        self.orders[order.number] = order
        if order.is_open:
            self.open[order.client_id] = order
        while len(self.orders) > MAX_HISTORY:
            self._forget_one()

    def _forget_one(self) -> None:
        closed = next((n for n, order in self.orders.items() if not order.is_open), 0)
        del self.orders[closed or next(iter(self.orders))]

    def ended(self, order: VenueOrder) -> None:
        """Let its client id be used again."""
        if self.open.get(order.client_id) is order:
            del self.open[order.client_id]

    def find(self, market: str, number: int, client_id: str) -> VenueOrder | None:
        """Return an order by either name: an open one first, else the newest of that id."""
        if number:
            found = self.orders.get(number)
        else:
            found = self.open.get(client_id) or next(
                (o for o in reversed(self.orders.values()) if o.client_id == client_id), None
            )
        return found if found is not None and found.market == market else None

    def record_fill(self, row: dict[str, Any]) -> None:
        """Remember a fill as the venue shows it."""
        self.fills.append(row)
        del self.fills[:-MAX_HISTORY]

    def tell(self, event: dict[str, Any]) -> None:
        """Send an event to everybody who listens."""
        for listener in tuple(self.listeners):
            listener(event)


def check_distinct(specs: Iterable[AccountSpec]) -> tuple[AccountSpec, ...]:
    """Return the accounts; raise ``ConfigError`` where two have one name or key, or too many."""
    found = tuple(specs)
    for what in ("name", "key"):
        values = [getattr(spec, what) for spec in found]
        if len(set(values)) != len(values):
            raise ConfigError(f"two accounts have the same {what}.")
    if len(found) > MAX_ACCOUNTS:
        raise ConfigError(f"{len(found)} accounts; {MAX_ACCOUNTS} are allowed.")
    return found
