"""Where piker's files are, and what its TOML says.

Three directories, each movable by one variable; the defaults are XDG's:

| what | variable | default |
|---|---|---|
| configuration | ``PIKER_CONFIG_DIR`` | ``$XDG_CONFIG_HOME/piker`` |
| store, journal, logs | ``PIKER_DATA_DIR`` | ``$XDG_DATA_HOME/piker`` |
| shm, secret | ``PIKER_RUNTIME_DIR`` | ``$XDG_RUNTIME_DIR/piker`` or ``/dev/shm/piker-<uid>`` |

The files are read strictly: an unknown key, a wrong type or a syntax error is a
:class:`~piker.errors.ConfigError` that names file, line, key path and the nearest valid key, and
nothing is started.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
import types
import typing
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from piker.errors import ConfigError
from piker.log import LEVELS

__all__ = [
    "DIRECTORY_VARS",
    "AccountConf",
    "BrokersConf",
    "Conf",
    "Limits",
    "NetworkConf",
    "ProviderTable",
    "config_dir",
    "data_dir",
    "decode_toml",
    "load_brokers",
    "load_conf",
    "nearest",
    "runtime_dir",
    "template",
]

DIRECTORY_VARS = {
    "PIKER_CONFIG_DIR": "config",
    "PIKER_DATA_DIR": "data",
    "PIKER_RUNTIME_DIR": "run",
}
#: What people write into brokers.toml, where a data daemon would read it.
_KEYS = ("api_key", "api_secret", "key", "secret", "passphrase")
_NO_KEYS = "Keys are kept apart: take it out of here, then run: piker keys add"
_TEMPLATE_NAMES = ("conf.toml", "brokers.toml")

T = TypeVar("T")


# -- directories ----------------------------------------------------------------------------
def _private_dir(path: Path, variable: str) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.stat()
    except OSError as err:
        raise ConfigError(
            f"can not use {path}: {err.strerror}.",
            remedy=f"Set {variable} to a directory of yours.",
        ) from err
    if info.st_uid != os.getuid():
        raise ConfigError(
            f"{path} belongs to uid {info.st_uid}, not to you (uid {os.getuid()}).",
            remedy=f"Set {variable} to a directory of yours.",
        )
    return path


def config_dir() -> Path:
    """Return the configuration directory, made (0700) if it is not there."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    chosen = os.environ.get("PIKER_CONFIG_DIR") or Path(base) / "piker"
    return _private_dir(Path(chosen), "PIKER_CONFIG_DIR")


def data_dir() -> Path:
    """Return the directory of what must survive a reboot, made (0700) if it is not there."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    chosen = os.environ.get("PIKER_DATA_DIR") or Path(base) / "piker"
    return _private_dir(Path(chosen), "PIKER_DATA_DIR")


def runtime_dir() -> Path:
    """Return the directory of this boot's segments and sockets, made if it is not there.

    It is refused when anybody else may enter it: the user's secret lies inside.
    """
    chosen = os.environ.get("PIKER_RUNTIME_DIR")
    if not chosen:
        xdg = os.environ.get("XDG_RUNTIME_DIR")
        chosen = f"{xdg}/piker" if xdg else f"/dev/shm/piker-{os.getuid()}"
    path = _private_dir(Path(chosen), "PIKER_RUNTIME_DIR")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError(f"{path} is open to other users.", remedy=f"Run: chmod 700 {path}")
    return path


# -- what the files may say ------------------------------------------------------------------
class NetworkConf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Table ``[network]``: where the registry listens, how long a lost venue is left alone."""

    registry: str = "127.0.0.1:6116"
    allow_remote: bool = False
    reconnect_cap_s: Annotated[float, msgspec.Meta(ge=1, le=600)] = 60.0


class LogConf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Table ``[log]``: what is written to stderr."""

    level: str = "WARNING"


class FeedConf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Table ``[feed]``: sizes of shared memory and how long an unused feed is kept."""

    rows_1s: int = 172_800
    rows_1m: int = 288_000
    ring_ticks: int = 65_536
    release_after_s: float = 60.0


class HistoryConf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Table ``[history]``: how far back live arrays are filled when a market is opened."""

    backfill_1s_days: Annotated[float, msgspec.Meta(ge=0, le=365)] = 0.25
    backfill_1m_days: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 30.0


class BrokersTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Table ``[brokers]`` of conf.toml: which backends are loaded beside the built-in ones."""

    modules: list[str] = []


