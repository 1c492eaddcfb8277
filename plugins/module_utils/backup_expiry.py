# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Deletes the backups that nothing keeps; a look and a real run decide by the same function.

When the server cannot be asked what a rollback needs, nothing is deleted, unless somebody says that it is to be done without:
a file system that is full of backups may be what keeps the server down.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Callable

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_catalogue,
    backup_deletion,
    backup_store,
    cluster_backups,
    ledger,
    locks,
    needed_backups,
    retention,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_catalogue import HALF_WRITTEN, Decision
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_deletion import Deletions, Step
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, as_pgops_error
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress

EVENT = "backup_deleted"


@dataclass(frozen=True)
class Asked:
    """What an expiry was typed for.

    :ivar environment: the backups of another one are left.
    :ivar offline: delete also where the server cannot be asked what a rollback needs.
    """

    policy: retention.Policy
    environment: str = ""
    run_id: str = "by-hand"
    who: str = ""
    offline: bool = False


def expire(
    target: Target,
    directory: str,
    asked: Asked,
    *,
    check_only: bool = False,
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    progress: Progress | None = None,
    control: Control | None = None,
    after: Step = lambda step: None,
) -> dict[str, Any]:
    """Delete the backups of one database that neither the policy nor a pin keeps, and what dead runs left half-written.

    :param directory: the folder that holds a folder for each database, on this host.
    :param check_only: only say what would go.
    :return: folder, ``expired`` (each id, bytes, why), ``kept`` (id, by), ``left`` (id, told), ``not_asked`` (why the server
        was not asked what a rollback needs), ``audited`` (rows written into the ledger's audit) and ``not_audited`` (why not all are).
    :raises PgopsError: the folder is no folder of this user's, it is locked, the server cannot be asked, or a deletion failed; what
        was deleted until then is in ``extra["databases"]``.

    Takes the lock of the database's backups while it deletes.
    """
    folder = backup_store.database_folder(directory, target.database)
    backup_deletion.refuse_strange_folder(folder, target.database)
    if not os.path.isdir(folder):
        return _result(folder, [], "there is no such folder")
    if check_only:
        backup_deletion.refuse_locked(folder, target.database)
        return _result(folder, *_decide(target, directory, asked, now()))
    with backup_store.locked(directory, target.database, f"expire {asked.run_id}"):
        decisions, why_not = _decide(target, directory, asked, now())
        result = _result(folder, decisions, why_not)
        deletions = Deletions(
            folder,
            target.database,
            {"run_id": asked.run_id, "who": asked.who},
            lambda: now().astimezone(timezone.utc).isoformat(timespec="milliseconds"),
            after,
        )
        try:
            _delete(deletions, decisions, result, progress or Progress(), control or Control())
        except PgopsError as error:
            # What went before it is gone, and has to be told.
            error.extra["databases"] = {target.database: result}
            raise
        finally:
            result.update(_audit(target, deletions, asked.run_id))
    return result


def _decide(target: Target, directory: str, asked: Asked, now: datetime) -> tuple[list[Decision], str]:
    """:return: of each entry what keeps it; and what could not be asked, empty where all was."""
    name = f"{locks.application_name(asked.run_id)} expire"
    needed: dict[str, str] = {}
    why_not = _ask(asked, target.database, needed, lambda: needed_backups.restored_now(target, application_name=name))
    unread = _ask(
        asked, target.database, needed, lambda: needed_backups.gone_back_to(target, directory, application_name=name)
    )
    # Without asking those of every cluster go by the policy, each with its newest from before a change kept.
    cluster = "" if asked.offline else cluster_backups.identifier(target, application_name=name)
    found = backup_catalogue.entries(directory, target.database)
    decisions = backup_catalogue.decide(
        found,
        asked.policy,
        now,
        environment=asked.environment,
        cluster=cluster,
        needed=needed,
        ledger_read=not (unread or asked.offline),
    )
    for decision in decisions:
        if decision.expires:
            backup_deletion.refuse_other_owner(decision.entry.path, decision.entry.owner, target.database)
    # The oldest first: should it be cut off, what is left is what a later one would leave.
    return sorted(decisions, key=lambda decision: decision.entry.id), why_not or unread


