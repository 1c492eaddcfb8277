# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the modules that restore take, and what they begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module

if TYPE_CHECKING:
    from ansible_collections.whitecross.pgops.plugins.module_utils.encryption import Identity
    from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work

# Documented in the fragments whitecross.pgops.restoring and whitecross.pgops.identity.
RESTORE_OPTIONS: dict[str, dict[str, Any]] = {
    "jobs": {"type": "int", "default": 2},
    **pgops_module.IDENTITY_OPTIONS,
}
# Documented in the fragment whitecross.pgops.fit_backup.
FIT_OPTIONS: dict[str, dict[str, Any]] = {
    "directory": {"type": "path", "required": True},
    "level_required": {"type": "int", "default": 4},
    "break_glass": {"type": "str", "default": ""},
    "max_age_days": {"type": "float", "default": 0},
}


def begin(module: Any) -> tuple[Work, Identity | None]:
    """Read the private key, which may be there for this call only, then go on as a job that SIGTERM ends at its next safe point.

    :param module: with :data:`RESTORE_OPTIONS`.
    :return: the call's settings of a restore, and the key where one was given.
    :raises PgopsError: as ``encryption.open_identity``.
    """
    from ansible_collections.whitecross.pgops.plugins.module_utils import encryption, restore
    from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import end_on_sigterm

    identity = encryption.open_identity(module.params["identity_file"], once=module.params["identity_once"])
    progress, control = pgops_module.job(module)
    end_on_sigterm(control)
    return restore.Work(module.params["run_id"] or "by-hand", module.params["jobs"], progress, control), identity
