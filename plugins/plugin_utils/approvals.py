# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Approvals: signed statements over what is to be applied where, at which risk, within which forecast, until when.

What an approval is for stands in what was signed, so a file of it may lie anywhere and be sent by anybody. It goes on to hold while the SQL is
the same byte by byte, the risk no higher and the forecast within what was approved.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import risk
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import signature
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import write_private_file

FORMAT = 1
NAMESPACE = "approval@pgops.whitecross"
# Who approves what (R11.1 to R11.4).
ROLES = ("database_admin", "tech_lead", "cto", "executive")
ROLES_OF: dict[str, tuple[str, ...]] = {
    "LOW": ("database_admin",),
    "MEDIUM": ("tech_lead", "database_admin"),
    "HIGH": ("cto", "database_admin"),
    "CRITICAL": ("executive",),
}
# Of what a forecast tells, what is approved.
BUDGET = ("seconds", "blocks_reads", "blocks_writes")
# As a rehearsal repeats what is declared.
_DECLARED = {"seconds": "duration_s", "blocks_reads": "blocked_reads_s", "blocks_writes": "blocked_writes_s"}
# A later rehearsal never takes exactly as long; what is declared as a budget takes the place of this.
_MARGIN, _MARGIN_S = 1.5, 1.0
# What is signed for longer than a quarter of a year is a blank cheque.
LONGEST_HOURS = 24 * 92
_NAME = re.compile(r"^[a-z_]+-[0-9a-f]{16}\.json$")


@dataclass(frozen=True)
class Approval:
    """One that holds. :ivar key: the fingerprint of the key."""

    role: str
    by: str
    key: str
    made: str
    expires: str
    file: str

    def as_dict(self) -> dict[str, str]:
        """:return: plain data."""
        return {name: str(getattr(self, name)) for name in ("role", "by", "key", "made", "expires", "file")}


def roles_of(level: str, given: Mapping[str, Any] | None = None) -> list[str]:
    """:param given: ``gate_roles``: level -> roles, where the site wants other ones.
    :return: the roles that have to approve it.
    :raises PgopsError: ``gate_roles`` says nothing that can be meant."""
    for name, roles in (given or {}).items():
        known = (
            isinstance(roles, (list, tuple)) and roles and all(re.fullmatch(r"[a-z_]+", str(role)) for role in roles)
        )
        if str(name) not in risk.LEVELS or not known:
            raise PgopsError(f"gate_roles has {name}: {roles}, and takes a list of roles for {', '.join(risk.LEVELS)}")
    return [str(role) for role in (given or {}).get(level) or ROLES_OF[level]]


def budget_of(rehearsal: Mapping[str, Any] | None) -> dict[str, float] | None:
    """:return: the seconds that are approved: of each what is declared, or what was forecast with a margin where that is more or nothing is declared; None without
    a rehearsal."""
    if rehearsal is None:
        return None
    forecast, declared = forecast_of(rehearsal), rehearsal.get("budget") or {}
    budget = {}
    for name in BUDGET:
        given = declared.get(name, declared.get(_DECLARED[name]))
        # Where the forecast is above it a version declares more for itself, and it is that which is approved.
        if isinstance(given, (int, float)) and not isinstance(given, bool) and given >= forecast[name]:
            budget[name] = round(float(given), 3)
        else:
            budget[name] = round(forecast[name] * _MARGIN + _MARGIN_S, 3)
    return budget


def forecast_of(rehearsal: Mapping[str, Any]) -> dict[str, float]:
    """:return: the seconds that a rehearsal expects, of the whole the upper end of its band."""
    forecast = rehearsal.get("forecast") or {}
    whole = forecast.get("high") or forecast.get("seconds") or 0
    return {
        "seconds": float(whole),
        **{name: float(forecast.get(name) or 0) for name in BUDGET[1:]},
    }


def place(
    host: str, database: str, pending: Sequence[Mapping[str, Any]], level: str, rehearsal: Mapping[str, Any] | None
) -> dict[str, Any]:
    """:param pending: with ``version`` and ``rendered_checksum`` of each.
    :return: what of one database is approved."""
    return {
        "host": host,
        "database": database,
        "versions": [
            {"version": str(item["version"]), "rendered_checksum": str(item["rendered_checksum"])} for item in pending
        ],
        "risk": level,
        "rehearsal": rehearsal["id"] if rehearsal else None,
        "budget": budget_of(rehearsal),
    }


def statement(
    environment: str, role: str, places: Sequence[Mapping[str, Any]], now: datetime, hours: float
) -> dict[str, Any]:
    """:return: what is signed."""
    return {
        "format": FORMAT,
        "purpose": NAMESPACE,
        "environment": environment,
        "role": role,
        "places": [dict(one) for one in places],
        "made": _moment(now),
        "expires": _moment(now + timedelta(hours=hours)),
    }


def folder(state_directory: str, environment: str, given: Any = None) -> Path:
    """:param given: ``gate_approvals``, a folder that several people share.
    :return: where the approvals of an environment lie on the ops host."""
    above = Path(str(given)).expanduser() if given else Path(state_directory).expanduser() / "approvals"
    return above / environment


