# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hooks are due where, which cannot be meant, and what a run has to bring back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.whitecross.pgops.plugins.plugin_utils import application_hooks as hooks
from ansible_collections.whitecross.pgops.plugins.plugin_utils import bring_back, run_outcome
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal, new_run_id
from ansible_collections.whitecross.pgops.plugins.plugin_utils.taken_away import TakenAway
from support.podman import ROOT

TRUE = {"argv": ["true"]}
ALL = {kind: [TRUE] for kind in hooks.KINDS}


def kinds(stage: str, declared: dict[str, Any] = ALL, **options: Any) -> list[str]:
    given = {"first": hooks.KINDS, "out": {}, **options}
    return [item["kind"] for item in hooks.due(stage, declared, **given)]


def test_what_is_taken_away_last_comes_back_first() -> None:
    assert kinds("before") == ["metrics", "divert_traffic", "maintenance_on", "stop"]
    out = dict.fromkeys(hooks.BROUGHT_BACK_BY, True)
    looks = ["health", "smoke_test"]
    assert kinds("after", out=out) == ["start", "maintenance_off", *looks, "restore_traffic", "metrics"]
    assert kinds("back", out=out) == ["start", "maintenance_off", "restore_traffic"]
    assert kinds("emergency") == ["maintenance_on", "alert"]
    assert kinds("maintenance_on") == ["maintenance_on"]


def test_only_what_is_away_comes_back() -> None:
    assert kinds("back", out={"stop": True}) == ["start"]
    assert kinds("after", out={"stop": True}) == ["start", "health", "smoke_test", "metrics"]
    assert kinds("before", out={"maintenance_on": True}) == ["metrics", "divert_traffic", "stop"]


def test_a_start_without_a_stop_is_run_after_the_change_only() -> None:
    assert kinds("after", {"start": [TRUE]}) == ["start"]
    assert kinds("back", {"start": [TRUE]}) == []


def test_a_hook_runs_once_for_a_batch_unless_it_is_for_each_host() -> None:
    declared = {
        "divert_traffic": [TRUE, {**TRUE, "each_host": True}],
        "restore_traffic": [TRUE, {**TRUE, "each_host": True}],
    }
    assert [item["number"] for item in hooks.due("before", declared, first=hooks.KINDS, out={})] == [0, 1]
    (other,) = hooks.due("before", declared, first=(), out={})
    assert (other["number"], other["last"]) == (1, True)
    # Whichever host is the first by then: it brings back what it has taken away.
    assert len(hooks.due("back", declared, first=(), out={"divert_traffic": True})) == 2
    assert len(hooks.due("back", declared, first=hooks.KINDS, out={"divert_traffic": False})) == 1


def test_what_the_first_host_is_to_bring_back_for_all_is_said_of_each_hook() -> None:
    declared = {"divert_traffic": [TRUE], "stop": [{**TRUE, "each_host": True}]}
    found = hooks.due("before", declared, first={"divert_traffic"}, out={})
    assert [(item["kind"], item["first"]) for item in found] == [("divert_traffic", True), ("stop", False)]


@pytest.mark.parametrize(
    ("run", "has_work"),
    [
        ({}, True),
        ({"plan": {"a": {"pending": []}, "b": {"pending": [{"version": "1"}]}}}, True),
        ({"plan": {"a": {"pending": []}}}, False),
        ({"resume": {"a": {"state": "nothing"}}}, True),
        ({"resume": {"a": {"state": "nothing"}, "b": {"state": "completed"}}}, False),
    ],
)
def test_a_host_that_the_run_leaves_alone_runs_no_hooks(run: dict[str, Any], has_work: bool) -> None:
    assert hooks.has_work(run) is has_work


