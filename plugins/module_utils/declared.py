# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The schema that applied migrations declare, read from a database in which they were run again, and how another differs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    catalog,
    existing,
    function_rights,
    remembered_schema,
    replayed_backfill,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.accepted_differences import Accepted
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_one,
    server_version,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.function_statements import FunctionStatements, Said
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import Migration, transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from ansible_collections.whitecross.pgops.plugins.module_utils.scratch import drop_leftovers, empty_database
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import create_index, validate_constraint
from psycopg2 import errorcodes, sql

Around = Callable[[int], AbstractContextManager[None]]

# What a verification says of one thing: object, attribute, expected, found.
Words = tuple[str, str, str, str]
# By version what its own verification says since a later version has run.
Superseded = Mapping[str, Collection[Words]]

FAIL = "fail"
WARN = "warn"
NOTICE = "notice"

# An operator tunes these in production, and rightly so; they change speed, not what the data may be.
_TUNING = frozenset({"statistics", "toast_options", "tablespace", "clustered", "comment", "storage", "compression"})
# On a declared table these change what a write does, so nobody should find them by accident.
_CHANGES_WRITES = frozenset({"column", "constraint", "trigger", "rule", "policy"})
_RELATIONS = frozenset({"table", "view", "materialized view", "foreign table"})


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    ``level`` is ``fail``, ``warn`` or ``notice``; ``check`` names the check that found it; ``note`` says what somebody has
    decided about it; ``declared`` is false where no applied version makes the object, so that going back mends nothing.
    """

    check: str
    level: str
    object: str
    attribute: str | None
    expected: Any
    found: Any
    note: str | None = None
    declared: bool = True

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain data for a module's result."""
        return asdict(self)

    @property
    def words(self) -> Words:
        """:return: what it says, whoever says it."""
        return self.object, self.attribute or "", str(self.expected), str(self.found)


