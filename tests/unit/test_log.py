"""Events as lines, levels by rank of who says them, and a host program whose loguru is its own."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
import trio
from loguru import logger as host_logger

from piker import log


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Catch what piker logs; leave logging as it was."""
    monkeypatch.delenv("PIKER_LOG", raising=False)
    stream = io.StringIO()
    yield stream
    log.configure("WARNING")


@pytest.mark.parametrize(
    ("said", "environment", "default", "level"),
    [
        ("debug", "ERROR", "INFO", "DEBUG"),
        (None, "ERROR", "INFO", "ERROR"),
        (None, None, "INFO", "INFO"),
        (None, None, "WARNING", "WARNING"),
    ],
)
def test_option_beats_environment_beats_configuration_when_levels_differ(
    lines: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    said: str | None,
    environment: str | None,
    default: str,
    level: str,
) -> None:
    """The nearest word counts."""
    if environment:
        monkeypatch.setenv("PIKER_LOG", environment)
    log.configure(said, default=default, stream=lines)
    assert log.level_name() == level


def test_sinks_of_the_host_program_are_left_alone_when_piker_logs(lines: io.StringIO) -> None:
    """A program that imports piker keeps its handlers, and gets none of piker's lines."""
    theirs = io.StringIO()
    handler = host_logger.add(theirs, format="{message}")
    try:
        log.configure("INFO", actor="host", stream=lines)
        log.get_logger("x").info("ours.event", text="two words", n=1)
        host_logger.warning("theirs")
    finally:
        host_logger.remove(handler)
    assert theirs.getvalue() == "theirs\n"
    assert lines.getvalue().endswith('Z INFO     host ours.event text="two words" n=1\n')


def test_a_secret_is_never_written_when_it_is_logged(lines: io.StringIO) -> None:
    """Neither the value nor its repr."""
    log.configure("INFO", stream=lines)
    log.get_logger("x").error("login", key=log.Secret("s3cr3t"), whole=[log.Secret("s3cr3t")])
    assert "s3cr3t" not in lines.getvalue()
    assert "key=***" in lines.getvalue()


async def test_lines_of_a_block_go_to_its_writer_when_redirected(lines: io.StringIO) -> None:
    """Those of its worker threads too, at every level; other lines stay where they were."""
    log.configure("WARNING", stream=lines)
    found: list[tuple[str, str, str]] = []
    logger = log.get_logger("room")
    with log.redirected(lambda *line: found.append(line)):
        logger.debug("seen", size=1)
        await trio.to_thread.run_sync(logger.error, "seen.too")
    logger.error("not.seen")
    assert found == [("DEBUG", "room", "seen size=1"), ("ERROR", "room", "seen.too")]
    assert "not.seen" in lines.getvalue()
    assert "seen.too" not in lines.getvalue()
