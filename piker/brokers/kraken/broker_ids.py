"""Order ids: from emsd's to one that Kraken takes, and back; and nonces that rise for ever.

Kraken's ``cl_ord_id`` is a UUID (with hyphens, or 32 hex digits) or up to 18 characters of free
text. emsd's ids are ``pk`` and 128 bits in base32: their hex digits are the cl_ord_id, so that both
can be made of each other, by any process, after any restart.
"""

from __future__ import annotations

import fcntl
import os
import re
from base64 import b32decode, b32encode
from binascii import Error as Base32Error
from hashlib import blake2b
from pathlib import Path

from piker.brokers.signing import Nonces
from piker.clock import wall_ns
from piker.config import data_dir
from piker.errors import ConfigError, Transient

__all__ = ["NonceFile", "cl_ord_id_of", "client_id_of", "plain"]

_OURS = re.compile(r"pk[a-z2-7]{26}", re.ASCII)
_FREE = re.compile(r"[A-Za-z0-9_.:-]{1,18}", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{32}", re.ASCII)


def cl_ord_id_of(client_id: str) -> str:
    """Return the id that Kraken is given for an order: the same for the same, always.

    An id that is neither emsd's nor short gets a digest, which is known again only by who made it.
    """
    if _OURS.fullmatch(client_id):
        try:
            raw = b32decode(client_id[2:].upper() + "======")
        except Base32Error:
            raw = b""
        if client_id_of(raw.hex()) == client_id:
            return raw.hex()
    if _FREE.fullmatch(client_id):
        return client_id
    return blake2b(client_id.encode(), digest_size=16).hexdigest()


def plain(cl_ord_id: str | None) -> str:
    """Return a cl_ord_id in the form in which two are compared, empty for none.

    One of 32 hex digits is the short form of a UUID: the venue may tell it with dashes, or in upper
    case. Free text stays as it is.
    """
    digits = (cl_ord_id or "").replace("-", "").lower()
    return digits if _HEX.fullmatch(digits) else cl_ord_id or ""


def client_id_of(cl_ord_id: str) -> str:
    """Return emsd's id of a cl_ord_id; one that is no UUID stays as it is."""
    cl_ord_id = plain(cl_ord_id)
    if not _HEX.fullmatch(cl_ord_id):
        return cl_ord_id
    return "pk" + b32encode(bytes.fromhex(cl_ord_id)).decode()[:26].lower()


class NonceFile:
    """The last nonce of one key, in a file: whoever has the key on this machine counts on from it.

    The file's name is a digest of the key. Under a lock of the file each nonce is above all that
    were given out, through restarts and clocks that are set back. Blocks for as long as another
    process holds the lock: microseconds.
    """

    def __init__(self, key: str, folder: Path | None = None) -> None:
        """Take the file of a key; ``folder`` is the data directory's unless given."""
        place = folder or data_dir() / "nonces"
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as err:
            raise ConfigError(
                f"kraken: {place} can not be made: {err.strerror}.",
                remedy="Nonces are kept there; mend the data directory.",
            ) from err
        self.file = place / f"kraken-{blake2b(key.encode(), digest_size=8).hexdigest()}"

    def next(self) -> int:
        """Return the next nonce: microseconds of the wall clock where that has moved on.

        Raises ``Transient`` where the file can not be read or written: nothing was sent then.
        """
        try:
            return self._next()
        except OSError as err:
            raise Transient(f"kraken: no nonce from {self.file}: {err.strerror}.") from err

    def _next(self) -> int:
        fd = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            text = os.pread(fd, 32, 0).strip()
            nonces = Nonces()
            if text.isdigit():
                nonces.next(int(text) * 1000)
            number = nonces.next(wall_ns())
            os.pwrite(fd, b"%020d\n" % number, 0)
            return number
        finally:
            os.close(fd)
