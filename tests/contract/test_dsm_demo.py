"""The console programs of seed 001: their flags, what they show, and how they end."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from dsm_loopback import Loopback, serve

FLAGS = ["--provider", "-p", "--market", "-m", "--chart-type", "-ct", "--symbol", "-s",
         "--interval", "-i", "--start-time", "-st", "--end-time", "-et", "--days", "-d",
         "--enforce-source", "-es", "--retries", "-r", "--no-cache", "-nc", "--clear-cache", "-cc",
         "--show-cache-info", "-sci", "--gen-doc", "-gd", "--gen-lint-config", "-glc",
         "--log-level", "-l", "-h", "--help"]  # fmt: skip
RANGE = ["-st", "2024-05-01", "-et", "2024-05-03", "-i", "1h"]
SOON_S = 60

pytestmark = pytest.mark.slow


@pytest.fixture
def venue(piker_dirs: Path) -> Iterator[Loopback]:
    """Serve a venue."""
    with serve() as found:
        yield found
        assert found.errors() == 0


def run(*args: str, program: str = "dsm_demo_cli", code: int = 0) -> tuple[str, str]:
    """Run a demo; return what it wrote."""
    done = subprocess.run(
        [sys.executable, "-m", f"piker.cli.{program}", *args], capture_output=True, text=True,
        timeout=SOON_S, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def test_flags_are_those_of_the_seed_when_help_is_asked_for() -> None:
    """All of them, in both forms."""
    out, _ = run("--help")
    words = set(re.findall(r"--?[a-z-]+", out))
    assert set(FLAGS) <= words


def test_sources_are_shown_when_bars_come_from_several(venue: Loopback, piker_dirs: Path) -> None:
    """First from the archive, then from the store; the file has what was shown."""
    out, err = run(*RANGE)
    assert err == ""
    assert re.search(r"VISION\s+48\s+100\.0%", out)
    assert out.count("2024-05-0") >= 10
    path = Path(re.search(r"CSV: (\S+)", out)[1])  # type: ignore[index]
    frame = pd.read_csv(path)
    assert len(frame) == 48
    assert path.is_relative_to(piker_dirs)
    out, _ = run(*RANGE, "-sci")
    assert re.search(r"48 in [12] files?\b", out)  # as they came: together, or not
    assert re.search(r"CACHE\s+48\s+100\.0%", out)
    out, _ = run(*RANGE, "-cc", "-es", "REST")
    assert "Forgotten: 48 bars" in out
    assert re.search(r"REST\s+48\s+100\.0%", out)
    _, err = run(*RANGE, "-es", "CACHE", code=7)
    assert "48 of 48 bars are missing" in err


def test_missing_bars_are_explained_when_some_are_not_there(venue: Loopback) -> None:
    """What was obtained is shown, with the reason, before the error."""
    run("-st", "2024-05-01", "-et", "2024-05-02", "-i", "1h")
    venue.fault("missing-day")
    venue.fault("status", status=503, match="/klines")
    out, err = run(*RANGE, "-r", "0", code=7)
    assert re.search(r"CACHE\s+24\s+50\.0%", out)
    assert re.search(r"missing\s+24\s+50\.0%", out)
    assert "a source could not be read" in out
    assert "error: btcusdt.spot.binance/1h: 24 of 48 bars are missing" in err


def test_fundings_are_shown_when_asked_for(venue: Loopback) -> None:
    """With their interval; forgotten ones are counted."""
    args = ("-m", "um", "-ct", "fundingRate", "-st", "2024-05-01", "-et", "2024-05-03")
    out, _ = run(*args)
    assert out.count("8h") == 6
    out, _ = run(*args, "-cc")
    assert "Forgotten: 9 fundings" in out  # the day before was looked at for the first interval


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["-i", "7m"], 2, "Did you mean '5m'"),
        (["-p", "okx"], 2, "OKX is not served"),
        (["-p", "nasdaq"], 2, "Valid: binance, okx"),
        (["-m", "options"], 2, "Valid: cm, spot, um"),
        (["-m", "cm"], 3, "Try using 'BTCUSD_PERP'"),
        (["-s", "../../x"], 3, "can not be a symbol"),
        (["-es", "ORACLE"], 2, "is no source"),
        (["-ct", "ticks"], 2, "is no chart type"),
        (["-ct", "fundingRate"], 2, "SPOT has no FUNDING_RATE"),
        (["-l", "LOUD"], 2, "is not a log level"),
        (["-st", "2024-05-02", "-et", "2024-05-01"], 2, "must be before"),
        (["-st", "tomorrow"], 2, "is not a time"),
        (["-d", "0"], 2, "above zero"),
        (["--wat"], 2, "No such option"),
    ],
)
def test_program_says_what_is_wrong_when_an_option_is(
    piker_dirs: Path, args: list[str], code: int, says: str
) -> None:
    """A sentence and the house's code; nothing is asked of anybody."""
    _, err = run(*args, code=code)
    assert says in err


def test_page_is_written_when_documentation_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of the options, and rules that it keeps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    run("--gen-doc", "--gen-lint-config")
    text = (tmp_path / "dsm-demo-cli.md").read_text()
    assert all(f"`{flag}" in text or f" {flag}`" in text for flag in FLAGS[:-2])
    assert (tmp_path / ".markdownlint.json").exists()


def test_progress_is_shown_when_it_is_a_terminal(venue: Loopback) -> None:
    """On stderr, with bars and the time that is left; colours too."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "piker.cli.dsm_demo_cli", "-st", "2024-01-01", "-et", "2024-05-20",
         "-i", "1m"], stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    pieces: list[bytes] = []
    reader = threading.Thread(target=drain, args=(ours, pieces))
    reader.start()
    try:
        process.communicate(timeout=SOON_S)
    finally:
        process.kill()
        reader.join()
        os.close(ours)
    seen = b"".join(pieces).decode()
    assert process.returncode == 0
    assert "bars" in seen
    assert re.search(r"201,?600", seen)  # of all


def drain(terminal: int, into: list[bytes]) -> None:
    """Read a terminal until nobody writes to it: a full one stops its writer."""
    try:
        while piece := os.read(terminal, 65_536):
            into.append(piece)
    except OSError:  # how Linux says it
        return


def test_two_runs_are_made_by_the_module_demo_when_it_is_started(venue: Loopback) -> None:
    """Ten days of minutes and five of five minutes, backwards from a given end."""
    out, err = run(program="dsm_demo_module")
    assert err == ""
    assert re.search(r"VISION\s+14,400\s+100\.0%", out)
    assert re.search(r"VISION\s+1,440\s+100\.0%", out)
    assert "2025-04-14 15:58:00" in out
    assert "2025-04-14 15:50:00" in out
    _, err = run("--log-level", "I", program="dsm_demo_module")
    assert "CACHE 14400" in err