def store(where: Path, made: Mapping[str, Any], signed: str) -> Path:
    """Keep an approval, 0600. :return: its file. :raises OSError: it cannot be written."""
    text = json.dumps({"format": FORMAT, "statement": made, "signature": signed}, indent=1, ensure_ascii=False) + "\n"
    name = hashlib.sha256(signature.canonical(made) + signed.encode()).hexdigest()[:16]
    path = where / f"{made['role']}-{name}.json"
    write_private_file(path, text)
    return path


def find(
    where: Path,
    *,
    environment: str,
    wanted: Mapping[str, Any],
    rehearsal: Mapping[str, Any] | None,
    roles: Iterable[str],
    signers: Mapping[str, Any],
    now: datetime,
) -> tuple[list[Approval], dict[str, list[str]]]:
    """Which approvals of a database hold.

    :param wanted: :func:`place` of today.
    :param signers: role -> allowed-signers file.
    :return: those that hold, and for each role why others do not, as ends of a sentence that begins with the file.
    :raises PgopsError: an allowed-signers file cannot be read.
    """
    held: list[Approval] = []
    void: dict[str, list[str]] = {role: [] for role in roles}
    files = sorted(path for path in where.glob("*.json") if _NAME.match(path.name)) if where.is_dir() else []
    for path in files:
        role = path.name.rpartition("-")[0]
        if role not in void or not signers.get(role):
            continue
        try:
            held.append(_read(path, role, environment, wanted, rehearsal, str(signers[role]), now))
        except signature.NotSigned as fault:
            void[role].append(f"{path.name} {fault.message}")
        except (TypeError, KeyError, ValueError):
            # Signed, and of another shape than approve.yml makes it.
            void[role].append(f"{path.name} is no approval that can be read")
    return held, void


def distinct(held: Sequence[Approval], roles: Sequence[str]) -> list[Approval]:
    """:return: one approval a role, each with a key of its own; of as many roles as there can be."""
    # Of one key one is enough: all that people have ever signed would be too many to try.
    choices: list[list[Approval | None]] = [
        list({one.key: one for one in held if one.role == role}.values()) or [None] for role in roles
    ]
    best: list[Approval] = []
    for chosen in product(*choices):
        kept: list[Approval] = []
        keys: set[str] = set()
        for one in chosen:
            if one is not None and one.key not in keys:
                kept.append(one)
                keys.add(one.key)
        if len(kept) > len(best):
            best = kept
    return best


def _read(
    path: Path, role: str, environment: str, wanted: Mapping[str, Any], rehearsal: Mapping[str, Any] | None, signers: str, now: datetime
) -> Approval:  # fmt: skip
    """:raises signature.NotSigned: it does not hold, and why."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        made, signed = document["statement"], str(document["signature"])
        about = (made["format"], made["purpose"], made["role"], made["environment"], made["places"], made["expires"])
    except (OSError, ValueError, TypeError, KeyError):
        raise signature.NotSigned("is no approval that can be read") from None
    who = signature.verify(signature.canonical(made), signed, signers, NAMESPACE)
    if about[:2] != (FORMAT, NAMESPACE) or about[2] != role:
        raise signature.NotSigned(f"is signed for the role {made['role']}, and named after {role}")
    if about[3] != environment:
        raise signature.NotSigned(f"is for {made['environment']}")
    if _expired(made["expires"], now):
        raise signature.NotSigned(f"by {who.principal} has expired at {made['expires']}")
    if not _expired(made["expires"], now + timedelta(hours=LONGEST_HOURS)):
        raise signature.NotSigned(
            f"by {who.principal} holds until {made['expires']}, and an approval ends after {LONGEST_HOURS // 24} days"
        )
    approved = next(
        (one for one in made["places"] if (one["host"], one["database"]) == (wanted["host"], wanted["database"])), None
    )
    if approved is None:
        raise signature.NotSigned(f"by {who.principal} is not for {wanted['database']} on {wanted['host']}")
    why = _exceeds(approved, wanted, rehearsal)
    if why:
        raise signature.NotSigned(f"by {who.principal} does not hold: {why}")
    return Approval(role, who.principal, who.key, str(made["made"]), str(made["expires"]), str(path))


def _exceeds(approved: Mapping[str, Any], wanted: Mapping[str, Any], rehearsal: Mapping[str, Any] | None) -> str | None:
    """:return: how today is more than what was approved; None where it is not."""
    checksums = {one["version"]: one["rendered_checksum"] for one in approved["versions"]}
    for one in wanted["versions"]:
        if one["version"] not in checksums:
            return f"{one['version']} was not among what was approved"
        if checksums[one["version"]] != one["rendered_checksum"]:
            return f"{one['version']} has other SQL than what was approved"
    if risk.rank(wanted["risk"]) > risk.rank(approved["risk"]):
        return f"the risk is {wanted['risk']} by now, and {approved['risk']} was approved"
    if rehearsal is None:
        return None
    if approved["budget"] is None:
        return "it was given before there was a rehearsal"
    expected = forecast_of(rehearsal)
    for name in BUDGET:
        if expected[name] > approved["budget"][name]:
            what = name.replace("_", " ")
            return f"the rehearsal {rehearsal['id']} expects {what} {expected[name]:.1f} s, and {approved['budget'][name]:.1f} s were approved"
    return None


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _expired(until: Any, now: datetime) -> bool:
    try:
        return datetime.fromisoformat(str(until)) <= now
    except (ValueError, TypeError):
        return True
