#!/bin/sh
# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# kill_dump.sh NAME: hold up the encryption of a dump, look for a patient's name while pg_dump waits in the middle, kill -9 pg_dump.
set -eu
# Before that, age is asked whether it takes the public keys.
until [ -n "$(find /var/backups/pgops -path '*.partial/*' -name dump.age)" ]; do sleep 0.01; done
until age="$(pgrep --oldest --exact age)"; do sleep 0.01; done
kill -STOP "$age"
until dump="$(pgrep --oldest --exact pg_dump)"; do sleep 0.01; done
# More than a pipe holds is not taken from it, so it cannot come to its end.
until grep -q pipe_write "/proc/$dump/wchan"; do sleep 0.01; done
find /var/backups/pgops -path '*.partial/*' -name dump.age > /root/half_written
grep -rlF "$1" /var/backups /tmp /var/tmp /dev/shm > /root/seen_while_dumping || true
kill -9 "$dump"
# It now gets a stream that simply ends.
kill -CONT "$age"
