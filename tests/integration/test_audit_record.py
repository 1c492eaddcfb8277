# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""At the end of each run its last row stands in the audit, and the head on the ops host, where a cut tail is seen."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.action import audit_record
from ansible_collections.whitecross.pgops.plugins.action.audit_record import ActionModule
from ansible_collections.whitecross.pgops.plugins.module_utils import audit_entry, audit_verifier, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.plugin_utils import audit_anchor
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal
from support.actions import action, variables
from support.audit import Audited, Checked, signing_key, verifier
from support.engine import rows, target_of, wait_for
from support.module import call
from support.server import OWNER
from support.tree import TestTree

V1, V2 = "20260101000001", "20260101000002"
RUN = "20260101T000000Z-000001"


@pytest.fixture
def site(playbook: Any, tmp_path: Path) -> Any:
    """One version that touches PHI; its backup is not this test's business."""
    tree = TestTree(tmp_path / "own sql")
    tree.add_sql(
        V1, "create_people", "CREATE TABLE people (id int PRIMARY KEY, name text);\nCOMMENT ON COLUMN people.name IS 'PHI: name';\n"
        "CREATE INDEX people_name ON people (name);\nCOMMENT ON INDEX people_name IS 'PHI: search';\n",
        "DROP TABLE people;\n", phi=True,
    )  # fmt: skip
    playbook.variables["pgops_sql"] = str(tree.folder)
    playbook.variables["pgops_phases"] = ["plan", "apply"]
    return playbook


def place(site: Any) -> audit_anchor.Place:
    return audit_anchor.Place.of(site.state, "local", "local-1", site.database)


def anchors(site: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in place(site).anchors.read_text(encoding="utf-8").splitlines()]


def test_a_run_ends_in_the_audit_and_its_head_outside_and_a_cut_tail_is_shouted(
    site: Any, server: Any, target: Any, tmp_path: Path
) -> None:
    key, signers = signing_key(tmp_path / "auditor", "ops@example.org")
    taken = tmp_path / "taken"
    site.variables.update(
        audit_anchor_key=str(key), audit_anchor_command=["sh", "-c", f"cat >> '{taken}'"],
        audit_justification="add people", audit_ticket="WC-7", audit_reviewer="Grace Murray",
    )  # fmt: skip
    done = site("migrate.yml")
    assert done.rc == 0, done.output
    (found,) = rows(target, "SELECT run_id, detail FROM pgops.audit WHERE event = 'run_ended'")
    told = found["detail"]
    assert found["run_id"] == done.json["run_id"]
    assert {name: told[name] for name in ("environment", "host", "database", "playbook", "status", "justification", "ticket")} == {
        "environment": "local", "host": "local-1", "database": site.database, "playbook": "migrate", "status": "complete",
        "justification": "add people", "ticket": "WC-7",
    }  # fmt: skip
    assert told["executor"]
    assert (told["service_account"], told["phi_impact"]) == ("white_cross_migrator", True)
    assert told["phi_fields"] == {"public.people": ["name"]}
    assert told["phi_access"] == {"public.people": {"row_security": False, "may_read": ["white_cross_owner"]}}
    assert told["phi_searches"] == {
        "indexes": ["public.people_name"], "logged_by": None, "not_logged": ["public.people_name"], "exceptions": [],
    }  # fmt: skip
    assert told["retention"] == {"compared": False, "fewer": []}
    assert [step["kind"] for step in told["migrations"][0]["transformations"]] == ["sql"]
    assert [(item["version"], item["status"], len(item["checksum"])) for item in told["migrations"]] == [
        (V1, "applied", 64)
    ]
    assert told["execution_log"]["sign_off"]["reviewer"]["name"] == "Grace Murray"
    (anchor,) = anchors(site)
    assert (anchor["run_id"], anchor["result"], anchor["hash"]) == (
        done.json["run_id"], "succeeded", rows(target, "SELECT hash FROM pgops.audit ORDER BY seq DESC LIMIT 1")[0]["hash"]
    )  # fmt: skip
    assert json.loads(taken.read_text(encoding="utf-8")) == anchor
    # Nothing to do: nothing is written into the database, and the head is anchored again.
    again = site("migrate.yml")
    assert (again.rc, "changed=0" in again.stdout) == (0, True), again.output
    assert len(anchors(site)) == 2
    assert anchors(site)[1]["seq"] == anchor["seq"]
    export = tmp_path / "audit.jsonl"
    conn = connect(target, application_name="test")
    Audited(conn, place(site), tmp_path).export()
    arguments = ("--anchors", str(place(site).anchors), "--allowed-signers", str(signers))
    assert verifier(tmp_path, "--export", str(export), *arguments).rc == 0
    server.execute(
        "ALTER TABLE pgops.audit DISABLE TRIGGER ALL; DELETE FROM pgops.audit WHERE event = 'run_ended'; "
        "ALTER TABLE pgops.audit ENABLE ALWAYS TRIGGER audit_no_delete",
        database=site.database,
    )
    cut = site("status.yml")
    assert cut.rc == 2, cut.output
    assert "it was cut or rewritten" in cut.json["error"]["message"]
    assert "no rollback of this ops host explains it" in cut.json["error"]["message"]
    assert site("status.yml").rc == 0  # told once; the verifier goes on to tell it
    Audited(conn, place(site), tmp_path).export()
    assert verifier(tmp_path, "--export", str(export), *arguments).rc == 1
    conn.close()


