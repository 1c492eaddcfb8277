-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SET lock_timeout = '1s';
ALTER TABLE students ADD COLUMN card uuid;
ALTER TABLE students ALTER COLUMN card SET DEFAULT gen_random_uuid();
SET lock_timeout = 0;
CREATE INDEX CONCURRENTLY students_card_idx ON students (card);
