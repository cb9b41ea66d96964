"""Who is at the other end of a connection: the kernel's two answers agree."""

from __future__ import annotations

import os
import socket

import pytest

from piker.service import auth

FAMILIES = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]


@pytest.mark.parametrize(("family", "host"), FAMILIES, ids=["v4", "v6"])
def test_owner_of_the_far_end_is_us_when_we_are_both(family: int, host: str) -> None:
    """Asked for that one socket, and searched in the table."""
    try:
        server = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip("this machine has no such loopback")
    with server, socket.create_connection(server.getsockname()[:2]) as client:
        accepted, _ = server.accept()
        with accepted:
            ends = accepted.getpeername()[:2], accepted.getsockname()[:2]
            assert auth.peer_uid(accepted) == os.getuid()
            assert auth.peer_uid(client) == os.getuid()
            assert auth._ask_kernel(family, *ends) == os.getuid()
            assert auth._search_table(family, *ends) == os.getuid()


def test_nobody_is_found_when_there_is_no_such_socket() -> None:
    """Then the kernel says so and the table has no row."""
    ends = ("127.0.0.1", 1), ("127.0.0.1", 2)
    with pytest.raises(OSError, match="does not know"):
        auth._ask_kernel(socket.AF_INET, *ends)
    assert auth._search_table(socket.AF_INET, *ends) is None
