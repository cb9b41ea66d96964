"""``pikerd``: run the daemon in the foreground until a signal or `piker services --stop`."""

from __future__ import annotations

import signal

import trio

from piker import config, log, service

__all__ = ["SERVICES", "run"]

#: What pikerd can start, by name.
SERVICES = {
    "datad.*": "piker.data.daemon:main",
    "brokerd.*": "piker.clearing.brokerd:main",
    "paperboi.*": "piker.clearing._paper_engine:main",
    "emsd": "piker.clearing._ems:main",
}


def run(*, registry: str | None, log_level: str | None) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP; everything it started ends with it."""
    conf = config.load_conf()
    config.load_brokers()
    log.configure(log_level, default=conf.log.level, actor="pikerd")
    trio.run(_serve, service.registry_address(registry))


async def _serve(address: tuple[str, int]) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with service.open_pikerd(address, SERVICES):
            async with trio.open_nursery() as nursery:

                async def until_signal() -> None:
                    async for _ in signals:
                        nursery.cancel_scope.cancel()

                nursery.start_soon(until_signal)
                if (config.data_dir() / "journal").exists():  # orders may wait in it
                    nursery.start_soon(service.start_here, "emsd")
                await service.wait_stopped()
                nursery.cancel_scope.cancel()
