# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a rehearsal says of production: how long each step will take, what it keeps waiting, what it needs, and whether that is allowed.

The rehearsal ran on production's own data, so sizes are production's. What differs is the server: by the probe of both, and by how far
earlier forecasts for the same pair of servers were off.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.lock_sampler import BLOCKS_READS, BLOCKS_WRITES
from ansible_collections.whitecross.pgops.plugins.module_utils.speed_probe import Servers

# Earlier steps count from this length on: below it a forecast is off by what a machine does beside.
SHORTEST_S = 0.5
# So many of the newest of them count, and a correction takes three at least.
TAKEN, LEAST = 30, 3
# Half and twice, where nobody knows better.
UNKNOWN_LOW, UNKNOWN_HIGH = 0.5, 2.0
# On top of any band: what no size explains.
SLACK_S = 0.3
MB = 1024 * 1024

_REWRITTEN = """
SELECT coalesce(sum(pg_catalog.pg_table_size(c.oid)), 0)::bigint AS bytes
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname || '.' || c.relname = ANY (%s)
"""


@dataclass(frozen=True)
class Budget:
    """What a migration may take of production; None for no limit. A version may declare its own in its migration.yml.

    :ivar blocked_reads_s: seconds that one transaction may hold a lock that readers wait for.
    :ivar blocked_writes_s: the same of writers.
    :ivar duration_s: seconds for all of it.
    :ivar wal_mb: MB of WAL for all of it.
    :ivar replica_lag_s: seconds that a standby may fall behind.
    """

    blocked_reads_s: float | None = None
    blocked_writes_s: float | None = None
    duration_s: float | None = None
    wal_mb: float | None = None
    replica_lag_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """:return: those that are set."""
        return {name: value for name, value in vars(self).items() if value is not None}


def correction(history: Sequence[Mapping[str, Any]], pair: Sequence[str], kind: str) -> tuple[float, float, float]:
    """:param history: earlier steps, each with forecast and actual seconds.
    :return: what a forecast is multiplied by, and the shares of it that are its band, by earlier ones of the same servers."""
    of_pair = [
        line
        for line in history
        if line.get("pair") == list(pair)
        and float(line.get("actual") or 0) >= SHORTEST_S
        and float(line.get("plain") or 0) > 0
    ]
    of_kind = [line for line in of_pair if line.get("kind") == kind]
    taken = (of_kind if len(of_kind) >= LEAST else of_pair)[-TAKEN:]
    if len(taken) < LEAST:
        return 1.0, UNKNOWN_LOW, UNKNOWN_HIGH
    shares = sorted(float(line["actual"]) / float(line["plain"]) for line in taken)
    middle = statistics.median(shares)
    return middle, min(shares) / middle, max(shares) / middle


def forecast(
    rehearsed: Sequence[Mapping[str, Any]],
    entries: Sequence[Mapping[str, Any]],
    servers: Servers,
    history: Sequence[Mapping[str, Any]],
    *,
    disk_bytes: int,
) -> dict[str, Any]:
    """:param rehearsed: the steps, as :func:`durations` gives them.
    :param entries: the trace.
    :param disk_bytes: what the rehearsal took of the disk at its highest, without WAL.
    :return: steps (each with its seconds, their band, and for how long readers and writers wait at most), the same of all of it,
        disk_bytes, wal_bytes, replica_lag_seconds (None where nobody can tell)."""
    steps = []
    lag = 0.0
    for step in rehearsed:
        of_step = [
            entry for entry in entries if (entry["version"], entry["ordinal"]) == (step["version"], step["ordinal"])
        ]
        wal = sum(int(entry["wal_bytes"]) for entry in of_step)
        seconds = float(step["seconds"])
        plain = seconds * servers.factor(seconds, wal)
        by, low, high = correction(history, servers.pair, str(step["kind"]))
        share = plain * by / seconds if seconds else 1.0
        steps.append(
            {
                "version": step["version"],
                "ordinal": step["ordinal"],
                "step": step["step"],
                "kind": step["kind"],
                "plain": round(plain, 3),
                "seconds": round(plain * by, 3),
                "low": round(max(0.0, plain * by * low - SLACK_S), 3),
                "high": round(plain * by * high + SLACK_S, 3),
                "blocks_reads": round(longest(of_step, BLOCKS_READS) * share, 3),
                "blocks_writes": round(longest(of_step, BLOCKS_WRITES) * share, 3),
                "wal_bytes": wal,
            }
        )
        if servers.production is not None:
            lag = max(lag, wal / servers.production.write_bytes_per_s)
    known = servers.production is not None or not servers.standbys
    return {
        "steps": steps,
        **{word: round(sum(float(step[word]) for step in steps), 3) for word in ("seconds", "low", "high")},
        # Nobody waits for two transactions: the longest counts.
        **{word: max((float(step[word]) for step in steps), default=0.0) for word in ("blocks_reads", "blocks_writes")},
        "disk_bytes": disk_bytes,
        "wal_bytes": sum(int(step["wal_bytes"]) for step in steps),
        "replica_lag_seconds": (round(lag, 3) if servers.standbys else 0.0) if known else None,
    }


