-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- What a standby has never confirmed is no lag yet: its state says that it has not begun.
SELECT coalesce(nullif(application_name, ''), '?') AS standby, coalesce(client_addr::text, 'this machine') AS address,
       pg_catalog.pg_size_pretty(behind) AS behind, coalesce(pg_catalog.date_part('epoch', replay_lag)::int, 0) AS seconds
  FROM (SELECT application_name, client_addr, replay_lag,
               pg_catalog.pg_wal_lsn_diff(
                   CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_receive_lsn()
                        ELSE pg_catalog.pg_current_wal_lsn() END, coalesce(replay_lsn, flush_lsn, write_lsn)) AS behind
          FROM pg_catalog.pg_stat_replication WHERE state = 'streaming') AS r
 WHERE behind > %(replication_lag_bytes)s OR replay_lag > pg_catalog.make_interval(secs => %(replication_lag_s)s)
 ORDER BY r.behind DESC
