# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shipped playbooks leave metrics of what they did on a real server, and Prometheus' own tool takes them and the alerts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.engine import wait_for
from support.podman import ROOT
from support.server import SUPERUSER, Server, free_port
from support.site import Playbook
from support.tree import TestTree

VERSION = "20260101000000"


@pytest.fixture
def site(playbook: Playbook) -> Playbook:
    """An operator's folder with one small version, and a folder of the textfile collector."""
    shutil.rmtree(playbook.copy_sql() / "migrations")
    up = "CREATE TABLE public.rooms (id integer PRIMARY KEY);\n"
    TestTree(playbook.folder / "sql").add_sql(VERSION, "rooms", up, "DROP TABLE public.rooms;\n")
    folder = playbook.folder / "textfile collector"
    folder.mkdir()
    playbook.variables["pgops_metrics_directory"] = str(folder)
    return playbook


def file_of(site: Playbook) -> Path:
    return Path(site.variables["pgops_metrics_directory"]) / "pgops-local-runs.prom"


def told(site: Playbook) -> dict[tuple[str, str | None], float]:
    """:return: metric and playbook, or what else tells its samples apart -> value."""
    families = text_string_to_metric_families(file_of(site).read_text(encoding="utf-8"))
    return {
        (sample.name, sample.labels.get("playbook", sample.labels.get("level"))): sample.value
        for family in families
        for sample in family.samples
        if sample.name != "pgops_run_state"
    }


def promtool() -> str:
    found = shutil.which("promtool")
    assert found, "promtool is needed: 'make test-all' as root fetches it"
    return found


def test_a_look_tells_what_is_pending_and_a_failure_keeps_what_is_known(site: Playbook) -> None:
    looked = site("status.yml")
    assert looked.rc == 0, looked.output
    found = told(site)
    assert found["pgops_pending_versions", None] == 1
    assert found["pgops_run_success", "status"] == 1
    site.variables["pgops_port"] = 9
    assert site("status.yml").rc != 0
    after = told(site)
    assert after["pgops_run_success", "status"] == 0
    success = ("pgops_last_success_timestamp_seconds", "status")
    assert after[success] == found[success]
    assert after["pgops_pending_versions", None] == 1


def test_metrics_that_cannot_be_written_are_a_warning_and_no_failure(site: Playbook) -> None:
    file_of(site).parent.rmdir()
    result = site("status.yml")
    assert result.rc == 0, result.output
    said = " ".join(result.output.split())
    assert "The metrics of this run were not written:" in said and "No such file or directory" in said
    assert result.json["ok"] is True


@pytest.mark.slow
def test_a_check_writes_none(site: Playbook) -> None:
    assert site("status.yml", "--check").rc == 0
    assert not file_of(site).exists()


@pytest.mark.slow
def test_a_host_that_cannot_be_reached_is_counted_by_the_callback(site: Playbook) -> None:
    site.hosts["local"]["local-1"] = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}
    result = site("status.yml")
    assert result.rc == 4, result.output
    assert told(site)["pgops_run_success", "status"] == 0


