"""Who may talk: the user's secret, proved by both ends before anything else is read.

The secret is 32 random bytes in the runtime directory, mode 0600. Each connection begins with a
challenge and response of fixed size (HMAC-SHA256 over both nonces, another label for each side),
under a deadline; with its proof a client says its errand: it will call, or it is what a dialog
expects. A loopback peer whose socket belongs to another uid is refused even if it knows
the secret. Nothing of tractor sees the stream before that.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import socket
import stat
import struct
from pathlib import Path

import trio

from piker.config import runtime_dir
from piker.errors import ConfigError, Refused

__all__ = [
    "AUTH_S",
    "CALLER",
    "ConnectionRefused",
    "PeerSilent",
    "connect",
    "load_secret",
    "peer_uid",
    "prove_client",
    "prove_server",
]

_NETLINK_SOCK_DIAG, _DIAG_BY_FAMILY, _NLM_F_REQUEST = 4, 20, 1  # linux/sock_diag.h, netlink.h
_UID_AT = 16 + 4 + 48 + 12  # of idiag_uid: after nlmsghdr, four bytes, sockid and three counts
_DIAG_S = 0.1  # the kernel answers at once or never
AUTH_S = 2.0  # a local peer needs a millisecond; this is for a machine under load
MAGIC = b"PIKERRPC"
VERSION = 2  # of everything said over the wire after the handshake
_HELLO = len(MAGIC) + 1 + 32
_PROOF = 32
_CUT = "the connection was closed during the handshake."
CALLER = bytes(16)  # the errand of a connection that tractor is to serve; others are a dialog's id
_ACCEPTED = b"\x01"


class ConnectionRefused(Refused, ConnectionError):
    """Refused while connecting; also an ``OSError``, as tractor expects of a failed connection."""


class PeerSilent(ConnectionRefused):
    """Somebody accepted the connection and went away or did not answer in time."""


def load_secret() -> bytes:
    """Return the user's secret, made at first use; refuse one that others could read."""
    path = runtime_dir() / "secret"
    try:
        return _read(path)
    except FileNotFoundError:
        draft = path.with_name(f".secret.{os.getpid()}.{secrets.token_hex(4)}")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, secrets.token_bytes(32))
        finally:
            os.close(fd)
        try:
            os.link(draft, path)  # unlike rename, it does not replace the one of a faster process
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return _read(path)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        info = os.fstat(file.fileno())
        if info.st_uid != os.getuid() or stat.S_IMODE(info.st_mode) & 0o077:
            raise ConfigError(
                f"{path} could be read by another user.", remedy="Remove it; a new one is made."
            )
        secret = file.read(33)
    if len(secret) != 32:
        raise ConfigError(f"{path} is damaged.", remedy="Stop pikerd, then remove the file.")
    return secret


async def connect(address: tuple[str, int], errand: bytes) -> trio.SocketStream:
    """Return a connection that both ends have proved; raise ``OSError``: ``ConnectionRefused``."""
    stream = await trio.open_tcp_stream(*address)
    try:
        with trio.fail_after(AUTH_S):
            await prove_client(stream, load_secret(), errand)
    except trio.TooSlowError:
        await trio.aclose_forcefully(stream)
        raise PeerSilent(
            f"{address[0]}:{address[1]} accepted the connection and said nothing.",
            remedy="Another program holds the port: set [network] registry in conf.toml.",
        ) from None
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def prove_client(stream: trio.SocketStream, secret: bytes, errand: bytes = CALLER) -> None:
    """Prove us to a server, and it to us; raise ``ConnectionRefused``.

    The caller sets the deadline. The stream is not closed here.
    """
    mine = secrets.token_bytes(32)
    await _tell(stream, MAGIC + bytes([VERSION]) + mine)
    hello = await _exactly(stream, _HELLO)
    theirs = _nonce(hello)
    proof = await _exactly(stream, _PROOF)
    if not hmac.compare_digest(proof, _hmac(secret, b"server", mine, theirs)):
        raise ConnectionRefused(
            "the process at that address does not know your secret.",
            remedy="Another user's pikerd may hold the port: set [network] registry in conf.toml.",
        )
    await _tell(stream, errand + _hmac(secret, b"client", theirs, mine + errand))
    if await _exactly(stream, 1) != _ACCEPTED:
        raise ConnectionRefused("the daemon refused us.")


