# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Writes the tables of docs/preflight.md from sql/preflight/checks.yml and the role's argument specs; the words around them stay."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "preflight.md"
SPECS = ROOT / "roles" / "preflight" / "meta" / "argument_specs.yml"
COMMAND = "make schema"
PARTS = ("checks", "thresholds")
BEGIN, END = "<!-- {0}: written by 'make schema' from sql/preflight/checks.yml; do not edit. -->", "<!-- end of {0} -->"

sys.path.insert(0, str(ROOT / "collections"))
from ansible_collections.whitecross.pgops.plugins.plugin_utils import preflight_data


def page(text: str) -> str:
    """:param text: the page as it is. :return: the page as the data has it. :raises ValueError: a part has no marks in it."""
    made = {"checks": _checks(), "thresholds": _thresholds()}
    for part in PARTS:
        begin, end = BEGIN.format(part), END.format(part)
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{PAGE.name} has no place for its {part}: {begin} ... {end}")
        head, rest = text.split(begin)
        text = f"{head}{begin}\n\n{made[part]}\n\n{end}{rest.split(end)[1]}"
    return text


def _checks() -> str:
    lines = [
        "| check | looks at | level | of the | why | what to type or do | needs |",
        "|---|---|---|---|---|---|---|",
    ]
    for check in preflight_data.read().checks:
        lines.append(
            "| " + " | ".join([
                f"`{check['name']}`",
                check["title"],
                ", ".join(check["level"]) + ("" if check.get("waivable", True) else ", never waived"),
                check["scope"],
                check["means"],
                _fix(check),
                _needs(check),
            ]).replace("\n", " ") + " |"
        )  # fmt: skip
    return "\n".join(lines)


def _fix(check: Mapping[str, Any]) -> str:
    told = re.sub(r"\{(\w+)(:I|!r)?\}", lambda field: f"<{field.group(1)}>", check["fix"])
    return f"`{told}`" if told != "<todo>" else "the statement that it names"


def _needs(check: Mapping[str, Any]) -> str:
    since = f"PostgreSQL {check['since']}" if check.get("since") else ""
    return ", ".join(part for part in ((check.get("need") or {}).get("name", ""), since) if part)


def _thresholds() -> str:
    options = yaml.safe_load(SPECS.read_text(encoding="utf-8"))["argument_specs"]["main"]["options"]
    lines = ["| variable | default | what it means |", "|---|---|---|"]
    for name in preflight_data.read().thresholds:
        option = options[preflight_data.VARIABLE.format(name)]
        lines.append(
            f"| `{preflight_data.VARIABLE.format(name)}` | {option['default']} | {' '.join(option['description'])} |"
        )
    return "\n".join(lines)


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    written = page(text)
    PAGE.write_text(written, encoding="utf-8")
    print(f"{'current' if written == text else 'wrote'} {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
