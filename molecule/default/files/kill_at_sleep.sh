#!/bin/sh
# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# kill_at_sleep.sh MAJOR: when a session sleeps in the event trigger, kill -9 the whole server; start it again 3 s later.
set -eu
sleeping="SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
until [ "$(timeout 10 runuser -u postgres -- psql --cluster "$1/main" --no-psqlrc -At --command "$sleeping" white_cross)" = 1 ]; do
  sleep 0.2
done
systemctl kill --kill-who=all --signal=KILL "postgresql@$1-main"
sleep 3
systemctl reset-failed "postgresql@$1-main" || true
systemctl start "postgresql@$1-main"
