# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An action plugin without a play: what it makes of variables before its module starts, and of the result after."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, TypeVar

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

Action = TypeVar("Action")


def action(kind: type[Action], *, check: bool = False, **args: Any) -> Action:
    """:return: the action of a task with these arguments, on this machine."""
    loader = DataLoader()
    task = SimpleNamespace(args=dict(args), check_mode=check, async_val=0, diff=False)
    connection = SimpleNamespace(transport="local", become=None)
    made: Any = kind
    action_made: Action = made(
        task=task,
        connection=connection,
        play_context=None,
        loader=loader,
        templar=Templar(loader),
        shared_loader_obj=None,
    )
    return action_made


def variables(databases: list[str], **run: Any) -> dict[str, Any]:
    """:return: the variables of a host that has these databases, and what its run knows so far."""
    fact = {"id": "20260101T120000Z-0a1b2c", "environment": "staging", "limit": "staging", "command": "", **run}
    return {
        "inventory_hostname": "db1",
        "pgops_databases": databases,
        "ansible_facts": {"__pgops_run": fact},
    }
