-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT slot_name AS slot, slot_type AS kind,
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - inactive_since)::int / 3600 AS hours
  FROM pg_catalog.pg_replication_slots
 WHERE NOT active AND NOT temporary
   AND inactive_since < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %(slot_idle_s)s)
 ORDER BY inactive_since
