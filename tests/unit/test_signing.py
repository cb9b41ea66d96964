"""Every published signature comes out to the letter; keys of another kind are refused in words."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from hypothesis import given
from hypothesis import strategies as st

from piker.brokers import signing
from piker.brokers._evm import keccak256, sign_digest, sponge
from piker.errors import ConfigError
from piker.log import Secret


def vectors(shared: Path, venue: str) -> list[dict[str, Any]]:
    """Return the published vectors of one venue."""
    file = shared / "venues" / "auth-vectors" / "auth_vectors.json"
    found = [one for one in json.loads(file.read_text()) if one["venue"] == venue]
    assert found
    return found


def ordered(payload: str) -> dict[str, str]:
    """Return the parameters of a payload in its order."""
    return {name: values[0] for name, values in parse_qs(payload).items()}


def pem_of(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    """Return a private key as PEM text."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


# -- published vectors ---------------------------------------------------------------------------
def test_binance_rest_signature_is_the_published_one_when_hmac(shared: Path) -> None:
    """The whole query is what the venue's document shows, signature last."""
    vector = vectors(shared, "binance")[0]
    sign = signing.binance_signer(Secret(vector["secret"]))
    sent = signing.binance_query(ordered(vector["payload"]), sign)
    assert sent.decode() == f"{vector['payload']}&signature={vector['signature']}"
    assert sign.kind == "hmac"


def test_binance_ws_signature_is_the_published_one_when_hmac(shared: Path) -> None:
    """Whatever the order of the parameters: they are sorted before they are signed."""
    vector = vectors(shared, "binance")[1]
    params = ordered(vector["payload"])
    backwards = dict(reversed(params.items()))
    sign = signing.binance_signer(Secret(vector["secret"]))
    assert signing.binance_ws_params(backwards, sign)["signature"] == vector["signature"]


def test_binance_ws_signature_is_the_documents_when_names_are_not_ascii(shared: Path) -> None:
    """Of each signed order.place of web-socket-api.md: raw UTF-8 is signed, not its encoding."""
    (key,) = {(one["api_key"], one["secret"]) for one in vectors(shared, "binance")}
    sign = signing.binance_signer(Secret(key[1]))
    file = shared / "venues" / "binance" / "official-spot-docs" / "web-socket-api.examples.jsonl"
    symbols = set()
    for line in file.read_text(encoding="utf-8").splitlines():
        example = json.loads(line)
        params = dict((example["json"] or {}).get("params") or {})
        published = params.pop("signature", "FILL")
        if "(HMAC)" not in example["heading"] or "FILL" in published:
            continue
        assert signing.binance_ws_params(params, sign)["signature"] == published
        symbols.add(params["symbol"].isascii())
    assert symbols == {True, False}


def test_kraken_signature_is_the_published_one_when_a_form_is_sent(shared: Path) -> None:
    """AddOrder of Kraken's own documents, body included."""
    (vector,) = vectors(shared, "kraken")
    body = signing.form(ordered(vector["postdata"]))
    assert body.decode() == vector["postdata"]
    sign = signing.kraken_signer(Secret(vector["secret"]))
    headers = signing.kraken_headers(
        Secret("the key"), sign, path=vector["path"], nonce=int(vector["nonce"]), body=body
    )
    assert headers == {"API-Key": "the key", "API-Sign": vector["signature"]}


def test_deribit_header_is_the_published_one(shared: Path) -> None:
    """Of HTTP, with an empty body."""
    (vector,) = vectors(shared, "deribit")
    header = signing.deribit_authorization(
        Secret(vector["client_id"]), Secret(vector["secret"]), ts_ms=int(vector["timestamp"]),
        nonce=vector["nonce"], method="GET", uri=vector["uri"],
    )  # fmt: skip
    assert header == (
        f"deri-hmac-sha256 id=AMANDA,ts={vector['timestamp']},sig={vector['signature']},"
        f"nonce={vector['nonce']}"
    )


def test_deribit_client_signature_is_hmac_of_three_lines() -> None:
    """Without data the third line is empty."""
    told = signing.deribit_client_signature(Secret("AMANDASECRECT"), ts_ms=1, nonce="n")
    assert told == hmac.new(b"AMANDASECRECT", b"1\nn\n", hashlib.sha256).hexdigest()


