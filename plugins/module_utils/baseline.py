# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A database whose ids are text, taken as it is: one entry in the ledger, with all that the catalog holds at that moment."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, ledger, text_ids
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.legacy_ledger import LegacyLedger

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
# adopt_baseline takes a name; who gives one of these takes it for a switch.
_SWITCHES = ("true", "false", "yes", "no", "on", "off", "none")


def refuse_name(database: str, name: str) -> None:
    """:raises PgopsError: it is no name."""
    if not _NAME.fullmatch(name) or name in _SWITCHES:
        raise _refusal(
            database,
            f"adopt_baseline is {name!r}, and a baseline has a name of small letters, digits and underscores, such as text_ids",
        )


def judge(
    conn: Connection, book: ledger.Ledger, found: catalog.Inventory, era: str, name: str, fingerprint: str
) -> dict[str, Any]:
    """Decide about a baseline, and write nothing.

    :param fingerprint: that of ``found``.
    :return: ``name``, ``fingerprint``, ``objects`` and ``tables`` (how many), ``new``, and ``replaces``, the baseline of before.
    :raises PgopsError: the tree fits this database, versions of it are applied, or the name stands for another state.
    """
    database = str(conn.info.dbname)
    if era != text_ids.TEXT:
        why = "ids are uuid" if era == text_ids.UUID else "there is no table of the tree"
        raise _refusal(
            database,
            f"A baseline is for a database whose ids are text, and in {database} {why}; leave adopt_baseline out",
        )
    applied = [row.version for row in book.migrations if row.state != "reverted"]
    if applied:
        raise _refusal(
            database,
            f"Version {applied[0]}{f' and {len(applied) - 1} more are' if len(applied) > 1 else ' is'} in the ledger of {database}, "
            "which is on the tree, so it gets no baseline",
        )
    before = book.baseline
    told: dict[str, Any] = {
        "name": name,
        "fingerprint": fingerprint,
        "objects": len(found),
        "tables": sum(catalog.kind_of(key) == "table" for key in found),
        "new": True,
        "replaces": before.name if before else None,
    }
    if before is not None and before.name == name:
        # What is printed otherwise after a restore is the same still.
        differences = (
            []
            if before.fingerprint == fingerprint
            else catalog.compare(ledger.baseline_objects(conn, name), found, reparse=conn)
        )
        if differences:
            raise _refusal(
                database,
                f"Baseline {name} of {database} was recorded at {before.at[:19]}Z, and {len(differences)} "
                f"{'object is' if len(differences) == 1 else 'things are'} another since ({differences[0]}); give what is there "
                "now a name of its own",
            )
        return {**told, "fingerprint": before.fingerprint, "new": False, "replaces": None}
    if ledger.has_baseline(conn, book, name):
        raise _refusal(database, f"{database} had a baseline {name} before, which was replaced; take another name")
    return told


def record(
    conn: Connection,
    told: Mapping[str, Any],
    found: catalog.Inventory,
    tables: Sequence[Mapping[str, Any]],
    ledgers: Sequence[LegacyLedger],
    run: ledger.Run,
    *,
    who: str,
) -> None:
    """Write the entry, with its audit row, in one transaction. Call with the runner lock held.

    :param tables: what :func:`text_ids.report` says.
    """
    ledger.ensure(conn)
    ledger.start_run(conn, run)
    detail = {"tables": told["tables"], "text_ids": list(tables), "ledgers": [item.as_dict() for item in ledgers]}
    with ledger.transaction(conn, "SET LOCAL synchronous_commit = on"):
        ledger.record_baseline(conn, run, str(told["name"]), str(told["fingerprint"]), found, detail, who=who)
        ledger.append_audit(
            conn,
            "baseline",
            run_id=run.id,
            detail={
                **{key: told[key] for key in ("name", "fingerprint", "objects", "tables", "replaces")},
                "their_ledger": {item.tool: dict(Counter(entry.state for entry in item.entries)) for item in ledgers},
                "who": who,
                "why": run.why,
            },
        )
    ledger.finish_run(conn, run.id, "adopted")


def end(conn: Connection, name: str, run: ledger.Run, *, who: str) -> None:
    """The tree fits by now, and its versions take over; in the caller's transaction."""
    ledger.end_baselines(conn)
    ledger.append_audit(conn, "baseline_ended", run_id=run.id, detail={"name": name, "who": who})


def _refusal(database: str, told: str) -> PgopsError:
    return PgopsError(f"{told}. Nothing was written.", database=database, extra={"reason": "baseline"})
