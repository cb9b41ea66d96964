"""The calling side: requests and dialogs that never hang on a peer that is gone.

tractor's runtime carries the messages; waiting for them is ours, because a caller must learn of a
dead or frozen process within a second (``PeerLost``), on every path including its own clean-up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from piker.errors import Bug, PeerLost, Refused
from piker.service._tractor_patches import tractor
from piker.service.auth import PeerSilent, connect
from piker.service.endpoints import ping, unpack_error
from piker.service.liveness import wait_exit
from piker.service.registry import Address
from piker.service.wire import Wire

__all__ = ["CALL_S", "Dialog", "Peer", "open_peer"]

CALL_S = 30.0  # a request's deadline; what takes longer is a dialog with progress
BEAT_S = 0.5  # pause between heartbeats
SILENCE_S = 1.5  # a heartbeat unanswered for this long is suspicious ...
AGAIN_S = 1.0  # ... and a loss when a second one is too. A dead process is known at once (pidfd);
# this is for a frozen one, and a machine under load must not look like that (docs/adr/0003).
GREET_S = 2.0  # a busy peer may take this long for its first word
LAST_S = 0.5  # how long a handler that has ended its stream may take for its last word
LEAVE_S = 0.5  # how long an orderly good-bye may take

_GONE = (
    trio.EndOfChannel, trio.ClosedResourceError, trio.BrokenResourceError,
    tractor._exceptions.TransportClosed,
)  # fmt: skip


class Peer:
    """Another process of this user, connected and watched."""

    def __init__(self, name: str, pid: int, address: Address, channel: Any) -> None:
        self.name = name
        self.pid = pid
        self._address = address
        self._wires: set[Wire] = set()
        self.lost = trio.Event()
        self._channel = channel
        self._actor = tractor.current_actor()
        self._scopes: set[trio.CancelScope] = set()

    async def run(
        self, endpoint: Callable[..., Any], /, *, type: Any = Any, timeout_s: float = CALL_S,
        **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Call a request endpoint; return its answer converted to ``type``.

        Raises what the handler raised, and ``PeerLost`` when the process dies, freezes or does
        not answer within ``timeout_s``. Cancellation does not stop the handler.
        """
        async with self._guard(timeout_s):
            context = await self._begin(endpoint, kwargs)
            try:
                message = await context._recv_chan.receive()
            finally:
                self._forget(context)
            return _value(message, "return", type)
        raise AssertionError("the guard returns or raises")

    @asynccontextmanager
    async def open_dialog(
        self, endpoint: Callable[..., Any], /, *, type: Any = Any, stream_type: Any = Any,
        **kwargs: Any,
    ) -> AsyncIterator[tuple[Any, Dialog]]:  # fmt: skip
        """Open a dialog; yield (first value, dialog).

        Leaving the block cancels the handler at the other end, and takes at most half a second
        whatever the state of the peer. Inside, the dialog raises ``PeerLost``.
        """
        context = wire = None
        try:
            async with self._guard(CALL_S):
                context = await self._begin(endpoint, kwargs)
                answer = await context._recv_chan.receive()
                first = _value(answer, "started", type)
                wire = await self._open_wire(answer, stream_type)
            self._wires.add(wire)
            yield first, Dialog(self, context, wire)
        finally:
            if wire is not None:
                self._wires.discard(wire)
                wire.close()
            if context is not None:
                with trio.CancelScope(deadline=trio.current_time() + LEAVE_S, shield=True):
                    await self._cancel(context)
                self._forget(context)

    async def _open_wire(self, answer: dict[str, Any], type: Any) -> Wire:
        """Make the connection that a dialog's first answer asks for."""
        try:
            errand = answer["started"]["wire"]
        except KeyError:
            raise Bug(f"{self.name} ended a dialog before it began.") from None
        try:
            return Wire(await connect(self._address, errand), type)
        except OSError as err:
            raise self._loss() from err

    async def _begin(self, endpoint: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        return await self._actor.start_remote_task(
            self._channel, endpoint.__module__, endpoint.__name__, _plain(kwargs)
        )

    async def _cancel(self, context: Any) -> None:
        if self.lost.is_set():
            return
        try:
            ask = await self._actor.start_remote_task(
                self._channel, "self", "_cancel_task", {"cid": context.cid}
            )
            self._forget(ask)
        except (*_GONE, tractor.RemoteActorError):
            return

    def _forget(self, context: Any) -> None:
        context._recv_chan.close()
        self._actor._contexts.pop((self._channel.uid, context.cid), None)

    @asynccontextmanager
    async def _guard(self, timeout_s: float) -> AsyncIterator[None]:
        """Map every way in which a peer can be gone to ``PeerLost``."""
        if self.lost.is_set():
            raise self._loss()
        scope = trio.move_on_after(timeout_s)
        self._scopes.add(scope)
        try:
            with scope:
                try:
                    yield
                except _GONE as err:
                    raise self._loss() from err
                except tractor.RemoteActorError as err:
                    raise Bug(f"{self.name} failed: {err}", remedy="Its log has more.") from err
        finally:
            self._scopes.discard(scope)
        if scope.cancelled_caught:
            raise self._loss()

    def _loss(self) -> PeerLost:
        return PeerLost(
            f"{self.name} (pid {self.pid}) died or stopped answering.",
            remedy="pikerd restarts it; see `piker services`.",
        )

    def mark_lost(self) -> None:
        """End everything that waits on this peer."""
        self.lost.set()
        for scope in self._scopes:
            scope.cancel()
        for wire in self._wires:
            wire.close()


class Dialog:
    """The calling end of a dialog: ``send``, ``receive``, async iteration."""

    def __init__(self, peer: Peer, context: Any, wire: Wire) -> None:
        self._peer = peer
        self._context = context
        self._wire = wire
        self._ended = False

    async def receive(self) -> Any:
        """Return the next message; ``trio.EndOfChannel`` when the handler ended the stream.

        Raises the handler's error if it failed, ``PeerLost`` if its process did.
        """
        try:
            return await self._wire.receive()
        except trio.EndOfChannel:
            self._wire.close()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as err:
            if not self._ended:
                await self._last_word()
                raise self._loss() from err
        if not self._ended:
            await self._last_word()
        raise trio.EndOfChannel

    async def _last_word(self) -> None:
        """Raise what the handler failed of, if it did; what it returns is nothing to anybody."""
        self._ended = True
        with trio.move_on_after(LAST_S):
            async with self._peer._guard(float("inf")):
                _value(await self._context._recv_chan.receive(), "return", Any)

    async def send(self, value: Any) -> None:
        """Send a message to the handler."""
        try:
            await self._wire.send(value)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as err:
            raise self._loss() from err

    def _loss(self) -> PeerLost:
        if self._peer.lost.is_set():
            return self._peer._loss()
        return PeerLost(f"{self._peer.name} (pid {self._peer.pid}) ended the dialog.")

    def __aiter__(self) -> Dialog:
        """Iterate over messages until the handler ends the stream."""
        return self

    async def __anext__(self) -> Any:
        """Return the next message."""
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None


@asynccontextmanager
async def open_peer(name: str, pid: int, address: Address) -> AsyncIterator[Peer]:
    """Connect to a process of this user and watch it for the block.

    Raises ``PeerLost`` when nobody listens there, ``Refused`` when it is not ours.
    """
    actor = tractor.current_actor()
    try:
        channel = tractor._ipc.Channel(tuple(address))
        await channel.connect()
    except PeerSilent as err:
        raise PeerLost(
            f"{name} (pid {pid}) does not answer at {address[0]}:{address[1]}.",
            remedy=f"If another version of piker has started it: kill {pid}. Then try again.",
        ) from err
    except Refused:
        raise
    except OSError as err:
        raise PeerLost(f"{name} (pid {pid}) does not listen at {address[0]}:{address[1]}.") from err
    peer = Peer(name, pid, (address[0], address[1]), channel)
    try:
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(GREET_S) as greeting:
                await _greet(actor, channel, peer)
            if greeting.cancelled_caught:
                raise peer._loss()
            nursery.start_soon(_pump, actor, channel, peer)
            if pid:
                nursery.start_soon(_watch, peer)
            nursery.start_soon(_beat, peer)
            try:
                yield peer
            finally:
                with trio.CancelScope(deadline=trio.current_time() + LEAVE_S, shield=True):
                    await _bye(channel)
                nursery.cancel_scope.cancel()
    except tractor._exceptions.TransportClosed as err:
        raise peer._loss() from err
    finally:
        await trio.aclose_forcefully(channel.msgstream.stream)


async def _greet(actor: Any, channel: Any, peer: Peer) -> None:
    """Tell each other our names; raise ``PeerLost`` when it is killed just then."""
    try:
        await actor._do_handshake(channel)
    except _GONE as err:
        raise peer._loss() from err


async def _pump(actor: Any, channel: Any, peer: Peer) -> None:
    """Hand incoming messages to their waiters until the connection ends."""
    await actor._process_messages(channel)
    peer.mark_lost()


async def _watch(peer: Peer) -> None:
    await wait_exit(peer.pid)
    peer.mark_lost()


async def _beat(peer: Peer) -> None:
    """Ask for a sign of life until there is none: that is how a frozen process is noticed.

    One late answer proves nothing: our own loop may have been busy when the time was up. The
    second question is asked after whatever came meanwhile has been read.
    """
    while not peer.lost.is_set():
        await trio.sleep(BEAT_S)
        if not await _answers(peer, SILENCE_S) and not await _answers(peer, AGAIN_S):
            peer.mark_lost()


async def _answers(peer: Peer, within_s: float) -> bool:
    try:
        await peer.run(ping, timeout_s=within_s)
    except PeerLost:
        return False
    return True


async def _bye(channel: Any) -> None:
    try:
        await channel.send(None)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


def _value(message: dict[str, Any], key: str, type_: Any) -> Any:
    """Unwrap an answer, or raise the error in it."""
    if "error" in message:
        lines = str(message["error"].get("tb_str", "")).strip().splitlines()
        raise Bug(f"the other process failed: {lines[-1] if lines else 'unknown'}.")
    body = message.get(key) if key in message else message.get("return")
    if not isinstance(body, dict):
        raise Bug(f"an endpoint answered {str(message)[:80]}.")
    if "error" in body:
        raise unpack_error(body["error"])
    return _convert(body.get("ok"), type_)


def _convert(value: Any, type_: Any) -> Any:
    return value if type_ is Any else msgspec.convert(value, type_)


def _plain(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: msgspec.to_builtins(value) for key, value in kwargs.items()}