@dataclass
class Comparison:
    """``lines`` has one entry for each declared object (R1.20), ``findings`` what differs, ``declared`` the definitions,
    ``superseded`` what the versions' own verification says without a fault, see :func:`superseded`."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    declared: catalog.Inventory = field(default_factory=dict)
    superseded: Superseded = field(default_factory=dict)


def compare(
    target: Target,
    conn: Connection,
    migrations: Sequence[Mapping[str, Any]],
    *,
    control: Control,
    progress: Progress | None = None,
    run_id: str | None = None,
    accepted: Accepted | None = None,
    recorded: Collection[str] = (),
) -> Comparison:
    """Compare a database with what the migrations declare.

    They are run again, as they were rendered, in an empty database on the scratch server; where the same were run before
    and nothing differs from what they made then, that is enough. What is missing or different
    fails; what nobody declared is told as a notice, or as a warning where it changes writes to a declared table. Of owners
    and privileges only those of functions are compared, see :mod:`function_rights`.

    :param conn: a session on the database itself.
    :param migrations: the rendered migrations that are applied, in order.
    :param accepted: differences that are warnings only.
    :param recorded: the versions that never ran here, since the database had what they make when it was adopted.
    :raises PgopsError: no scratch database, or a migration that cannot be run again.

    Takes ACCESS SHARE on system catalogs of the database, and no lock on its tables.
    """
    found = catalog.inventory(conn)
    role = _role(conn)
    key = _key(target, conn, migrations, tidy=True)
    remembered = remembered_schema.recall(key)
    if remembered is not None:
        comparison = _compared(remembered, found, accepted, reparse=None)
        _add_function_rights(comparison, remembered, found, role, migrations, recorded)
        # It was made on another day: that nothing differs can be believed, a difference has to be seen.
        if all(finding.level == NOTICE for finding in comparison.findings):
            return comparison
    with _made_again(target, conn, migrations, control=control, progress=progress, run_id=run_id) as (made, other):
        comparison = _compared(made, found, accepted, reparse=other)
        _add_function_rights(comparison, made, found, role, migrations, recorded)
    remembered_schema.remember(key, made)
    return comparison


def superseded(
    target: Target,
    conn: Connection,
    migrations: Sequence[Mapping[str, Any]],
    *,
    control: Control,
    run_id: str | None = None,
    again: bool = True,
) -> Superseded | None:
    """What the versions' own verification says of the declared schema itself, since a later version has run.

    A version is verified for as long as it is applied, by the text that the ledger keeps, and a later one may drop, rename
    or replace what that text asks for: then it finds in the database what it finds in an empty one in which the same
    versions have run. Only what it says there word for word, and did not say before the later ones ran, is meant; so
    a column that somebody dropped is a difference still, and so is what no empty database has, such as rows of the
    application. What a later version does is seen and not read from its text: a block of PL/pgSQL may do it as well.

    :param conn: a session on the database itself.
    :param again: run the migrations again where what they make is not remembered; without it no database is made.
    :return: by version; None where it is not remembered and nothing is to be run.
    :raises PgopsError: no scratch database, or a migration that cannot be run again.
    """
    key = _key(target, conn, migrations, tidy=again)
    remembered = remembered_schema.recall(key)
    if remembered is not None:
        return remembered.superseded
    if not again:
        return None
    with _made_again(target, conn, migrations, control=control, run_id=run_id) as (made, _):
        pass
    remembered_schema.remember(key, made)
    return made.superseded


def _key(target: Target, conn: Connection, migrations: Sequence[Mapping[str, Any]], *, tidy: bool) -> str:
    with closing(connect(target.scratch(target.maintenance_database), application_name="pgops verify")) as scratch:
        refuse_other_major(target, conn, scratch)
        if tidy:
            drop_leftovers(scratch)
        return remembered_schema.key(scratch, migrations, _encoding(conn))


def _role(conn: Connection) -> str:
    return str((fetch_one(conn, "SELECT current_user::text AS name") or {})["name"])


def _encoding(conn: Connection) -> str:
    return str(conn.info.parameter_status("server_encoding"))


@contextmanager
def _made_again(
    target: Target,
    conn: Connection,
    migrations: Sequence[Mapping[str, Any]],
    *,
    control: Control,
    progress: Progress | None = None,
    run_id: str | None,
) -> Iterator[tuple[remembered_schema.Made, Connection]]:
    """:return: what the migrations make in an empty database, and the session on it."""
    with ExitStack() as stack:
        empty = stack.enter_context(empty_database(target, encoding=_encoding(conn), run_id=run_id))
        other = stack.enter_context(closing(connect(empty, application_name="pgops verify")))
        # Nothing of it is to outlive this call.
        execute(other, "SET synchronous_commit = off")
        forget = control.on_interrupt(other.cancel)
        try:
            before = catalog.inventory(other)
            alone = {}
            for number, migration in enumerate(migrations, 1):
                control.check()
                if progress is not None:
                    progress.emit(
                        "running the applied migrations again, to compare the schema",
                        database=target.database,
                        done=number,
                        total=len(migrations),
                        unit="versions",
                    )
                _replay_all_of_it(other, migration)
                alone[str(migration["version"])] = _said(other, migration, control)
            if progress is not None:
                progress.emit("comparing the schema with that of the migrations", database=target.database)
            at_last = {str(migration["version"]): _said(other, migration, control) for migration in migrations[:-1]}
            since = {version: sorted(said - alone[version]) for version, said in at_last.items()}
            made = remembered_schema.Made(
                before,
                catalog.inventory(other),
                {version: words for version, words in since.items() if words},
                _role(other),
            )
            yield made, other
        finally:
            forget()


def _replay_all_of_it(conn: Connection, migration: Mapping[str, Any]) -> None:
    try:
        replay(conn, migration)
    except PgopsError as error:
        if error.sqlstate in (errorcodes.UNDEFINED_TABLE, errorcodes.INVALID_SCHEMA_NAME) and not error.hint:
            error.hint = (
                "Nothing is known to be wrong with the database. Where the tree builds on objects that none of its versions "
                "makes, have one make them, or set verify_compare_schema to false."
            )
        raise


def _said(conn: Connection, migration: Mapping[str, Any], control: Control) -> set[Words]:
    return {finding.words for finding in check_statements(conn, migration, control, limit=None)}


def _compared(
    made: remembered_schema.Made,
    found: catalog.Inventory,
    accepted: Accepted | None,
    *,
    reparse: Connection | None,
) -> Comparison:
    # What an empty database has anyway is not declared, unless a migration changed it.
    declared = {key: value for key, value in made.after.items() if made.before.get(key) != value}
    differences = catalog.compare(
        declared, {key: value for key, value in found.items() if key in declared}, reparse=reparse
    )
    strangers = {key: value for key, value in found.items() if key not in made.after and made.before.get(key) != value}
    comparison = _judge(declared, differences, strangers, accepted, reparse)
    comparison.superseded = made.superseded
    return comparison


def _add_function_rights(
    comparison: Comparison,
    made: remembered_schema.Made,
    found: catalog.Inventory,
    role: str,
    migrations: Sequence[Mapping[str, Any]],
    recorded: Collection[str],
) -> None:
    statements = FunctionStatements(migrations)
    different = function_rights.differences(
        comparison.declared, found, maker=made.role, role=role, statements=statements
    )
    failed = set()
    for one in different:
        level, note = NOTICE if one.added else FAIL if one.fails else WARN, f"type: {one.mend}"
        # An adoption compares no privileges: nobody has ever given or taken this one here.
        if level == FAIL and recorded and _is_of_adopted(statements.said(one.object), one, recorded):
            level, note = WARN, f"{note} Its version was recorded at adoption and did not run"
        if level == FAIL:
            failed.add(catalog.name_of(one.object))
        comparison.findings.append(
            Finding("function rights", level, one.object, one.attribute, one.expected, one.found, note)
        )
    for line in comparison.lines:
        if line["kind"] in function_rights.KINDS and line["object"] in failed:
            line["passed"] = False


def _is_of_adopted(said: Said, one: function_rights.RightsDifference, recorded: Collection[str]) -> bool:
    """:return: whether no version that ran here decides it, and none names its owner."""
    if one.attribute == "owner":
        return said.owner is None and said.maker in recorded
    return said.versions <= set(recorded)


def compare_recorded(conn: Connection, recorded: catalog.Inventory) -> Comparison:
    """Compare a database with an inventory of it that was recorded; see :func:`compare` for what fails.

    What prints otherwise since a restore is parsed again in the database itself, in a transaction that is rolled back.
    """
    found = catalog.inventory(conn)
    differences = catalog.compare(
        recorded, {key: value for key, value in found.items() if key in recorded}, reparse=conn
    )
    strangers = {key: value for key, value in found.items() if key not in recorded}
    return _judge(recorded, differences, strangers)


def refuse_other_major(target: Target, conn: Connection, other: Connection) -> None:
    major, scratch_major = server_version(conn)[0], server_version(other)[0]
    if major != scratch_major:
        # What a definition prints as changes between majors.
        raise PgopsError(
            f"The scratch server {other.info.host} is PostgreSQL {scratch_major} and {target} is {major}: their schemas "
            f"cannot be compared; point pgops_scratch_host at a PostgreSQL {major}.",
            database=target.database,
        )


def _judge(
    declared: catalog.Inventory,
    differences: Sequence[catalog.Difference],
    strangers: catalog.Inventory,
    accepted: Accepted | None = None,
    reparse: Connection | None = None,
) -> Comparison:
    comparison = Comparison(declared=declared)
    lines = _lines(declared)
    failed: set[str] = set()
    taken, notes = _taken(declared, differences, accepted, reparse)
    for number, difference in enumerate(differences):
        level = WARN if number in taken and _level(difference) == FAIL else _level(difference)
        if difference.kind == "missing":
            told: tuple[str | None, Any, Any] = (None, "present", "missing")
            # The columns of a missing table say nothing that the table does not.
            if level == FAIL and _is_part_of_missing(difference, differences):
                if _is_part_of_missing(
                    difference, [differences[other] for other in set(range(len(differences))) - taken]
                ):
                    failed.add(lines[difference.object])
                continue
        else:
            told = (difference.attribute, difference.expected, difference.found)
        comparison.findings.append(Finding("schema", level, difference.object, *told, notes.get(number)))
        if level == FAIL:
            failed.add(lines[difference.object])
    tables = {
        (value["schema"], value["table"]): catalog.name_of(key)
        for key, value in declared.items()
        if catalog.kind_of(key) == "table"
    }
    for key in sorted(strangers):
        value = strangers[key]
        kind = catalog.kind_of(key)
        on_declared = (value.get("schema"), value.get("table")) in tables
        if kind == "column" and not on_declared:
            continue  # a notice about the table is enough
        if kind == "index" and value.get("constraint"):
            continue  # the constraint itself is told
        level = WARN if _changes_writes(kind, value, on_declared, tables.values()) else NOTICE
        comparison.findings.append(Finding("schema", level, key, None, "not declared", "present"))
    for key in sorted(declared):
        if lines[key] == key:
            kind = catalog.kind_of(key)
            if kind == "type":
                kind = declared[key]["form"]
            comparison.lines.append({"kind": kind, "object": catalog.name_of(key), "passed": key not in failed})
    return comparison


def _changes_writes(kind: str, value: Mapping[str, Any], on_declared: bool, tables: Collection[str]) -> bool:
    """:param tables: the declared tables, each as the catalog quotes it.
    :return: whether something that nobody declared refuses or changes what is written to a declared table."""
    if kind == "constraint" and value.get("references") in tables:
        return True  # from whichever table: a parent with a child there cannot be deleted
    unique = kind == "index" and str(value.get("definition")).startswith("CREATE UNIQUE ")
    return on_declared and (kind in _CHANGES_WRITES or unique)


def _taken(
    declared: catalog.Inventory,
    differences: Sequence[catalog.Difference],
    accepted: Accepted | None,
    reparse: Connection | None,
) -> tuple[set[int], dict[int, str]]:
    """:return: the positions of differences that somebody accepted, and what is to be said of these and of others."""
    taken: set[int] = set()
    notes: dict[int, str] = {}
    if accepted is None:
        return taken, notes
    for number, difference in enumerate(differences):
        same, note = accepted.of_difference(difference, declared[difference.object], reparse)
        if same:
            taken.add(number)
        if note is not None and _level(difference) == FAIL:
            notes[number] = note
    return taken, notes


def _level(difference: catalog.Difference) -> str:
    if difference.kind == "different":
        kind = catalog.kind_of(difference.object)
        if difference.attribute in _TUNING or (difference.attribute == "options" and kind not in ("view", "server")):
            return WARN
    elif difference.kind == "missing" and catalog.kind_of(difference.object) == "default privileges":
        return WARN
    return FAIL


def _lines(declared: catalog.Inventory) -> dict[str, str]:
    """The object on whose line each declared object is told: a column on its table's, everything else on its own."""
    relations = {
        (value["schema"], value["table"]): key for key, value in declared.items() if catalog.kind_of(key) in _RELATIONS
    }
    return {
        key: relations.get((value["schema"], value["table"]), key) if catalog.kind_of(key) == "column" else key
        for key, value in declared.items()
    }


