# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What preflight looks at that no query tells: the connection, other roles, disks, clocks, backups, timers, the application.

Every function takes the check that it speaks for and returns its entry of the report.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from typing import Any, Callable

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    application,
    backup_catalogue,
    cluster_backups,
    timer_state,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    fetch_one,
    system_identifier,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.extra_variables import extra_variables_argument
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from ansible_collections.whitecross.pgops.plugins.module_utils.preflight_checks import OK, STOP, WARN, Check

Entry = dict[str, Any]
FreeBytes = Callable[[str], int]

# A timer is late when it has missed its time by half as much again; the jitter of one that runs every few minutes is more.
TIMER_GRACE = 0.5
TIMER_GRACE_S = 600
# Of max_wal_size, below which a server that writes much ends before its next checkpoint.
WAL_STOP = 0.25
# This environment has backups and timers only where somebody wants them.
LOCAL = "local"
PHYSICAL = "physical"


def size(number: float) -> str:
    """:return: bytes as a person reads them."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 10240:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.0f} TB"


def free_space(path: str) -> int:
    """:return: the bytes that an ordinary user may still write at ``path``."""
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def is_near(target: Target) -> bool:
    """:return: whether the target is this machine, as far as its name tells."""
    return target.host.startswith(("/", "127.", "@")) or target.host in ("localhost", "::1", "")


def tls(check: Check, target: Target, conn: Connection) -> Entry:
    """Is the session encrypted as it was asked for."""
    row = (
        fetch_one(conn, "SELECT ssl, version FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()") or {}
    )
    if row.get("ssl"):
        if target.sslmode in ("verify-ca", "verify-full") or is_near(target):
            return check.entry(OK, f"{row['version']}, sslmode {target.sslmode}")
        return check.entry(WARN, f"{row['version']}, but sslmode {target.sslmode} accepts any certificate", check.fix)
    if target.sslmode in ("require", "verify-ca", "verify-full") and not target.host.startswith("/"):
        told = f"the session has no TLS but sslmode is {target.sslmode}"
        return check.entry(STOP, told, "reach the server itself, not a proxy")
    if is_near(target):
        return check.entry(OK, "none, on this machine")
    return check.entry(WARN, f"the connection to {target.host} is not encrypted", check.fix)


def other_role(check: Check, what: str, target: Target, own: str | None, application_name: str) -> Entry:
    """Can another role of the run connect.

    :param what: the role in words
    :param own: the migrator's name; nobody else is asked for where it is this one
    """
    if not target.user or target.user == own:
        return check.entry(OK, "the migrator itself")
    try:
        connect(target, application_name=application_name).close()
    except PgopsError as error:
        grant = f"GRANT CONNECT ON DATABASE {quoted(target.database)} TO {quoted(str(target.user))};"
        return check.entry(STOP, error.message.rstrip("."), error.hint or grant)
    return check.entry(OK, f"{what} {target.user} connects to {target.database}")


def clock(
    check: Check, conn: Connection, thresholds: Mapping[str, float], now: Callable[[], float]
) -> tuple[Entry, float]:
    """How far the server's clock is from that of this machine, known to half of a round trip.

    :param now: seconds since 1970; replaced in tests
    :return: the entry, and the server's time in seconds since 1970
    """
    asked = now()
    row = fetch_one(conn, "SELECT pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) AS told") or {"told": 0}
    answered = now()
    slack = (answered - asked) / 2
    told = float(row["told"])
    difference = told - (asked + answered) / 2
    certain = max(0.0, abs(difference) - slack)
    if certain <= thresholds["clock_warn_s"]:
        return check.entry(OK, f"the same as this machine's, to {max(slack, 0.1):.1f} s"), told
    level = STOP if certain > thresholds["clock_stop_s"] else WARN
    way = "ahead of" if difference > 0 else "behind"
    evidence = f"the server's clock is {certain:.0f} s {way} that of {os.uname().nodename}"
    return check.entry(level, evidence, check.fix), told


def end_of_life(check: Check, major: int, versions: Mapping[str, Any], days: float, today: date) -> Entry:
    """:param versions: ``majors`` of sql/preflight/versions.yml; :param days: how long before it warns."""
    known = (versions.get("majors") or {}).get(str(major))
    if known is None:
        return check.unknown(f"it is not known when PostgreSQL {major} ends", "update the collection")
    ends = date.fromisoformat(str(known["ends"]))
    if today > ends:
        return check.entry(WARN, f"PostgreSQL {major} has had no fix since {ends}", check.fix)
    if today > ends - timedelta(days=days):
        return check.entry(WARN, f"PostgreSQL {major} gets its last fix on {ends}", check.fix)
    return check.entry(OK, f"PostgreSQL {major} is kept until {ends}")


def known_bad_minor(check: Check, version: tuple[int, int], versions: Mapping[str, Any]) -> Entry:
    """:param versions: ``bad_minors`` of sql/preflight/versions.yml."""
    for bad in versions.get("bad_minors") or ():
        if (int(bad["major"]), int(bad["minor"])) == version:
            told = f"PostgreSQL {version[0]}.{version[1]}: {bad['why']}; mended in {version[0]}.{bad['mended']}"
            return check.entry(WARN, told, check.fix)
    return check.entry(OK, f"none is known of {version[0]}.{version[1]}")


def disk(
    check: Check, folder: str | None, needed: int, what: str, shares: tuple[float, float], free_bytes: FreeBytes
) -> Entry:
    """Free space of the file system that holds ``folder`` or, where it is not made yet, the nearest folder above it.

    :param needed: bytes that ``what`` has
    :param shares: of these, below which it warns and stops
    """
    if not folder:
        return check.unknown(
            "it is not seen from here: the folder is on another machine, or not told to this role",
            f"look there by hand, or waive {check.name} with a reason",
        )
    path = os.path.abspath(os.path.expanduser(folder))
    while path != "/" and not os.path.isdir(path):
        path = os.path.dirname(path)
    try:
        free = free_bytes(path)
    except OSError as error:
        return check.unknown(f"{path} cannot be looked at: {error.strerror}", "look at it by hand")
    told = f"{size(free)} free at {path}, {what} {size(needed)}"
    warn, stop = (share * needed for share in shares)
    if free < stop:
        return check.entry(STOP, told, f"free at least {size(stop)} at {path}")
    if free < warn:
        return check.entry(WARN, told, f"free {size(warn)} at {path}")
    return check.entry(OK, told)


_FOLDERS = """
SELECT pg_catalog.pg_backend_pid() AS pid,
       pg_catalog.current_setting('data_directory', true) AS data,
       pg_catalog.pg_size_bytes(pg_catalog.current_setting('max_wal_size')) AS max_wal,
       coalesce((SELECT pg_catalog.pg_tablespace_location(t.oid) FROM pg_catalog.pg_tablespace t
                  WHERE t.spcname = pg_catalog.btrim(pg_catalog.split_part(pg_catalog.current_setting('temp_tablespaces'), ',', 1), ' "')), '') AS temp
 WHERE pg_catalog.pg_has_role(current_user, 'pg_read_all_settings', 'USAGE')
