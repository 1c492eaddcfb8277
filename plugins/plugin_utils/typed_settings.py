# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which variables may be typed with -e where an environment has a gate.

Each variable of the collection is in one of three places: :data:`RULES`, what makes a database easier to touch when it is eased;
:data:`HARMLESS`, what does not, with the reason; :data:`ELSEWHERE`, the roles that no migration runs. A test holds them against all
that there are, so that a new variable has to be thought of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import batches, waivers
from ansible_collections.whitecross.pgops.plugins.plugin_utils.pgops_variables import SHARED_VARIABLES
from ansible_collections.whitecross.pgops.plugins.plugin_utils.variables import role_names, role_options

# Whether what was typed asks for as much as what is stored: (typed, stored) -> bool.
Rule = Callable[[Any, Any], bool]


def stored(typed: Any, kept: Any) -> bool:
    """Nothing else than what the inventory says: none of two values is the stricter one."""
    return bool(_plain(typed) == _plain(kept))


def on(typed: Any, kept: Any) -> bool:
    """Switched on is stricter."""
    return _truth(typed) or (kept is not None and not _truth(kept)) or typed == kept


def higher(typed: Any, kept: Any) -> bool:
    """More is stricter, and nothing asks for nothing."""
    return _number(typed, float("-inf")) >= _number(kept, float("-inf"))


def lower(typed: Any, kept: Any) -> bool:
    """Less is stricter, and nothing is no limit."""
    return _number(typed, float("inf")) <= _number(kept, float("inf"))


def fewer(typed: Any, kept: Any) -> bool:
    """A list of exceptions is stricter the less it has."""
    return isinstance(typed, (list, tuple)) and all(_plain(one) in _plain(kept or []) for one in typed)


def more(typed: Any, kept: Any) -> bool:
    """A list of demands is stricter the more it has."""
    words = _listed(typed)
    return isinstance(words, (list, tuple)) and all(_plain(one) in _plain(words) for one in _listed(kept) or [])


def same_names(typed: Any, kept: Any) -> bool:
    """The same names in the same order: in that order one environment comes before another."""
    return isinstance(typed, (str, list, tuple)) and batches.names(typed) == batches.names(kept)


def named(typed: Any, kept: Any) -> bool:
    """Each exception that the inventory has not is one person's, with a reason and an end; see :func:`waivers.unsigned`."""
    return not waivers.unsigned(typed, kept, datetime.now(UTC).date())


def watched(typed: Any, kept: Any) -> bool:
    """Minutes of a watch; where nothing is said, hooks that look at the application are asked for five."""
    return higher(typed, 5 if kept is None else kept)


def strictest(value: str) -> Rule:
    """:return: the rule of a choice of which one value is the strictest."""
    return lambda typed, kept: str(typed) == value or stored(typed, kept)


# What makes a database behind a gate easier to touch, and what is stricter of it.
RULES: Mapping[str, Rule] = {
    # Whether there is a gate, and what it asks for.
    "gate_required": on, "pgops_production_environments": more, "pgops_environments": same_names, "pgops_phases": more,
    "gate_signers": stored, "gate_roles": stored, "gate_rehearsal_required": on, "gate_rehearsal_max_age_hours": lower,
    "gate_soak_hours": higher, "gate_rehearsed_before": on, "gate_backup_max_age_hours": lower,
    "migrate_windows": stored, "migrate_without_window": fewer, "migrate_blackouts": more, "migrate_waive": named,
    "migrate_review_required": on, "audit_justification_required": on, "audit_phi_required": on, "audit_phi_logging": on,
    # Which server it is. What was signed and rehearsed names the host of the inventory.
    "pgops_host": stored, "pgops_port": stored, "ansible_host": stored, "ansible_port": stored, "ansible_connection": stored,
    # What the phases of the run have found is there.
    "ansible_facts": stored,
    # What the rehearsal allows, and what it is made of.
    "rehearse_blocked_reads": lower, "rehearse_blocked_writes": lower, "rehearse_duration": lower, "rehearse_wal_mb": lower,
    "rehearse_replica_lag": lower, "rehearse_query_ratio": lower, "rehearse_query_regression": strictest("stop"),
    "rehearse_queries_recorded": higher, "rehearse_mask": on, "rehearse_backup": stored,
    # The way back: how far a backup is proved, where it and its rehearsals lie, and its copies.
    "backup_level_required": higher, "backup_rto_seconds": lower, "backup_directory": stored, "backup_copies": more,
    "backup_copies_required": on, "backup_restore_point": on, "backup_encrypt_to": more,
    "backup_standby_lag_mb": lower, "backup_standby_lag_seconds": lower,
    # What stops before the apply.
    "preflight_waive": named, "preflight_health_url": stored, "preflight_connections_needed": higher,
    "preflight_clock_stop_s": lower, "preflight_disk_stop_percent": higher, "preflight_sequence_stop_percent": lower,
    "preflight_xid_age_stop": lower, "preflight_multixact_age_stop": lower,
    # What the apply may do to clients and to rows, and what looks at it afterwards.
    "migrate_health": stored, "migrate_throttle": stored, "migrate_orphans": strictest("stop"),
    "migrate_terminate_idle_after": stored, "migrate_watch": watched, "verify_compare_schema": on,
    "blue_green_wal_limit_mb": lower,
    "hooks_alert": stored, "hooks_divert_traffic": stored, "hooks_health": stored, "hooks_maintenance_off": stored,
    "hooks_maintenance_on": stored, "hooks_metrics": stored, "hooks_restore_traffic": stored, "hooks_smoke_test": stored,
    "hooks_start": stored, "hooks_stop": stored,
    # Who is told. Nobody passes a gate unheard.
    "pgops_notify_events": stored, "pgops_webhook": stored, "pgops_webhook_file": stored, "pgops_mail": stored,
}  # fmt: skip

