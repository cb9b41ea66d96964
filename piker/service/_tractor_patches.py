"""Every correction of tractor 0.1.0a5, each with its reason. Imported before tractor is used.

1. *Authentication*: tractor's TCP has none. Outgoing connections prove us, incoming ones must
   prove themselves, before tractor's own handshake (tests/security/test_rpc_auth.py).
2. *Lost peers*: when a connection ends, tractor leaves every context that used it waiting for
   ever. Here their channels are closed, so that waiters wake (tests/system/test_service.py).
3. *Frames*: tractor reads whatever length a frame announces, swallows undecodable ones, and
   dies of a connection that is cut inside one. Here a frame is bounded, and a bad one ends its
   connection and nothing else (tests/security/test_rpc_auth.py).
4. *What can be called*: tractor serves every function of an exposed module and every method of
   its own Actor. Here only marked endpoints and the few runtime methods that tractor itself
   needs (tests/security/test_rpc_auth.py).
5. *Finished calls*: tractor keeps the context of every call it has served, for ever; a heartbeat
   alone would cost hundreds of megabytes a day. Here it goes with its call
   (tests/system/test_service.py).
6. *Noise*: tractor uses ``trio.MultiError``, which trio 0.23 warns about at every use, and logs
   through :mod:`logging`, which prints to stderr where nobody configured it.
"""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import trio

logging.getLogger("tractor").addHandler(logging.NullHandler())
warnings.filterwarnings("ignore", message=r".*MultiError.*")
warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"tractor.*")
# tractor makes the answer to a heartbeat before it hears that whoever asked was killed.
warnings.filterwarnings("ignore", message="coroutine 'ping' was never awaited")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tractor
    from tractor import _actor, _ipc
    from tractor._exceptions import ModuleNotExposed, TransportClosed

from piker.errors import Refused  # noqa: E402 - the filters above come first
from piker.log import get_logger  # noqa: E402
from piker.service.auth import AUTH_S, CALLER, connect, load_secret, prove_server  # noqa: E402
from piker.service.wire import MAX_FRAME, hand_over  # noqa: E402

__all__ = ["ENDPOINT_MARK", "tractor"]

ENDPOINT_MARK = "_piker_endpoint"
_RUNTIME_METHODS = frozenset(
    {"cancel", "_cancel_task", "register_actor", "unregister_actor", "find_actor",
     "wait_for_actor", "get_registry"}
)  # fmt: skip
_log = get_logger("rpc")


# -- 1. authentication -----------------------------------------------------------------------
async def _connect(self: Any, destaddr: Any = None, **kwargs: Any) -> Any:
    stream = await connect(destaddr or self._destaddr, CALLER)
    try:
        return self.set_msg_transport(stream)
    except OSError:  # a peer that is killed just then has no address any more
        await trio.aclose_forcefully(stream)
        raise


_handle_stream = _actor.Actor._stream_handler


async def _stream_handler(self: Any, stream: trio.SocketStream) -> None:
    try:
        with trio.fail_after(AUTH_S):
            errand = await prove_server(stream, load_secret())
    except (trio.TooSlowError, Refused, OSError, trio.BrokenResourceError) as err:
        _log.warning("rpc.refused", reason=str(err) or type(err).__name__)
        await trio.aclose_forcefully(stream)
        return
    try:
        if errand == CALLER:
            await _handle_stream(self, stream)
        else:
            await hand_over(errand, stream)
    except (trio.BrokenResourceError, trio.ClosedResourceError, TransportClosed, OSError):
        # A peer may go at any point: also between its proof and the question for its address.
        _log.debug("rpc.cut", reason="connection ended while it was handled")


# -- 2. lost peers ---------------------------------------------------------------------------
_process = _actor.Actor._process_messages


async def _process_messages(self: Any, chan: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return await _process(self, chan, *args, **kwargs)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return True
    finally:
        for context in [c for c in self._contexts.values() if c.chan is chan]:
            context._send_chan.close()


# -- 3. frames -------------------------------------------------------------------------------
async def _iter_packets(self: Any) -> AsyncGenerator[Any, None]:
    while True:
        try:
            header = await self.recv_stream.receive_exactly(4)
            if not header:
                raise TransportClosed("the peer closed the connection")
            (size,) = struct.unpack("<I", header)
            if size > MAX_FRAME:
                _log.warning("rpc.frame-refused", size=size, limit=MAX_FRAME)
                raise TransportClosed(f"a frame of {size} bytes is over the limit")
            message = self.decode(await self.recv_stream.receive_exactly(size))
        except (ValueError, OSError, trio.BrokenResourceError, trio.ClosedResourceError) as err:
            raise TransportClosed("the connection broke") from err
        except msgspec.DecodeError as err:
            _log.warning("rpc.frame-refused", reason=str(err))
            raise TransportClosed("a frame could not be decoded") from err
        if not _permitted(message):
            _log.warning("rpc.call-refused", call=str(message)[:120])
            raise TransportClosed("a frame that no piker sends")
        yield message


# -- 4. what can be called -------------------------------------------------------------------
def _permitted(message: Any) -> bool:
    """Tell whether a decoded frame has a shape that tractor can handle without dying."""
    if message is None or isinstance(message, list):  # end of stream; actor handshake
        return True
    if not isinstance(message, dict):
        return False
    if message.get("cid"):
        return isinstance(message["cid"], str)
    command = message.get("cmd")
    if command is None:
        return "error" in message or "_parent_main_data" in message
    if not isinstance(command, list) or len(command) != 5 or not isinstance(command[2], dict):
        return False
    if not all(isinstance(command[at], str) for at in (0, 1, 4)):
        return False
    return command[0] != "self" or command[1] in _RUNTIME_METHODS


_lookup = _actor.Actor._get_rpc_func


def _get_rpc_func(self: Any, ns: str, funcname: str) -> Any:
    found = _lookup(self, ns, funcname)
    if not getattr(found, ENDPOINT_MARK, False):
        raise ModuleNotExposed(f"{ns}.{funcname} is not an endpoint")
    return found


# -- 5. finished calls -----------------------------------------------------------------------
_serve_call = _actor._invoke


async def _invoke(actor: Any, cid: str, chan: Any, *args: Any, **kwargs: Any) -> None:
    uid = chan.uid
    try:
        await _serve_call(actor, cid, chan, *args, **kwargs)
    finally:
        context = actor._contexts.pop((uid, cid), None)
        if context is not None:
            context._send_chan.close()
            context._recv_chan.close()


_actor._invoke = _invoke
_ipc.Channel.connect = _connect
_actor.Actor._stream_handler = _stream_handler
_actor.Actor._process_messages = _process_messages
_actor.Actor._get_rpc_func = _get_rpc_func
_ipc.MsgpackTCPStream._iter_packets = _iter_packets
