# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An audit with rows, an anchor of it, and the verifier as an auditor starts it: a file and a Python, no Ansible."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import audit_export, audit_verifier, ledger
from ansible_collections.whitecross.pgops.plugins.plugin_utils import audit_anchor

from support.keys import ssh_key

VERIFIER = Path(audit_verifier.__file__)
ENVIRONMENT, HOST = "local", "local-1"


@dataclass
class Audited:
    """A database with a ledger, and the place of its anchors."""

    conn: Any
    place: audit_anchor.Place
    folder: Path
    number: int = 0

    def append(self, count: int = 3, event: str = "tested") -> None:
        for _ in range(count):
            self.number += 1
            ledger.append_audit(self.conn, event, run_id=f"run-{self.number}", detail={"n": self.number})

    def anchor(self, **more: Any) -> dict[str, Any]:
        """As a run leaves it, with the rows that are new."""
        head = ledger.audit_head(self.conn) or {}
        cluster = audit_export.head(self.conn)
        kept = audit_anchor.kept_to(self.place) or {"seq": 0}
        since = (more.get("parted") or {}).get("common", kept["seq"])
        rows = [row for row in ledger.audit_rows(self.conn) if row["seq"] > since]
        told = {name: cluster[name] for name in ("system_identifier", "timeline", "database_oid")}
        sign = more.pop("sign", None)
        told.update(environment=ENVIRONMENT, host=HOST, database=cluster["database"])
        anchor = {"time": "2026-01-01T00:00:00Z", "run_id": f"run-{self.number}", **head, **told, **more}
        return audit_anchor.append(self.place, anchor, rows, sign)

    def export(self) -> Path:
        path = self.folder / "audit.jsonl"
        audit_export.write(self.conn, str(path), place={"environment": ENVIRONMENT, "host": HOST})
        return path

    def verify(self, *more: str, export: Path | None = None) -> Checked:
        """The verifier, copied where nothing of the collection is, on an export and the anchors."""
        export = export or self.export()
        return verifier(self.folder, "--export", str(export), "--anchors", str(self.place.anchors), *more)


def signing_key(folder: Path, principal: str) -> tuple[Path, Path]:
    """A key, and the file of allowed signers that has it."""
    folder.mkdir()
    key = ssh_key(folder)
    signers = folder / "allowed_signers"
    signers.write_text(f"{principal} {key.public}\n", encoding="utf-8")
    return key.file, signers


@dataclass
class Checked:
    """What an auditor sees."""

    rc: int
    document: dict[str, Any]

    @property
    def codes(self) -> set[str]:
        return {finding["code"] for finding in self.document["findings"] if finding["gravity"] != "note"}

    @property
    def told(self) -> str:
        return " ".join(finding["sentence"] for finding in self.document.get("findings", []))


def verifier(folder: Path, *arguments: str, python: tuple[str, ...] = (sys.executable, "-I", "-S")) -> Checked:
    """`-I -S`: no path of this checkout, no installed package."""
    alone = folder / "alone"
    alone.mkdir(exist_ok=True)
    copy = shutil.copy(VERIFIER, alone)
    done = subprocess.run([*python, copy, "--json", *arguments], capture_output=True, text=True, check=False, cwd=alone)
    assert not done.stderr, done.stderr
    return Checked(done.returncode, json.loads(done.stdout))
