# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The events that people and machines are told of, and who is told: a webhook, a mailbox, or both.

A notice holds names, times, counts and commands: no value of a row, no statement, no error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import mailbox, notification, run_parts
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import now

# Whoever tells has to know it.
NotNotified = notification.NotNotified

PLANNED, STARTED, SUCCEEDED = "planned", "started", "succeeded"
FAILED, ROLLED_BACK, COMPLETED = "failed", "rolled_back", "completed"
EVENTS = (PLANNED, STARTED, SUCCEEDED, FAILED, ROLLED_BACK, COMPLETED)
# Right after `succeeded` comes `completed`, which says the same and how long it took.
TOLD = tuple(event for event in EVENTS if event != SUCCEEDED)

VARIABLES = (
    "pgops_webhook",
    "pgops_webhook_file",
    "pgops_webhook_form",
    "pgops_webhook_secret_file",
    "pgops_mail",
    "pgops_notify_events",
)
SLACK, JSON = "slack", "json"
FORMAT = 1


@dataclass(frozen=True)
class Notice:
    """:ivar text: for people; its first line is the subject of a mail. :ivar facts: for machines."""

    event: str
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """:return: what a webhook gets in the form ``json``; docs/notifications.md is its schema."""
        return {"format": FORMAT, "event": self.event, "at": now(), **self.facts, "text": self.text}


class NotAllNotified(NotNotified):
    """One of several was not told; the others were."""


def who_was(fault: NotNotified) -> str:
    """:return: the beginning of a warning."""
    return "Not everybody" if isinstance(fault, NotAllNotified) else "Nobody"


# -- what is told ---------------------------------------------------------------------------------------------------------


def of_end(report: Mapping[str, Any], databases: Sequence[str] = ()) -> Notice:
    """:param databases: told where the run reached none of its own."""
    if not report.get("ok", report["result"] == "succeeded"):
        event = ROLLED_BACK if (report.get("automatic") or {}).get("ok") else FAILED
    else:
        event = ROLLED_BACK if report["playbook"] == "rollback" else COMPLETED
    reached = _of_hosts(report["results"])
    return Notice(
        event,
        notification.message(report, databases),
        {
            **_of_run({**report, "id": report["run_id"]}),
            "databases": reached or [{"host": None, "database": name} for name in databases],
            "result": report["result"],
            "seconds": report["duration_s"],
            "phase": (report["error"] or {}).get("phase"),
        },
    )


def of_rollback(run: Mapping[str, Any], host: str, at: str, strategy: str, databases: Sequence[str]) -> Notice:
    """:return: of a rollback that begins."""
    facts = {**_of_run(run), "databases": _named(host, databases), "strategy": strategy}
    return Notice(STARTED, notification.beginning(run, at, strategy, databases), facts)


def of_emergency(run: Mapping[str, Any], host: str, at: str, databases: Sequence[str]) -> Notice:
    """:return: of a rollback that begins in an emergency, before anything else."""
    text = f"pgops: EMERGENCY {run['playbook']} in {run['environment']} begins at {at}\ndatabase: {', '.join(databases)}\n{_by(run)}"
    return Notice(STARTED, text, {**_of_run(run), "databases": _named(host, databases), "emergency": True})


def of_migration(run: Mapping[str, Any], pending: Mapping[str, Mapping[str, int]]) -> Notice:
    """:param pending: host -> database -> how many versions.
    :return: of a migration that has found something to apply."""
    counts = [
        f"{name} on {host} ({number} pending)" for host, found in pending.items() for name, number in found.items()
    ]
    text = (
        f"pgops: {run['playbook']} in {run['environment']} BEGINS at {now()}\ndatabase: {', '.join(counts)}\n{_by(run)}"
    )
    return Notice(STARTED, text, {**_of_run(run), "databases": _of_hosts(pending)})


def of_success(run: Mapping[str, Any], verified: Mapping[str, Sequence[str]]) -> Notice:
    """:param verified: host -> databases.
    :return: of a migration that is applied and verified; what comes after it may still fail."""
    named = [f"{name} on {host}" for host, found in verified.items() for name in found]
    text = f"pgops: {run['playbook']} in {run['environment']} is applied and verified\ndatabase: {', '.join(named)}\n{_by(run)}"
    return Notice(SUCCEEDED, text, {**_of_run(run), "databases": _of_hosts(verified)})


def of_plan(run: Mapping[str, Any], planned_for: str, places: Sequence[Mapping[str, Any]]) -> Notice:
    """:param places: each ``host``, ``database`` and its ``pending`` versions.
    :return: of a migration that has its date."""
    databases = [{"host": place["host"], "database": place["database"]} for place in places]
    versions = sorted({str(item["version"]) for place in places for item in place["pending"]})
    named = ", ".join(f"{place['database']} on {place['host']}" for place in places)
    text = (
        f"pgops: a migration of {run['environment']} is planned for {planned_for}\ndatabase: {named}\n"
        f"versions: {', '.join(versions)}\n{_by(run)}"
    )
    return Notice(
        PLANNED, text, {**_of_run(run), "databases": databases, "planned_for": planned_for, "versions": versions}
    )


