-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
CREATE INDEX "idx_students_school" ON "students" USING btree ("schoolId") WHERE "isActive" = true;
CREATE INDEX "idx_students_nurse" ON "students" USING btree ("nurseId") WHERE "isActive" = true;
CREATE INDEX "idx_students_grade_active" ON "students" USING btree (grade,
    "isActive");
CREATE INDEX "idx_students_search" ON "students" USING gin (to_tsvector('english'::regconfig, ((("firstName"::text || ' '::text) || "lastName"::text) || ' '::text) || "studentNumber"::text));
CREATE INDEX "idx_users_school" ON "users" USING btree ("schoolId") WHERE "isActive" = true;
CREATE INDEX "idx_users_district" ON "users" USING btree ("districtId") WHERE "isActive" = true;
CREATE INDEX "idx_users_role_active" ON "users" USING btree (role,
    "isActive");
CREATE INDEX "idx_users_search" ON "users" USING gin (to_tsvector('english'::regconfig, ((("firstName"::text || ' '::text) || "lastName"::text) || ' '::text) || email::text));
CREATE INDEX "idx_student_medications_active_dates" ON "student_medications" USING btree ("isActive",
    "startDate",
    "endDate") WHERE "isActive" = true;
CREATE INDEX "idx_student_medications_student" ON "student_medications" USING btree ("studentId",
    "isActive");
CREATE INDEX "idx_medication_logs_student" ON "medication_logs" USING btree ("studentMedicationId",
    "timeGiven" DESC);
CREATE INDEX "idx_medication_logs_nurse" ON "medication_logs" USING btree ("nurseId",
    "timeGiven" DESC);
CREATE INDEX "idx_medications_search" ON "medications" USING gin (to_tsvector('english'::regconfig, (name::text || ' '::text) || COALESCE("genericName", ''::character varying)::text));
CREATE INDEX "idx_health_records_student_date" ON "health_records" USING btree ("studentId",
    "recordDate" DESC,
    "recordType");
CREATE INDEX "idx_health_records_type_date" ON "health_records" USING btree ("recordType",
    "recordDate" DESC);
CREATE INDEX "idx_appointments_upcoming" ON "appointments" USING btree ("nurseId",
    "scheduledAt", status) WHERE status = ANY (ARRAY['SCHEDULED'::enum_appointments_status, 'IN_PROGRESS'::enum_appointments_status]);
CREATE INDEX "idx_appointments_student" ON "appointments" USING btree ("studentId",
    "scheduledAt" DESC, status);
CREATE INDEX "idx_appointments_date_range" ON "appointments" USING btree ("scheduledAt", status) WHERE status <> 'CANCELLED'::enum_appointments_status;
CREATE INDEX "idx_incident_reports_student" ON "incident_reports" USING btree ("studentId",
    "occurredAt" DESC, severity);
CREATE INDEX "idx_incident_reports_reporter" ON "incident_reports" USING btree ("reportedById",
    "occurredAt" DESC);
CREATE INDEX "idx_incident_reports_filters" ON "incident_reports" USING btree (type, severity,
    "occurredAt" DESC);
CREATE INDEX "idx_incident_reports_critical" ON "incident_reports" USING btree (severity,
    "occurredAt" DESC) WHERE severity = ANY (ARRAY['HIGH'::enum_incident_reports_severity, 'CRITICAL'::enum_incident_reports_severity]);
CREATE INDEX "idx_emergency_contacts_student" ON "emergency_contacts" USING btree ("studentId", priority) WHERE "isActive" = true;
CREATE INDEX "idx_emergency_contacts_primary" ON "emergency_contacts" USING btree ("studentId",
    "isPrimary") WHERE "isPrimary" = true AND "isActive" = true;
CREATE INDEX "idx_allergies_student" ON "allergies" USING btree ("studentId", severity) WHERE "isActive" = true;
CREATE INDEX "idx_allergies_critical" ON "allergies" USING btree ("studentId", severity) WHERE active = true AND severity = 'LIFE_THREATENING'::enum_allergies_severity;
CREATE INDEX "idx_chronic_conditions_student" ON "chronic_conditions" USING btree ("studentId", status) WHERE status = 'ACTIVE'::"ConditionStatus";
CREATE INDEX "idx_vaccinations_student" ON "vaccinations" USING btree ("studentId",
    "administrationDate" DESC);
CREATE INDEX "idx_vaccinations_compliance" ON "vaccinations" USING btree ("vaccineType",
    "complianceStatus",
    "administrationDate" DESC);
CREATE INDEX "idx_vaccinations_due" ON "vaccinations" USING btree ("nextDueDate",
    "studentId") WHERE "nextDueDate" IS NOT NULL;
CREATE INDEX "idx_students_health_overview" ON "students" USING btree ("schoolId", grade,
    "isActive",
    "nurseId");
CREATE INDEX "idx_medication_schedule" ON "student_medications" USING btree ("studentId",
    "isActive",
    "startDate",
    "endDate");
CREATE INDEX "idx_appointment_availability" ON "appointments" USING btree ("nurseId",
    "scheduledAt", status, duration);
