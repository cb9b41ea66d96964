"""Look at the markets a person named before anything is started for them."""

from __future__ import annotations

from collections.abc import Sequence

from piker.brokers.spec import find_backends
from piker.config import load_conf, nearest
from piker.errors import ProviderError
from piker.market import parse_fqme

__all__ = ["check_markets"]


def check_markets(fqmes: Sequence[str]) -> None:
    """Raise ``ConfigError`` for a malformed address, ``ProviderError`` for an unknown provider.

    Reads conf.toml and imports no backend: a typing mistake starts no daemon.
    """
    known = find_backends(load_conf().brokers.modules)
    for fqme in fqmes:
        provider = parse_fqme(fqme.lower()).provider
        if provider not in known:
            raise ProviderError(
                f"{fqme}: there is no provider {provider!r}.", remedy=nearest(provider, known)
            )
