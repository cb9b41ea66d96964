"""How many websocket messages a second reach a trio task, ours against trio-websocket's own way.

A child process sends 174-byte text frames (the size of a Binance trade) over loopback as fast as
they are taken. Read by: trio-websocket's get_message; piker's open_ws; a bare trio stream with
nothing but the splitter; the splitter alone, from memory. Prints one JSON line; the ratios count,
the rates are of this machine under whatever load it had.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import trio
import trio_websocket

from piker.brokers._frames import Splitter
from piker.brokers.limits import Budget
from piker.brokers.ws import Frames, open_ws

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
PAYLOAD = (
    b'{"stream":"btcusdt@trade","data":{"e":"trade","E":1672515782136,"s":"BTCUSDT",'
    b'"t":123456789,"p":"16578.12000000","q":"0.00102000","T":1672515782135,"m":true,"M":true}}'
)
PAYLOAD = PAYLOAD.ljust(174)
FRAME = bytes((0x81, 126)) + len(PAYLOAD).to_bytes(2, "big") + PAYLOAD
CHUNK = 128 * 1024  # bytes per read, as in piker/brokers/_link.py
BURST = 500  # frames per write


def serve() -> None:
    """Answer each handshake, then send as many frames as its path says."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            peer, _ = listener.accept()
            with peer:
                send(peer)


def send(peer: socket.socket) -> None:
    """Serve one connection."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += peer.recv(65536)
    count = int(request.split(b" ")[1].rpartition(b"/")[2])
    key = request.lower().split(b"sec-websocket-key:")[1].split(b"\r\n")[0].strip()
    start = request.lower().index(key)
    digest = hashlib.sha1(request[start : start + len(key)] + GUID).digest()
    peer.sendall(
        b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
    )
    burst = FRAME * BURST
    try:
        for _ in range(count // BURST):
            peer.sendall(burst)
        peer.recv(65536)  # the reader's close frame: hang up
    except OSError:
        pass  # the reader had enough


async def by_trio_websocket(url: str, count: int) -> float:
    """Read with trio-websocket as its documents show; return the seconds it took."""
    async with trio_websocket.open_websocket_url(url) as ws:
        start = time.perf_counter()
        for _ in range(count):
            await ws.get_message()
        return time.perf_counter() - start


async def by_open_ws(url: str, count: int) -> float:
    """Read as a backend does; return the seconds it took, connecting included."""
    async with open_ws(url, venue="bench", budget=Budget("bench")) as ws:
        start = time.perf_counter()
        while count > 0:
            item = await ws.__anext__()
            assert isinstance(item, Frames)
            count -= len(item.frames)
        return time.perf_counter() - start


async def by_splitter(url: str, count: int) -> float:
    """Read with a bare stream and the splitter: what any client of this design costs."""
    _, _, rest = url.partition("//")
    host, _, path = rest.partition("/")
    stream = await trio.open_tcp_stream(host.split(":")[0], int(host.split(":")[1]))
    async with stream:
        await stream.send_all(
            f"GET /{path} HTTP/1.1\r\nSec-WebSocket-Key: {'A' * 24}\r\n\r\n".encode()
        )
        start, head = time.perf_counter(), b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some(65536)
        splitter = Splitter()
        found, _ = splitter.feed(head.partition(b"\r\n\r\n")[2])
        count -= len(found)
        while count > 0:
            found, _ = splitter.feed(await stream.receive_some(CHUNK))
            count -= len(found)
        return time.perf_counter() - start


def rate(read: Callable[[str, int], Awaitable[float]], port: int, count: int) -> float:
    """Return messages a second, the best of three: other processes only ever slow it down."""
    best = 0.0
    for _ in range(3):
        seconds = trio.run(read, f"ws://127.0.0.1:{port}/{count}", count)
        best = max(best, count / seconds)
    return best


def memory_rate(count: int) -> float:
    """Return messages a second of the splitter alone, fed as the socket feeds it."""
    data = FRAME * count
    best = 0.0
    for _ in range(3):
        splitter = Splitter()
        start = time.perf_counter()
        for at in range(0, len(data), CHUNK):
            splitter.feed(data[at : at + CHUNK])
        best = max(best, count / (time.perf_counter() - start))
    return best


def main() -> None:
    """Run all and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="be the child that sends")
    parser.add_argument("--count", type=int, default=400_000, help="messages to read")
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    count = arguments.count // BURST * BURST
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            port = int(child.stdout.readline())
            peer = rate(by_trio_websocket, port, max(BURST, count // 10 // BURST * BURST))
            ours = rate(by_open_ws, port, count)
            bare = rate(by_splitter, port, count)
        finally:
            child.terminate()
    result = {
        "benchmark": "ws_frames",
        "frame_bytes": len(FRAME),
        "trio_websocket_per_s": round(peer),
        "open_ws_per_s": round(ours),
        "bare_splitter_per_s": round(bare),
        "splitter_in_memory_per_s": round(memory_rate(count)),
        "open_ws_to_trio_websocket": round(ours / peer, 1),
        "open_ws_to_bare_splitter": round(ours / bare, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
