-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors

-- One object of every kind that an inventory tells, and every expression that prints differently after a restore.

CREATE SCHEMA clinic; CREATE SCHEMA "Odd Name";
COMMENT ON SCHEMA clinic IS 'a clinic';
CREATE EXTENSION IF NOT EXISTS pg_trgm; CREATE EXTENSION btree_gist SCHEMA clinic;
CREATE TYPE public."UserRole" AS ENUM ('ADMIN','NURSE','VIEWER');
ALTER TYPE public."UserRole" ADD VALUE 'COUNSELOR' BEFORE 'VIEWER';
COMMENT ON TYPE public."UserRole" IS 'roles';
CREATE DOMAIN clinic.grade AS varchar(5) DEFAULT 'K' NOT NULL CONSTRAINT grade_known CHECK (VALUE IN ('K','1','2'));
CREATE TYPE clinic.dose AS (amount numeric(6,2), unit text);
COMMENT ON TYPE clinic.dose IS 'dose';
CREATE TYPE clinic.span AS RANGE (subtype = date, multirange_type_name = clinic.spans);
CREATE COLLATION clinic.plain (provider = libc, locale = 'C');
CREATE SEQUENCE clinic.ticket START 100 INCREMENT 5 MINVALUE 10 MAXVALUE 100000 CACHE 7 CYCLE;
CREATE TABLE public.districts (id serial PRIMARY KEY, code text NOT NULL UNIQUE, name text COLLATE "C", gone int);
ALTER TABLE public.districts DROP COLUMN gone; ALTER TABLE public.districts ADD COLUMN late boolean DEFAULT true;
CREATE TABLE public.students (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  "firstName" varchar(100) NOT NULL, "lastName" varchar(100) NOT NULL,
  status varchar(20) DEFAULT 'active' CONSTRAINT status_known CHECK (status IN ('active','gone','moved')),
  grade clinic.grade, role public."UserRole" DEFAULT 'VIEWER', tags text[] DEFAULT '{}', doses clinic.dose[],
  "districtId" integer REFERENCES public.districts ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED,
  born date, full_name text GENERATED ALWAYS AS ("firstName" || ' ' || "lastName") STORED,
  ratio double precision, price numeric(10,2), raw bytea, doc jsonb, doc2 json, at timestamptz DEFAULT now(), during clinic.span,
  CONSTRAINT born_sane CHECK (born > '1990-01-01'));
