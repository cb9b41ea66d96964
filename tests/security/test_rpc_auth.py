"""Nobody but this user, with the user's secret, gets an RPC served. Counted."""

from __future__ import annotations

import os
import pwd
import random
import socket
import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import sample_service as sample
import trio
from daemons import Pikerd

from piker import service
from piker.errors import ConfigError
from piker.service import auth
from piker.service.auth import load_secret

pytestmark = pytest.mark.slow
ENDPOINTS = (
    ("piker.service.daemon", "get_services"),
    ("piker.service.daemon", "ensure_service"),
    ("piker.service.daemon", "stop"),
    ("piker.service.endpoints", "ping"),
)
INTRUDER = str(Path(__file__).with_name("intruder.py"))


def break_in(
    address: tuple[str, int], endpoint: tuple[str, str], *, secret: str, uid: int, count: int = 25
) -> tuple[int, int]:
    """Run the intruder; return (refused, served)."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", INTRUDER, *map(str, address), *endpoint, str(count),
         secret, str(uid)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    refused, served = done.stdout.split()
    return int(refused), int(served)


async def test_other_uid_is_refused_on_every_endpoint_even_with_the_secret(pikerd: Pikerd) -> None:
    """100 of 100 calls of another uid are refused, whether or not it stole the secret."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    nobody = pwd.getpwnam("nobody").pw_uid
    info = await pikerd.ready()
    refused = served = 0
    for endpoint in ENDPOINTS:
        for secret in ("", load_secret().hex()):
            count = break_in(info.address, endpoint, secret=secret, uid=nobody, count=25)
            refused, served = refused + count[0], served + count[1]
    assert (refused, served) == (200, 0)


async def test_same_uid_without_the_secret_is_refused_on_every_endpoint(pikerd: Pikerd) -> None:
    """100 of 100 calls of our own uid with a wrong secret are refused."""
    info = await pikerd.ready()
    refused = served = 0
    for endpoint in ENDPOINTS:
        count = break_in(info.address, endpoint, secret="", uid=0)
        refused, served = refused + count[0], served + count[1]
    assert (refused, served) == (100, 0)


async def test_intruder_with_the_secret_and_our_uid_is_served(pikerd: Pikerd) -> None:
    """The same program succeeds when it may: the refusals above are not its own clumsiness."""
    info = await pikerd.ready()
    endpoint = ("piker.service.endpoints", "ping")
    served = break_in(info.address, endpoint, secret=load_secret().hex(), uid=0, count=3)
    assert served == (0, 3)


async def test_service_processes_refuse_strangers_too(pikerd: Pikerd) -> None:
    """Not only pikerd: every spawned process demands the secret."""
    await pikerd.ready()
    async with service.open_service("sample.a") as peer:
        (info,) = await service.list_services()
        result = break_in((info.host, info.port), ("sample_service", "add"), secret="", uid=0)
        assert result == (25, 0)
        assert await peer.run(sample.add, a=1, b=1) == 2


async def test_another_version_is_told_which_one_we_speak(pikerd: Pikerd) -> None:
    """An old program meets a new daemon: it can say so, and what to do."""
    info = await pikerd.ready()
    with socket.create_connection(info.address, timeout=5) as sock:
        sock.sendall(auth.MAGIC + bytes([auth.VERSION - 1]) + bytes(32))
        said = sock.recv(len(auth.MAGIC) + 1)
    assert said == auth.MAGIC + bytes([auth.VERSION])
    with pytest.raises(auth.ConnectionRefused, match="speaks version 1, we speak"):
        auth._nonce(auth.MAGIC + b"\x01" + bytes(32))


async def test_a_connection_for_no_dialog_is_let_go(pikerd: Pikerd) -> None:
    """Who knows the secret and makes up a dialog's id gets nothing, and the daemon serves on."""
    info = await pikerd.ready()
    stream = await auth.connect(info.address, os.urandom(16))
    async with stream:
        assert await stream.receive_some(1) == b""
    async with service.open_service("sample.a") as peer:
        assert await peer.run(sample.add, a=1, b=1) == 2


async def test_peers_that_go_at_any_point_kill_nothing(pikerd: Pikerd) -> None:
    """Hundreds that reset the connection during the proof and right after it: all are let go."""
    info = await pikerd.ready()
    reset = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST, the socket has no peer any more

    async def one(errand: bytes) -> None:
        for number in range(30):
            stream = await auth.connect(info.address, errand)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            if number % 3:
                await stream.send_all(struct.pack("<I", 100)[: number % 3])
            await stream.aclose()

    async with trio.open_nursery() as nursery:
        for errand in (auth.CALLER, os.urandom(16)) * 4:
            nursery.start_soon(one, errand)
    async with service.open_service("sample.a") as peer:
        assert await peer.run(sample.add, a=1, b=1) == 2


async def test_garbage_at_the_port_kills_nothing(pikerd: Pikerd) -> None:
    """Hundreds of connections of random bytes: pikerd still serves its own."""
    info = await pikerd.ready()
    rng = random.Random(7)

    def throw() -> None:
        for _ in range(300):
            with socket.create_connection(info.address, timeout=5) as sock:
                try:
                    sock.sendall(rng.randbytes(rng.randrange(0, 400)))
                except ConnectionError:
                    continue

    await trio.to_thread.run_sync(throw)
    async with service.open_service("sample.a") as peer:
        assert await peer.run(sample.add, a=1, b=1) == 2


@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.full)])
async def test_mutated_frames_after_the_handshake_call_nothing(pikerd: Pikerd, count: int) -> None:
    """Frames of an authenticated but mad peer: refused or answered with an error, daemon alive."""
    info = await pikerd.ready()
    rng = random.Random(11)
    good = msgspec.msgpack.encode(
        {"cmd": ["piker.service.endpoints", "ping", {}, ["x", "y"], "cid"]}
    )

    async def one() -> None:
        async with await auth.connect(info.address, auth.CALLER) as stream:
            hello = msgspec.msgpack.encode(["mad", "1"])
            body = bytearray(good)
            for _ in range(rng.randrange(1, 6)):
                body[rng.randrange(len(body))] = rng.randrange(256)
            size = rng.choice([len(body), len(body), 2**31, 0])
            try:
                await stream.send_all(struct.pack("<I", len(hello)) + hello)
                await stream.send_all(struct.pack("<I", size) + bytes(body))
                with trio.move_on_after(0.02):
                    await stream.receive_some(4096)
            except trio.BrokenResourceError:
                return

    for _ in range(count // 20):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one)
    async with service.open_service("sample.a") as peer:
        assert await peer.run(sample.add, a=1, b=1) == 2


def test_secret_is_refused_when_others_may_read_it(piker_dirs: Path) -> None:
    """A secret that could have leaked is not used."""
    load_secret()
    path = piker_dirs / "run" / "secret"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="could be read"):
        load_secret()


def test_listening_beyond_loopback_needs_a_flag(piker_dirs: Path) -> None:
    """An address that other machines reach is refused until the configuration allows it."""
    with pytest.raises(ConfigError, match="reachable from other machines"):
        service.registry_address("0.0.0.0:6116")
    (piker_dirs / "config" / "conf.toml").write_text("[network]\nallow_remote = true\n")
    assert service.registry_address("0.0.0.0:6116") == ("0.0.0.0", 6116)
