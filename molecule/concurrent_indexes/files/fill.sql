-- Copyright (c) 2026 White Cross pgops contributors
-- SPDX-License-Identifier: GPL-3.0-or-later
INSERT INTO pupils (id, name, notes, changed)
SELECT n, 'pupil ' || n, to_tsvector('simple', 'note ' || n % 1000 || ' of ' || n), 0 FROM generate_series(1, 200000) AS n;
INSERT INTO visits (pupil, minutes) SELECT 1 + n % 200000, n % 60 FROM generate_series(1, 200000) AS n;
INSERT INTO doses (pupil, amount) SELECT 1 + n % 200000, n % 9 FROM generate_series(1, 100000) AS n;
VACUUM (ANALYZE);
-- Both fail at the doubles and stay, invalid. The first has the name and the definition that the second version wants.
UPDATE pupils SET name = 'pupil 2' WHERE id = 1;
SET ROLE white_cross_owner;
CREATE UNIQUE INDEX CONCURRENTLY pupils_name ON pupils (name);
CREATE UNIQUE INDEX CONCURRENTLY reports_own_index ON pupils (name, changed);
RESET ROLE;
UPDATE pupils SET name = 'pupil 1' WHERE id = 1;
