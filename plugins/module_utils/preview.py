# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an apply would do, told without writing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    begun_steps,
    bounded_look,
    contract,
    duration_forecast,
    encoding,
    extension_needs,
    index_definition,
    ledger,
    lint_facts,
    mended_step,
    other_schema,
)
from ansible_collections.whitecross.pgops.plugins.module_utils import plan as planning
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target, connect
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import application_name
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import tables_of, up_text


def preview(
    target: Target, migrations: Sequence[Mapping[str, Any]], selection: planning.Selection, *, run_id: str = "preview"
) -> dict[str, Any]:
    """Tell what :func:`apply` would do, and write nothing, not even the ledger.

    :return: ``pending`` (what and how risky), ``later``, ``waiting``, ``risk``, ``state`` (see plan.state; empty with nothing pending), ``prepared`` (the SQL),
        ``tables`` that it names, and ``table_bytes`` of those that are there.
    :raises PgopsError: whatever would refuse the apply before its first write.
    """
    conn = connect(target, application_name=application_name(run_id))
    try:
        with bounded_look.bounded(conn, f"What is pending in {target.database} could not be told"):
            found = ledger.read(conn)
            plan = planned(conn, found, migrations, selection)
            return {
                "pending": [
                    {**_summary(conn, migration, found), "unneeded": str(migration["version"]) in plan.unneeded}
                    for migration in plan.pending
                ],
                "later": plan.later,
                "waiting": plan.waiting,
                "applied": [row.version for row in found.in_state("applied")],
                "risk": plan.risk,
                "state": planning.state(conn, found, plan) if plan.pending else {},
                "tables": tables_of(plan.pending),
                "table_bytes": lint_facts.table_bytes(conn, tables_of(plan.pending)),
                "prepared": "".join(
                    up_text(conn, migration, found.get(str(migration["version"])))
                    for migration in plan.pending
                    if str(migration["version"]) not in plan.unneeded
                ),
            }
    finally:
        conn.close()


def planned(
    conn: Connection, found: ledger.Ledger, migrations: Sequence[Mapping[str, Any]], selection: planning.Selection
) -> planning.Plan:
    """:return: what of the tree is to be applied now.

    :raises PgopsError: see :func:`plan.make`, :func:`mended_step.refuse`, :func:`encoding.refuse`, :func:`other_schema.refuse` and
        :func:`extension_needs.refuse`.
    """
    plan = _made(conn, found, migrations, selection)
    for migration in plan.pending:
        row = found.get(str(migration["version"]))
        if row is not None and row.state in ("applying", "failed"):
            mended_step.refuse(conn, row, ledger.stored(conn, row.version), migration)
    if plan.pending:
        encoding.refuse(conn, "applied to")
        other_schema.refuse(conn, found, migrations, "applied to", selection.schemas)
    plan = contract.hold_back(conn, found, plan, selection.contracts)
    extension_needs.refuse(conn, plan.pending)
    return plan


def listed(
    conn: Connection, found: ledger.Ledger, migrations: Sequence[Mapping[str, Any]], selection: planning.Selection
) -> planning.Plan:
    """:return: as :func:`planned`, whatever the versions may lack. :raises PgopsError: see :func:`plan.make`."""
    plan = _made(conn, found, migrations, selection)
    return contract.hold_back(conn, found, plan, selection.contracts)


def _made(
    conn: Connection, found: ledger.Ledger, migrations: Sequence[Mapping[str, Any]], selection: planning.Selection
) -> planning.Plan:
    return planning.make(
        found,
        migrations,
        selection,
        stored=lambda version: ledger.stored(conn, version),
        standing=lambda names: index_definition.standing(conn, names),
        database=str(conn.info.dbname),
    )


def _summary(conn: Connection, migration: Mapping[str, Any], found: ledger.Ledger) -> dict[str, Any]:
    row = found.get(str(migration["version"]))
    resume_at = begun = None
    seconds, rows = duration_forecast.forecast(conn, migration)
    if row is not None and row.state in ("applying", "failed"):
        undone = [step.ordinal for step in row.steps if step.state != "done"]
        resume_at = undone[0] if undone else len(row.steps)
        begun = begun_steps.beginning(conn, row, migration)
    return {
        **{
            name: migration.get(name)
            for name in (
                "version",
                "name",
                "checksum",
                "rendered_checksum",
                "title",
                "why",
                "risk",
                "phi",
                "phase",
                "rollback",
            )
        },
        "expected_seconds": seconds,
        "expected_for_rows": rows,
        "to_be_split": duration_forecast.is_to_be_split(migration, seconds),
        "steps": [{"kind": step["kind"], "name": step.get("name")} for step in migration["steps"]],
        "resume_at": resume_at,
        "begun": begun,
        "state": "resume" if resume_at else "pending",
    }
