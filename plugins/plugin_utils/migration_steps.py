# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The steps of a migration: one reader a kind, from ``migration.yml`` and ``indexes.yml`` to checked plain data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import sql_statements
from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import Finding, nearest
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration import FILE_NAME, METADATA, Migration
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import DEFAULT_SCHEMA
from ansible_collections.whitecross.pgops.plugins.plugin_utils.strict_yaml import (
    Document,
    Keys,
    Path,
    YamlFault,
    at,
    check_keys,
    load,
    shown,
)

STEP_KINDS = ("sql", "indexes", "backfill", "validate", "analyze")
# Measured: 5,000 rows a batch cost 1.13 of one UPDATE and 15 ms for the worst client.
BATCH_SIZE = 5000

_SQL_KEYS: Keys = {
    "up": (str, True, ()),
    "down": (str, False, ()),
    "mapping": (str, False, ()),
    "placeholders": (list, False, ()),
    "together": (str, False, ()),
}
# In the place of a file: the labels that the up adds to enums go again.
REMOVE_LABELS = "remove_labels"
_PLACEHOLDER_KEYS: Keys = {"constraint": (str, True, ()), "row": (dict, True, ())}
_BACKFILL_KEYS: Keys = {
    "table": (str, True, ()),
    "schema": (str, False, ()),
    "key": (str, True, ()),
    "batch_size": (int, False, ()),
    "adapt": (bool, False, ()),
    "pause_ms": (int, False, ()),
    "statement": (str, True, ()),
    "remaining": (str, False, ()),
    "down": (str, False, ()),
    "irreversible": (str, False, ()),
    "ends_as": (str, False, ()),
}
_VALIDATE_KEYS: Keys = {
    "table": (str, True, ()),
    "schema": (str, False, ()),
    "constraint": (str, True, ()),
}
_ANALYZE_KEYS: Keys = {"table": (str, True, ()), "schema": (str, False, ())}
INDEX_METHODS = ("btree", "gin", "gist", "brin", "hash", "spgist")
_INDEX_KEYS: Keys = {
    "name": (str, True, ()),
    "schema": (str, False, ()),
    "table": (str, True, ()),
    "method": (str, False, INDEX_METHODS),
    "unique": (bool, False, ()),
    "columns": (list, True, ()),
    "include": (list, False, ()),
    "where": (str, False, ()),
    "replaces": (str, False, ()),
    "phi": (bool, False, ()),
    "why": (str, True, ()),
}
_INDEX_COLUMN_KEYS: Keys = {
    "column": (str, False, ()),
    "expression": (str, False, ()),
    "opclass": (str, False, ()),
    "order": (str, False, ("asc", "desc")),
    "nulls": (str, False, ("first", "last")),
}
CLOCK_ADVICE = (
    "an index cannot ask the clock, it would be refused or freeze today's answer; keep its name and columns, "
    "use a predicate without the time (such as IS NOT NULL) and leave the time to the query"
)


