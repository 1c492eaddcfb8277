# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Prometheus is told of a run, in the file that node_exporter reads; and that alerts and dashboard ask for nothing else."""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.whitecross.pgops.plugins.module_utils import timer_state
from ansible_collections.whitecross.pgops.plugins.module_utils.timer_state import TimerPlace
from ansible_collections.whitecross.pgops.plugins.plugin_utils import metrics, metrics_files, reporting
from ansible_collections.whitecross.pgops.plugins.plugin_utils.metrics import LEVELS, METRICS, STATES, Sample
from ansible_collections.whitecross.pgops.plugins.plugin_utils.metrics_files import NotWritten
from prometheus_client.parser import text_string_to_metric_families
from support.podman import ROOT

ALERTS = ROOT / "monitoring" / "alerts.yml"
DASHBOARD = ROOT / "monitoring" / "dashboard.json"
PAGE = ROOT / "docs" / "metrics.md"

BACKUP = {"path": "/b/school/20260101", "finished": "2026-01-01T01:30:00+00:00", "bytes": 4096, "seconds": 12.5}
PROOF = {"proved_at": "2026-01-01T01:31:00Z", "level": 5}
DRILL = {"verdict": "passed", "level": 4, "ready_seconds": 33.25}
CHECKS = [
    {"level": "ok"},
    {"level": "ok"},
    {"level": "warn"},
    {"level": "warn", "waived": "Ada said so"},
    {"level": "stop"},
]
VERIFIED = {"findings": [{"level": "fail", "found": "Ada Lovelace"}, {"level": "warn"}]}
STATUS = {"counts": {"applied": 7, "pending": 2, "failed": 1}}
MAINTAINED = {"counts": {"done": 3, "not begun": 1}, "given_back": 8192}
RECORD = {
    "jobs": {
        "backup": {"installed_at": "2026-01-01T00:00:00Z", "expected_every_s": 87300},
        "drill": {"installed_at": "2026-01-01T00:00:00Z", "expected_every_s": 605700},
    }
}  # fmt: skip


def report(*results: tuple[str, str, Any], host: str = "db1", playbook: str = "backup", **given: Any) -> dict[str, Any]:
    """:param results: phase, database and what the phase found there."""
    events: list[dict[str, Any]] = [
        {"event": "run_started", "time": "2026-01-01T01:29:00Z", "run_id": "20260101T012900Z-0a1b2c", "playbook": playbook,
         "environment": "production", "hosts": [host], **given.pop("began", {})},
    ]  # fmt: skip
    for phase, database, found in results:
        events.append({"event": "phase_started", "phase": phase, "host": host})
        events.append({"event": "phase_finished", "phase": phase, "host": host, "result": {database: found}})
    return reporting.build(events, **given)


def everything() -> dict[str, Any]:
    return report(
        ("backup", "school", BACKUP), ("prove", "school", PROOF), ("drill", "school", DRILL),
        ("preflight", "school", {"checks": CHECKS}), ("verify", "school", VERIFIED), ("status", "school", STATUS),
        ("maintenance", "school", MAINTAINED),
    )  # fmt: skip


