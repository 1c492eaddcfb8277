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
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import sql_statements, template_rendering
from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import Finding, nearest, raise_findings
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import DEFAULT_SCHEMA, Statement
from ansible_collections.whitecross.pgops.plugins.plugin_utils.strict_yaml import Document, YamlFault, load

FOLDER = re.compile(r"(?P<version>[0-9]{14})_(?P<name>[a-z][a-z0-9_]{0,99})")
VARIABLE = re.compile(r"[a-z][a-z0-9_]*")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
METADATA = "migration.yml"
VERIFY = "verify.sql.j2"

RISKS = ("low", "medium", "high", "critical")
PHASES = ("core", "enhancement")
SAFETIES = ("complete", "partial", "none")
STEP_KINDS = ("sql", "indexes", "backfill", "validate", "analyze")

# Sources: DESIGN "Lock discipline" (100 ms asks politely: measured 0.11 s instead of 4.5 s behind a reader),
# the guide's 10 minutes for an index build times the six of a busy production server.
BUDGETS = {"lock_timeout_ms": 100, "lock_budget_s": 60, "statement_timeout_s": 300, "index_timeout_s": 3600}
# Measured: 5,000 rows a batch cost 1.13 of one UPDATE and 15 ms for the worst client.
BATCH_SIZE = 5000

# key: (type, required, choices)
_METADATA_KEYS: dict[str, tuple[type, bool, tuple[str, ...]]] = {
    "title": (str, True, ()),
    "why": (str, True, ()),
    "risk": (str, True, RISKS),
    "phi": (bool, True, ()),
    "phase": (str, False, PHASES),
    "depends_on": (list, False, ()),
    "rollback": (dict, True, ()),
    "variables": (dict, False, ()),
    "budgets": (dict, False, ()),
    "transaction": (bool, False, ()),
    "steps": (list, True, ()),
    "verify": (str, False, ()),
}
_ROLLBACK_KEYS: dict[str, tuple[type, bool, tuple[str, ...]]] = {
    "safety": (str, True, SAFETIES),
    "stays": (str, False, ()),
}
_SQL_KEYS: dict[str, tuple[type, bool, tuple[str, ...]]] = {"up": (str, True, ()), "down": (str, False, ())}
_BACKFILL_KEYS: dict[str, tuple[type, bool, tuple[str, ...]]] = {
    "table": (str, True, ()),
    "schema": (str, False, ()),
    "key": (str, True, ()),
    "batch_size": (int, False, ()),
    "statement": (str, True, ()),
    "down": (str, False, ()),
}
_VALIDATE_KEYS: dict[str, tuple[type, bool, tuple[str, ...]]] = {
    "table": (str, True, ()),
    "schema": (str, False, ()),
    "constraint": (str, True, ()),
}
_ANALYZE_KEYS: dict[str, tuple[type, bool, tuple[str, ...]]] = {"table": (str, True, ()), "schema": (str, False, ())}
INDEX_METHODS = ("btree", "gin", "gist", "brin", "hash", "spgist")
_INDEX_KEYS: dict[str, tuple[type, bool, tuple[str, ...]]] = {
    "name": (str, True, ()),
    "schema": (str, False, ()),
    "table": (str, True, ()),
    "method": (str, False, INDEX_METHODS),
    "unique": (bool, False, ()),
    "columns": (list, True, ()),
    "include": (list, False, ()),
    "where": (str, False, ()),
    "phi": (bool, False, ()),
    "why": (str, True, ()),
}
_INDEX_COLUMN_KEYS: dict[str, tuple[type, bool, tuple[str, ...]]] = {
    "column": (str, False, ()),
    "expression": (str, False, ()),
    "opclass": (str, False, ()),
    "order": (str, False, ("asc", "desc")),
    "nulls": (str, False, ("first", "last")),
}
_TYPE_WORDS = {str: "text", bool: "true or false", int: "a whole number", list: "a list", dict: "a mapping"}
CLOCK_ADVICE = (
    "an index cannot ask the clock, it would be refused or freeze today's answer; keep its name and columns, "
    "use a predicate without the time (such as IS NOT NULL) and leave the time to the query"
)


