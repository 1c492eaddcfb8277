# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made of a journal: the report of a run that ended well, failed, was killed or was interrupted."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils import application_hooks, reporting
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal

RUN = {
    "id": "20260101T120000Z-0a1b2c",
    "environment": "staging",
    "playbook": "migrate",
    "command": "ansible-playbook migrate.yml",
    "limit": "staging",
    "who": "ada",
    "ops_host": "ops1",
    "hosts": ["db1"],
    "phases": ["preflight", "plan", "backup", "prove", "apply", "analyze", "verify", "report"],
    "tags": ["all"],
    "skip_tags": [],
    "extra_variables": ["migrate_target"],
    "check_mode": False,
}
ON, BACK = (f"ansible-playbook {name}.yml -l staging" for name in ("migrate", "rollback"))
CHECK = {
    "check": "ownership",
    "title": "objects",
    "level": "stop",
    "evidence": "public.x <b>bold</b>",
    "fix": "ALTER TABLE x;",
    "objects": 1,
}
RESULTS: dict[str, dict[str, Any]] = {
    "preflight": {
        "level": "warn",
        "checks": [{**CHECK, "waived": "of the audit team"}],
        "facts": {"size_bytes": 8_000_000},
    },
    "plan": {"pending": [{"version": "20260101000000"}]},
    "backup": {"path": "/var/backups/x", "bytes": 1234567, "tables": 2},
    "prove": {"seconds": 1.5, "tables": 2},
    "apply": {
        "applied": [
            {
                "version": "20260101000000",
                "name": "rooms",
                "duration_s": 0.25,
                "skipped": [],
                "step_durations": [
                    {"step": 1, "kind": "sql", "name": None, "duration_s": 0.1},
                    {"step": 2, "kind": "indexes", "name": "fast", "duration_s": 0.15},
                ],
            }
        ]
    },
    "analyze": {"tables": []},
    "verify": {"passed": True, "differences": []},
    "preflight_after": {"level": "ok", "checks": [], "facts": {}, "worse": [], "better": []},
}


def events(*phases: str, database: str = "school") -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [{"event": "run_started", "time": "2026-01-01T12:00:00.000Z", **RUN}]
    for number, phase in enumerate(phases):
        shared = {"time": f"2026-01-01T12:00:{number + 1:02}.000Z", "phase": phase, "host": "db1"}
        made.append({"event": "phase_started", "step": f"({number + 1}/8) {phase}", **shared})
        made.append(
            {
                "event": "phase_finished",
                "duration_s": 0.5,
                "changed": False,
                "result": {database: RESULTS[phase]},
                **shared,
            }
        )
    return made


def failed(phase: str, error: dict[str, Any]) -> list[dict[str, Any]]:
    shared = {"time": "2026-01-01T12:01:00.000Z", "phase": phase, "host": "db1"}
    return [
        {"event": "phase_started", **shared},
        {"event": "phase_failed", "duration_s": 2.0, "error": error, **shared},
    ]


def test_a_run_whose_due_phases_all_ended_succeeded() -> None:
    report = reporting.build(events(*RESULTS))
    assert (report["ok"], report["result"], report["error"]) == (True, "succeeded", None)
    assert report["run_id"] == RUN["id"]
    assert list(report["results"]["db1"]["school"]) == list(RESULTS)
    assert [(version["version"], version["duration_s"]) for version in report["versions"]] == [("20260101000000", 0.25)]


def test_a_failed_phase_is_the_cause_with_its_next_commands() -> None:
    error = {"message": "Step 1 failed", "sqlstate": "42P01", "statement": "INSERT ...", "next": [ON, BACK]}
    report = reporting.build(events("preflight", "plan", "backup", "prove") + failed("apply", error))
    assert (report["ok"], report["result"]) == (False, "failed")
    assert report["error"]["sqlstate"] == "42P01"
    assert report["next"] == [ON, BACK]
    assert report["steps"][-1]["result"] == "failed"


def test_a_failure_that_names_no_command_still_says_what_to_type() -> None:
    report = reporting.build(events("preflight") + failed("plan", {"message": "no"}))
    assert report["next"] == ["ansible-playbook status.yml -l staging", "ansible-playbook migrate.yml -l staging"]


