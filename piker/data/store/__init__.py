"""The store: history on disk, one directory of Arrow files and one SQLite manifest.

    <data>/store/manifest.db                              what there is, and what is known about it
    <data>/store/<provider>/<market>/<timeframe>/*.arrow  bars, memory-mapped by readers
    <data>/store/<provider>/<market>/ticks/<day>/*.arrow  ticks, one file a day once it is over
    <data>/store/quarantine/                              files that were found damaged

- :mod:`piker.data.store.store`: bars; what other rooms call. ``segment`` is one file of them,
  ``merge`` how rows of several sources become one, ``maintenance`` keeps all of it in order,
  ``exchange`` takes bars in and out.
- :mod:`piker.data.store.ticks`: ticks, with ``ticks_*`` beside it.
- :mod:`piker.data.store.manifest`: the database, which ``database`` opens.
- :mod:`piker.data.store.files`: what a file is; :mod:`piker.data.store.turns`: a folder's lock.

docs/internals/store.md has the layout and what happens when a process is killed.
"""