@dataclass
class Migration:
    """One folder of the tree, read and checked, not rendered yet."""

    version: str
    name: str
    path: Path
    document: Document
    title: str = ""
    why: str = ""
    risk: str = ""
    phi: bool = False
    phase: str = "enhancement"
    rollback: dict[str, str] = field(default_factory=dict)
    depends_on: list[str] = field(default_factory=list)
    variables: dict[str, Any] = field(default_factory=dict)
    budgets: dict[str, int] = field(default_factory=dict)
    transaction: bool = True
    steps: list[dict[str, Any]] = field(default_factory=list)
    verify: str | None = None
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    checksum: str = ""

    @property
    def folder(self) -> str:
        """:return: the name of the folder."""
        return f"{self.version}_{self.name}"

    def location(self, file: str) -> str:
        """:return: a file of the folder as messages name it."""
        return f"{self.folder}/{file}"


@dataclass
class Tree:
    """All migrations in the order in which they run, and every fault found in reading them."""

    directory: Path
    migrations: list[Migration]
    findings: list[Finding]

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
            "budgets": source.budgets,
            "transaction": source.transaction,
            "files": source.files,
            "checksum": source.checksum,
            "rendered_checksum": _rendered_checksum(steps, verify, source.transaction),
            "steps": steps,
            "verify": verify,
        }


def sql_directory(value: str | None) -> Path:
    """:return: the folder that ``pgops_sql`` names, or the collection's own where it is not set."""
    return Path(value).expanduser() if value else Path(__file__).resolve().parents[2] / "sql"


def files_checksum(files: Mapping[str, Mapping[str, str]]) -> str:
    """:return: sha256 over the sorted names and sha256 of a migration's files; says whether one was edited."""
    text = "".join(f"{name}\0{files[name]['sha256']}\n" for name in sorted(files))
    return hashlib.sha256(text.encode()).hexdigest()


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
    migrations = []
    try:
        for path in sorted(root.iterdir()):
            if path.name.startswith(".") or path.name == "README.md":
                continue
            migration = _read_folder(root, path, findings)
            if migration:
                migrations.append(migration)
    except OSError as exc:
        raise PgopsError(f"The migrations cannot be read: {exc.strerror} ({exc.filename})") from exc
    migrations.sort(key=lambda migration: (migration.version, migration.name))
    _check_order(migrations, findings)
    return Tree(root, migrations, sorted(findings))


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
    for migration in tree.migrations:
        rendered.append(_render_migration(migration, given, findings))
    return rendered, sorted(findings)


# --- reading -------------------------------------------------------------------------------------------------------


def _printable(name: str) -> str:
    """:return: the name of a file as it can be shown; bytes that are not UTF-8 would break the output."""
    return name.encode("utf-8", "backslashreplace").decode()


def _read_folder(root: Path, path: Path, findings: list[Finding]) -> Migration | None:
    match = FOLDER.fullmatch(path.name)
    if not path.is_dir():
        findings.append(
            Finding(
                _printable(path.name), 0, "misnamed", "only folders <14 digits>_<lower_case_name> stand in migrations"
            )
        )
        return None
    if not match:
        findings.append(
            Finding(
                _printable(path.name),
                0,
                "misnamed",
                "a migration's folder is named <14 digits>_<lower_case_name>, for example 20260131120000_add_x",
            )
        )
        return None
    if not path.resolve().is_relative_to(root.resolve()):
        findings.append(Finding(path.name, 0, "symlink", "the folder is a link to outside the tree"))
        return None
    contents = _read_files(path, findings)
    if METADATA not in contents:
        if not (path / METADATA).exists():
            findings.append(Finding(f"{path.name}/{METADATA}", 0, "file-missing", "the file is missing"))
        return None
    file = f"{path.name}/{METADATA}"
    try:
        document = load(contents[METADATA]["text"])
    except YamlFault as exc:
        findings.append(Finding(file, exc.line, "yaml", exc.message))
        return None
    migration = Migration(match["version"], match["name"], path, document)
    if not _check_keys(document, (), _METADATA_KEYS, file, findings):
        return None
    _fill(migration, contents, findings)
    return migration


