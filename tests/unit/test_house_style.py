"""The architecture and the house limits hold in every file of the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "piker"
MODULE_LINES = 600
FUNCTION_LINES = 70
# A room may import its own floor's nouns and every floor below it, never one above or beside it.
FLOORS = {
    "cli": 5, "ui": 5, "web": 5, "testing": 4, "dsm": 4,
    "fsp": 4, "clearing": 4, "accounting": 4,
    "data": 3, "brokers": 2, "service": 1,
}  # fmt: skip
# Reads of the clock outside piker/clock.py; trio deadlines and log time stamps are not reads.
CLOCK_CALLS = {"time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns",
               "time.perf_counter", "datetime.now", "datetime.utcnow", "pendulum.now",
               "datetime.datetime.now"}  # fmt: skip
NOUNS = 0  # the flat modules at the root: they may use each other
SLOW_IMPORTS = ("PySide6", "pandas", "numba", "polars", "numpy", "trio", "tractor", "asks", "rich")


def modules() -> list[Path]:
    """Return every module of the package."""
    return sorted(path for path in PACKAGE.rglob("*.py") if "node_modules" not in path.parts)


def tree_of(path: Path) -> ast.Module:
    """Parse one module."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def name_of(path: Path) -> str:
    """Return a short name for test ids."""
    return str(path.relative_to(ROOT))


def floor_of(dotted: str) -> tuple[int, str]:
    """Return the floor of a dotted piker module and its room."""
    room = dotted.split(".")[1] if "." in dotted else ""
    return FLOORS.get(room, 0), room


def imports_of(path: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports from piker, type-checking ones included."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("piker"))
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "piker":
                yield from (f"piker.{alias.name}" for alias in node.names)
            elif node.module.startswith("piker."):
                yield node.module


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_down_when_a_room_uses_another(path: Path) -> None:
    """No module imports a floor above its own, or another room of its own floor."""
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    mine, room = floor_of(dotted)
    for target in imports_of(path):
        theirs, other = floor_of(target)
        assert theirs < mine or other == room or theirs == NOUNS, f"{dotted} imports {target}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_backends_do_not_import_each_other_when_they_share_a_floor(path: Path) -> None:
    """A venue's package imports the toolkit and itself, never another venue."""
    parts = path.relative_to(PACKAGE).parts
    if len(parts) < 3 or parts[0] != "brokers":
        return
    for target in imports_of(path):
        names = target.split(".")
        if len(names) > 2 and names[1] == "brokers" and (PACKAGE / "brokers" / names[2]).is_dir():
            assert names[2] == parts[1], f"{name_of(path)} imports {target}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_module_and_functions_stay_small_when_counted(path: Path) -> None:
    """A module has at most 600 lines, a function at most 70 (docstring included)."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_LINES, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_time_is_read_in_one_module_only_when_code_needs_it(path: Path) -> None:
    """Nothing but piker/clock.py reads a clock, so that every test can hold it."""
    if path.name == "clock.py" and path.parent == PACKAGE:
        return
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert ast.unparse(node.func) not in CLOCK_CALLS, f"line {node.lineno}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_module_says_what_it_is_and_what_is_public_when_read(path: Path) -> None:
    """Every module has a docstring; every module with public names has ``__all__``."""
    tree = tree_of(path)
    assert (ast.get_docstring(tree) or "").strip()
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
    ]
    targets = [
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    assert not public or "__all__" in targets


@pytest.mark.slow
def test_cli_help_loads_nothing_heavy_when_asked() -> None:
    """``piker --help`` imports no array, chart or network library."""
    code = "import sys, piker.cli.__main__ as m\n"
    code += "try:\n    m.main(['--help'])\nexcept SystemExit:\n    pass\n"
    code += f"print(sorted(set(sys.modules) & set({SLOW_IMPORTS!r})), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "['rich']" or done.stderr.strip().endswith("[]")


@pytest.mark.slow
def test_lint_is_clean_when_run_over_the_tree() -> None:
    """Ruff finds nothing, in check and in format."""
    for command in (["check", "."], ["format", "--check", "."]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_types_are_clean_when_checked_strictly() -> None:
    """``mypy --strict`` finds nothing in the package."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-incremental"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
