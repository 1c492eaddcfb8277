# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a value that a mask has taken out of its column still stands somewhere else in the copy.

Values are noted before the mask, in temporary tables of the session that masks, which end with it. Afterwards every table is read once:
what it holds is cut into words, and a value counts as found where all its words stand one after the other, whatever their case and what
stands between them. Search vectors are compared by their lexemes. No value leaves the server.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from psycopg2 import sql

# Of a column with more values than this, so many are drawn at random.
SAMPLE = 200_000
# What is shorter stands anywhere by accident; numbers, of which there are fewer, sooner.
SHORTEST, SHORTEST_NUMBER = 5, 7
# By so many words a value is looked up; all of them are compared then.
_KEY_WORDS = 3
# Characters: of a longer value the beginning is looked for in search vectors, whose size has a limit.
_LEXEMES_OF, _VECTOR_OF = 1000, 200_000

_TABLES = f"""
CREATE TEMPORARY TABLE pgops_value (value text, digest bytea PRIMARY KEY, words text, key text, masked text);
CREATE FUNCTION pg_temp.pgops_digest(value text) RETURNS bytea LANGUAGE sql STABLE STRICT AS $$
    SELECT sha256(convert_to(value, getdatabaseencoding()))
$$;
CREATE TEMPORARY TABLE pgops_lexeme (lexeme text, query text);
CREATE FUNCTION pg_temp.pgops_words(value text) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT trim(regexp_replace(lower(value), '[^[:alnum:]]+', ' ', 'g'))
$$;
CREATE FUNCTION pg_temp.pgops_key(words text) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT substring(words from '^[^ ]+(?: [^ ]+){{0,{_KEY_WORDS - 1}}}')
$$;
CREATE FUNCTION pg_temp.pgops_escaped(value bytea) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT regexp_replace(encode(value, 'escape'), '\\\\([0-7]{{3}})', ' \\1 ', 'g')
$$;
CREATE FUNCTION pg_temp.pgops_bytes(value bytea) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN convert_from(value, 'UTF8');
EXCEPTION WHEN data_exception THEN
    RETURN pg_temp.pgops_escaped(value);
END $$;
CREATE FUNCTION pg_temp.pgops_json(value text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    -- As it is written, and each of its texts without what JSON escapes in it.
    RETURN value || ' ' || coalesce((SELECT string_agg(item #>> '{{}}', ' ') FROM jsonb_path_query(value::jsonb, 'strict $.**') AS item
                                      WHERE jsonb_typeof(item) = 'string'), '');
EXCEPTION WHEN data_exception THEN
    RETURN value;
END $$;
"""
# Of an expression of text: what it was masked to, NULL where it was not drawn.
MASKED = "(SELECT m.masked FROM pgops_masked AS m WHERE m.digest = pg_temp.pgops_digest({0}))"
_NOTE = """
INSERT INTO pgops_value (value, digest)
SELECT value, pg_temp.pgops_digest(value) FROM (SELECT DISTINCT {column}::text AS value FROM {table} WHERE {column} IS NOT NULL) AS one
 ORDER BY random() LIMIT {number} ON CONFLICT DO NOTHING
"""
_PREPARE = f"""
UPDATE pgops_value SET words = pg_temp.pgops_words(value);
DELETE FROM pgops_value WHERE coalesce(length(words), 0) < {SHORTEST} OR (words !~ '[^0-9 ]' AND length(words) < {SHORTEST_NUMBER});
INSERT INTO pgops_value (value, digest, words)
SELECT escaped, pg_temp.pgops_digest(escaped), pg_temp.pgops_words(escaped)
  FROM (SELECT pg_temp.pgops_escaped(convert_to(value, CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END)) AS escaped
          FROM pgops_value WHERE value ~ '[^\\x01-\\x7f]') AS bytes ON CONFLICT DO NOTHING;
UPDATE pgops_value SET key = pg_temp.pgops_key(words);
INSERT INTO pgops_lexeme
SELECT (tsvector_to_array(to_tsvector(c.cfg, v.begin)))[1], plainto_tsquery(c.cfg, v.begin)::text
  FROM (SELECT left(value, {_LEXEMES_OF}) AS begin FROM pgops_value) AS v
 CROSS JOIN (SELECT DISTINCT unnest(ARRAY['simple', 'english', current_setting('default_text_search_config')]::regconfig[]) AS cfg) AS c
 WHERE numnode(plainto_tsquery(c.cfg, v.begin)) > 0;
CREATE INDEX ON pgops_value (key);
CREATE INDEX ON pgops_lexeme (lexeme);
ANALYZE pgops_value;
ANALYZE pgops_lexeme
"""
# One pass over the table: each column's text, its words, and of these one, two and three in a row against the keys. Each OFFSET 0 keeps
# the text out of what is sorted and joined, which would hold it once for each of its words.
_LOOK = """
SELECT DISTINCT body.name, at.{found} AS found FROM {table} AS r
 CROSS JOIN LATERAL (VALUES {bodies}) AS body (name, text)
 CROSS JOIN LATERAL (SELECT pg_temp.pgops_words(body.text) AS words OFFSET 0) AS whole
 CROSS JOIN LATERAL (
    SELECT v.value, true AS found
      FROM (SELECT run.key
              FROM (SELECT word, lead(word) OVER w AS second, lead(word, 2) OVER w AS third
                      FROM string_to_table(whole.words, ' ') WITH ORDINALITY AS cut (word, place) WINDOW w AS (ORDER BY place)) AS cut
             CROSS JOIN LATERAL (VALUES (cut.word), (cut.word || ' ' || cut.second), (cut.word || ' ' || cut.second || ' ' || cut.third))
                AS run (key)) AS keys
      JOIN pgops_value AS v ON v.key = keys.key
     WHERE strpos(' ' || whole.words || ' ', ' ' || v.words || ' ') > 0 OFFSET 0) AS at
"""
_LOOK_IN_VECTORS = """
SELECT DISTINCT body.name, at.{found} AS found FROM {table} AS r
 CROSS JOIN LATERAL (VALUES {bodies}) AS body (name, vector)
 CROSS JOIN LATERAL (
    SELECT v.query, true AS found FROM unnest(tsvector_to_array(body.vector)) AS cut (lexeme) JOIN pgops_lexeme AS v ON v.lexeme = cut.lexeme
     WHERE body.vector @@ v.query::tsquery OFFSET 0) AS at
"""
_COLUMNS = """
WITH RECURSIVE base AS (
    SELECT oid, oid AS type, typtype, typbasetype FROM pg_catalog.pg_type
     UNION ALL SELECT b.oid, t.oid, t.typtype, t.typbasetype FROM base AS b JOIN pg_catalog.pg_type AS t ON t.oid = b.typbasetype
     WHERE b.typtype = 'd'
)
SELECT n.nspname::text AS schema, c.relname::text AS name, a.attname::text AS column,
       CASE t.typname WHEN 'bytea' THEN 'bytes' WHEN 'tsvector' THEN 'vector' WHEN 'json' THEN 'json' WHEN 'jsonb' THEN 'json' ELSE 'text' END AS kind
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN base AS b ON b.oid = a.atttypid AND b.typtype <> 'd'
  JOIN pg_catalog.pg_type AS t ON t.oid = b.type
 WHERE ((c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
        OR (c.relkind = 'm' AND c.relispopulated) OR c.oid = 'pg_catalog.pg_largeobject'::regclass)
   AND (t.typcategory IN ('S', 'A', 'C') OR t.typname IN ('bytea', 'tsvector', 'json', 'jsonb', 'xml', 'hstore', 'ltree'))
 ORDER BY c.oid, a.attnum
"""
_BODIES = {
    "text": "({name}, r.{column}::text)",
    "json": "({name}, pg_temp.pgops_json(r.{column}::text))",
    "bytes": "({name}, pg_temp.pgops_bytes(r.{column}))",
    "vector": "({name}, r.{column}::tsvector)",
}


