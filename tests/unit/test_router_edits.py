"""Edits on their way: one at a time, the newest next, none once the order is to go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from paper_routing import BTC, PAPER, PaperLink, order, routing, told

from piker.clock import wall_ns
from piker.orders import (
    BrokerdCancel,
    BrokerdError,
    BrokerdOrder,
    BrokerdOrderAck,
    BrokerdRequest,
    BrokerdSync,
    Cancel,
    Status,
    SyncState,
)

D = Decimal


class Slow(PaperLink):
    """A venue that takes edits, and cancels while it is deaf, and says nothing of them."""

    deaf = False

    async def send(self, request: BrokerdRequest) -> None:
        """Leave it to the test what becomes of it."""
        is_edit = isinstance(request, BrokerdOrder) and bool(request.reqid)
        if is_edit or (self.deaf and isinstance(request, BrokerdCancel)):
            self.sent.append(request)
        else:
            await super().send(request)


def _edits(link: PaperLink) -> list[BrokerdOrder]:
    """Return the edits that were sent."""
    return [one for one in link.sent if isinstance(one, BrokerdOrder) and one.reqid]


def _cancels(link: PaperLink) -> list[BrokerdCancel]:
    """Return the cancels that were sent."""
    return [one for one in link.sent if isinstance(one, BrokerdCancel)]


async def _until_so(found: Callable[[], bool]) -> None:
    """Wait for what the journal's thread leads to."""
    with trio.fail_after(10):
        while not found():
            await trio.sleep(0.01)


async def _until(news: trio.MemoryReceiveChannel[Any], resp: str) -> AsyncIterator[Status]:
    """Yield statuses up to one that says so."""
    with trio.fail_after(10):
        async for one in news:
            assert isinstance(one, Status)
            yield one
            if one.resp == resp:
                return


async def test_one_edit_is_at_the_venue_at_a_time_and_a_refusal_is_of_that_one(
    tmp_path: Path,
) -> None:
    """The newest of those asked for meanwhile is sent next. Also after a loss, and a restart."""
    async with routing(tmp_path, Slow()) as (router, link), router.news.listen() as news:
        await router.order(order())
        await told(news, upto="open")
        reqid = router.orders["a"].reqid
        refusal = BrokerdError(reason="no", oid="a", account=PAPER, request="edit")

        async def sent(*sizes: int) -> None:
            """Wait until edits of these sizes were sent, and see that there are no more."""
            await _until_so(lambda: len(_edits(link)) >= len(sizes))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert [one.size for one in _edits(link)] == list(sizes)
            assert {one.reqid for one in _edits(link)} == {reqid}

        def stands(size: int, editing: int | None) -> bool:
            state = router.orders["a"]
            now = state.editing.size if state.editing is not None else None
            return (state.order.size, now) == (size, editing)

        for size in (4, 1, 5):
            await router.order(order(size=D(size)))
        dropped = [one async for one in _until(news, "error")][-1]
        assert (dropped.code, dropped.req and dropped.req.size) == ("superseded", 1)
        await sent(4)
        await router.lost(PAPER, "cut")
        sync = BrokerdSync(account=PAPER, state=SyncState.SYNCED, time_ns=wall_ns())
        for _ in range(2):
            router.hear(PAPER, sync)
            await sent(4, 4)  # it may have been lost: once
        link.tell([refusal])
        await sent(4, 4, 5)
        assert stands(2, 5)
        await router.order(order(size=D(1)))
        first = next(one for one in _edits(link) if one.size == 5)
        done = BrokerdOrderAck(oid="a", reqid=reqid, account=PAPER, request="edit", terms=first)
        link.tell([done])
        await sent(4, 4, 5, 1)
        link.tell([refusal])
        await _until_so(lambda: stands(5, None))
        await sent(4, 4, 5, 1)
        await router.order(order(size=D(6)))
        await router.order(order(size=D(7)))
    async with routing(tmp_path, Slow()) as (router, link):
        await _until_so(lambda: [one.size for one in _edits(link)] == [6])
        for waiting in (7, None):
            link.tell([refusal])
            await _until_so(lambda: stands(5, waiting))  # noqa: B023
    async with routing(tmp_path) as (router, link):
        assert stands(5, None)
        by_hand = msgspec.structs.replace(first, size=D(3))
        link.tell([BrokerdOrderAck(oid="a", reqid=reqid, account=PAPER, request="edit",
                                   terms=by_hand)])  # fmt: skip
        await _until_so(lambda: stands(3, None))


