# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The questions of the health report: each a query whose rows are what is wrong, a sentence for one, what to type against it."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.whitecross.pgops.plugins.module_utils import encoding, ledger_rights
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import BEING_BUILT
from ansible_collections.whitecross.pgops.plugins.module_utils.owned_objects import (
    ALL_OWNERS,
    NOT_OF_COLUMN,
    RELATION_NOT_OF_EXTENSION,
    ROUTINES,
    TYPES,
    USER_SCHEMA,
    not_of_extension,
)

OK = "ok"
WARN = "warn"
STOP = "stop"

# How many objects a sentence names; the number of all of them is always told.
SHOWN = 5

# Requirement R5.11: sessions that run for more than five minutes.
LONG_TRANSACTION_S = 300
# A run holds a session for itself, two for dump workers, two for restore workers, one to watch progress.
SESSIONS_OF_A_RUN = 6
# Share of all connections above which an application's burst leaves none for the run.
CONNECTIONS_WARN = 0.8
# Requirement R5.3: 20 to 30 % of the database's size must be free, its expected growth is 10 to 20 %. Below the lower
# figure the run stops; below the size itself there may be no room for the restore that proves the backup.
DISK_STOP = 0.3
DISK_WARN = 1.0
# Age at which autovacuum is forced is 200 M by default; the server warns at 2.1 G - 40 M and stops at 2.1 G - 3 M.
WRAPAROUND_WARN = 1_000_000_000
WRAPAROUND_STOP = 1_900_000_000
# The look itself never waits for anybody: the same 100 ms as the lock discipline's, and a bound for a catalog of any size.
LOOK_LOCK_TIMEOUT_MS = 100
LOOK_STATEMENT_TIMEOUT_MS = 30_000
# Counted in some tens of milliseconds; of a larger table the planner's estimate is compared before and after a run.
EXACT_ROWS = 100_000
# ANALYZE reads a sample, so two estimates of the same rows differ by some percent.
ESTIMATE_TOLERANCE = 0.1
# A slot that holds back this much WAL fills the disk of a server of usual size within a day.
SLOT_WAL_WARN = 1 << 30


@dataclass(frozen=True)
class Check:
    """One question to the server.

    :param name: how it is waived and tested; never changes
    :param title: what is looked at, for the table
    :param level: what a finding means, ``warn`` or ``stop``
    :param query: returns a row for each finding, no row when all is well; parameters are those of :func:`_parameters`
    :param found: the sentence for one row, with its columns in braces
    :param fix: what to type against one row; ``{…}`` as in ``found``
    :param well: what is said when nothing was found
    :param activity: looks at the sessions of others, which a plain role sees only in part (see :func:`_observer`)
    """

    name: str
    title: str
    level: str
    query: str
    found: str
    fix: str
    well: str
    activity: bool = False


_OF_ROLE_LACKS_BYPASS = f"""
    SELECT %({{role}})s::text AS role, count(*) AS objects,
           pg_catalog.string_agg(pg_catalog.format('%%I.%%I', n.nspname, c.relname), ', ' ORDER BY n.nspname, c.relname) AS named
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relrowsecurity AND c.relkind IN ('r', 'p') AND {USER_SCHEMA}
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r
                        WHERE r.rolname = %({{role}})s AND (r.rolbypassrls OR r.rolsuper))
    HAVING count(*) > 0
"""
_BYPASS_FOUND = "{role} has no BYPASSRLS but {objects} tables have row-level security: {named}"
_BYPASS_FIX = "ALTER ROLE {role:I} BYPASSRLS;"

