# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The shared variables (``pgops_*``): their names, defaults and the module option that each fills.

They live here and not in role defaults, since every role uses them and none owns them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SharedVariable:
    """One ``pgops_*`` variable: its default, the module option it fills (None: the controller's own), what it is."""

    description: str
    default: Any = None
    option: str | None = None


SHARED_VARIABLES: dict[str, SharedVariable] = {
    "pgops_host": SharedVariable("host name, address or socket folder; several with commas", "127.0.0.1", "host"),
    "pgops_port": SharedVariable("port of the server", None, "port"),
    "pgops_database": SharedVariable("the database", None),
    "pgops_databases": SharedVariable("the databases, where there is more than one", None, "databases"),
    "pgops_databases_query": SharedVariable(
        "query of one column that names them, asked of the maintenance database at the beginning of each run", None
    ),
    "pgops_user": SharedVariable("role that migrates, no superuser", None, "user"),
    "pgops_owner": SharedVariable("role that owns the objects (SET ROLE)", None, "owner"),
    "pgops_backup_user": SharedVariable("role that reads backups", None, "backup_user"),
    "pgops_restore_user": SharedVariable("role that restores, renames and fences", None, "restore_user"),
    "pgops_passfile": SharedVariable("libpq password file, 0600, where the module runs", None, "passfile"),
    "pgops_sslmode": SharedVariable("how TLS is asked for", "prefer", "sslmode"),
    "pgops_sslrootcert": SharedVariable("certificate authority of the server", None, "sslrootcert"),
    "pgops_connect_timeout": SharedVariable("seconds for one attempt to connect", 10, "connect_timeout"),
    "pgops_maintenance_database": SharedVariable(
        "database from which others are created and renamed", "postgres", "maintenance_database"
    ),
    "pgops_scratch_host": SharedVariable("server for throw-away restores", None, "scratch_host"),
    "pgops_scratch_port": SharedVariable("its port", None, "scratch_port"),
    "pgops_bindir": SharedVariable("folder of pg_dump and pg_restore", None, "bindir"),
    "pgops_lease": SharedVariable("seconds after which a job without its controller ends", 60, "lease"),
    "pgops_sql": SharedVariable("the tree that holds migrations/; the collection's own sql/ where not set", None),
    "pgops_state_directory": SharedVariable("journal and reports on the ops host", "~/.local/state/pgops"),
    "pgops_environments": SharedVariable("groups that are environments", ["local", "staging", "production"]),
    "pgops_production_environments": SharedVariable("those that hold production data", ["production"]),
    "pgops_phases": SharedVariable(
        "phases that this environment runs",
        ["preflight", "plan", "backup", "prove", "rehearse", "gate", "apply", "analyze", "verify", "report"],
    ),
    "pgops_run_id": SharedVariable("the migration that stopped at its gate and goes on there; with -e only", None),
    "pgops_json": SharedVariable("file on the ops host for the whole result as JSON", None),
    "pgops_webhook": SharedVariable(
        "address that is told how each run of migrate.yml and rollback.yml ended; a secret, so keep it in a vault", None
    ),
    "pgops_webhook_file": SharedVariable("file on the ops host, 0600, that holds this address instead", None),
    "pgops_webhook_form": SharedVariable(
        "what it gets: slack, a text, or json, all that machines want to know", "slack"
    ),
    "pgops_webhook_secret_file": SharedVariable(
        "file on the ops host, 0600, with the key that signs what it gets", None
    ),
    "pgops_mail": SharedVariable(
        "who is told by mail, and how: to, from, host, port, tls, ca_path, user, password_file (on the ops host, 0600)",
        None,
    ),
    "pgops_notify_events": SharedVariable(
        "which events are told: planned, started, succeeded, failed, rolled_back, completed; all but succeeded where not set",
        None,
    ),
    "pgops_metrics_directory": SharedVariable(
        "folder of node_exporter's textfile collector on the ops host, for metrics of each run; none where not set",
        None,
    ),
    "pgops_contacts": SharedVariable(
        "whom to call in an incident: database_admin, tech_lead, cto and hipaa_officer, each with name, phone and email",
        None,
    ),
    "pgops_progress": SharedVariable(
        "live progress: always, terminal (only where a person watches) or never", "always"
    ),
    "pgops_poll_interval": SharedVariable("seconds between two looks at a running job", 1.0),
}
