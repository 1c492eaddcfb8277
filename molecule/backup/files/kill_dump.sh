#!/bin/sh
# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# kill_dump.sh NAME: hold up the encryption of a dump, look for a patient's name while pg_dump waits in the middle, kill -9 pg_dump.
set -eu
# Whoever started this asks for its end, so it must come to one where the dump never does what is waited for.
deadline=$(($(date +%s) + 120))
not_yet() {
  [ "$(date +%s)" -lt "$deadline" ] || { echo "waited 120 s in vain for $1" >&2; exit 1; }
  sleep 0.01 # a small dump is over after some hundred milliseconds
}
# Before that, age is asked whether it takes the public keys.
until [ -n "$(find /var/backups/pgops -path '*.partial/*' -name dump.age)" ]; do not_yet 'an encrypted dump'; done
until age="$(pgrep --oldest --exact age)"; do not_yet age; done
kill -STOP "$age"
until dump="$(pgrep --oldest --exact pg_dump)"; do not_yet pg_dump; done
# More than a pipe holds is not taken from it, so it cannot come to its end.
until grep -q pipe_write "/proc/$dump/wchan"; do not_yet 'a full pipe'; done
find /var/backups/pgops -path '*.partial/*' -name dump.age > /root/half_written
grep -rlF "$1" /var/backups /tmp /var/tmp /dev/shm > /root/seen_while_dumping || true
kill -9 "$dump"
# It now gets a stream that simply ends.
kill -CONT "$age"
