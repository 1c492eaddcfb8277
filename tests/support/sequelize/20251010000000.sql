-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
CREATE TYPE "AdministrationRoute" AS ENUM ('INTRAMUSCULAR', 'SUBCUTANEOUS', 'INTRADERMAL', 'ORAL', 'INTRANASAL', 'INTRAVENOUS', 'OTHER');
CREATE TYPE "AdministrationSite" AS ENUM ('ARM_LEFT', 'ARM_RIGHT', 'THIGH_LEFT', 'THIGH_RIGHT', 'DELTOID_LEFT', 'DELTOID_RIGHT', 'BUTTOCK_LEFT', 'BUTTOCK_RIGHT', 'ORAL', 'NASAL', 'OTHER');
CREATE TYPE "AllergyType" AS ENUM ('FOOD', 'MEDICATION', 'ENVIRONMENTAL', 'INSECT', 'LATEX', 'ANIMAL', 'CHEMICAL', 'SEASONAL', 'OTHER');
CREATE TYPE "ConditionSeverity" AS ENUM ('MILD', 'MODERATE', 'SEVERE', 'CRITICAL');
CREATE TYPE "ConditionStatus" AS ENUM ('ACTIVE', 'MANAGED', 'RESOLVED', 'MONITORING', 'INACTIVE');
CREATE TYPE "ConsciousnessLevel" AS ENUM ('ALERT', 'VERBAL', 'PAIN', 'UNRESPONSIVE', 'DROWSY', 'CONFUSED', 'LETHARGIC');
CREATE TYPE "FollowUpStatus" AS ENUM ('PENDING', 'SCHEDULED', 'COMPLETED', 'CANCELLED', 'OVERDUE', 'NOT_NEEDED');
CREATE TYPE "ScreeningOutcome" AS ENUM ('PASS', 'REFER', 'FAIL', 'INCONCLUSIVE', 'INCOMPLETE');
CREATE TYPE "ScreeningType" AS ENUM ('VISION', 'HEARING', 'SCOLIOSIS', 'DENTAL', 'BMI', 'BLOOD_PRESSURE', 'DEVELOPMENTAL', 'SPEECH', 'MENTAL_HEALTH', 'TUBERCULOSIS', 'LEAD', 'ANEMIA', 'OTHER');
CREATE TYPE "VaccineComplianceStatus" AS ENUM ('COMPLIANT', 'OVERDUE', 'PARTIALLY_COMPLIANT', 'EXEMPT', 'NON_COMPLIANT');
CREATE TYPE "VaccineType" AS ENUM ('COVID_19', 'FLU', 'MEASLES', 'MUMPS', 'RUBELLA', 'MMR', 'POLIO', 'HEPATITIS_A', 'HEPATITIS_B', 'VARICELLA', 'TETANUS', 'DIPHTHERIA', 'PERTUSSIS', 'TDAP', 'DTaP', 'HIB', 'PNEUMOCOCCAL', 'ROTAVIRUS', 'MENINGOCOCCAL', 'HPV', 'OTHER');
CREATE TYPE "enum_screenings_followUpStatus" AS ENUM ('PENDING', 'SCHEDULED', 'COMPLETED', 'CANCELLED', 'OVERDUE', 'NOT_NEEDED');
CREATE TYPE "enum_screenings_outcome" AS ENUM ('PASS', 'REFER', 'FAIL', 'INCONCLUSIVE', 'INCOMPLETE');
CREATE TYPE "enum_screenings_screeningType" AS ENUM ('VISION', 'HEARING', 'SCOLIOSIS', 'DENTAL', 'BMI', 'BLOOD_PRESSURE', 'DEVELOPMENTAL', 'SPEECH', 'MENTAL_HEALTH', 'TUBERCULOSIS', 'LEAD', 'ANEMIA', 'OTHER');
CREATE TYPE "enum_vaccinations_complianceStatus" AS ENUM ('COMPLIANT', 'OVERDUE', 'PARTIALLY_COMPLIANT', 'EXEMPT', 'NON_COMPLIANT');
CREATE TYPE "enum_vaccinations_routeOfAdministration" AS ENUM ('INTRAMUSCULAR', 'SUBCUTANEOUS', 'INTRADERMAL', 'ORAL', 'INTRANASAL', 'INTRAVENOUS', 'OTHER');
CREATE TYPE "enum_vaccinations_siteOfAdministration" AS ENUM ('ARM_LEFT', 'ARM_RIGHT', 'THIGH_LEFT', 'THIGH_RIGHT', 'DELTOID_LEFT', 'DELTOID_RIGHT', 'BUTTOCK_LEFT', 'BUTTOCK_RIGHT', 'ORAL', 'NASAL', 'OTHER');
CREATE TYPE "enum_vaccinations_vaccineType" AS ENUM ('COVID_19', 'FLU', 'MEASLES', 'MUMPS', 'RUBELLA', 'MMR', 'POLIO', 'HEPATITIS_A', 'HEPATITIS_B', 'VARICELLA', 'TETANUS', 'DIPHTHERIA', 'PERTUSSIS', 'TDAP', 'DTaP', 'HIB', 'PNEUMOCOCCAL', 'ROTAVIRUS', 'MENINGOCOCCAL', 'HPV', 'OTHER');
CREATE TYPE "enum_vital_signs_consciousness" AS ENUM ('ALERT', 'VERBAL', 'PAIN', 'UNRESPONSIVE', 'DROWSY', 'CONFUSED', 'LETHARGIC');
CREATE TABLE "growth_measurements" ("id" uuid NOT NULL DEFAULT gen_random_uuid(),
    "measurementDate" timestamp with time zone NOT NULL,
    "measuredBy" text NOT NULL,
    "measuredByRole" text,
    "height" numeric(65,30),
    "heightUnit" text NOT NULL DEFAULT 'cm'::text,
    "weight" numeric(65,30),
    "weightUnit" text NOT NULL DEFAULT 'kg'::text,
    "bmi" numeric(65,30),
    "bmiPercentile" numeric(65,30),
    "headCircumference" numeric(65,30),
    "heightPercentile" numeric(65,30),
    "weightPercentile" numeric(65,30),
    "growthPercentiles" jsonb,
    "nutritionalStatus" text,
    "concerns" text,
    "notes" text,
    "studentId" uuid NOT NULL,
    "healthRecordId" uuid,
    "createdBy" uuid,
    "updatedBy" uuid,
    "createdAt" timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY ("id"));