class PaperConf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Table ``[paper]``: how far away the paper venue is, and what an account begins with.

    An asset that ``balances`` names can not be overdrawn; all others may be owed.
    """

    latency_ms: Annotated[float, msgspec.Meta(ge=0, le=60_000)] = 20.0
    balances: dict[str, Decimal] = msgspec.field(
        default_factory=lambda: dict.fromkeys(("usd", "usdt", "usdc", "fdusd"), Decimal(10**6))
    )


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[risk]``: the limits of an account. None of them can be off.

    What is worth is in ``currency``. ``price_collar`` is a fraction of the market's price,
    ``duplicate_s`` how long the same order (market, side, size, price, kind) under another oid is
    taken for a stuck key.
    """

    currency: str = "usd"
    order_notional: Decimal = Decimal(10_000)
    order_size: dict[str, Decimal] = {}  # by fqme, in the market's units
    price_collar: Decimal = Decimal("0.05")
    messages: int = 50  # orders and edits
    messages_s: float = 10.0  # in so many seconds
    open_orders: int = 100
    gross_exposure: Decimal = Decimal(50_000)
    daily_loss: Decimal = Decimal(1_000)
    duplicate_s: float = 1.0
    max_price_age_s: float = 10.0
    #: What one unit of a currency is worth in ``currency``.
    rates: dict[str, Decimal] = msgspec.field(
        default_factory=lambda: dict.fromkeys(("usd", "usdt", "usdc", "fdusd"), Decimal(1))
    )


class AccountConf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table ``[accounts.<provider>.<name>]``: what differs for one account.

    ``risk`` replaces keys of ``[risk]``.
    """

    risk: dict[str, Any] = {}
    protect_ticks: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0


class Conf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``conf.toml``."""

    network: NetworkConf = NetworkConf()
    log: LogConf = LogConf()
    feed: FeedConf = FeedConf()
    history: HistoryConf = HistoryConf()
    brokers: BrokersTable = BrokersTable()
    paper: PaperConf = PaperConf()
    risk: Limits = Limits()
    accounts: dict[str, dict[str, AccountConf]] = {}


class ProviderTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One provider's table in ``brokers.toml``.

    ``urls`` replaces the venue's hosts, key by key (docs/brokers/<venue>.md lists the keys).
    ``options`` is the backend's own: it validates what is inside.
    """

    urls: dict[str, str] = {}
    options: dict[str, Any] = {}  # a backend's own keys; it validates them


BrokersConf = dict[str, ProviderTable]


# -- reading ---------------------------------------------------------------------------------
def nearest(word: str, valid: typing.Iterable[str]) -> str:
    """Return a sentence that names the valid words nearest to ``word``."""
    words = sorted(set(valid))
    close = difflib.get_close_matches(word.lower(), words, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(repr(name) for name in close)}?"
    if not words:
        return ""
    shown = ", ".join(words[:12]) + (", ..." if len(words) > 12 else "")
    return f"Valid: {shown}."


def load_conf(path: Path | None = None) -> Conf:
    """Read ``conf.toml``; an absent file means the defaults. Raise ``ConfigError``."""
    file = path or config_dir() / "conf.toml"
    conf = decode_toml(_read(file), Conf, file) if file.exists() else Conf()
    _check_level(conf.log.level, file)
    _check_positive(conf.feed, file)
    _check_balances(conf.paper, file)
    _check_accounts(conf, file)
    return conf


def load_brokers(path: Path | None = None) -> BrokersConf:
    """Read ``brokers.toml``; an absent file means no overrides.

    It holds no API keys (``piker keys`` keeps them): every process reads it, and one may see them.
    """
    file = path or config_dir() / "brokers.toml"
    if not file.exists():
        return {}
    return decode_toml(_read(file), dict[str, ProviderTable], file)


def template(name: str) -> str:
    """Return the text of a shipped template (``conf.toml`` or ``brokers.toml``)."""
    if name not in _TEMPLATE_NAMES:
        raise ConfigError(f"there is no template {name!r}.", remedy=nearest(name, _TEMPLATE_NAMES))
    import sys

    here = Path(__file__).resolve().parent.parent / "config" / name
    installed = Path(sys.prefix) / "share" / "piker" / "config" / name
    for file in (here, installed):
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise ConfigError(
        f"the shipped template {name} is missing.", remedy="Install piker again, as README.md says."
    )


def decode_toml(text: str, type_: type[T], file: Path) -> T:
    """Decode TOML strictly into ``type_``; every error names file, line, key and remedy."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise ConfigError(f"{file}: not TOML: {err}.", remedy="Mend that line.") from None
    _refuse_unknown(raw, type_, (), text, file)
    try:
        return msgspec.convert(raw, type_)
    except msgspec.ValidationError as err:
        message, _, path = str(err).partition(" - at `$")
        keys = tuple(re.findall(r"[A-Za-z0-9_-]+", path.rstrip("`")))
        where = f"{file}:{_line_of(keys, text)}"
        raise ConfigError(
            f"{where}: {'.'.join(keys)}: {message}.", remedy="Mend that value."
        ) from None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(
            f"can not read {file}: {err}.", remedy="Mend or remove the file."
        ) from err


