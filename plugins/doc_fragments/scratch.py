# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of the modules that restore on the scratch server, documented once."""

from __future__ import annotations


class ModuleDocFragment:
    """Whether that may be the live server."""

    DOCUMENTATION = r"""
options:
  scratch_reason:
    description:
      - Why a production backup may be restored on the production cluster itself; a proof keeps it.
    type: str
  other_cluster_only:
    description:
      - Refuse to restore on the cluster that the backup comes from. Filled by the action plugin - in production, unless
        O(scratch_reason) is given.
    type: bool
    default: false
"""
