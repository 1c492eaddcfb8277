# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A drill of a recovery to a restore point or a moment: in a cluster beside the live one, evidence of it, nothing left behind."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import markupsafe
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import NAMES
from ansible_collections.whitecross.pgops.plugins.plugin_utils import drill_evidence
from support.physical import DEBIAN_12, DEBIAN_13, PROOFS, REPOSITORY, STANZA, PhysicalCluster
from support.site import Playbook

RUN = {
    "id": "20261122T120000Z-0a1b2c", "environment": "staging", "who": "ada", "ops_host": "ops", "command": "ansible-playbook restore_drill.yml",
}  # fmt: skip
CLUSTERS = [(15, DEBIAN_12), (16, DEBIAN_13), (17, DEBIAN_13), (18, DEBIAN_13)]


def begun(major: int, command: str) -> PhysicalCluster:
    made = PhysicalCluster(major, command)
    made.server.execute("CREATE TABLE students (id int PRIMARY KEY, name text)", database=made.database)
    insert(made, 1, 1000)
    assert made.back_up()["type"] == "full"
    return made


def insert(cluster: PhysicalCluster, first: int, last: int) -> None:
    cluster.server.execute(f"INSERT INTO students SELECT generate_series({first}, {last})", database=cluster.database)


def drill(cluster: PhysicalCluster, to: str, **asked: Any) -> Any:
    """The evidence of the database, or the refusal."""
    answer = cluster.run(
        """
        from ansible_collections.whitecross.pgops.plugins.module_utils import physical_drill
        with physical_backup.session(target, run_id) as (conn, layout):
            print(json.dumps(physical_drill.drill(tool, layout, conn, targets, values["to"],
                physical_drill.Asked(**values["asked"]), run_id=run_id, seconds=60, application_name="pgops drill")))
        """,
        to=to,
        asked=asked,
    )
    return answer.get(cluster.database, answer)


@pytest.fixture(scope="module")
def cluster() -> Iterator[PhysicalCluster]:
    made = begun(15, DEBIAN_12)
    yield made
    made.remove()


@pytest.mark.container
@pytest.mark.slow
@pytest.mark.parametrize(("major", "command"), CLUSTERS, ids=[f"pg{major}" for major, _ in CLUSTERS])
def test_it_recovers_to_the_rows_of_a_restore_point_and_leaves_nothing(major: int, command: str) -> None:
    cluster = begun(major, command)
    try:
        cluster.mark("before_it")
        insert(cluster, 1001, 1500)
        beside = cluster.beside()
        found = drill(cluster, "before_it")
        assert (found["verdict"], found["error"]) == ("passed", None)
        assert (found["tables"], found["rows"]) == (1, 1000), "not those that came after the restore point"
        assert [(entry["level"], entry["ok"]) for entry in found["levels"]] == [(0, True), (1, True), (2, True)]
        assert (found["level"], found["level_required"]) == (2, 2)
        assert found["recovered_to"]["target"] == "restore point before_it" and found["recovered_to"]["lsn"]
        assert found["database_bytes"] > 0 and found["ready_seconds"] > 0
        assert cluster.beside() == beside
        assert cluster.server.execute("SELECT count(*) FROM students", database=cluster.database) == [(1500,)]
        page = drill_evidence.page(drill_evidence.document(RUN, "db-1", cluster.database, found))
        assert "recovered to</dt><dd>restore point before_it" in page
        assert all(str(markupsafe.escape(name)) in page for name in NAMES)
    finally:
        cluster.remove()


@pytest.mark.container
@pytest.mark.slow
def test_where_it_was_recorded_what_the_restore_point_holds_all_of_it_is_compared(cluster: PhysicalCluster) -> None:
    cluster.run(
        """
        from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
        with physical_backup.session(target, run_id) as (conn, layout):
            moment = recorded_moment.record(conn, targets, "hashed", seconds=60, workers=2, application_name="pgops test",
                progress=Progress(None), control=Control(None))
        print(json.dumps(recorded_moment.keep(values["directory"], "main", moment)))
        """,
        directory=PROOFS,
    )
    # The same number of rows, and another one among them: this is not what the restore point holds.
    cluster.server.execute("UPDATE students SET name = 'later' WHERE id = 1", database=cluster.database)
    found = drill(cluster, "hashed", directory=PROOFS)
    assert (found["verdict"], found["level"], found["level_required"]) == ("passed", 5, 4), found
    assert found["reservations"] == []
    # With the hash of another row in the record the drill fails.
    alter = (
        "import gzip, json; p = '/var/backups/pgops/physical-main/moments/hashed.json.gz'; m = json.load(gzip.open(p)); "
        "m['databases']['white_cross']['tables']['public.students']['hash'] = '0' * 16; gzip.open(p, 'wt').write(json.dumps(m))"
    )
    cluster.shell(f"python3 -c {shlex.quote(alter)}")
    failed = drill(cluster, "hashed", directory=PROOFS)
    assert (failed["verdict"], failed["level"]) == ("failed", 3)
    assert "public.students: hash expected 0000000000000000" in failed["error"]


