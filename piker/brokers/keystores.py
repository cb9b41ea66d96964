"""Where keys are kept, in the order in which they are looked for.

| name | place | needs |
|---|---|---|
| ``keyring`` | the desktop's own store (Secret Service, KWallet) | a session that has one |
| ``sealed`` | ``keys.sealed`` of the configuration directory | a passphrase |
| ``plain`` | ``keys.toml`` beside it, 0600 | a disk that you trust |
| ``environment`` | ``PIKER_API_KEY__KRAKEN__MAIN`` and its like | whoever starts us |

All look alike: names without opening anything, one account, put, remove. Changes hold a lock
against other processes, and files are replaced whole.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Protocol

import msgspec

from piker import handover
from piker.brokers import _sealed
from piker.brokers._entries import (
    Table,
    decode,
    drop,
    entry_of,
    merge,
    names_in,
    parse_fields,
    split_names,
)
from piker.brokers._keyring import KeyringStore, usable_keyring
from piker.brokers.credentials import Ask, Credentials, ErasableSecret
from piker.config import config_dir
from piker.errors import ConfigError
from piker.log import Secret

__all__ = [
    "EnvironmentStore",
    "KeyringStore",
    "PlainStore",
    "SealedStore",
    "Store",
    "find_passphrase",
    "open_stores",
    "parse_fields",
    "usable_keyring",
]

MIN_PASSPHRASE = 10  # characters of a new one; scrypt makes each guess cost half a second
MAX_PASSPHRASE = 4096  # bytes of a file that holds one
#: systemd.exec(5), LoadCredential=: its directory, and the name ours has there.
_SYSTEMD, _CREDENTIAL = "CREDENTIALS_DIRECTORY", "piker.passphrase"


class Store(Protocol):
    """One place of keys."""

    name: str
    usable: bool

    @property
    def place(self) -> str:
        """Say where it is, or why it is none."""

    def names(self) -> list[tuple[str, str]]:
        """Return (venue, account) of what is in it; asks nobody for anything."""

    def get(self, venue: str, account: str) -> Credentials | None:
        """Return one key, None where there is none; ``ConfigError`` where it can not be read."""

    def put(self, *all_: Credentials) -> None:
        """Keep keys, in the place of those of the same names; ``ConfigError`` where it can not."""

    def remove(self, venue: str, account: str) -> bool:
        """Drop a key; tell whether there was one."""


def open_stores(*, ask: Ask = None) -> list[Store]:
    """Return the stores in their order. Opens nothing that has to be unlocked."""
    folder = config_dir()
    return [
        KeyringStore(*usable_keyring(), folder=folder),
        SealedStore(folder, ask=ask),
        PlainStore(folder),
        EnvironmentStore(),
    ]


# -- the sealed file ---------------------------------------------------------------------------
def find_passphrase(ask: Ask, *, new: bool = False) -> Secret:
    """Return the passphrase: of systemd's credentials, of PIKER_PASSPHRASE_FILE, or asked for.

    ``new`` asks twice and refuses a short one. Raises ``ConfigError`` where nobody says it.
    """
    folder, named = os.environ.get(_SYSTEMD), os.environ.get("PIKER_PASSPHRASE_FILE")
    said = None
    if folder and (Path(folder) / _CREDENTIAL).is_file():
        # systemd shows it to this service alone, by an access list that its mode does not tell.
        said = (Path(folder) / _CREDENTIAL).read_bytes()[:MAX_PASSPHRASE]
    elif named:
        said = _sealed.read_private(Path(named), limit=MAX_PASSPHRASE)
        if said is None:
            raise ConfigError(f"PIKER_PASSPHRASE_FILE: there is no {named}.")
    if said is not None:
        return _passphrase(said.decode("utf-8", "surrogateescape").rstrip("\r\n"), new=new)
    if ask is None:
        raise ConfigError(
            "the sealed key file needs its passphrase, and there is nobody to ask.",
            remedy="Set PIKER_PASSPHRASE_FILE to a file of yours, 0600, or load it with systemd as "
            f"{_CREDENTIAL}.",
        )
    words = _passphrase(ask("Passphrase of the key file: "), new=new)
    if new and Secret(ask("The same again: ")) != words:
        raise ConfigError("the two passphrases differ; nothing was written.")
    return words


def _passphrase(text: str, *, new: bool) -> Secret:
    if not text or (new and len(text) < MIN_PASSPHRASE):
        raise ConfigError(f"a passphrase has {MIN_PASSPHRASE} characters or more.")
    return Secret(text)


class SealedStore:
    """A file under a passphrase, which is asked for once."""

    name = "sealed"
    usable = True

    def __init__(self, folder: Path, *, ask: Ask = None, cost: int = _sealed.COST) -> None:
        self._path = folder / "keys.sealed"
        self._ask = ask
        self._cost = cost
        self._known: Secret | None = None

    @property
    def place(self) -> str:
        """Say which file."""
        return str(self._path)

    def names(self) -> list[tuple[str, str]]:
        """Return what the head lists, without the passphrase."""
        data = _sealed.read_private(self._path)
        listed = _sealed.names_of(data, self._path) if data is not None else []
        return split_names(listed)

    def get(self, venue: str, account: str) -> Credentials | None:
        """Return one key; asks for the passphrase only where the head lists it."""
        data = _sealed.read_private(self._path)
        if data is None or f"{venue}/{account}" not in _sealed.names_of(data, self._path):
            return None
        fields = self._open(data).get(venue, {}).get(account)
        return entry_of(venue, account, fields, self.name) if fields is not None else None

    def put(self, *all_: Credentials) -> None:
        """Keep keys; a new file's passphrase is asked for twice."""
        with _sealed.hold_lock(self._path.parent):
            data = _sealed.read_private(self._path)
            table = self._open(data) if data is not None else {}
            merge(table, all_)
            self._write(table)

    def remove(self, venue: str, account: str) -> bool:
        """Drop a key; a file without keys is removed."""
        with _sealed.hold_lock(self._path.parent):
            data = _sealed.read_private(self._path)
            if data is None or f"{venue}/{account}" not in _sealed.names_of(data, self._path):
                return False
            table = self._open(data)
            found = drop(table, venue, account)
            self._write(table)
        return found

    def _words(self, *, new: bool) -> Secret:
        if self._known is None:
            self._known = find_passphrase(self._ask, new=new)
        return self._known

    def _open(self, data: bytes) -> Table:
        inside = _sealed.open_box(data, self._words(new=False), self._path)
        return decode(inside, Table, str(self._path))

    def _write(self, table: Table) -> None:
        if not table:
            self._path.unlink(missing_ok=True)
            return
        names = [f"{venue}/{account}" for venue, account in names_in(table)]
        words = self._words(new=not self._path.exists())
        sealed = _sealed.seal(msgspec.json.encode(table), words, names, cost=self._cost)
        _sealed.write_private(self._path, sealed)


