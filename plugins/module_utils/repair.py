# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Migrations that complete what half-failed ones have left behind.

Only what is certain is repaired: it makes the object what the tree declares, takes no row away, and does nothing in a
database where the object is right already. Everything else is told, with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, function_rights
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.effects import Presence, Twin
from ansible_collections.whitecross.pgops.plugins.module_utils.index_definition import index_definition
from ansible_collections.whitecross.pgops.plugins.module_utils.repair_obstacles import Obstacles, Tie
from psycopg2 import sql

NAME = "repair_adopted_schema"
# Rewriting a table holds ACCESS EXCLUSIVE; so many rows are over in a moment, more need a migration of their own.
REWRITE_ROWS = 10_000

_LENGTH = re.compile(r"character varying(?:\((\d+)\))?$")
_TEXT = ("text", "character varying")
# A default that is one value for all rows is kept in the catalog; any other one rewrites the table.
_ONE_VALUE = re.compile(r"(?:CURRENT_TIMESTAMP|now\(\)|[^()]*)$")
# What a repair may take over from the words of the tree.
_PLAIN_DEFAULT = re.compile(
    r"('(?:[^']|'')*'|-?[0-9.]+|true|false)(?:\s*::\s*[\w.\" ]+)?(?:\s+NOT\s+NULL)?", re.IGNORECASE
)


@dataclass(frozen=True)
class Fix:
    """One thing to do.

    :ivar phase: ``types``, ``labels``, ``objects``, ``constraints`` or ``indexes``: the steps of the repair, in order.
    :ivar told: what it does, in words.
    :ivar up: a statement, or the entry of a constraint or an index.
    :ivar down: the statement that takes it back, where the engine can tell that it was ours.
    :ivar check: an SQL condition that holds afterwards.
    :ivar goes_along: it hangs on what the fix before it makes, and goes with it.
    :ivar ties: the foreign keys that it drops: their other ends are converted by the same repair, which makes them again.
    """

    phase: str
    object: str
    told: str
    up: Any
    check: str
    down: str | None = None
    goes_along: bool = False
    ties: tuple[Tie, ...] = ()


@dataclass(frozen=True)
class Unsure:
    """What is not repaired, and why."""

    object: str
    why: str


@dataclass(frozen=True)
class Column:
    """A column whose values decide whether it can be converted: all its rows, those that do not fit, ten of these by ctid, and
    those that would be the same uuid as another one."""

    rows: int
    unfit: int
    places: tuple[str, ...] = ()
    same: int = 0


