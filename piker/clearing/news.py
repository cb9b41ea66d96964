"""What emsd tells its clients: every status, position, balance and change of an account's state."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from piker.orders import EmsMessage

__all__ = ["News"]

WAITING = 4096  # messages that wait for a client; one that reads slower is let go and told


class News:
    """The clients that listen. Nobody waits for any of them."""

    def __init__(self) -> None:
        self._clients: list[trio.MemorySendChannel[EmsMessage]] = []

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[trio.MemoryReceiveChannel[EmsMessage]]:
        """Give every message from now on; the channel ends for who reads too slowly."""
        send, receive = trio.open_memory_channel[EmsMessage](WAITING)
        self._clients.append(send)
        try:
            with receive:
                yield receive
        finally:
            if send in self._clients:
                self._clients.remove(send)
            send.close()

    def tell(self, message: EmsMessage) -> None:
        """Tell everybody."""
        for client in list(self._clients):
            try:
                client.send_nowait(message)
            except trio.WouldBlock:  # it hears of its end by the end of its channel
                self._clients.remove(client)
                client.close()
            except trio.BrokenResourceError:
                continue