def read_step(
    migration: Migration,
    number: int,
    contents: dict[str, dict[str, str]],
    uses: dict[str, int],
    findings: list[Finding],
) -> dict[str, Any] | None:
    """Read one step.

    :param number: its place in ``steps``, from 0.
    :param contents: the files of the folder that could be read.
    :param uses: the files that some step uses, with the line that names them; grows.
    :param findings: every fault; grows.
    :return: the step as plain data, or None if it cannot be used.
    """
    document, file = migration.document, migration.location(METADATA)
    data, line = document.data["steps"][number], document.line("steps", number)
    if not isinstance(data, dict):
        findings.append(Finding(file, line, "wrong-type", f"step {number + 1} must be a mapping, e.g. 'sql:'"))
        return None
    for key in data:
        if key != "name" and key not in STEP_KINDS:
            findings.append(
                Finding(
                    file,
                    document.line("steps", number, key),
                    "unknown-key",
                    f"unknown step kind '{key}'{nearest(key, [*STEP_KINDS, 'name'])}",
                )
            )
            return None
    kinds = [key for key in data if key in STEP_KINDS]
    if len(kinds) != 1:
        what = f"has {' and '.join(kinds)}" if kinds else "has no kind"
        findings.append(
            Finding(file, line, "step-kind", f"step {number + 1} {what}; a step is one of {', '.join(STEP_KINDS)}")
        )
        return None
    name = data.get("name")
    if name is not None and (not isinstance(name, str) or not name.strip()):
        findings.append(
            Finding(file, document.line("steps", number, "name"), "wrong-type", "'name' of a step must be text")
        )
        return None
    (kind,) = kinds
    read = {
        "sql": _sql_step,
        "indexes": _indexes_step,
        "backfill": _backfill_step,
        "validate": _validate_step,
        "analyze": _analyze_step,
    }[kind]
    step = read(migration, ("steps", number, kind), contents, uses, findings)
    if step is None:
        return None
    return {"kind": kind, "name": name or step.pop("default_name"), **step, "line": line}


def use_file(
    migration: Migration,
    name: str,
    ending: str,
    path: Path,
    contents: Mapping[str, object],
    uses: dict[str, int],
    findings: list[Finding],
) -> bool:
    """Note that a file is used, once, and that it is there."""
    document, file = migration.document, migration.location(METADATA)
    line = document.line(*path)
    if not FILE_NAME.fullmatch(name) or not name.endswith(ending):
        findings.append(
            Finding(file, line, "file-name", f"'{name}' must be the name of a file *{ending} in the same folder")
        )
        return False
    if name in uses:
        findings.append(Finding(file, line, "file-twice", f"the file '{name}' is used twice"))
        return False
    uses[name] = line
    if name not in contents:
        # A file that is there but cannot be read has its own finding already.
        if not (migration.path / name).exists():
            findings.append(
                Finding(file, line, "file-missing", f"the file '{name}' is missing{_near_file(name, contents)}")
            )
        return False
    return True


def _near_file(name: str, contents: Mapping[str, object]) -> str:
    return nearest(name, [other for other in contents if other != METADATA])


def _sql_step(
    migration: Migration,
    path: Path,
    contents: dict[str, dict[str, str]],
    uses: dict[str, int],
    findings: list[Finding],
) -> dict[str, Any] | None:
    document, file = migration.document, migration.location(METADATA)
    if not check_keys(document, path, _SQL_KEYS, file, findings):
        return None
    data = at(document.data, path)
    up, down = data["up"], data.get("down")
    usable = use_file(migration, up, ".sql.j2", (*path, "up"), contents, uses, findings)
    labels = down == REMOVE_LABELS
    if labels:
        down = None
    elif down is not None:
        usable = use_file(migration, down, ".sql.j2", (*path, "down"), contents, uses, findings) and usable
    elif migration.rollback.get("safety") == "complete":
        findings.append(
            Finding(
                file,
                document.line(*path),
                "down-missing",
                "the sql step has no 'down' although rollback.safety is 'complete'; write one, or declare what stays",
            )
        )
    step: dict[str, Any] = {"up": up, "down": down, "default_name": up.removesuffix(".sql.j2")}
    if labels:
        step["labels"] = data.get("mapping")
    if "mapping" in data and (not labels or data["mapping"] not in migration.variables):
        fault = (
            f"'{data['mapping']}' is no variable of this version that says what becomes of rows with a label"
            if labels
            else f"'mapping' goes with 'down: {REMOVE_LABELS}'"
        )
        findings.append(Finding(file, document.line(*path, "mapping"), "label-mapping", fault))
        return None
    if "placeholders" in data:
        step["placeholders"] = _placeholders(document, (*path, "placeholders"), file, findings)
    if "together" in data:
        step["together"] = data["together"]
        if not data["together"].strip() or not migration.transaction:
            fault = (
                "'together' says why several tables are locked in one transaction; it is empty"
                if migration.transaction
                else "'together' is for statements of one transaction, and with 'transaction: false' each has its own"
            )
            findings.append(Finding(file, document.line(*path, "together"), "wrong-value", fault))
    return step if usable else None


