# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What may be told of a message of the server: names and the migration's own words, no value of a row, which may be PHI."""

from __future__ import annotations

import re
from collections.abc import Iterable

import psycopg2
from psycopg2 import errorcodes

# Their message ends with the value behind a colon, some without quotation marks.
_VALUE_AT_THE_END = {"22P02", "22007", "22008", "22003", "22023"}
# What the server quotes is a name or a value. Whoever reads it has written the one into the statement, or the server tells
# it apart as the name of an object; the other came from a row. Other languages have other quotation marks.
_QUOTED = re.compile(r'"((?:[^"]|"")*)"|«\s*([^»]*?)\s*»|„([^“]*)“|“([^”]*)”')
_CLOSING = '"»“”'
# The functions of PL/pgSQL that send a text which somebody has written, under whatever SQLSTATE (src/pl/plpgsql/src/pl_exec.c),
# the source files of the other languages that do, and the SQLSTATE classes of such texts where another server passed them on.
_RAISING = {"exec_stmt_raise", "exec_stmt_assert"}
_OTHER_LANGUAGES = re.compile(r"(^|/)(plpy_|plperl|pltcl)")
_WRITTEN_CLASSES = ("P0", "38")
# Class 42 quotes names, but for these: SQL that a function put together may be wrong at a value.
_NO_NAMES = {errorcodes.SYNTAX_ERROR, errorcodes.INVALID_NAME, errorcodes.NAME_TOO_LONG}
# What they quote stands in the statement, or is a value that was cast to regclass, regtype and the like.
_UNDEFINED = {
    errorcodes.UNDEFINED_TABLE,
    errorcodes.UNDEFINED_OBJECT,
    errorcodes.UNDEFINED_FUNCTION,
    errorcodes.UNDEFINED_COLUMN,
}
# In the log, where the statement is not to be trusted: classes and conditions whose messages quote names of objects alone.
_NAMES_ONLY = ("23", "25", "28", "3D", "40", "53", "55", "57")
_OF_NAMES = {errorcodes.INSUFFICIENT_PRIVILEGE, errorcodes.DUPLICATE_TABLE, errorcodes.DUPLICATE_OBJECT}
_IN_FUNCTION = re.compile(r"^(?:PL/pgSQL function|SQL function) [^\n]+", re.MULTILINE)
# Where the SQL may be put together from values. A keyword is a keyword in every language.
_PUT_TOGETHER = re.compile(r"^[^\n]*PL/pgSQL[^\n]*(EXECUTE|RETURN QUERY|OPEN)", re.MULTILINE)
# The name that PL/pgSQL gives the body of a DO.
_DO = "inline_code_block"
_RAISE = re.compile(
    r"\bRAISE\s+(?:DEBUG|LOG|INFO|NOTICE|WARNING)\s+'((?:[^']|'')*)'((?:\s*\n\s*'(?:[^']|'')*')*)", re.IGNORECASE
)
# What the server itself says of IF EXISTS and IF NOT EXISTS.
_SKIPPING = re.compile(
    r'[\w ]+ ("(?:[^"]|"")*")(?: (?:of|for|on) [\w ]+ ("(?:[^"]|"")*"))? (?:already exists|does not exist), skipping'
)


def failing_function(exc: psycopg2.Error) -> str | None:
    """:return: the function in which a statement failed, and where in it; None where it was the statement itself, or its DO."""
    found = _IN_FUNCTION.search(exc.diag.context or "")
    return None if found is None or _DO in found[0] else found[0].rstrip()


def is_foreign_text(exc: psycopg2.Error) -> bool:
    """:return: whether the message is what a function or a trigger has made of whatever it likes, and no DO block that was
    sent: its author writes to whoever runs it."""
    diag = exc.diag
    written = (
        (diag.source_function or "") in _RAISING
        or bool(_OTHER_LANGUAGES.search(diag.source_file or ""))
        or (exc.pgcode or "")[:2] in _WRITTEN_CLASSES
    )
    # A DO block that calls a function, or is run by one, has further lines.
    places = (diag.context or "").strip().splitlines()
    return written and not (len(places) == 1 and _DO in places[0])


