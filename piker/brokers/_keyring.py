"""The desktop's keyring as a store of keys, where a session has one that encrypts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from piker.brokers import _sealed
from piker.brokers._entries import Fields, decode, entry_of, fields_of, split_names
from piker.brokers.credentials import Credentials, check_names
from piker.errors import ConfigError

__all__ = ["KeyringStore", "usable_keyring"]

_SERVICE = "piker"  # how the keyring files us
_INDEX = "accounts"  # the entry that lists the others: keyrings can not be listed
#: Backends of ``keyring`` that encrypt, and ask their owner; others (plain files among them) do not
#: count, whatever the configuration of ``keyring`` says.
_TRUSTED = frozenset(
    f"keyring.backends.{name}"
    for name in ("SecretService", "libsecret", "kwallet", "macOS", "Windows")
)


def usable_keyring() -> tuple[Any, str]:  # a keyring.backend.KeyringBackend, or None
    """Return the desktop's keyring and its name, or None and why there is none to trust."""
    try:
        import keyring

        chosen: Any = keyring.get_keyring()
    except Exception as err:  # its configuration names anything, and that raises anything
        return None, f"keyring does not start: {type(err).__name__}"
    for one in getattr(chosen, "backends", None) or [chosen]:
        if type(one).__module__ in _TRUSTED:
            return one, type(one).__module__.rpartition(".")[2]
    return None, "no desktop keyring in this session"


class KeyringStore:
    """The desktop's keyring. ``backend`` None: there is none, and the store is empty."""

    name = "keyring"

    def __init__(self, backend: Any, place: str, *, folder: Path) -> None:
        self._backend = backend
        self._place = place
        self._folder = folder
        self.usable = backend is not None

    @property
    def place(self) -> str:
        """Say which, or why there is none."""
        return self._place

    def names(self) -> list[tuple[str, str]]:
        """Return what the index lists; the keyring may ask its owner to unlock it."""
        if self._backend is None:
            return []
        index = self._call("get_password", _INDEX)
        listed = decode(index or "[]", list[str], "the keyring's list of accounts")
        return split_names(listed)

    def get(self, venue: str, account: str) -> Credentials | None:
        """Return one key."""
        if self._backend is None:
            return None
        text = self._call("get_password", f"{venue}/{account}")
        if text is None:
            return None
        fields = decode(text, Fields, f"the keyring's entry {venue}/{account}")
        return entry_of(venue, account, fields, self.name)

    def put(self, *all_: Credentials) -> None:
        """Keep keys; each is one entry of the service "piker"."""
        if self._backend is None:
            raise ConfigError(f"{self._place}.", remedy="Use: piker keys add --store sealed")
        with _sealed.hold_lock(self._folder):
            listed = set(self.names())
            for one in all_:
                check_names(one.venue, one.account)
                text = msgspec.json.encode(fields_of(one)).decode()
                self._call("set_password", f"{one.venue}/{one.account}", text)
                listed.add((one.venue, one.account))
            self._write_index(listed)

    def remove(self, venue: str, account: str) -> bool:
        """Drop a key."""
        if self._backend is None or self.get(venue, account) is None:
            return False
        with _sealed.hold_lock(self._folder):
            self._call("delete_password", f"{venue}/{account}")
            self._write_index(set(self.names()) - {(venue, account)})
        return True

    def _write_index(self, listed: set[tuple[str, str]]) -> None:
        text = msgspec.json.encode([f"{venue}/{account}" for venue, account in sorted(listed)])
        self._call("set_password", _INDEX, text.decode())

    def _call(self, method: str, *arguments: str) -> Any:  # as the backend's own method
        try:
            return getattr(self._backend, method)(_SERVICE, *arguments)
        except Exception as err:  # D-Bus and each desktop have their own; words may quote a secret
            raise ConfigError(
                f"the keyring ({self._place}) refuses: {type(err).__name__}.",
                remedy="Unlock it, or use the sealed file: piker keys add --store sealed",
            ) from None
