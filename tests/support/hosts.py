# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking the database of a Molecule host, as its superuser, past everything that a playbook says of itself."""

from __future__ import annotations

import json
import shlex
from typing import Any

MAIN = "main"


def major(host: Any, cluster: str = MAIN) -> int:
    """The PostgreSQL major of a cluster of the host."""
    clusters = [line.split() for line in host.run("pg_lsclusters --no-header").stdout.splitlines()]
    (found,) = [int(columns[0]) for columns in clusters if columns[1] == cluster]
    return found


def query(host: Any, statement: str, database: str = "white_cross", cluster: str = MAIN) -> list[list[Any]]:
    """The rows of a SELECT, with JSON's types (number, text, bool, None)."""
    wrapped = f"SELECT coalesce(json_agg(to_json(ARRAY(SELECT value FROM json_each(to_json(q)))))::text, '[]') FROM ({statement}) AS q"
    return json.loads(execute(host, wrapped, database, cluster))


def execute(host: Any, statement: str, database: str = "white_cross", cluster: str = MAIN) -> str:
    """What psql prints for a statement of any kind."""
    done = host.run(
        f"runuser -u postgres -- psql --cluster {major(host, cluster)}/{cluster} --dbname {shlex.quote(database)} "
        f"--no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 --command {shlex.quote(statement)}"
    )
    assert done.rc == 0, done.stderr
    return str(done.stdout)


def value(host: Any, statement: str, database: str = "white_cross") -> Any:
    """The one value of a SELECT of one row and one column."""
    ((found,),) = query(host, statement, database)
    return found


def databases(host: Any, cluster: str = MAIN) -> list[str]:
    """All databases of a cluster but its templates, by name."""
    statement = "SELECT datname::text FROM pg_database WHERE NOT datistemplate ORDER BY 1"
    return [row[0] for row in query(host, statement, "postgres", cluster)]
