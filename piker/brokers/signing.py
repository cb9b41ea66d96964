"""How venues want their requests signed: pure functions over the exact bytes that are sent.

Each venue's part says what is signed and where the rule stands. Nothing here reads a clock, sends
or logs; times come from the caller (:class:`Nonces` makes numbers of them). A :class:`Signer` is
made once of a key: it keeps what OpenSSL made of it, so that the key itself can be forgotten.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Literal
from urllib.parse import quote

import msgspec

from piker.errors import ConfigError
from piker.log import Secret

__all__ = [
    "KRAKEN_TOKEN_PATH",
    "HexSignature",
    "Nonces",
    "Param",
    "Signer",
    "binance_query",
    "binance_signer",
    "binance_ws_params",
    "deribit_authorization",
    "deribit_client_signature",
    "form",
    "hyperliquid_action_hash",
    "hyperliquid_sign",
    "kraken_headers",
    "kraken_signer",
    "kucoin_headers",
    "text_of",
]

Param = str | int | bool | Decimal
KeyKind = Literal["hmac", "ed25519", "rsa"]
KRAKEN_TOKEN_PATH = "/0/private/GetWebSocketsToken"  # its answer's token opens private channels
MIN_RSA_BITS = 2048  # what Binance makes and takes
_KRAKEN_SECRET = 64  # bytes; HMAC-SHA512's own length


class Signer:
    """Signs bytes with one key. ``kind`` is the key's; it prints and pickles as nothing."""

    __slots__ = ("_sign", "kind")

    def __init__(self, kind: KeyKind, sign: Callable[[bytes], str]) -> None:
        self.kind = kind
        self._sign = sign

    def __call__(self, payload: bytes) -> str:
        """Return the signature of ``payload`` as text, as the venue wants it."""
        return self._sign(payload)

    def __repr__(self) -> str:
        """Return the kind of the key, nothing of it."""
        return f"<Signer {self.kind}>"

    def __reduce__(self) -> tuple[object, ...]:
        """Refuse to be pickled."""
        raise TypeError("a Signer is never serialised")


class Nonces:
    """Numbers that only rise, in microseconds of the wall clock where that has moved on.

    One for each key. A clock that is set back does not make them fall; a restart goes on above what
    was used as long as the clock is not behind that.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def next(self, wall_ns: int) -> int:
        """Return one above all before, ``wall_ns`` being the time (:func:`piker.clock.wall_ns`)."""
        self._last = max(self._last + 1, wall_ns // 1000)
        return self._last


def text_of(value: Param) -> str:
    """Return a parameter as text: decimals in full, never with an exponent."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ConfigError(f"{value} is no number to send.")
        return format(value, "f")
    return str(value)


def form(params: Mapping[str, Param]) -> bytes:
    """Return ``k=v&k=v`` in the order given, percent-encoded (RFC 3986), for a query or a body."""
    return "&".join(f"{quote(name, safe='')}={quote(text_of(value), safe='')}"
                    for name, value in params.items()).encode("ascii")  # fmt: skip


def _hex_signer(secret: bytes) -> Signer:
    keyed = hmac.new(secret, digestmod=hashlib.sha256)

    def sign(payload: bytes) -> str:
        one = keyed.copy()
        one.update(payload)
        return one.hexdigest()

    return Signer("hmac", sign)


def _hmac_sha256(secret: Secret, payload: bytes) -> hmac.HMAC:
    return hmac.new(secret.reveal().encode(), payload, hashlib.sha256)


# -- Binance -----------------------------------------------------------------------------------
# Spot's rest-api.md and web-socket-api.md, "SIGNED request"; futures sign alike. The key's type
# chooses the signature: HMAC-SHA256 in hex, Ed25519 or RSA (PKCS#1 v1.5, SHA-256) in base64.
def binance_signer(secret: Secret) -> Signer:
    """Return the signer of a Binance key: PEM text is an Ed25519 or RSA key, all else HMAC's.

    Raises ``ConfigError``, without a word of the key, for PEM text that holds none of them.
    """
    text = secret.reveal().strip()
    if not text.startswith("-----BEGIN"):
        if not text or not text.isascii():
            raise ConfigError("binance: the API secret is empty or not ASCII text.", remedy=_AGAIN)
        return _hex_signer(text.encode())
    return _pem_signer(text)


