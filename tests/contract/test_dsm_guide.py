"""Every example of the guide to history runs as it is printed, against a loopback venue."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from dsm_loopback import serve

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "history.md"
EXAMPLE = re.compile(r"<!-- example: (\w+) -->\n```python\n(.*?)^```", re.M | re.S)
EXAMPLES = dict(EXAMPLE.findall(GUIDE.read_text(encoding="utf-8")))
SOON_S = 60
#: What each prints, as a pattern.
SAID = {
    "first": r"168 \d+\.\d+ \{'CACHE': 0, 'VISION': 168, 'REST': 0\}",
    "function": r"576 in \d\.\d\d s",
    "missing": r"2017-08-17T00:00:00Z 2017-08-17T04:00:00Z 4 (confirmed|not-listed)",
    "partial": r"none: .*offline",
    "funding": r"2024-05-07 16:00:00\+00:00 +-?\d\.\d+ +8h",
    "logging": r"",
    "manager": r"all 24 bars\. True",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SAID)
def test_example_of_the_guide_runs_when_it_is_copied(name: str, piker_dirs: Path) -> None:
    """To its good end, with the words that the guide leads one to expect."""
    script = piker_dirs / "example.py"
    script.write_text(EXAMPLES[name])
    with serve(symbols=6) as venue:
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, cwd=piker_dirs,
            timeout=SOON_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert venue.errors() == 0
    assert re.search(SAID[name], done.stdout), done.stdout
    if name == "logging":
        assert "Status: ready" in done.stderr
        assert "Status: ready" in (piker_dirs / "logs" / "dsm.log").read_text()


def test_no_example_is_left_out_when_the_guide_grows() -> None:
    """Each block of Python has a name, and each name a test."""
    assert set(EXAMPLES) == set(SAID)
    assert GUIDE.read_text(encoding="utf-8").count("```python") == len(EXAMPLES)