def _read_files(path: Path, findings: list[Finding]) -> dict[str, dict[str, str]]:
    """Read the files of a folder that can be read as text; a fault for each other one."""
    contents = {}
    for entry in sorted(path.iterdir()):
        # An editor's swap file or the desktop's .DS_Store is no part of a migration; it is not applied either.
        if entry.name.startswith("."):
            continue
        text, line, fault = _read_text(path, entry)
        if fault:
            findings.append(Finding(f"{path.name}/{_printable(entry.name)}", line, "file", fault))
        elif text is not None:
            digest = hashlib.sha256(text.encode()).hexdigest()
            contents[entry.name] = {"sha256": digest, "text": text}
    return contents


def _read_text(folder: Path, entry: Path) -> tuple[str | None, int, str | None]:
    """:return: text, line of the fault, the fault."""
    if not FILE_NAME.fullmatch(entry.name):
        return None, 0, "the file's name is not safe: letters, digits, dot, dash and underscore only"
    if entry.is_symlink() and not entry.resolve().is_relative_to(folder.resolve()):
        return None, 0, "the file is a link to outside the migration's folder"
    try:
        if not stat.S_ISREG(entry.stat().st_mode):
            return None, 0, "only regular files stand in a migration's folder"
        data = entry.read_bytes()
    except OSError as exc:
        return None, 0, f"the file cannot be read: {exc.strerror}"
    if not data.strip():
        return None, 0, "the file is empty"
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return None, 1, "the file starts with a byte order mark; save it as UTF-8 without one"
    if b"\0" in data:
        return None, data.count(b"\n", 0, data.index(b"\0")) + 1, "the file holds a NUL byte; save it as UTF-8"
    try:
        return data.decode(), 0, None
    except UnicodeDecodeError as exc:
        return None, data.count(b"\n", 0, exc.start) + 1, "the file is not UTF-8"


def _check_keys(
    document: Document,
    path: tuple[str | int, ...],
    allowed: Mapping[str, tuple[type, bool, tuple[str, ...]]],
    file: str,
    findings: list[Finding],
) -> bool:
    """Check a mapping against its table of keys.

    :return: whether everything in it can be used.
    """
    value = _at(document.data, path)
    where = ".".join(part if isinstance(part, str) else f"#{part + 1}" for part in path)
    line = document.line(*path)
    before = len(findings)
    if not isinstance(value, dict):
        label = f"'{where}'" if where else "the file"
        findings.append(Finding(file, line, "wrong-type", f"{label} must be a mapping of keys"))
        return False
    for key in value:
        if key not in allowed:
            place = f" under '{where}'" if where else ""
            findings.append(
                Finding(
                    file,
                    document.line(*path, key),
                    "unknown-key",
                    f"unknown key '{key}'{place}{nearest(key, allowed)}",
                )
            )
    for key, (kind, required, choices) in allowed.items():
        if key not in value:
            if required:
                place = f" under '{where}'" if where else ""
                findings.append(Finding(file, line, "missing-key", f"the key '{key}' is missing{place}"))
            continue
        item = value[key]
        item_line = document.line(*path, key)
        if not isinstance(item, kind) or (kind is int and isinstance(item, bool)):
            findings.append(
                Finding(file, item_line, "wrong-type", f"'{key}' must be {_TYPE_WORDS[kind]}, not {_shown(item)}")
            )
        elif choices and item not in choices:
            findings.append(
                Finding(file, item_line, "wrong-value", f"'{key}' is '{item}'{nearest(str(item), choices)}")
            )
        elif required and (not item.strip() if isinstance(item, str) else item in ([], {})):
            findings.append(Finding(file, item_line, "wrong-value", f"'{key}' is empty"))
    return len(findings) == before


