# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a version is applied, as its manifest declares it: in the live database, or in a new one that then takes its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

ONLINE = "online"
BLUE_GREEN = "blue_green"
ANY = "any"


def chosen(pending: Sequence[Mapping[str, Any]], strategy: str, database: str) -> list[Mapping[str, Any]]:
    """:param pending: what would be applied now, in order.
    :param strategy: what is asked for: one of the two, or ``any``.
    :return: what of it is applied that way: all, or with ``blue_green`` those up to the first that is not.
    :raises PgopsError: a version that has to be applied the other way comes first."""
    if strategy == ANY or not pending:
        return list(pending)
    other = [number for number, version in enumerate(pending) if version.get("strategy", ONLINE) != strategy]
    if not other:
        return list(pending)
    at = other[0]
    version = str(pending[at]["version"])
    if strategy == BLUE_GREEN and at > 0:
        return list(pending[:at])
    if strategy == BLUE_GREEN:
        raise PgopsError(
            f"Nothing was begun for {database}: {version}, which is pending first, is applied online.",
            database=database,
            hint=f"Apply it first: migrate.yml -e migrate_target={_last_before_blue_green(pending)}.",
            extra={"reason": "strategy", "version": version},
        )
    before = f"; -e migrate_target={pending[at - 1]['version']} applies those before it" if at else ""
    raise PgopsError(
        f"Nothing was applied to {database}: {version} is declared strategy: blue_green, since it would keep clients waiting in the "
        "live database.",
        database=database,
        hint=f"Apply it by blue_green.yml{before}.",
        extra={"reason": "strategy", "version": version},
    )


def _last_before_blue_green(pending: Sequence[Mapping[str, Any]]) -> str:
    last = pending[0]
    for version in pending:
        if version.get("strategy") == BLUE_GREEN:
            break
        last = version
    return str(last["version"])