def _fields_of(type_: object) -> dict[str, object] | None:
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return typing.get_type_hints(type_)
    return None


def _refuse_unknown(raw: object, type_: object, at: tuple[str, ...], text: str, file: Path) -> None:
    if not isinstance(raw, dict):
        return
    fields = _fields_of(type_)
    if fields is None:
        arguments = typing.get_args(type_)
        if isinstance(type_, types.GenericAlias) and len(arguments) == 2:
            for key, value in raw.items():
                _refuse_unknown(value, arguments[1], (*at, key), text, file)
        return
    for key, value in raw.items():
        path = (*at, key)
        if key not in fields:
            raise ConfigError(
                f"{file}:{_line_of(path, text)}: unknown key {'.'.join(path)!r}.",
                remedy=_NO_KEYS if key in _KEYS else nearest(key, fields),
            )
        _refuse_unknown(value, fields[key], path, text, file)


def _line_of(keys: tuple[str, ...], text: str) -> int:
    """Return the line a key path is set on, or of its table, or 1."""
    table: tuple[str, ...] = ()
    best = 1
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.split("#", 1)[0].strip()
        if stripped.startswith("["):
            table = tuple(part.strip().strip("\"'") for part in stripped.strip("[]").split("."))
            if table == keys[: len(table)]:
                best = number
            continue
        name = tuple(part.strip().strip("\"'") for part in stripped.split("=", 1)[0].split("."))
        if "=" in stripped and (*table, *name) == keys[: len(table) + len(name)]:
            return number
    return best


def _check_level(level: str, file: Path) -> None:
    if level.upper() not in LEVELS:
        raise ConfigError(
            f"{file}: log.level: {level!r} is not a level.", remedy=nearest(level.upper(), LEVELS)
        )


def _check_positive(feed: FeedConf, file: Path) -> None:
    for name in feed.__struct_fields__:
        value = getattr(feed, name)
        if not value > 0:
            raise ConfigError(
                f"{file}: feed.{name}: {value!r} must be above zero.", remedy="Mend that value."
            )


def _check_accounts(conf: Conf, file: Path) -> None:
    """Refuse limits of one account that are none: who wrote them counts on them."""
    for provider, tables in conf.accounts.items():
        for name, table in tables.items():
            path = ("accounts", provider, name, "risk")
            for key in table.risk:
                if key not in Limits.__struct_fields__:
                    line = _line_of((*path, key), _read(file))
                    raise ConfigError(
                        f"{file}:{line}: unknown key {'.'.join((*path, key))!r}.",
                        remedy=nearest(key, Limits.__struct_fields__),
                    )
            try:
                msgspec.convert({**msgspec.structs.asdict(conf.risk), **table.risk}, Limits)
            except msgspec.ValidationError as err:
                raise ConfigError(
                    f"{file}:{_line_of(path, _read(file))}: {'.'.join(path)}: {err}.",
                    remedy="Mend that value.",
                ) from None


def _check_balances(paper: PaperConf, file: Path) -> None:
    for asset, amount in paper.balances.items():
        if not amount.is_finite() or amount < 0:
            raise ConfigError(
                f"{file}: paper.balances.{asset}: {amount} is no amount to begin with.",
                remedy="Give zero or more; an asset that is left out may be owed.",
            )
