"""Secrets of the environment: taken out of it at the start, handed only to who needs them.

Whatever a process has in its environment, every program it starts has too, and any process of the
same user can read it in ``/proc``. So the first thing each of our processes does is to take the
keys out (:func:`adopt`). pikerd gets them from the command that starts it, ``brokerd.<venue>``
those of its venue from pikerd, through a file without a name that the child empties as it reads;
nobody else gets any.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from piker.errors import Bug
from piker.log import Secret

__all__ = ["adopt", "begin", "lend", "name_of", "parse_name", "protect_process", "taken"]

MAX_BYTES = 1 << 20  # of keys; one has some 200 bytes, an RSA key 2,000
_FILE = "piker-keys"  # what the kernel shows of the file without a name
_ROLES = {
    "PIKER_API_KEY": "key",
    "PIKER_API_SECRET": "secret",
    "PIKER_API_PASSPHRASE": "passphrase",
}
_WORDS = tuple(_ROLES)
_PART = "[A-Z0-9]+(?:_[A-Z0-9]+)*"
_NAME = re.compile(rf"({'|'.join(_WORDS)})__({_PART})__({_PART})")
_PR_SET_DUMPABLE = 4  # prctl(2)
_taken: dict[str, Secret] = {}


def parse_name(variable: str) -> tuple[str, str, str] | None:
    """Return (role, venue, account) of ``PIKER_API_KEY__KRAKEN__MAIN``; None of other variables."""
    found = _NAME.fullmatch(variable)
    return (_ROLES[found[1]], found[2].lower(), found[3].lower()) if found else None


def name_of(role: str, venue: str, account: str) -> str:
    """Return the variable of ``key``, ``secret`` or ``passphrase`` of an account."""
    word = next(word for word, one in _ROLES.items() if one == role)
    return f"{word}__{venue.upper()}__{account.upper()}"


def adopt() -> None:
    """Take the keys out of our environment, and those that our parent has handed us.

    What ``/proc`` shows of our own environment is overwritten. May be called again. A name that is
    nearly right is taken out, too: its value is a key all the same.
    """
    for name in [name for name in os.environ if name.startswith(_WORDS)]:
        _taken[name] = Secret(os.environ[name])
        _erase(name)
        del os.environ[name]
    _receive()


def begin(name: str = "") -> None:
    """Begin a process of ours: take the keys there are, and guard a process that has or gets some.

    ``name`` is the service's.
    """
    adopt()
    if _taken or name.startswith("brokerd."):
        protect_process()


def taken() -> Mapping[str, Secret]:
    """Return variable name -> value of what :func:`adopt` has found, in this process."""
    return _taken


@contextmanager
def lend(service: str) -> Iterator[int]:
    """Yield what is to be the stdin of the child ``service``: what it may know, or nothing.

    Keys that are still in our environment are taken out of it first.
    """
    adopt()
    kind, _, venue = service.partition(".")
    known = {
        name: secret.reveal()
        for name, secret in _taken.items()
        if service == "pikerd" or (kind == "brokerd" and _venue_of(name) == venue)
    }
    if not known:
        yield subprocess.DEVNULL
        return
    handle = os.memfd_create(_FILE, os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(handle), "wb") as file:
            file.write(json.dumps(known).encode())
        os.lseek(handle, 0, os.SEEK_SET)
        yield handle
    finally:
        os.close(handle)


def _venue_of(variable: str) -> str:
    parsed = parse_name(variable)
    return parsed[1] if parsed else ""


def _receive() -> None:
    """Read and empty the file without a name that is our stdin, where it is; then have no stdin."""
    try:
        if not os.readlink("/proc/self/fd/0").startswith(f"/memfd:{_FILE} "):
            return
    except OSError:
        return
    with os.fdopen(os.dup(0), "r+b") as file:
        known = json.loads(file.read(MAX_BYTES) or b"{}")
        file.seek(0)
        file.write(bytes(os.fstat(0).st_size))
        file.truncate(0)
    _taken.update({name: Secret(value) for name, value in known.items()})
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _erase(name: str) -> None:
    """Overwrite a variable's value where it lies: the kernel shows that memory in ``/proc``."""
    import ctypes

    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    address = libc.getenv(os.fsencode(name))
    if address:
        ctypes.memset(address, 0, len(ctypes.string_at(address)))


def protect_process() -> None:
    """Let nobody of this uid look into this process, and write no core of it when it crashes.

    For a process that holds keys, as the first thing it does. Debuggers can not attach afterwards,
    and ``/proc`` shows its environment and memory to root alone.
    """
    import ctypes
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise Bug(f"prctl: {os.strerror(ctypes.get_errno())}")
