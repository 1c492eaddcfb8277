# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of the modules that read encrypted backups, documented once."""

from __future__ import annotations


class ModuleDocFragment:
    """The private key."""

    DOCUMENTATION = r"""
options:
  identity_file:
    description:
      - The file of a private key, mode 0600, on the host where the module runs; needed where the backup is encrypted.
      - It is read into memory before anything else. A key behind a passphrase is refused, since nobody is there to type it.
    type: path
  identity_once:
    description:
      - The file was handed over for this call only and is removed as soon as it is read. Filled by the action plugin.
    type: bool
    default: false
"""