@pytest.mark.slow
def test_the_history_survives_a_rollback_by_restore_and_the_audit_holds(site: Any, target: Any, tmp_path: Path) -> None:
    site.variables["pgops_phases"] = ["plan", "backup", "prove", "apply"]
    first = site("migrate.yml")
    assert first.rc == 0, first.output
    TestTree(tmp_path / "own sql").add_sql(
        V2, "create_pets", "CREATE TABLE pets (id int PRIMARY KEY);\n", "DROP TABLE pets;\n"
    )
    second = site("migrate.yml")
    assert second.rc == 0, second.output
    back = site("rollback.yml", rollback_strategy="restore", rollback_confirm=site.database)
    assert back.rc == 0, back.output
    assert rows(target, "SELECT to_regclass('pets') AS pets") == [{"pets": None}]
    told = rows(
        target,
        "SELECT run_id, event, version FROM pgops.audit WHERE event IN ('applied', 'run_ended', 'database_swapped') ORDER BY seq",
    )
    runs = [document["run_id"] for document in (first.json, second.json, back.json)]
    assert [(runs.index(row["run_id"]), row["event"], row["version"]) for row in told] == [
        (0, "applied", V1), (0, "run_ended", None), (1, "applied", V2), (1, "run_ended", None), (2, "database_swapped", None), (2, "run_ended", None),
    ]  # fmt: skip
    with closing(connect(target, application_name="test")) as conn:
        found = Audited(conn, place(site), tmp_path).verify("--rows", str(place(site).rows))
    assert (found.rc, found.document["anchors"]) == (0, 3), found.told


@pytest.mark.slow
def test_a_run_that_is_well_and_leaves_no_anchor_is_not_well(site: Any, target: Any, tmp_path: Path) -> None:
    site.variables["audit_anchor_key"] = str(tmp_path / "nowhere")
    done = site("migrate.yml")
    assert (done.rc, done.json["ok"]) == (2, False)
    assert "is not anchored: ssh-keygen refuses the key" in done.json["error"]["message"]
    assert rows(target, "SELECT state FROM pgops.migration") == [{"state": "applied"}]


def settle(target: Any, **more: Any) -> dict[str, Any]:
    entry = {"status": "complete", "tables_affected": [], "phi_impact": False}
    result = call("audit_record", target, run_id=RUN, entries={target.database: entry}, **more)
    assert not result.get("failed"), result
    return dict(result["databases"][target.database])


@pytest.mark.majors(15, 18, slow=(15,))
def test_a_run_that_wrote_nothing_leaves_nothing(target: Any) -> None:
    assert settle(target)["there"] is False
    assert rows(target, "SELECT count(*) AS n FROM pg_namespace WHERE nspname = 'pgops'") == [{"n": 0}]
    conn = connect(target, application_name="test")
    ledger.ensure(conn)
    assert settle(target)["recorded"] is False
    ledger.append_audit(conn, "applied", run_id=RUN)
    assert settle(target, check_mode=True)["recorded"] is False
    found = settle(target)
    assert (found["recorded"], [row["event"] for row in found["rows"]]) == (True, ["applied", audit_entry.RUN_ENDED])
    assert found["cluster"]["system_identifier"]
    head = found["head"]
    older = {"seq": 1, "hash": found["rows"][0]["hash"]}
    assert settle(target, kept={target.database: {"heads": [head, older], "to": head}})["common"] == head
    # The row that was copied last is of a branch that is gone: all since the common one are copied again.
    gone = {"seq": 9, "hash": "f" * 64}
    found = settle(target, kept={target.database: {"heads": [gone, older], "to": gone}})
    assert (found["common"], [row["seq"] for row in found["rows"]]) == (older, [2, 3, 4])
    conn.close()


