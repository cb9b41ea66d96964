"""emsd itself: what it looks at as time passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from piker.clearing import _ems
from piker.clearing._ems import BEAT_S, Ems, set_account_state
from piker.clearing.journal import open_journal
from piker.config import Conf


async def test_emsd_goes_on_when_the_halt_file_can_not_be_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that can not be read, or a disk that fails: stops are guarded all the same.

    Nobody is armed meanwhile, for the file may be there; once it is seen it halts.
    """
    monkeypatch.setattr(_ems, "halt_file", lambda: tmp_path / ("x" * 300))
    async with open_journal(tmp_path / "journal") as journal, trio.open_nursery() as nursery:
        ems = Ems(journal, Conf(), nursery)
        nursery.start_soon(ems.beat)
        await trio.sleep(3 * BEAT_S)
        assert ems.router.accounts.halted is None
        monkeypatch.setattr(_ems, "_ems", ems)
        answer: Any = await set_account_state(account="", state="active", reason="", client="")
        assert answer["error"]["type"] == "ConfigError"
        assert "can not be looked for" in answer["error"]["message"]
        monkeypatch.setattr(_ems, "halt_file", lambda: tmp_path)
        with trio.fail_after(10):
            while ems.router.accounts.halted is None:
                await trio.sleep(BEAT_S)
        nursery.cancel_scope.cancel()
