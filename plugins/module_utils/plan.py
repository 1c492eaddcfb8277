# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What there is to do: the ledger of a database compared with the tree of migrations."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    begun_steps,
    blue_green_state,
    catalog,
    locks,
    near_versions,
    pending_swap,
    strategies_of_versions,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target, connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import Ledger, Migration, Step, all_stored, read

RISKS = ("low", "medium", "high", "critical")
UNREADABLE = ", its files cannot be read"


@dataclass(frozen=True)
class Selection:
    """How much of what is pending is asked for.

    :ivar target: the last version to apply; later ones stay pending.
    :ivar steps: at most so many versions.
    :ivar allow_out_of_order: take a new version that sorts before an applied one.
    :ivar contracts: versions that do not wait for their time, with the reason; None where no version waits.
    :ivar schemas: versions that are made although their tables stand in another schema.
    :ivar strategy: ``online``, ``blue_green``, or ``any`` where nobody waits, in a database that was made for it.
    """

    target: str | None = None
    steps: int | None = None
    allow_out_of_order: bool = False
    contracts: Mapping[str, str] | None = None
    schemas: Sequence[str] = ()
    strategy: str = strategies_of_versions.ONLINE


@dataclass(frozen=True)
class Plan:
    """Versions to apply now, in order, those that stay for later, and which of these waits for its time, and why.

    :ivar unneeded: repairs among the versions to apply now, of which there is nothing to do: they are recorded and not run.
    """

    pending: list[Mapping[str, Any]]
    later: list[str]
    waiting: list[dict[str, str]] = field(default_factory=list)
    unneeded: frozenset[str] = frozenset()

    @property
    def versions(self) -> list[str]:
        """:return: the versions to apply now."""
        return [str(migration["version"]) for migration in self.pending]

    @property
    def risk(self) -> str | None:
        """:return: the highest risk of what is to be applied."""
        risks = [RISKS.index(str(migration.get("risk") or "low")) for migration in self.pending]
        return RISKS[max(risks)] if risks else None

    def rendered_checksum(self) -> str:
        """:return: sha256 over (version, checksum of the rendered SQL) of what is to be applied."""
        rows = [[str(m["version"]), str(m["rendered_checksum"])] for m in self.pending]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def state(conn: Connection, found: Ledger, plan: Plan) -> dict[str, str]:
    """:return: what must not move between the proved backup and the apply; read in the caller's transaction if any."""
    return {
        "ledger_head": found.head,
        "catalog_fingerprint": catalog.fingerprint(catalog.inventory(conn)),
        "rendered_checksum": plan.rendered_checksum(),
    }


def edited_files(row: Migration, migration: Mapping[str, Any]) -> list[dict[str, str]]:
    """:return: the files that differ from what was stored, each with a unified diff from stored to disk."""
    told = []
    disk: Mapping[str, Mapping[str, str]] = migration["files"]
    folder = f"{row.version}_{row.name}"
    for name in sorted(set(row.files) | set(disk)):
        stored, found = row.files.get(name), disk.get(name)
        if stored and found and stored["sha256"] == found["sha256"]:
            continue
        diff = difflib.unified_diff(
            (stored or {}).get("text", "").splitlines(keepends=True),
            (found or {}).get("text", "").splitlines(keepends=True),
            f"{folder}/{name} (applied)" if stored else "/dev/null",
            f"{folder}/{name} (on disk)" if found else "/dev/null",
        )
        text = "".join(line if line.endswith("\n") else line + "\n" for line in diff)
        told.append({"file": f"{folder}/{name}", "change": _change(stored, found), "diff": text})
    return told


def _change(stored: object, found: object) -> str:
    return "edited" if stored and found else "removed" if stored else "added"


