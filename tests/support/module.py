# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Calling a module of the collection as Ansible does, in this process: `call("status", target, run_id=...)`."""

from __future__ import annotations

import importlib
import io
import json
from contextlib import redirect_stdout, suppress
from typing import Any

from ansible.module_utils.testing import patch_module_args
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target

_CONNECTION = ("host", "port", "user", "owner", "backup_user", "restore_user", "passfile", "bindir")


def call(name: str, target: Target, *, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    """Run the module on the database of `target`; its result, with `failed` where it failed."""
    given = {key: getattr(target, key) for key in _CONNECTION}
    arguments = {**given, "databases": [target.database], "_ansible_check_mode": check_mode, **options}
    module = importlib.import_module(f"ansible_collections.whitecross.pgops.plugins.modules.{name}")
    told = io.StringIO()
    with patch_module_args(arguments), redirect_stdout(told), suppress(SystemExit):
        module.main()
    result: dict[str, Any] = json.loads(told.getvalue())
    return result
