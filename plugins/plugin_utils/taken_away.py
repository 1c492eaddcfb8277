# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs have taken away from the application's users and not brought back: one small file each, on the ops host.

It is on the disk before the hook begins, so that whatever ends the run, the next one knows what to bring back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from ansible_collections.whitecross.pgops.plugins.plugin_utils import journal


@dataclass(frozen=True)
class Taken:
    """One thing that is away.

    :ivar kind: ``divert_traffic``, ``maintenance_on`` or ``stop``
    :ivar host: the inventory host of the run that took it away
    :ivar run_id: that run; empty where the file cannot be read
    :ivar first: whether that host was the first of its batch, which runs the hooks that are not for each host
    """

    kind: str
    host: str
    run_id: str
    since: str
    first: bool


class TakenAway:
    """What is away in one environment, ``<state_directory>/hooks/<environment>/<host>/<kind>.json``."""

    def __init__(self, state_directory: str | Path, environment: str) -> None:
        self.state_directory = Path(state_directory).expanduser()
        self.environment = environment
        self.folder = self.state_directory / "hooks" / environment

    def _path(self, host: str, kind: str) -> Path:
        return self.folder / quote(host, safe="") / f"{kind}.json"

    def note(self, host: str, kind: str, run_id: str, *, first: bool) -> None:
        """Write down that ``run_id`` takes it away; what another living run has taken stays that run's.

        :raises OSError: the folder cannot be written
        """
        before = self._read(self._path(host, kind), host, kind)
        if before and before.run_id != run_id and self.is_live(before.run_id):
            return
        told = {"run_id": run_id, "since": journal.now(), "first": first or bool(before and before.first)}
        journal.write_private_file(self._path(host, kind), json.dumps(told) + "\n")

    def clear(self, host: str, kind: str) -> None:
        """It is back."""
        path = self._path(host, kind)
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            journal.sync_folder(path.parent)

    def all(self) -> list[Taken]:
        """Everything that is away in this environment, by host and kind."""
        if not self.folder.is_dir():
            return []
        found = [
            self._read(path, unquote(path.parent.name), path.stem) for path in sorted(self.folder.glob("*/*.json"))
        ]
        return [taken for taken in found if taken]

    def to_bring_back(self, host: str, *run_ids: str) -> dict[str, Taken]:
        """kind -> what is away for ``host`` and is this run's to bring back: its own, and that of runs that are over.

        :param run_ids: the run, and the one that has started it and waits for it
        """
        return {
            taken.kind: taken
            for taken in self.all()
            if taken.host == host and (taken.run_id in run_ids or not self.is_live(taken.run_id))
        }

    def is_live(self, run_id: str) -> bool:
        """Whether a run of this machine goes on; it brings back its own."""
        if not journal.is_run_id(run_id):
            return False
        events = journal.Journal(self.state_directory, self.environment, run_id).events()
        return bool(events) and not journal.finished(events) and journal.is_alive(events[0].get("pid"))

    @staticmethod
    def _read(path: Path, host: str, kind: str) -> Taken | None:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return Taken(kind, host, str(found["run_id"]), str(found["since"]), bool(found["first"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            # Better brought back twice than never.
            return Taken(kind, host, "", "", True)
