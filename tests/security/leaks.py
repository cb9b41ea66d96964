"""Where a secret could be found after our processes have died: what the tests of leaks share."""

from __future__ import annotations

import base64
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import trio

from piker import service
from piker.brokers.credentials import Credentials, ErasableSecret

__all__ = [
    "files_under", "forms", "hunt", "pikerd_of", "plant", "proc_of", "ready", "with_cores",
]  # fmt: skip

HERE = Path(__file__).parent
PIKERD = """
from piker.cli import daemon
daemon.SERVICES = {**daemon.SERVICES, %s}
from piker.cli.__main__ import pikerd_main
pikerd_main(["--registry", "127.0.0.1:0", "--log-level", "TRACE"])
"""


# -- planting and searching ----------------------------------------------------------------------
def plant(rng: random.Random, count: int) -> list[Credentials]:
    """Return so many keys of the form that Kraken's have."""
    return [
        Credentials(
            venue="kraken",
            account=f"a{number}",
            key=ErasableSecret(base64.b64encode(rng.randbytes(42)).decode()),
            secret=ErasableSecret(base64.b64encode(rng.randbytes(64)).decode()),
        )
        for number in range(count)
    ]


def forms(secret: str) -> set[bytes]:
    """Return the ways in which a careless program would show a secret."""
    raw = secret.encode()
    found = {
        raw,
        raw.hex().encode(),
        base64.b64encode(raw).rstrip(b"="),
        quote(secret, "").encode(),
    }
    try:
        decoded = base64.b64decode(secret, validate=True)
    except ValueError:
        return found
    return found | {decoded, decoded.hex().encode()}


def hunt(texts: Iterable[tuple[str, bytes]], secrets: list[str]) -> list[str]:
    """Return where a secret is found, as ``place: which``."""
    wanted = [(at, form) for at, secret in enumerate(secrets) for form in forms(secret)]
    return [f"{place}: secret {at}" for place, text in texts for at, form in wanted if form in text]


def files_under(folder: Path, *, but: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield every file that is left under a folder: logs, cores, segments, databases.

    Of segments the pages that nobody wrote are left out: zeros hold no secret.
    """
    left_out = set(but)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path not in left_out:
            yield str(path.relative_to(folder)), path.read_bytes().replace(bytes(4096), b"")


def proc_of(pids: Iterable[int]) -> Iterator[tuple[str, bytes]]:
    """Yield what ``/proc`` shows of processes, as far as we may read it."""
    for pid in pids:
        for name in ("cmdline", "environ", "status", "comm"):
            try:
                yield f"/proc/{pid}/{name}", Path(f"/proc/{pid}/{name}").read_bytes()
            except OSError:  # gone, or guarded: root alone may
                continue


# -- processes ---------------------------------------------------------------------------------
def with_cores() -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


@contextmanager
def pikerd_of(
    folder: Path, environment: dict[str, str], services: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a pikerd whose output, and cores if there are any, lie in ``folder``.

    ``services`` are its own, as the words of a dict.
    """
    place = folder / "left"
    place.mkdir()
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    with (place / "pikerd.out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", PIKERD % services], cwd=place,
            stdout=out, stderr=out, preexec_fn=with_cores,
            env={**os.environ, **environment, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"},
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(30)


async def ready(process: subprocess.Popen[bytes]) -> None:
    """Wait until a pikerd serves."""
    with trio.fail_after(30):
        while (info := service.read_pikerd()) is None or info.pid != process.pid:
            assert process.poll() is None, "pikerd ended by itself"
            await trio.sleep(0.02)
