"""Endpoints: the only functions another process can call, with typed arguments and errors.

    @request
    async def add(a: int, b: int) -> int: ...

    @dialog
    async def count(talk: ServerDialog, upto: int) -> None:
        async with talk.start("ready") as stream:
            for n in range(upto):
                await stream.send(n)

Arguments are converted by their annotations before the call. A :class:`~piker.errors.PikerError`
reaches the caller as the same type.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from piker import errors
from piker.service._tractor_patches import ENDPOINT_MARK, tractor
from piker.service.wire import Expected, Wire

__all__ = ["ServerDialog", "dialog", "ping", "request", "unpack_error"]

Handler = Callable[..., Awaitable[Any]]


class ServerDialog:
    """The serving end of a dialog."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx
        self.started = False

    @asynccontextmanager
    async def start(self, first: Any, *, type: Any = Any) -> AsyncIterator[Wire]:
        """Send the caller its first value and open the stream (``send``, async iteration).

        What is received is converted to ``type``. Leaving the block ends the stream. The caller's
        death cancels the handler. Raises ``Transient`` when the caller never comes for its stream.
        """
        self.started = True
        with Expected(type) as expected:
            await self._ctx.started({"ok": first, "wire": expected.id})
            wire = await expected.come()
        try:
            yield wire
        except BaseException as err:
            if not (wire.is_gone and _is_of_a_lost_peer(err)):
                raise
        finally:
            await wire.end()

    async def fail(self, err: errors.PikerError) -> Any:
        """Tell the caller that there will be no stream."""
        if not self.started:
            await self._ctx.started({"error": pack_error(err)})
        return {"error": pack_error(err)}


def request(handler: Handler) -> Handler:
    """Expose an async function: one call, one answer."""

    @functools.wraps(handler)
    async def serve(**kwargs: Any) -> Any:
        try:
            return {"ok": await handler(**_arguments(handler, kwargs))}
        except errors.PikerError as err:
            return {"error": pack_error(err)}

    # tractor looks at the signature of what it calls, not at what that wraps.
    del serve.__dict__["__wrapped__"]
    setattr(serve, ENDPOINT_MARK, True)
    return serve


def dialog(handler: Handler) -> Handler:
    """Expose an async function that talks: a first value, then a stream in both directions."""

    async def serve(ctx: Any, **kwargs: Any) -> Any:
        talk = ServerDialog(ctx)
        try:
            await handler(talk, **_arguments(handler, kwargs))
        except errors.PikerError as err:
            return await talk.fail(err)
        return {"ok": None}

    serve.__module__, serve.__name__ = handler.__module__, handler.__name__
    serve.__qualname__, serve.__doc__ = handler.__qualname__, handler.__doc__
    setattr(serve, ENDPOINT_MARK, True)
    return typing.cast(Handler, tractor.context(serve))


def _arguments(handler: Handler, given: dict[str, Any]) -> dict[str, Any]:
    """Convert what came over the wire to what the handler's annotations say."""
    hints = typing.get_type_hints(handler)
    names = [n for n in inspect.signature(handler).parameters if n != "talk"]
    unknown = given.keys() - set(names)
    if unknown:
        raise errors.ConfigError(f"{handler.__name__} takes no argument {sorted(unknown)[0]!r}.")
    try:
        return {name: msgspec.convert(value, hints[name]) for name, value in given.items()}
    except msgspec.ValidationError as err:
        raise errors.ConfigError(f"{handler.__name__}: {err}.") from err


def _is_of_a_lost_peer(err: BaseException) -> bool:
    if isinstance(err, BaseExceptionGroup):
        return all(_is_of_a_lost_peer(one) for one in err.exceptions)
    return isinstance(err, trio.BrokenResourceError | trio.ClosedResourceError)


def pack_error(err: errors.PikerError) -> dict[str, Any]:
    """Return the error in a form that travels."""
    return {
        "type": type(err).__name__,
        "message": err.message,
        "remedy": err.remedy,
        "extra": {
            key: value
            for key in ("retry_after", "code", "kind", "frame_size")
            if (value := getattr(err, key, None)) is not None
        },
    }


def unpack_error(packed: Any) -> errors.PikerError:
    """Return the error that ``pack_error`` packed; an unknown type becomes ``PikerError``."""
    kind = getattr(errors, str(packed.get("type")), errors.PikerError)
    if not (isinstance(kind, type) and issubclass(kind, errors.PikerError)):
        kind = errors.PikerError
    err = kind(str(packed.get("message", "")))
    err.remedy = str(packed.get("remedy", ""))
    for key, value in (packed.get("extra") or {}).items():
        setattr(err, key, value)
    return err


@request
async def ping() -> int:
    """Answer with our pid: the heartbeat of every served process."""
    import os

    return os.getpid()
