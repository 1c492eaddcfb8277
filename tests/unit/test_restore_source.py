# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What restore_from may be: a whole path, and nothing that means another place on another host."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.action.restore_table import ActionModule
from ansible_collections.whitecross.pgops.plugins.plugin_utils.restore_source import whole_path
from support.actions import action, variables

GIVEN = variables(
    ["school"], given={"variables": {"restore_from": "x.dump"}, "files": [], "inventory": [], "options": []}
)


@pytest.mark.parametrize("path", ["/var/backups/x", "~/x.dump", "$HOME/x.sql"])
def test_a_whole_path_is_taken_as_it_is(path: str) -> None:
    assert whole_path(action(ActionModule), path, GIVEN) == path


@pytest.mark.parametrize(
    ("path", "told"), [(None, "is not set"), ("", "is not set"), ("x.dump", "relative"), (".local/x", "relative")]
)
def test_no_path_and_a_relative_one_are_refused(path: str | None, told: str) -> None:
    with pytest.raises(AnsibleActionFail, match=told) as refused:
        whole_path(action(ActionModule), path, GIVEN)
    assert refused.value.result["next"] == ["ansible-playbook backup_list.yml -l staging -e backup_list_only=proved"]
