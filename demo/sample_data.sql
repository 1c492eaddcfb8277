-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
--
-- Sample data for the first four migrations: invented people at invented schools, about `demo.rows` rows in all.
--
--   SET demo.rows = '20000';
--
-- Every value follows from its row number alone, so that two loads of one size are equal to the last byte, on any
-- server. Runs as one transaction in an empty schema, as the role white_cross_app: the load shows that the application's
-- rights are those that the migrations leave behind.

-- Days and dates below are those of UTC.
SET LOCAL TimeZone = 'UTC';

-- All are inlined by the planner: two million rows call none of them. Ids ascend, as those of uuidv7 do: random ones
-- would double the time of the load.
CREATE FUNCTION pg_temp.pick(choices text[], n bigint, salt bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT choices[1 + (hashint8extended(n, salt) & 1073741823) % cardinality(choices)] $$;

CREATE FUNCTION pg_temp.roll(sides bigint, n bigint, salt bigint) RETURNS integer LANGUAGE sql IMMUTABLE AS
$$ SELECT ((hashint8extended(n, salt) & 1073741823) % sides)::integer $$;

CREATE FUNCTION pg_temp.id(kind text, n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$ SELECT (lpad(to_hex(n), 12, '0') || right(encode(sha256((kind || n::text)::bytea), 'hex'), 20))::uuid $$;

-- A student brings 17.125 rows: the student, a guardian, two emergency contacts, four health records, two appointments, half
-- a medication with twelve doses, and now and then an allergy, an incident or a chronic condition.
CREATE TEMPORARY TABLE size AS
SELECT students, schools, greatest(2, schools / 8) AS districts
FROM (SELECT greatest(40, (current_setting('demo.rows')::bigint / 17.125)::bigint) AS students) AS one,
     LATERAL (SELECT greatest(3, students / 400) AS schools) AS two;

INSERT INTO districts (id, name, code, address, city, state, "zipCode", phone, email, "createdAt", "updatedAt")
SELECT pg_temp.id('district', n),
       pg_temp.pick('{Alder,Birchmere,Cedar Run,Dunfield,Elmhollow,Fernley,Greywater,Hazelmoor}', n, 1)
           || ' District ' || n,
       'D' || lpad(n::text, 4, '0'),
       100 + n || ' Example Road',
       pg_temp.pick('{Northbrook Vale,Eastlea,Southmere,Westholt}', n, 2),
       'CA',
       lpad((90000 + n)::text, 5, '0'),
       '555-01' || lpad((n % 100)::text, 2, '0'),
       'office@district' || n || '.example.org',
       '2024-07-01', '2024-07-01'
FROM size, generate_series(1, districts) AS n;

INSERT INTO schools (id, name, code, "districtId", address, city, state, "zipCode", phone, email, principal,
                     "totalEnrollment", "createdAt", "updatedAt")
SELECT pg_temp.id('school', n),
       pg_temp.pick('{Lantern,Meadow,Otter Creek,Pinecrest,Quarry,Riverbend,Stonegate,Thistle}', n, 3) || ' '
           || pg_temp.pick('{Elementary,Middle School,High School}', n, 4) || ' ' || n,
       'S' || lpad(n::text, 5, '0'),
       pg_temp.id('district', 1 + (n - 1) % districts),
       n || ' School Lane',
       pg_temp.pick('{Northbrook Vale,Eastlea,Southmere,Westholt}', n, 5),
       'CA',
       lpad((91000 + n % 1000)::text, 5, '0'),
       '555-01' || lpad((n % 100)::text, 2, '0'),
       'office@school' || n || '.example.org',
       pg_temp.pick('{A. Brindlewood,C. Dovecraft,E. Fallowmere,G. Hartsong,I. Juniperly}', n, 6),
       students / schools,
       '2024-07-01', '2024-07-01'
FROM size, generate_series(1, schools) AS n;

-- Three people a school: a nurse, a counselor and an administrator. Nobody can log in: the hashes are of nothing.
INSERT INTO users (id, email, password, "firstName", "lastName", role, "schoolId", "districtId", phone, "emailVerified",
                   "createdAt", "updatedAt")
SELECT pg_temp.id(lower(kind), n),
       lower(kind) || n || '@staff.example.org',
       '!' || encode(sha256((kind || n)::bytea), 'hex'),
       pg_temp.pick('{Adela,Bram,Corin,Dara,Eland,Fenna,Garin,Hesper,Ilsa,Joren}', n, 10 + ordinal),
       pg_temp.pick('{Ashgrove,Bellweather,Coldwater,Driftwell,Emberly,Foxglen,Goldmere,Hollowell}', n, 20 + ordinal),
       kind::"UserRole",
       pg_temp.id('school', n),
       pg_temp.id('district', 1 + (n - 1) % districts),
       '555-01' || lpad((n % 100)::text, 2, '0'),
       true,
       '2024-07-15', '2024-07-15'
FROM size, generate_series(1, schools) AS n,
     unnest('{NURSE,COUNSELOR,SCHOOL_ADMIN}'::text[]) WITH ORDINALITY AS kinds (kind, ordinal);

INSERT INTO students (id, "studentNumber", "firstName", "lastName", "dateOfBirth", grade, gender, "medicalRecordNum",
                      "isActive", "enrollmentDate", "nurseId", "schoolId", "districtId", "createdAt", "updatedAt")
SELECT pg_temp.id('student', n),
       'WC' || lpad(n::text, 8, '0'),
       pg_temp.pick('{Aelin,Briar,Caspen,Delwyn,Eira,Fable,Gwenna,Hollis,Isolde,Jory,Kestrel,Linnet,Marlo,Nell,Orrin,Perrin}', n, 31),
       pg_temp.pick('{Amberley,Brookhurst,Cloverdale,Dunmore,Evenwood,Farrowby,Glimmer,Hawthwaite,Inkwell,Juneberry,Kindle,Larkspur}', n, 32),
       date '2020-03-01' - 365 * grade - pg_temp.roll(365, n, 33),
       CASE grade WHEN 0 THEN 'K' ELSE grade::text END,
       pg_temp.pick('{MALE,FEMALE,MALE,FEMALE,MALE,FEMALE,OTHER,PREFER_NOT_TO_SAY}', n, 34)::"Gender",
       'MRN' || lpad(n::text, 9, '0'),
       pg_temp.roll(50, n, 35) > 0,
       timestamptz '2024-08-20 08:00Z' + pg_temp.roll(20, n, 36) * interval '1 day',
       pg_temp.id('nurse', school),
       pg_temp.id('school', school),
       pg_temp.id('district', 1 + (school - 1) % districts),
       '2024-08-20', '2024-08-20'
FROM size, generate_series(1, students) AS n,
     LATERAL (SELECT 1 + (n - 1) % schools AS school, pg_temp.roll(13, n, 30) AS grade) AS place;

INSERT INTO contacts (id, "firstName", "lastName", email, phone, type, city, state, "relationTo", "relationshipType",
                      "createdAt", "updatedAt")
SELECT pg_temp.id('contact', n),
       pg_temp.pick('{Alaric,Betony,Cedric,Damaris,Edlyn,Florian,Gisela,Hadrian,Imara,Jasper}', n, 41),
       pg_temp.pick('{Amberley,Brookhurst,Cloverdale,Dunmore,Evenwood,Farrowby,Glimmer,Hawthwaite,Inkwell,Juneberry,Kindle,Larkspur}', n, 32),
       'guardian' || n || '@example.org',
       '555-01' || lpad((n % 100)::text, 2, '0'),
       pg_temp.pick('{GUARDIAN,PARENT,PARENT,PARENT}', n, 42)::"ContactType",
       pg_temp.pick('{Northbrook Vale,Eastlea,Southmere,Westholt}', n, 43),
       'CA',
       pg_temp.id('student', n),
       pg_temp.pick('{Mother,Father,Grandparent,Guardian}', n, 44),
       '2024-08-21', '2024-08-21'
FROM size, generate_series(1, students) AS n;

INSERT INTO emergency_contacts (id, "studentId", name, relationship, "primaryPhone", email, priority, "canPickUp",
                                "canMakeDecisions", "isPrimary", "createdAt", "updatedAt")
SELECT pg_temp.id('emergency', 2 * n + priority),
       pg_temp.id('student', n),
       pg_temp.pick('{Alaric,Betony,Cedric,Damaris,Edlyn,Florian,Gisela,Hadrian}', n, 50 + priority) || ' '
           || pg_temp.pick('{Amberley,Brookhurst,Cloverdale,Dunmore,Evenwood,Farrowby}', n, 52 + priority),
       pg_temp.pick('{Parent,Aunt,Uncle,Neighbour,Grandparent}', n, 54 + priority),
       '555-01' || lpad(((n + priority) % 100)::text, 2, '0'),
       'emergency' || n || '.' || priority || '@example.org',
       priority,
       priority = 1 OR pg_temp.roll(2, n, 57) = 0,
       priority = 1,
       priority = 1,
       '2024-08-21', '2024-08-21'
FROM size, generate_series(1, students) AS n, generate_series(1, 2) AS priority;

INSERT INTO health_records (id, "studentId", "recordType", title, description, "recordDate", provider, facility, diagnosis,
                            "diagnosisCode", treatment, "followUpRequired", "followUpDate", metadata, "createdBy", "createdAt",
                            "updatedAt")
SELECT pg_temp.id('record', n * 4 + visit),
       pg_temp.id('student', n),
       kind::"HealthRecordType",
       initcap(replace(kind, '_', ' ')) || ' ' || visit,
       'Seen in the health room; ' || pg_temp.pick('{no complaint,mild complaint,referred on,observed and sent back to class}', n, 60 + visit),
       day,
       'Dr. ' || pg_temp.pick('{Oakhurst,Penhallow,Quillon,Rookwood,Silverthorn}', n, 70 + visit),
       pg_temp.pick('{School health room,Valley Clinic,Harbour Practice}', n, 75 + visit),
       CASE WHEN kind IN ('ILLNESS', 'INJURY') THEN pg_temp.pick('{Cold,Sprain,Headache,Stomach ache,Scrape}', n, 80 + visit) END,
       CASE WHEN kind IN ('ILLNESS', 'INJURY') THEN pg_temp.pick('{J00,S93.4,R51,R10.9,T14.0}', n, 80 + visit) END,
       CASE WHEN kind IN ('ILLNESS', 'INJURY') THEN 'Rest and fluids' END,
       pg_temp.roll(10, n, 85 + visit) = 0,
       CASE WHEN pg_temp.roll(10, n, 85 + visit) = 0 THEN day + interval '14 days' END,
       jsonb_build_object('visit', visit, 'temperature', 36 + pg_temp.roll(20, n, 90 + visit) / 10.0),
       pg_temp.id('nurse', 1 + (n - 1) % schools),
       day, day
FROM size, generate_series(1, students) AS n, generate_series(1, 4) AS visit,
     LATERAL (SELECT pg_temp.pick('{CHECKUP,VACCINATION,ILLNESS,INJURY,SCREENING,PHYSICAL_EXAM,DENTAL,VISION,HEARING}', n, 95 + visit) AS kind,
                     timestamptz '2024-09-01 08:00Z' + pg_temp.roll(300, n, 100 + visit) * interval '1 day'
                         + pg_temp.roll(420, n, 105 + visit) * interval '1 minute' AS day) AS facts;

INSERT INTO allergies (id, "studentId", allergen, severity, reaction, "diagnosedDate", "diagnosedBy", "createdAt", "updatedAt")
SELECT pg_temp.id('allergy', n),
       pg_temp.id('student', n),
       pg_temp.pick('{Peanut,Tree nut,Bee sting,Penicillin,Latex,Milk,Egg,Pollen}', n, 111),
       pg_temp.pick('{MILD,MILD,MODERATE,MODERATE,SEVERE,LIFE_THREATENING}', n, 112)::"AllergySeverity",
       pg_temp.pick('{Hives,Swelling,Wheezing,Rash}', n, 113),
       timestamptz '2019-01-01Z' + pg_temp.roll(2000, n, 114) * interval '1 day',
       'Dr. ' || pg_temp.pick('{Oakhurst,Penhallow,Quillon,Rookwood,Silverthorn}', n, 115),
       '2024-08-22', '2024-08-22'
FROM size, generate_series(1, students, 4) AS n;

INSERT INTO chronic_conditions (id, "studentId", "conditionName", "diagnosedDate", description, "managementPlan", status,
                                "nextReviewDate", "createdAt", "updatedAt")
SELECT pg_temp.id('condition', n),
       pg_temp.id('student', n),
       pg_temp.pick('{Asthma,Type 1 diabetes,Epilepsy,Migraine,Eczema}', n, 121),
       timestamptz '2018-01-01Z' + pg_temp.roll(2300, n, 122) * interval '1 day',
       'Known since before enrolment',
       'Plan on file with the school nurse',
       pg_temp.pick('{ACTIVE,ACTIVE,ACTIVE,MANAGED,RESOLVED}', n, 123),
       timestamptz '2025-09-01Z' + pg_temp.roll(180, n, 124) * interval '1 day',
       '2024-08-22', '2024-08-22'
FROM size, generate_series(1, students, 8) AS n;

INSERT INTO appointments (id, "studentId", "nurseId", "scheduledAt", duration, status, reason, "completedAt", "cancelledAt",
                          "cancellationReason", "createdAt", "updatedAt")
SELECT pg_temp.id('appointment', n * 2 + turn),
       pg_temp.id('student', n),
       pg_temp.id('nurse', 1 + (n - 1) % schools),
       day,
       pg_temp.pick('{10,15,15,30}', n, 130 + turn)::integer,
       status::"AppointmentStatus",
       pg_temp.pick('{Screening,Medication check,Follow-up,Vaccination,Consultation}', n, 133 + turn),
       CASE status WHEN 'COMPLETED' THEN day + interval '20 minutes' END,
       CASE status WHEN 'CANCELLED' THEN day - interval '1 day' END,
       CASE status WHEN 'CANCELLED' THEN 'Student absent' END,
       day - interval '7 days', day - interval '7 days'
FROM size, generate_series(1, students) AS n, generate_series(1, 2) AS turn,
     LATERAL (SELECT pg_temp.pick('{COMPLETED,COMPLETED,COMPLETED,SCHEDULED,CANCELLED,NO_SHOW}', n, 136 + turn) AS status,
                     timestamptz '2024-09-02 08:00Z' + pg_temp.roll(280, n, 139 + turn) * interval '1 day'
                         + pg_temp.roll(28, n, 142 + turn) * interval '15 minutes' AS day) AS facts;

INSERT INTO medications (id, name, "genericName", category, "dosageForm", strength, "stockQuantity", "minimumStock",
                         "expirationDate", manufacturer, "requiresRefrigeration", "controlledSubstance", "createdAt", "updatedAt")
SELECT pg_temp.id('medication', n), name, generic, category, form, strength, 40 + pg_temp.roll(200, n, 151), 20,
       timestamptz '2026-06-30Z' + pg_temp.roll(400, n, 152) * interval '1 day', 'Example Pharmaceuticals',
       generic = 'insulin', generic = 'methylphenidate', '2024-07-20', '2024-07-20'
FROM (VALUES (1, 'Respira', 'salbutamol', 'Respiratory', 'Inhaler', '100 mcg'),
             (2, 'Calmol', 'paracetamol', 'Analgesic', 'Tablet', '250 mg'),
             (3, 'Glucobal', 'insulin', 'Endocrine', 'Injection', '100 U/ml'),
             (4, 'Attendal', 'methylphenidate', 'Stimulant', 'Tablet', '10 mg'),
             (5, 'Antihistal', 'cetirizine', 'Antihistamine', 'Tablet', '10 mg'),
             (6, 'Epipulse', 'epinephrine', 'Emergency', 'Auto-injector', '0.15 mg'),
             (7, 'Seizal', 'levetiracetam', 'Anticonvulsant', 'Tablet', '250 mg'),
             (8, 'Febrex', 'ibuprofen', 'Analgesic', 'Suspension', '100 mg/5 ml'))
         AS catalogue (n, name, generic, category, form, strength);

INSERT INTO student_medications (id, "studentId", "medicationId", dosage, frequency, route, "startDate", "prescribedBy",
                                 instructions, "consentObtained", "consentDate", "createdAt", "updatedAt")
SELECT pg_temp.id('prescription', n),
       pg_temp.id('student', n),
       pg_temp.id('medication', 1 + pg_temp.roll(8, n, 161)),
       pg_temp.pick('{1 tablet,2 puffs,5 ml,1 dose}', n, 162),
       pg_temp.pick('{once a day,twice a day,when needed}', n, 163),
       pg_temp.pick('{oral,inhaled}', n, 164),
       timestamptz '2024-09-01Z' + pg_temp.roll(60, n, 165) * interval '1 day',
       'Dr. ' || pg_temp.pick('{Oakhurst,Penhallow,Quillon,Rookwood,Silverthorn}', n, 166),
       'Give with water; watch for ten minutes',
       true,
       '2024-08-30', '2024-08-30', '2024-08-30'
FROM size, generate_series(1, students, 2) AS n;

INSERT INTO medication_logs (id, "studentMedicationId", "nurseId", "timeGiven", "dosageGiven", "reasonForAdministration",
                             "studentResponse", "adverseReaction", "reactionDetails", "createdAt")
SELECT pg_temp.id('dose', n * 12 + dose),
       pg_temp.id('prescription', n),
       pg_temp.id('nurse', 1 + (n - 1) % schools),
       given,
       pg_temp.pick('{1 tablet,2 puffs,5 ml,1 dose}', n, 162),
       pg_temp.pick('{Scheduled dose,Symptoms,Before sports}', n, 170 + dose),
       pg_temp.pick('{No change,Better after 20 minutes,Returned to class}', n, 190 + dose),
       adverse,
       CASE WHEN adverse THEN 'Mild nausea, observed for an hour' END,
       given
FROM size, generate_series(1, students, 2) AS n, generate_series(1, 12) AS dose,
     LATERAL (SELECT timestamptz '2024-11-04 09:00Z' + dose * interval '14 days' + pg_temp.roll(360, n, 210 + dose) * interval '1 minute' AS given,
                     pg_temp.roll(200, n, 230 + dose) = 0 AS adverse) AS facts;

INSERT INTO incident_reports (id, "studentId", "reportedById", type, severity, "occurredAt", location, description,
                              "actionTaken", "parentNotified", "parentNotifiedAt", "parentNotifiedBy",
                              "emergencyServicesContacted", "followUpRequired", witnesses, "createdAt", "updatedAt")
SELECT pg_temp.id('incident', n),
       pg_temp.id('student', n),
       pg_temp.id('nurse', 1 + (n - 1) % schools),
       pg_temp.pick('{INJURY,INJURY,INJURY,ILLNESS,ILLNESS,ALLERGIC_REACTION,MEDICATION_ERROR,BEHAVIORAL,ENVIRONMENTAL,OTHER}', n, 251)::"IncidentType",
       severity::"IncidentSeverity",
       at,
       pg_temp.pick('{Playground,Gym,Classroom,Cafeteria,Bus stop}', n, 252),
       pg_temp.pick('{Fell while running,Felt unwell in class,Collided with a door,Reacted to a snack}', n, 253),
       pg_temp.pick('{First aid given,Sent home,Observed in the health room}', n, 254),
       severity <> 'LOW',
       CASE WHEN severity <> 'LOW' THEN at + interval '25 minutes' END,
       CASE WHEN severity <> 'LOW' THEN pg_temp.id('nurse', 1 + (n - 1) % schools) END,
       severity = 'CRITICAL',
       severity IN ('HIGH', 'CRITICAL'),
       '[]'::json,
       at, at
FROM size, generate_series(1, students, 4) AS n,
     LATERAL (SELECT pg_temp.pick('{LOW,LOW,LOW,LOW,MEDIUM,MEDIUM,MEDIUM,HIGH,HIGH,CRITICAL}', n, 255) AS severity,
                     timestamptz '2024-09-03 08:00Z' + pg_temp.roll(280, n, 256) * interval '1 day'
                         + pg_temp.roll(400, n, 257) * interval '1 minute' AS at) AS facts;
