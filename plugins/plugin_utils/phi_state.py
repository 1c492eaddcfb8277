# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which runs have a cluster log every statement, and what is put back when the last of them is over: a file on the ops host.

It is written before anything is changed, so that whoever comes after a run that was killed knows what stood there.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import (
    Journal,
    finished,
    is_alive,
    is_run_id,
    make_private_folder,
    write_private_file,
)

# What a person names before a migration of PHI, and how it is asked for.
ASSESSED = {
    "privacy_assessment": "where the privacy impact assessment is",
    "security_review": "who reviewed its security, and when",
    "privacy_officer": "the privacy officer who signed it off",
    "encryption_at_rest": "how the data are encrypted at rest, and who has seen that",
}


@dataclass(frozen=True)
class Cluster:
    """The file of one cluster."""

    path: Path

    @classmethod
    def of(cls, state_directory: str | Path, system_identifier: Any) -> Cluster:
        """:return: that of the cluster with this identifier."""
        name = re.sub(r"[^0-9A-Za-z]", "_", str(system_identifier))
        return cls(Path(state_directory).expanduser() / "phi" / f"{name}.json")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Two runs on one cluster open and close one after the other."""
        make_private_folder(self.path.parent)
        descriptor = os.open(
            self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def read(self) -> dict[str, Any] | None:
        """:return: ``logging``, ``before`` and ``holders``, or None where nothing is open."""
        try:
            return dict(json.loads(self.path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def hold(self, found: Mapping[str, Any], holder: Mapping[str, Any]) -> dict[str, Any]:
        """Keep what stood there and who has it changed; what an earlier holder found counts, since it is what stood there first."""
        known = self.read() or {"logging": found["logging"], "before": found["before"], "holders": []}
        known["holders"] = [*_others(known, holder), dict(holder)]
        write_private_file(self.path, json.dumps(known) + "\n")
        return known

    def let_go(self, holder: Mapping[str, Any]) -> dict[str, Any] | None:
        """:return: what is to be put back where no other run that lives holds it; the file stays until that is done."""
        known = self.read()
        if known is None:
            return None
        known["holders"] = [one for one in _others(known, holder) if _lives(self.path, one)]
        write_private_file(self.path, json.dumps(known) + "\n")
        return None if known["holders"] else known

    def forget(self) -> None:
        """It was put back."""
        self.path.unlink(missing_ok=True)


def _others(known: Mapping[str, Any], holder: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [one for one in known["holders"] if (one["run_id"], one["host"]) != (holder["run_id"], holder["host"])]


def _lives(path: Path, holder: Mapping[str, Any]) -> bool:
    if not is_run_id(str(holder.get("run_id"))):
        return False
    events = Journal(path.parent.parent, str(holder["environment"]), str(holder["run_id"])).events()
    return bool(events) and not finished(events) and is_alive(events[0].get("pid"))


def missing(given: Mapping[str, Any]) -> list[str]:
    """:return: the names of :data:`ASSESSED` that nobody has filled in."""
    return [name for name in ASSESSED if str(given.get(name) or "").strip().upper() in ("", "FILL IN")]
