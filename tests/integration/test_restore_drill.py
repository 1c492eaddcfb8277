# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore drill: the whole ladder without a question, evidence whatever came of it, and nothing left behind.

Beside it who refuses to go on with a backup that is not proved as far as its environment asks for.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, drill, restore
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import BACKUP, PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import proof_levels
from support.backups import PATIENT, RUN, back_up, fill, largest_file, names, proved, start_python
from support.server import RESTORE, Server
from support.tree import TestTree

VERSION = "20260101000001"


@pytest.fixture
def filled(server: Any, database: str) -> str:
    fill(server, database)
    return database


@pytest.fixture
def site(playbook: Any, tmp_path: Path) -> Any:
    """A tree of one small version and one query of the application."""
    tree = TestTree(tmp_path / "own sql")
    tree.add_sql(VERSION, "create_people", "CREATE TABLE people (id int PRIMARY KEY);\n", "DROP TABLE people;\n")
    checks = tree.folder / "checks"
    checks.mkdir()
    (checks / "people.yml").write_text(
        f"title: nobody has no id\nversions: ['{VERSION}']\nquery: SELECT id FROM people WHERE id IS NULL\nexpect:\n  rows: 0\n",
        encoding="utf-8",
    )
    playbook.variables["pgops_sql"] = str(tree.folder)
    return playbook


def drilled(target: Any, backup: Any, **settings: Any) -> dict[str, Any]:
    return drill.drill(target, backup, work=restore.Work(RUN), least=settings.pop("least", 5), **settings)


def evidence_of(result: Any, database: str) -> tuple[dict[str, Any], str]:
    """The evidence as JSON and as a page."""
    page = Path(result.json["hosts"]["local-1"][database]["drill"]["evidence"])
    for file in (page, page.with_suffix(".json")):
        assert file.stat().st_mode & 0o777 == 0o600
    return json.loads(page.with_suffix(".json").read_text(encoding="utf-8")), page.read_text(encoding="utf-8")


# -- the playbook -----------------------------------------------------------------------------------------------------------


def test_a_drill_takes_the_newest_backup_asks_nothing_and_leaves_evidence_and_nothing_else(
    site: Any, server: Any, target: Any, filled: str
) -> None:
    back_up(target, site.backups)
    newest = back_up(target, site.backups, run_id="20261121T130000Z-0a1b2c")
    done = site("restore_drill.yml", backup_rto_seconds=3600)
    assert done.rc == 0, done.output
    assert names(server, filled) == [filled]
    evidence, page = evidence_of(done, filled)
    assert evidence["backup"] == newest.path
    assert (evidence["verdict"], evidence["level"], evidence["rto_seconds"]) == ("passed", 5, 3600)
    assert [entry["level"] for entry in evidence["levels"]] == [0, 1, 2, 3, 4, 5, 6]
    assert "0 queries of sql/checks pass, 1 wait for later versions" in evidence["levels"][5]["detail"]
    assert "the cluster that it comes from" in evidence["levels"][6]["detail"]
    assert {"run_id", "who", "ops_host", "environment", "host", "began", "ready_seconds", "history"} <= set(evidence)
    assert f"Restore drill of {filled}" in page
    assert "content hashes equal" in page
    assert PATIENT not in page + json.dumps(evidence) + done.output
    assert f"evidence: {Path(done.json['hosts']['local-1'][filled]['drill']['evidence'])}" in done.stdout
    assert re.search(rf"{filled}: a restore takes about \d+\.\d\d s, measured once", done.stdout)
    assert backup_store.read_backup(newest.path).proof_level == 5


def test_a_drill_over_the_rto_ends_with_an_error_and_evidence(site: Any, server: Any, target: Any, filled: str) -> None:
    backup = proved(target, site.backups)
    done = site("restore_drill.yml", backup_rto_seconds=0.001, drill_backup=backup.path)
    assert done.rc == 2, done.output
    assert "took too long: ready after" in done.json["error"]["message"]
    assert "backup_rto_seconds is 0.001" in done.json["error"]["message"]
    evidence, page = evidence_of(done, filled)
    assert evidence["verdict"] == "failed"
    assert [entry["ok"] for entry in evidence["levels"]] == [True] * 6 + [False]
    assert "took too long" in page
    assert names(server, filled) == [filled]


@pytest.mark.slow
def test_check_mode_says_what_it_would_drill_and_writes_nothing(
    site: Any, server: Any, target: Any, filled: str
) -> None:
    backup = back_up(target, site.backups)
    done = site("restore_drill.yml", "--check")
    assert done.rc == 0, done.output
    assert f"would restore {backup.path} on" in done.stdout
    assert "how long a restore takes was never measured" in done.stdout
    assert not site.state.exists()
    assert backup_store.read_backup(backup.path).proof is None
    assert sorted(path.name for path in Path(backup.path).parent.iterdir()) == [".lock", Path(backup.path).name]


