# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the phases that deal with migrations share on the controller: the tree, the run, the tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from ansible import context
from ansible.errors import AnsibleActionFail
from ansible.utils.vars import load_extra_vars
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import break_glass, lint_command, windows
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.declared_writes import read_writes
from ansible_collections.whitecross.pgops.plugins.plugin_utils.rendered_tree import checks, rendered_tree

COLLECTION_ROOT = Path(__file__).parents[2]
# Only here may a new version be applied behind an applied one: nobody else's database is like it.
OUT_OF_ORDER_ENVIRONMENT = "local"


class MigrationAction(PgopsAction):
    """Base of plan, apply, revert, status and stop."""

    def sql_directory(self, task_vars: Mapping[str, Any]) -> Path:
        """:return: the folder that holds ``migrations/``: ``pgops_sql``, or the collection's own."""
        given = self.pgops(dict(task_vars), "sql")
        return Path(str(given)).expanduser() if given else COLLECTION_ROOT / "sql"

    def rendered_tree(self, task_vars: Mapping[str, Any]) -> list[dict[str, Any]]:
        """:return: every migration, rendered. :raises AnsibleActionFail: the first fault of the tree, in one sentence."""
        try:
            return rendered_tree(self.sql_directory(task_vars), self._task.args.get("variables") or {})
        except PgopsError as error:
            self.refuse_tree(error, task_vars)

    def named_checks(self, task_vars: Mapping[str, Any]) -> list[dict[str, Any]]:
        """:return: the named checks of the tree. :raises AnsibleActionFail: the first that cannot be read, in one sentence."""
        try:
            return checks(self.sql_directory(task_vars))
        except PgopsError as error:
            self.refuse_tree(error, task_vars)

    def asked_of_a_copy(self, task_vars: Mapping[str, Any]) -> list[dict[str, Any]]:
        """:return: what a restored copy has to answer at level 5: the named checks, and the application's writes.
        :raises AnsibleActionFail: the first that cannot be read, in one sentence."""
        try:
            return [*self.named_checks(task_vars), *read_writes(self.sql_directory(task_vars))]
        except PgopsError as error:
            self.refuse_tree(error, task_vars)

    def refuse_tree(self, error: PgopsError, task_vars: Mapping[str, Any]) -> NoReturn:
        """:raises AnsibleActionFail: the fault, with the command that lists all where there are more."""
        result = lint_command.told(error, self.typed(dict(task_vars)), self.pgops(dict(task_vars), "sql"))
        raise AnsibleActionFail(result["msg"], result=result) from None

    def run_of(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: who runs what, for the ledger."""
        run = self.run_fact(task_vars)
        told = {name: run.get(name) for name in ("playbook", "environment", "who", "ops_host", "why")}
        reviewed = {str(found["reviewed_by"]) for found in (run.get("plan") or {}).values() if found.get("reviewed_by")}
        if reviewed:
            told["why"] = f"reviewed by {', '.join(sorted(reviewed))}"
        glass = next(
            (
                found["gate"]["break_glass"]
                for found in (run.get("gate") or {}).values()
                if found["gate"]["break_glass"]
            ),
            None,
        )
        if glass:
            told["why"] = "; ".join(str(part) for part in (glass["told"], told.get("why")) if part)
        backup = {
            database: {name: found.get(name) for name in ("path", "manifest_sha256", "finished") if found.get(name)}
            for database, found in (run.get("backup") or {}).items()
            if isinstance(found, Mapping)
        }
        for database, found in (run.get("backup_copy") or {}).items():
            backup.setdefault(database, {})["copies"] = [entry["path"] for entry in found.get("copies") or []]
        for database, found in (run.get("prove") or {}).items():
            if database in backup and isinstance(found, Mapping) and "level" in found:
                backup[database]["level"] = found["level"]
        return {**told, "backup": backup}

    def selection(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: target, steps and allow_out_of_order of the task. :raises AnsibleActionFail: not in this environment."""
        given = self._task.args
        chosen = {name: given[name] for name in ("target", "steps") if given.get(name) not in (None, "")}
        if "target" in chosen:
            chosen["target"] = str(chosen["target"])
        if self._truth(given.get("allow_out_of_order")):
            environment = self.run_fact(task_vars).get("environment") or task_vars.get("group_names", [None])[0]
            if environment != OUT_OF_ORDER_ENVIRONMENT:
                raise AnsibleActionFail(
                    f"migrate_allow_out_of_order is for the environment {OUT_OF_ORDER_ENVIRONMENT} only, and this is "
                    f"{environment}; give the new version a number after the applied ones."
                )
            chosen["allow_out_of_order"] = True
        return chosen

    def break_glass(self, task_vars: Mapping[str, Any]) -> dict[str, str] | None:
        """:return: who passes the gate in an emergency, why and until when; None where nobody does.
        :raises PgopsError: what was given for it does not do."""
        given = {part: self._templar.template(task_vars.get(name)) for part, name in break_glass.VARIABLES.items()}
        return break_glass.settled(given, set(load_extra_vars(self._loader)), datetime.now(UTC))

    def before_this_host(self, task_vars: Mapping[str, Any], own: int) -> int:
        """Hosts of one batch that Ansible's forks leave for later; those of a later batch are asked when theirs begins.

        :param own: seconds that all databases of this host are expected to take; the versions of its neighbours are the same, as a rule.
        :return: seconds after which it is this host's turn."""
        batch = [str(host) for host in task_vars.get("ansible_play_batch") or []]
        return own * windows.turn(str(task_vars["inventory_hostname"]), batch, int(context.CLIARGS.get("forks") or 1))

    def refuse_unproved(self, task_vars: dict[str, Any], databases: Iterable[str], doing: str, why: str) -> None:
        """Tags choose what a run shows, not whether its backup is proved.

        :param databases: those that are about to be changed.
        :param doing: what the module does with them, as it follows on "Nothing was".
        :raises AnsibleActionFail: this environment backs up and proves, and this run has not done so for one of them.
        """
        run = self.run_fact(task_vars)
        owed = [name for name in ("backup", "prove") if name in (run.get("phases") or [])]
        for database in databases:
            if (run.get("backup") or {}).get(database, {}).get("missed"):
                continue  # told, and allowed by rollback_emergency_backup=try
            missing = [name for name in owed if database not in (run.get(name) or {})]
            if missing:
                raise AnsibleActionFail(
                    f"Nothing was {doing} {database}: this run has no {' and no '.join(missing)} (left out by --tags or "
                    f"--skip-tags?), and {why}. Then: {self.again_whole(task_vars)}"
                )

    def say_ended(self, database: str, item: Mapping[str, Any]) -> None:
        """Name the idle sessions that were ended for a version."""
        for ended in item.get("terminated") or []:
            self.say(
                f"{database}: pid {ended['pid']} ({ended['application_name'] or 'no application_name'}, role {ended['user']}) "
                f"idled in a transaction that was in the way of {item['version']} and was ended; the audit names it"
            )

    def say_reconnected(self, database: str, found: Mapping[str, Any]) -> None:
        """Tell each loss of the connection after which the run went on."""
        for lost in found.get("reconnected") or []:
            where = f"step {lost['step']} of {lost['version']}" if lost["version"] else "no version in hand"
            self.say(
                f"{database}: connection lost at {lost['lost_at']} ({where}), connected again after {lost['waited_s']:.1f} s"
            )

    @staticmethod
    def _truth(value: Any) -> bool:
        return value is True or str(value).lower() in ("true", "yes", "on", "1")

    def tell_next(self, result: dict[str, Any], words: Sequence[tuple[str, str]]) -> None:
        """Put the commands into the result, and into its sentence."""
        result["next"] = [command for _, command in words]
        told = "; ".join(f"{word}: {command}" for word, command in words)
        result["msg"] = f"{str(result.get('msg', '')).rstrip()} {told}"

    def finish_revert(self, task_vars: dict[str, Any], result: Mapping[str, Any]) -> str:
        """:return: the command that goes on with the version that is half reverted: a newer one may be applied, which a
        rollback that names none would revert in its place."""
        return self.command(task_vars, "rollback.yml", {"rollback_version": str(result["version"])})

    def tell_edited(self, result: dict[str, Any], task_vars: dict[str, Any]) -> bool:
        """An applied file that was edited or is gone: the same command would fail the same way. :return: if it is that."""
        if result.get("reason") not in ("edited", "missing"):
            return False
        # A folder that is gone, and a version that has only begun have their own way on in the sentence: a new version mends neither.
        if result["reason"] == "edited" and "step" not in result:
            result["hint"] = "Restore the file as it is stored, or write a new version."
            result["msg"] = f"{str(result.get('msg', '')).rstrip()} {result['hint']}"
        words = [("To look", self.command(task_vars, "status.yml"))]
        if "step" in result:
            back = self.command(task_vars, "rollback.yml", {"rollback_version": str(result["version"])})
            words.append(("to revert it", back))
        self.tell_next(result, words)
        return True

    def tell_unknown_target(self, result: dict[str, Any], task_vars: dict[str, Any]) -> bool:
        """A version that there is not: the same command would fail the same way. :return: if it is that."""
        if result.get("reason") != "unknown_target":
            return False
        self.tell_next(result, [("To see the versions", self.command(task_vars, "status.yml"))])
        return True

    def show_edited(self, result: Mapping[str, Any]) -> None:
        """Show how an applied file differs from what was stored."""
        for file in result.get("files") or []:
            for line in str(file["diff"]).splitlines():
                self.say(f"    {line}")


# Of what models are to follow so many lines stand on the screen; the report has all.
CHANGES_SHOWN = 30


def model_lines(database: str, found: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """:return: what the application's models are to follow, a line each, for its developers; none where nothing is."""
    if found is None:
        return [f"{database}: what the application's models are to follow could not be told, somebody held a table"]
    if not found:
        return []
    rows = []
    for item in found:
        told = item["after"] if item["change"] == "added" else item["before"] if item["change"] == "dropped" else None
        if item["change"] in ("changed", "renamed"):
            told = f"{item['before'] or 'nothing'} -> {item['after'] or 'nothing'}"
        rows.append([item["kind"], item["change"], item["object"], told])
    lines = [f"{database}: {len(found)} changes that the application's models are to follow"]
    lines += [f"    {line}" for line in table(["KIND", "CHANGE", "OBJECT", "DEFINITION"], rows[:CHANGES_SHOWN])]
    if len(rows) > CHANGES_SHOWN:
        lines.append(f"    and {len(rows) - CHANGES_SHOWN} more in the report")
    return lines


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """:return: lines of a table with columns as wide as they need, for a person."""
    cells = [[str(value) if value is not None else "" for value in row] for row in [list(headings), *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def seconds(value: Any) -> str:
    """:return: a duration as people read it."""
    if value is None:
        return ""
    number = float(value)
    if number < 60:
        return f"{number:.2f} s"
    minutes, rest = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
