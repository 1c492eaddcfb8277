-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
ALTER TABLE "incident_reports" ADD COLUMN "status" character varying(50) NOT NULL DEFAULT 'PENDING_REVIEW'::character varying;
CREATE INDEX "incident_reports_status_idx" ON "incident_reports" USING btree (status);
CREATE INDEX "incident_reports_type_status_idx" ON "incident_reports" USING btree (type, status);
