# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which parts of a statement may change something, by its text: a DO block names in its conditions and messages what it leaves
alone. The target has no parser of SQL, so what is not known to be harmless may change whatever it names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ansible_collections.whitecross.pgops.plugins.module_utils.sql_names import NAME, folded
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import without_comments, without_strings

BLOCK = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*DO\b", re.IGNORECASE | re.DOTALL)
_BODY = re.compile(
    r"DO\s+(?:LANGUAGE\s+plpgsql\s+)?\$(\w*)\$(.*)\$\1\$\s*(?:LANGUAGE\s+plpgsql\s*)?;?\s*", re.IGNORECASE | re.DOTALL
)
_EXECUTE = re.compile(r"\bEXECUTE\b(?!\s+(?:FUNCTION|PROCEDURE)\b)", re.IGNORECASE)
# One statement, known up to its names and values: %s could bring in another one.
_EXECUTES_HARMLESS = re.compile(
    r"\bEXECUTE\s+(?:(?:pg_catalog\s*\.\s*)?format\s*\(\s*)?'\s*(?:COMMENT|GRANT|REVOKE|ANALYZE)\b[^';%]*(?:%[IL][^';%]*)*'\s*[;,)]",
    re.IGNORECASE,
)
_EXECUTES_MORE = re.compile(_EXECUTE.pattern + r"[^;]*\|\|", re.IGNORECASE)
_HARMLESS = re.compile(r"\s*(?:COMMENT|GRANT|REVOKE|ANALYZE)\b", re.IGNORECASE)
_CHANGES = re.compile(
    r"\b(?:ALTER|CREATE|DROP|INSERT|UPDATE|DELETE|MERGE|TRUNCATE|COPY|REFRESH|REINDEX|CLUSTER|REASSIGN|IMPORT|SECURITY|DO)\b"
    r"|\bEXECUTE\s+(?:FUNCTION|PROCEDURE)\b",
    re.IGNORECASE,
)
_OPENS = re.compile(
    r"\s*(?:(?P<plain>BEGIN|ELSE|LOOP|DECLARE|<<\s*\w+\s*>>)(?!\w)|(?P<then>IF|ELSIF|ELSEIF|EXCEPTION|WHEN)\b|(?P<loop>FOR|FOREACH|WHILE)\b)",
    re.IGNORECASE,
)
_TOKEN = re.compile(r'"[^"]*"|\w+')
_CALL = re.compile(rf"(?<![\w$\".])(?P<name>{NAME}(?:\s*\.\s*{NAME})?)\s*\(", re.IGNORECASE)
_ALIAS = re.compile(rf"(?:\bAS\s+|\)\s*){NAME}\s*\(", re.IGNORECASE)
# Words before a parenthesis that call nothing, or a function of the server that only reads.
_READS = re.compile(
    r"(?:pg_catalog\s*\.\s*)?(?:"
    r"all|and|any|array|as|between|by|case|cast|coalesce|distinct|else|elsif|except|exists|extract|filter|from|greatest|having|if|in|"
    r"intersect|is|join|lateral|least|like|not|nullif|on|or|over|partition|return|row|select|some|then|union|using|values|when|where|while|"
    r"char|character|decimal|interval|numeric|time|timestamp|timestamptz|varchar|"
    r"abs|array_agg|array_length|array_position|bool_and|bool_or|btrim|cardinality|ceil|char_length|clock_timestamp|concat|concat_ws|count|"
    r"col_description|current_database|current_schema|current_setting|date_trunc|floor|format|format_type|generate_series|has_\w+_privilege|"
    r"jsonb?_\w+|left|length|lower|ltrim|max|md5|min|mod|now|num_nulls|num_nonnulls|obj_description|position|quote_ident|quote_literal|"
    r"quote_nullable|regexp_\w+|repeat|replace|right|round|rtrim|shobj_description|split_part|starts_with|string_agg|string_to_array|"
    r"strpos|substr|substring|sum|to_char|to_json|to_jsonb|to_reg\w+|trim|unnest|upper|version|"
    r"pg_get_\w+|pg_typeof|pg_\w*_size|pg_\w+_is_visible|pg_has_role|pg_sleep|pg_index_column_has_property"
    r")\s*",
    re.IGNORECASE,
)
_ALTER_TABLE = re.compile(
    rf"\s*ALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?{NAME}(?:\s*\.\s*{NAME})?\s*(?P<actions>\S.*?)\s*;?\s*",
    re.IGNORECASE | re.DOTALL,
)
_OF_CONSTRAINT = re.compile(
    rf"\s*(?:(?:ADD|VALIDATE)\s+CONSTRAINT\s+{NAME}(?![\w$]).*|DROP\s+CONSTRAINT\s+(?:IF\s+EXISTS\s+)?(?P<gone>{NAME})\s*(?:RESTRICT)?"
    rf"|RENAME\s+CONSTRAINT\s+(?P<old>{NAME})\s+TO\s+(?P<new>{NAME}))\s*",
    re.IGNORECASE | re.DOTALL,
)