def _placeholders(document: Document, path: Path, file: str, findings: list[Finding]) -> list[dict[str, Any]]:
    """Parents for rows that a foreign key of the step finds without one."""
    found = []
    for number, item in enumerate(at(document.data, path)):
        if not isinstance(item, dict):
            findings.append(
                Finding(file, document.line(*path, number), "wrong-type", "a placeholder has 'constraint' and 'row'")
            )
            continue
        if not check_keys(document, (*path, number), _PLACEHOLDER_KEYS, file, findings):
            continue
        for column, value in item["row"].items():
            if not isinstance(column, str) or not (value is None or isinstance(value, str | int | float)):
                findings.append(
                    Finding(
                        file,
                        document.line(*path, number, "row", column),
                        "wrong-type",
                        f"'{column}' of a placeholder must be one value: text, a number, true, false or null",
                    )
                )
        found.append({"constraint": item["constraint"], "row": item["row"], "line": document.line(*path, number)})
    return found


def _backfill_step(
    migration: Migration,
    path: Path,
    contents: dict[str, dict[str, str]],
    uses: dict[str, int],
    findings: list[Finding],
) -> dict[str, Any] | None:
    document, file = migration.document, migration.location(METADATA)
    given = at(document.data, path)
    several = isinstance(given, dict) and isinstance(given.get("key"), list)
    keys: Keys = {**_BACKFILL_KEYS, "key": (list, True, ())} if several else _BACKFILL_KEYS
    if not check_keys(document, path, keys, file, findings):
        return None
    data = at(document.data, path)
    for number, column in enumerate(data["key"] if several else ()):
        if not isinstance(column, str) or sql_statements.identifier_fault(column) or column in data["key"][:number]:
            line = document.line(*path, "key", number)
            findings.append(Finding(file, line, "wrong-type", "'key' is a column, or a list of different columns"))
            return None
    size = data.get("batch_size", BATCH_SIZE)
    if size < 1:
        findings.append(
            Finding(file, document.line(*path, "batch_size"), "wrong-value", f"'batch_size' is {size}, at least 1")
        )
    if data.get("pause_ms", 0) < 0:
        findings.append(
            Finding(
                file, document.line(*path, "pause_ms"), "wrong-value", f"'pause_ms' is {data['pause_ms']}, at least 0"
            )
        )
    _check_names(document, path, ("schema", "table", "ends_as", *(() if several else ("key",))), file, findings)
    usable = True
    for name in ("statement", "remaining", "down"):
        if name in data:
            usable = use_file(migration, data[name], ".sql.j2", (*path, name), contents, uses, findings) and usable
    _check_way_back(migration, path, findings)
    if not usable:
        return None
    return {
        "schema": data.get("schema", DEFAULT_SCHEMA),
        "table": data["table"],
        "key": data["key"],
        "batch_size": size,
        "statement": data["statement"],
        "down": data.get("down"),
        # Only where they are asked for: what is stored of earlier versions has no such keys.
        **{name: data[name] for name in ("adapt", "pause_ms", "remaining", "irreversible", "ends_as") if name in data},
        "default_name": f"backfill {data['table']}",
    }


def _check_way_back(migration: Migration, path: Path, findings: list[Finding]) -> None:
    """What a backfill says of its way back agrees with itself and with the migration."""
    document, file = migration.document, migration.location(METADATA)
    data = at(document.data, path)
    if "irreversible" not in data:
        return
    line, fault = document.line(*path, "irreversible"), None
    if not data["irreversible"].strip():
        fault = "'irreversible' says why the rows keep what they got; it is empty"
    elif "down" in data:
        fault = "a backfill has either 'down' or 'irreversible'"
    elif migration.rollback.get("safety") == "complete":
        fault = "the backfill is 'irreversible' although rollback.safety is 'complete'; say under 'stays' what stays"
    if fault:
        findings.append(Finding(file, line, "backfill", fault))


