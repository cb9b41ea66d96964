"""An account's key at Binance: what signs with it, what it may do, and its options."""

from __future__ import annotations

import msgspec

from piker.brokers.binance.api import PROVIDER
from piker.brokers.binance.broker_rest import PATIENCE_S, NotServed, Signed, open_signed
from piker.brokers.credentials import Credentials, check_shape
from piker.brokers.signing import Signer, binance_signer
from piker.config import load_brokers
from piker.errors import ConfigError, Refused, Rejected
from piker.log import Secret

__all__ = ["Options", "ask_rights", "key_rights", "load_options", "raise_refused", "take_over"]

_BAD_KEY = ("-2014", "-2015", "-1022", "-1002")
_WORDS = {
    "read": "enable_reading", "spot": "enable_spot_and_margin_trading",
    "futures": "enable_futures", "withdraw": "enable_withdrawals",
    "internal_transfer": "enable_internal_transfer",
    "universal_transfer": "permits_universal_transfer", "margin": "enable_margin",
    "options": "enable_vanilla_options",
}  # fmt: skip


class Options(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """``[binance] options`` of brokers.toml."""

    recv_window_ms: int = 5000  # how long a request is valid; the venue's default
    patience_s: int = int(PATIENCE_S)  # until it is believed that the venue does not have an order
    cancel_after_s: int = 120  # USD-M's orders are canceled when we are silent so long; 0: never

    def __post_init__(self) -> None:
        """Refuse what the venue would, or what makes no sense."""
        if not 500 <= self.recv_window_ms <= 60_000:
            raise ValueError("recv_window_ms is not within 500 and 60000")
        if not 1 <= self.patience_s <= 3600:
            raise ValueError("patience_s is not within 1 and 3600")
        if self.cancel_after_s and not 5 <= self.cancel_after_s <= 86_400:
            raise ValueError("cancel_after_s is neither 0 nor within 5 and 86400")


def load_options() -> Options:
    """Return them; ``ConfigError`` for what makes no sense."""
    table = load_brokers().get(PROVIDER)
    try:
        return msgspec.convert(table.options if table else {}, Options)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"brokers.toml: [binance] options: {error}.",
            remedy="docs/brokers/binance.md lists them.",
        ) from None


# -- the key -----------------------------------------------------------------------------------
class _Rights(msgspec.Struct, rename="camel"):
    """Body of apiRestrictions."""

    enable_reading: bool = False
    enable_spot_and_margin_trading: bool = False
    enable_futures: bool = False
    enable_withdrawals: bool = False
    enable_internal_transfer: bool = False
    permits_universal_transfer: bool = False
    enable_margin: bool = False
    enable_vanilla_options: bool = False


class _CanTrade(msgspec.Struct, rename="camel"):
    """Body of account, as far as it says what the key may do."""

    can_trade: bool = False


async def ask_rights(signed: Signed) -> tuple[str, ...]:
    """Return what a key may do; ``Refused`` where the venue does not take it."""
    path = "/sapi/v1/account/apiRestrictions"
    try:
        try:
            rights = await signed.query(path, type=_Rights, weight=1)
        except NotServed:  # of a testnet, whose keys are for one market
            account = await signed.query("/api/v3/account", type=_CanTrade, weight=20)
            rights = _Rights(True, account.can_trade)
    except Rejected as error:
        raise_refused(error)
        raise
    return tuple(word for word, field in _WORDS.items() if getattr(rights, field))


async def key_rights(credentials: Credentials) -> tuple[str, ...]:
    """Return what a key may do: ``read``, ``spot``, ``futures``, ``withdraw`` and the like.

    Asks the venue once; raises ``Refused`` where it does not take the key, ``ConfigError`` where
    that can not sign, and ``BrokerError`` where no answer comes. The credentials are forgotten.
    """
    account = credentials.account
    sign, key = take_over(credentials)
    window_ms = load_options().recv_window_ms
    async with open_signed("spot", account, sign, key, window_ms=window_ms) as signed:
        return await ask_rights(signed)


def take_over(credentials: Credentials) -> tuple[Signer, Secret]:
    """Return what signs, and the key; the credentials are forgotten.

    ``ConfigError`` where they can not sign.
    """
    with credentials:
        check_shape(credentials)
        return binance_signer(credentials.secret), Secret(credentials.key.reveal())


def raise_refused(error: Rejected) -> None:
    """Raise ``Refused`` in the venue's words where that is what an answer says of the key."""
    if error.code in _BAD_KEY:
        raise Refused(
            error.message, remedy="Look at the key's page at the venue, then: piker keys add"
        ) from error
