# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write docs/schema.md and docs/order.md anew from the migration tree, by way of an empty database that it is applied to."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "collections"), str(ROOT / "tests")]

from ansible_collections.whitecross.pgops.plugins.module_utils import declared
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.plugin_utils import migration_tree

SQL = ROOT / "sql"
PAGES = {"schema": ROOT / "docs" / "schema.md", "order": ROOT / "docs" / "order.md"}
COMMAND = "make schema"
WRITTEN = f"<!-- Written by '{COMMAND}' from sql/migrations; do not edit. -->"

# Weakest first; what pg_locks calls AccessExclusiveLock people know as ACCESS EXCLUSIVE.
MODES = (
    "ACCESS SHARE",
    "ROW SHARE",
    "ROW EXCLUSIVE",
    "SHARE UPDATE EXCLUSIVE",
    "SHARE",
    "SHARE ROW EXCLUSIVE",
    "EXCLUSIVE",
    "ACCESS EXCLUSIVE",
)
NAMED_TABLES = 6
_COUNTED = {
    "foreign key": "foreign keys",
    "check": "checks",
    "index": "indexes",
    "trigger": "triggers",
    "policy": "policies",
}

_OF_PUBLIC = "c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"
_TABLES = f"""
SELECT c.relname AS name, obj_description(c.oid, 'pg_class') AS comment, c.relrowsecurity AS row_security,
       c.relforcerowsecurity AS forced
  FROM pg_class AS c WHERE {_OF_PUBLIC} ORDER BY c.relname COLLATE "C"
"""
_COLUMNS = f"""
SELECT c.relname AS "table", a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS required,
       pg_get_expr(d.adbin, d.adrelid) AS fallback, col_description(c.oid, a.attnum) AS comment
  FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
  LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE {_OF_PUBLIC} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_KEYS = f"""
SELECT c.relname AS "table", k.conname AS name, p.relname AS target, k.confupdtype::text AS on_update,
       k.confdeltype::text AS on_delete, obj_description(k.oid, 'pg_constraint') AS comment,
       array(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS u (number, place)
               JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.number ORDER BY u.place) AS columns
  FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid JOIN pg_class AS p ON p.oid = k.confrelid
 WHERE k.contype = 'f' AND {_OF_PUBLIC} ORDER BY k.conname COLLATE "C"
"""
_CHECKS = f"""
SELECT c.relname AS "table", k.conname AS name, pg_get_constraintdef(k.oid) AS definition
  FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid
 WHERE k.contype = 'c' AND {_OF_PUBLIC} ORDER BY k.conname COLLATE "C"
"""
_INDEXES = f"""
SELECT c.relname AS "table", x.relname AS name, i.indisunique AS is_unique, i.indisprimary AS is_primary,
       regexp_replace(pg_get_indexdef(i.indexrelid), '^.* USING ', '') AS definition,
       array(SELECT pg_get_indexdef(i.indexrelid, n, false) FROM generate_series(1, i.indnkeyatts) AS n) AS keys
  FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid JOIN pg_class AS c ON c.oid = i.indrelid
 WHERE {_OF_PUBLIC} ORDER BY NOT i.indisprimary, x.relname COLLATE "C"
"""
_TRIGGERS = f"""
SELECT c.relname AS "table", g.tgname AS name, p.proname AS function,
       coalesce(obj_description(g.oid, 'pg_trigger'), obj_description(p.oid, 'pg_proc')) AS comment
  FROM pg_trigger AS g JOIN pg_class AS c ON c.oid = g.tgrelid JOIN pg_proc AS p ON p.oid = g.tgfoid
 WHERE NOT g.tgisinternal AND {_OF_PUBLIC} ORDER BY g.tgname COLLATE "C"
"""
_POLICIES = f"""
SELECT c.relname AS "table", y.polname AS name, y.polcmd::text AS command, obj_description(y.oid, 'pg_policy') AS comment
  FROM pg_policy AS y JOIN pg_class AS c ON c.oid = y.polrelid WHERE {_OF_PUBLIC} ORDER BY y.polname COLLATE "C"
