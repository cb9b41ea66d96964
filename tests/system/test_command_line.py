"""What a newcomer meets: a mistake is a sentence with its remedy, and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from daemons import Pikerd

from piker import config, service
from piker.clearing._ems import journal_path
from piker.clearing.journal import open_journal
from piker.cli import doctor
from piker.cli.services import duration
from piker.data.shm import ShmArray, TickRing
from piker.errors import ProviderError

pytestmark = pytest.mark.slow
#: brokers.toml of a machine whose venues are down: port 9 discards, and nobody listens there.
VENUES_DOWN = "".join(
    f'[{name}.urls]\n{kind}_http = "http://127.0.0.1:9"\n{kind}_ws = "ws://127.0.0.1:9"\n'
    for name, kind in (("kraken", "spot"), ("binance", "spot"))
)


def piker(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a piker command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "piker.cli", *arguments],
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "COLUMNS": "200", **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("feed btcusdt --seconds 1", 2, r"'btcusdt' is not a market address"),
        ("feed btcusdt.spot.binanse", 4, r"there is no provider 'binanse'. Did you mean 'binance'"),
        ("monitor btcusdt.spot.binanse", 4, r"Did you mean 'binance'"),
        ("feed btcusdt.spot.binance --secnds 1", 2, r"--seconds"),
        ("feed", 2, r"Missing argument 'FQME'"),
        ("fed", 2, r"Did you mean 'feed'"),
        ("monitor btcusdt.spot.binance -l debgu", 2, r"there is no log level 'debgu'.*'debug'"),
        ("search btc -p krakn", 4, r"Did you mean 'kraken'"),
        ("venue krakn", 2, r"Did you mean 'kraken'"),
        ("check-provider krakn", 4, r"Did you mean 'kraken'"),
        ("check-provider no.such.module", 2, r"Say it with --symbol"),
        ("pikerd --registry nonsense", 2, r"Write host:port"),
        ("pikerd --registry 0.0.0.0:1", 2, r"allow_remote"),
    ],
)
def test_mistake_is_a_sentence_and_starts_nothing(
    piker_dirs: Path, line: str, code: int, said: str
) -> None:
    """No traceback, the documented exit code, the nearest valid word, and no daemon."""
    done = piker(*line.split())
    assert done.returncode == code, done.stderr
    assert re.search(said, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert service.read_pikerd() is None


def test_help_shows_every_command_whole_when_asked(piker_dirs: Path) -> None:
    """The list of commands is cut nowhere, in a terminal of 80 columns."""
    done = piker("--help", COLUMNS="80")
    for line in done.stdout.splitlines():
        assert line.startswith("Usage") or not line.endswith("..."), line


@pytest.mark.parametrize("line", ["feed btcusdt.spot.binance", "search btc", "services", "init"])
def test_bad_configuration_stops_every_command_that_reads_it(piker_dirs: Path, line: str) -> None:
    """File, line, key and nearest valid key; what does not need the file still works."""
    (piker_dirs / "config" / "conf.toml").write_text("[feed]\nrows_1z = 1\n")
    done = piker(*line.split())
    assert "Traceback" not in done.stderr
    if line.startswith(("feed", "search")):
        assert done.returncode == 2
        assert "conf.toml:2: unknown key 'feed.rows_1z'. Did you mean 'rows_1s'" in done.stderr
    else:
        assert done.returncode == 0
    assert service.read_pikerd() is None


def test_taken_port_is_named_at_once_when_a_feed_starts_pikerd(piker_dirs: Path) -> None:
    """The sentence of the pikerd that could not start reaches the one who asked for a feed."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = piker("feed", "btcusdt.spot.binance", PIKER_REGISTRY=address)
    assert done.returncode == 2
    assert f"pikerd did not start: {address} is taken" in done.stderr


