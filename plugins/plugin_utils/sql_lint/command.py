# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""``pgops-lint``: the rules for SQL files without Ansible, for a hook that runs before each commit."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import reports, rules, tools
from .files import files_of, lint_scripts, scripts_of


def main(arguments: Sequence[str] | None = None) -> int:
    """:return: 0 without errors, 1 with some, 2 where it cannot begin."""
    parser = argparse.ArgumentParser(
        prog="pgops-lint", description="Find what in SQL files would hurt a running PostgreSQL."
    )
    parser.add_argument("paths", nargs="+", help="files, and folders with *.sql")
    parser.add_argument(
        "--level",
        action="append",
        default=[],
        metavar="RULE=LEVEL",
        help="another level for a rule: error, warning, note, off",
    )
    parser.add_argument(
        "--report", action="append", default=[], metavar="FILE", help="write .json, .sarif or .xml (JUnit) too"
    )
    parser.add_argument("--together", action="store_true", help="the files run one after the other on one database")
    parser.add_argument(
        "--transaction",
        choices=tools.CHOICES,
        default=tools.AUTO,
        help="how a file is run whose own marks do not tell: as its name tells (auto), as one transaction, or a statement at a time",
    )
    parser.add_argument("--ways-down", action="store_true", help="read the ways down too: x.down.sql, U1__x.sql")
    given = parser.parse_args(arguments)
    try:
        levels = rules.levels_of(dict(item.partition("=")[::2] for item in given.level))
        chosen = files_of(given.paths, ways_down=given.ways_down)
        problems = lint_scripts(scripts_of(chosen.files, given.transaction), levels, together=given.together)
        for line in reports.text(problems):
            print(line)
        if chosen.told:
            print(f"{chosen.told}; --ways-down reads them")
        for report in given.report:
            reports.write(Path(report), problems, [str(file) for file in chosen.files])
    except (ValueError, OSError) as exc:
        reason = f"there is no {exc}" if isinstance(exc, FileNotFoundError) and not exc.strerror else str(exc)
        print(f"pgops-lint: {reason}", file=sys.stderr)
        return 2
    return int(any(problem.level == rules.ERROR for problem in problems))


if __name__ == "__main__":
    sys.exit(main())
