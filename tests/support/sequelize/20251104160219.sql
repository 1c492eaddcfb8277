-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
ALTER TABLE "users" ADD COLUMN "deletedAt" timestamp with time zone;
CREATE INDEX "idx_users_deleted_at" ON "users" USING btree ("deletedAt");
