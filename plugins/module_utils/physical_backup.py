# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A physical backup by pgBackRest: its configuration from what is declared, the stanza, the check of the archive, the backup."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    cluster_layout,
    locks,
    pgbackrest,
    repository_cipher,
    wal_archive,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_layout import Layout
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target, connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.pgbackrest import PgBackRest
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import NAMES
from ansible_collections.whitecross.pgops.plugins.module_utils.wal_archive import Physical

# A backup waits for the next checkpoint of the server's own, minutes, unless it may ask for one.
_DEFAULTS = {"start-fast": "y"}


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
    :raises PgopsError: no pgBackRest, options that are none, a repository that was made with another cipher, an archive_command that is
        another's.
    """
    tool.version()
    cluster = {
        "pg1-path": layout.data_directory,
        "pg1-port": str(layout.port),
        "pg1-socket-path": layout.socket_directory,
    }
    cipher = repository_cipher.secrets(declared.cipher_passfile, declared.repository, declared.secrets)
    secrets = {**declared.secrets, **cipher}
    text = pgbackrest.configuration(tool.stanza, cluster, {**_DEFAULTS, **declared.repository}, secrets)
    repository_cipher.refuse_changed(tool, text)
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
    if kind != "full":
        _refuse_mixed_checksums(tool, layout)
    tool.backup(kind)
    kept = wal_archive.backups(tool.info(), layout.system_identifier)
    made = [backup for backup in kept if backup.repository == pgbackrest.FIRST][-1]
    wal_archive.refuse_broken_chain(tool, made)
    copies = {number: _copy(tool, layout, made, kind, number) for number in further}
    return {
        **told(made),
        "copies": copies,
        "seconds": round(time.monotonic() - began, 1),
        "pgbackrest": tool.version(),
    }


def _refuse_mixed_checksums(tool: PgBackRest, layout: Layout) -> None:
    """:raises PgopsError: what the backup would stand on was taken with data checksums in the other state."""
    kept = wal_archive.backups(tool.info(), layout.system_identifier)
    below = [backup for backup in kept if backup.repository == pgbackrest.FIRST]
    if not below:
        return
    try:
        wal_archive.refuse_other_checksums(tool, below[-1], layout.data_checksums)
    except Interrupted:
        raise
    except PgopsError as error:
        # What else is wrong with the one below, pgBackRest says and goes on from another.
        if error.extra.get("reason") == "checksums":
            error.message = (
                f"No backup was taken, since it would stand on another state of the cluster: {error.message}"
            )
            raise


def further_repositories(declared: Declared) -> list[int]:
    """:return: the numbers of those that are declared besides the first."""
    numbers = pgbackrest.repositories(str(name) for name in declared.repository)
    return [number for number in numbers if number != pgbackrest.FIRST]


def _copy(tool: PgBackRest, layout: Layout, made: Physical, kind: str, repository: int) -> str:
    """:return: the label of the backup that is in a further repository by now."""
    tool.backup(kind, repository)
    there = wal_archive.backups(tool.info(), layout.system_identifier)
    found = [backup for backup in there if backup.repository == repository and backup.stop >= made.stop]
    if not found or found[-1].damaged:
        raise PgopsError(
            f"Repository {repository} of stanza {tool.stanza} has no whole backup of this run.",
            hint=f"Look with pgbackrest --stanza={tool.stanza} --repo={repository} info.",
        )
    wal_archive.refuse_broken_chain(tool, found[-1])
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


def read_proof(directory: str, stanza: str, label: str) -> dict[str, Any] | None:
    """:return: the proof of a backup; None where there is none, or none that can be read."""
    try:
        with open(proof_path(directory, stanza, label), encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("label") == label else None


def remove_proof(directory: str, stanza: str, label: str) -> None:
    """A backup that was found unfit is not proved any more."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(proof_path(directory, stanza, label))


def proved(directory: str, stanza: str) -> list[str]:
    """:return: the labels of the backups that have a proof."""
    suffix = ".proof.json"
    try:
        names = os.listdir(os.path.dirname(proof_path(directory, stanza, "x")))
    except OSError:
        return []
    return sorted(name[: -len(suffix)] for name in names if name.endswith(suffix))


def refuse_unproved(directory: str, stanza: str, backup: Physical, level: int, system_identifier: str) -> None:
    """:param level: to which the proof of a backup must have come before a cluster goes back by it.
    :raises PgopsError: there is no such proof; ``extra["reason"]`` is ``level``."""
    proof = read_proof(directory, stanza, backup.label)
    if proof and proof.get("system_identifier", system_identifier) != system_identifier:
        proof = None
    # One that was made before levels were kept in it compared nothing but counts.
    reached = int(proof.get("level") or 0) if proof else 0
    if reached >= level:
        return
    told = f"is proved to level {reached} ({NAMES[reached]})" if proof else "was never proved"
    raise PgopsError(
        f"Backup {backup.label} {told}, and level {level} ({NAMES[level]}) is needed; nothing was touched.",
        hint=f"Prove it with prove.yml -e backup_engine=physical -e backup_prove_level={level}, which proves the newest one; or say why it is "
        "to be taken all the same with -e \"rollback_break_glass='WHY'\".",
        extra={"reason": "level", "backup": backup.label, "level": reached, "level_required": level},
    )
