# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A copy on a less trusted server without what identifies anybody: declared columns keep type, length, class, uniqueness and their NULLs.

Text is replaced character by character: a letter by a letter, a digit by a digit, punctuation stays. Which one depends on a key of this session,
and what stands before it (SHA-256 of both), so no two values become one, and the same value becomes the same everywhere: keys and joins hold.
Moments are moved by a number of days that is drawn with the key. Both are drawn by the server and go with the session.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import masking_check
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

# `keep` is no mask: the column stays, and nothing is looked for in it.
KEEP = "keep"
KINDS = ("text", "moment", "empty", KEEP)
EMPTY_TABLE = "empty"

# Alphabets, from their first letter to their last; a letter becomes one of its own.
_FIRST = (48, 65, 97, 192, 216, 224, 248, 256, 384, 913, 931, 945, 1040, 1072, 1488, 1569, 12353, 12449, 19968, 44032)
_LAST = (57, 90, 122, 214, 222, 246, 254, 383, 575, 929, 937, 969, 1071, 1103, 1514, 1594, 12438, 12538, 40869, 55203)
# In SQL_ASCII a letter is a byte: those that follow the first one of UTF-8, so that what it gives is UTF-8 again.
_FIRST_BYTES, _LAST_BYTES = (48, 65, 97, 128, 144, 160, 176), (57, 90, 122, 143, 159, 175, 191)
# Of no alphabet above and no letters: combining marks, punctuation and symbols, and what is no character.
_NO_LETTERS = ((0, 575), (768, 879), (8192, 11263), (12288, 12351), (55296, 57343))
# The key is made by the server and lies in the memory of this session alone: it is in no statement, and so in no log.
_KEY = """
DO $$ BEGIN
    PERFORM set_config('pgops.mask_key', encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'hex'), false);
    PERFORM set_config('pgops.mask_days', (30 + abs(hashtext(gen_random_uuid()::text)::bigint) % 300)::text, false);
END $$
"""
# Left to right, so that who has the key can undo it: therefore no two values become one.
_MASK = f"""
CREATE FUNCTION pg_temp.pgops_mask(value text) RETURNS text LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    firsts int[] := '{{{", ".join(map(str, _FIRST))}}}';
    lasts int[] := '{{{", ".join(map(str, _LAST))}}}';
    key bytea := decode(current_setting('pgops.mask_key'), 'hex');
    state bytea := sha256(key);
    result text := '';
    letter text;
    code int;
    masked int;
    number int;
    size int;
BEGIN
    IF value = '' THEN
        RETURN value;
    END IF;
    IF getdatabaseencoding() = 'SQL_ASCII' THEN
        firsts := '{{{", ".join(map(str, _FIRST_BYTES))}}}';
        lasts := '{{{", ".join(map(str, _LAST_BYTES))}}}';
    END IF;
    FOREACH letter IN ARRAY regexp_split_to_array(value, '') LOOP
        code := ascii(letter);
        masked := NULL;
        number := get_byte(state, 0) * 65536 + get_byte(state, 1) * 256 + get_byte(state, 2);
        FOR i IN 1 .. array_length(firsts, 1) LOOP
            IF code BETWEEN firsts[i] AND lasts[i] THEN
                size := lasts[i] - firsts[i] + 1;
                masked := firsts[i] + (code - firsts[i] + 1 + number % (size - 1)) % size;
                EXIT;
            END IF;
        END LOOP;
        IF masked IS NULL AND NOT ({" OR ".join(f"code BETWEEN {first} AND {last}" for first, last in _NO_LETTERS)}) THEN
            -- Any other script: by an odd number of places within 64 characters, past those that have an alphabet above.
            masked := code;
            LOOP
                masked := masked / 64 * 64 + (masked % 64 + 1 + 2 * (number % 32)) % 64;
                EXIT WHEN NOT EXISTS (SELECT FROM unnest(firsts, lasts) AS one (first, last) WHERE masked BETWEEN one.first AND one.last);
            END LOOP;
        END IF;
        result := result || coalesce(chr(masked), letter);
        state := sha256(key || state || int4send(code));
    END LOOP;
    RETURN result;
END $$
"""
_FORGET_STATISTICS = (
    "SET allow_system_table_mods = on",
    "DELETE FROM pg_catalog.pg_statistic",
    "DELETE FROM pg_catalog.pg_statistic_ext_data",
    "RESET allow_system_table_mods",
    "VACUUM (FULL) pg_catalog.pg_statistic",
    "VACUUM (FULL) pg_catalog.pg_statistic_ext_data",
)
_COLUMNS = """
SELECT a.attname::text AS name, a.atttypid::regtype::text AS type, a.attgenerated <> '' AS generated
  FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""
_KEPT_RESULTS = """
SELECT n.nspname::text AS schema, c.relname::text AS name
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind = 'm' AND c.relispopulated ORDER BY c.oid
"""
# A search vector is emptied, and a generated column made anew, with what they are made of.
_TAGGED = """
SELECT n.nspname || '.' || c.relname AS table, a.attname::text AS name
  FROM pg_catalog.pg_description AS d
  JOIN pg_catalog.pg_class AS c ON c.oid = d.objoid AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname <> 'pgops'
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = d.objsubid AND NOT a.attisdropped
   AND a.attgenerated = '' AND a.atttypid <> 'tsvector'::regtype
 WHERE d.classoid = 'pg_catalog.pg_class'::regclass AND d.description ~ '^PHI\\y'
 ORDER BY 1, a.attnum
