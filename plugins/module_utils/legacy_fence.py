# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make an accidental migration by the tool before this one fail with a message, and leave the application alone.

Sequelize writes its row after the DDL, so a trigger on its ledger would come too late: an event trigger refuses the DDL of
its login. Only a superuser may make one; without, the login loses what DDL needs, ownership and CREATE, and keeps all
rights on rows. Prisma writes its row before the DDL, so a trigger on its ledger is enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.legacy_ledger import SEQUELIZE, LegacyLedger
from psycopg2 import sql

EVENT_TRIGGER = "event trigger"
RIGHTS = "ownership and CREATE"
TRIGGER = "trigger"

_NAME = "pgops_fence_legacy"
_EVENTS = ("ddl_command_start", "ddl_command_end", "sql_drop")
_MESSAGE = (
    "This database is migrated by whitecross.pgops now, so a migration by {tool} is refused. Use ansible-playbook migrate.yml; "
    "-e adopt_fence_legacy=false takes the fence away."
)
# A temporary table is no migration: the application may make one. CREATE TABLE IF NOT EXISTS of the tool's own ledger makes
# nothing and passes as well, so that its status command goes on to work; both are only known when the command has ended.
_EVENT_FUNCTION = """
CREATE OR REPLACE FUNCTION pgops.refuse_legacy_ddl() RETURNS event_trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $refuse$
BEGIN
    IF session_user <> {login} THEN
        RETURN;
    END IF;
    IF TG_EVENT = 'ddl_command_start' THEN
        IF TG_TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'DROP TABLE') THEN
            RETURN;
        END IF;
    ELSIF TG_EVENT = 'sql_drop' THEN
        IF NOT EXISTS (SELECT FROM pg_event_trigger_dropped_objects() WHERE NOT is_temporary) THEN
            RETURN;
        END IF;
    ELSIF NOT EXISTS (
        SELECT FROM pg_event_trigger_ddl_commands() WHERE schema_name IS NULL OR schema_name NOT LIKE 'pg\\_temp%'
    ) THEN
        RETURN;
    END IF;
    RAISE EXCEPTION {message} USING ERRCODE = 'insufficient_privilege';
END
$refuse$
"""
# With a login, for Sequelize: rows that we mirror pass. Its migrations without DDL end here, too.
_ROW_FUNCTION = """
CREATE OR REPLACE FUNCTION pgops.refuse_legacy_row() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $refuse$
BEGIN
    IF TG_NARGS > 1 AND session_user <> TG_ARGV[1] THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'insufficient_privilege';
END
$refuse$
"""
_OWNED = """
SELECT n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relowner = %s::regrole AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND n.nspname !~ '^pg_'
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                    AND d.deptype IN ('a', 'i') AND c.relkind = 'S')
 ORDER BY c.relkind = 'S', 1, 2
"""
_OWNED_TYPES = """
SELECT n.nspname::text AS schema, t.typname::text AS name FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE t.typowner = %s::regrole AND t.typtype = 'e' AND n.nspname !~ '^pg_' ORDER BY 1, 2
"""


def refuse(target: Target, ledgers: Sequence[LegacyLedger], login: str | None) -> str:
    """:return: the login of the tool before: as given, or the owner of its ledger.
    :raises PgopsError: there is no such ledger, no such role, or the role is one of ours."""
    database = target.database
    if not ledgers:
        raise PgopsError(
            f"There is no ledger of another tool in {database}, so there is nothing to fence. Nothing was written.",
            database=database,
            extra={"reason": "fence"},
        )
    role = login or ledgers[0].owner
    ours = {target.user, target.owner, target.backup_user, target.restore_user}
    if role in ours:
        raise PgopsError(
            f"The fence would shut out {role}, which this tool uses itself; name the other tool's login with "
            f"-e adopt_legacy_login=ROLE. Nothing was written.",
            database=database,
            extra={"reason": "fence"},
        )
    with closing(connect(target, application_name="pgops adopt")) as conn:
        if not fetch_one(conn, "SELECT 1 AS yes FROM pg_roles WHERE rolname = %s", (role,)):
            raise PgopsError(
                f"There is no role {role}; adopt_legacy_login names the login of the other tool. Nothing was written.",
                database=database,
                extra={"reason": "fence"},
            )
    return role


