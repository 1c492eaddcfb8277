-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT h.line_number AS line, pg_catalog.concat_ws(' ', h.type, pg_catalog.array_to_string(h.database, ','),
                                                   pg_catalog.array_to_string(h.user_name, ','), h.address) AS rule,
       CASE WHEN %(production)s AND h.type <> 'local' AND h.address NOT IN ('127.0.0.1', '::1', 'localhost', 'samehost')
            THEN 'stop' ELSE 'warn' END AS level
  FROM pg_catalog.pg_hba_file_rules h WHERE h.auth_method = 'trust'
 ORDER BY 3, 1
