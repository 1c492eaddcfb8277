# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""No password is on a command line, in an environment, in -vvv output, in a log, a report or a temporary file, however a run ends."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.secrets_watch import Watch
from support.server import MIGRATOR
from support.tree import TestTree

V1, V2 = "20260101000001", "20260101000002"
WEBHOOK = "wEbHoOk-SeNtInEl-0a1b2c3d"
PATIENT = "Zuleika-Dobson-SeNtInEl"


def passwords(server: Any) -> list[str]:
    return [line.rsplit(":", 1)[1] for line in server.passfile.read_text(encoding="ascii").splitlines()]


@pytest.fixture
def site(playbook: Any, server: Any, database: str, tmp_path: Path) -> Any:
    """A version that goes, and on request one that fails on a row of a patient; a webhook whose address is a secret, and nobody there."""
    tree = TestTree(tmp_path / "own sql")
    tree.add_sql(V1, "create_people", "CREATE TABLE people (name text);\n", "DROP TABLE people;\n")
    playbook.tree = tree
    playbook.variables.update(
        pgops_sql=str(tree.folder),
        pgops_phases=["plan", "backup", "prove", "apply", "analyze", "verify"],
        pgops_webhook=f"http://127.0.0.1:9/{WEBHOOK}",
        backup_jobs=1,
    )
    server.execute(f"CREATE TABLE patients (name text); INSERT INTO patients VALUES ('{PATIENT}')", database=database)
    server.execute("GRANT SELECT ON patients TO white_cross_owner", database=database)
    return playbook


def fails(site: Any) -> None:
    site.tree.add_sql(
        V2, "break", "CREATE TABLE broken (name text CHECK (length(name) < 3));\nINSERT INTO broken SELECT name FROM patients;\n",
        "DROP TABLE broken;\n",
    )  # fmt: skip


def watched(site: Any, server: Any, name: str, **given: Any) -> Any:
    """Run it with -vvv; the secrets are looked for meanwhile and after it, where the test has not put them itself."""
    limit = given.pop("limit", "local")
    secrets = [*passwords(server), WEBHOOK]
    temporary = [site.folder / "tmp", Path.home() / ".ansible", Path.home() / ".ansible_async", site.state]
    with Watch(secrets, temporary) as watch:
        done = site(name, "-vvv", limit=limit, **given)
    assert watch.looked > 3
    for folder in (*temporary, site.backups):
        watch.see_folder(folder)
    for result in site.folder.glob("result-*.json"):
        watch.see(result)
    assert list(watch.found) == []
    assert [secret for secret in secrets if secret in done.output] == []
    told = [
        PATIENT in done.output,
        *(PATIENT in path.read_text(errors="replace") for path in site.state.rglob("*") if path.is_file()),
    ]
    assert not any(told)
    return done


def test_the_watch_sees_what_it_looks_for(tmp_path: Path) -> None:
    secret = "SeNtInEl-of-this-test"
    sleep = [sys.executable, "-c", "import time; time.sleep(120)"]
    with Watch([secret], [tmp_path]) as watch:
        (tmp_path / "left").write_text(secret, encoding="ascii")
        for kind, words, environment in (("cmdline", [secret], {}), ("environ", [], {"SECRET": secret})):
            with subprocess.Popen([*sleep, *words], env=environment) as process:
                # The watch looks at every process of the machine in turn.
                deadline = time.monotonic() + 60
                while f"/{kind}" not in " ".join(watch.found) and time.monotonic() < deadline:
                    time.sleep(0.05)
                process.kill()
    kinds = {Path(entry.split(" ", 1)[0]).name for entry in watch.found}
    assert kinds == {"cmdline", "environ", "left"}


def test_a_migration_shows_no_secret_and_neither_does_its_failure(site: Any, server: Any) -> None:
    done = watched(site, server, "migrate.yml")
    assert done.rc == 0, done.output
    fails(site)
    failed = watched(site, server, "migrate.yml")
    assert failed.rc == 2
    assert failed.json["error"]["sqlstate"] == "23514"
    kept = server.execute("SELECT string_agg(detail::text, '') FROM pgops.audit", database=site.database)[0][0]
    assert not any(secret in kept for secret in [*passwords(server), WEBHOOK, PATIENT])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "given", "rc"),
    [
        ("status.yml", {}, 0),
        ("inspect.yml", {"inspect_query": "tables"}, 0),
        ("verify.yml", {"verify_compare_schema": False}, None),
        ("backup.yml", {}, 0),
        ("prove.yml", {}, None),
        ("backup_list.yml", {}, 0),
        ("export.yml", {"export_directory": "{{ backup_directory }}/../exports"}, 0),
        ("restore_drill.yml", {}, None),
        ("rollback.yml", {"rollback_confirm": "{{ pgops_database }}"}, None),
        ("audit_export.yml", {"audit_export_directory": "{{ backup_directory }}/../audit"}, None),
        ("audit_protect.yml", {"audit_owner": "no_such_owner_{{ pgops_database }}"}, 0),
        ("stop.yml", {}, None),
        ("maintenance.yml", {"maintenance_rows_least": 1}, 0),
        ("lint.yml", {"limit": None}, 0),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_no_playbook_shows_a_secret(site: Any, server: Any, name: str, given: dict[str, Any], rc: int | None) -> None:
    if name in ("rollback.yml", "audit_export.yml", "audit_protect.yml", "prove.yml", "restore_drill.yml"):
        assert site("migrate.yml").rc == 0
    done = watched(site, server, name, **given)
    assert rc in (None, done.rc), done.output


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    [
        {"pgops_port": 1},
        {"pgops_database": "no_such_database"},
        {"pgops_user": "no_such_role"},
        {"pgops_sslmode": "require"},
        {"pgops_bindir": "/nowhere"},
        {"backup_directory": "/proc/nowhere"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_no_failure_shows_a_secret(site: Any, server: Any, wrong: dict[str, Any]) -> None:
    done = watched(site, server, "migrate.yml", **wrong)
    assert done.rc == 2


@pytest.mark.slow
def test_a_wrong_password_is_not_repeated(site: Any, server: Any, tmp_path: Path) -> None:
    wrong = tmp_path / "passfile"
    wrong.write_text(f"*:*:*:{MIGRATOR}:WrOnG-SeNtInEl-1234\n", encoding="ascii")
    wrong.chmod(0o600)
    with Watch(["WrOnG-SeNtInEl-1234"], [site.folder / "tmp"]) as watch:
        done = site("status.yml", "-vvv", pgops_passfile=str(wrong))
    assert done.rc == 2
    assert list(watch.found) == []
    assert "WrOnG-SeNtInEl-1234" not in done.output + json.dumps(done.json)
