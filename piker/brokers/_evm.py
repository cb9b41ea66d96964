"""Ethereum's hash and recoverable signatures, which Hyperliquid signs with.

Keccak-256 is SHA-3 before its padding was changed, so hashlib has none. The curve itself is
OpenSSL's, through ``cryptography``.
"""

from __future__ import annotations

from functools import lru_cache

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

__all__ = ["keccak256", "sign_digest", "sponge"]

_RATE = 136  # bytes a block takes in: 1600 bits less twice the digest's 256
_MASK = (1 << 64) - 1
_ROUNDS = 24
#: The order of secp256k1's group (SEC 2, section 2.4.1).
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def keccak256(data: bytes) -> bytes:
    """Return the 32 bytes of Keccak-256, as Ethereum has it."""
    return sponge(data, 0x01)


def sponge(data: bytes, domain: int) -> bytes:
    """Return Keccak[512] of ``data``: ``domain`` 0x01 is Keccak-256, 0x06 SHA3-256 (FIPS 202)."""
    padded = bytearray(data)
    padded += bytes([domain]) + bytes(-(len(data) + 1) % _RATE)
    padded[-1] |= 0x80
    state = [0] * 25
    for start in range(0, len(padded), _RATE):
        for lane in range(_RATE // 8):
            at = start + 8 * lane
            state[lane] ^= int.from_bytes(padded[at : at + 8], "little")
        state = _permute(state)
    return b"".join(lane.to_bytes(8, "little") for lane in state[:4])


def _permute(lanes: list[int]) -> list[int]:
    """Return the state after Keccak-f[1600] (FIPS 202, section 3); lane (x, y) is at x + 5 y."""
    for constant in _round_constants():
        sums = [lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20]
                for x in range(5)]  # fmt: skip
        lanes = [lane ^ sums[(at + 4) % 5] ^ _turn(sums[(at + 1) % 5], 1)
                 for at, lane in enumerate(lanes)]  # fmt: skip
        moved = [0] * 25
        for at, (there, turn) in enumerate(_moves()):
            moved[there] = _turn(lanes[at], turn)
        lanes = [
            moved[at] ^ (~moved[at - at % 5 + (at + 1) % 5] & moved[at - at % 5 + (at + 2) % 5])
            for at in range(25)
        ]
        lanes[0] ^= constant
    return lanes


def _turn(lane: int, by: int) -> int:
    return ((lane << by) | (lane >> (64 - by))) & _MASK


@lru_cache(maxsize=1)
def _moves() -> tuple[tuple[int, int], ...]:
    """Return for each lane where it goes (pi) and by how much it is turned (rho)."""
    turns = [0] * 25
    x, y = 1, 0
    for step in range(24):
        turns[x + 5 * y] = (step + 1) * (step + 2) // 2 % 64
        x, y = y, (2 * x + 3 * y) % 5
    return tuple(
        (at // 5 + 5 * ((2 * (at % 5) + 3 * (at // 5)) % 5), turns[at]) for at in range(25)
    )


@lru_cache(maxsize=1)
def _round_constants() -> tuple[int, ...]:
    """Return the constants of the rounds: bits of the register that FIPS 202 (3.2.5) defines."""
    register, found = 1, []
    for _ in range(_ROUNDS):
        constant = 0
        for power in range(7):
            constant |= (register & 1) << ((1 << power) - 1)
            register = (register << 1) ^ (0x171 if register & 0x80 else 0)
        found.append(constant)
    return tuple(found)


def sign_digest(key: ec.EllipticCurvePrivateKey, digest: bytes) -> tuple[int, int, int]:
    """Return (r, s, v) over 32 bytes: deterministic (RFC 6979), low s, v 27 or 28.

    v tells which of two points has r: that point is the nonce's, and the nonce follows from the
    signature and the key.
    """
    how = ec.ECDSA(utils.Prehashed(hashes.SHA256()), deterministic_signing=True)
    r, s = utils.decode_dss_signature(key.sign(digest, how))
    secret = key.private_numbers().private_value
    nonce = (int.from_bytes(digest, "big") + r * secret) * pow(s, -1, _ORDER) % _ORDER
    odd = ec.derive_private_key(nonce, key.curve).public_key().public_numbers().y & 1
    if s > _ORDER // 2:
        s, odd = _ORDER - s, odd ^ 1
    return r, s, 27 + odd
