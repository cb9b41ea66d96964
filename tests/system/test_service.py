"""Services are started on demand, found by name, outlive their clients, and come back."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import sample_service as sample
import trio
from daemons import Pikerd

from piker import service
from piker.errors import Bug, ConfigError, DataUnavailable, PeerLost, ProviderError
from piker.service.auth import PeerSilent, load_secret, prove_client, prove_server
from piker.service.peer import open_peer
from piker.service.runtime import open_client_runtime

pytestmark = pytest.mark.slow
#: The watch of sample.a fails once, where a file says so.
FAULTY = """
import os, pathlib
from piker.service import supervise
faulty = pathlib.Path(os.environ["PIKER_DATA_DIR"]).parent / "faulty"
watch = supervise.Supervisor._watch
async def watch_or_fail(self, service, process):
    if service.name == "sample.a" and faulty.exists():
        faulty.unlink()
        raise RuntimeError("a fault of ours")
    await watch(self, service, process)
supervise.Supervisor._watch = watch_or_fail
"""


async def pid_of(name: str) -> int:
    """Return the pid of a service, started if need be."""
    async with service.open_service(name) as peer:
        return int(await peer.run(sample.whoami))


async def gone(pid: int) -> None:
    """Wait until a process is gone."""
    with trio.fail_after(10):
        await service.wait_exit(pid)


async def test_service_is_spawned_once_and_outlives_its_clients(pikerd: Pikerd) -> None:
    """Ten clients at once get one process; it is still there when they are gone."""
    await pikerd.ready()
    pids: list[int] = []

    async def ask() -> None:
        pids.append(await pid_of("sample.a"))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    assert len(set(pids)) == 1
    assert await pid_of("sample.a") == pids[0]
    (info,) = await service.list_services()
    assert (info.name, info.state, info.pid, info.restarts) == ("sample.a", "up", pids[0], 0)


async def test_calls_carry_arguments_answers_and_errors(pikerd: Pikerd) -> None:
    """Typed arguments, a typed answer, the same error type, and a bug that kills nothing."""
    await pikerd.ready()
    async with service.open_service("sample.a") as peer:
        assert await peer.run(sample.add, a=2, b=3) == 5
        with pytest.raises(ConfigError, match="Expected `int`"):
            await peer.run(sample.add, a="x", b=3)
        with pytest.raises(ConfigError, match="no argument 'c'"):
            await peer.run(sample.add, c=1)
        with pytest.raises(DataUnavailable, match=r"never had it\. Ask elsewhere\."):
            await peer.run(sample.refuse)
        with pytest.raises(Bug, match="a bug"):
            await peer.run(sample.break_down)
        assert await peer.run(sample.add, a=2, b=3) == 5


async def test_dialog_streams_both_ways_and_is_cancelled_with_its_caller(pikerd: Pikerd) -> None:
    """A first value, numbers, an echo; many dialogs after another leave the peer usable."""
    await pikerd.ready()
    async with service.open_service("sample.a") as peer:
        for _ in range(20):
            async with peer.open_dialog(sample.count, upto=5) as (first, stream):
                assert first == {"upto": 5}
                assert [await stream.receive() for _ in range(5)] == list(range(5))
                await stream.send("hello")
                assert await stream.receive() == "hello"
        assert await peer.run(sample.add, a=1, b=1) == 2


async def test_nothing_is_kept_of_a_call_when_it_is_answered(pikerd: Pikerd) -> None:
    """Thousands of calls and hundreds of dialogs: the process that served them is as it was."""
    await pikerd.ready()
    async with service.open_service("sample.a") as peer:

        async def serve(calls: int) -> int:
            for _ in range(calls):
                await peer.run(sample.add, a=1, b=1)
            for _ in range(calls // 20):
                async with peer.open_dialog(sample.count, upto=1):
                    pass
            return int(await peer.run(sample.contexts))

        assert await serve(100) <= 2
        assert await serve(1000) <= 2  # this very question, and a heartbeat's


async def test_unexposed_function_is_refused(pikerd: Pikerd) -> None:
    """Only marked functions of exposed modules can be called."""
    await pikerd.ready()
    async with service.open_service("sample.a") as peer:
        with pytest.raises(Bug, match="not an endpoint"):
            await peer.run(sample.hidden)
        assert await peer.run(sample.add, a=1, b=1) == 2


async def test_error_of_start_up_reaches_the_asker(pikerd: Pikerd) -> None:
    """A service that can not start gives its own error, at once, and is not tried again."""
    await pikerd.ready()
    with pytest.raises(ProviderError, match="Did you mean 'good'"):
        await pid_of("sample.bad")
    with pytest.raises(ConfigError, match="no service 'nonsense'"):
        await pid_of("nonsense")


@pytest.mark.parametrize("again_s", [0.2, 600.0])
async def test_service_that_ran_is_tried_again_when_it_can_not_start(
    piker_dirs: Path, again_s: float
) -> None:
    """By itself now and then, and at once for who asks, who is told why where it fails again."""
    pikerd = Pikerd(f"from piker.service import supervise; supervise.AGAIN_S = {again_s}")
    bad = piker_dirs / "data" / "bad"

    async def state() -> tuple[str, str]:
        (info,) = await service.list_services()
        return info.state, info.error

    try:
        await pikerd.ready()
        old = await pid_of("sample.a")
        bad.touch()
        os.kill(old, signal.SIGKILL)
        with trio.fail_after(60):
            while (found := await state())[0] != "failed":
                await trio.sleep(0.02)
            assert found[1].startswith("there is no provider 'bad'")
            if again_s > 60:
                with pytest.raises(ProviderError, match="Did you mean 'good'"):
                    await pid_of("sample.a")
                assert (await state())[0] == "failed"
            bad.unlink()
            if again_s > 60:
                await pid_of("sample.a")
            while (await state())[0] != "up":
                await trio.sleep(0.02)
    finally:
        await trio.to_thread.run_sync(pikerd.end)


async def _nothing(stream: trio.SocketStream, secret: bytes) -> None:
    """Say nothing."""


async def _half(stream: trio.SocketStream, secret: bytes) -> None:
    """Say half of a greeting."""
    await stream.receive_some(1)
    await stream.send_all(b"PIKER")


async def _proof(stream: trio.SocketStream, secret: bytes) -> None:
    """Prove ourselves to a client."""
    await prove_server(stream, secret)


@pytest.mark.parametrize("says", [_nothing, _half, _proof])
async def test_peer_is_lost_when_it_is_killed_while_it_is_greeted(
    piker_dirs: Path, says: Callable[[trio.SocketStream, bytes], Awaitable[None]]
) -> None:
    """Whatever has been said, and whether our next word or its answer finds that out."""
    secret = load_secret()

    async def serve(stream: trio.SocketStream) -> None:
        await says(stream, secret)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset it
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with open_client_runtime():
            for _ in range(50):
                with pytest.raises(PeerLost, match="sample"):
                    async with open_peer("sample", os.getpid(), ("127.0.0.1", port)):
                        raise AssertionError("it is gone")
        nursery.cancel_scope.cancel()


async def test_reset_is_silence_when_it_came_before_our_first_word() -> None:
    """The connection was accepted, and its owner killed."""
    async with trio.open_nursery() as nursery:

        async def serve(stream: trio.SocketStream) -> None:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()

        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        async with await trio.open_tcp_stream(*listener.socket.getsockname()[:2]) as stream:
            await trio.lowlevel.wait_readable(stream.socket)  # the reset is here
            with pytest.raises(PeerSilent):
                await prove_client(stream, bytes(32))
        nursery.cancel_scope.cancel()


async def test_fault_in_the_watch_of_a_service_costs_one_restart_and_not_pikerd(
    piker_dirs: Path,
) -> None:
    """The others do not notice."""
    pikerd = Pikerd(FAULTY)
    try:
        await pikerd.ready()
        other, old = await pid_of("sample.b"), await pid_of("sample.a")
        (piker_dirs / "faulty").touch()
        os.kill(old, signal.SIGKILL)
        with trio.fail_after(30):
            while await pid_of_or_none("sample.a") in (old, None):
                await trio.sleep(0.05)
            while (piker_dirs / "faulty").exists():  # that is where it failed
                await trio.sleep(0.05)
            found = {one.name: one for one in await service.list_services()}
            while found["sample.a"].restarts < 2 or found["sample.a"].state != "up":
                await trio.sleep(0.05)
                found = {one.name: one for one in await service.list_services()}
        assert (found["sample.b"].pid, found["sample.b"].restarts) == (other, 0)
    finally:
        assert await trio.to_thread.run_sync(pikerd.end) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_client_is_told_and_service_comes_back_when_it_dies(
    pikerd: Pikerd, number: int
) -> None:
    """A dead or frozen service raises PeerLost in its client, and is replaced."""
    await pikerd.ready()
    async with service.open_service("sample.a") as peer:
        async with peer.open_dialog(sample.count, upto=0) as (_, stream):
            os.kill(peer.pid, number)
            with trio.fail_after(5):
                with pytest.raises(PeerLost, match="died or stopped"):
                    await stream.receive()
        old = peer.pid
    with trio.fail_after(30):
        while await pid_of_or_none("sample.a") in (old, None):
            await trio.sleep(0.05)
    await gone(old)
    (info,) = await service.list_services()
    assert info.restarts >= 1


async def pid_of_or_none(name: str) -> int | None:
    """Return the service's pid, or None while it is not answering."""
    try:
        return await pid_of(name)
    except PeerLost:
        return None


