# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whose backups lie in a database's folder: several hosts may share it, and their databases may bear one name.

What tells them apart is the cluster's system identifier, which each manifest has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect, system_identifier
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg


def cluster_of(manifest: Mapping[str, Any]) -> str:
    """:return: the system identifier of the cluster that a backup was taken of, empty where its manifest does not tell."""
    return str(manifest.get("system_identifier") or "")


def may_be_of(manifest: Mapping[str, Any], cluster: str) -> bool:
    """:return: whether a backup is that cluster's, or does not tell; each is where ``cluster`` is empty."""
    return not cluster or cluster_of(manifest) in ("", cluster)


def identifier(target: Target, *, application_name: str) -> str:
    """:return: the system identifier of the target's cluster. :raises PgopsError: it cannot be asked."""
    with closing(connect(target.maintenance(), application_name=application_name)) as conn:
        try:
            return system_identifier(conn)
        except psycopg2.Error as exc:
            raise from_psycopg(
                exc, f"The cluster of {target.database} cannot be told", database=target.database
            ) from None


def own(target: Target, found: Sequence[Backup], *, application_name: str) -> list[Backup]:
    """Take of a database's backups those of the target's own cluster.

    Where its server cannot be asked and all are of one cluster, they are taken for its own: a backup is needed most then.

    :return: those of its cluster and those that do not tell, in the same order.
    :raises PgopsError: there are backups of several clusters, and the server cannot be asked which is its own.
    """
    clusters = {cluster_of(backup.manifest) for backup in found} - {""}
    if not clusters:
        return list(found)
    try:
        cluster = identifier(target, application_name=application_name)
    except PgopsError as error:
        if len(clusters) == 1:
            return list(found)
        raise PgopsError(
            f"There are backups of {len(clusters)} clusters that have a database {target.database}, and which is this one cannot be "
            f"asked: {error.message}",
            database=target.database,
            hint="Name the backup; backup_list.yml says of which cluster each is.",
        ) from None
    return [backup for backup in found if may_be_of(backup.manifest, cluster)]


def newest_own(
    target: Target,
    directory: str,
    *,
    application_name: str,
    hint: str,
    fits: Callable[[Backup], bool] = lambda backup: True,
    fitting: str = "",
) -> Backup:
    """:param hint: what to type where there is none.
    :param fits: which are taken at all, ``fitting`` in words; all of them where it is not given.
    :return: the newest backup of the target's own cluster, proved or not.
    :raises PgopsError: there is none."""
    there = [backup for backup in backup_store.backups_of(directory, target.database) if fits(backup)]
    found = own(target, there, application_name=application_name)
    if not found:
        raise PgopsError(
            f"There is no backup of {target.database}{of_others(there, found)} in "
            f"{backup_store.database_folder(directory, target.database)}{fitting}.",
            database=target.database,
            hint=hint,
        )
    return found[0]


def of_others(there: Sequence[Backup], own_ones: Sequence[Backup]) -> str:
    """:return: for a refusal, that others are there; empty where there are none."""
    others = len(there) - len(own_ones)
    return f" of this cluster, only {others} of another one," if others else ""