def of_look(report: Mapping[str, Any]) -> Notice | None:
    """:return: of a migration that has planned and was to apply nothing, by its tags or its phases, or that is prepared blue-green; None
    where nothing is pending."""
    pending = {
        (str(host), str(name)): found["plan"]["pending"]
        for host, databases in report["results"].items()
        for name, found in databases.items()
        if (found.get("plan") or {}).get("pending")
    }
    if report["playbook"] not in ("migrate", "blue_green") or not pending:
        return None
    run = {**report, "id": report["run_id"]}
    versions = sorted({str(item["version"]) for items in pending.values() for item in items})
    done = (
        "prepared, and nothing is changed over yet"
        if report["playbook"] == "blue_green"
        else "planned, and nothing was applied"
    )
    text = (
        f"pgops: {report['playbook']} in {report['environment']} is {done}\n"
        f"database: {', '.join(f'{name} on {host}' for host, name in pending)}\nversions: {', '.join(versions)}\n{_by(run)}"
    )
    databases = [{"host": host, "database": name} for host, name in pending]
    return Notice(PLANNED, text, {**_of_run(run), "databases": databases, "planned_for": None, "versions": versions})


def _of_run(run: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "playbook": run["playbook"],
        "environment": run["environment"],
        "run_id": run["id"],
        "who": run["who"],
        "ops_host": run["ops_host"],
    }


def _by(run: Mapping[str, Any]) -> str:
    return f"run: {run['id']} by {run['who']} on {run['ops_host']}"


def _named(host: str, databases: Sequence[str]) -> list[dict[str, Any]]:
    return _of_hosts({host: databases})


def _of_hosts(databases: Mapping[str, Iterable[str]]) -> list[dict[str, Any]]:
    return [{"host": host, "database": str(name)} for host, found in databases.items() for name in found]


# -- who is told ----------------------------------------------------------------------------------------------------------


def tell(report: Mapping[str, Any], settings: Mapping[str, Any], databases: Sequence[str] = ()) -> bool:
    """Notify of the end of a run, where it is one that is told and somebody wants to know.

    :return: whether somebody was
    :raises NotNotified: somebody should have been
    """
    if report["playbook"] not in notification.NOTIFIED or report.get("check_mode"):
        return False
    if report["playbook"] == "blue_green" and not run_parts.touches(report):
        return False
    if report.get("ok", report["result"] == "succeeded") and not run_parts.changes(report):
        # It has looked, and that is all that there is to tell of it.
        planned = of_look(report)
        return deliver(planned, settings) if planned else False
    return deliver(of_end(report, databases), settings)


def deliver(notice: Notice, settings: Mapping[str, Any], *, threads: bool = True) -> bool:
    """Tell whoever is named; that one cannot be reached keeps nobody else from being told.

    :param settings: the values of :data:`VARIABLES`
    :param threads: whether threads may be left behind, which a process that still forks must not
    :return: whether somebody was told
    :raises NotNotified: somebody should have been and was not
    """
    wanted = settings.get("pgops_notify_events") or TOLD
    unknown = [str(name) for name in wanted if name not in EVENTS]
    if isinstance(wanted, str) or unknown:
        named = wanted if isinstance(wanted, str) else ", ".join(unknown)
        raise NotNotified(f"pgops_notify_events is a list of {', '.join(EVENTS)}, and has {named}")
    if notice.event not in wanted:
        return False
    told, faults = 0, []
    for channel in (_webhook, _mail):
        try:
            send = channel(notice, settings, threads)
            if send:
                send()
                told += 1
        except NotNotified as fault:
            faults.append(str(fault))
    if faults:
        raise (NotAllNotified if told else NotNotified)("; ".join(faults))
    return told > 0


def _webhook(notice: Notice, settings: Mapping[str, Any], threads: bool) -> Callable[[], None] | None:
    where = notification.address(*(str(settings.get(name) or "") for name in ("pgops_webhook", "pgops_webhook_file")))
    if where is None:
        return None
    form = str(settings.get("pgops_webhook_form") or SLACK)
    if form not in (SLACK, JSON):
        raise NotNotified(f"pgops_webhook_form is {form}; it is one of {SLACK} and {JSON}")
    file = str(settings.get("pgops_webhook_secret_file") or "")
    key = (
        notification.secret_in("pgops_webhook_secret_file", file, "who knows the key may sign as pgops")
        if file
        else None
    )
    if file and not key:
        raise NotNotified(f"pgops_webhook_secret_file={file} is empty")
    document = notice.document() if form == JSON else None
    return lambda: notification.send(where, notice.text, document=document, key=key, threads=threads)


def _mail(notice: Notice, settings: Mapping[str, Any], threads: bool) -> Callable[[], None] | None:
    given = settings.get("pgops_mail")
    if not given:
        return None
    mail = mailbox.Mailbox.of(given)
    environment = str(notice.facts.get("environment") or "")
    headers = {"X-Pgops-Event": notice.event, "X-Pgops-Environment": environment}
    return lambda: mail.send(notice.text, headers, threads=threads)
