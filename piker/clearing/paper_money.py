"""What a paper account has of each asset, and what its standing orders have set aside. Pure.

An asset that the configuration names begins with what it says, and can not be overdrawn: an order
that needs more of it than is there is refused, as venues do. All others begin with nothing and may
be owed. Spot trades exchange one asset for another; of derivatives what was made is paid in, at
average cost, when units are closed. There is no margin here: what a position may be worth is for
the limits.

It remembers nothing itself: each fill says what it moved, emsd's journal sums that up, and a dialog
begins with the sums (:class:`~piker.orders.BrokerdMemory`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from piker.clearing.holdings import Holding, Leg, traded
from piker.market import AssetType, MktPair
from piker.money import DIVIDE, EXACT, ZERO, plain
from piker.orders import BrokerdBalance, BrokerdMemory

__all__ = ["PaperMoney"]

SHOWN = Decimal("1e-12")  # to which a balance is told: a coin's smallest unit is larger
_DERIVATIVES = frozenset({AssetType.FUTURE, AssetType.PERPETUAL, AssetType.OPTION})


class PaperMoney:
    """The assets of one paper account."""

    def __init__(
        self, account: str, start: Mapping[str, Decimal], memory: BrokerdMemory | None = None
    ) -> None:
        """Begin with what ``start`` names and with what the journal has of all fills."""
        memory = memory or BrokerdMemory(account=account)
        self.account = account
        self.is_new = True  # since it was told last
        self._named = frozenset(asset.lower() for asset in start)
        self._total = {asset.lower(): amount for asset, amount in start.items()}
        self._add(memory.moved)
        self._held = {
            symbol: Holding(size, Leg(cost, cost.copy_negate()), Leg(coins, coins.copy_negate()))
            for symbol, (size, cost, coins) in memory.held.items()
        }
        self._aside: dict[str, tuple[str, Decimal]] = {}  # by oid: asset, amount
        self._locked: dict[str, Decimal] = {}

    # -- orders --------------------------------------------------------------------------------
    def lacks(
        self, oid: str, mkt: MktPair, side: int, left: Decimal, price: Decimal, fee: Decimal
    ) -> str:
        """Return why an order for ``left`` is more than there is, or ""; ``fee`` is its rate."""
        needed = self._needs(mkt, side, left, price, fee)
        if needed is None:
            return ""
        asset, amount = needed
        free = self.available(asset)
        aside = self._aside.get(oid)
        if aside is not None and aside[0] == asset:  # an edit gives back what it had set aside
            free = EXACT.add(free, aside[1])
        if amount <= free:
            return ""
        return (
            f"account has insufficient balance: it needs {plain(amount)} {asset}, and "
            f"{_shown(free)} {asset} are available"
        )

    def set_aside(
        self, oid: str, mkt: MktPair, side: int, left: Decimal, price: Decimal, fee: Decimal
    ) -> None:
        """Keep what an order may still need from all others, in place of what it had."""
        needed = self._needs(mkt, side, left, price, fee)
        self.release(oid)
        if needed is not None:
            asset, amount = needed
            self._aside[oid] = needed
            self._locked[asset] = EXACT.add(self._locked.get(asset, ZERO), amount)
            self.is_new = True

    def release(self, oid: str) -> None:
        """Let go of what an order had set aside, if it had."""
        asset, amount = self._aside.pop(oid, ("", ZERO))
        if asset:
            self._locked[asset] = EXACT.subtract(self._locked[asset], amount)
            self.is_new = True

    def _needs(
        self, mkt: MktPair, side: int, left: Decimal, price: Decimal, fee: Decimal
    ) -> tuple[str, Decimal] | None:
        """Return what a spot order takes of an asset that can not be overdrawn, or None."""
        if _is_derivative(mkt):
            return None
        asset = mkt.src.name if side > 0 else mkt.dst.name
        if asset not in self._named:
            return None
        units = EXACT.multiply(left, mkt.contract_size)
        if side < 0:
            return asset, units
        cost = EXACT.multiply(units, price)
        return asset, EXACT.add(cost, EXACT.multiply(cost, max(fee, ZERO)))

    # -- fills ---------------------------------------------------------------------------------
    def fill(
        self, mkt: MktPair, side: int, size: Decimal, price: Decimal, fee: Decimal, fee_asset: str
    ) -> dict[str, Decimal]:
        """Take a fill; return what it moved of each asset."""
        signed = size if side > 0 else size.copy_negate()
        if _is_derivative(mkt):
            moved = self._realise(mkt, signed, price)
        else:
            units = EXACT.multiply(signed, mkt.contract_size)
            paid = EXACT.multiply(units, price).copy_negate()
            moved = {mkt.dst.name: units, mkt.src.name: paid}
        if fee:
            moved[fee_asset] = EXACT.subtract(moved.get(fee_asset, ZERO), fee)
        self._add(moved)
        return moved

    def _realise(self, mkt: MktPair, signed: Decimal, price: Decimal) -> dict[str, Decimal]:
        """Return what closing units paid in, if the fill closed any."""
        before = self._held.get(mkt.mktid) or Holding()
        after = self._held[mkt.mktid] = traded(before, signed, price)
        legs = (after.inverse, before.inverse) if mkt.inverse else (after.linear, before.linear)
        made = EXACT.subtract(legs[0].realised, legs[1].realised)
        if not made:
            return {}
        settle = mkt.dst if mkt.inverse else mkt.src
        return {settle.name: EXACT.multiply(made, mkt.contract_size)}

    def _add(self, moved: Mapping[str, Decimal]) -> None:
        self.is_new = True
        for asset, amount in moved.items():
            self._total[asset] = EXACT.add(self._total.get(asset, ZERO), amount)

    # -- telling -------------------------------------------------------------------------------
    def available(self, asset: str) -> Decimal:
        """Return what of an asset no order has set aside."""
        return EXACT.subtract(self._total.get(asset, ZERO), self._locked.get(asset, ZERO))

    def balances(self, now_ns: int, assets: Iterable[str] = ()) -> list[BrokerdBalance]:
        """Return the balances of some assets, or of all. What may be owed has no ``available``."""
        self.is_new = self.is_new and bool(assets)
        return [
            BrokerdBalance(
                broker=self.account.partition(".")[0], account=self.account, asset=asset,
                total=_cut(self._total.get(asset, ZERO)), time_ns=now_ns,
                available=_cut(self.available(asset)) if asset in self._named else None,
            )
            for asset in assets or sorted(self._total)
        ]  # fmt: skip


def _is_derivative(mkt: MktPair) -> bool:
    return mkt.inverse or mkt.atype in _DERIVATIVES


def _cut(value: Decimal) -> Decimal:
    """Round an amount to what is told, where it has more digits."""
    short = value.quantize(SHOWN, context=DIVIDE)
    return value if short == value else short


def _shown(value: Decimal) -> str:
    return plain(_cut(value))