def test_a_killed_run_is_no_success() -> None:
    started = events("preflight", "plan")
    started.append({"event": "phase_started", "phase": "backup", "host": "db1", "time": "2026-01-01T12:00:09.000Z"})
    report = reporting.build(started)
    assert (report["ok"], report["result"]) == (False, "failed")
    assert "before the phase backup was done" in report["error"]["message"]


@pytest.mark.parametrize("missing", ["preflight", "plan", "prove", "apply", "verify"])
def test_a_due_phase_without_a_trace_is_no_success(missing: str) -> None:
    report = reporting.build(events(*(phase for phase in RESULTS if phase != missing)))
    assert report["ok"] is False
    assert f"phase {missing} was done" in report["error"]["message"]


def test_with_nothing_pending_the_phases_of_a_change_are_not_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RESULTS, "plan", {"pending": []})
    assert reporting.build(events("preflight", "plan", "verify", "preflight_after"))["ok"] is True


def test_tags_and_switched_off_phases_are_not_due() -> None:
    assert reporting.build([{**events()[0], "tags": ["plan"]}, *events("plan")[1:]])["ok"] is True
    assert reporting.build([{**events()[0], "phases": ["plan"]}, *events("plan")[1:]])["ok"] is True
    assert (
        reporting.build([{**events()[0], "skip_tags": ["verify"], "phases": ["plan", "verify"]}, *events("plan")[1:]])[
            "ok"
        ]
        is True
    )


def hook(stage: str, kind: str, done: str, host: str = "db1", **more: Any) -> list[dict[str, Any]]:
    told = {"stage": stage, "kind": kind, "label": kind, "on": "lb1", "done": done, **more}
    return [{"event": "hook", "host": host, "hook": told}]


def test_what_was_not_brought_back_is_the_last_word_and_the_first_command() -> None:
    promised = f"The hook start on lb1 failed: no answer{application_hooks.COMES_BACK}. To go on: migrate"
    cause = {"message": promised, "next": ["ansible-playbook migrate.yml -l staging"]}
    tried = [*hook("after", "start", "no"), *hook("back", "start", "no"), *hook("back", "restore_traffic", "yes")]
    error = reporting.build([*events(), *tried], run=RUN, error=cause)["error"]
    assert error["next"][0] == "ansible-playbook hooks.yml -l staging"
    assert error["message"] == (
        "The hook start on lb1 failed: no answer. To go on: migrate. NOT brought back: stop for db1. Mend it and type: "
        "ansible-playbook hooks.yml -l staging"
    )
    mended = reporting.build([*events(), *tried, *hook("back", "start", "yes", by_run="x")], run=RUN, error=cause)
    assert mended["error"]["message"] == promised
    assert mended["next"] == cause["next"]
    itself = {"message": f"No answer; {application_hooks.IS_AWAY}ansible-playbook hooks.yml -l staging", "next": []}
    tried += hook("back", "restore_traffic", "no", host="db0")
    assert reporting.build([*events(), *tried], run=RUN, error=itself)["error"]["message"] == (
        "No answer. NOT brought back: divert traffic for db0, stop for db1. Mend it and type: "
        "ansible-playbook hooks.yml -l staging"
    ), "it names itself only, and another one is away too"


def test_of_two_hooks_without_names_the_one_that_failed_is_not_hidden_by_the_other() -> None:
    tried = [*hook("back", "start", "no", number=0), *hook("back", "start", "yes", number=1)]
    error = reporting.build([*events(), *tried], run=RUN, error={"message": "No answer", "next": []})["error"]
    assert "NOT brought back: stop for db1" in error["message"]


def test_an_interrupted_run_says_so() -> None:
    report = reporting.build(events("preflight"), interrupted=True)
    assert (report["ok"], report["result"]) == (False, "interrupted")
    assert "nothing was applied by it" in report["error"]["message"]
    assert report["next"] == ["ansible-playbook status.yml -l staging", "ansible-playbook migrate.yml -l staging"]


