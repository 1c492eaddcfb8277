# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change-over owes what a migration of the same versions owes: its audit, the assessment of PHI and its log, review and why, notices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import audit_entry, blue_green, ledger
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal
from support.blue_green import RUN, WIDE, change_of, connection_of, fill, killed, prepared, slots, versions
from support.engine import target_of
from support.server import OWNER
from support.site import Playbook
from support.tree import TestTree
from support.webhook import Webhook

DATABASE = "clinic"
ASSESSED = {
    "audit_privacy_assessment": "PIA-7", "audit_security_review": "G. Murray, 2026-01-02", "audit_privacy_officer": "Mary Seacole",
    "audit_encryption_at_rest": "LUKS, seen by A. Byron",
}  # fmt: skip
SHUT = [{"opens": "*-02-29 02:00 UTC", "lasts": "1h"}]


@pytest.fixture
def cluster(own_server: Any) -> Any:
    """A server of this test's own: what is logged is the whole cluster's."""
    own_server.create_database(DATABASE, OWNER)
    return own_server


@pytest.fixture
def site(cluster: Any, tmp_path: Path) -> Iterator[Playbook]:
    """A filled database in production, and a version of PHI that is not online."""
    target, made = target_of(cluster, DATABASE), Playbook(tmp_path / "ops host", cluster, DATABASE)
    tree = TestTree(tmp_path / "tree")
    fill(cluster, target, versions(tree, phi=True, why="ids run out"))
    cluster.execute("COMMENT ON COLUMN students.name IS 'PHI: name'", database=DATABASE)
    made.variables |= {
        "pgops_sql": str(tree.folder), "blue_green_connection": connection_of(cluster), "audit_phi_logging": True,
        "audit_phi_required": True,
    }  # fmt: skip
    yield made
    blue_green.give_up(change_of(cluster, target))


def tree_of(site: Playbook) -> list[dict[str, Any]]:
    return TestTree(Path(site.variables["pgops_sql"])).render()


def prepare(site: Playbook) -> None:
    prepared(site.server, target_of(site.server, DATABASE), tree_of(site))


def change_over(site: Playbook, *words: str, limit: str = "local", **typed: Any) -> Any:
    return site(
        "blue_green.yml", *words, limit=limit, blue_green_stage="change_over", blue_green_confirm=DATABASE, **typed
    )


def ended(site: Playbook) -> list[dict[str, Any]]:
    rows = site.server.execute(
        "SELECT detail FROM pgops.audit WHERE event = 'run_ended' ORDER BY seq", database=DATABASE
    )
    return [row[0] for row in rows]


def phases(site: Playbook, result: Any) -> set[str]:
    """What the run has begun."""
    events = Journal(site.state, "local", result.json["run_id"]).events()
    return {str(event["phase"]) for event in events if event["event"] == "phase_started"}


def is_live(site: Playbook) -> bool:
    found = site.server.execute(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'students'::regclass AND attname = 'level'",
        database=DATABASE,
    )
    return bool(found[0][0])


# -- what it is recorded with ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_audit_of_a_change_over_has_what_that_of_an_apply_has(site: Playbook, cluster: Any) -> None:
    backup = site("backup.yml")
    assert backup.rc == 0, backup.output
    prepare(site)
    over = change_over(
        site, **ASSESSED, migrate_reviewed_by="Grace Murray", audit_justification="ids run out", audit_ticket="OPS-7"
    )
    assert over.rc == 0, over.output
    detail = ended(site)[-1]
    (version,) = detail["migrations"]
    (declared,) = [one for one in tree_of(site) if one["version"] == WIDE]
    assert {name: version[name] for name in ("version", "name", "status", "phi", "why", "run_id")} == {
        "version": WIDE, "name": "wide_ids", "status": "applied", "phi": True, "why": "ids run out", "run_id": RUN,
    }  # fmt: skip
    assert (version["checksum"], version["rendered_checksum"]) == (declared["checksum"], declared["rendered_checksum"])
    assert version["duration_seconds"] is not None and version["transformations"]
    assert (detail["justification"], detail["ticket"], detail["status"]) == ("ids run out", "OPS-7", "complete")
    assert detail["verification_status"] == "passed" and detail["approvals"] == [{"reviewed_by": "Grace Murray"}]
    assert "public.students" in detail["tables_affected"] and detail["phi_fields"] == {"public.students": ["name"]}
    assert detail["backup_location"] and Path(detail["backup_location"]).parent.name == DATABASE
    assert detail["change_over"]["compared"]["rows"] == 600 and detail["change_over"]["aside"]
    assert detail["execution_log"]["versions"][0]["version"] == WIDE
    # The log of PHI was open meanwhile, and is put back.
    assert detail["phi_window"]["opened"] <= detail["phi_window"]["closed"]
    assert detail["phi_window"]["assessment"]["privacy_officer"] == "Mary Seacole"
    assert cluster.execute("SHOW log_statement") == [("none",)]
    # The ledger knows the run, by whom it was reviewed and with which backup.
    ((why, kept, result),) = cluster.execute(
        "SELECT why, backup, result FROM pgops.run WHERE playbook = 'blue_green'", database=DATABASE
    )
    assert (why, kept["path"], result) == ("reviewed by Grace Murray", detail["backup_location"], "changed_over")