def _validate_step(
    migration: Migration,
    path: Path,
    contents: dict[str, dict[str, str]],
    uses: dict[str, int],
    findings: list[Finding],
) -> dict[str, Any] | None:
    document, file = migration.document, migration.location(METADATA)
    items = at(document.data, path)
    if not isinstance(items, list) or not items:
        findings.append(
            Finding(file, document.line(*path), "wrong-type", "'validate' is a list of {table, constraint}")
        )
        return None
    constraints = []
    for i, item in enumerate(items):
        if not check_keys(document, (*path, i), _VALIDATE_KEYS, file, findings):
            continue
        _check_names(document, (*path, i), ("schema", "table", "constraint"), file, findings)
        constraints.append(
            {
                "schema": item.get("schema", DEFAULT_SCHEMA),
                "table": item["table"],
                "constraint": item["constraint"],
            }
        )
    return {"constraints": constraints, "default_name": "validate constraints"}


def _analyze_step(
    migration: Migration,
    path: Path,
    contents: dict[str, dict[str, str]],
    uses: dict[str, int],
    findings: list[Finding],
) -> dict[str, Any] | None:
    document, file = migration.document, migration.location(METADATA)
    items = at(document.data, path)
    if not isinstance(items, list) or not items:
        findings.append(Finding(file, document.line(*path), "wrong-type", "'analyze' is a list of tables"))
        return None
    tables = []
    for i, item in enumerate(items):
        if isinstance(item, str):
            fault = sql_statements.identifier_fault(item)
            if fault:
                findings.append(Finding(file, document.line(*path, i), "identifier-length", fault))
            tables.append({"schema": DEFAULT_SCHEMA, "table": item})
        elif check_keys(document, (*path, i), _ANALYZE_KEYS, file, findings):
            _check_names(document, (*path, i), ("schema", "table"), file, findings)
            tables.append({"schema": item.get("schema", DEFAULT_SCHEMA), "table": item["table"]})
    return {"tables": tables, "default_name": "analyze"}


def _check_names(
    document: Document,
    path: Path,
    keys: Iterable[str],
    file: str,
    findings: list[Finding],
) -> None:
    data = at(document.data, path)
    for key in keys:
        fault = sql_statements.identifier_fault(data[key]) if key in data else None
        if fault:
            findings.append(Finding(file, document.line(*path, key), "identifier-length", fault))


def _indexes_step(
    migration: Migration,
    path: Path,
    contents: dict[str, dict[str, str]],
    uses: dict[str, int],
    findings: list[Finding],
) -> dict[str, Any] | None:
    name = at(migration.document.data, path)
    if not isinstance(name, str):
        findings.append(
            Finding(
                migration.location(METADATA),
                migration.document.line(*path),
                "wrong-type",
                "'indexes' names a file, e.g. indexes.yml",
            )
        )
        return None
    if not use_file(migration, name, ".yml", path, contents, uses, findings):
        return None
    file = migration.location(name)
    try:
        document = load(contents[name]["text"])
    except YamlFault as exc:
        findings.append(Finding(file, exc.line, "yaml", exc.message))
        return None
    if not isinstance(document.data, list) or not document.data:
        findings.append(Finding(file, 1, "wrong-type", "the file must be a list of indexes"))
        return None
    indexes: list[dict[str, Any]] = []
    first: dict[tuple[str, str], int] = {}
    for i in range(len(document.data)):
        index = _index(document, i, file, findings)
        if index is None:
            continue
        key, line = (index["schema"], index["name"]), document.line(i, "name")
        if key in first:
            findings.append(
                Finding(file, line, "duplicate-index", f"the index '{index['name']}' stands in line {first[key]} too")
            )
        else:
            first[key] = line
            indexes.append({**index, "line": line})
    return {"indexes": indexes, "file": name, "default_name": name.removesuffix(".yml")}


