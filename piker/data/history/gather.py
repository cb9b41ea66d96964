"""Files of an archive that come soon after each other, stored as one.

A year of minutes comes as twelve files within a second. Stored one by one they would be hashed,
synced and committed twelve times, read again and compacted; together they are two files of the
store at once. What comes slowly is stored as it comes.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from operator import attrgetter
from typing import NamedTuple

import msgspec
import numpy as np
import trio

from piker.data.history.plan import Step
from piker.data.history.sources import Fetched

__all__ = ["GATHER_ROWS", "GATHER_S", "Answer", "gather", "joined", "neighbours"]

GATHER_S = 1.0  # how long a file waits for others: what a killed fill may have to fetch again
GATHER_ROWS = 300_000  # bars stored at once: half a year of minutes, 29 MB and a copy of them


class Answer(NamedTuple):
    """What a source answered, and to which step."""

    step: Step
    fetched: Fetched


async def gather(
    answers: trio.MemoryReceiveChannel[Answer], write: Callable[[list[Answer]], Awaitable[None]]
) -> None:
    """Give ``write`` the answers of a channel, several at a time, until it is closed.

    None waits longer than ``GATHER_S`` for others, or at all when no more can come. Cancellation
    still writes what has been taken from the channel.
    """
    held: list[Answer] = []
    is_open = True
    try:
        while is_open or held:
            is_open = is_open and await _take(answers, held)
            count = len(held) if _rows(held) <= GATHER_ROWS else max(1, len(held) - 1)
            if held:
                await write(held[:count])
                del held[:count]
    except trio.Cancelled:
        if held:
            with trio.CancelScope(shield=True):
                await write(held)
        raise


async def _take(answers: trio.MemoryReceiveChannel[Answer], held: list[Answer]) -> bool:
    """Add to the answers that are held, until they are enough or too old; False at the end."""
    try:
        if not held:
            held.append(await answers.receive())
        with trio.move_on_after(GATHER_S):
            while _rows(held) <= GATHER_ROWS:
                held.append(await answers.receive())
    except trio.EndOfChannel:
        return False
    return True


def _rows(answers: list[Answer]) -> int:
    return sum(len(answer.fetched.rows) for answer in answers)


def neighbours(answers: list[Answer]) -> list[list[Answer]]:
    """Return the answers by time, in groups that can be stored as one.

    Those of a group are of one source, follow each other without a gap, and mean the same by a bar
    that is not there. Pure.
    """
    groups: list[list[Answer]] = []
    for answer in sorted(answers, key=attrgetter("fetched.start_s")):
        if groups and _continues(groups[-1][-1], answer):
            groups[-1].append(answer)
        else:
            groups.append([answer])
    return groups


def _continues(before: Answer, after: Answer) -> bool:
    one, two = before.fetched, after.fetched
    return (
        before.step.source == after.step.source
        and one.end_s == two.start_s < two.end_s
        and (one.final, one.why) == (two.final, two.why)
    )


def joined(group: list[Answer]) -> Fetched:
    """Return a group of :func:`neighbours` as one answer, whose origin is that of the last."""
    parts = [answer.fetched for answer in group]
    if len(parts) == 1:
        return parts[0]
    # As plain bytes: numpy would copy rows of fields field by field, in three times the time.
    rows = np.concatenate([np.ascontiguousarray(part.rows).view("u1") for part in parts])
    return msgspec.structs.replace(
        parts[-1],
        rows=rows.view(parts[-1].rows.dtype),
        start_s=parts[0].start_s,
        defects=tuple(itertools.chain.from_iterable(part.defects for part in parts)),
        bytes=sum(part.bytes for part in parts),
    )
