#!/bin/sh
# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# System packages of 'make test' on Debian 12 and Ubuntu 24.04 or later: installs what is missing as root,
# else says exactly what is missing and the one command that installs it. With 'all', also those of 'make test-all'.
set -eu

goal="make test"
[ "${1:-}" != all ] || goal="make test-all"

# podman and what it runs on; runc where crun cannot (see tests/support/podman.py); mmdebstrap and the keyring make the
# base of the test image; uidmap and slirp4netns let podman run without root. age, rsync and rclone encrypt and copy backups, strace
# tells which files that opens; zstd packs what pg_basebackup packs; pgbouncer stands before a test's server.
wanted="python3 python3-venv git make openssh-client util-linux procps podman crun runc buildah netavark aardvark-dns \
iproute2 iptables mmdebstrap debian-archive-keyring ca-certificates age rsync rclone strace zstd pgbouncer"
[ "$(id -u)" -eq 0 ] || wanted="$wanted uidmap slirp4netns"
# What writes units for a host has them read by systemd-analyze.
[ "$goal" = "make test" ] || wanted="$wanted systemd"
# The tools of tests/legacy_tools run on node, wherever that came from: another node than Debian's brings its own npm.
if [ "$goal" = "make test-all" ]; then
  command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1 || wanted="$wanted nodejs npm"
  # The pages are opened in a browser, whichever there is; Ubuntu's own package fetches the snap.
  browser=chromium-browser
  # shellcheck disable=SC1091 # a file of the machine
  if (. /etc/os-release && [ "${ID:-}" = debian ]) 2>/dev/null; then browser="chromium-headless-shell fonts-dejavu-core"; fi
  for program in chromium-headless-shell chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$program" >/dev/null 2>&1; then browser=""; fi
  done
  wanted="$wanted $browser"
  # promtool reads the metrics and the alerts.
  command -v promtool >/dev/null 2>&1 || wanted="$wanted prometheus"
  # The dashboard of the servers is held against what their exporter tells.
  wanted="$wanted prometheus-postgres-exporter"
fi

if ! command -v dpkg-query >/dev/null 2>&1; then
  echo "$goal: this is no Debian or Ubuntu; the tests need: $wanted. Going on with what is there." >&2
  exit 0
fi

missing=""
for package in $wanted; do
  state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "$goal: system packages are missing:$missing" >&2
  echo "Install them, then run '$goal' again:" >&2
  echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends$missing" >&2
  exit 1
fi
echo "Installing system packages:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of words
apt-get install -y -qq --no-install-recommends $missing >/dev/null