"""


def _is_process_here(pid: int) -> bool:
    """Does a process of PostgreSQL with this number run on this machine.

    A port may be forwarded, from a container or by ssh, and this machine may have a folder of the same name.
    """
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip() in ("postgres", "postmaster")
    except OSError:
        return False


def disks(
    checks: Mapping[str, Check],
    target: Target,
    conn: Connection,
    facts: Mapping[str, Any],
    backup_directory: str | None,
    thresholds: Mapping[str, float],
    free_bytes: FreeBytes,
) -> list[Entry]:
    """The disks of the data, the WAL, temporary files and backups, where this process runs on their machine.

    :param facts: ``size_bytes`` of the database and ``largest_tables``, see :mod:`preflight_facts`
    """
    database = int(facts.get("size_bytes") or 0)
    shares = (thresholds["disk_warn_percent"] / 100, thresholds["disk_stop_percent"] / 100)
    has = "the database has"
    entries = []
    row = fetch_one(conn, _FOLDERS)
    if row is None and is_near(target):
        need = checks["monitor_rights"].fix.replace("{role:I}", quoted(str(target.user or conn.info.user)))
        entries = [
            checks[name].unknown("the role may not see where it is", need)
            for name in ("disk_data", "disk_wal", "disk_temp")
        ]
    else:
        here = row is not None and is_near(target) and _is_process_here(int(row["pid"]))
        data = str(row["data"]) if row and row["data"] and here else None
        wal = os.path.join(data, "pg_wal") if data else None
        temp = (str(row["temp"]) or os.path.join(data, "base")) if row and data else None
        max_wal = int(row["max_wal"]) if row else 0
        largest = max((int(table["bytes"]) for table in facts["largest_tables"]), default=0)
        entries = [
            disk(checks["disk_data"], data, database, has, shares, free_bytes),
            # It may be a link to another disk, which is looked at by its real place.
            disk(
                checks["disk_wal"], wal and os.path.realpath(wal), max_wal, "max_wal_size is", (1, WAL_STOP), free_bytes
            ),
            disk(checks["disk_temp"], temp, largest, "the largest table has", (1, 0), free_bytes),
        ]
    return [*entries, disk(checks["disk_backup"], backup_directory, database, has, shares, free_bytes)]


def cluster(conn: Connection) -> str:
    """:return: the system identifier, empty where this role may not ask for it."""
    try:
        return system_identifier(conn)
    except psycopg2.Error:
        return ""


def backups(
    age: Check,
    proof: Check,
    directory: str | None,
    database: str,
    *,
    cluster: str,
    engine: str,
    environment: str,
    limit: str,
    thresholds: Mapping[str, float],
    now: datetime,
) -> list[Entry]:
    """How old the last whole backup is and how far it was proved.

    :param cluster: the server's system identifier: a backup of another one that lies in the same folder is none of this database
    :param engine: ``logical`` or ``physical``
    :param environment: in ``local`` none has to be there
    :param limit: what commands are typed with behind ``-l``
    """
    if engine == PHYSICAL:
        told = "the backups are pgBackRest's, which is not asked here"
        return [check.unknown(told, "pgbackrest info, on the host of the database") for check in (age, proof)]
    if not directory:
        told = "it is not told to this role where the backups are"
        return [check.unknown(told, "set backup_directory") for check in (age, proof)]
    try:
        found = backup_catalogue.entries(os.path.abspath(os.path.expanduser(directory)), database)
    except PgopsError as error:
        return [check.unknown(error.message.rstrip("."), error.hint or "look by hand") for check in (age, proof)]
    found = [entry for entry in found if cluster_backups.may_be_of(entry.manifest, cluster)]
    whole = sorted((entry for entry in found if entry.moment), key=lambda entry: str(entry.moment))
    fix = age.fix.replace("{limit}", shlex.quote(limit))
    if not whole:
        if environment == LOCAL:
            return [check.entry(OK, "there is none, and none is asked for in local") for check in (age, proof)]
        told = f"there is no backup of {database} in {directory}"
        return [check.entry(WARN, told, fix) for check in (age, proof)]
    newest = whole[-1]
    assert newest.moment is not None
    hours = (now - newest.moment).total_seconds() / 3600
    told = f"the last is {hours:.0f} hours old ({newest.id})"
    entries = [age.entry(WARN, told, fix) if hours > thresholds["backup_age_h"] else age.entry(OK, told)]
    told = f"the last was proved to level {newest.level} ({newest.id})"
    if newest.level < thresholds["backup_level"]:
        told += f", and {thresholds['backup_level']:.0f} is asked for" if newest.level else ", which is not at all"
        fix = proof.fix.replace("{limit}", shlex.quote(limit)).replace(
            "-e backup_path={path}", extra_variables_argument({"backup_path": newest.path})
        )
        return [*entries, proof.entry(WARN, told, fix)]
    return [*entries, proof.entry(OK, told)]


def timers(check: Check, found: Sequence[Mapping[str, Any]] | None, environment: str, now: datetime) -> Entry:
    """Did what is scheduled run in time.

    :param found: what the ops host has written of each: ``name``, ``last_success``, ``expected_every_s``, ``result``; with ``state`` and
        ``why`` of one that is installed, ``fault`` where its file cannot be understood, ``elsewhere`` where ``name`` is another host
        that has them. None where nothing was ever scheduled
    """
    if found is None:
        if environment == LOCAL:
            return check.entry(OK, "nothing is scheduled, and nothing is asked for in local")
        return check.entry(
            WARN, "nothing is scheduled", "set up timers for backup, drill and maintenance on the ops host"
        )
    for timer in found:
        if timer.get("elsewhere"):
            where = f"timers are those of {timer['name']}, which preflight reaches only when it is typed there"
            return check.unknown(where, "look with status.yml, which asks that host")
    told = [sentence for timer in found for sentence in _late(timer, now)]
    if not told:
        waiting = sum(timer.get("state") == timer_state.WAITING for timer in found)
        first = f", {waiting} wait for their first run" if waiting else ""
        return check.entry(OK, f"{len(found) - waiting} ran in time{first}")
    return check.entry(WARN, "; ".join(told), check.fix, len(told))


def _late(timer: Mapping[str, Any], now: datetime) -> list[str]:
    name = str(timer.get("name"))
    if timer.get("fault"):
        return [f"{name}: {timer['fault']}"]
    if timer.get("state"):
        return [f"{name}: {timer['why']}"] if timer["state"] in timer_state.BAD else []
    try:
        last = datetime.fromisoformat(str(timer["last_success"]).replace("Z", "+00:00"))
        every = float(timer["expected_every_s"])
    except (KeyError, TypeError, ValueError):
        return [f"{name} has never succeeded"]
    last = last if last.tzinfo else last.replace(tzinfo=timezone.utc)
    late = (now - last).total_seconds()
    when = f"{name} succeeded last {late / 3600:.0f} hours ago"
    if timer.get("result") == "failed":
        return [f"{name} failed; {when}"]
    if late > every + max(TIMER_GRACE * every, TIMER_GRACE_S):
        return [f"{when} and should every {every / 3600:.0f} hours"]
    return []


def application_health(check: Check, url: str | None) -> Entry:
    """Ask the application whether it is well, where its address is known."""
    if not url:
        return check.entry(OK, "not asked: preflight_health_url is not set")
    well, told = application.ask(url)
    return check.entry(OK, told) if well else check.entry(STOP, told, check.fix)


def utc_now() -> datetime:
    """:return: the time, in UTC."""
    return datetime.fromtimestamp(time.time(), timezone.utc)
