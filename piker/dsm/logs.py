"""``logger``: this face's own log. The host program's logging, loguru's too, is left as it is.

    logger.configure_level("DEBUG")
    logger.configure_file("./logs/dsm.log")
    logger.info("Status: <green>SUCCESS</green>")

``DSM_LOG_LEVEL`` (default ERROR), ``DSM_LOG_FILE`` and ``DSM_DISABLE_COLORS`` are read at import.
Lines of piker that a manager's call causes are lines of this log, and no others are. Loguru is
loaded at the first line that is really written.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

from piker.config import nearest
from piker.dsm.errors import Unsupported

__all__ = ["FOLLOW", "DsmLogger", "level_of", "logger"]

LEVELS = {"TRACE": 5, "DEBUG": 10, "INFO": 20, "SUCCESS": 25, "WARNING": 30, "ERROR": 40,
          "CRITICAL": 50}  # fmt: skip
ROTATION, RETENTION = "10 MB", "1 week"  # of the file, as the seed has it
_SHORT = {name[0]: name for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")}
_FORMAT = (
    "<dim>{time:YYYY-MM-DDTHH:mm:ss.SSS!UTC}Z</dim> <level>{level: <8}</level> "
    "<cyan>{extra[room]}</cyan> {message}"
)
_NETWORK = ("rest", "http", "limits")  # rooms whose quiet lines are about single requests
_MARKUP = re.compile(r"</?[a-z]+(?:[ ,-][a-z]+)*>|</>")
_YES = ("1", "true", "yes", "on")


class _Follow(str):
    """The word in the signatures of the seed; it means: whatever ``logger`` is set to."""

    __slots__ = ()


#: The default of ``log_level`` parameters.
FOLLOW = _Follow("WARNING")


def level_of(name: str) -> str:
    """Return a level in upper case; its first letter will do. Raises ``Unsupported``."""
    found = _SHORT.get(str(name).upper(), str(name).upper())
    if found not in LEVELS:
        raise Unsupported(f"{name!r} is not a log level.", remedy=nearest(found, LEVELS))
    return found


class _Output:
    """Where lines go: stderr, and a file where there is one."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream  # None: whatever stderr is when a line is written
        self.level = LEVELS["ERROR"]
        self.file: Path | None = None
        self.colors = True
        self._guard = threading.Lock()
        self._built: Any = None
        self._pid = 0

    def changed(self) -> None:
        """Have the sinks made anew at the next line."""
        with self._guard:
            if self._built is not None:
                self._built.remove()
            self._built = None

    def loguru(self) -> Any:
        """Return a logger of loguru's with sinks of its own."""
        with self._guard:
            if self._built is None or self._pid != os.getpid():
                self._built, self._pid = self._build(), os.getpid()
            return self._built

    def _build(self) -> Any:
        from loguru._logger import Core
        from loguru._logger import Logger as Loguru

        # What loguru's own __init__ does for its one logger; it has no public way to a second.
        core = Core()  # type: ignore[no-untyped-call]
        built: Any = Loguru(  # type: ignore[no-untyped-call]
            core, None, 0, False, False, False, False, True, [], {"room": "dsm"}
        )
        common: dict[str, Any] = {"level": 0, "format": _FORMAT, "backtrace": False,
                                  "diagnose": False, "catch": True}  # fmt: skip
        terminal = (self.stream or sys.stderr).isatty() and "NO_COLOR" not in os.environ
        built.add(self._show, colorize=self.colors and terminal, **common)
        if self.file is not None:
            built.add(
                self.file, colorize=False, rotation=ROTATION, retention=RETENTION,
                encoding="utf-8", **common,
            )  # fmt: skip
        return built

    def _show(self, line: str) -> None:
        (self.stream or sys.stderr).write(line)  # notebooks and tests replace it at any time

    def after_fork(self) -> None:
        """Forget what another thread may have held when this process was made."""
        self._guard = threading.Lock()


