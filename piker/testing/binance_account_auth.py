"""Who sent a request: API keys, signatures over the exact bytes, times, permissions.

REST signs the query and the body as they were sent, one after the other, without ``signature``;
the websocket API signs its parameters sorted by name. Which of two things wrong is told first the
venue does not say: here it is the key, then what is missing, the signature, the time, permissions.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from urllib.parse import parse_qsl, unquote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from piker.testing.accounts import AccountSpec
from piker.testing.binance_account_params import VenueRefusal, missing
from piker.testing.requests import Request

__all__ = ["AHEAD_MS", "Keys", "is_signed", "payload_of", "socket_payload"]

AHEAD_MS = 1000  # a request may be so much ahead of the venue's time
RECV_WINDOW_MS, MAX_RECV_WINDOW_MS = 5000, 60_000
MICROSECONDS = 10**14  # a timestamp from here on is one in microseconds
MAX_KEY = 64  # characters; that the venue's keys have so many is not held against shorter ones
_BAD_SIGNATURE = (-1022, "Signature for this request is not valid.")
_NO_RIGHT = (-2015, "Invalid API-key, IP, or permissions for action.")


class Keys:
    """The keys of a venue."""

    def __init__(self, specs: Iterable[AccountSpec]) -> None:
        self._by_key = {spec.key: spec for spec in specs}

    def holder(self, key: str) -> AccountSpec:
        """Return whose key that is; -2014 or -2015 where it is nobody's."""
        if not key or len(key) > MAX_KEY or not key.isascii() or not key.isalnum():
            raise VenueRefusal(-2014, "API-key format invalid.", status=401)
        if key not in self._by_key:
            raise VenueRefusal(*_NO_RIGHT, status=401)
        return self._by_key[key]

    def signed(
        self, spec: AccountSpec, payload: bytes, params: Mapping[str, str], now_ms: int
    ) -> None:
        """Check a request's signature and time; ``params`` has both."""
        for name in ("timestamp", "signature"):
            if not params.get(name):
                raise missing(name)
        if not is_signed(spec, payload, params["signature"]):
            raise VenueRefusal(*_BAD_SIGNATURE)
        _check_time(params, now_ms)

    @staticmethod
    def permit(spec: AccountSpec, permission: str) -> None:
        """Refuse what the key may not do."""
        if permission not in spec.permissions:
            raise VenueRefusal(*_NO_RIGHT, status=401)


def is_signed(spec: AccountSpec, payload: bytes, signature: str) -> bool:
    """Tell whether a signature is that of the account's key."""
    if spec.secret is not None:
        made = hmac.new(spec.secret.reveal().encode(), payload, hashlib.sha256).hexdigest()
        return hmac.compare_digest(made.encode(), signature.lower().encode())
    try:
        raw = base64.b64decode(signature, validate=True)
        Ed25519PublicKey.from_public_bytes(spec.public_key).verify(raw, payload)
    except (binascii.Error, ValueError, InvalidSignature):
        return False
    return True


def payload_of(request: Request) -> tuple[bytes, dict[str, str]]:
    """Return what a REST request signs, and its parameters; the query's go before the body's."""
    query = request.target.partition("?")[2]
    body = request.body.decode("latin-1")
    found: dict[str, str] = {}
    signed = []
    for part in (body, query):
        found |= dict(parse_qsl(part, keep_blank_values=True))
        kept = [pair for pair in part.split("&") if not pair.startswith("signature=")]
        signed.append("&".join(kept))
        for pair in part.split("&"):
            if pair.startswith("signature="):
                # A plus of base64 that was not percent-encoded is no space.
                found["signature"] = unquote(pair.partition("=")[2])
    return (signed[1] + signed[0]).encode("latin-1"), found


def socket_payload(params: Mapping[str, str]) -> bytes:
    """Return what a request of the websocket API signs."""
    pairs = sorted((name, value) for name, value in params.items() if name != "signature")
    return "&".join(f"{name}={value}" for name, value in pairs).encode()


def _check_time(params: Mapping[str, str], now_ms: int) -> None:
    text, window = params["timestamp"], params.get("recvWindow") or str(RECV_WINDOW_MS)
    if not (text.isascii() and text.isdecimal()):
        legal = "legal range is '^[0-9]{1,20}$'."
        raise VenueRefusal(-1100, f"Illegal characters found in parameter 'timestamp'; {legal}")
    try:
        window_ms = Decimal(window)
    except InvalidOperation:
        raise VenueRefusal(-1130, "Data sent for parameter 'recvWindow' is not valid.") from None
    if not 0 < window_ms <= MAX_RECV_WINDOW_MS:
        raise VenueRefusal(-1131, "recvWindow must be less than 60000.")
    at_ms = Decimal(text) / (1000 if int(text) >= MICROSECONDS else 1)
    if at_ms >= now_ms + AHEAD_MS:
        raise VenueRefusal(
            -1021, "Timestamp for this request was 1000ms ahead of the server's time."
        )
    if now_ms - at_ms > window_ms:
        raise VenueRefusal(-1021, "Timestamp for this request is outside of the recvWindow.")
