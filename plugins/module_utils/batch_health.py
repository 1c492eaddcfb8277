# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether the clients of a database are as well after a batch as before it: what lets the next batch begin, and what a watch tells."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import declared, integrity, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control

# Fewer transactions say nothing of a rate: one of ten that rolls back is 10 %.
FEWEST_TRANSACTIONS = 20
# One that left may be somebody's psql.
FEWEST_CLIENTS = 2
# A query that needs ten times what it may is not waited for any longer.
PROBE_PATIENCE = 10
PROBE_TIMES = 3
# Of a query that takes a millisecond the noise alone is half as much again.
SLOWER_AT_LEAST_MS = 20.0
# Too few transactions are added to those of the look after, for so long.
COLLECTED_S = 300.0
# A standby that is busy with the batch's own WAL gets this long to catch up.
LAG_PATIENCE_S = 60.0
# A session tells its counters when it ends, and is gone from pg_stat_activity after that (backend exit order).
OWN_SESSIONS_S = 2.0
REPLAY_POLL_S = 1.0  # a lag has a limit of seconds, and a standby tells nobody that it has caught up
POLL_S = 0.1  # a session that ends tells nobody; most are gone at the first look

_COUNTERS = """
SELECT xact_commit AS commits, xact_rollback AS rollbacks, deadlocks, conflicts FROM pg_catalog.pg_stat_database
WHERE datname = pg_catalog.current_database()
"""
_LAG = """
SELECT CASE WHEN count(*) = 0 OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')
            THEN coalesce(max(extract(epoch FROM replay_lag)), 0)::float8 END AS lag_s
FROM pg_catalog.pg_stat_replication
"""
_OWN = """
SELECT 1 FROM pg_catalog.pg_stat_activity
WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid()
  AND application_name LIKE 'pgops %' AND usename = session_user
"""
# Whose sessions these are everybody may see, not what they do. Ours tell their name.
_CLIENTS = """
SELECT count(*) AS sessions FROM pg_catalog.pg_stat_activity
WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid()
  AND application_name NOT LIKE 'pgops%' AND usename <> session_user
"""


@dataclass(frozen=True)
class Limits:
    """What a batch may cost the clients.

    :ivar pause: seconds for which they are watched after a batch.
    :ivar error_rate: percent of a database's transactions that may roll back meanwhile; twice its usual share, where that is more, and no more than so many
        beyond it.
    :ivar probe: a query of the application, run read-only; None asks nothing.
    :ivar probe_limit: milliseconds that it may take, in the median of three.
    :ivar replication_lag: seconds that a standby may be behind.
    :ivar performance: percent that the probe may be slower than before, in a watch.
    """

    pause: float = 5.0
    error_rate: float = 5.0
    probe: str | None = None
    probe_limit: float = 1000.0
    replication_lag: float = 30.0
    performance: float = 50.0


@dataclass(frozen=True)
class Before:
    """A database before its batch.

    :ivar error_rate: the share of transactions that roll back, in percent.
    :ivar invalid: its invalid indexes.
    :ivar standbys: those of the server by application_name, each as often as it is connected.
    :ivar clients: the sessions of others in it.
    :ivar when: before what that was, in the words of a finding.
    :ivar probe_ms: milliseconds of the probe, where it was asked and answered.
    """

    error_rate: float
    invalid: frozenset[str]
    standbys: tuple[str, ...] = ()
    clients: int = 0
    when: str = "the batch"
    probe_ms: float | None = None


class _Counters(NamedTuple):
    """What the server has counted in a database since its statistics were reset."""

    commits: int
    rollbacks: int
    deadlocks: int
    conflicts: int = 0