@pytest.mark.slow
@pytest.mark.parametrize("step", ["swap: commit", "audit written", "comment restored"])
def test_who_only_finishes_a_killed_change_over_leaves_its_versions_in_the_audit(
    site: Playbook, cluster: Any, step: str
) -> None:
    prepare(site)
    target = target_of(cluster, DATABASE)
    assert killed(cluster, target, tree_of(site), "change_over", step) == -9
    finished = change_over(site, **ASSESSED)
    assert finished.rc == 0, finished.output
    (version,) = ended(site)[-1]["migrations"]
    assert (version["version"], version["phi"], version["run_id"]) == (WIDE, True, RUN)
    assert version["checksum"] and ended(site)[-1]["change_over"]["resumed"] is True
    assert is_live(site) and slots(cluster, DATABASE) == 0


@pytest.mark.slow
def test_a_change_over_that_was_killed_under_its_fence_is_planned_and_done(site: Playbook, cluster: Any) -> None:
    prepare(site)
    assert killed(cluster, target_of(cluster, DATABASE), tree_of(site), "change_over", "fence: commit") == -9
    finished = change_over(site, **ASSESSED)
    assert finished.rc == 0, finished.output
    assert "the fence of a run that was cut off is lifted" in finished.stdout
    assert [one["version"] for one in ended(site)[-1]["migrations"]] == [WIDE]
    assert ended(site)[-1]["phi_window"]["closed"]


def test_a_version_whose_row_is_missing_is_told_of_a_change_over_too(cluster: Any) -> None:
    """The rows are those of the run that has prepared it."""
    target = target_of(cluster, DATABASE)
    fill(cluster, target, versions(TestTree(Path(cluster.directory) / "tree")))
    with closing(cluster.connect(DATABASE)) as conn:
        (row, *_rest) = [one for one in ledger.audit_rows(conn) if one["event"] == "applied"]
        conn.autocommit = True
        with ledger.transaction(conn):
            ledger.append_audit(conn, "database_swapped", run_id="20261123T130000Z-b1ce01", detail={})

        def lacking(run: str) -> list[str]:
            entry = {"migrations": [{"status": "applied", "version": row["version"], "run_id": run}]}
            return audit_entry.settle(conn, "20261123T130000Z-b1ce01", entry, audit_entry.Kept())["lacking"]

        assert lacking(row["run_id"]) == []
        assert lacking("20261123T120000Z-other0") == [row["version"]]


# -- what it asks for --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nobody_changes_phi_over_that_is_not_assessed_and_a_refusal_opens_no_log(site: Playbook, cluster: Any) -> None:
    refused = site("blue_green.yml", blue_green_stage="prepare")
    assert refused.rc == 2 and f"{WIDE} touch PHI, and nobody has named" in refused.json["error"]["message"]
    assert slots(cluster, DATABASE) == 0 and "phi_open" not in phases(site, refused)
    prepare(site)
    refused = change_over(site, audit_privacy_officer="Mary Seacole")
    assert refused.rc == 2 and "audit_privacy_assessment" in refused.json["error"]["message"]
    looked = change_over(site, "--check")
    assert looked.rc == 0 and f"PHI: {WIDE}: nobody has named" in looked.stdout
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"gate_required": True}, "this environment has a gate"),
        ({"migrate_windows": SHUT}, "Nothing was changed over: it"),
        ({"migrate_review_required": True}, "nobody is named who has reviewed"),
    ]
    for kept, why in refusals:
        site.variables |= kept
        shut = change_over(site, **ASSESSED)
        assert shut.rc == 2 and why in shut.json["error"]["message"], shut.output
        assert not {"phi_open", "phi_close"} & phases(site, shut)
        site.variables |= {"gate_required": False, "migrate_windows": [], "migrate_review_required": False}
    unsure = site("blue_green.yml", blue_green_stage="change_over", **ASSESSED)
    assert unsure.rc == 2 and f"blue_green_confirm={DATABASE}" in unsure.output
    assert "phi_open" not in phases(site, unsure) and not is_live(site)