@dataclass
class Looked:
    """What was looked for, and where.

    :ivar distinct: values that stood in the masked columns of text. :ivar looked_for: those of them that were looked for.
    :ivar short: too short, or without a letter or a digit. :ivar ambiguous: the mask itself makes them of other values.
    :ivar drawn: columns of which :data:`SAMPLE` values were drawn at random. :ivar tables: that were read, and their :ivar columns:.
    :ivar left_out: columns that ``masking.yml`` says are not to be looked at.
    """

    distinct: int = 0
    looked_for: int = 0
    short: int = 0
    ambiguous: int = 0
    drawn: list[str] = field(default_factory=list)
    tables: int = 0
    columns: int = 0
    left_out: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """:return: for the record of a rehearsal."""
        return asdict(self)


class Look:
    """The values of one copy, from before its mask to after it."""

    def __init__(self, conn: Connection, sample: int = SAMPLE) -> None:
        """:param conn: of the session that masks. :param sample: of a column with more values so many are drawn."""
        self._conn, self._sample = conn, sample
        self.looked = Looked()
        execute(conn, _TABLES)

    def note(self, table: sql.Composable, names: Sequence[str], shown: str) -> None:
        """Keep the values of these columns; before they are masked.

        :param shown: the table's name for the result.
        """
        for name in names:
            column = sql.Identifier(name)
            count = sql.SQL("SELECT count(DISTINCT {0}) AS n FROM {1}").format(column, table)
            if int((fetch_one(self._conn, count) or {})["n"]) > self._sample:
                self.looked.drawn.append(f"{shown}.{name}")
            number = sql.Literal(self._sample)
            execute(self._conn, sql.SQL(_NOTE).format(column=column, table=table, number=number))

    def prepare(self, masked: str) -> None:
        """Mask each value once, for :data:`MASKED` to find, and leave out what cannot be told from accident.

        :param masked: an expression of SQL that masks ``value``.
        """
        looked = self.looked
        looked.distinct = self._count("pgops_value")
        execute(self._conn, f"UPDATE pgops_value SET masked = {masked}")
        execute(
            self._conn,
            "CREATE TEMPORARY TABLE pgops_masked AS SELECT digest, masked FROM pgops_value; "
            "CREATE UNIQUE INDEX ON pgops_masked (digest); ANALYZE pgops_masked",
        )
        execute(self._conn, _PREPARE)
        noted = self._count("pgops_value WHERE masked IS NOT NULL")
        looked.short = looked.distinct - noted
        bodies = sql.SQL("('masked', r.masked)")
        found = sql.SQL(_LOOK).format(found=sql.SQL("value"), table=sql.Identifier("pgops_masked"), bodies=bodies)
        execute(
            self._conn, sql.SQL("DELETE FROM pgops_value WHERE value IN (SELECT found FROM ({}) AS f)").format(found)
        )
        vectors = sql.SQL(" UNION ALL ").join(
            sql.SQL(_LOOK_IN_VECTORS).format(
                found=sql.SQL("query"), table=sql.Identifier("pgops_masked"),
                bodies=sql.SQL("('masked', to_tsvector({}, left(r.masked, {})))").format(
                    sql.Literal(config), sql.Literal(_VECTOR_OF)
                ),
            )
            for config in ("simple", "english")
        )  # fmt: skip
        query = sql.SQL("DELETE FROM pgops_lexeme WHERE query IN (SELECT found FROM ({}) AS f)").format(vectors)
        execute(self._conn, query)
        looked.looked_for = self._count("pgops_value WHERE masked IS NOT NULL")
        looked.ambiguous = noted - looked.looked_for

    def pass_over(self, table: sql.Composable, names: Sequence[str]) -> None:
        """Leave out what the mask has made of values that were not drawn.

        :param names: columns of this table that are masked by now.
        """
        if names:
            self.looked.ambiguous += self._leave_out(table, names)
            self.looked.looked_for = self._count("pgops_value WHERE masked IS NOT NULL")

    def _leave_out(self, table: sql.Composable, names: Sequence[str]) -> int:
        """:return: how many values were, which stand in these columns by accident."""
        before = self._count("pgops_value WHERE masked IS NOT NULL")
        bodies = sql.SQL(", ").join(_body(name, "text") for name in names)
        found = sql.SQL(_LOOK).format(found=sql.SQL("value"), table=table, bodies=bodies)
        execute(
            self._conn, sql.SQL("DELETE FROM pgops_value WHERE value IN (SELECT found FROM ({}) AS f)").format(found)
        )
        return before - self._count("pgops_value WHERE masked IS NOT NULL")

    def left(self, kept: Collection[str], each: Callable[[str], None]) -> list[str]:
        """Read every table once.

        :param kept: columns, as ``schema.table.column``, that are not looked at. :param each: is told each table before it is read.
        :return: the columns where a value was found.
        """
        found: list[str] = []
        tables: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for row in fetch_all(self._conn, _COLUMNS):
            shown = f"{row['schema']}.{row['name']}.{row['column']}"
            if shown in kept:
                self.looked.left_out.append(shown)
                continue
            tables.setdefault((row["schema"], row["name"]), []).append((row["column"], row["kind"]))
        for (schema, name), columns in tables.items():
            each(f"{schema}.{name}")
            for query, wanted in ((_LOOK, ("text", "json", "bytes")), (_LOOK_IN_VECTORS, ("vector",))):
                bodies = [_body(column, kind) for column, kind in columns if kind in wanted]
                if bodies:
                    statement = sql.SQL(query).format(
                        found=sql.SQL("found"), table=sql.Identifier(schema, name), bodies=sql.SQL(", ").join(bodies)
                    )
                    found += [f"{schema}.{name}.{row['name']}" for row in fetch_all(self._conn, statement)]
            self.looked.tables += 1
            self.looked.columns += len(columns)
        return sorted(found)

    def _count(self, what: str) -> int:
        return int((fetch_one(self._conn, f"SELECT count(*) AS n FROM {what}") or {})["n"])


def _body(column: str, kind: str) -> sql.Composable:
    return sql.SQL(_BODIES[kind]).format(name=sql.Literal(column), column=sql.Identifier(column))
