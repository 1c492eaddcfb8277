# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which tool runs a file, as its marks, its name or its folder tell, and the transaction that the tool puts around it.

Flyway's is what its ``ParserSqlScript`` and ``PostgreSQLParser`` do; dbmate 2.36 and node-pg-migrate 9.0 were run; the others' is what
they document.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from pathlib import Path

# How a file is run of which its own marks say nothing.
AUTO, FILE, STATEMENT = "auto", "file", "statement"
CHOICES = (AUTO, FILE, STATEMENT)
LIQUIBASE = "Liquibase"


@dataclass(frozen=True)
class Runner:
    """How a tool runs a file."""

    tool: str = "the tool"
    # What it opens its transaction around.
    around: str = "file"
    # It opens a transaction around the file.
    begins: bool = False
    # It sends the text as one query, of which the server makes one transaction where it has several statements.
    whole: bool = False
    # Its driver opens the next transaction where the file ends one.
    reopens: bool = False
    # Statements, as ``rules_indexes.concurrent_word`` names them, with which the file runs in no transaction, and has no others.
    without: frozenset[str] = frozenset()

    @property
    def place(self) -> str:
        """:return: the transaction around the file, for messages."""
        if self.whole and not self.begins:
            return f"the one query that {self.tool} makes of the file"
        return f"the transaction that {self.tool} opens around the {self.around}"


SINGLY = Runner()
_FLYWAY = Runner(
    "Flyway",
    begins=True,
    reopens=True,
    without=frozenset(
        [
            "ALTER SYSTEM",
            "CREATE DATABASE",
            "CREATE INDEX CONCURRENTLY",
            "CREATE and DROP TABLESPACE",
            "DISCARD ALL",
            "DROP DATABASE",
            "DROP INDEX CONCURRENTLY",
            "REINDEX DATABASE",
            "REINDEX SCHEMA",
            "REINDEX SYSTEM",
            "VACUUM",
        ]
    ),
)
_GENERAL = Runner(begins=True)


def _mark(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"^[ \t]*--[ \t-]*{pattern}", re.IGNORECASE | re.MULTILINE)


# Marks inside a file with what they mean; the first that is found counts.
_MARKS: tuple[tuple[re.Pattern[str], Runner], ...] = (
    (_mark(r"migrate:up\b.*transaction\s*:\s*false"), Runner("dbmate", whole=True)),
    (_mark(r"migrate:up\b"), Runner("dbmate", begins=True, whole=True)),
    (_mark(r"\+goose\s+no\s+transaction"), Runner("goose")),
    (_mark(r"\+goose\s+up"), Runner("goose", begins=True)),
    (_mark(r"\+migrate\s+up\b.*notransaction"), Runner("sql-migrate")),
    (_mark(r"\+migrate\s+up"), Runner("sql-migrate", begins=True)),
    # Its transactions are those of its changesets.
    (_mark(r"liquibase\s+formatted\s+sql"), Runner(LIQUIBASE, "changeset", reopens=True)),
    (_mark(r"up\s+migration[ \t]*\r?$"), Runner("node-pg-migrate", begins=True, whole=True)),
    (re.compile(r"^--> statement-breakpoint|;--> statement-breakpoint", re.MULTILINE), Runner("Drizzle", begins=True)),
    (re.compile(r"^-- atlas:txmode none\b", re.MULTILINE), Runner("Atlas")),
)  # fmt: skip
_CHANGESET = _mark(r"changeset\s+(?P<attributes>\S.*)$")
_NO_TRANSACTION = re.compile(r"runInTransaction\s*:\s*\"?false", re.IGNORECASE)

_FLYWAY_NAME = re.compile(
    r"(?:(?:V\d[\w.]*?|B\d[\w.]*?|U\d[\w.]*?|R)__.*|(?:before|after)(?:each)?(?:migrate|clean|info|validate|baseline|repair|undo|versioned|repeatables)\w*)\.sql",
    re.IGNORECASE,
)
# Its undo; golang-migrate and many others; Diesel and Hasura.
_DOWN_NAME = re.compile(r"U\d[\w.]*__.*\.sql|.*\.down\.sql|down\.sql|(?![VBR][\d_]).*[._-]rollback\.sql", re.IGNORECASE)
# Those of db-migrate lie beside each other; by itself it may be what the file is about: slow_down.sql, clean_up.sql.
_DOWN_BESIDE_UP = re.compile(r"(.*[_-])down(\.sql)", re.IGNORECASE)
_STEP_NAME = re.compile(r"\d[\w.-]*\.(?:up|down)\.sql", re.IGNORECASE)
_UP_BESIDE_DOWN = re.compile(r"(.*[_-])up(\.sql)", re.IGNORECASE)
_NUMBERED = re.compile(r"\d+[_-]?.*")

