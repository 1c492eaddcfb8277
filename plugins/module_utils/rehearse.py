# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The migration happens before it happens: up, verified, down, up again on a restored copy, cut off once and gone on with.

Everything that is written is written to the copy, its ledger too. Production is only asked how fast it is and what it has free.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Callable

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    catalog,
    kept_scratch,
    load_replay,
    locks,
    migrate,
    preview,
    rehearsal_forecast,
    rehearsal_store,
    restore_times,
    scratch_copy,
    speed_probe,
    verify,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_one,
    server_version,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.cut_off import CutOff
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError, as_pgops_error
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.rehearsal_forecast import Budget
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work
from ansible_collections.whitecross.pgops.plugins.module_utils.trace import Trace
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts

TOLD_DIFFERENCES = 3
SAFE_FORMS = "docs/patterns has forms that keep nobody waiting; what is to be allowed all the same stands under budgets in the version's migration.yml."


@dataclass(frozen=True)
class Settings:
    """How the versions run, as in the apply, and what they may take.

    :ivar way: makes what an apply or a revert needs; called anew for each.
    :ivar budget: for all versions that declare none.
    :ivar queries: the application's, of ``sql/checks/queries``.
    :ivar host: the inventory's name of the host that the database is on.
    :ivar recorded: how many more are taken from pg_stat_statements.
    :ivar query_ratio: by how much a query may become slower.
    :ivar query_stops: whether one that becomes slower than that stops the run, or is told.
    """

    way: Callable[[], migrate.Way]
    budget: Budget = field(default_factory=Budget)
    environment: str | None = None
    host: str | None = None
    queries: Sequence[Mapping[str, Any]] = ()
    recorded: int = 0
    query_ratio: float = 2.0
    query_stops: bool = False


def rehearse(
    target: Target,
    copy: kept_scratch.Copy,
    backup: Backup,
    migrations: Sequence[Mapping[str, Any]],
    selection: Selection,
    *,
    work: Work,
    settings: Settings,
) -> dict[str, Any]:
    """Rehearse what is pending, on an opened copy.

    :param target: the database that the migration is for; it is asked for its speed and read, nothing else.
    :return: the rehearsal as :mod:`rehearsal_store` keeps it, whether it went well or not; without ``ok`` and with empty ``versions``
        where nothing is pending.
    :raises Interrupted: the run was asked to end.
    :raises PgopsError: the copy or the target cannot be reached, or the plan is refused.
    """
    rehearsal = _Rehearsal(target, copy, backup, migrations, selection, work, settings)
    pending = preview.preview(copy.target, migrations, selection, run_id=work.run_id)["pending"]
    record = rehearsal.record([str(item["version"]) for item in pending])
    if not pending:
        return record
    try:
        rehearsal.run(record, pending)
    except (PgopsError, psycopg2.Error) as exc:
        work.control.check()
        error = as_pgops_error(exc, f"The rehearsal of {target.database} broke off", database=target.database)
        if isinstance(error, Interrupted):
            raise error from None
        record.update(why=rehearsal.why(error.message), hint=error.hint, sqlstate=error.sqlstate)
    record["ok"] = record["why"] is None
    return record


