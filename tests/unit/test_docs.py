"""The documents say what the code does: blocks, links, names, commands and examples hold."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import cli_reference  # noqa: E402 - a tool of the repository, not of the package
import gendocs  # noqa: E402

from piker.brokers.spec import BUILTIN  # noqa: E402
from piker.cli.app import app  # noqa: E402

PAGES = gendocs.pages()
SOURCES = sorted((ROOT / "piker").rglob("*.py"))
COMMANDS = {command.name: command for command in cli_reference.commands(app)}
GROUPS = {group.name for group in app.registered_groups}
#: Names of the reader's own that examples use.
OF_THE_READER = ("my_pkg",)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]\n]+\]\(([^)\s]+)\)")
_NAMED = re.compile(r"\b(?:tests|piker|tools|benchmarks|config|docs)/[\w./-]*\w")
_TEST_FILE = re.compile(r"(?<![\w/])test_\w+\.py")
_INLINE = re.compile(r"`((?:piker|pikerd) [a-z-][^`]*)`")


def name_of(path: Path) -> str:
    """Return a short name for test ids."""
    return str(path.relative_to(ROOT))


def fences_of(page: Path, *languages: str) -> Iterator[str]:
    """Yield the fenced blocks of a page in one of the languages."""
    for language, text in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield text


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that a forge makes of a page's headings."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


def strings_of(path: Path) -> Iterator[str]:
    """Yield every string of a module, docstrings and messages alike, and every comment."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
    yield from re.findall(r"#[^\n\"]*$", source, re.MULTILINE)


# -- generated blocks ----------------------------------------------------------------------------
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_generated_blocks_are_current_when_the_code_has_changed(page: Path) -> None:
    """What stands between the markers is what the code says; `make docs` mends it."""
    text = page.read_text(encoding="utf-8")
    assert gendocs.rewrite(text) == text, f"{name_of(page)} is out of date. Run: make docs"


def test_variables_are_documented_when_the_package_reads_them() -> None:
    """Each that begins as ours do, of piker and of piker.dsm."""
    table = gendocs.environment("")
    read = {
        name
        for path in SOURCES
        for name in re.findall(
            r"environ(?:\.get\(|\[)\"((?:PIKER|DSM)_\w+)", path.read_text(encoding="utf-8")
        )
    }
    assert {"DSM_LOG_LEVEL", "DSM_LOG_FILE", "DSM_USE_POLARS_OUTPUT"} <= read
    assert all(f"| `{name}` |" in table for name in read)


def test_generator_replaces_only_what_is_between_markers_when_run() -> None:
    """Text outside the markers stays to the letter, and a second run changes nothing."""
    before = "above\n<!-- generated: tick-types -->\nof yesterday\n<!-- end -->\nbelow\n"
    after = gendocs.rewrite(before)
    assert after.startswith("above\n<!-- generated: tick-types -->\n| type |")
    assert after.endswith("|\n<!-- end -->\nbelow\n")
    assert "yesterday" not in after
    assert gendocs.rewrite(after) == after


def test_generator_names_the_blocks_when_one_is_unknown() -> None:
    """A misspelt marker is an error, not a block that silently stays old."""
    with pytest.raises(SystemExit, match=r"'tick-tipes'.*capabilities"):
        gendocs.rewrite("<!-- generated: tick-tipes -->\n<!-- end -->\n")


def test_every_marker_is_closed_when_a_page_has_blocks() -> None:
    """Each opening marker has its end, or the block would never be written."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count("<!-- generated: ") == len(gendocs.MARK.findall(text)), name_of(page)


@pytest.mark.parametrize("venue", BUILTIN)
def test_every_backend_has_its_page_and_matrix_when_it_is_built_in(venue: str) -> None:
    """A backend without a page, or a page without its capabilities and limits, fails."""
    text = (ROOT / "docs" / "brokers" / f"{venue}.md").read_text(encoding="utf-8")
    assert f"<!-- generated: capabilities {venue} -->" in text
    assert f"<!-- generated: limits {venue} -->" in text


def test_every_block_is_used_when_the_generator_knows_it() -> None:
    """No block is generated for nobody."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in gendocs.BLOCKS if f"<!-- generated: {name}" not in text] == []


