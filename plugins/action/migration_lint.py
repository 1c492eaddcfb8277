# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lists what is wrong with a migration tree, or with SQL files of any other tool; documented in the module of the same name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ansible.utils.vars import load_extra_vars
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    declared_queries,
    declared_writes,
    migration_lint,
    migration_tree,
    named_checks,
    quality,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.pgops_variables import SHARED_VARIABLES
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_lint import files, reports, rules, tools
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_lint.reading import Problem
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_lint.script import Script
from ansible_collections.whitecross.pgops.plugins.plugin_utils.tree_action import TreeAction


class ActionModule(TreeAction):
    """Reads files on the controller; asks a database only where one is named."""

    PLAYBOOK = "lint"
    VARIABLES = (
        "lint_paths",
        "lint_report",
        "lint_levels",
        "lint_together",
        "lint_catalog",
        "lint_transaction",
        "lint_ways_down",
    )
    _VALID_ARGS = frozenset(
        {"sql", "variables", "paths", "report", "levels", "together", "catalog", "transaction", "ways_down"}
    )

    def work(self, directory: Path, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: every finding; failed if one of them is an error."""
        paths = _listed(self._task.args.get("paths"))
        try:
            levels = rules.levels_of(_mapping(self._task.args.get("levels")))
        except ValueError as error:
            raise PgopsError(f"lint_levels: {error}") from None
        if paths:
            return self._files(paths, levels, task_vars)
        return self._tree(directory, levels)

    # --- files of any tool ---------------------------------------------------------------------------------------------

    def _files(self, paths: Sequence[str], levels: Mapping[str, str], task_vars: dict[str, Any]) -> dict[str, Any]:
        try:
            chosen = files.files_of(paths, ways_down=self._is_on("ways_down"))
        except FileNotFoundError as error:
            raise PgopsError(f"There is no file or folder {error}; correct lint_paths") from None
        except ValueError as error:
            raise PgopsError(f"Nothing is read, {error}; correct lint_paths") from None
        scripts = files.scripts_of(chosen.files, self._transaction())
        facts = self._facts(scripts, task_vars)
        together = self._is_on("together")
        problems = files.lint_scripts(scripts, levels, facts, together=together)
        for line in reports.text(problems):
            self.say(f"    {line}")
        counts = {level: sum(problem.level == level for problem in problems) for level in rules.LEVELS}
        names = [str(file) for file in chosen.files]
        self.say(
            f"    {len(names)} files, {counts[rules.ERROR]} errors, {counts[rules.WARNING]} warnings, {counts[rules.NOTE]} notes"
        )
        if chosen.told:
            self.say(f"    {chosen.told}; -e lint_ways_down=true reads them")
        self._write_reports(problems, names)
        result: dict[str, Any] = {
            "changed": False,
            "files": len(names),
            "left_out": len(chosen.left_out),
            "errors": counts[rules.ERROR],
            "warnings": counts[rules.WARNING],
            "notes": counts[rules.NOTE],
            "findings": [problem.as_dict() for problem in problems],
        }
        first = next((problem for problem in problems if problem.level == rules.ERROR), None)
        if first is not None:
            more = f", and {counts[rules.ERROR] - 1} more" if counts[rules.ERROR] > 1 else ""
            result |= {
                "failed": True,
                "msg": f"{first.file}:{first.line}: {first.message} [{first.rule}]{more}",
                "hint": "Correct the files, or write why it is safe there.",
                "next": [self.again(self._given())],
            }
        return result

    def _transaction(self) -> str:
        """:return: how files are run whose own marks do not tell.

        :raises PgopsError: it is said in a word that is not known."""
        given = str(self._task.args.get("transaction") or tools.AUTO)
        if given not in tools.CHOICES:
            raise PgopsError(f"lint_transaction is '{given}': it is {', '.join(tools.CHOICES)}")
        return given

    def _is_on(self, option: str) -> bool:
        return str(self._task.args.get(option, False)).lower() in ("true", "yes", "on", "1")

    def _facts(self, scripts: Sequence[Script], task_vars: dict[str, Any]) -> dict[str, Any] | None:
        """:return: what the catalog says of the tables that the files name; None where no database is named."""
        wanted = self._task.args.get("catalog")
        typed = load_extra_vars(self._loader)
        named = any(name in typed for name in ("pgops_host", "pgops_port", "pgops_database"))
        if wanted in (None, "") and not named or str(wanted).lower() in ("false", "no", "off", "0"):
            return None
        relations, functions = files.names_in(scripts)
        arguments: dict[str, Any] = {"relations": relations, "functions": functions}
        for name, variable in SHARED_VARIABLES.items():
            value = self._value(task_vars, name)
            if variable.option is not None and value not in (None, ""):
                arguments[variable.option] = value
        database = self._value(task_vars, "pgops_database")
        arguments["databases"] = arguments.get("databases") or ([database] if database else [])
        if not arguments["databases"]:
            raise PgopsError("pgops_database is not set; give -e pgops_database=NAME, or leave lint_catalog out")
        module = "whitecross.pgops.lint_facts"
        answer = self._execute_module(module_name=module, module_args=arguments, task_vars=task_vars)
        if answer.get("failed"):
            raise PgopsError(f"{str(answer.get('msg')).rstrip('.')}; -e lint_catalog=false reads the files alone")
        # Of several databases the first: they are tenants with one schema.
        return dict(next(iter(answer["databases"].values())))

    def _write_reports(self, problems: Sequence[Problem], names: Sequence[str]) -> None:
        for report in _listed(self._task.args.get("report")):
            try:
                reports.write(Path(report).expanduser(), problems, names)
            except ValueError as error:
                raise PgopsError(f"lint_report: {error}") from None
            except OSError as error:
                raise PgopsError(f"The report {report} cannot be written: {error.strerror}") from None

    def _given(self) -> dict[str, Any]:
        """:return: the choices of this run, to type them again."""
        given = {variable: self._task.args.get(variable.removeprefix("lint_")) for variable in self.VARIABLES}
        return {name: value for name, value in given.items() if value}

    # --- a tree of this collection -------------------------------------------------------------------------------------

    def _tree(self, directory: Path, levels: Mapping[str, str]) -> dict[str, Any]:
        tree = migration_tree.scan_tree(directory)
        findings = migration_lint.lint(tree, self._task.args.get("variables") or {})
        versions = [migration.version for migration in tree.migrations]
        findings += named_checks.scan_checks(directory, versions)[1]
        findings += declared_queries.scan_queries(directory)[1]
        findings += declared_writes.scan_writes(directory, versions)[1]
        errors = sum(1 for finding in findings if finding.severity == "error")
        warnings = len(findings) - errors
        for finding in findings:
            self.say(f"    {finding.severity:<7}  {finding.location}  {finding.message} [{finding.rule}]")
        count = f"{len(tree.migrations)} migrations, {errors} errors, {warnings} warnings"
        self.say(f"    {count} in {tree.directory}")
        criteria = quality.score(findings)
        met = sum(criterion["met"] for criterion in criteria)
        self.say(f"    quality: {met} of {len(criteria)} criteria are met")
        for criterion in criteria:
            if not criterion["met"]:
                self.say(f"    not met: {criterion['title']} ({', '.join(criterion['rules'])})")
        self._write_reports(
            [Problem(str(tree.directory / f.file), f.line, f.rule, f.severity, f.message) for f in findings],
            [str(path) for path in sorted(tree.directory.rglob("*")) if path.is_file()],
        )
        result: dict[str, Any] = {
            "changed": False,
            "directory": str(tree.directory),
            "versions": [migration.version for migration in tree.migrations],
            "errors": errors,
            "warnings": warnings,
            "findings": [{**finding.as_dict(), "level": finding.severity} for finding in findings],
            "score": met,
            "criteria": criteria,
        }
        if errors:
            first = next(finding for finding in findings if finding.severity == "error")
            more = f", and {errors - 1} more" if errors > 1 else ""
            result |= {
                "failed": True,
                "msg": f"{first}{more}",
                "hint": "Correct the files.",
                "next": [self.command("lint")],
            }
        return result


def _listed(given: Any) -> list[str]:
    """:return: a list, also of one word and of words with commas between them, as -e on the command line gives them."""
    if given in (None, ""):
        return []
    if isinstance(given, (list, tuple)):
        return [str(item) for item in given]
    if Path(str(given)).expanduser().exists():
        return [str(given)]
    return [part.strip() for part in str(given).split(",") if part.strip()]


def _mapping(given: Any) -> Mapping[str, Any]:
    """:return: a mapping, also of its text, as ``-e lint_levels='{R05: note}'`` gives it.

    :raises ValueError: it is none."""
    found = yaml.safe_load(given) if isinstance(given, str) else given
    if found and not isinstance(found, Mapping):
        raise ValueError("it maps rules to levels, for example {R05: note}")
    return found or {}
