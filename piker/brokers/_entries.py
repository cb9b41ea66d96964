"""How a key lies in a store, and tables of keys."""

from __future__ import annotations

import tomllib
from typing import TypeVar

import msgspec

from piker.brokers.credentials import Credentials, ErasableSecret, check_names
from piker.errors import ConfigError

__all__ = [
    "Fields",
    "Table",
    "decode",
    "drop",
    "entry_of",
    "fields_of",
    "merge",
    "names_in",
    "parse_fields",
    "split_names",
]

T = TypeVar("T")


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A key as it lies in a store."""

    key: str
    secret: str
    passphrase: str | None = None

    def __repr__(self) -> str:
        """Return nothing of it."""
        return "<a key>"


Table = dict[str, dict[str, Fields]]


def parse_fields(text: str, *, what: str) -> dict[str, ErasableSecret]:
    """Return ``key``, ``secret`` and perhaps ``passphrase`` of TOML; nothing of it in an error."""
    try:
        fields = msgspec.convert(tomllib.loads(text), Fields)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError):
        raise ConfigError(
            f"{what} is not a key as TOML.",
            remedy='Write key = "..." and secret = "..."; for KuCoin passphrase = "...", too.',
        ) from None
    return _erasable(fields)


def _erasable(fields: Fields) -> dict[str, ErasableSecret]:
    given = msgspec.structs.asdict(fields)
    return {name: ErasableSecret(value) for name, value in given.items() if value is not None}


def entry_of(venue: str, account: str, fields: Fields, source: str) -> Credentials:
    """Return a key from a store as credentials."""
    return Credentials(venue=venue, account=account, source=source, **_erasable(fields))


def fields_of(credentials: Credentials) -> Fields:
    """Return credentials as they are stored."""
    passphrase = credentials.passphrase
    return Fields(
        credentials.key.reveal(),
        credentials.secret.reveal(),
        passphrase.reveal() if passphrase is not None else None,
    )


def merge(table: Table, added: tuple[Credentials, ...]) -> None:
    """Put keys into a table, in the place of those of the same names."""
    for one in added:
        check_names(one.venue, one.account)
        table.setdefault(one.venue, {})[one.account] = fields_of(one)


def drop(table: Table, venue: str, account: str) -> bool:
    """Take a key out of a table; tell whether it was there."""
    accounts = table.get(venue, {})
    found = accounts.pop(account, None)
    if not accounts:
        table.pop(venue, None)
    return found is not None


def names_in(table: Table) -> list[tuple[str, str]]:
    """Return (venue, account) of each key of a table, sorted."""
    return sorted((venue, account) for venue, accounts in table.items() for account in accounts)


def split_names(listed: list[str]) -> list[tuple[str, str]]:
    """Return (venue, account) of each ``venue/account``, sorted."""
    return sorted((venue, account) for venue, _, account in (one.partition("/") for one in listed))


def decode(text: str | bytes, type_: type[T], what: str) -> T:
    """Return JSON that we wrote; ``ConfigError``, without a word of it, where it is not that."""
    try:
        return msgspec.json.decode(text, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ConfigError(
            f"{what} is not what we wrote.", remedy="Add the key again: piker keys add --replace"
        ) from None
