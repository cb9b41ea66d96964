"""The provider contract, the venue toolkit, and one package per venue."""

from piker.errors import (
    BrokerError,
    DataQuality,
    DataUnavailable,
    NoData,
    NotOffered,
    Rejected,
    SymbolNotFound,
    Transient,
    Unknown,
)

__all__ = [
    "BrokerError",
    "DataQuality",
    "DataUnavailable",
    "NoData",
    "NotOffered",
    "Rejected",
    "SymbolNotFound",
    "Transient",
    "Unknown",
]
