"""Take secrets out of what a capture keeps: URLs, queries, headers, messages and bodies.

The rules, each held by a test:

- a query parameter, or a JSON string, whose *name* is that of a credential loses its value;
- in what *we* send, and in URLs, a run of ``MIN_KEY`` or more letters and digits is a key,
  whatever it is called: a listen key stands bare in Binance's paths and stream lists;
- of the headers of an answer only those that are named here are kept.

Text is masked in place with as many asterisks as it had characters, so that JSON stays JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

__all__ = ["MIN_KEY", "keep_headers", "scrub_heard", "scrub_said", "scrub_url"]

MIN_KEY = 40  # characters; a listen key has 64, a signature 64, the longest stream name's word 20
_NAMES = (
    "apikey|api_key|api-key|apisecret|api_secret|secret|signature|sign|listenkey|token|"
    "access_token|refresh_token|authorization|password|passphrase|otp|nonce|jwt"
)
_PARAM = re.compile(rf"(?<![^?&])({_NAMES})=([^&#]*)", re.IGNORECASE)
_MEMBER = re.compile(rf'"(?:{_NAMES})"\s*:\s*(?:"((?:[^"\\]|\\.)+)"|(\d+))'.encode(), re.IGNORECASE)
_KEY = re.compile(rf"(?<![A-Za-z0-9])[A-Za-z0-9]{{{MIN_KEY},}}(?![A-Za-z0-9])")
_KEY_BYTES = re.compile(_KEY.pattern.encode())
_KEPT = frozenset({"content-type", "date", "etag", "last-modified", "retry-after"})
_KEPT_PREFIXES = ("x-mbx-used-weight", "x-ratelimit")


def scrub_url(url: str) -> tuple[str, int]:
    """Return a URL without user, secrets and fragment, and how many secrets it had."""
    parts = urlsplit(url)
    found = int("@" in parts.netloc)
    place = parts.netloc.rpartition("@")[2]
    query, masked = _PARAM.subn(lambda m: f"{m[1]}=***", parts.query)
    rest, keys = _KEY.subn(_mask, f"{parts.path}?{query}" if query else parts.path)
    head = f"{parts.scheme}://{place}" if parts.scheme else place
    return head + rest, found + masked + keys


def scrub_heard(text: bytes) -> tuple[bytes, int]:
    """Return a received message or body without named secrets, and how many it had."""
    if not _MEMBER.search(text):
        return text, 0
    return _MEMBER.subn(_mask_member, text)


def scrub_said(text: bytes) -> tuple[bytes, int]:
    """Return a message of ours without named secrets and bare keys, and how many it had."""
    text, named = scrub_heard(text)
    text, bare = _KEY_BYTES.subn(lambda m: b"*" * len(m[0]), text)
    return text, named + bare


def keep_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers (names in lower case) that a capture may hold."""
    return {
        name: value
        for name, value in headers.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIXES)
    }


def _mask(found: re.Match[str]) -> str:
    return "*" * len(found[0])


def _mask_member(found: re.Match[bytes]) -> bytes:
    """Mask the value and nothing else; a number becomes zeros, to stay one."""
    group = 1 if found[1] is not None else 2
    start, end = (at - found.start() for at in found.span(group))
    filler = b"*" if group == 1 else b"0"
    whole = found[0]
    return whole[:start] + filler * (end - start) + whole[end:]
