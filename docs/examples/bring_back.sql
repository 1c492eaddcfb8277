-- Copyright (c) 2026 White Cross pgops contributors
-- SPDX-License-Identifier: GPL-3.0-or-later
-- Brings archived rows back into their table, all of a file or none: psql -v table=public.messages -f bring_back.sql < FILE.jsonl
-- What a row is keyed by comes back as it was, also an identity; generated columns are made by the server, and columns that the archive does
-- not have get their default. Triggers of the table fire.
\set ON_ERROR_STOP on
BEGIN;
CREATE TEMPORARY TABLE archived (line json NOT NULL) ON COMMIT DROP;
-- As CSV without quotes: COPY's own format would read the backslashes of JSON as its own.
\copy archived FROM pstdin WITH (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02')
SELECT format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM archived', :'table'::regclass,
              string_agg(quote_ident(attname), ', ' ORDER BY attnum),
              string_agg(format('(line ->> %L)::%s', attname, format_type(atttypid, -1)), ', ' ORDER BY attnum))
  FROM pg_catalog.pg_attribute
 WHERE attrelid = :'table'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
   AND (SELECT line -> attname::text FROM archived LIMIT 1) IS NOT NULL
HAVING count(*) > 0
\gexec
COMMIT;
