# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: backup
short_description: Back up databases, with a manifest of what they hold
version_added: 0.1.0
description:
  - Takes a snapshot, and out of it both a C(pg_dump) in directory format and a manifest - rows and content hash of every table,
    sequences, large objects, catalog, the database's own properties, ledger, versions, and a sha256 of every file.
  - A backup is published whole or not at all; earlier ones are never touched. Leftovers of runs that died are removed.
  - It refuses, before anything is written, a role that would read less than everything.
  - A backup is no more than a promise until M(whitecross.pgops.prove) has restored it.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.time_box
options:
  directory:
    description:
      - The folder on the host where the module runs that holds a folder for each database.
    type: path
    required: true
  purpose:
    description:
      - Why it is made; it is in the folder's name.
    type: str
    default: manual
  environment:
    description:
      - The environment, for the manifest.
    type: str
    default: ""
  phi:
    description:
      - By database whether the schema change that it is made for touches protected health information; in the manifest, for
        M(whitecross.pgops.backup_expire). Filled by the action plugin from the plan of the run.
    type: dict
    default: {}
  jobs:
    description:
      - Processes of C(pg_dump), and as many sessions that count and hash.
    type: int
    default: 2
  compression:
    description:
      - What C(pg_dump --compress) takes; V(0) to V(9), and from PostgreSQL 16 also V(lz4) or V(zstd:3) where the client has it.
    type: str
    default: "1"
  encrypt_to:
    description:
      - Public keys of C(age), V(age1…), or of kind V(ssh-ed25519). Dump and catalog are encrypted to all of them, so that one of
        their private keys opens them; nothing of them is ever written plain.
      - An encrypted dump is one archive in custom format, written and restored by one session.
    type: list
    elements: str
    default: []
  role_passwords:
    description:
      - Keep the password hashes of the roles that the database needs beside their attributes and memberships, which are always kept.
      - The role that backs up must be able to read C(pg_authid) in the maintenance database. The hashes are never shown.
    type: bool
    default: false
  from_standby:
    description:
      - Whether a streaming standby is read in the place of the primary. It is fit where it is in recovery, of the same cluster and timeline,
        not paused, no further behind than O(standby_lag_seconds) and O(standby_lag_mb), and where it lets a query run for as long as
        the backup is expected to take, or has C(hot_standby_feedback).
      - Whatever was committed on the primary before the backup began is in it, since the snapshot is taken once that is replayed.
      - V(prefer) takes the primary where none is fit, or where recovery ends the backup, and says why. V(require) fails then.
    type: str
    choices: [never, prefer, require]
    default: never
  standby_host:
    description:
      - The standby, or several with commas, of which the first that is fit is read; every server of O(host) where it is not set.
    type: str
  standby_port:
    description:
      - Its port, or one each with commas; O(port) where it is not set.
    type: str
  standby_lag_seconds:
    description:
      - How long a standby may need until it has replayed what the primary had written when the backup began.
    type: float
    default: 30
  standby_lag_mb:
    description:
      - How many MB of WAL it may be behind at that moment.
    type: float
    default: 256
  rate_limit_mb:
    description:
      - How many MB a second the dump writes at most, compressed or encrypted as it is, and how many MB of the tables the counts and hashes read.
        V(0) for any number.
      - What C(pg_dump) reads is limited by what it writes - with data that compresses to a quarter, four times as much.
    type: float
    default: 0
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Back up before a change
  whitecross.pgops.backup:
    databases: [white_cross]
    backup_user: white_cross_backup
    directory: /var/backups/postgres/migrations
    purpose: before_migration

- name: Back up so that only the holders of two private keys can read it
  whitecross.pgops.backup:
    databases: [white_cross]
    backup_user: white_cross_backup
    directory: /var/backups/postgres/migrations
    encrypt_to:
      - age1x9h43wgr2ng28sswzrxwcd2gjyc6ss2qqa770uzeypdpuk2tgp0sk7whp2
      - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7Lq0vJd3l1cZ1VQ0wqkZt1n0m3c1oJr9xk5m2b7QfT vault
