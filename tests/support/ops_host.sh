#!/bin/sh
# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes a container of the test image an ops host; Ansible, that of the tests, is mounted as /opt/site-packages.
set -eu
# systemd hands credentials on by a mount that has to spread, as on a host of its own; podman has it off.
mount --make-rshared /
echo /opt/site-packages > /usr/lib/python3/dist-packages/pgops.pth
# A program as pip would have made it, with its Python beside it.
printf '#!/usr/bin/python3\nfrom ansible.cli.playbook import main\nmain()\n' > /usr/local/bin/ansible-playbook
chmod 755 /usr/local/bin/ansible-playbook
ln -sf /usr/bin/python3 /usr/local/bin/python3
systemctl is-system-running --wait > /dev/null || true