async def test_edit_reaches_the_venue_when_it_is_sent(tmp_path: Path) -> None:
    """The same oid with another price; limits are asked again."""
    async with routing(tmp_path) as (router, _), router.news.listen() as news:
        await router.order(order())
        await told(news, upto="open")
        await router.order(order(price=D(98), size=D(1)))
        with trio.fail_after(5):
            while router.orders["a"].order.price != 98:
                await news.receive()
        assert router.orders["a"].remaining == 1
        await router.order(order(price=D(150)))
        with trio.fail_after(5):
            while True:
                status = await news.receive()
                if isinstance(status, Status) and status.code:
                    break
        assert status.code == "price-collar"
        assert router.orders["a"].order.price == 98


@pytest.mark.parametrize("compared", [False, True], ids=["heard", "compared"])
async def test_edit_that_waits_is_not_sent_once_the_order_is_to_go(
    tmp_path: Path, compared: bool
) -> None:
    """A cancel that was asked for later comes first; where it is refused, the edit is sent.

    So it is when the account was compared anew meanwhile, and the cancel was sent again.
    """
    async with routing(tmp_path, Slow()) as (router, link), router.news.listen() as news:
        await router.order(order())
        await told(news, upto="open")
        for size in (4, 5):
            await router.order(order(size=D(size)))
        link.deaf = True
        await router.cancel(Cancel(oid="a", symbol=BTC.fqme))
        if compared:
            _compare(link)
            await _until_so(lambda: len(_cancels(link)) == 2)
        for request, sizes in (("edit", [4]), ("cancel", [4, 5])):
            link.tell([BrokerdError(reason="no", oid="a", account=PAPER, request=request)])
            await _until_so(lambda: len(_edits(link)) == len(sizes))  # noqa: B023
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert [one.size for one in _edits(link)] == sizes


async def test_edit_that_was_not_answered_is_sent_again_when_the_account_was_compared(
    tmp_path: Path,
) -> None:
    """Once each time; the one that waits still waits."""
    async with routing(tmp_path, Slow()) as (router, link), router.news.listen() as news:
        await router.order(order())
        await told(news, upto="open")
        for size in (4, 5):
            await router.order(order(size=D(size)))
        for times in (1, 2, 3):
            await _until_so(lambda: len(_edits(link)) == times)  # noqa: B023
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert [one.size for one in _edits(link)] == [4] * times
            _compare(link)


def _compare(link: PaperLink) -> None:
    """Say that the venue's user stream was lost for a moment."""
    for state in (SyncState.SYNCING, SyncState.SYNCED):
        link.tell([BrokerdSync(account=PAPER, state=state, time_ns=wall_ns())])


async def test_post_only_order_on_paper_stands_as_it_was_when_an_edit_would_take(
    tmp_path: Path,
) -> None:
    """The edit is refused in words; nothing of it trades."""
    async with routing(tmp_path) as (router, _), router.news.listen() as news:
        await router.order(order(post_only=True))
        await told(news, upto="open")
        await router.order(order(post_only=True, price=D(101)))
        await _until_so(lambda: router.orders["a"].editing is None)
        state = router.orders["a"]
        assert (state.phase, state.filled, state.order.price) == ("open", 0, 99)
        assert "post-only" in state.reason