def _at(data: Any, path: Iterable[str | int]) -> Any:
    for part in path:
        data = data[part]
    return data


def _shown(value: Any) -> str:
    """:return: what kind of value YAML made of what was written, e.g. ``no`` became false."""
    if value is None:
        return "empty"
    if isinstance(value, (list, dict)):
        return _TYPE_WORDS[type(value)]
    return f"{value!r}"


def _fill(migration: Migration, contents: dict[str, dict[str, str]], findings: list[Finding]) -> None:
    """Take over the checked metadata; what is below the first level is checked here."""
    document, data, file = migration.document, migration.document.data, migration.location(METADATA)
    migration.title = data["title"].strip()
    migration.why = data["why"].strip()
    migration.risk, migration.phi = data["risk"], data["phi"]
    migration.phase = data.get("phase", "enhancement")
    migration.transaction = data.get("transaction", True)
    if _check_keys(document, ("rollback",), _ROLLBACK_KEYS, file, findings):
        migration.rollback = {"safety": data["rollback"]["safety"], "stays": data["rollback"].get("stays", "")}
        if migration.rollback["safety"] != "complete" and not migration.rollback["stays"].strip():
            findings.append(
                Finding(
                    file,
                    document.line("rollback"),
                    "rollback",
                    f"a rollback that is '{migration.rollback['safety']}' must say under 'stays' what stays behind",
                )
            )
    migration.depends_on = [document.written.get(("depends_on", i), "") for i in range(len(data.get("depends_on", [])))]
    migration.variables = _variables(migration, findings)
    migration.budgets = _budgets(migration, findings)
    uses: dict[str, int] = {METADATA: 0}
    for i in range(len(data["steps"])):
        step = _step(migration, i, contents, uses, findings)
        if step:
            migration.steps.append(step)
    if "verify" in data or VERIFY in contents:
        migration.verify = data.get("verify", VERIFY)
        _use(migration, migration.verify, ".sql.j2", ("verify",), contents, uses, findings)
    # A step that was not understood names its files all the same.
    understood = len(migration.steps) == len(data["steps"])
    for name in sorted(set(contents) - set(uses)) if understood else ():
        findings.append(
            Finding(
                migration.location(name),
                0,
                "file-unused",
                f"{METADATA} does not name the file, so it would never run; name it in a step or remove it",
            )
        )
    migration.files = {name: contents[name] for name in sorted(uses) if name in contents}
    migration.checksum = files_checksum(migration.files)


def _variables(migration: Migration, findings: list[Finding]) -> dict[str, Any]:
    document, file = migration.document, migration.location(METADATA)
    result = {}
    for name, value in document.data.get("variables", {}).items():
        line = document.line("variables", name)
        if not VARIABLE.fullmatch(name):
            fault = f"the variable '{name}' must be lower case letters, digits and underscore"
        elif name == "schema":
            fault = "the variable 'schema' is always there and cannot be declared"
        elif value is None:
            fault = f"the variable '{name}' has no default, so the tree could not be checked without it"
        elif not isinstance(value, (str, int, float, bool, list, dict)):
            fault = f"the variable '{name}' became {value!r}; write it in quotes"
        elif "\0" in str(value):
            fault = f"the variable '{name}' holds a NUL byte"
        else:
            result[name] = value
            continue
        findings.append(Finding(file, line, "variable", fault))
    return result


