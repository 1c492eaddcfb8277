# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A change of clusters that was cut off: finished or undone as that was asked for, and given up where the live server has served on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    cluster_change,
    cluster_layout,
    pgbackrest,
    point_in_time,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_change import Change
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.extra_variables import extra_variables_argument

# Between the last look at the sequences and the stop of the live server: the restored one stops, and a checkpoint with little to write.
STOP_WITHIN_SECONDS = 60.0
UNFENCE = "unfence"
EITHER_WAY = "Finish it with rollback_strategy=pitr as it was typed, or go back with rollback_strategy=unfence."
_KEPT = "the cluster kept in "


@dataclass(frozen=True)
class Asked:
    """What a run that finds a change cut off was typed for; of the targets one or none."""

    strategy: str
    confirmed: bool
    name: str | None = None
    time: str | None = None
    kept: str | None = None

    @property
    def target(self) -> str | None:
        """:return: the target in the words that a change keeps; None where none was typed. :raises PgopsError: a moment that is none."""
        if self.kept:
            return kept_in(self.kept)
        if self.time:
            return point_in_time.told_target(None, point_in_time.told_moment(point_in_time.moment(self.time)))
        return point_in_time.told_target(self.name, None) if self.name else None


def kept_in(folder: str) -> str:
    """:return: a cluster that was put aside, as a target in words."""
    return _KEPT + folder.rstrip("/")


def refuse_cut_off(data_directory: str) -> None:
    """:raises PgopsError: a change of the cluster has to be finished or undone before anything else is done to it."""
    there = cluster_change.read(data_directory)
    if there and there.step != cluster_change.RESTORING and not _serves_on(there):
        raise PgopsError(f"A change of the cluster in {data_directory} was cut off ({there.step}).", hint=EITHER_WAY)


def resume(
    config: str, stanza: str, user: Any, databases: Sequence[str], asked: Asked, *, pretend: bool
) -> dict[str, Any]:
    """Finish a change that was cut off, or go back from it; the server need not run for that.

    What was killed before the live server was stopped is not finished: that has served on, and the copy was compared with what it held then.
    The rollback begins anew, with what is typed now.

    :return: ``state``: nothing, completed or lifted; ``kept``; ``why``.
    :raises PgopsError: there is one, and something else was asked for or nobody has confirmed.
    """
    folder = pgbackrest.configured(config, stanza, "pg1-path")
    change = cluster_change.read(folder) if folder else None
    if change is None or change.step == cluster_change.RESTORING:
        return {"state": "nothing"}
    told = f"A change of clusters of run {change.run_id} to {change.target} was cut off ({change.step})"
    if asked.strategy != UNFENCE and _serves_on(change):
        return _given_up(change, told)
    if pretend:
        return {"state": "cut_off", "why": told}
    _refuse_other(change, told, asked)
    confirm = f"-e rollback_confirm={','.join(change.databases)}"
    if not asked.confirmed or sorted(databases) != sorted(change.databases):
        raise PgopsError(
            f"{told}; it is about {', '.join(change.databases)}.", hint=f"{EITHER_WAY} Each needs {confirm}."
        )
    with cluster_change.locked(change.live.data_directory):
        if asked.strategy == UNFENCE:
            cluster_change.undo(change, user)
            left = change.incoming if os.path.isdir(change.incoming) else None
            return {"state": "lifted", "why": told, "left": left}
        returned = {} if cluster_change.NEW in change.incoming else {"returned_to": change.target}
        return {"state": "completed", "why": told, **returned, **cluster_change.finish(change, user)}


def _serves_on(change: Change) -> bool:
    """:return: whether clients may have written to the live server since the copy was compared with it."""
    folder = change.live.data_directory
    if change.step != cluster_change.FENCING or os.path.exists(os.path.join(folder, cluster_change.STANDBY)):
        return False
    if cluster_layout.running(folder) is not None:
        return not cluster_layout.is_stopping(folder)
    return _stopped(folder) > os.stat(cluster_change.state_path(folder)).st_mtime + STOP_WITHIN_SECONDS


def _stopped(folder: str) -> float:
    """:return: when the server of a data directory wrote its last checkpoint, in seconds of the epoch."""
    return os.stat(os.path.join(folder, "global", "pg_control")).st_mtime


def _given_up(change: Change, told: str) -> dict[str, Any]:
    folder = change.live.data_directory
    if cluster_layout.running(folder) is not None:
        return {"state": "nothing", "why": f"{told}, and the server in {folder} serves on; the rollback begins anew"}
    at = datetime.fromtimestamp(_stopped(folder), timezone.utc)
    raise PgopsError(
        f"{told}, and the server in {folder} served on until {at:%Y-%m-%d %H:%M:%S}+00; what it took since is not counted.",
        hint=f"Start it with rollback_strategy=unfence -e rollback_confirm={','.join(change.databases)}, then go back anew.",
    )


def _refuse_other(change: Change, told: str, asked: Asked) -> None:
    """:raises PgopsError: another target was typed than that of the change."""
    if asked.strategy == UNFENCE or asked.target in (None, change.target.rstrip("/")):
        return
    raise PgopsError(
        f"{told}, and this run asks for {asked.target}; nothing was touched.",
        hint=f"Finish that one with rollback_strategy=pitr {_typed(change.target)}, or give it up with rollback_strategy=unfence and type "
        f"this again. Each needs -e rollback_confirm={','.join(change.databases)}.",
    )


def _typed(target: str) -> str:
    """:return: the option that names a target."""
    if target.startswith(_KEPT):
        return extra_variables_argument({"rollback_kept_cluster": target[len(_KEPT) :]})
    if target.startswith(point_in_time.TO_MOMENT):
        return f"-e rollback_to_time={target[len(point_in_time.TO_MOMENT) :].replace(' ', 'T')}:00"
    return f"-e rollback_restore_point={target[len(point_in_time.TO_NAME) :]}"
