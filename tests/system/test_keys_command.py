"""``piker keys`` as a person and as a script use it: what is typed is never shown."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import pty
import select
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from piker.brokers.credentials import load_credentials

pytestmark = pytest.mark.slow
KRAKEN = base64.b64encode(bytes(range(64))).decode()
WORDS = "a typed passphrase"


def keys(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command with something on its stdin."""
    return subprocess.run(
        [sys.executable, "-m", "piker.cli", "keys", *words], input=stdin, capture_output=True,
        text=True, timeout=60, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def as_toml(key: str, secret: str) -> str:
    """Return what a script writes to stdin."""
    return f'key = "{key}"\nsecret = """{secret}"""\n'


class Terminal:
    """A command on a terminal of its own, and somebody who types."""

    def __init__(self, *words: str) -> None:
        self.shown = ""
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "piker.cli", "keys", *words],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)

    def answer(self, prompt: str, line: str) -> None:
        """Wait for a prompt, then type a line."""
        before = len(self.shown)
        while prompt not in self.shown[before:]:
            self._read()
        os.write(self._master, line.encode() + b"\n")

    def _read(self) -> None:
        assert select.select([self._master], [], [], 30)[0], self.shown
        part = os.read(self._master, 4096)
        assert part
        self.shown += part.decode()

    def end(self) -> int:
        """Return the exit code."""
        try:
            while True:
                self._read()
        except OSError:  # EIO: nobody has the other end any more
            os.close(self._master)
        return self._process.wait(30)


def test_a_key_is_kept_and_dropped_when_a_script_says_so(piker_dirs: Path) -> None:
    """By stdin; twice is refused without --replace; the file is private; nothing shows the key."""
    done = keys("add", "kraken", "--store", "plain", stdin=as_toml("k-one", KRAKEN))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("kept the key of kraken/main (HMAC-SHA512) in plain")
    path = piker_dirs / "config" / "keys.toml"
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_credentials("kraken").secret.reveal() == KRAKEN
    again = keys("add", "kraken", "--store", "plain", stdin=as_toml("k-two", KRAKEN))
    assert (again.returncode, "--replace" in again.stderr) == (2, True)
    listed = keys("list", "--json")
    assert json.loads(listed.stdout) == [
        {"venue": "kraken", "account": "main", "store": "plain", "used": True}
    ]
    checked = keys("check")
    assert checked.returncode == 0
    gone = keys("remove", "kraken")
    assert gone.stdout == "removed the key of kraken/main from plain.\n"
    assert not path.exists()
    for one in (done, again, listed, checked, gone):
        assert KRAKEN not in one.stdout + one.stderr
        assert "k-one" not in one.stdout + one.stderr


def test_a_key_of_the_environment_is_used_but_not_removed(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is listed after the stores; removing says who can."""
    assert keys("add", "kraken", "--store", "plain", stdin=as_toml("k", KRAKEN)).returncode == 0
    monkeypatch.setenv("PIKER_API_KEY__KRAKEN__MAIN", "k")
    monkeypatch.setenv("PIKER_API_SECRET__KRAKEN__MAIN", KRAKEN)
    listed = json.loads(keys("list", "--json").stdout)
    assert [(one["store"], one["used"]) for one in listed] == [
        ("plain", True),
        ("environment", False),
    ]
    done = keys("remove", "kraken")
    assert "removed the key of kraken/main from plain." in done.stdout
    assert "whoever starts piker" in done.stdout
    assert KRAKEN not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("line", "stdin", "code", "said"),
    [
        ("add krakn", as_toml("k", KRAKEN), 4, "Did you mean 'kraken'"),
        ("add kraken Main", as_toml("k", KRAKEN), 2, "Small letters"),
        ("add kraken paper", as_toml("k", KRAKEN), 2, "no key"),
        ("add kraken --store plane", as_toml("k", KRAKEN), 2, "Did you mean 'plain'"),
        ("add kraken --store keyring", as_toml("k", KRAKEN), 2, "--store sealed"),
        ("add kraken --store plain", as_toml("k", "s-planted"), 2, "not base64 of 64 bytes"),
        ("add kraken --store plain", as_toml("k planted", KRAKEN), 2, "has spaces"),
        ("add kraken --store plain", "planted", 2, "not a key as TOML"),
        ("add kraken --store plain", "", 2, "not a key as TOML"),
        ("add kraken --store plain", "x" * 70_000, 2, "too much"),
        ("add kraken", as_toml("k", KRAKEN), 2, "PIKER_PASSPHRASE_FILE"),
        ("remove kraken", "", 2, "there is no key of kraken/main"),
        ("add kraken k-planted s-planted", "", 2, "unexpected extra argument"),
    ],
)
def test_a_mistake_is_a_sentence_and_keeps_nothing(
    piker_dirs: Path, line: str, stdin: str, code: int, said: str
) -> None:
    """With the documented exit code, and nothing of what was on stdin."""
    done = keys(*line.split(), stdin=stdin)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "planted" not in done.stdout + (done.stderr if "planted" not in line else "")
    assert list((piker_dirs / "config").glob("keys.[st]*")) == []


def test_nothing_that_is_typed_is_shown_when_a_person_adds_a_key(piker_dirs: Path) -> None:
    """Key, secret and the passphrase twice; then the passphrase alone opens it."""
    screen = Terminal("add", "kraken", "--store", "sealed")
    screen.answer("API key", "k-typed")
    screen.answer("Secret", KRAKEN)
    screen.answer("Passphrase", WORDS)
    screen.answer("again", WORDS)
    assert screen.end() == 0, screen.shown
    for word in ("k-typed", KRAKEN, WORDS):
        assert word not in screen.shown
    checked = Terminal("check")
    checked.answer("Passphrase", WORDS)
    assert checked.end() == 0, checked.shown
    assert WORDS not in checked.shown
    wrong = Terminal("check")
    wrong.answer("Passphrase", "another passphrase")
    assert wrong.end() == 1
    assert "does not open" in wrong.shown


def test_a_private_key_is_taken_line_by_line_when_it_is_pasted(piker_dirs: Path) -> None:
    """An Ed25519 key in PEM, up to its last line."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    first, body, last = pem.decode().splitlines()
    screen = Terminal("add", "binance", "hedge", "--store", "plain")
    screen.answer("API key", "k")
    screen.answer("PEM", first)
    screen.answer("more: ", body)
    screen.answer("more: ", last)
    assert screen.end() == 0, screen.shown
    assert "(Ed25519)" in screen.shown
    assert body not in screen.shown
    assert load_credentials("binance", "hedge").secret.reveal() == pem.decode().strip()