CREATE TABLE "screenings" ("id" uuid NOT NULL DEFAULT gen_random_uuid(),
    "screeningType" "enum_screenings_screeningType" NOT NULL,
    "screeningDate" timestamp with time zone NOT NULL,
    "screenedBy" text NOT NULL,
    "screenedByRole" text,
    "results" jsonb,
    "outcome" enum_screenings_outcome NOT NULL DEFAULT 'PASS'::enum_screenings_outcome,
    "referralRequired" boolean NOT NULL DEFAULT false,
    "referralTo" text,
    "referralDate" timestamp with time zone,
    "referralReason" text,
    "followUpRequired" boolean NOT NULL DEFAULT false,
    "followUpDate" timestamp with time zone,
    "followUpStatus" "enum_screenings_followUpStatus",
    "equipmentUsed" text,
    "testDetails" jsonb,
    "rightEye" text,
    "leftEye" text,
    "rightEar" text,
    "leftEar" text,
    "passedCriteria" boolean,
    "notes" text,
    "studentId" uuid NOT NULL,
    "healthRecordId" uuid,
    "createdBy" uuid,
    "updatedBy" uuid,
    "createdAt" timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY ("id"));
CREATE TABLE "vaccinations" ("id" uuid NOT NULL DEFAULT gen_random_uuid(),
    "vaccineName" text NOT NULL,
    "vaccineType" "enum_vaccinations_vaccineType",
    "manufacturer" text,
    "lotNumber" text,
    "cvxCode" text,
    "ndcCode" text,
    "doseNumber" integer,
    "totalDoses" integer,
    "seriesComplete" boolean NOT NULL DEFAULT false,
    "administrationDate" timestamp with time zone NOT NULL,
    "administeredBy" text NOT NULL,
    "administeredByRole" text,
    "facility" text,
    "siteOfAdministration" "enum_vaccinations_siteOfAdministration",
    "routeOfAdministration" "enum_vaccinations_routeOfAdministration",
    "dosageAmount" text,
    "expirationDate" timestamp with time zone,
    "nextDueDate" timestamp with time zone,
    "reactions" text,
    "adverseEvents" jsonb,
    "exemptionStatus" boolean NOT NULL DEFAULT false,
    "exemptionReason" text,
    "exemptionDocument" text,
    "complianceStatus" "enum_vaccinations_complianceStatus" NOT NULL DEFAULT 'COMPLIANT'::"enum_vaccinations_complianceStatus",
    "vfcEligibility" boolean NOT NULL DEFAULT false,
    "visProvided" boolean NOT NULL DEFAULT false,
    "visDate" timestamp with time zone,
    "consentObtained" boolean NOT NULL DEFAULT false,
    "consentBy" text,
    "notes" text,
    "studentId" uuid NOT NULL,
    "healthRecordId" uuid,
    "createdBy" uuid,
    "updatedBy" uuid,
    "createdAt" timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY ("id"));
