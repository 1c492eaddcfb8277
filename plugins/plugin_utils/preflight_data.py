# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The checks of preflight as data: sql/preflight/checks.yml and a query in a file of its own for each that is one."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import Finding, raise_findings
from ansible_collections.whitecross.pgops.plugins.plugin_utils.strict_yaml import (
    Document,
    Keys,
    YamlFault,
    check_keys,
    load,
)

FOLDER = Path(__file__).parents[2] / "sql" / "preflight"
CHECKS = "checks.yml"
VERSIONS = "versions.yml"
# Each threshold is a variable of the role.
VARIABLE = "preflight_{0}"

_TOP: Keys = {"thresholds": (dict, True, ()), "needs": (dict, True, ()), "checks": (list, True, ())}
_NEED: Keys = {"holds": (str, True, ()), "grant": (str, True, ())}
_CHECK: Keys = {
    "name": (str, True, ()),
    "title": (str, True, ()),
    "level": (list, True, ()),
    "scope": (str, True, ("server", "database")),
    "means": (str, True, ()),
    "found": (str, False, ()),
    "fix": (str, True, ()),
    "well": (str, False, ()),
    "needs": (str, False, ()),
    "since": (int, False, ()),
    "waivable": (bool, False, ()),
}
_LEVELS = (["warn"], ["stop"], ["warn", "stop"])


@dataclass(frozen=True)
class Data:
    """What the files say.

    :ivar checks: in their order, each as the module takes it: the keys of the file, ``query`` and ``need``
    :ivar thresholds: name -> default
    :ivar versions: when a major version ends, and minor versions that nobody should run
    """

    checks: list[dict[str, Any]] = field(default_factory=list)
    thresholds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of the checks in their order."""
        return [str(check["name"]) for check in self.checks]


@cache
def read(folder: Path = FOLDER) -> Data:
    """:return: the checks of a folder. :raises PgopsError: for the first fault, one sentence with file and line."""
    document = _document(folder / CHECKS)
    findings: list[Finding] = []
    if check_keys(document, (), _TOP, CHECKS, findings):
        _faults(document, folder, findings)
    raise_findings(findings)
    checks = [_check(entry, document.data["needs"], folder) for entry in document.data["checks"]]
    return Data(checks, dict(document.data["thresholds"]), _document(folder / VERSIONS).data)


def _document(path: Path) -> Document:
    try:
        return load(path.read_text(encoding="utf-8"))
    except YamlFault as fault:
        raise PgopsError(f"{path}, line {fault.line}: {fault.message}.") from None
    except OSError as exc:
        raise PgopsError(
            f"{path} cannot be read: {exc.strerror}.",
            hint="Install the collection again; preflight needs its sql folder.",
        ) from None


def _faults(document: Document, folder: Path, findings: list[Finding]) -> None:
    def fault(text: str, *path: str | int) -> None:
        findings.append(Finding(CHECKS, document.line(*path), "check", text))

    data = document.data
    for name in data["needs"]:
        check_keys(document, ("needs", name), _NEED, CHECKS, findings)
    known: set[str] = set()
    queries = {file.stem for file in folder.glob("*.sql")}
    for place, check in enumerate(data["checks"]):
        if not check_keys(document, ("checks", place), _CHECK, CHECKS, findings):
            continue
        name = check["name"]
        if name in known:
            fault(f"the check {name} stands twice", "checks", place, "name")
        known.add(name)
        if check["level"] not in _LEVELS:
            fault(f"the level of {name} is [warn], [stop] or [warn, stop]", "checks", place, "level")
        if check.get("needs") and check["needs"] not in data["needs"]:
            fault(f"{name} needs {check['needs']}, which is no need above", "checks", place, "needs")
        if name in queries and not (check.get("found") and check.get("well")):
            fault(f"{name} has a query and no words for what it finds (found, well)", "checks", place)
        if name not in queries and check.get("found"):
            fault(f"{name} has words for what its query finds, and there is no {name}.sql", "checks", place, "found")
    for name in sorted(queries - known):
        fault(f"{name}.sql belongs to no check", "checks")


def _check(entry: dict[str, Any], needs: dict[str, Any], folder: Path) -> dict[str, Any]:
    file = folder / f"{entry['name']}.sql"
    need = entry.get("needs")
    return {
        **{key: value for key, value in entry.items() if key != "needs"},
        "query": _without_licence(file.read_text(encoding="utf-8")) if file.exists() else "",
        "need": {"name": need, **needs[need]} if need else None,
    }


def _without_licence(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith(("-- SPDX", "-- Copyright"))).strip()
