# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options that every module which reaches a database takes, documented once."""

from __future__ import annotations


class ModuleDocFragment:
    """Connection, roles, client tools and the run that a module call belongs to."""

    DOCUMENTATION = r"""
options:
  host:
    description:
      - Host name, address or socket folder of the server; several with commas mean the one that takes writes (libpq's multi-host).
      - Filled from C(pgops_host).
    type: str
    default: 127.0.0.1
  port:
    description:
      - Port of the server, or one a host with commas. Libpq's own default (5432 or E(PGPORT)) where it is not set.
      - Filled from C(pgops_port).
    type: str
  databases:
    description:
      - The databases to work on; results are keyed by their names.
      - Filled from C(pgops_databases), or from C(pgops_database) where there is one.
    type: list
    elements: str
    required: true
  user:
    description:
      - The role that migrates; it owns the objects, directly or through O(owner), and needs no superuser.
      - Filled from C(pgops_user).
    type: str
  owner:
    description:
      - The role that owns the objects; the session does SET ROLE to it.
      - Filled from C(pgops_owner).
    type: str
  backup_user:
    description:
      - The role that reads backups; needs to see every row (pg_read_all_data, and BYPASSRLS where a table has row-level security).
      - Filled from C(pgops_backup_user); O(user) where it is not set.
    type: str
  restore_user:
    description:
      - The role that creates, restores, renames and fences databases - a superuser or the provider's admin role.
      - Filled from C(pgops_restore_user); O(user) where it is not set.
    type: str
  passfile:
    description:
      - A libpq password file, mode 0600, on the host where the module runs. Passwords are taken from nowhere else.
      - Filled from C(pgops_passfile).
    type: path
  sslmode:
    description:
      - How TLS is asked for and checked; V(verify-full) outside a trusted network.
      - Filled from C(pgops_sslmode).
    type: str
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
    default: prefer
  sslrootcert:
    description:
      - The certificate authority that signs the server's certificate.
      - Filled from C(pgops_sslrootcert).
    type: path
  connect_timeout:
    description:
      - How long one attempt to connect may take, in seconds.
      - Filled from C(pgops_connect_timeout).
    type: int
    default: 10
  maintenance_database:
    description:
      - The database from which others are created, renamed and dropped.
      - Filled from C(pgops_maintenance_database).
    type: str
    default: postgres
  scratch_host:
    description:
      - The server for throw-away restores; O(host) where it is not set.
      - Filled from C(pgops_scratch_host).
    type: str
  scratch_port:
    description:
      - Port of the server for throw-away restores; O(port) where it is not set.
      - Filled from C(pgops_scratch_port).
    type: str
  bindir:
    description:
      - Folder with pg_dump and pg_restore of the server's own major; looked for in the usual places where it is not set.
      - Filled from C(pgops_bindir).
    type: path
  run_id:
    description:
      - The run that this call belongs to; filled by the action plugin.
    type: str
  job_directory:
    description:
      - Folder on the host through which a long call tells its progress and is kept alive; filled by the action plugin.
    type: path
  lease:
    description:
      - After how many seconds without a sign of its controller a long call ends at the next safe point.
      - Filled from C(pgops_lease).
    type: int
    default: 60
requirements:
  - python >= 3.9
  - psycopg2-binary
attributes:
  check_mode:
    description: Can run in check_mode and says truthfully what would change.
    support: full
  diff_mode:
    description: Returns what would change as a diff.
    support: full
"""
