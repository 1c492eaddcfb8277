# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A signed checkpoint takes the place of the beginning of an audit, once that is archived and past its retention.

The document of a checkpoint says whose audit it is (environment, host, database, system identifier of the cluster), which rows the
archive holds, its sha256, the hash of its last row, and the hash of the line of the last anchor before that, and so of all anchors before.
The chain then begins behind that row, and the verifier takes the beginning only where an allowed signer has signed the document, and where
what was kept outside of the database knows that row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import audit_export, audit_verifier, backup_store, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

EVENT = "audit_checkpointed"
# Made by the first checkpoint and not before: most databases never have one.
_CREATE = """
CREATE TABLE IF NOT EXISTS pgops.audit_checkpoint (
    seq bigint PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    document json NOT NULL
)
"""
_HAND_OVER = """
DO $hand_over$
BEGIN
    EXECUTE format('ALTER TABLE pgops.audit_checkpoint OWNER TO %s', (SELECT relowner::regrole FROM pg_catalog.pg_class
                   WHERE oid = 'pgops.audit'::regclass));
    EXECUTE format('REVOKE ALL ON pgops.audit_checkpoint FROM PUBLIC');
    EXECUTE format('GRANT SELECT ON pgops.audit_checkpoint TO %s', (SELECT relowner::regrole FROM pg_catalog.pg_class
                   WHERE oid = 'pgops.migration'::regclass));
    EXECUTE (SELECT coalesce(string_agg(format('GRANT SELECT ON pgops.audit_checkpoint TO %s', a.grantee::regrole), '; '), 'SELECT')
               FROM pg_catalog.pg_class c, aclexplode(c.relacl) a
              WHERE c.oid = 'pgops.audit'::regclass AND a.privilege_type = 'SELECT' AND a.grantee <> 0);
END
$hand_over$
"""
_DUE = """
SELECT max(seq) AS seq, count(*) AS rows FROM pgops.audit
 WHERE at < %s::timestamptz AND seq < (SELECT max(seq) FROM pgops.audit)
   AND seq < coalesce((SELECT min(seq) FROM pgops.audit WHERE at >= %s::timestamptz), 9223372036854775807)
"""


def archive(
    conn: Connection, before: str, path: str, place: Mapping[str, str] | None = None, *, check: bool = False
) -> dict[str, Any] | None:
    """Write the rows that are past their retention into a file as an export has it; nothing is deleted.

    :param before: rows from before this moment, ISO 8601; the last row of the audit always stays.
    :param place: ``environment`` and ``host`` as the inventory has them.
    :param check: only count them.
    :return: ``seq`` and ``hash`` of the last of them, ``rows``, ``archive_sha256`` and ``system_identifier``; None where none is due.
    :raises OSError: the file cannot be written.
    """
    if ledger.schema_version(conn) == 0:
        return None
    due = fetch_one(conn, _DUE, (before, before)) or {}
    if not due.get("seq"):
        return None
    last = int(due["seq"])
    if check:
        return {"seq": last, "rows": int(due["rows"])}
    backup_store.make_private_folder(os.path.dirname(path))
    written = audit_export.write(conn, path, upto=last, place=place)
    row = fetch_one(conn, "SELECT hash FROM pgops.audit WHERE seq = %s", (last,)) or {}
    return {
        "seq": last,
        "hash": str(row["hash"]),
        "rows": written["rows"],
        "archive_sha256": written["sha256"],
        "system_identifier": _cluster(conn),
    }


def _cluster(conn: Connection) -> str:
    return str((fetch_one(conn, audit_verifier.CLUSTER) or {})["system_identifier"])


def cut(conn: Connection, document: Mapping[str, Any], run_id: str | None) -> dict[str, Any]:
    """Put a signed checkpoint in the place of what it has archived, in one transaction that refuses writers meanwhile.

    :param conn: of the audit's owner or a superuser.
    :param document: with ``environment``, ``host``, ``database``, ``system_identifier``, ``seq``, ``hash``, ``rows``, ``archive``,
        ``archive_sha256``, ``anchored`` and ``signature``.
    :return: ``head`` of the audit and the number of ``rows`` that went.
    :raises PgopsError: the audit is not what was archived, or a right is missing; nothing was changed.
    """
    name, seq = conn.info.dbname, int(document["seq"])
    try:
        with ledger.transaction(
            conn, "SET LOCAL lock_timeout = '5s'; LOCK TABLE pgops.audit IN SHARE ROW EXCLUSIVE MODE"
        ):
            execute(conn, _CREATE)
            execute(conn, _HAND_OVER)
            found = fetch_one(
                conn,
                "SELECT (SELECT hash FROM pgops.audit WHERE seq = %(seq)s) AS hash, "
                "(SELECT count(*) FROM pgops.audit WHERE seq <= %(seq)s) AS rows, (SELECT max(seq) FROM pgops.audit) AS last",
                {"seq": seq},
            )
            if (
                not found
                or found["hash"] != document["hash"]
                or found["rows"] != document["rows"]
                or found["last"] <= seq
                or (document.get("database"), document.get("system_identifier")) != (name, _cluster(conn))
            ):
                raise PgopsError(
                    f"The audit of {name} is not the one that was archived; nothing was changed.", database=name
                )
            execute(conn, "ALTER TABLE pgops.audit DISABLE TRIGGER audit_no_delete")
            execute(conn, "DELETE FROM pgops.audit WHERE seq <= %s", (seq,))
            execute(conn, "ALTER TABLE pgops.audit ENABLE ALWAYS TRIGGER audit_no_delete")
            execute(
                conn,
                "INSERT INTO pgops.audit_checkpoint (seq, document) VALUES (%s, %s)",
                (seq, json.dumps(dict(document))),
            )
            told = {key: value for key, value in document.items() if key != "signature"}
            head = ledger.append_audit(conn, EVENT, run_id=run_id, detail=told)
    except psycopg2.errors.InsufficientPrivilege as exc:
        raise PgopsError(
            f"Role {conn.info.user} may not cut the audit of {name} ({str(exc).splitlines()[0]}); nothing was changed.",
            sqlstate="42501",
            database=name,
            hint="Name a superuser with pgops_restore_user.",
        ) from None
    return {"head": head, "rows": int(document["rows"])}


def start(conn: Connection) -> tuple[int, str]:
    """:return: number and hash of the row before the first one of this audit."""
    there = fetch_one(conn, "SELECT to_regclass('pgops.audit_checkpoint') IS NOT NULL AS yes")
    row = fetch_one(conn, audit_verifier.CHECKPOINT) if there and there["yes"] else None
    return (int(row["document"]["seq"]), str(row["document"]["hash"])) if row else (0, audit_verifier.GENESIS)
