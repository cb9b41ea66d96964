"""A venue's limits are kept, whatever is asked of them and however late its answers come."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock
from wsserver import EPOCH_NS, TrioClock

from piker import clock, log
from piker.brokers.limits import CANCEL, CONNECT, DATA, ORDER, Budget, Limit, Priority, venue_budget
from piker.errors import Bug, Transient


class Venue:
    """A counter as the venue keeps it, which notes the worst it ever read."""

    def __init__(self, limit: Limit, phase: float) -> None:
        self.limit, self.phase = limit, phase
        self.hits: list[tuple[float, float]] = []
        self.level, self.at, self.worst = 0.0, 0.0, 0.0

    def count(self, cost: float) -> float:
        """Count one request now, and return the counter."""
        now = trio.current_time()
        self.hits.append((now, cost))
        if self.limit.window == "decay":
            rate = self.limit.capacity / self.limit.window_s
            self.level = max(0.0, self.level - (now - self.at) * rate) + cost
            self.at, reading = now, self.level
        elif self.limit.window == "rolling":
            reading = sum(c for t, c in self.hits if t > now - self.limit.window_s)
        else:
            span = self.limit.window_s
            window = (now + self.phase) // span
            reading = sum(c for t, c in self.hits if (t + self.phase) // span == window)
        self.worst = max(self.worst, reading)
        return reading


def run_mocked(main: Callable[[], object]) -> None:
    """Run an async function under an autojumping clock that is also piker's."""
    with clock.use_clock(TrioClock()):
        trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("window", ["fixed", "rolling", "decay"])
@pytest.mark.parametrize("seed", range(12))
def test_no_window_of_the_venue_is_exceeded_under_random_demand(window: str, seed: int) -> None:
    """Latencies of up to several windows, bursts and lulls: the venue never counts too much."""
    rng = random.Random(f"{window}-{seed}")
    weight = Limit("w", rng.choice([10, 50, 300]), rng.choice([1, 10, 60]), window, margin=0.0)
    raw = Limit("n", rng.choice([3, 20]), rng.choice([1, 5]), window, "requests", margin=0.0)

    async def main() -> None:
        budget = Budget("sim", [weight, raw])
        venues = [Venue(weight, rng.uniform(0, 60)), Venue(raw, rng.uniform(0, 60))]

        async def request(cost: float) -> None:
            permit = await budget.acquire(cost, priority=rng.choice(list(Priority)))
            await trio.sleep(rng.choice([0, 0.01, 0.5, 3, 20]) * rng.random())
            venues[0].count(cost)
            venues[1].count(1)
            await trio.sleep(rng.choice([0, 0.05, 1]) * rng.random())
            permit.done()

        async with trio.open_nursery() as nursery:
            for _ in range(150):
                await trio.sleep(rng.choice([0, 0, 0, 0.02, 2]) * rng.random())
                nursery.start_soon(request, rng.randint(1, 10))
        assert len(venues[0].hits) == 150
        for venue in venues:
            assert venue.worst <= venue.limit.capacity + 1e-6

    run_mocked(main)


