# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Databases that many tests begin with: each is made once a server, when first asked for, and copied for a test."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from psycopg2 import sql

from support.server import Server

LAST = "the last version"


def keep(server: Server, name: str, make: Callable[[Any], object], *, begin: str | None = None) -> str:
    """The kept database of that name; `make` fills it through its Target, over a copy of the kept one `begin`.

    It can be copied only while nobody is connected to it, so it takes no connections.
    """
    from support.engine import target_of

    kept = f"kept_{name}"
    if not server.execute(sql.SQL("SELECT 1 FROM pg_database WHERE datname = {}").format(sql.Literal(kept))):
        making = f"making_{secrets.token_hex(4)}"
        server.create_database(making, template=begin)
        make(target_of(server, making))
        for statement in ("ALTER DATABASE {0} ALLOW_CONNECTIONS false", "ALTER DATABASE {0} RENAME TO {1}"):
            server.execute(sql.SQL(statement).format(sql.Identifier(making), sql.Identifier(kept)))
    return kept


def chain_through(server: Server, version: str = LAST) -> str:
    """The kept database with the shipped chain through that version, made from the nearest one before that is there."""
    from ansible_collections.whitecross.pgops.plugins.module_utils import migrate
    from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection

    from support.engine import way
    from support.tree import shipped_chain

    chain = shipped_chain()
    version = chain[-1]["version"] if version == LAST else version
    there = server.execute("SELECT max(datname) FROM pg_database WHERE datname ~ '^kept_chain_\\d+$' "
                           f"AND datname <= 'kept_chain_{version}'")[0][0]  # fmt: skip
    return keep(
        server,
        f"chain_{version}",
        lambda target: migrate.apply(target, chain, Selection(target=version), way()),
        begin=there,
    )


def chain_before(server: Server, version: str) -> str:
    """The kept database with the shipped chain through the version before that one."""
    from support.tree import shipped_chain

    return chain_through(server, max(item["version"] for item in shipped_chain() if item["version"] < version))