"""
_ENUMS = """
SELECT t.typname AS name, array_agg(e.enumlabel::text ORDER BY e.enumsortorder) AS labels,
       array(SELECT c.relname || '.' || a.attname FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
              WHERE a.atttypid = t.oid AND c.relkind IN ('r', 'p') AND NOT a.attisdropped ORDER BY 1) AS columns
  FROM pg_type AS t JOIN pg_enum AS e ON e.enumtypid = t.oid
 WHERE t.typnamespace = 'public'::regnamespace GROUP BY t.oid, t.typname ORDER BY t.typname COLLATE "C"
"""
# Each line is what a version may add: a kind, an object, and what it is.
_OBJECTS = f"""
SELECT 'table' AS kind, c.relname::text AS name, '' AS definition FROM pg_class AS c WHERE {_OF_PUBLIC}
 UNION ALL
SELECT 'column', c.relname || '.' || a.attname, '' FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
 WHERE {_OF_PUBLIC} AND a.attnum > 0 AND NOT a.attisdropped
 UNION ALL
SELECT 'enum type', t.typname::text, '' FROM pg_type AS t
 WHERE t.typnamespace = 'public'::regnamespace AND t.typtype = 'e'
 UNION ALL
SELECT 'label', t.typname || '.' || e.enumlabel, '' FROM pg_enum AS e JOIN pg_type AS t ON t.oid = e.enumtypid
 WHERE t.typnamespace = 'public'::regnamespace
 UNION ALL
SELECT CASE k.contype WHEN 'f' THEN 'foreign key' ELSE 'check' END, c.relname || '.' || k.conname, pg_get_constraintdef(k.oid)
  FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid WHERE {_OF_PUBLIC} AND k.contype IN ('f', 'c')
 UNION ALL
SELECT 'index', x.relname::text, pg_get_indexdef(x.oid)
  FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid JOIN pg_class AS c ON c.oid = i.indrelid WHERE {_OF_PUBLIC}
 UNION ALL
SELECT 'trigger', c.relname || '.' || g.tgname, '' FROM pg_trigger AS g JOIN pg_class AS c ON c.oid = g.tgrelid
 WHERE {_OF_PUBLIC} AND NOT g.tgisinternal
 UNION ALL
SELECT 'policy', c.relname || '.' || y.polname, '' FROM pg_policy AS y JOIN pg_class AS c ON c.oid = y.polrelid
 WHERE {_OF_PUBLIC}
 UNION ALL
SELECT 'extension', e.extname::text, '' FROM pg_extension AS e
"""
_LOCKS = """
SELECT l.mode, l.relation::bigint AS oid FROM pg_locks AS l
 WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted AND l.relation = ANY (%s::oid[])
