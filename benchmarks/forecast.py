# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a rehearsal's forecast is off: the shipped chain behind its tables, with rows, rehearsed on one server and applied on another.

    PYTHONPATH=collections:tests .venv/bin/python benchmarks/forecast.py [STUDENTS ...]

5,000 and 20,000 students unless other numbers are given, 17 rows each. The first four versions make the tables and are not measured. The
server that rehearses has other settings than the one that applies, as a cheaper one has. Ends with 1 where steps of a second and more are
off by more than a quarter (the median) or by a factor of two (the worst), or a shorter one by more than 0.3 s. The figures are kept below
benchmarks/results/.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import figures as kept
from ansible_collections.whitecross.pgops.plugins.module_utils import kept_scratch, ledger, migrate, rehearse, restore
from ansible_collections.whitecross.pgops.plugins.module_utils import rehearsal_forecast as forecasts
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import read_tree, render
from durable import make_durable
from support import server as servers
from support.backups import back_up
from support.clients import load_sample_data

ROOT = Path(__file__).resolve().parents[1]
STUDENTS = (5_000, 20_000)
LAST_EMPTY = "20250103000003"
RUN = "20260101T000000Z-0a1b2c"
# A step of this length and more is judged by its ratio, a shorter one by its seconds.
LONG_S = 1.0
MEDIAN, WORST, SHORT_S = 0.25, 2.0, 0.3


def main() -> int:
    """Print each size's steps and errors."""
    sizes = [int(word.replace(",", "").replace("_", "")) for word in sys.argv[1:]] or list(STUDENTS)
    migrations = render(read_tree(ROOT / "sql"))
    met = [measured(size, migrations) for size in sizes]
    return 0 if all(met) else 1


def measured(students: int, migrations: list[dict[str, Any]]) -> bool:
    """Rehearse and apply once. :return: whether the errors are within what is owed."""
    production, scratch = servers.embedded_server(), servers.embedded_server()
    try:
        make_durable(production, max_wal_size="4GB")
        make_durable(scratch, max_wal_size="1GB", work_mem="4MB", maintenance_work_mem="16MB")
        found = steps_of(production, scratch, students, migrations)
    finally:
        servers.discard(production)
        servers.discard(scratch)
    long = [actual / foretold for _, foretold, actual in found if actual >= LONG_S and foretold]
    short = [abs(actual - foretold) for _, foretold, actual in found if actual < LONG_S]
    off = [max(ratio, 1 / ratio) for ratio in long]
    told = {
        "median": round(statistics.median(off) - 1, 3) if off else None,
        "worst": round(max(off), 2) if off else None,
        "short_s": round(max(short, default=0.0), 3),
        "long": len(long),
        "short": len(short),
    }
    for name, foretold, actual in found:
        if actual >= LONG_S or abs(actual - foretold) > SHORT_S:
            print(f"    {name}: forecast {foretold:.2f} s, took {actual:.2f} s")
    print(
        f"{students:,} students: {told['long']} steps of {LONG_S:g} s and more, off by {told['median']} (median) and a factor of {told['worst']} "
        f"at most; {told['short']} shorter ones, off by {told['short_s']} s at most",
        flush=True,
    )
    machine = {"commit": kept.commit(ROOT), "machine": kept.machine()}
    kept.keep("forecast", students, {**machine, **told, "steps": found})
    return (told["median"] or 0) <= MEDIAN and (told["worst"] or 0) <= WORST and told["short_s"] <= SHORT_S


def steps_of(
    production: servers.Server, scratch: servers.Server, students: int, migrations: list[dict[str, Any]]
) -> list[tuple[str, float, float]]:
    """:return: each step with its forecast and what it took, seconds."""
    production.create_database("bench_forecast", servers.OWNER)
    with tempfile.TemporaryDirectory() as folder:
        target = Target(
            host=production.host, port=str(production.port), user=servers.MIGRATOR, owner=servers.OWNER, database="bench_forecast",
            passfile=passfile(Path(folder), production, scratch), backup_user=servers.BACKUP, restore_user=servers.RESTORE,
            bindir=str(production.bindir), scratch_host=scratch.host, scratch_port=str(scratch.port),
        )  # fmt: skip
        who = ledger.Run(id=RUN, playbook="bench", environment="local", who="bench", ops_host="bench")
        migrate.apply(target, migrations, Selection(target=LAST_EMPTY), migrate.Way(who))
        load_sample_data(production, "bench_forecast", students)
        production.execute("ANALYZE", database="bench_forecast")
        backup = back_up(target, Path(folder) / "backups")
        work, settings = restore.Work(RUN), rehearse.Settings(lambda: migrate.Way(who))
        with kept_scratch.opened(target, backup, work=work) as copy:
            record = rehearse.rehearse(target, copy, backup, migrations, Selection(), work=work, settings=settings)
        if not record["ok"]:
            raise RuntimeError(record["why"])
        applied = migrate.apply(target, migrations, Selection(), migrate.Way(who))["applied"]
    took = {(step["version"], step["ordinal"]): step["seconds"] for step in forecasts.durations(applied)}
    return [
        (f"{step['version']} {step['step']}", float(step["seconds"]), float(took[step["version"], step["ordinal"]]))
        for step in record["forecast"]["steps"]
    ]


def passfile(folder: Path, *of: servers.Server) -> str:
    """:return: one file with the passwords of several servers, each by its port."""
    file = folder / "passfile"
    lines = []
    for server in of:
        for line in server.passfile.read_text(encoding="utf-8").splitlines():
            host, _port, rest = line.split(":", 2)
            lines.append(f"{host}:{server.port}:{rest}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    file.chmod(0o600)
    return str(file)


if __name__ == "__main__":
    sys.exit(main())