def make(
    found: Ledger,
    migrations: Sequence[Mapping[str, Any]],
    selection: Selection,
    *,
    stored: Callable[[str], Mapping[str, Any]],
    standing: Callable[[Collection[str]], Collection[str]],
    database: str,
) -> Plan:
    """Compare and select.

    :param migrations: the whole tree, rendered, in version order.
    :param stored: the rendered migration that the ledger keeps for a version.
    :param standing: which of the indexes of these names (``schema.name``) are there and valid.
    :raises PgopsError: the database is on a baseline, an applied version's files were edited or are missing, a new version
        sorts before an applied one, a version is half reverted, an unknown target.
    """
    _refuse_baseline(found, database)
    tree = {str(migration["version"]): migration for migration in migrations}
    _refuse_missing(found, tree, database)
    _refuse_edited(found, tree, stored, standing, database)
    half = found.in_state("reverting")
    if half:
        raise PgopsError(
            f"Version {half[0].version} is half reverted in {database}; finish the rollback first.",
            database=database,
            extra={"reason": "reverting", "version": half[0].version},
        )
    pending = [
        tree[version]
        for version in sorted(tree)
        if (row := found.get(version)) is None or row.state in ("applying", "failed", "reverted")
    ]
    unneeded = _unneeded(found, pending)
    new = [migration for migration in pending if str(migration["version"]) not in unneeded]
    _refuse_out_of_order(found, new, selection, database)
    if selection.target is not None:
        if selection.target not in tree:
            near = near_versions.nearest(selection.target, tree)
            raise PgopsError(
                f"There is no version {selection.target} to apply up to"
                + (f"; the nearest is {near}." if near else "."),
                database=database,
                extra={"reason": "unknown_target"},
            )
        bound = selection.target
        now = [migration for migration in pending if str(migration["version"]) <= bound]
    else:
        now = list(pending)
    if selection.steps is not None:
        if selection.steps < 1:
            raise PgopsError(f"migrate_steps is {selection.steps}; give 1 or more.", database=database)
        now = now[: selection.steps]
    # Nobody waits in a database in which nothing was applied yet.
    if found.migrations:
        now = strategies_of_versions.chosen(now, selection.strategy, database)
    taken = {str(migration["version"]) for migration in now}
    later = [str(m["version"]) for m in pending if str(m["version"]) not in taken]
    return Plan(now, later, unneeded=unneeded & taken)


def _refuse_baseline(found: Ledger, database: str) -> None:
    if found.baseline is None:
        return
    raise PgopsError(
        f"{database} is on baseline {found.baseline.name} (recorded {found.baseline.at[:10]} by {found.baseline.who}): its ids are "
        "text and the tree's are uuid, so no version of the tree is applied there, and none was now.",
        database=database,
        extra={"reason": "baseline", "baseline": found.baseline.name},
    )


def _refuse_missing(found: Ledger, tree: Mapping[str, Mapping[str, Any]], database: str) -> None:
    gone = [row for row in found.migrations if row.state != "reverted" and row.version not in tree]
    if gone:
        names = ", ".join(f"{row.version}_{row.name}" for row in gone)
        raise PgopsError(
            f"{names} {'is' if len(gone) == 1 else 'are'} in the ledger of {database} but not in the tree; "
            "bring the folder back (the ledger keeps its text) or revert the version.",
            database=database,
            extra={"reason": "missing", "versions": [row.version for row in gone]},
        )


def _refuse_edited(
    found: Ledger,
    tree: Mapping[str, Mapping[str, Any]],
    stored: Callable[[str], Mapping[str, Any]],
    standing: Callable[[Collection[str]], Collection[str]],
    database: str,
) -> None:
    for row in found.migrations:
        migration = tree.get(row.version)
        if migration is None or row.state == "reverted":
            continue
        edited = row.checksum != migration["checksum"]
        files = edited_files(row, migration) if edited else []
        named = ", ".join(f"{file['file']} ({file['change']})" for file in files)
        if row.state in ("applied", "reverting"):
            if not edited:
                continue
            raise PgopsError(
                f"Version {row.version} was applied to {database} and its files differ since: {named}; "
                "put the applied text back, and change the schema with a new version.",
                database=database,
                extra={"reason": "edited", "version": row.version, "files": files},
            )
        # Not applied yet: a broken file may be mended, as long as what is done already stays what it was.
        begun = [step for step in row.steps if step.state == "done" or step.progress]
        before, after = stored(row.version)["steps"] if begun else [], migration["steps"]
        for step in begun:
            now = after[step.ordinal - 1] if step.ordinal <= len(after) else {}
            # A step that was left out when the version was mended is behind the end of what is stored.
            then = before[step.ordinal - 1] if step.ordinal <= len(before) else {}
            one_transaction = bool(migration.get("transaction", True))
            done = begun_steps.done_otherwise(step, then, now, edited, standing, one_transaction)
            if done is None:
                continue
            what, own_text = done
            why, instead = (
                (f"was edited since ({named})", f"put {own_text} back")
                if edited
                else ("is another one now, for a variable has another value", "give the values of then")
            )
            stopped_at = row.failed_step or next((s.ordinal for s in row.steps if s.state != "done"), len(row.steps))
            raise PgopsError(
                f"Version {row.version} stopped at step {stopped_at} in {database}, and {what} {why}; {instead} or "
                "revert the version first.",
                database=database,
                extra={"reason": "edited", "version": row.version, "files": files, "step": step.ordinal},
            )