# Not even behind a broken glass: it passes what a gate asks for, not whether there is one, and not backup and proof.
NEVER = frozenset({"gate_required", "pgops_production_environments", "pgops_environments", "ansible_facts"})

# What may be typed, by the reason.
HARMLESS: Mapping[str, tuple[str, ...]] = {
    "it is broken with -e alone, by name and with an end": (
        "gate_break_glass_by", "gate_break_glass_expires", "gate_break_glass_reason",
    ),
    "what lies there is signed, and the signature counts": ("gate_approvals", "migrate_evidence", "verify_evidence", "verify_evidence_key"),
    "it only tells, and the same is asked for at the gate": ("gate_rehearse_first", "gate_planned_for", "gate_timeline_done"),
    "what is signed, rehearsed and rehearsed before has the checksum of what comes of it": ("migrate_variables", "pgops_sql"),
    "each version and each database is signed for by name, and this takes a part of them": (
        "migrate_target", "migrate_steps", "pgops_database", "pgops_databases", "pgops_databases_query", "pgops_run_id",
        "migrate_canary", "migrate_batches", "migrate_test_version",
    ),
    "the environment local alone takes it": ("migrate_allow_out_of_order",),
    "it is a person's word, which is recorded": (
        "migrate_reviewed_by", "migrate_auto_rollback_reason", "audit_justification", "audit_privacy_assessment", "audit_security_review",
        "audit_privacy_officer", "audit_encryption_at_rest", "audit_ticket", "audit_reviewer", "audit_issues", "audit_resolutions",
        "backup_scratch_reason", "backup_purpose", "pgops_contacts",
    ),
    "it goes back, and only what the run has changed": ("migrate_auto_rollback",),
    "how long is waited, not for what": (
        "migrate_lock_wait", "migrate_reconnect", "migrate_stop_wait", "hooks_watch_interval", "pgops_lease", "pgops_connect_timeout",
        "pgops_poll_interval", "backup_archive_timeout", "backup_copies_timeout", "blue_green_catch_up",
    ),
    "how fast it works, not what it may": (
        "migrate_index_workers", "migrate_index_workers_busy", "migrate_index_memory_mb", "migrate_index_disk_mb", "migrate_index_timeout",
        "backup_jobs", "backup_compression", "backup_rate_limit_mb",
    ),
    "it is shown differently": (
        "migrate_status_newest_first", "migrate_status_prefix", "verify_verbose", "pgops_progress", "pgops_json", "hooks_run",
    ),
    "the guard refuses it wherever it is typed": ("guard_playbook",),
    "it says what is done, and the gate and the windows are asked all the same": ("blue_green_stage", "blue_green_confirm"),
    "the rows that come over are compared with those that are there": ("blue_green_connection",),
    "who works, and with which programs; the rights are the server's": (
        "pgops_user", "pgops_owner", "pgops_backup_user", "pgops_restore_user", "pgops_passfile", "pgops_sslmode", "pgops_sslrootcert",
        "pgops_maintenance_database", "pgops_bindir", "backup_os_user", "backup_pgbackrest", "backup_config", "backup_cipher_passfile",
    ),
    "where this run is written down": ("pgops_metrics_directory", "pgops_state_directory", "pgops_webhook_form", "pgops_webhook_secret_file"),
    "how a backup is made and tried; backup_level_required says how far it is proved": (
        "backup_engine", "backup_prove_level", "backup_path", "backup_from_standby", "backup_standby_host", "backup_standby_port",
        "backup_identity_file", "backup_physical_type", "backup_repository", "backup_repository_secrets", "backup_stanza",
        "backup_restore_point_hashes", "backup_role_passwords", "backup_scratch_database", "backup_scratch_roles",
        "pgops_scratch_host", "pgops_scratch_port", "rehearse_scratch_database",
    ),
    "other playbooks read it": (
        "backup_expire_offline", "backup_keep_change_days", "backup_keep_daily", "backup_keep_last", "backup_keep_monthly",
        "backup_keep_phi_years", "backup_keep_weekly", "backup_keep_yearly", "backup_list_newest", "backup_list_only", "backup_pin",
        "backup_pin_reason", "backup_rekey", "backup_unpin", "audit_anchor_command", "audit_anchor_key", "audit_archive_directory",
        "audit_auditor", "audit_checkpoint_key", "audit_export_directory", "audit_from", "audit_to", "audit_owner", "audit_retention_years",
        "audit_sign_off_name", "audit_sign_off_note", "audit_sign_off_role", "audit_sign_off_run",
    ),
    "it warns, and stops nothing": (
        "preflight_backup_age_h", "preflight_backup_level", "preflight_bloat_bytes", "preflight_bloat_percent", "preflight_clock_warn_s",
        "preflight_connections_percent", "preflight_dead_percent", "preflight_dead_rows", "preflight_disk_warn_percent",
        "preflight_end_of_life_days", "preflight_idle_in_transaction_s", "preflight_long_transaction_s", "preflight_maintenance_s",
        "preflight_multixact_age_warn", "preflight_replication_lag_bytes", "preflight_replication_lag_s", "preflight_sequence_warn_percent",
        "preflight_slot_idle_s", "preflight_slot_wal_bytes", "preflight_small_table_rows", "preflight_stale_percent",
        "preflight_superusers", "preflight_temp_bytes", "preflight_xid_age_warn",
    ),
}  # fmt: skip

