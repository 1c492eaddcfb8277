# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which parts of a statement may change something, by its text: a DO block names in its conditions and messages what it leaves
alone. The target has no parser of SQL, so what is not known to be harmless may change whatever it names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.sql_names import (
    NAME,
    QUALIFIED,
    folded,
    name_parts,
    without_parentheses,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import without_comments, without_strings

_GAP = r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)"
BLOCK = re.compile(rf"{_GAP}*DO\b", re.IGNORECASE | re.DOTALL)
_LANGUAGE = rf"""LANGUAGE\b{_GAP}*(?:plpgsql\b|"plpgsql"|'plpgsql'){_GAP}*"""
_BODY = re.compile(
    rf"DO\b{_GAP}*(?:{_LANGUAGE})?\$(\w*)\$((?:(?!\$\1\$).)*)\$\1\${_GAP}*(?:{_LANGUAGE})?;?{_GAP}*",
    re.IGNORECASE | re.DOTALL,
)
# The server nests comments and has names by number; neither is read here.
_STRANGE = re.compile(r"/\*(?:(?!\*/).)*/\*|\bU&[\"']", re.IGNORECASE | re.DOTALL)
_EXECUTE = re.compile(r"\bEXECUTE\b(?!\s+(?:FUNCTION|PROCEDURE|ON)\b)", re.IGNORECASE)
# One statement, known up to its names and values: %s could bring in another one.
_EXECUTES_HARMLESS = re.compile(
    r"\bEXECUTE\s+(?:(?:pg_catalog\s*\.\s*)?format\s*\(\s*)?'\s*(?:COMMENT\s+ON|GRANT|REVOKE|ANALYZE)\b[^';%]*(?:%[IL][^';%]*)*'\s*[;,)]",
    re.IGNORECASE,
)
_EXECUTES_MORE = re.compile(_EXECUTE.pattern + r"[^;]*\|\|", re.IGNORECASE)
# As a statement; a variable may have one of these names.
_HARMLESS = re.compile(r'\s*(?:COMMENT\s+ON\b|(?:GRANT|REVOKE)\s+[\w"]|ANALYZE\b\s*(?:[\w"(;]|$))', re.IGNORECASE)
_CHANGES = re.compile(
    r"\b(?:ALTER|CREATE|DROP|INSERT|UPDATE|DELETE|MERGE|TRUNCATE|COPY|REFRESH|REINDEX|CLUSTER|REASSIGN|IMPORT|SECURITY)\b"
    r"|\bEXECUTE\s+(?:FUNCTION|PROCEDURE)\b",
    re.IGNORECASE,
)
_OPENS = re.compile(
    r"\s*(?:(?P<plain>BEGIN|ELSE|LOOP|DECLARE|<<\s*\w+\s*>>)(?!\w)|(?P<then>IF|ELSIF|ELSEIF|EXCEPTION|WHEN)\b|(?P<loop>FOR|FOREACH|WHILE)\b)",
    re.IGNORECASE,
)
_BRANCHES = re.compile(r"\b(?:THEN|LOOP|RETURN|EXIT|CONTINUE|(?<!\bRAISE )EXCEPTION)\b", re.IGNORECASE)
_TOKEN = re.compile(r'"[^"]*"|\w+')
_CALL = re.compile(rf"(?<![\w$\".])(?P<name>{NAME}(?:\s*\.\s*{NAME})*)\s*\(", re.IGNORECASE)
_ALIAS = re.compile(rf"(?:\bAS\s+|\)\s*){NAME}\s*\(", re.IGNORECASE)
_CALLS = re.compile(r"CALL\b", re.IGNORECASE)
_DROPS_FUNCTIONS = re.compile(r"DROP\s+(?:FUNCTION|PROCEDURE|ROUTINE|AGGREGATE|OPERATOR)\b", re.IGNORECASE)
# What is made or written to has its columns or its arguments behind its name.
_NAMED = re.compile(
    r"\b(?:(?:INTO|REFERENCES|VIEW|WITH(?:\s+RECURSIVE)?|EXCLUDE\s+USING|TABLE(?:\s+IF\s+(?:NOT\s+)?EXISTS)?|"
    rf"(?:FUNCTION|PROCEDURE|ROUTINE|AGGREGATE)(?:\s+IF\s+EXISTS)?)\s+{QUALIFIED})\s*\(",
    re.IGNORECASE,
)
_INDEXED = re.compile(
    rf"(?P<made>\s*CREATE\s+(?:UNIQUE\s+)?INDEX\b[^()]*?\bON\s+(?:ONLY\s+)?){QUALIFIED}\s*(?:USING\s+{NAME}\s*)?\(",
    re.IGNORECASE,
)
# Words before a parenthesis that call nothing, or a function of the server that changes no object and no row.
_READS = re.compile(
    r"(?P<schema>pg_catalog\s*\.\s*)?(?P<word>"
    r"all|and|any|array|as|between|by|case|cast|coalesce|distinct|else|elsif|except|exists|extract|filter|from|greatest|having|if|in|"
    r"intersect|is|join|lateral|least|like|not|nullif|on|or|over|partition|return|row|select|some|then|union|using|values|when|where|while|"
    r"check|conflict|default|exclude|hash|identity|include|key|list|materialized|null|only|options|range|reset|returning|set|to|unique|with|"
    r"bit|char|character|decimal|float|interval|numeric|time|timestamp|timestamptz|varchar|varying|"
    r"abs|age|array_\w+|ascii|avg|bool_and|bool_or|btrim|cardinality|ceil|char_length|chr|clock_timestamp|concat|concat_ws|count|"
    r"col_description|current_database|current_schema|current_setting|date_part|date_trunc|decode|encode|first_value|floor|format|"
    r"format_type|gen_random_uuid|generate_series|has_\w+_privilege|initcap|"
    r"jsonb?_\w+|lag|last_value|lead|left|length|lower|lpad|ltrim|make_\w+|max|md5|min|mod|nextval|now|num_nulls|num_nonnulls|"
    r"obj_description|overlay|position|quote_ident|quote_literal|quote_nullable|random|rank|regexp_\w+|repeat|replace|right|round|"
    r"currval|lastval|pg_advisory_\w+|pg_notify|setval|row_number|rpad|rtrim|sha256|shobj_description|split_part|starts_with|string_agg|string_to_array|"
    r"strpos|substr|substring|sum|to_char|to_date|to_json|to_jsonb|to_number|to_reg\w+|to_timestamp|translate|trim|unnest|upper|version|"
    r"pg_get_\w+|pg_typeof|pg_\w*_size|pg_\w+_is_visible|pg_has_role|pg_sleep|pg_index_column_has_property"
    r")\s*",
    re.IGNORECASE,
)
# Each may stand before pg_catalog in a search_path; what an extension brings does what its name says.
_OWN = """
SELECT DISTINCT p.proname::text AS name FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
"""
_ALTER_TABLE = re.compile(
    rf"\s*ALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?{QUALIFIED}\s*(?P<actions>\S.*?)\s*;?\s*",
    re.IGNORECASE | re.DOTALL,
)
_OF_CONSTRAINT = re.compile(
    rf"\s*(?:(?:ADD|VALIDATE)\s+CONSTRAINT\s+{NAME}(?![\w$]).*|DROP\s+CONSTRAINT\s+(?:IF\s+EXISTS\s+)?(?P<gone>{NAME})\s*(?:RESTRICT)?"
    rf"|RENAME\s+CONSTRAINT\s+(?P<old>{NAME})\s+TO\s+(?P<new>{NAME}))\s*",
    re.IGNORECASE | re.DOTALL,
)
# Of a loop over what a statement returns, the variables stand before it.
_WRITES_ROWS = re.compile(
    rf"\s*(?:{NAME}(?:\s*,\s*{NAME})*\s+IN\s+)?(?:INSERT|UPDATE|DELETE|MERGE|COPY|TRUNCATE|WITH)\b", re.IGNORECASE
)
_DEFINES = re.compile(r"\s*(?P<verb>ALTER|CREATE|DROP)\b", re.IGNORECASE)
_DROPS_ROWS = re.compile(
    r"\s*DROP\s+(?:FOREIGN\s+)?(?:TABLE|SCHEMA|TYPE|DOMAIN|EXTENSION|OWNED)\b|\bCASCADE\b", re.IGNORECASE
)
_ALTERS_ROWS = re.compile(
    r"\b(?:TYPE|USING|DETACH|SET\s+EXPRESSION)\b|\bDROP\b(?!\s+(?:CONSTRAINT|DEFAULT|NOT\s+NULL|IDENTITY|EXPRESSION)\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Constraints:
    """The constraints that a part drops, and both names of those that it renames."""

    gone: frozenset[str]
    renamed: frozenset[str]


def own_functions(conn: Connection) -> frozenset[str]:
    """:return: the names of functions that are not the server's: one that is called may be any of them."""
    return frozenset(str(row["name"]) for row in fetch_all(conn, _OWN))


def puts_together(text: str) -> bool:
    """:return: whether it is a block that executes what its text does not show, or is in no language that is read here."""
    if BLOCK.match(text):
        return _body(text) is None
    return bool(_STRANGE.search(text)) and bool(re.search(r"\bDO\b", text, re.IGNORECASE))


def changing(text: str, own: Collection[str]) -> list[str]:
    """:param own: see :func:`own_functions`.
    :return: the parts of a statement that may change something: itself without comments, or of a block those of its body, without
    comments and strings. The whole block where its text does not show what it does: it executes what it puts together, or calls
    what may do anything."""
    if BLOCK.match(text):
        parts = _of_block(text, own)
        return [text] if parts is None else parts
    if _STRANGE.search(text):
        return [text]
    bare = without_comments(text).strip()
    return [] if _HARMLESS.match(bare) else [bare]


def always(text: str) -> bool:
    """:return: whether a statement does on each of its ways all that :func:`changing` finds."""
    body = _body(text) if BLOCK.match(text) else ""
    return body is not None and not _BRANCHES.search(body)


def constraints(part: str) -> Constraints | None:
    """:return: None where a part may do something else than to add, drop, rename or validate constraints."""
    found = _ALTER_TABLE.fullmatch(without_strings(part))
    if not found:
        return None
    gone: set[str] = set()
    renamed: set[str] = set()
    for action in without_parentheses(found["actions"]).split(","):
        one = _OF_CONSTRAINT.fullmatch(action)
        if not one:
            return None
        gone |= {folded(one["gone"])} if one["gone"] else set()
        renamed |= {folded(name) for name in (one["old"], one["new"]) if name}
    return Constraints(frozenset(gone), frozenset(renamed))


def writes_rows(part: str) -> bool:
    """:return: whether it changes rows and no object. What a table has cannot be taken from it by what such a statement calls:
    it is in use."""
    return bool(_WRITES_ROWS.match(without_strings(part)))


def lost(part: str) -> str:
    """:return: where rows or values may go or change, what of the part names them: of ALTER TABLE its actions; else nothing."""
    text = without_strings(part)
    defines = _DEFINES.match(text)
    if not defines:
        return part
    verb = defines["verb"].upper()
    if verb == "CREATE":
        return ""
    altered = _ALTER_TABLE.fullmatch(text)
    named = altered["actions"] if altered else text
    return named if (_DROPS_ROWS if verb == "DROP" else _ALTERS_ROWS).search(_unquoted(named)) else ""


def _unquoted(text: str) -> str:
    """:return: where key words can stand."""
    return re.sub(r'"[^"]*"', '""', text)


def _body(text: str) -> str | None:
    """:return: of a block, without comments and strings; None where they matter."""
    start = BLOCK.match(text)
    found = _BODY.fullmatch(text, start.end() - len("DO")) if start else None
    if not found or _STRANGE.search(text):
        return None
    bare, shown = without_strings(found[2]), without_comments(found[2])
    if any(BLOCK.match(part) for part, _ in _parts(bare)):
        return None
    executes = len(_EXECUTE.findall(bare))
    known = executes == len(_EXECUTE.findall(shown)) == len(_EXECUTES_HARMLESS.findall(shown))
    return bare if known and not _EXECUTES_MORE.search(bare) else None


def _of_block(text: str, own: Collection[str]) -> list[str] | None:
    body = _body(text)
    if body is None:
        return None
    parts = [part.strip() for part, is_statement in _parts(body) if not (is_statement and _HARMLESS.match(part))]
    if not all(_only_reads(part, own) for part in parts):
        return None
    return [part for part in parts if _CHANGES.search(_unquoted(part))]


def _parts(body: str) -> Iterator[tuple[str, bool]]:
    """:return: the conditions, declarations and statements of a body, each with whether it is a statement."""
    declares = False
    for piece in body.split(";"):
        place = 0
        while True:
            opens = _OPENS.match(piece, place)
            if not opens:
                break
            if opens["plain"]:
                word = opens["plain"].upper()
                declares = word == "DECLARE" or (declares and word != "BEGIN")
                place = opens.end()
                continue
            end = _end_of_condition(piece, opens.end(), "then" if opens["then"] else "loop")
            if end is None:
                break
            yield piece[opens.end() : end[0]], False
            place = end[1]
        yield piece[place:], not declares


def _end_of_condition(piece: str, place: int, word: str) -> tuple[int, int] | None:
    cases = 0
    for token in _TOKEN.finditer(piece, place):
        found = token[0].lower()
        cases += (found == "case") - (found == "end")
        if found == word and cases == 0:
            return token.start(), token.end()
    return None


def _only_reads(part: str, own: Collection[str]) -> bool:
    """:return: whether a part calls nothing but what reads, beside what it says that it changes."""
    if _DROPS_FUNCTIONS.match(part):
        return True
    text = _INDEXED.sub(r"\g<made>0 (", _EXECUTE.sub(" ", part))
    text = _ALIAS.sub(" 0 (", _NAMED.sub(" 0 (", text))
    return not _CALLS.match(part) and all(_is_read(call["name"], own) for call in _CALL.finditer(text))


def _is_read(name: str, own: Collection[str]) -> bool:
    found = _READS.fullmatch(name)
    return found is not None and (bool(found["schema"]) or name_parts(name)[-1] not in own)
