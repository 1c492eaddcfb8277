-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
--
-- The roles that the playbooks use, each with no more than its work needs. May run again; gives no passwords.

DO $roles$
DECLARE
    role record;
BEGIN
    FOR role IN
        SELECT *
        FROM (VALUES
            -- Owns schema, tables and ledger; nobody logs in as it. Row-level security is forced on it as well.
            ('white_cross_owner', 'NOLOGIN NOSUPERUSER BYPASSRLS'),
            -- Applies migrations, acting as the owner.
            ('white_cross_migrator', 'LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE'),
            -- Reads all for a backup, also where row-level security would hide rows from it.
            ('white_cross_backup', 'LOGIN NOSUPERUSER BYPASSRLS'),
            -- Creates scratch databases, restores and swaps; on a managed server the provider's admin role.
            ('white_cross_restore', 'LOGIN SUPERUSER'),
            -- The application itself.
            ('white_cross_app', 'LOGIN NOSUPERUSER NOINHERIT'),
            -- What a user of each of the platform's roles may do; the application takes one for each transaction.
            ('white_cross_admin', 'NOLOGIN NOSUPERUSER'),
            ('white_cross_district_admin', 'NOLOGIN NOSUPERUSER'),
            ('white_cross_school_admin', 'NOLOGIN NOSUPERUSER'),
            ('white_cross_nurse', 'NOLOGIN NOSUPERUSER'),
            ('white_cross_counselor', 'NOLOGIN NOSUPERUSER'),
            ('white_cross_viewer', 'NOLOGIN NOSUPERUSER'))
        AS wanted (name, attributes)
    LOOP
        EXECUTE format('%s ROLE %I %s',
                       CASE WHEN to_regrole(role.name) IS NULL THEN 'CREATE' ELSE 'ALTER' END,
                       role.name, role.attributes);
    END LOOP;
END
$roles$;

GRANT white_cross_owner TO white_cross_migrator;
GRANT pg_read_all_data TO white_cross_backup;
GRANT white_cross_admin, white_cross_district_admin, white_cross_school_admin, white_cross_nurse, white_cross_counselor,
    white_cross_viewer TO white_cross_app;
