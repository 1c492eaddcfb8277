# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""At the end of each run its last row stands in the audit, and the head on the ops host, where a cut tail is seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.action.audit_record import ActionModule
from ansible_collections.whitecross.pgops.plugins.module_utils import audit_entry, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.plugin_utils import audit_anchor
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal
from support.actions import action, variables
from support.audit import Audited, signing_key, verifier
from support.engine import rows
from support.module import call
from support.tree import TestTree

V1 = "20260101000001"
RUN = "20260101T000000Z-000001"


@pytest.fixture
def site(playbook: Any, tmp_path: Path) -> Any:
    """One version that touches PHI; its backup is not this test's business."""
    tree = TestTree(tmp_path / "own sql")
    tree.add_sql(
        V1, "create_people", "CREATE TABLE people (id int PRIMARY KEY, name text);\nCOMMENT ON COLUMN people.name IS 'PHI: name';\n",
        "DROP TABLE people;\n",
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
    assert "it was cut or rewritten, and no rollback of this ops host explains it" in cut.json["error"]["message"]
    assert site("status.yml").rc == 0  # told once; the verifier goes on to tell it
    Audited(conn, place(site), tmp_path).export()
    assert verifier(tmp_path, "--export", str(export), *arguments).rc == 1
    conn.close()


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


def end_run(target: Any, state: Path, number: int, *phases: str) -> dict[str, Any]:
    """A run of these phases comes to its end."""
    run = {
        "id": f"2026010{number}T000000Z-00000{number}",
        "environment": "staging",
        "playbook": "rollback",
        "limit": "staging",
        "command": "",
    }
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
    given = ending.module_arguments(task_vars)
    return ending.after(call("audit_record", target, run_id=run["id"], **given), task_vars)


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
    assert "agrees with the anchors up to row 0: it was cut or rewritten, and no rollback" in cut["msg"]
    assert "audit_export.yml -l staging" in cut["next"][0]
    assert not end_run(target, tmp_path, 3).get("failed")
    found = Audited(conn, staging(target, tmp_path), tmp_path).verify()
    assert (found.rc, "tail_cut" in found.codes) == (1, True), found.told


def test_a_restore_by_a_run_explains_itself_also_to_the_next_one(
    conn: Any, server: Any, target: Any, tmp_path: Path
) -> None:
    ledger.append_audit(conn, "tested")
    assert not end_run(target, tmp_path, 1).get("failed")
    for _ in range(3):
        ledger.append_audit(conn, "lost")
    assert not end_run(target, tmp_path, 2).get("failed")
    # As a restore to a point in time leaves it: its own run is killed before its end, and the next one anchors.
    go_back(server, target.database, 1)
    ledger.append_audit(conn, "cluster_restored")
    Journal(tmp_path, "staging", "20260103T000000Z-000003").append(
        {"event": "phase_started", "phase": "restore", "host": "db1", "databases": [target.database]}
    )
    ended = end_run(target, tmp_path, 4, "verify")
    assert not ended.get("failed"), ended
    place = staging(target, tmp_path)
    last = json.loads(place.anchors.read_text(encoding="utf-8").splitlines()[-1])
    assert last["parted"] == {"common": 1, "explained": "rollback.yml (restore)", "by": "20260103T000000Z-000003"}
    found = Audited(conn, place, tmp_path).verify("--rows", str(place.rows))
    assert found.rc == 0, found.told
    assert "took the database back to row 1; both branches are kept and hold" in found.told
    for _ in range(2):
        ledger.append_audit(conn, "tested")
    assert not end_run(target, tmp_path, 5).get("failed")
    found = Audited(conn, place, tmp_path).verify("--rows", str(place.rows))
    assert found.rc == 0, found.told


def test_a_refused_run_leaves_its_line_outside(target: Any, tmp_path: Path) -> None:
    assert not end_run(target, tmp_path, 1).get("failed")
    (line,) = staging(target, tmp_path).anchors.read_text(encoding="utf-8").splitlines()
    assert (json.loads(line)["run_id"], json.loads(line)["seq"]) == ("20260101T000000Z-000001", None)