# -- the action, run after run, without a play ------------------------------------------------------------------------------


def begin_to_end(state: Path, target: Any, number: int, *phases: str) -> tuple[ActionModule, dict[str, Any], str]:
    """A run of these phases, before its end: the action that ends it, the variables, its id."""
    run = {
        "id": f"2026010{number}T000000Z-00000{number}", "environment": "staging", "playbook": "rollback", "limit": "staging", "command": "",
    }  # fmt: skip
    journal = Journal(state, "staging", run["id"])
    journal.append({"event": "run_started", "run_id": run["id"], **run})
    for phase in phases:
        journal.append({"event": "phase_started", "phase": phase, "host": "db1", "databases": [target.database]})
        journal.append(
            {"event": "phase_finished", "phase": phase, "host": "db1", "duration_s": 1, "result": {target.database: {}}}
        )
    task_vars = {**variables([target.database], **run), "pgops_state_directory": str(state)}
    ending = action(ActionModule)
    ending.look_back(task_vars, run, None)
    return ending, task_vars, run["id"]


def end_run(target: Any, state: Path, number: int, *phases: str) -> dict[str, Any]:
    """A run of these phases comes to its end."""
    ending, task_vars, run_id = begin_to_end(state, target, number, *phases)
    given = ending.module_arguments(task_vars)
    return ending.after(call("audit_record", target, run_id=run_id, **given), task_vars)


def staging(target: Any, state: Path) -> audit_anchor.Place:
    return audit_anchor.Place.of(state, "staging", "db1", target.database)


@pytest.fixture
def conn(target: Any) -> Any:
    conn = connect(target, application_name="test")
    ledger.ensure(conn)
    yield conn
    conn.close()


def go_back(server: Any, database: str, to: int) -> None:
    server.execute(
        f"ALTER TABLE pgops.audit DISABLE TRIGGER ALL; DELETE FROM pgops.audit WHERE seq > {to}; "
        "ALTER TABLE pgops.audit ENABLE ALWAYS TRIGGER audit_no_update; ALTER TABLE pgops.audit ENABLE ALWAYS TRIGGER audit_no_delete; "
        "ALTER TABLE pgops.audit ENABLE ALWAYS TRIGGER audit_no_truncate",
        database=database,
    )


def test_a_tail_cut_between_two_runs_ends_the_second_and_is_told_once(
    conn: Any, server: Any, target: Any, tmp_path: Path
) -> None:
    for _ in range(3):
        ledger.append_audit(conn, "tested")
    assert not end_run(target, tmp_path, 1).get("failed")
    go_back(server, target.database, 1)
    cut = end_run(target, tmp_path, 2)
    assert cut["failed"]
    assert "has not the row 3 that run 20260101T000000Z-000001 anchored" in cut["msg"]
    assert (
        "agrees with the anchors up to row 0: it was cut or rewritten, or a snapshot put its files back" in cut["msg"]
    )
    assert "audit_export.yml -l staging" in cut["next"][0]
    assert not end_run(target, tmp_path, 3).get("failed")
    found = Audited(conn, staging(target, tmp_path), tmp_path).verify()
    assert (found.rc, "tail_cut" in found.codes) == (1, True), found.told


