# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the applied migrations made in an empty database, remembered: running thirty versions again takes seconds at each run.

It is only good to say that nothing differs. Where the catalog does, the migrations are run again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import catalog
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.private_store import PrivateStore

# The code that makes and reads the empty database. Read at import: a job that goes on by itself outlives the archive that a module
# was sent in.
_CODE = b"".join(
    # Not __package__: Python 3.9 gives a module in an archive none.
    resources.files(__name__.rpartition(".")[0]).joinpath(f"{name}.py").read_bytes()
    for name in (
        "catalog",
        "catalog_queries",
        "connection",
        "declared",
        "errors",
        "existing",
        "keyset",
        "replayed_backfill",
        "scratch",
        "server_message",
        "statements",
    )
)

# All of the server that a definition can depend on: its build, what can be installed, who is there, how values are read.
# What the session itself sets for its run is left out.
_SERVER = """
SELECT version() AS build, current_user AS role,
       (SELECT json_agg(concat_ws(' ', name, default_version) ORDER BY name)::text FROM pg_catalog.pg_available_extensions)
         AS extensions,
       (SELECT json_agg(concat_ws(' ', rolname, rolsuper, rolcreaterole, rolbypassrls) ORDER BY rolname)::text
          FROM pg_catalog.pg_roles) AS roles,
       (SELECT json_agg(spcname ORDER BY spcname)::text FROM pg_catalog.pg_tablespace) AS tablespaces,
       (SELECT json_agg(concat_ws(' ', name, setting) ORDER BY name)::text FROM pg_catalog.pg_settings
         WHERE category ~ '^(Client Connection Defaults|Version and Platform Compatibility)' OR context = 'internal')
         AS settings
"""


@dataclass(frozen=True)
class Made:
    """What migrations make in an empty database.

    :ivar before: its inventory; ``after`` that after the last of them.
    :ivar superseded: by version what its own verification says since a later one has run: object, attribute, expected, found.
    :ivar role: the role that ran them.
    """

    before: catalog.Inventory
    after: catalog.Inventory
    superseded: dict[str, list[tuple[str, str, str, str]]]
    role: str


def store() -> PrivateStore | None:
    """:return: where it is kept: the cache folder of the user that the module runs as, None for a user without a home."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return PrivateStore(Path(home, "whitecross.pgops"), "schema") if os.path.isabs(home) else None


def key(conn: Connection, migrations: Sequence[Mapping[str, Any]], encoding: str) -> str:
    """A hash over all that decides what the migrations make: themselves, the code that runs them, and the server.

    :param conn: a session on the scratch server, as the role that makes the empty database.
    :param migrations: as the ledger keeps them, in order.
    """
    server = fetch_one(conn, _SERVER) or {}
    digest = hashlib.sha256(json.dumps([encoding, server], sort_keys=True, default=str).encode())
    digest.update(_CODE)
    for migration in migrations:
        digest.update(json.dumps(migration, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def recall(key: str) -> Made | None:
    """:return: what was remembered under the key, None where nothing is."""
    kept = store()
    made = kept.read(key) if kept else None
    if (
        isinstance(made, dict)
        and all(isinstance(made.get(name), dict) for name in ("before", "after", "superseded"))
        and isinstance(made.get("role"), str)
    ):
        said = {version: [tuple(words) for words in each] for version, each in made["superseded"].items()}
        return Made(made["before"], made["after"], said, made["role"])
    return None


def remember(key: str, made: Made) -> None:
    """Keep it for the next run; where that cannot be done, the next run takes longer."""
    kept = store()
    if kept:
        with suppress(OSError):
            kept.write(key, {field.name: getattr(made, field.name) for field in fields(Made)})