@pytest.mark.container
@pytest.mark.slow
def test_a_moment_is_drilled_and_what_is_none_is_refused_before_the_start(cluster: PhysicalCluster) -> None:
    cluster.mark("known")
    moment = datetime.now(UTC).isoformat()
    time.sleep(1)  # the recovery ends at the first commit behind the moment
    insert(cluster, 5001, 5010)
    beside = cluster.beside()
    found = drill(cluster, moment)
    assert (found["verdict"], found["rows"]) == ("passed", 1000)
    unknown = drill(cluster, "never_made")
    assert "There is no restore point never_made" in unknown["refused"] and "known" in unknown["hint"]
    assert "is in the future" in drill(cluster, "2999-01-01T00:00:00+00:00")["refused"]
    assert "has no offset" in drill(cluster, "2026-01-01T00:00:00")["refused"]
    assert "is no name of a restore point" in drill(cluster, "x'; DROP")["refused"]
    assert cluster.beside() == beside


@pytest.mark.container
@pytest.mark.slow
def test_one_that_takes_too_long_or_is_damaged_fails_with_evidence_and_leaves_nothing(cluster: PhysicalCluster) -> None:
    cluster.mark("late")
    beside = cluster.beside()
    late = drill(cluster, "late", rto_seconds=0.01)
    assert late["verdict"] == "failed" and "took too long" in late["error"]
    assert late["level"] == 1
    file = cluster.shell(f"find {REPOSITORY}/backup/{STANZA}/*F/pg_data/base -size +20k | sort | head -1")
    flip = (
        f"import sys; p = {file!r}; b = bytearray(open(p, 'rb').read()); b[len(b) // 2] ^= 1; open(p, 'r+b').write(b)"
    )
    cluster.shell(f"cp -p {file} /tmp/whole && python3 -c {shlex.quote(flip)}")
    try:
        damaged = drill(cluster, "late")
    finally:
        cluster.shell(f"cp -p /tmp/whole {file}")
    assert damaged["verdict"] == "failed"
    assert [entry["ok"] for entry in damaged["levels"]] == [False]
    assert cluster.beside() == beside
    json.dumps(damaged)


@pytest.mark.container
@pytest.mark.slow
def test_what_a_killed_drill_left_is_removed_by_the_next(cluster: PhysicalCluster) -> None:
    cluster.mark("killed_there")
    beside = cluster.beside()
    killed = cluster.run(
        """
        from ansible_collections.whitecross.pgops.plugins.module_utils import physical_drill
        physical_drill.replay = lambda *given, **named: os.kill(os.getpid(), 9)
        with physical_backup.session(target, run_id) as (conn, layout):
            physical_drill.drill(tool, layout, conn, targets, "killed_there", run_id=run_id, seconds=60, application_name="pgops drill")
        """,
        check=False,
    )
    assert killed.returncode != 0
    assert len(cluster.beside()) == len(beside) + 1, "the files that were restored so far"
    assert drill(cluster, "killed_there")["verdict"] == "passed"
    assert cluster.beside() == beside


def test_the_playbook_refuses_a_backup_that_is_named_beside_a_moment(playbook: Playbook) -> None:
    result = playbook(
        "restore_drill.yml",
        backup_engine="physical",
        drill_point_in_time="before_it",
        drill_backup=str(playbook.backups),
    )
    assert result.rc == 2, result.output
    assert "drill_backup names a logical backup and drill_point_in_time a moment of the physical ones" in result.output
    assert not list(playbook.state.rglob("*.drill.*"))


def test_the_playbook_drills_a_moment_by_pgbackrest_and_says_what_it_lacks(playbook: Playbook) -> None:
    """This server archives nothing: the way through guard, role, action and module ends where pgBackRest is asked."""
    result = playbook(
        "restore_drill.yml",
        backup_engine="physical",
        drill_point_in_time="before_it",
        backup_pgbackrest="/nowhere/pgbackrest",
    )
    assert result.rc == 2, result.output
    assert result.json["error"]["phase"] == "drill"
    assert "pgBackRest" in result.json["error"]["message"] or "pgbackrest" in result.json["error"]["message"]
    assert "Traceback" not in result.output
