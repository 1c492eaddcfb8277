# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The health report: what is looked at before anything is changed, and again after it.

Read-only, and it waits for nobody. Nearly every check is a row of data, in preflight_checks. Locks: ACCESS SHARE on
catalogs, and on user tables whose size is read or whose rows are counted; it is waited for 100 ms at most.
"""

from __future__ import annotations

import os
import re
from typing import Any, Callable

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    application,
    integrity,
    pending_swap,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
    fetch_one,
    refuse_transaction_pooler,
    server_version,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from ansible_collections.whitecross.pgops.plugins.module_utils.preflight_checks import (
    CHECKS,
    DISK_STOP,
    DISK_WARN,
    ESTIMATE_TOLERANCE,
    EXACT_ROWS,
    LONG_TRANSACTION_S,
    LOOK_LOCK_TIMEOUT_MS,
    LOOK_STATEMENT_TIMEOUT_MS,
    OK,
    SHOWN,
    SLOT_WAL_WARN,
    STOP,
    WARN,
    WRAPAROUND_STOP,
    WRAPAROUND_WARN,
    Check,
)

# Looked at by functions below, in this order, before the table above; the others after it.
CONNECTION_CHECKS = ("server", "version", "pooler", "tls")
OTHER_CHECKS = ("backup_connect", "restore_connect", "disk_data", "disk_backup", "application")
NAMES: tuple[str, ...] = (*CONNECTION_CHECKS, *(check.name for check in CHECKS), *OTHER_CHECKS)

_TITLES = {
    "server": "server answers",
    "version": "server version",
    "pooler": "no transaction pooler",
    "tls": "TLS as asked for",
    "backup_connect": "backup role connects",
    "restore_connect": "restore role connects",
    "disk_data": "disk of the data",
    "disk_backup": "disk of the backups",
    "application": "application is well",
}
_FIELD = re.compile(r"\{([a-z_]+)(:I|!r)?\}")


def _fill(template: str, row: dict[str, Any]) -> str:
    def value(field: re.Match[str]) -> str:
        found = str(row.get(field.group(1), "?"))
        if field.group(2) == ":I":
            return quoted(found)
        return "'" + found.replace("'", "''") + "'" if field.group(2) == "!r" else found

    return _FIELD.sub(value, template)


def _entry(name: str, title: str, level: str, evidence: str, fix: str = "", objects: int = 0) -> dict[str, Any]:
    return {"check": name, "title": title, "level": level, "evidence": evidence, "fix": fix, "objects": objects}


def _special(name: str, level: str, evidence: str, fix: str = "") -> dict[str, Any]:
    return _entry(name, _TITLES[name], level, evidence, fix, 0 if level == OK else 1)


def _parameters(target: Target, conn: Connection) -> dict[str, Any]:
    user = target.user or conn.info.user
    return {
        "user": user,
        "owner": target.owner or user,
        "backup": target.backup_user or user,
        "restore": target.restore_user or user,
        # PostgreSQL 16 tells the right to SET ROLE from membership; 15 has membership alone.
        "member_privilege": "SET" if server_version(conn)[0] >= 16 else "MEMBER",
        "long_transaction_s": LONG_TRANSACTION_S,
        "wraparound_warn": WRAPAROUND_WARN,
        "wraparound_stop": WRAPAROUND_STOP,
        "slot_wal_warn": SLOT_WAL_WARN,
    }


def look(check: Check, conn: Connection, parameters: dict[str, Any]) -> dict[str, Any]:
    """Ask one question of the table.

    :return: ``{"check", "title", "level", "evidence", "fix", "objects"}``; a query that the role may not run or that
        fails is a warning of its own, never an ok
    """
    try:
        rows = fetch_all(conn, check.query, parameters)
    except psycopg2.Error as exc:
        error = from_psycopg(exc, "could not be looked at")
        return _entry(check.name, check.title, WARN, error.message, "look at it by hand", 0)
    if not rows:
        return _entry(check.name, check.title, OK, check.well)
    more = f" (and {len(rows) - SHOWN} more)" if len(rows) > SHOWN else ""
    shown = rows[:SHOWN]
    fixes = dict.fromkeys(_fill(check.fix, row) for row in shown)
    return _entry(
        check.name,
        check.title,
        check.level,
        "; ".join(_fill(check.found, row) for row in shown) + more,
        " ".join(fixes) + (" ..." if more and len(fixes) > 1 else ""),
        len(rows),
    )


def _open(target: Target, application_name: str, report: list[dict[str, Any]]) -> Connection | None:
    """Connect, and tell apart what connect() refuses for; None where nothing else can be looked at."""
    try:
        conn = connect(target.with_(owner=None), application_name=application_name, allow_pooler=True)
    except PgopsError as error:
        pending = pending_swap.keeping_out(target) if error.sqlstate == pending_swap.NOT_ACCEPTING else None
        if pending:
            # No check among others: nothing else can be asked, and it has commands of its own.
            raise pending.error() from None
        name = "version" if "or later is needed" in error.message else "server"
        if name == "version":
            report.append(_special("server", OK, f"{target.host} answers"))
        report.append(_special(name, STOP, error.message.rstrip("."), error.hint or ""))
        return None
    major, minor = server_version(conn)
    report.append(_special("server", OK, f"{target} answers"))
    report.append(_special("version", OK, f"PostgreSQL {major}.{minor}"))
    try:
        refuse_transaction_pooler(target, conn)
    except PgopsError as error:
        report.append(
            _special("pooler", STOP, error.message.rstrip("."), "set pgops_host and pgops_port to the server's own")
        )
        conn.close()
        return None
    report.append(_special("pooler", OK, "a direct connection, or session pooling"))
    return conn


def _tls(target: Target, conn: Connection) -> dict[str, Any]:
    row = (
        fetch_one(conn, "SELECT ssl, version FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()") or {}
    )
    near = target.host.startswith(("/", "127.", "@")) or target.host in ("localhost", "::1", "")
    if row.get("ssl"):
        if target.sslmode in ("verify-ca", "verify-full") or near:
            return _special("tls", OK, f"{row['version']}, sslmode {target.sslmode}")
        return _special(
            "tls",
            WARN,
            f"{row['version']}, but sslmode {target.sslmode} accepts any certificate",
            "set pgops_sslmode: verify-full",
        )
    if target.sslmode in ("require", "verify-ca", "verify-full") and not target.host.startswith("/"):
        return _special(
            "tls",
            STOP,
            f"the session has no TLS but sslmode is {target.sslmode}",
            "reach the server itself, not a proxy",
        )
    if near:
        return _special("tls", OK, "none, on this machine")
    return _special("tls", WARN, f"the connection to {target.host} is not encrypted", "set pgops_sslmode: verify-full")


def _other_role(name: str, what: str, target: Target, application_name: str) -> dict[str, Any]:
    try:
        connect(target, application_name=application_name).close()
    except PgopsError as error:
        return _special(
            name,
            STOP,
            error.message.rstrip("."),
            error.hint or f"GRANT CONNECT ON DATABASE {quoted(target.database)} TO {quoted(str(target.user))};",
        )
    return _special(name, OK, f"{what} {target.user} connects to {target.database}")


def _size(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 10240:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.0f} TB"


def _disk(name: str, folder: str | None, size: int, free_bytes: Callable[[str], int]) -> dict[str, Any]:
    """Free space of the file system that holds ``folder`` or, where it is not made yet, the nearest folder above it."""
    if not folder:
        return _special(name, OK, "not looked at: the folder is on another machine or not told to this role")
    path = os.path.abspath(os.path.expanduser(folder))
    while path != "/" and not os.path.isdir(path):
        path = os.path.dirname(path)
    try:
        free = free_bytes(path)
    except OSError as error:
        return _special(name, WARN, f"{path} cannot be looked at: {error.strerror}", "look at it by hand")
    told = f"{_size(free)} free at {path}, the database has {_size(size)}"
    if free < DISK_STOP * size:
        return _special(name, STOP, told, f"free at least {_size(DISK_STOP * size)} at {path}")
    if free < DISK_WARN * size:
        return _special(name, WARN, told, f"free {_size(DISK_WARN * size)} at {path}")
    return _special(name, OK, told)


def _application(url: str | None) -> dict[str, Any]:
    if not url:
        return _special("application", OK, "not asked: preflight_health_url is not set")
    well, told = application.ask(url)
    fix = "look at the application's log, or at preflight_health_url"
    return _special("application", OK, told) if well else _special("application", STOP, told, fix)


def free_space(path: str) -> int:
    """:return: the bytes that an ordinary user may still write at ``path``."""
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


_FACTS = """
SELECT pg_catalog.pg_database_size(pg_catalog.current_database()) AS size_bytes,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend') AS connections,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity
         WHERE backend_type = 'client backend' AND state = 'active' AND pid <> pg_catalog.pg_backend_pid()) AS active,
       (SELECT count(*) FROM pg_catalog.pg_locks WHERE NOT granted) AS waiting_locks,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity
         WHERE xact_start < pg_catalog.clock_timestamp() - interval '5 minutes'
           AND backend_type = 'client backend') AS long_transactions
