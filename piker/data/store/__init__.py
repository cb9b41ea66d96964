"""The store: history on disk, one directory of Arrow files and one SQLite manifest.

    <data>/store/manifest.db                              what there is, and what is known about it
    <data>/store/<provider>/<market>/<timeframe>/*.arrow  bars, memory-mapped by readers
    <data>/store/quarantine/                              files that were found damaged

- :mod:`piker.data.store.segment`: one file: written once, never changed, checked as it is read.
- :mod:`piker.data.store.manifest`: the database: files, holes, origins, bars not yet in files.
- :mod:`piker.data.store.store`: the store itself; everything that other rooms call.

docs/internals/store.md has the layout and what happens when a process is killed.
"""