def test_kucoin_headers_are_the_vectors(shared: Path) -> None:
    """Request and passphrase are signed."""
    (vector,) = vectors(shared, "kucoin")
    time_ms, method, rest = vector["payload"][:13], "POST", vector["payload"][17:]
    target, _, body = rest.partition("{")
    headers = signing.kucoin_headers(
        Secret("k"), Secret(vector["secret"]), Secret(vector["passphrase"]), ts_ms=int(time_ms),
        method=method, target=target, body=b"{" + body.encode(),
    )  # fmt: skip
    assert headers["KC-API-SIGN"] == vector["signature"]
    assert headers["KC-API-PASSPHRASE"] == vector["passphrase_signed"]
    assert headers["KC-API-TIMESTAMP"] == time_ms


def test_hyperliquid_signatures_are_the_published_ones(shared: Path) -> None:
    """Action hash and all three numbers, of every vector; the packed bytes are ours, too."""
    found = vectors(shared, "hyperliquid")
    assert len(found) >= 3
    for vector in found:
        packed = msgspec.msgpack.encode(vector["action"])
        assert packed.hex() == vector["msgpack_hex"]
        digest = signing.hyperliquid_action_hash(
            packed, nonce_ms=vector["nonce"], vault=vector["vault"],
            expires_ms=vector["expires_after"],
        )  # fmt: skip
        assert "0x" + digest.hex() == vector["action_hash"]
        signed = signing.hyperliquid_sign(
            Secret(vector["private_key"]), digest, mainnet=vector["mainnet"]
        )
        assert msgspec.to_builtins(signed) == vector["signature"]


# -- binance's other keys ------------------------------------------------------------------------
def test_binance_ed25519_signature_verifies_over_the_bytes_sent() -> None:
    """Non-ASCII values are percent-encoded before they are signed, base64 before it is sent."""
    key = ed25519.Ed25519PrivateKey.generate()
    sign = signing.binance_signer(Secret(pem_of(key)))
    sent = signing.binance_query({"symbol": "１２３", "timestamp": 1}, sign).decode()
    payload, _, signature = sent.partition("&signature=")
    assert payload == f"symbol={quote('１２３')}&timestamp=1"
    assert not set("+/=") & set(signature)
    key.public_key().verify(base64.b64decode(unquote(signature)), payload.encode())
    assert sign.kind == "ed25519"


def test_binance_rsa_signature_verifies_over_the_bytes_sent() -> None:
    """PKCS#1 v1.5 with SHA-256, in base64."""
    key = rsa.generate_private_key(65_537, 2048)
    sign = signing.binance_signer(Secret(pem_of(key)))
    signed = signing.binance_ws_params({"symbol": "１２３", "apiKey": "k", "timestamp": 1}, sign)
    payload = "apiKey=k&symbol=１２３&timestamp=1".encode()
    key.public_key().verify(
        base64.b64decode(str(signed["signature"])), payload, padding.PKCS1v15(), hashes.SHA256()
    )
    assert sign.kind == "rsa"


@pytest.mark.parametrize("kept", [0, 20, 40])
def test_binance_refuses_a_damaged_private_key_without_showing_it(kept: int) -> None:
    """No byte of it, and no chained error that has one."""
    first, body, last = pem_of(ed25519.Ed25519PrivateKey.generate()).splitlines()
    damaged = f"{first}\n{body[:kept]}AAAA\n{last}"
    with pytest.raises(ConfigError) as caught:
        signing.binance_signer(Secret(damaged))
    assert "AAAA" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_binance_refuses_keys_of_other_kinds() -> None:
    """A curve of another name, a short RSA key, nothing at all."""
    short = rsa.generate_private_key(65_537, 1024)
    for text in (pem_of(ec.generate_private_key(ec.SECP256R1())), pem_of(short), " ", "schlüssel"):
        with pytest.raises(ConfigError):
            signing.binance_signer(Secret(text))


