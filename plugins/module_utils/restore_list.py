# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A dump's table of contents without what a restore leaves out, for ``pg_restore --use-list``.

A line of it is ``ID; CATALOG OID KIND SCHEMA NAME OWNER``, of names as they are, without quotes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, plain_sql

# What only a superuser can make. Left out of a restore by another role and told; extensions that are not trusted stop it.
SUPERUSER_ENTRIES = {
    "event trigger": "EVENT TRIGGER",
    "foreign data wrapper": "FOREIGN DATA WRAPPER",
    "access method": "ACCESS METHOD",
    "user mapping": "USER MAPPING",
}

_IDS = re.compile(r"^\d+; \d+ \d+ ")
# What hangs on an object: its tag begins with the object's kind.
_OF_ANOTHER = ("COMMENT - ", "SECURITY LABEL - ", "ACL - ")


def needs_superuser(publication: Mapping[str, Any]) -> bool:
    """:param publication: its definition in an inventory."""
    return bool(publication.get("all_tables") or publication.get("schemas"))


def without(lines: Iterable[str], left_out: Collection[str], inventory: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """:param lines: of ``pg_restore --list``.
    :param left_out: keys of an inventory: kinds that only a superuser can make are left out whole, publications and schemas by name.
    :return: the lines of what is restored."""
    kinds = {SUPERUSER_ENTRIES[kind] for kind in map(catalog.kind_of, left_out) if kind in SUPERUSER_ENTRIES}
    begins = tuple(f"{of}{kind} " for kind in sorted(kinds) for of in ("", *_OF_ANOTHER))
    publications = [key for key in left_out if catalog.kind_of(key) == "publication"]
    whole = {line for key in publications for line in _of_publication(catalog.name_of(key), inventory[key])}
    whole |= {
        _line(f"SCHEMA - {plain_sql.unquoted(catalog.name_of(key))}", inventory[key])
        for key in left_out
        if catalog.kind_of(key) == "schema"
    }
    return [line for line in lines if not _is_among(_IDS.sub("", line.rstrip("\n")), begins, whole)]


def _is_among(entry: str, begins: tuple[str, ...], whole: Collection[str]) -> bool:
    return entry.startswith(begins) or entry in whole


def _of_publication(quoted: str, publication: Mapping[str, Any]) -> Iterator[str]:
    name = plain_sql.unquoted(quoted)
    entries = [f"PUBLICATION - {name}", *(f"{of}PUBLICATION {quoted}" for of in _OF_ANOTHER)]
    for table in publication.get("tables") or ():
        schema, relation = plain_sql.parts(table["table"])
        entries.append(f"PUBLICATION TABLE {schema} {name} {relation}")
    entries += [f"PUBLICATION TABLES IN SCHEMA {schema} {name} {schema}" for schema in publication.get("schemas") or ()]
    for entry in entries:
        yield _line(entry, publication)


def _line(entry: str, definition: Mapping[str, Any]) -> str:
    # The list has one line an entry, whatever the names are.
    return re.sub(r"[\r\n]", " ", f"{entry} {definition['owner']}")
