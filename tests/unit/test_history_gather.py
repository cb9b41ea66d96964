"""Files of an archive that come soon after each other are stored as one, and none is lost."""

from __future__ import annotations

import itertools

import numpy as np
import trio
from hypothesis import given
from hypothesis import strategies as st

from piker.brokers.archive import Defect
from piker.data.history.gather import GATHER_ROWS, GATHER_S, Answer, gather, joined, neighbours
from piker.data.history.plan import Step, Unit
from piker.data.history.sources import Fetched
from piker.data.store.manifest import Origin
from piker.ohlcv import KLINE_DTYPE


def answer(
    start: int, end: int, *, source: str = "archive", final: bool = False, rows: int | None = None
) -> Answer:
    """Return a file of bars that open every second."""
    bars = np.zeros(end - start if rows is None else rows, KLINE_DTYPE)
    if rows is None:
        bars["time"] = np.arange(start, end)
    path = f"{start}.zip"
    origin = Origin(path, source, start, end, "sha", "etag", True)
    fetched = Fetched(
        bars, start, end, final, "why", (Defect("duplicate", start),), origin, path, 10
    )
    return Answer(Step(source, Unit(start, end), ()), fetched)


class Store:
    """Keeps what it is told to write."""

    def __init__(self) -> None:
        self.writes: list[list[int]] = []

    async def write(self, answers: list[Answer]) -> None:
        """Write at once."""
        await trio.lowlevel.checkpoint()
        self.writes.append([one.fetched.start_s for one in answers])


async def test_files_are_stored_as_one_when_they_come_together(autojump_clock: object) -> None:
    """The last of them closes the channel: nothing waits for more."""
    store, begun = Store(), trio.current_time()
    send, receive = trio.open_memory_channel[Answer](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gather, receive, store.write)
        async with send:
            for at in range(5):
                await send.send(answer(at, at + 1))
    assert store.writes == [[0, 1, 2, 3, 4]]
    assert trio.current_time() == begun


async def test_file_is_stored_soon_when_the_next_is_late(autojump_clock: object) -> None:
    """What comes slowly is stored as it comes."""
    store = Store()
    send, receive = trio.open_memory_channel[Answer](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gather, receive, store.write)
        async with send:
            await send.send(answer(0, 1))
            await trio.sleep(GATHER_S / 2)
            await send.send(answer(1, 2))
            await trio.sleep(GATHER_S)
            assert store.writes == [[0, 1]]
            await send.send(answer(2, 3))
    assert store.writes == [[0, 1], [2]]


async def test_no_more_than_the_bound_is_held_when_files_are_large(autojump_clock: object) -> None:
    """A file above the bound is stored alone; what did not fit begins the next lot."""
    store, third = Store(), GATHER_ROWS // 3
    sizes = [third, third, third, third, GATHER_ROWS + 1, 1]
    send, receive = trio.open_memory_channel[Answer](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gather, receive, store.write)
        async with send:
            for at, size in enumerate(sizes):
                await send.send(answer(at, at + 1, rows=size))
    assert store.writes == [[0, 1, 2], [3], [4], [5]]


async def test_what_waits_is_stored_when_the_fill_is_cancelled(autojump_clock: object) -> None:
    """A person who stops a fill keeps what was fetched."""
    store = Store()
    send, receive = trio.open_memory_channel[Answer](0)
    async with trio.open_nursery() as nursery, send:
        nursery.start_soon(gather, receive, store.write)
        await send.send(answer(0, 1))
        await send.send(answer(1, 2))
        nursery.cancel_scope.cancel()
    assert store.writes == [[0, 1]]


def test_answers_stay_apart_when_they_can_not_be_stored_as_one() -> None:
    """A gap, an overlap, another source or another meaning of an absent bar."""
    answers = [
        answer(20, 30), answer(0, 10), answer(10, 20), answer(35, 40), answer(38, 50),
        answer(50, 60, source="rest"), answer(60, 70, source="rest", final=True),
    ]  # fmt: skip
    groups = [[one.fetched.start_s for one in group] for group in neighbours(answers)]
    assert groups == [[0, 10, 20], [35], [38], [50], [60]]


def test_nothing_is_joined_when_a_file_has_no_range() -> None:
    """A month of which no bar has closed yet says nothing about its range."""
    empty = answer(10, 10)
    assert [len(group) for group in neighbours([answer(0, 10), empty])] == [1, 1]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.randoms())
def test_joined_answer_has_every_row_and_defect_when_files_follow_each_other(
    lengths: list[int], random: object
) -> None:
    """In whatever order they came."""
    edges = np.cumsum([0, *lengths]).tolist()
    answers = [answer(low, high) for low, high in itertools.pairwise(edges)]
    random.shuffle(answers)  # type: ignore[attr-defined]
    (group,) = neighbours(answers)
    whole = joined(group)
    assert (whole.start_s, whole.end_s) == (0, edges[-1])
    assert whole.rows["time"].tolist() == list(range(edges[-1]))
    assert [one.count for one in whole.defects] == edges[:-1]
    assert whole.bytes == 10 * len(lengths)
    assert whole.origin is not None
    assert whole.origin.path == f"{edges[-2]}.zip"