@pytest.mark.slow
def test_production_drills_on_another_cluster_or_says_why_not(site: Any, target: Any, filled: str) -> None:
    back_up(target, site.backups)
    for looks in ((), ("--check",)):
        refused = site("restore_drill.yml", *looks, limit="production")
        assert refused.rc == 2, looks
        assert "the production cluster itself" in refused.json["error"]["message"]
    done = site("restore_drill.yml", limit="production", backup_scratch_reason="a copy for the test")
    assert done.rc == 0, done.output


# -- the levels that an environment needs -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_migration_refuses_a_climb_that_ends_below_what_its_environment_needs(
    site: Any, server: Any, target: Any, filled: str
) -> None:
    site.variables["pgops_phases"] = ["plan", "backup", "prove", "apply"]
    site.variables["backup_level_required"] = 5
    done = site("migrate.yml")
    assert done.rc == 2
    message = done.json["error"]["message"]
    assert (
        "backup_prove_level is 4, and local needs a backup that is proved to level 5 (backup_level_required)" in message
    )
    assert done.json["error"]["next"] == ["ansible-playbook migrate.yml -l local -e '{\"backup_prove_level\": 5}'"]
    assert server.execute("SELECT to_regclass('people')::text", database=filled) == [(None,)]
    done = site("migrate.yml", backup_prove_level=5)
    assert done.rc == 0, done.output
    found = done.json["hosts"]["local-1"][filled]
    assert found["prove"]["level"] == 5
    recorded = server.execute("SELECT backup -> 'level' FROM pgops.run", database=filled)
    assert recorded == [(5,)]


def test_a_rollback_refuses_a_backup_below_what_its_environment_needs_and_tells_the_command_that_climbs(
    site: Any, server: Any, target: Any, filled: str
) -> None:
    backup = proved(target, site.backups)
    server.execute("DELETE FROM visits", database=filled)
    asked = {"rollback_strategy": "restore", "rollback_backup": backup.path, "rollback_confirm": filled}
    site.variables["backup_level_required"] = 5
    done = site("rollback.yml", **asked)
    assert done.rc == 2
    assert "is proved to level 4 (content hashes equal), and level 5" in done.json["error"]["message"]
    climb, again = done.json["error"]["next"]
    assert "ansible-playbook prove.yml -l local" in climb
    assert backup.path in climb
    assert '"backup_prove_level": 5' in climb
    assert again.startswith("ansible-playbook rollback.yml")
    assert server.execute("SELECT count(*) FROM visits", database=filled) == [(0,)]
    assert names(server, filled) == [filled]


@pytest.mark.slow
def test_the_command_that_climbs_lets_the_rollback_go_on_and_it_says_how_long_it_takes(
    site: Any, server: Any, target: Any, filled: str
) -> None:
    backup = proved(target, site.backups)
    server.execute("DELETE FROM visits", database=filled)
    site.variables.update(backup_level_required=5, pgops_phases=["plan", "apply"])
    assert site("prove.yml", backup_path=backup.path, backup_prove_level=5).rc == 0
    done = site(
        "rollback.yml", rollback_strategy="restore", rollback_backup=backup.path, rollback_confirm=filled
    )  # fmt: skip
    assert done.rc == 0, done.output
    assert "a restore takes about" in done.stdout
    assert "measured 2 times" in done.stdout
    assert server.execute("SELECT count(*) FROM visits", database=filled) == [(500,)]


def test_production_needs_a_restore_that_was_compared() -> None:
    assert proof_levels.required(None, "local", production=False) == 4
    assert proof_levels.required("2", "local", production=False) == 2
    assert proof_levels.required(5, "production", production=True) == 5
    with pytest.raises(AnsibleActionFail, match=r"backup_level_required is 3 in production.* level 4 .* at least"):
        proof_levels.required(3, "production", production=True)


def test_a_level_that_there_is_not_is_refused_before_anything_is_reached(site: Any) -> None:
    done = site("prove.yml", backup_prove_level=7)
    assert done.rc == 2
    assert "backup_prove_level is 7, and it takes one of 1, 2, 3, 4, 5, 6" in done.json["error"]["message"]


# -- what it refuses --------------------------------------------------------------------------------------------------------


