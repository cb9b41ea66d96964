"""The client runtime is one per process, however many ask for it and in whatever order they end."""

from __future__ import annotations

from contextlib import AsyncExitStack

from piker.service._tractor_patches import tractor
from piker.service.runtime import open_client_runtime


async def test_runtime_lasts_until_its_last_user_ends() -> None:
    """The first to ask is the first to go; the others still can call."""
    async with AsyncExitStack() as first, AsyncExitStack() as second:
        await first.enter_async_context(open_client_runtime())
        await second.enter_async_context(open_client_runtime())
        actor = tractor.current_actor()
        await first.aclose()
        async with open_client_runtime():
            assert tractor.current_actor() is actor
        await second.aclose()
    assert tractor.current_actor(err_on_no_runtime=False) is None
