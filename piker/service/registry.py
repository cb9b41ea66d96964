"""Where pikerd is: a small file in the runtime directory, and the lock that makes it the only one.

``pikerd.json`` is written when pikerd serves and removed when it ends; a file whose pid is gone is
a leftover and is ignored. The lock is the kernel's: it ends with its holder.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from piker.config import load_conf, runtime_dir
from piker.errors import ConfigError
from piker.service.liveness import is_alive

__all__ = [
    "ALREADY_RUNS",
    "Address",
    "PikerdInfo",
    "announce",
    "hold_lock",
    "parse_address",
    "read_pikerd",
    "registry_address",
]

Address = tuple[str, int]
ALREADY_RUNS = "pikerd already runs"  # how the loser of two that start at once ends
_LOOPBACK = ("127.", "::1", "localhost")


class PikerdInfo(msgspec.Struct, frozen=True):
    """What ``pikerd.json`` says."""

    pid: int
    host: str
    port: int

    @property
    def address(self) -> Address:
        """Return (host, port)."""
        return (self.host, self.port)


def read_pikerd() -> PikerdInfo | None:
    """Return where this user's pikerd is, or None when none runs."""
    try:
        info = msgspec.json.decode(_file().read_bytes(), type=PikerdInfo)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return info if is_alive(info.pid) else None


@contextmanager
def announce(address: Address) -> Iterator[None]:
    """Write ``pikerd.json`` for the block."""
    info = PikerdInfo(os.getpid(), address[0], address[1])
    file = _file()  # once: at our end its directory may be gone, and is not to come back
    draft = file.with_suffix(".tmp")
    draft.write_bytes(msgspec.json.encode(info))
    draft.rename(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


@contextmanager
def hold_lock() -> Iterator[None]:
    """Be the one pikerd of this runtime directory; raise ``ConfigError`` when there is another."""
    fd = os.open(runtime_dir() / "pikerd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            info = read_pikerd()
            who = f" (pid {info.pid})" if info else ""
            raise ConfigError(
                f"{ALREADY_RUNS}{who} in {runtime_dir()}.",
                remedy="See `piker services`; `piker services --stop` ends it.",
            ) from None
        yield
    finally:
        os.close(fd)


def registry_address(chosen: str | None = None) -> Address:
    """Return where pikerd is to listen: argument, ``PIKER_REGISTRY``, conf.toml, default."""
    network = load_conf().network
    text = chosen or os.environ.get("PIKER_REGISTRY") or network.registry
    address = parse_address(text)
    if not address[0].startswith(_LOOPBACK) and not network.allow_remote:
        raise ConfigError(
            f"{text} is reachable from other machines.",
            remedy="Use 127.0.0.1, or set allow_remote = true under [network] in conf.toml.",
        )
    return address


def parse_address(text: str) -> Address:
    """Parse ``host:port``."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{text!r} is not an address.", remedy="Write host:port.")
    return (host.strip("[]"), int(port))


def _file() -> Path:
    return runtime_dir() / "pikerd.json"
