# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What was done to a database in a period, read from an export of its audit: a record a migration, as JSON lines and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import audit_entry, audit_verifier
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

# The fields that the platform's handbook asks of an audit entry come first, then what else an auditor asks for.
FIELDS = (
    "timestamp", "executor", "migration", "environment", "database", "tables_affected", "phi_impact", "justification",
    "backup_location", "duration_seconds", "status", "verification_status", "rollback_tested", "approvals", "run_id",
    "ticket", "playbook", "host", "ops_host", "service_account", "tool_version", "server_version", "name", "risk",
    "phi_fields", "records_affected", "indexes", "checksum", "rendered_checksum", "backup_proved_at", "rehearsal",
    "break_glass", "signed_off_by", "seq",
)  # fmt: skip
_OF_VERSION = ("name", "risk", "records_affected", "indexes", "checksum", "rendered_checksum", "duration_seconds")
# What a run that left no last row - of an older release, or one that was killed - says of itself one by one.
_SINGLE = {
    "applied": "applied", "reverted": "reverted", "adopted": "adopted", "failed": "failed", "lock_wait": "failed",
    "time_limit": "failed", "interrupted": "interrupted", "database_swapped": "database swapped",
    "cluster_restored": "cluster restored", "cluster_returned": "cluster returned", "break_glass": "break glass",
}  # fmt: skip


@dataclass
class Period:
    """The events of a period.

    :ivar first: the time of the very first row of the audit, wherever the period begins.
    """

    since: str
    until: str
    rows: int = 0
    first: str | None = None
    events: dict[str, int] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    signed_off: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def day(text: Any, otherwise: str) -> str:
    """:return: a day as ISO has it. :raises PgopsError: it is none."""
    if text in (None, ""):
        return otherwise
    try:
        return date.fromisoformat(str(text)).isoformat()
    except ValueError:
        raise PgopsError(f"{text} is no day; write it as 2026-01-31") from None


def read(path: Path, since: str, until: str) -> Period:
    """:param since: the first day, and ``until`` the last one, both in UTC.
    :raises PgopsError: the file is no export."""
    period = Period(since, until)
    singles: list[dict[str, Any]] = []
    ended: set[str] = set()
    try:
        with audit_verifier.from_export(str(path)) as (_head, rows):
            for row in _mappings(rows):
                period.first = period.first or str(row["at"])
                event = str(row["event"])
                detail = _detail(row)
                # Whenever it was signed off, a run of the period is.
                if event == audit_entry.SIGNED_OFF:
                    period.signed_off.setdefault(str(detail.get("run")), []).append(detail)
                if not since <= str(row["at"])[:10] <= until:
                    continue
                period.rows += 1
                period.events[event] = period.events.get(event, 0) + 1
                if event == audit_entry.RUN_ENDED:
                    ended.add(str(row["run_id"]))
                    period.runs.append({**detail, "run_id": row["run_id"], "seq": row["seq"]})
                    period.records.extend(_of_run(row, detail))
                elif event in _SINGLE:
                    singles.append(_single(row, detail))
    except audit_verifier.CannotLook as fault:
        raise PgopsError(f"{fault}.") from None
    period.records += [record for record in singles if record["run_id"] not in ended]
    period.records.sort(key=lambda record: int(record["seq"]))
    for record in period.records:
        record["signed_off_by"] = [
            *(record.get("signed_off_by") or []),
            *(
                f"{signed.get('name')} ({signed.get('role')})"
                for signed in period.signed_off.get(str(record["run_id"]), [])
            ),
        ]
    return period


def _mappings(rows: Iterable[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    for values in rows:
        yield dict(zip(audit_verifier.COLUMNS, values, strict=True))


def _detail(row: Mapping[str, Any]) -> dict[str, Any]:
    found = json.loads(row["detail"])
    return found if isinstance(found, dict) else {}


def _of_run(row: Mapping[str, Any], detail: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A record a migration of the run; one for a run that had none, such as a restore."""
    reviewer = ((detail.get("execution_log") or {}).get("sign_off") or {}).get("reviewer")
    shared = {name: detail.get(name) for name in FIELDS if name in detail}
    shared.update(run_id=row["run_id"], seq=row["seq"], timestamp=detail.get("timestamp") or row["at"])
    shared["signed_off_by"] = [reviewer["name"]] if reviewer else []
    for version in detail.get("migrations") or [{}]:
        own = {name: version[name] for name in _OF_VERSION if version.get(name) not in (None, "")}
        phi = {"phi_impact": bool(version.get("phi") or detail.get("phi_fields"))} if version else {}
        status = version.get("status") or detail.get("status")
        yield {**shared, **own, **phi, "migration": version.get("version"), "status": status}


def _single(row: Mapping[str, Any], detail: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "timestamp": row["at"],
        "executor": row["actor"],
        "service_account": row["actor"],
        "migration": row["version"],
        "justification": detail.get("reason"),
        "backup_location": (detail.get("backup") or {}).get("path")
        if isinstance(detail.get("backup"), Mapping)
        else None,
        "duration_seconds": detail.get("duration_s"),
        "status": _SINGLE[str(row["event"])],
        "checksum": detail.get("checksum"),
        "run_id": row["run_id"],
        "seq": row["seq"],
    }


def as_lines(period: Period) -> str:
    """:return: a record a line, every field in each."""
    return "".join(
        json.dumps({name: record.get(name) for name in FIELDS}, ensure_ascii=False) + "\n" for record in period.records
    )


def as_csv(period: Period) -> str:
    """:return: the same as a table; what is a list or a mapping is JSON in its cell."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(FIELDS)
    table.writerows([_cell(record.get(name)) for name in FIELDS] for record in period.records)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list, bool)) else str(value)
    # A spreadsheet runs what begins so.
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
