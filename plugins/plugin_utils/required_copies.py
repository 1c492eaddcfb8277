# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A migration that requires copies of its backup, and names no place for them, ends before the hour that the backup takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.whitecross.pgops.plugins.plugin_utils import typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.environments import Refusal

_REPOSITORY = re.compile(r"repo(\d+)-(?:path|host|type|s3-bucket|sftp-host|azure-container|gcs-bucket)$")


def refuse_placeless(
    variables_of: Mapping[str, Mapping[str, Any]], phases: list[str], run: Mapping[str, Any], limit: str
) -> None:
    """For a migration.

    :param variables_of: each host's; a template is not read.
    :param phases: of this run.
    :raises Refusal: ``backup_copies_required`` is on for a host, and ``backup_copies`` has no place; with ``backup_engine=physical``,
        ``backup_repository`` has no second repository.
    """
    if "backup" not in phases:
        return
    for host, variables in variables_of.items():
        if not boolean(variables.get("backup_copies_required") or False, strict=False):
            continue
        if variables.get("backup_engine") == "physical":
            # pgBackRest has repositories of its own.
            if _has_one(variables.get("backup_repository")):
                raise Refusal(
                    f"backup_copies_required is on and backup_repository declares no second repository (for {host}), so there would be no "
                    "copy of a physical backup; declare repo2-path, or what pgBackRest needs to reach another place. When one is declared",
                    typed_commands.again(run, limit),
                )
        elif not variables.get("backup_copies"):
            raise Refusal(
                f"backup_copies_required is on and backup_copies names no place (for {host}), so there would be no copy of this run's "
                "backup; docs/backup-copies.md shows the form of a place. When one is named",
                typed_commands.again(run, limit),
            )


def _has_one(repository: Any) -> bool:
    """:param repository: pgBackRest's options by name; a template is not read."""
    if isinstance(repository, str):
        return False
    numbers = {found[1] for name in repository or {} if (found := _REPOSITORY.match(str(name)))}
    return not numbers - {"1"}