def test_venue_down_is_a_sentence_when_asked_for_data(piker_dirs: Path) -> None:
    """feed and search end with the venue's exit code and say what to look at."""
    (piker_dirs / "config" / "brokers.toml").write_text(VENUES_DOWN)
    try:
        feed = piker("feed", "btcusdt.spot.binance", "--seconds", "1")
        search = piker("search", "btc", "--json", "-p", "kraken")
    finally:
        piker("services", "--stop")
    assert (feed.returncode, search.returncode) == (7, 7)
    assert "piker doctor" in feed.stderr
    assert "no provider could be asked" in search.stderr
    assert json.loads(search.stdout)["failed"].keys() == {"kraken"}
    assert service.read_pikerd() is None


def test_services_say_what_was_done_when_a_program_asks(piker_dirs: Path) -> None:
    """--stop --json is JSON, also where nothing runs."""
    assert json.loads(piker("services", "--stop", "--json").stdout) == {"stopped": False}
    assert json.loads(piker("services", "--json").stdout) == {"pikerd": None, "services": []}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59, "59 s"), (125, "2 min 5 s"), (7200, "2 h 0 min"), (262_801, "3 d 1 h")],
)
def test_uptime_has_two_units_when_shown(seconds: float, words: str) -> None:
    """Nobody divides by 86,400 to read a table."""
    assert duration(seconds) == words


# -- what can not start --------------------------------------------------------------------------
async def test_misspelt_service_leaves_nothing_in_the_list(pikerd: Pikerd) -> None:
    """Whoever asked for it got the error; there is nothing to show or to clear."""
    await pikerd.ready()
    for _ in range(3):
        with pytest.raises(ProviderError, match="binance"):
            async with service.open_service("datad.binanse"):
                pass
    assert await service.list_services() == []


