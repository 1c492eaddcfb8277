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
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.legacy_ledger import SEQUELIZE, LegacyLedger
from psycopg2 import sql

EVENT_TRIGGER = "event trigger"
RIGHTS = "ownership and CREATE"
TRIGGER = "trigger"

NAME = "pgops_fence_legacy"
_EVENTS = ("ddl_command_start", "ddl_command_end", "sql_drop")
_MESSAGE = (
    "This database is migrated by whitecross.pgops now, so a migration by {tool} is refused. Use ansible-playbook migrate.yml; "
    "-e adopt_fence_legacy=false takes the fence away."
)
# Temporary objects and a view's refresh are no migration: the application may do that. CREATE TABLE IF NOT EXISTS of the tool's
# own ledger makes nothing and passes as well, so that its status command goes on to work. What a command touches is only
# known at its end, so one that may be about something temporary waits for that. Every other is refused at its start, before
# it takes a lock or fails for a reason of its own. CONCURRENTLY commits on the way: its end would be too late. Of what a drop
# takes along (a view's rule, a default) PostgreSQL does not say that it is temporary, only of what was named.
_EVENT_FUNCTION = """
CREATE OR REPLACE FUNCTION pgops.refuse_legacy_ddl() RETURNS event_trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $refuse$
BEGIN
    IF session_user <> {login} OR TG_TAG = 'REFRESH MATERIALIZED VIEW' THEN
        RETURN;
    END IF;
    IF TG_EVENT = 'ddl_command_start' THEN
        IF TG_TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'CREATE SEQUENCE', 'CREATE VIEW') OR (
            EXISTS (SELECT FROM pg_class WHERE relnamespace = pg_my_temp_schema())
            AND NOT (TG_TAG ~ 'INDEX' AND current_query() ~* '\\mconcurrently\\M')
        ) THEN
            RETURN;
        END IF;
    ELSIF TG_EVENT = 'sql_drop' THEN
        IF NOT EXISTS (SELECT FROM pg_event_trigger_dropped_objects() WHERE original AND NOT is_temporary) THEN
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
# With a login, for Sequelize: rows that we mirror pass. Its ways up and down without DDL end here, too.
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
# Not its views and routines: they work with their owner's rights, and ours would show rows that a policy hides from it.
_OWNED = """
SELECT n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
       ARRAY(SELECT d.objid::regclass::text FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
              WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
                AND d.deptype IN ('a', 'i')) AS sequences
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relowner = %s::regrole AND c.relkind IN ('r', 'p', 'f', 'S') AND n.nspname !~ '^pg_'
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                    AND d.deptype IN ('a', 'i') AND c.relkind = 'S')
 ORDER BY c.relkind = 'S', 1, 2
"""
_OWNED_TYPES = """
SELECT n.nspname::text AS schema, t.typname::text AS name FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE t.typowner = %s::regrole AND t.typtype IN ('e', 'd', 'r') AND n.nspname !~ '^pg_' ORDER BY 1, 2
"""
_OWNED_SCHEMAS = """
SELECT nspname::text AS name FROM pg_namespace WHERE nspowner = %s::regrole AND nspname !~ '^pg_' ORDER BY 1
"""
_OWNER = "SELECT pg_get_userbyid(relowner)::text AS owner FROM pg_class WHERE oid = to_regclass(%s)"
_OWNED_DATABASE = "SELECT 1 AS yes FROM pg_database WHERE datname = current_database() AND datdba = %s::regrole"
_CREATES = """
SELECT nspname::text AS name, has_schema_privilege(%s, oid, 'CREATE') AS ours FROM pg_namespace
 WHERE nspname !~ '^(pg_|information_schema|pgops)' AND has_schema_privilege(%s, oid, 'CREATE') ORDER BY 1