def test_a_watch_looks_at_the_probes_until_its_end() -> None:
    assert hooks.watch_times(1, 15) == [15, 30, 45, 60]
    assert hooks.watch_times(0.01, 15) == [0.6]
    assert hooks.watch_times(0, 15) == []
    found = hooks.due("after", ALL, first=hooks.KINDS, out={}, watch=[5.0, 10.0])
    assert [(item["kind"], item["at"]) for item in found if "at" in item] == [
        ("health", 5.0), ("metrics", 5.0), ("health", 10.0), ("metrics", 10.0),
    ]  # fmt: skip
    assert "watch" not in kinds("before", watch=[5.0])


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"hooks_divert_traffic": [TRUE]}, "hooks_divert_traffic is set and hooks_restore_traffic is not"),
        ({"hooks_maintenance_on": [TRUE]}, "hooks_maintenance_off is not, so nothing would bring it back"),
        ({"hooks_health": "true"}, "hooks_health is no list of hooks"),
        ({"hooks_health": [{"argv": "true --now"}]}, "hook 1 of hooks_health has an argv that is no list"),
        (
            {"hooks_health": [TRUE, {"argv": ["a"], "url": "http://b"}]},
            "hook 2 of hooks_health has argv and url of argv",
        ),
        ({"hooks_health": [{"name": "x"}]}, "has none of argv, url and url_file"),
        ({"hooks_health": [{**TRUE, "timout": 3}]}, "timout, which is no part of a hook (did you mean timeout?)"),
        ({"hooks_health": [{**TRUE, "timeout": "long"}]}, "timeout that is no number of seconds"),
        ({"hooks_health": [{**TRUE, "timeout": 0}]}, "timeout that is no number of seconds"),
        ({"hooks_health": [{**TRUE, "limits": {"p99_ms": 3}}]}, "limits, which are for hooks_metrics"),
        ({"hooks_health": ["true"]}, "is no mapping"),
    ],
)
def test_a_hook_that_cannot_be_meant_is_refused(variables: dict[str, Any], told: str) -> None:
    assert told in str(hooks.refusal(variables))


def test_a_secret_of_a_vault_is_refused_where_others_would_see_it() -> None:
    class EncryptedString(str):
        """As Ansible's own is called."""

    assert "a secret in argv or url" in str(hooks.refusal({"hooks_health": [{"argv": ["a", EncryptedString("b")]}]}))
    assert hooks.refusal({"hooks_health": [{**TRUE, "environment": {"A": EncryptedString("b")}}]}) is None


def test_templates_are_left_to_the_hook_itself() -> None:
    assert hooks.refusal({"hooks_health": "{{ mine }}"}) is None
    assert hooks.refusal({"hooks_health": [{"argv": "{{ mine }}", "timeout": "{{ long }}"}]}) is None
    assert hooks.declared({"hooks_health": "{{ mine }}", "hooks_stop": []}) == ["health"]


def begun(state: Path, pid: int) -> str:
    run_id = new_run_id()
    Journal(state, "local", run_id).append({"event": "run_started", "pid": pid})
    return run_id


def test_what_a_dead_run_took_away_is_the_next_ones_to_bring_back(tmp_path: Path) -> None:
    away = TakenAway(tmp_path, "local")
    dead, mine = begun(tmp_path, 2**22 + 1), begun(tmp_path, os.getpid())
    away.note("db/1", "stop", dead, first=True)
    assert away.to_bring_back("db/1", mine)["stop"].run_id == dead
    assert away.to_bring_back("db2", mine) == {}
    away.note("db/1", "stop", mine, first=False)
    assert away.to_bring_back("db/1", mine)["stop"].first is True, "the first host's hooks are still to be undone"
    away.clear("db/1", "stop")
    assert away.all() == []


def test_what_a_living_run_took_away_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = TakenAway(tmp_path, "local")
    monkeypatch.setattr("ansible_collections.whitecross.pgops.plugins.plugin_utils.journal.is_alive", lambda _pid: True)
    other, mine = begun(tmp_path, 1), begun(tmp_path, 1)
    away.note("db1", "stop", other, first=True)
    assert away.to_bring_back("db1", mine) == {}
    away.note("db1", "stop", mine, first=True)
    assert away.to_bring_back("db1", other)["stop"].run_id == other
    Journal(tmp_path, "local", other).append({"event": "run_finished"})
    assert away.to_bring_back("db1", mine)["stop"].run_id == other


def test_a_file_that_cannot_be_read_counts_as_taken_away(tmp_path: Path) -> None:
    away = TakenAway(tmp_path, "local")
    away.note("db1", "stop", new_run_id(), first=True)
    (away.folder / "db1" / "stop.json").write_text("{")
    assert set(away.to_bring_back("db1", new_run_id())) == {"stop"}


