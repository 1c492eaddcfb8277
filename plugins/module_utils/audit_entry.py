# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The last row of a run in the audit of a database, and what of the audit the ops host does not have yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import audit_verifier, ledger, phi_logging
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

RUN_ENDED = "run_ended"
SIGNED_OFF = "signed_off"
# So many rows go to the ops host at once; those of a long history follow at the next runs.
COPIED_AT_MOST = 2000

_AFTER = (
    f"SELECT * FROM ({audit_verifier.ROWS.replace('ORDER BY seq', '')}) AS r WHERE r.seq > %s ORDER BY r.seq LIMIT %s"
)
# Without pg_monitor the state of a standby is not told, and any that is there may be one that commits wait for.
_NOBODY_FOLLOWS = """
SELECT current_setting('synchronous_standby_names') <> '' AND NOT EXISTS (
         SELECT FROM pg_catalog.pg_stat_replication WHERE sync_state IS NULL OR sync_state IN ('sync', 'quorum')) AS alone
"""
_PHI_COLUMNS = """
SELECT format('%%s.%%s', n.nspname, c.relname) AS table, array_agg(a.attname::text ORDER BY a.attnum)
       FILTER (WHERE a.attname IS NOT NULL AND d.objsubid > 0) AS columns
  FROM pg_catalog.pg_description d
  JOIN pg_catalog.pg_class c ON c.oid = d.objoid AND d.classoid = 'pg_catalog.pg_class'::regclass
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.objsubid AND a.attnum > 0
 WHERE d.description ~ '^PHI\\y' AND format('%%s.%%s', n.nspname, c.relname) = ANY(%s)
 GROUP BY 1 ORDER BY 1
"""
# Who may read a table of PHI, and whether policies choose the rows. A role that is a member of one of these may as well.
_PHI_ACCESS = """
SELECT format('%%s.%%s', n.nspname, c.relname) AS table, c.relrowsecurity AND c.relforcerowsecurity AS row_security,
       (SELECT coalesce(array_agg(DISTINCT coalesce(r.rolname, 'PUBLIC')::text ORDER BY coalesce(r.rolname, 'PUBLIC')::text), '{}')
          FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
         WHERE a.privilege_type = 'SELECT') AS may_read
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE format('%%s.%%s', n.nspname, c.relname) = ANY(%s) ORDER BY 1
"""


@dataclass(frozen=True)
class Kept:
    """What the ops host has of a database.

    :ivar heads: its newest anchors, ``seq`` and ``hash``, newest first.
    :ivar to: the row that was copied last.
    """

    heads: Sequence[Mapping[str, Any]] = field(default_factory=list)
    to: Mapping[str, Any] | None = None


def settle(conn: Connection, run_id: str, entry: Mapping[str, Any] | None, kept: Kept) -> dict[str, Any]:
    """Add the run's last row where the run has written into this database, and tell what is to be anchored.

    A run that wrote nothing leaves nothing: before its backup is proved the database is not written to.

    :param entry: the detail of that row; None to add none.
    :return: ``there`` whether there is an audit; ``recorded``; ``lacking``, versions that the run says it has applied or reverted and
        of which the audit has no row; ``head``; ``common``, the newest anchor that the database still
        has, None where it has none; ``held``, the hashes of all anchored rows that it has; ``rows`` that the ops host lacks; ``cluster``.
    :raises PgopsError: the ledger is a newer tool's, or may not be read.
    """
    cluster = dict(fetch_one(conn, audit_verifier.CLUSTER) or {})
    if ledger.schema_version(conn) == 0:
        return {
            "there": False,
            "recorded": False,
            "head": None,
            "common": None,
            "held": [],
            "rows": [],
            "cluster": cluster,
        }
    held = [head for head in kept.heads if _has(conn, head)]
    common: dict[str, Any] | None = {"seq": int(held[0]["seq"]), "hash": str(held[0]["hash"])} if held else None
    recorded = entry is not None and _wrote(conn, run_id)
    if recorded and entry is not None:
        _commit_alone_where_nobody_follows(conn)
        ledger.append_audit(conn, RUN_ENDED, run_id=run_id, detail=with_phi(conn, entry))
    lacking = _lacking(conn, run_id, entry) if recorded and entry is not None else []
    copied = kept.to if kept.to and _has(conn, kept.to) else common
    return {
        "there": True,
        "recorded": recorded,
        "lacking": lacking,
        "head": ledger.audit_head(conn),
        "common": common,
        "held": [str(head["hash"]) for head in held],
        "rows": fetch_all(conn, _AFTER, (int(copied["seq"]) if copied else 0, COPIED_AT_MOST)),
        "cluster": cluster,
        "server_version": str((fetch_one(conn, "SHOW server_version") or {}).get("server_version")),
    }


