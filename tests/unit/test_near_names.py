# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which variables of an inventory are misspelt ones of ours, and which are the site's own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from ansible.constants import INTERNAL_STATIC_VARS, MAGIC_VARIABLE_MAPPING, RESTRICTED_RESULT_KEYS
from ansible_collections.whitecross.pgops.plugins.plugin_utils.near_names import near_variables, slips
from ansible_collections.whitecross.pgops.plugins.plugin_utils.variables import known_variables

ROOT = Path(__file__).parents[2]

# Names as sites, Ansible and other roles have them.
OWN = """
    app_directory app_user app_host app_port app_database app_phases application_hooks
    backups_host backups_bucket backup_s3_bucket db_backup_directory restic_backup_path bacula_directory
    ops_host ops_user ops_port ops_database pg_host pg_port pg_user pg_database pgbouncer_port pgbackrest_stanza pghost psql_port
    postgresql_port postgres_user postgresql_databases pgdata_directory
    migration migration_user migration_timeout migrations_path migrator_password emigrate_x flyway_target
    import_directory imports_format store_path store_roles remote_jobs project_version reverse_proxy
    state_directory stage_required rated_required gateway_host gateway_port
    scheduler_port scheduled_tasks job_schedule_user
    hosts hosts_start hostname webhook_url web_hooks
    reports report_mail reporting_user reports_bucket fleet_size fleet_owner
    verified verification_url audits auditd_rules inspection_table
    retained_days detention_days attention_mail approval_key approvals
    node_exporter_textfile_dir nginx_user users environment timezone ntp_servers become_user
    my_backup_directory old_gate_required x_pgops_phases _pgops_phases __gate_required _gat_required
    PGOPS_DATABASE BACKUP_DIRECTORY GATE_REQUIRED
    ansible_host ansible_user ansible_port ansible_python_interpreter
    groups group_names hostvars inventory_hostname inventory_hostname_short inventory_dir inventory_file play_hosts playbook_dir
    role_name role_names role_path omit vars lookup query
"""


# What such names begin with, so that any word may stand behind them.
FIRST_WORDS = """
    db mysql mariadb mongodb redis kafka monitoring prometheus grafana zabbix vault consul etcd postgres postgresql pg psql pgbouncer patroni
    barman repmgr wal_g proxy haproxy reverse_proxy nginx squid java props python requests app application web api frontend backend
    scheduler scheduled schedules cron systemd callback callbacks fallback rollbar rollout exports exporter node_exporter expert import
    inspec insect audio auditd auditbeat edit date rate late game gated gateway gatekeeper stage state site store storage restored restores
    restorer restic reverse approved approver approves migrated migrates migration migrator emigrate attention detention intention adapt
    adapter adept books looks cooks webhook hosts verity verifier version borg borgmatic bacula duplicity rsync minio aws azure gcp backup1
    backup2 gate1 export2 request2 pgops2 hooks2 log logging syslog mail smtp ldap sso tls ssl cert certbot firewall selinux docker podman
    kubernetes helm jenkins gitlab sonar nexus artifactory keycloak oauth reporter reporting replication replica standby cluster server
"""


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [("gate", "gate", 0), ("gat", "gate", 1), ("gaet", "gate", 1), ("gatte", "gate", 1), ("", "gate", 4), ("maintainance", "maintenance", 2)],
)  # fmt: skip
def test_slips_are_counted_as_a_typist_makes_them(one: str, other: str, count: int) -> None:
    assert slips(one, other) == slips(other, one) == count


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("bakup_directory", "backup_directory"),
        ("bakcup_directory", "backup_directory"),
        ("backups_directory", "backup_directory"),
        ("pgop_phases", "pgops_phases"),
        ("pogps_databases_query", "pgops_databases_query"),
        ("gat_required", "gate_required"),
        ("gates_required", "gate_required"),
        ("migrat_windows", "migrate_windows"),
        ("migrat_widnows", "migrate_windows"),
        ("hook_health", "hooks_health"),
        ("preflght_waive", "preflight_waive"),
        ("maintainance_user", "maintenance_user"),
        ("bluegreen_stage", "blue_green_stage"),
        ("blu_green_stage", "blue_green_stage"),
        ("gateRequired", "gate_required"),
        ("gaterequired", "gate_required"),
        ("pgopsDatabase", "pgops_database"),
        ("scheduel_jobs", "schedule_jobs"),
        ("rolback_steps", "rollback_steps"),
        ("rehaerse_mask", "rehearse_mask"),
        ("retenion_archive_directory", "retention_archive_directory"),
        ("prefligth_waive", "preflight_waive"),
        ("exprot_directory", "export_directory"),
        ("pops_database", "pgops_database"),
    ],
)
def test_a_slip_in_the_first_word_of_an_inventorys_variable_is_found(name: str, meant: str) -> None:
    assert [(found.name, found.nearest) for found in near_variables([name, "app_directory"])] == [(name, meant)]


def test_every_variable_that_lost_a_letter_of_its_first_word_is_found() -> None:
    lost = {name: name[:2] + name[3:] for name in known_variables()}
    assert {name: [found.nearest for found in near_variables([typed])] for name, typed in lost.items()} == {
        name: [name] for name in lost
    }


def test_a_sites_own_variables_are_passed_over() -> None:
    # Names with a prefix of ours are refused as such, by another rule.
    assert near_variables(OWN.split()) == []
    assert near_variables([*INTERNAL_STATIC_VARS, *MAGIC_VARIABLE_MAPPING, *RESTRICTED_RESULT_KEYS]) == []


def test_another_tools_first_word_is_no_slip_whatever_stands_behind_it() -> None:
    known = known_variables()
    # Without those of lost_writes and blue_green, whose first word is two.
    rests = {name.partition("_")[2] for name in known if not name.startswith(("lost_", "blue_", "fleet_"))} | {
        "url",
        "version",
    }
    ours = {f"{first}_{rest}" for first in FIRST_WORDS.split() for rest in rests} - set(known)
    assert [str(found) for found in near_variables(ours)] == []


def test_no_known_variable_is_near_to_another() -> None:
    assert near_variables(known_variables()) == []


def test_what_the_inventories_of_the_collection_set_is_no_misspelling() -> None:
    for file in (ROOT / "inventories").rglob("*.yml"):
        assert near_variables(yaml.safe_load(file.read_text()) or {}) == [], file


def test_a_large_inventory_is_looked_through_at_once() -> None:
    begun = time.process_time()
    near_variables(f"site_{word}_setting_{number}" for word in ("app", "proxy", "mail") for number in range(700))
    assert time.process_time() - begun < 3
