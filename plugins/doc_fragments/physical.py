# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of modules that work through pgBackRest, documented once."""

from __future__ import annotations


class ModuleDocFragment:
    """Which stanza of which repository, and as whom."""

    DOCUMENTATION = r"""
options:
  stanza:
    description:
      - pgBackRest's name for the cluster.
    type: str
    default: main
  config:
    description:
      - The configuration file of pgBackRest on the host of the database. M(whitecross.pgops.physical_backup) writes it, 0600, for the
        user that PostgreSQL runs as.
    type: path
    default: /etc/pgbackrest/pgops.conf
  pgbackrest:
    description:
      - The program, by its path or as it is found in C(PATH).
    type: str
    default: pgbackrest
  os_user:
    description:
      - The user of the operating system that PostgreSQL runs as. The module runs as root or as this user; the commands run as this user.
    type: str
    default: postgres
  archive_timeout:
    description:
      - How long the archiver may take for what is not archived yet, in seconds.
    type: float
    default: 60
"""