async def test_service_that_can_not_start_again_is_shown_until_it_does(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """datad ran, died, and conf.toml is broken meanwhile: listed with the error, then mended."""
    await pikerd.ready()
    conf = piker_dirs / "config" / "conf.toml"
    async with service.open_service("datad.kraken"):
        (before,) = await service.list_services()
        conf.write_text("[fed]\n")
        os.kill(before.pid, signal.SIGKILL)
    failed = await state_of("failed")
    assert "conf.toml:1: unknown key 'fed'" in failed.error
    conf.unlink()
    shown = await trio.to_thread.run_sync(lambda: piker("services"))
    assert "datad.kraken does not start" in shown.stdout
    looked = await trio.to_thread.run_sync(lambda: piker("doctor", "--offline", "--json"))
    assert looked.returncode == 1
    assert {"datad.kraken"} == {
        one["what"] for one in json.loads(looked.stdout) if one["level"] == "fail"
    }
    async with service.open_service("datad.kraken"):
        (after,) = await service.list_services()
    assert (after.state, after.error) == ("up", "")


async def state_of(wanted: str) -> service.ServiceInfo:
    """Wait until the one service is in a state."""
    with trio.fail_after(20):
        while True:
            (info,) = await service.list_services()
            if info.state == wanted:
                return info
            await trio.sleep(0.02)


# -- doctor --------------------------------------------------------------------------------------
def levels(*arguments: str, **environment: str) -> tuple[int, dict[str, str]]:
    """Run doctor; return its exit code and the level of each line."""
    done = piker("doctor", "--offline", "--json", *arguments, **environment)
    assert "Traceback" not in done.stderr
    return done.returncode, {one["what"]: one["level"] for one in json.loads(done.stdout)}


def test_doctor_looks_at_everything_when_all_is_well(piker_dirs: Path) -> None:
    """Every line is there, none fails, and each that wants a look has its remedy."""
    found = doctor.examine(offline=True)
    names = ["python", "machine", "config", "data directory", "disk", "shared memory", "/dev/shm",
             "journal", "leftovers", "pikerd"]  # fmt: skip
    assert [one.what for one in found] == names
    assert all(one.level != "fail" for one in found)
    assert all(one.remedy for one in found if one.level != "ok")


async def test_doctor_fails_when_the_journal_is_damaged(piker_dirs: Path) -> None:
    """Trading does not start then: nobody is to be told that nothing has failed."""
    async with open_journal(journal_path()):
        pass
    rows = journal_path() / "rows.db"
    rows.write_bytes(b"x" * 100 + rows.read_bytes()[100:])
    code, found = await trio.to_thread.run_sync(levels)
    assert (code, found["journal"]) == (1, "fail")


@pytest.mark.parametrize(
    ("variable", "line"),
    [
        ("PIKER_CONFIG_DIR", "config"),
        ("PIKER_DATA_DIR", "data directory"),
        ("PIKER_RUNTIME_DIR", "shared memory"),
    ],
)
def test_doctor_prints_its_table_when_a_directory_can_not_be_used(
    piker_dirs: Path, variable: str, line: str
) -> None:
    """A file where a folder should be is one failed line with its remedy, and the rest is told."""
    (piker_dirs / "file").touch()
    code, found = levels(**{variable: str(piker_dirs / "file" / "sub")})
    assert code == 1
    assert [what for what, level in found.items() if level == "fail"] == [line]
    assert found["python"] == "ok"


def test_doctor_prints_its_table_when_the_configuration_is_broken(piker_dirs: Path) -> None:
    """The file's own error is the line."""
    (piker_dirs / "config" / "conf.toml").write_text("[feed\n")
    code, found = levels()
    assert (code, found["config"]) == (1, "fail")
    done = piker("doctor", "--offline")
    assert "not TOML" in done.stdout
    assert "-> Mend that line." in done.stdout


def test_doctor_prints_its_table_when_others_may_enter_the_runtime_directory(
    piker_dirs: Path,
) -> None:
    """The remedy is the command that mends it."""
    (piker_dirs / "run").chmod(0o755)
    done = piker("doctor", "--offline")
    assert done.returncode == 1
    assert f"-> Run: chmod 700 {piker_dirs / 'run'}" in done.stdout


def test_doctor_names_the_network_when_venues_are_down(piker_dirs: Path) -> None:
    """A venue that can not be reached is advice, with the key that moves it."""
    (piker_dirs / "config" / "brokers.toml").write_text(VENUES_DOWN)
    done = piker("doctor", "--json")
    found = {one["what"]: one for one in json.loads(done.stdout)}
    assert found["venue kraken"]["level"] == "warn"
    assert "[kraken.urls]" in found["venue kraken"]["remedy"]
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("ours_ns", "theirs_ns", "skew"),
    [
        (1_700_000_000_500_000_000, 1_700_000_000_250_000_000, (0.25, 0.0)),
        (1_700_000_000_700_000_000, 1_700_000_000_000_000_000, (0.2, 0.5)),
    ],
)
def test_doctor_is_as_sure_of_the_clock_as_the_venue_lets_it(
    ours_ns: int, theirs_ns: int, skew: tuple[float, float]
) -> None:
    """Of whole seconds it takes the middle and says so, so that a right clock never fails."""
    found, sure = doctor.skew_of(ours_ns, theirs_ns)
    assert (round(found, 6), sure) == skew


def test_doctor_knows_file_systems_when_it_looks_for_memory() -> None:
    """The kernel's own names, of the mount that holds the path."""
    assert doctor.file_system(Path("/dev/shm")) == "tmpfs"
    assert doctor.file_system(Path("/proc/self")) == "proc"


def test_doctor_asks_for_the_memory_that_segments_take_when_full(tmp_path: Path) -> None:
    """Its figure is the size of the real files, within a page or two each."""
    feed = config.FeedConf(rows_1s=2048, rows_1m=4096, ring_ticks=1024)
    made = [
        ShmArray.open_writer("v", "m", period_s=1, rows=2048, path=tmp_path / "a")[0],
        ShmArray.open_writer("v", "m", period_s=60, rows=4096, path=tmp_path / "b")[0],
        TickRing.open_writer("v", "m", rows=1024, path=tmp_path / "c")[0],
    ]
    size = sum((tmp_path / name).stat().st_size for name in "abc")
    for segment in made:
        segment.close(unlink=True)
    assert abs(size - doctor.memory_per_market(feed)) < 3 * 3 * 4096
