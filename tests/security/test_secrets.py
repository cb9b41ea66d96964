"""Planted keys are nowhere but where they were put, whatever our processes do and die of.

Some are in the sealed file, some in the plain one, some in the environment of pikerd. A real pikerd
starts a ``brokerd.kraken`` that holds them all and logs, raises, signs, forks and crashes; commands
and a feed run beside it. Then everything that is left is searched, and what ``/proc`` showed of
every process on the way: for each secret as it is, in hex, base64, percent-encoded, and as the
bytes it encodes.
"""

from __future__ import annotations

import base64
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import keyholder
import msgspec
import pytest
import trio
from leaks import files_under, hunt, pikerd_of, plant, proc_of, ready, with_cores

from piker import service
from piker.brokers import _sealed
from piker.brokers.keystores import PlainStore, SealedStore
from piker.errors import PeerLost
from piker.service.liveness import wait_exit

pytestmark = pytest.mark.slow
HOLDER = """
import os, sys
held = sys.stdin.read()
from piker import handover
if sys.argv[1] == "guarded":
    handover.protect_process()
os.abort()
"""
FLAG = """
import ctypes, sys
from piker import handover
if sys.argv[1] == "guarded":
    handover.protect_process()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE, prctl(2)
"""
HOLDERS = '"brokerd.*": "keyholder:main",'
WORDS = "planted passphrase "
MISUSES = ("log", "sign", "typed", "bug")


# -- the processes -------------------------------------------------------------------------------
@contextmanager
def venue_of(folder: Path) -> Iterator[None]:
    """Run a loopback venue, and point the configuration in ``folder`` at it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "piker.cli", "venue", "binance", "--synthetic"],
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        said = msgspec.json.decode(process.stdout.readline())
        urls = f'spot_http = "{said["http"]}"\nspot_ws = "{said["ws"]}"\n'
        (folder / "config" / "brokers.toml").write_text(f"[binance.urls]\n{urls}")
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


def command(folder: Path, *words: str, stdin: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run a piker command with verbose logs to its end."""
    return subprocess.run(
        [sys.executable, "-m", "piker.cli", *words], input=stdin.encode(), capture_output=True,
        timeout=120, cwd=folder, env={**os.environ, "PIKER_LOG": "TRACE"},
    )  # fmt: skip


async def crash_feed(folder: Path, said: list[tuple[str, bytes]]) -> None:
    """Follow a market beside the keys, then abort the data daemon with its segments open."""
    line = ("feed", "btcusdt.spot.binance", "--seconds", "2", "--json")
    done = await trio.to_thread.run_sync(lambda: command(folder, *line))
    assert done.returncode == 0, done.stderr
    said.append(("feed", done.stdout + done.stderr))
    (datad,) = [one for one in await service.list_services() if one.name == "datad.binance"]
    said.extend(proc_of([datad.pid]))
    assert list((folder.parent / "run").rglob("shm/*")), "there were no segments to look at"
    os.kill(datad.pid, signal.SIGABRT)
    with trio.fail_after(30):
        await wait_exit(datad.pid)


async def misuse_all(said: list[tuple[str, bytes]], pids: set[int], wanted: str) -> None:
    """Let the keyholder do all it can; collect what it tells us and who it starts."""
    async with service.open_service("brokerd.kraken") as peer:
        pids.add(peer.pid)
        assert await peer.run(keyholder.held) == wanted, "it did not hold every key"
        for how in MISUSES:
            try:
                await peer.run(keyholder.misuse, how=how)
            except Exception as err:  # typed or not: its words travelled
                said.append((f"the answer to {how}", f"{err} {err!r} {err.__cause__}".encode()))
        child = await peer.run(keyholder.misuse, how="child", type=int)
        pids.add(child)
        said.extend(proc_of(pids))
        os.kill(child, signal.SIGKILL)


@asynccontextmanager
async def keyholder_after(lost: int) -> AsyncIterator[service.Peer]:
    """Connect to the keyholder that follows the one of pid ``lost``, once pikerd has it up."""
    with trio.fail_after(60):
        while True:
            try:
                async with service.open_service("brokerd.kraken") as peer:
                    if peer.pid != lost:
                        yield peer
                        return
            except PeerLost:
                pass
            await trio.sleep(0.02)


async def crash(how: str, lost: int) -> int:
    """Crash the keyholder that follows the one of pid ``lost``; return the pid that is gone."""
    async with keyholder_after(lost) as peer:
        with suppress(PeerLost):
            await peer.run(keyholder.misuse, how=how)
        with trio.fail_after(30):
            await wait_exit(peer.pid)
    return peer.pid


