"""What the command line offers, read from the typer app itself, and its page as Markdown.

Only typer's public registrations are read (``registered_commands`` and the annotations of each
command), so that the page is the same whatever typer makes of its own ``--help``.
"""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any

import msgspec
import typer
from typer.models import ArgumentInfo, OptionInfo

__all__ = ["Command", "Parameter", "commands", "render_command"]

HELP_OPTIONS = ("-h", "--help")


class Parameter(msgspec.Struct, frozen=True):
    """An argument or option."""

    names: tuple[str, ...]  # as they are written; one name for an argument
    kind: str
    default: str
    help: str
    is_option: bool
    takes_value: bool


class Command(msgspec.Struct, frozen=True):
    """One command."""

    name: str
    text: str  # its docstring without the example
    example: str
    parameters: tuple[Parameter, ...]

    @property
    def options(self) -> dict[str, bool]:
        """Return every spelling of every option, and whether a value follows it."""
        named = {
            name: one.takes_value for one in self.parameters if one.is_option for name in one.names
        }
        return {**named, **dict.fromkeys(HELP_OPTIONS, False)}


def commands(app: typer.Typer) -> list[Command]:
    """Return every command of the app, in its own order; then those of its groups."""
    found = [_command(info, "") for info in app.registered_commands if not info.hidden]
    for group in app.registered_groups:
        inner = group.typer_instance
        assert inner is not None
        found += [_command(info, f"{group.name} ") for info in inner.registered_commands]
    return found


def _command(info: Any, group: str) -> Command:
    callback = info.callback
    paragraphs = inspect.cleandoc(callback.__doc__ or "").split("\n\n")
    example = [part for part in paragraphs if part.startswith("Example: ")]
    text = [" ".join(part.split()) for part in paragraphs if part not in example]
    hints = typing.get_type_hints(callback, include_extras=True)
    parameters = [
        _parameter(parameter, hints[name])
        for name, parameter in inspect.signature(callback).parameters.items()
    ]
    return Command(
        name=group + (info.name or callback.__name__.replace("_", "-")),
        text="\n\n".join(text),
        example="".join(example).removeprefix("Example: "),
        parameters=tuple(parameters),
    )


def _parameter(parameter: inspect.Parameter, hint: Any) -> Parameter:
    kind, info = typing.get_args(hint)[0], hint.__metadata__[0]
    default = parameter.default
    words = _kind_words(kind, info)
    help_text = (info.help or "").strip()
    if isinstance(info, ArgumentInfo):
        name = (info.metavar or parameter.name).upper()
        several = "..." if typing.get_origin(kind) is list else ""
        return Parameter((name + several,), words, "", help_text, False, True)
    assert isinstance(info, OptionInfo)
    is_flag = kind is bool
    # In an annotation typer keeps the first spelling where a default would be.
    spelled = [info.default, *(info.param_decls or ())]
    names = tuple(name for one in spelled if isinstance(one, str) for name in one.split("/"))
    if not names:
        plain = "--" + parameter.name.replace("_", "-")
        names = (plain, "--no-" + plain[2:]) if is_flag else (plain,)
    shown = "" if default is None or is_flag else f"`{default}`"
    return Parameter(names, words, shown, help_text, True, not is_flag)


def _kind_words(kind: Any, info: Any) -> str:
    several = typing.get_origin(kind) is list
    optional = typing.get_origin(kind) in (types.UnionType, typing.Union)
    if optional:
        inner = next(one for one in typing.get_args(kind) if one is not type(None))
        return _kind_words(inner, info)
    base = typing.get_args(kind)[0] if several else kind
    named = getattr(base, "__name__", str(base))
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "", "Path": "file"}
    text = words.get(named, named)
    if info.min is not None and info.max is not None:
        text += f", {info.min:g} to {info.max:g}"
    elif info.min is not None:
        text += f", at least {info.min:g}"
    return text + (", may be repeated" if several else "")


def render_command(command: Command) -> str:
    """Return a command's section: its text, its table, its example."""
    arguments = [one for one in command.parameters if not one.is_option]
    used = " ".join(one.names[0] for one in arguments)
    usage = " ".join(part for part in ("piker", command.name, used) if part)
    parts = [f"### piker {command.name}", f"`{usage}`", command.text]
    if command.parameters:
        rows = ["| | takes | default | |", "|---|---|---|---|"]
        for one in command.parameters:
            names = ", ".join(f"`{name}`" for name in one.names)
            rows.append(f"| {names} | {one.kind} | {one.default} | {one.help} |")
        parts.append("\n".join(rows))
    if command.example:
        parts.append(f"```console\n$ {command.example}\n```")
    return "\n\n".join(parts)