class Ops:
    """An ops host: where it keeps what it knows, and the folder of the textfile collector."""

    def __init__(self, folder: Path) -> None:
        self.state, self.directory = folder / "state", folder / "textfile collector"
        self.directory.mkdir()

    def leave(
        self, told: Mapping[str, Any], directory: str | None = None, hosts: list[str] | None = None
    ) -> Path | None:
        return metrics_files.leave(told, self.state, str(self.directory) if directory is None else directory, hosts)

    def read(self, kind: str = "runs") -> dict[tuple[str, ...], float]:
        """:return: the name of each sample and the values of its labels but the environment -> value."""
        text = metrics_files.file_of(self.directory, "production", kind).read_text(encoding="utf-8")
        return {
            (
                sample.name,
                *(value for label, value in sorted(sample.labels.items()) if label != "environment"),
            ): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def schedule(self, **beats: dict[str, Any]) -> TimerPlace:
        place = TimerPlace(str(self.state), "production")
        timer_state.write(place.record, RECORD)
        for name, beat in beats.items():
            timer_state.write(place.heartbeat(name), beat)
        return place


@pytest.fixture
def ops(tmp_path: Path) -> Ops:
    return Ops(tmp_path)


# -- what a run tells -----------------------------------------------------------------------------------------------------


def test_a_run_tells_what_it_found(ops: Ops) -> None:
    ops.leave(everything())
    found = ops.read()
    assert found["pgops_backup_timestamp_seconds", "school", "db1"] == 1767231000
    assert found["pgops_backup_size_bytes", "school", "db1"] == 4096
    assert found["pgops_backup_proof_level", "school", "db1"] == 5
    assert found["pgops_backup_proof_timestamp_seconds", "school", "db1"] == 1767231060
    assert found["pgops_drill_rto_seconds", "school", "db1"] == 33.25
    assert [found["pgops_preflight_checks", "school", "db1", level] for level in LEVELS] == [2, 1, 1, 1]
    assert found["pgops_verify_failures", "school", "db1"] == 1
    assert found["pgops_pending_versions", "school", "db1"] == 2
    assert found["pgops_failed_versions", "school", "db1"] == 1
    assert found["pgops_maintenance_items", "school", "db1", "not_begun"] == 1
    assert found["pgops_run_success", "backup"] == 1
    assert found["pgops_last_success_timestamp_seconds", "school", "db1", "backup"] > 1767231000


def test_every_metric_is_one_that_something_tells_and_no_other() -> None:
    told = {sample.name for sample in metrics.of_report(everything())}
    beat = {"at": "2026-01-02T01:30:00Z", "last_success": "2026-01-02T01:30:00Z", "result": "success"}
    told |= {sample.name for sample in metrics.of_timers("production", RECORD, {"backup": beat})}
    assert told == set(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_names_follow_the_conventions(name: str) -> None:
    """Prometheus: a prefix, base units, the unit last; no colon, no _total of what is no counter."""
    assert re.fullmatch(r"pgops_[a-z]+(_[a-z]+)*", name) and not name.endswith(("_total", "_count", "_sum", "_bucket"))
    assert not re.search(r"_(ms|milliseconds|minutes|hours|days|kb|mb|percent)(_|$)", name)
    assert not ("timestamp" in name and not name.endswith("_timestamp_seconds"))
    assert METRICS[name].told.endswith(".")
    # What Prometheus sets itself at each scrape.
    assert not {"job", "instance"} & set(METRICS[name].labels)


def test_a_failed_run_keeps_the_last_success_and_what_it_did_not_look_at(ops: Ops) -> None:
    ops.leave(everything())
    before = ops.read()
    ops.leave(report(error={"msg": "the disk is full"}))
    after = ops.read()
    success = ("pgops_last_success_timestamp_seconds", "school", "db1", "backup")
    assert after["pgops_run_success", "backup"] == 0
    assert after["pgops_run_state", "backup", "failed"] == 1
    assert after["pgops_run_state", "backup", "succeeded"] == 0
    assert after[success] == before[success]
    assert after["pgops_backup_timestamp_seconds", "school", "db1"] == 1767231000


def test_a_migration_that_was_slow_or_done_in_part_says_so() -> None:
    version = {"version": "20260101000000", "duration_s": 9.0, "expected_s": 2.0}
    told = report(("apply", "school", {"applied": [version]}), playbook="migrate", error={"msg": "boom"})
    values = {(sample.name, sample.labels.get("state")): sample.value for sample in metrics.of_report(told)}
    assert values["pgops_run_slow_versions", None] == 1
    assert [state for state in STATES if values["pgops_run_state", state]] == ["partial"]


def test_a_drill_that_failed_gives_no_time_to_recover(ops: Ops) -> None:
    ops.leave(report(("drill", "school", DRILL)))
    ops.leave(report(("drill", "school", {"verdict": "failed", "level": 1, "ready_seconds": 0.5})))
    assert ops.read()["pgops_drill_success", "school", "db1"] == 0
    assert ops.read()["pgops_drill_rto_seconds", "school", "db1"] == 33.25


def test_versions_of_a_status_with_a_prefix_are_not_all_of_them(ops: Ops) -> None:
    ops.leave(everything())
    began = {"extra_variables": {"status_prefix": "2026"}}
    ops.leave(report(("status", "school", {"counts": {"applied": 1}}), playbook="status", began=began))
    assert ops.read()["pgops_pending_versions", "school", "db1"] == 2


def test_a_state_that_is_no_more_is_gone(ops: Ops) -> None:
    ops.leave(everything())
    ops.leave(report(("maintenance", "school", {"counts": {"done": 1}, "given_back": 0})))
    states = {labels[-1] for labels in ops.read() if labels[0] == "pgops_maintenance_items"}
    assert states == {"done"}


def test_hosts_and_environments_stand_beside_each_other(ops: Ops) -> None:
    ops.leave(report(("backup", "school", BACKUP)))
    ops.leave(report(("backup", "school", BACKUP), host="db2"), hosts=["db1", "db2"])
    hosts = {key[2] for key in ops.read() if key[0] == "pgops_backup_size_bytes"}
    assert hosts == {"db1", "db2"}
    # One that has left the inventory is no backup that grows old for ever.
    ops.leave(report(("backup", "school", BACKUP), host="db2"), hosts=["db2"])
    assert {key[2] for key in ops.read() if key[0] == "pgops_backup_size_bytes"} == {"db2"}


def test_no_words_of_anybody_are_told(ops: Ops) -> None:
    told = report(
        ("verify", "school", VERIFIED),
        ("preflight", "school", {"checks": CHECKS}),
        error={"msg": "INSERT 'Ada Lovelace'"},
    )
    path = ops.leave({**told, "who": "grace", "why": "ticket of Ada"})
    assert path is not None
    kept = (ops.state / "metrics" / "production.json").read_text()
    assert not re.search("Ada|INSERT|grace|ticket", path.read_text() + kept)


# -- the file -------------------------------------------------------------------------------------------------------------


def test_node_exporter_may_read_the_file_and_nothing_is_left_beside_it(ops: Ops) -> None:
    previous = os.umask(0o077)
    try:
        path = ops.leave(everything())
    finally:
        os.umask(previous)
    assert path is not None and stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [entry.name for entry in ops.directory.iterdir()] == ["pgops-production-runs.prom"]
    assert stat.S_IMODE((ops.state / "metrics" / "production.json").stat().st_mode) == 0o600
    assert "# TYPE pgops_run_success gauge" in path.read_text()


def test_a_check_and_a_run_without_an_id_write_nothing(ops: Ops) -> None:
    assert ops.leave({**everything(), "check_mode": True}) is None
    assert ops.leave({**everything(), "run_id": None}) is None
    assert not ops.state.exists() and list(ops.directory.iterdir()) == []


def test_without_a_folder_nothing_is_written_and_what_stands_in_an_earlier_one_goes(ops: Ops) -> None:
    assert ops.leave(everything(), directory="") is None
    assert not ops.state.exists()
    ops.schedule()
    ops.leave(everything())
    assert len(list(ops.directory.iterdir())) == 2
    assert ops.leave(report(playbook="status"), directory="") is None
    assert list(ops.directory.iterdir()) == []
    assert metrics_files.leave_timers(ops.state, "production") is None
    # What was known is known again.
    ops.leave(report(playbook="status"))
    assert ops.read()["pgops_backup_size_bytes", "school", "db1"] == 4096


def test_a_folder_that_is_not_there_is_told_and_what_the_run_found_is_kept(ops: Ops) -> None:
    ops.directory.rmdir()
    with pytest.raises(NotWritten, match="cannot be written: No such file or directory; pgops_metrics_directory is"):
        ops.leave(everything())
    ops.directory.mkdir()
    ops.leave(report(playbook="status"))
    assert ops.read()["pgops_backup_size_bytes", "school", "db1"] == 4096


def test_a_full_disk_leaves_the_file_of_before(ops: Ops, small_disk: Path) -> None:
    ops.directory = small_disk
    path = ops.leave(everything())
    assert path is not None
    before = path.read_text()
    ballast = os.open(small_disk / "ballast", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError, match="No space left"):
        while True:
            os.write(ballast, b"x" * 4096)
    os.close(ballast)
    with pytest.raises(NotWritten, match="No space left on device"):
        ops.leave(report(("backup", "school", BACKUP), host="h" * 9000))
    assert path.read_text() == before
    assert not list(small_disk.glob("*.partial"))


def test_a_link_in_the_place_of_the_partial_file_is_not_followed(ops: Ops) -> None:
    victim = ops.state.with_name("victim")
    victim.write_text("mine")
    name = f"pgops-production-runs.prom.{os.getpid()}.partial"
    (ops.directory / name).symlink_to(victim)
    ops.leave(everything())
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 99}', '{"format": 1, "samples": [{"name": "x"}, 3, null]}']
)
def test_what_is_kept_and_cannot_be_understood_is_begun_anew(ops: Ops, text: str) -> None:
    kept = ops.state / "metrics" / "production.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(text)
    ops.leave(everything())
    assert ops.read()["pgops_run_success", "backup"] == 1


