"""``piker init``: write the commented templates, private to the user."""

from __future__ import annotations

import os

from piker import config
from piker.errors import ConfigError

__all__ = ["run"]


def run() -> None:
    """Write what is missing; say what was kept."""
    folder = config.config_dir()
    for name in ("conf.toml", "brokers.toml"):
        file = folder / name
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            print(f"kept   {file}")
            continue
        except OSError as err:
            raise ConfigError(
                f"can not write {file}: {err.strerror}.",
                remedy="Set PIKER_CONFIG_DIR to a directory of yours.",
            ) from err
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(config.template(name))
        print(f"wrote  {file}")
    print("Every key is commented out at its default. Try: piker doctor")
