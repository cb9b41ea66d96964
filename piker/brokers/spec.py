"""The provider contract as data: what a backend offers, how it is found, and what is checked.

A backend is a module or package with seed 002's endpoints. ``stream_quotes``,
``open_history_client`` and ``ohlc_dtype`` are all that it must have; everything else has a stated
default (docs/guides/provider.md). A backend is looked for, in this order: the built-in packages
of :mod:`piker.brokers`, the entry-point group ``piker.brokers``, and the dotted paths under
``[brokers] modules`` of conf.toml, where the provider's name is the path's last part.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Literal

import msgspec
import numpy as np

from piker.config import nearest
from piker.errors import ProviderError
from piker.ohlcv import OHLC_DTYPE

__all__ = [
    "BUILTIN",
    "ENDPOINTS",
    "Backend",
    "Capabilities",
    "Endpoint",
    "find_backends",
    "load_backend",
    "validate",
]

BUILTIN = ("binance", "kraken")
ENTRY_POINT_GROUP = "piker.brokers"


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a venue can do through its backend. ``docs/brokers/`` is generated from it.

    The defaults are what is assumed of a module that declares nothing.
    """

    venues: tuple[str, ...] = ()  # the fqme venues: ("spot", "usdtm", "coinm")
    history: tuple[str, ...] = ("1m",)  # timeframes the history client serves
    #: Of those the ones that the venue itself has, where making the others costs many requests:
    #: history composes them of these (piker/data/history/compose.py). Empty: all are asked for.
    history_native: tuple[str, ...] = ()
    history_rows: int = 0  # rows per request, 0 = not stated
    closed_bars: tuple[str, ...] = ()  # timeframes for which the venue publishes final bars
    trades: bool = True
    top_of_book: bool = True
    depth: bool = False  # verified order books
    mark_price: bool = False
    trade_ids: bool = False  # consecutive, so that a gap is seen
    search: bool = False
    metadata: bool = False  # get_mkt_info gives ticks and lots
    archive: bool = False
    trades_by_market: bool = False  # trade_history must be told the markets; else none means all
    #: Order features that the venue does itself, each for all its venues or, as
    #: ``usdtm:reduce_only``, for one: the words of ``piker.orders.OrderKind`` and
    #: ``TimeInForce``, and ``post_only``, ``reduce_only``, ``edit``, ``cancel_after``.
    orders: tuple[str, ...] = ()
    #: What each venue asks of its smallest customers: (maker, taker), fractions of what is traded.
    #: Paper orders pay it.
    fees: dict[str, tuple[str, str]] = {}

    def offers(self, venue: str, what: str) -> bool:
        """Tell whether the venue of a market does an order feature itself."""
        return what in self.orders or f"{venue}:{what}" in self.orders


class Endpoint(msgspec.Struct, frozen=True):
    """One name of the contract: where it may stand, and how it is called."""

    name: str
    kind: Literal["async", "acm", "dtype", "value"]
    required: bool
    params: tuple[str, ...] = ()  # in order; seed 002's names
    homes: tuple[str, ...] = ("", ".feed", ".api")  # the package itself, then its sub-modules
    default: str = ""  # what happens without it


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "stream_quotes",
        "async",
        True,
        ("send_chan", "symbols", "shm", "feed_is_live", "loglevel", "task_status"),
    ),
    Endpoint("open_history_client", "acm", True, ("symbol",)),
    Endpoint("ohlc_dtype", "dtype", True),
    Endpoint(
        "get_mkt_info",
        "async",
        False,
        ("fqme",),
        default="any symbol is taken as asked; ticks and lots are unrestricted",
    ),
    Endpoint(
        "search_symbols",
        "async",
        False,
        ("pattern", "limit"),
        default="search finds nothing at this provider",
    ),
    Endpoint(
        "list_markets",
        "async",
        False,
        (),
        default="the symbol database does not hold this provider; search asks the venue",
    ),
    Endpoint(
        "get_server_time", "async", False, (), default="clock skew is not measured at this venue"
    ),
    Endpoint(
        "fetch_first_open",
        "async",
        False,
        ("symbol", "interval"),
        default="history is asked for as far back as it is wanted; 3d bars open every third day "
        "since the epoch",
    ),
    Endpoint(
        "open_archive_client",
        "acm",
        False,
        ("symbol",),
        ("", ".archive"),
        default="history comes from the store and from open_history_client alone",
    ),
    Endpoint(
        "open_trade_dialog",
        "acm",
        False,
        ("account", "credentials", "beliefs", "events"),
        ("", ".broker"),
        default="the provider has no live accounts; paper trades its markets all the same",
    ),
    Endpoint(
        "key_rights",
        "async",
        False,
        ("credentials",),
        ("", ".broker"),
        default="`piker doctor` can not say what the keys of its accounts may do",
    ),
    Endpoint(
        "trade_history",
        "acm",
        False,
        ("credentials", "symbols", "since_ns"),
        ("", ".broker"),
        default="what an account traded comes from its venue's files alone",
    ),
    Endpoint("capabilities", "value", False, default="the defaults of Capabilities"),
)