def put_up(target: Target, ledgers: Sequence[LegacyLedger], login: str) -> list[str]:
    """Fence the tools whose ledgers are there.

    Takes SHARE ROW EXCLUSIVE on Prisma's ledger for a moment; without a superuser, ACCESS EXCLUSIVE on each table of the
    login, one after the other.

    :return: what was made: ``event trigger``, ``ownership and CREATE``, ``trigger``.
    """
    made = []
    if any(found.tool == SEQUELIZE for found in ledgers):
        made += _refuse_ddl(target, login)
    with _owner_session(target) as conn:
        for found in ledgers:
            arguments = [_MESSAGE.format(tool=found.tool.capitalize()), *([login] if found.tool == SEQUELIZE else [])]
            table = sql.Identifier(found.schema, found.table)
            text = sql.SQL(", ").join(map(sql.Literal, arguments))
            if _row_trigger(conn, found, arguments):
                continue
            with transaction(conn, "SET LOCAL lock_timeout = '2s'"):
                execute(conn, _ROW_FUNCTION)
                execute(conn, sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(_NAME), table))
                execute(
                    conn,
                    sql.SQL(
                        "CREATE TRIGGER {} BEFORE INSERT ON {} FOR EACH STATEMENT EXECUTE FUNCTION pgops.refuse_legacy_row({})"
                    ).format(sql.Identifier(_NAME), table, text),
                )
            made.append(TRIGGER)
    return made


@contextmanager
def _owner_session(target: Target) -> Iterator[Connection]:
    """A superuser where there is one: the other ledger may belong to its login; else the owner, who has it by then."""
    with closing(connect(target.as_restore(), application_name="pgops adopt")) as conn:
        if _is_superuser(conn):
            yield conn
            return
    with closing(connect(target, application_name="pgops adopt")) as conn:
        yield conn


def _row_trigger(conn: Connection, found: LegacyLedger, arguments: Sequence[str] | None = None) -> bool:
    row = fetch_one(
        conn,
        "SELECT tgargs AS arguments FROM pg_trigger WHERE tgrelid = %s::regclass AND tgname = %s",
        (sql.Identifier(found.schema, found.table).as_string(conn), _NAME),
    )
    if row is None or arguments is None:
        return row is not None
    return bytes(row["arguments"]) == b"".join(argument.encode() + b"\0" for argument in arguments)


def take_away(target: Target, ledgers: Sequence[LegacyLedger]) -> list[str]:
    """Take the fence away. Ownership that was taken is not given back: it belongs to the role that migrates now.

    :return: what was there."""
    gone = []
    with closing(connect(target.as_restore(), application_name="pgops adopt")) as conn:
        if _is_superuser(conn):
            for name in _event_triggers(conn):
                execute(conn, sql.SQL("DROP EVENT TRIGGER {}").format(sql.Identifier(name)))
                gone.append(EVENT_TRIGGER)
    with _owner_session(target) as conn:
        for found in ledgers:
            if _row_trigger(conn, found):
                execute(
                    conn,
                    sql.SQL("DROP TRIGGER {} ON {}").format(
                        sql.Identifier(_NAME), sql.Identifier(found.schema, found.table)
                    ),
                )
                gone.append(TRIGGER)
    return sorted(set(gone))