def test_an_interrupted_run_says_where_it_was_and_how_to_go_on_and_back() -> None:
    run = {**RUN, "given": {"variables": {"pgops_database": "other"}, "inventory": ["hosts"]}}
    started = {"event": "phase_started", "phase": "apply", "host": "db1", "time": "2026-01-01T12:00:09.000Z"}
    report = reporting.build([*events("preflight", "plan", "backup", "prove"), started], run=run, interrupted=True)
    message = report["error"]["message"]
    assert "interrupted in the phase apply; the plan had pending 20260101000000; " in message
    assert "status.yml tells how far it is" in message
    where = "-i hosts -l staging -e pgops_database=other"
    assert report["next"] == [
        f"ansible-playbook status.yml {where}",
        f"ansible-playbook migrate.yml {where}",
        f"ansible-playbook rollback.yml {where} -e rollback_through=20260101000000",
    ]
    document = reporting.result_document(report)
    assert (document["error"]["pending"], document["error"]["phase"]) == (["20260101000000"], "apply")
    assert all(command in "\n".join(reporting.screen(report, None)) for command in report["next"])


class Page(HTMLParser):
    """What a browser would fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "action")]


def test_the_page_needs_nothing_else_and_escapes_everything() -> None:
    text = reporting.as_page(reporting.build(events(*RESULTS, database="<script>alert(1)</script>")))
    page = Page(text)
    assert page.fetched == []
    assert not {"script", "link", "img", "iframe", "b"} & set(page.tags)
    assert "url(" not in text
    assert "&lt;script&gt;" in text


def test_the_page_has_all_that_a_reader_asks_for() -> None:
    text = reporting.as_page(reporting.build(events(*RESULTS)))
    for part in (
        "staging",
        "school",
        "ada on ops1",
        "20260101000000",
        "/var/backups/x",
        "1206 kB",
        "waived: of the audit team",
        "Health after",
    ):
        assert part in text, part


def test_the_page_tells_what_batches_did_and_which_indexes_were_built(monkeypatch: pytest.MonkeyPatch) -> None:
    step = {
        "step": 1, "kind": "backfill", "name": "backfill people", "duration_s": 7.5, "rows": 1_000_000, "walked": 1_000_002,
        "batches": 140,
        "remaining_before": 1_000_001, "remaining": 0, "throttle": {"paused_s": 3.0, "reasons": {"lock waits": 2}},
    }  # fmt: skip
    index = {"schema": "public", "name": "people_name", "bytes": 20_971_520, "duration_s": 1.25}
    done = {"version": "20260101000000", "name": "x", "duration_s": 9.0, "step_durations": [step], "indexes": [index]}
    monkeypatch.setitem(RESULTS, "apply", {"applied": [done], "tables": []})
    text = " ".join(reporting.as_page(reporting.build(events(*RESULTS))).split())
    assert "1,000,000 of 1,000,002 rows in 140 batches, 0 left of 1000001, paused for 3.0 s, lock waits 2×" in text
    assert 'people_name <span class="quiet">20 MB</span></td><td class="number">1.250' in text


def test_the_page_of_a_failed_run_shows_statement_and_next_commands() -> None:
    error = {
        "message": "Step 1 failed",
        "sqlstate": "42P01",
        "statement": "INSERT INTO nowhere",
        "location": "up.sql.j2:3",
        "next": [ON],
    }
    text = reporting.as_page(reporting.build(events("preflight") + failed("apply", error)))
    for part in ("42P01", "INSERT INTO nowhere", "up.sql.j2:3", ON):
        assert part in text


def test_a_page_is_made_of_a_run_that_reached_no_host() -> None:
    assert "No phase was reached" in reporting.as_page(
        reporting.build(events(), error={"msg": "Host db1 cannot be reached", "unreachable": True})
    )


def test_the_page_lists_every_definition_and_keeps_them_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [{"kind": "index", "object": f"public.i{n}", "definition": f"CREATE INDEX i{n} ON <t>"} for n in range(300)]
    monkeypatch.setitem(RESULTS, "verify", {"passed": True, "definitions": made})
    report = reporting.build(events(*RESULTS))
    assert report["results"]["db1"]["school"]["verify"]["definitions"] == made
    text = reporting.as_page(report)
    assert "<details><summary>300 tables, indexes and constraints with their definitions</summary>" in text
    # More than the 200 entries after which other lists point to the JSON report.
    assert "<code>CREATE INDEX i299 ON &lt;t&gt;</code>" in text
    assert "<dt>definitions</dt>" not in text
    assert "<dt>passed</dt>" in text


def test_the_page_and_the_screen_tell_which_tables_have_other_rows_than_before(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = [{"table": f"public.t{n}", "before": 12_000, "after": 7, "estimate": n == 0} for n in range(7)]
    more = [{"table": "public.new", "before": None, "after": 3, "estimate": False}]
    rows = {"fewer": fewer, "more": more, "same": 5, "not_compared": ["public.x"]}
    monkeypatch.setitem(RESULTS, "preflight_after", {**RESULTS["preflight_after"], "level": "warn", "rows": rows})
    text = reporting.as_page(reporting.build(events(*RESULTS)))
    for part in (
        "public.t0 about 12,000 to about 7",
        "public.t6 12,000 to 7",
        "public.new is new with 3",
        "not compared: public.x",
    ):
        assert part in text, part
    lines = reporting.health_table("school", RESULTS["preflight_after"])
    assert lines[-2].split()[:5] == ["warn", "rows", "fewer", "than", "before:"]
    assert lines[-2].endswith("public.t4 12,000 to 7 and 2 more")
    assert lines[-1].endswith("more: public.new is new with 3; 1 not compared, as they were not counted both times")


def test_a_page_is_made_of_any_result(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = {
        "seconds": "soon",
        "bytes": None,
        "a_s": {},
        "list": [1, [2, {"x": None}]],
        "deep": {"a": {"b": {"c": {"d": {"e": 1}}}}},
        "x": 1.5,
    }
    monkeypatch.setitem(RESULTS, "verify", odd)
    assert "soon" in reporting.as_page(reporting.build(events(*RESULTS)))


def test_the_log_has_banners_and_time_stamps() -> None:
    lines = reporting.as_log(reporting.build(events(*RESULTS))).splitlines()
    assert re.match(r"^2026-01-01T12:00:00.000Z START migrate in staging, run ", lines[1])
    assert any(re.match(r"^2026-\S+Z db1 \(1/8\) preflight \(preflight\): ok 0.50 s$", line) for line in lines)
    assert re.search(r" END succeeded after ", lines[-2])


def test_the_log_stamps_what_a_phase_did_with_its_end_and_not_with_its_beginning() -> None:
    journal = events("backup", "prove", "apply") + failed("analyze", {"message": "no statistics"})
    for second, event in enumerate(journal):
        event["time"] = f"2026-01-01T12:00:{second:02}.000Z"
    lines = reporting.as_log(reporting.build(journal)).splitlines()
    ended = {
        event.get("phase"): event["time"] for event in journal if event["event"] in ("phase_finished", "phase_failed")
    }
    assert f"{ended['backup']} BACKUP db1 school: /var/backups/x (1206 kB)" in lines
    assert f"{ended['apply']} 20260101000000 applied in 0.25 s" in lines
    assert f"{ended['analyze']} db1 no statistics" in lines


def test_a_run_that_succeeded_says_what_may_be_typed_next() -> None:
    report = reporting.build(events(*RESULTS))
    commands = [
        "ansible-playbook status.yml -l staging",
        "ansible-playbook rollback.yml -l staging -e rollback_through=20260101000000",
    ]
    assert report["next"] == commands
    page = reporting.as_page(report)
    for command in commands:
        assert f'<pre class="copy" tabindex="0">{command}</pre>' in page
    assert (
        page.index("<h2>Type next</h2>")
        < page.index(commands[0])
        < page.index("<h2>Way back</h2>")
        < page.index(commands[1])
    )


def test_a_check_reads_like_none_that_wrote() -> None:
    report = reporting.build([{**events()[0], "check_mode": True}, *events(*RESULTS)[1:]])
    assert (report["state"], reporting.result_document(report)["check_mode"]) == (None, True)
    assert "migrate in staging succeeded in check mode, nothing was written, after" in "".join(
        reporting.screen(report, None)
    )
    assert report["next"] == ["ansible-playbook migrate.yml -l staging"]


def test_without_the_phase_that_applies_nothing_is_complete() -> None:
    skipped = reporting.build(
        [{**events()[0], "skip_tags": ["apply"], "phases": ["plan", "apply"]}, *events("plan")[1:]]
    )
    assert skipped["ok"] is True and skipped["state"] is None
    back = {**events()[0], "playbook": "rollback", "skip_tags": ["rollback"]}
    report = reporting.build([back, *events("verify")[1:]])
    assert report["state"] is None
    assert report["six_steps"][3]["told"] == "left out by --tags or --skip-tags"
    report = reporting.build([{**events()[0], "tags": ["plan"]}, *events("plan")[1:]])
    assert (report["ok"], report["state"]) == (True, None)


@pytest.mark.parametrize(
    ("host", "database"), [("db1", "webhook_events"), ("secretary-db", "school"), ("tokens", "secret")]
)
def test_a_host_or_a_database_may_be_named_like_a_secret(tmp_path: Path, host: str, database: str) -> None:
    journal = Journal(tmp_path, "staging", RUN["id"])
    for event in events(*RESULTS):
        named = {
            **event,
            **({"host": host} if "host" in event else {}),
            **({"hosts": [host]} if "hosts" in event else {}),
        }
        if "result" in named:
            named["result"] = {database: {**named["result"]["school"], "tables": {"public.api_tokens": 7}}}
        journal.append(named)
    report, page = reporting.finish(tmp_path, RUN)
    assert (report["ok"], page.is_file()) == (True, True)
    reporting.write_result(tmp_path / "result.json", reporting.result_document(report))
    found = json.loads((tmp_path / "result.json").read_text())["hosts"][host][database]
    assert found["apply"]["applied"][0]["version"] == "20260101000000"
    assert found["apply"]["tables"] == {"public.api_tokens": 7}
    assert reporting.screen(report, None)


def test_the_screen_ends_with_seconds_a_version_and_in_all() -> None:
    lines = reporting.screen(reporting.build(events(*RESULTS)), "/x.html")
    assert lines[0] == "    20260101000000 rooms: applied in 0.25 s"
    assert re.match(r"^pgops run \S+: migrate in staging succeeded after .*, at 20", lines[1])
    assert lines[-1] == "    report: /x.html"


def test_where_a_host_of_several_is_lost_the_rest_has_a_command_too() -> None:
    began, *rest = events("plan")
    lost = {
        "message": "Host db2 cannot be reached",
        "next": ["ansible db2 -m ansible.builtin.ping"],
        "unreachable": True,
    }
    journal = [{**began, "hosts": ["db1", "db2"]}, *rest, *failed("plan", {"message": "ssh"})]
    journal[-2]["host"] = journal[-1]["host"] = "db2"
    assert reporting.build(journal, error=lost)["next"] == [
        "ansible db2 -m ansible.builtin.ping",
        "ansible-playbook migrate.yml -l staging",
        "ansible-playbook migrate.yml -l db2",
    ]


def test_a_version_in_one_of_several_databases_is_told_with_its_place() -> None:
    other = {"event": "phase_started", "phase": "apply", "host": "db2", "databases": ["clinic"]}
    began, *rest = events(*RESULTS)
    told = reporting.screen(reporting.build([{**began, "hosts": ["db1", "db2"]}, *rest, other]), None)
    assert told[0] == "    20260101000000 rooms in school on db1: applied in 0.25 s"


def test_a_version_slower_than_it_expects_is_told_and_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_seconds(duration: float) -> dict[str, Any]:
        version = {"version": "20260101000000", "name": "rooms", "duration_s": duration, "expected_s": 5}
        monkeypatch.setitem(RESULTS, "apply", {"applied": [version]})
        return reporting.build(events(*RESULTS))

    report = with_seconds(7.2)
    assert report["ok"] is True
    assert reporting.screen(report, None)[1] == "    warn   20260101000000: took 7.2 s, expected 5 s"
    assert "WARN 20260101000000 took 7.2 s, expected 5 s" in reporting.as_log(report)
    assert '<span class="badge warn">warn</span> <span class="quiet">expected 5' in reporting.as_page(report)
    report = with_seconds(5.0)
    assert "expected" not in "".join(reporting.screen(report, None)) + reporting.as_log(report)
    assert '<br><span class="quiet">expected 5' in reporting.as_page(report)


def test_finishing_twice_ends_the_journal_once_and_keeps_files_private(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "staging", str(RUN["id"]))
    for event in events("preflight", "plan"):
        journal.append(event)
    for _ in range(2):
        report, page = reporting.finish(tmp_path, RUN, error={"msg": "no", "token": "geheim"})
    assert report["result"] == "failed"
    assert [event["event"] for event in journal.events()].count("run_failed") == 1
    for kind in ("html", "json", "log"):
        file = page.with_suffix(f".{kind}")
        assert file.stat().st_mode & 0o777 == 0o600
        assert "geheim" not in file.read_text()
    assert json.loads(page.with_suffix(".json").read_text())["run_id"] == RUN["id"]
    assert list(tmp_path.rglob("*.partial")) == []


def test_a_health_table_names_what_is_not_well_and_its_fix() -> None:
    found = {
        "checks": [{**CHECK, "level": "ok"}, CHECK, {**CHECK, "check": "other", "waived": "a reason"}],
        "facts": {},
        "worse": [],
        "better": [],
    }
    text = "\n".join(reporting.health_table("school", found))
    assert "health of school: 1 ok, 2 stop" in text
    assert "fix: ALTER TABLE x;" in text
    assert "waived: a reason" in text
    assert "nothing is worse" in text


def of_a_restore(*ended: dict[str, Any], swap: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The journal of a rollback by restore whose swap ended with this, or never came to its end."""
    run = {**RUN, "playbook": "rollback", "command": "ansible-playbook rollback.yml"}
    made: list[dict[str, Any]] = [{"event": "run_started", "time": "2026-01-01T12:00:00.000Z", **run}]
    for phase, found in (("disclose", {"backup": "/backups/one"}), ("restore", {"staged": "copy"}), ("swap", swap)):
        shared = {"time": "2026-01-01T12:00:01.000Z", "phase": phase, "host": "db1"}
        made.append({"event": "phase_started", **shared})
        if found is not None:
            made.append(
                {"event": "phase_finished", "duration_s": 0.5, "changed": True, "result": {"school": found}, **shared}
            )
    return [*made, *ended]