# -- the count -----------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.full)])
async def test_planted_secrets_are_found_nowhere_when_every_process_has_crashed(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """0 of ``count``, over logs, cores, segments, answers, /proc; all were held and used."""
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    keys = plant(rng, count)
    few, half = count // 6, count // 2  # each key of the sealed file costs a scrypt
    sealed, plain, environ = keys[:few], keys[few:half], keys[half:]
    words = WORDS + rng.randbytes(8).hex()
    passphrase_file = piker_dirs / "passphrase"
    _sealed.write_private(passphrase_file, words.encode())
    monkeypatch.setenv("PIKER_PASSPHRASE_FILE", str(passphrase_file))
    folder = piker_dirs / "config"
    SealedStore(folder, cost=_sealed.MIN_COST).put(*sealed)
    PlainStore(folder).put(*plain)
    variables = {
        f"PIKER_API_{role}__KRAKEN__{one.account.upper()}": value.reveal()
        for one in environ
        for role, value in (("KEY", one.key), ("SECRET", one.secret))
    }
    secrets = [text.reveal() for one in keys for text in (one.key, one.secret)] + [words]
    wanted = keyholder.digest([one.secret.reveal() for one in keys])
    said: list[tuple[str, bytes]] = []
    pids: set[int] = set()

    with (
        venue_of(piker_dirs),
        pikerd_of(piker_dirs, variables, '"brokerd.*": "keyholder:main",') as process,
    ):
        await ready(process)
        pids.add(process.pid)
        await misuse_all(said, pids, wanted)
        lost = 0
        for how in ("crash", "abort"):
            lost = await crash(how, lost)
        async with keyholder_after(lost) as peer:
            assert await peer.run(keyholder.held) == wanted, "a restart lost some"
            pids.add(peer.pid)
        said.extend(proc_of(pids))
        await crash_feed(piker_dirs / "left", said)
        new = plant(rng, 1)[0]
        text = f'key = "{new.key.reveal()}"\nsecret = "{new.secret.reveal()}"\n'
        for line, stdin in (
            (("keys", "add", "kraken", "new", "--store", "plain"), text),
            (("keys", "add", "kraken", "new", "--store", "plain"), text),  # there is one: refused
            (("keys", "add", "binance", "bad"), text.replace("secret", "secrets")),
            (("keys", "check", "--json"), ""),
        ):
            done = await trio.to_thread.run_sync(
                lambda line=line, stdin=stdin: command(piker_dirs / "left", *line, stdin=stdin)
            )
            said.append((" ".join(line), done.stdout + done.stderr))
        secrets += [new.key.reveal(), new.secret.reveal()]
        process.send_signal(signal.SIGABRT)
        process.wait(30)

    texts = [
        *said,
        *files_under(piker_dirs, but=[folder / "keys.toml", passphrase_file]),
    ]
    found = hunt(texts, secrets)
    size = sum(len(text) for _, text in texts)
    print(f"seed {seed}: {len(secrets)} secrets, {len(texts)} places, {size:,} bytes: {len(found)}")
    assert found == []
    lines = next(text for place, text in texts if place == "left/pikerd.out")
    assert lines.count(b"secret=***") >= count
    assert b"Fatal Python error: Aborted" in lines
    assert b"the service crashes with its keys in hand" in lines


# -- the searcher is searched for mistakes -------------------------------------------------------
@pytest.mark.parametrize(
    "show", [str, lambda s: s.encode().hex(), lambda s: base64.b64encode(s.encode()).decode(),
             lambda s: f"?secret={quote(s, '')}&x", lambda s: msgspec.json.encode([s]).decode(),
             lambda s: base64.b64decode(s).hex()],
)  # fmt: skip
def test_the_hunt_finds_a_secret_when_there_is_one(tmp_path: Path, show) -> None:  # type: ignore[no-untyped-def]
    """In every form; in a file deep in a folder; and only that one."""
    keys = plant(random.Random(1), 3)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "log").write_text(f"x {show(keys[1].secret.reveal())} y")
    found = hunt(files_under(tmp_path, but=[]), [one.secret.reveal() for one in keys])
    assert set(found) == {"a/b/log: secret 1"}


@pytest.mark.parametrize(("guarded", "flag"), [(True, b"0"), (False, b"1")])
def test_kernel_is_told_to_write_no_core_when_a_process_is_guarded(
    guarded: bool, flag: bytes
) -> None:
    """Wherever this machine's cores go, to a file or to a program: there is none of it."""
    done = subprocess.run(
        [sys.executable, "-c", FLAG, "guarded" if guarded else "bare"], capture_output=True,
        timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == flag, done.stderr


@pytest.mark.parametrize("guarded", [True, False])
def test_a_core_holds_the_secret_unless_the_process_was_guarded(
    tmp_path: Path, guarded: bool
) -> None:
    """An unguarded process that aborts leaves its memory behind: that is what we prevent."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if not pattern.startswith("core"):
        pytest.skip(
            f"this kernel gives cores to {pattern!r}: there is no file to search. That a guarded "
            "process has none is held by its flag; to see it: sysctl kernel.core_pattern=core"
        )
    secret = plant(random.Random(2), 1)[0].secret.reveal()
    subprocess.run(
        [sys.executable, "-c", HOLDER, "guarded" if guarded else "bare"], input=secret.encode(),
        cwd=tmp_path, preexec_fn=with_cores, timeout=60,
    )  # fmt: skip
    left = list(files_under(tmp_path, but=[]))
    if not guarded and not left:
        pytest.skip(
            "this machine's hard limit of core sizes is 0 and only root could raise it, so no "
            "process leaves a core: there is nothing to compare a guarded one with"
        )
    assert bool(hunt(left, [secret])) is not guarded
