"""Names for the processes of a test: one that resolves to this machine, and can fail to.

On the path of a process it is imported at its start. While the file that ``PIKER_TEST_NO_DNS``
names is there, ``venue.test`` can not be resolved, as where a name server does not answer.
"""

from __future__ import annotations

import os
import socket
from typing import Any

HOST = "venue.test"  # RFC 6761: nobody's
_resolve = socket.getaddrinfo


def _getaddrinfo(host: Any, *args: Any, **more: Any) -> Any:  # Any: as socket's own
    if host not in (HOST, HOST.encode()):
        return _resolve(host, *args, **more)
    if os.path.exists(os.environ.get("PIKER_TEST_NO_DNS", "")):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _resolve("127.0.0.1", *args, **more)


socket.getaddrinfo = _getaddrinfo
