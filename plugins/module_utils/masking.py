# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A copy on a less trusted server without what identifies anybody: declared columns keep type, length, class, uniqueness and their NULLs.

Text is replaced character by character: a letter by a letter, a digit by a digit, all else stays. Which one depends on a key of this call, the place and
what stands before it, so no two values become one, and the same value becomes the same everywhere: keys and joins hold. Moments are moved
by a number of days that is the key's. The key is forgotten with the call.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work
from psycopg2 import sql

KINDS = ("text", "moment", "empty")
EMPTY_TABLE = "empty"
# Looked for afterwards: so many values of each column, of a length that is no accident elsewhere.
SENTINELS = 20
SHORTEST = 5

# Alphabets, from their first letter to their last; a letter becomes one of its own, whatever else stays as it is.
_FIRST = (48, 65, 97, 192, 216, 224, 248, 913, 931, 945, 1040, 1072, 1488, 1569, 12353, 12449, 19968, 44032)
_LAST = (57, 90, 122, 214, 222, 246, 254, 929, 937, 969, 1071, 1103, 1514, 1594, 12438, 12538, 40869, 55203)
# Left to right, so that who has the key can undo it: therefore no two values become one.
_MASK = f"""
CREATE FUNCTION pg_temp.pgops_mask(value text, key text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
    firsts int[] := '{{{", ".join(map(str, _FIRST))}}}';
    lasts int[] := '{{{", ".join(map(str, _LAST))}}}';
    state text := md5(key);
    result text := '';
    letter text;
    masked text;
    size int;
BEGIN
    IF value = '' THEN
        RETURN value;
    END IF;
    FOREACH letter IN ARRAY regexp_split_to_array(value, '') LOOP
        masked := letter;
        FOR i IN 1 .. array_length(firsts, 1) LOOP
            IF ascii(letter) BETWEEN firsts[i] AND lasts[i] THEN
                size := lasts[i] - firsts[i] + 1;
                masked := chr(firsts[i] + (ascii(letter) - firsts[i] + 1 + ('x' || substr(state, 1, 6))::bit(24)::int % (size - 1)) % size);
                EXIT;
            END IF;
        END LOOP;
        result := result || masked;
        state := md5(key || state || letter);
    END LOOP;
    RETURN result;
END $$
"""
_COLUMNS = """
SELECT a.attname::text AS name, a.atttypid::regtype::text AS type, pg_catalog.format_type(a.atttypid, a.atttypmod) AS full_type
  FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""
_TEXTS = """
SELECT n.nspname::text AS schema, c.relname::text AS name, array_agg(a.attname::text ORDER BY a.attnum) AS columns
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
 WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND (t.typcategory = 'S' OR t.typname IN ('json', 'jsonb', 'xml', 'hstore') OR t.typcategory = 'A')
 GROUP BY 1, 2