_AGAIN = "Copy it again from the venue's page, then: piker keys add"


def _pem_signer(text: str) -> Signer:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

    try:
        key = serialization.load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(
            "binance: the private key can not be read: damaged, encrypted, or of another kind.",
            remedy="It is PEM text without a password, PKCS#8, of Ed25519 or RSA.",
        ) from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        ed = key
        return Signer("ed25519", lambda payload: _base64(ed.sign(payload)))
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= MIN_RSA_BITS:
        private, scheme, digest = key, padding.PKCS1v15(), hashes.SHA256()
        return Signer("rsa", lambda payload: _base64(private.sign(payload, scheme, digest)))
    raise ConfigError(
        "binance: the private key is neither Ed25519 nor RSA of 2048 bits or more.",
        remedy="Make an Ed25519 key pair, and register its public key with the venue.",
    )


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def binance_query(params: Mapping[str, Param], sign: Signer) -> bytes:
    """Return the signed query or body to send, to the byte: what is encoded is what is signed.

    ``params`` hold ``timestamp``; their order is kept. The signature comes last, itself encoded.
    """
    payload = form(params)
    return payload + b"&signature=" + quote(sign(payload), safe="").encode("ascii")


def binance_ws_params(params: Mapping[str, Param], sign: Signer) -> dict[str, str | int | bool]:
    """Return the ``params`` of a ws-api request with their signature.

    All of them, ``apiKey`` included, are signed sorted by name and not encoded: raw UTF-8. A
    decimal is sent as the text that was signed.
    """
    payload = "&".join(f"{name}={text_of(params[name])}" for name in sorted(params))
    sent = {
        name: text_of(value) if isinstance(value, Decimal) else value
        for name, value in params.items()
    }
    return {**sent, "signature": sign(payload.encode("utf-8"))}


