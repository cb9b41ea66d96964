"""Files of secrets: private to the user, replaced whole, sealed with a passphrase or plain.

A sealed file is JSON: a head that says how it was sealed and whose keys are inside, and a box. The
box is AES-256-GCM, its key scrypt's of the passphrase with a salt of every writing; the head's
bytes are authenticated with it, so that neither can be changed or put together anew.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from piker.errors import ConfigError
from piker.log import Secret

__all__ = [
    "COST",
    "hold_lock",
    "names_of",
    "open_box",
    "read_private",
    "seal",
    "toml_of",
    "write_private",
]

COST = 1 << 17  # scrypt's n: 128 MiB and about half a second; OWASP's first choice of 2023
MIN_COST, MAX_COST = 1 << 14, 1 << 20  # what a file may say: not too weak, not all of the memory
BLOCK, LANES = 8, 1  # scrypt's r and p, of the same choice
MAX_BYTES = 4 << 20  # of a key file: some thousand keys
FORMAT: Literal["piker keys 1"] = "piker keys 1"


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["piker keys 1"]
    n: int
    r: int
    p: int
    salt: bytes
    nonce: bytes
    names: list[str]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    head: msgspec.Raw
    box: bytes


# -- the box -----------------------------------------------------------------------------------
def seal(inside: bytes, passphrase: Secret, names: list[str], *, cost: int = COST) -> bytes:
    """Return a sealed file's bytes. ``names`` can be read without the passphrase.

    Takes scrypt's time and memory (``COST``); no other thread waits for it.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    head = _Head(
        FORMAT, cost, BLOCK, LANES, secrets.token_bytes(16), secrets.token_bytes(12), names
    )
    said = msgspec.json.encode(head)
    box = AESGCM(_key_of(passphrase, head)).encrypt(head.nonce, inside, said)
    return msgspec.json.encode(_File(msgspec.Raw(said), box)) + b"\n"


def open_box(sealed: bytes, passphrase: Secret, place: object) -> bytes:
    """Return what is inside; ``ConfigError`` for another passphrase or a changed file."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    file, head = _parse(sealed, place)
    try:
        return AESGCM(_key_of(passphrase, head)).decrypt(head.nonce, file.box, bytes(file.head))
    except InvalidTag:
        raise ConfigError(
            f"the passphrase does not open {place}, or the file was changed.",
            remedy="Try again; a lost passphrase can not be found: remove the file, add the keys.",
        ) from None


def names_of(sealed: bytes, place: object) -> list[str]:
    """Return the names in the head, which only :func:`open_box` proves."""
    return _parse(sealed, place)[1].names


def _parse(sealed: bytes, place: object) -> tuple[_File, _Head]:
    try:
        file = msgspec.json.decode(sealed, type=_File)
        head = msgspec.json.decode(file.head, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _damaged(place) from None
    sound = MIN_COST <= head.n <= MAX_COST and head.n.bit_count() == 1
    if not sound or (head.r, head.p) != (BLOCK, LANES) or len(head.salt) != 16:
        raise _damaged(place)
    if len(head.nonce) != 12:
        raise _damaged(place)
    return file, head


def _damaged(place: object) -> ConfigError:
    return ConfigError(
        f"{place} is no sealed key file, or was changed.",
        remedy="Put a copy of it back, or remove it and add the keys again: piker keys add",
    )


def _key_of(passphrase: Secret, head: _Head) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    scrypt = Scrypt(salt=head.salt, length=32, n=head.n, r=head.r, p=head.p)
    return scrypt.derive(passphrase.reveal().encode("utf-8", "surrogateescape"))


# -- files -------------------------------------------------------------------------------------
def read_private(path: Path, *, limit: int = MAX_BYTES) -> bytes | None:
    """Return a file's bytes, None where there is none; refuse one that others can read or write.

    What is looked at is the file that was opened, not what the name leads to a moment later.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise ConfigError(f"can not read {path}: {err.strerror}.") from err
    with os.fdopen(handle, "rb") as file:
        _check_private(os.fstat(handle), path)
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ConfigError(f"{path} is larger than {limit:,} bytes: no file of ours.")
    return data


def _check_private(info: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise ConfigError(f"{path} is not a file.", remedy="Put a file there.")
    if info.st_uid != os.getuid():
        raise ConfigError(
            f"{path} belongs to uid {info.st_uid}, not to you (uid {os.getuid()}).",
            remedy=f"Run as that user: chown {os.getuid()} {path}",
        )
    if stat.S_IMODE(info.st_mode) & 0o077:
        raise ConfigError(
            f"{path} holds secrets and other users may read or change it.",
            remedy=f"Run: chmod 600 {path}; and take what was in it for known to others.",
        )


def write_private(path: Path, data: bytes) -> None:
    """Replace a file whole, 0600, on the disk before this returns; raise ``ConfigError``."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as err:
        raise ConfigError(f"can not write {path}: {err.strerror}.") from err


@contextmanager
def hold_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder's key files, against other processes; waits for it."""
    handle = os.open(folder / "keys.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def toml_of(tables: Mapping[str, Mapping[str, Mapping[str, str]]]) -> str:
    """Return ``[venue.account]`` tables of texts as TOML."""
    lines = []
    for venue, accounts in sorted(tables.items()):
        for account, fields in sorted(accounts.items()):
            lines.append(f"[{venue}.{account}]")
            lines += [f"{name} = {_toml_text(value)}" for name, value in fields.items()]
            lines.append("")
    return "\n".join(lines)


def _toml_text(value: str) -> str:
    """Return a TOML basic string: JSON's, whose escapes are TOML's but for DEL."""
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