def puts_together(text: str) -> bool:
    """:return: whether it is a block that executes what its text does not show, or is in no language that is read here."""
    return bool(BLOCK.match(text)) and _body(text) is None


def changing(text: str) -> list[str]:
    """:return: the parts of a statement that may change something: itself, or of a block those of its body, without comments and
    strings. The whole block where its text does not show what it does: it executes what it puts together, or calls what may do
    anything."""
    if not BLOCK.match(text):
        return [] if _HARMLESS.match(without_comments(text)) else [text]
    parts = _of_block(text)
    return [text] if parts is None else parts


def constraints(part: str) -> set[str] | None:
    """:return: the constraints that a part drops or renames; None where it may do something else."""
    found = _ALTER_TABLE.fullmatch(without_strings(part))
    if not found:
        return None
    actions, before = found["actions"], None
    while actions != before:
        before, actions = actions, re.sub(r"\([^()]*\)", " ", actions)
    names: set[str] = set()
    for action in actions.split(","):
        one = _OF_CONSTRAINT.fullmatch(action)
        if not one:
            return None
        names |= {folded(name) for name in (one["gone"], one["old"], one["new"]) if name}
    return names


def _body(text: str) -> str | None:
    """:return: of a block, without comments and strings; None where they matter."""
    start = BLOCK.match(text)
    found = _BODY.fullmatch(text, start.end() - len("DO")) if start else None
    if not found:
        return None
    bare, shown = without_strings(found[2]), without_comments(found[2])
    executes = len(_EXECUTE.findall(bare))
    known = executes == len(_EXECUTE.findall(shown)) == len(_EXECUTES_HARMLESS.findall(shown))
    return bare if known and not _EXECUTES_MORE.search(bare) else None


def _of_block(text: str) -> list[str] | None:
    body = _body(text)
    if body is None:
        return None
    parts = [part.strip() for piece in body.split(";") for part in _parts(piece) if not _HARMLESS.match(part)]
    changes = [part for part in parts if _CHANGES.search(re.sub(r'"[^"]*"', '""', part))]
    return changes if all(part in changes or _only_reads(part) for part in parts) else None


def _parts(piece: str) -> Iterator[str]:
    """:return: the conditions that a piece between two semicolons opens with, and what is done under them."""
    place = 0
    while True:
        opens = _OPENS.match(piece, place)
        if not opens:
            break
        if opens["plain"]:
            place = opens.end()
            continue
        end = _end_of_condition(piece, opens.end(), "then" if opens["then"] else "loop")
        if end is None:
            break
        yield piece[opens.end() : end[0]]
        place = end[1]
    yield piece[place:]


def _end_of_condition(piece: str, place: int, word: str) -> tuple[int, int] | None:
    cases = 0
    for token in _TOKEN.finditer(piece, place):
        found = token[0].lower()
        cases += (found == "case") - (found == "end")
        if found == word and cases == 0:
            return token.start(), token.end()
    return None


def _only_reads(part: str) -> bool:
    called = _CALL.finditer(_ALIAS.sub(" (", _EXECUTE.sub(" ", part)))
    return all(_READS.fullmatch(call["name"]) for call in called) and not re.match(r"CALL\b", part, re.IGNORECASE)