def test_another_playbook_is_called_as_the_first_one_was() -> None:
    typed = [
        "/bin/ansible-playbook",
        "-i",
        "here",
        "site/migrate.yml",
        "--tags",
        "apply",
        "-l",
        "staging",
        "--step",
        "-e",
        "a=b",
    ]
    words = bring_back.another(typed, "ansible-playbook site/migrate.yml", "ansible-playbook site/stop.yml")
    assert words[1:] == ["-m", "ansible", "playbook", "-i", "here", "site/stop.yml", "-l", "staging", "-e", "a=b"]


@pytest.mark.parametrize(
    ("typed", "left"),
    [
        (["-tapply"], []),
        (["-t", "apply"], []),
        (["-vvtapply"], ["-vv"]),
        (["-Dt", "apply"], ["-D"]),
        (["--tag", "apply"], []),
        (["--ta=apply"], []),
        (["--skip", "hooks"], []),
        (["--skip-tags=hooks"], []),
        (["--start", "Apply"], []),
        (["--ste"], []),
        (["-T", "30", "--timeout", "30", "-vv"], ["-T", "30", "--timeout", "30", "-vv"]),
        (["-istaging", "-bett=1"], ["-istaging", "-bett=1"]),
        (["-be", "-t=1"], ["-be", "-t=1"]),
    ],
)
def test_no_spelling_of_a_tag_reaches_the_playbook_that_brings_back(typed: list[str], left: list[str]) -> None:
    words = bring_back.another(
        ["ansible-playbook", *typed, "migrate.yml", "-l", "a"], "ansible-playbook migrate.yml", "ansible-playbook x.yml"
    )
    assert words[4:] == [*left, "x.yml", "-l", "a"]


def test_the_tags_of_the_environment_do_not_keep_users_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_RUN_TAGS", "apply")
    monkeypatch.setenv("ANSIBLE_SKIP_TAGS", "hooks")
    run_id = begun(tmp_path, os.getpid())
    TakenAway(tmp_path, "local").note("db1", "stop", run_id, first=True)
    run = {
        "id": run_id, "journal": str(Journal(tmp_path, "local", run_id).path), "environment": "local",
        "command": "ansible-playbook migrate.yml", "hooks": ["stop"], "playbook": "migrate",
    }  # fmt: skip
    shown = "import os; print([os.environ.get(f'ANSIBLE_{name}_TAGS') for name in ('RUN', 'SKIP')])"
    monkeypatch.setattr(bring_back, "another", lambda *_: [sys.executable, "-c", shown])
    said: list[str] = []
    assert bring_back.bring_back(run, [], ["hooks"], interrupted=False, say=said.append)
    assert "    ['all', '']" in said
    # One that could not so much as begin has left no word in the journal; the report is told all the same.
    (told,) = [event for event in Journal(tmp_path, "local", run_id).events() if event["event"] == "hook"]
    assert (told["host"], told["hook"]["stage"], told["hook"]["kind"], told["hook"]["done"]) == (
        "db1",
        "back",
        "start",
        "no",
    )
    (play,) = yaml.safe_load((ROOT / "playbooks" / "hooks.yml").read_text(encoding="utf-8"))
    assert all("always" in task["tags"] for task in [*play["tasks"][0]["block"], *play["tasks"][0]["always"]])


def test_what_was_tried_is_not_tried_again_and_keeps_nothing_else_away(tmp_path: Path) -> None:
    run_id = begun(tmp_path, os.getpid())
    journal, taken = Journal(tmp_path, "local", run_id), TakenAway(tmp_path, "local")
    for host in ("db1", "db2"):
        for kind in ("divert_traffic", "stop"):
            taken.note(host, kind, run_id, first=True)
    tried = {"stage": "back", "kind": "restore_traffic", "label": "restore traffic", "on": "localhost", "done": "no"}
    journal.append({"event": "phase_failed", "phase": "hooks", "host": "db2", "hook": tried})
    run = {"id": run_id, "journal": str(journal.path), "environment": "local", "hooks": ["divert_traffic", "stop"]}
    assert [(left.host, left.kind) for left in bring_back.left_by(run)] == [
        ("db1", "divert_traffic"), ("db1", "stop"), ("db2", "stop"),
    ]  # fmt: skip