ALTER TABLE public.students ALTER status SET STATISTICS 500, ALTER raw SET STORAGE EXTERNAL, ALTER doc SET (n_distinct = 5);
ALTER TABLE public.students SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_enabled = false);
ALTER TABLE public.students ADD CONSTRAINT price_positive CHECK (price > 0) NOT VALID;
COMMENT ON COLUMN public.students.status IS 'PHI: status'; COMMENT ON CONSTRAINT status_known ON public.students IS 'c';
CREATE INDEX students_active ON public.students ("lastName", status) INCLUDE (role) WHERE status IN ('active','moved');
CREATE INDEX students_trgm ON public.students USING gin ("lastName" gin_trgm_ops);
CREATE INDEX students_expr ON public.students ((lower("lastName")), (CASE WHEN status IN ('active','gone') THEN 1 END) DESC NULLS LAST);
ALTER INDEX public.students_expr ALTER COLUMN 1 SET STATISTICS 300;
COMMENT ON INDEX students_active IS 'x';
CREATE STATISTICS public.students_stats (ndistinct, dependencies) ON "lastName", status FROM public.students;
CREATE STATISTICS public.students_expr_stats ON (lower(status)) , (status IN ('a','b')) FROM public.students;
ALTER TABLE public.students CLUSTER ON students_pkey;
CREATE UNLOGGED TABLE clinic.scratch (x int);
CREATE TABLE clinic.parent (a int, b text CHECK (b <> ''));
CREATE TABLE clinic.child (c int) INHERITS (clinic.parent);
CREATE TABLE clinic.events (id int NOT NULL, at date NOT NULL, kind varchar(10), PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE clinic.events_2025 PARTITION OF clinic.events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE clinic.events_rest PARTITION OF clinic.events DEFAULT;
CREATE INDEX events_kind ON clinic.events (kind) WHERE kind IN ('a','b');
CREATE TABLE clinic.follow (event_id int, event_at date, FOREIGN KEY (event_id, event_at) REFERENCES clinic.events);
CREATE TABLE clinic.listed (k varchar(10)) PARTITION BY LIST ((CASE WHEN k IN ('a','b') THEN 1 ELSE 2 END));
CREATE TABLE clinic.listed_1 PARTITION OF clinic.listed FOR VALUES IN (1);
CREATE TABLE "Odd Name"."select from" ("weird ""col""" text, "x.y" int, EXCLUDE USING btree ("x.y" WITH =));
CREATE VIEW clinic.active AS SELECT id, "lastName", status FROM public.students WHERE status IN ('active','moved');
CREATE VIEW clinic.safe WITH (security_barrier, check_option = local) AS SELECT id, code FROM public.districts WHERE code IN ('a','b');
CREATE MATERIALIZED VIEW clinic.totals AS SELECT status, count(*) AS n FROM public.students WHERE status IN ('active','x') GROUP BY 1;
CREATE UNIQUE INDEX totals_status ON clinic.totals (status);
CREATE MATERIALIZED VIEW clinic.empty AS SELECT 1 AS one WITH NO DATA;
CREATE FUNCTION clinic.touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.at := now(); RETURN NEW; END$$;
CREATE FUNCTION clinic.known(s varchar) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN s IN ('a'::varchar, 'b'::varchar);
CREATE FUNCTION clinic.plus(a int, b int DEFAULT 5) RETURNS int LANGUAGE sql STRICT PARALLEL SAFE COST 7 AS 'select a + b';
CREATE PROCEDURE clinic.work(x int) LANGUAGE sql BEGIN ATOMIC INSERT INTO clinic.scratch VALUES (x); END;
CREATE AGGREGATE clinic.total(int) (SFUNC = clinic.plus, STYPE = int, INITCOND = '0', PARALLEL = SAFE);
CREATE TRIGGER students_touch BEFORE UPDATE ON public.students FOR EACH ROW WHEN (NEW.status IN ('active','gone')) EXECUTE FUNCTION clinic.touch();
CREATE TRIGGER students_off AFTER INSERT ON public.students FOR EACH ROW EXECUTE FUNCTION clinic.touch();
ALTER TABLE public.students DISABLE TRIGGER students_off;
CREATE TRIGGER students_always BEFORE DELETE ON public.students FOR EACH STATEMENT EXECUTE FUNCTION clinic.touch();
ALTER TABLE public.students ENABLE ALWAYS TRIGGER students_always;
CREATE TRIGGER events_touch AFTER INSERT ON clinic.events FOR EACH ROW EXECUTE FUNCTION clinic.touch();
CREATE RULE no_delete AS ON DELETE TO clinic.scratch WHERE OLD.x IN (1,2) DO INSTEAD NOTHING;
ALTER TABLE public.students ENABLE ROW LEVEL SECURITY; ALTER TABLE public.students FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON public.students FOR SELECT TO PUBLIC USING (status IN ('active','moved') AND EXISTS (SELECT 1 FROM public.districts d WHERE d.id = students."districtId" AND d.code IN ('a','b')));
CREATE POLICY ins ON public.students AS RESTRICTIVE FOR INSERT WITH CHECK (status IN ('active','moved'));
CREATE TABLE clinic.ident (k int NOT NULL, v text); CREATE UNIQUE INDEX ident_k ON clinic.ident (k); ALTER TABLE clinic.ident REPLICA IDENTITY USING INDEX ident_k;
CREATE PUBLICATION pub FOR TABLE clinic.ident (k) WITH (publish = 'insert'); 
CREATE PUBLICATION pub2 FOR TABLE clinic.events WHERE (id > 5) WITH (publish = 'insert', publish_via_partition_root = true);
CREATE PUBLICATION pub3 FOR TABLES IN SCHEMA clinic;
CREATE FUNCTION clinic.ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER watch ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION clinic.ddl();
ALTER EVENT TRIGGER watch DISABLE;
CREATE FOREIGN DATA WRAPPER dummy; CREATE SERVER far FOREIGN DATA WRAPPER dummy OPTIONS (host 'h');
CREATE FOREIGN TABLE clinic.remote (id int OPTIONS (name 'x')) SERVER far OPTIONS (t 'y');
CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (password 'secret');
CREATE FUNCTION clinic.dose_text(clinic.dose) RETURNS text LANGUAGE sql IMMUTABLE AS 'select ($1).unit';
CREATE CAST (clinic.dose AS text) WITH FUNCTION clinic.dose_text(clinic.dose);
CREATE OPERATOR clinic.<+> (FUNCTION = clinic.plus, LEFTARG = int, RIGHTARG = int, COMMUTATOR = OPERATOR(clinic.<+>));
CREATE OPERATOR CLASS clinic.int_backwards FOR TYPE int USING btree AS OPERATOR 1 >, OPERATOR 2 >=, OPERATOR 3 =, OPERATOR 4 <=, OPERATOR 5 <, FUNCTION 1 btint4cmp(int,int);
CREATE TEXT SEARCH DICTIONARY clinic.dict (TEMPLATE = simple); CREATE TEXT SEARCH CONFIGURATION clinic.search (COPY = simple);
ALTER TEXT SEARCH CONFIGURATION clinic.search ALTER MAPPING FOR asciiword WITH clinic.dict, simple;

GRANT USAGE ON SCHEMA clinic TO white_cross_app; GRANT SELECT (id, status), UPDATE (status) ON public.students TO white_cross_app;
GRANT ALL ON public.districts TO white_cross_app; GRANT ALL ON public.districts TO CURRENT_USER; REVOKE EXECUTE ON FUNCTION clinic.plus FROM PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA clinic GRANT SELECT ON TABLES TO white_cross_app;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
INSERT INTO public.districts(code,name) SELECT 'd'||i, 'n' FROM generate_series(1,10) i;
INSERT INTO public.students ("firstName","lastName",grade,tags,doses,"districtId",born,ratio,price,raw,doc,doc2,during) SELECT 'f'||i,'l','K', ARRAY['a',NULL,'',repeat('x',i)], ARRAY[ROW(1.50,'mg')::clinic.dose], i%10+1,'2000-01-01', 1.0/i, i, decode(repeat('00ff',i*30),'hex'), '{"a": 1.0}', '{"b" :1}', '[2020-01-01,2021-01-01)' FROM generate_series(1,300) i;
INSERT INTO clinic.events SELECT i, date '2025-06-01' + i, 'a' FROM generate_series(1,400) i;
INSERT INTO clinic.parent VALUES (1,'x'); INSERT INTO clinic.child VALUES (2,'y',3);
INSERT INTO clinic.scratch SELECT generate_series(1,100);
SELECT setval('clinic.ticket', 500, false), nextval('public.districts_id_seq');
SELECT lo_from_bytea(0, '\x00010203'::bytea), lo_from_bytea(0, decode(repeat('ab', 100000), 'hex'));
SELECT lo_put(lo_create(0), 50000, '\x01');
REFRESH MATERIALIZED VIEW clinic.totals;