def _is_part_of_missing(difference: catalog.Difference, differences: Sequence[catalog.Difference]) -> bool:
    if catalog.kind_of(difference.object) not in ("column", "constraint", "index", "trigger", "policy", "rule"):
        return False
    place = (difference.expected["schema"], difference.expected["table"])
    return any(
        other.kind == "missing"
        and catalog.kind_of(other.object) in _RELATIONS
        and (other.expected["schema"], other.expected["table"]) == place
        for other in differences
    )


def replay(conn: Connection, migration: Mapping[str, Any], around: Around | None = None) -> None:
    """Run the steps of a migration in a database that nobody else uses; on empty tables nothing needs patience.

    What a statement creates and an earlier version has made already is skipped, as it is when a migration is applied.
    A backfill goes over the rows that earlier versions have put there; ANALYZE is left out.

    :param around: given the ordinal of each step, a context in which that one runs.
    :raises PgopsError: a statement failed.
    """
    try:
        for ordinal, step in enumerate(migration["steps"], 1):
            with around(ordinal) if around is not None else nullcontext():
                _step(conn, migration, step)
    except psycopg2.Error as exc:
        raise from_psycopg(
            exc,
            f"Version {migration['version']} cannot be run again in an empty database, so there is nothing to compare with",
        ) from None