"""

RETURN = r"""
databases:
  description: Each backup, by database.
  returned: always
  type: dict
  contains:
    path:
      description: Its folder.
      type: str
    manifest_sha256:
      description: The sha256 of its manifest; M(whitecross.pgops.prove) and M(whitecross.pgops.restore) refuse another one.
      type: str
    started:
      description: When it was begun.
      type: str
    finished:
      description: When it was whole.
      type: str
    seconds:
      description: How long dump, manifest and checksums took.
      type: float
    bytes:
      description: Its size.
      type: int
    database_bytes:
      description: The size of the database.
      type: int
    tables:
      description: How many tables it holds.
      type: int
    rows:
      description: How many rows they have.
      type: int
    ledger_head:
      description: What the ledger was in the snapshot; apply refuses another one.
      type: str
    catalog_fingerprint:
      description: What the catalog was in the snapshot; apply refuses another one.
      type: str
    snapshot:
      description: What the snapshot sees - V(xmax) is the first transaction that it does not, V(xip) those that were open.
      type: dict
    encryption:
      description: C(tool) and C(recipients), the public keys; null where it is plain.
      type: dict
    globals:
      description:
        - What is kept of the server. C(roles), those that the database needs, by name; C(role_passwords), whether with their password
          hashes; C(tablespaces), those that it uses.
      type: dict
    standby:
      description:
        - The standby that was read. C(host), C(port), C(timeline); C(begin_lsn), how far the primary had come when the backup began;
          C(replayed_lsn), how far the standby had before the snapshot; C(behind_bytes) and C(waited_seconds). Null where it was the primary.
      type: dict
    primary_because:
      description: With V(from_standby=prefer), why the primary was read.
      type: str
    not_included:
      description: What a dump leaves out, with the reason.
      type: list
      elements: dict
    removed:
      description: Half-written backups of dead runs that were removed.
      type: list
      elements: str
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Back up every database, one after the other."""
    module = pgops_module.create_module(
        {
            "directory": {"type": "path", "required": True},
            "purpose": {"type": "str", "default": "manual"},
            "environment": {"type": "str", "default": ""},
            "phi": {"type": "dict", "default": {}},
            "jobs": {"type": "int", "default": 2},
            "compression": {"type": "str", "default": "1"},
            "encrypt_to": {"type": "list", "elements": "str", "default": []},
            # A switch; Ansible takes every option of such a name for a password.
            "role_passwords": {"type": "bool", "default": False, "no_log": False},
            "from_standby": {"type": "str", "default": "never", "choices": ["never", "prefer", "require"]},
            "standby_host": {"type": "str"},
            "standby_port": {"type": "str"},
            "standby_lag_seconds": {"type": "float", "default": 30},
            "standby_lag_mb": {"type": "float", "default": 256},
            "rate_limit_mb": {"type": "float", "default": 0},
            **pgops_module.TIME_BOX_OPTIONS,
        }
    )

    def work() -> dict[str, Any]:
        from functools import partial

        from ansible_collections.whitecross.pgops.plugins.module_utils import (
            backup_forecast,
            dump,
            standby_fitness,
            standby_source,
        )
        from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import end_on_sigterm

        progress, control = pgops_module.job(module)
        end_on_sigterm(control)
        given = module.params
        control.end_after(given["timeout"])
        mode = given["from_standby"]
        databases: dict[str, Any] = {}
        for database, target in pgops_module.targets(module).items():
            settings = {
                "directory": given["directory"],
                "run_id": given["run_id"] or "by-hand",
                "purpose": given["purpose"],
                "encrypt_to": given["encrypt_to"],
                "role_passwords": given["role_passwords"],
            }
            wish = standby_fitness.Wish(
                given["standby_host"] or "",
                given["standby_port"] or "",
                given["standby_lag_seconds"],
                given["standby_lag_mb"],
                partial(backup_forecast.seconds, given["directory"], database, rate_limit_mb=given["rate_limit_mb"]),
            )
            if module.check_mode:
                wanted = None if mode == standby_source.NEVER else wish
                databases[database] = dump.preview(target, **settings, standby=wanted)
                if mode == standby_source.REQUIRE:
                    standby_source.refuse_none(databases[database], database)
            else:
                make = partial(
                    dump.create_backup,
                    target,
                    **settings,
                    environment=given["environment"],
                    phi=given["phi"].get(database),
                    jobs=given["jobs"],
                    compression=given["compression"],
                    rate_limit_mb=given["rate_limit_mb"],
                    progress=progress,
                    control=control,
                )
                databases[database] = standby_source.made(make, mode, wish, progress)
        return {"changed": True, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
