# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A private key is handed over in memory, whatever login scripts say beside it, and taken back; or it is not handed over."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.plugin_utils import identity
from support.actions import action, variables
from support.keys import age_key


class Handing(identity.IdentityAction):
    """An action whose host is reached by a shell of this machine."""

    PHASE = "prove"
    MODULE = "prove"
    says = ""

    def _low_level_execute_command(self, cmd: str, in_data: bytes | None = None, **_more: Any) -> dict[str, Any]:
        done = subprocess.run(["sh", "-c", cmd], input=in_data, capture_output=True, check=False)
        return {"rc": done.returncode, "stdout": self.says + done.stdout.decode()}


@pytest.fixture
def handing(tmp_path: Path) -> Handing:
    found = action(Handing, identity_file=str(age_key(tmp_path).file))
    found._connection.transport = "ssh"
    return found


@pytest.mark.parametrize("says", ["", "Welcome to the host of the database\n"])
def test_it_lies_in_memory_for_its_owner_alone_until_it_is_taken_back(handing: Handing, says: str) -> None:
    handing.says = says
    arguments = handing.module_arguments(variables(["a"]))
    key = Path(arguments["identity_file"])
    assert arguments["identity_once"]
    assert str(key).startswith(f"{identity.MEMORY}/{identity.PREFIX}")
    assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert "AGE-SECRET-KEY-1" in key.read_text(encoding="ascii")
    handing._take_back()
    assert not key.parent.exists()


def test_where_nothing_can_be_kept_in_memory_it_is_refused(handing: Handing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "MEMORY", "/nowhere")
    with pytest.raises(AnsibleActionFail, match="The private key was not handed to db1: nothing can be kept in memory"):
        handing.module_arguments(variables(["a"]))
    with pytest.raises(AnsibleActionFail, match="cannot be read on"):
        action(Handing, identity_file="/nowhere/key").module_arguments(variables(["a"]))


def test_recipients_are_looked_at_before_they_are_sent() -> None:
    identity.refuse_recipients("age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p")
    with pytest.raises(AnsibleActionFail, match="Recipient 1 of backup_encrypt_to is a private key") as caught:
        identity.refuse_recipients(["AGE-SECRET-KEY-1QQPQYWFZ"])
    assert "QQPQYWFZ" not in str(caught.value.result)
