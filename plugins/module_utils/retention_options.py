# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of the modules that know how long a backup is kept; documented in the fragment whitecross.pgops.retention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ansible_collections.whitecross.pgops.plugins.module_utils.retention import Policy

RETENTION_OPTIONS: dict[str, dict[str, Any]] = {
    "directory": {"type": "path", "required": True},
    "environment": {"type": "str", "default": ""},
    "production": {"type": "bool", "default": False},
    "keep_last": {"type": "int", "default": 7},
    "keep_daily": {"type": "int", "default": 14},
    "keep_weekly": {"type": "int", "default": 8},
    "keep_monthly": {"type": "int", "default": 12},
    "keep_yearly": {"type": "int", "default": 7},
    "keep_change_days": {"type": "int", "default": 90},
    "keep_phi_years": {"type": "int", "default": 7},
}


def policy_of(params: Mapping[str, Any]) -> Policy:
    """:param params: of the module. :return: its policy. :raises PgopsError: it keeps nothing, or too little for production."""
    from ansible_collections.whitecross.pgops.plugins.module_utils import retention

    policy = retention.Policy(
        **{name[len("keep_") :]: params[name] for name in RETENTION_OPTIONS if name.startswith("keep_")}
    )
    retention.refuse_unfit(policy, production=params["production"])
    return policy
