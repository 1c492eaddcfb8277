# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A migration that requires copies of its backup, and names no place for them, ends before the hour that the backup takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.whitecross.pgops.plugins.plugin_utils import typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.environments import Refusal


def refuse_placeless(
    variables_of: Mapping[str, Mapping[str, Any]], phases: list[str], run: Mapping[str, Any], limit: str
) -> None:
    """For a migration.

    :param variables_of: each host's; a template is not read.
    :param phases: of this run.
    :raises Refusal: ``backup_copies_required`` is on for a host, and ``backup_copies`` has no place.
    """
    if "backup" not in phases:
        return
    for host, variables in variables_of.items():
        # pgBackRest has repositories of its own.
        if variables.get("backup_engine") == "physical" or variables.get("backup_copies"):
            continue
        if boolean(variables.get("backup_copies_required") or False, strict=False):
            raise Refusal(
                f"backup_copies_required is on and backup_copies names no place (for {host}), so there would be no copy of this run's "
                "backup; docs/backup-copies.md shows the form of a place. When one is named",
                typed_commands.again(run, limit),
            )