# -- Kraken ------------------------------------------------------------------------------------
# docs.kraken.com, "Spot REST authentication": API-Sign is base64 of HMAC-SHA512, keyed with the
# decoded secret, over the path and SHA-256 of the nonce followed by the body. The body holds the
# nonce, too, as a form or as JSON.
def kraken_signer(secret: Secret) -> Callable[[str, str, bytes], str]:
    """Return ``sign(path, nonce, body)`` of a Kraken key; raise ``ConfigError`` for another's.

    ``path`` begins with ``/0/private/``; ``nonce`` is the text of the body's own.
    """
    try:
        key = base64.b64decode(secret.reveal().strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KRAKEN_SECRET:
        raise ConfigError("kraken: the private key is not base64 of 64 bytes.", remedy=_AGAIN)
    keyed = hmac.new(key, digestmod=hashlib.sha512)

    def sign(path: str, nonce: str, body: bytes) -> str:
        one = keyed.copy()
        one.update(path.encode("ascii") + hashlib.sha256(nonce.encode("ascii") + body).digest())
        return _base64(one.digest())

    return sign


def kraken_headers(
    key: Secret, sign: Callable[[str, str, bytes], str], *, path: str, nonce: int, body: bytes
) -> dict[str, str]:
    """Return the two headers of a private request. The token of ``KRAKEN_TOKEN_PATH`` is one."""
    return {"API-Key": key.reveal(), "API-Sign": sign(path, str(nonce), body)}


# -- Deribit -----------------------------------------------------------------------------------
# docs.deribit.com, "Authentication".
def deribit_authorization(
    client_id: Secret, secret: Secret, *, ts_ms: int, nonce: str, method: str, uri: str,
    body: bytes = b"",
) -> str:  # fmt: skip
    """Return the ``Authorization`` header; ``uri`` is the path with its query, as sent."""
    said = f"{ts_ms}\n{nonce}\n{method.upper()}\n{uri}\n".encode() + body + b"\n"
    signature = _hmac_sha256(secret, said).hexdigest()
    return f"deri-hmac-sha256 id={client_id.reveal()},ts={ts_ms},sig={signature},nonce={nonce}"


def deribit_client_signature(secret: Secret, *, ts_ms: int, nonce: str, data: str = "") -> str:
    """Return the ``signature`` of ``public/auth`` with grant type ``client_signature``."""
    return _hmac_sha256(secret, f"{ts_ms}\n{nonce}\n{data}".encode()).hexdigest()


# -- KuCoin ------------------------------------------------------------------------------------
# kucoin.com's API documents, "Authentication"; key version 2 signs the passphrase, too.
def kucoin_headers(
    key: Secret, secret: Secret, passphrase: Secret, *, ts_ms: int, method: str, target: str,
    body: bytes = b"", version: int = 2,
) -> dict[str, str]:  # fmt: skip
    """Return the headers of a signed request; ``target`` is the path with its query, as sent."""
    said = f"{ts_ms}{method.upper()}{target}".encode() + body
    return {
        "KC-API-KEY": key.reveal(),
        "KC-API-SIGN": _base64(_hmac_sha256(secret, said).digest()),
        "KC-API-TIMESTAMP": str(ts_ms),
        "KC-API-PASSPHRASE": _base64(_hmac_sha256(secret, passphrase.reveal().encode()).digest()),
        "KC-API-KEY-VERSION": str(version),
    }


# -- Hyperliquid -------------------------------------------------------------------------------
# hyperliquid.gitbook.io, "Signing": an action's hash is the connectionId of an "Agent" that is
# signed as EIP-712 typed data.
class HexSignature(msgspec.Struct, frozen=True):
    """A signature as Hyperliquid takes it; r and s are hex numbers, not padded."""

    r: str
    s: str
    v: int


def hyperliquid_action_hash(
    action: bytes, *, nonce_ms: int, vault: str | None = None, expires_ms: int | None = None
) -> bytes:
    """Return the hash of an action's msgpack bytes, whose keys stand in the documents' order.

    ``vault`` is an address (0x and 40 hex digits), ``expires_ms`` when the venue is to forget it.
    """
    from piker.brokers._evm import keccak256

    said = action + nonce_ms.to_bytes(8, "big")
    said += b"\x00" if vault is None else b"\x01" + bytes.fromhex(vault.removeprefix("0x"))
    if expires_ms is not None:
        said += b"\x00" + expires_ms.to_bytes(8, "big")
    return keccak256(said)


def hyperliquid_sign(private_key: Secret, action_hash: bytes, *, mainnet: bool) -> HexSignature:
    """Return the signature of an action; ``private_key`` is 0x and 64 hex digits.

    Takes some milliseconds: Keccak is pure Python. Raises ``ConfigError`` for another key.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    from piker.brokers._evm import keccak256, sign_digest

    try:
        number = int(private_key.reveal().strip().removeprefix("0x"), 16)
        key = ec.derive_private_key(number, ec.SECP256K1())
    except ValueError:
        raise ConfigError(
            "hyperliquid: the private key is not 64 hex digits.", remedy=_AGAIN
        ) from None
    agent = keccak256(b"Agent(string source,bytes32 connectionId)")
    source = keccak256(b"a" if mainnet else b"b")
    said = b"\x19\x01" + _hyperliquid_domain() + keccak256(agent + source + action_hash)
    r, s, v = sign_digest(key, keccak256(said))
    return HexSignature(hex(r), hex(s), v)


def _hyperliquid_domain() -> bytes:
    from piker.brokers._evm import keccak256

    kind = b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    chain = (1337).to_bytes(32, "big")  # whatever the network: the source tells them apart
    return keccak256(keccak256(kind) + keccak256(b"Exchange") + keccak256(b"1") + chain + bytes(32))