CREATE TABLE "vital_signs" ("id" uuid NOT NULL DEFAULT gen_random_uuid(),
    "measurementDate" timestamp with time zone NOT NULL,
    "measuredBy" text NOT NULL,
    "measuredByRole" text,
    "temperature" numeric(65,30),
    "temperatureUnit" text NOT NULL DEFAULT 'F'::text,
    "temperatureSite" text,
    "bloodPressureSystolic" integer,
    "bloodPressureDiastolic" integer,
    "bloodPressurePosition" text,
    "heartRate" integer,
    "heartRhythm" text,
    "respiratoryRate" integer,
    "oxygenSaturation" integer,
    "oxygenSupplemental" boolean NOT NULL DEFAULT false,
    "painLevel" integer,
    "painLocation" text,
    "consciousness" enum_vital_signs_consciousness,
    "glucoseLevel" numeric(65,30),
    "peakFlow" integer,
    "notes" text,
    "studentId" uuid NOT NULL,
    "healthRecordId" uuid,
    "appointmentId" uuid,
    "createdBy" uuid,
    "updatedBy" uuid,
    "createdAt" timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY ("id"));
ALTER TABLE "allergies" ADD COLUMN "allergyType" "AllergyType";
ALTER TABLE "allergies" ADD COLUMN "symptoms" text;
ALTER TABLE "allergies" ADD COLUMN "reactions" jsonb;
ALTER TABLE "allergies" ADD COLUMN "treatment" text;
ALTER TABLE "allergies" ADD COLUMN "emergencyProtocol" text;
ALTER TABLE "allergies" ADD COLUMN "onsetDate" timestamp(3) without time zone;
ALTER TABLE "allergies" ADD COLUMN "verified" boolean DEFAULT false;
ALTER TABLE "allergies" ADD COLUMN "verifiedBy" text;
ALTER TABLE "allergies" ADD COLUMN "verificationDate" timestamp(3) without time zone;
ALTER TABLE "allergies" ADD COLUMN "active" boolean DEFAULT true;
ALTER TABLE "allergies" ADD COLUMN "epiPenRequired" boolean DEFAULT false;
ALTER TABLE "allergies" ADD COLUMN "epiPenLocation" text;
ALTER TABLE "allergies" ADD COLUMN "epiPenExpiration" timestamp(3) without time zone;
ALTER TABLE "allergies" ADD COLUMN "healthRecordId" uuid;
ALTER TABLE "chronic_conditions" ADD COLUMN "icdCode" text;
ALTER TABLE "chronic_conditions" ADD COLUMN "diagnosedBy" text;
ALTER TABLE "chronic_conditions" ADD COLUMN "severity" "ConditionSeverity";
ALTER TABLE "chronic_conditions" ADD COLUMN "medications" jsonb;
ALTER TABLE "chronic_conditions" ADD COLUMN "treatments" text;
ALTER TABLE "chronic_conditions" ADD COLUMN "accommodationsRequired" boolean DEFAULT false;
ALTER TABLE "chronic_conditions" ADD COLUMN "accommodationDetails" text;
ALTER TABLE "chronic_conditions" ADD COLUMN "emergencyProtocol" text;
ALTER TABLE "chronic_conditions" ADD COLUMN "actionPlan" text;
ALTER TABLE "chronic_conditions" ADD COLUMN "reviewFrequency" text;
ALTER TABLE "chronic_conditions" ADD COLUMN "restrictions" jsonb;
ALTER TABLE "chronic_conditions" ADD COLUMN "precautions" jsonb;
ALTER TABLE "chronic_conditions" ADD COLUMN "triggers" text[];
ALTER TABLE "chronic_conditions" ADD COLUMN "carePlan" text;
ALTER TABLE "chronic_conditions" ADD COLUMN "lastReviewDate" timestamp(3) without time zone;
ALTER TABLE "chronic_conditions" ADD COLUMN "healthRecordId" uuid;
ALTER TABLE "chronic_conditions" ALTER COLUMN "status" DROP DEFAULT, ALTER COLUMN "status" TYPE "ConditionStatus" USING "status"::text::"ConditionStatus";
ALTER TABLE "chronic_conditions" ALTER COLUMN "status" SET DEFAULT 'ACTIVE'::"ConditionStatus";
ALTER TABLE "growth_measurements" ADD CONSTRAINT "growth_measurements_healthRecordId_fkey" FOREIGN KEY ("healthRecordId") REFERENCES "health_records" ("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "growth_measurements" ADD CONSTRAINT "growth_measurements_studentId_fkey" FOREIGN KEY ("studentId") REFERENCES "students" ("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "screenings" ADD CONSTRAINT "screenings_healthRecordId_fkey" FOREIGN KEY ("healthRecordId") REFERENCES "health_records" ("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "screenings" ADD CONSTRAINT "screenings_studentId_fkey" FOREIGN KEY ("studentId") REFERENCES "students" ("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "vaccinations" ADD CONSTRAINT "vaccinations_healthRecordId_fkey" FOREIGN KEY ("healthRecordId") REFERENCES "health_records" ("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "vaccinations" ADD CONSTRAINT "vaccinations_studentId_fkey" FOREIGN KEY ("studentId") REFERENCES "students" ("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "vital_signs" ADD CONSTRAINT "vital_signs_appointmentId_fkey" FOREIGN KEY ("appointmentId") REFERENCES "appointments" ("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "vital_signs" ADD CONSTRAINT "vital_signs_healthRecordId_fkey" FOREIGN KEY ("healthRecordId") REFERENCES "health_records" ("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "vital_signs" ADD CONSTRAINT "vital_signs_studentId_fkey" FOREIGN KEY ("studentId") REFERENCES "students" ("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "allergies" ADD CONSTRAINT "allergies_healthRecordId_fkey" FOREIGN KEY ("healthRecordId") REFERENCES "health_records" ("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "chronic_conditions" ADD CONSTRAINT "chronic_conditions_healthRecordId_fkey" FOREIGN KEY ("healthRecordId") REFERENCES "health_records" ("id") ON DELETE SET NULL ON UPDATE CASCADE;
CREATE INDEX "allergies_allergyType_severity_idx" ON "allergies" USING btree ("allergyType", severity);
CREATE INDEX "allergies_epiPenExpiration_idx" ON "allergies" USING btree ("epiPenExpiration");
CREATE INDEX "allergies_studentId_active_idx" ON "allergies" USING btree ("studentId", active);
CREATE INDEX "chronic_conditions_nextReviewDate_idx" ON "chronic_conditions" USING btree ("nextReviewDate");
CREATE INDEX "chronic_conditions_severity_status_idx" ON "chronic_conditions" USING btree (severity, status);
CREATE INDEX "chronic_conditions_studentId_status_idx" ON "chronic_conditions" USING btree ("studentId", status);
CREATE INDEX "growth_measurements_measurementDate_idx" ON "growth_measurements" USING btree ("measurementDate");
CREATE INDEX "growth_measurements_studentId_measurementDate_idx" ON "growth_measurements" USING btree ("studentId",
    "measurementDate");
CREATE INDEX "health_records_createdBy_idx" ON "health_records" USING btree ("createdBy");
CREATE INDEX "health_records_followUpRequired_followUpDate_idx" ON "health_records" USING btree ("followUpRequired",
    "followUpDate");
CREATE INDEX "health_records_recordType_recordDate_idx" ON "health_records" USING btree ("recordType",
    "recordDate");
CREATE INDEX "health_records_studentId_recordDate_idx" ON "health_records" USING btree ("studentId",
    "recordDate");
CREATE INDEX "screenings_followUpDate_idx" ON "screenings" USING btree ("followUpDate");
CREATE INDEX "screenings_referralRequired_followUpRequired_idx" ON "screenings" USING btree ("referralRequired",
    "followUpRequired");
CREATE INDEX "screenings_screeningType_outcome_idx" ON "screenings" USING btree ("screeningType", outcome);
CREATE INDEX "screenings_studentId_screeningDate_idx" ON "screenings" USING btree ("studentId",
    "screeningDate");
CREATE INDEX "vaccinations_expirationDate_idx" ON "vaccinations" USING btree ("expirationDate");
CREATE INDEX "vaccinations_nextDueDate_idx" ON "vaccinations" USING btree ("nextDueDate");
CREATE INDEX "vaccinations_studentId_administrationDate_idx" ON "vaccinations" USING btree ("studentId",
    "administrationDate");
CREATE INDEX "vaccinations_vaccineType_complianceStatus_idx" ON "vaccinations" USING btree ("vaccineType",
    "complianceStatus");
CREATE INDEX "vital_signs_appointmentId_idx" ON "vital_signs" USING btree ("appointmentId");
CREATE INDEX "vital_signs_measurementDate_idx" ON "vital_signs" USING btree ("measurementDate");
CREATE INDEX "vital_signs_studentId_measurementDate_idx" ON "vital_signs" USING btree ("studentId",
    "measurementDate");