# -- the plain file ----------------------------------------------------------------------------
class PlainStore:
    """A TOML file of the user's alone, with a table ``[venue.account]`` for each key."""

    name = "plain"
    usable = True

    def __init__(self, folder: Path) -> None:
        self._path = folder / "keys.toml"

    @property
    def place(self) -> str:
        """Say which file."""
        return str(self._path)

    def names(self) -> list[tuple[str, str]]:
        """Return its tables."""
        return names_in(self._read())

    def get(self, venue: str, account: str) -> Credentials | None:
        """Return one key."""
        fields = self._read().get(venue, {}).get(account)
        return entry_of(venue, account, fields, self.name) if fields is not None else None

    def put(self, *all_: Credentials) -> None:
        """Keep keys; the file is written anew, so that comments in it are lost."""
        with _sealed.hold_lock(self._path.parent):
            table = self._read()
            merge(table, all_)
            self._write(table)

    def remove(self, venue: str, account: str) -> bool:
        """Drop a key; a file without keys is removed."""
        with _sealed.hold_lock(self._path.parent):
            table = self._read()
            found = drop(table, venue, account)
            if found and table:
                self._write(table)
            elif found:
                self._path.unlink()
        return found

    def _read(self) -> Table:
        data = _sealed.read_private(self._path)
        if data is None:
            return {}
        try:
            return msgspec.convert(tomllib.loads(data.decode()), Table)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
            where = str(err).rpartition("(")[2].rstrip(")") if "(at " in str(err) else "somewhere"
            raise ConfigError(f"{self._path}: not TOML {where}.", remedy="Mend it.") from None
        except msgspec.ValidationError:
            raise ConfigError(
                f"{self._path}: a table is not a key.",
                remedy="Each is [venue.account] with key, secret, and for KuCoin passphrase.",
            ) from None

    def _write(self, table: Table) -> None:
        text = _sealed.toml_of(
            {
                venue: {
                    account: {
                        name: value
                        for name, value in msgspec.structs.asdict(fields).items()
                        if value is not None
                    }
                    for account, fields in accounts.items()
                }
                for venue, accounts in table.items()
            }
        )
        _sealed.write_private(self._path, text.encode())


# -- the environment ---------------------------------------------------------------------------
class EnvironmentStore:
    """Variables that this process was started with, or that its parent has handed it."""

    name = "environment"
    usable = True
    place = "PIKER_API_KEY__<VENUE>__<ACCOUNT>"

    def _table(self) -> dict[tuple[str, str], dict[str, Secret]]:
        handover.adopt()
        found: dict[tuple[str, str], dict[str, Secret]] = {}
        for variable, secret in handover.taken().items():
            parsed = handover.parse_name(variable)
            if parsed is None:
                raise ConfigError(
                    f"the environment has {variable}, which names no account.",
                    remedy=f"Its name is as in {handover.name_of('key', 'kraken', 'main')}.",
                )
            found.setdefault(parsed[1:], {})[parsed[0]] = secret
        return found

    def names(self) -> list[tuple[str, str]]:
        """Return whose variables there are."""
        return sorted(self._table())

    def get(self, venue: str, account: str) -> Credentials | None:
        """Return one key; one half without the other is refused."""
        fields = self._table().get((venue, account))
        if fields is None:
            return None
        missing = [name for name in ("key", "secret") if name not in fields]
        if missing:
            variable = handover.name_of(missing[0], venue, account)
            raise ConfigError(f"the environment has half a key: {variable} is not set.")
        given = {name: ErasableSecret(secret.reveal()) for name, secret in fields.items()}
        return Credentials(venue=venue, account=account, source=self.name, **given)

    def put(self, *_: Credentials) -> None:
        """Refuse: what starts us sets it."""
        raise ConfigError("the environment is set by whoever starts piker, not by piker.")

    def remove(self, venue: str, account: str) -> bool:
        """Refuse where there is one."""
        if (venue, account) in self._table():
            self.put()
        return False