"""
_KEPT_RESULTS = """
SELECT n.nspname::text AS schema, c.relname::text AS name
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind = 'm' AND c.relispopulated ORDER BY c.oid
"""
_TEXTUAL = re.compile(r"^(text|character varying|character|citext)$")
_MOMENT = re.compile(r"^(date|timestamp without time zone|timestamp with time zone)$")


def mask(copy: Target, declared: Mapping[str, Any], *, work: Work) -> dict[str, Any]:
    """Mask the declared columns of a copy that nobody else may connect to yet, and look that nothing of them is left anywhere in it.

    :param copy: a scratch database, as the restore role, a superuser.
    :param declared: table, as ``schema.name`` -> column -> ``text``, ``moment`` or ``empty`` (NULL); or ``empty`` for a table whose rows go.
    :return: ``tables``, ``columns``, ``rows``.
    :raises PgopsError: the role is no superuser, a table or column is not there or of another kind, or a value is still to be found.
    """
    with closing(connect(copy, application_name=f"{work.application_name} mask")) as conn:
        _refuse_role(conn, copy)
        forget = work.control.on_interrupt(conn.cancel)
        try:
            # No trigger copies old values elsewhere, and keys that point at one another change one after the other.
            execute(conn, "SET session_replication_role = replica")
            execute(conn, _MASK)
            sentinels: list[str] = []
            done = {"tables": 0, "columns": 0, "rows": 0}
            days, key = 30 + secrets.randbelow(300), secrets.token_hex(16)
            for table, columns in declared.items():
                work.control.check()
                work.progress.emit(f"masking {table}", database=copy.database)
                sentinels += _sentinels(conn, table, columns)
                done["rows"] += _mask_table(conn, table, columns, key, days)
                done["tables"] += 1
                done["columns"] += 0 if columns == EMPTY_TABLE else len(columns)
            _refresh(conn, work, copy)
            work.progress.emit("looking whether a value is left", database=copy.database)
            _refuse_left(conn, sentinels, copy)
            return done
        except psycopg2.Error as exc:
            work.control.check()
            raise from_psycopg(exc, f"{copy.database} cannot be masked", database=copy.database) from None
        finally:
            forget()


def _refuse_role(conn: Connection, copy: Target) -> None:
    row = fetch_one(conn, "SELECT rolsuper AS superuser FROM pg_catalog.pg_roles WHERE rolname = current_user")
    if not row or not row["superuser"]:
        raise PgopsError(
            f"Role {copy.user} cannot mask a copy: triggers and foreign keys would see it, and only a superuser may keep them out.",
            database=copy.database,
            hint="Name a superuser of the scratch server in pgops_restore_user.",
        )


def _named(table: str) -> sql.Identifier:
    schema, _, name = table.rpartition(".")
    return sql.Identifier(schema or "public", name)


def _types(conn: Connection, table: str) -> dict[str, str]:
    rows = fetch_all(conn, _COLUMNS, (_named(table).as_string(conn),))
    if not rows:
        raise PgopsError(f"masking.yml names {table}, and the copy has no such table.", object_name=table)
    return {row["name"]: row["type"] for row in rows}


def _sentinels(conn: Connection, table: str, columns: Any) -> list[str]:
    types = _types(conn, table)
    names = (
        [name for name, type_ in types.items() if _TEXTUAL.match(type_)] if columns == EMPTY_TABLE else list(columns)
    )
    found = []
    for name in names:
        if _TEXTUAL.match(types.get(name, "")):
            # One that many rows share is a word, and may stand anywhere.
            query = sql.SQL(
                "SELECT {0}::text AS v FROM {1} WHERE length({0}::text) >= %s GROUP BY 1 HAVING count(*) = 1 LIMIT %s"
            ).format(sql.Identifier(name), _named(table))
            found += [row["v"] for row in fetch_all(conn, query, (SHORTEST, SENTINELS))]
    # What holds no letter and no digit is masked to itself.
    return [value for value in found if re.search(r"[^\W_]", value)]


def _mask_table(conn: Connection, table: str, columns: Any, key: str, days: int) -> int:
    """:return: the rows that it has touched. The old ones are gone from the table's files when this returns."""
    name = _named(table)
    if columns == EMPTY_TABLE:
        execute(conn, sql.SQL("TRUNCATE {} CASCADE").format(name))
        return 0
    types = _types(conn, table)
    parts = []
    for column, kind in columns.items():
        type_ = types.get(column)
        fits = {"text": _TEXTUAL, "moment": _MOMENT}.get(kind)
        if type_ is None or kind not in KINDS or (fits and not fits.match(type_)):
            raise PgopsError(
                f"masking.yml says {kind} of {table}.{column}, which is {type_ or 'no column of it'}.",
                object_name=f"{table}.{column}",
            )
        at = sql.Identifier(column)
        if kind == "text":
            parts.append(sql.SQL("{0} = pg_temp.pgops_mask({0}::text, {1})").format(at, sql.Literal(key)))
        elif kind == "moment":
            parts.append(sql.SQL("{0} = {0} - {1} * interval '1 day'").format(at, sql.Literal(days)))
        else:
            parts.append(sql.SQL("{0} = NULL").format(at))
    with transaction(conn):
        rows = execute(conn, sql.SQL("UPDATE {} SET {}").format(name, sql.SQL(", ").join(parts)))
    execute(conn, sql.SQL("VACUUM (FULL) {}").format(name))
    return rows


def _refresh(conn: Connection, work: Work, copy: Target) -> None:
    """What keeps the result of a query over masked tables is filled anew; in the order in which it was made, so after what it reads."""
    for view in fetch_all(conn, _KEPT_RESULTS):
        work.control.check()
        work.progress.emit(f"masking {view['schema']}.{view['name']}", database=copy.database)
        execute(conn, sql.SQL("REFRESH MATERIALIZED VIEW {}").format(sql.Identifier(view["schema"], view["name"])))


def _refuse_left(conn: Connection, sentinels: list[str], copy: Target) -> None:
    """Anywhere in any text of the copy; the message says where, never what."""
    if not sentinels:
        return
    pattern = "|".join(re.sub(r"([^\w ])", r"\\\1", value) for value in sorted(set(sentinels)))
    for table in fetch_all(conn, _TEXTS):
        where = sql.SQL(" OR ").join(
            sql.SQL("{}::text ~ %(p)s").format(sql.Identifier(name)) for name in table["columns"]
        )
        query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {}) AS left_over").format(
            sql.Identifier(table["schema"], table["name"]), where
        )
        row = fetch_one(conn, query, {"p": pattern})
        if row and row["left_over"]:
            raise PgopsError(
                f"{table['schema']}.{table['name']} still holds a value that masking.yml masks elsewhere; nothing was rehearsed.",
                database=copy.database,
                object_name=f"{table['schema']}.{table['name']}",
                hint="Declare its column in masking.yml too, or the table as empty.",
                extra={"reason": "unmasked"},
            )
