"""Keys are found in order, sealed for real, refused when others can read them, and never shown."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked

from piker import handover, log
from piker.brokers import _sealed
from piker.brokers._keyring import usable_keyring
from piker.brokers.credentials import (
    Credentials,
    ErasableSecret,
    check_shape,
    fetch_credentials,
    load_credentials,
)
from piker.brokers.keystores import (
    EnvironmentStore,
    KeyringStore,
    PlainStore,
    SealedStore,
    Store,
    find_passphrase,
    open_stores,
    parse_fields,
)
from piker.errors import Bug, ConfigError, PikerError
from piker.log import Secret

WORDS = "correct horse battery"
CHEAP = _sealed.MIN_COST  # of scrypt: a fiftieth of a second
SECRET = "pl4nted-s3cret"


def key(venue: str = "kucoin", account: str = "main", secret: str = SECRET) -> Credentials:
    """Return credentials, as a person gives them."""
    return Credentials(
        venue=venue,
        account=account,
        key=ErasableSecret("a-k3y"),
        secret=ErasableSecret(secret),
        passphrase=ErasableSecret("a-p4ss"),
    )


class DesktopKeyring(KeyringBackend):
    """A keyring of this process: what a desktop's does, in a dictionary."""

    priority = 0.1  # type: ignore[assignment]  # below all real ones: it registers by being defined

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}
        self.locked = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise KeyringLocked(f"no {SECRET}")
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