@pytest.mark.slow
def test_a_migration_tells_its_backup_its_proof_and_its_checks_and_prometheus_takes_them(site: Playbook) -> None:
    result = site("migrate.yml")
    assert result.rc == 0, result.output
    found = told(site)
    backup, proof = found["pgops_backup_timestamp_seconds", None], found["pgops_backup_proof_timestamp_seconds", None]
    assert 0 < backup <= proof
    assert found["pgops_backup_proof_level", None] >= 4
    assert found["pgops_preflight_checks", "ok"] > 20
    assert found["pgops_pending_versions", None] == 0
    assert found["pgops_verify_failures", None] == 0
    drilled = site("restore_drill.yml")
    assert drilled.rc == 0, drilled.output
    assert told(site)["pgops_drill_rto_seconds", None] > 0
    assert told(site)["pgops_backup_timestamp_seconds", None] == backup
    text = file_of(site).read_text(encoding="utf-8")
    checked = subprocess.run(
        [promtool(), "check", "metrics"], input=text, capture_output=True, text=True, check=False, timeout=60
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@pytest.mark.slow
def test_prometheus_takes_the_alerts_and_they_stand_when_they_are_due() -> None:
    checked = subprocess.run(
        [promtool(), "check", "rules", str(ROOT / "monitoring" / "alerts.yml")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert checked.returncode == 0 and "SUCCESS: 18 rules found" in checked.stdout, checked.stdout + checked.stderr
    tested = subprocess.run(
        [promtool(), "test", "rules", str(Path(__file__).with_name("alert_cases.yml"))],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout + tested.stderr


# -- the servers themselves, by the exporter that there is for them --------------------------------------------------------


def queries_of(board: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def not_told(expression: str, told: dict[str, set[str]]) -> list[str]:
    """:param told: metric -> its labels, as an exporter has them; Prometheus adds ``instance``.
    :return: what an expression asks for in vain."""
    found = [name for name in re.findall(r"\bpg_\w+", expression) if name not in told]
    for name, selected in re.findall(r"\b(pg_\w+)\{([^}]*)\}", expression):
        labels = told.get(name, set()) | {"instance"}
        found += [f"{name} {label}" for label in re.findall(r"(\w+)\s*=~", selected) if label not in labels]
    return found


@pytest.fixture
def exported(server: Server, database: str) -> dict[str, set[str]]:
    """What prometheus-postgres-exporter tells of a server: metric -> its labels."""
    program = shutil.which("prometheus-postgres-exporter")
    assert program, "prometheus-postgres-exporter is needed: 'make test-all' as root fetches it"
    place = f"127.0.0.1:{free_port()}"
    given = {
        "DATA_SOURCE_URI": f"{server.host}:{server.port}/{database}?sslmode=disable",
        "DATA_SOURCE_USER": SUPERUSER,
        "PGPASSFILE": str(server.passfile),
    }
    process = subprocess.Popen([program, f"--web.listen-address={place}"], env=given, stderr=subprocess.DEVNULL)

    def asked() -> str | None:
        try:
            with urllib.request.urlopen(f"http://{place}/metrics", timeout=10) as answer:
                text = answer.read().decode()
        except OSError:
            return None
        return text if "pg_stat_database_xact_commit" in text else None

    try:
        text = wait_for(asked, 60, "that the exporter tells of the server")
    finally:
        process.terminate()
        process.wait()
    # As they stand: the parser calls a counter ..._total, which this exporter does not.
    samples = re.findall(r"^(\w+)(?:\{(.*)\})? ", text, re.MULTILINE)
    return {name: set(re.findall(r"(\w+)=\"", labels)) for name, labels in samples}


@pytest.mark.slow
def test_the_dashboard_of_the_servers_asks_for_what_their_exporter_tells(
    exported: dict[str, set[str]], tmp_path: Path
) -> None:
    board = json.loads((ROOT / "monitoring" / "database.json").read_text(encoding="utf-8"))
    queries = queries_of(board)
    assert len(queries) > 12
    variables = [str(one["query"]["query"]) for one in board["templating"]["list"] if isinstance(one["query"], dict)]
    assert [fault for query in queries + variables for fault in not_told(query, exported)] == []
    assert not_told('pg_stat_database_rollbacks{mode=~"x"}', exported) == [
        "pg_stat_database_rollbacks", "pg_stat_database_rollbacks mode",
    ]  # fmt: skip
    (runs,) = board["annotations"]["list"]
    assert re.findall(r"pgops_\w+", runs["expr"]) == ["pgops_run_end_timestamp_seconds"]
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$instance", ".*").replace("$database", ".*")}
        for number, query in enumerate([*queries, runs["expr"]])
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    checked = subprocess.run(
        [promtool(), "check", "rules", str(file)], capture_output=True, text=True, check=False, timeout=60
    )
    assert checked.returncode == 0 and f"SUCCESS: {len(rules)} rules found" in checked.stdout, checked.stderr