"""
_RULES = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}
_COMMANDS = {"*": "ALL", "r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE"}


@dataclass
class Applied:
    """What the pages are made of: the tree, the locks that each version took, the catalog that came out."""

    tree: migration_tree.Tree
    rendered: list[dict[str, Any]]
    # Version: table: strongest mode.
    locks: dict[str, dict[str, str]] = field(default_factory=dict)
    # Version: kind: names of what it added or gave another definition.
    added: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    tables: list[dict[str, Any]] = field(default_factory=list)
    enums: list[dict[str, Any]] = field(default_factory=list)
    parts: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)

    def of(self, kind: str, table: str) -> list[dict[str, Any]]:
        """:return: the columns, keys, checks, indexes, triggers or policies of a table."""
        return self.parts[kind].get(table, [])


def apply(conn: Connection, sql: Path = SQL) -> Applied:
    """Run the tree in an empty database, note the locks on tables that were there before each version, read the catalog."""
    tree = migration_tree.read_tree(sql)
    found = Applied(tree, migration_tree.render(tree))
    objects = _objects(conn)
    for migration in found.rendered:
        version = migration["version"]
        found.locks[version] = _run(conn, migration)
        before, objects = objects, _objects(conn)
        for kind, name, _ in sorted(objects - before):
            found.added.setdefault(version, {}).setdefault(kind, []).append(name)
    found.tables = fetch_all(conn, _TABLES)
    found.enums = fetch_all(conn, _ENUMS)
    queries = {"columns": _COLUMNS, "keys": _KEYS, "checks": _CHECKS, "indexes": _INDEXES, "triggers": _TRIGGERS,
               "policies": _POLICIES}  # fmt: skip
    for kind, query in queries.items():
        found.parts[kind] = {}
        for row in fetch_all(conn, query):
            found.parts[kind].setdefault(row["table"], []).append(row)
    return found


def _objects(conn: Connection) -> set[tuple[str, str, str]]:
    return {(row["kind"], row["name"], row["definition"]) for row in fetch_all(conn, _OBJECTS)}


def _run(conn: Connection, migration: Mapping[str, Any]) -> dict[str, str]:
    before = {
        row["oid"]: row["name"]
        for row in fetch_all(
            conn, f"SELECT c.oid::bigint AS oid, c.relname AS name FROM pg_class AS c WHERE {_OF_PUBLIC}"
        )
    }
    strongest: dict[str, str] = {}

    def note(table: str, mode: str) -> None:
        if table in before.values() and MODES.index(mode) > MODES.index(strongest.get(table, MODES[0])):
            strongest[table] = mode

    for step in migration["steps"]:
        if step["kind"] == "sql":
            whole = [step] if migration["transaction"] else [{**step, "up": [statement]} for statement in step["up"]]
            for part in whole:
                # In a transaction of ours: what it locked still is when it is asked.
                with transaction(conn):
                    declared.replay(conn, {**migration, "transaction": False, "steps": [part]})
                    for row in fetch_all(conn, _LOCKS, (list(before),)):
                        words = re.findall(r"[A-Z][a-z]+", row["mode"].removesuffix("Lock"))
                        note(before[row["oid"]], " ".join(words).upper())
            continue
        declared.replay(conn, {**migration, "steps": [step]})
        mode = "ROW EXCLUSIVE" if step["kind"] == "backfill" else "SHARE UPDATE EXCLUSIVE"
        for item in step.get("indexes") or step.get("constraints") or step.get("tables") or [step]:
            note(item["table"], mode)
    return strongest


# --- docs/schema.md -----------------------------------------------------------------------------------------------------


def schema_page(found: Applied) -> str:
    """:return: docs/schema.md."""
    made_by = _made_by(found)
    domains = [item for item in found.rendered if item["version"] in made_by.values()]
    keys = [key for table in found.tables for key in found.of("keys", table["name"])]
    columns = sum(len(rows) for rows in found.parts["columns"].values())
    indexes = sum(len(rows) for rows in found.parts["indexes"].values())
    marked = [table["name"] for table in found.tables if _phi(table["comment"]) == "yes"]
    lines = [
        "# Schema", "", WRITTEN, "",
        (f"What the {len(found.rendered)} versions of `sql/migrations/` make: {len(found.tables)} tables, {columns} columns, "
        f"{len(found.enums)} enum types, {len(keys)} foreign keys, {indexes} indexes. {len(marked)} tables certainly hold PHI."),
        "",
        "A column marked PHI holds data about the health or the person of a pupil; `possible` means free text that may name one. The",
        "marks stand in the comments of tables and columns, where checks read them. Ids are uuid. A domain is what one version made.", "",
        *[f"- [{_title(item)}](#{_anchor(_title(item))}): {_names(found, item, made_by)}" for item in domains],
        "- [Enum types](#enum-types)",
        "",
        *_deletes(found, keys, marked),
    ]  # fmt: skip
    for item in domains:
        lines += _domain(found, item, made_by)
    lines += ["## Enum types", ""]
    lines += _table(
        ["type", "labels, in order", "used by"],
        [
            [f"`{e['name']}`", ", ".join(e["labels"]), ", ".join(f"`{name}`" for name in e["columns"])]
            for e in found.enums
        ],
    )
    return "\n".join(lines).rstrip() + "\n"


def _deletes(found: Applied, keys: Sequence[Mapping[str, Any]], marked: Sequence[str]) -> list[str]:
    """What happens to rows when another one is deleted, which is a choice and has reasons."""
    refused = [key for key in keys if key["on_delete"] in "ra"]
    along = [key for key in keys if key["on_delete"] == "c" and key["table"] in marked]
    soft = {table for table, rows in found.parts["columns"].items() if any(row["name"] == "deletedAt" for row in rows)}
    possible = [t["name"] for t in found.tables if _phi(t["comment"]) == "possible" and t["name"] not in soft]
    certain = [name for name in marked if name not in soft]
    lines = [
        "## What a delete takes along", "",
        "No delete takes a record of a pupil along. The platform's two histories differ in six foreign keys: where one says RESTRICT and the",
        "other CASCADE, RESTRICT was chosen. Where both say CASCADE and rows of PHI would go, 20251104000000 makes it RESTRICT too: whoever",
        "must delete a pupil deletes the records first, each by name. The others of this table are RESTRICT in both or new here. The reason",
        "of each stands in its comment.", "",
        *_table(
            ["foreign key", "to", "why the parent cannot be deleted"],
            [[f"`{k['table']}` ({', '.join(k['columns'])})", f"`{k['target']}`", k["comment"] or "no reason is given"]
             for k in refused],
        ),
        *([
            "These rows of PHI go with their parent all the same:", "",
            *_table(["parent", "takes along"], [
                [f"`{parent}`", ", ".join(f"`{k['table']}`" for k in along if k["target"] == parent)]
                for parent in sorted({k["target"] for k in along})
            ]),
        ] if along else []),
        "Applications therefore set `deletedAt` and leave the row. " + (
            "All tables that certainly hold PHI have the column." if not certain
            else "Of the tables that certainly hold PHI these lack the column: " + ", ".join(f"`{n}`" for n in certain) + "."
        ),
    ]  # fmt: skip
    lacking = {
        name: [wanted for wanted in ("createdAt", "updatedAt", "createdBy", "updatedBy")
               if wanted not in {column["name"] for column in found.of("columns", name)}]
        for name in marked
    }  # fmt: skip
    if any(lacking.values()):
        lines.append(
            "Who made or changed a row, and when, is not told by a column everywhere; these are lacking: "
            + "; ".join(f"`{name}` {', '.join(columns)}" for name, columns in lacking.items() if columns) + "."
        )  # fmt: skip
    if possible:
        lines.append(
            "Tables whose free text may name a pupil do not have it, since nothing asks for it there and a trail is only added to: "
            + ", ".join(f"`{name}`" for name in possible) + "."
        )  # fmt: skip
    return [*lines, ""]


def _domain(found: Applied, item: Mapping[str, Any], made_by: Mapping[str, str]) -> list[str]:
    names = [table for table in found.tables if made_by.get(table["name"]) == item["version"]]
    lines = [f"## {_title(item)}", "", f"Made by `{item['version']}_{item['name']}`.", "", "```mermaid", "erDiagram"]
    own = {table["name"] for table in names}
    for table in names:
        keys = {name: "FK" for key in found.of("keys", table["name"]) for name in key["columns"]}
        primary = {
            _bare(name) for index in found.of("indexes", table["name"]) if index["is_primary"] for name in index["keys"]
        }
        lines.append(f"    {table['name']} {{")
        for column in found.of("columns", table["name"]):
            role = "PK" if column["name"] in primary else keys.get(column["name"])
            if role:
                lines.append(f"        {_bare(column['type']).replace(' ', '_')} {column['name']} {role}")
        lines.append("    }")
    for table in found.tables:
        for key in found.of("keys", table["name"]):
            if table["name"] in own:
                required = {c["name"] for c in found.of("columns", table["name"]) if c["required"]}
                one = "||" if set(key["columns"]) <= required else "|o"
                lines.append(f'    {key["target"]} {one}--o{{ {table["name"]} : "{", ".join(key["columns"])}"')
    lines += ["```", ""]
    for table in names:
        lines += _one_table(found, table)
    return lines


def _one_table(found: Applied, table: Mapping[str, Any]) -> list[str]:
    name = table["name"]
    whys = _whys(found)
    lines = [f"### {name}", "", str(table["comment"] or "No purpose is given."), ""]
    lines += _table(
        ["column", "type", "null", "default", "PHI", "note"],
        [
            [
                f"`{c['name']}`", _bare(c["type"]), "no" if c["required"] else "yes", f"`{c['fallback']}`" if c["fallback"] else "",
                {"no": ""}.get(_phi(c["comment"]), _phi(c["comment"])), _note(c["comment"]),
            ]
            for c in found.of("columns", name)
        ],
    )  # fmt: skip
    lines += _table(
        ["foreign key", "column", "to", "on update", "on delete", "why"],
        [
            [f"`{k['name']}`", ", ".join(k["columns"]), f"`{k['target']}`", _RULES[k["on_update"]], _RULES[k["on_delete"]],
             k["comment"] or ""]
            for k in found.of("keys", name)
        ],
    )  # fmt: skip
    lines += _table(
        ["index", "definition", "why"],
        [
            [f"`{i['name']}`", f"{'unique ' if i['is_unique'] else ''}`{i['definition']}`", whys.get(i["name"]) or _why(found, name, i)]
            for i in found.of("indexes", name)
        ],
    )  # fmt: skip
    lines += _table(
        ["check", "definition"], [[f"`{c['name']}`", f"`{c['definition']}`"] for c in found.of("checks", name)]
    )
    lines += _table(
        ["trigger", "function", "note"],
        [[f"`{t['name']}`", f"`{t['function']}`", t["comment"] or ""] for t in found.of("triggers", name)],
    )
    if table["row_security"]:
        lines += [f"Row-level security is on{', for the owner too' if table['forced'] else ''}.", ""]
    lines += _table(
        ["policy", "for", "note"],
        [[f"`{p['name']}`", _COMMANDS[p["command"]], p["comment"] or ""] for p in found.of("policies", name)],
    )
    return lines


def _made_by(found: Applied) -> dict[str, str]:
    """:return: table: version that made it; a table that no CREATE TABLE tells of is in none."""
    made: dict[str, str] = {}
    for item in found.rendered:
        for created in _creates(item):
            if created["kind"] == "table":
                made.setdefault(created["name"], item["version"])
    return made


def _creates(item: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        statement["creates"]
        for step in item["steps"]
        if step["kind"] == "sql"
        for statement in step["up"]
        if statement.get("creates")
    ]


def _whys(found: Applied) -> dict[str, str]:
    """:return: index: why it is there, as the last version that declares it says."""
    return {
        index["name"]: index["why"]
        for item in found.rendered
        for step in item["steps"]
        for index in step.get("indexes") or []
    }


def _why(found: Applied, table: str, index: Mapping[str, Any]) -> str:
    """Why an index that was made together with its table is there, as far as its shape tells."""
    if index["is_primary"]:
        return "Primary key."
    if index["is_unique"]:
        return "No two rows are the same in this."
    leading = _bare(index["keys"][0])
    for key in found.of("keys", table):
        if key["columns"][0] == leading:
            return f"Rows of one parent in `{key['target']}`, and its delete."
    return f"Look-ups by {', '.join(_bare(name) for name in index['keys'])}."


def _phi(comment: str | None) -> str:
    if not re.match(r"PHI\b", comment or ""):
        return "no"
    return "possible" if re.match(r"PHI: possible\b", comment or "") else "yes"


def _note(comment: str | None) -> str:
    return re.sub(r"^PHI\b:?\s*(possible\b[,.]?\s*)?", "", comment or "")


def _names(found: Applied, item: Mapping[str, Any], made_by: Mapping[str, str]) -> str:
    return ", ".join(table["name"] for table in found.tables if made_by.get(table["name"]) == item["version"])


def _title(item: Mapping[str, Any]) -> str:
    return str(item["name"]).removeprefix("create_").replace("_", " ").capitalize()


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9 _-]", "", text.lower()).replace(" ", "-")


def _bare(name: str) -> str:
    return name.replace('"', "").removeprefix("public.")


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """:return: a Markdown table and an empty line; nothing without rows."""
    body = ["| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings), *body, ""] if body else []


# --- docs/order.md ------------------------------------------------------------------------------------------------------


def order_page(found: Applied) -> str:
    """:return: docs/order.md."""
    migrations = found.rendered
    lines = [
        "# Order", "", WRITTEN, "",
        f"The {len(migrations)} versions run in the order of their numbers and go back in the reverse order. A version that another applied one depends",
        "on does not go back alone.", "",
        "The lock is the strongest one that a version takes on tables that were there before it, as `pg_locks` shows it. All but that of a",
        "validation, a build, a batch and a rewrite, of which the version's words tell, is held for a moment, asked for with a `lock_timeout`",
        "of 100 ms, and asked for again. SHARE UPDATE EXCLUSIVE and weaker let clients read and write.", "",
        *_table(
            ["#", "version", "phase", "risk", "PHI", "strongest lock", "way back"],
            [
                [str(number), f"[`{item['version']}`](#{_anchor(_heading(item))}) {item['name']}", item["phase"], item["risk"],
                 "yes" if item["phi"] else "no", _lock(found, item), item["rollback"]["safety"]]
                for number, item in enumerate(migrations, 1)
            ],
        ),
        "## What depends on what", "", "```mermaid", "flowchart LR",
    ]  # fmt: skip
    for phase in dict.fromkeys(item["phase"] for item in migrations):
        lines.append(f"    subgraph {phase}")
        lines += [
            f'        v{item["version"]}["{item["version"]}<br/>{item["name"].replace("_", " ")}"]'
            for item in migrations
            if item["phase"] == phase
        ]
        lines.append("    end")
    lines += [f"    v{earlier} --> v{item['version']}" for item in migrations for earlier in sorted(item["depends_on"])]
    lines += ["```", ""]
    for item in migrations:
        lines += _version(found, item)
    return "\n".join(lines).rstrip() + "\n"


def _version(found: Applied, item: Mapping[str, Any]) -> list[str]:
    added = found.added.get(item["version"], {})
    new = added.get("table", [])
    # Those of a new table go without saying.
    columns = [name for name in added.get("column", []) if name.partition(".")[0] not in new]
    labels = [name for name in added.get("label", []) if name.partition(".")[0] not in added.get("enum type", [])]
    rollback = item["rollback"]
    rows = [
        ["why", item["why"]],
        ["risk", f"{item['risk']}, {'touches' if item['phi'] else 'does not touch'} PHI"],
        ["depends on", ", ".join(f"`{version}`" for version in sorted(item["depends_on"])) or "nothing"],
        ["tables", _listed(new)],
        ["columns of earlier tables", _listed(columns)],
        ["enum types", _listed(added.get("enum type", []))],
        ["labels of earlier types", _listed(labels)],
        *[[plural, str(len(added[kind]))] for kind, plural in _COUNTED.items() if kind in added],
        ["extensions", _listed(added.get("extension", []))],
        ["steps", ", ".join(_step(number, step) for number, step in enumerate(item["steps"], 1))],
        ["lock", _lock(found, item, every=True)],
        ["expected", f"{item['expected_seconds']} s at most" if item["expected_seconds"] else ""],
        ["way back", rollback["safety"] + (f": {rollback['stays']}" if rollback.get("stays") else "")],
    ]
    return [f"## {_heading(item)}", "", f"{item['title']}.", "", *_table(["", ""], [row for row in rows if row[1]])]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _step(number: int, step: Mapping[str, Any]) -> str:
    name = step.get("name")
    return f"{number} {step['kind']}" + (f" ({name})" if name and name != step["kind"] else "")


def _heading(item: Mapping[str, Any]) -> str:
    return f"{item['version']} {item['name'].replace('_', ' ')}"


def _lock(found: Applied, item: Mapping[str, Any], *, every: bool = False) -> str:
    locks = found.locks[item["version"]]
    if not locks:
        return "none"
    told = []
    for mode in reversed(MODES):
        tables = sorted(table for table, taken in locks.items() if taken == mode)
        if tables:
            listed = ", ".join(f"`{table}`" for table in tables[:NAMED_TABLES])
            more = f" and {len(tables) - NAMED_TABLES} more" if len(tables) > NAMED_TABLES else ""
            told.append(f"{mode} on {listed}{more}" if every else mode)
            if not every:
                break
    return "; ".join(told)


# --- by hand -----------------------------------------------------------------------------------------------------------


def pages(found: Applied) -> dict[str, str]:
    """:return: page: its text."""
    return {"schema": schema_page(found), "order": order_page(found)}


def main() -> None:
    from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect
    from support import server as servers

    server = servers.embedded_server()
    try:
        server.create_database("pages", servers.OWNER)
        target = Target(
            host=server.host, port=str(server.port), user=servers.MIGRATOR, owner=servers.OWNER, database="pages",
            passfile=str(server.passfile), backup_user=servers.BACKUP, restore_user=servers.RESTORE, bindir=str(server.bindir),
        )  # fmt: skip
        with closing(connect(target, application_name="schema pages")) as conn:
            written = pages(apply(conn))
    finally:
        servers.discard(server)
    for name, text in written.items():
        changed = not PAGES[name].exists() or PAGES[name].read_text(encoding="utf-8") != text
        PAGES[name].write_text(text, encoding="utf-8")
        print(f"{'wrote' if changed else 'current'} {PAGES[name].relative_to(ROOT)}")


if __name__ == "__main__":
    main()
