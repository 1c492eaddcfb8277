#!/bin/sh
# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# kill_builder.sh MAJOR: hold up the builds on two tables, kill -9 the process whose session builds, and let go a little later.
set -eu
# Whoever started this asks for its end, so it must come to one where nothing is ever built.
deadline=$(($(date +%s) + 120))
not_yet() {
  [ "$(date +%s)" -lt "$deadline" ] || { echo "waited 120 s in vain for $1" >&2; exit 1; }
  sleep 0.2 # each look is a psql; a build that is held up stays
}
sql() {
  timeout 20 runuser -u postgres -- psql --cluster "$1/main" --no-psqlrc -At --set=ON_ERROR_STOP=1 --command "$2" white_cross
}
# A row of each that no client touches. Not of pupils: what is left there is dropped first, and that waits for writers too.
runuser -u postgres -- psql --cluster "$1/main" --no-psqlrc --quiet --set=ON_ERROR_STOP=1 white_cross <<'SQL' &
BEGIN;
INSERT INTO doses (id, pupil, amount) VALUES (0, 1, 0);
INSERT INTO visits (id, pupil, minutes) VALUES (0, 1, 0);
SELECT pg_sleep(120) FROM (SELECT set_config('application_name', 'molecule holder', false)) AS named;
COMMIT;
SQL
building="SELECT client_port FROM pg_stat_activity WHERE query LIKE 'CREATE %INDEX CONCURRENTLY%' AND application_name LIKE 'pgops %'"
until port="$(sql "$1" "$building LIMIT 1")" && [ -n "$port" ]; do not_yet 'a build'; done
# Let it be in the middle: the index is in the catalog, and waits for the holder.
sleep 1
pid="$(ss -Htnp "sport = :$port" | sed -n 's/.*pid=\([0-9]*\).*/\1/p' | head -n 1)"
kill -9 "$pid"
# The server sees that nobody listens and gives the build up; only then the holder goes.
until [ -z "$(sql "$1" "$building")" ]; do not_yet 'the end of the builds'; done
sql "$1" "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'molecule holder'"
wait || true
