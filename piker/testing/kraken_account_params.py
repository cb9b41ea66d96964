"""What a client says in a request of an account: REST's forms and websocket v2's JSON, as one.

The venue's own words for what is wrong are those of docs/brokers/kraken.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from piker.testing.accounts import ZERO

__all__ = [
    "KINDS",
    "Fields",
    "Refusal",
    "Terms",
    "fields_of_body",
    "fields_of_params",
    "invalid",
    "rest_terms",
    "socket_terms",
]

_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", re.ASCII)
_CL_ORD_ID = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}|[\x21-\x7e]{1,18}", re.ASCII | re.I
)
_SIDES = {"buy": 1, "sell": -1}
#: kind -> whether it has a limit price, and whether it waits for a trigger
KINDS = {
    "market": (False, False), "limit": (True, False), "stop-loss": (False, True),
    "stop-loss-limit": (True, True), "take-profit": (False, True),
    "take-profit-limit": (True, True), "trailing-stop": (False, True),
}  # fmt: skip
TIFS = ("GTC", "IOC", "GTD", "FOK")
FLAGS = ("post", "fciq", "nompp")  # fcib, fees in the base asset, is not done here
NOT_DONE = ("cash_order_qty", "conditional", "display_qty", "displayvol", "effective_time")
MIN_LIFE_MS = 1000  # of a good-till-date order; the venue's own minimum is 5 s


class Refusal(Exception):
    """The venue's own words."""


def invalid(name: str) -> Refusal:
    """Return the refusal of a request for one of its arguments."""
    return Refusal(f"EGeneral:Invalid arguments:{name}")


class Fields:
    """A request's arguments as text. ``strings`` are those that JSON had in quotes."""

    def __init__(self, values: Mapping[str, str], strings: Iterable[str] | None = None) -> None:
        self.values = dict(values)
        self._strings = None if strings is None else frozenset(strings)

    def __contains__(self, name: str) -> bool:
        """Tell whether it was sent with a value."""
        return self.values.get(name, "") not in ("", "null")

    def word(self, name: str, default: str = "") -> str:
        """Return an argument, or its default."""
        return self.values[name] if name in self else default

    def needed(self, name: str) -> str:
        """Return an argument that must be there."""
        if name not in self:
            raise invalid(name)
        return self.values[name]

    def choice(self, name: str, choices: Iterable[str], default: str = "") -> str:
        """Return one of the words there are; without a default it must be there."""
        value = self.word(name, default)
        if value not in choices:
            raise invalid(name)
        return value

    def flag(self, name: str) -> bool:
        """Return true or false, false where it was not sent."""
        return self.choice(name, ("true", "false", "True", "False"), "false").lower() == "true"

    def decimal(self, name: str, *, text: str = "") -> Decimal:
        """Return a number above or equal to 0, 0 where it was not sent."""
        value = text or self.word(name)
        if not value:
            return ZERO
        if self._strings is not None and name in self._strings:
            raise invalid(name)  # websocket v2 takes numbers, not texts
        if not _NUMBER.fullmatch(value):
            raise invalid(name)
        return Decimal(value)

    def whole(self, name: str, default: int = 0) -> int:
        """Return a whole number, which may be below 0."""
        text = self.word(name)
        if not text:
            return default
        if not re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII):
            raise invalid(name)
        return int(text)

    def moment_ms(self, name: str) -> int:
        """Return a time in RFC 3339 as milliseconds, 0 where it was not sent."""
        if name not in self:
            return 0
        try:
            return round(datetime.fromisoformat(self.values[name]).timestamp() * 1000)
        except (ValueError, OverflowError):
            raise invalid(name) from None

    def names(self, name: str) -> list[str]:
        """Return a JSON list of texts, or a text with commas."""
        text = self.word(name)
        if not text.startswith("["):
            return [part for part in text.split(",") if part]
        try:
            return msgspec.json.decode(text.encode(), type=list[str])
        except msgspec.DecodeError:
            raise invalid(name) from None


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """A new order as its client wants it. ``trail`` is a distance: of the price, or in percent."""

    pair: str
    side: int
    kind: str
    size: Decimal
    price: Decimal = ZERO
    trigger: Decimal = ZERO
    trail: Decimal = ZERO
    trail_pct: bool = False
    reference: str = "last"
    tif: str = "GTC"
    expire_ms: int = 0
    post_only: bool = False
    cl_ord_id: str = ""
    userref: int = 0
    deadline_ms: int = 0
    validate: bool = False


# -- REST ----------------------------------------------------------------------------------------
def fields_of_body(body: bytes, content_type: str) -> Fields:
    """Return the arguments of a POST: a form, or JSON."""
    try:
        if "json" in content_type:
            return Fields(_texts(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))[0])
        return Fields(dict(parse_qsl(body.decode(), keep_blank_values=True)))
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
        return Fields({})


def _texts(params: Mapping[str, msgspec.Raw]) -> tuple[dict[str, str], set[str]]:
    found, strings = {}, set()
    for name, raw in params.items():
        data = bytes(raw)
        if data[:1] == b'"':
            strings.add(name)
            found[name] = msgspec.json.decode(data, type=str)
        else:
            found[name] = data.decode()
    return found, strings


