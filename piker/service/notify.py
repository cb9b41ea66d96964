"""systemd's notify protocol: readiness and the watchdog. A datagram; no library is needed.

Source: sd_notify(3). Without ``NOTIFY_SOCKET`` both do nothing.
"""

from __future__ import annotations

import os
import socket

import trio

__all__ = ["feed_watchdog", "ready"]


def ready() -> None:
    """Tell systemd that we serve."""
    _send(b"READY=1")


async def feed_watchdog() -> None:
    """Feed the watchdog at half its period for ever; returns at once where there is none."""
    period = os.environ.get("WATCHDOG_USEC", "")
    if not period.isdigit():
        return
    while True:
        _send(b"WATCHDOG=1")
        await trio.sleep(int(period) / 2e6)


def _send(message: bytes) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(message, address)
        except OSError:
            return