"""
_TEXTUAL = re.compile(r"^(text|character varying|character|citext)$")
_MOMENT = re.compile(r"^(date|timestamp without time zone|timestamp with time zone)$")


def mask(
    copy: Target, declared: Mapping[str, Any], *, work: Work, sample: int = masking_check.SAMPLE
) -> dict[str, Any]:
    """Mask the declared columns of a copy that nobody else may connect to yet, and look whether their values stand elsewhere in it.

    :param copy: a scratch database, as the restore role, a superuser.
    :param declared: table, as ``schema.name`` -> column -> ``text``, ``moment``, ``empty`` (NULL) or ``keep``; or ``empty`` for a table whose
        rows go.
    :param sample: of a column with more values than this, so many, drawn at random, are looked for.
    :return: ``tables``, ``columns``, ``rows``; ``vectors``, search vectors that were emptied; ``looked``, what was looked for and where;
        ``bare``, columns whose comment begins with PHI and that are not declared.
    :raises PgopsError: the role is no superuser, a table or column is not there or of another kind, or a value is still to be found.
    """
    with closing(connect(copy, application_name=f"{work.application_name} mask")) as conn:
        _refuse_role(conn, copy)
        forget = work.control.on_interrupt(conn.cancel)
        try:
            # No trigger copies old values elsewhere, and keys that point at one another change one after the other.
            execute(conn, "SET session_replication_role = replica")
            execute(conn, _KEY)
            execute(conn, _MASK)
            look = masking_check.Look(conn, sample)
            _note(conn, declared, look, work, copy)
            done: dict[str, Any] = {"tables": 0, "columns": 0, "rows": 0, "vectors": []}
            for table, columns in declared.items():
                work.control.check()
                work.progress.emit(f"masking {table}", database=copy.database)
                done["rows"] += _mask_table(conn, table, columns, done["vectors"])
                masked = [] if columns == EMPTY_TABLE else _masked(columns)
                drawn = [name for name in masked if columns[name] == "text" and f"{table}.{name}" in look.looked.drawn]
                look.pass_over(_named(table), drawn)
                done["tables"] += 1 if masked or columns == EMPTY_TABLE else 0
                done["columns"] += len(masked)
            _refresh(conn, work, copy)
            for statement in _FORGET_STATISTICS:  # the most common values of each column
                execute(conn, statement)

            def reading(table: str) -> None:
                work.control.check()
                work.progress.emit(f"looking whether a value is left in {table}", database=copy.database)

            _refuse_left(look.left(_kept(declared), reading), copy)
            return {**done, "looked": look.looked.as_dict(), "bare": _bare(conn, declared)}
        except psycopg2.Error as exc:
            work.control.check()
            raise from_psycopg(exc, f"{copy.database} cannot be masked", database=copy.database) from None
        finally:
            forget()


def _bare(conn: Connection, declared: Mapping[str, Any]) -> list[str]:
    of = {table if "." in table else f"public.{table}": columns for table, columns in declared.items()}
    return [
        f"{row['table']}.{row['name']}"
        for row in fetch_all(conn, _TAGGED)
        if of.get(row["table"]) != EMPTY_TABLE and row["name"] not in of.get(row["table"], {})
    ]


def _masked(columns: Mapping[str, str]) -> list[str]:
    return [name for name, kind in columns.items() if kind != KEEP]


def _kept(declared: Mapping[str, Any]) -> set[str]:
    return {
        f"{table if '.' in table else f'public.{table}'}.{name}"
        for table, columns in declared.items()
        if columns != EMPTY_TABLE
        for name, kind in columns.items()
        if kind == KEEP
    }


def _note(conn: Connection, declared: Mapping[str, Any], look: masking_check.Look, work: Work, copy: Target) -> None:
    """All values of all columns before the first of them is masked: one may stand in a table that comes later."""
    for table, columns in declared.items():
        work.control.check()
        work.progress.emit(f"noting what {table} holds", database=copy.database)
        types = _types(conn, table)
        names = types if columns == EMPTY_TABLE else _masked(columns)
        look.note(_named(table), [name for name in names if _TEXTUAL.match(types.get(name, ""))], table)
    look.prepare("pg_temp.pgops_mask(value)")


def _refuse_role(conn: Connection, copy: Target) -> None:
    row = fetch_one(conn, "SELECT rolsuper AS superuser FROM pg_catalog.pg_roles WHERE rolname = current_user")
    refuse_role(copy, superuser=bool(row and row["superuser"]))


def refuse_role(copy: Target, *, superuser: bool) -> None:
    """:raises PgopsError: who is to mask the copy is no superuser."""
    if not superuser:
        raise PgopsError(
            f"Role {copy.user} cannot mask a copy: triggers and foreign keys would see it, and only a superuser may keep them out.",
            database=copy.database,
            hint="Name a superuser of the server that the copy is on in pgops_restore_user.",
        )


def _named(table: str) -> sql.Identifier:
    schema, _, name = table.rpartition(".")
    return sql.Identifier(schema or "public", name)


def _types(conn: Connection, table: str) -> dict[str, str]:
    return {row["name"]: row["type"] for row in _columns(conn, table)}


def _columns(conn: Connection, table: str) -> list[dict[str, Any]]:
    rows = fetch_all(conn, _COLUMNS, (_named(table).as_string(conn),))
    if not rows:
        raise PgopsError(f"masking.yml names {table}, and the copy has no such table.", object_name=table)
    return rows


def _mask_table(conn: Connection, table: str, columns: Any, vectors: list[str]) -> int:
    """:param vectors: gets the search vectors that were emptied.
    :return: the rows that it has touched. The old ones are gone from the table's files when this returns."""
    name = _named(table)
    if columns == EMPTY_TABLE:
        execute(conn, sql.SQL("TRUNCATE {} CASCADE").format(name))
        return 0
    there = _columns(conn, table)
    types = {row["name"]: row["type"] for row in there}
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
            text = sql.SQL("{}::text").format(at)
            known = sql.SQL(masking_check.MASKED).format(text)
            parts.append(sql.SQL("{} = coalesce({}, pg_temp.pgops_mask({}))").format(at, known, text))
        elif kind == "moment":
            moved = sql.SQL("{0} = {0} - current_setting('pgops.mask_days')::int * interval '1 day'")
            parts.append(moved.format(at))
        elif kind == "empty":
            parts.append(sql.SQL("{0} = NULL").format(at))
    if not parts:
        return 0
    # What a trigger makes of the masked columns nobody makes anew while triggers are off; a generated one the server does.
    for row in there:
        if row["type"] == "tsvector" and not row["generated"] and row["name"] not in columns:
            parts.append(
                sql.SQL("{0} = CASE WHEN {0} IS NOT NULL THEN ''::tsvector END").format(sql.Identifier(row["name"]))
            )
            vectors.append(f"{table}.{row['name']}")
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


def _refuse_left(found: list[str], copy: Target) -> None:
    """The message says where, never what."""
    if not found:
        return
    more = f" So do {', '.join(found[1:])}." if len(found) > 1 else ""
    raise PgopsError(
        f"{found[0]} still holds a value that masking.yml masks elsewhere; nothing was rehearsed.{more}",
        database=copy.database,
        object_name=found[0],
        hint=f"Declare the column in masking.yml too, or its table as empty; where such words stand by accident and are nobody's, as {KEEP}.",
        extra={"reason": "unmasked", "columns": found},
    )