def _lacking(conn: Connection, run_id: str, entry: Mapping[str, Any]) -> list[str]:
    """What the run says of itself is no proof: each version has its own row, written with it, or by the run that has prepared it."""
    done = [
        (item.get("run_id") or run_id, item.get("status"), item.get("version"))
        for item in entry.get("migrations") or []
    ]
    rows = fetch_all(
        conn,
        "SELECT DISTINCT run_id, event, version FROM pgops.audit WHERE run_id = ANY (%s)",
        ([run_id, *(str(run) for run, _event, _version in done)],),
    )
    there = {(row["run_id"], row["event"], row["version"]) for row in rows}
    owed = [*(one for one in done if one[1] in ("applied", "reverted")), (run_id, RUN_ENDED, None)]
    return [str(version or event) for run, event, version in owed if (run, event, version) not in there]


def with_phi(conn: Connection, entry: Mapping[str, Any]) -> dict[str, Any]:
    """:return: the entry with the columns of its tables whose comments say that they hold PHI, who may
    read them, whether queries through indexes of PHI are logged, and server and role."""
    tables = [str(table) for table in entry.get("tables_affected") or []]
    found = (
        {str(row["table"]): row["columns"] or [] for row in fetch_all(conn, _PHI_COLUMNS, (tables,))} if tables else {}
    )
    searches = phi_logging.searches(conn)
    who = (
        fetch_one(conn, "SELECT session_user::text AS account, current_setting('server_version') AS server_version")
        or {}
    )
    return {
        **entry,
        "phi_fields": found,
        "phi_impact": bool(entry.get("phi_impact") or found),
        "phi_access": _access(conn, list(found)),
        "phi_searches": searches.as_dict() if searches.indexes else None,
        "service_account": who.get("account"),
        "server_version": who.get("server_version"),
    }


def _access(conn: Connection, tables: list[str]) -> dict[str, Any]:
    rows = fetch_all(conn, _PHI_ACCESS, (tables,)) if tables else []
    return {str(row["table"]): {name: row[name] for name in ("row_security", "may_read")} for row in rows}


def _wrote(conn: Connection, run_id: str) -> bool:
    query = "SELECT EXISTS (SELECT FROM pgops.run WHERE id = %(run)s) OR EXISTS (SELECT FROM pgops.audit WHERE run_id = %(run)s) AS yes"
    return bool((fetch_one(conn, query, {"run": run_id}) or {}).get("yes"))


def _commit_alone_where_nobody_follows(conn: Connection) -> None:
    """Behind a change of clusters no standby follows, and the run would end no more than the commits of the clients do."""
    # The role that logs in may have pg_monitor, the owner that it acts as seldom has.
    execute(conn, "BEGIN; SET LOCAL ROLE NONE")
    try:
        found = fetch_one(conn, _NOBODY_FOLLOWS)
    finally:
        execute(conn, "ROLLBACK")
    if found and found["alone"]:
        execute(conn, "SET synchronous_commit = local")


def _has(conn: Connection, row: Mapping[str, Any]) -> bool:
    found = fetch_one(conn, "SELECT hash FROM pgops.audit WHERE seq = %s", (int(row["seq"]),))
    return found is not None and bool(found["hash"] == row["hash"])


@dataclass(frozen=True)
class SignOff:
    """Who signs which run off, as what, with what to say about it, and whose account typed that."""

    run: str
    name: str
    role: str
    note: str = ""
    typed_by: str = ""


def sign_off(conn: Connection, run_id: str | None, signed: SignOff, *, check: bool = False) -> dict[str, Any] | None:
    """Add the row of a sign-off.

    :param run_id: of the run in hand.
    :param check: only see whether it could be.
    :return: the new head, None in check mode.
    :raises PgopsError: nobody is named, or this audit knows no such run.
    """
    name = conn.info.dbname
    if not signed.run or not signed.name or not signed.role:
        raise PgopsError(
            "A sign-off names the run and who signs it off.",
            hint="Name them with -e audit_sign_off_run=RUN -e \"audit_sign_off_name='NAME'\" -e \"audit_sign_off_role='ROLE'\".",
        )
    if ledger.schema_version(conn) == 0 or not _wrote(conn, signed.run):
        raise PgopsError(
            f"The audit of {name} knows no run {signed.run}; a run that wrote nothing there is not signed off.",
            database=name,
        )
    if check:
        return None
    detail = {
        "run": signed.run,
        "name": signed.name,
        "role": signed.role,
        "note": signed.note or None,
        "typed_by": signed.typed_by,
    }
    return ledger.append_audit(conn, SIGNED_OFF, run_id=run_id, detail=detail)