def test_a_restore_by_a_run_explains_itself_also_to_the_next_one(server: Any, target: Any, tmp_path: Path) -> None:
    append(target, "tested")
    assert not end_run(target, tmp_path, 1).get("failed")
    older = f"{target.database}_older"
    server.create_database(older, OWNER, template=target.database)
    append(target, "lost", 3)
    assert not end_run(target, tmp_path, 2).get("failed")
    # The database of before takes its place; the run that does it is killed before its end, and the next one anchors.
    server.execute(
        f"ALTER DATABASE {target.database} RENAME TO {target.database}_failed; ALTER DATABASE {older} RENAME TO {target.database}"
    )
    append(target, "database_swapped")
    Journal(tmp_path, "staging", "20260103T000000Z-000003").append(
        {"event": "phase_started", "phase": "swap", "host": "db1", "databases": [target.database]}
    )
    ended = end_run(target, tmp_path, 4, "verify")
    assert not ended.get("failed"), ended
    place = staging(target, tmp_path)
    last = json.loads(place.anchors.read_text(encoding="utf-8").splitlines()[-1])
    assert last["parted"] == {"common": 1, "explained": "rollback.yml (swap)", "by": "20260103T000000Z-000003"}
    found = verified(target, tmp_path)
    assert found.rc == 0, found.told
    assert "took the database back to row 1; both branches are kept and hold" in found.told
    append(target, "tested", 2)
    assert not end_run(target, tmp_path, 5).get("failed")
    found = verified(target, tmp_path)
    assert found.rc == 0, found.told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "ended", "rc", "codes"),
    [("this tool", None, 0, set()), ("elsewhere", None, 3, {"restored_elsewhere"}), ("snapshot", "a snapshot put its files back", 1, {"tail_cut"})],
)  # fmt: skip
def test_an_older_copy_of_the_whole_cluster_is_told_for_what_it_is(
    own_server: Any, tmp_path: Path, how: str, ended: str | None, rc: int, codes: set[str]
) -> None:
    """A recovery makes a timeline of its own, whoever begins it; files that were put back as they were do not."""
    own_server.create_database("clinic", OWNER)
    target = target_of(own_server, "clinic")
    append(target, "tested")
    assert not end_run(target, tmp_path, 1).get("failed")
    data, copy = own_server.directory / "data", own_server.directory / "copy"
    own_server.stop()
    subprocess.run(["cp", "-a", data, copy], check=True)
    own_server.start()
    append(target, "lost", 3)
    assert not end_run(target, tmp_path, 2).get("failed")
    own_server.stop()
    shutil.rmtree(data)
    copy.rename(data)
    if how != "snapshot":
        (data / "recovery.signal").touch()
        with (data / "postgresql.auto.conf").open("a", encoding="ascii") as file:
            file.write("restore_command = 'false'\n")
    own_server.start()
    wait_for(lambda: own_server.execute("SELECT pg_is_in_recovery()") == [(False,)])
    if how == "this tool":
        Journal(tmp_path, "staging", "20260103T000000Z-000003").append(
            {"event": "phase_started", "phase": "restore", "host": "db1", "databases": ["clinic"]}
        )
    append(target, "after")
    told = end_run(target, tmp_path, 4)
    assert (bool(told.get("failed")), (ended or "") in told.get("msg", "")) == (ended is not None, True), told
    found = verified(target, tmp_path)
    assert (found.rc, found.codes) == (rc, codes), found.told
    # Whatever it was, the rows of the other branch are there.
    assert staging(target, tmp_path).rows.read_text(encoding="utf-8").count('"event":"lost"') == 3


