# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: request
short_description: Write what a version does and what it needs, for somebody without a right in the database
version_added: 0.1.0
description:
  - One page, and the same as JSON, of what M(whitecross.pgops.plan) and M(whitecross.pgops.gate) have found - what is pending up to the version,
    lint, the newest rehearsal of the same SQL, the risk with its reasons, and the roles that approve it.
  - It runs once a play, on the controller.
options:
  version:
    description: The last version that is asked for.
    type: str
    required: true
  page:
    description: The page. Below C(requests) of C(pgops_state_directory) where it is not given.
    type: path
  by:
    description: Who asks.
    type: str
attributes:
  check_mode:
    description: Tells the same and writes no page.
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
- name: Tell what a version does and needs
  whitecross.pgops.request:
    version: "20251106000000"
"""

RETURN = r"""
page:
  description: Where the page is; the JSON file lies beside it.
  returned: outside of check mode
  type: str
request:
  description: What the page tells.
  returned: always
  type: dict
"""