class Backend:
    """A loaded and validated backend. Attributes are the endpoints, or None where absent."""

    def __init__(self, name: str, module: ModuleType, found: dict[str, Any]) -> None:
        self.name = name
        self.module = module
        self.stream_quotes: Callable[..., Any] = found["stream_quotes"]
        self.open_history_client: Callable[..., Any] = found["open_history_client"]
        self.ohlc_dtype: np.dtype[Any] = found["ohlc_dtype"]
        self.get_mkt_info: Callable[..., Any] | None = found.get("get_mkt_info")
        self.search_symbols: Callable[..., Any] | None = found.get("search_symbols")
        self.list_markets: Callable[..., Any] | None = found.get("list_markets")
        self.get_server_time: Callable[..., Any] | None = found.get("get_server_time")
        self.fetch_first_open: Callable[..., Any] | None = found.get("fetch_first_open")
        self.open_archive_client: Callable[..., Any] | None = found.get("open_archive_client")
        self.open_trade_dialog: Callable[..., Any] | None = found.get("open_trade_dialog")
        self.key_rights: Callable[..., Any] | None = found.get("key_rights")
        self.trade_history: Callable[..., Any] | None = found.get("trade_history")
        self.capabilities: Capabilities = found.get("capabilities") or Capabilities()

    def __repr__(self) -> str:
        """Return the provider's name and module."""
        return f"<Backend {self.name} from {self.module.__name__}>"


# -- finding ---------------------------------------------------------------------------------
def find_backends(modules: Sequence[str] = ()) -> dict[str, str]:
    """Return provider name -> dotted module path, without importing any of them.

    ``modules`` is ``[brokers] modules`` of conf.toml. A name that two sources claim is refused:
    silence about which one trades your money would be worse.
    """
    from importlib.metadata import entry_points

    found = {name: f"piker.brokers.{name}" for name in BUILTIN}
    named = [(point.name, point.value) for point in entry_points(group=ENTRY_POINT_GROUP)]
    named += [(path.rpartition(".")[2], path) for path in modules]
    for name, path in named:
        if found.get(name, path) != path:
            raise ProviderError(
                f"two backends are called {name!r}: {found[name]} and {path}.",
                remedy="Rename one of them: the last part of its dotted path is its name.",
            )
        found[name] = path
    return found


def load_backend(name: str, modules: Sequence[str] = ()) -> Backend:
    """Import, check and return the backend called ``name``; raise ``ProviderError``."""
    known = find_backends(modules)
    if name not in known:
        raise ProviderError(f"there is no provider {name!r}.", remedy=nearest(name, known))
    module = _import(known[name], name)
    problems, found = validate(module)
    if problems:
        listed = "; ".join(problems)
        raise ProviderError(
            f"the backend {name!r} ({module.__name__}) breaks the provider contract: {listed}.",
            remedy="docs/guides/provider.md shows each endpoint.",
        )
    return Backend(name, module, found)


