# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Apply to the databases of a server, batch after batch, and stop at the first that fails or leaves its clients unwell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import batch_health, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils import plan as planning
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, as_pgops_error

# A sentence names so many databases, and counts the others.
NAMED = 5


def apply(
    targets: Mapping[str, Target],
    migrations: Sequence[Mapping[str, Any]],
    selection: planning.Selection,
    way_of: Callable[[str], migrate.Way],
    *,
    batches: Sequence[Sequence[str]],
    expected: Mapping[str, Mapping[str, str]],
    limits: batch_health.Limits | None = None,
) -> dict[str, dict[str, Any]]:
    """Apply what is pending to database after database; see :func:`migrate.apply` for one of them.

    :param batches: the databases in their order; between two batches the clients are looked at.
    :param expected: by database the state that must not have moved since its backup.
    :param limits: what a batch may cost the clients; None looks at nobody, and there is one batch then.
    :return: by database what was applied, with ``health`` where it was looked at.
    :raises PgopsError: the first failure; ``extra["databases"]`` has what was done until then, ``extra["untouched"]`` the databases
        that were not begun.
    """
    by_version = {str(migration["version"]): migration for migration in migrations}
    done: dict[str, dict[str, Any]] = {}
    order = [name for batch in batches for name in batch]
    for number, batch in enumerate(batches, 1):
        before: dict[str, batch_health.Before] = {}
        for name in batch:
            way = way_of(name)
            if len(batches) > 1:
                way.progress.emit(f"batch {number} of {len(batches)}", database=name)
            try:
                way.control.check()
                if limits:
                    before[name] = batch_health.look_before(targets[name])
                done[name] = migrate.apply(targets[name], migrations, selection, way, expected=expected.get(name))
            except (PgopsError, psycopg2.Error) as exc:
                error = as_pgops_error(exc, f"{name} could not be migrated")
                partial = error.extra.pop("partial", None)
                if partial and error.database:
                    done[error.database] = partial
                error.database = error.database or name
                raise _stopped(error, done, order[order.index(name) + 1 :]) from None
        changed = {name: [by_version[item["version"]] for item in done[name]["applied"]] for name in batch}
        changed = {name: versions for name, versions in changed.items() if versions}
        if not limits or not changed:
            continue
        way = way_of(batch[0])
        rest = [name for later in batches[number:] for name in later]
        way.progress.emit(f"clients of batch {number} of {len(batches)} are watched for {limits.pause:g} s")
        try:
            seen = batch_health.look_after(
                {name: targets[name] for name in changed}, before, changed, limits, control=way.control, sleep=way.sleep
            )
        except (PgopsError, psycopg2.Error) as exc:
            raise _stopped(as_pgops_error(exc, f"The clients of {batch[0]} could not be watched"), done, rest) from None
        for name, health in seen.items():
            done[name]["health"] = health
        unwell = {name: health["findings"] for name, health in seen.items() if health["findings"]}
        if unwell:
            raise _stopped(_unwell(unwell, number, len(batches), changed), done, rest)
    return done


def _unwell(
    unwell: Mapping[str, Sequence[str]],
    number: int,
    batches: int,
    changed: Mapping[str, Sequence[Mapping[str, Any]]],
) -> PgopsError:
    name, findings = next(iter(unwell.items()))
    more = sum(len(listed) for listed in unwell.values()) - 1
    return PgopsError(
        f"{name} is not well after batch {number} of {batches}: {findings[0]}{f', and {more} more' if more else ''}. What the batch "
        f"applied stays: {', '.join(str(migration['version']) for migration in changed[name])}.",
        database=name,
        extra={
            "reason": "unwell",
            "unwell": {database: list(listed) for database, listed in unwell.items()},
            "applied": [str(migration["version"]) for migration in changed[name]],
        },
    )


def _stopped(error: PgopsError, done: Mapping[str, Any], rest: Sequence[str]) -> PgopsError:
    error.extra["databases"] = dict(done)
    error.extra["untouched"] = list(rest)
    if rest:
        more = f" and {len(rest) - NAMED} more" if len(rest) > NAMED else ""
        error.message = f"{error.message.rstrip()} Not begun: {', '.join(rest[:NAMED])}{more}."
        error.args = (error.message,)
    return error
