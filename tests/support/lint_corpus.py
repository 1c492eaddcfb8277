# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The corpus of lint: SQL that hurts and SQL that does not, as text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parents[1] / "lint_corpus"
TIMEOUT = "SET lock_timeout = '2s';\n"


@dataclass(frozen=True)
class Piece:
    """One file of SQL; the keys are explained at the head of dangerous.yml and safe.yml."""

    id: str
    text: str
    rule: str = ""
    does: str = ""
    # Only the catalog tells.
    catalog: bool = False
    table: str = ""


def pieces(name: str) -> list[Piece]:
    """:param name: dangerous or safe."""
    found = []
    for number, entry in enumerate(yaml.safe_load((FOLDER / f"{name}.yml").read_text())):
        text = (TIMEOUT if entry.get("timeout") else "") + entry["sql"]
        found.append(
            Piece(
                id=f"{number:03}-{entry.get('rule', 'safe')}",
                text=text,
                rule=entry.get("rule", ""),
                does=entry.get("does", ""),
                catalog=bool(entry.get("catalog")),
                table=entry.get("table", ""),
            )
        )
    return found
