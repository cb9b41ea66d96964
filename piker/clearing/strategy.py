"""Strategies: files with ``async def strategy(feed, ems, **options)``, live, on paper, replayed.

    MARKETS = ("btcusdt.spot.binance",)

    async def strategy(feed, ems, *, size=Decimal("0.01")):
        async for item in feed: ...

``feed`` is what :func:`piker.data.feed.open_feed` yields, ``ems`` what
:func:`piker.clearing.client.open_ems` does. Options are the function's own keyword parameters: the
type of a default, or the annotation, says how their text is read.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from piker.config import nearest
from piker.errors import ConfigError
from piker.market import parse_fqme

__all__ = ["Strategy", "load_strategy", "where_raised"]

_FORM = "It is: async def strategy(feed, ems, *, size=Decimal('0.01'))."
_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Strategy(msgspec.Struct, frozen=True):
    """A loaded strategy. ``markets`` are those that its file names, ``params`` its options."""

    path: Path
    run: Callable[..., Awaitable[object]]
    markets: tuple[str, ...]
    params: Mapping[str, inspect.Parameter]
    takes_any: bool  # it has **options, and reads their text itself

    @property
    def name(self) -> str:
        """Return the file's name without its ending: what the journal says did it."""
        return self.path.stem

    def bind(self, given: Sequence[str]) -> Callable[..., Awaitable[object]]:
        """Return the strategy with options as they were given: ``name=value`` each.

        Raises ``ConfigError`` for one that it does not have, or can not read, or lacks.
        """
        options: dict[str, object] = {}
        for text in given:
            name, equals, value = text.partition("=")
            if not equals or not name.isidentifier():
                raise ConfigError(f"{text!r} is no option.", remedy="Options are: name=value")
            options[name] = self._read(name, value)
        for name, param in self.params.items():
            if param.default is param.empty and name not in options:
                raise ConfigError(
                    f"{self.path.name} needs the option {name!r}.", remedy=f"Add: {name}=VALUE"
                )
        return partial(self.run, **options)

    def _read(self, name: str, value: str) -> object:
        param = self.params.get(name)
        if param is None:
            if self.takes_any:
                return value
            known = ", ".join(sorted(self.params)) or "none"
            raise ConfigError(
                f"{self.path.name} has no option {name!r}; it has: {known}.",
                remedy=nearest(name, self.params) if self.params else "",
            )
        kind = _kind_of(param)
        try:
            return kind(value)
        except (ValueError, KeyError, InvalidOperation):
            word = _WORDS.get(kind, "a number")
            raise ConfigError(f"the option {name}={value} is not {word}.") from None


def _truth(text: str) -> bool:
    return _BOOLS[text.lower()]


def _number(text: str) -> Decimal:
    value = Decimal(text)
    if not value.is_finite():
        raise ValueError(text)
    return value


_WORDS: dict[Callable[[str], object], str] = {_truth: "true or false", int: "a whole number"}


def _kind_of(param: inspect.Parameter) -> Callable[[str], object]:
    """Return how an option's text is read: by its annotation, else by its default."""
    for known in (param.annotation, type(param.default)):
        if known is bool:
            return _truth
        if known is Decimal:
            return _number
        if known in (int, float, str):
            found: Callable[[str], object] = known
            return found
    return str


def load_strategy(path: Path) -> Strategy:
    """Import a strategy's file, its folder being importable as with ``python FILE``.

    Raises ``ConfigError`` that names file and line for whatever is wrong with it.
    """
    if not path.is_file():
        near = [one.name for one in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ConfigError(f"there is no file {path}.", remedy=nearest(path.name, near))
    module = _import(path)
    run: Any = getattr(module, "strategy", None)  # Any: whatever the file has under that name
    if run is None:
        raise ConfigError(f"{path} has no function `strategy`.", remedy=_FORM)
    if not inspect.iscoroutinefunction(run):
        raise ConfigError(f"`strategy` in {path} is no async function.", remedy=_FORM)
    params = _parameters(path, run)
    takes_any = any(one.kind is one.VAR_KEYWORD for one in params)
    named = {one.name: one for one in params[2:] if one.kind is not one.VAR_KEYWORD}
    return Strategy(path, run, _markets(path, module), named, takes_any)


def _import(path: Path) -> ModuleType:
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file.", remedy="Its name ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as err:
        raise ConfigError(f"{err.filename}:{err.lineno}: {err.msg}.") from err
    except Exception as err:
        where = where_raised(err, path) or str(path)
        raise ConfigError(f"{where}: {type(err).__name__}: {err}.") from err
    return module


def _parameters(path: Path, run: Callable[..., object]) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(run, eval_str=True)
    except (NameError, TypeError):  # an annotation that exists for type checkers alone
        signature = inspect.signature(run)
    params = list(signature.parameters.values())
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(params) < 2 or any(one.kind not in plain for one in params[:2]):
        raise ConfigError(f"`strategy` in {path} does not take (feed, ems).", remedy=_FORM)
    if any(one.kind in (one.VAR_POSITIONAL, one.POSITIONAL_ONLY) for one in params[2:]):
        raise ConfigError(f"the options of `strategy` in {path} have no names.", remedy=_FORM)
    return params


def _markets(path: Path, module: ModuleType) -> tuple[str, ...]:
    named = getattr(module, "MARKETS", ())
    if isinstance(named, str):
        named = (named,)
    if not isinstance(named, tuple | list) or not all(isinstance(one, str) for one in named):
        raise ConfigError(
            f"MARKETS in {path} is no tuple of market addresses.",
            remedy="As in: MARKETS = ('btcusdt.spot.binance',)",
        )
    return tuple(str(parse_fqme(one)) for one in named)


def where_raised(err: BaseException, path: Path) -> str:
    """Return ``file:line`` of the innermost line of a file that an error passed, or ""."""
    wanted = str(path.resolve())
    frames = traceback.extract_tb(err.__traceback__)
    lines = [one.lineno for one in frames if str(Path(one.filename).resolve()) == wanted]
    return f"{path}:{lines[-1]}" if lines else ""
