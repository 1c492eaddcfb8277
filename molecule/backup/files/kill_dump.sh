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
  sleep 0.01
}
# It is age that has a file of the dump: before that, age is asked whether it takes the public keys. A small dump is over after some hundred
# milliseconds, so once its folder is there nothing is started and nobody sleeps in between.
until [ -n "$(find /var/backups/pgops -name '*.partial')" ]; do not_yet 'a backup that begins'; done
held=
until [ -n "$held" ]; do
  [ "$(date +%s)" -lt "$deadline" ] || { echo 'waited 120 s in vain for an encrypted dump' >&2; exit 1; }
  tries=0
  while [ -z "$held" ] && [ "$tries" -lt 100 ]; do
    tries=$((tries + 1))
    for file in /var/backups/pgops/*/*.partial/dump.age; do
      [ -e "$file" ] || continue
      for process in /proc/[0-9]*; do
        name=
        { read -r name <"$process/comm"; } 2>/dev/null || continue
        [ "$name" = age ] || continue
        age="${process#/proc/}"
        kill -STOP "$age" 2>/dev/null && held=yes
        break 2
      done
    done
  done
done
until dump="$(pgrep --oldest --exact pg_dump)"; do not_yet pg_dump; done
# More than a pipe holds is not taken from it, so it cannot come to its end.
until grep -q pipe_write "/proc/$dump/wchan"; do not_yet 'a full pipe'; done
find /var/backups/pgops -path '*.partial/*' -name dump.age > /root/half_written
grep -rlF "$1" /var/backups /tmp /var/tmp /dev/shm > /root/seen_while_dumping || true
kill -9 "$dump"
# It now gets a stream that simply ends.
kill -CONT "$age"
