"""The order protocol under the name that seed 002 gives it; it lives in :mod:`piker.orders`."""

from piker.orders import *  # noqa: F403
from piker.orders import __all__  # noqa: F401
