"""A self-hosted trading stack on trio and tractor.

Importing the package loads nothing but this file: faces, notebooks and daemons import the rooms
they need (``piker.data``, ``piker.brokers``, ...).
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