@dataclass
class Workshop:
    """What a repair is made from.

    :ivar scratch: the session on the database in which the tree was run.
    :ivar migrations: the rendered tree; its own statements make what is missing.
    :ivar uuids: (schema, table, column) -> what its values say about a conversion to uuid.
    :ivar obstacles: what else stands in the way there.
    """

    presence: Presence
    scratch: Connection
    migrations: Sequence[Mapping[str, Any]]
    uuids: Callable[[str, str, str], Column]
    obstacles: Obstacles
    _made: dict[tuple[str, str, str, str], dict[str, Mapping[str, Any]]] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)
    _indexes: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for migration in self.migrations:
            version = str(migration["version"])
            for step in migration["steps"]:
                for index in step.get("indexes", []):
                    self._indexes.setdefault((index["schema"], index["name"]), {})[version] = index
                for statement in step.get("up", []):
                    made = statement.get("creates")
                    if made and made["kind"] == "index":
                        self._indexes.setdefault((made["schema"], made["name"]), {})[version] = made
                    if made:
                        name = (
                            str(made["kind"]),
                            str(made.get("schema") or "public"),
                            str(made.get("table") or ""),
                            str(made.get("name")),
                        )
                        self._made.setdefault(name, {})[version] = statement

    def statement(self, version: str, kind: str, schema: str, table: str, name: str) -> str | None:
        """:return: the tree's own statement that makes an object as it is after that version."""
        made = _last_of(self._made.get((kind, schema, table, name), {}), version)
        return str(made["sql"]).rstrip().rstrip(";") if made else None

    def fix(self, key: str, version: str, found: catalog.Definition | None) -> list[Fix] | Unsure:
        """:param found: the object as it is when the repair comes to it.
        :return: what makes the object what that version makes of it, or why that is not certain."""
        wanted = self.presence.chain.at(key, version)
        if wanted is None:
            return Unsure(key, "it should be gone; drop it yourself if nobody needs it")
        if found is None:
            maker = _MISSING.get(catalog.kind_of(key), Workshop._by_its_statement)
            return maker(self, key, wanted, version)
        differences = self.presence.differences(key, version, found)
        changer = _DIFFERENT.get(catalog.kind_of(key))
        told = self.presence.told(key, version, found)
        if changer is None:
            return Unsure(key, told)
        fixes: list[Fix] = []
        for difference in differences:
            one = changer(self, key, wanted, found, difference, version)
            if one is None:
                return Unsure(key, told)
            if isinstance(one, Unsure):
                return one
            fixes += one if isinstance(one, list) else [one]
        return fixes

    # -- what is missing ----------------------------------------------------------------------------------------------

    def _type(self, key: str, wanted: Mapping[str, Any], version: str) -> list[Fix] | Unsure:
        if wanted.get("form") != "enum":
            return self._by_its_statement(key, wanted, version)
        name = catalog.name_of(key)
        schema, type_name = parts_of(name)
        # A table brings a type of its name.
        other = self.obstacles.named(schema, type_name, "iIS")
        if other is not None:
            return Unsure(key, f"it is missing, and {other} has its name")
        labels = ", ".join(self._literal(label) for label in _labels_of(wanted))
        return [
            Fix(
                "objects",
                key,
                "created",
                f"CREATE TYPE {name} AS ENUM ({labels})",
                f"to_regtype({self._literal(name)}) IS NOT NULL",
                f"DROP TYPE {name}",
            )
        ]

    def _table(self, key: str, wanted: Mapping[str, Any], version: str) -> list[Fix] | Unsure:
        statement = self.statement(version, "table", wanted["schema"], "", wanted["table"])
        if statement is None:
            return Unsure(key, "no CREATE TABLE of the tree makes it")
        other = self.obstacles.named(wanted["schema"], wanted["table"], "rp")
        if other is not None:
            return Unsure(key, f"it is missing, and {other} has its name")
        name = catalog.name_of(key)
        there = f"to_regclass({self._literal(name)}) IS NOT NULL"
        return [Fix("objects", key, "created", statement, there, f"DROP TABLE {name}")]

    def _column(self, key: str, wanted: Mapping[str, Any], version: str) -> list[Fix] | Unsure:
        default = wanted.get("default")
        given = self._given(wanted, version) if default is None else None
        if given == "":
            return Unsure(
                key, "it is missing, and the version that makes it gives the rows that exist a value of their own"
            )
        if wanted.get("generated") or wanted.get("identity"):
            return Unsure(key, "it is missing, and adding a generated column rewrites the table")
        if default is not None and not _ONE_VALUE.match(re.sub(r"'(?:[^']|'')*'", "''", default)):
            return Unsure(key, f"it is missing, and its default {default} differs by row: adding it rewrites the table")
        if wanted["not_null"] and default is None:
            return Unsure(
                key, "it is missing, and rows that exist would have no value in it (NOT NULL without a default)"
            )
        table, name = self._table_of(wanted), self._quoted(wanted["column"])
        allowed = "-- pgops: allow R32 because the version that declares the column has it so\n"
        first = allowed if wanted["type"] == "json" else ""
        words = [f"{first}ALTER TABLE {table} ADD COLUMN {name} {wanted['type']}"]
        words += ["NOT NULL"] if wanted["not_null"] else []
        first_value = default if default is not None else given
        words += [f"DEFAULT {first_value}"] if first_value is not None else []
        told = "added" if given is None else f"added, {given} in the rows that exist"
        gone = f"ALTER TABLE {table} DROP COLUMN {name}"
        added = Fix("objects", key, told, " ".join(words), self._column_is_there(wanted), gone)
        if given is None:
            return [added]
        bare = f"ALTER TABLE {table} ALTER COLUMN {name} DROP DEFAULT"
        check = self._column_has_no_default(wanted)
        return [added, Fix("objects", key, "new rows say their own", bare, check, goes_along=True)]

    def _given(self, wanted: Mapping[str, Any], version: str) -> str | None:
        """:return: the value that rows have from a default which the tree takes away again; empty where that is no plain value or
        an UPDATE beside it writes the column; None where there is neither."""
        table = f"(?:{self._either(wanted['schema'])}\\s*\\.\\s*)?{self._either(wanted['table'])}"
        column = self._either(wanted["column"])
        added = re.compile(
            rf"\bALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?{table}\s[^;]*?\bADD\s+(?:COLUMN\s+)?(?:IF\s+NOT\s+EXISTS\s+)?{column}\s"
            r"((?:[^;,']|'(?:[^']|'')*'|,(?!\s*(?:ADD|ALTER|DROP)\b))*)",
            re.IGNORECASE,
        )
        written = re.compile(rf"\bUPDATE\s+(?:ONLY\s+)?{table}\s[^;]*?\bSET\b[^;]*?{column}\s*=", re.IGNORECASE)
        given = None
        for migration in self.migrations:
            if str(migration["version"]) > version:
                break
            texts = [str(statement["sql"]) for step in migration["steps"] for statement in step.get("up", [])]
            clauses = [clause for text in texts for clause in added.findall(text)]
            if clauses:
                default = re.search(r"\bDEFAULT\s+(\S.*)", clauses[-1], re.IGNORECASE | re.DOTALL)
                plain = _PLAIN_DEFAULT.fullmatch(default[1].strip()) if default else None
                given = None if default is None else plain[1] if plain else ""
                given = "" if any(written.search(text) for text in texts) else given
        return given

    def _either(self, name: str) -> str:
        """:return: a pattern for a name as SQL may have it."""
        quoted = re.escape('"' + name.replace('"', '""') + '"')
        return f"(?:{quoted}|\\b{re.escape(name)}\\b)" if re.fullmatch(r"[a-z_][a-z0-9_$]*", name) else quoted

    def _constraint(self, key: str, wanted: Mapping[str, Any], version: str) -> list[Fix] | Unsure:
        if wanted["form"] not in ("foreign key", "check"):
            return Unsure(key, f"it is missing, and a {wanted['form']} needs its rows looked at first")
        ways = "give them one, or run migrate.yml with -e migrate_orphans=quarantine"
        validated = self._rows_fit(key, wanted, "missing", ways)
        if isinstance(validated, Unsure):
            return validated
        table, name = self._table_of(wanted), self._quoted(self._last(key, wanted))
        add = Fix(
            "objects",
            key,
            "added",
            f"ALTER TABLE {table} ADD CONSTRAINT {name} {wanted['definition']} NOT VALID",
            self._constraint_is_valid(key, wanted),
            f"ALTER TABLE {table} DROP CONSTRAINT {name}",
        )
        return [add, validated]

    def _index(self, key: str, wanted: Mapping[str, Any], version: str) -> list[Fix] | Unsure:
        if wanted.get("constraint"):
            return []  # the constraint brings it
        name = parts_of(catalog.name_of(key))[-1]
        other = self.obstacles.named(wanted["schema"], name, "iI")
        if other is not None:
            return Unsure(key, f"it is missing, and {other} has its name")
        declared = self._as_declared(wanted["schema"], name, version)
        definition = index_definition(self.scratch, wanted["schema"], name)
        # The scratch database has it as the last version makes it.
        if self.presence.chain.since(key, version)[1:]:
            definition = None
        if definition is None and declared is None or definition and definition["nulls_not_distinct"]:
            return Unsure(key, "it is missing, and cannot be written as data")
        entry: dict[str, Any] = {"name": name}
        entry |= {"schema": wanted["schema"]} if wanted["schema"] != "public" else {}
        entry |= {"table": wanted["table"]}
        entry |= declared or self._as_found(definition or {})
        doubles = self.obstacles.duplicates(entry) if entry.get("unique") else None
        if doubles is not None:
            return Unsure(key, f"it is missing, and {doubles}")
        entry |= {"phi": True, "why": "The version that declares it is adopted without it."}
        literal = self._literal(catalog.name_of(key))
        check = f"EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass({literal}) AND indisvalid)"
        return [Fix("indexes", key, "built concurrently", entry, check)]

    def _as_declared(self, schema: str, name: str, version: str) -> dict[str, Any] | None:
        """:return: the index in the tree's own words, which its lint compares; None where none of its versions has them."""
        index = _last_of(self._indexes.get((schema, name), {}), version)
        if index is None:
            return None
        columns = [{word: value for word, value in column.items() if value} for column in index["columns"]]
        return {
            **({"method": index["method"]} if index.get("method") != "btree" else {}),
            **({"unique": True} if index.get("unique") else {}),
            "columns": [column["column"] if list(column) == ["column"] else column for column in columns],
            **({part: index[part] for part in ("include", "where") if index.get(part)}),
        }

    def _as_found(self, definition: Mapping[str, Any]) -> dict[str, Any]:
        columns: list[Any] = []
        include: list[str] = []
        for column in definition["columns"]:
            text = str(column["column"])
            plain = self._plain(text)
            if not column["key"]:
                include.append(plain or text)
                continue
            item: dict[str, Any] = {"column": plain} if plain is not None else {"expression": _unwrapped(text)}
            if column["opclass"] and definition["method"] != "btree":
                item["opclass"] = column["opclass"]
            if column["descending"]:
                item |= {"order": "desc", "nulls": "first" if column["nulls_first"] else "last"}
            elif column["nulls_first"]:
                item |= {"order": "asc", "nulls": "first"}
            columns.append(plain if list(item) == ["column"] else item)
        entry: dict[str, Any] = {"method": definition["method"]} if definition["method"] != "btree" else {}
        entry |= {"unique": True} if definition["unique"] else {}
        entry |= {"columns": columns}
        entry |= {"include": include} if include else {}
        entry |= {"where": definition["where"]} if definition["where"] else {}
        return entry

    def _trigger(self, key: str, wanted: Mapping[str, Any], version: str) -> list[Fix] | Unsure:
        name = self._last(key, wanted)
        statement = self.statement(version, "trigger", wanted["schema"], wanted["table"], name)
        if statement is None:
            return Unsure(key, "it is missing, and no CREATE TRIGGER of the tree makes it")
        down = f"DROP TRIGGER {self._quoted(name)} ON {self._table_of(wanted)}"
        made = Fix("objects", key, "created", statement, self._trigger_is_there(key, wanted), down)
        # CREATE TRIGGER makes it fire at the origin only; whether it does elsewhere is another statement.
        return [made] if wanted["enabled"] == "origin" else [made, replace(self._enabled(key, wanted), goes_along=True)]

    def _trigger_differs(
        self,
        key: str,
        wanted: Mapping[str, Any],
        found: Mapping[str, Any],
        difference: catalog.Difference,
        version: str,
    ) -> Fix | None:
        return self._enabled(key, wanted) if difference.attribute == "enabled" else None

    def _enabled(self, key: str, wanted: Mapping[str, Any]) -> Fix:
        word, told = _ENABLED[wanted["enabled"]]
        text = f"ALTER TABLE {self._table_of(wanted)} {word} TRIGGER {self._quoted(self._last(key, wanted))}"
        return Fix("objects", key, told, text, self._trigger_is_there(key, wanted))

    def _trigger_is_there(self, key: str, wanted: Mapping[str, Any]) -> str:
        return (
            f"EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass({self._literal(self._table_of(wanted))}) "
            f"AND tgname = {self._literal(self._last(key, wanted))} AND tgenabled = {self._literal(wanted['enabled'][0].upper())})"
        )

    def _function(self, key: str, wanted: Mapping[str, Any], version: str) -> list[Fix] | Unsure:
        signature = catalog.name_of(key)
        name = parts_of(signature.split("(", 1)[0])[-1]
        statement = self.statement(version, "function", wanted["schema"], "", name)
        if statement is None:
            return Unsure(key, "it is missing, and no CREATE FUNCTION of the tree makes it")
        # The signature has the names of the arguments, which to_regprocedure refuses.
        arguments = signature.partition("(")[2].rstrip(")")
        check = (
            f"EXISTS (SELECT FROM pg_proc WHERE pronamespace = to_regnamespace({self._literal(self._quoted(wanted['schema']))}) "
            f"AND proname = {self._literal(name)} AND pronargs = {arguments.count(',') + bool(arguments)})"
        )
        rights = function_rights.statements(key, wanted)
        return [
            Fix("objects", key, "created", statement, check, f"DROP FUNCTION {signature}"),
            *(Fix("objects", key, "its right to be called", right, check, goes_along=True) for right in rights),
        ]

    def _by_its_statement(self, key: str, wanted: Mapping[str, Any], version: str) -> list[Fix] | Unsure:
        kind, name = catalog.kind_of(key), parts_of(catalog.name_of(key))[-1]
        if kind == "extension":
            statement = self.statement(version, "extension", "public", "", name)
            if statement is not None:
                check = f"EXISTS (SELECT FROM pg_extension WHERE extname = {self._literal(name)})"
                return [Fix("types", key, "created", statement, check, None)]
        return Unsure(key, "it is missing, and this tool does not make a " + kind + " by itself")

    # -- what differs -------------------------------------------------------------------------------------------------

    def _labels(
        self,
        key: str,
        wanted: Mapping[str, Any],
        found: Mapping[str, Any],
        difference: catalog.Difference,
        version: str,
    ) -> Fix | Unsure | None:
        if difference.attribute != "labels" or wanted.get("form") != "enum" or found.get("form") != "enum":
            return None
        known = {label for state in self.presence.chain.ever(key) for label in state.get("labels") or []}
        there = _labels_of(found)
        own = [label for label in there if label not in known]
        if own:
            return Unsure(key, f"it has values that no version declares: {', '.join(own)}")
        kept = [label for label in _labels_of(wanted) if label in there]
        if kept != [label for label in there if label in _labels_of(wanted)]:
            return Unsure(key, f"its values have another order: {', '.join(there)}")
        name = catalog.name_of(key)
        statements, checks = [], []
        before = None
        for label in _labels_of(wanted):
            if label not in there:
                first = f" BEFORE {self._literal(there[0])}" if there else ""
                place = f" AFTER {self._literal(before)}" if before is not None else first
                statements.append(f"ALTER TYPE {name} ADD VALUE {self._literal(label)}{place}")
                checks.append(self._literal(label))
            before = label
        check = (
            f"(SELECT count(*) FROM pg_enum WHERE enumtypid = to_regtype({self._literal(name)}) "
            f"AND enumlabel IN ({', '.join(checks)})) = {len(checks)}"
        )
        return Fix("labels", key, f"{len(statements)} values added", ";\n".join(statements), check)

    def _column_differs(
        self,
        key: str,
        wanted: Mapping[str, Any],
        found: Mapping[str, Any],
        difference: catalog.Difference,
        version: str,
    ) -> Fix | list[Fix] | Unsure | None:
        table, name = self._table_of(wanted), self._quoted(wanted["column"])
        alter = f"ALTER TABLE {table} ALTER COLUMN {name}"
        there = self._column_is_there(wanted)
        if difference.attribute == "default":
            if wanted["type"] == "uuid" and found["type"] != "uuid":
                there = self._column_is_there(wanted, "uuid")
            text = (
                f"{alter} DROP DEFAULT" if wanted.get("default") is None else f"{alter} SET DEFAULT {wanted['default']}"
            )
            return Fix("objects", key, "default set", text, there)
        if difference.attribute == "not_null":
            if wanted["not_null"] is False and found["not_null"] is True:
                return Fix("objects", key, "NOT NULL dropped", f"{alter} DROP NOT NULL", there)
            return Unsure(
                key, "it should be NOT NULL; fill the rows without a value and set it in a version of your own"
            )
        if difference.attribute != "type":
            return None
        if wanted["type"] == "uuid" and found["type"].split("(")[0] in _TEXT:
            return self._to_uuid(key, wanted, found)
        wide, narrow = _LENGTH.match(wanted["type"]), _LENGTH.match(found["type"])
        wider = narrow is not None and (
            wanted["type"] == "text"
            or (wide is not None and narrow[1] is not None and (wide[1] is None or int(wide[1]) > int(narrow[1])))
        )
        if wider:
            standing = self.obstacles.of_type_change(wanted, to_uuid=False)
            if standing:
                return self._stands(key, wanted, found, standing)
            # Longer varchar, or text: no rewrite (the catalog changes, the rows do not).
            guard = self._only_while(wanted, found["type"], f"{alter} TYPE {wanted['type']}")
            allowed = f"-- pgops: allow R25 because {found['type']} only becomes longer: the catalog changes, the rows do not\n"
            return Fix("types", key, "made longer", allowed + guard, there)
        return None

    def _stands(self, key: str, wanted: Mapping[str, Any], found: Mapping[str, Any], names: Sequence[str]) -> Unsure:
        return Unsure(
            key,
            f"it is {found['type']} and should be {wanted['type']}; PostgreSQL does not change that under {', '.join(names)}: drop "
            "that, adopt and migrate, and make it again",
        )

    def _to_uuid(self, key: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[Fix] | Unsure:
        values = self.uuids(wanted["schema"], wanted["table"], wanted["column"])
        is_text = f"it is {found['type']} and should be uuid"
        if values.unfit:
            places = f" (by ctid {', '.join(values.places)})" if values.places else ""
            return Unsure(key, f"{is_text}; {values.unfit} of {values.rows} values are none{places}")
        if values.same and self.obstacles.is_unique(wanted):
            return Unsure(
                key,
                f"{is_text}; {values.same} of {values.rows} values would be the same uuid as another one, and it is unique",
            )
        if values.rows > REWRITE_ROWS:
            return Unsure(
                key,
                f"{is_text}; all {values.rows} values are uuids, but converting so many rows holds the table for long: convert it in a "
                "version of your own",
            )
        ties = self.obstacles.ties(wanted)
        own = [tie.key for tie in ties if not self._is_declared(tie.key)]
        standing = own + self.obstacles.of_type_change(wanted, to_uuid=True)
        if standing:
            return self._stands(key, wanted, found, standing)
        name = self._quoted(wanted["column"])
        # The default goes first, since PostgreSQL cannot cast it along.
        text = "".join(f"{self._drop_key(one)};\n        " for one in dict.fromkeys(tie.key for tie in ties))
        text += (
            f"ALTER TABLE {self._table_of(wanted)} ALTER COLUMN {name} DROP DEFAULT,\n"
            f"            ALTER COLUMN {name} TYPE uuid USING {name}::uuid"
        )
        guard = self._only_while(wanted, found["type"], text)
        allowed = f"-- pgops: allow R24 because no more than {REWRITE_ROWS} rows are converted in one moment\n"
        converted = Fix(
            "types",
            key,
            f"converted from {found['type']}, {values.rows} rows",
            allowed + guard,
            self._column_is_there(wanted, "uuid"),
            ties=tuple(ties),
        )
        return [converted, *(fix for tie in {tie.key: tie for tie in ties}.values() for fix in self._key_again(tie))]

    def _is_declared(self, key: str) -> bool:
        """:return: whether a foreign key is there as a version makes it, and in force."""
        found = self.presence.found.get(key) or {}
        made = [state["definition"] for state in self.presence.chain.ever(key)]
        return found.get("enforced") is True and found["definition"] in made

    def _drop_key(self, key: str) -> str:
        found = self.presence.found[key]
        return f"ALTER TABLE {self._table_of(found)} DROP CONSTRAINT IF EXISTS {self._quoted(self._last(key, found))}"

    def _key_again(self, tie: Tie) -> list[Fix]:
        """A foreign key between text columns cannot stay while one of them is converted: it is made again after both."""
        found = self.presence.found[tie.key]
        table, name = self._table_of(found), self._last(tie.key, found)
        there = f"conrelid = to_regclass({self._literal(table)}) AND conname = {self._literal(name)}"
        described = ""
        if tie.comment is not None:
            text = self._literal(tie.comment)
            described = f"\n        COMMENT ON CONSTRAINT {self._quoted(name)} ON {table} IS {text};"
        text = _do(f"""BEGIN
    IF NOT EXISTS (SELECT FROM pg_constraint WHERE {there}) THEN
        ALTER TABLE {table} ADD CONSTRAINT {self._quoted(name)} {found["definition"]} NOT VALID;{described}
    END IF;
END""")
        made = Fix(
            "types",
            tie.key,
            f"{tie.key.replace('constraint', 'foreign key', 1)} made again",
            text,
            f"EXISTS (SELECT FROM pg_constraint WHERE {there})",
        )
        return [made, self._validate(tie.key, found)]

    def _only_while(self, wanted: Mapping[str, Any], old: str, statement: str) -> str:
        """A statement that is no CREATE, so the engine cannot see that it was done: it asks itself."""
        return _do(f"""BEGIN
    IF EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = to_regclass({self._literal(self._table_of(wanted))})
            AND attname = {self._literal(wanted["column"])}
            AND format_type(atttypid, atttypmod) = {self._literal(old)}
    ) THEN
        {statement};
    END IF;
END""")

    def _index_differs(
        self,
        key: str,
        wanted: Mapping[str, Any],
        found: Mapping[str, Any],
        difference: catalog.Difference,
        version: str,
    ) -> Fix | Unsure | None:
        if difference.attribute != "valid" or found.get("valid") is not False:
            return None
        fixes = self._index(key, wanted, version)
        if isinstance(fixes, Unsure) or not fixes:
            return fixes if isinstance(fixes, Unsure) else None
        fix = fixes[0]
        return Fix(fix.phase, key, "dropped and built again, it is INVALID", fix.up, fix.check)

    def _constraint_differs(
        self,
        key: str,
        wanted: Mapping[str, Any],
        found: Mapping[str, Any],
        difference: catalog.Difference,
        version: str,
    ) -> Fix | Unsure | None:
        if difference.attribute != "validated" or found.get("validated") is not False:
            return None
        return self._rows_fit(key, wanted, "not validated", "give them one or delete them before migrate.yml")

    def _rows_fit(self, key: str, wanted: Mapping[str, Any], state: str, ways: str) -> Fix | Unsure:
        """The validation, where no row breaks a check. Rows without a parent are told: what becomes of them is said to migrate.yml."""
        if wanted["form"] == "check":
            broken = self.obstacles.broken(wanted["schema"], wanted["table"], wanted["definition"])
            return self._validate(key, wanted) if broken is None else Unsure(key, f"it is {state}, and {broken}")
        fix, orphans = self._validate(key, wanted), 0
        if wanted["form"] == "foreign key":
            orphans = self.obstacles.orphans(self.scratch, wanted["schema"], wanted["table"], self._last(key, wanted))
        return replace(fix, told=f"{fix.told}; {orphans} rows have no parent: {ways}") if orphans else fix

    def _validate(self, key: str, wanted: Mapping[str, Any]) -> Fix:
        entry: dict[str, Any] = {"table": wanted["table"], "constraint": self._last(key, wanted)}
        entry |= {"schema": wanted["schema"]} if wanted["schema"] != "public" else {}
        return Fix("constraints", key, "validated", entry, self._constraint_is_valid(key, wanted))

    # -- comments -----------------------------------------------------------------------------------------------------

    def comment(self, key: str, version: str) -> Fix | None:
        """:return: the comment that an object lacks: checks read the tag PHI there. A comment of somebody's own stays."""
        wanted = self.presence.chain.at(key, version)
        kind = catalog.kind_of(key)
        if wanted is None or not wanted.get("comment") or kind not in ("table", "column"):
            return None
        if (self.presence.found.get(key) or {}).get("comment"):
            return None
        name = catalog.name_of(key)
        table = self._literal(self._table_of(wanted))
        described = (
            f"obj_description(to_regclass({table}), 'pg_class')"
            if kind == "table"
            else f"(SELECT col_description(attrelid, attnum) FROM pg_attribute WHERE attrelid = to_regclass({table}) "
            f"AND attname = {self._literal(wanted['column'])})"
        )
        text = f"COMMENT ON {kind.upper()} {name} IS {self._literal(wanted['comment'])}"
        return Fix("objects", key, "commented", text, f"{described} IS NOT NULL")

    # -- words --------------------------------------------------------------------------------------------------------

    def _literal(self, value: Any) -> str:
        text: str = sql.Literal(value).as_string(self.scratch)
        return text.strip()

    def _quoted(self, name: str) -> str:
        if name not in self._names:
            row = fetch_one(self.scratch, "SELECT quote_ident(%s) AS name", (name,))
            self._names[name] = str(row["name"]) if row else name
        return self._names[name]

    def _table_of(self, wanted: Mapping[str, Any]) -> str:
        return f"{self._quoted(wanted['schema'])}.{self._quoted(wanted['table'])}"

    def _last(self, key: str, wanted: Mapping[str, Any]) -> str:
        return parts_of(catalog.name_of(key))[-1]

    def _plain(self, text: str) -> str | None:
        """:return: the name of a column, or None for an expression."""
        if re.fullmatch(r"[a-z_][a-z0-9_$]*", text):
            return text
        return text[1:-1].replace('""', '"') if re.fullmatch(r'"(?:[^"]|"")+"', text) else None

    def _column_is_there(self, wanted: Mapping[str, Any], type_name: str | None = None) -> str:
        typed = f" AND format_type(atttypid, atttypmod) = {self._literal(type_name)}" if type_name else ""
        return (
            f"EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass({self._literal(self._table_of(wanted))}) "
            f"AND attname = {self._literal(wanted['column'])} AND NOT attisdropped{typed})"
        )

    def _column_has_no_default(self, wanted: Mapping[str, Any]) -> str:
        return (
            f"NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass({self._literal(self._table_of(wanted))}) "
            f"AND attname = {self._literal(wanted['column'])} AND NOT attisdropped AND atthasdef)"
        )

    def _constraint_is_valid(self, key: str, wanted: Mapping[str, Any]) -> str:
        return (
            f"EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass({self._literal(self._table_of(wanted))}) "
            f"AND conname = {self._literal(self._last(key, wanted))} AND convalidated)"
        )


_MISSING: dict[str, Callable[[Workshop, str, Mapping[str, Any], str], list[Fix] | Unsure]] = {
    "type": Workshop._type,
    "table": Workshop._table,
    "column": Workshop._column,
    "constraint": Workshop._constraint,
    "index": Workshop._index,
    "trigger": Workshop._trigger,
    "function": Workshop._function,
}
_DIFFERENT: dict[
    str,
    Callable[
        [Workshop, str, Mapping[str, Any], Mapping[str, Any], catalog.Difference, str], Fix | list[Fix] | Unsure | None
    ],
] = {
    "type": Workshop._labels,
    "column": Workshop._column_differs,
    "index": Workshop._index_differs,
    "constraint": Workshop._constraint_differs,
    "trigger": Workshop._trigger_differs,
}
# How a trigger is made to fire: the words of ALTER TABLE, and in ours.
_ENABLED = {
    "origin": ("ENABLE", "enabled"),
    "always": ("ENABLE ALWAYS", "enabled always"),
    "replica": ("ENABLE REPLICA", "enabled on a replica"),
    "disabled": ("DISABLE", "disabled"),
}


def _last_of(made: Mapping[str, Mapping[str, Any]], version: str) -> Mapping[str, Any] | None:
    """:return: what the last of these versions up to that one has."""
    since = max((one for one in made if one <= version), default=None)
    return made[since] if since is not None else None


def _labels_of(definition: Mapping[str, Any]) -> list[str]:
    """:return: the values of an enum, which may have none."""
    return list(definition.get("labels") or [])


def _do(body: str) -> str:
    """:return: a DO of that body, in quotes that do not occur in it."""
    tag = "repair"
    while f"${tag}$" in body:
        tag += "_"
    return f"DO ${tag}$\n{body}\n${tag}$"


def _unwrapped(expression: str) -> str:
    """Without the parentheses that the server prints around an expression, which are written around it again."""
    if not (expression.startswith("(") and expression.endswith(")")):
        return expression
    depth = 0
    for number, sign in enumerate(expression):
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if depth == 0 and number < len(expression) - 1:
            return expression
    return expression[1:-1]


def swap(twin: Twin) -> Fix:
    """The named type, which nothing uses, goes; the twin takes its name, and its columns come along without a rewrite."""
    there = f"to_regtype({_quote(twin.name)}) IS NULL"
    text = _do(f"""BEGIN
    IF {there} THEN
        RAISE NOTICE USING MESSAGE = {_quote(f"There is no type {twin.name}: nothing to do")};
        RETURN;
    END IF;
    -- No CASCADE: what uses the type by now stops the step here.
    DROP TYPE IF EXISTS {twin.named};
    ALTER TYPE {twin.name} RENAME TO {_quoted_parts(twin.named)[-1]};
END""")
    columns = ", ".join(twin.columns)
    return Fix("types", f"type {twin.name}", f"takes the place of {twin.named} (used by {columns})", text, there)


def parts_of(name: str) -> list[str]:
    """:return: the parts of a qualified name, without quotes."""
    return [part[1:-1].replace('""', '"') if part.startswith('"') else part for part in _quoted_parts(name)]


def _quoted_parts(name: str) -> list[str]:
    return re.findall(r'"(?:[^"]|"")*"|[^."]+', name)


# ------------------------------------------------------------------------------------------------------------ the folder

_HEAD = "SPDX-License-Identifier: GPL-3.0-or-later\n{0} Copyright (c) 2026 White Cross pgops contributors\n"
_STEPS = (
    ("types", "types of columns", "types.sql.j2", "types_down.sql.j2"),
    ("labels", "values of enums", "labels.sql.j2", None),
    ("objects", "objects", "up.sql.j2", "down.sql.j2"),
)
# Most repairs have to do with several tables.
_TOGETHER = {
    phase: "what another tool left half done is completed as one, so that a database is repaired or as it was"
    for phase in ("types", "objects")
}


def folder(
    fixes: Sequence[Fix],
    versions: Sequence[str],
    migrations: Sequence[Mapping[str, Any]],
    besides: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Write the fixes as a migration.

    :param versions: the versions that it completes, in order.
    :param migrations: the tree: its number is the first free one after those versions; a repair that is there already
        with the same files is taken again.
    :param besides: the repairs that are to be written as well.
    :return: ``version``, ``name``, ``files`` (name -> text), ``repairs`` (the versions), ``exists`` (it is in the tree).
    """
    files = _files(fixes, versions)
    taken = {str(migration["version"]): migration for migration in migrations}
    for version, migration in sorted(taken.items()):
        if migration.get("repairs") and {name: file["text"] for name, file in migration["files"].items()} == files:
            return {
                "version": version,
                "name": migration["name"],
                "files": files,
                "repairs": list(versions),
                "exists": True,
            }
    known = [*migrations, *besides]
    numbers = {str(migration["version"]) for migration in known}
    number = int(max(versions)) + 1
    while f"{number:014d}" in numbers:
        number += 1
    names = {str(migration["name"]) for migration in known}
    name, more = NAME, 2
    while name in names:
        name, more = f"{NAME}_{more}", more + 1
    return {
        "version": f"{number:014d}",
        "name": name,
        "files": files,
        "repairs": list(versions),
        "exists": False,
    }


def _files(fixes: Sequence[Fix], versions: Sequence[str]) -> dict[str, str]:
    files: dict[str, str] = {}
    steps: list[str] = []
    one_way = False
    for phase, title, up, down in _STEPS:
        chosen = [fix for fix in fixes if fix.phase == phase]
        if not chosen:
            continue
        files[up] = _sql([fix.up for fix in chosen])
        backwards = [fix.down for fix in reversed(chosen) if fix.down]
        one_way = one_way or any(not (fix.down or fix.goes_along) for fix in chosen)
        named = f"{{up: {up}, down: {down}}}" if backwards and down else f"{{up: {up}}}"
        if phase in _TOGETHER:
            named = f'{named[:-1]}, together: "{_TOGETHER[phase]}"}}'
        if backwards and down:
            files[down] = _sql(backwards)
        steps.append(f"  - name: {title}\n    sql: {named}")
    constraints = [fix.up for fix in fixes if fix.phase == "constraints"]
    if constraints:
        steps.append(
            "  - name: constraints\n    validate:\n" + "\n".join(f"      - {_flow(item)}" for item in constraints)
        )
    entries = [fix.up for fix in fixes if fix.phase == "indexes"]
    if entries:
        files["indexes.yml"] = f"---\n# {_HEAD.format('#')}" + "\n".join(_index_yaml(entry) for entry in entries)
        steps.append("  - name: indexes\n    indexes: indexes.yml")
    checks = ",\n".join(f"    ({_quote(fix.object)}, {fix.check})" for fix in fixes)
    query = (
        "SELECT wanted.object, 'as declared' AS expected, 'not so' AS found\nFROM (VALUES\n"
        f"{checks}\n) AS wanted (object, there)\nWHERE wanted.there IS NOT TRUE"
    )
    files["verify.sql.j2"] = _sql([query])
    risk = "high" if any(fix.phase == "types" for fix in fixes) else "medium"
    completed = ", ".join(f'"{version}"' for version in versions)
    rollback = (
        "  safety: partial\n  stays: >-\n    Types, values, defaults and comments stay as the versions that it completes declare them; what it\n"
        "    created goes.\n"
        if one_way
        else "  safety: complete\n"
    )
    files["migration.yml"] = (
        f"---\n# {_HEAD.format('#')}"
        "title: Repair of an adopted schema\n"
        "why: >-\n"
        "  Written by adopt.yml: the versions that it repairs were adopted from another tool, which had left them\n"
        "  incomplete. Each step does nothing in a database where they are complete.\n"
        f"risk: {risk}\nphi: true\nphase: enhancement\nrepairs: [{completed}]\nrollback:\n{rollback}steps:\n"
        + "\n".join(steps)
        + "\nverify: verify.sql.j2\n"
    )
    return files


def _sql(statements: Sequence[str]) -> str:
    text = "".join(f"\n{statement};\n" for statement in statements)
    # A name may have the braces of a template.
    text = re.sub(r"\{[{%#]", lambda found: f'{{{{ "{found[0]}" }}}}', text)
    return f"-- {_HEAD.format('--')}{text}"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _index_yaml(entry: Mapping[str, Any]) -> str:
    lines = []
    for number, (name, value) in enumerate(entry.items()):
        lead = "- " if number == 0 else "  "
        if name == "columns":
            lines.append(f"{lead}columns:")
            lines += [f"    - {_flow(item) if isinstance(item, Mapping) else _scalar(item)}" for item in value]
        elif isinstance(value, list):
            lines.append(f"{lead}{name}: [{', '.join(_scalar(item) for item in value)}]")
        else:
            lines.append(f"{lead}{name}: {_scalar(value)}")
    return "\n".join(lines) + "\n"


def _flow(item: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{name}: {_scalar(value)}" for name, value in item.items()) + "}"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if re.fullmatch(r"[A-Za-z_](?:[A-Za-z0-9_ .]*[A-Za-z0-9_])?", text) and text.lower() not in (
        "true",
        "false",
        "yes",
        "no",
        "null",
        "on",
        "off",
        "y",
        "n",
    ):
        return text
    return json.dumps(text, ensure_ascii=False)
