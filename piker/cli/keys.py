"""``piker keys``: the keys of accounts at venues. No key is ever an argument, or printed."""

from __future__ import annotations

import getpass
import sys
from typing import Literal

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from piker.brokers.credentials import Credentials, ErasableSecret, check_names, check_shape
from piker.brokers.keystores import Store, open_stores, parse_fields
from piker.brokers.spec import find_backends
from piker.config import load_conf, nearest
from piker.errors import ConfigError, PikerError, ProviderError

__all__ = ["add", "check", "ls", "remove"]

MAX_STDIN = 65_536  # characters; an RSA key of 4096 bits has 3,300
MAX_PEM_LINES = 80  # of such a key: 52
_WITH_PASSPHRASE = ("kucoin",)


class Kept(msgspec.Struct, frozen=True):
    """A key, as ``piker keys list`` shows it; ``used`` when no store before has the account."""

    venue: str
    account: str
    store: str
    used: bool


class Checked(msgspec.Struct, frozen=True):
    """A key, as ``piker keys check`` found it."""

    venue: str
    account: str
    store: str
    ok: bool
    said: str
    level: Literal["ok", "look", "fail"] = "ok"


def _ask(prompt: str) -> str:
    """Ask on the terminal, not showing what is typed; nothing of stdin is taken."""
    try:
        return getpass.getpass(prompt)
    except EOFError:
        raise ConfigError("nothing was typed; nothing was changed.") from None


def _stores() -> list[Store]:
    return open_stores(ask=_ask if sys.stdin.isatty() else None)


# -- add ---------------------------------------------------------------------------------------
def add(venue: str, account: str, *, store: str | None, replace: bool) -> None:
    """Ask for a key, or read it from stdin, and keep it."""
    _check_venue(venue)
    check_names(venue, account)
    stores = _stores()
    chosen = _choose(stores, store)
    if not replace and (venue, account) in chosen.names():
        raise ConfigError(
            f"{chosen.place} has a key of {venue}/{account}.", remedy="Add --replace to change it."
        )
    with _read(venue, account) as credentials:
        kind = check_shape(credentials)
        chosen.put(credentials)
    print(f"kept the key of {venue}/{account} ({kind}) in {chosen.name}: {chosen.place}")
    for one in stores[: stores.index(chosen)]:
        if (venue, account) in one.names():
            print(f"but {one.name} ({one.place}) has one, too, and comes first: piker keys remove")
            return


def _check_venue(venue: str) -> None:
    known = find_backends(load_conf().brokers.modules)
    if venue not in known:
        raise ProviderError(f"there is no provider {venue!r}.", remedy=nearest(venue, known))


def _choose(stores: list[Store], name: str | None) -> Store:
    """Return the store to write to: the named one, else the keyring where there is one."""
    if name is None:
        name = "keyring" if stores[0].usable else "sealed"
    writable = {one.name: one for one in stores if one.name != "environment"}
    if name not in writable:
        raise ConfigError(f"there is no store {name!r}.", remedy=nearest(name, writable))
    return writable[name]


def _read(venue: str, account: str) -> Credentials:
    if not sys.stdin.isatty():
        text = sys.stdin.read(MAX_STDIN + 1)
        if len(text) > MAX_STDIN:
            raise ConfigError("stdin holds too much for a key.")
        given = parse_fields(text, what="stdin")
    else:
        given = {
            "key": ErasableSecret(_ask("API key: ").strip()),
            "secret": ErasableSecret(_ask_secret()),
        }
        if venue in _WITH_PASSPHRASE:
            given["passphrase"] = ErasableSecret(_ask("Passphrase of the key: ").strip())
    return Credentials(venue=venue, account=account, source="you", **given)


def _ask_secret() -> str:
    """Ask for a secret; of a private key in PEM, for its lines up to the last."""
    lines = [_ask("Secret, or private key (PEM): ").strip()]
    if lines[0].startswith("-----BEGIN"):
        while not lines[-1].startswith("-----END") and len(lines) < MAX_PEM_LINES:
            lines.append(_ask("more: ").strip())
    return "\n".join(lines)


# -- list, remove, check -----------------------------------------------------------------------
def _kept(stores: list[Store]) -> list[Kept]:
    seen: set[tuple[str, str]] = set()
    found = []
    for store in stores:
        for name in store.names():
            found.append(Kept(*name, store.name, name not in seen))
            seen.add(name)
    return found


def ls(*, as_json: bool) -> None:
    """List whose keys there are and where; no passphrase is needed."""
    stores = _stores()
    found = _kept(stores)
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    if not found:
        print("There are no keys. Add one with, for example: piker keys add kraken")
        return
    places = {store.name: store.place for store in stores}
    table = Table("venue", "account", "kept in", "place", "", box=SIMPLE_HEAD, pad_edge=False)
    for one in found:
        hidden = "" if one.used else "not used: a store before it has one"
        table.add_row(one.venue, one.account, one.store, escape(places[one.store]), hidden)
    Console().print(table)


def remove(venue: str, account: str, *, store: str | None) -> None:
    """Drop a key from every store that has it, or from the named one."""
    check_names(venue, account)
    stores = _stores()
    *kept, environment = stores
    chosen = [_choose(stores, store)] if store else kept
    gone = [one.name for one in chosen if one.remove(venue, account)]
    still = (venue, account) in environment.names()
    if not gone and not still:
        raise ConfigError(f"there is no key of {venue}/{account}.", remedy="See: piker keys list")
    if gone:
        print(f"removed the key of {venue}/{account} from {', '.join(gone)}.")
    if still:
        print("the environment has one: whoever starts piker sets it, and can leave it out.")


def check(venue: str | None, *, as_json: bool) -> None:
    """Open every key and look at it; exit 1 when one can not be used."""
    stores = _stores()
    found = [one for store in stores for one in _checked(store, venue)]
    if as_json:
        print(msgspec.json.encode(found).decode())
    elif not found:
        print("There are no keys to check.")
    else:
        table = Table("venue", "account", "kept in", "", "", box=SIMPLE_HEAD, pad_edge=False)
        for one in found:
            table.add_row(one.venue, one.account, one.store, one.level, escape(one.said))
        Console().print(table)
    if any(not one.ok for one in found):
        sys.exit(1)


def _checked(store: Store, venue: str | None) -> list[Checked]:
    try:
        names = [name for name in store.names() if venue in (None, name[0])]
    except PikerError as err:
        return [Checked("", "", store.name, False, str(err), "fail")]
    return [_check_one(store, *name) for name in names]


def _check_one(store: Store, venue: str, account: str) -> Checked:
    try:
        found = store.get(venue, account)
        if found is None:
            said = "listed, but not there: piker keys remove"
            return Checked(venue, account, store.name, False, said, "fail")
        with found:
            kind = check_shape(found)
    except PikerError as err:
        return Checked(venue, account, store.name, False, str(err), "fail")
    if store.name == "plain":
        said = f"{kind}; in a plain file: any program of yours can read it"
        return Checked(venue, account, store.name, True, said, "look")
    return Checked(venue, account, store.name, True, kind)
