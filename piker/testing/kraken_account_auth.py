"""Who sent a request at the loopback Kraken: keys, API-Sign, nonces, tokens, permissions."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import random
from collections.abc import Iterable

import trio

from piker.errors import ConfigError
from piker.testing.accounts import AccountSpec
from piker.testing.kraken_account_params import Fields, Refusal
from piker.testing.requests import Request

__all__ = ["RIGHTS", "TOKEN_S", "Keys", "is_signed", "secret_of"]

TOKEN_S = 900.0  # a token that opens nothing ends after so long
MAX_TOKENS = 1000  # of a venue
#: what an account's permissions are at the venue
RIGHTS = {
    "read": ("query-funds", "query-open-trades", "query-closed-trades", "query-ledger",
             "create-ws-token"),
    "spot": ("modify-trades", "close-trades"),
    "withdraw": ("withdraw-funds",),
}  # fmt: skip


def secret_of(spec: AccountSpec) -> bytes:
    """Return the bytes of a key's secret; ``ConfigError`` where it is no base64."""
    try:
        if spec.secret is None:
            raise ValueError
        return base64.b64decode(spec.secret.reveal(), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(
            f"account {spec.name!r}: Kraken's secrets are base64.", remedy="Give 64 bytes so."
        ) from None


def is_signed(secret: bytes, path: str, nonce: str, body: bytes, signature: str) -> bool:
    """Tell whether API-Sign is that of the key."""
    said = path.encode() + hashlib.sha256(nonce.encode() + body).digest()
    made = base64.b64encode(hmac.new(secret, said, hashlib.sha512).digest())
    return hmac.compare_digest(made, signature.encode("latin-1", "replace"))


class Keys:
    """The keys of a venue, their nonces and tokens."""

    def __init__(self, specs: Iterable[AccountSpec], seed: int) -> None:
        self._by_key = {spec.key: (spec, secret_of(spec)) for spec in specs}
        self._nonces: dict[str, int] = {}
        self._tokens: dict[str, tuple[AccountSpec, float]] = {}  # with its end on trio's clock
        self._in_use: dict[str, int] = {}  # connections that a token opened something on
        self._random = random.Random(f"{seed}:tokens")

    def holder(self, request: Request, fields: Fields) -> AccountSpec:
        """Return whose request it is: its key, signature and nonce hold, or it is refused."""
        found = self._by_key.get(request.headers.get("api-key", ""))
        if found is None:
            raise Refusal("EAPI:Invalid key")
        spec, secret = found
        nonce = fields.word("nonce")
        sign = request.headers.get("api-sign", "")
        if not is_signed(secret, request.path, nonce, request.body, sign):
            raise Refusal("EAPI:Invalid signature")
        if not nonce.isdecimal() or int(nonce) <= self._nonces.get(spec.key, -1):
            raise Refusal("EAPI:Invalid nonce")
        self._nonces[spec.key] = int(nonce)
        return spec

    @staticmethod
    def permit(spec: AccountSpec, permission: str) -> None:
        """Refuse what the key may not do."""
        if permission not in spec.permissions:
            raise Refusal("EGeneral:Permission denied")

    # -- tokens --------------------------------------------------------------------------------
    def make_token(self, spec: AccountSpec) -> str:
        """Return a token for the websocket."""
        token = base64.b64encode(self._random.randbytes(32)).decode().rstrip("=")
        while len(self._tokens) >= MAX_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[token] = (spec, trio.current_time() + TOKEN_S)
        return token

    def of_token(self, token: str) -> AccountSpec:
        """Return whose token it is."""
        spec, end = self._tokens.get(token, (None, 0.0))
        if spec is None or (trio.current_time() > end and not self._in_use.get(token)):
            raise Refusal("ESession:Invalid session")
        return spec

    def hold(self, token: str) -> None:
        """Keep a token alive: something is subscribed with it."""
        self._in_use[token] = self._in_use.get(token, 0) + 1

    def let_go(self, token: str) -> None:
        """Let a token end in its time."""
        self._in_use[token] -= 1

    def end_tokens(self) -> None:
        """End every token at once, as the venue does when a key is changed."""
        self._tokens.clear()