@dataclass(frozen=True)
class Signal:
    """What is not well, and of what kind that is.

    :ivar kind: ``errors`` (with the percent of transactions in ``value``), ``silent``, ``probe``, ``performance`` (with the percent that it is
        slower), ``changed`` (something of what was applied is not as it was) or ``standby``.
    :ivar told: the sentence.
    :ivar limit: what is let pass, in the unit of ``value``.
    """

    kind: str
    told: str
    value: float | None = None
    limit: float | None = None


def look_before(target: Target) -> Before:
    """:return: what is usual for this database. Reads statistics and catalogs, no lock on tables."""
    with _session(target) as conn:
        return _before(conn)


def look_after(
    targets: Mapping[str, Target],
    before: Mapping[str, Before],
    applied: Mapping[str, Sequence[Mapping[str, Any]]],
    limits: Limits,
    *,
    control: Control,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, dict[str, Any]]:
    """Watch the databases of a batch for ``limits.pause`` seconds and judge.

    Takes ACCESS SHARE on what the probe and the versions' own verification read.

    :param applied: by database the rendered migrations that the batch has applied there.
    :return: by database ``error_rate`` (percent; None for too few transactions), ``transactions``, ``probe_ms``, ``replication_lag_s``
        (None where it may not be seen), ``deadlocks`` and ``conflicts`` meanwhile, ``findings`` (sentences; none where it is well) and
        ``signals``, the same as :class:`Signal` has them.
    :raises Interrupted: the run was asked to stop meanwhile.
    """
    begun = {}
    for name, target in targets.items():
        with _session(target) as conn:
            _wait_for_own_sessions(conn, sleep)
            begun[name] = _counters(conn)
    left = limits.pause
    while left > 0:
        control.check()
        sleep(min(left, 1.0))
        left -= 1.0
    control.check()
    told = {}
    for name, target in targets.items():
        with _session(target) as conn:
            told[name] = _judge(target, conn, before[name], begun[name], applied.get(name, ()), limits, control, sleep)
    return told