# The tables in which tools keep what they have run: a row each, which nobody else reads.
LEDGERS = frozenset(
    [
        "__diesel_schema_migrations",
        "__drizzle_migrations",
        "__efmigrationshistory",
        "_prisma_migrations",
        "_sqlx_migrations",
        "_yoyo_migration",
        "alembic_version",
        "ar_internal_metadata",
        "atlas_schema_revisions",
        "databasechangelog",
        "databasechangeloglock",
        "django_migrations",
        "doctrine_migration_versions",
        "flyway_schema_history",
        "goose_db_version",
        "gorp_migrations",
        "knex_migrations",
        "knex_migrations_lock",
        "mikro_orm_migrations",
        "pgmigrations",
        "play_evolutions",
        "refinery_schema_history",
        "schema_migrations",
        "schema_version",
        "schemaversion",
        "sequelizemeta",
        "typeorm_migrations",
    ]
)


def runner_of(path: Path, text: str, given: str = AUTO) -> Runner:
    """:param path: the file; what tools put beside it is looked for there.
    :param text: what is in it.
    :param given: how it is run where its own marks do not tell: as its name tells, as one transaction, or a statement at a time.
    :return: how it is run."""
    path = path.absolute()
    for mark, runner in _MARKS:
        if mark.search(text):
            return runner
    if given == FILE:
        return _GENERAL
    return SINGLY if given == STATEMENT else _by_name(path)


def _by_name(path: Path) -> Runner:
    if _FLYWAY_NAME.fullmatch(path.name):
        return _flyway(path)
    if _STEP_NAME.fullmatch(path.name):
        return Runner("golang-migrate", whole=True)
    if _is_beside(path, _UP_BESIDE_DOWN, "down"):
        return Runner("db-migrate", whole=True)
    if path.name.lower() == "migration.sql" and _NUMBERED.fullmatch(path.parent.name):
        return Runner("Prisma", whole=True)
    if path.name.lower() in ("up.sql", "down.sql") and _NUMBERED.fullmatch(path.parent.name):
        alone = re.search(r"^\s*run_in_transaction\s*=\s*false", _beside(path, "metadata.toml"), re.MULTILINE)
        return Runner("Diesel", begins=not alone, whole=True)
    if path.with_name("atlas.sum").is_file():
        return Runner("Atlas", begins=True)
    if path.with_name("meta").joinpath("_journal.json").is_file():
        return Runner("Drizzle", begins=True)
    return SINGLY


def is_way_down(path: Path) -> bool:
    """:return: whether a file takes back what another one does: it drops what that one has made."""
    if _DOWN_NAME.fullmatch(path.name):
        return True
    return _is_beside(path, _DOWN_BESIDE_UP, "up")


def _is_beside(path: Path, pattern: re.Pattern[str], word: str) -> bool:
    """:return: whether the other half of a pair lies in the same folder: x-up.sql, x-down.sql."""
    match = pattern.fullmatch(path.name)
    return match is not None and path.with_name(word.join(match.groups())).is_file()


def _flyway(path: Path) -> Runner:
    """A file ``V1__x.sql.conf`` beside it decides, whatever the statements are."""
    found = re.search(r"^\s*executeInTransaction\s*=\s*(\w+)", _beside(path, f"{path.name}.conf"), re.MULTILINE)
    if found is None:
        return _FLYWAY
    return Runner("Flyway", begins=True, reopens=True) if found.group(1).lower() == "true" else Runner("Flyway")


def _beside(path: Path, name: str) -> str:
    """:return: what is in a small file in the same folder; nothing where there is none."""
    try:
        return path.with_name(name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def changesets(text: str) -> deque[tuple[int, bool]]:
    """:return: the place of each changeset of Liquibase, and whether it is a transaction."""
    return deque((m.start(), not _NO_TRANSACTION.search(m.group("attributes"))) for m in _CHANGESET.finditer(text))


def opened_before(marks: deque[tuple[int, bool]], place: int) -> bool | None:
    """Take the changesets away that begin before a statement.

    :param marks: those that are left, as ``changesets`` gives them.
    :return: whether the last of them is a transaction; None where none begins."""
    opens = None
    while marks and marks[0][0] < place:
        opens = marks.popleft()[1]
    return opens