def _step(conn: Connection, migration: Mapping[str, Any], step: Mapping[str, Any]) -> None:
    if step["kind"] == "sql":
        if migration.get("transaction", True):
            with transaction(conn):
                _statements(conn, step["up"])
        else:
            _statements(conn, step["up"], together=False)
    elif step["kind"] == "indexes":
        _indexes(conn, step["indexes"])
    elif step["kind"] == "backfill":
        try:
            replayed_backfill.run(conn, migration, step)
        except psycopg2.Error as exc:
            raise _not_again(exc, step["statement"]) from None
    elif step["kind"] == "validate":
        for constraint in step["constraints"]:
            execute(conn, validate_constraint(constraint))


def _statements(conn: Connection, statements: Sequence[Mapping[str, Any]], *, together: bool = True) -> None:
    """:param together: in one round trip, inside a transaction; one at a time only where one of them fails."""
    made = [statement.get("creates") for statement in statements]
    there = existing.present(conn, [one if one and not one.get("replace") else None for one in made])
    gone: set[str] = set()
    wanted = []
    for number, statement in enumerate(statements):
        if number in there and existing.describe(made[number] or {}) not in gone:
            continue
        gone |= existing.dropped_by([statement])
        wanted.append(statement)
    if together and len(wanted) > 1:
        execute(conn, "SAVEPOINT together")
        try:
            # A line of its own, since a statement may end with a comment.
            execute(conn, "\n;\n".join(str(statement["sql"]) for statement in wanted))
            return
        except psycopg2.Error:
            execute(conn, "ROLLBACK TO together")
    for statement in wanted:
        try:
            execute(conn, statement["sql"])
        except psycopg2.Error as exc:
            raise _not_again(exc, statement) from None


