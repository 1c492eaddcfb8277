# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A database worth backing up, and a backup of it, for the tests of backup, prove, restore and swap."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import textwrap
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, dump, restore
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target

from support.podman import ROOT
from support.server import APP, OWNER, Server

RUN = "20261121T120000Z-0a1b2c"
# A value that must turn up in no message, whatever fails.
PATIENT = "Sentinel-Patient-4711"

SCHEMA = f"""
SET ROLE {OWNER};
CREATE TYPE mood AS ENUM ('calm', 'upset');
CREATE TABLE students (
    id bigserial PRIMARY KEY, name text NOT NULL, mood mood NOT NULL DEFAULT 'calm', note text,
    seen timestamptz NOT NULL DEFAULT '2026-01-01 08:00+02', score double precision, photo bytea,
    level varchar(10) CHECK (level IN ('low', 'high'))
);
CREATE TABLE visits (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, student_id bigint NOT NULL REFERENCES students ON DELETE CASCADE,
    lasted interval, data jsonb, price numeric(8, 2)
);
CREATE INDEX visits_student ON visits (student_id) WHERE price > 1;
CREATE VIEW expensive AS SELECT s.name, v.price FROM students s JOIN visits v ON v.student_id = s.id WHERE v.price > 5;
CREATE TABLE "Odd Name; --" ("a=b" text, "select" int);
INSERT INTO "Odd Name; --" VALUES ('x''y', 1), (NULL, NULL);
INSERT INTO students (name, note, score, photo, level)
    SELECT '{PATIENT}' || g, repeat(md5(g::text), 4), g / 7.0, decode(md5(g::text), 'hex'),
           CASE g % 2 WHEN 0 THEN 'low' ELSE 'high' END
    FROM generate_series(1, {{rows}}) g;
INSERT INTO visits (student_id, lasted, data, price)
    SELECT g, g * interval '1 minute', jsonb_build_object('n', g), g % 10 FROM generate_series(1, {{rows}}) g;
COMMENT ON TABLE students IS 'who is looked after';
GRANT SELECT ON students TO {APP};
"""


def fill(server: Server, database: str, rows: int = 500) -> None:
    """Two tables with keys, an enum, a view, odd names; rows in each."""
    server.execute(SCHEMA.format(rows=rows), database=database)


def back_up(target: Target, directory: Path, **settings: Any) -> Backup:
    """A published backup, not proved yet."""
    made = dump.create_backup(target, directory=str(directory), run_id=settings.pop("run_id", RUN), **settings)
    return backup_store.read_backup(made["path"])


def small(
    directory: Path,
    database: str,
    moment: datetime,
    /,
    *,
    purpose: str = "manual",
    proved: bool = True,
    level: int | None = None,
    run_id: str = RUN,
    **manifest: Any,
) -> Path:
    """The folder of a backup as the collection publishes it, with next to nothing in it; for hundreds at a time."""
    path = directory / database / backup_store.folder_name(moment, purpose, run_id)
    (path / "dump").mkdir(parents=True, mode=0o700)
    (path / "dump" / "toc.dat").write_bytes(b"PGDMP")
    files = {"dump/toc.dat": {"bytes": 5, "sha256": hashlib.sha256(b"PGDMP").hexdigest()}}
    told = {
        "format": backup_store.MANIFEST_FORMAT, "database": database, "purpose": purpose, "run_id": run_id, "environment": "local",
        "snapshot_time": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "files": files, "bytes": 5,
        "ledger": [{"version": "20260101000000", "state": "applied"}, {"version": "20260102000000", "state": "reverted"}],
        **manifest,
    }  # fmt: skip
    data = json.dumps(told).encode()
    (path / backup_store.MANIFEST).write_bytes(data)
    if proved:
        proof: dict[str, Any] = {
            "manifest_sha256": hashlib.sha256(data).hexdigest(),
            "proved_at": told["snapshot_time"],
        }
        if level is not None:
            proof["level"] = level
        (path / backup_store.PROOF).write_text(json.dumps(proof))
    return path


def prove(target: Target, backup: Backup, **settings: Any) -> dict[str, Any]:
    return restore.prove(target, backup.path, work=restore.Work(RUN), **settings)


def proved(target: Target, directory: Path, **settings: Any) -> Backup:
    """A published and proved backup."""
    backup = back_up(target, directory, **settings)
    prove(target, backup)
    return backup_store.read_backup(backup.path)


def believed(target: Target, directory: Path, **changes: Any) -> Backup:
    """A backup with the proof written by hand, and a manifest that says something else."""
    # Not under the name of one of the same second.
    backup = back_up(target, directory, purpose="believed")
    path = Path(backup.path) / backup_store.MANIFEST
    manifest = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    found = backup_store.read_backup(backup.path)
    proof = {"manifest_sha256": found.manifest_sha256, "proved_at": "now", "restore_seconds": 1}
    return backup_store.write_proof(found, proof)


def stage(target: Target, backup: Backup) -> str:
    """The name of a staged restore."""
    return str(restore.stage(target, backup, work=restore.Work(RUN))["staged"])


def names(server: Server, database: str) -> list[str]:
    """The databases whose name starts with this one's."""
    rows = server.execute("SELECT datname FROM pg_database ORDER BY 1")
    return [name for (name,) in rows if name.startswith(database)]


def largest_file(backup: Backup) -> Path:
    """The dump's largest data file."""
    files = [name for name in backup.manifest["files"] if ".dat" in name]
    return Path(backup.path) / max(files, key=lambda name: backup.manifest["files"][name]["bytes"])


def recompute(backup: Backup, file: Path) -> Backup:
    """Make the manifest say of a file what it is now, as somebody with access to the folder could."""
    path = Path(backup.path) / backup_store.MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    data = file.read_bytes()
    manifest["files"][str(file.relative_to(backup.path))] = {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return backup_store.read_backup(backup.path)


def start_python(code: str, target: Target, **values: Any) -> subprocess.Popen[str]:
    """Run a piece of Python in a process of its own, to be killed; it has `target` and `values`."""
    program = textwrap.dedent(
        """
        import json, os, signal, sys
        from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, dump, restore, swap
        from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
        given = json.loads(sys.argv[1])
        target, values = Target(**given["target"]), given["values"]
        """
    ) + textwrap.dedent(code)
    arguments = json.dumps({"target": vars(target), "values": values})
    return subprocess.Popen(
        [sys.executable, "-c", program, arguments], cwd=ROOT, env={"PYTHONPATH": str(ROOT / "collections")}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