def _budgets(migration: Migration, findings: list[Finding]) -> dict[str, int]:
    allowed: dict[str, tuple[type, bool, tuple[str, ...]]] = {name: (int, False, ()) for name in BUDGETS}
    file, given = migration.location(METADATA), migration.document.data.get("budgets", {})
    if given and not _check_keys(migration.document, ("budgets",), allowed, file, findings):
        return dict(BUDGETS)
    for name, value in given.items():
        if value < 1:
            line = migration.document.line("budgets", name)
            findings.append(
                Finding(file, line, "wrong-value", f"'{name}' is {value}: a wait without a limit stops every client")
            )
    return {**BUDGETS, **given}


def _step(
    migration: Migration,
    number: int,
    contents: dict[str, dict[str, str]],
    uses: dict[str, int],
    findings: list[Finding],
) -> dict[str, Any] | None:
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


def _use(
    migration: Migration,
    name: str,
    ending: str,
    path: tuple[str | int, ...],
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
    path: tuple[str | int, ...],
    contents: dict[str, dict[str, str]],
    uses: dict[str, int],
    findings: list[Finding],
) -> dict[str, Any] | None:
    document, file = migration.document, migration.location(METADATA)
    if not _check_keys(document, path, _SQL_KEYS, file, findings):
        return None
    data = _at(document.data, path)
    up, down = data["up"], data.get("down")
    usable = _use(migration, up, ".sql.j2", (*path, "up"), contents, uses, findings)
    if down is not None:
        usable = _use(migration, down, ".sql.j2", (*path, "down"), contents, uses, findings) and usable
    elif migration.rollback.get("safety") == "complete":
        findings.append(
            Finding(
                file,
                document.line(*path),
                "down-missing",
                "the sql step has no 'down' although rollback.safety is 'complete'; write one, or declare what stays",
            )
        )
    return {"up": up, "down": down, "default_name": up.removesuffix(".sql.j2")} if usable else None


def _backfill_step(
    migration: Migration,
    path: tuple[str | int, ...],
    contents: dict[str, dict[str, str]],
    uses: dict[str, int],
    findings: list[Finding],
) -> dict[str, Any] | None:
    document, file = migration.document, migration.location(METADATA)
    if not _check_keys(document, path, _BACKFILL_KEYS, file, findings):
        return None
    data = _at(document.data, path)
    size = data.get("batch_size", BATCH_SIZE)
    if size < 1:
        findings.append(
            Finding(file, document.line(*path, "batch_size"), "wrong-value", f"'batch_size' is {size}, at least 1")
        )
    _check_names(document, path, ("schema", "table", "key"), file, findings)
    usable = _use(migration, data["statement"], ".sql.j2", (*path, "statement"), contents, uses, findings)
    if "down" in data:
        usable = _use(migration, data["down"], ".sql.j2", (*path, "down"), contents, uses, findings) and usable
    if not usable:
        return None
    return {
        "schema": data.get("schema", DEFAULT_SCHEMA),
        "table": data["table"],
        "key": data["key"],
        "batch_size": size,
        "statement": data["statement"],
        "down": data.get("down"),
        "default_name": f"backfill {data['table']}",
    }


def _validate_step(
    migration: Migration,
    path: tuple[str | int, ...],
    contents: dict[str, dict[str, str]],
    uses: dict[str, int],
    findings: list[Finding],
) -> dict[str, Any] | None:
    document, file = migration.document, migration.location(METADATA)
    items = _at(document.data, path)
    if not isinstance(items, list) or not items:
        findings.append(
            Finding(file, document.line(*path), "wrong-type", "'validate' is a list of {table, constraint}")
        )
        return None
    constraints = []
    for i, item in enumerate(items):
        if not _check_keys(document, (*path, i), _VALIDATE_KEYS, file, findings):
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
    path: tuple[str | int, ...],
    contents: dict[str, dict[str, str]],
    uses: dict[str, int],
    findings: list[Finding],
) -> dict[str, Any] | None:
    document, file = migration.document, migration.location(METADATA)
    items = _at(document.data, path)
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
        elif _check_keys(document, (*path, i), _ANALYZE_KEYS, file, findings):
            _check_names(document, (*path, i), ("schema", "table"), file, findings)
            tables.append({"schema": item.get("schema", DEFAULT_SCHEMA), "table": item["table"]})
    return {"tables": tables, "default_name": "analyze"}


