# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A physical backup by pgBackRest: its configuration from what is declared, the stanza, the check of the archive, the backup."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    cluster_layout,
    locks,
    pgbackrest,
    wal_archive,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_layout import Layout
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target, connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.pgbackrest import PgBackRest
from ansible_collections.whitecross.pgops.plugins.module_utils.wal_archive import Physical

# A backup waits for the next checkpoint of the server's own, minutes, unless it may ask for one.
_DEFAULTS = {"start-fast": "y"}
_REPOSITORY = re.compile(r"repo(\d+)-")


@dataclass(frozen=True)
class Declared:
    """What the environment declares of its repository. The secrets are in nothing that is shown."""

    repository: Mapping[str, Any]
    secrets: Mapping[str, Any]
    cipher_passfile: str | None


@contextlib.contextmanager
def session(target: Target, run_id: str) -> Iterator[tuple[Connection, Layout]]:
    """A session on the cluster as the role that restores, and how the cluster lies."""
    conn = connect(target.maintenance(), application_name=locks.application_name(run_id))
    try:
        yield conn, cluster_layout.read_layout(conn, target)
    finally:
        conn.close()


def prepare(tool: PgBackRest, layout: Layout, declared: Declared, *, pretend: bool = False) -> bool:
    """Write the configuration, refuse a server that does not archive through it.

    :param pretend: write nothing.
    :return: whether the configuration was, or would be, another one.
    :raises PgopsError: no pgBackRest, options that are none, an archive_command that is another's.
    """
    tool.version()
    cluster = {
        "pg1-path": layout.data_directory,
        "pg1-port": str(layout.port),
        "pg1-socket-path": layout.socket_directory,
    }
    secrets = {**declared.secrets, **pgbackrest.cipher_secrets(declared.cipher_passfile)}
    text = pgbackrest.configuration(tool.stanza, cluster, {**_DEFAULTS, **declared.repository}, secrets)
    changed = pgbackrest.write_configuration(tool.config, text, tool.user, pretend=pretend)
    _refuse_other_archive(tool, layout)
    return changed


def _refuse_other_archive(tool: PgBackRest, layout: Layout) -> None:
    command = layout.archive_command
    wanted = f"{tool.command} --config={tool.config} --stanza={tool.stanza} archive-push %p"
    if layout.archive_mode == "off" or "archive-push" not in command or f"--stanza={tool.stanza}" not in command:
        now = f"archive_mode = {layout.archive_mode}, archive_command = '{command}'"
        raise PgopsError(
            f"The server does not archive through pgBackRest's stanza {tool.stanza} ({now}); no backup was taken.",
            hint=f"Set archive_mode = on and archive_command = '{wanted}' in its configuration; the first needs a restart.",
        )


def back_up(tool: PgBackRest, layout: Layout, kind: str, further: Sequence[int] = ()) -> dict[str, Any]:
    """Make the stanza where there is none, check the archive, back up.

    :param kind: ``full``, ``diff`` or ``incr``.
    :param further: numbers of the repositories that have to have a backup of their own as well.
    :return: what pgBackRest says of the backup; ``copies``: its label in each further repository, by number.
    :raises PgopsError: pgBackRest's own reason, one sentence; a further repository that has no backup of this run.
    """
    began = time.monotonic()
    tool.create_stanza()
    tool.check()
    tool.backup(kind)
    made = wal_archive.backups(tool.info(), layout.system_identifier)[-1]
    wal_archive.refuse_broken_chain(tool, made)
    copies = {number: _copy(tool, layout, made, kind, number) for number in further}
    return {
        **told(made),
        "copies": copies,
        "seconds": round(time.monotonic() - began, 1),
        "pgbackrest": tool.version(),
    }


def further_repositories(declared: Declared) -> list[int]:
    """:return: the numbers of those that are declared besides the first."""
    numbers = {int(found[1]) for name in declared.repository if (found := _REPOSITORY.match(str(name)))}
    return sorted(numbers - {pgbackrest.FIRST})


def _copy(tool: PgBackRest, layout: Layout, made: Physical, kind: str, repository: int) -> str:
    """:return: the label of the backup that is in a further repository by now."""
    tool.backup(kind, repository)
    info = tool.info()
    there = [entry for entry in info.get("backup") or [] if entry["database"].get("repo-key") == repository]
    found = [
        one for one in wal_archive.backups({**info, "backup": there}, layout.system_identifier) if one.stop >= made.stop
    ]
    if not found or found[-1].damaged:
        raise PgopsError(
            f"Repository {repository} of stanza {tool.stanza} has no whole backup of this run.",
            hint=f"Look with pgbackrest --stanza={tool.stanza} --repo={repository} info.",
        )
    return found[-1].label


def told(backup: Physical) -> dict[str, Any]:
    """:return: a backup as plain data."""
    return {
        "label": backup.label,
        "type": backup.kind,
        "started": backup.start.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "finished": backup.stop.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "database_bytes": backup.size,
        "wal": [backup.first_wal, backup.last_wal],
        "references": list(backup.references),
    }


def proof_path(directory: str, stanza: str, label: str) -> str:
    """:return: the file that tells of a backup's proof; pgBackRest's repository is its own and may be elsewhere."""
    return os.path.join(directory, f"physical-{stanza}", f"{label}.proof.json")


def write_proof(directory: str, stanza: str, proof: dict[str, Any]) -> str:
    """Keep a proof under the label of its backup. :return: the file."""
    path = proof_path(directory, stanza, proof["label"])
    backup_store.make_private_folder(os.path.dirname(path))
    backup_store.write_json(path, proof)
    return path