def test_without_the_package_the_sentence_says_what_to_install(ops: Ops, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    with pytest.raises(NotWritten, match="pip install prometheus-client"):
        ops.leave(everything())


def test_runs_that_end_at_once_lose_nothing_of_each_other(ops: Ops) -> None:
    reports = [report(("backup", "school", BACKUP), host=f"db{number}") for number in range(8)]
    threads = [threading.Thread(target=ops.leave, args=(told,)) for told in reports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key[2] for key in ops.read() if key[0] == "pgops_backup_size_bytes"}) == 8


def test_odd_names_survive_the_format() -> None:
    odd = 'a"b\\c\nd, {e}'
    text = metrics_files.text_of(
        [Sample("pgops_backup_size_bytes", 1, {"environment": "e", "host": odd, "database": odd})]
    )
    (family,) = text_string_to_metric_families(text)
    assert family.samples[0].labels["database"] == odd


# -- timers ---------------------------------------------------------------------------------------------------------------


def test_a_timer_tells_its_last_success_and_one_that_never_ran_when_it_was_installed(ops: Ops) -> None:
    beat = {"at": "2026-01-03T01:30:00Z", "last_success": "2026-01-02T01:30:00Z", "result": "failed", "exit_code": 2}
    ops.schedule(backup=beat)
    ops.leave(report(playbook="schedule"))
    found = ops.read("timers")
    assert found["pgops_timer_last_success_timestamp_seconds", "backup"] == 1767317400
    assert found["pgops_timer_success", "backup"] == 0
    assert found["pgops_timer_expected_interval_seconds", "drill"] == 605700
    assert ("pgops_timer_last_success_timestamp_seconds", "drill") not in found
    assert found["pgops_timer_installed_timestamp_seconds", "drill"] == 1767225600