def _index(document: Document, number: int, file: str, findings: list[Finding]) -> dict[str, Any] | None:
    """Read one entry of ``indexes.yml``."""
    if not check_keys(document, (number,), _INDEX_KEYS, file, findings):
        return None
    data = document.data[number]
    before = len(findings)
    _check_names(document, (number,), ("schema", "table", "name"), file, findings)
    method = data.get("method", "btree")
    columns = [
        column
        for i in range(len(data["columns"]))
        if (column := _index_column(document, (number, "columns", i), method, file, findings))
    ]
    for i, name in enumerate(data.get("include", [])):
        if not isinstance(name, str) or sql_statements.identifier_fault(name):
            line = document.line(number, "include", i)
            findings.append(Finding(file, line, "wrong-type", "'include' is a list of column names"))
    for key, methods in (("unique", ("btree",)), ("include", ("btree", "gist", "spgist"))):
        if data.get(key) and method not in methods:
            line = document.line(number, key)
            findings.append(Finding(file, line, "wrong-value", f"a {method} index cannot have '{key}'"))
    where = data.get("where")
    if where is not None:
        _check_expression(where, document.line(number, "where"), "where", file, findings)
    if len(findings) > before:
        return None
    return {
        "name": data["name"],
        "schema": data.get("schema", DEFAULT_SCHEMA),
        "table": data["table"],
        "method": method,
        "unique": data.get("unique", False),
        "columns": columns,
        "include": list(data.get("include", [])),
        "where": where.strip() if where else None,
        "phi": data.get("phi", False),
        "why": data["why"].strip(),
        # Only where it is given: what other versions rendered to must not change.
        **({"replaces": data["replaces"]} if "replaces" in data else {}),
    }


def _index_column(
    document: Document, path: tuple[str | int, ...], method: str, file: str, findings: list[Finding]
) -> dict[str, Any] | None:
    item, line = at(document.data, path), document.line(*path)
    if isinstance(item, str):
        item = {"column": item}
    elif not isinstance(item, dict):
        findings.append(Finding(file, line, "wrong-type", f"a column is a name or a mapping, not {shown(item)}"))
        return None
    elif not check_keys(document, path, _INDEX_COLUMN_KEYS, file, findings):
        return None
    if ("column" in item) == ("expression" in item):
        findings.append(Finding(file, line, "wrong-value", "a column has either 'column' or 'expression'"))
        return None
    if "column" in item:
        fault = sql_statements.identifier_fault(item["column"])
        if fault:
            findings.append(Finding(file, line, "identifier-length", fault))
    else:
        _check_expression(item["expression"], line, "expression", file, findings)
    for key in ("order", "nulls"):
        if key in item and method != "btree":
            findings.append(Finding(file, line, "wrong-value", f"a {method} index cannot have '{key}'"))
    opclass = item.get("opclass")
    if opclass is not None and not re.fullmatch(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?", opclass):
        findings.append(Finding(file, line, "wrong-value", f"'{opclass}' is not the name of an operator class"))
    kind = "column" if "column" in item else "expression"
    order = item.get("order")
    return {
        kind: item[kind].strip(),
        "opclass": opclass,
        "order": None if order == "asc" else order,
        "nulls": item.get("nulls"),
    }


def _check_expression(text: str, line: int, key: str, file: str, findings: list[Finding]) -> None:
    try:
        node = sql_statements.parse_expression(text)
    except ValueError as exc:
        findings.append(Finding(file, line, "syntax", f"'{key}': {exc}"))
        return
    clock = sql_statements.clock_use(node)
    if clock:
        findings.append(Finding(file, line, "index-clock", f"'{key}' uses {clock}: {CLOCK_ADVICE}"))