"""


def put_up(target: Target, ledgers: Sequence[LegacyLedger], login: str) -> list[str]:
    """Fence the tools whose ledgers are there; see ``legacy_fence_refusals`` for what must not be in the way.

    Takes SHARE ROW EXCLUSIVE on Prisma's ledger for a moment; without a superuser, ACCESS EXCLUSIVE on each table of the
    login, one after the other.

    :return: what was made: ``event trigger``, ``ownership and CREATE``, ``trigger``.
    """
    made = []
    if any(found.tool == SEQUELIZE for found in ledgers):
        made += _refuse_ddl(target, login)
    _take_ledgers(target, ledgers)
    with owner_session(target) as conn:
        for found in ledgers:
            arguments = [_MESSAGE.format(tool=found.tool.capitalize()), *([login] if found.tool == SEQUELIZE else [])]
            table = sql.Identifier(found.schema, found.table)
            text = sql.SQL(", ").join(map(sql.Literal, arguments))
            events = sql.SQL("INSERT OR DELETE" if found.tool == SEQUELIZE else "INSERT")
            if row_trigger(conn, found, arguments):
                continue
            with transaction(conn, "SET LOCAL lock_timeout = '2s'"):
                execute(conn, _ROW_FUNCTION)
                execute(conn, sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(NAME), table))
                execute(
                    conn,
                    sql.SQL(
                        "CREATE TRIGGER {} BEFORE {} ON {} FOR EACH STATEMENT EXECUTE FUNCTION pgops.refuse_legacy_row({})"
                    ).format(sql.Identifier(NAME), events, table, text),
                )
            made.append(TRIGGER)
    return made


@contextmanager
def owner_session(target: Target) -> Iterator[Connection]:
    """A superuser where there is one: the other ledger may belong to its login; else the owner, who has it by then."""
    with closing(connect(target.as_restore(), application_name="pgops adopt")) as conn:
        if is_superuser(conn):
            yield conn
            return
    with closing(connect(target, application_name="pgops adopt")) as conn:
        yield conn


def row_trigger(conn: Connection, found: LegacyLedger, arguments: Sequence[str] | None = None) -> bool:
    """:return: whether the ledger has our trigger; where arguments are given, whether it has these and fires."""
    row = fetch_one(
        conn,
        """
        SELECT t.tgargs AS arguments, t.tgenabled IN ('O', 'A') AND p.prosrc = %s AS fires
          FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid = %s::regclass AND t.tgname = %s""",
        (_body(_ROW_FUNCTION), sql.Identifier(found.schema, found.table).as_string(conn), NAME),
    )
    if row is None or arguments is None:
        return row is not None
    return row["fires"] and bytes(row["arguments"]) == b"".join(argument.encode() + b"\0" for argument in arguments)


def _body(function: str) -> str:
    """:return: what stands between the dollar quotes, as ``pg_proc.prosrc`` has it."""
    return function.split("$refuse$")[1]


def take_away(target: Target, ledgers: Sequence[LegacyLedger]) -> list[str]:
    """Take the fence away; see ``legacy_fence_refusals`` for who may. Ownership that was taken is not given back: it belongs to the role that migrates now.

    :return: what was there."""
    gone = []
    with closing(connect(target.as_restore(), application_name="pgops adopt")) as conn:
        for name in event_triggers(conn):
            execute(conn, sql.SQL("DROP EVENT TRIGGER {}").format(sql.Identifier(name)))
            gone.append(EVENT_TRIGGER)
    with owner_session(target) as conn:
        for found in ledgers:
            if row_trigger(conn, found):
                execute(
                    conn,
                    sql.SQL("DROP TRIGGER {} ON {}").format(
                        sql.Identifier(NAME), sql.Identifier(found.schema, found.table)
                    ),
                )
                gone.append(TRIGGER)
    return sorted(set(gone))


def _refuse_ddl(target: Target, login: str) -> list[str]:
    with closing(connect(target.as_restore(), application_name="pgops adopt")) as conn:
        if is_superuser(conn):
            message = sql.Literal(_MESSAGE.format(tool="Sequelize"))
            text = sql.SQL(_EVENT_FUNCTION).format(login=sql.Literal(login), message=message)
            body = _body(text.as_string(conn))
            wanted = [f"{NAME}_{event}" for event in _EVENTS]
            there = fetch_one(
                conn,
                "SELECT 1 AS yes FROM pg_proc WHERE oid = to_regprocedure('pgops.refuse_legacy_ddl()') AND prosrc = %s",
                (body,),
            )
            if there and sorted(event_triggers(conn, firing=True)) == sorted(wanted):
                return []
            with transaction(conn):
                execute(conn, text)
                for name in event_triggers(conn):
                    execute(conn, sql.SQL("DROP EVENT TRIGGER {}").format(sql.Identifier(name)))
                for event in _EVENTS:
                    execute(
                        conn,
                        sql.SQL("CREATE EVENT TRIGGER {} ON {} EXECUTE FUNCTION pgops.refuse_legacy_ddl()").format(
                            sql.Identifier(f"{NAME}_{event}"), sql.SQL(event)
                        ),
                    )
            return [EVENT_TRIGGER]
        return [RIGHTS] if _take_rights(target, conn, login) else []


def _take_rights(target: Target, conn: Connection, login: str) -> bool:
    """Take what DDL needs and give what rows need, together: the application must not stand without for a moment."""
    taken = False
    ours = target.owner or target.user or ""
    owner, role = sql.Identifier(ours), sql.Identifier(login)
    name = role.as_string(conn)
    with _refused(target, login):
        # The owner of the database or of a schema may drop whatever is in it.
        if fetch_one(conn, _OWNED_DATABASE, (name,)):
            taken = True
            database = sql.Identifier(target.database)
            with transaction(conn):
                execute(conn, sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, owner))
                execute(conn, sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}").format(database, role))
        for row in fetch_all(conn, _OWNED_SCHEMAS, (name,)):
            taken = True
            execute(conn, sql.SQL("ALTER SCHEMA {} OWNER TO {}").format(sql.Identifier(row["name"]), owner))
            execute(conn, sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(row["name"]), role))
        for row in fetch_all(conn, _CREATES, (ours, login)):
            taken = True
            schema = sql.Identifier(row["name"])
            with transaction(conn):
                execute(conn, sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, role))
                if row["ours"]:
                    # It may have had that as one of PUBLIC, too.
                    execute(conn, sql.SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {}").format(schema, owner))
                execute(conn, sql.SQL("REVOKE CREATE ON SCHEMA {} FROM {}, PUBLIC").format(schema, role))
        for row in fetch_all(conn, _OWNED, (name,)):
            taken = True
            _take_relation(conn, row, owner, role)
        for row in fetch_all(conn, _OWNED_TYPES, (name,)):
            taken = True
            execute(
                conn, sql.SQL("ALTER TYPE {} OWNER TO {}").format(sql.Identifier(row["schema"], row["name"]), owner)
            )
    # A REVOKE of what another role has granted is only a warning.
    left = [row["name"] for row in fetch_all(conn, _CREATES, (ours, login))]
    if left:
        raise PgopsError(
            f"{login} can still create objects in {', '.join(left)} of {target.database}, so nothing stops its migrations: as the "
            f"schema's owner, REVOKE CREATE ON SCHEMA {', '.join(left)} FROM {login}, PUBLIC.",
            database=target.database,
            extra={"reason": "fence", "schemas": left},
        )
    return taken


def _take_ledgers(target: Target, ledgers: Sequence[LegacyLedger]) -> None:
    """Without a superuser only its owner may give a table a trigger, be it their login's or a third role's."""
    with closing(connect(target.as_restore(), application_name="pgops adopt")) as conn:
        if is_superuser(conn):
            return
        ours = target.owner or target.user or ""
        for found in ledgers:
            # The login's own has been taken with the rest of its tables.
            there = fetch_one(conn, _OWNER, (sql.Identifier(found.schema, found.table).as_string(conn),))
            if there is None or there["owner"] == ours:
                continue
            row = {"schema": found.schema, "name": found.table, "kind": "r", "sequences": []}
            with _refused(target, there["owner"]):
                _take_relation(conn, row, sql.Identifier(ours), sql.Identifier(there["owner"]))


@contextmanager
def _refused(target: Target, login: str) -> Iterator[None]:
    try:
        yield
    except psycopg2.errors.InsufficientPrivilege as exc:
        admin, ours = target.restore_user or target.user, target.owner or target.user
        raise PgopsError(
            f"{may_not_take(target, [login])}; GRANT {quoted(login)}, {quoted(ours)} TO {quoted(admin)}, or run it as the provider's admin role.",
            sqlstate=exc.pgcode,
            database=target.database,
            extra={"reason": "fence"},
        ) from None


def may_not_take(target: Target, owners: Sequence[str]) -> str:
    """:return: what stands in the way of a fence without a superuser, in words."""
    return (
        f"Neither can role {target.restore_user or target.user} make an event trigger (it is no superuser), nor may it take "
        f"ownership from {', '.join(owners)} and give it to {target.owner or target.user}"
    )


def owned(conn: Connection, login: str) -> list[str | None]:
    """:return: the schema of each object that a fence without a superuser takes from this login; None for the database or a
    schema itself."""
    name = sql.Identifier(login).as_string(conn)
    inside = [*fetch_all(conn, _OWNED, (name,)), *fetch_all(conn, _OWNED_TYPES, (name,))]
    outside = [*fetch_all(conn, _OWNED_DATABASE, (name,)), *fetch_all(conn, _OWNED_SCHEMAS, (name,))]
    return [*(str(row["schema"]) for row in inside), *(None for _ in outside)]


def _take_relation(conn: Connection, row: dict[str, Any], owner: sql.Composable, role: sql.Composable) -> None:
    name = sql.Identifier(row["schema"], row["name"])
    kind = {"f": "FOREIGN TABLE", "S": "SEQUENCE"}.get(row["kind"], "TABLE")
    # The sequences of its columns go with a table, and no INSERT works without them.
    sequences = [name] if row["kind"] == "S" else [sql.SQL(text) for text in row["sequences"]]
    with transaction(conn, "SET LOCAL lock_timeout = '2s'"):
        execute(conn, sql.SQL("ALTER {} {} OWNER TO {}").format(sql.SQL(kind), name, owner))
        if row["kind"] != "S":
            execute(conn, sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {} TO {}").format(name, role))
        for sequence in sequences:
            execute(conn, sql.SQL("GRANT USAGE, SELECT, UPDATE ON SEQUENCE {} TO {}").format(sequence, role))


def event_triggers(conn: Connection, *, firing: bool = False) -> list[str]:
    """:param firing: only those that nobody has switched off.
    :return: the names of ours that are there."""
    rows = fetch_all(
        conn,
        "SELECT evtname::text AS name FROM pg_event_trigger WHERE evtname LIKE %s AND (evtenabled IN ('O', 'A') OR NOT %s) ORDER BY 1",
        (f"{NAME}%", firing),
    )
    return [str(row["name"]) for row in rows]


def is_superuser(conn: Connection) -> bool:
    """:return: whether this session may make an event trigger."""
    row: dict[str, Any] | None = fetch_one(conn, "SELECT rolsuper AS yes FROM pg_roles WHERE rolname = current_user")
    return bool(row and row["yes"])
