# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: approve
short_description: Sign what is pending as one of the roles that approve it
version_added: 0.1.0
description:
  - Shows environment, hosts, databases, versions with the checksums of their rendered SQL, risk, rehearsal and the seconds that it may take,
    signs that statement with C(ssh-keygen -Y sign), and keeps it on the ops host.
  - It signs nothing that M(whitecross.pgops.gate) would not take, as with a key that may not sign for the role.
  - It runs once a play, on the controller, after M(whitecross.pgops.plan) and M(whitecross.pgops.gate).
options:
  role:
    description: The role that approves.
    type: str
    required: true
  key:
    description:
      - The file of an SSH key. A public one signs through the agent of C(SSH_AUTH_SOCK). No passphrase is asked for.
    type: path
    required: true
  hours:
    description: For how many hours the approval holds.
    type: float
    default: 168
  approvals:
    description: The folder of the approvals. C(approvals) below C(pgops_state_directory) where it is not given.
    type: path
  signers:
    description: For each role the allowed-signers file.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Shows what would be signed.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
notes:
  - This is an action plugin; nothing is sent to a host.
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Approve what is pending
  whitecross.pgops.approve:
    role: cto
    key: ~/.ssh/id_ed25519.pub
    signers: {cto: /etc/pgops/signers/cto}
"""

RETURN = r"""
file:
  description: Where the approval is kept.
  returned: when it was signed
  type: str
by:
  description: Who has signed, as the allowed-signers file names them.
  returned: when it was signed
  type: str
statement:
  description: What was signed.
  returned: when it was signed
  type: dict
"""
