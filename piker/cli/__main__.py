"""Entry points ``piker`` and ``pikerd``: run the app, print errors as sentences, map exit codes."""

from __future__ import annotations

import sys

__all__ = ["main", "pikerd_main"]

INTERRUPTED = 130  # as a shell has it; said again here, because nothing is loaded yet


def main(argv: list[str] | None = None) -> None:
    """Run ``piker``; exit with the command's code (docs/reference/cli.md lists them)."""
    try:
        from piker.cli.app import app, run_app

        code = run_app(app, argv)
    except KeyboardInterrupt:  # while it was being loaded: nothing was begun
        code = INTERRUPTED
    sys.exit(code)


def pikerd_main(argv: list[str] | None = None) -> None:
    """Run ``pikerd``."""
    from piker.cli.app import pikerd_app, run_app

    sys.exit(run_app(pikerd_app, argv))


if __name__ == "__main__":
    main()
