"""Every example of seed 001 runs with only its import line changed, against a loopback venue.

The code blocks are taken out of the seed's text. They are run in one program, in the order of the
text, since the later ones use the names of the earlier ones, as their reader would.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from dsm_loopback import serve

FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IMPORT = re.compile(r"^from data_source_manager[\w.]* import ", re.MULTILINE)
EXAMPLES = 8  # code blocks of Python in the text
PERSON_S = 120  # what a run may take at most: it downloads two weeks of minutes


def programs(shared: Path) -> list[str]:
    """Return the seed's examples, their imports changed and nothing else."""
    (path,) = (shared / "seeds").glob("001*")
    text = path.read_text(encoding="utf-8")
    return [IMPORT.sub("from piker.dsm import ", block) for block in FENCE.findall(text)]


@pytest.mark.slow
def test_examples_of_the_seed_run_when_their_import_is_changed(
    shared: Path, piker_dirs: Path
) -> None:
    """They end well, print what they say they print, and leave a sound store."""
    blocks = programs(shared)
    assert len(blocks) == EXAMPLES
    assert not any("data_source_manager" in block for block in blocks)
    script = piker_dirs / "seed.py"
    script.write_text("\n".join(blocks))
    with serve(symbols=6) as venue:
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, cwd=piker_dirs,
            timeout=PERSON_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert venue.errors() == 0
    words = done.stdout
    assert "Loaded 168 bars of BTCUSDT data" in words
    assert "Fetched 12960 records" in words
    assert "Fetched 10080 records" in words
    assert "Date range: 2025-05-08 13:45:30.000 to 2025-05-15 13:45:30.000" in words
    assert words.count("_data_source") == 3
    assert "SUCCESS" in done.stderr  # the level was set to DEBUG by then
    assert "SUCCESS" in (piker_dirs / "logs" / "dsm.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("at", range(EXAMPLES))
def test_each_example_runs_when_it_is_alone(shared: Path, piker_dirs: Path, at: int) -> None:
    """Those that lean on an earlier example get the two times that it defines, and no more."""
    times = (
        "from datetime import datetime, timedelta, timezone\n"
        "end_time = datetime.now(timezone.utc)\n"
        "start_time = end_time - timedelta(days=1)\n"
        "from piker.dsm import DataSourceManager, DataProvider, MarketType, Interval\n"
    )
    block = programs(shared)[at]
    script = piker_dirs / "seed.py"
    script.write_text(times + block)
    with serve(symbols=6):
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, cwd=piker_dirs,
            timeout=PERSON_S,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
