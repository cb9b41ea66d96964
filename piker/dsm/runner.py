"""One thread that runs trio for every manager of the process.

The caller may be plain code, a notebook inside asyncio's loop, or a task of trio's: it blocks on a
future until the answer is in, and shares nothing with the loop of the thread. The thread is made at
the first call that needs it, made anew in a forked child, and ended with the process.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, TypeVar

import outcome
import trio

from piker.errors import Bug

__all__ = ["is_running", "run"]

T = TypeVar("T")
END_S = 5.0  # how long the end of the process waits for what is being written
CANCEL_S = 5.0  # how long Ctrl-C waits for a call to be cleared away; disk writes can not be cut


class _Runner:
    """The thread, its token and its nursery."""

    def __init__(self) -> None:
        self._started: Future[tuple[trio.lowlevel.TrioToken, trio.Nursery]] = Future()
        self._thread = threading.Thread(target=self._main, name="piker-dsm", daemon=True)
        self._thread.start()
        self._token, self._nursery = self._started.result()

    def _main(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as err:
            if not self._started.done():
                self._started.set_exception(err)
            raise

    async def _serve(self) -> None:
        async with trio.open_nursery() as nursery:
            self._started.set_result((trio.lowlevel.current_trio_token(), nursery))
            await trio.sleep_forever()

    def submit(
        self, call: Callable[[], Awaitable[Any]], answer: Future[Any], scope: trio.CancelScope
    ) -> None:
        """Start a call; its outcome goes into ``answer``. Raises ``RunFinishedError``."""

        async def work() -> None:
            with scope:
                result = await outcome.acapture(call)
                # Cancelled: by `scope` or with the whole loop; both end below, without an answer.
                if isinstance(result, outcome.Error) and isinstance(result.error, trio.Cancelled):
                    raise result.error
                _settle(answer, result)
            if not answer.done():
                answer.cancel()

        self._token.run_sync_soon(self._nursery.start_soon, work)

    def cancel(self, scope: trio.CancelScope) -> None:
        """Cancel a call, from any thread."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(scope.cancel)

    def end(self) -> None:
        """Cancel everything and wait for it."""
        self.cancel(self._nursery.cancel_scope)
        self._thread.join(END_S)

    @property
    def is_mine(self) -> bool:
        """Tell whether the caller is this very thread, which must never wait for itself."""
        return threading.current_thread() is self._thread

    @property
    def is_alive(self) -> bool:
        """Tell whether calls can be started."""
        return self._thread.is_alive()


def _settle(answer: Future[Any], result: outcome.Outcome[Any]) -> None:
    if isinstance(result, outcome.Error):
        answer.set_exception(result.error)
    else:
        answer.set_result(result.unwrap())


_runner: _Runner | None = None
_guard = threading.Lock()


def is_running() -> bool:
    """Tell whether the thread was started in this process."""
    return _runner is not None and _runner.is_alive


def run(call: Callable[[], Awaitable[T]]) -> T:
    """Run an async function on the thread, and wait for it.

    Blocks the caller's thread, whatever loop it runs. Ctrl-C cancels the call, and is raised when
    the call has been cleared away (or after ``CANCEL_S``). Context variables are not carried over.
    """
    global _runner
    with _guard:
        if _runner is None or not _runner.is_alive:
            _runner = _Runner()
        runner = _runner
    if runner.is_mine:
        raise Bug("a progress callback can not ask for history: its call would wait for itself.")
    answer: Future[T] = Future()
    scope = trio.CancelScope()
    runner.submit(call, answer, scope)
    try:
        return answer.result()
    except BaseException as err:
        if not answer.done():
            runner.cancel(scope)
            _wait(answer)
        if isinstance(err, CancelledError):
            raise KeyboardInterrupt from None  # the loop ended under the call: the process ends
        raise


def _wait(answer: Future[Any]) -> None:
    with suppress(CancelledError, TimeoutError):
        answer.exception(CANCEL_S)


def _end() -> None:
    if _runner is not None and _runner.is_alive:
        _runner.end()


def _after_fork() -> None:
    """Forget the parent's threads: they are not in this process."""
    global _guard, _runner
    _guard = threading.Lock()
    _runner = None
    # Trio would hand work to idle threads that only the parent has (0.23 does not know of forks).
    from trio._core._thread_cache import THREAD_CACHE

    THREAD_CACHE._idle_workers.clear()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_end)
