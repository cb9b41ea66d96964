"""The log of piker.dsm: its own level, file and colours, and nobody else's touched."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import loguru
import pytest

from piker.dsm import logs
from piker.dsm.errors import Unsupported
from piker.dsm.logs import FOLLOW, DsmLogger, level_of


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Return a terminal to write to."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Screen()


@pytest.fixture
def logger(screen: Screen) -> DsmLogger:
    """Return a log of its own, as new."""
    return DsmLogger(logs._Output(screen))


def test_errors_alone_are_written_when_nothing_is_configured(
    logger: DsmLogger, screen: Screen
) -> None:
    """ERROR is the default."""
    for level in ("trace", "debug", "info", "success", "warning"):
        getattr(logger, level)("quiet")
    assert screen.getvalue() == ""
    logger.error("one")
    logger.critical("two")
    assert screen.getvalue().count("\n") == 2
    assert logger.level == "ERROR"


def test_markup_is_colour_on_a_terminal_and_gone_without_colours(
    logger: DsmLogger, screen: Screen
) -> None:
    """As in ``Status: <green>SUCCESS</green>``."""
    logger.configure_level("info").info("Status: <green>SUCCESS</green>")
    assert "\x1b[32mSUCCESS" in screen.getvalue()
    screen.truncate(0)
    logger.disable_colors()
    logger.info("Status: <green>SUCCESS</green>")
    assert "Status: SUCCESS" in screen.getvalue()
    assert "\x1b" not in screen.getvalue()


@pytest.mark.parametrize(
    "text",
    ["<nope>x</nope>", "a < b > c", "{not} formatted", "<green>{no}", "</red>", "100 % {", "<lvl>"],
)
def test_text_is_written_as_it_is_when_it_only_looks_like_markup(
    logger: DsmLogger, screen: Screen, text: str
) -> None:
    """No line is lost, and none raises."""
    logger.disable_colors()
    logger.error(text)
    assert text.replace("<lvl>", "") in screen.getvalue()


def test_values_are_filled_in_and_never_read_as_markup_when_given(
    logger: DsmLogger, screen: Screen
) -> None:
    """They may be words of a venue."""
    logger.disable_colors()
    bound = logger.bind(trace="<red>{x}")
    bound.error("<green>{}</green> {name}", "<red>", name=5)
    assert "<red> 5 trace=<red>{x}" in screen.getvalue()
    logger.opt(lazy=True).error("{}", lambda: 7)
    assert " 7\n" in screen.getvalue()
    logger.piker_line("ERROR", "rest", "<blue>{y}")
    assert "rest <blue>{y}" in screen.getvalue()


def test_exception_is_shown_when_one_is_handled(logger: DsmLogger, screen: Screen) -> None:
    """With its traceback, without the values of variables."""
    try:
        secret = 42 // 0
        assert secret
    except ZeroDivisionError:
        logger.exception("it broke")
    assert "ZeroDivisionError" in screen.getvalue()


def test_level_is_of_one_logger_alone_when_it_is_its_own(logger: DsmLogger, screen: Screen) -> None:
    """A manager's ``log_level`` changes nothing for others, and ``FOLLOW`` follows."""
    loud, quiet = logger.at_level("DEBUG"), logger.at_level("CRITICAL")
    logger.info("common")
    loud.debug("loud")
    quiet.error("quiet")
    assert "loud" in screen.getvalue()
    assert "common" not in screen.getvalue()
    assert "quiet" not in screen.getvalue()
    assert loud.at_level(FOLLOW).level == "ERROR"
    assert loud.at_level("WARNING").level == "WARNING"  # the same word, meant
    logger.configure_level("INFO")
    assert loud.at_level(FOLLOW).level == "INFO"
    assert loud.level == "DEBUG"


def test_lines_about_requests_are_left_out_when_that_is_wanted(
    logger: DsmLogger, screen: Screen
) -> None:
    """``suppress_http_debug``: those of the network's rooms, whatever their level."""
    logger.configure_level("DEBUG")
    logger.piker_line("DEBUG", "rest", "request", network=False)
    logger.piker_line("DEBUG", "history", "step", network=False)
    logger.piker_line("ERROR", "rest", "failure", network=False)
    assert "step" in screen.getvalue()
    assert "failure" in screen.getvalue()
    assert "request" not in screen.getvalue()


def test_file_gets_the_lines_when_one_is_configured(
    logger: DsmLogger, screen: Screen, tmp_path: Path
) -> None:
    """Without colours; its directory is made, and it is a new one every 10 MB."""
    path = tmp_path / "logs" / "dsm.log"
    logger.configure_file(path).error("<red>to the file</red>")
    assert path.read_text().endswith("to the file\n")
    line = "x" * 1_000_000
    for _ in range(11):
        logger.error(line)
    assert len(list(path.parent.iterdir())) == 2
    logger.configure_file(None).error("not there")
    assert "not there" not in path.read_text()


@pytest.mark.parametrize("word", ["LOUD", "", "5", None])
def test_level_is_refused_when_it_is_none(logger: DsmLogger, word: object) -> None:
    """As a ValueError that names the valid ones."""
    with pytest.raises(Unsupported, match="log level"):
        logger.configure_level(word)  # type: ignore[arg-type]


def test_level_is_found_when_its_first_letter_is_given() -> None:
    """D, I, W, E, C: what the demo's option takes."""
    found = [level_of(letter) for letter in "diwec"]
    assert found == ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


def test_trace_ids_differ_when_made(logger: DsmLogger) -> None:
    """Eight hexadecimal digits."""
    found = {logger.generate_trace_id() for _ in range(100)}
    assert len(found) == 100
    assert all(len(one) == 8 and int(one, 16) >= 0 for one in found)


def test_sinks_of_the_host_are_left_alone_when_lines_are_written(
    logger: DsmLogger, screen: Screen
) -> None:
    """The host's loguru keeps its handlers and gets none of these lines."""
    theirs = io.StringIO()
    handler = loguru.logger.add(theirs, format="{message}")
    try:
        before = repr(loguru.logger)
        logger.configure_level("DEBUG").error("ours")
        logger.configure_file(None)
        assert repr(loguru.logger) == before
        loguru.logger.info("theirs")
        assert theirs.getvalue() == "theirs\n"
    finally:
        loguru.logger.remove(handler)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "shown"),
    [(None, ["E"]), ("INFO", ["I", "E"]), ("CRITICAL", []), ("junk", ["E", "junk"])],
)
def test_environment_is_read_when_imported(
    tmp_path: Path, level: str | None, shown: list[str]
) -> None:
    """Level and file; a level that is none is said, and ERROR counts."""
    path = tmp_path / "dsm.log"
    env = {**os.environ, "DSM_LOG_FILE": str(path)}
    env |= {"DSM_LOG_LEVEL": level} if level else {}
    code = "from piker.dsm import logger\nlogger.info('say-I')\nlogger.error('say-E')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    for text in (done.stderr, path.read_text() if path.exists() else ""):
        for word in ("I", "E"):
            assert (f"say-{word}" in text) == (word in shown)
        assert ("junk" in text) == ("junk" in shown)