TYPED = {"given": {"variables": {"rollback_strategy": "restore", "rollback_confirm": "school"}}}
AGAIN = "ansible-playbook rollback.yml -l staging -e rollback_strategy=restore -e rollback_confirm=school"
BACK = "ansible-playbook rollback.yml -l staging -e rollback_strategy=swap -e rollback_swap_to=aside"


@pytest.mark.parametrize(
    "next_of_the_failure", [[], [AGAIN], ["ansible-playbook verify.yml -l staging"]], ids=["none", "again", "verify"]
)
def test_behind_a_swap_the_restore_is_not_told_to_be_typed_again(next_of_the_failure: list[str]) -> None:
    """Its choice would be made from the ledger of the backup, and go further back."""
    broken = failed("verify", {"message": "no", "next": next_of_the_failure})
    report = reporting.build(of_a_restore(*broken, swap={"aside": "aside", "way_back": BACK}), run=TYPED)
    assert report["next"] == ["ansible-playbook verify.yml -l staging", BACK]
    assert report["state"] == "partial"


def test_where_nobody_knows_whether_names_were_swapped_the_backup_is_named() -> None:
    report = reporting.build(of_a_restore(swap=None), run=TYPED, interrupted=True)
    assert report["next"] == [
        "ansible-playbook status.yml -l staging",
        "ansible-playbook rollback.yml -l staging -e rollback_strategy=restore -e rollback_backup=/backups/one",
    ]


def test_the_forecast_of_a_rehearsal_stands_beside_the_seconds_of_its_step() -> None:
    steps = [
        {"step": 1, "kind": "sql", "name": "up", "duration_s": 2.0},
        {"step": 2, "kind": "analyze", "name": None, "duration_s": 1.0},
    ]
    applied = {"applied": [{"version": "1", "duration_s": 3.0, "step_durations": steps}]}
    foretold = {
        "steps": [{"version": "1", "ordinal": 1, "forecast": 1.5}, {"version": "2", "ordinal": 2, "forecast": 9.0}]
    }
    (version,) = reporting._versions({"h": {"d": {"apply": applied, "rehearsal_actual": foretold}}})
    assert [step.get("forecast_s") for step in version["step_durations"]] == [1.5, None]
