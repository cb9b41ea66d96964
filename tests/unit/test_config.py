"""Configuration errors say file, line, key and remedy; secrets never print."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from piker import config
from piker.errors import ConfigError

CASES = {
    '[network]\nregistri = "x"\n': r"conf\.toml:2: unknown key 'network.registri'.*'registry'",
    "[feed]\n# a comment\nrows_1s = 'many'\n": r"conf\.toml:3: feed\.rows_1s: Expected `int`",
    "[feed\n": r"conf\.toml: not TOML",
    "[feed]\nrows_1s = 0\n": r"feed\.rows_1s: 0 must be above zero",
    "[brokers]\nmodules = [1]\n": r"conf\.toml:2: brokers\.modules",
    "[fed]\n": r"conf\.toml:1: unknown key 'fed'.*'feed'",
    '[log]\nlevel = "LOUD"\n': r"'LOUD' is not a level",
}


@pytest.mark.parametrize("text", CASES)
def test_bad_conf_is_refused_with_its_place_when_read(text: str, tmp_path: Path) -> None:
    """Every mistake names the file, the line where it can, the key and what is valid."""
    file = tmp_path / "conf.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=CASES[text]):
        config.load_conf(file)


@pytest.mark.parametrize("name", ["conf.toml", "brokers.toml"])
def test_templates_are_valid_and_mean_the_defaults_when_unedited(name: str, tmp_path: Path) -> None:
    """A shipped template, copied as it is, changes nothing."""
    file = tmp_path / name
    file.write_text(config.template(name))
    if name == "conf.toml":
        assert config.load_conf(file) == config.Conf()
    else:
        assert config.load_brokers(file) == {}


def test_every_key_stands_in_the_template_when_a_user_looks_for_it() -> None:
    """conf.toml shows every table and key, commented out at its default."""
    text = config.template("conf.toml")
    conf = config.Conf()
    assert "[accounts.binance.main]" in text
    tables = {name: getattr(conf, name) for name in conf.__struct_fields__ if name != "accounts"}
    for table, part in (tables | {"accounts.binance.main": config.AccountConf()}).items():
        assert f"[{table}]" in text
        for key in part.__struct_fields__:
            assert f"# {key} = " in text


def test_directories_are_private_when_made(piker_dirs: Path) -> None:
    """All three directories follow their variables and are 0700."""
    (piker_dirs / "run").rmdir()
    assert config.runtime_dir() == piker_dirs / "run"
    assert stat.S_IMODE(config.runtime_dir().stat().st_mode) == 0o700
    assert config.config_dir() == piker_dirs / "config"
    assert config.data_dir() == piker_dirs / "data"


def test_runtime_directory_is_refused_when_others_may_enter(piker_dirs: Path) -> None:
    """The secret lies in it: an open directory is an error with its remedy."""
    os.chmod(piker_dirs / "run", 0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        config.runtime_dir()


@pytest.mark.parametrize("key", ["api_key", "api_secret", "secret"])
def test_keys_are_refused_without_their_value_when_they_stand_in_brokers_toml(
    tmp_path: Path, key: str
) -> None:
    """Every process reads that file, and a data daemon is to see no key."""
    file = tmp_path / "brokers.toml"
    file.write_text(f'[kraken]\n{key} = "s3cr3t"\n')
    with pytest.raises(
        ConfigError, match=rf"brokers.toml:2: .*kraken.{key}.*piker keys add"
    ) as err:
        config.load_brokers(file)
    assert "s3cr3t" not in str(err.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "order_notionl = 5",
            r"conf.toml:2: unknown key 'accounts.binance.main.risk.order_notionl'",
        ),
        ('order_notional = "much"', r"conf.toml:1: accounts.binance.main.risk: Invalid decimal"),
    ],
)
def test_limit_of_an_account_is_refused_when_it_is_none(
    tmp_path: Path, line: str, said: str
) -> None:
    """Whoever wrote it counts on it: nothing starts before it is mended."""
    file = tmp_path / "conf.toml"
    file.write_text(f"[accounts.binance.main.risk]\n{line}\n")
    with pytest.raises(ConfigError, match=said):
        config.load_conf(file)
    file.write_text("[accounts.binance.main.risk]\norder_notional = 5\n")
    assert config.load_conf(file).accounts["binance"]["main"].risk == {"order_notional": 5}