async def test_nothing_survives_when_pikerd_is_killed(pikerd: Pikerd) -> None:
    """SIGKILL of pikerd ends every service; a new pikerd starts over."""
    await pikerd.ready()
    pid = await pid_of("sample.a")
    pikerd.process.kill()
    pikerd.process.wait()
    await gone(pid)
    assert service.read_pikerd() is None
    pikerd.start()
    await pikerd.ready()
    assert await pid_of("sample.a") != pid


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_pikerd_ends_in_order_when_signalled(
    pikerd: Pikerd, number: int, piker_dirs: Path
) -> None:
    """Ctrl-C, SIGTERM and a closed terminal end services and leave no file but lock and secret."""
    await pikerd.ready()
    pid = await pid_of("sample.a")
    assert await trio.to_thread.run_sync(pikerd.end, number) == 0
    await gone(pid)
    left = {path.name for path in (piker_dirs / "run").rglob("*") if path.is_file()}
    assert left <= {"pikerd.lock", "secret"}


async def test_pikerd_of_a_test_ends_when_that_is_killed(piker_dirs: Path) -> None:
    """Nothing is left of a soak that somebody ends."""
    program = (
        "import time, daemons; print(daemons.Pikerd().process.pid, flush=True); time.sleep(60)"
    )
    here = Path(__file__).parent
    soak = await trio.lowlevel.open_process(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=here
    )
    assert soak.stdout is not None
    with trio.fail_after(20):
        pid = int(await soak.stdout.receive_some())
        while (info := service.read_pikerd()) is None or info.pid != pid:
            await trio.sleep(0.01)
    soak.kill()
    await soak.wait()
    await gone(pid)
    await soak.stdout.aclose()


async def test_second_pikerd_is_refused_with_a_sentence(pikerd: Pikerd) -> None:
    """One pikerd a runtime directory; the second says where the first is and ends with code 2."""
    await pikerd.ready()
    second = Pikerd()
    assert await trio.to_thread.run_sync(second.process.wait) != 0
    await pid_of("sample.a")