# Roles of which a migration runs nothing, or what comes after the apply has been allowed.
ELSEWHERE = frozenset({
    "adopt", "approve", "drill", "export", "fleet_report", "inspect", "lost_writes", "maintenance",
    "request", "restore", "retention", "rollback", "schedule",
})  # fmt: skip


def default(name: str) -> Any:
    """:return: what counts where the inventory says nothing of a variable."""
    shared = SHARED_VARIABLES.get(name)
    return shared.default if shared is not None else (role_options().get(name) or {}).get("default")


def eased(typed: Mapping[str, Any], of_hosts: Sequence[Mapping[str, Any]]) -> list[str]:
    """:param typed: what was given with -e, templates done.
    :param of_hosts: what each host would have without it, templates done; only the typed names are looked at.
    :return: the names that make a database easier to touch than its inventory says, in their order"""
    found = {str(name) for name in typed if is_internal(str(name))}
    for name, value in typed.items():
        rule = RULES.get(str(name))
        if rule is None:
            continue
        for variables in of_hosts:
            kept = variables.get(name)
            if not rule(value, default(str(name)) if kept in (None, "") else kept):
                found.add(str(name))
    return sorted(found)


def is_internal(name: str) -> bool:
    """:return: whether a variable is one of the collection's own playbooks, which nobody sets."""
    return name.startswith(("__pgops_", *(f"__{role}_" for role in role_names())))


def _truth(value: Any) -> bool:
    return value is True or str(value).lower() in ("true", "yes", "on", "1")


def _listed(value: Any) -> Any:
    """:return: the value; a text is a list with commas."""
    return batches.names(value) if isinstance(value, str) else value


def _number(value: Any, nothing: float) -> float:
    """:return: a number; what is none is never stricter than anything."""
    if value in (None, ""):
        return nothing
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _plain(value: Any) -> Any:
    """:return: the value with texts for numbers: -e NAME=VALUE gives a text, the inventory a number."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool) else str(value)
