# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests stand on: real PostgreSQL servers, containers, and the literal ansible-playbook command."""