def _ask(asked: Asked, database: str, needed: dict[str, str], question: Callable[[], dict[str, str]]) -> str:
    """Add what a rollback needs. :return: why that could not be asked, where it is to be done without; empty where it was."""
    try:
        needed.update(question())
    except PgopsError as error:
        if asked.offline:
            return error.message
        raise PgopsError(
            f"What a rollback of {database} needs cannot be asked, so nothing was deleted: {error.message}",
            sqlstate=error.sqlstate,
            database=database,
            hint="Mend that; or delete without asking with -e backup_expire_offline=true, which keeps the newest backup from "
            "before a change.",
        ) from None
    return ""


def _why(decision: Decision) -> str:
    return "never finished" if decision.entry.state == HALF_WRITTEN else "no rule of the policy keeps it"


def _result(folder: str, decisions: Sequence[Decision], why_not: str) -> dict[str, Any]:
    return {
        "folder": folder,
        "expired": [
            {
                "id": decision.entry.id,
                "bytes": decision.entry.bytes,
                "snapshot_time": decision.entry.manifest.get("snapshot_time"),
                "why": _why(decision),
            }
            for decision in decisions
            if decision.expires
        ],
        "kept": [
            {"id": decision.entry.id, "by": [*decision.pinned, *decision.rules]}
            for decision in decisions
            if not decision.expires and not decision.left
        ],
        "left": [{"id": decision.entry.id, "told": decision.left} for decision in decisions if decision.left],
        "not_asked": why_not or None,
        "audited": 0,
        "not_audited": None,
    }


def _delete(
    deletions: Deletions, decisions: Sequence[Decision], result: dict[str, Any], progress: Progress, control: Control
) -> None:
    """Leave in ``result["expired"]`` what was deleted; what is not to go after all comes to ``result["left"]``."""
    going = {entry["id"]: entry for entry in result["expired"]}
    result["expired"] = []
    for number, decision in enumerate((one for one in decisions if one.expires), 1):
        entry = decision.entry
        control.check()
        progress.emit("deleting backups", database=deletions.database, done=number, total=len(going), unit="backups")
        try:
            deletions.delete(entry, _why(decision))
        except (OSError, PgopsError) as error:
            if isinstance(error, PgopsError) and (error.extra.get("left") or error.extra.get("locked")):
                result["left"].append({"id": entry.id, "told": error.message.rstrip(".")})
                continue
            raise _broken_off(error, deletions.database, entry.path, len(result["expired"])) from None
        result["expired"].append(going[entry.id])


def _broken_off(error: OSError | PgopsError, database: str, path: str, done: int) -> PgopsError:
    told = error.message.rstrip(".") if isinstance(error, PgopsError) else f"{error.strerror or error}"
    return PgopsError(
        f"The backup {path} could not be deleted: {told}; {done} were deleted before it, and the rest are as they were.",
        database=database,
        hint="Mend that, then run the same command again.",
        extra={"errno": error.errno} if isinstance(error, OSError) else {},
    )


def _audit(target: Target, deletions: Deletions, run_id: str) -> dict[str, Any]:
    """Write into the ledger's audit what it does not have yet, also of earlier runs that could not reach it."""
    waiting = deletions.unaudited()
    if not waiting:
        return {"audited": 0, "not_audited": None}
    written = 0
    try:
        conn = connect(target, application_name=f"{locks.application_name(run_id)} expire")
        try:
            if not ledger.schema_version(conn):
                return {"audited": 0, "not_audited": f"{target.database} has no ledger"}
            with ledger.transaction(conn):
                for line in waiting:
                    detail = {name: value for name, value in line.items() if name not in ("event", "run_id")}
                    ledger.append_audit(conn, EVENT, run_id=str(line.get("run_id") or run_id), detail=detail)
            written = len(waiting)
            deletions.note({"event": backup_deletion.AUDITED, "ids": [line["id"] for line in waiting]})
        finally:
            conn.close()
    except (OSError, PgopsError, psycopg2.Error) as exc:
        if isinstance(exc, OSError):
            return {"audited": written, "not_audited": f"{deletions.folder}: {exc.strerror}"}
        return {"audited": written, "not_audited": as_pgops_error(exc, "The audit was not written").message}
    return {"audited": written, "not_audited": None}
