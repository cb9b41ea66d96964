"""A service for the tests of piker.service: it adds, counts, fails and hangs."""

from __future__ import annotations

import os

import trio

from piker import config, service
from piker.errors import DataUnavailable, ProviderError
from piker.service._tractor_patches import tractor


async def main(name: str, task_status: trio.TaskStatus[None]) -> None:
    """Serve until cancelled; one called ``bad``, or all with a file ``bad``, can not start."""
    if name.endswith(".bad") or (config.data_dir() / "bad").exists():
        raise ProviderError("there is no provider 'bad'.", remedy="Did you mean 'good'?")
    task_status.started()
    await trio.sleep_forever()


@service.request
async def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@service.request
async def whoami() -> int:
    """Return the pid."""
    return os.getpid()


@service.request
async def contexts() -> int:
    """Return how many calls tractor has not forgotten here."""
    return len(tractor.current_actor()._contexts)


@service.request
async def refuse() -> None:
    """Raise a typed error."""
    raise DataUnavailable("never had it.", remedy="Ask elsewhere.")


@service.request
async def break_down() -> None:
    """Raise an untyped error."""
    raise ZeroDivisionError("a bug")


@service.dialog
async def count(talk: service.ServerDialog, upto: int) -> None:
    """Stream numbers, then echo what is sent."""
    async with talk.start({"upto": upto}) as stream:
        for number in range(upto):
            await stream.send(number)
        async for message in stream:
            await stream.send(message)


async def hidden() -> int:
    """Not an endpoint."""
    return 1