async def prove_server(stream: trio.SocketStream, secret: bytes) -> bytes:
    """Demand the proof from a client, and return its errand; raise ``ConnectionRefused``."""
    uid = peer_uid(stream.socket)
    if uid is not None and uid != os.getuid():
        raise ConnectionRefused(f"a peer of uid {uid} was refused.")
    hello = await _exactly(stream, _HELLO)
    ours = MAGIC + bytes([VERSION])
    mine = secrets.token_bytes(32)
    try:
        theirs = _nonce(hello)
    except ConnectionRefused:
        await _tell(stream, ours + mine)  # an older or newer piker can then say what is wrong
        raise
    await _tell(stream, ours + mine + _hmac(secret, b"server", theirs, mine))
    errand = await _exactly(stream, len(CALLER))
    proof = await _exactly(stream, _PROOF)
    if not hmac.compare_digest(proof, _hmac(secret, b"client", mine, theirs + errand)):
        raise ConnectionRefused("a peer without the secret was refused.")
    await _tell(stream, _ACCEPTED)
    return errand


def peer_uid(sock: trio.socket.SocketType | socket.socket) -> int | None:
    """Return the uid that owns the other end of a loopback TCP connection, None if unknown.

    The kernel is asked for that one socket (netlink's sock_diag, sock_diag(7)), which takes a
    tenth of a millisecond; where it does not answer, the table of all sockets is searched.
    """
    peer, own = sock.getpeername()[:2], sock.getsockname()[:2]
    try:
        return _ask_kernel(sock.family, peer, own)
    except (OSError, struct.error):
        return _search_table(sock.family, peer, own)


def _ask_kernel(family: int, peer: tuple[str, int], own: tuple[str, int]) -> int:
    """Return the owner of the socket from ``peer`` to ``own``; ``OSError`` without an answer."""
    addresses = [socket.inet_pton(family, host).ljust(16, b"\0") for host, _ in (peer, own)]
    any_cookie = 0xFFFFFFFF
    request = (
        struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, 0xFFFFFFFF)  # every state
        + struct.pack("!HH", peer[1], own[1])
        + b"".join(addresses)
        + struct.pack("=III", 0, any_cookie, any_cookie)
    )
    header = struct.pack("=IHHII", 16 + len(request), _DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(_DIAG_S)
        kernel.sendto(header + request, (0, 0))
        answer = kernel.recv(4096)
    if struct.unpack_from("=H", answer, 4)[0] != _DIAG_BY_FAMILY:
        raise OSError("the kernel does not know that socket")
    return int(struct.unpack_from("=I", answer, _UID_AT)[0])


def _search_table(family: int, peer: tuple[str, int], own: tuple[str, int]) -> int | None:
    """Return the same from /proc/net/tcp, where the peer's own socket is a row of its own."""
    v6 = family == socket.AF_INET6
    table, pack = ("/proc/net/tcp6", _hex6) if v6 else ("/proc/net/tcp", _hex4)
    wanted = (pack(*peer), pack(*own))
    try:
        with open(table, encoding="ascii") as file:
            for line in file:
                fields = line.split()
                if tuple(fields[1:3]) == wanted:
                    return int(fields[7])
    except OSError:
        return None
    return None


def _hex4(host: str, port: int) -> str:
    raw = socket.inet_pton(socket.AF_INET, host)
    return f"{raw[::-1].hex().upper()}:{port:04X}"


def _hex6(host: str, port: int) -> str:
    raw = socket.inet_pton(socket.AF_INET6, host)
    words = b"".join(raw[at : at + 4][::-1] for at in range(0, 16, 4))
    return f"{words.hex().upper()}:{port:04X}"


def _hmac(secret: bytes, label: bytes, first: bytes, second: bytes) -> bytes:
    return hmac.new(secret, b"piker-rpc-2 " + label + first + second, hashlib.sha256).digest()


def _nonce(hello: bytes) -> bytes:
    if hello[: len(MAGIC)] != MAGIC:
        raise ConnectionRefused(
            "the process at that address is not piker.",
            remedy="Choose another port under [network] registry in conf.toml.",
        )
    if hello[len(MAGIC)] != VERSION:
        raise ConnectionRefused(
            f"the other side speaks version {hello[len(MAGIC)]}, we speak {VERSION}.",
            remedy="Stop the old pikerd: piker services --stop.",
        )
    return hello[len(MAGIC) + 1 :]


async def _tell(stream: trio.SocketStream, data: bytes) -> None:
    """Send; whoever is killed just now is as silent to a sender as to a reader."""
    try:
        await stream.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as err:
        raise PeerSilent(_CUT) from err


async def _exactly(stream: trio.SocketStream, count: int) -> bytes:
    """Read exactly ``count`` bytes, never more: what follows is tractor's."""
    parts = b""
    while len(parts) < count:
        try:
            part = await stream.receive_some(count - len(parts))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            part = b""
        if not part:
            raise PeerSilent(_CUT)
        parts += bytes(part)
    return parts