def _unneeded(found: Ledger, pending: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """:return: repairs that were written for another database, where this one is further on: what they complete is complete
    here, and later versions may have changed it since."""
    last = max((row.version for row in found.migrations if row.state != "reverted"), default="")
    return frozenset(
        version
        for version, migration in ((str(migration["version"]), migration) for migration in pending)
        if migration.get("repairs")
        and version < last
        and version not in found.adopted_around
        and ((row := found.get(version)) is None or row.state == "reverted")
    )


def _refuse_out_of_order(
    found: Ledger, pending: Sequence[Mapping[str, Any]], selection: Selection, database: str
) -> None:
    known = [row.version for row in found.migrations if row.state != "reverted"]
    if not known or selection.allow_out_of_order:
        return
    last = max(known)
    # A version that was applied once, in order, and reverted alone is no newcomer, nor is one that was missing when the
    # database was taken over.
    new = [
        m
        for m in pending
        if str(m["version"]) < last
        and found.get(str(m["version"])) is None
        and str(m["version"]) not in found.adopted_around
    ]
    if new:
        names = ", ".join(f"{m['version']}_{m['name']}" for m in new)
        raise PgopsError(
            f"{names} {'sorts' if len(new) == 1 else 'sort'} before version {last}, which is in {database} already; "
            "give it a later version (in the environment local also: -e migrate_allow_out_of_order=true).",
            database=database,
            extra={"reason": "out_of_order", "versions": [str(m["version"]) for m in new]},
        )


def status_rows(
    found: Ledger,
    migrations: Sequence[Mapping[str, Any]],
    *,
    running: bool = False,
    unreadable: Mapping[str, str] = MappingProxyType({}),
    statements: Mapping[str, int] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Every version of the ledger and of the tree, in order.

    :param migrations: ``version``, ``name``, ``title``, ``checksum`` and ``files`` of each folder.
    :param running: a run holds the lock now, so ``applying`` is not an interruption.
    :param unreadable: version -> name of the folders that are there and cannot be read.
    :param statements: version -> how many statements the step has that it stopped in.
    """
    tree = {str(migration["version"]): migration for migration in migrations}
    rows = []
    for version in sorted({*tree, *unreadable, *(row.version for row in found.migrations)}):
        row, migration = found.get(version), tree.get(version)
        if row is None:
            known = migration or {"name": unreadable[version]}
            rows.append(
                {
                    "version": version,
                    "name": known["name"],
                    "title": known.get("title"),
                    "state": "pending",
                    "told": "pending" if migration else f"pending{UNREADABLE}",
                    "applied_at": None,
                    "by": None,
                    "duration_s": None,
                    "on_disk": "unchanged" if migration else "unreadable",
                    "failed_step": None,
                    "reason": None,
                    "error": None,
                    "run_id": None,
                    "rollback": known.get("rollback"),
                    "changed_files": [],
                }
            )
            continue
        on_disk = "unchanged" if migration is not None else "unreadable" if version in unreadable else "missing"
        changed: list[str] = []
        if migration is not None and row.checksum != migration["checksum"]:
            on_disk = "changed"
            changed = [file["file"] for file in edited_files(row, migration)]
        state_name, told = _told(row, running, statements.get(version, 0))
        if state_name == "pending" and on_disk == "changed":
            on_disk = "unchanged"  # reverted: the file may change before it is applied again
        if state_name == "pending" and on_disk == "missing":
            continue
        told += {"changed": ", changed on disk", "missing": ", missing on disk", "unreadable": UNREADABLE}.get(
            on_disk, ""
        )
        rows.append(
            {
                "version": version,
                "name": row.name,
                "title": row.title,
                "state": state_name,
                "told": told,
                "applied_at": row.finished_at if state_name == "applied" else None,
                "by": row.applied_by if state_name == "applied" else None,
                # Added up when it ends; a run that was cut off left none.
                "duration_s": round(row.duration_s, 3) or None,
                "on_disk": on_disk,
                "failed_step": row.failed_step,
                "reason": row.reason,
                "error": row.error,
                "run_id": row.run_id,
                "rollback": migration.get("rollback") if migration else None,
                "changed_files": changed,
            }
        )
    return rows


def _told(row: Migration, running: bool, statements: int) -> tuple[str, str]:
    half = _half_done(row)
    undone = [step.ordinal for step in row.steps if step.state != "done"]
    step = row.failed_step or (undone[0] if undone else len(row.steps))
    of = f"step {step} of {len(row.steps)}{begun_steps.how_far(half, statements) if half else ''}"
    if row.state == "applied":
        return "applied", "applied (adopted)" if row.adopted else "applied"
    if row.state == "reverted":
        return "pending", "pending (reverted)"
    if row.state == "reverting":
        return ("running", "reverting now") if running and not row.reason else ("reverting", "half reverted")
    if row.state == "applying":
        return ("running", f"running {of}") if running else ("interrupted", f"interrupted at {of}")
    words = {
        "lock_wait": "waited too long for locks at",
        "time_limit": "hit its time limit at",
        "interrupted": "interrupted at",
    }
    return "failed", f"{words.get(row.reason or '', 'failed at')} {of}"


def _half_done(row: Migration) -> Step | None:
    """:return: the step that a version which is not applied stopped in, or is at."""
    if row.state not in ("applying", "failed"):
        return None
    undone = [step for step in row.steps if step.state != "done"]
    return next((step for step in undone if step.ordinal == row.failed_step), undone[0] if undone else None)


def _statements_of(conn: Connection, found: Ledger) -> dict[str, int]:
    """:return: of each version that stopped between two statements of a step how many that step has."""
    halves = {row.version: half for row in found.migrations if (half := _half_done(row)) is not None}
    versions = [version for version, half in halves.items() if begun_steps.committed_statements(half)]
    ordinals = [halves[version].ordinal for version in versions]
    return {
        version: len(step.get("up") or [])
        for version, ordinal, migration in zip(versions, ordinals, all_stored(conn, versions))
        for step in migration["steps"][ordinal - 1 : ordinal]
    }


def status(
    target: Target,
    migrations: Sequence[Mapping[str, Any]],
    *,
    prefix: str | None = None,
    newest_first: bool = False,
    unreadable: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Read where a database is; writes nothing and takes no lock.

    :param prefix: only versions that begin with it.
    :param unreadable: version -> name of the folders that are there and cannot be read.
    :return: ``versions``, ``counts``, ``running``, ``ledger``, ``ledger_head``, ``baseline``, ``swap``: one that was cut off, and ``blue_green``: its slot.
    """
    conn = connect(target, application_name="pgops status")
    try:
        found = read(conn)
        statements = _statements_of(conn, found)
        holder = locks.holder(conn)
        pending = pending_swap.look(conn, target.database)
        beside = blue_green_state.trace(conn, target.database)
    finally:
        conn.close()
    # On a baseline nothing of the tree is pending: none of it fits.
    rows = status_rows(
        found,
        [] if found.baseline else migrations,
        running=holder is not None,
        unreadable={} if found.baseline else unreadable,
        statements=statements,
    )
    if prefix:
        rows = [row for row in rows if row["version"].startswith(prefix)]
    if newest_first:
        rows.reverse()
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    return {
        "versions": rows,
        "counts": counts,
        "running": holder.as_dict() if holder else None,
        "ledger": found.exists,
        "ledger_head": found.head,
        "baseline": asdict(found.baseline) if found.baseline else None,
        "swap": pending.as_dict() if pending else None,
        "blue_green": beside,
    }
