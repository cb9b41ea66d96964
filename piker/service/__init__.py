"""Processes: find, start, watch and authenticate them. All of tractor's runtime API is in here.

A daemon's room declares what may be called::

    @service.request                      # one call, one answer
    async def add(a: int, b: int) -> int: ...

    @service.dialog                       # a first value, then a stream both ways
    async def follow(talk: service.ServerDialog, what: str) -> None: ...

and any process of the same user calls it::

    async with service.open_service("datad.kraken", start_pikerd=True) as peer:
        await peer.run(add, a=1, b=2)
        async with peer.open_dialog(follow, what="x") as (first, stream): ...

Everything on the calling side raises :class:`~piker.errors.PeerLost` within a second when the
other process dies or freezes. docs/internals/processes.md tells how.
"""

from piker.service.daemon import (
    ensure_pikerd,
    list_services,
    open_pikerd,
    open_pikerd_peer,
    open_service,
    start_here,
    stop_pikerd,
    wait_stopped,
)
from piker.service.endpoints import ServerDialog, dialog, request
from piker.service.liveness import die_with, is_alive, wait_exit
from piker.service.peer import Dialog, Peer, open_peer
from piker.service.registry import PikerdInfo, read_pikerd, registry_address
from piker.service.runtime import open_client_runtime, open_server_runtime
from piker.service.supervise import ServiceInfo

__all__ = [
    "Dialog",
    "Peer",
    "PikerdInfo",
    "ServerDialog",
    "ServiceInfo",
    "dialog",
    "die_with",
    "ensure_pikerd",
    "is_alive",
    "list_services",
    "open_client_runtime",
    "open_peer",
    "open_pikerd",
    "open_pikerd_peer",
    "open_server_runtime",
    "open_service",
    "read_pikerd",
    "registry_address",
    "request",
    "start_here",
    "stop_pikerd",
    "wait_exit",
    "wait_stopped",
]
