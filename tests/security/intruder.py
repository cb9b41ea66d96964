"""Run as another process: try to call an endpoint, N times; print how each attempt ended.

Arguments: HOST PORT MODULE FUNCTION COUNT SECRET_HEX UID. With an empty secret a random one is
used. When UID is not 0 the process gives up its rights first.
"""

import os
import socket
import struct
import sys


def attempt(host: str, port: int, module: str, function: str, secret: bytes) -> str:
    """Do the whole handshake as well as we can, then call; return what happened."""
    import msgspec

    from piker.service import auth

    with socket.create_connection((host, port), timeout=5) as sock:
        mine = os.urandom(32)
        try:
            sock.sendall(auth.MAGIC + bytes([auth.VERSION]) + mine)
            hello = sock.recv(4096)
            while len(hello) < 41 + 32:
                part = sock.recv(4096)
                if not part:
                    return "refused"
                hello += part
            theirs = hello[9:41]
            proof = auth._hmac(secret, b"client", theirs, mine + auth.CALLER)
            sock.sendall(auth.CALLER + proof)
            # Go on as if accepted: tractor's own handshake, then a call.
            for message in (
                ["intruder", "0"],
                {"cmd": [module, function, {}, ["intruder", "0"], "cid-1"]},
            ):
                body = msgspec.msgpack.encode(message)
                sock.sendall(struct.pack("<I", len(body)) + body)
            answer = sock.recv(4096)
        except (ConnectionError, TimeoutError):
            return "refused"
        return "SERVED" if answer else "refused"


def main() -> None:
    """Print the number of refusals and of served calls."""
    host, port, module, function, count, secret, uid = sys.argv[1:8]
    # Imported while we still may read the packages.
    import encodings.idna

    import msgspec

    from piker.service import auth

    assert encodings.idna
    assert msgspec
    assert auth

    if int(uid):
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    key = bytes.fromhex(secret) if secret else os.urandom(32)
    results = [attempt(host, int(port), module, function, key) for _ in range(int(count))]
    print(results.count("refused"), results.count("SERVED"))


if __name__ == "__main__":
    main()