def test_another_server_with_a_database_of_this_name_is_no_restore_and_hides_no_cut(
    own_server: Any, server: Any, target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the host leads to it for one run, or for every second one."""
    told: list[str] = []
    monkeypatch.setattr(audit_record.display, "warning", told.append)
    append(target, "tested", 3)
    assert not end_run(target, tmp_path, 1).get("failed")
    own_server.create_database(target.database, OWNER)
    other = target_of(own_server, target.database)
    append(other, "elsewhere", 5)
    assert not end_run(other, tmp_path, 2).get("failed")
    (warning,) = told
    assert "this is another server with a database of this name" in warning
    assert "was restored outside" not in warning
    assert not end_run(target, tmp_path, 3).get("failed")
    assert not end_run(other, tmp_path, 4).get("failed")
    assert len(told) == 1
    assert verified(target, tmp_path).codes == {"another_server"}
    go_back(server, target.database, 1)
    cut = end_run(target, tmp_path, 5)
    assert (cut.get("failed"), "it was cut or rewritten" in cut.get("msg", "")) == (True, True), (cut, told)
    found = verified(target, tmp_path)
    assert (found.rc, "tail_cut" in found.codes) == (1, True), found.told


def test_a_restore_into_a_new_cluster_is_told_by_the_rows_that_it_brought(
    own_server: Any, target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(audit_record.display, "warning", told.append)
    append(target, "tested", 2)
    assert not end_run(target, tmp_path, 1).get("failed")
    own_server.create_database(target.database, OWNER)
    other = target_of(own_server, target.database)
    with (
        closing(connect(target, application_name="test")) as conn,
        closing(connect(other, application_name="test")) as there,
    ):
        ledger.ensure(there)
        values = [tuple(row[name] for name in audit_verifier.COLUMNS) for row in ledger.audit_rows(conn)]
        for row in values:
            with there.cursor() as cursor:
                cursor.execute("INSERT INTO pgops.audit VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)", row)
    append(target, "lost", 2)
    assert not end_run(target, tmp_path, 2).get("failed")
    append(other, "after")
    assert not end_run(other, tmp_path, 3).get("failed")
    (warning,) = told
    assert "of which it has rows: it was restored into a new cluster outside of this tool" in warning
    found = verified(other, tmp_path)
    assert (found.rc, found.codes) == (3, {"restored_elsewhere"}), found.told


def verified(target: Any, state: Path) -> Checked:
    place = staging(target, state)
    with closing(connect(target, application_name="test")) as conn:
        return Audited(conn, place, state).verify("--rows", str(place.rows))


def append(target: Any, event: str, count: int = 1) -> None:
    with closing(connect(target, application_name="test")) as conn:
        ledger.ensure(conn)
        for _ in range(count):
            ledger.append_audit(conn, event)


@pytest.mark.parametrize("refused", [True, False], ids=["refused", "nothing-moved"])
def test_a_rollback_that_changed_nothing_explains_no_cut(
    server: Any, target: Any, tmp_path: Path, refused: bool
) -> None:
    append(target, "tested", 3)
    assert not end_run(target, tmp_path, 1).get("failed")
    go_back(server, target.database, 1)
    journal = Journal(tmp_path, "staging", "20260102T000000Z-000002")
    about = {"phase": "swap", "host": "db1", "databases": [target.database]}
    journal.append({"event": "phase_started", **about})
    if refused:
        journal.append({"event": "phase_failed", **about, "error": {"message": "no", "refused": True}})
    cut = end_run(target, tmp_path, 3)
    assert (cut.get("failed"), "no rollback of this ops host explains it" in cut["msg"]) == (True, True)


def test_a_run_that_ends_while_another_one_does_sees_no_cut(target: Any, tmp_path: Path) -> None:
    """The other one anchors a row that this one has not looked for."""
    append(target, "tested")
    assert not end_run(target, tmp_path, 1).get("failed")
    ending, task_vars, run_id = begin_to_end(tmp_path, target, 2)
    found = call("audit_record", target, run_id=run_id, **ending.module_arguments(task_vars))
    append(target, "tested")
    assert not end_run(target, tmp_path, 3).get("failed")
    ended = ending.after(found, task_vars)
    assert not ended.get("failed"), ended
    assert verified(target, tmp_path).rc == 0


def test_anchors_that_were_taken_away_end_the_run_and_are_told_once(target: Any, tmp_path: Path) -> None:
    append(target, "tested")
    assert not end_run(target, tmp_path, 1).get("failed")
    staging(target, tmp_path).anchors.unlink()
    gone = end_run(target, tmp_path, 2)
    assert (gone.get("failed"), "are gone from this ops host" in gone["msg"]) == (True, True)
    assert not end_run(target, tmp_path, 3).get("failed")


def test_anchors_that_cannot_be_read_are_a_sentence(target: Any, tmp_path: Path) -> None:
    staging(target, tmp_path).anchors.mkdir(parents=True)
    with pytest.raises(AnsibleActionFail, match=r"The anchors cannot be read: .*anchors.jsonl: Is a directory"):
        end_run(target, tmp_path, 1)


def test_a_version_that_has_no_row_of_its_own_in_the_audit_ends_the_run(target: Any, tmp_path: Path) -> None:
    """What the run says of itself is no proof of it."""
    append(target, "tested")
    with closing(connect(target, application_name="test")) as conn:
        ledger.append_audit(conn, "applied", run_id=RUN, version=V1)
    migrations = [{"version": V1, "status": "applied"}, {"version": "20260101000002", "status": "applied"}]
    entries = {target.database: {"migrations": migrations, "tables_affected": []}}
    result = call("audit_record", target, run_id=RUN, entries=entries)
    assert result["databases"][target.database]["lacking"] == ["20260101000002"]
    ending, task_vars, _run_id = begin_to_end(tmp_path, target, 1)
    ending.module_arguments(task_vars)
    ended = ending.after(result, task_vars)
    assert (ended["failed"], "lacks the rows of 20260101000002, which this run has worked on" in ended["msg"]) == (
        True,
        True,
    )


def test_a_refused_run_leaves_its_line_outside(target: Any, tmp_path: Path) -> None:
    assert not end_run(target, tmp_path, 1).get("failed")
    (line,) = staging(target, tmp_path).anchors.read_text(encoding="utf-8").splitlines()
    assert (json.loads(line)["run_id"], json.loads(line)["seq"]) == ("20260101T000000Z-000001", None)
