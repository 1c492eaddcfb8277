# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wrong with a migration tree, and where."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

# Every rule by name; docs/write-a-migration.md lists the same.
RULES = {
    "backfill": "A backfill is one statement bounded by the first and the last key of a batch.",
    "cascade": "`CASCADE` drops what nobody named.",
    "check": "A named check is one query that reads, has one expectation, and needs versions of the tree.",
    "column-rewrite": "A new column with a value that differs by row rewrites the table.",
    "constraint-blocking": "A constraint that is validated at once reads the whole table under its lock.",
    "data-apart": "A step changes the schema or rows, not both.",
    "depends-on": "`depends_on` and `repairs` name versions of the tree that come before.",
    "destructive": "An up that takes data away declares `risk: high` or `critical`.",
    "down-missing": "A step that changes objects or rows has a down, or `rollback` says what stays.",
    "duplicate-index": "An index name stands for one definition.",
    "empty": "A file has at least one statement.",
    "enum-value-used": "A new enum label is used in a later step than the one that adds it.",
    "file": "A file is readable, not empty, UTF-8 without byte order mark.",
    "file-missing": "A file that is named exists.",
    "file-name": "A file is named without its path and lies in the migration's folder.",
    "file-twice": "A file is used once.",
    "file-unused": "A file that is there is named.",
    "foreign-key-index": "A foreign key has an index that leads with its columns.",
    "foreign-key-rules": "A foreign key says what happens on update and on delete of its parent.",
    "foreign-key-types": "Both sides of a foreign key have the same type.",
    "identifier-length": "A name has 63 bytes at most.",
    "if-not-exists": "`IF NOT EXISTS` passes over an object with another definition.",
    "index-blocking": "An index on a table that is in use is built in an `indexes` step.",
    "index-clock": "An index does not ask the clock.",
    "index-replaces": "An index that replaces another names the earlier version that made it.",
    "label-mapping": "A mapping is a variable of the version that turns labels into labels, beside `down: remove_labels`.",
    "misnamed": "A folder is named `<14 digits>_<lower_case_name>`.",
    "missing-key": "A required key is there.",
    "not-null-name": "A constraint leaves `<table>_<column>_not_null` to NOT NULL, which has that name in PostgreSQL 18.",
    "not-validated": "A constraint that is added `NOT VALID` is validated by some version.",
    "one-drop": "A statement drops one object and does nothing else, or deletes rows of one table.",
    "placeholder": "A placeholder is for a foreign key that its step adds, and has no value for that key.",
    "psql-command": "Commands of psql are no SQL.",
    "remove-labels": "`down: remove_labels` takes back a step that adds labels and does nothing else.",
    "rollback": "A rollback that is not complete says what stays.",
    "statement-refused": "A statement that has a step kind of its own, or no place in a migration.",
    "step-kind": "A step is of one kind.",
    "symlink": "No link leads out of the tree.",
    "syntax": "The SQL is PostgreSQL's.",
    "template": "The template renders, and includes no other file.",
    "undefined-variable": "A template uses declared variables only.",
    "unknown-key": "No key is misspelt.",
    "unknown-variable": "`migrate_variables` gives only what some migration declares.",
    "validate-unknown": "A constraint to validate is one that some version adds.",
    "variable": "A variable has a plain name and a default.",
    "verify": "A verification only reads.",
    "verify-columns": "A verification returns object, expected, found.",
    "verify-missing": "What is written as SQL is verified.",
    "version-twice": "Two folders do not share a version.",
    "wrong-type": "A value has the type that its key wants.",
    "wrong-value": "A value is one of those allowed.",
    "yaml": "The YAML is valid, without duplicate keys, aliases and tags.",
}
# The rules for SQL have numbers; sql_lint/rules.yml tells them.
OF_SQL = re.compile(r"R\d\d|allow")


@dataclass(frozen=True, order=True)
class Finding:
    """One fault of a migration tree.

    ``file`` is relative to the tree (``<folder>/<file>``), ``line`` is 1-based, 0 where a fault has no line.
    ``rule`` is the short name under which the documentation explains it; ``severity`` is ``error`` or ``warning``.
    """

    file: str
    line: int
    rule: str
    message: str
    severity: str = "error"

    def __post_init__(self) -> None:
        if self.rule not in RULES and not OF_SQL.fullmatch(self.rule):
            raise ValueError(f"the rule {self.rule} is not in RULES")

    @property
    def location(self) -> str:
        """:return: ``file:line``, or the file alone."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        return f"{self.location}: {self.message}"

    def as_dict(self) -> dict[str, str | int]:
        """:return: the finding as plain data."""
        return {
            "file": self.file,
            "line": self.line,
            "rule": self.rule,
            "severity": self.severity,
            "message": self.message,
        }


def nearest(word: str, choices: Iterable[str]) -> str:
    """:return: ``"; did you mean x?"``, the whole list if nothing is near, or nothing if there is no choice."""
    known = sorted(set(choices))
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if found:
        return f"; did you mean '{found[0]}'?"
    return f"; known are {', '.join(known)}" if known else ""


def of_versions(findings: Iterable[Finding], versions: Collection[str]) -> list[Finding]:
    """:return: the findings of some versions only, for a plan.

    An applied version is left out: its files must not change any more, so a rule that is younger than it cannot be met.
    """
    return [finding for finding in findings if finding.file.partition("_")[0] in versions]


def raise_findings(findings: Iterable[Finding]) -> None:
    """Raise the first error and say how many more there are.

    :raises PgopsError: if one of the findings is an error; all of them are in its ``extra["findings"]``. Who knows how the tree was
        named tells the command that lists them: see ``lint_command``.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return
    first = _cause(errors)
    # Only here: the linter alone has no psycopg2, which the engine's errors know.
    from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

    more = len(errors) - 1
    tail = f" ({more} more)" if more else ""
    raise PgopsError(
        f"{first}{tail}",
        location=first.location,
        extra={"findings": [finding.as_dict() for finding in errors]},
    )


def _cause(errors: list[Finding]) -> Finding:
    """:return: the first error; of a key that is missing the misspelt one in its file, which is why."""
    first = errors[0]
    if first.rule != "missing-key":
        return first
    return next((one for one in errors if one.file == first.file and one.rule == "unknown-key"), first)
