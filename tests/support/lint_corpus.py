# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The corpus of lint: SQL that hurts and SQL that does not, as text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from support.server import SUPERUSER, Server

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


@dataclass(frozen=True)
class ToolPiece:
    """A file of another tool; the keys are explained at the head of tools.yml."""

    file: str
    text: str
    sent: str
    does: str
    rule: str = ""
    beside: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)

    def put(self, folder: Path) -> Path:
        """:return: the file, written into a folder with what lies beside it."""
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.text)
        for name, text in self.beside.items():
            path.with_name(name).write_text(text)
        return path


def tool_pieces() -> list[ToolPiece]:
    """:return: the files of other tools, dangerous and safe."""
    document = yaml.safe_load((FOLDER / "tools.yml").read_text())
    return [ToolPiece(text=entry.pop("sql"), **entry) for entry in document]


@contextmanager
def with_schema(server: Server, name: str) -> Iterator[str]:
    """A database with the schema of the corpus."""
    server.create_database(name, SUPERUSER)
    server.execute((FOLDER / "schema.sql").read_text(), database=name, user=SUPERUSER)
    yield name
    server.drop_databases(name)


@contextmanager
def copy_of(server: Server, base: str) -> Iterator[str]:
    """A copy of it, to be spoilt."""
    name = f"{base}_copy"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {base}", database="postgres", user=SUPERUSER)
    yield name
    server.drop_databases(name)