def durations(applied: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """:param applied: of the result of an apply. :return: version, ordinal, step, kind and seconds of each step of it."""
    return [
        {
            "version": str(item["version"]),
            "ordinal": int(step["step"]),
            "step": str(step.get("name") or step["kind"]),
            "kind": str(step["kind"]),
            "seconds": float(step["duration_s"]),
        }
        for item in applied
        for step in item["step_durations"]
    ]


def disk_taken(conn: Connection, size_before: int, entries: Sequence[Mapping[str, Any]]) -> int:
    """:param conn: to the copy, after the versions.
    :return: bytes of its disk at the highest: what stays, and beside it the old files of what was rewritten and the temporary ones."""
    rewritten = sorted({table for entry in entries for table in entry["rewrites"]})
    old = fetch_one(conn, _REWRITTEN, (rewritten,)) if rewritten else None
    now = fetch_one(conn, "SELECT pg_catalog.pg_database_size(pg_catalog.current_database()) AS bytes")
    grown = int(now["bytes"]) - size_before if now else 0
    return max(0, grown) + (int(old["bytes"]) if old else 0) + max((int(e["temp_bytes"]) for e in entries), default=0)


def longest(entries: Sequence[Mapping[str, Any]], modes: frozenset[str]) -> float:
    """:return: the longest that one of these locks was held, seconds."""
    return max(
        (float(lock["seconds"]) for entry in entries for lock in entry["locks"] if lock["mode"] in modes), default=0.0
    )


def over(
    found: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    budget: Budget,
    of_versions: Mapping[str, Mapping[str, Any]],
    servers: Servers,
) -> list[str]:
    """:param found: the forecast.
    :param of_versions: the budgets that versions declare, by version.
    :return: a sentence for each budget that would be broken, the worst first; none where all is within."""
    told: list[tuple[float, str]] = []
    for step in found["steps"]:
        for word, modes, limit_s, who in (
            ("reads", BLOCKS_READS, budget.blocked_reads_s, "readers"),
            ("writes", BLOCKS_WRITES, budget.blocked_writes_s, "writers"),
        ):
            declared = _declared(of_versions.get(str(step["version"])) or {}, word)
            limit = declared / 1000 if declared is not None else limit_s
            seconds = float(step[f"blocks_{word}"])
            if limit is None or seconds <= limit:
                continue
            if (
                word == "writes"
                and float(step["blocks_reads"]) >= seconds
                and any(
                    sentence
                    for _, sentence in told
                    if f"version {step['version']}, step {step['ordinal']} " in sentence
                )
            ):
                continue  # said already: the same lock keeps readers out
            entry, lock = _culprit(entries, step, modes)
            where = (
                f"budgets.blocked_{word}_ms of its migration.yml"
                if declared is not None
                else f"rehearse_blocked_{word}"
            )
            what = f"version {step['version']}, step {step['ordinal']} ({step['step']})"
            held = f'would hold {lock["mode"]} on {lock["table"]} for about {seconds:.1f} s by "{entry["statement"]}"'
            told.append((seconds, f"{what} {held}, {who} wait that long, and {where} allows {limit:g} s"))
    for value, limit, sentence in (
        (
            float(found["seconds"]),
            budget.duration_s,
            "all of it would take about {0:.0f} s, and rehearse_duration allows {1:g} s",
        ),
        (
            found["wal_bytes"] / MB,
            budget.wal_mb,
            "it would write about {0:.0f} MB of WAL, and rehearse_wal_mb allows {1:g} MB",
        ),
        (
            float(found["replica_lag_seconds"] or 0),
            budget.replica_lag_s,
            "standbys would fall behind by about {0:.1f} s, and rehearse_replica_lag allows {1:g} s",
        ),
    ):
        if limit is not None and value > limit:
            told.append((0.0, sentence.format(value, limit)))
    for version, declared_of in of_versions.items():
        limit = declared_of.get("duration_s")
        seconds = sum(float(step["seconds"]) for step in found["steps"] if step["version"] == version)
        if limit is not None and seconds > limit:
            told.append(
                (
                    0.0,
                    f"version {version} would take about {seconds:.0f} s, and budgets.duration_s of its migration.yml allows {limit} s",
                )
            )
    needed = int(found["disk_bytes"]) + int(found["wal_bytes"])
    if servers.free_bytes is not None and needed > servers.free_bytes:
        told.append(
            (
                float("inf"),
                f"it would take {needed / MB:,.0f} MB of disk, WAL with it, and {servers.free_bytes / MB:,.0f} MB are free on {servers.pair[1]}",
            )
        )
    return [sentence for _, sentence in sorted(told, key=lambda entry: -entry[0])]


def _declared(budgets: Mapping[str, Any], word: str) -> float | None:
    """Whoever lets readers wait lets writers wait as long: no lock keeps out readers alone."""
    found = budgets.get(f"blocked_{word}_ms")
    reads = budgets.get("blocked_reads_ms")
    if word == "reads" or reads is None:
        return None if found is None else float(found)
    return float(max(found or 0, reads))


def _culprit(
    entries: Sequence[Mapping[str, Any]], step: Mapping[str, Any], modes: frozenset[str]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """:return: the statement that came by the longest of these locks, and that lock."""
    of_step = [entry for entry in entries if (entry["version"], entry["ordinal"]) == (step["version"], step["ordinal"])]
    pairs = [(entry, lock) for entry in of_step for lock in entry["locks"] if lock["mode"] in modes]
    return max(pairs, key=lambda pair: float(pair[1]["seconds"]))
