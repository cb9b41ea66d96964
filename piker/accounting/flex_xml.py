"""A Flex statement as XML: flat rows with their lines, and nothing else that XML can do.

A statement is elements with attributes. A document type, an entity or a processing instruction
has no place in one; a file that has any is refused before anything is expanded, as is one that is
too large, too deep or too wide.
"""

from __future__ import annotations

from typing import NamedTuple, NoReturn
from xml.parsers import expat

from piker.errors import DataQuality

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_ROWS", "Row", "read_rows", "refuse"]

MAX_BYTES = 256 * 1024 * 1024  # a year of a busy account is some tens of MB
MAX_DEPTH = 16  # FlexQueryResponse > FlexStatements > FlexStatement > Trades > Trade > Lot is 6
MAX_ROWS = 5_000_000  # at 50 bytes of markup each, more do not fit into MAX_BYTES
MAX_ATTRIBUTES = 400  # the widest element, EquitySummaryByReportDateInBase, has about 150
MAX_VALUE = 4096  # characters of one attribute; descriptions have up to some hundred

#: What a statement is made of around its rows.
_FRAME = ("FlexQueryResponse", "FlexStatements", "FlexStatement")


class Row(NamedTuple):
    """One element of a statement: its name, line, attributes, and the account it is of."""

    element: str
    line: int
    attributes: dict[str, str]
    account: str


def refuse(line: int, why: str) -> NoReturn:
    """Raise ``DataQuality`` that names the line."""
    raise DataQuality(
        f"line {line} of the Flex statement: {why}.",
        kind="flex",
        remedy="Nothing was imported.",
    )


def read_rows(data: bytes) -> list[Row]:
    """Return the rows in the order of the file; ``DataQuality`` names the line of what is wrong."""
    if len(data) > MAX_BYTES:
        refuse(1, f"the file has {len(data)} bytes, over {MAX_BYTES}")
    reader = _Reader()
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as err:
        why = expat.errors.messages.get(err.code, "it can not be read")
        refuse(err.lineno, f"this is no well-formed XML: {why}")
    except (UnicodeError, LookupError, ValueError) as err:
        refuse(reader.parser.CurrentLineNumber, f"its text can not be decoded: {err}")
    if not reader.statements:
        refuse(1, "the file holds no FlexStatement")
    return reader.rows


class _Reader:
    """Collects rows while expat goes through the bytes."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.statements = 0
        self._path: list[str] = []
        self._account = ""
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.StartDoctypeDeclHandler = self._forbidden("a document type")
        parser.EntityDeclHandler = self._forbidden("an entity")
        parser.UnparsedEntityDeclHandler = self._forbidden("an entity")
        parser.ExternalEntityRefHandler = self._forbidden("an external entity")
        parser.ProcessingInstructionHandler = self._forbidden("a processing instruction")
        parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
        self.parser = parser

    def _forbidden(self, what: str):  # type: ignore[no-untyped-def] # expat's handlers differ
        def handler(*_: object) -> NoReturn:
            refuse(self.parser.CurrentLineNumber, f"{what} has no place in it: the file is refused")

        return handler

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        line = self.parser.CurrentLineNumber
        depth = len(self._path)
        if depth >= MAX_DEPTH or len(attributes) > MAX_ATTRIBUTES or len(self.rows) >= MAX_ROWS:
            refuse(line, "it is deeper, wider or longer than a statement can be")
        if any(len(value) > MAX_VALUE for value in attributes.values()):
            refuse(line, f"an attribute of {name[:40]} has over {MAX_VALUE} characters")
        if depth == 0 and name != _FRAME[0]:
            self._not_flex(line, name)
        self._path.append(name)
        if name == "FlexStatement":
            self.statements += 1
            self._account = attributes.get("accountId", "")
        elif name not in _FRAME and attributes:
            self.rows.append(Row(name, line, attributes, self._account))

    def _not_flex(self, line: int, name: str) -> NoReturn:
        if name == "FlexStatementResponse":  # the web service's answer while, or instead
            refuse(line, "this is the web service's reply and not the statement: ask again later")
        refuse(line, f"a Flex statement begins with FlexQueryResponse, this with {name[:40]}")

    def _end(self, name: str) -> None:
        self._path.pop()
