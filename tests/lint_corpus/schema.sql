-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- The database in use on which each piece of the corpus is run.
CREATE TABLE orgs (id int PRIMARY KEY, name text);
INSERT INTO orgs SELECT g, 'org ' || g FROM generate_series(1, 50) g;
CREATE TABLE users (
    id int PRIMARY KEY, email varchar(100), name varchar(50), bio text, status varchar(20) DEFAULT 'new', age int, score int,
    org_id int, amount numeric(10, 2), seen_at timestamp, net cidr, code text, active boolean, nick text NOT NULL DEFAULT 'n'
);
INSERT INTO users
SELECT g, 'u' || g || '@x.org', 'n' || g, repeat('b', 50), 'new', g % 90, g, g % 50 + 1, g, '2024-01-01'::timestamp + g * interval '1 min',
       '10.0.0.0/8', 'c' || g, g % 2 = 0, 'n'
FROM generate_series(1, 3000) g;
CREATE INDEX users_email_idx ON users (email);
ALTER TABLE users ADD CONSTRAINT users_age_check CHECK (age >= 0);
ALTER TABLE users ADD CONSTRAINT users_score_present CHECK (score IS NOT NULL);
CREATE TABLE orders (id bigint PRIMARY KEY, user_id int, total numeric, note text, created_at timestamptz DEFAULT now());
INSERT INTO orders SELECT g, g, g, 'x', now() - g * interval '1 hour' FROM generate_series(1, 3000) g;
CREATE UNIQUE INDEX orders_user_key ON orders (user_id);
CREATE TABLE events (id bigint, at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE events_2024 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE events_2025 (id bigint, at date NOT NULL);
INSERT INTO events SELECT g, '2024-02-01' FROM generate_series(1, 6000) g;
INSERT INTO events_2025 SELECT g, '2025-02-01' FROM generate_series(1, 6000) g;
CREATE TABLE events_2026 (id bigint, at date NOT NULL, CONSTRAINT bounds CHECK (at >= '2026-01-01' AND at < '2027-01-01'));
INSERT INTO events_2026 SELECT g, '2026-02-01' FROM generate_series(1, 6000) g;
CREATE TABLE events_2027 (id bigint, at date NOT NULL, CONSTRAINT bounds CHECK (at >= '2027-01-01'));
INSERT INTO events_2027 SELECT g, '2027-02-01' FROM generate_series(1, 6000) g;
CREATE MATERIALIZED VIEW stats AS SELECT org_id, count(*) AS n FROM users GROUP BY org_id;
CREATE UNIQUE INDEX stats_key ON stats (org_id);
CREATE VIEW user_names AS SELECT code, nick FROM users;
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE feelings (id int PRIMARY KEY, mood mood);
INSERT INTO feelings SELECT g, 'sad' FROM generate_series(1, 500) g;
CREATE DOMAIN percent AS int;
CREATE DOMAIN share AS int CHECK (VALUE <= 100);
CREATE DOMAIN half AS share;
CREATE TABLE rates (id int PRIMARY KEY, rate percent);
INSERT INTO rates SELECT g, g % 100 FROM generate_series(1, 500) g;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER users_touch BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touch();
CREATE SCHEMA archive;
CREATE TABLE archive.users (id int);
CREATE FUNCTION widen_scores() RETURNS void LANGUAGE plpgsql AS $$ BEGIN ALTER TABLE users ALTER COLUMN score TYPE bigint; END $$;
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('a');
ANALYZE;