class DsmLogger:
    """Writes lines; ``bind`` and ``opt`` give others like it that write to the same places."""

    def __init__(
        self,
        output: _Output,
        *,
        level: int | None = None,
        extra: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self._output = output
        self._level = level
        self._extra = extra or {}
        self._options = options or {}

    # -- settings, for all --------------------------------------------------------------------
    def configure_level(self, level: str) -> DsmLogger:
        """Write lines of ``level`` and above only."""
        self._output.level = LEVELS[level_of(level)]
        return self

    def configure_file(self, path: str | Path | None) -> DsmLogger:
        """Write to a file, too: a new one every 10 MB, kept for a week. None: not any more."""
        self._output.file = None if path is None else Path(path).expanduser()
        self._output.changed()
        return self

    def disable_colors(self, disabled: bool = True) -> DsmLogger:
        """Write without colours on terminals, too."""
        self._output.colors = not disabled
        self._output.changed()
        return self

    @property
    def level(self) -> str:
        """Return the level that is in force here."""
        threshold = self._threshold
        return next(name for name, rank in LEVELS.items() if rank == threshold)

    # -- others like it -----------------------------------------------------------------------
    def bind(self, **extra: Any) -> DsmLogger:
        """Return a logger whose lines end with these fields."""
        return self._with(extra=self._extra | extra)

    def opt(self, **options: Any) -> DsmLogger:
        """Return a logger that writes with loguru options: ``exception``, ``raw``, ``lazy``, ..."""
        return self._with(options=self._options | options)

    def at_level(self, level: str) -> DsmLogger:
        """Return a logger with a level of its own; ``FOLLOW`` takes the common one again."""
        return self._with(level=None if level is FOLLOW else LEVELS[level_of(level)])

    def _with(self, **changed: Any) -> DsmLogger:
        kept = {"level": self._level, "extra": self._extra, "options": self._options}
        return DsmLogger(self._output, **(kept | changed))

    def generate_trace_id(self) -> str:
        """Return eight hexadecimal digits, to find the lines of one call by."""
        return secrets.token_hex(4)

    # -- lines --------------------------------------------------------------------------------
    def trace(self, message: object, *args: Any, **kwargs: Any) -> None:
        """Write what hardly anybody wants to read."""
        self.log("TRACE", message, *args, **kwargs)

    def debug(self, message: object, *args: Any, **kwargs: Any) -> None:
        """Write what helps to find a fault."""
        self.log("DEBUG", message, *args, **kwargs)

    def info(self, message: object, *args: Any, **kwargs: Any) -> None:
        """Write what happens when all is well."""
        self.log("INFO", message, *args, **kwargs)

    def success(self, message: object, *args: Any, **kwargs: Any) -> None:
        """Write that something went well."""
        self.log("SUCCESS", message, *args, **kwargs)

    def warning(self, message: object, *args: Any, **kwargs: Any) -> None:
        """Write what a person may want to know."""
        self.log("WARNING", message, *args, **kwargs)

    def error(self, message: object, *args: Any, **kwargs: Any) -> None:
        """Write what a person must know."""
        self.log("ERROR", message, *args, **kwargs)

    def critical(self, message: object, *args: Any, **kwargs: Any) -> None:
        """Write what can not wait."""
        self.log("CRITICAL", message, *args, **kwargs)

    def exception(self, message: object, *args: Any, **kwargs: Any) -> None:
        """Write an error with the exception that is being handled."""
        self.opt(exception=True).log("ERROR", message, *args, **kwargs)

    def log(self, level: str, message: object, *args: Any, **kwargs: Any) -> None:
        """Write a line; ``{}`` in it are filled in. ``<green>...</green>`` is a colour."""
        name = level_of(level)
        if LEVELS[name] < self._threshold:
            return
        self._write(name, str(message), args, kwargs, colors=bool(_MARKUP.search(str(message))))

    def piker_line(self, level: str, room: str, line: str, *, network: bool = True) -> None:
        """Write a line of piker's own, as it is; without ``network`` none of single requests."""
        hidden = not network and room in _NETWORK and LEVELS[level] < LEVELS["WARNING"]
        if LEVELS[level] < self._threshold or hidden:
            return
        self.bind(room=room)._write(level, "{}", (line,), {}, colors=False)

    @property
    def _threshold(self) -> int:
        return self._output.level if self._level is None else self._level

    def _write(
        self, level: str, text: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, colors: bool
    ) -> None:
        shown = {key: value for key, value in self._extra.items() if key != "room"}
        fields = "".join(f" {key}={value}" for key, value in shown.items())
        options = {"depth": 2} | self._options
        if options.pop("lazy", False):
            args = tuple(value() for value in args)
            kwargs = {key: value() for key, value in kwargs.items()}
        sink = self._output.loguru().bind(**self._extra)
        if colors and not options.get("raw"):
            try:
                # Fields are data: handed over as an argument, they are never read as markup.
                sink.opt(**(options | {"colors": True})).log(
                    level, text + "{_fields}", *args, **kwargs, _fields=fields
                )
                return
            except (ValueError, KeyError, IndexError):
                pass  # what looked like a colour is none, or like a field: it is written as it is
        if args or kwargs:
            sink.opt(**options).log(level, text + "{_fields}", *args, **kwargs, _fields=fields)
        else:
            sink.opt(**options).log(level, "{}{}", text, fields)


_output = _Output()
os.register_at_fork(after_in_child=_output.after_fork)
#: The log of ``piker.dsm``.
logger = DsmLogger(_output)


def _from_environment() -> None:
    logger.disable_colors(os.environ.get("DSM_DISABLE_COLORS", "").lower() in _YES)
    if os.environ.get("DSM_LOG_FILE"):
        logger.configure_file(os.environ["DSM_LOG_FILE"])
    try:
        logger.configure_level(os.environ.get("DSM_LOG_LEVEL") or "ERROR")
    except Unsupported as err:
        logger.error(f"DSM_LOG_LEVEL: {err}")


_from_environment()
