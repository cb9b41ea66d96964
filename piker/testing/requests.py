"""What a loopback venue is asked over HTTP, and what it answers."""

from __future__ import annotations

from typing import Literal

import msgspec

from piker.testing.faults import Fault

__all__ = ["Reply", "Request"]


class Request(msgspec.Struct, frozen=True):
    """A parsed HTTP request. ``target`` is the path with its query as they were sent.

    ``flaws`` are what the venue itself is to do wrong in its answer.
    """

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""
    peer: str = ""  # the client's address
    target: str = ""
    flaws: tuple[Fault, ...] = ()


class Reply(msgspec.Struct, frozen=True):
    """An answer; ``body`` is JSON text, unless its headers say otherwise.

    ``fate`` says what becomes of it: written (at ``bytes_per_s``, when that is not 0), replaced by
    a closed connection, never written, or written up to half of the body and cut there.
    """

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = {}
    fate: Literal["answer", "close", "hang", "half"] = "answer"
    bytes_per_s: float = 0.0
