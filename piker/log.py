"""One line per event: time, level, actor, event name, ``key=value`` fields.

    log = get_logger("ws")
    log.info("ws.reconnect", venue="binance", attempt=3, wait_s=1.5)

Values are quoted where they hold spaces, control characters are escaped, and a
:class:`Secret` prints as ``***`` wherever it ends up: in a field, a repr or a traceback.
Loguru is loaded at the first line that is really written, so that ``piker --help`` stays quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

__all__ = ["LEVELS", "Logger", "Secret", "configure", "get_logger", "level_name", "redirected"]

LEVELS = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_LEVEL_ENV = "PIKER_LOG"  # how a child process learns its level
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:+@%,#[]()*")

_actor = "main"
_configured_for: int | None = None
_stream: TextIO | None = None
_logger: Any = None
#: Where the lines of this context go instead: called with level, room and line.
_redirect: ContextVar[Callable[[str, str, str], None] | None] = ContextVar(
    "piker.log.redirect", default=None
)


class Secret:
    """A string that can not be printed by accident; ``reveal()`` is the one way to its value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself. Call it where the value is used, and keep no copy."""
        return self._value

    def __repr__(self) -> str:
        """Return a mask."""
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        """Return a mask, whatever the format."""
        return "***"

    def __reduce__(self) -> tuple[Any, ...]:
        """Refuse to be pickled."""
        raise TypeError("a Secret is never serialised")

    def __eq__(self, other: object) -> bool:
        """Compare values in constant time."""
        import hmac

        return isinstance(other, Secret) and hmac.compare_digest(
            self._value.encode(), other._value.encode()
        )

    def __hash__(self) -> int:
        """Hash the value."""
        return hash(self._value)


def level_name(level: str | None = None, *, default: str = "WARNING") -> str:
    """Return the level in upper case: ``level``, else ``PIKER_LOG``, else ``default``.

    Raises ``ValueError`` for one that is unknown.
    """
    name = (level or os.environ.get(_LEVEL_ENV) or default).upper()
    if name not in LEVELS:
        raise ValueError(f"unknown log level {name!r}; it is one of {', '.join(LEVELS)}")
    return name


def configure(
    level: str | None = None,
    *,
    default: str = "WARNING",
    actor: str = "main",
    stream: TextIO | None = None,
) -> None:
    """Set this process's level, name and stream; child processes inherit the level.

    ``default`` (of conf.toml) counts where neither ``level`` nor ``PIKER_LOG`` says one.
    """
    global _actor, _configured_for, _stream
    os.environ[_LEVEL_ENV] = level_name(level, default=default)
    _actor = actor
    _stream = stream
    _configured_for = None


@contextmanager
def redirected(write: Callable[[str, str, str], None]) -> Iterator[None]:
    """Give the lines of this block to ``write(level, room, line)``, at every level.

    Those of tasks and worker threads that are started in it, too. For a program that piker is only
    a library of, which has a log of its own.
    """
    token = _redirect.set(write)
    try:
        yield
    finally:
        _redirect.reset(token)


def get_logger(name: str) -> Logger:
    """Return the logger of one room; cheap, and safe at import time."""
    return Logger(name)


def _quote(value: object) -> str:
    text = str(value) if not isinstance(value, float) else f"{value:.6g}"
    if text and all(char in _PLAIN for char in text):
        return text
    escaped = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{escaped}"'


def _format(event: str, fields: dict[str, object]) -> str:
    return " ".join([event, *(f"{key}={_quote(value)}" for key, value in fields.items())])


def _sink() -> Any:  # loguru's Logger; its type lives in a stub we do not import at run time
    """Return piker's own logger: the program that imports us keeps its loguru as it was."""
    global _configured_for, _logger
    if _configured_for != os.getpid() or _logger is None:
        from loguru._logger import Core
        from loguru._logger import Logger as Loguru

        # What loguru's own __init__ does for its one logger; it has no public way to a second.
        core = Core()  # type: ignore[no-untyped-call]
        _logger = Loguru(  # type: ignore[no-untyped-call]
            core, None, 0, False, False, False, False, True, [], {}
        )
        _logger.add(
            _stream or sys.stderr,
            level=level_name(),
            format="{time:YYYY-MM-DDTHH:mm:ss.SSS!UTC}Z {level: <8} {extra[actor]} {message}",
            backtrace=False,
            diagnose=False,
            catch=True,
        )
        _configured_for = os.getpid()
    return _logger


class Logger:
    """Writes events of one room."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        write = _redirect.get()
        if write is not None:
            write(level, self._name, _format(event, fields))
            return
        if LEVELS.index(level) < LEVELS.index(level_name()):
            return
        line = _format(event, fields)
        _sink().bind(actor=_actor).log(level, "{}", line)

    def debug(self, event: str, **fields: object) -> None:
        """Write an event for the developers of piker."""
        self._write("DEBUG", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Write an event of normal work."""
        self._write("INFO", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Write an event that a person may want to know."""
        self._write("WARNING", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Write an event that a person must know."""
        self._write("ERROR", event, fields)

    def critical(self, event: str, **fields: object) -> None:
        """Write an event that endangers money or data."""
        self._write("CRITICAL", event, fields)
