# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The seven days before a migration (R11.10 to R11.16, R11.19): what is due when, what is done and what is late, who is told, in which words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

# Days before, name, what is due.
STEPS = (
    (7, "submitted", "the plan is submitted for review"),
    (5, "security", "security and compliance approve"),
    (3, "notified", "stakeholders are notified"),
    (1, "go", "go or no-go"),
    (0, "executed", "the migration begins"),
)
# What only people know.
BY_HAND = ("submitted", "security", "notified", "go")
STAKEHOLDERS = ("engineering", "product", "customer support", "infrastructure")
COMPLIANCE = "compliance officer"
DONE, LATE, DUE, LATER = "done", "late", "due", "later"


@dataclass(frozen=True)
class Step:
    """:ivar by: the moment until which it is due. :ivar state: ``done``, ``late``, ``due`` (within a day) or ``later``."""

    name: str
    days_before: int
    what: str
    by: datetime
    who: str
    state: str


def moment(text: Any) -> datetime:
    """:param text: ``gate_planned_for``. :return: the moment. :raises PgopsError: it is none, or has no time zone."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise PgopsError(
            f"gate_planned_for is '{text}', and takes a moment with its time zone",
            hint="-e gate_planned_for=2026-12-05T22:00:00-05:00",
        )
    return found


def steps(
    planned: datetime,
    now: datetime,
    *,
    phi: bool,
    roles: Collection[str],
    approved: Collection[str],
    done: Collection[str],
) -> list[Step]:
    """:param planned: when the migration is to begin.
    :param roles: who has to approve it. :param approved: those of them who have.
    :param done: of :data:`BY_HAND` what people say is done.
    :raises PgopsError: ``done`` names something else."""
    unknown = [name for name in done if name not in BY_HAND]
    if unknown:
        raise PgopsError(f"gate_timeline_done names {unknown[0]}, and takes {', '.join(BY_HAND)}")
    open_roles = [role for role in roles if role not in approved]
    whom = {
        "submitted": "who has written it",
        "security": f"security{f' and the {COMPLIANCE}' if phi else ''}",
        "notified": f"who has written it, to {', '.join(stakeholders(phi))}",
        "go": f"{', '.join(open_roles)} (not signed yet)" if open_roles else ", ".join(roles),
        "executed": "the operator",
    }
    found = []
    for days, name, what in STEPS:
        by = planned - timedelta(days=days)
        # A go without a signature is none.
        is_done = name in done and not (name == "go" and open_roles)
        state = DONE if is_done else LATE if by < now else DUE if by - now <= timedelta(days=1) else LATER
        found.append(Step(name, days, what, by, whom[name], state))
    return found


def stakeholders(phi: bool) -> list[str]:
    """:return: who is told."""
    return [*STAKEHOLDERS, *([COMPLIANCE] if phi else [])]


def notification(whom: str, environment: str, planned: datetime, places: Sequence[Mapping[str, Any]]) -> str:
    """:return: the text for one of the stakeholders; no object of the schema, which is nobody's business outside."""
    versions = sorted({item["version"] for place in places for item in place["pending"]})
    takes = max((place["seconds"] for place in places if place["seconds"] is not None), default=None)
    blocked = max((place["blocked"] for place in places if place["blocked"] is not None), default=None)
    lines = [
        f"To: {whom}",
        f"Subject: database migration in {environment} on {planned:%a %Y-%m-%d at %H:%M %Z}".rstrip(),
        "",
        f"{len(versions)} change{'s' if len(versions) != 1 else ''} of the database, of the risk {_highest(places)}.",
        f"Expected to take {_seconds(takes)}; clients are expected to wait for {_seconds(blocked)}.",
    ]
    if whom == "customer support":
        lines.append(
            "Please tell callers meanwhile that a page may take a moment longer, and pass on what goes on after it."
        )
    if whom == COMPLIANCE:
        lines.append(
            "Health data is concerned; the privacy assessment is due with the approval of security and compliance."
        )
    if whom == "infrastructure":
        lines.append("Please keep backups, restarts and other maintenance out of this time.")
    return "\n".join([*lines, "A backup that was proved by a restore is made before, and there is a way back."])


def as_markdown(
    environment: str, planned: datetime, at: datetime, found: Sequence[Step], places: Sequence[Mapping[str, Any]], commands: Mapping[str, str]
) -> str:  # fmt: skip
    """:return: the plan that is submitted: dates, and what has to be there before production."""
    lines = [
        f"# Migration of {environment}, {planned:%a %Y-%m-%d %H:%M %Z}".rstrip(),
        "",
        f"Written at {at:%Y-%m-%d %H:%M} UTC.",
        "",
    ]
    lines += ["| when | until | what | who | state |", "|---|---|---|---|---|"]
    for step in found:
        when = f"T-{step.days_before}"
        lines.append(f"| {when} | {step.by:%a %Y-%m-%d %H:%M} | {step.what} | {step.who} | {step.state} |")
    for place in places:
        lines += ["", f"## {place['database']} on {place['host']}", "", "### Purpose and scope", ""]
        lines += [f"- `{item['version']}` {item['title']}: {item['why']}" for item in place["pending"]]
        lines += ["", "### Tables", "", ", ".join(f"`{table}`" for table in place["tables"]) or "none by name"]
        lines += [
            "",
            "### Expected",
            "",
            f"{_seconds(place['seconds'])} in all, clients wait for {_seconds(place['blocked'])}; {place['basis']}.",
        ]
        lines += ["", "### Risk", "", f"{place['risk']}:", ""]
        lines += [f"- {reason['level']} `{reason['version']}` {reason['why']}" for reason in place["reasons"]]
    lines += ["", "## Rollback", "", f"`{commands['rollback']}`; " + "; ".join(_ways_back(places)) + "."]
    lines += ["", "## Verification", "", f"`{commands['verify']}`, and within the migration itself."]
    lines += ["", "## Communication", ""]
    phi = any(item["phi"] for place in places for item in place["pending"])
    for whom in stakeholders(phi):
        lines += ["```text", notification(whom, environment, planned, places), "```", ""]
    return "\n".join(lines)


def _ways_back(places: Sequence[Mapping[str, Any]]) -> list[str]:
    items = {item["version"]: item for place in places for item in place["pending"]}
    worse = [
        f"{version} goes back in part: {(item.get('rollback') or {}).get('stays')}"
        for version, item in sorted(items.items())
        if (item.get("rollback") or {}).get("safety") not in (None, "complete")
    ]
    return worse or ["each version has a complete way back"]


def _highest(places: Sequence[Mapping[str, Any]]) -> str:
    from ansible_collections.whitecross.pgops.plugins.module_utils import risk

    return risk.highest(place["risk"] for place in places)


def _seconds(number: Any) -> str:
    return "a time that nobody has estimated" if number is None else f"{float(number):.0f} s"


def utc(at: datetime) -> str:
    """:return: a moment for machines."""
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