# -- links and names -----------------------------------------------------------------------------
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere_when_followed(page: Path) -> None:
    """Every relative link names a file that exists, every #anchor a heading of it."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in _LINK.findall(text):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{name_of(page)}: {target}"
        if anchor:
            assert anchor in anchors_of(there), f"{name_of(page)}: {target}"


def test_every_page_is_in_the_index_when_it_is_under_docs() -> None:
    """docs/README.md leads to every page."""
    index = ROOT / "docs" / "README.md"
    linked = {
        (index.parent / target.partition("#")[0]).resolve()
        for target in _LINK.findall(index.read_text(encoding="utf-8"))
    }
    missing = [name_of(page) for page in PAGES if page.parent != ROOT and page not in linked]
    assert [name for name in missing if name != "docs/README.md"] == []


def exists(name: str) -> bool:
    """Tell whether a path from the root is there; a decision may be named by its number."""
    return (ROOT / name).exists() or any(ROOT.glob(f"{name}-*.md"))


@pytest.mark.parametrize("path", [*PAGES, ROOT / "SECURITY.md", *SOURCES], ids=name_of)
def test_files_exist_when_a_document_or_docstring_names_them(path: Path) -> None:
    """tests/..., piker/... and the like are there; so is a bare test_x.py."""
    text = path.read_text(encoding="utf-8")
    strings = list(strings_of(path)) if path.suffix == ".py" else [text]
    for text in strings:
        for found in _NAMED.finditer(text):
            before, after = text[: found.start()][-1:], text[found.end() :][:2]
            if before in ("/", ".", "-") or "<" in after or "*" in after:
                continue  # part of a longer path, a URL, or a pattern
            assert exists(found[0]), f"{name_of(path)} names {found[0]}"
        for name in _TEST_FILE.findall(text):
            assert list((ROOT / "tests").rglob(name)), f"{name_of(path)} names {name}"


# -- commands ------------------------------------------------------------------------------------
def check_command(line: str) -> str:
    """Return what is wrong with a command line, or nothing."""
    words = shlex.split(line.removeprefix("$ "), comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    program = words.pop(0).rpartition("/")[2] if words else ""
    if program == "pikerd":
        words.insert(0, "pikerd")
    elif program != "piker" or not words:
        return ""
    if words[0] in cli_reference.HELP_OPTIONS or words[0].isupper():
        return ""
    if words[0] in GROUPS and len(words) > 1 and not words[1].isupper():
        words[:2] = [" ".join(words[:2])]
    if words[0] in GROUPS or words[0].split()[-1] in cli_reference.HELP_OPTIONS:
        return ""
    if words[0] not in COMMANDS:
        return f"piker has no command {words[0]!r}"
    options = COMMANDS[words[0]].options
    for word in words[1:]:
        if word in ("|", "&&", ";", ">", "&"):
            break
        name = word.partition("=")[0]
        if re.fullmatch(r"--?[a-z].*", name) and name not in options:
            return f"piker {words[0]} has no option {name!r}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist_when_a_page_shows_them(page: Path) -> None:
    """Every piker command and option in a shell example or in code marks is the app's."""
    lines = [line for text in fences_of(page, "bash", "console", "sh") for line in text.split("\n")]
    lines += _INLINE.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    assert [problem for line in lines if (problem := check_command(line))] == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_commands_exist_when_a_message_or_docstring_names_them(path: Path) -> None:
    """A remedy never sends anybody to a command that is not there."""
    named = [line for text in strings_of(path) for line in _INLINE.findall(" ".join(text.split()))]
    assert [problem for line in named if (problem := check_command(line))] == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("$ piker feed btcusdt.spot.binance --seconds 5", ""),
        ("$ .venv/bin/piker search btc -p kraken  # a comment", ""),
        ("$ PIKER_LOG=INFO pikerd --log-level info &", ""),
        ("$ piker store ls --json", ""),
        ("$ piker store list", "no command 'store list'"),
        ("$ piker fed x", "no command 'fed'"),
        ("$ piker feed x --second 5", "no option '--second'"),
        ("$ make run", ""),
    ],
)
def test_command_checker_sees_mistakes_when_there_are_some(line: str, problem: str) -> None:
    """The checker itself is checked: it passes what is right and names what is not."""
    assert problem in check_command(line)
    assert bool(problem) == bool(check_command(line))


# -- Python examples -----------------------------------------------------------------------------
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_examples_compile_and_import_when_copied(page: Path) -> None:
    """Every fenced Python block compiles, and what it imports is there."""
    for text in fences_of(page, "python"):
        compile(text, name_of(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom) and node.module:
                if node.module.partition(".")[0] in OF_THE_READER:
                    continue
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"