def look_again(
    target: Target,
    seen: Mapping[str, Any] | None,
    limits: Limits,
    *,
    control: Control,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """One look of a watch, which judges what was since the look before. Reads statistics and catalogs, and what the probe reads.

    :param seen: the ``seen`` of the look before; None before the apply, for what is usual. Without its ``counters`` the watch begins
        with this look. Neither finds anything.
    :return: as :func:`look_after` for one database, and ``seen``, plain data for the next look; where nothing is judged only that.
    :raises Interrupted: asked to stop.
    """
    with _session(target) as conn:
        probe_ms = _probe(conn, limits.probe, limits.probe_limit)[0] if limits.probe and not seen else None
        usual = dict(seen["before"]) if seen else _plain(_before(conn), probe_ms)
        if not seen or not seen.get("counters"):
            if seen:
                _wait_for_own_sessions(conn, sleep)
            return {"seen": {"before": usual, **_now(conn)}, "findings": []}
        now = _now(conn)
        before = Before(**{**usual, "invalid": frozenset(usual["invalid"]), "standbys": tuple(usual["standbys"])})
        since = replace(limits, pause=round(now["at"] - seen["at"]))
        found = _judge(target, conn, before, _Counters(*seen["counters"]), (), since, control, sleep)
        if found["error_rate"] is None and since.pause < COLLECTED_S:
            now = {name: seen[name] for name in now}
        return {**found, "seen": {"before": usual, **now}}


def _plain(before: Before, probe_ms: float | None) -> dict[str, Any]:
    told = asdict(replace(before, when="the apply", probe_ms=probe_ms))
    return {**told, "invalid": sorted(before.invalid), "standbys": list(before.standbys)}


def _now(conn: Connection) -> dict[str, Any]:
    return {"counters": list(_counters(conn)), "at": time.time()}


def _before(conn: Connection) -> Before:
    commits, rollbacks, *_others = _counters(conn)
    return Before(
        100.0 * rollbacks / max(commits + rollbacks, 1),
        frozenset(str(index["name"]) for index in integrity.invalid_indexes(conn)),
        _standbys(conn),
        _clients(conn),
    )


def _judge(
    target: Target,
    conn: Connection,
    before: Before,
    begun: _Counters,
    applied: Sequence[Mapping[str, Any]],
    limits: Limits,
    control: Control,
    sleep: Callable[[float], None],
) -> dict[str, Any]:
    signals: list[Signal] = []
    # After a crash the server counts from zero.
    counted = _Counters(*(now - then if now >= then else now for now, then in zip(_counters(conn), begun)))
    transactions = counted.commits + counted.rollbacks
    rate = 100.0 * counted.rollbacks / transactions if transactions >= FEWEST_TRANSACTIONS else None
    allowed = max(limits.error_rate, min(2 * before.error_rate, before.error_rate + limits.error_rate))
    if rate is not None and rate > allowed:
        deadlocks = f" ({counted.deadlocks} by deadlocks)" if counted.deadlocks else ""
        told = f"{counted.rollbacks} of {transactions} transactions rolled back within {limits.pause:g} s, {rate:.1f} %{deadlocks}"
        signals.append(Signal("errors", f"{told}, and {allowed:.1f} % are let pass", round(rate, 2), round(allowed, 2)))
    if before.clients >= FEWEST_CLIENTS and rate is None and not _clients(conn):
        signals.append(
            Signal(
                "silent",
                f"no client is connected any longer, and {before.clients} sessions were before {before.when}",
            )
        )
    lost = _not_applied(conn, applied)
    if lost:
        signals.append(Signal("changed", f"not applied on the server that answers by now: {', '.join(lost)}"))
    new = sorted({str(index["name"]) for index in integrity.invalid_indexes(conn)} - before.invalid)
    if new:
        signals.append(Signal("changed", f"invalid since {before.when}: {', '.join(new)}"))
    signals += [Signal("changed", told) for told in _differing(target, conn, applied, control)]
    probe_ms = None
    if limits.probe:
        probe_ms, fault = _probe(conn, limits.probe, limits.probe_limit)
        signals += [fault] if fault else _slower(probe_ms, before, limits)
    signals += _standbys_unwell(conn, before)
    lag = _lag(conn, limits, control, sleep)
    if lag is not None and lag > limits.replication_lag:
        signals.append(
            Signal("standby", f"a standby is {lag:.0f} s behind, and {limits.replication_lag:g} s are let pass")
        )
    return {
        "error_rate": None if rate is None else round(rate, 2),
        "transactions": transactions,
        "deadlocks": counted.deadlocks,
        "conflicts": counted.conflicts,
        "probe_ms": probe_ms,
        "replication_lag_s": None if lag is None else round(lag, 1),
        "findings": [signal.told for signal in signals],
        "signals": [asdict(signal) for signal in signals],
    }


def _slower(probe_ms: float | None, before: Before, limits: Limits) -> list[Signal]:
    """The probe against itself before the change."""
    if probe_ms is None or not before.probe_ms or probe_ms - before.probe_ms < SLOWER_AT_LEAST_MS:
        return []
    percent = 100.0 * (probe_ms / before.probe_ms - 1)
    if percent <= limits.performance:
        return []
    told = f"the probe takes {probe_ms:.0f} ms and took {before.probe_ms:.0f} ms before {before.when}, {percent:.0f} % more"
    return [
        Signal("performance", f"{told}, and {limits.performance:g} % are let pass", round(percent), limits.performance)
    ]


def _standbys_unwell(conn: Connection, before: Before) -> list[Signal]:
    gone = list(before.standbys)
    for name in _standbys(conn):
        if name in gone:
            gone.remove(name)
    return [Signal("standby", f"no longer connected since {before.when}: standby {', '.join(gone)}")] if gone else []


def _not_applied(conn: Connection, applied: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a failover has lost of the batch's versions."""
    there = {row.version for row in ledger.read(conn).migrations if row.state == "applied"} if applied else set()
    return [str(migration["version"]) for migration in applied if str(migration["version"]) not in there]


def _differing(target: Target, conn: Connection, applied: Sequence[Mapping[str, Any]], control: Control) -> list[str]:
    """What the batch's versions say of themselves, without what a later one of the same batch has taken away or changed."""

    def said(known: declared.Superseded) -> list[str]:
        return [
            f"verification of {migration['version']}: {found.object}: expected {found.expected}, found {found.found}"
            for migration in applied
            for found in declared.check_statements(
                conn, migration, control, limit=3, superseded=frozenset(known.get(str(migration["version"]), ()))
            )
        ]

    differing = said({})
    if not differing or len(applied) == 1:
        return differing
    versions = [row.version for row in ledger.read(conn).in_state("applied")]
    try:
        known = declared.superseded(target, conn, ledger.all_stored(conn, versions), control=control)
    except Interrupted:
        raise
    except PgopsError:
        # Without a scratch database nobody knows: all of it is told.
        return differing
    return said(known) if known else differing


def _standbys(conn: Connection) -> tuple[str, ...]:
    rows = fetch_all(conn, "SELECT application_name AS name FROM pg_catalog.pg_stat_replication ORDER BY 1")
    return tuple(str(row["name"]) for row in rows)


def _clients(conn: Connection) -> int:
    row = fetch_one(conn, _CLIENTS)
    return int(row["sessions"]) if row else 0


def _session(target: Target) -> closing[Connection]:
    return closing(connect(target, application_name="pgops health"))


def _counters(conn: Connection) -> _Counters:
    row = fetch_one(conn, _COUNTERS)
    return _Counters(*(int(row[name]) for name in _Counters._fields)) if row else _Counters(0, 0, 0)


def _wait_for_own_sessions(conn: Connection, sleep: Callable[[float], None]) -> None:
    """What our own retries for locks have rolled back is no error of a client."""
    deadline = time.monotonic() + OWN_SESSIONS_S
    while fetch_all(conn, _OWN) and time.monotonic() < deadline:
        sleep(POLL_S)


def _lag(conn: Connection, limits: Limits, control: Control, sleep: Callable[[float], None]) -> float | None:
    """:return: seconds; None where there are standbys and the role may not see how they are."""
    # The right is the login role's, and the owner that it acts as need not have it.
    execute(conn, "RESET ROLE")
    deadline = time.monotonic() + LAG_PATIENCE_S
    while True:
        row = fetch_one(conn, _LAG)
        lag = None if row is None or row["lag_s"] is None else float(row["lag_s"])
        if lag is None or lag <= limits.replication_lag or time.monotonic() > deadline:
            return lag
        control.check()
        sleep(REPLAY_POLL_S)


def _probe(conn: Connection, query: str, limit_ms: float) -> tuple[float | None, Signal | None]:
    """:return: the median in milliseconds, and what is wrong with it."""
    took = []
    try:
        execute(conn, f"SET statement_timeout = {int(limit_ms * PROBE_PATIENCE)}")
        execute(conn, "SET default_transaction_read_only = on")
        for _ in range(PROBE_TIMES):
            begun = time.monotonic()
            execute(conn, query)
            took.append(1000 * (time.monotonic() - begun))
    except psycopg2.Error as exc:
        if conn.closed:
            raise
        # With its statement, so that values of rows which the server quotes are masked.
        return None, Signal("probe", from_psycopg(exc, "the probe failed", statement=query).message)
    finally:
        if not conn.closed:
            execute(conn, "RESET statement_timeout")
    # To the microsecond: a quick probe of 0.0 ms would be one that nothing can be compared with.
    median = round(sorted(took)[PROBE_TIMES // 2], 3)
    if median > limit_ms:
        told = f"the probe takes {median:.0f} ms, and {limit_ms:g} ms are let pass"
        return median, Signal("performance", told)
    return median, None
