# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module backup_list and shows its table; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import reporting
from ansible_collections.whitecross.pgops.plugins.plugin_utils.backup_actions import KeptBackupsAction, age
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import table

_HEADINGS = [
    "ID", "KIND", "VERSION", "SIZE", "AGE", "PROOF", "PINNED BY", "EXPIRES", "CLUSTER", "ENCRYPTED TO", "COPIES"
]  # fmt: skip
# Beyond it a key or a place is cut; the JSON has all of it.
_SHOWN = 40


class ActionModule(KeptBackupsAction):
    """A look at the backups; reaches no database."""

    PHASE = "backup_list"
    MODULE = "backup_list"
    REMEMBERED = False

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments, and the environment of the run."""
        return self.retention_arguments(task_vars)

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show a table that a person reads, and below it what is wrong."""
        for database, found in (result.get("databases") or {}).items():
            counts = found["counts"]
            listed = len(found["backups"])
            only = f", {listed} of {found['total']} listed" if listed != found["total"] else ""
            self.say(
                f"{database}: {counts['whole']} backups in {found['folder']}, {counts['proved']} proved, {counts['pinned']} pinned, "
                f"{counts['damaged']} not whole, {reporting.size(found['bytes'])}{only}"
            )
            several = len(found["clusters"]) > 1
            rows = [self._row(backup, several) for backup in found["backups"]]
            # A column that says nothing of any backup is left out.
            used = [place for place in range(len(_HEADINGS)) if place < 6 or any(row[place] for row in rows)]
            if rows:
                for line in table(
                    [_HEADINGS[place] for place in used], [[row[place] for place in used] for row in rows]
                ):
                    self.say(f"    {line}")
            for backup in found["backups"]:
                if backup["told"]:
                    self.say(f"    {backup['id']}: {backup['state']}, {backup['told']}")
        if result.get("physical"):
            self._tell_physical(result["physical"])
        return result

    def _tell_physical(self, found: dict[str, Any]) -> None:
        """The cluster's own backups, which are of all its databases."""
        listed = len(found["backups"])
        only = f", {listed} of {found['total']} listed" if listed != found["total"] else ""
        self.say(
            f"whole cluster: {found['total']} physical backups of stanza {found['stanza']}, {found['proved']} proved, {found['damaged']} damaged; "
            f"pgBackRest's own retention says which expire{only}"
        )
        rows = [
            [
                backup["label"],
                "damaged" if backup["damaged"] else backup["type"],
                reporting.size(backup["database_bytes"]),
                age(backup["age_s"]),
                _proof(backup) if backup["level"] else "no",
                str(backup["repository"]),
            ]
            for backup in found["backups"]
        ]
        if rows:
            for line in table(["LABEL", "TYPE", "SIZE", "AGE", "PROOF", "REPOSITORY"], rows):
                self.say(f"    {line}")

    @staticmethod
    def _row(backup: dict[str, Any], several: bool) -> list[str]:
        whole = backup["state"] == "whole"
        return [
            backup["id"],
            backup["kind"] if whole else backup["state"],
            backup["version"] or "",
            reporting.size(backup["bytes"]),
            age(backup["age_s"]),
            _proof(backup) if backup["level"] else "no" if whole else "",
            _cut("; ".join(backup["pinned_by"])),
            expires(backup),
            (backup["system_identifier"] or "not told") if several and whole else "",
            _cut(", ".join(backup["encrypted_to"])),
            _cut(", ".join(places(backup["copies"]))),
        ]


def expires(backup: dict[str, Any]) -> str:
    """:return: when a listed backup goes, in a few words."""
    if backup["expires"]:
        return "now"
    if backup["left"]:
        return "by hand"
    if backup["pinned_by"]:
        return "pinned"
    return str(backup["kept_by"][0])


def places(copies: Any) -> list[str]:
    """:return: where there are copies, as far as what tells it can be understood."""
    listed = copies if isinstance(copies, list) else []
    return [str(one["place"]) for one in listed if isinstance(one, dict) and one.get("place")]


def _proof(backup: dict[str, Any]) -> str:
    return f"L{backup['level']} {str(backup['proved_at'] or '')[:16].replace('T', ' ')}".strip()


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
