# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Read the tree of migrations, refuse what is wrong in it, and render it to the plan that the modules run.

Nothing here asks a database: the same faults are found on a laptop, in CI and before a production run.
``scan_tree`` and ``scan_render`` collect every fault, for lint; ``read_tree`` and ``render`` raise the first one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.strategies_of_versions import BLUE_GREEN
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    backfill_steps,
    row_work,
    sql_statements,
    template_rendering,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import Finding, nearest, raise_findings
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration import FOLDER, METADATA, Migration
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_folder import read_folder
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import DEFAULT_SCHEMA, Statement
from ansible_collections.whitecross.pgops.plugins.plugin_utils.statement_locks import locks_of
from ansible_collections.whitecross.pgops.plugins.plugin_utils.statement_states import (
    named_aside_of,
    parts_of,
    renames_of,
    states_of,
)

# For who reads the tree: what would run is the same without it.
_OF_THE_SOURCE = ("line", "file", "default_name", "together")
_INDEX_DEFINITION = ("name", "schema", "table", "method", "unique", "columns", "include", "where")


@dataclass
class Tree:
    """All migrations in the order in which they run, and every fault found in reading them.

    :ivar unreadable: version -> name of each folder that is there and is none of ``migrations`` for its faults
    """

    directory: Path
    migrations: list[Migration]
    findings: list[Finding]
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def migration(self, version: str) -> Migration:
        """:raises PgopsError: if there is no such version, with the nearest that exists."""
        for migration in self.migrations:
            if migration.version == version:
                return migration
        raise PgopsError(
            f"There is no version {version} in {self.directory}"
            + nearest(version, [migration.version for migration in self.migrations])
        )


@dataclass
class RenderedMigration:
    """A migration with its SQL split into statements."""

    migration: Migration
    steps: list[dict[str, Any]]
    verify: list[Statement]

    def as_dict(self) -> dict[str, Any]:
        """:return: the rendered migration as the modules take it."""
        source = self.migration
        steps = [_plain(step) for step in self.steps]
        verify = [statement.as_dict() for statement in self.verify]
        return {
            "version": source.version,
            "name": source.name,
            "title": source.title,
            "why": source.why,
            "risk": source.risk,
            "phi": source.phi,
            "phase": source.phase,
            "rollback": source.rollback,
            "depends_on": source.depends_on,
            "repairs": source.repairs,
            "contract": source.contract,
            "budgets": source.budgets,
            "expected_seconds": source.expected_seconds,
            "expected_by_rows": source.expected_by_rows,
            "transaction": source.transaction,
            "strategy": source.strategy,
            **({"row_work": row_work.row_work(self.steps)} if source.strategy == BLUE_GREEN else {}),
            "files": source.files,
            "checksum": source.checksum,
            "rendered_checksum": _rendered_checksum(steps, verify, source.transaction),
            "steps": steps,
            "verify": verify,
        }


def sql_directory(value: str | None) -> Path:
    """:return: the folder that ``pgops_sql`` names, or the collection's own where it is not set."""
    return Path(value).expanduser() if value else Path(__file__).resolve().parents[2] / "sql"


def read_tree(directory: str | Path) -> Tree:
    """Read ``<directory>/migrations``.

    :param directory: the folder that ``pgops_sql`` names.
    :raises PgopsError: for the first fault, one sentence with file and line; all are in ``extra["findings"]``.
    """
    tree = scan_tree(directory)
    raise_findings(tree.findings)
    return tree


