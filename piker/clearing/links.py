"""emsd's way to one account's broker: a dialog with brokerd or paperboi, kept open for ever."""

from __future__ import annotations

import random

import trio

from piker import clock, service
from piker.clearing.accounts import PAPER, split_account
from piker.clearing.brokerd import open_broker_dialog
from piker.clearing.matching import MODEL
from piker.clearing.router import Router
from piker.errors import ConfigError, PeerLost, PikerError, ProviderError, Refused, Transient
from piker.log import get_logger
from piker.orders import BrokerdEvent, BrokerdRequest, decode, encode

__all__ = ["BrokerLink"]

FLOOR_S, CAP_S = 0.05, 2.0  # waits between attempts: orders can be sent again within seconds
LASTING = (ConfigError, ProviderError, Refused)  # time alone does not mend these
HEALTHY_S = 10.0  # a dialog that lasted this long begins anew with the shortest wait
LASTING_S = 30.0  # but a person may: a key was added, a permission given
log = get_logger("ems")


class BrokerLink:
    """One account's dialog. ``name`` is what its statuses call the place."""

    def __init__(self, account: str) -> None:
        self.account = account
        provider, own = split_account(account)
        self._service = f"{'paperboi' if own == PAPER else 'brokerd'}.{provider}"
        self.name = MODEL if own == PAPER else provider
        self._dialog: service.Dialog | None = None
        self._again = trio.CancelScope()
        self.reached = trio.Event()  # its process is there
        self.begun = trio.Event()
        self.refused: PikerError | None = None

    async def send(self, request: BrokerdRequest) -> None:
        """Hand a request over; raise ``Transient`` while there is nobody to take it."""
        if self._dialog is None:
            raise Transient(f"{self._service} is not connected.")
        await self._dialog.send(encode(request))

    def ask_again(self) -> None:
        """Begin the dialog anew: everything is then compared with the venue."""
        self._again.cancel()

    async def keep(self, router: Router) -> None:
        """Keep the dialog open, whatever happens, but for an account that there is not.

        ``begun`` is set at the first dialog, or when the first one was refused for a reason that
        time does not mend: that is ``refused``, and the end. ``reached`` is set once the broker's
        process is there: what is then waited for is the venue.
        """
        wait_s = FLOOR_S
        while True:
            begun_ns = clock.monotonic_ns()
            try:
                await self._once(router)
            except PikerError as err:
                lasting = isinstance(err, LASTING)
                if lasting and not self.begun.is_set() and not router.register.live(self.account):
                    self.refused = err
                    self.reached.set()
                    self.begun.set()
                    return
                log.warning("ems.link", account=self.account, why=err.message)
                await router.lost(self.account, err.message)
                await trio.sleep(LASTING_S if lasting else random.uniform(wait_s / 2, wait_s))
            lived_s = (clock.monotonic_ns() - begun_ns) / clock.NS
            wait_s = FLOOR_S if lived_s > HEALTHY_S else min(CAP_S, wait_s * 2)

    async def _once(self, router: Router) -> None:
        """Open the dialog and hear it to its end."""
        with trio.CancelScope() as self._again:
            try:
                async with service.open_service(self._service) as peer:
                    self.reached.set()
                    told = (*router.memory(self.account), *router.beliefs(self.account))
                    beliefs = [encode(one) for one in told]
                    async with peer.open_dialog(
                        open_broker_dialog, stream_type=bytes, account=self.account,
                        beliefs=beliefs,
                    ) as (_, self._dialog):  # fmt: skip
                        self.begun.set()
                        await self._hear(router)
            finally:
                self._dialog = None
        await router.lost(self.account, "everything is compared anew")

    async def _hear(self, router: Router) -> None:
        assert self._dialog is not None
        async for data in self._dialog:
            router.hear(self.account, decode(data, BrokerdEvent))
        raise PeerLost(f"{self._service} ended its dialog.")
