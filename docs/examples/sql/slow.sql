-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
ALTER TABLE students ADD COLUMN card uuid DEFAULT gen_random_uuid();
CREATE INDEX students_card_idx ON students (card);
