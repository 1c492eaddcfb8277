# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Problems as text for people, and as JSON, SARIF 2.1.0 and JUnit for machines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from . import rules
from .reading import Problem

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def text(problems: Iterable[Problem]) -> list[str]:
    """:return: a line for each problem: level, file:line, message, rule."""
    return [f"{p.level:<7}  {p.file}:{p.line}  {p.message} [{p.rule}]" for p in problems]


def as_json(problems: Sequence[Problem], files: Sequence[str]) -> str:
    """:return: a document with ``files`` and ``findings``."""
    return json.dumps({"files": list(files), "findings": [p.as_dict() for p in problems]}, indent=2) + "\n"


def as_sarif(problems: Sequence[Problem], files: Sequence[str]) -> str:
    """:return: SARIF 2.1.0, as GitHub and others show it beside the lines."""
    used = sorted({p.rule for p in problems})
    known = rules.table()
    driver = {
        "name": "whitecross.pgops lint",
        "rules": [
            {
                "id": name,
                "shortDescription": {"text": known[name].title},
                "fullDescription": {"text": known[name].why},
                "help": {"text": f"Instead: {known[name].instead}. Source: {known[name].source}."},
                "defaultConfiguration": {"level": {"off": "none"}.get(known[name].level, known[name].level)},
            }
            for name in used
        ],
    }
    results = [
        {
            "ruleId": p.rule,
            "ruleIndex": used.index(p.rule),
            "level": p.level,
            "message": {"text": p.message},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {
                            "uri": Path(p.file).as_uri() if Path(p.file).is_absolute() else Path(p.file).as_posix()
                        },
                        "region": {"startLine": max(p.line, 1)},
                    }
                }
            ],
        }
        for p in problems
    ]
    run = {"tool": {"driver": driver}, "results": results, "columnKind": "utf16CodeUnits"}
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def as_junit(problems: Sequence[Problem], files: Sequence[str]) -> str:
    """:return: JUnit: a case a file, a failure an error; warnings and notes are its output."""
    suite = ElementTree.Element("testsuite", name="pgops lint", tests=str(len(files)))
    failed = 0
    for file in files:
        case = ElementTree.SubElement(suite, "testcase", classname="pgops.lint", name=file)
        own = [p for p in problems if p.file == file]
        errors = [p for p in own if p.level == rules.ERROR]
        failed += bool(errors)
        if errors:
            failure = ElementTree.SubElement(case, "failure", message=errors[0].message, type=errors[0].rule)
            failure.text = "\n".join(text(errors))
        rest = [p for p in own if p.level != rules.ERROR]
        if rest:
            ElementTree.SubElement(case, "system-out").text = "\n".join(text(rest))
    suite.set("failures", str(failed))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


FORMATS: dict[str, Callable[[Sequence[Problem], Sequence[str]], str]] = {
    ".json": as_json,
    ".sarif": as_sarif,
    ".xml": as_junit,
}


def write(path: Path, problems: Sequence[Problem], files: Sequence[str]) -> None:
    """Write a report in the format that its name ends with.

    :raises ValueError: it ends with none of them.
    :raises OSError: the file cannot be written."""
    make = FORMATS.get(path.suffix.lower())
    if make is None:
        raise ValueError(f"{path} ends with none of {', '.join(FORMATS)} (JSON, SARIF, JUnit)")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(make(problems, files), encoding="utf-8")