# -- the rest ------------------------------------------------------------------------------------
@pytest.mark.parametrize("secret", ["", "not base64!", base64.b64encode(bytes(63)).decode()])
def test_kraken_refuses_what_is_no_private_key(secret: str) -> None:
    """Before anything is sent with it."""
    with pytest.raises(ConfigError, match="64 bytes"):
        signing.kraken_signer(Secret(secret))


def test_kraken_json_bodies_are_signed_as_they_are_sent() -> None:
    """The rule is the same for JSON: nonce, then the body's bytes."""
    sign = signing.kraken_signer(Secret(base64.b64encode(bytes(range(64))).decode()))
    body = b'{"nonce":7,"pair":"XBTUSD"}'
    said = b"/0/private/Balance" + hashlib.sha256(b"7" + body).digest()
    wanted = hmac.new(bytes(range(64)), said, hashlib.sha512).digest()
    assert sign("/0/private/Balance", "7", body) == base64.b64encode(wanted).decode()


def test_a_signer_prints_and_pickles_nothing() -> None:
    """It holds what can sign."""
    sign = signing.binance_signer(Secret("s3cr3t"))
    assert repr(sign) == "<Signer hmac>"
    with pytest.raises(TypeError):
        pickle.dumps(sign)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("1E-8"), "0.00000001"),
        (Decimal("1E+3"), "1000"),
        (Decimal("0.100"), "0.100"),
        (True, "true"),
        (5, "5"),
        ("a b&c", "a b&c"),
    ],
)
def test_parameters_are_said_in_full(value: signing.Param, text: str) -> None:
    """A decimal never has an exponent."""
    assert signing.text_of(value) == text


def test_a_number_that_is_none_is_refused() -> None:
    """NaN and infinities are never sent."""
    for text in ("NaN", "Infinity"):
        with pytest.raises(ConfigError):
            signing.text_of(Decimal(text))


@given(st.dictionaries(st.text(min_size=1), st.text(), min_size=1))
def test_a_form_is_read_as_it_was_written(params: dict[str, str]) -> None:
    """Whatever is in names and values."""
    encodable = {k: v for k, v in params.items() if _utf8(k) and _utf8(v)}
    body = signing.form(encodable).decode("ascii")
    assert {k: v[0] for k, v in parse_qs(body, keep_blank_values=True).items()} == encodable


def _utf8(text: str) -> bool:
    return not any(0xD800 <= ord(char) <= 0xDFFF for char in text)


def test_nonces_rise_when_the_clock_does_not() -> None:
    """Stopped, set back, or gone on."""
    nonces = signing.Nonces()
    told = [nonces.next(now) for now in (5_000_000, 5_000_000, 1_000, 9_000_000)]
    assert told == [5_000, 5_001, 5_002, 9_000]


# -- ethereum's parts ----------------------------------------------------------------------------
def test_keccak_is_the_published_one_of_nothing() -> None:
    """The hash that Ethereum's yellow paper names for empty code."""
    empty = "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert keccak256(b"").hex() == empty


@given(st.binary(max_size=600))
def test_the_sponge_is_hashlibs_when_padded_as_sha3(data: bytes) -> None:
    """The two differ in one byte of padding, and hashlib has the other."""
    assert sponge(data, 0x06) == hashlib.sha3_256(data).digest()


def test_hyperliquid_signatures_verify_and_are_low_for_any_hash() -> None:
    """v tells the parity of the nonce's point; here that both parities occur and all verify."""
    key = ec.generate_private_key(ec.SECP256K1())
    hex_key = Secret(hex(key.private_numbers().private_value))
    seen = set()
    for number in range(12):
        digest = keccak256(bytes([number]))
        r, s, v = sign_digest(key, digest)
        seen.add(v)
        assert s <= 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
        key.public_key().verify(
            utils.encode_dss_signature(r, s), digest, ec.ECDSA(utils.Prehashed(hashes.SHA256()))
        )
    assert seen <= {27, 28}
    assert signing.hyperliquid_sign(hex_key, keccak256(b""), mainnet=True).v in (27, 28)
    with pytest.raises(ConfigError):
        signing.hyperliquid_sign(Secret("0xno"), keccak256(b""), mainnet=True)
