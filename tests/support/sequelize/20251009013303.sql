-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
CREATE TYPE "ConfigScope" AS ENUM ('SYSTEM', 'DISTRICT', 'SCHOOL', 'USER');
CREATE TYPE "ConfigValueType" AS ENUM ('STRING', 'NUMBER', 'BOOLEAN', 'JSON', 'ARRAY', 'DATE', 'TIME', 'DATETIME', 'EMAIL', 'URL', 'COLOR', 'ENUM');
CREATE TYPE "enum_system_configurations_scope" AS ENUM ('SYSTEM', 'DISTRICT', 'SCHOOL', 'USER');
CREATE TYPE "enum_system_configurations_valueType" AS ENUM ('STRING', 'NUMBER', 'BOOLEAN', 'JSON', 'ARRAY', 'DATE', 'TIME', 'DATETIME', 'EMAIL', 'URL', 'COLOR', 'ENUM');
ALTER TYPE "ConfigCategory" ADD VALUE 'HEALTHCARE';
ALTER TYPE "ConfigCategory" ADD VALUE 'MEDICATION';
ALTER TYPE "ConfigCategory" ADD VALUE 'APPOINTMENTS';
ALTER TYPE "ConfigCategory" ADD VALUE 'UI';
ALTER TYPE "ConfigCategory" ADD VALUE 'QUERY';
ALTER TYPE "ConfigCategory" ADD VALUE 'FILE_UPLOAD';
ALTER TYPE "ConfigCategory" ADD VALUE 'RATE_LIMITING';
ALTER TYPE "ConfigCategory" ADD VALUE 'SESSION';
ALTER TYPE "ConfigCategory" ADD VALUE 'EMAIL';
ALTER TYPE "ConfigCategory" ADD VALUE 'SMS';
CREATE TABLE "configuration_history" ("id" character varying(255) NOT NULL,
    "configKey" text NOT NULL,
    "oldValue" text,
    "newValue" text NOT NULL,
    "changedBy" text NOT NULL,
    "changedByName" text,
    "changeReason" text,
    "ipAddress" text,
    "userAgent" text,
    "configurationId" uuid NOT NULL,
    "createdAt" timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY ("id"));
ALTER TABLE "system_configurations" ADD COLUMN "valueType" "enum_system_configurations_valueType" NOT NULL DEFAULT 'STRING'::"enum_system_configurations_valueType";
ALTER TABLE "system_configurations" ADD COLUMN "subCategory" text;
ALTER TABLE "system_configurations" ADD COLUMN "defaultValue" text;
ALTER TABLE "system_configurations" ADD COLUMN "validValues" text[] DEFAULT ARRAY[]::text[];
ALTER TABLE "system_configurations" ADD COLUMN "minValue" double precision;
ALTER TABLE "system_configurations" ADD COLUMN "maxValue" double precision;
ALTER TABLE "system_configurations" ADD COLUMN "isEditable" boolean NOT NULL DEFAULT true;
ALTER TABLE "system_configurations" ADD COLUMN "requiresRestart" boolean NOT NULL DEFAULT false;
ALTER TABLE "system_configurations" ADD COLUMN "scope" enum_system_configurations_scope NOT NULL DEFAULT 'SYSTEM'::enum_system_configurations_scope;
ALTER TABLE "system_configurations" ADD COLUMN "scopeId" text;
ALTER TABLE "system_configurations" ADD COLUMN "tags" text[] DEFAULT ARRAY[]::text[];
ALTER TABLE "system_configurations" ADD COLUMN "sortOrder" integer NOT NULL DEFAULT 0;
ALTER TABLE "configuration_history" ADD CONSTRAINT "configuration_history_configurationId_fkey" FOREIGN KEY ("configurationId") REFERENCES "system_configurations" ("id") ON DELETE CASCADE ON UPDATE CASCADE;
CREATE INDEX "configuration_history_changedBy_createdAt_idx" ON "configuration_history" USING btree ("changedBy",
    "createdAt");
CREATE INDEX "configuration_history_configKey_createdAt_idx" ON "configuration_history" USING btree ("configKey",
    "createdAt");
CREATE INDEX "configuration_history_configurationId_createdAt_idx" ON "configuration_history" USING btree ("configurationId",
    "createdAt");
CREATE INDEX "system_configurations_category_subCategory_idx" ON "system_configurations" USING btree (category,
    "subCategory");
CREATE INDEX "system_configurations_scope_scopeId_idx" ON "system_configurations" USING btree (scope,
    "scopeId");
CREATE INDEX "system_configurations_tags_idx" ON "system_configurations" USING gin (tags);
