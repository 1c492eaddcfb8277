# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a rehearsal is shown of an apply or a revert while it goes: its sessions and its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection

if TYPE_CHECKING:
    from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext


class StepWatch(Protocol):
    """Called in the threads that work; what it does there is part of their time."""

    def session(self, conn: Connection) -> None:
        """A session is opened that will run statements of steps. :param conn: in autocommit, outside any transaction."""

    def step(self, context: StepContext, step: Mapping[str, Any]) -> None:
        """A step is begun, or gone on with; the one before it is over."""
