# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof of the copy before a rollback: what may be missed where one is only tried for, and what may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.action import prove
from support.actions import action, variables

MADE = {"path": "/backups/school/one", "manifest_sha256": "0" * 64}


def of(playbook: str = "rollback", **args: Any) -> tuple[Any, dict[str, Any]]:
    given = variables(["school"], playbook=playbook, phases=["backup", "prove"], backup={"school": MADE})
    return action(prove.ActionModule, **args), given


@pytest.fixture
def readable_key(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.write_text("AGE-SECRET-KEY-1X", encoding="ascii")
    path.chmod(0o644)
    return str(path)


def test_a_key_that_others_may_read_is_refused(readable_key: str) -> None:
    made, given = of(identity_file=readable_key)
    with pytest.raises(AnsibleActionFail, match="0644"):
        made.module_arguments(given)


def test_where_the_copy_is_only_tried_for_it_is_why_there_is_no_proof(readable_key: str) -> None:
    made, given = of(identity_file=readable_key, tolerated=True)
    assert "identity_file" not in made.module_arguments(given)
    told = made.after({"failed": True, "msg": "no private key was given"}, given)
    assert not told.get("failed")
    assert "0644" in told["databases"]["school"]["missed"]
    # A backup that needs no key is proved without one.
    made, given = of(identity_file=readable_key, tolerated=True)
    made.module_arguments(given)
    assert made.after({"databases": {"school": {}}}, given) == {"databases": {"school": {}}}


def test_a_climb_that_ends_too_low_is_refused_unless_the_copy_is_only_tried_for() -> None:
    made, given = of(level=1, level_required=4)
    with pytest.raises(AnsibleActionFail, match="backup_prove_level is 1, and staging needs"):
        made.module_arguments(given)
    made, given = of(level=1, level_required=4, tolerated=True)
    assert made.module_arguments(given)["level_required"] is None