STORES: dict[str, Callable[[Path], Store]] = {
    "keyring": lambda folder: KeyringStore(DesktopKeyring(), "test", folder=folder),
    "sealed": lambda folder: SealedStore(folder, ask=lambda _: WORDS, cost=CHEAP),
    "plain": PlainStore,
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return each store that can be written to, empty."""
    return STORES[request.param](tmp_path)


# -- nothing is shown ----------------------------------------------------------------------------
def test_nothing_of_a_key_is_shown_when_it_is_printed_logged_or_encoded() -> None:
    """repr, str, format, %-formatting, rich, loguru's lines, containers, exceptions' texts."""
    from rich.console import Console
    from rich.pretty import pretty_repr

    one = key()
    screen, lines = io.StringIO(), io.StringIO()
    Console(file=screen).print(one, {"x": [one]})
    log.configure("TRACE", stream=lines)
    try:
        log.get_logger("x").error("e", whole=one, part=one.secret, deep={"a": (one, one.key)})
    finally:
        log.configure("WARNING")
    shown = [
        repr(one), str(one), f"{one} {one!r:>50} {one.secret:x}",
        pretty_repr([one]), screen.getvalue(), lines.getvalue(), str(ConfigError(f"{one}")),
        repr(vars(type(one))), repr(dict(msgspec.structs.asdict(one))),
        logging.LogRecord("n", 10, "p", 1, "%s", (one,), None).getMessage(),
    ]  # fmt: skip
    for word in (SECRET, "a-k3y", "a-p4ss"):
        assert [text for text in shown if word in text] == []
    assert "kucoin/main" in repr(one)


@pytest.mark.parametrize(
    "serialise",
    [
        pickle.dumps,
        copy.deepcopy,
        json.dumps,
        msgspec.json.encode,
        msgspec.msgpack.encode,
        msgspec.toml.encode,
        msgspec.to_builtins,
    ],
)
def test_no_encoder_takes_a_key_when_it_is_serialised(serialise: Callable[[Any], Any]) -> None:
    """Whole, in a list, or only its secret; the refusal shows nothing either."""
    for thing in (key(), [key()], key().secret):
        with pytest.raises((TypeError, ImportError, NotImplementedError)) as caught:
            serialise(thing)
        assert SECRET not in str(caught.value)


def test_a_traceback_shows_nothing_of_a_key_when_its_locals_are_captured() -> None:
    """As crash reporters do it."""
    one = key()
    try:
        assert one.venue == "kraken", one
    except AssertionError as err:
        told = traceback.TracebackException.from_exception(err, capture_locals=True)
        text = "".join(told.format())
    assert "one = <Credentials" in text
    assert SECRET not in text


def test_a_key_can_not_be_used_when_it_was_forgotten() -> None:
    """Its bytes are zeros; whoever still uses it learns that it is our mistake."""
    with key() as one:
        assert one.secret.reveal() == SECRET
        assert one.secret == Secret(SECRET)
    assert bytes(one.secret._bytes) == bytes(len(SECRET))
    with pytest.raises(Bug):
        one.secret.reveal()
    assert repr(one.secret) == "***"


# -- the stores ----------------------------------------------------------------------------------
def test_a_store_gives_back_what_was_put_when_asked(store: Store) -> None:
    """Each account its own; names without opening; what was removed is gone."""
    store.put(key(), key("kraken", "main", "other"), key("kraken", "spot_2", "third"))
    assert store.names() == [("kraken", "main"), ("kraken", "spot_2"), ("kucoin", "main")]
    found = store.get("kucoin", "main")
    assert found is not None
    assert (found.venue, found.account, found.source) == ("kucoin", "main", store.name)
    assert found.passphrase is not None
    assert found.key.reveal() + found.secret.reveal() + found.passphrase.reveal() == (
        f"a-k3y{SECRET}a-p4ss"
    )
    assert store.get("kraken", "none") is None
    assert store.remove("kraken", "main")
    assert not store.remove("kraken", "main")
    assert store.get("kraken", "main") is None
    store.put(key("kraken", "spot_2", "changed"))
    changed = store.get("kraken", "spot_2")
    assert changed is not None
    assert changed.secret.reveal() == "changed"
    for venue, account in store.names():
        assert store.remove(venue, account)
    assert store.names() == []


@pytest.mark.parametrize(
    ("venue", "account"), [("kraken", "Main"), ("kr.aken", "main"), ("kraken", "a__b"),
                           ("kraken", ""), ("../kraken", "x"), ("kraken", "paper")],
)  # fmt: skip
def test_names_that_can_not_be_kept_everywhere_are_refused(
    store: Store, venue: str, account: str
) -> None:
    """Before anything is written."""
    with pytest.raises(ConfigError):
        store.put(key(venue, account))
    assert store.names() == []


@pytest.mark.parametrize("name", ["keys.sealed", "keys.toml"])
def test_a_file_is_refused_with_its_remedy_when_others_can_read_it(
    tmp_path: Path, name: str
) -> None:
    """For every operation, group and others alike; the secret is not in the words."""
    store = STORES["sealed" if name == "keys.sealed" else "plain"](tmp_path)
    store.put(key())
    path = tmp_path / name
    assert path.stat().st_mode & 0o777 == 0o600
    for mode in (0o604, 0o640, 0o620, 0o602):
        path.chmod(mode)
        before = path.read_bytes()
        for use in (lambda: store.get("kucoin", "main"), store.names, lambda: store.put(key()),
                    lambda: store.remove("kucoin", "main")):  # fmt: skip
            with pytest.raises(ConfigError, match=f"chmod 600 {path}") as caught:
                use()
            assert SECRET not in str(caught.value)
        assert path.read_bytes() == before


def test_a_file_is_refused_when_it_is_anothers_or_none(tmp_path: Path) -> None:
    """A directory, a pipe nobody writes to, a file of another user."""
    path = tmp_path / "keys.toml"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="is not a file"):
        PlainStore(tmp_path).names()
    path.unlink()
    if os.getuid() == 0:
        path.touch(mode=0o600)
        os.chown(path, 12_345, 12_345)
        with pytest.raises(ConfigError, match="belongs to uid 12345"):
            PlainStore(tmp_path).names()


@pytest.mark.parametrize(
    "text", ["kraken = 5", '[kraken.main]\nkey = "pl4nted-s3cret"', '[kraken.main]\nkey = "pl4nted',
             '[kraken.main]\nkey="a"\nsecret="b"\npl4nted = 1', "\udcff pl4nted"],
)  # fmt: skip
def test_a_half_written_plain_file_is_refused_without_a_word_of_it(
    tmp_path: Path, text: str
) -> None:
    """Whatever is wrong with it."""
    path = tmp_path / "keys.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"keys\.toml") as caught:
        PlainStore(tmp_path).get("kraken", "main")
    assert "pl4nted" not in str(caught.value)
    assert caught.value.__suppress_context__


@given(st.text(max_size=80).filter(lambda text: text.isprintable() or "\n" in text))
def test_any_text_is_kept_to_the_letter_in_the_plain_file(text: str) -> None:
    """TOML's escapes, PEM's lines, quotes and backslashes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    written = _sealed.toml_of({"v": {"a": {"key": text, "secret": "\x7f\t\r\n\"'\\"}}})
    import tomllib

    table = tomllib.loads(written)
    assert table == {"v": {"a": {"key": text, "secret": "\x7f\t\r\n\"'\\"}}}


# -- the sealed file -----------------------------------------------------------------------------
def test_the_sealed_file_holds_no_secret_and_no_salt_twice(tmp_path: Path) -> None:
    """Names can be read; each writing has a salt and a nonce of its own."""
    store = SealedStore(tmp_path, ask=lambda _: WORDS, cost=CHEAP)
    heads = []
    for _ in range(2):
        store.put(key())
        data = (tmp_path / "keys.sealed").read_bytes()
        assert SECRET.encode() not in data
        assert b"kucoin/main" in data
        heads.append(json.loads(data)["head"])
    assert heads[0]["salt"] != heads[1]["salt"]
    assert heads[0]["nonce"] != heads[1]["nonce"]


def test_the_sealed_file_is_refused_when_any_byte_was_changed(tmp_path: Path) -> None:
    """Head and box: every bit that is flipped is found, never another key given."""
    sealed = _sealed.seal(b'{"a":{}}', Secret(WORDS), ["a/b"], cost=CHEAP)
    assert _sealed.open_box(sealed, Secret(WORDS), "x") == b'{"a":{}}'
    for at in range(0, len(sealed) - 1, 5):
        changed = bytearray(sealed)
        changed[at] ^= 1
        try:
            inside = _sealed.open_box(bytes(changed), Secret(WORDS), "x")
        except ConfigError:
            continue
        # A bit of base64's last character that no byte comes from changes nothing.
        assert json.loads(changed) != json.loads(sealed)
        assert inside == b'{"a":{}}'
        assert msgspec.json.decode(changed, type=_sealed._File).box == (
            msgspec.json.decode(sealed, type=_sealed._File).box
        )


@pytest.mark.parametrize("name", ["n", "r", "p", "salt", "format"])
def test_the_sealed_file_is_refused_when_its_head_asks_for_too_much_or_little(name: str) -> None:
    """No file makes us take all of the memory, or a weak key."""
    file = json.loads(_sealed.seal(b"{}", Secret(WORDS), [], cost=CHEAP))
    for value in {"n": [1 << 13, 1 << 30, 3 << 15], "r": [1 << 20, 1], "p": [64], "salt": ["AA=="],
                  "format": ["piker keys 2"]}[name]:  # fmt: skip
        changed = {**file, "head": {**file["head"], name: value}}
        with pytest.raises(ConfigError, match="no sealed key file"):
            _sealed.open_box(json.dumps(changed).encode(), Secret(WORDS), "x")


def test_a_wrong_passphrase_opens_and_changes_nothing(tmp_path: Path) -> None:
    """Neither reading nor adding."""
    SealedStore(tmp_path, ask=lambda _: WORDS, cost=CHEAP).put(key())
    before = (tmp_path / "keys.sealed").read_bytes()
    wrong = SealedStore(tmp_path, ask=lambda _: "wrong horse battery", cost=CHEAP)
    for use in (lambda: wrong.get("kucoin", "main"), lambda: wrong.put(key("kraken"))):
        with pytest.raises(ConfigError, match="does not open"):
            use()
    assert (tmp_path / "keys.sealed").read_bytes() == before


def test_a_passphrase_is_asked_for_twice_and_only_when_it_is_new(tmp_path: Path) -> None:
    """A short one and two that differ are refused; one object asks once."""
    asked: list[str] = []

    def answer(*words: str) -> Callable[[str], str]:
        said = iter(words)
        return lambda prompt: asked.append(prompt) or next(said)

    for words, wrong in ((("short",), "10 characters"), ((WORDS, "other words!"), "differ")):
        with pytest.raises(ConfigError, match=wrong):
            SealedStore(tmp_path, ask=answer(*words), cost=CHEAP).put(key())
    assert list(tmp_path.glob("keys.sealed")) == []
    asked.clear()
    store = SealedStore(tmp_path, ask=answer(WORDS, WORDS), cost=CHEAP)
    store.put(key())
    store.put(key("kraken"))
    assert store.get("kraken", "main") is not None
    assert len(asked) == 2


def test_a_passphrase_comes_from_systemd_then_a_file_then_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any of them the remedy is told; a file that others can read is refused."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match="PIKER_PASSPHRASE_FILE"):
        find_passphrase(None)
    assert find_passphrase(lambda _: "asked for") == Secret("asked for")
    file = tmp_path / "words"
    file.write_text("from a file\n")
    file.chmod(0o600)
    monkeypatch.setenv("PIKER_PASSPHRASE_FILE", str(file))
    assert find_passphrase(None) == Secret("from a file")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        find_passphrase(None)
    (tmp_path / "piker.passphrase").write_text("from systemd")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert find_passphrase(None) == Secret("from systemd")


# -- the keyring ---------------------------------------------------------------------------------
def test_a_locked_keyring_is_an_error_without_its_words(tmp_path: Path) -> None:
    """It is not passed over: an older key in a file must not be taken for it."""
    backend = DesktopKeyring()
    store = KeyringStore(backend, "test", folder=tmp_path)
    store.put(key())
    backend.locked = True
    with pytest.raises(ConfigError, match="KeyringLocked") as caught:
        store.get("kucoin", "main")
    assert SECRET not in str(caught.value)


def test_a_keyring_that_is_not_the_desktops_is_not_used() -> None:
    """Ours of this test is none; nor is one that writes plain files."""
    import keyring

    before = keyring.get_keyring()
    keyring.set_keyring(DesktopKeyring())
    try:
        assert usable_keyring()[0] is None
    finally:
        keyring.set_keyring(before)


def test_a_keyring_that_is_none_is_an_empty_store(tmp_path: Path) -> None:
    """And says why when something is to be kept in it."""
    store = KeyringStore(None, "no desktop keyring", folder=tmp_path)
    assert store.names() == []
    assert store.get("kraken", "main") is None
    with pytest.raises(ConfigError, match="no desktop keyring"):
        store.put(key())


# -- looking for one -----------------------------------------------------------------------------
def test_the_first_store_that_has_the_account_counts(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sealed before plain before the environment; what none has names where was looked."""
    folder = piker_dirs / "config"
    monkeypatch.setattr(handover, "_taken", {})
    with pytest.raises(ConfigError, match=r"keyring .*keys\.sealed.*keys\.toml.*piker keys add"):
        load_credentials("kraken")
    monkeypatch.setenv("PIKER_API_KEY__KRAKEN__MAIN", "e-key")
    monkeypatch.setenv("PIKER_API_SECRET__KRAKEN__MAIN", "e-secret")
    assert load_credentials("kraken").source == "environment"
    PlainStore(folder).put(key("kraken"))
    assert load_credentials("kraken").source == "plain"
    SealedStore(folder, ask=lambda _: WORDS, cost=CHEAP).put(key("kraken"))
    assert load_credentials("kraken", ask=lambda _: WORDS).source == "sealed"
    assert [one.name for one in open_stores()] == ["keyring", "sealed", "plain", "environment"]


async def test_a_store_that_can_not_be_read_ends_the_search(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No passphrase: the plain file's key of the same name is not taken in its place."""
    folder = piker_dirs / "config"
    PlainStore(folder).put(key("kraken"), key("kraken", "other"))
    SealedStore(folder, ask=lambda _: WORDS, cost=CHEAP).put(key("kraken"))
    with pytest.raises(ConfigError, match="nobody to ask"):
        await fetch_credentials("kraken")
    assert (await fetch_credentials("kraken", "other")).source == "plain"


def test_half_a_key_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the name of the variable that is missing."""
    monkeypatch.setattr(handover, "_taken", {})
    monkeypatch.setenv("PIKER_API_KEY__KRAKEN__MAIN", "half")
    with pytest.raises(ConfigError, match="PIKER_API_SECRET__KRAKEN__MAIN"):
        EnvironmentStore().get("kraken", "main")
    with pytest.raises(ConfigError, match="whoever starts"):
        EnvironmentStore().put(key())


def test_a_misspelt_variable_is_taken_out_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its value is a key all the same; it would have gone to every child."""
    monkeypatch.setattr(handover, "_taken", {})
    monkeypatch.setenv("PIKER_API_SECRET_KRAKEN", SECRET)
    with pytest.raises(ConfigError, match="PIKER_API_SECRET_KRAKEN, which names no account") as err:
        EnvironmentStore().names()
    assert SECRET not in str(err.value)
    assert "PIKER_API_SECRET_KRAKEN" not in os.environ


def test_a_key_that_can_not_sign_is_told_before_it_is_used() -> None:
    """Of venues whose signing we know."""
    assert check_shape(key("binance")) == "HMAC-SHA256"
    assert check_shape(key("kucoin")) == "not checked"
    with pytest.raises(ConfigError, match="64 bytes"):
        check_shape(key("kraken"))
    spaced = Credentials(venue="binance", account="main", key=ErasableSecret("two words"),
                         secret=ErasableSecret("x"))  # fmt: skip
    with pytest.raises(ConfigError, match="spaces"):
        check_shape(spaced)


@pytest.mark.parametrize("text", ["", "pl4nted", 'key="a"', 'key="a"\nsecret=5', "pl4nted = 'x'"])
def test_what_is_no_key_on_stdin_is_refused_without_a_word_of_it(text: str) -> None:
    """Half of one, or none."""
    with pytest.raises(PikerError) as caught:
        parse_fields(text, what="stdin")
    assert "pl4nted" not in str(caught.value)


# -- the environment -----------------------------------------------------------------------------
CHILD = """
import os, subprocess, sys
from piker import handover
from piker.brokers.keystores import EnvironmentStore
handover.adopt()
own = open("/proc/self/environ", "rb").read()
child = subprocess.run([sys.executable, "-c", "print(open('/proc/self/environ').read())"],
                       capture_output=True).stdout
found = EnvironmentStore().get("kraken", "main")
print(b"s3cret" in own, b"s3cret" in child, found.secret.reveal() if found else None)
"""


def test_the_environment_is_empty_of_keys_when_they_were_taken() -> None:
    """Neither /proc shows them any more, nor does a child inherit them; we still have them."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "PIKER_API_KEY__KRAKEN__MAIN": "k",
             "PIKER_API_SECRET__KRAKEN__MAIN": "a-s3cret"},
    )  # fmt: skip
    assert done.stdout.split() == ["False", "False", "a-s3cret"]


@pytest.mark.parametrize(
    ("service", "given"), [("pikerd", True), ("brokerd.kraken", True), ("brokerd.binance", False),
                           ("datad.kraken", False), ("emsd", False)],
)  # fmt: skip
def test_a_child_gets_only_the_keys_of_its_venue(
    monkeypatch: pytest.MonkeyPatch, service: str, given: bool
) -> None:
    """Through its stdin, which is empty afterwards: data daemons never see a key."""
    monkeypatch.setattr(handover, "_taken", {
        "PIKER_API_KEY__KRAKEN__MAIN": Secret("k"),
        "PIKER_API_SECRET__KRAKEN__MAIN": Secret("a-s3cret"),
    })  # fmt: skip
    with handover.lend(service) as stdin:
        done = subprocess.run(
            [sys.executable, "-c", CHILD], stdin=stdin, capture_output=True, text=True,
            check=True, timeout=60,
        )  # fmt: skip
        if stdin >= 0:
            assert os.pread(stdin, 10, 0) == b""
    assert done.stdout.split() == ["False", "False", "a-s3cret" if given else "None"]