def test_a_point_in_time_is_refused_for_a_logical_backup(target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    with pytest.raises(PgopsError, match="holds the moment of its snapshot") as caught:
        drill.refuse_point_in_time(backup, "2026-01-01 00:00")
    assert "Leave drill_point_in_time out" in str(caught.value.hint)
    drill.refuse_point_in_time(backup, None)
    physical = backup_store.Backup(backup.path, {**backup.manifest, "kind": "physical"}, "", None)
    with pytest.raises(PgopsError, match="is a physical backup, and this drill restores logical ones"):
        drill.refuse_point_in_time(physical, None)


def test_there_being_no_backup_is_told(target: Any, database: str, tmp_path: Path) -> None:
    with pytest.raises(PgopsError, match=f"There is no backup of {database} in") as caught:
        drill.choose(target, str(tmp_path), None, application_name="test")
    assert "backup.yml" in str(caught.value.hint)


@pytest.mark.few(1)
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_source_is_refused_as_target_under_any_host_name(
    server: Any, target: Any, filled: str, tmp_path: Path, host: str
) -> None:
    evidence = drilled(target.with_(scratch_host=host), back_up(target, tmp_path), scratch_name=filled)
    assert evidence["verdict"] == "failed"
    assert "the very database that the backup came from; nothing was written" in evidence["error"]
    assert server.execute("SELECT count(*) FROM students", database=filled) == [(500,)]
    assert names(server, filled) == [filled]


def test_a_damaged_backup_fails_the_drill_on_the_level_that_sees_it(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = back_up(target, tmp_path)
    file = largest_file(backup)
    file.write_bytes(file.read_bytes()[:-10])
    evidence = drilled(target, backup)
    assert (evidence["verdict"], evidence["level"]) == ("failed", 0)
    assert [(entry["level"], entry["ok"]) for entry in evidence["levels"]] == [(0, False)]
    assert file.name in evidence["error"]
    assert evidence["unusable"] == BACKUP, "no command names it again"
    assert names(server, filled) == [filled]


# -- elsewhere ----------------------------------------------------------------------------------------------------------------


def elsewhere(server: Server, other: Server, target: Any, folder: Path) -> Any:
    """The target with another cluster for throw-away restores: each has passwords of its own for the same role."""
    passfile = folder / "passfile"
    lines = [
        line.replace("*:*", f"*:{one.port}") + "\n"
        for one in (server, other)
        for line in Path(one.passfile).read_text(encoding="ascii").splitlines()
        if one is server or f":{RESTORE}:" in line
    ]
    passfile.write_text("".join(lines), encoding="ascii")
    passfile.chmod(0o600)
    return target.with_(
        passfile=str(passfile), scratch_host=other.host, scratch_port=str(other.port), bindir=str(other.bindir)
    )


@pytest.mark.slow
def test_another_cluster_and_the_rto_are_the_sixth_level(
    server: Any, own_server: Server, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = back_up(target, tmp_path / "backups")
    there = elsewhere(server, own_server, target, tmp_path)
    evidence = drilled(there, backup, least=6, rto_seconds=3600, other_cluster_only=True)
    assert (evidence["verdict"], evidence["level"], evidence["same_cluster"]) == ("passed", 6, False), evidence["error"]
    assert "on another cluster, backup_rto_seconds is 3600" in evidence["levels"][6]["detail"]
    assert evidence["forecast"]["host"] == f"{own_server.host}:{own_server.port}"
    assert backup_store.read_backup(backup.path).proof_level == 6
    assert names(own_server, filled) == []
    late = drilled(there, backup_store.read_backup(backup.path), rto_seconds=0.001)
    assert late["verdict"] == "failed"
    assert backup_store.read_backup(backup.path).proof_level == 5


@pytest.mark.majors(15, 16, 17, slow=(15,))
def test_a_drill_climbs_to_the_fifth_level_on_each_major(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    evidence = drilled(target, back_up(target, tmp_path))
    assert (evidence["verdict"], evidence["level"]) == ("passed", 5), evidence["error"]


# -- ends -----------------------------------------------------------------------------------------------------------------------

KILLED = """
from ansible_collections.whitecross.pgops.plugins.module_utils import drill
class Slow:
    def emit(self, text, **more):
        if text == values["at"]:
            print("there", flush=True)
            signal.pause()
drill.drill(target, backup_store.read_backup(values["path"]), work=restore.Work("killed", progress=Slow()), least=5)
"""


@pytest.mark.few(1)
@pytest.mark.parametrize("at", ["checking pages (amcheck)", "comparing the catalog"])
def test_what_a_killed_drill_left_is_removed_by_the_next(
    server: Any, target: Any, filled: str, tmp_path: Path, at: str
) -> None:
    backup = back_up(target, tmp_path)
    killed = start_python(KILLED, target, path=backup.path, at=at)
    assert killed.stdout is not None
    killed.stdout.readline()
    killed.kill()
    killed.communicate()
    assert len(names(server, filled)) == 2
    server.execute(
        f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name LIKE 'pgops killed%' "
        f"OR datname LIKE '{filled}_%'"
    )
    assert drilled(target, backup)["verdict"] == "passed"
    assert names(server, filled) == [filled]
