# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wrong with a migration tree, and where."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError


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


def raise_findings(findings: Iterable[Finding]) -> None:
    """Raise the first error and say how many more there are.

    :raises PgopsError: if one of the findings is an error; all of them are in its ``extra["findings"]``.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return
    first = errors[0]
    more = len(errors) - 1
    tail = f" ({more} more: ansible-playbook lint.yml lists them all)" if more else ""
    raise PgopsError(
        f"{first}{tail}",
        location=first.location,
        extra={"findings": [finding.as_dict() for finding in errors]},
    )