def _refuse_ddl(target: Target, login: str) -> list[str]:
    with closing(connect(target.as_restore(), application_name="pgops adopt")) as conn:
        if _is_superuser(conn):
            message = sql.Literal(_MESSAGE.format(tool="Sequelize"))
            text = sql.SQL(_EVENT_FUNCTION).format(login=sql.Literal(login), message=message)
            body = text.as_string(conn).split("$refuse$")[1]
            wanted = [f"{_NAME}_{event}" for event in _EVENTS]
            there = fetch_one(
                conn,
                "SELECT 1 AS yes FROM pg_proc WHERE oid = to_regprocedure('pgops.refuse_legacy_ddl()') AND prosrc = %s",
                (body,),
            )
            if there and sorted(_event_triggers(conn)) == sorted(wanted):
                return []
            with transaction(conn):
                execute(conn, text)
                for name in _event_triggers(conn):
                    execute(conn, sql.SQL("DROP EVENT TRIGGER {}").format(sql.Identifier(name)))
                for event in _EVENTS:
                    execute(
                        conn,
                        sql.SQL("CREATE EVENT TRIGGER {} ON {} EXECUTE FUNCTION pgops.refuse_legacy_ddl()").format(
                            sql.Identifier(f"{_NAME}_{event}"), sql.SQL(event)
                        ),
                    )
            return [EVENT_TRIGGER]
        return [RIGHTS] if _take_rights(target, conn, login) else []


def _take_rights(target: Target, conn: Connection, login: str) -> bool:
    taken = False
    owner = sql.Identifier(target.owner or target.user or "")
    role = sql.Identifier(login)
    kinds = {"v": "VIEW", "m": "MATERIALIZED VIEW", "S": "SEQUENCE"}
    try:
        for row in fetch_all(conn, _OWNED, (role.as_string(conn),)):
            name = sql.Identifier(row["schema"], row["name"])
            word = sql.SQL(kinds.get(row["kind"], "TABLE"))
            rights = sql.SQL("USAGE, SELECT, UPDATE" if row["kind"] == "S" else "SELECT, INSERT, UPDATE, DELETE")
            on = sql.SQL("SEQUENCE " if row["kind"] == "S" else "")
            taken = True
            with transaction(conn, "SET LOCAL lock_timeout = '2s'"):
                execute(conn, sql.SQL("ALTER {} {} OWNER TO {}").format(word, name, owner))
                # What the application does with rows must go on.
                execute(conn, sql.SQL("GRANT {} ON {}{} TO {}").format(rights, on, name, role))
        for row in fetch_all(conn, _OWNED_TYPES, (role.as_string(conn),)):
            execute(
                conn, sql.SQL("ALTER TYPE {} OWNER TO {}").format(sql.Identifier(row["schema"], row["name"]), owner)
            )
        for row in fetch_all(
            conn,
            "SELECT nspname::text AS name FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema|pgops)' "
            "AND has_schema_privilege(%s, oid, 'CREATE')",
            (login,),
        ):
            taken = True
            schema = sql.Identifier(row["name"])
            execute(conn, sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, role))
            execute(conn, sql.SQL("REVOKE CREATE ON SCHEMA {} FROM {}, PUBLIC").format(schema, role))
    except psycopg2.errors.InsufficientPrivilege as exc:
        raise PgopsError(
            f"Neither can role {target.restore_user or target.user} make an event trigger (it is no superuser), nor may it take "
            f"ownership from {login}; GRANT {login} TO {target.restore_user or target.user}, or run it as the provider's admin role.",
            sqlstate=exc.pgcode,
            database=target.database,
            extra={"reason": "fence"},
        ) from None
    return taken


def _event_triggers(conn: Connection) -> list[str]:
    rows = fetch_all(conn, "SELECT evtname::text AS name FROM pg_event_trigger WHERE evtname LIKE %s", (f"{_NAME}%",))
    return [str(row["name"]) for row in rows]


def _is_superuser(conn: Connection) -> bool:
    row: dict[str, Any] | None = fetch_one(conn, "SELECT rolsuper AS yes FROM pg_roles WHERE rolname = current_user")
    return bool(row and row["yes"])
