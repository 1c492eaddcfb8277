-- Copyright (c) 2026 White Cross pgops contributors
-- SPDX-License-Identifier: GPL-3.0-or-later
CREATE EXTENSION pgstattuple;
GRANT pg_stat_scan_tables TO white_cross_owner;
SET ROLE white_cross_owner;
-- Nine of ten rows are gone: VACUUM gives nothing of the indexes back.
CREATE TABLE public.hollow (id integer PRIMARY KEY, said text) WITH (autovacuum_enabled = off);
CREATE INDEX hollow_said ON public.hollow (said);
INSERT INTO public.hollow SELECT n, 'line ' || n FROM generate_series(1, 100000) AS n;
DELETE FROM public.hollow WHERE id % 10 <> 0;
-- Else the server hears of the rows after the ANALYZE, and takes them for newer.
SELECT pg_stat_force_next_flush();
VACUUM (ANALYZE) public.hollow;
CREATE TABLE public.worn (id integer PRIMARY KEY, said text) WITH (autovacuum_enabled = off);
INSERT INTO public.worn SELECT n, 'line ' || n FROM generate_series(1, 20000) AS n;
SELECT pg_stat_force_next_flush();
VACUUM (ANALYZE) public.worn;
DELETE FROM public.worn WHERE id % 2 = 0;
CREATE TABLE public.grown (id integer PRIMARY KEY, said text) WITH (autovacuum_enabled = off);
INSERT INTO public.grown SELECT n, 'line ' || n FROM generate_series(1, 10000) AS n;
SELECT pg_stat_force_next_flush();
VACUUM (ANALYZE) public.grown;
INSERT INTO public.grown SELECT n, 'line ' || n FROM generate_series(10001, 11500) AS n;
CREATE TABLE public.calm (id integer PRIMARY KEY, said text) WITH (autovacuum_enabled = off);
INSERT INTO public.calm SELECT n, 'line ' || n FROM generate_series(1, 10000) AS n;
SELECT pg_stat_force_next_flush();
VACUUM (ANALYZE) public.calm;
CREATE TABLE public.deliveries (id integer PRIMARY KEY, at timestamptz NOT NULL) WITH (autovacuum_enabled = off);
INSERT INTO public.deliveries SELECT n, now() - CASE WHEN n <= 300 THEN interval '8 years' ELSE interval '1 year' END
    FROM generate_series(1, 500) AS n;
SELECT pg_stat_force_next_flush();
VACUUM (ANALYZE) public.deliveries;
