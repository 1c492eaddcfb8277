# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies that are required must have a place before a migration begins; those of a physical backup a second repository."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils import typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.environments import Refusal
from ansible_collections.whitecross.pgops.plugins.plugin_utils.required_copies import refuse_placeless

RUN = {"playbook": "migrate", "command": "", typed_commands.GIVEN: {"variables": {}}}
ONE = {"repo1-path": "/var/lib/pgbackrest", "repo1-retention-full": 30}


def look(**variables: Any) -> None:
    refuse_placeless({"db1": {"backup_copies_required": True, **variables}}, ["backup"], RUN, "production")


@pytest.mark.parametrize("repository", [None, ONE, {**ONE, "repo2-retention-full": 30}])
def test_one_repository_is_no_second_place(repository: Any) -> None:
    with pytest.raises(Refusal, match=r"backup_repository declares no second repository \(for db1\)"):
        look(backup_engine="physical", backup_repository=repository)


@pytest.mark.parametrize("more", [{"repo2-path": "/mnt/second"}, {"repo2-host": "vault"}, {"repo3-type": "s3"}])
def test_a_second_repository_is_one(more: dict[str, str]) -> None:
    look(backup_engine="physical", backup_repository={**ONE, **more})
    look(backup_engine="physical", backup_repository="{{ from_elsewhere }}")
    look(backup_engine="physical", backup_repository=ONE, backup_copies_required=False)


def test_a_logical_backup_needs_a_place_of_ours() -> None:
    with pytest.raises(Refusal, match="backup_copies names no place"):
        look(backup_repository={**ONE, "repo2-path": "/mnt/second"})
    look(backup_copies=[{"path": "/mnt/second"}])