def rest_terms(fields: Fields, now_ms: int) -> Terms:
    """Return the order that AddOrder describes."""
    kind = fields.choice("ordertype", KINDS)
    priced, waits = KINDS[kind]
    price, trail, percent = fields.word("price"), "", False
    if kind == "trailing-stop":
        trail, price = price, ""
        percent = trail.endswith("%")
        trail = trail.removesuffix("%").removeprefix("+")
    flags = fields.names("oflags")
    if any(flag not in FLAGS for flag in flags):
        raise invalid("oflags")
    limit = fields.word("price2") if waits else price
    return _checked(
        Terms(
            pair=fields.needed("pair"),
            side=_SIDES[fields.choice("type", _SIDES)],
            kind=kind,
            size=fields.decimal("volume"),
            price=fields.decimal("price", text=limit) if priced else ZERO,
            trigger=fields.decimal("price", text=price) if waits and price else ZERO,
            trail=fields.decimal("price", text=trail) if trail else ZERO,
            trail_pct=percent,
            reference=fields.choice("trigger", ("last", "index"), "last"),
            tif=fields.choice("timeinforce", TIFS, "GTC"),
            expire_ms=_expiry_ms(fields, now_ms),
            post_only="post" in flags,
            **_common(fields, "userref"),
        ),
        fields,
        now_ms,
    )


def _expiry_ms(fields: Fields, now_ms: int) -> int:
    text = fields.word("expiretm", "0")
    if text.startswith("+"):
        return now_ms + 1000 * int(fields.decimal("expiretm", text=text[1:]))
    return 1000 * int(fields.decimal("expiretm", text=text))


# -- websocket v2 --------------------------------------------------------------------------------
def fields_of_params(params: Mapping[str, msgspec.Raw]) -> Fields:
    """Return the ``params`` of a request."""
    return Fields(*_texts(params))


def socket_terms(fields: Fields, now_ms: int) -> Terms:
    """Return the order that add_order describes."""
    kind = fields.choice("order_type", KINDS)
    priced, waits = KINDS[kind]
    rules = _triggers(fields) if waits else Fields({})
    unit = rules.choice("price_type", ("static", "pct", "quote"), "static")
    trails = kind == "trailing-stop"
    if waits and (unit == "static") == trails:
        raise invalid("price_type")
    trigger = rules.decimal("price")
    return _checked(
        Terms(
            pair=fields.needed("symbol"),
            side=_SIDES[fields.choice("side", _SIDES)],
            kind=kind,
            size=fields.decimal("order_qty"),
            price=fields.decimal("limit_price") if priced else ZERO,
            trigger=ZERO if trails else trigger,
            trail=trigger if trails else ZERO,
            trail_pct=unit == "pct",
            reference=rules.choice("reference", ("last", "index"), "last"),
            tif=fields.word("time_in_force", "gtc").upper(),
            expire_ms=fields.moment_ms("expire_time"),
            post_only=fields.flag("post_only"),
            **_common(fields, "order_userref"),
        ),
        fields,
        now_ms,
    )


def _triggers(fields: Fields) -> Fields:
    try:
        said = msgspec.json.decode(fields.needed("triggers"), type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        raise invalid("triggers") from None
    return fields_of_params(said)


# -- both ----------------------------------------------------------------------------------------
def _common(fields: Fields, userref: str) -> dict[str, Any]:  # Any: values of several kinds
    return {
        "cl_ord_id": fields.word("cl_ord_id"),
        "userref": fields.whole(userref),
        "deadline_ms": fields.moment_ms("deadline"),
        "validate": fields.flag("validate"),
    }


def _checked(terms: Terms, fields: Fields, now_ms: int) -> Terms:
    """Refuse what is wrong with an order whatever the market is like."""
    for name in NOT_DONE:
        if name in fields:
            raise invalid(name)
    if fields.flag("margin") or fields.flag("reduce_only") or "leverage" in fields:
        raise Refusal("EOrder:Margin trading is not enabled")
    fields.choice("fee_preference", ("quote",), "quote")
    priced, waits = KINDS[terms.kind]
    if terms.size <= 0:
        raise invalid("volume")
    if (priced and not terms.price) or (waits and not (terms.trigger or terms.trail)):
        raise Refusal("EOrder:Invalid price")
    if terms.tif not in TIFS or (waits and terms.tif in ("IOC", "FOK")):
        raise invalid("timeinforce")
    if (terms.tif == "GTD") != bool(terms.expire_ms):
        raise invalid("expiretm")
    if terms.expire_ms and terms.expire_ms < now_ms + MIN_LIFE_MS:
        raise invalid("expiretm")
    if terms.post_only and (terms.kind != "limit" or terms.tif in ("IOC", "FOK")):
        raise invalid("oflags")
    if terms.cl_ord_id and not _CL_ORD_ID.fullmatch(terms.cl_ord_id):
        raise invalid("cl_ord_id")
    if terms.cl_ord_id and terms.userref:
        raise invalid("userref")
    return terms
