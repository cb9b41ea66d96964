"""This process as an actor: a client that only calls, or a server that others call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from piker.errors import ConfigError, Refused
from piker.service._tractor_patches import tractor
from piker.service.registry import Address

__all__ = ["open_client_runtime", "open_server_runtime"]

_CLOSE_S = 0.5  # how long an orderly end of our connections may take
_callers = 0  # how many open_client_runtime are open
_ALWAYS = ("piker.service.endpoints",)  # every server answers ping


@asynccontextmanager
async def open_client_runtime(name: str = "client") -> AsyncIterator[None]:
    """Make this process able to call others. Serves nothing, listens nowhere.

    Any number may be open at once, and end in any order: the last one ends the runtime. Inside
    a server process it does nothing.
    """
    global _callers
    if _callers == 0 and tractor.current_actor(err_on_no_runtime=False) is not None:
        yield
        return
    if _callers == 0:
        tractor._state._current_actor = tractor._actor.Actor(name, enable_modules=[])
    _callers += 1
    try:
        yield
    finally:
        _callers -= 1
        if _callers == 0:
            tractor._state._current_actor = None


@asynccontextmanager
async def open_server_runtime(
    name: str, registry: Address, modules: Sequence[str], *, registrar: bool = False
) -> AsyncIterator[Address]:
    """Serve the endpoints of ``modules``; yield the address we listen at.

    A registrar is the first actor at ``registry`` and raises ``ConfigError`` when the port is
    taken; any other registers there. On exit every connection is closed, and the end is bounded.
    """
    try:
        async with tractor.open_root_actor(
            arbiter_addr=registry,
            name=name,
            enable_modules=[*_ALWAYS, *modules],
            loglevel="critical",
        ) as actor:
            if registrar and not actor.is_arbiter:
                raise _taken(registry, "your own pikerd of another runtime directory")
            if not registrar and actor.is_arbiter:
                raise ConfigError(f"no pikerd answers at {registry[0]}:{registry[1]}.")
            actor._arb_addr = tuple(actor.accept_addr[:2]) if registrar else registry
            try:
                yield tuple(actor.accept_addr[:2])
            finally:
                with trio.CancelScope(shield=True):
                    await _close_all(actor)
    except OSError as err:
        if isinstance(err, Refused) or not registrar:
            raise
        raise _taken(registry, "another program") from err


async def _close_all(actor: Any) -> None:
    """Close every connection, so that no peer can keep the runtime from ending."""
    actor.cancel_server()
    with trio.move_on_after(_CLOSE_S):
        await actor.cancel_rpc_tasks()
    for channels in list(actor._peers.values()):
        for channel in channels:
            await trio.aclose_forcefully(channel.msgstream.stream)
    actor._no_more_peers.set()


def _taken(registry: Address, who: str) -> ConfigError:
    return ConfigError(
        f"{registry[0]}:{registry[1]} is taken by {who}.",
        remedy="Choose another port: --registry, or [network] registry in conf.toml.",
    )