@pytest.mark.parametrize("seed", range(8))
def test_no_fixed_window_is_exceeded_when_another_process_spends_too(seed: int) -> None:
    """The venue's header is believed: foreign requests made between ours are made room for."""
    rng = random.Random(seed)
    limit = Limit("w", 100, 60, "fixed", margin=0.1)

    async def main() -> None:
        budget, venue = Budget("sim", [limit]), Venue(limit, EPOCH_NS / clock.NS)
        for _ in range(200):
            if rng.random() < 0.2 and venue.worst < 100:
                now = (trio.current_time() + venue.phase) // 60
                room = 100 - sum(c for t, c in venue.hits if (t + venue.phase) // 60 == now)
                if room > 60:  # the stranger is no spoiler: it leaves us what we believe we have
                    venue.count(rng.randint(1, 25))
                    await one(budget, venue, 0)
            await one(budget, venue, rng.randint(1, 10))
        assert venue.worst <= 100

    async def one(budget: Budget, venue: Venue, cost: float) -> None:
        permit = await budget.acquire(cost)
        budget.observe("w", venue.count(cost))
        permit.done()
        await trio.sleep(rng.random() * 3)

    run_mocked(main)


def test_capacity_is_used_and_not_only_kept() -> None:
    """A safe limiter that stands still is no use: ten windows pass at least nine windows' worth."""

    async def main() -> None:
        budget = Budget("sim", [Limit("w", 100, 10, "rolling", margin=0.0)])
        passed = 0
        with trio.move_on_after(99):
            while True:
                permit = await budget.acquire(10)
                await trio.sleep(0.01)
                permit.done()
                passed += 10
        assert passed >= 900

    run_mocked(main)


def test_cancels_go_before_orders_before_data() -> None:
    """Getting out of risk comes first; within a priority, first come is first served."""
    order: list[str] = []

    async def main() -> None:
        budget = Budget("sim", [Limit("n", 1, 1, "rolling", "requests", margin=0.0)])
        (await budget.acquire()).done()

        async def ask(name: str, priority: Priority) -> None:
            permit = await budget.acquire(priority=priority)
            order.append(name)
            permit.done()

        async with trio.open_nursery() as nursery:
            for name, priority in [
                ("data1", Priority.DATA),
                ("data2", Priority.DATA),
                ("order1", Priority.ORDER),
                ("cancel1", Priority.CANCEL),
                ("order2", Priority.ORDER),
            ]:
                nursery.start_soon(ask, name, priority)
                await trio.testing.wait_all_tasks_blocked()

    run_mocked(main)
    assert order == ["cancel1", "order1", "order2", "data1", "data2"]


def test_data_passes_when_only_the_order_limit_is_full() -> None:
    """A full order counter holds back orders alone, and the earlier of two deadlines is kept."""

    async def main() -> None:
        budget = Budget(
            "sim",
            [
                Limit("orders", 1, 10, "rolling", "requests", (ORDER,), margin=0.0),
                Limit("all", 5, 60, "rolling", "requests", margin=0.0),
            ],
        )
        start = trio.current_time()
        (await budget.acquire(kind=ORDER, priority=Priority.ORDER)).done()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(order_at, budget, start + 10)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                (await budget.acquire(kind=DATA)).done()
            assert trio.current_time() == start
        with pytest.raises(Transient):
            await budget.acquire(max_wait_s=1)

    async def order_at(budget: Budget, when: float) -> None:
        (await budget.acquire(kind=ORDER, priority=Priority.ORDER)).done()
        assert trio.current_time() == pytest.approx(when, abs=0.05)

    run_mocked(main)


def test_a_later_caller_with_an_earlier_turn_is_not_overslept() -> None:
    """Who waits a minute watches the clock for who waits a second."""

    async def main() -> None:
        budget = Budget(
            "sim",
            [
                Limit("data", 1, 60, "rolling", "requests", (DATA,), margin=0.0),
                Limit("cancel", 1, 1, "rolling", "requests", (CANCEL,), margin=0.0),
            ],
        )
        for kind in (DATA, CANCEL):
            (await budget.acquire(kind=kind)).done()
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(budget.acquire, 1)
            await trio.testing.wait_all_tasks_blocked()
            await budget.acquire(kind=CANCEL)
            assert trio.current_time() - start == pytest.approx(1, abs=0.05)

    run_mocked(main)


def test_cancelled_waiter_gives_up_its_place_and_its_watch() -> None:
    """The one that watched the clock for all may go; the others still get their turn."""

    async def main() -> None:
        budget = Budget("sim", [Limit("n", 1, 5, "rolling", "requests", margin=0.0)])
        (await budget.acquire()).done()
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(1) as scope:
                nursery.start_soon(budget.acquire)
                await budget.acquire(priority=Priority.CANCEL)
            assert scope.cancelled_caught
        assert trio.current_time() >= 5

    run_mocked(main)


def test_penalty_of_a_kind_holds_that_kind_alone() -> None:
    """Too many new orders of one account: what gets out of risk goes on, so do others' orders."""

    async def main() -> None:
        counted = Limit("alice 10s", 100, 10, counts="requests", kinds=("order.alice",))
        budget = Budget("sim", [counted])
        start = trio.current_time()
        budget.penalise_kind("order.alice", None)
        assert (budget.penalty_s, budget.penalty_of("order.alice")) == (0, pytest.approx(10))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(budget.acquire, kind="order.alice"))
            await trio.testing.wait_all_tasks_blocked()
            for kind in (CANCEL, DATA, "order.bob"):
                (await budget.acquire(kind=kind)).done()
            assert trio.current_time() == start
        assert trio.current_time() - start == pytest.approx(10, abs=0.05)

    run_mocked(main)


