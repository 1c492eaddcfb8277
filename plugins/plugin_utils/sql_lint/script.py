# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads a file of SQL into statements with their lines: what psql, dbmate, goose and others write around them is put aside.

Everything that is put aside becomes spaces of the same length, so that each place in the text stays where it was.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import IDENTIFIER_BYTES, grammar

from . import placeholders, psql, tools
from .rules import table

# A tool's word for "what follows goes up", and "... comes down".
_UP = re.compile(
    r"^\s*--[\s-]*(?:migrate:up|\+goose\s+up|\+migrate\s+up|!ups|up\s+migration[ \t]*\r?$)",
    re.IGNORECASE | re.MULTILINE,
)
_DOWN = re.compile(
    r"^\s*--[\s-]*(?:migrate:down|\+goose\s+down|\+migrate\s+down|!downs|down\s+migration[ \t]*\r?$)",
    re.IGNORECASE | re.MULTILINE,
)
# A plain word counts where both are there: alone it may be a remark.
_PLAIN_UP = re.compile(r"^\s*--+\s*up:?[ \t]*$", re.IGNORECASE | re.MULTILINE)
_PLAIN_DOWN = re.compile(r"^\s*--+\s*(?:down|rollback):?[ \t]*$", re.IGNORECASE | re.MULTILINE)
_JINJA_COMMENT = re.compile(r"\{#(.*?)#\}", re.DOTALL)
_ALLOW = re.compile(
    r"pgops:\s*allow(?P<file>-file)?\s+(?P<rules>[A-Za-z]\w*(?:\s*,\s*[A-Za-z]\w*)*)(?:\s+because\b[:\s]*(?P<reason>[^\n]*))?",
    re.IGNORECASE,
)
_ALLOW_AT_ALL = re.compile(r"pgops:\s*allow", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """One statement of a file."""

    node: Any
    text: str
    line: int
    end_line: int
    # Where its text begins in the file, for a body inside it.
    offset: int
    allowed: frozenset[str] = frozenset()
    # Written for \\gexec: what the query returns is run.
    run_result: bool = False
    # The line of the last \\connect between it and the one before; 0 for none.
    connect: int = 0
    # The arms of psql's \\if around it, as ``psql.arms``.
    arms: tuple[tuple[int, int], ...] = ()
    # Before it the tool ends its transaction, and opens one (true) or none (false).
    opens: bool | None = None


@dataclass
class Script:
    """A file as statements, and what can be said of it without them."""

    file: str
    parts: list[Part] = field(default_factory=list)
    # (line, rule id, message)
    faults: list[tuple[int, str, str]] = field(default_factory=list)
    # As they, but no more than a note.
    notes: list[tuple[int, str, str]] = field(default_factory=list)
    allowed: frozenset[str] = frozenset()
    # The tool that runs this file.
    runner: tools.Runner = tools.SINGLY


def read(text: str, file: str, transaction: str = tools.AUTO) -> Script:
    """:param text: the whole file.
    :param file: its name, for messages, and for what it tells of the tool.
    :param transaction: how it is run where its own marks do not tell, one of ``tools.CHOICES``.
    :return: its statements in their order, with the line of each one's first word."""
    nul = text.find("\0")
    faults = []
    if nul >= 0:
        # The parser takes it for the end, and reads nothing behind it.
        faults.append((text.count("\n", 0, nul) + 1, "syntax", "a NUL byte, which PostgreSQL's text cannot have"))
        text = text.replace("\0", " ")
    script = Script(file, faults=faults, runner=tools.runner_of(Path(file), text, transaction))
    text = _without_the_way_down(text)
    jinja = [(match.start(), match.group(1)) for match in _JINJA_COMMENT.finditer(text)]
    text = original = _JINJA_COMMENT.sub(psql.blank, text)
    text = placeholders.as_names(text)
    cleaned = psql.Cleaned(text, text)
    raws = _parse(text)
    if raws is None:
        for place, name in psql.included(text):
            line = text.count("\n", 0, place) + 1
            script.notes.append((line, "R53", f"{name} is run here and not read with this file"))
        cleaned = psql.clean(text)
        text = cleaned.text
        raws = _parse(text)
    unreadable: list[_Unreadable] = []
    if raws is None:
        raws, unreadable = _parse_each(text, cleaned.named, placeholders.places(original))
    tokens = _tokens(text)
    comments = jinja + [(t.start, text[t.start : t.end + 1]) for t in tokens if t.name in ("SQL_COMMENT", "C_COMMENT")]
    words = [t for t in tokens if t.name not in ("SQL_COMMENT", "C_COMMENT")]
    lines = _Lines(text)
    script.faults += [
        (
            lines.of(t.start),
            "R57",
            f"the name {name[:20]}... has {len(name.encode())} bytes and is cut at {IDENTIFIER_BYTES}",
        )
        for t in words
        if t.name in ("IDENT", "UIDENT")
        and len((name := text[t.start : t.end + 1].strip('"')).encode()) > IDENTIFIER_BYTES
    ]
    starts = [t.start for t in words]
    places = []
    for node, begin, end in raws:
        number = bisect_left(starts, begin)
        first = starts[number] if number < len(starts) and starts[number] < end else begin
        places.append((node, first, end))
    statements = [(first, end) for _, first, end in places] + [(piece.begin, piece.end) for piece in unreadable]
    allows = _allows(comments, statements, lines, script)
    for number, piece in enumerate(unreadable, len(places)):
        if "syntax" not in allows.get(number, ()):
            _tell(piece, original[piece.begin : piece.end], lines, script)
    marks = tools.changesets(text if script.runner.tool == tools.LIQUIBASE else "")
    last = 0
    for number, (node, first, end) in enumerate(places):
        script.parts.append(
            Part(
                node=node,
                text=text[first:end],
                line=lines.of(first),
                end_line=lines.of(max(first, end - 1)),
                offset=first,
                allowed=frozenset(allows.get(number, ())),
                run_result=any(first <= place <= end + 1 for place in cleaned.results),
                connect=lines.of(new[-1]) if (new := [p for p in cleaned.connects if last <= p < first]) else 0,
                arms=psql.arms(cleaned.branches, first),
                opens=tools.opened_before(marks, first),
            )
        )
        last = end
    return script


class _Lines:
    def __init__(self, text: str) -> None:
        self._ends = [match.start() for match in re.finditer("\n", text)]

    def of(self, offset: int) -> int:
        """:return: the 1-based line of a place."""
        return bisect_left(self._ends, offset) + 1


def _without_the_way_down(text: str) -> str:
    """What takes a migration back is not asked: it drops what the up made."""
    up_marks, down_marks = [*_UP.finditer(text)], [*_DOWN.finditer(text)]
    plain_up, plain_down = [*_PLAIN_UP.finditer(text)], [*_PLAIN_DOWN.finditer(text)]
    if plain_up and plain_down:
        up_marks, down_marks = up_marks + plain_up, down_marks + plain_down
    marks = sorted([(m.start(), True) for m in up_marks] + [(m.start(), False) for m in down_marks])
    if not marks:
        return text
    kept, position, up = [], 0, True
    for place, goes_up in [*marks, (len(text), True)]:
        piece = text[position:place]
        kept.append(piece if up else re.sub(r"[^\n]", " ", piece))
        position, up = place, goes_up
    return "".join(kept)


def _parse(text: str) -> list[tuple[Any, int, int]] | None:
    """:return: each statement with its place; None if the text is not SQL as a whole."""
    g = grammar()
    try:
        raws = g.parser.parse_sql(text)
    except g.parser.ParseError:
        return None
    found = []
    for raw in raws:
        begin = raw.stmt_location or 0
        found.append((raw.stmt, begin, begin + raw.stmt_len if raw.stmt_len else len(text)))
    return found


@dataclass(frozen=True)
class _Unreadable:
    """A statement that is not SQL."""

    begin: int
    end: int
    # Of the word that the parser does not expect.
    place: int
    message: str


def _parse_each(
    text: str, named: str, spots: list[tuple[int, int]]
) -> tuple[list[tuple[Any, int, int]], list[_Unreadable]]:
    """One wrong statement must not hide the others.

    :param named: the text with names for the variables of psql.
    :param spots: the places of the placeholders.
    :return: the statements that can be read, and those that cannot."""
    g = grammar()
    found: list[tuple[Any, int, int]] = []
    unreadable: list[_Unreadable] = []
    for begin, end in _pieces(text):
        own = [(start - begin, stop - begin) for start, stop in spots if begin <= start < end]
        try:
            raws = _first_read(_numbered(text[begin:end], own), named[begin:end])
        except g.parser.ParseError as exc:
            place = exc.args[1] if len(exc.args) > 1 and isinstance(exc.args[1], int) else 0
            unreadable.append(_Unreadable(begin, end, begin + min(place, end - begin - 1), str(exc.args[0])))
            continue
        found += [(raw.stmt, begin, end) for raw in raws]
    return found, unreadable


def _numbered(text: str, spots: list[tuple[int, int]]) -> str:
    """:return: a statement with a number for each placeholder at which the parser wants no name."""
    parser = grammar().parser
    while spots:
        try:
            parser.parse_sql(text)
        except parser.ParseError as exc:
            place = exc.args[1] if len(exc.args) > 1 else None
            wrong = [spot for spot in spots if isinstance(place, int) and spot[0] <= place < spot[1]]
            if wrong:
                text = placeholders.with_number(text, wrong[0])
                spots = [spot for spot in spots if spot not in wrong]
                continue
        break
    return text


def _tell(piece: _Unreadable, text: str, lines: _Lines, script: Script) -> None:
    """What is no SQL is a fault; what a placeholder may make of it nobody knows."""
    spots = placeholders.places(text)
    if spots:
        message = f"{text[slice(*spots[0])]} stands for more than a name or a number, and the statement is not read"
        script.notes.append((lines.of(piece.place), "R53", message))
    else:
        script.faults.append((lines.of(piece.place), "syntax", piece.message))


def _first_read(*texts: str) -> Any:
    """:return: the statements of the first text that can be read.
    :raises ParseError: none can."""
    parser = grammar().parser
    for text in texts[:-1]:
        try:
            return parser.parse_sql(text)
        except parser.ParseError:
            continue
    return parser.parse_sql(texts[-1])


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Cut at semicolons outside of quotes, brackets and comments, as the server's scanner sees them."""
    begin, depth = 0, 0
    for token in _tokens(text):
        depth += {"ASCII_40": 1, "ASCII_41": -1}.get(token.name, 0)
        if token.name == "ASCII_59" and depth <= 0:
            yield begin, token.start
            begin, depth = token.end + 1, 0
    if text[begin:].strip():
        yield begin, len(text)


def _tokens(text: str) -> list[Any]:
    g = grammar()
    try:
        return list(g.parser.scan(text))
    except g.parser.ParseError:
        return []


def allowance(comment: str) -> tuple[frozenset[str], bool, str | None]:
    """:return: the rules that a comment allows, whether in the whole file, and what is wrong with it; without a reason none."""
    match = _ALLOW.search(comment)
    reason = re.sub(r"[*/#}\s.-]+$", "", (match.group("reason") or "") if match else "")
    if match is None or len(reason) < 3:
        return frozenset(), False, "it has no reason: -- pgops: allow R05 because ..."
    names = frozenset(name.strip() for name in match.group("rules").split(","))
    unknown = ", ".join(sorted(names - set(table())))
    return names, bool(match.group("file")), f"there is no rule {unknown}" if unknown else None


def _allows(
    comments: list[tuple[int, str]], statements: list[tuple[int, int]], lines: _Lines, script: Script
) -> dict[int, set[str]]:
    """:return: the rules that a comment allows, by the number of the statement: the one that it stands in, on whose last line it
    stands, or before which it stands."""
    found: dict[int, set[str]] = {}
    for place, comment in sorted(comments):
        if not _ALLOW_AT_ALL.search(comment):
            continue
        names, whole_file, fault = allowance(comment)
        if fault:
            script.faults.append((lines.of(place), "allow", fault))
        if not names:
            continue
        if whole_file:
            script.allowed |= names
            continue
        inside = [n for n, (begin, end) in enumerate(statements) if begin <= place < end]
        same_line = [
            n for n, (begin, end) in enumerate(statements) if end <= place and lines.of(end) == lines.of(place)
        ]
        after = [n for n, (begin, _) in enumerate(statements) if begin > place]
        for number in inside or same_line[-1:] or after[:1]:
            found.setdefault(number, set()).update(names)
    return found