"""
# Without opening the tables: what vacuum and analyze last counted.
_LARGEST_ESTIMATED = """
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name,
       c.relpages::bigint * pg_catalog.current_setting('block_size')::bigint AS bytes
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
 ORDER BY 2 DESC, 1 LIMIT 10
"""
_LARGEST = """
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, pg_catalog.pg_total_relation_size(c.oid) AS bytes
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
 ORDER BY 2 DESC, 1 LIMIT 10
"""


def report(
    target: Target,
    *,
    application_name: str,
    backup_directory: str | None = None,
    health_url: str | None = None,
    free_bytes: Callable[[str], int] = free_space,
) -> dict[str, Any]:
    """Look at everything, once.

    A check that stops does not end the look: whoever repairs a server wants the whole list. Only a server that cannot
    be reached, is too old or hides behind a transaction-mode pooler ends it.

    :param backup_directory: where dumps go, on the machine this runs on; None where that is not known
    :param health_url: where the application is asked whether it is well; None asks nobody
    :param free_bytes: free bytes at a path; replaced in tests
    :return: ``{"checks": [...], "facts": {"size_bytes", "connections", "active", "waiting_locks", "long_transactions",
        "largest_tables", "server_version", "rows"}, "level": the worst level}``; ``rows`` is what :func:`compare_rows` takes,
        None where nobody could look
    """
    checks: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    conn = _open(target, application_name, checks)
    observer = conn
    if conn is not None and observer is not None:
        try:
            checks.append(_tls(target, conn))
            parameters = _parameters(target, conn)
            observer = _observer(target, conn, application_name)
            for session in (conn, observer):
                _do_not_wait(session)
            for check in CHECKS:
                checks.append(look(check, observer if check.activity else conn, parameters))
            if target.backup_user and target.backup_user != target.user:
                checks.append(_other_role("backup_connect", "backup role", target.as_backup(), application_name))
            else:
                checks.append(_special("backup_connect", OK, "the migrator itself"))
            if target.restore_user and target.restore_user != target.user:
                checks.append(_other_role("restore_connect", "restore role", target.maintenance(), application_name))
            else:
                checks.append(_special("restore_connect", OK, "the migrator itself"))
            facts = dict(fetch_one(observer, _FACTS) or {})
            facts["server_version"] = "{}.{}".format(*server_version(conn))
            facts["largest_tables"] = _largest_tables(conn)
            facts["rows"] = _rows(target, application_name)
            size = int(facts.get("size_bytes") or 0)
            checks.append(_disk("disk_data", _data_directory(target, observer), size, free_bytes))
            checks.append(_disk("disk_backup", backup_directory, size, free_bytes))
            checks.append(_application(health_url))
        except psycopg2.Error as exc:
            raise from_psycopg(exc, f"The health check of {target} broke off", database=target.database) from None
        finally:
            observer.close()
            conn.close()
    return {"checks": checks, "facts": facts, "level": worst(checks)}


def _observer(target: Target, conn: Connection, application_name: str) -> Connection:
    """A session that sees what others do: the migrator's own or else the restore role's.

    Without pg_read_all_stats pg_stat_activity shows NULL for the transactions of other roles, and a count of long
    transactions is quietly zero.
    """
    may_see = "SELECT pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS may"
    if (fetch_one(conn, may_see) or {}).get("may") or not target.restore_user:
        return conn
    try:
        other = connect(target.as_restore(), application_name=application_name)
    except PgopsError:
        return conn  # told by the check restore_connect
    if (fetch_one(other, may_see) or {}).get("may"):
        return other
    other.close()
    return conn


def _do_not_wait(conn: Connection) -> None:
    """A look at a server that hangs must not hang with it: the size of a table behind an ACCESS EXCLUSIVE lock waits."""
    execute(conn, f"SET lock_timeout = {LOOK_LOCK_TIMEOUT_MS}; SET statement_timeout = {LOOK_STATEMENT_TIMEOUT_MS}")


def _largest_tables(conn: Connection) -> list[dict[str, Any]]:
    try:
        return fetch_all(conn, _LARGEST)
    except psycopg2.Error:
        return fetch_all(conn, _LARGEST_ESTIMATED)


def _rows(target: Target, application_name: str) -> list[dict[str, Any]] | None:
    """Rows of each table as the role that reads backups sees them: all, also behind a policy. None where it cannot look."""
    try:
        conn = connect(target.as_backup(), application_name=application_name)
    except PgopsError:
        return None  # told by the check backup_connect
    try:
        _do_not_wait(conn)
        try:
            return integrity.rows_to_compare(conn, exact_rows=EXACT_ROWS)
        except psycopg2.errors.QueryCanceled:
            return integrity.rows_to_compare(conn, exact_rows=-1)
    except psycopg2.Error:
        return None
    finally:
        conn.close()


def _data_directory(target: Target, conn: Connection) -> str | None:
    """The data folder where this process runs on the server's machine and the role may know it."""
    if not (target.host.startswith(("/", "127.")) or target.host in ("localhost", "::1")):
        return None
    row = fetch_one(conn, "SELECT pg_catalog.current_setting('data_directory', true) AS folder WHERE "
                          "pg_catalog.pg_has_role(current_user, 'pg_read_all_settings', 'USAGE')")  # fmt: skip
    folder = str(row["folder"]) if row and row["folder"] else None
    return folder if folder and os.path.isdir(os.path.dirname(folder)) else None