def render(tree: Tree, variables: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Render every migration of the tree.

    :param variables: ``migrate_variables``: values for declared variables, instead of their defaults.
    :return: the rendered migrations in the order in which they run.
    :raises PgopsError: for the first fault, one sentence with file and line; all are in ``extra["findings"]``.
    """
    rendered, findings = scan_render(tree, variables)
    raise_findings(findings)
    return [item.as_dict() for item in rendered]


def scan_tree(directory: str | Path) -> Tree:
    """Read ``<directory>/migrations`` and collect every fault.

    :raises PgopsError: only if there is no such folder.
    """
    root = Path(directory) / "migrations"
    if not root.is_dir():
        raise PgopsError(f"There is no folder {root}; pgops_sql must name the folder that holds 'migrations'")
    findings: list[Finding] = []
    migrations: list[Migration] = []
    unreadable: dict[str, str] = {}
    try:
        for path in sorted(root.iterdir()):
            if path.name.startswith(".") or path.name == "README.md":
                continue
            migration = read_folder(root, path, findings)
            match = FOLDER.fullmatch(path.name)
            if migration:
                migrations.append(migration)
            elif match and path.is_dir():
                unreadable[match["version"]] = match["name"]
    except OSError as exc:
        raise PgopsError(f"The migrations cannot be read: {exc.strerror} ({exc.filename})") from exc
    migrations.sort(key=lambda migration: (migration.version, migration.name))
    _check_order(migrations, findings)
    for migration in migrations:
        unreadable.pop(migration.version, None)
    return Tree(root, migrations, sorted(findings), unreadable)


def scan_render(
    tree: Tree, variables: Mapping[str, Any] | None = None
) -> tuple[list[RenderedMigration], list[Finding]]:
    """Render every migration and collect every fault of the SQL."""
    given = json.loads(json.dumps(dict(variables or {}), default=str))
    declared = {name for migration in tree.migrations for name in migration.variables}
    findings = [
        Finding(
            "migrate_variables",
            0,
            "unknown-variable",
            f"no migration declares the variable '{name}'{nearest(name, declared)}",
        )
        for name in given
        if name not in declared
    ]
    rendered = []
    made: dict[tuple[str, str, str], dict[str, Any]] = {}
    for migration in tree.migrations:
        item = _render_migration(migration, given, findings)
        _resolve_replaced(item, made, findings)
        rendered.append(item)
    return rendered, sorted(findings)


def _resolve_replaced(
    item: RenderedMigration, made: dict[tuple[str, str, str], dict[str, Any]], findings: list[Finding]
) -> None:
    """Put the definition that an index replaces in the place of the version that made it: the way back builds that one.

    :param made: the indexes of earlier versions by version, schema and name; grows.
    """
    migration = item.migration
    for source, step in zip(migration.steps, item.steps, strict=True):
        written = source.get("indexes", [])
        for index, place in zip(step.get("indexes", []), written, strict=True):
            version = index.get("replaces")
            if version is None:
                continue
            found = made.get((version, index["schema"], index["name"]))
            if found is None:
                fault = f"version {version} makes no index '{index['name']}' before this one that could be replaced"
                fault += nearest(
                    version, sorted({key[0] for key in made if key[1:] == (index["schema"], index["name"])})
                )
                findings.append(Finding(migration.location(source["file"]), place["line"], "index-replaces", fault))
            index["replaces"] = found
        declared = [*step.get("indexes", [])]
        for statement in step["up"] if step["kind"] == "sql" else []:
            if statement.creates and statement.creates["kind"] == "index":
                declared.append(statement.creates)
        for index in declared:
            made[migration.version, index["schema"], index["name"]] = {
                key: index.get(key) for key in _INDEX_DEFINITION
            } | {"version": migration.version}


def _check_order(migrations: list[Migration], findings: list[Finding]) -> None:
    by_version: dict[str, Migration] = {}
    for migration in migrations:
        if migration.version in by_version:
            findings.append(
                Finding(
                    migration.folder,
                    0,
                    "version-twice",
                    f"the version {migration.version} is {by_version[migration.version].folder} too; rename one",
                )
            )
        by_version.setdefault(migration.version, migration)
    for migration in migrations:
        file = migration.location(METADATA)
        for i, wanted in enumerate(migration.depends_on):
            key = "repairs" if wanted in migration.repairs else "depends_on"
            line = migration.document.line(key, migration.repairs.index(wanted) if key == "repairs" else i)
            if wanted not in by_version:
                text = f"{key} names {wanted or 'no version'}, which is not in the tree"
                findings.append(Finding(file, line, "depends-on", text + nearest(wanted, by_version)))
            elif wanted >= migration.version:
                text = f"{key} names {wanted}, which does not come before {migration.version}"
                findings.append(Finding(file, line, "depends-on", text))


# --- rendering -----------------------------------------------------------------------------------------------------


def _render_migration(migration: Migration, given: Mapping[str, Any], findings: list[Finding]) -> RenderedMigration:
    variables = {
        **migration.variables,
        **{name: value for name, value in given.items() if name in migration.variables},
        "schema": DEFAULT_SCHEMA,
    }
    for name, value in given.items():
        default = migration.variables.get(name)
        if default is not None and type(value) is not type(default) and not _same_kind(default, value):
            findings.append(
                Finding(
                    migration.location(METADATA),
                    migration.document.line("variables", name),
                    "wrong-type",
                    f"migrate_variables gives '{name}' as {value!r}, its default is {default!r}",
                )
            )

    def statements(file: str) -> list[Statement]:
        return _statements(migration, file, variables, findings)

    steps = []
    for source in migration.steps:
        step = {key: value for key, value in source.items() if key not in _OF_THE_SOURCE}
        if source["kind"] == "sql":
            step["up"] = statements(source["up"])
            step["down"] = statements(source["down"]) if source["down"] else []
            if "labels" in source:
                step["labels"] = _labels(migration, source, step["up"], variables, findings)
            if "placeholders" in source:
                step["placeholders"] = _placeholders(migration, source["placeholders"], step["up"], findings)
        elif source["kind"] == "backfill":
            backfill_steps.render(migration, source, step, statements, findings)
        elif source["kind"] == "indexes":
            step["indexes"] = [
                {key: value for key, value in index.items() if key != "line"} for index in source["indexes"]
            ]
        steps.append(step)
    backfill_steps.check_way_back(migration, steps, findings)
    verify = statements(migration.verify) if migration.verify in migration.files else []
    select = sql_statements.grammar().ast.SelectStmt
    for statement in verify:
        if not isinstance(statement.node, select) or statement.node.intoClause is not None:
            findings.append(
                Finding(statement.file, statement.line, "verify", "a verification only reads: write a SELECT")
            )
    return RenderedMigration(migration, steps, verify)


def _placeholders(
    migration: Migration, declared: list[dict[str, Any]], up: list[Statement], findings: list[Finding]
) -> list[dict[str, Any]]:
    """:return: the placeholders that a step declares; a finding for each that belongs to no foreign key of the step."""
    keys = {
        made.creates["name"]: made.creates
        for made in up
        if made.creates and made.creates["kind"] == "constraint" and made.creates.get("type") == "foreign_key"
    }
    for item in declared:
        name, fault = item["constraint"], None
        if name not in keys:
            fault = f"the step adds no foreign key '{name}' that a placeholder could be for{nearest(name, keys)}"
        else:
            own = sorted({*keys[name]["references"]["columns"]} & {*item["row"]})
            if own:
                fault = f"a placeholder for {name} has the key that is missing in '{own[0]}'; leave that column out"
        if fault:
            findings.append(Finding(migration.location(METADATA), item["line"], "placeholder", fault))
    return [{key: value for key, value in item.items() if key != "line"} for item in declared]


def _labels(
    migration: Migration,
    source: Mapping[str, Any],
    up: list[Statement],
    variables: Mapping[str, Any],
    findings: list[Finding],
) -> dict[str, Any]:
    """:return: what becomes of rows with a label that goes; a finding for each statement that adds no label."""
    for statement in up:
        if not statement.creates or statement.creates["kind"] != "enum_value":
            fault = "'down: remove_labels' takes back ALTER TYPE ... ADD VALUE only: give the rest a step of its own"
            findings.append(Finding(statement.file, statement.line, "remove-labels", fault))
    mapping = variables.get(source["labels"], {}) if source["labels"] else {}
    if not isinstance(mapping, dict) or not all(isinstance(part, str) for item in mapping.items() for part in item):
        fault = f"'{source['labels']}' must turn labels into labels, for example {{OLD: OTHER}}"
        findings.append(Finding(migration.location(METADATA), source["line"], "label-mapping", fault))
        mapping = {}
    return {"mapping": mapping}


def _same_kind(default: Any, value: Any) -> bool:
    """Extra vars on the command line (``-e a=5``) arrive as text; a text default takes any scalar."""
    if isinstance(default, bool) or isinstance(value, bool):
        return False
    return isinstance(default, (int, float)) and isinstance(value, (int, float))


def _statements(
    migration: Migration, name: str, variables: Mapping[str, Any], findings: list[Finding]
) -> list[Statement]:
    file = migration.location(name)
    rendered, faults = template_rendering.render(migration.files[name]["text"], file, variables)
    findings.extend(faults)
    if rendered is None:
        return []
    statements, faults = sql_statements.split(rendered.text, file, rendered.line_at)
    findings.extend(faults)
    if not statements and not faults:
        findings.append(Finding(file, 0, "empty", "the file renders to no statement"))
    return statements


def _plain(value: Any) -> Any:
    if isinstance(value, Statement):
        states, parts, renames = states_of(value.node), parts_of(value.node, value.sql), renames_of(value.node)
        aside = named_aside_of(value.node)
        # Only where there are any: the ledger keeps it with the statement.
        return {
            **value.as_dict(),
            "locks": locks_of(value.node, value.sql),
            **({"states": states} if states else {}),
            **({"alters": parts} if parts else {}),
            **({"renames": renames} if renames else {}),
            **({"named_aside": aside} if aside else {}),
        }
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _rendered_checksum(steps: list[Any], verify: list[Any], transaction: bool) -> str:
    """:return: sha256 of what would run; lines and parsed definitions are left out, they change nothing."""

    def essence(value: Any) -> Any:
        if isinstance(value, dict):
            if "sql" in value:
                return value["sql"]
            return {key: essence(item) for key, item in value.items() if key not in ("why", "phi")}
        return [essence(item) for item in value] if isinstance(value, list) else value

    content = {"steps": essence(steps), "verify": essence(verify), "transaction": transaction}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
