"""What a client says in a request to an account endpoint, and the venue's refusals."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from piker.testing.accounts import ZERO

__all__ = ["Params", "VenueRefusal", "missing"]

PRECISION = 8  # decimals of a number in a request
MAX_WHOLE = 2**63 - 1
_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?", re.ASCII)
_CLIENT_ID = {
    "spot": r"^[a-zA-Z0-9-_]{1,36}$",
    "usdm": r"^[\.A-Z\:/a-z0-9_-]{1,36}$",
}


class VenueRefusal(Exception):
    """The venue's own code and words; ``data`` is what some refusals carry besides."""

    def __init__(
        self, code: int, text: str, *, status: int = 400, data: Any = None  # Any: a JSON body
    ) -> None:  # fmt: skip
        super().__init__(text)
        self.code, self.text, self.status, self.data = code, text, status, data

    @property
    def body(self) -> dict[str, Any]:
        """Return it as REST says it."""
        more = {} if self.data is None else {"data": self.data}
        return {"code": self.code, "msg": self.text, **more}


def missing(name: str) -> VenueRefusal:
    """Return the refusal of a request without one of its parameters."""
    return VenueRefusal(
        -1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed."
    )


class Params:
    """The parameters of a request, of REST or of the websocket API; all of them text."""

    def __init__(self, values: Mapping[str, str], kind: str) -> None:
        self.values = dict(values)
        self.kind = kind

    def __contains__(self, name: str) -> bool:
        """Tell whether it was sent with a value."""
        return bool(self.values.get(name))

    def word(self, name: str, default: str = "") -> str:
        """Return a parameter, or its default."""
        return self.values.get(name) or default

    def needed(self, name: str) -> str:
        """Return a parameter that must be there."""
        if name not in self:
            raise missing(name)
        return self.values[name]

    def choice(
        self, name: str, choices: Iterable[str], refusal: tuple[int, str], default: str = ""
    ) -> str:
        """Return one of the words there are; a parameter without a default must be there."""
        value = self.word(name, default) or self.needed(name)
        if value not in choices:
            raise VenueRefusal(*refusal)
        return value

    def flag(self, name: str) -> bool:
        """Return true or false, false where it was not sent."""
        text = self.word(name, "false").lower()
        if text not in ("true", "false"):
            raise VenueRefusal(-1130, f"Data sent for parameter '{name}' is not valid.")
        return text == "true"

    def decimal(self, name: str) -> Decimal:
        """Return a number of the request, 0 where it was not sent."""
        text = self.word(name)
        if not text:
            return ZERO
        if not _NUMBER.fullmatch(text):
            raise _illegal(name, r"^([0-9]{1,20})(\.[0-9]{1,20})?$")
        value = Decimal(text)
        if value != round(value, PRECISION):
            raise VenueRefusal(-1111, f"Parameter '{name}' has too much precision.")
        return value

    def whole(self, name: str, default: int = 0, *, top: int = MAX_WHOLE) -> int:
        """Return a whole number, at most ``top``."""
        text = self.word(name)
        if not text:
            return default
        if not re.fullmatch(r"[0-9]{1,20}", text, re.ASCII):
            raise _illegal(name, "^[0-9]{1,20}$")
        return min(int(text), top)

    def client_id(self, name: str) -> str:
        """Return a client's order id, empty where it was not sent."""
        text, pattern = self.word(name), _CLIENT_ID[self.kind]
        if text and not re.fullmatch(pattern, text):
            raise _illegal(name, pattern)
        return text

    def order_name(self, number: str = "orderId", client: str = "origClientOrderId") -> Any:
        """Return (order's number, client's id) of which one must be there."""
        if number not in self and client not in self:
            text = f"Param '{client}' or '{number}' must be sent, but both were empty/null!"
            raise VenueRefusal(-1102, text)
        return self.whole(number), self.word(client)


def _illegal(name: str, pattern: str) -> VenueRefusal:
    text = f"Illegal characters found in parameter '{name}'; legal range is '{pattern}'."
    return VenueRefusal(-1100, text)