@pytest.mark.slow
def test_production_asks_who_has_reviewed_it_and_why_and_prepares_without(site: Playbook, cluster: Any) -> None:
    site.variables |= {
        "audit_justification_required": True, "migrate_review_required": True,
        "migrate_windows": [{"opens": "*-*-* 00:00 UTC", "lasts": "24h"}],
        "migrate_waive": [{"check": "evidence", "version": WIDE, "reason": "there is no staging", "by": "Ada Byron", "until": "2126-01-01"}],
    }  # fmt: skip
    early = site("blue_green.yml", "--check", limit="production", blue_green_stage="prepare")
    assert early.rc == 0, early.output
    assert "will be missing: A migration of production is audited with its justification" in early.stdout
    prepare(site)
    silent = change_over(site, limit="production", **ASSESSED)
    assert silent.rc == 2 and "audit_justification is not set" in silent.json["error"]["message"], silent.output
    assert "-e audit_justification=WHY" in silent.json["error"]["next"][0]
    unread = change_over(site, limit="production", **ASSESSED, audit_justification="ids run out")
    assert unread.rc == 2 and "nobody is named who has reviewed what is pending" in unread.json["error"]["message"]
    assert not is_live(site)
    over = change_over(
        site, limit="production", **ASSESSED, audit_justification="ids run out", migrate_reviewed_by="Grace Murray"
    )
    assert over.rc == 0, over.output
    assert ended(site)[-1]["justification"] == "ids run out"


def test_a_change_over_of_production_is_refused_before_anything_without_its_why(playbook: Playbook) -> None:
    playbook.variables["audit_justification_required"] = True
    refused = playbook(
        "blue_green.yml", limit="production", blue_green_stage="change_over", blue_green_confirm=playbook.database
    )
    assert refused.rc == 2 and "audit_justification is not set" in refused.json["error"]["message"], refused.output
    uncalled = playbook(
        "blue_green.yml", limit="production", blue_green_stage="change_over", blue_green_confirm=playbook.database,
        audit_justification="ids run out", pgops_contacts={},
    )  # fmt: skip
    assert uncalled.rc == 2 and "pgops_contacts does not say whom to call" in uncalled.json["error"]["message"]


def test_a_typed_stage_lets_a_change_over_off_nothing(playbook: Playbook, tmp_path: Path) -> None:
    playbook.variables["pgops_sql"] = str(TestTree(tmp_path / "tree").folder)
    past = playbook(
        "blue_green.yml", blue_green_stage="change_over", blue_green_confirm=playbook.database, __pgops_stage="status"
    )
    assert past.rc == 2 and "__pgops_stage is typed with -e" in past.json["error"]["message"], past.output


# -- who is told -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with Webhook() as made:
        yield made


@pytest.mark.slow
def test_people_are_told_when_it_begins_when_it_ends_and_when_it_fails(
    site: Playbook, cluster: Any, hook: Webhook
) -> None:
    def heard() -> list[dict[str, Any]]:
        found = [json.loads(body) for body in hook.bodies]
        hook.bodies.clear()
        return found

    events = ["planned", "started", "succeeded", "failed", "rolled_back", "completed"]
    site.variables |= {
        "pgops_webhook": hook.url, "pgops_webhook_form": "json", "pgops_notify_events": events, "audit_phi_logging": False,
        "audit_phi_required": False,
    }  # fmt: skip
    done = site("blue_green.yml", blue_green_stage="prepare")
    assert done.rc == 0, done.output
    (planned,) = heard()
    assert (planned["event"], planned["versions"]) == ("planned", [WIDE])
    assert "is prepared, and nothing is changed over yet" in planned["text"]
    assert site("blue_green.yml").rc == 0
    assert heard() == [], "who looks tells nobody"
    cluster.execute("ALTER EVENT TRIGGER pgops_blue_green_ddl DISABLE", database=DATABASE)
    assert change_over(site).rc == 2
    assert [one["event"] for one in heard()] == ["failed"], "what was not begun is not told as begun"
    cluster.execute("ALTER EVENT TRIGGER pgops_blue_green_ddl ENABLE ALWAYS", database=DATABASE)
    over = change_over(site)
    assert over.rc == 0, over.output
    all_of_it = heard()
    assert [one["event"] for one in all_of_it] == ["started", "succeeded", "completed"]
    assert all_of_it[0]["databases"] == [{"host": "local-1", "database": DATABASE}]
    assert all_of_it[0]["playbook"] == "blue_green"