def _import(path: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as err:
        if err.name and (path == err.name or path.startswith(err.name + ".")):
            raise ProviderError(
                f"the module {path!r} of provider {name!r} was not found.",
                remedy="Mend its dotted path in conf.toml, or put its folder on PYTHONPATH.",
            ) from err
        raise ProviderError(
            f"the backend {path!r} needs the module {err.name!r}, which is not installed.",
            remedy=f"Install what provides {err.name!r}.",
        ) from err
    except Exception as err:
        raise ProviderError(
            f"the backend {path!r} can not be imported: {type(err).__name__}: {err}.",
            remedy="Mend the module.",
        ) from err


# -- checking --------------------------------------------------------------------------------
def validate(module: ModuleType) -> tuple[list[str], dict[str, Any]]:
    """Return what is wrong with the module, and the endpoints that were found."""
    problems: list[str] = []
    found: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        value = _lookup(module, endpoint)
        if value is None:
            if endpoint.required:
                places = ", ".join(module.__name__ + home for home in endpoint.homes)
                problems.append(f"{endpoint.name} is missing (looked in {places})")
            continue
        problem = _CHECKS[endpoint.kind](endpoint, value)
        if problem:
            problems.append(problem)
        else:
            found[endpoint.name] = _as_dtype(value) if endpoint.kind == "dtype" else value
    return problems, found


def _lookup(module: ModuleType, endpoint: Endpoint) -> Any:
    names = (endpoint.name, "_ohlc_dtype") if endpoint.kind == "dtype" else (endpoint.name,)
    for home in endpoint.homes:
        place: ModuleType | None = module
        if home:
            path = module.__name__ + home
            if not hasattr(module, "__path__") or importlib.util.find_spec(path) is None:
                continue
            place = _import(path, module.__name__)
        for name in names:
            value = getattr(place, name, None)
            if value is not None and not isinstance(value, ModuleType):
                return value  # a sub-module of that name is no endpoint
    return None


def _check_async(endpoint: Endpoint, value: Any) -> str:
    if not inspect.iscoroutinefunction(value):
        return f"{_where(endpoint, value)} must be an async function"
    return _check_params(endpoint, value)


def _check_acm(endpoint: Endpoint, value: Any) -> str:
    wrapped = getattr(value, "__wrapped__", None)
    if not callable(value) or inspect.isasyncgenfunction(value) or wrapped is None:
        return f"{_where(endpoint, value)} must be decorated with asynccontextmanager"
    return _check_params(endpoint, wrapped)


def _check_params(endpoint: Endpoint, value: Any) -> str:
    """Check that the function can be called as the data floor will call it."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return f"{_where(endpoint, value)} has no readable signature"
    try:
        if endpoint.name in ("stream_quotes", "open_trade_dialog", "trade_history"):
            signature.bind(**dict.fromkeys(endpoint.params))
        elif endpoint.params:
            signature.bind(*endpoint.params[:1])
        else:
            signature.bind()
    except TypeError as err:
        wanted = ", ".join(endpoint.params)
        return f"{_where(endpoint, value)} must take ({wanted}): {err}"
    return ""


def _check_dtype(endpoint: Endpoint, value: Any) -> str:
    try:
        dtype = _as_dtype(value)
    except TypeError as err:
        return f"{endpoint.name} is no numpy dtype: {err}"
    lacking = [name for name in (OHLC_DTYPE.names or ()) if name not in (dtype.names or ())]
    needed = [name for name in lacking if name not in ("count", "bar_wap")]
    return f"{endpoint.name} lacks the fields {', '.join(needed)}" if needed else ""


def _check_value(endpoint: Endpoint, value: Any) -> str:
    if not isinstance(value, Capabilities):
        return f"{endpoint.name} must be a piker.brokers.spec.Capabilities"
    return ""


_CHECKS: dict[str, Callable[[Endpoint, Any], str]] = {
    "async": _check_async,
    "acm": _check_acm,
    "dtype": _check_dtype,
    "value": _check_value,
}


def _as_dtype(value: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(value)
    return dtype


def _where(endpoint: Endpoint, value: Any) -> str:
    """Return the endpoint's name with file and line, where Python knows them."""
    code = getattr(getattr(value, "__wrapped__", value), "__code__", None)
    if code is None:
        return endpoint.name
    return f"{endpoint.name} ({code.co_filename}:{code.co_firstlineno})"