def worst(checks: list[dict[str, Any]]) -> str:
    """:return: the gravest level among ``checks``; a waived stop counts as a warning."""
    levels = {WARN if check.get("waived") and check["level"] == STOP else check["level"] for check in checks}
    return STOP if STOP in levels else WARN if WARN in levels else OK


def check_waivers(waivers: list[dict[str, Any]]) -> dict[str, str]:
    """:return: check name -> reason.

    :raises PgopsError: a check that does not exist, or no reason
    """
    accepted: dict[str, str] = {}
    for waiver in waivers:
        name = str(waiver.get("check") or "")
        reason = str(waiver.get("reason") or "").strip()
        if name not in NAMES:
            raise PgopsError(
                f"preflight_waive names {name or 'no check'!r}, which is no check; choose from {', '.join(NAMES)}."
            )
        if not reason:
            raise PgopsError(
                f"preflight_waive gives no reason for {name}; write {{check: {name}, reason: why it may be passed}}."
            )
        accepted[name] = reason
    return accepted


def waive(checks: list[dict[str, Any]], waivers: dict[str, str]) -> list[dict[str, Any]]:
    """:return: the checks, those that stop and are waived with ``waived`` = the reason."""
    return [
        {**check, "waived": waivers[check["check"]]} if check["level"] == STOP and check["check"] in waivers else check
        for check in checks
    ]


