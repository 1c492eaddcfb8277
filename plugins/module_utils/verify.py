# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Is the database what its applied migrations say, and is it sound in itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import checks as named_checks
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    declared,
    integrity,
    ledger,
    phi_logging,
    server_log,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.accepted_differences import Accepted
from ansible_collections.whitecross.pgops.plugins.module_utils.catalog import Inventory
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target, connect
from ansible_collections.whitecross.pgops.plugins.module_utils.declared import FAIL, NOTICE, WARN, Finding
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress


def verify(
    targets: Mapping[str, Target],
    *,
    control: Control | None = None,
    progress: Progress | None = None,
    run_id: str | None = None,
    compare_schema: bool = True,
    applied: Mapping[str, Sequence[str]] | None = None,
    checks: Sequence[Mapping[str, Any]] = (),
    log_began: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Verify each database.

    :param targets: the databases by name.
    :param compare_schema: run the applied migrations again in a scratch database and compare; without it (check mode)
        only the database itself is looked at.
    :param applied: by database the versions that this run has applied; one that is applied no longer is a failure.
    :param checks: the named checks of the tree.
    :param log_began: where the server's log was when the run began, see :func:`server_log.place`.
    :return: by database: ``passed``, ``versions``, ``ledger``, ``baseline``, ``lines`` (one an object), ``checks``, ``findings``, ``foreign_keys``,
        ``rows``, ``extensions``, ``definitions`` (every table, index and constraint), ``server_log`` (see :meth:`server_log.Look.of`).
    :raises PgopsError: a database cannot be verified, or one did not pass; then ``extra["databases"]`` has all results.

    Takes ACCESS SHARE on the tables it reads. Writes nothing to the databases.
    """
    control = control or Control()
    progress = progress or Progress()
    databases = {
        name: verify_database(
            target,
            control=control,
            progress=progress,
            run_id=run_id,
            compare_schema=compare_schema,
            applied_before=(applied or {}).get(name, ()),
            checks=checks,
        )
        for name, target in targets.items()
    }
    if run_id and targets:
        # Last, so that the errors of this very look at the databases are among them.
        _tell_log(databases, next(iter(targets.values())), run_id, log_began)
    failed = {name: result for name, result in databases.items() if not result["passed"]}
    if failed:
        name, result = next(iter(failed.items()))
        first = next(finding for finding in result["findings"] if finding["level"] == FAIL)
        more = sum(finding["level"] == FAIL for other in failed.values() for finding in other["findings"]) - 1
        raise PgopsError(
            f"Verification of {name} failed: {sentence(first)}" + (f", and {more} more" if more else "") + ".",
            database=name,
            object_name=first["object"],
            extra={"databases": databases},
        )
    return databases


def _tell_log(
    databases: dict[str, dict[str, Any]], target: Target, run_id: str, began: Mapping[str, Any] | None
) -> None:
    """Put what the server has logged of the run into each result. An error that the tool went on from is no fault of the database."""
    look = server_log.look(target, run_id, began=began)
    for number, (name, result) in enumerate(databases.items()):
        # What was done in other databases, such as a scratch database, is told once.
        others = [other for other in databases if other != name]
        found = look.of(others) if number == 0 else look.of([*others, *look.elsewhere(databases)])
        result["server_log"] = found
        result["findings"] += [
            Finding(
                "server log", WARN, f"{error['severity']} {error['sqlstate'] or 'without SQLSTATE'}", None, "no error of the run",
                f"{error['message']} ({error['times']} times, the first at {error['at']} in {error['database']})",
            ).as_dict()
            for error in found["errors"]
        ]  # fmt: skip


def sentence(finding: Mapping[str, Any]) -> str:
    """:return: a finding in words: object, expected, found, and who accepted it."""
    what = str(finding["object"]) + (f" ({finding['attribute']})" if finding["attribute"] else "")
    note = f" ({finding['note']})" if finding.get("note") else ""
    return f"{what}: expected {_told(finding['expected'])}, found {_told(finding['found'])}{note}"


def _told(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "nothing"
    return " ".join(str(value).split())


def verify_database(
    target: Target,
    *,
    control: Control,
    progress: Progress,
    run_id: str | None = None,
    compare_schema: bool = True,
    applied_before: Sequence[str] = (),
    checks: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Verify one database; see :func:`verify` for what is returned."""
    name = target.database
    findings: list[Finding] = []
    lines: list[dict[str, Any]] = []
    wanted: Inventory | None = None
    with _session(target, control) as conn:
        book = ledger.read(conn)
        findings += declared.ledger_findings(book.migrations)
        accepted = Accepted.read(conn, book.migrations)
        for version in applied_before:
            row = book.get(version)
            if row is None or row.state != "applied":
                now = f"{row.state} by run {row.run_id}" if row else "not in the ledger"
                findings.append(Finding("ledger", FAIL, f"version {version}", "state", "applied, as by this run", now))
        applied = ledger.all_stored(conn, [row.version for row in book.in_state("applied")])
        versions = {str(migration["version"]) for migration in applied}
        # The role that reads backups sees every row, also where a policy hides some from the owner.
        with _beside(
            target.as_backup(),
            control,
            lambda beside: _look(beside, checks, versions, control=control, progress=progress),
        ) as looked:
            superseded = cache(partial(_remembered, target, conn, applied, control))
            if book.baseline is not None:
                progress.emit(f"schema against baseline {book.baseline.name}", database=name)
                comparison = declared.compare_recorded(conn, ledger.baseline_objects(conn, book.baseline.name))
                findings += comparison.findings
                lines = comparison.lines
                wanted = comparison.declared
            elif not applied:
                findings.append(Finding("schema", NOTICE, f"database {name}", None, "applied versions", "none"))
            elif not compare_schema:
                findings.append(Finding("schema", NOTICE, f"database {name}", None, "schema compared", "left out"))
            else:
                progress.emit("schema against the applied migrations", database=name)
                comparison = declared.compare(
                    target,
                    conn,
                    applied,
                    control=control,
                    progress=progress,
                    run_id=run_id,
                    accepted=accepted,
                    recorded={row.version for row in book.in_state("applied") if row.adopted},
                )
                findings += comparison.findings
                lines = comparison.lines
                wanted = comparison.declared
                superseded = cache(lambda: comparison.superseded)
            for migration in applied:
                if declared.is_recorded_only(book.get(str(migration["version"])), migration):
                    continue
                progress.emit(f"verification of version {migration['version']}", database=name)
                later = superseded if migration is not applied[-1] else None
                findings += _of_own_verification(conn, migration, later, control, accepted)
            sound = looked.result()
        findings += _of_foreign_keys(sound.keys, WARN if book.baseline else FAIL, accepted, wanted)
        findings += _of_objects(sound, wanted, {(finding.object, finding.attribute) for finding in findings}, accepted)
        findings += sound.differing
        findings += _of_phi(sound.phi_tables) + _of_searches(sound.phi_searches)
    return {
        "passed": not any(finding.level == FAIL for finding in findings),
        "versions": [migration["version"] for migration in applied],
        "ledger": {
            row.version: {"checksum": row.checksum, "applied_at": row.finished_at, "duration_s": row.duration_s}
            for row in book.in_state("applied")
        },
        "baseline": book.baseline.name if book.baseline else None,
        "lines": lines,
        "checks": sound.checks,
        "findings": [finding.as_dict() for finding in findings],
        "foreign_keys": [key.as_dict() for key in sound.keys],
        "rows": sound.rows,
        "extensions": sound.extensions,
        "definitions": sound.definitions,
    }


def _remembered(
    target: Target, conn: Connection, applied: Sequence[Mapping[str, Any]], control: Control
) -> declared.Superseded | None:
    """:return: what the versions' own verification says without a fault, where another run has seen it."""
    try:
        return declared.superseded(target, conn, applied, control=control, again=False)
    except PgopsError:
        # The schema is not compared: perhaps because there is no scratch server.
        return None


def _of_own_verification(
    conn: Connection,
    migration: Mapping[str, Any],
    superseded: Callable[[], declared.Superseded | None] | None,
    control: Control,
    accepted: Accepted,
) -> list[Finding]:
    """:param superseded: None for the last version, which no other has changed."""
    found = declared.check_statements(conn, migration, control, accepted=accepted)
    known = superseded() if superseded is not None and found else {}
    if known is None:
        note = "a later version may have taken it away: a comparison of the schema tells"
        return [replace(finding, note=finding.note or note) for finding in found]
    said = frozenset(known.get(str(migration["version"]), ()))
    # Once more where some of it is no fault: only so many of the others were told.
    return declared.check_statements(conn, migration, control, accepted=accepted, superseded=said) if said else found


@dataclass(frozen=True)
class _Soundness:
    """What a database is in itself, whatever its migrations say."""

    keys: list[integrity.ForeignKey]
    invalid_indexes: list[dict[str, Any]]
    not_in_force: list[dict[str, Any]]
    disabled_triggers: list[str]
    checks: list[dict[str, Any]]
    differing: list[Finding]
    phi_tables: list[dict[str, Any]]
    phi_searches: phi_logging.Searches
    rows: list[dict[str, Any]]
    extensions: list[dict[str, Any]]
    definitions: list[dict[str, Any]]


def _look(
    conn: Connection,
    checks: Sequence[Mapping[str, Any]],
    versions: Collection[str],
    *,
    control: Control,
    progress: Progress,
) -> _Soundness:
    keys = integrity.foreign_keys(conn, control=control, progress=progress, database=str(conn.info.dbname))
    # Otherwise the last key that was scanned would stand there for as long as the rest takes.
    progress.emit("named checks, invalid indexes and numbers of rows", database=str(conn.info.dbname))
    checked, differing = named_checks.run(conn, checks, versions, control=control)
    return _Soundness(
        keys,
        integrity.invalid_indexes(conn),
        integrity.not_in_force(conn),
        integrity.disabled_triggers(conn),
        checked,
        differing,
        integrity.phi_tables(conn),
        phi_logging.searches(conn),
        integrity.row_counts(conn),
        integrity.extensions(conn),
        integrity.definitions(conn),
    )


@contextmanager
def _beside(target: Target, control: Control, look: Callable[[Connection], _Soundness]) -> Iterator[Future[_Soundness]]:
    """Look in a session of its own while the body works in another: neither needs what the other finds."""
    with _session(target, control) as conn, ThreadPoolExecutor(1, "pgops-soundness") as pool:
        looked = pool.submit(look, conn)
        try:
            yield looked
        except BaseException:
            if not looked.done():
                conn.cancel()  # nobody will hear what it finds
            raise


@contextmanager
def _session(target: Target, control: Control) -> Iterator[Connection]:
    """A session whose statement in hand is cancelled when the run has to end."""
    with closing(connect(target, application_name="pgops verify")) as conn:
        forget = control.on_interrupt(conn.cancel)
        try:
            yield conn
        except psycopg2.errors.QueryCanceled:
            control.check()
            raise
        except psycopg2.errors.CharacterNotInRepertoire as exc:
            # While the session is there to be asked for the encoding.
            raise from_psycopg(
                exc, f"The verification of {target.database} broke off", database=target.database
            ) from None
        finally:
            forget()


def _of_foreign_keys(
    keys: Sequence[integrity.ForeignKey], unindexed: str, accepted: Accepted, wanted: Inventory | None
) -> list[Finding]:
    """:param unindexed: how bad a foreign key without an index is: a baseline is what another tool made, and told as it is."""
    findings = []
    for key in keys:
        columns = ", ".join(key.columns)
        target = f"{key.target} ({', '.join(key.target_columns)})"
        if key.orphans is None:
            findings.append(Finding("orphans", FAIL, f"constraint {key.name}", None, "every row readable", key.error))
        elif key.orphans:
            ids = ", ".join(key.ids) + (", ..." if key.orphans > len(key.ids) else "")
            findings.append(
                Finding(
                    "orphans",
                    FAIL,
                    f"constraint {key.name}",
                    f"{key.table} ({columns}) to {target}",
                    "0 rows without a parent",
                    f"{key.orphans} (key {ids})",
                )
            )
        if not key.indexed:
            note = accepted.of_foreign_key(key.table, key.columns)
            level = WARN if note else unindexed
            what, index = f"constraint {key.name}", f"index on ({columns})"
            declared = _is_declared(what, wanted)
            findings.append(Finding("foreign key index", level, what, None, index, "MISSING", note, declared))
    return findings


def _of_objects(
    sound: _Soundness, wanted: Inventory | None, told: set[tuple[str, str | None]], accepted: Accepted
) -> list[Finding]:
    """Invalid indexes, constraints not in force, disabled triggers; those that a migration declares so are notices, those
    that somebody accepted warnings."""
    findings = []
    for index in sound.invalid_indexes:
        key = f"index {index['name']}"
        if (key, "valid") not in told:
            findings.append(
                _finding("invalid index", key, "valid", "valid", "invalid", _is(wanted, key, "valid", False))
            )
    for constraint in sound.not_in_force:
        key, attribute = constraint["name"], constraint["attribute"]
        if (key, attribute) not in told:
            meant = _is(wanted, key, attribute, False) or _is(wanted, key, "not_null", "not valid")
            findings.append(_finding("constraint", key, attribute, attribute, f"not {attribute}", meant))
    for key in sound.disabled_triggers:
        attribute = "triggers" if key.startswith("constraint ") else "enabled"
        if (key, attribute) not in told:
            meant = _is(wanted, key, "enabled", "disabled")
            findings.append(_finding("trigger", key, attribute, "enabled", "disabled", meant))
    notes = [accepted.of_attribute(finding.object, str(finding.attribute)) for finding in findings]
    return [
        replace(
            finding,
            level=WARN if note and finding.level == FAIL else finding.level,
            note=note or finding.note,
            declared=_is_declared(finding.object, wanted),
        )
        for finding, note in zip(findings, notes)
    ]


def _of_phi(tables: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """One finding a kind of protection, with the tables that are without: dozens of lines would hide the others."""
    wanted = (
        ("row_security", WARN, "row-level security, enabled and forced"),
        ("audited", WARN, "audit trigger for INSERT, UPDATE, DELETE and TRUNCATE"),
        ("soft_delete", NOTICE, "column deletedAt"),
    )
    return [
        Finding(
            "PHI", level, "tables of PHI", kind, f"{protection} on all {len(tables)}", "missing on " + ", ".join(bare)
        )
        for kind, level, protection in wanted
        if (bare := [str(table["name"]) for table in tables if not table[kind]])
    ]


def _of_searches(found: phi_logging.Searches) -> list[Finding]:
    """No fault of the schema and nothing that a way back mends: it is told, and stays the server's setting."""
    expected = f"every query through {', '.join(found.indexes)} in the server's log"
    told = []
    if found.bare:
        told.append(f"not logged: {', '.join(found.bare)}, neither by pgaudit nor by log_statement = all")
    if found.exceptions:
        told.append(f"{found.logged_by} is set otherwise for {', '.join(found.exceptions)}")
    return [Finding("PHI", NOTICE, "indexes of PHI", "logged", expected, "; ".join(told))] if told else []


def _finding(check: str, key: str, attribute: str, expected: str, found: str, meant: bool) -> Finding:
    return Finding(check, NOTICE if meant else FAIL, key, attribute, expected, found)


def _is_declared(key: str, wanted: Inventory | None) -> bool:
    """:return: whether an applied version makes it; what is not known to be somebody else's is the versions' own."""
    return wanted is None or key in wanted


def _is(wanted: Inventory | None, key: str, attribute: str, value: Any) -> bool:
    return wanted is not None and key in wanted and wanted[key].get(attribute) == value
