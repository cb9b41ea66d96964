"""The key of an account at a venue: one struct that shows nothing, and where it is looked for.

    with load_credentials("kraken") as credentials:
        sign = kraken_signer(credentials.secret)

The stores (:mod:`piker.brokers.keystores`) are asked in their order: the desktop's keyring, the
sealed file, the plain file, the environment. The first that has the account counts, and one that
can not be read ends the search: an older key further down must not be taken in its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Self

import msgspec

from piker.errors import Bug, ConfigError
from piker.log import Secret

__all__ = [
    "DEFAULT_ACCOUNT",
    "Ask",
    "Credentials",
    "ErasableSecret",
    "check_names",
    "check_shape",
    "fetch_credentials",
    "load_credentials",
]

DEFAULT_ACCOUNT = "main"
LOOKUP_S = 120.0  # a keyring may ask a person to unlock it; scrypt takes half a second
#: Asks a person for a line that is not shown; None where there is nobody to ask.
Ask = Callable[[str], str] | None
_NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
_MAX_NAME = 32


class ErasableSecret(Secret):
    """A secret whose bytes can be overwritten; revealed texts live as long as their users do."""

    __slots__ = ("_bytes", "_gone")

    def __init__(self, value: str) -> None:
        self._bytes = bytearray(value.encode("utf-8", "surrogateescape"))
        self._gone = False

    @property
    def _value(self) -> str:  # type: ignore[override]  # what Secret keeps as a str is made anew here
        if self._gone:
            raise Bug("a secret was used after it had been forgotten.")
        return self._bytes.decode("utf-8", "surrogateescape")

    def erase(self) -> None:
        """Overwrite the value with zeros; it can not be revealed again."""
        self._bytes[:] = bytes(len(self._bytes))
        self._gone = True


class Credentials(msgspec.Struct, frozen=True, kw_only=True, eq=False, weakref=True):
    """The key of one account. No repr, str, log line, pickle or encoder shows any of it.

    ``source`` names the store that it came from. As a context manager it is forgotten at the end
    of the block: take what you need (a :class:`~piker.brokers.signing.Signer`) within.
    """

    venue: str  # the provider
    account: str
    key: ErasableSecret
    secret: ErasableSecret
    passphrase: ErasableSecret | None = None  # of venues that have one: KuCoin
    source: str = ""

    def __repr__(self) -> str:
        """Return whose they are."""
        return f"<Credentials {self.venue}/{self.account} from {self.source or 'nowhere'}>"

    __str__ = __repr__

    def __rich_repr__(self) -> Any:  # what rich's own protocol yields
        """Show rich no more than anybody."""
        yield f"{self.venue}/{self.account}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Refuse to be pickled or copied deeply."""
        raise TypeError("Credentials are never serialised")

    def __enter__(self) -> Self:
        """Use them for a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget them."""
        self.forget()

    def forget(self) -> None:
        """Overwrite every value; texts that were revealed before are beyond our reach."""
        for one in (self.key, self.secret, self.passphrase):
            if one is not None:
                one.erase()


def check_names(venue: str, account: str) -> None:
    """Refuse names that a file, a variable and an address could not all hold; ``ConfigError``."""
    for what, name in (("venue", venue), ("account", account)):
        if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
            raise ConfigError(
                f"{name!r} is not the name of a{'n' * (what == 'account')} {what}.",
                remedy="Small letters and digits, and _ between them; 32 at most.",
            )
    if account == "paper":
        raise ConfigError("'paper' is the account of the paper engine, which has no key.")


def check_shape(credentials: Credentials) -> str:
    """Return the kind of key in words; ``ConfigError``, without a word of it, where it is none.

    Of venues whose signing we know; of others only that there is a key and a secret.
    """
    from piker.brokers.signing import binance_signer, kraken_signer

    key = credentials.key.reveal()
    if not key or not key.isascii() or any(char.isspace() for char in key):
        raise ConfigError(
            f"{credentials.venue}/{credentials.account}: the API key is empty, or has spaces or "
            "characters that no key has.",
            remedy="Copy it again from the venue's page, then: piker keys add --replace",
        )
    if not credentials.secret.reveal():
        raise ConfigError(f"{credentials.venue}/{credentials.account}: the secret is empty.")
    if credentials.venue == "binance":
        return {"hmac": "HMAC-SHA256", "ed25519": "Ed25519", "rsa": "RSA"}[
            binance_signer(credentials.secret).kind
        ]
    if credentials.venue == "kraken":
        kraken_signer(credentials.secret)
        return "HMAC-SHA512"
    return "not checked"


def load_credentials(venue: str, account: str = DEFAULT_ACCOUNT, *, ask: Ask = None) -> Credentials:
    """Return the key of an account, from the first store that has it.

    Blocks: scrypt takes half a second, and a keyring may ask its owner. ``ask`` asks for the
    passphrase of the sealed file, where no file says it. Raises ``ConfigError`` when no store has
    the account, naming where was looked, and when one can not be read or could be by others.
    """
    from piker.brokers.keystores import open_stores

    check_names(venue, account)
    looked = []
    for store in open_stores(ask=ask):
        found = store.get(venue, account)
        if found is not None:
            return found
        looked.append(f"{store.name} ({store.place})")
    raise ConfigError(
        f"there is no key of the account {account!r} at {venue}. Looked in: {', '.join(looked)}.",
        remedy=f"Add it with: piker keys add {venue} {account}",
    )


async def fetch_credentials(venue: str, account: str = DEFAULT_ACCOUNT) -> Credentials:
    """Return the key of an account without holding the event loop up; asks no person itself.

    As :func:`load_credentials`, in a thread. Cancelled, or after ``LOOKUP_S``, the thread is left
    to its end and what it finds is dropped.
    """
    import trio

    run: Any = trio.to_thread.run_sync  # its stubs are of a trio that had another name for it
    with trio.move_on_after(LOOKUP_S):
        found: Credentials = await run(load_credentials, venue, account, abandon_on_cancel=True)
        return found
    raise ConfigError(
        f"the key of {venue}/{account} was not to be had within {LOOKUP_S:.0f} s.",
        remedy="Unlock the desktop's keyring, or use the sealed file: "
        "piker keys add --store sealed",
    )
