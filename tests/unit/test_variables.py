# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which variables are ours, and which are misspelt."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.whitecross.pgops.plugins.plugin_utils.pgops_variables import SHARED_VARIABLES
from ansible_collections.whitecross.pgops.plugins.plugin_utils.variables import (
    known_variables,
    misspelt_prefixes,
    role_names,
    unknown_variables,
)

ROOT = Path(__file__).parents[2]
ROLES = sorted(folder.name for folder in (ROOT / "roles").iterdir() if folder.is_dir())


def test_a_misspelt_shared_variable_is_found_with_the_nearest_name() -> None:
    assert [str(found) for found in unknown_variables(["pgops_databse", "pgops_host"])] == [
        "pgops_databse (did you mean pgops_database?)"
    ]


def test_a_misspelt_role_variable_is_found_with_the_nearest_name() -> None:
    assert [str(found) for found in unknown_variables(["preflight_wave"])] == [
        "preflight_wave (did you mean preflight_waive?)"
    ]


def test_a_name_that_is_near_to_nothing_is_told_alone() -> None:
    assert [str(found) for found in unknown_variables(["pgops_zzzzqqqq"])] == ["pgops_zzzzqqqq"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("migration_target", "migrate_target"),
        ("migrat_target", "migrate_target"),
        ("rollbak_confirm", "rollback_confirm"),
        ("pgop_json", "pgops_json"),
        ("migration_targt", "migrate_target"),
        ("hook_health", "hooks_health"),
    ],
)
def test_a_misspelt_first_word_is_found_among_what_was_typed(typed: str, meant: str) -> None:
    assert [found.nearest for found in misspelt_prefixes([typed])] == [meant]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("migrate-target", "migrate_target"),
        ("MIGRATE_TARGET", "migrate_target"),
        ("migratetarget", "migrate_target"),
        ("migrateTarget", "migrate_target"),
        ("migrate.target", "migrate_target"),
        ("pgops-database", "pgops_database"),
        ("PGOPS_DATABASE", "pgops_database"),
        ("pgopsdatabase", "pgops_database"),
        ("rollback-keep", "rollback_keep"),
        ("backup-path", "backup_path"),
        ("LOST_WRITES_KEPT", "lost_writes_kept"),
        ("lost-writes-job", "lost_writes_jobs"),
        ("migration-target", "migrate_target"),
        ("MIGRATE_TARGT", "migrate_target"),
        ("migrateTargt", "migrate_target"),
        ("pgopsdatabse", "pgops_database"),
    ],
)
def test_a_name_in_another_writing_is_found_among_what_was_typed(typed: str, meant: str) -> None:
    assert [found.nearest for found in misspelt_prefixes([typed])] == [meant]


def test_what_somebody_else_calls_his_own_is_passed_over() -> None:
    own = [
        "pg_database",
        "app_password",
        "db_host",
        "migration",
        "verified",
        "my_target",
        "ansible_user",
        "backup_directory",
        "PGDATABASE",
        "DB-HOST",
        "BACKUP_BUCKET",
        "migrateEverything",
        "reports",
        "__MIGRATE_TARGET",
    ]
    assert misspelt_prefixes(own) == []


def test_internals_and_other_peoples_variables_are_passed_over() -> None:
    assert unknown_variables(["__pgops_run", "ansible_host", "inventory_dir", "my_backup_directory"]) == []


def test_every_shared_variable_is_known() -> None:
    assert set(SHARED_VARIABLES) <= set(known_variables())


@pytest.mark.parametrize("role", ROLES)
def test_the_defaults_of_a_role_are_options_of_its_argument_specs(role: str) -> None:
    options: set[str] = set()
    specs = yaml.safe_load((ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    for entry in specs.values():
        options |= set(entry.get("options") or {})
    defaults_file = ROOT / "roles" / role / "defaults" / "main.yml"
    defaults = set(yaml.safe_load(defaults_file.read_text()) or {}) if defaults_file.exists() else set()
    assert defaults <= options
    assert options <= set(known_variables())


def test_what_the_inventories_set_is_known() -> None:
    assert role_names()
    for file in (ROOT / "inventories" / "group_vars").rglob("*.yml"):
        assert unknown_variables(yaml.safe_load(file.read_text())) == [], file