def test_timers_that_were_removed_are_told_no_more(ops: Ops) -> None:
    place = ops.schedule()
    ops.leave(report(playbook="schedule"))
    Path(place.record).unlink()
    ops.leave(report(playbook="schedule"))
    assert [entry.name for entry in ops.directory.iterdir()] == ["pgops-production-runs.prom"]


# -- who asks for them ----------------------------------------------------------------------------------------------------


def expressions() -> list[str]:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [
        str(variable["query"]["query"])
        for variable in board["templating"]["list"]
        if isinstance(variable["query"], dict)
    ]
    assert len(rules) > 15 and len(asked) > 12
    return [rule["expr"] for rule in rules] + asked


def faults(expression: str) -> list[str]:
    """:return: metrics, labels and values in an expression that nothing writes."""
    found = [name for name in re.findall(r"\bpgops_\w+", expression) if name not in METRICS]
    for name, selected in re.findall(r"\b(pgops_\w+)\{([^}]*)\}", expression):
        metric = METRICS.get(name)
        for label, how, value in re.findall(r"(\w+)\s*(=~|!~|!=|=)\s*\"([^\"]*)\"", selected):
            if metric and label not in metric.labels:
                found.append(f"{name} has no label {label}")
            known = (
                {"pgops_preflight_checks": LEVELS, "pgops_run_state": STATES}.get(name)
                if label in ("level", "state")
                else None
            )
            if known and how in ("=", "!=") and value not in known:
                found.append(f"{label} is never {value}")
    return found


def test_alerts_and_dashboard_ask_for_what_is_written() -> None:
    assert [fault for expression in expressions() for fault in faults(expression)] == []


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("pgops_backup_age_seconds > 1", "pgops_backup_age_seconds"),
        ('pgops_preflight_checks{level="error"} > 0', "level is never error"),
        ('pgops_backup_size_bytes{playbook="backup"}', "pgops_backup_size_bytes has no label playbook"),
        ('pgops_run_state{state="rolled back"}', "state is never rolled back"),
    ],
)
def test_an_expression_that_asks_for_something_else_is_seen(expression: str, told: str) -> None:
    assert faults(expression) == [told]


def test_an_alert_says_what_to_do_and_names_labels_that_its_metric_has() -> None:
    for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            assert set(rule["annotations"]) == {"summary", "action"} and rule["labels"]["severity"]
            used = set(re.findall(r"\$labels\.(\w+)", "".join(rule["annotations"].values())))
            for name in re.findall(r"\bpgops_\w+", rule["expr"]):
                assert used <= set(METRICS[name].labels), rule["alert"]


def test_the_page_names_every_metric_and_every_alert() -> None:
    page = PAGE.read_text(encoding="utf-8")
    alerts = [
        rule["alert"]
        for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]
    assert [name for name in METRICS if f"`{name}`" not in page] == []
    assert [alert for alert in alerts if f"`{alert}`" not in page] == []
    assert set(re.findall(r"`(pgops_(?!metrics_directory|state_directory)\w+)`", page)) <= set(METRICS)