def _check_names(
    document: Document,
    path: tuple[str | int, ...],
    keys: Iterable[str],
    file: str,
    findings: list[Finding],
) -> None:
    data = _at(document.data, path)
    for key in keys:
        fault = sql_statements.identifier_fault(data[key]) if key in data else None
        if fault:
            findings.append(Finding(file, document.line(*path, key), "identifier-length", fault))


def _indexes_step(
    migration: Migration,
    path: tuple[str | int, ...],
    contents: dict[str, dict[str, str]],
    uses: dict[str, int],
    findings: list[Finding],
) -> dict[str, Any] | None:
    name = _at(migration.document.data, path)
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
    if not _use(migration, name, ".yml", path, contents, uses, findings):
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
    if not _check_keys(document, (number,), _INDEX_KEYS, file, findings):
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
    }


def _index_column(
    document: Document, path: tuple[str | int, ...], method: str, file: str, findings: list[Finding]
) -> dict[str, Any] | None:
    item, line = _at(document.data, path), document.line(*path)
    if isinstance(item, str):
        item = {"column": item}
    elif not isinstance(item, dict):
        findings.append(Finding(file, line, "wrong-type", f"a column is a name or a mapping, not {_shown(item)}"))
        return None
    elif not _check_keys(document, path, _INDEX_COLUMN_KEYS, file, findings):
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
            line = migration.document.line("depends_on", i)
            if wanted not in by_version:
                text = f"depends_on names {wanted or 'no version'}, which is not in the tree"
                findings.append(Finding(file, line, "depends-on", text + nearest(wanted, by_version)))
            elif wanted >= migration.version:
                text = f"depends_on names {wanted}, which does not come before {migration.version}"
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
        step = {key: value for key, value in source.items() if key not in ("line", "file", "default_name")}
        if source["kind"] == "sql":
            step["up"] = statements(source["up"])
            step["down"] = statements(source["down"]) if source["down"] else []
        elif source["kind"] == "backfill":
            step["statement"] = _batch(migration, source["statement"], statements, findings)
            step["down"] = _batch(migration, source["down"], statements, findings) if source["down"] else None
        elif source["kind"] == "indexes":
            step["indexes"] = [
                {key: value for key, value in index.items() if key != "line"} for index in source["indexes"]
            ]
        steps.append(step)
    verify = statements(migration.verify) if migration.verify in migration.files else []
    select = sql_statements.grammar().ast.SelectStmt
    for statement in verify:
        if not isinstance(statement.node, select) or statement.node.intoClause is not None:
            findings.append(
                Finding(statement.file, statement.line, "verify", "a verification only reads: write a SELECT")
            )
    return RenderedMigration(migration, steps, verify)


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


def _batch(migration: Migration, name: str, statements: Any, findings: list[Finding]) -> Statement | None:
    """The one statement of a backfill, bounded by both ends of the batch."""
    file = migration.location(name)
    found: list[Statement] = statements(name)
    if not found:
        return None
    if len(found) > 1:
        findings.append(
            Finding(file, found[1].line, "backfill", "a backfill is one statement; the engine loops over the batches")
        )
        return None
    if sql_statements.parameters(found[0]) != {1, 2}:
        findings.append(
            Finding(
                file,
                found[0].line,
                "backfill",
                "a backfill must be bounded by $1 and $2, the first and the last key of a batch (both inclusive)",
            )
        )
    return found[0]


def _plain(value: Any) -> Any:
    if isinstance(value, Statement):
        return value.as_dict()
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
