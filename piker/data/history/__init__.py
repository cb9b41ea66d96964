"""History: one call gives any range of any market, from store, archive and REST.

- :mod:`piker.data.history.plan`: what to ask of whom, pure.
- :mod:`piker.data.history.sources`: archive and REST behind one interface.
- :mod:`piker.data.history.merge`: rows of several sources into one frame, pure.
- :mod:`piker.data.history.quality`: what is missing and why, what was wrong, what it cost.
- :mod:`piker.data.history.manager`: plan, fetch, store, return.
"""
