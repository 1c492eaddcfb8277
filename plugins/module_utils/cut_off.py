# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ends an apply once, in the middle of a step that was chosen beforehand, as a lost controller or Ctrl-C would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext

# The second look of a step: inside its transaction, so that there is something to take back.
LOOKS = 2


class CutOff(Control):
    """Asks the run to end once, in a step that is chosen beforehand; else does what the call's own control does.

    It is the ``watch`` of the same apply, so that it knows which step is in hand."""

    def __init__(self, own: Control, version: str, ordinal: int) -> None:
        """:param own: of the call, which may end it for good."""
        super().__init__()
        self._own = own
        self._at = (version, ordinal)
        self._looks: int | None = None

    @property
    def reason(self) -> str | None:
        """Why the job has to end, or None."""
        return self._reason or self._own.reason

    def check(self) -> None:
        """:raises Interrupted: the call has to end, or this is the place."""
        self._own.check()
        if self._looks is None:
            return
        self._looks += 1
        if self._looks >= LOOKS:
            self._reason = "the rehearsal cuts it off here once"
            raise Interrupted(f"Interrupted: {self._reason}.")

    def on_interrupt(self, callback: Callable[[], None]) -> Callable[[], None]:
        """As the call's own control."""
        return self._own.on_interrupt(callback)

    def session(self, conn: Connection) -> None:
        """See StepWatch."""

    def step(self, context: StepContext, step: Mapping[str, Any]) -> None:
        """See StepWatch."""
        if (context.version, context.ordinal) == self._at:
            self._looks = 0
