# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A verification as a person reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.verify import sentence

# The kinds that the platform's handbook asks a line for come first.
_FIRST = ("table", "enum", "index", "constraint")
LARGEST_TABLES = 10
_WORDS = {"fail": "FAIL", "warn": "WARN", "notice": "notice"}


def screen(database: str, found: Mapping[str, Any], *, verbose: bool = False) -> list[str]:
    """The lines of one database.

    :param found: the module's result for it.
    :param verbose: a line for each object, foreign key and table; otherwise what passed is counted.
    """
    versions = found.get("versions") or []
    against = f"{len(versions)} applied version{'' if len(versions) == 1 else 's'}"
    if found.get("baseline"):
        against = f"baseline {found['baseline']}"
    lines = [f"    verification of {database}: {against}"]
    lines += [f"    {line}" for line in _objects(found.get("lines") or [], verbose)]
    lines += [f"    {line}" for line in _checks(found.get("checks") or [], verbose)]
    lines += [f"    {line}" for line in _foreign_keys(found.get("foreign_keys") or [], verbose)]
    lines += [f"    {line}" for line in _rows(found.get("rows") or [], verbose)]
    if found.get("extensions"):
        told = ", ".join(f"{extension['name']} {extension['version']}" for extension in found["extensions"])
        lines.append(f"    {'extensions':<14}{told}")
    lines += [f"    {line}" for line in _server_log(found.get("server_log") or {})]
    findings = found.get("findings") or []
    for level in ("notice", "warn", "fail"):
        lines += [
            f"    {_WORDS[level]:<7}{finding['check']}: {sentence(finding)}"
            for finding in findings
            if finding["level"] == level
        ]
    failures = sum(finding["level"] == "fail" for finding in findings)
    lines.append(f"    {database}: PASSED" if found.get("passed") else f"    {database}: FAILED ({failures})")
    return lines


def _server_log(log: Mapping[str, Any]) -> list[str]:
    """What the server's own log has of the run; one that was not read is never passed over."""
    if not log:
        return []
    if not log["looked"]:
        have = f"; to have it: {log['hint']}" if log.get("hint") else ""
        return [f"{'server log':<14}not looked at, because {log['why']}{have}"]
    count = sum(error["times"] for error in log["errors"])
    told = f"{count} error{'' if count == 1 else 's'} of the run" if count else "no error of the run"
    expected = [f"{number} {what}" for what, number in log["provoked"].items()]
    told += f"; not counted: {', '.join(expected)}" if expected else ""
    return [f"{'server log':<14}{told}{''.join(f'; but {gap}' for gap in log['gaps'])}"]


def _objects(objects: Iterable[Mapping[str, Any]], verbose: bool) -> list[str]:
    objects = list(objects)
    kinds = sorted(
        {line["kind"] for line in objects},
        key=lambda kind: (_FIRST.index(kind) if kind in _FIRST else len(_FIRST), kind),
    )
    if verbose:
        return [
            f"{'pass' if line['passed'] else 'FAIL':<7}{kind} {line['object']}"
            for kind in kinds
            for line in objects
            if line["kind"] == kind
        ]
    lines = []
    for kind in kinds:
        count = Counter(bool(line["passed"]) for line in objects if line["kind"] == kind)
        failed = f", {count[False]} FAILED" if count[False] else ""
        lines.append(f"{kind:<14}{count[True]:>5} passed{failed}")
    return lines


def _checks(checks: Iterable[Mapping[str, Any]], verbose: bool) -> list[str]:
    checks = list(checks)
    if verbose:
        words = {"passed": "pass", "failed": "FAIL", "left out": "-"}
        return [
            f"{words[check['state']]:<7}check {check['name']}: {check['title']}"
            + (f" (left out: {check['why']})" if check["why"] else "")
            for check in checks
        ]
    count = Counter(check["state"] for check in checks)
    if not checks:
        return []
    more = "".join(
        f", {count[state]} {word}" for state, word in (("failed", "FAILED"), ("left out", "left out")) if count[state]
    )
    return [f"{'check':<14}{count['passed']:>5} passed{more}"]


def _foreign_keys(keys: Iterable[Mapping[str, Any]], verbose: bool) -> list[str]:
    keys = list(keys)
    if verbose:
        return [
            f"{'pass' if key['orphans'] == 0 and key['indexed'] else 'FAIL':<7}foreign key {key['name']}: "
            f"{key['table']} ({', '.join(key['columns'])}) to {key['target']} ({', '.join(key['target_columns'])}), "
            f"{'unread' if key['orphans'] is None else key['orphans']} without a parent, "
            f"index {'YES' if key['indexed'] else 'MISSING'}"
            for key in keys
        ]
    if not keys:
        return []
    orphans = sum(key["orphans"] or 0 for key in keys)
    missing = sum(not key["indexed"] for key in keys)
    return [f"{'foreign key':<14}{len(keys):>5} read, {orphans} rows without a parent, {missing} indexes missing"]


def _rows(tables: Iterable[Mapping[str, Any]], verbose: bool) -> list[str]:
    tables = list(tables)
    if not tables:
        return []
    shown = tables if verbose else tables[:LARGEST_TABLES]
    told = ", ".join(f"{table['name']} {'about ' if table['estimate'] else ''}{table['rows']:,}" for table in shown)
    more = f" and {len(tables) - len(shown)} more" if len(tables) > len(shown) else ""
    return [f"{'rows':<14}{told}{more}"]