@dataclass
class _Rehearsal:
    target: Target
    copy: kept_scratch.Copy
    backup: Backup
    migrations: Sequence[Mapping[str, Any]]
    selection: Selection
    work: Work
    settings: Settings
    turn: str = "on its first way up"

    def record(self, versions: list[str]) -> dict[str, Any]:
        """:return: what is kept of it before anything is done."""
        tree = {str(migration["version"]): migration for migration in self.migrations}
        with closing(self._connect()) as conn:
            scratch = server_version(conn)[0]
        return {
            "format": rehearsal_store.FORMAT,
            "id": self.work.run_id,
            "at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "environment": self.settings.environment,
            "host": self.settings.host,
            "database": self.target.database,
            "backup": self.backup.path.rstrip("/").rpartition("/")[2],
            "server_version": self.backup.manifest["server_version"][0],
            "scratch_version": scratch,
            "scratch_server": restore_times.place_of(self.copy.admin),
            "versions": versions,
            "checksums": {version: str(tree[version]["rendered_checksum"]) for version in versions},
            "files": {version: str(tree[version]["checksum"]) for version in versions},
            "ok": False,
            "why": None,
            "down_equal": False,
            "resumed": False,
            "seconds": {},
            "steps": [],
            "forecast": None,
            "budget": self.settings.budget.as_dict(),
            "over_budget": [],
            "reservations": list(self.copy.reservations),
        }

    def why(self, told: str) -> str:
        """:return: what went wrong, where, and that nothing else was touched."""
        return (
            f"The rehearsal of {self.target.database} failed {self.turn}: {told.rstrip('.')}. It ran in a copy on "
            f"{restore_times.place_of(self.copy.admin)}; {self.target} is untouched."
        )

    def run(self, record: dict[str, Any], pending: Sequence[Mapping[str, Any]]) -> None:
        """Fill the record, up to the turn that fails."""
        self._analyze()
        with contextlib.ExitStack() as stack:
            self._turns(record, pending, stack)

    def _turns(self, record: dict[str, Any], pending: Sequence[Mapping[str, Any]], stack: contextlib.ExitStack) -> None:
        stays = [item for item in pending if (item.get("rollback") or {}).get("safety") == "none"]
        # What cannot go down cannot go up again here.
        second = stack.enter_context(self._second()) if stays else self.copy.target
        wrong_before = self._findings([]) if stays else []
        queries = self._queries(record)
        before, size = self._inventory(), self._size()
        trace = Trace(self._connect)
        began = time.monotonic()
        try:
            with trace:
                up = migrate.apply(self.copy.target, self.migrations, self.selection, self._way(watch=trace))
        finally:
            record["steps"] = trace.entries
        record["seconds"]["up"] = round(time.monotonic() - began, 3)
        after = self._inventory()
        self._forecast(record, up, size)
        slower = self._replay(record, queries)
        self.turn = "in its verification"
        wrong = self._findings(record["versions"])
        if stays:
            told = f"{stays[0]['version']} declares that it has none ({(stays[0].get('rollback') or {}).get('stays')})"
            record["reservations"].append(f"the way down was not tried: {told}")
        else:
            self._down(record, pending, before)
            if wrong:
                # Down again everything is as it was: what is wrong now as well is none of the versions' doing.
                wrong_before = self._findings([])
        self._judge(record, wrong, wrong_before)
        if second is not None:
            self._again(record, up, after, second)
        else:
            record["reservations"].append(
                "it was not cut off and gone on with: the scratch server has no room for a second copy"
            )
        if record["over_budget"]:
            self.turn = "by its forecast"
            record["why"] = self.why("; ".join(record["over_budget"]))
            record["hint"] = SAFE_FORMS
        elif slower and self.settings.query_stops:
            self.turn = "by the application's queries"
            record["why"] = self.why("; ".join(slower))

    # -- the turns ------------------------------------------------------------------------------------------------------

    def _analyze(self) -> None:
        """A restore brings no statistics, and without them batches and queries take plans for empty tables."""
        self._tell("collecting statistics of the copy")
        with closing(connect(self.copy.admin, application_name=self.work.application_name)) as conn:
            forget = self.work.control.on_interrupt(conn.cancel)
            try:
                execute(conn, "ANALYZE")
            finally:
                forget()

    def _findings(self, versions: Sequence[str]) -> list[str]:
        """:param versions: that must be applied. :return: what a verification fails by, a sentence each."""
        self._tell("verifying the copy")
        where = self.copy.target.with_(backup_user=self.copy.admin.user)
        result = verify.verify_database(
            where, control=self.work.control, progress=self.work.progress, run_id=self.work.run_id, compare_schema=False,
            applied_before=versions,
        )  # fmt: skip
        return [verify.sentence(finding) for finding in result["findings"] if finding["level"] == "fail"]

    def _judge(self, record: dict[str, Any], wrong: Sequence[str], before: Sequence[str]) -> None:
        """What was wrong before stays for the run's own verification, which names it; what the versions have brought ends this."""
        self.turn = "in its verification"
        known = [sentence for sentence in wrong if sentence in before]
        if known:
            record["reservations"].append(f"the verification fails without these versions too: {_several(known)}")
        if len(known) < len(wrong):
            raise PgopsError(
                _several([sentence for sentence in wrong if sentence not in before]), database=self.target.database
            )

    def _down(self, record: dict[str, Any], pending: Sequence[Mapping[str, Any]], before: catalog.Inventory) -> None:
        self.turn = "on its way down"
        self._tell("on the way down")
        began = time.monotonic()
        migrate.revert(self.copy.target, Reverts(through=record["versions"][0]), self._way(on_a_copy=True))
        record["seconds"]["down"] = round(time.monotonic() - began, 3)
        left = [str(difference) for difference in catalog.compare(before, self._inventory(), ignore=())]
        record["down_equal"] = not left
        declared = [item for item in pending if (item.get("rollback") or {}).get("safety") != "complete"]
        if left and not declared:
            record["left"] = left
            raise PgopsError(
                f"the way down leaves {_several(left)}",
                database=self.target.database,
                hint="Mend the down of the version, or declare in its migration.yml what stays.",
            )
        if left:
            told = ", ".join(str(item["version"]) for item in declared)
            record["reservations"].append(f"the way down leaves {_several(left)}, as {told} declares")

    @contextlib.contextmanager
    def _second(self) -> Iterator[Target | None]:
        """A second copy, as the role that migrates; None where there is no room for it."""
        self._tell("making a second copy")
        with scratch_copy.beside(self.copy.admin, database=self.target.database, work=self.work) as name:
            if name is None:
                yield None
                return
            maintenance = self.copy.admin.with_(database=self.copy.admin.maintenance_database)
            with closing(connect(maintenance, application_name=self.work.application_name)) as conn:
                made = kept_scratch.as_migrator(self.target, self.copy.admin.with_(database=name), self.backup, conn)
            yield made.target

    def _again(self, record: dict[str, Any], up: Mapping[str, Any], after: catalog.Inventory, where: Target) -> None:
        """Cut off once, then gone on with by the next run, as after a crash."""
        version, ordinal = self._chosen(up)
        self.turn = f"on its second way up, cut off at step {ordinal} of {version}"
        self._tell(f"up again, cut off once at step {ordinal} of {version}")
        cut = CutOff(self.work.control, version, ordinal)
        began = time.monotonic()
        try:
            migrate.apply(where, self.migrations, self.selection, self._way(watch=cut, control=cut))
        except Interrupted:
            self.work.control.check()
            self.turn = f"when it went on after it was cut off at step {ordinal} of {version}"
            migrate.apply(where, self.migrations, self.selection, self._way())
            record["resumed"] = True
            record["cut_off_at"] = {"version": version, "step": ordinal}
        record["seconds"]["again"] = round(time.monotonic() - began, 3)
        different = [str(difference) for difference in catalog.compare(after, self._inventory(where), ignore=())]
        if different:
            raise PgopsError(
                f"the second way up differs from the first: {_several(different)}", database=self.target.database
            )

    def _chosen(self, up: Mapping[str, Any]) -> tuple[str, int]:
        """:return: the step to cut off, another one each run and the same in each try of one run."""
        steps = [
            (str(item["version"]), int(step["step"])) for item in up["applied"] for step in item["step_durations"]
        ] or [(str(item["version"]), 1) for item in up["applied"]]
        return steps[int(hashlib.sha256(self.work.run_id.encode()).hexdigest(), 16) % len(steps)]

    # -- the application's queries --------------------------------------------------------------------------------------

    def _queries(self, record: dict[str, Any]) -> list[load_replay.Query]:
        """:return: the queries, as they are before the versions."""
        found: list[load_replay.Query] = []
        self.turn = "in a look at the application's queries"
        if self.settings.recorded:
            # As who logs in: the owner of the tables need not see what others ask.
            asking = self.target.with_(owner=None)
            with closing(connect(asking, application_name=self.work.application_name)) as conn:
                own = [role for role in (self.target.backup_user, self.target.restore_user) if role]
                found = load_replay.recorded(conn, self.settings.recorded, own)
            if not found:
                record["reservations"].append(
                    "no query was taken from pg_stat_statements: it has none here that the role may see, or the server is older than 16"
                )
        with closing(self._connect()) as conn:
            declared, told = load_replay.declared(conn, self.settings.queries)
            found = [*declared, *found]
            if found:
                self._tell(f"running {len(found)} queries of the application")
            load_replay.look(conn, found, after=False, control=self.work.control)
        record["reservations"] += told
        self.turn = "on its first way up"
        return found

    def _replay(self, record: dict[str, Any], queries: Sequence[load_replay.Query]) -> list[str]:
        """:return: a sentence for each query that has become slower than it may, or fails."""
        if not queries:
            return []
        self.turn = "in a look at the application's queries"
        self._analyze()
        with closing(self._connect()) as conn:
            load_replay.look(conn, queries, after=True, control=self.work.control)
        record["queries"] = load_replay.compare(queries, self.settings.query_ratio)
        record["slower"] = load_replay.sentences(record["queries"])
        return list(record["slower"])

    # -- the forecast ---------------------------------------------------------------------------------------------------

    def _forecast(self, record: dict[str, Any], up: Mapping[str, Any], size_before: int) -> None:
        self.turn = "in its forecast"
        durations = rehearsal_forecast.durations(up["applied"])
        self._tell("measuring how fast both servers are")
        servers = speed_probe.both(self.target, self.copy.target, application_name=self.work.application_name)
        if servers.production is None or servers.scratch is None:
            record["reservations"].append(
                "how fast the servers are could not be measured, so they count as equally fast"
            )
        history = rehearsal_store.history(self.backup.path)
        with closing(self._connect()) as conn:
            taken = rehearsal_forecast.disk_taken(conn, size_before, record["steps"])
        found = rehearsal_forecast.forecast(durations, record["steps"], servers, history, disk_bytes=taken)
        budgets = {str(item["version"]): item.get("budgets") or {} for item in self.migrations}
        record["forecast"] = found
        record["servers"] = {
            "pair": list(servers.pair),
            "scratch": servers.scratch.as_dict() if servers.scratch else None,
            "production": servers.production.as_dict() if servers.production else None,
        }
        record["over_budget"] = rehearsal_forecast.over(
            found,
            record["steps"],
            self.settings.budget,
            {version: budgets.get(version, {}) for version in record["versions"]},
            servers,
        )

    # -- the copy -------------------------------------------------------------------------------------------------------

    def _connect(self, where: Target | None = None) -> Connection:
        return connect(
            where or self.copy.target, application_name=f"{locks.application_name(self.work.run_id)} rehearsal"
        )

    def _way(self, **changes: Any) -> migrate.Way:
        return replace(self.settings.way(), **changes)

    def _inventory(self, where: Target | None = None) -> catalog.Inventory:
        with closing(self._connect(where)) as conn:
            return catalog.inventory(conn)

    def _size(self) -> int:
        with closing(self._connect()) as conn:
            row = fetch_one(conn, "SELECT pg_catalog.pg_database_size(pg_catalog.current_database()) AS bytes")
            return int(row["bytes"]) if row else 0

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self.work.progress.emit(f"rehearsal: {text}", database=self.target.database)


def _several(told: Sequence[str]) -> str:
    more = f"; and {len(told) - TOLD_DIFFERENCES} more" if len(told) > TOLD_DIFFERENCES else ""
    return "; ".join(told[:TOLD_DIFFERENCES]) + more
