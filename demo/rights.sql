-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
--
-- What the roles of roles.sql may do in the database white_cross; run in that database. May run again, and must once rows
-- are seen by school only (20251107000001): then the application has the rights of the group that it takes, and of its
-- own those of signing in.

REVOKE ALL ON DATABASE white_cross FROM PUBLIC;
GRANT CONNECT ON DATABASE white_cross TO white_cross_migrator, white_cross_backup, white_cross_app;
GRANT TEMPORARY ON DATABASE white_cross TO white_cross_app;

DO $rights$
BEGIN
    IF (SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass('public.students')) IS NOT TRUE THEN
        -- What the migrations create later is the application's to use, without a GRANT in each of them.
        ALTER DEFAULT PRIVILEGES FOR ROLE white_cross_owner IN SCHEMA public
            GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO white_cross_app;
        ALTER DEFAULT PRIVILEGES FOR ROLE white_cross_owner IN SCHEMA public
            GRANT USAGE ON SEQUENCES TO white_cross_app;
        RETURN;
    END IF;
    ALTER DEFAULT PRIVILEGES FOR ROLE white_cross_owner IN SCHEMA public REVOKE ALL ON TABLES FROM white_cross_app;
    ALTER DEFAULT PRIVILEGES FOR ROLE white_cross_owner IN SCHEMA public REVOKE ALL ON SEQUENCES FROM white_cross_app;
    REVOKE ALL ON ALL TABLES IN SCHEMA public FROM white_cross_app;
    REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM white_cross_app;
    -- Before there is a user. Not role, school, district or who is active: these say who sees what.
    GRANT SELECT ON public.users TO white_cross_app;
    GRANT UPDATE (
        password, "lastLogin", "emailVerified", "isEmailVerified", "emailVerificationToken", "emailVerificationExpires",
        "passwordResetToken", "passwordResetExpires", "passwordChangedAt", "lastPasswordChange", "mustChangePassword",
        "twoFactorEnabled", "twoFactorSecret", "mfaEnabled", "failedLoginAttempts", "lockoutUntil", "updatedAt"
    ) ON public.users TO white_cross_app;
    GRANT SELECT, INSERT, UPDATE, DELETE ON public.sessions TO white_cross_app;
    GRANT SELECT, INSERT ON public.login_attempts TO white_cross_app;
    GRANT SELECT ON public.ip_restrictions, public.system_configurations TO white_cross_app;
    GRANT INSERT ON public.audit_logs TO white_cross_app;
END
$rights$;
