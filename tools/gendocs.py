"""Write the generated blocks of the documents; ``make docs`` runs it.

A block stands between ``<!-- generated: NAME ARGUMENT -->`` and ``<!-- end -->``; what is between
them is replaced by what the code says now, and nothing else of the file is touched. ``--check``
writes nothing and exits with 1 when a block is out of date: tests/unit/test_docs.py does the same.
"""

from __future__ import annotations

import ast
import importlib
import io
import re
import sys
import tokenize
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import order_tables  # noqa: E402 - beside this file
from cli_reference import commands, render_command  # noqa: E402 - beside this file
from docs_words import (  # noqa: E402
    BAR_WORDS,
    CAPABILITY_WORDS,
    FIXED_CODES,
    LIMITS,
    TICK_WORDS,
    VARIABLES,
    WHAT_TO_DO,
)

from piker import config, errors  # noqa: E402
from piker.brokers.spec import BUILTIN, Backend, Capabilities, load_backend  # noqa: E402
from piker.cli import app as cli  # noqa: E402
from piker.log import Secret  # noqa: E402
from piker.ohlcv import OHLC_DTYPE  # noqa: E402
from piker.ticks import TICK_DTYPE, TickType  # noqa: E402

__all__ = ["BLOCKS", "main", "pages", "rewrite"]

