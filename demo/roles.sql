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
            -- Owns schema, tables and ledger; nobody logs in as it.
            ('white_cross_owner', 'NOLOGIN NOSUPERUSER'),
            -- Applies migrations, acting as the owner.
            ('white_cross_migrator', 'LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE'),
            -- Reads all for a backup, also where row-level security would hide rows from it.
            ('white_cross_backup', 'LOGIN NOSUPERUSER BYPASSRLS'),
            -- Creates scratch databases, restores and swaps; on a managed server the provider's admin role.
            ('white_cross_restore', 'LOGIN SUPERUSER'),
            -- The application itself.
            ('white_cross_app', 'LOGIN NOSUPERUSER'))
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
