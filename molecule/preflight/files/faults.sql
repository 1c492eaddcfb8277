-- Copyright (c) 2026 White Cross pgops contributors
-- SPDX-License-Identifier: GPL-3.0-or-later
CREATE TABLE public.loose (id integer PRIMARY KEY);
ALTER ROLE white_cross_migrator SET lock_timeout = '2s';
CREATE ROLE bygone LOGIN PASSWORD 'md500000000000000000000000000000000';
CREATE ROLE almighty LOGIN SUPERUSER;
SET ROLE white_cross_owner;
CREATE TABLE public.rooms (id integer PRIMARY KEY, name text);
INSERT INTO public.rooms SELECT n, 'room ' || n FROM generate_series(1, 2000) AS n;
CREATE INDEX once ON public.rooms (name);
CREATE INDEX twice ON public.rooms (name);
ALTER TABLE public.rooms ADD CONSTRAINT is_named CHECK (name <> '') NOT VALID;
GRANT SELECT ON public.rooms TO PUBLIC;
CREATE TABLE public.visits (id integer PRIMARY KEY, room integer REFERENCES public.rooms);
INSERT INTO public.visits SELECT n, n FROM generate_series(1, 2000) AS n;
ALTER TABLE public.visits SET (autovacuum_enabled = off);
CREATE TABLE public.notes (line text NOT NULL);
CREATE SEQUENCE public.counted AS integer;
SELECT setval('public.counted', 2100000000);
-- Else the server hears of the rows after the ANALYZE, and takes them for newer.
SELECT pg_stat_force_next_flush();
ANALYZE public.rooms, public.visits;
BEGIN;
INSERT INTO public.notes VALUES ('never committed');
PREPARE TRANSACTION 'forgotten';