CHECKS: tuple[Check, ...] = (
    Check(
        "primary",
        "takes writes",
        STOP,
        """SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'a standby or a server in recovery'
                       ELSE 'read-only for this database or role (default_transaction_read_only)' END AS state
            WHERE pg_catalog.pg_is_in_recovery()
               OR (SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'default_transaction_read_only') = 'on'""",
        "the server is {state}",
        "point pgops_host at the primary, or give several hosts with commas",
        "a primary that takes writes",
    ),
    Check(
        "encoding",
        "encoding of the database",
        STOP,
        f"""SELECT pg_catalog.getdatabaseencoding() AS encoding, pg_catalog.current_database() AS database
            WHERE pg_catalog.getdatabaseencoding() <> '{encoding.NEEDED}'""",
        f"database {{database}} is encoded in {{encoding}}, and the texts of the versions and of the ledger need {encoding.NEEDED}",
        encoding.FIX,
        f"{encoding.NEEDED}, which holds every text",
    ),
    Check(
        "owner_role",
        "migrator acts as owner",
        STOP,
        """SELECT %(user)s::text AS member, %(owner)s::text AS role,
                  CASE WHEN pg_catalog.to_regrole(pg_catalog.quote_ident(%(owner)s)) IS NULL
                       THEN 'does not exist' ELSE 'may not be taken by ' || %(user)s END AS why
            WHERE %(owner)s <> %(user)s
              AND NOT coalesce(pg_catalog.pg_has_role(%(user)s, pg_catalog.to_regrole(pg_catalog.quote_ident(%(owner)s)),
                                                      %(member_privilege)s), false)""",
        "the owner role {role} {why}",
        "GRANT {role:I} TO {member:I};",
        "the migrator may act as the owner role",
    ),
    Check(
        "create_in_database",
        "right to create schemas",
        STOP,
        """SELECT %(owner)s::text AS role, pg_catalog.current_database() AS database
            WHERE pg_catalog.to_regrole(pg_catalog.quote_ident(%(owner)s)) IS NOT NULL
              AND NOT pg_catalog.has_database_privilege(%(owner)s, pg_catalog.current_database(), 'CREATE')""",
        "{role} may not CREATE in database {database}, which the ledger's schema and extensions need",
        "GRANT CREATE ON DATABASE {database:I} TO {role:I};",
        "schemas and trusted extensions may be created",
    ),
    Check(
        "schema_public",
        "rights on schema public",
        STOP,
        """SELECT %(owner)s::text AS role, p AS privilege
             FROM pg_catalog.unnest(ARRAY['USAGE', 'CREATE']) AS p
            WHERE pg_catalog.to_regrole(pg_catalog.quote_ident(%(owner)s)) IS NOT NULL
              AND pg_catalog.to_regnamespace('public') IS NOT NULL
              AND NOT pg_catalog.has_schema_privilege(%(owner)s, 'public', p)""",
        "{role} has no {privilege} on schema public",
        "GRANT {privilege} ON SCHEMA public TO {role:I};",
        "USAGE and CREATE are there",
    ),
    Check(
        "ownership",
        "objects belong to the owner",
        STOP,
        f"""SELECT o.told || o.object AS object, o.kind, o.object AS name, r.rolname AS holder, %(owner)s::text AS role FROM (
            SELECT '' AS told, 'TABLE' AS kind, pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS object, c.relowner AS holder
              FROM pg_catalog.pg_class c
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND {USER_SCHEMA} AND n.nspname <> 'pgops'
               AND {RELATION_NOT_OF_EXTENSION} AND {NOT_OF_COLUMN}
               -- The ledger of the tool before this one stays with its login.
               AND c.relname NOT IN ('SequelizeMeta', '_prisma_migrations')
             UNION ALL
            SELECT 'type ', CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END,
                   pg_catalog.format('%%I.%%I', n.nspname, t.typname), t.typowner {TYPES}
             UNION ALL
            SELECT 'function ', 'ROUTINE', pg_catalog.format('%%I.%%I(%%s)', n.nspname, p.proname,
                   pg_catalog.pg_get_function_identity_arguments(p.oid)), p.proowner {ROUTINES}
               -- Those that act with their owner's rights, or for the whole database, have him on purpose.
               AND NOT p.prosecdef AND p.prorettype <> 'pg_catalog.event_trigger'::regtype AND n.nspname <> 'pgops') AS o
              JOIN pg_catalog.pg_roles r ON r.oid = o.holder
             WHERE pg_catalog.to_regrole(pg_catalog.quote_ident(%(owner)s)) IS NOT NULL
               AND NOT pg_catalog.pg_has_role(%(owner)s, o.holder, 'USAGE')
             ORDER BY o.told, o.object""",
        "{object} belongs to {holder}, not to {role}",
        "ALTER {kind} {name} OWNER TO {role:I};",
        "every table, view, sequence, type and function belongs to the owner role",
    ),
    Check(
        "schema_rights",
        "rights on other schemas",
        STOP,
        # A schema in which all is somebody else's, or an extension's, is none that a version works in.
        f"""SELECT n.nspname AS schema, r.rolname AS holder, %(owner)s::text AS role
              FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
             WHERE {USER_SCHEMA} AND n.nspname NOT IN ('public', 'pgops') AND {not_of_extension("pg_namespace", "n.oid")}
               AND pg_catalog.to_regrole(pg_catalog.quote_ident(%(owner)s)) IS NOT NULL
               AND NOT (pg_catalog.has_schema_privilege(%(owner)s, n.oid, 'USAGE')
                        AND pg_catalog.has_schema_privilege(%(owner)s, n.oid, 'CREATE'))
               AND (NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                                 WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = n.oid)
                    OR EXISTS (SELECT FROM (SELECT relnamespace, relowner FROM pg_catalog.pg_class
                                             UNION ALL SELECT typnamespace, typowner FROM pg_catalog.pg_type
                                             UNION ALL SELECT pronamespace, proowner FROM pg_catalog.pg_proc) AS o (schema, owner)
                                WHERE o.schema = n.oid AND pg_catalog.pg_has_role(%(owner)s, o.owner, 'USAGE')))
             ORDER BY 1""",
        "{role} may not use, or not create in, schema {schema} of {holder}",
        "GRANT USAGE, CREATE ON SCHEMA {schema:I} TO {role:I};",
        "USAGE and CREATE are there",
    ),
    Check(
        "ledger_rights",
        "ledger belongs to the owner",
        STOP,
        ledger_rights.FOREIGN,
        "{object} belongs to {holder}, not to {role}, which writes the ledger there",
        "ALTER {kind} {object} OWNER TO {role:I};",
        "none is there yet, or all of it",
    ),
    Check(
        "backup_rights",
        "backup role reads everything",
        STOP,
        f"""SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS object, %(backup)s::text AS role
              FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p', 'm', 'S') AND {USER_SCHEMA}
               AND pg_catalog.to_regrole(pg_catalog.quote_ident(%(backup)s)) IS NOT NULL
               AND NOT (pg_catalog.has_schema_privilege(%(backup)s, n.oid, 'USAGE')
                        AND CASE c.relkind WHEN 'S' THEN pg_catalog.has_sequence_privilege(%(backup)s, c.oid, 'SELECT')
                                 ELSE pg_catalog.has_table_privilege(%(backup)s, c.oid, 'SELECT') END)
             ORDER BY 1""",
        "{role} may not read {object}",
        "GRANT pg_read_all_data TO {role:I};",
        "every table and sequence may be read",
    ),
    Check(
        "backup_large_objects",
        "backup role reads large objects",
        STOP,
        """SELECT %(backup)s::text AS role, count(*) AS objects
             FROM pg_catalog.pg_largeobject_metadata m
            WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = %(backup)s AND r.rolsuper)
              AND pg_catalog.to_regrole(pg_catalog.quote_ident(%(backup)s)) IS NOT NULL
              AND NOT pg_catalog.pg_has_role(%(backup)s, m.lomowner, 'USAGE')
              AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(m.lomacl) a
                               WHERE a.privilege_type = 'SELECT'
                                 AND (a.grantee = 0 OR pg_catalog.pg_has_role(%(backup)s, a.grantee, 'USAGE')))
           HAVING count(*) > 0""",
        "{role} may not read {objects} large objects, so the dump would fail",
        "DO $$ DECLARE o oid; BEGIN FOR o IN SELECT oid FROM pg_catalog.pg_largeobject_metadata LOOP "
        "EXECUTE format('GRANT SELECT ON LARGE OBJECT %s TO {role:I}', o); END LOOP; END $$;",
        "none, or all may be read",
    ),
    Check(
        "row_security_migrator",
        "migrator sees every row",
        STOP,
        _OF_ROLE_LACKS_BYPASS.replace("{role}", "owner"),
        _BYPASS_FOUND,
        _BYPASS_FIX,
        "no policy hides rows",
    ),
    Check(
        "row_security_backup",
        "backup role sees every row",
        STOP,
        _OF_ROLE_LACKS_BYPASS.replace("{role}", "backup"),
        _BYPASS_FOUND,
        _BYPASS_FIX,
        "no policy hides rows",
    ),
    Check(
        "row_security_restore",
        "restore role sees every row",
        STOP,
        _OF_ROLE_LACKS_BYPASS.replace("{role}", "restore"),
        _BYPASS_FOUND,
        _BYPASS_FIX,
        "no policy hides rows",
    ),
    Check(
        "restore_createdb",
        "restore role makes databases",
        STOP,
        """SELECT r.rolname AS role FROM pg_catalog.pg_roles r
            WHERE r.rolname = %(restore)s AND NOT (r.rolcreatedb OR r.rolsuper)""",
        "{role} may not create the scratch database that proves the backup",
        "ALTER ROLE {role:I} CREATEDB;",
        "CREATEDB is there",
    ),
    Check(
        "restore_owner",
        "restore role gives objects back",
        STOP,
        # Not by a superuser, an object is given only to whom may create in its schema; grants on that come last in a restore,
        # so he must own it. A superuser's membership would be the restore role's way to everything.
        f"""SELECT member, role, CASE WHEN asked THEN '' ELSE ', who does not own their schema' END AS why,
                   CASE WHEN asked AND NOT super THEN pg_catalog.format('GRANT %%I TO %%I;', role, member)
                        ELSE 'name a superuser in pgops_restore_user, or give what belongs to ' || role
                             || CASE WHEN super THEN ' to another owner' ELSE ' to the owner of its schema' END END AS todo
              FROM (SELECT %(restore)s::text AS member, o.rolname AS role, o.rolsuper AS super,
                           pg_catalog.bool_and(o.rolsuper OR owners.holder IS NULL
                                               OR pg_catalog.pg_has_role(o.oid, owners.holder, 'USAGE')) AS asked,
                           pg_catalog.pg_has_role(%(restore)s, o.oid, %(member_privilege)s) AS may
                      FROM ({ALL_OWNERS}
                            UNION SELECT oid, NULL FROM pg_catalog.pg_roles WHERE rolname = %(owner)s) AS owners
                      JOIN pg_catalog.pg_roles o ON o.oid = owners.owner
                     -- Whoever owns the database; that one is asked for by himself.
                     WHERE o.rolname <> 'pg_database_owner'
                       AND pg_catalog.to_regrole(pg_catalog.quote_ident(%(restore)s)) IS NOT NULL
                     GROUP BY o.oid, o.rolname, o.rolsuper) AS given
             WHERE NOT (may AND asked)
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = %(restore)s AND r.rolsuper)
             ORDER BY role""",
        "{member} may not give restored objects back to their owner {role}{why}",
        "{todo}",
        "every owner's objects can be restored",
    ),
    Check(
        "restore_extensions",
        "restore role makes extensions",
        WARN,
        """SELECT e.extname AS extension, %(restore)s::text AS role
             FROM pg_catalog.pg_extension e
             JOIN pg_catalog.pg_available_extension_versions v ON v.name = e.extname AND v.version = e.extversion
            WHERE v.superuser AND NOT v.trusted
              AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = %(restore)s AND r.rolsuper)
            ORDER BY 1""",
        "extension {extension} is not trusted, so {role} could not create it in a restored database",
        "name a superuser or the provider's admin role in pgops_restore_user",
        "every extension here can be created again",
    ),
    Check(
        "restore_sessions",
        "restore role ends sessions",
        WARN,
        """SELECT count(*) AS sessions, %(restore)s::text AS role
             FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_roles s ON s.oid = a.usesysid
            WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
              AND pg_catalog.to_regrole(pg_catalog.quote_ident(%(restore)s)) IS NOT NULL
              AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = %(restore)s AND r.rolsuper)
              AND (s.rolsuper OR NOT (pg_catalog.pg_has_role(%(restore)s, s.oid, 'USAGE')
                                      OR pg_catalog.pg_has_role(%(restore)s, 'pg_signal_backend', 'USAGE')))
           HAVING count(*) > 0""",
        "{role} may not end {sessions} sessions on this database, which a rollback by restore would need",
        "GRANT pg_signal_backend TO {role:I}; sessions of a superuser must be ended by hand",
        "every session could be ended for a rollback",
    ),
    Check(
        "monitor_rights",
        "sessions of others are seen",
        WARN,
        """SELECT %(user)s::text AS role WHERE NOT pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')""",
        "neither {role} nor the restore role may see what other sessions do, so long transactions and dumps may be overlooked",
        "GRANT pg_monitor TO {role:I};",
        "every session is seen",
        activity=True,
    ),
    Check(
        "connections",
        "free connections",
        STOP,
        f"""SELECT used, usable, usable - used AS free FROM (
               SELECT (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend') AS used,
                      pg_catalog.current_setting('max_connections')::int
                      - pg_catalog.current_setting('superuser_reserved_connections')::int
                      - coalesce(pg_catalog.current_setting('reserved_connections', true)::int, 0) AS usable) AS c
             WHERE usable - used < {SESSIONS_OF_A_RUN}""",
        f"{{used}} of {{usable}} connections are used, {{free}} are free and a run needs {SESSIONS_OF_A_RUN}",
        "end idle sessions or raise max_connections",
        "enough are free",
        activity=True,
    ),
    Check(
        "connections_share",
        "use of connections",
        WARN,
        f"""SELECT used, usable, (100 * used / usable) AS share FROM (
               SELECT (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend') AS used,
                      pg_catalog.current_setting('max_connections')::int
                      - pg_catalog.current_setting('superuser_reserved_connections')::int
                      - coalesce(pg_catalog.current_setting('reserved_connections', true)::int, 0) AS usable) AS c
             WHERE used > {CONNECTIONS_WARN} * usable AND usable - used >= {SESSIONS_OF_A_RUN}""",
        "{used} of {usable} connections are used ({share} percent)",
        "end idle sessions or raise max_connections",
        f"below {CONNECTIONS_WARN:.0%}",
        activity=True,
    ),
    Check(
        "long_transactions",
        "transactions over 5 minutes",
        WARN,
        """SELECT a.pid, coalesce(a.usename::text, '?') AS role, coalesce(nullif(a.application_name, ''), '?') AS application,
                   pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.xact_start)::int / 60 AS minutes
              FROM pg_catalog.pg_stat_activity a
             WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
               AND a.backend_type = 'client backend'
               AND a.xact_start < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %(long_transaction_s)s)
             ORDER BY a.xact_start""",
        "session {pid} of {role} ({application}) is in a transaction for {minutes} minutes",
        "SELECT pg_terminate_backend({pid});",
        "none",
        activity=True,
    ),
    Check(
        "waiting_locks",
        "locks not granted",
        WARN,
        """SELECT l.pid, l.mode, coalesce(l.relation::regclass::text, l.locktype) AS object,
                  coalesce(nullif(pg_catalog.array_to_string(pg_catalog.pg_blocking_pids(l.pid), ', '), ''), '?') AS blockers
             FROM pg_catalog.pg_locks l
            WHERE NOT l.granted AND (l.database IS NULL OR l.database =
                  (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
            ORDER BY l.pid""",
        "session {pid} waits for {mode} on {object}, held up by {blockers}",
        "look at session {blockers} in pg_stat_activity, and end it if it hangs",
        "none",
    ),
    Check(
        "prepared_transactions",
        "prepared transactions",
        STOP,
        """SELECT p.gid, p.owner::text AS role FROM pg_catalog.pg_prepared_xacts p
            WHERE p.database = pg_catalog.current_database() ORDER BY p.prepared""",
        "prepared transaction {gid!r} of {role} holds its locks until it is ended, and blocks a rollback by rename",
        "ROLLBACK PREPARED {gid!r}; or COMMIT PREPARED {gid!r};",
        "none",
    ),
    Check(
        "index_builds",
        "builds of indexes",
        WARN,
        """SELECT b.pid, coalesce(a.usename::text, '?') AS role, coalesce(nullif(a.application_name, ''), '?') AS application,
                  coalesce((SELECT pg_catalog.string_agg(DISTINCT l.relation::regclass::text, ', ')
                              FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation
                             WHERE l.pid = b.pid AND l.database = b.datid AND c.relkind IN ('r', 'm', 'p')
                               AND l.mode IN ('ShareUpdateExclusiveLock', 'ShareLock')), '?') AS object
             FROM pg_catalog.pg_stat_progress_create_index b LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid
            WHERE b.datname = pg_catalog.current_database() ORDER BY b.pid""",
        "session {pid} of {role} ({application}) builds an index of {object}; a version that builds or drops one there waits for it",
        "wait until it is done, see pg_stat_progress_create_index",
        "none",
        activity=True,
    ),
    Check(
        "invalid_indexes",
        "invalid indexes",
        WARN,
        f"""SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS object
              FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE NOT i.indisvalid AND {USER_SCHEMA} AND NOT {BEING_BUILT}
             ORDER BY 1""",
        "index {object} is INVALID: writes keep it, no query uses it",
        "DROP INDEX CONCURRENTLY {object};",
        "none",
    ),
    Check(
        "unvalidated_constraints",
        "constraints not validated",
        WARN,
        f"""SELECT k.conname AS name, pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS object
              FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE NOT k.convalidated AND {USER_SCHEMA}
               AND coalesce((pg_catalog.to_jsonb(k) ->> 'conenforced')::boolean, true)  -- 18: NOT ENFORCED is not checked at all
             ORDER BY 2, 1""",
        "constraint {name} on {object} is NOT VALID: rows from before it may break it",
        "ALTER TABLE {object} VALIDATE CONSTRAINT {name:I};",
        "none",
    ),
    Check(
        "wraparound",
        "transaction id age",
        WARN,
        f"""SELECT datname AS database, pg_catalog.age(datfrozenxid) AS age FROM pg_catalog.pg_database
             WHERE pg_catalog.age(datfrozenxid) > %(wraparound_warn)s AND pg_catalog.age(datfrozenxid) <= {WRAPAROUND_STOP}
             ORDER BY 2 DESC""",
        "the oldest transaction id of database {database} is {age} old",
        "vacuumdb --freeze --dbname {database}",
        "far from wraparound",
    ),
    Check(
        "wraparound_near",
        "transaction ids left",
        STOP,
        """SELECT datname AS database, pg_catalog.age(datfrozenxid) AS age FROM pg_catalog.pg_database
            WHERE pg_catalog.age(datfrozenxid) > %(wraparound_stop)s ORDER BY 2 DESC""",
        "the oldest transaction id of database {database} is {age} old; at 2.1 billion the server refuses writes",
        "vacuumdb --freeze --dbname {database}",
        "far from wraparound",
    ),
    Check(
        "vacuum_wraparound",
        "anti-wraparound vacuum",
        WARN,
        """SELECT a.pid, coalesce(v.relid::regclass::text, '?') AS object
             FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_stat_progress_vacuum v ON v.pid = a.pid
            WHERE a.backend_type = 'autovacuum worker' AND a.query LIKE '%%(to prevent wraparound)%%'
              AND a.datname = pg_catalog.current_database()""",
        "an anti-wraparound vacuum of {object} runs (session {pid}); it does not give way to DDL",
        "wait until it is done, see pg_stat_progress_vacuum",
        "none runs",
        activity=True,
    ),
    Check(
        "dump_running",
        "dump or base backup",
        WARN,
        """SELECT a.pid, a.application_name AS application FROM pg_catalog.pg_stat_activity a
            WHERE (a.application_name IN ('pg_dump', 'pg_dumpall') AND a.datname = pg_catalog.current_database())
               OR a.pid IN (SELECT pid FROM pg_catalog.pg_stat_progress_basebackup)
            ORDER BY 1""",
        "{application} runs (session {pid}); DDL queues behind a dump's locks, and writes behind the DDL",
        "wait until it is done, see pg_stat_activity",
        "none runs",
        activity=True,
    ),
    Check(
        "replication_slots",
        "replication slots",
        WARN,
        """SELECT s.slot_name AS slot, pg_catalog.pg_size_pretty(s.held) AS held, coalesce(s.wal_status, '?') AS state
              FROM (SELECT slot_name, active, wal_status,
                           pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn) AS held
                      FROM pg_catalog.pg_replication_slots WHERE NOT pg_catalog.pg_is_in_recovery()) AS s
             WHERE s.held > %(slot_wal_warn)s OR s.wal_status IN ('unreserved', 'lost')
             ORDER BY s.held DESC NULLS FIRST""",
        "replication slot {slot} holds back {held} of WAL ({state})",
        "SELECT pg_drop_replication_slot('{slot}'); unless its consumer comes back",
        "none holds back much WAL",
    ),
    Check(
        "synchronous_standby",
        "synchronous standby",
        STOP,
        # To whom the state is hidden it is NULL.
        """SELECT pg_catalog.current_setting('synchronous_standby_names') AS names
            WHERE pg_catalog.current_setting('synchronous_standby_names') <> ''
              AND pg_catalog.current_setting('synchronous_commit') NOT IN ('off', 'local')
              AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_replication
                               WHERE sync_state IN ('sync', 'quorum') OR sync_state IS NULL)""",
        "no standby of synchronous_standby_names = '{names}' is there, so every commit waits without end",
        "bring it back, or take it out of synchronous_standby_names and reload",
        "no commit waits for a standby that is not there",
    ),
    Check(
        "archiver",
        "WAL archiving",
        WARN,
        """SELECT failed_count AS failed, last_failed_wal AS wal FROM pg_catalog.pg_stat_archiver
            WHERE pg_catalog.current_setting('archive_mode') <> 'off' AND last_failed_time > coalesce(last_archived_time, '-infinity')""",
        "the archive command fails (last on {wal}), so WAL piles up",
        "look at the server's log and repair archive_command",
        "off, or working",
    ),
    Check(
        "checksum_failures",
        "data checksums",
        STOP,
        """SELECT datname AS database, checksum_failures AS failures FROM pg_catalog.pg_stat_database
            WHERE checksum_failures > 0 AND datname = pg_catalog.current_database()""",
        "the server counted {failures} pages of {database} with a wrong checksum: the storage loses data",
        "restore to sound storage first; pg_amcheck names what is damaged",
        "no failure was counted",
    ),
    Check(
        "collation",
        "collation version",
        WARN,
        """SELECT datname AS database, datcollversion AS made,
                  pg_catalog.pg_database_collation_actual_version(oid) AS found
             FROM pg_catalog.pg_database
            WHERE datname = pg_catalog.current_database()
              AND datcollversion IS DISTINCT FROM pg_catalog.pg_database_collation_actual_version(oid)""",
        "database {database} was made with collation version {made}, the system has {found}: text indexes may be out of order",
        "REINDEX DATABASE CONCURRENTLY {database:I}; ALTER DATABASE {database:I} REFRESH COLLATION VERSION;",
        "the one the database was made with",
    ),
)
