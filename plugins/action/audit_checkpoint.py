# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Archives, checks, signs and only then cuts; documented in the module of the same name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils import audit_verifier
from ansible_collections.whitecross.pgops.plugins.plugin_utils import audit_anchor
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import make_private_folder, now

# 45 CFR 164.316(b)(2)(i)
SHORTEST = 6


class ActionModule(PgopsAction):
    """Two calls of the module, and the signature between them, which the database's host never sees the key of."""

    PHASE = "audit_checkpoint"
    MODULE = "audit_checkpoint"

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: where each archive goes. :raises AnsibleActionFail: too short a retention, no key, or no folder."""
        args = self._task.args
        try:
            years = int(args.get("retention_years", 7))
        except (TypeError, ValueError):
            years = 0
        if years < SHORTEST:
            raise AnsibleActionFail(
                f"audit_retention_years is {args.get('retention_years')}, and HIPAA asks that documentation is kept for {SHORTEST} years"
            )
        self._key = str(args.get("key") or "")
        if not self._key:
            raise AnsibleActionFail("A checkpoint is signed, and no key is named; give -e audit_checkpoint_key=FILE")
        if self._connection.transport != "local":
            raise AnsibleActionFail(
                "Archives are written where the module runs; reach the database from the ops host for this one run: "
                "-e ansible_connection=local -e pgops_host=HOST"
            )
        above = Path(str(args.get("directory") or "")).expanduser()
        above = above if above.is_absolute() else Path.cwd() / above
        today = datetime.now(UTC)
        # The 29th of February has no like in most years.
        self._before = today.replace(year=today.year - years, day=min(today.day, 28)).isoformat(timespec="seconds")
        environment, host = str(self.run_fact(task_vars).get("environment") or ""), str(task_vars["inventory_hostname"])
        self._whose = {"environment": environment, "host": host}
        self._archives, self._outside = {}, {}
        for database in map(str, self.pgops(task_vars, "databases") or []):
            folder = audit_anchor.Place.of(above, environment, host, database).folder
            self._archives[database] = folder / f"until-{today:%Y%m%dT%H%M%SZ}.jsonl"
            place = audit_anchor.Place.of(self.pgops(task_vars, "state_directory"), environment, host, database)
            self._outside[database] = place
            if not self._task.check_mode:
                make_private_folder(folder)
        archives = {name: str(path) for name, path in self._archives.items()}
        return {"before": self._before, "archives": archives, "place": self._whose}

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Check what was archived, sign it, and let it take the place of the rows."""
        if result.get("failed"):
            return result
        documents = {}
        for database, found in result["databases"].items():
            if not found:
                self.say(f"{database}: no row of the audit is from before {self._before}")
                continue
            if self._task.check_mode:
                self.say(f"{database}: {found['rows']} rows, up to row {found['seq']}, would be archived")
                continue
            documents[database] = self._signed(database, found, task_vars)
        if not documents:
            return {**result, "changed": bool(self._task.check_mode and any(result["databases"].values()))}
        arguments = {**self.connection_arguments(task_vars), "documents": documents}
        done = self._call(f"whitecross.pgops.{self.MODULE}", arguments, task_vars)
        if done.get("failed"):
            return done
        for database, document in documents.items():
            found = done["databases"][database]
            found.update({name: document[name] for name in ("seq", "archive", "archive_sha256")})
            self.say(
                f"{database}: rows up to {document['seq']} are archived in {document['archive']}, and a signed checkpoint stands for them"
            )
        return done

    def _signed(self, database: str, found: Mapping[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        path, outside = self._archives[database], self._outside[database]
        os.chmod(path, 0o600)
        anchors, kept = (str(file) if file.exists() else None for file in (outside.anchors, outside.rows))
        try:
            checked = audit_verifier.verify(str(path), None, anchors, kept, archive=True)
        except audit_verifier.CannotLook as fault:
            raise AnsibleActionFail(f"Nothing was cut: {fault}") from None
        wrong = [finding for finding in checked.findings if finding.gravity != audit_verifier.NOTE]
        # Rows of before the first anchor are seen by their own hashes alone; a host may have another name since the last checkpoint.
        wrong = [finding for finding in wrong if finding.code not in ("no_anchor", "archived", "checkpoint_place")]
        if wrong or checked.last != found["seq"] or checked.head != found["hash"]:
            why = wrong[0].sentence if wrong else "the archive is not the audit's beginning."
            raise AnsibleActionFail(f"Nothing was cut from the audit of {database}: {why}")
        document = {
            "format": 2,
            **self._whose,
            "database": database,
            "system_identifier": found["system_identifier"],
            "at": now(),
            "by": self.run_fact(task_vars).get("who"),
            "seq": found["seq"],
            "hash": found["hash"],
            "rows": found["rows"],
            "archive": str(path),
            "archive_sha256": found["archive_sha256"],
            # Each line names the one before: with this one all are signed that the archive was held against.
            "anchored": audit_anchor.last_until(outside, int(found["seq"])),
        }
        try:
            signature = audit_anchor.sign(
                self._key, audit_verifier.signed_text(document), audit_verifier.CHECKPOINT_NAMESPACE
            )
        except audit_anchor.NotAnchored as fault:
            raise AnsibleActionFail(f"Nothing was cut from the audit of {database}: {fault}") from None
        return {**document, "signature": signature}