def primary_message(exc: psycopg2.Error, statement: str | None = None) -> str:
    """:param statement: what failed: of what the server quotes only that stays which stands in it, or names an object.
    :return: the server's primary message without DETAIL, CONTEXT or values, which may hold patient data; of a text that a
        function of the database wrote only where it was raised."""
    diag, state = exc.diag, exc.pgcode
    message = diag.message_primary or str(exc).strip().split("\n", 1)[0] or type(exc).__name__
    if state is None:
        return message
    if is_foreign_text(exc):
        return f"{failing_function(exc) or 'a function of the database'} raised an error, and its text may hold values of a row"
    if state in _VALUE_AT_THE_END and ": " in message:
        # The first: the value may have one, too.
        message = message.split(": ", 1)[0].rstrip()
    known = [diag.schema_name, diag.table_name, diag.column_name, diag.constraint_name, diag.datatype_name, statement]
    may_quote_values = state in _NO_NAMES or bool(_PUT_TOGETHER.search(diag.context or ""))
    if state[:2] == "42" and not may_quote_values:
        # `record "new" has no field "x"` is said without the place where x is written.
        if state not in _UNDEFINED or (state == errorcodes.UNDEFINED_COLUMN and diag.context):
            return message
        known += [diag.internal_query, diag.context]
    if statement is None and state[:2] != "22" and not may_quote_values:
        return message
    return _without_unknown(message, [text for text in known if text])


def logged_message(message: str, sqlstate: str | None, context: str | None) -> str:
    """:param context: where it arose, as the server's log has it; None where that is not known.
    :return: what may be told of a message in the server's log. Nobody knows there which function wrote it, nor is the statement
        beside it to be trusted: clients put values into theirs.
    """
    known = sqlstate if sqlstate in errorcodes.__dict__.values() else None
    name = errorcodes.lookup(known).lower().replace("_", " ") if known else ""
    if sqlstate is None or context is None or context or sqlstate[:2] in _WRITTEN_CLASSES or sqlstate[:2] == "22":
        return f"{name or 'an error'}; its text is not shown, as it may hold values of a row"
    first = message.strip().split("\n", 1)[0]
    return first if sqlstate[:2] in _NAMES_ONLY or sqlstate in _OF_NAMES else _without_unknown(first, [])


def _without_unknown(message: str, known: Iterable[str]) -> str:
    # "public"."X" is quoted as a whole, and what stands without quotes is in small letters.
    texts = "\n".join(known).replace('"', "").lower()

    def is_value(quoted: re.Match[str]) -> bool:
        name = next(part for part in quoted.groups() if part is not None)
        return name.replace('"', "").lower() not in texts

    value = next((quoted.start() for quoted in _QUOTED.finditer(message) if is_value(quoted)), None)
    if value is None and message.count('"') % 2:
        value = message.index('"')
    if value is None:
        return message
    # To the last mark: the server doubles none within a value, so nobody knows where it ends.
    return f'{message[:value]}"…"{message[max(map(message.rfind, _CLOSING)) + 1 :]}'


def told_notices(notices: Iterable[str], statement: str) -> list[str]:
    """The first lines of what the server said beside the result of a statement, for whoever watches; DETAIL may hold a row.

    A notice does not say who raised it. So those are told that a RAISE in the statement has words for, and what the server
    says of IF EXISTS; a trigger's or a function's own text may hold values of a row.

    :return: those lines; of the others their number, in a line of its own.
    """
    formats = [written for written in map(_as_pattern, _RAISE.finditer(statement)) if written is not None]
    told, untold = [], 0
    for notice in notices:
        line = str(notice).strip().split("\n", 1)[0]
        text = line.partition(":")[2].strip()
        skipping = _SKIPPING.fullmatch(text)
        own = any(written.match(text) for written in formats)
        if own or (skipping and _without_unknown(text, [statement]) == text):
            told.append(line)
        else:
            untold += 1
    if untold:
        told.append(f"{untold} notice(s) of a function or the server are not shown: they may hold values of a row")
    return told


def _as_pattern(raised: re.Match[str]) -> re.Pattern[str] | None:
    """:return: what a format can come to, its first line; None where it has no word of its own."""
    texts = [raised[1], *re.findall(r"'((?:[^']|'')*)'", raised[2])]
    text = "".join(texts).replace("''", "'").strip().split("\n", 1)[0]
    if not re.search(r"\w{2}", text.replace("%", " ")):
        return None
    return re.compile(".*".join(re.escape(part) for part in re.split(r"(?<!%)%(?!%)", text)).replace("%%", "%") + "$")