_ORDER = {OK: 0, WARN: 1, STOP: 2}


def compare(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What changed between two looks with the same list.

    :return: ``{"worse": [...], "better": [...]}``, each ``{"check", "before", "after", "evidence"}``; a check with more
        objects than before is worse at the same level
    """
    earlier = {check["check"]: check for check in before}
    found: dict[str, list[dict[str, Any]]] = {"worse": [], "better": []}
    for check in after:
        old = earlier.get(check["check"])
        if old is None:
            continue
        then, now = (_ORDER[old["level"]], old["objects"]), (_ORDER[check["level"]], check["objects"])
        if then != now:
            found["worse" if now > then else "better"].append(
                {
                    "check": check["check"],
                    "before": old["level"],
                    "after": check["level"],
                    "evidence": check["evidence"],
                }
            )
    return found


def compare_rows(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, Any]:
    """Which tables have more or fewer rows than before.

    Two counts are compared as they are, two estimates beyond :data:`ESTIMATE_TOLERANCE`; a count says nothing about an
    estimate. Other clients write meanwhile, so a difference is told and is no fault by itself.

    :param before: a list of tables with ``name``, ``rows`` (None: not known), ``estimate``
    :return: ``fewer`` and ``more``, each ``{"table", "before", "after", "estimate"}`` with None for a table that is not there and
        those that lost or won most first; ``same``: how many tables have as many as before; ``not_compared``: their names
    """
    found: dict[str, Any] = {"fewer": [], "more": [], "same": 0, "not_compared": []}
    nothing = {"rows": 0, "estimate": False}
    earlier, later = ({table["name"]: table for table in tables} for tables in (before, after))
    for name in sorted(earlier.keys() | later.keys()):
        old, new = earlier.get(name, nothing), later.get(name, nothing)
        estimate = bool(old["estimate"] or new["estimate"])
        both_there = name in earlier and name in later
        if None in (old["rows"], new["rows"]) or (both_there and old["estimate"] != new["estimate"]):
            found["not_compared"].append(name)
            continue
        difference = int(new["rows"]) - int(old["rows"])
        if abs(difference) <= (ESTIMATE_TOLERANCE * int(old["rows"]) if estimate and both_there else 0):
            found["same"] += 1
            continue
        then, now = (side[name]["rows"] if name in side else None for side in (earlier, later))
        found["fewer" if difference < 0 else "more"].append(
            {"table": name, "before": then, "after": now, "estimate": estimate}
        )
    for changed in (found["fewer"], found["more"]):
        changed.sort(key=lambda row: -abs((row["after"] or 0) - (row["before"] or 0)))
    return found


def look_at(
    targets: dict[str, Target],
    *,
    waivers: list[dict[str, Any]],
    application_name: str,
    backup_directory: str | None = None,
    health_url: str | None = None,
    before: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Report on several databases, and refuse where a check stops.

    :param before: an earlier result of this function, to compare with
    :return: database -> what :func:`report` returns, with ``worse``, ``better`` and ``rows`` (see :func:`compare_rows`) where
        ``before`` has the database; fewer rows in a table make the level ``warn``
    :raises PgopsError: a waiver that is not one, or a check that stops; ``extra`` then holds all reports
    """
    accepted = check_waivers(waivers)
    databases: dict[str, Any] = {}
    for name, target in targets.items():
        found = report(
            target, application_name=application_name, backup_directory=backup_directory, health_url=health_url
        )
        found["checks"] = waive(found["checks"], accepted)
        found["level"] = worst(found["checks"])
        earlier = (before or {}).get(name)
        if earlier:
            found.update(compare(earlier["checks"], found["checks"]))
            then, now = ((look.get("facts") or {}).get("rows") for look in (earlier, found))
            if then is not None and now is not None:
                found["rows"] = compare_rows(then, now)
                if found["rows"]["fewer"] and found["level"] == OK:
                    found["level"] = WARN
        databases[name] = found
    stops = [
        (name, check)
        for name, found in databases.items()
        for check in found["checks"]
        # Nothing can be done without a server, whatever is waived.
        if check["level"] == STOP and (not check.get("waived") or check["check"] in CONNECTION_CHECKS)
    ]
    if stops:
        name, first = stops[0]
        others = [check["check"] for _database, check in stops[1:]]
        message = f"Preflight stops {name} at {first['check']}: {first['evidence'].rstrip('.')}"
        if others:
            message += f", and also at {', '.join(others)}"
        if first["fix"]:
            message += f"; type: {first['fix']}"
        raise PgopsError(
            message,
            database=name,
            hint=first["fix"] or None,
            extra={"databases": databases, "stopped_at": [check["check"] for _database, check in stops]},
        )
    return databases