def test_penalty_holds_everything_but_handshakes() -> None:
    """After 418 nothing is sent until the ban ends, and its end is logged as an error."""

    async def main() -> None:
        budget = Budget("sim", [Limit("c", 300, 300, "rolling", "requests", (CONNECT,))])
        start = trio.current_time()
        budget.penalise(30, banned=True)
        budget.penalise(5)  # a shorter one never shortens it
        (await budget.acquire(kind=CONNECT)).done()
        assert trio.current_time() == start
        with pytest.raises(Transient) as caught:
            await budget.acquire(max_wait_s=3)
        assert caught.value.retry_after == pytest.approx(27)
        (await budget.acquire(priority=Priority.CANCEL)).done()
        assert trio.current_time() - start == pytest.approx(30, abs=0.05)

    written = io.StringIO()
    log.configure("ERROR", stream=written)
    try:
        run_mocked(main)
    finally:
        log.configure("WARNING")
    assert "limits.banned venue=sim wait_s=30 until_s=" in written.getvalue()


def test_observed_figure_raises_and_never_lowers() -> None:
    """The venue's count is believed where it is above ours, until its window ends."""

    async def main() -> None:
        budget = Budget("sim", [Limit("w", 100, 60, "fixed", margin=0.0)])
        (await budget.acquire(40)).done()
        budget.observe("w", 10)
        assert budget.used("w") == 40
        budget.observe("w", 90)
        assert budget.used("w") == 90
        (await budget.acquire(5)).done()
        assert budget.used("w") == 95
        budget.observe("nobody-knows-this", 1e9)
        await trio.sleep(62)
        assert budget.used("w") == 0

    run_mocked(main)


def test_limits_are_replaced_at_run_time_and_counts_are_kept() -> None:
    """exchangeInfo says 6000 where we began with 10: what was spent stays spent."""

    async def main() -> None:
        budget = Budget("sim", [Limit("w", 10, 60, "fixed", margin=0.0)])
        (await budget.acquire(10)).done()
        with trio.move_on_after(1) as scope:
            await budget.acquire(1)
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(budget.acquire, 9)
            await trio.testing.wait_all_tasks_blocked()
            budget.set_limits([Limit("w", 100, 60, "fixed", margin=0.0)])
        assert budget.used("w") == 19
        assert trio.current_time() < 5

    run_mocked(main)


async def test_weight_above_a_whole_limit_is_our_bug() -> None:
    """It would wait for ever, so it is refused at once."""
    with pytest.raises(Bug):
        await Budget("sim", [Limit("w", 10, 60)]).acquire(11)


def test_lost_permit_is_counted_as_answered_in_the_end() -> None:
    """A task that died with its permit does not close the venue for ever."""

    async def main() -> None:
        budget = Budget("sim", [Limit("n", 1, 1, "rolling", "requests", margin=0.0)])
        await budget.acquire()
        await budget.acquire()
        assert trio.current_time() >= 120

    run_mocked(main)


def test_each_thread_has_its_own_budget_of_a_venue() -> None:
    """Event loops of two threads never wake each other's tasks; known limits hold in both."""
    venue_budget("threads").set_limits([Limit("n", 7, 1)])
    found: list[Budget] = []
    thread = threading.Thread(target=lambda: found.append(venue_budget("threads")))
    thread.start()
    thread.join()
    assert found[0] is not venue_budget("threads")
    assert found[0].limits == venue_budget("threads").limits


def test_one_budget_a_venue() -> None:
    """Everything in a thread shares it."""
    assert venue_budget("a-venue") is venue_budget("a-venue")
    assert venue_budget("a-venue") is not venue_budget("a-venue.futures")
