"""Entry of a supervised process: ``python -m piker.service._child NAME MAIN REGISTRY PARENT``.

MAIN is ``module:function``, an async function ``main(name, task_status)`` that runs the service
and calls ``task_status.started()`` when it serves. One JSON line on stdout tells pikerd where we
listen, or why we can not start.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from typing import Any

import trio

from piker import handover, log
from piker.errors import PikerError
from piker.service.endpoints import pack_error
from piker.service.liveness import die_with
from piker.service.registry import parse_address
from piker.service.runtime import open_server_runtime

__all__ = ["run"]

_log = log.get_logger("child")


def run(name: str, main: str, registry: str, parent: str) -> None:
    """Run the service until SIGTERM, or until its pikerd is gone."""
    handover.begin(name)
    die_with(int(parent))
    log.configure(actor=name)
    try:
        trio.run(_serve, name, main, registry)
    except BaseExceptionGroup as group:
        error = _first(group, PikerError)
        if error is None:
            raise
        _say({"error": pack_error(error)})
    except PikerError as error:
        _say({"error": pack_error(error)})


async def _serve(name: str, main: str, registry: str) -> None:
    module_name, _, function = main.partition(":")
    module = importlib.import_module(module_name)
    modules = [module_name, *getattr(module, "endpoint_modules", ())]
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:

            async def end_on_signal() -> None:
                async for number in signals:
                    _log.info("child.signal", number=number)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(end_on_signal)
            async with open_server_runtime(name, parse_address(registry), modules) as address:
                async with trio.open_nursery() as work:
                    await work.start(getattr(module, function), name)
                    _say({"host": address[0], "port": address[1]})


def _say(message: dict[str, Any]) -> None:
    """Write the one line to pikerd; then stdout is nobody's."""
    try:
        os.write(1, json.dumps(message).encode() + b"\n")
    except OSError:
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _first(group: BaseExceptionGroup[BaseException], kind: type[PikerError]) -> PikerError | None:
    for err in group.exceptions:
        if isinstance(err, BaseExceptionGroup):
            found = _first(err, kind)
            if found is not None:
                return found
        elif isinstance(err, kind):
            return err
    return None


if __name__ == "__main__":
    run(*sys.argv[1:5])
