# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values as an inventory has them, of which only Ansible tells what they come to."""

from __future__ import annotations

import re
from typing import Any

_TEMPLATE = re.compile(r"\{[{%]")
# The second before ansible-core 2.19.
_ENCRYPTED = frozenset({"EncryptedString", "AnsibleVaultEncryptedUnicode"})


def is_template(value: Any) -> bool:
    """:return: whether it is a text whose value another host, or a later moment, may tell otherwise."""
    return isinstance(value, str) and _TEMPLATE.search(value) is not None


def is_encrypted(value: Any) -> bool:
    """:return: whether it is one that ``ansible-vault encrypt_string`` has made; reading it as a text would decrypt it."""
    return type(value).__name__ in _ENCRYPTED
