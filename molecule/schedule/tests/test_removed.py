# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was installed is gone, what somebody else has written is not, and neither is what the runs have made."""

from __future__ import annotations

import os
from pathlib import Path

OWN = "/etc/systemd/system/pgops-staging-own.service"


def test_no_unit_stamp_or_heartbeat_is_left(host):
    found = host.check_output("find /etc/systemd /var/lib/systemd -name '*pgops-staging-*'").split()
    assert found == [OWN]
    assert host.check_output("systemctl list-units --all --plain --no-legend 'pgops-staging-*'") == ""
    state = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "state"
    assert not (state / "journal" / "staging" / "timers").exists()
    assert not (state / "schedule").exists()


def test_the_backup_that_was_made_is_there(host):
    assert len(host.check_output("ls -d /var/backups/pgops/white_cross/*/proof.json").split()) == 1
