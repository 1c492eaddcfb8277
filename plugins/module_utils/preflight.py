# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The health report: what is looked at before anything is changed, and again after it.

Read-only, and it waits for nobody. Nearly every check is a query of sql/preflight, and all of them together are one statement.
Locks: ACCESS SHARE on catalogs, and on user tables whose size is read or whose rows are counted; it is waited for 100 ms at most.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Callable

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    declared_duplicates,
    pending_swap,
    preflight_facts,
    preflight_looks,
    server_log,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.command_text import is_command
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    refuse_transaction_pooler,
    server_version,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.preflight_checks import (
    OK,
    STOP,
    WARN,
    Check,
    Need,
    Session,
    ask,
    fill,
    rights,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.preflight_compare import (
    check_waivers,
    compare,
    compare_rows,
    waive,
    worst,
)


@dataclass(frozen=True)
class Look:
    """What a look is made with, whatever the database.

    :ivar checks: in the order of the report; see sql/preflight/checks.yml
    :ivar thresholds: name -> number, as that file has them
    :ivar versions: sql/preflight/versions.yml
    :ivar environment: of the run; ``local`` asks for no backups and no timers
    :ivar production: whether its data are the real ones
    :ivar limit: what commands are typed with behind ``-l``
    :ivar backup_directory: where dumps go, on the machine this runs on; None where that is not known; ``backup_engine``: what makes them
    :ivar health_url: where the application is asked whether it is well; None asks nobody
    :ivar timers: what the ops host knows of its timers, see :func:`preflight_looks.timers`
    :ivar count_rows: whether the rows of each table are counted, for a comparison
    :ivar free_bytes: free bytes at a path; ``clock`` and ``now``: the time, in seconds and in UTC; replaced in tests
    """

    checks: Sequence[Check]
    thresholds: Mapping[str, float]
    versions: Mapping[str, Any] = field(default_factory=dict)
    environment: str = preflight_looks.LOCAL
    production: bool = False
    limit: str = preflight_looks.LOCAL
    backup_directory: str | None = None
    backup_engine: str = "logical"
    health_url: str | None = None
    timers: Sequence[Mapping[str, Any]] | None = None
    count_rows: bool = True
    free_bytes: Callable[[str], int] = preflight_looks.free_space
    clock: Callable[[], float] = time.time
    now: Callable[[], datetime] = preflight_looks.utc_now

    @property
    def names(self) -> list[str]:
        """The names of the checks."""
        return [check.name for check in self.checks]

    @property
    def by_name(self) -> dict[str, Check]:
        """The checks by their names."""
        return {check.name: check for check in self.checks}

    @property
    def needs(self) -> list[Need]:
        """The rights that some check is blind without."""
        return list({check.need.name: check.need for check in self.checks if check.need}.values())


def report(
    target: Target, look: Look, *, application_name: str, of_server: dict[str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Look at everything, once.

    A check that stops does not end the look: whoever repairs a server wants the whole list. Only a server that cannot
    be reached, is too old or hides behind a transaction-mode pooler ends it.

    :param of_server: what was found of the same server before, by check; what is found now is added to it
    :return: ``{"checks": [...], "facts": {"size_bytes", "connections", "active", "waiting_locks", "long_transactions",
        "largest_tables", "server_version", "clock", "rows"}, "level": the worst level}``; ``rows`` is what :func:`compare_rows` takes,
        None where nobody could look
    """
    found: dict[str, dict[str, Any]] = {}
    facts: dict[str, Any] = {}
    conn = _open(target, look, application_name, found)
    if conn is not None:
        observer = None
        try:
            observer = _observer(target, conn, look, application_name)
            facts = _look_around(
                target, look, [conn, *([observer] if observer else [])], found, of_server, application_name
            )
        except psycopg2.Error as exc:
            raise from_psycopg(exc, f"The health check of {target} broke off", database=target.database) from None
        finally:
            if observer is not None:
                observer.close()
            conn.close()
    checks = [found[name] for name in look.names if name in found]
    return {"checks": checks, "facts": facts, "level": worst(checks)}


def _open(target: Target, look: Look, application_name: str, found: dict[str, dict[str, Any]]) -> Connection | None:
    """Connect, and tell apart what connect() refuses for; None where nothing else can be looked at."""
    checks = look.by_name
    try:
        conn = connect(target.with_(owner=None), application_name=application_name, allow_pooler=True)
    except PgopsError as error:
        pending = pending_swap.keeping_out(target) if error.sqlstate == pending_swap.NOT_ACCEPTING else None
        if pending:
            # No check among others: nothing else can be asked, and it has commands of its own.
            raise pending.error() from None
        name = "version" if "or later is needed" in error.message else "server"
        if name == "version":
            found["server"] = checks["server"].entry(OK, f"{target.host} answers")
        found[name] = checks[name].entry(STOP, error.message.rstrip("."), error.hint or "")
        return None
    major, minor = server_version(conn)
    found["server"] = checks["server"].entry(OK, f"{target} answers")
    found["version"] = checks["version"].entry(OK, f"PostgreSQL {major}.{minor}")
    try:
        refuse_transaction_pooler(target, conn)
    except PgopsError as error:
        found["pooler"] = checks["pooler"].entry(STOP, error.message.rstrip("."), checks["pooler"].fix)
        conn.close()
        return None
    found["pooler"] = checks["pooler"].entry(OK, "a direct connection, or session pooling")
    return conn


def _observer(target: Target, conn: Connection, look: Look, application_name: str) -> Connection | None:
    """A second session that sees what the migrator's own does not: the restore role's, where there is one.

    Without pg_read_all_stats pg_stat_activity shows NULL for the transactions of other roles, and a count of long
    transactions is quietly zero.
    """
    if (
        not target.restore_user
        or target.restore_user == target.user
        or len(rights(conn, look.needs)) == len(look.needs)
    ):
        return None
    try:
        return connect(target.as_restore(), application_name=application_name)
    except PgopsError:
        return None  # told by the check restore_connect


def _look_around(
    target: Target,
    look: Look,
    conns: Sequence[Connection],
    found: dict[str, dict[str, Any]],
    of_server: dict[str, dict[str, Any]] | None,
    application_name: str,
) -> dict[str, Any]:
    """Fill ``found`` with what can be seen through these sessions. :return: the facts."""
    checks, version = look.by_name, server_version(conns[0])
    for conn in conns:
        preflight_facts.prepare(conn)
    sessions = [Session(conn, str(conn.info.user), rights(conn, look.needs)) for conn in conns]
    sees_all = next((session for session in sessions if "pg_monitor" in session.rights), None)
    observer = (sees_all or sessions[0]).conn
    known = of_server if of_server is not None else {}
    asked = [check for check in look.checks if check.query and check.name not in known]
    judges = {"duplicate_indexes": partial(declared_duplicates.judged, target, look.limit, application_name)}
    answers = ask(sessions, asked, _parameters(target, look, version[0], sessions[0].role), version[0], judges)
    known.update({name: entry for name, entry in answers.items() if checks[name].scope == "server"})
    found.update({**answers, **known})
    found["tls"] = preflight_looks.tls(checks["tls"], target, conns[0])
    found["clock"], its_time = preflight_looks.clock(checks["clock"], conns[0], look.thresholds, look.clock)
    rights_check = checks["monitor_rights"]
    role = sessions[0].role
    told = f"neither {role} nor the restore role may see what other sessions do, so long transactions and dumps may be overlooked"
    found["monitor_rights"] = (
        rights_check.entry(OK, "every session is seen")
        if sees_all
        else rights_check.entry(WARN, told, fill(rights_check.fix, {"role": role}))
    )
    _looks_beside(target, look, conns[0], found, application_name)
    facts = {
        **preflight_facts.of_server(observer),
        "server_version": "{}.{}".format(*version),
        "clock": its_time,
        "largest_tables": preflight_facts.largest_tables(conns[0]),
        "rows": preflight_facts.rows(target, application_name) if look.count_rows else None,
        # Where the server's log is now, so that what comes after belongs to this run.
        "server_log": server_log.place(target),
    }
    for entry in preflight_looks.disks(
        checks, target, observer, facts, look.backup_directory, look.thresholds, look.free_bytes
    ):
        found[entry["check"]] = entry
    return facts


def _looks_beside(
    target: Target, look: Look, conn: Connection, found: dict[str, dict[str, Any]], application_name: str
) -> None:
    """What no query of this session tells."""
    checks, now, version = look.by_name, look.now(), server_version(conn)
    looks = preflight_looks
    entries = [
        looks.end_of_life(
            checks["end_of_life"], version[0], look.versions, look.thresholds["end_of_life_days"], now.date()
        ),
        looks.known_bad_minor(checks["known_bad_minor"], version, look.versions),
        looks.other_role(checks["backup_connect"], "backup role", target.as_backup(), target.user, application_name),
        looks.other_role(
            checks["restore_connect"], "restore role", target.maintenance(), target.user, application_name
        ),
        *looks.backups(
            checks["backup_age"],
            checks["backup_proof"],
            look.backup_directory,
            target.database,
            cluster=looks.cluster(conn),
            engine=look.backup_engine,
            environment=look.environment,
            limit=look.limit,
            thresholds=look.thresholds,
            now=now,
        ),
        looks.timers(checks["timers"], look.timers, look.environment, now),
        looks.application_health(checks["application"], look.health_url),
    ]
    found.update({entry["check"]: entry for entry in entries})


def _parameters(target: Target, look: Look, major: int, role: str) -> dict[str, Any]:
    user = target.user or role
    return {
        **look.thresholds,
        "user": user,
        "owner": target.owner or user,
        "backup": target.backup_user or user,
        "restore": target.restore_user or user,
        "production": look.production,
        "limit": shlex.quote(look.limit),
        # PostgreSQL 16 tells the right to SET ROLE from membership; 15 has membership alone.
        "member_privilege": "SET" if major >= 16 else "MEMBER",
    }


def look_at(
    targets: dict[str, Target],
    look: Look,
    *,
    waivers: Sequence[Mapping[str, Any]],
    application_name: str,
    before: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Report on several databases, and refuse where a check stops.

    :param before: an earlier result of this function, to compare with
    :return: database -> what :func:`report` returns, with ``worse``, ``better`` and ``rows`` (see :func:`compare_rows`) where
        ``before`` has the database; fewer rows in a table make the level ``warn``
    :raises PgopsError: a waiver that is not one, or a check that stops; ``extra`` then holds all reports
    """
    accepted = check_waivers(waivers, look.names)
    databases: dict[str, Any] = {}
    servers: dict[tuple[str, str | None], dict[str, dict[str, Any]]] = {}
    for name, target in targets.items():
        known = servers.setdefault((target.host, target.port), {})
        found = report(target, look, application_name=application_name, of_server=known)
        found["checks"] = waive(found["checks"], accepted, look.now().date())
        found["level"] = worst(found["checks"])
        _compare_with((before or {}).get(name), found)
        databases[name] = found
    _refuse_stops(databases, look.by_name)
    return databases


def _compare_with(earlier: dict[str, Any] | None, found: dict[str, Any]) -> None:
    if not earlier:
        return
    found.update(compare(earlier["checks"], found["checks"]))
    then, now = ((seen.get("facts") or {}).get("rows") for seen in (earlier, found))
    if then is not None and now is not None:
        found["rows"] = compare_rows(then, now)
        if found["rows"]["fewer"] and found["level"] == OK:
            found["level"] = WARN


def _refuse_stops(databases: dict[str, Any], checks: Mapping[str, Check]) -> None:
    stops = [
        (name, check)
        for name, found in databases.items()
        for check in found["checks"]
        # Nothing can be done without a server, whatever is waived.
        if check["level"] == STOP and not (check.get("waived") and checks[check["check"]].waivable)
    ]
    if not stops:
        return
    name, first = stops[0]
    others = [check["check"] for _database, check in stops[1:]]
    message = f"Preflight stops {name} at {first['check']}: {first['evidence'].rstrip('.')}"
    if others:
        message += f", and also at {', '.join(others)}"
    if first.get("waiver_expired"):
        message += f"; its waiver is no longer in force: {first['waiver_expired']}"
    if first["fix"]:
        message += f"; type: {first['fix']}" if is_command(first["fix"]) else f"; {first['fix']}"
    raise PgopsError(
        message,
        database=name,
        hint=first["fix"] or None,
        extra={"databases": databases, "stopped_at": [check["check"] for _database, check in stops]},
    )
