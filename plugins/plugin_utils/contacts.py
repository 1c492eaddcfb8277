# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom to call when a run of production fails: ``pgops_contacts``, which must be filled in before one begins."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

ROLES: Mapping[str, str] = {
    "database_admin": "database administrator",
    "tech_lead": "tech lead",
    "cto": "CTO",
    "hipaa_officer": "HIPAA officer",
}
FIELDS = ("name", "phone", "email")
# What an example says in the place of a person.
_NOT_FILLED_IN = re.compile(
    r"fill|\btodo\b|\btbd\b|change.?me|\bname\b|xxx|\.\.\.|example\.(com|org|net)|\.example$|^<.*>$|\b555[-. ]?01\d\d\b",
    re.IGNORECASE,
)
_PHONE = re.compile(r"^\+?[\d ()/.-]{5,}( ?(x|ext\.?) ?\d+)?$")
_EMAIL = re.compile(r"^[^@\s]+@[^@\s]+\.[^@\s]+$")


def missing(given: Any) -> list[str]:
    """What is not filled in, ``cto.phone``; empty where everybody can be called.

    :param given: ``pgops_contacts``, a mapping of :data:`ROLES` to :data:`FIELDS`
    """
    contacts = given if isinstance(given, Mapping) else {}
    found = []
    for role in ROLES:
        person = contacts.get(role)
        person = person if isinstance(person, Mapping) else {}
        found += [f"{role}.{field}" for field in FIELDS if not _is_filled_in(field, person.get(field))]
    return found


def _is_filled_in(field: str, value: Any) -> bool:
    text = str(value or "").strip()
    if not text or _NOT_FILLED_IN.search(text):
        return False
    wanted = {"phone": _PHONE, "email": _EMAIL}.get(field)
    return wanted is None or bool(wanted.match(text))


def known(given: Any) -> dict[str, dict[str, str]]:
    """:return: the contacts as plain texts, and nothing else that stands beside them."""
    contacts = given if isinstance(given, Mapping) else {}
    return {
        role: {field: str(contacts[role].get(field) or "") for field in FIELDS}
        for role in ROLES
        if isinstance(contacts.get(role), Mapping)
    }


def lines(contacts: Mapping[str, Mapping[str, str]]) -> list[str]:
    """:return: a line a person, in the order in which they are called."""
    width = max((len(words) for words in ROLES.values()), default=0)
    return [
        f"{ROLES[role]:<{width}}  {person['name']}, {person['phone']}, {person['email']}"
        for role, person in contacts.items()
        if role in ROLES
    ]