def _not_again(exc: psycopg2.Error, statement: Mapping[str, Any]) -> PgopsError:
    location = existing.location(statement)
    return from_psycopg(
        exc,
        f"The applied statement at {location} cannot be run again in an empty database, so there is nothing to compare with",
        statement=str(statement["sql"]),
        location=location,
    )


def _indexes(conn: Connection, indexes: Sequence[Mapping[str, Any]]) -> None:
    # A later version may build an index of an earlier one anew.
    parts: list[sql.Composable] = []
    for index in indexes:
        name = sql.Identifier(index.get("schema") or "public", index["name"])
        parts += [sql.SQL("DROP INDEX IF EXISTS {}").format(name), create_index(index, concurrently=False)]
    execute(conn, sql.SQL("; ").join(parts))


def check_statements(
    conn: Connection,
    migration: Mapping[str, Any],
    control: Control,
    limit: int | None = 100,
    accepted: Accepted | None = None,
    superseded: Collection[Words] = (),
) -> list[Finding]:
    """Run a version's own verification in a read-only transaction; each row it returns is a difference.

    :param limit: how many rows of one statement are told; None for all.
    :param accepted: objects that are as somebody accepted them are warnings only.
    :param superseded: what it may say since a later version has run, see :func:`superseded`.
    :return: the differences; a statement that fails, or returns something else than object, expected, found, is one too.
    """
    findings = []
    for statement in migration.get("verify") or []:
        control.check()
        location = existing.location(statement) or "a statement without a place"
        check = f"verify of {migration['version']}"
        said: list[Finding] = []
        more = 0
        try:
            with transaction(conn), conn.cursor() as cursor:
                cursor.execute("SET TRANSACTION READ ONLY")
                cursor.execute(statement["sql"])
                width = len(cursor.description or ())
                for row in cursor if width == 3 else ():
                    finding = Finding(check, FAIL, str(row[0]), None, row[1], row[2])
                    if finding.words in superseded:
                        continue
                    if limit is None or len(said) < limit:
                        said.append(finding)
                    else:
                        more += 1
        except psycopg2.errors.LockNotAvailable:
            # Of a session that waits for no lock for ever: nothing is said about the version.
            raise
        except psycopg2.Error as exc:
            control.check()
            error = from_psycopg(exc, location, statement=str(statement["sql"]))
            failed = Finding(check, FAIL, location, "statement", "no error", error.message)
            findings += [] if failed.words in superseded else [failed]
            continue
        if width != 3:
            findings.append(Finding(check, FAIL, location, "columns", "object, expected, found", f"{width} columns"))
            continue
        for finding in said:
            note = accepted.of_check(finding.object) if accepted is not None else None
            findings.append(replace(finding, level=WARN, note=note) if note else finding)
        if more > 0:
            findings.append(Finding(check, FAIL, location, "rows", "0", f"{more} more differences"))
    return findings


def is_recorded_only(row: Migration | None, migration: Mapping[str, Any]) -> bool:
    """:return: whether a repair was not run, since there was nothing to do: later versions may have changed what it names."""
    return bool(migration.get("repairs")) and row is not None and not any(step.state == "done" for step in row.steps)


def ledger_findings(migrations: Sequence[Any]) -> list[Finding]:
    """Versions that are neither applied nor reverted: the schema is between two states.

    :param migrations: rows of the ledger.
    """
    return [
        Finding(
            "ledger",
            FAIL,
            f"version {row.version}",
            "state",
            "applied",
            row.state + (f" at step {row.failed_step}" if row.failed_step else ""),
        )
        for row in migrations
        if row.state not in ("applied", "reverted")
    ]
