"""Backends are found, checked and refused with what is missing and where."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from piker.brokers.spec import find_backends, load_backend
from piker.errors import ProviderError

GOOD = """
from contextlib import asynccontextmanager
import numpy as np, trio
ohlc_dtype = np.dtype([(n, int if n in ('index', 'time', 'count') else float) for n in (
    'index', 'time', 'open', 'high', 'low', 'close', 'volume', 'count', 'bar_wap')])
async def stream_quotes(send_chan, symbols, shm, feed_is_live, loglevel=None,
                        task_status=trio.TASK_STATUS_IGNORED):
    pass
@asynccontextmanager
async def open_history_client(symbol):
    yield None, {}
"""
BROKEN = {
    "async def stream_quotes": ("def stream_quotes", "must be an async function"),
    "feed_is_live, loglevel=None": ("loglevel=None", r"must take .*feed_is_live"),
    "@asynccontextmanager\n": ("", "asynccontextmanager"),
    "'close', ": ("", "lacks the fields close"),
    "ohlc_dtype = ": ("other = ", "ohlc_dtype is missing"),
    "async def open_history_client(symbol)": (
        "async def other(symbol)",
        "history_client is missing",
    ),
    "import numpy as np, trio": ("import numpy as np, trio, nosuchmodule", "'nosuchmodule'"),
    "yield None": ("yield None (", "can not be imported"),
}


def write(folder: Path, name: str, text: str) -> str:
    """Write a module into a fresh package on the path; return its dotted path."""
    package = folder / f"pkg_{name}"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    (package / f"{name}.py").write_text(text)
    return f"pkg_{name}.{name}"


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a folder on the import path for the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_minimal_module_loads_by_dotted_path(modules: Path) -> None:
    """Three endpoints are enough; the provider's name is the path's last part."""
    path = write(modules, "minimal", GOOD)
    backend = load_backend("minimal", [path])
    assert (backend.name, backend.get_mkt_info) == ("minimal", None)
    assert backend.capabilities.history == ("1m",)
    assert path in sys.modules


@pytest.mark.parametrize("old", BROKEN)
def test_broken_module_is_refused_with_the_reason(old: str, modules: Path) -> None:
    """Each broken rule is named, with file and line where Python knows them."""
    new, reason = BROKEN[old]
    assert old in GOOD
    name = f"broken{abs(hash(old))}"
    path = write(modules, name, GOOD.replace(old, new, 1))
    with pytest.raises(ProviderError, match=reason):
        load_backend(name, [path])


def test_trade_history_is_found_in_the_broker_and_checked(modules: Path) -> None:
    """A sub-module of that name is none; a plain function, or one without a date, is refused."""
    package = modules / "pkg_historian"
    package.mkdir()
    (package / "__init__.py").write_text(GOOD + "from . import trade_history\n")
    (package / "trade_history.py").touch()
    assert load_backend("pkg_historian", ["pkg_historian"]).trade_history is None
    told = "async def trade_history(credentials, symbols, since_ns):\n    yield None\n"
    opened = f"from contextlib import asynccontextmanager\n@asynccontextmanager\n{told}"
    for text, reason in (
        (opened, ""),
        (told, "trade_history .*must be decorated with asynccontextmanager"),
        (opened.replace(", since_ns", ""), r"must take \(credentials, symbols, since_ns\)"),
    ):
        (package / "broker.py").write_text(text)
        for name in ("pkg_historian", "pkg_historian.trade_history", "pkg_historian.broker"):
            sys.modules.pop(name, None)
        if reason:
            with pytest.raises(ProviderError, match=reason):
                load_backend("pkg_historian", ["pkg_historian"])
        else:
            assert load_backend("pkg_historian", ["pkg_historian"]).trade_history is not None


def test_unknown_provider_is_refused_with_the_nearest() -> None:
    """A typing mistake gets the name that was meant."""
    with pytest.raises(ProviderError, match="'binance'"):
        load_backend("binence")


def test_two_backends_of_one_name_are_refused(modules: Path) -> None:
    """Nobody silently trades through the wrong module."""
    with pytest.raises(ProviderError, match="two backends are called 'binance'"):
        find_backends(["my_pkg.binance"])


def test_missing_module_is_refused_with_its_path() -> None:
    """A dotted path that leads nowhere says so."""
    with pytest.raises(ProviderError, match=r"'no\.such\.thing' of provider 'thing' was not found"):
        load_backend("thing", ["no.such.thing"])