MARK = re.compile(r"(<!-- generated: ([^>\n]+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


# -- small words -------------------------------------------------------------------------------
def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a bar in a cell is escaped."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def one_line(text: str | None) -> str:
    """Return a docstring as one line, its code marks as Markdown's."""
    return " ".join((text or "").split()).replace("``", "`")


def word_of(name: str, value: object) -> str:
    """Return a capability's value as words."""
    empty = CAPABILITY_WORDS[name][1]
    if value is True:
        return "yes"
    if not value:
        return empty
    if isinstance(value, dict):
        return ", ".join(f"`{key}` {' / '.join(rates)}" for key, rates in value.items())
    return " ".join(f"`{one}`" for one in value) if isinstance(value, tuple) else f"{value:,}"


# -- backends ----------------------------------------------------------------------------------
def _backend(name: str) -> Backend:
    return load_backend(name)


def capabilities(name: str) -> str:
    """Return the capability matrix of one backend: every field of ``Capabilities``."""
    said = _backend(name).capabilities
    rows = [
        (CAPABILITY_WORDS[field][0], word_of(field, getattr(said, field)))
        for field in Capabilities.__struct_fields__
    ]
    return table((f"`{name}`", ""), rows)


def overview(_: str) -> str:
    """Return one column for each built-in backend."""
    said = {name: _backend(name).capabilities for name in BUILTIN}
    rows = [
        (
            CAPABILITY_WORDS[field][0],
            *(word_of(field, getattr(one, field)) for one in said.values()),
        )
        for field in Capabilities.__struct_fields__
    ]
    return table(("", *(f"[{name}]({name}.md)" for name in said)), rows)


def limits(name: str) -> str:
    """Return the limits a backend keeps, read from its constants and their comments."""
    rows = []
    for words, dotted in LIMITS[name].items():
        module_name, constant, index = re.fullmatch(
            r"(.+)\.([A-Z_]+)(?:\[(\d)\])?", dotted
        ).groups()  # type: ignore[union-attr]
        value = getattr(importlib.import_module(module_name), constant)
        value = value[int(index)] if index else value
        comment = _comment_of(importlib.import_module(module_name), constant, index)
        rows.append((words, _limit_words(value), comment))
    return table(("limit", "kept", "why, and where from"), rows)


def _limit_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{kind} {figure:g}" for kind, figure in value.items())
    if isinstance(value, tuple):
        return ", ".join(f"{figure:g}" for figure in value)
    if isinstance(value, msgspec.Struct):
        limit: Any = value
        if limit.window == "decay":
            return f"{limit.capacity:g} at once, {limit.capacity / limit.window_s:g} a second"
        return f"{limit.capacity:g} in {limit.window_s:g} s"
    return f"{value:,g}"


def _comment_of(module: types.ModuleType, constant: str, index: str | None) -> str:
    """Return the comment beside a constant (or one element of a tuple), or those above it."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    at: Any = next(
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == constant
    )
    at = at.value.elts[int(index)] if index else at
    lines = {
        token.start[0]: token
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    if at.lineno in lines:
        return lines[at.lineno].string.lstrip("#: ")
    found: list[str] = []
    above = at.lineno - 1
    while above in lines and lines[above].line.strip().startswith("#"):
        found.insert(0, lines[above].string.lstrip("#: "))
        above -= 1
    return " ".join(found)


# -- command line ------------------------------------------------------------------------------
def command_reference(_: str) -> str:
    """Return every command with its arguments, options, defaults, help and example."""
    return "\n\n".join(render_command(command) for command in commands(cli.app))


def exit_codes(_: str) -> str:
    """Return every exit code and the errors that end with it."""
    named: dict[int, list[str]] = {}
    for kind in _errors():
        named.setdefault(kind.exit_code, []).append(kind.__name__)
    rows = []
    for code in sorted({*named, *FIXED_CODES}):
        said = one_line(str(getattr(errors, named[code][0]).__doc__)) if code in named else ""
        first = FIXED_CODES.get(code) or (said[0].lower() + said[1:]).rstrip(".")
        names = [name for name in named.get(code, []) if code != 1]
        links = ", ".join(f"[{name}](errors.md#{name.lower()})" for name in names)
        rows.append((str(code), first, links))
    return table(("exit code", "meaning", "errors"), rows)


# -- errors ------------------------------------------------------------------------------------
def _errors() -> list[type[errors.PikerError]]:
    kinds = [getattr(errors, name) for name in errors.__all__]
    return sorted(kinds, key=lambda kind: list(vars(errors)).index(kind.__name__))


def error_catalogue(_: str) -> str:
    """Return a section for each error: when it is raised, its exit code, what to do."""
    parts = []
    for kind in _errors():
        base = kind.__mro__[1].__name__
        above = f" A [{base}](#{base.lower()})." if base != "Exception" else ""
        parts.append(
            f"### {kind.__name__}\n\n{_paragraphs(kind.__doc__)}\n\n"
            f"Exit code {kind.exit_code}.{above} **What to do:** {WHAT_TO_DO[kind.__name__]}."
        )
    return "\n\n".join(parts)


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(one_line(part) for part in (text or "").split("\n\n"))


# -- configuration -----------------------------------------------------------------------------
def config_keys(file: str) -> str:
    """Return every key of a file of config/: type, default, meaning (the template's comment)."""
    meanings = dict(_template_comments(config.template(file)))
    rows = []
    for path, kind, default in _keys_of(file):
        meaning = meanings.pop(path)
        rows.append((f"`{path}`", _type_words(kind), _default_words(default), meaning))
    if meanings:
        raise SystemExit(f"config/{file} has keys that the code does not read: {list(meanings)}")
    return table(("key", "type", "default", "meaning"), rows)


def _keys_of(file: str) -> Iterator[tuple[str, Any, Any]]:
    if file == "conf.toml":
        conf = config.Conf()
        for section in conf.__struct_fields__:
            part = getattr(conf, section)
            if section == "accounts":
                part, section = config.AccountConf(), "accounts.<provider>.<name>"
            for key, kind in typing.get_type_hints(type(part)).items():
                yield f"{section}.{key}", kind, getattr(part, key)
        return
    provider = config.ProviderTable()
    for key, kind in typing.get_type_hints(config.ProviderTable).items():
        if key != "urls":
            yield f"<provider>.{key}", kind, getattr(provider, key)
    yield "<provider>.urls.<name>", str, None


def _template_comments(text: str) -> Iterator[tuple[str, str]]:
    """Yield (key path, the comment above it); every key of a template is commented out."""
    section = ""
    said: list[str] = []
    for line in text.splitlines():
        bare = line.lstrip("# ").rstrip()
        key = re.match(r"# ([a-z_0-9]+) = ", line)
        if heading := re.fullmatch(r"\[([\w.]+)\]", bare):
            section, said = heading[1].replace("binance", "<provider>"), []
            section = section.replace("<provider>.main", "<provider>.<name>")
        elif key and section.endswith(".urls"):
            if said:
                yield f"{section}.<name>", " ".join(said)
            said = []
        elif key:
            if not said:
                raise SystemExit(f"{section}.{key[1]}: no comment above it in its template")
            yield f"{section}.{key[1]}", " ".join(said)
            said = []
        elif bare:
            said.append(bare)


def _type_words(kind: Any) -> str:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    words = {str: "text", bool: "true or false", int: "whole number", float: "number",
             Secret: "text, secret", list[str]: "list of texts"}  # fmt: skip
    return words.get(kind, "table")


def _default_words(default: Any) -> str:
    if default is None or default in ({}, []):
        return "none"
    return f"`{msgspec.json.encode(default).decode()}`"  # of plain values JSON is TOML


def environment(_: str) -> str:
    """Return every PIKER_* and DSM_* variable that the package reads, and where."""
    used: dict[str, set[str]] = {}
    for path in sorted((ROOT / "piker").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and re.fullmatch(r"(PIKER|DSM)_[A-Z_]+", text):
                used.setdefault(text, set()).add(str(path.relative_to(ROOT)))
    if unexplained := used.keys() ^ VARIABLES.keys():
        raise SystemExit(f"tools/docs_words.py: VARIABLES and the code differ in {unexplained}")
    rows = [(f"`{name}`", VARIABLES[name][0], VARIABLES[name][1]) for name in VARIABLES]
    return table(("variable", "meaning", "default"), rows)


# -- shared memory -----------------------------------------------------------------------------
def dtype_table(name: str) -> str:
    """Return the fields of a row: offset, type and name; ``name`` is OHLC_DTYPE or TICK_DTYPE."""
    dtype = {"OHLC_DTYPE": OHLC_DTYPE, "TICK_DTYPE": TICK_DTYPE}[name]
    source = Path(str(importlib.import_module(_home_of(name)).__file__)).read_text()
    beside = dict(re.findall(r'\("(\w+)", "<\w\d"\),  # (.+)', source))
    meaning = {**beside, **(BAR_WORDS if name == "OHLC_DTYPE" else TICK_WORDS)}
    rows = []
    for field in dtype.names or ():
        kind, offset = dtype.fields[field][:2]  # type: ignore[index]
        rows.append((str(offset), _c_type(kind), f"`{field}`", meaning.get(field, "")))
    title = f"`piker.{_home_of(name).rpartition('.')[2]}.{name}`, {dtype.itemsize} bytes:\n\n"
    return title + table(("offset", "type", "field", ""), rows)


def _home_of(name: str) -> str:
    return "piker.ohlcv" if name == "OHLC_DTYPE" else "piker.ticks"


def _c_type(kind: np.dtype[Any]) -> str:
    return {"i": "i", "u": "u", "f": "f"}[kind.kind] + str(kind.itemsize * 8)


def tick_types(_: str) -> str:
    """Return the numbers of the ``type`` field of a tick."""
    source = Path(str(importlib.import_module("piker.ticks").__file__)).read_text()
    words = dict(re.findall(r"    ([A-Z_]+) = \d+  # (.+)", source))
    rows = [(str(int(kind)), f"`{kind.label}`", words[kind.name]) for kind in TickType]
    return table(("type", "word in quotes", "meaning"), rows)


# -- files -------------------------------------------------------------------------------------
BLOCKS: dict[str, Callable[[str], str]] = {
    "capabilities": capabilities,
    "overview": overview,
    "limits": limits,
    "commands": command_reference,
    "exit-codes": exit_codes,
    "errors": error_catalogue,
    "config-keys": config_keys,
    "environment": environment,
    "dtype": dtype_table,
    "tick-types": tick_types,
    "lifecycle": lambda _: table(*order_tables.lifecycle()),
    "denials": lambda _: table(*order_tables.denials()),
    "order-kinds": lambda _: table(*order_tables.order_kinds()),
}


def pages() -> list[Path]:
    """Return every document that may hold a block."""
    return [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]


def rewrite(text: str) -> str:
    """Return the document with every block as the code has it now."""

    def fresh(found: re.Match[str]) -> str:
        name, _, argument = found[2].partition(" ")
        if name not in BLOCKS:
            raise SystemExit(f"there is no block {name!r}; there are: {', '.join(BLOCKS)}")
        return f"{found[1]}{BLOCKS[name](argument)}\n{found[4]}"

    return MARK.sub(fresh, text)


def main(arguments: list[str]) -> int:
    """Rewrite what is out of date; with ``--check`` only name it."""
    stale = 0
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = rewrite(before)
        if after == before:
            continue
        stale += 1
        print(page.relative_to(ROOT))
        if "--check" not in arguments:
            page.write_text(after, encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
