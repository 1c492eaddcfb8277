# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lays out what an auditor asks for in one folder of the ops host; documented in the module of the same name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils import audit_verifier
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import audit_anchor, audit_hipaa, audit_period
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import make_private_folder, write_private_file

CHAIN = "audit.jsonl"


class ActionModule(PgopsAction):
    """The module writes the chain; all that is made of it is made here."""

    PHASE = "audit_export"
    MODULE = "audit_export"

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: a folder for each database. :raises AnsibleActionFail: a period that is none, or no folder."""
        today = datetime.now(UTC).date().isoformat()
        try:
            self._since = audit_period.day(self._task.args.get("since"), "0001-01-01")
            self._until = audit_period.day(self._task.args.get("until"), today)
        except PgopsError as fault:
            raise AnsibleActionFail(fault.message) from None
        if self._since > self._until:
            raise AnsibleActionFail(f"The period begins on {self._since}, after its end on {self._until}")
        moment = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        above = Path(str(self._task.args.get("directory") or "")).expanduser()
        if not above.is_absolute():
            above = Path.cwd() / above
        environment, host = self._place(task_vars)
        self._folders = {
            str(name): audit_anchor.Place.of(above, environment, host, str(name)).folder / moment
            for name in self.pgops(task_vars, "databases")
        }
        self._remote = None
        if self._connection.transport == "local":
            folders = {name: str(folder) for name, folder in self._folders.items()}
        else:
            self._remote = self._make_tmp_path()
            folders = {name: f"{self._remote}{number}" for number, name in enumerate(self._folders)}
        self._written = folders
        if not self._task.check_mode:
            self._keep_outside(task_vars)
        return {"folders": folders, "place": {"environment": environment, "host": host}}

    def _keep_outside(self, task_vars: dict[str, Any]) -> None:
        """The rows' copy, the anchors and only then the chain: a run that ends meanwhile would look like a tail that was cut."""
        for database, folder in self._folders.items():
            place = audit_anchor.Place.of(self.pgops(task_vars, "state_directory"), *self._place(task_vars), database)
            try:
                make_private_folder(folder)
                for file in (place.rows, place.anchors):
                    if file.exists():
                        _copy(file, folder / file.name)
            except OSError as fault:
                raise AnsibleActionFail(f"The export cannot be made: {fault.filename}: {fault.strerror}") from None

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Bring the chain here, and lay the rest beside it."""
        try:
            if self._task.check_mode:
                return result
            if result.get("failed"):
                for folder in self._folders.values():
                    shutil.rmtree(folder, ignore_errors=True)  # copies of what lies on this host
                return result
            for database, found in result["databases"].items():
                folder = self._folders[database]
                if self._remote:
                    self._connection.fetch_file(f"{self._written[database]}/{CHAIN}", str(folder / CHAIN))
                    os.chmod(folder / CHAIN, 0o600)
                found.update(self._lay_out(folder), folder=str(folder))
                found.pop("path", None)
                self.say(
                    f"{database}: {found['rows']} rows of the audit, {found['records']} changes from {self._since} to {self._until}: {folder}"
                )
                for line in found.pop("lines"):
                    self.say(f"    {line}")
        except (OSError, PgopsError, audit_verifier.CannotLook) as fault:
            told = f"{fault.filename}: {fault.strerror}" if isinstance(fault, OSError) else str(fault)
            return {**result, "failed": True, "msg": f"The export is not whole: {told}"}
        finally:
            if self._remote:
                self._remove_tmp_path(self._remote)
        return result

    def _lay_out(self, folder: Path) -> dict[str, Any]:
        chain, anchors, rows = folder / CHAIN, folder / audit_anchor.ANCHORS, folder / audit_anchor.ROWS
        checked = audit_verifier.verify(
            str(chain), None, str(anchors) if anchors.exists() else None, str(rows) if rows.exists() else None
        )
        period = audit_period.read(chain, self._since, self._until)
        about, document = {"database": checked.database}, checked.as_dict()
        for name, text in self._texts(period, document, about).items():
            write_private_file(folder / name, text)
        write_private_file(folder / "audit_verifier.py", Path(audit_verifier.__file__).read_text(encoding="utf-8"))
        return {
            "records": len(period.records),
            "checked": document,
            "files": sorted(os.listdir(folder)),
            "lines": audit_verifier.lines(checked),
        }

    @staticmethod
    def _texts(period: audit_period.Period, checked: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, str]:
        return {
            "changes.jsonl": audit_period.as_lines(period),
            "changes.csv": audit_period.as_csv(period),
            "hipaa.html": audit_hipaa.as_page(period, checked, head),
            "hipaa.md": audit_hipaa.as_markdown(period, checked, head),
        }

    def _place(self, task_vars: dict[str, Any]) -> tuple[str, str]:
        host = str(task_vars["inventory_hostname"])
        return str(self.run_fact(task_vars).get("environment") or host), host


def _copy(source: Path, destination: Path) -> None:
    descriptor = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with source.open("rb") as read, os.fdopen(descriptor, "wb") as written:
        shutil.copyfileobj(read, written)
