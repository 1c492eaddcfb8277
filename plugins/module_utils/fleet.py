# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Apply to the databases of a server, batch after batch, and stop at the first that fails or leaves its clients unwell."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import batch_health, lost_session, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils import plan as planning
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError, as_pgops_error
from ansible_collections.whitecross.pgops.plugins.module_utils.reconnect import BACKOFF_FIRST_S, BACKOFF_LAST_S, SLICE_S
from psycopg2 import errorcodes

T = TypeVar("T")

# A session that the server has ended: it restarts.
_ENDED = frozenset({errorcodes.ADMIN_SHUTDOWN, errorcodes.CRASH_SHUTDOWN})
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
    judged_again: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Apply what is pending to database after database; see :func:`migrate.apply` for one of them.

    A look at the clients that the server cuts off is made once more, within ``way.reconnect_s`` from the first loss on.

    :param batches: the databases in their order; between two batches the clients are looked at.
    :param expected: by database the state that must not have moved since its backup.
    :param limits: what a batch may cost the clients; None looks at nobody, and there is one batch then.
    :param judged_again: canaries with nothing pending, with versions that they have and others of this call have not (none, where
        the others are other hosts'): what an earlier run has left of them is judged before the others follow.
    :return: by database what was applied, with ``health`` where it was looked at.
    :raises PgopsError: the first failure; ``extra["databases"]`` has what was done until then, ``extra["untouched"]`` the databases
        that were not begun.
    """
    judged_again = judged_again or {}
    by_version = {str(migration["version"]): migration for migration in migrations}
    done: dict[str, dict[str, Any]] = {}
    order = [name for batch in batches for name in batch]
    for number, batch in enumerate(batches, 1):
        before: dict[str, batch_health.Before] = {}
        for name in batch:
            way, begun = way_of(name), False
            if len(batches) > 1:
                way.progress.emit(f"batch {number} of {len(batches)}", database=name)
            try:
                way.control.check()
                if limits:
                    before[name] = _looked(way, name, partial(batch_health.look_before, targets[name]))
                begun = True
                done[name] = migrate.apply(targets[name], migrations, selection, way, expected=expected.get(name))
            except (PgopsError, psycopg2.Error) as exc:
                error = as_pgops_error(exc, f"{name} could not be migrated")
                half_done = error.extra.pop("partial", None)
                if half_done and error.database:
                    done[error.database] = half_done
                error.database = error.database or name
                first = order.index(name) + (begun or not isinstance(exc, Interrupted))
                raise _stopped(error, done, order[first:]) from None
        changed = {name: [by_version[item["version"]] for item in done[name]["applied"]] for name in batch}
        for name in set(batch) & set(judged_again):
            changed[name] = changed[name] or [by_version[known] for known in judged_again[name] if known in by_version]
        changed = {name: known for name, known in changed.items() if known or name in judged_again}
        if not limits or not changed:
            continue
        way = way_of(batch[0])
        rest = [name for later in batches[number:] for name in later]
        where = f"batch {number} of {len(batches)}"
        way.progress.emit(f"clients of {where} are watched for {limits.pause:g} s")
        try:
            watched = {name: targets[name] for name in changed}
            look = partial(
                batch_health.look_after, watched, before, changed, limits, control=way.control, sleep=way.sleep
            )
            seen = _looked(way, where, look)
        except (PgopsError, psycopg2.Error) as exc:
            raise _stopped(_not_looked_at(exc, where, changed), done, rest) from None
        for name, health in seen.items():
            done[name]["health"] = health
        unwell = {name: health["findings"] for name, health in seen.items() if health["findings"]}
        if unwell:
            raise _stopped(_unwell(unwell, number, len(batches), changed), done, rest)
    return done


def _looked(way: migrate.Way, where: str, look: Callable[[], T]) -> T:
    """Look; where the server is away meanwhile, wait for it and look from the beginning.

    :raises PgopsError, psycopg2.Error: what ended the last look, when ``way.reconnect_s`` since the first loss are over.
    :raises Interrupted: asked to end.
    """
    deadline: float | None = None
    backoff = BACKOFF_FIRST_S
    while True:
        try:
            return look()
        except (PgopsError, psycopg2.Error) as exc:
            if way.reconnect_s <= 0 or not _is_away(exc):
                raise
            if deadline is None:
                deadline = time.monotonic() + way.reconnect_s
                way.progress.emit(
                    f"the look at {where} has lost its connection, it looks again for up to {way.reconnect_s:g} s"
                )
            if time.monotonic() >= deadline:
                raise
        until = time.monotonic() + min(backoff, max(0.0, deadline - time.monotonic()))
        backoff = min(backoff * 2, BACKOFF_LAST_S)
        while True:
            way.control.check()
            left = until - time.monotonic()
            if left <= 0:
                break
            way.sleep(min(SLICE_S, left))


def _is_away(exc: PgopsError | psycopg2.Error) -> bool:
    if isinstance(exc, PgopsError):
        # Where no server has said or kept from saying anything it is our own refusal.
        return exc.sqlstate is not None and (exc.sqlstate in _ENDED or lost_session.is_of_a_connection(exc))
    return exc.pgcode in _ENDED or lost_session.is_of_a_connection(exc)


def _not_looked_at(
    exc: PgopsError | psycopg2.Error, where: str, changed: Mapping[str, Sequence[Mapping[str, Any]]]
) -> PgopsError:
    """All of it is applied, and nobody knows how its clients are."""
    error = as_pgops_error(exc, "the connection was lost")
    applied = sorted({str(migration["version"]) for migrations in changed.values() for migration in migrations})
    error.message = f"The clients of {where} were not watched to the end: {error.message.rstrip('.')}.{_stays(applied)}"
    error.args = (error.message,)
    error.database = error.database or next(iter(changed))
    error.extra["reason"] = "interrupted" if isinstance(exc, Interrupted) else "not_looked_at"
    error.extra.update(not_looked_at=list(changed), applied=applied)
    return error


def _unwell(
    unwell: Mapping[str, Sequence[str]],
    number: int,
    batches: int,
    changed: Mapping[str, Sequence[Mapping[str, Any]]],
) -> PgopsError:
    name, findings = next(iter(unwell.items()))
    more = sum(len(listed) for listed in unwell.values()) - 1
    return PgopsError(
        f"{name} is not well after batch {number} of {batches}: {findings[0]}{f', and {more} more' if more else ''}."
        f"{_stays([str(migration['version']) for migration in changed[name]])}",
        database=name,
        extra={
            "reason": "unwell",
            "unwell": {database: list(listed) for database, listed in unwell.items()},
            "applied": [str(migration["version"]) for migration in changed[name]],
        },
    )


def _stays(applied: Sequence[str]) -> str:
    return f" What the batch applied stays: {', '.join(applied)}." if applied else ""


def _stopped(error: PgopsError, done: Mapping[str, Any], rest: Sequence[str]) -> PgopsError:
    error.extra["databases"] = dict(done)
    error.extra["untouched"] = list(rest)
    if rest:
        more = f" and {len(rest) - NAMED} more" if len(rest) > NAMED else ""
        error.message = f"{error.message.rstrip()} Not begun: {', '.join(rest[:NAMED])}{more}."
        error.args = (error.message,)
    return error
