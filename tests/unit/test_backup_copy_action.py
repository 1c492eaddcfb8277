# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backups a run copies: those that it has made itself, where it relies on them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.action.backup_copy import ActionModule
from support.actions import action, variables

MADE = {"path": "/backups/school/1", "manifest_sha256": "ab", "seconds": 40.0}
MISSED = {"missed": "no backup: disk full.", "seconds": 3.0}


def of(playbook: str, backup: dict[str, Any], **args: Any) -> tuple[ActionModule, dict[str, Any]]:
    return action(ActionModule, **args), variables(["school", "clinic"], playbook=playbook, backup=backup)


@pytest.mark.parametrize("playbook", ["migrate", "rollback"])
def test_a_database_without_a_backup_of_this_run_is_left_out_and_no_other_path_taken(playbook: str) -> None:
    made, given = of(playbook, {"school": MADE, "clinic": MISSED}, path="/backups/school/0")
    arguments = made.module_arguments(given)
    assert arguments["databases"] == ["school"]
    assert arguments["backups"] == {"school": {"path": "/backups/school/1", "manifest_sha256": "ab"}}
    assert "path" not in arguments


def test_backup_yml_copies_what_is_named() -> None:
    made, given = of("backup", {}, path="/backups/school/0")
    arguments = made.module_arguments(given)
    assert arguments["databases"] == ["school", "clinic"]
    assert arguments["path"] == "/backups/school/0"


def test_a_rollback_without_any_backup_copies_none_even_where_copies_are_required() -> None:
    made, given = of("rollback", {"school": MISSED, "clinic": MISSED}, required=True)
    assert made.run(None, given)["skip_reason"] == "no backup was made"


def test_a_migration_that_owes_copies_is_refused_where_it_has_made_no_backup() -> None:
    for backup in ({}, {"school": MADE}):
        made, given = of("migrate", backup, required=True)
        with pytest.raises(AnsibleActionFail, match=r"made no backup of clinic.*an older backup is not taken for it"):
            made.module_arguments(given)


def test_the_copies_have_what_backup_and_proof_have_left() -> None:
    made, given = of("rollback", {"school": MADE, "clinic": MADE}, whole_timeout=100)
    assert made.module_arguments(given)["whole_timeout"] == 20
    given["ansible_facts"]["__pgops_run"]["prove"] = {"school": {"missed": "no proof: slow.", "seconds": 15.0}}
    assert made.module_arguments(given)["whole_timeout"] == 5


def test_a_copy_that_fails_in_a_rollback_is_told_where_that_is_tolerated() -> None:
    made, given = of("rollback", {"school": MADE, "clinic": MADE}, tolerated=True)
    told = made.after({"failed": True, "msg": "a file is damaged."}, given)
    assert not told.get("failed")
    assert told["databases"]["school"]["missed"] == "no copy in a second place: a file is damaged."
    strict, given = of("rollback", {"school": MADE, "clinic": MADE})
    assert "rollback_emergency_backup=try" in strict.after({"failed": True, "msg": "a file is damaged."}, given)["hint"]
