# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: audit_verify
short_description: Check an audit against itself and against its anchors
version_added: 0.2.0
description:
  - Checks an export, or a database with a role that may only read, as C(audit_verifier.py) does by itself.
  - Tells edits, deletions, a cut tail, TRUNCATE, a rewrite of the whole table and triggers that were switched off; fails on any of them,
    and where something needs a person's explanation.
options:
  folder:
    description: A folder that C(audit_export.yml) has made; its files are taken.
    type: path
  export:
    description: A file of the chain, as C(audit_export.yml) writes it.
    type: path
  dsn:
    description: A connection string of libpq instead, without a password.
    type: str
  anchors:
    description: The anchors of the ops host.
    type: path
  rows:
    description: The copy of the rows beside them.
    type: path
  signers:
    description: Whose signatures count, a file of allowed signers as ssh-keygen has it.
    type: path
attributes:
  check_mode:
    description: Writes nothing, with it or without.
    support: full
notes:
  - This is an action plugin; nothing is sent to a host.
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Check what an export says
  whitecross.pgops.audit_verify:
    folder: /srv/audit/production/db1/white_cross/20260101T000000Z
"""

RETURN = r"""
audit:
  description: Rows, anchors, head, V(exit_code) of the verifier, and the findings, each with V(code), V(gravity) and V(sentence).
  returned: when it could be looked at
  type: dict
"""
