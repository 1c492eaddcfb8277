-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
--
-- The roles that the playbooks use, each with no more than its work needs; SECURITY.md says what each can and cannot do.
-- For psql, as a superuser or the provider's admin role, with other names as you have them:
--
--   psql -d postgres -v database=clinic -v owner=clinic_owner -f sql/rights/least_privilege.sql
--
-- In a database that it makes, nobody else may connect. From one that is there already it takes nothing, since clients may connect by the
-- rights of PUBLIC: give each of them CONNECT of its own, then run it with -v close=true.
--
-- May run again, and should once the first migration has made the ledger: then the monitor may read it, and the auditor the
-- audit. Gives no passwords (\password in psql does, and sends no plain text), and none of the application's rights.

\set ON_ERROR_STOP on
\if :{?database} \else \set database white_cross \endif
\if :{?owner} \else \set owner white_cross_owner \endif
\if :{?migrator} \else \set migrator white_cross_migrator \endif
\if :{?backup} \else \set backup white_cross_backup \endif
\if :{?restore} \else \set restore white_cross_restore \endif
\if :{?monitor} \else \set monitor white_cross_monitor \endif
\if :{?auditor} \else \set auditor white_cross_auditor \endif

SELECT format('CREATE ROLE %I', name)
  FROM unnest(ARRAY[:'owner', :'migrator', :'backup', :'restore', :'monitor', :'auditor']) AS name
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
-- Only where there is something to take: who is no superuser may not even say NOSUPERUSER.
SELECT format('ALTER ROLE %I NOSUPERUSER', rolname)
  FROM pg_roles WHERE rolsuper AND rolname IN (:'owner', :'migrator', :'backup', :'restore', :'monitor', :'auditor') \gexec

-- Owns schema, tables and ledger; nobody logs in as it. Row-level security is forced on it as well.
ALTER ROLE :"owner" NOLOGIN NOCREATEDB NOCREATEROLE BYPASSRLS;
-- Applies migrations, acting as the owner, and sees for whom it waits.
ALTER ROLE :"migrator" LOGIN NOCREATEDB NOCREATEROLE;
GRANT :"owner" TO :"migrator";
GRANT pg_monitor TO :"migrator";
-- Reads all for a backup, also where row-level security would hide rows from it; writes nothing.
ALTER ROLE :"backup" LOGIN NOCREATEDB NOCREATEROLE BYPASSRLS;
GRANT pg_read_all_data TO :"backup";
-- Makes scratch databases, restores into them, compares them, and changes the names of two databases for a rollback.
ALTER ROLE :"restore" LOGIN CREATEDB NOCREATEROLE BYPASSRLS;
GRANT :"owner" TO :"restore";
GRANT pg_signal_backend TO :"restore";
-- Looks at the state of the migrations and of the server, and at no row of a table.
ALTER ROLE :"monitor" LOGIN NOCREATEDB NOCREATEROLE;
GRANT pg_monitor TO :"monitor";
-- Reads the audit and which runs there were, and nothing else.
ALTER ROLE :"auditor" LOGIN NOCREATEDB NOCREATEROLE;

-- An admin who is no superuser acts for the owner as its member; since 16, to have made a role is not enough.
SELECT format('GRANT %I TO %I', :'owner', current_user) WHERE NOT pg_has_role(:'owner', 'USAGE') \gexec
SELECT NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') AS closed \gset
\if :{?close} \set closed :close \endif
SELECT format('CREATE DATABASE %I OWNER %I', :'database', :'owner')
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
-- Whoever swaps two databases, and makes the ledger's schema, acts as the owner of the database.
ALTER DATABASE :"database" OWNER TO :"owner";
\if :closed
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
\endif
SELECT has_database_privilege('public', :'database', 'CONNECT') AS open \gset
\if :open
\warn 'Every role may connect to' :database 'as before, by the rights of PUBLIC; -v close=true takes them away.'
\endif
-- The migrator and the restore role may connect as members of the owner.
GRANT CONNECT ON DATABASE :"database" TO :"backup";
GRANT CONNECT ON DATABASE :"database" TO :"monitor";
GRANT CONNECT ON DATABASE :"database" TO :"auditor";

\connect :"database"
-- A database that is older than PostgreSQL 15 lets everybody create here.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO :"owner";

SELECT to_regclass('pgops.audit') IS NOT NULL AS ledger \gset
\if :ledger
-- Table by table: rows that a version has put aside lie in this schema too, and they are the application's.
GRANT USAGE ON SCHEMA pgops TO :"monitor";
GRANT USAGE ON SCHEMA pgops TO :"auditor";
-- Each run, also one that only looks, leaves an anchor of the audit on the ops host, so both read it.
SELECT format('GRANT SELECT ON pgops.%I TO %I, %I', relname, :'monitor', :'auditor')
  FROM pg_class
 WHERE relnamespace = 'pgops'::regnamespace AND relname IN ('meta', 'run', 'audit', 'audit_checkpoint') \gexec
SELECT format('GRANT SELECT ON pgops.%I TO %I', relname, :'monitor')
  FROM pg_class
 WHERE relnamespace = 'pgops'::regnamespace AND relname IN ('migration', 'step', 'step_transaction', 'adoption', 'baseline') \gexec
\endif
