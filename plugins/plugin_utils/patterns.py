# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The patterns of ``sql/scaffold``: what each asks for, checked, and its template files filled in.

A template file is text with four marks: ``@@name@@`` is replaced (``"@@name@@"`` in SQL by the identifier, quoted where
it must be), ``@@name?yes:no@@`` by one of two words, and the lines between ``-- @@if name@@`` (``# @@if not name@@``) and
``-- @@end@@`` stay or go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import migration_lint, sql_statements
from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import nearest
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import sql_directory

FOLDERS = sql_directory(None) / "scaffold" / "patterns"
PREFIX = "new_migration_"

_MARK = re.compile(r'"@@(?P<quoted>\w+)@@"|@@(?P<plain>\w+)@@')
# In YAML true, false and numbers stand without the quotes that keep a template file readable as YAML.
_YAML_PLAIN = re.compile(r"'@@(?P<name>\w+)@@'")
_CHOICE = re.compile(r"'?@@(?P<name>\w+)\?(?P<yes>\w+):(?P<no>\w+)@@'?")
_CONDITION = re.compile(
    r"^[ ]*(?:--|\#)[ ]@@if[ ](?P<no>not[ ])?(?P<name>\w+)@@\n(?P<body>.*?)^[ ]*(?:--|\#)[ ]@@end@@\n",
    re.MULTILINE | re.DOTALL,
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What Jinja, a dollar-quoted body, psql or this module itself would read as more than text.
_UNSAFE = re.compile(r"[{}$\\\x00-\x1f\x7f]|@@|--|/\*")
_SERIAL = ("serial", "serial2", "serial4", "serial8", "bigserial", "smallserial")


@lru_cache(maxsize=1)
def declared() -> dict[str, dict[str, Any]]:
    """:return: the variables of each pattern: name to ``kind``, ``what`` and, where it may be left out, ``default``."""
    data = yaml.safe_load((FOLDERS / "patterns.yml").read_text(encoding="utf-8"))
    return {name: {**pattern["variables"], **data["common"]} for name, pattern in data["patterns"].items()}


def variables() -> list[str]:
    """:return: every variable that some pattern takes."""
    return sorted({name for pattern in declared().values() for name in pattern})


def parts(pattern: str) -> dict[str, Path]:
    """:return: the template folder of each of its migrations, by what is added to the name ('' for a single one).

    :raises PgopsError: there is no such pattern.
    """
    if pattern not in declared():
        raise PgopsError(
            f"There is no pattern '{pattern}', there are {', '.join(sorted(declared()))}{nearest(pattern, declared())}"
        )
    folders = sorted(path for path in (FOLDERS / pattern).iterdir() if path.is_dir())
    if len(folders) == 1:
        return {"": folders[0]}
    return {path.name.split("_", 1)[1]: path for path in folders}


def words(pattern: str, given: Mapping[str, object]) -> dict[str, str]:
    """Check what is given against what the pattern asks for.

    :return: the text of each variable as it stands in the files.
    :raises PgopsError: in one sentence, a variable is unknown, missing or not safe.
    """
    if not pattern:
        if given:
            listed = ", ".join(f"{PREFIX}{name}" for name in sorted(given))
            raise PgopsError(f"{listed} is of use together with a pattern only, add: -e {PREFIX}pattern=NAME")
        return {}
    wanted = declared()[pattern]
    for name in given:
        if name not in wanted:
            raise PgopsError(
                f"The pattern {pattern} takes no {PREFIX}{name}, it takes "
                + ", ".join(f"{PREFIX}{known}" for known in wanted)
                + nearest(name, wanted)
            )
    missing = [name for name, spec in wanted.items() if "default" not in spec and _empty(given.get(name))]
    if missing:
        told = ", ".join(f"{PREFIX}{name} ({wanted[name]['what']})" for name in missing)
        raise PgopsError(
            f"The pattern {pattern} needs {told}, add: "
            + " ".join(f"-e {PREFIX}{name}={name.upper()}" for name in missing)
        )
    found: dict[str, str] = {}
    for name, spec in wanted.items():
        value = given.get(name)
        if _empty(value):
            # A default is made of what stands before it, such as a constraint's name.
            value = _MARK.sub(lambda mark: found[mark["plain"]], str(spec["default"]))
        found[name] = _checked(name, str(value).strip(), spec)
    _refuse_alike(pattern, found, wanted)
    return found


def _empty(value: object) -> bool:
    return value is None or str(value).strip() == ""


def filled(path: Path, found: Mapping[str, str]) -> str:
    """:return: the text of a template file with the marks replaced."""
    is_sql = path.name.endswith(".sql.j2")

    def is_set(name: str) -> bool:
        return found[name] not in ("", "false")

    def keep(block: re.Match[str]) -> str:
        return block["body"] if is_set(block["name"]) is not bool(block["no"]) else ""

    def word(mark: re.Match[str]) -> str:
        if mark["plain"]:
            return found[mark["plain"]]
        value = found[mark["quoted"]]
        return _identifier(value) if is_sql else f'"{value}"'

    def plain(mark: re.Match[str]) -> str:
        return found[mark["name"]] if mark["name"] in _yaml_plain() else mark[0]

    text = _CONDITION.sub(keep, path.read_text(encoding="utf-8"))
    text = _CHOICE.sub(lambda mark: mark["yes"] if is_set(mark["name"]) else mark["no"], text)
    return _MARK.sub(word, text if is_sql else _YAML_PLAIN.sub(plain, text))


@lru_cache(maxsize=1)
def _yaml_plain() -> frozenset[str]:
    return frozenset(
        name
        for pattern in declared().values()
        for name, spec in pattern.items()
        if spec["kind"] in ("boolean", "number")
    )


def _identifier(name: str) -> str:
    return f'"{name}"' if name in _keywords() else sql_statements.quote(name)


@lru_cache(maxsize=1)
def _keywords() -> frozenset[str]:
    sql_statements.grammar()
    from pglast import keywords

    return frozenset(keywords.RESERVED_KEYWORDS | keywords.COL_NAME_KEYWORDS | keywords.TYPE_FUNC_NAME_KEYWORDS)


def _checked(name: str, value: str, spec: Mapping[str, Any]) -> str:
    fault = _FAULTS[spec["kind"]](value, spec)
    if fault:
        raise PgopsError(f"{PREFIX}{name} is '{_printable(value)}': {fault}")
    if spec["kind"] == "boolean":
        return value.lower()
    if spec["kind"] == "labels":
        return ", ".join("'" + label.replace("'", "''") + "'" for label in _labels(value))
    return value.replace("'", "''") if spec["kind"] == "text" else value


def _printable(value: str) -> str:
    return value.encode("unicode_escape").decode()[:200]


def _identifier_fault(value: str, _spec: Mapping[str, Any]) -> str | None:
    if len(value.encode()) > sql_statements.IDENTIFIER_BYTES:
        return f"a name has {sql_statements.IDENTIFIER_BYTES} bytes at most and this one {len(value.encode())}, give a shorter one"
    if not _NAME.fullmatch(value):
        return "a name starts with a letter or underscore and has letters, digits and underscores only, without quotes"
    return None


def _text_fault(value: str, _spec: Mapping[str, Any]) -> str | None:
    if _UNSAFE.search(value):
        return (
            "braces, dollars, backslashes, comment marks, '@@' and control characters cannot stand here, edit the file"
        )
    return None


def _type_fault(value: str, _spec: Mapping[str, Any]) -> str | None:
    g = sql_statements.grammar()
    if _UNSAFE.search(value) or ";" in value:
        return "it is not a type"
    try:
        # Not "x::type": whatever follows a type there would be read too.
        (raw,) = g.parser.parse_sql(f"ALTER TABLE t ADD COLUMN c {value}")
        (command,) = raw.stmt.cmds
    except (g.parser.ParseError, ValueError, AttributeError):
        return "it is not a type as it stands in CREATE TABLE, such as varchar(100)"
    column = command.def_
    if column.constraints or column.collClause or column.typeName.setof:
        return "it is more than a type, give the type alone, such as varchar(100)"
    if column.typeName.names[-1].sval in _SERIAL:
        return "a serial column rewrites the table, give integer or bigint"
    return None


def _expression_fault(value: str, _spec: Mapping[str, Any]) -> str | None:
    if _UNSAFE.search(value) or ";" in value:
        return "it is not one plain expression"
    try:
        sql_statements.parse_expression(value)
    except ValueError as exc:
        return f"it is not an expression ({exc})"
    return None


def _number_fault(value: str, spec: Mapping[str, Any]) -> str | None:
    least = int(spec.get("least", 1))
    fits = re.fullmatch(r"0|[1-9][0-9]{0,8}", value) and int(value) >= least
    return None if fits else f"it is not a whole number of {least} or more"


def _boolean_fault(value: str, _spec: Mapping[str, Any]) -> str | None:
    return None if value.lower() in ("true", "false") else "it is true or false"


def _choice_fault(value: str, spec: Mapping[str, Any]) -> str | None:
    choices: Iterable[str] = spec["choices"]
    return None if value in choices else f"it is one of {', '.join(choices)}"


def _columns_fault(value: str, _spec: Mapping[str, Any]) -> str | None:
    g = sql_statements.grammar()
    if _UNSAFE.search(value) or ";" in value:
        return "it is not a list of columns"
    try:
        # A last column, so that the text cannot close the list and say more of the table.
        (raw,) = g.parser.parse_sql(f"CREATE TABLE t ({value}, last_one int)")
        *columns, last = raw.stmt.tableElts
    except (g.parser.ParseError, ValueError, AttributeError, TypeError):
        return "it is not a list of columns as they stand in CREATE TABLE, such as name varchar(100) NOT NULL, due date"
    plain = (g.enums.ConstrType.CONSTR_NOTNULL, g.enums.ConstrType.CONSTR_NULL, g.enums.ConstrType.CONSTR_DEFAULT)
    for column in columns:
        if not isinstance(column, g.ast.ColumnDef) or any(c.contype not in plain for c in column.constraints or ()):
            return "a column has a name, a type, NOT NULL and DEFAULT here, keys and checks are written into the files"
    return None if columns and last.colname == "last_one" else "it is not a list of columns"


def _labels(value: str) -> list[str]:
    return [label.strip() for label in value.split(",")]


def _labels_fault(value: str, _spec: Mapping[str, Any]) -> str | None:
    labels = _labels(value)
    if _UNSAFE.search(value) or "" in labels:
        return "it is not a list of values with commas between them, such as LOW, MEDIUM, HIGH"
    long = [label for label in labels if len(label.encode()) > sql_statements.IDENTIFIER_BYTES]
    if long:
        return f"a value has {sql_statements.IDENTIFIER_BYTES} bytes at most and {long[0]} {len(long[0].encode())}"
    return None if len(set(labels)) == len(labels) else "a value is there twice"


def _statement_fault(value: str, spec: Mapping[str, Any]) -> str | None:
    """It stands in a DO block, where neither lint nor the plan see it: both must have nothing to say."""
    g = sql_statements.grammar()
    if _UNSAFE.search(value):
        return "it is not one plain statement"
    statements, faults = sql_statements.split(value, "")
    wanted = (g.ast.AlterTableStmt, g.ast.InsertStmt, g.ast.UpdateStmt, g.ast.DeleteStmt, g.ast.CommentStmt)
    if faults or len(statements) != 1 or value.endswith(";") or not isinstance(statements[0].node, wanted):
        return "it is not one ALTER TABLE, INSERT, UPDATE, DELETE or COMMENT without a semicolon"
    if statements[0].destroys and not spec.get("destroys"):
        return "it takes something away that the plan could not name, write it in a migration of its own"
    found = migration_lint.lint_statement(statements[0])
    return found[0].message if found else None


def _index_fault(value: str, _spec: Mapping[str, Any]) -> str | None:
    """As ``pg_get_indexdef`` tells it."""
    g = sql_statements.grammar()
    if _UNSAFE.search(value):
        return "braces, dollars, backslashes, comment marks and '@@' cannot stand here, edit the file"
    statements, faults = sql_statements.split(value, "")
    if faults or len(statements) != 1 or value.endswith(";") or not isinstance(statements[0].node, g.ast.IndexStmt):
        return "it is not one CREATE INDEX without CONCURRENTLY and without a semicolon"
    return None


_FAULTS = {
    "identifier": _identifier_fault,
    "index": _index_fault,
    "text": _text_fault,
    "type": _type_fault,
    "expression": _expression_fault,
    "number": _number_fault,
    "boolean": _boolean_fault,
    "choice": _choice_fault,
    "columns": _columns_fault,
    "labels": _labels_fault,
    "statement": _statement_fault,
}


def _refuse_alike(pattern: str, found: Mapping[str, str], wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """``differs_from`` names what must be another name, such as the new one from the old one."""
    for name, spec in wanted.items():
        for other in spec.get("differs_from", ()):
            if found[name] == found[other]:
                raise PgopsError(
                    f"{PREFIX}{name} and {PREFIX}{other} are both '{found[name]}': the pattern {pattern} needs two names"
                )
