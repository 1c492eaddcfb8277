# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An extension that is behind its package: a restore brings it back as it was, or says that this server makes another."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, restore_database, restore_plan
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work
from psycopg2 import sql
from support.backups import RUN, back_up, fill, prove, proved, stage
from support.keys import age_key
from support.server import APP, MIGRATOR, OWNER, RESTORE

# What needs another comes first by its name, and schemas are of all that may stand in a list of contents.
BEHIND = f"""
CREATE SCHEMA "of b" AUTHORIZATION {OWNER};
COMMENT ON SCHEMA "of b" IS 'SCHEMA - of a';
GRANT USAGE ON SCHEMA "of b" TO {APP};
CREATE SCHEMA "of a" AUTHORIZATION {OWNER};
CREATE EXTENSION cube WITH SCHEMA "of b" VERSION '1.4';
CREATE EXTENSION earthdistance WITH SCHEMA "of a" VERSION '1.1';
CREATE EXTENSION btree_gist;
COMMENT ON EXTENSION cube IS 'an old one';
SET ROLE {OWNER};
CREATE TABLE "of b".boxes (id integer PRIMARY KEY, box "of b".cube);
CREATE INDEX boxes_box ON "of b".boxes USING gist (box);
INSERT INTO "of b".boxes SELECT n, "of b".cube(n, n + 1) FROM generate_series(1, 20) n;
"""
VERSIONS = "SELECT extname, extversion FROM pg_extension WHERE extname IN ('cube', 'earthdistance') ORDER BY 1"


@pytest.fixture
def behind(server: Any, database: str) -> str:
    fill(server, database, 20)
    server.execute(BEHIND, database=database)
    return database


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_a_staged_restore_has_the_versions_schemas_and_rights_of_the_backup(
    server: Any, target: Any, behind: str, tmp_path: Path
) -> None:
    backup = proved(target, tmp_path)
    assert backup.proof_level == 4
    assert backup.proof is not None
    assert backup.proof["reservations"] == []
    staged = stage(target, backup)
    assert server.execute(VERSIONS, database=staged) == [("cube", "1.4"), ("earthdistance", "1.1")]


def test_a_role_that_is_no_superuser_proves_it_too(server: Any, target: Any, behind: str, tmp_path: Path) -> None:
    server.execute("DROP EXTENSION earthdistance", database=behind)  # not trusted
    backup = back_up(target, tmp_path)
    server.execute(f"ALTER ROLE {MIGRATOR} CREATEDB")
    try:
        proof = prove(target.with_(restore_user=MIGRATOR), backup)
    finally:
        server.execute(f"ALTER ROLE {MIGRATOR} NOCREATEDB")
    assert proof["level"] == 4
    assert not [text for text in proof["reservations"] if "version" in text]


def test_an_encrypted_one_too(target: Any, behind: str, tmp_path: Path) -> None:
    key = age_key(tmp_path)
    backup = back_up(target, tmp_path / "backups", encrypt_to=[key.public])
    assert prove(target, backup, identity=key.identity)["reservations"] == []


class Package:
    """An extension of a package of its own, which is upgraded or spoiled."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self._files = folder / "extension"
        self._files.mkdir()
        self.offer("1.0", "1.0")

    def offer(
        self, default: str, *versions: str, script: str = "CREATE FUNCTION nurse() RETURNS int LANGUAGE sql RETURN 1;"
    ) -> None:
        for file in self._files.iterdir():
            file.unlink()
        (self._files / "ward.control").write_text(f"default_version = '{default}'\n", encoding="ascii")
        for version in versions:
            (self._files / f"ward--{version}.sql").write_text(script, encoding="ascii")


@pytest.fixture
def package(server: Any, database: str) -> Iterator[Package]:
    """PostgreSQL 18 finds it in a place that is named to the role."""
    folder = Path(tempfile.mkdtemp(prefix="pgops-test-"))
    folder.chmod(0o755)
    made = Package(folder)
    path = sql.Literal(f"{folder}:$system")
    server.execute(sql.SQL("ALTER ROLE {} SET extension_control_path = {}").format(sql.Identifier(RESTORE), path))
    fill(server, database, 20)
    server.execute(
        sql.SQL("SET extension_control_path = {}; CREATE EXTENSION ward VERSION '1.0'").format(path), database=database
    )
    yield made
    server.execute(f"ALTER ROLE {RESTORE} RESET extension_control_path")
    shutil.rmtree(folder)


@pytest.mark.parametrize("way", ["not offered", "not made"])
def test_a_version_that_the_server_does_not_make_is_a_reservation_and_takes_no_proof(
    server: Any, target: Any, database: str, package: Package, tmp_path: Path, way: str
) -> None:
    backup = proved(target, tmp_path)
    assert backup.proof is not None
    assert backup.proof["reservations"] == []
    if way == "not offered":
        package.offer("1.1", "1.1")
    else:
        # As a script does whose library has lost the function.
        package.offer("1.1", "1.0", script="SELECT 1 / 0")
        (package.path / "extension" / "ward--1.1.sql").write_text("SELECT 1", encoding="ascii")
    told = (
        "extension ward has version 1.1 in the restore and 1.0 in the backup, which this server does not make; "
        f"ALTER EXTENSION ward UPDATE in {database}, then the next backup has what a restore makes"
    )
    proof = prove(target, backup)
    assert (proof["level"], proof["reservations"]) == (4, [told])
    backup = backup_store.read_backup(backup.path)
    assert backup.proof_level == 4
    staged = stage(target, backup)
    assert server.execute("SELECT extversion FROM pg_extension WHERE extname = 'ward'", database=staged) == [("1.1",)]
    beside = restore_database.run(target, restore_plan.Asked(backup.path), Work(RUN))
    assert beside["reservations"] == [told]
