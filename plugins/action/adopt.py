# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the module adopt, shows its table and writes the repair; documented in the module of the same name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import migration_lint, migration_tree, scaffold
from ansible_collections.whitecross.pgops.plugins.plugin_utils.legacy_names import read_names
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction, table

# So many objects of a version are named in its row; the lines below the table have all that need a decision.
NAMED = 2


class ActionModule(MigrationAction):
    """Looks, shows, writes the repair into the tree, and only then records."""

    PHASE = "adopt"
    MODULE = "adopt"
    LIVE = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the rendered tree, the names of the tools before, and what is asked for; this call only looks."""
        given = {name: value for name, value in self._task.args.items() if value not in (None, "")}
        try:
            names = read_names(self.sql_directory(task_vars))
        except PgopsError as error:
            raise AnsibleActionFail(error.message) from None
        return {
            **given,
            "migrations": self.rendered_tree(task_vars),
            "names": names,
            "record": False,
            "run": self.run_of(task_vars),
        }

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show what was found; outside check mode write the repair and record."""
        for database, found in (result.get("databases") or {}).items():
            self._show(database, found)
        if result.get("failed"):
            self._tell_next(result, task_vars)
            return result
        given = self._task.args
        repairs = self._repairs(result["databases"], task_vars)
        self._refuse_unreadable(repairs, task_vars)
        result["diff"] = [
            {"before": "", "before_header": "(absent)", "after": text, "after_header": f"{new.folder.name}/{name}"}
            for new in repairs
            for name, text in sorted(new.files.items())
        ]
        asked = any(given.get(name) not in (None, "") for name in ("mirror", "fence"))
        if not asked and not any(found["adopted"] or self._new(found) for found in result["databases"].values()):
            return result
        if self._task.check_mode:
            for new in repairs:
                self.say(f"    {new.folder} would be written")
            return result
        try:
            scaffold.write_all(repairs)
        except (OSError, PgopsError) as error:
            raise AnsibleActionFail(f"The repair cannot be written: {error}. Nothing was adopted.") from None
        for new in repairs:
            self.say(f"    {new.folder} written: read it before migrate.yml applies it")
        return self._record(result, task_vars)

    def _record(self, looked: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        arguments = {**self.connection_arguments(task_vars), **self.module_arguments(task_vars)}
        arguments["record"] = True
        arguments["migrations"] = [
            migration
            for migration in arguments["migrations"]
            # The repair that was written a moment ago is no version of the tree that was shown.
            if migration["version"] not in self._written(looked["databases"])
        ]
        arguments["expected"] = {database: found["state"] for database, found in looked["databases"].items()}
        result = self._run_live(f"whitecross.pgops.{self.MODULE}", arguments, task_vars)
        result.pop("invocation", None)
        if result.get("failed"):
            self._tell_next(result, task_vars)
            return result
        result["diff"] = looked["diff"]
        for database, found in result["databases"].items():
            if found["recorded"]:
                self.say(f"{database}: {len(found['recorded'])} versions adopted, {len(found['pending'])} pending")
            if self._new(found):
                self.say(f"{database}: baseline {found['baseline']['name']} recorded: {self._of_baseline(found)}")
            if found["mirror"]:
                changed = ", ".join(f"{len(found['mirror'][word])} {word}" for word in ("added", "removed"))
                self.say(
                    f"{database}: SequelizeMeta is {'kept in step' if found['mirror']['on'] else 'left alone from now on'}: {changed}"
                )
            if found["fence"]:
                self.say(
                    f"{database}: fence {'up' if self._truth(self._task.args.get('fence')) else 'down'}: {', '.join(found['fence'])}"
                )
        kept = any(found["baseline"] for found in result["databases"].values())
        result["next"] = [self.command(task_vars, "backup.yml" if kept else "migrate.yml")]
        return result

    @staticmethod
    def _new(found: dict[str, Any]) -> bool:
        return bool(found["baseline"] and found["baseline"]["new"])

    @staticmethod
    def _of_baseline(found: dict[str, Any]) -> str:
        named = found["baseline"]
        instead = f", instead of {named['replaces']}" if named["replaces"] else ""
        return f"{named['tables']} tables, {named['objects']} objects, fingerprint {named['fingerprint'][:12]}{instead}"

    @staticmethod
    def _written(databases: dict[str, Any]) -> set[str]:
        return {
            repair["version"] for found in databases.values() for repair in found["repairs"] if not repair["exists"]
        }

    def _repairs(self, databases: dict[str, Any], task_vars: dict[str, Any]) -> list[scaffold.NewMigration]:
        """:return: the folders to write. :raises AnsibleActionFail: two databases need different repairs under one number."""
        new: dict[str, scaffold.NewMigration] = {}
        directory = self.sql_directory(task_vars) / "migrations"
        for database, found in databases.items():
            for wanted in found["repairs"]:
                if wanted["exists"]:
                    continue
                version, name = wanted["version"], wanted["name"]
                if version in new and new[version].files != wanted["files"]:
                    raise AnsibleActionFail(
                        f"{database} needs another repair than the databases before it; adopt one database at a time "
                        "(-e pgops_database=NAME). Nothing was written."
                    )
                new[version] = scaffold.NewMigration(version, name, directory / f"{version}_{name}", wanted["files"])
        return list(new.values())

    def _refuse_unreadable(self, repairs: list[scaffold.NewMigration], task_vars: dict[str, Any]) -> None:
        """Every run reads what is written into the tree, so it is read, rendered and linted in a copy first.

        :raises AnsibleActionFail: lint finds an error in a repair.
        """
        if not repairs:
            return
        names = tuple(f"{new.folder.name}/" for new in repairs)
        with TemporaryDirectory(prefix="pgops-adopt-") as copy:
            migrations = Path(copy) / "migrations"
            shutil.copytree(self.sql_directory(task_vars) / "migrations", migrations)
            scaffold.write_all(replace(new, folder=migrations / new.folder.name) for new in repairs)
            tree = migration_tree.scan_tree(copy)
            found = migration_lint.lint(tree, self._task.args.get("variables") or {})
        errors = [one for one in found if one.severity == "error" and one.file.startswith(names)]
        if errors:
            more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
            raise AnsibleActionFail(
                f"The repair that would be written does not pass lint: {errors[0]}{more}. Nothing was written, and nothing "
                "was adopted. Put right by hand what it names, or take it as it is with adopt_accept."
            )

    def _tell_next(self, result: dict[str, Any], task_vars: dict[str, Any]) -> None:
        reason = result.get("reason")
        if reason == "stranger":
            database = str(result.get("database"))
            self.tell_next(result, [("If it is this platform's", self.again(task_vars, {"adopt_force": database}))])
        elif reason == "half" or reason == "text_ids" and result.get("kept_as"):
            self.tell_next(result, [("To look", self.command(task_vars, "status.yml"))])
        elif reason == "text_ids":
            self.tell_next(result, [("To take it as it is", self.again(task_vars, {"adopt_baseline": "text_ids"}))])
        elif reason in ("moved", "busy", "schema"):
            self.tell_next(result, [("Then", self.again(task_vars))])

    def _show(self, database: str, found: dict[str, Any]) -> None:
        ledgers = (
            ", ".join(
                f"{item['tool'].capitalize()} with {len(item['entries'])} migrations ({item['schema']}.{item['table']})"
                for item in found["ledgers"]
            )
            or "no ledger of another tool"
        )
        ids = "" if found["era"] == "none" else f"; ids are {found['era']}"
        self.say(f"{database}: {ledgers}{ids}")
        rows = [
            [item["version"], item["ledger"] or "-", item["catalog"], self._named(item), item["action"]]
            for item in found["versions"]
        ]
        if rows:
            for line in table(["VERSION", "THEIR LEDGER", "CATALOG", "DIFFERENCE", "WHAT WE DO"], rows):
                self.say(f"    {line}")
        if found["baseline"]:
            state = "to be recorded" if self._new(found) else "recorded already, and nothing differs"
            self.say(f"    baseline {found['baseline']['name']}, {state}: {self._of_baseline(found)}")
        for item in found["versions"]:
            for difference in item["differences"]:
                if difference["repair"] is None:
                    self.say(f"    {item['version']}: {difference['object']}: {difference['difference']}")
        for item in found["ledgers"]:
            for entry in item["entries"]:
                if entry["state"] != "applied":
                    code = f", SQLSTATE {entry['sqlstate']}" if entry["sqlstate"] else ""
                    self.say(f"    {item['tool']} says {entry['state']}{code}: {entry['name']}")
        if found["strangers"]:
            self.say(
                f"    declared by no version and left alone ({len(found['strangers'])}): {', '.join(found['strangers'])}"
            )
        for entry in found["text_ids"]:
            loose = ", ".join(entry["columns_without_foreign_key"]) or "none"
            self.say(
                f"    {entry['table']}: {entry['type']} ids, {entry['rows']} rows, {entry['ids_without_uuid']} ids are no uuid, "
                f"{entry['ids_differing_only_in_case']} differ only in case, ids without a foreign key: {loose}"
            )

    @staticmethod
    def _named(item: dict[str, Any]) -> str:
        names = [difference["object"] for difference in item["differences"]]
        if not names:
            return (
                "-"
                if item["present"] == item["of"] or item["catalog"] == "in our ledger"
                else f"{item['present']} of {item['of']} objects"
            )
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return ", ".join(names[:NAMED]) + more
