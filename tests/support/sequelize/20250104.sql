-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
ALTER TABLE "users" ADD COLUMN "mfaEnabled" boolean NOT NULL DEFAULT false;
ALTER TABLE "users" ADD COLUMN "mfaSecret" character varying(255);
ALTER TABLE "users" ADD COLUMN "mfaBackupCodes" text;
ALTER TABLE "users" ADD COLUMN "mfaEnabledAt" timestamp with time zone;
ALTER TABLE "users" ADD COLUMN "oauthProvider" character varying(50);
ALTER TABLE "users" ADD COLUMN "oauthProviderId" character varying(255);
ALTER TABLE "users" ADD COLUMN "profilePictureUrl" character varying(500);
ALTER TABLE "users" ADD COLUMN "isEmailVerified" boolean NOT NULL DEFAULT false;
ALTER TABLE "users" ADD COLUMN "emailVerifiedAt" timestamp with time zone;
CREATE INDEX "idx_users_email_verified" ON "users" USING btree ("isEmailVerified");
CREATE INDEX "idx_users_mfa_enabled" ON "users" USING btree ("mfaEnabled");
CREATE INDEX "idx_users_oauth_provider_id" ON "users" USING btree ("oauthProvider",
    "oauthProviderId");
