"""A replay's time, and trio made to do the same thing in the same order on every run.

:class:`ReplayClock` is both clocks of the process: :mod:`piker.clock`'s and the event loop's. It
moves only when it is told, and tells when there is nothing left to do before it has to.

What trio leaves to chance is taken from it here, and nowhere else: the order in which tasks that
can run are run (a seeded shuffle, once they are sorted by age). Its two switches for that are
private; pytest-trio uses the same ones. tests/unit/test_replay_run.py holds them.
"""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio
from trio._core import _run as trio_run

from piker.clock import NS, VirtualClock

__all__ = ["ReplayClock", "Scheduled", "repeatable", "unshield", "unswept"]

REAL_S = (
    0.05  # a pause of the machine's own time where nothing is conducted: at either end of a run
)


class ReplayClock(VirtualClock, trio.abc.Clock):
    """Virtual time for everything. ``on_idle`` is called when no task can run, if it is set."""

    def __init__(self, start_ns: int) -> None:
        super().__init__(start_ns)
        self.start_ns = start_ns
        self.on_idle: Callable[[], None] | None = None

    # -- the loop's clock ----------------------------------------------------------------------
    def start_clock(self) -> None:
        """Begin: nothing to do."""

    def current_time(self) -> float:
        """Return the virtual seconds since the start."""
        return (self._wall_ns - self.start_ns) / NS

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return that there is no reason to sleep; tell that nothing runs, where nothing is due."""
        if deadline <= self.current_time():
            return 0.0
        if self.on_idle is not None:
            self.on_idle()
            return 0.0
        if deadline < math.inf:
            self.to(self.due_ns(deadline))
            return 0.0
        return REAL_S

    # -- moving it -----------------------------------------------------------------------------
    def to(self, time_ns: int) -> int:
        """Move on to a time, which is returned; one that has passed moves nothing."""
        step = time_ns - self._wall_ns
        if step > 0:
            self._wall_ns = time_ns
            self._monotonic_ns += step
        return self._wall_ns

    def due_ns(self, deadline: float) -> int:
        """Return the first nanosecond at which a deadline of the loop has passed."""
        time_ns = self.start_ns + math.ceil(deadline * NS)
        while (time_ns - self.start_ns) / NS < deadline:
            time_ns += 1
        return time_ns

    def deadlines(self) -> Callable[[], float]:
        """Return what gives the running loop's next deadline, infinite where there is none."""
        found: Callable[[], float] = trio_run.GLOBAL_RUN_CONTEXT.runner.deadlines.next_deadline
        return found


class Scheduled(trio.abc.Instrument):
    """Counts how often any task was made ready to run."""

    def __init__(self) -> None:
        self.count = 0

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Count one."""
        self.count += 1


@contextmanager
def unswept() -> Iterator[None]:
    """Look for garbage seldom in the block, and not in what is there already.

    A recording is millions of objects that hold no cycle; looking through them costs a fifth of a
    replay with orders.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Let runs of trio in the block, and ``random``, be the same for the same seed.

    What a run itself brings in from outside (threads, sockets, the clock of the machine, the order
    of a set of strings) stays as it is.
    """
    switch, order, chance = (
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate(), random.getstate(),
    )  # fmt: skip
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True
    trio_run._r.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = switch
        trio_run._r.setstate(order)
        random.setstate(chance)


def unshield(task: trio.lowlevel.Task) -> None:
    """Let cancellation reach a task and all that it has started, whatever they are shielded by."""
    status = task._cancel_status  # type: ignore[attr-defined]  # slots made by attrs
    while status is not None:
        status._scope.shield = False
        status = status._parent
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            unshield(child)
