# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""How many large objects were written since a moment: a way back takes them away as it does the rows.

Every write of one writes a page of it, which bears its transaction. Only a superuser may read the pages; others see when an object
was made and not when it was overwritten, so that what they are told has bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import content, row_versions
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from psycopg2 import errorcodes, sql

_MAY_READ = "SELECT has_table_privilege('pg_catalog.pg_largeobject', 'SELECT') AS pages"
_BY_PAGES = """
SELECT count(*) AS now, count(*) FILTER (WHERE {written} OR EXISTS (
         SELECT FROM pg_catalog.pg_largeobject AS page WHERE page.loid = object.oid AND {page_written})) AS written
FROM pg_catalog.pg_largeobject_metadata AS object
"""
_BY_OBJECTS = "SELECT count(*) AS now, count(*) FILTER (WHERE {written}) AS written FROM pg_catalog.pg_largeobject_metadata AS object"


def since_backup(
    conn: Connection, then: Mapping[str, Any], window: Mapping[str, Any], *, told_apart: bool
) -> dict[str, Any] | None:
    """Compare the large objects with those of a backup. Takes ACCESS SHARE on their catalogs; reads their contents where they differ.

    :param then: ``count`` and ``hash`` of the backup's.
    :param window: what was written since, see :func:`row_versions.window`.
    :param told_apart: every other one is the backup's.
    :return: ``then``, ``now``, ``written`` (new and overwritten since), ``gone`` (of the backup's, those overwritten or deleted since);
        where they are not known they are the most that it can be, and ``at_least`` has the least; ``unread`` is why the contents could not be
        compared. None where nothing was written.
    :raises PgopsError: they cannot be read, for another reason than a right.
    """
    now, sure, pages = _count(conn, window)
    before = int(then["count"])
    exact = pages and told_apart
    if not now + before or (exact and not sure and now == before):
        return None
    unread = None
    try:
        if content.large_objects(conn) == then:
            return None
    except PgopsError as error:
        if error.sqlstate != errorcodes.INSUFFICIENT_PRIVILEGE:
            raise
        unread = error.message.rstrip(".")
    found = {"then": before, "now": now, "unread": unread}
    kept = min(before, now - sure)
    if exact:
        return {**found, "written": sure, "gone": before - kept}
    if kept == before == now and not unread:
        kept -= 1  # were all of them still the backup's, the contents would be the same
    least = {"written": now - kept, "gone": before - kept}
    most = {"written": now, "gone": before}
    return {**found, **most, **({"at_least": least} if least != most else {})}


def since(conn: Connection, window: Mapping[str, Any], *, told_apart: bool) -> dict[str, Any] | None:
    """Count those written since a moment of which no count is kept.

    :return: ``now``, ``written`` and, where that is the most that it can be, ``at_least``; None where none can have been written.
    """
    now, sure, pages = _count(conn, window)
    most = sure if pages and told_apart else now
    if not most:
        return None
    return {"now": now, "written": most, **({"at_least": {"written": sure}} if sure != most else {})}


def _count(conn: Connection, window: Mapping[str, Any]) -> tuple[int, int, bool]:
    """:return: how many there are, how many were surely written in the window, and whether those are all."""
    pages = bool((fetch_one(conn, _MAY_READ) or {}).get("pages"))
    written = row_versions.written(window)
    row = fetch_one(conn, sql.SQL(_BY_PAGES if pages else _BY_OBJECTS).format(written=written, page_written=written))
    assert row is not None
    return int(row["now"]), int(row["written"]), pages