SECOND_CTRL_C = """
import os, signal, subprocess, sys
from ansible_collections.whitecross.pgops.plugins.callback.record import CallbackModule
record = CallbackModule()
record._ours = True
def again(*_arguments, **_options):
    os.kill(os.getpid(), signal.SIGINT)
    print("written" if _arguments else "brought back", flush=True)
record._write = again
record._bring_back = lambda *_arguments, **_options: again()
signal.signal(signal.SIGINT, signal.SIG_DFL)  # as Ansible does at the first
record._at_exit()
shown = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
subprocess.run([sys.executable, "-c", shown], check=True)
"""


def test_a_second_ctrl_c_changes_nothing_and_what_a_hook_starts_still_heeds_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SECOND_CTRL_C], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "collections")},
    )  # fmt: skip
    assert (done.returncode, done.stdout.split("\n")) == (0, ["written", "brought back", "True", ""]), done.stderr


def test_each_kind_is_recorded_as_yes_no_or_not_applicable() -> None:
    hook = {"stage": "before", "kind": "stop", "label": "stop", "on": "localhost"}
    events: list[dict[str, Any]] = [
        {"event": "phase_started", "phase": "hooks", "host": "db1", "hook": hook},
        {"event": "phase_finished", "phase": "hooks", "host": "db1", "hook": {**hook, "done": "yes"}},
        {
            "event": "phase_started",
            "phase": "hooks",
            "host": "db1",
            "hook": {**hook, "kind": "health", "label": "health"},
        },
    ]
    found = run_outcome.hooks("migrate", False, ["stop", "start", "health", "alert"], events)
    assert {item["kind"]: item["done"] for item in found} == {
        "divert_traffic": "not applicable", "maintenance_on": "not applicable", "stop": "yes", "start": "no",
        "maintenance_off": "not applicable", "health": "no", "smoke_test": "not applicable",
        "restore_traffic": "not applicable", "metrics": "not applicable", "alert": "not applicable",
    }  # fmt: skip
    assert run_outcome.hooks_line(run_outcome.hooks("migrate", True, [], [])) == "hooks: not applicable"
    assert run_outcome.hooks_line(run_outcome.hooks("status", True, ["stop"], [])) is None


CHANGED_OVER = {"outage_ms": 812.5, "kept": "/var/lib/postgresql/main_old"}


@pytest.mark.parametrize(
    ("rows", "results", "state"),
    [
        ([("plan", "failed")], {}, "failed"),
        ([("apply", "failed")], {"apply": {"applied": []}}, "failed"),
        ([("apply", "failed")], {"apply": {"stopped": [{"state": "failed at step 1 of 3"}]}}, "failed"),
        ([("apply", "failed")], {"apply": {"stopped": [{"state": "failed at step 2 of 3"}]}}, "partial"),
        ([("apply", "failed")], {"apply": {"applied": [{"version": "1"}]}}, "partial"),
        ([("apply", "unfinished")], {}, "partial"),
        ([("apply", "changed"), ("verify", "failed")], {"apply": {"applied": [{"version": "1"}]}}, "partial"),
        ([("swap", "changed"), ("verify", "failed")], {}, "partial"),
        ([("revert", "failed")], {"revert": {"reverted": [{"version": "1"}]}}, "partial"),
        ([("restore", "changed"), ("verify", "failed")], {"restore": CHANGED_OVER}, "partial"),
        ([("restore", "failed")], {"restore": CHANGED_OVER}, "partial"),
        ([("resume", "changed"), ("verify", "failed")], {"resume": {"state": "completed", **CHANGED_OVER}}, "partial"),
        ([("restore", "unfinished")], {"disclose": {"target": "restore point p"}}, "partial"),
        ([("restore", "failed")], {"disclose": {"target": "restore point p"}}, "failed"),
        # Beside the live database, which its swap alone touches.
        ([("restore", "unfinished")], {"disclose": {"backup": "/b/1"}}, "failed"),
        ([("restore", "changed"), ("swap", "failed")], {"restore": {"staged": "school_new"}}, "failed"),
    ],
)
def test_a_run_that_did_not_succeed_is_partial_where_it_changed_something(
    rows: list[tuple[str, str]], results: dict[str, Any], state: str
) -> None:
    steps = [{"phase": phase, "result": result, "host": "db1"} for phase, result in rows]
    assert run_outcome.final_state("migrate", False, steps, {"db1": {"school": results}}) == state
    assert run_outcome.final_state("migrate", True, steps, {}) == "complete"
    assert run_outcome.final_state("status", True, steps, {}) is None
