# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has failed in this ansible-playbook so far.

The callback ``record`` notes it in the main process; a task that starts afterwards is forked from that process and so
inherits the list. This is the only way for a task in ``always`` to learn what failed outside a phase: without a
``rescue``, Ansible tells it nothing.
"""

from __future__ import annotations

from typing import Any

_noted: list[dict[str, Any]] = []


def note(host: str, task: str, result: dict[str, Any]) -> None:
    """Remember a failed task; the first is the cause, as ``any_errors_fatal`` ends the play there."""
    _noted.append({**result, "host": host, "task": task})


def first() -> dict[str, Any] | None:
    """The failure that ended the play, or None."""
    return _noted[0] if _noted else None


def forget() -> None:
    """Start afresh, for a new play."""
    _noted.clear()
