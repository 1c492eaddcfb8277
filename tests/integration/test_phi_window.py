# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""While a migration touches PHI statements are logged, and whatever ends the run, the settings are put back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import inspection, phi_logging, phi_window, verify
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, execute
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import inspect_queries, phi_state
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal
from support.engine import target_of
from support.server import APP, MIGRATOR, OWNER
from support.site import Playbook
from support.tree import TestTree

DATABASE = "clinic"
V1 = "20260101000001"
RUNS = [f"20260101T00000{number}Z-00000{number}" for number in range(3)]


@pytest.fixture
def cluster(own_server: Any) -> Any:
    """A server of this test's own: the settings are the whole cluster's."""
    own_server.create_database(DATABASE, OWNER)
    return own_server


def setting(server: Any, name: str) -> str:
    return str(server.execute(f"SHOW {name}")[0][0])


def admin(server: Any, user: str | None = None) -> Any:
    target = target_of(server, DATABASE)
    return closing(
        connect((replace(target, restore_user=user) if user else target).maintenance(), application_name="pgops test")
    )


def test_every_statement_is_logged_meanwhile_and_what_stood_there_comes_back(cluster: Any) -> None:
    cluster.execute("ALTER SYSTEM SET log_statement = 'ddl'")
    cluster.execute(f"ALTER ROLE {APP} IN DATABASE {DATABASE} SET log_statement = 'none'")
    with admin(cluster) as conn, cluster.session(DATABASE, APP) as other:
        with other.cursor() as cursor:
            cursor.execute("SELECT 'Zuleika Dobson'")
        found = phi_window.look(conn)
        assert (found["logging"], found["before"]["log_statement"], found["before"]["log_connections"]) == (
            "log_statement",
            "ddl",
            None,
        )
        opened = phi_window.open_window(conn, found["logging"], [DATABASE])
        assert setting(cluster, "log_statement") == "all"
        assert APP in [session["user"] for session in opened["sessions"]]
        assert "Dobson" not in json.dumps(opened)
        assert opened["exceptions"] == [f"{APP} in {DATABASE}"]
        assert "sessions come from elsewhere without TLS" in opened["encryption_in_transit"]
        for _twice in range(2):
            phi_window.close_window(conn, found["before"], [DATABASE])
            assert phi_window.look(conn)["before"] == found["before"]
    assert setting(cluster, "log_statement") == "ddl"


def test_a_server_that_has_loaded_pgaudit_logs_by_it(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the choice: the extension is not in the tests' servers."""
    monkeypatch.setattr(phi_window, "_LOADED", "SELECT 'pg_stat_statements, pgaudit' AS libraries")
    with admin(cluster) as conn:
        found = phi_window.look(conn)
    assert (found["logging"], "pgaudit.log" in found["before"]) == ("pgaudit", True)


def test_a_role_that_may_not_is_told(cluster: Any) -> None:
    with (
        admin(cluster, MIGRATOR) as conn,
        pytest.raises(PgopsError, match=f"Role {MIGRATOR} may not have the statements") as caught,
    ):
        phi_window.look(conn)
    assert "pgops_restore_user" in str(caught.value.hint)


# -- who holds it ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """Journals of three runs: the first two live (they are this process), the third was killed."""
    for run, pid in zip(RUNS, (os.getpid(), os.getpid(), 2**22 + 1), strict=True):
        Journal(tmp_path, "local", run).append({"event": "run_started", "pid": pid})
    yield tmp_path


def holder(number: int) -> dict[str, Any]:
    return {"run_id": RUNS[number], "environment": "local", "host": "local-1"}


FOUND = {"logging": "log_statement", "before": {"log_statement": None}}


def test_the_last_run_that_holds_it_puts_back_what_the_first_one_found(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phi_state, "is_alive", lambda pid: pid == os.getpid())
    cluster = phi_state.Cluster.of(state, "7")
    with cluster.locked():
        cluster.hold(FOUND, holder(0))
        known = cluster.hold({"logging": "log_statement", "before": {"log_statement": "all"}}, holder(1))
        assert known["before"] == {"log_statement": None}
        assert cluster.let_go(holder(0)) is None
        assert (cluster.let_go(holder(1)) or {})["before"] == {"log_statement": None}
        assert cluster.path.exists()  # until it was put back
        cluster.forget()
        assert cluster.let_go(holder(1)) is None
    assert (cluster.path.parent.stat().st_mode & 0o777) == 0o700


def test_a_run_that_was_killed_holds_nothing(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phi_state, "is_alive", lambda pid: pid == os.getpid())
    cluster = phi_state.Cluster.of(state, "../../7")
    assert cluster.path.parent == state / "phi"
    with cluster.locked():
        cluster.hold(FOUND, holder(2))
        assert (cluster.let_go({"run_id": "another", "host": "h"}) or {})["before"] == {"log_statement": None}


# -- in migrate.yml ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(cluster: Any, tmp_path: Path) -> Playbook:
    made = Playbook(tmp_path / "ops host", cluster, DATABASE)
    tree = TestTree(tmp_path / "own sql")
    up = "SELECT set_config('test.seen', current_setting('log_statement'), false);\nCREATE TABLE seen AS SELECT current_setting('log_statement') AS it;\n"
    tree.add_sql(V1, "touch_phi", up, "DROP TABLE seen;\n", phi=True)
    made.variables.update(
        pgops_sql=str(tree.folder), pgops_phases=["plan", "apply"], audit_phi_logging=True, audit_phi_required=True
    )
    return made


ASSESSED = {
    "audit_privacy_assessment": "PIA-7", "audit_security_review": "G. Murray, 2026-01-02", "audit_privacy_officer": "Mary Seacole",
    "audit_encryption_at_rest": "LUKS, seen by A. Byron",
}  # fmt: skip


def test_a_migration_of_phi_asks_for_its_assessment_and_is_logged(site: Playbook, cluster: Any) -> None:
    refused = site("migrate.yml", audit_privacy_officer="Mary Seacole")
    assert refused.rc == 2, refused.output
    told = refused.json["error"]["message"]
    assert (
        f"{V1} touch PHI, and nobody has named audit_privacy_assessment: where the privacy impact assessment is" in told
    )
    assert "audit_privacy_officer:" not in told
    assert cluster.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgops'", database=DATABASE) == [(0,)]
    for looks in (["--check", "--diff"], ["--tags", "plan"]):
        shown = site("migrate.yml", *looks, audit_privacy_officer="Mary Seacole")
        assert shown.rc == 0, shown.output
        assert f"PHI: {V1}: nobody has named audit_privacy_assessment" in shown.stdout, "what will be missing is told"
        assert "audit_privacy_officer" not in shown.stdout.partition("nobody has named")[2].splitlines()[0]
        assert "--check" not in looks or "CREATE TABLE seen AS" in shown.stdout
    past = site("migrate.yml", "--tags", "apply")
    assert (past.rc, "this run has no plan (left out by" in past.json["error"]["message"]) == (2, True)
    done = site("migrate.yml", **ASSESSED)
    assert done.rc == 0, done.output
    assert cluster.execute("SELECT it FROM seen", database=DATABASE) == [("all",)]
    assert setting(cluster, "log_statement") == "none"
    ((detail,),) = cluster.execute("SELECT detail FROM pgops.audit WHERE event = 'run_ended'", database=DATABASE)
    window = detail["phi_window"]
    assert (window["logging"], window["encryption_at_rest"]) == ("log_statement", "attested: LUKS, seen by A. Byron")
    assert window["opened"] <= window["closed"]
    assert not list((site.state / "phi").glob("*.json"))


@pytest.mark.parametrize("smoke", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_cannot_be_put_back_keeps_nobody_out_and_is_told(site: Playbook, cluster: Any, smoke: int) -> None:
    """A clearing up that fails fails the run at its end, behind all else that is to be done whatever happened."""
    spoil = f"for file in '{site.state}'/phi/*.json; do echo nonsense > \"$file\"; done; exit {smoke}"
    site.variables |= {
        "hooks_maintenance_on": [{"argv": ["touch", str(site.folder / "shut")]}],
        "hooks_maintenance_off": [{"argv": ["rm", str(site.folder / "shut")]}],
        "hooks_smoke_test": [{"argv": ["sh", "-c", spoil]}],
    }
    ended = site("migrate.yml", **ASSESSED)
    assert ended.rc == 2, ended.output
    assert "What stood there before statements were logged cannot be read or kept in" in ended.output
    assert not (site.folder / "shut").exists()
    titles = (
        "Put the logging of statements back",
        "Bring back what was taken away",
        "Leave a report whatever happened",
    )
    places = [ended.stdout.find(f": {title}]") for title in titles]
    assert -1 not in places and places == sorted(places), "each of them by this very run, in this order"
    assert ended.json["error"]["phase"] == ("phi_close" if smoke == 0 else "hooks"), ended.json["error"]
    assert Path(ended.json["report"]).exists()
    ((detail,),) = cluster.execute("SELECT detail FROM pgops.audit WHERE event = 'run_ended'", database=DATABASE)
    assert detail is not None, "the audit knows its end"


@pytest.mark.slow
def test_what_a_killed_run_has_left_is_put_back_by_the_next_one(site: Playbook, cluster: Any, tmp_path: Path) -> None:
    tree = TestTree(tmp_path / "slow sql")
    tree.add_sql(V1, "sleep", "SELECT pg_sleep(60);\n", "SELECT 1;\n", phi=True)
    site.variables["pgops_sql"] = str(tree.folder)
    site.variables.update(ASSESSED)
    process = site.start("migrate.yml")
    site.interrupt(process, 9, whole_group=True)
    assert setting(cluster, "log_statement") == "all"
    done = site("status.yml")
    assert done.rc == 0, done.output
    assert "logging is put back as it was before a run that touched PHI and was cut off" in done.stdout
    assert setting(cluster, "log_statement") == "none"


def test_the_settings_of_the_server_are_quoted(cluster: Any) -> None:
    with admin(cluster) as conn:
        phi_window.close_window(conn, {"log_line_prefix": "it's %m "}, [DATABASE])
        assert setting(cluster, "log_line_prefix") == "it's %m "
        execute(conn, "ALTER SYSTEM RESET log_line_prefix")


# -- searches through indexes of PHI ---------------------------------------------------------------------------------------------

MARKED = """
CREATE TABLE pupils (id int, name text); CREATE INDEX pupils_name ON pupils (name); CREATE INDEX pupils_id ON pupils (id);
COMMENT ON TABLE pupils IS 'PHI: who is at school'; COMMENT ON COLUMN pupils.name IS 'PHI: name';
COMMENT ON INDEX pupils_name IS 'PHI: search by name; log every query that goes through it'
"""


def searched(server: Any) -> phi_logging.Searches:
    with closing(connect(target_of(server, DATABASE), application_name="test")) as conn:
        return phi_logging.searches(conn)


def test_queries_through_an_index_of_phi_are_looked_for_in_the_settings(cluster: Any) -> None:
    assert searched(cluster).indexes == []
    cluster.execute(MARKED, database=DATABASE)
    found = searched(cluster)
    assert (found.indexes, found.logged_by, found.bare) == (["public.pupils_name"], None, ["public.pupils_name"])
    cluster.execute(f"ALTER DATABASE {DATABASE} SET log_statement = 'all'")
    cluster.execute(f"ALTER ROLE {APP} SET log_statement = 'none'")
    found = searched(cluster)
    assert (found.logged_by, found.bare) == ("log_statement", [])
    assert found.exceptions == [f"{APP} in every database"]
    objects = inspect_queries.choose("phi_objects", {})
    told = inspection.inspect(target_of(cluster, DATABASE), objects.text, {}, name="phi_objects")["rows"]
    assert [(row["kind"], row["name"]) for row in told] == [
        ("column", "public.pupils.name"),
        ("index", "public.pupils_name"),
        ("table", "public.pupils"),
    ]


def test_verify_tells_which_searches_leave_no_line_in_the_log(cluster: Any) -> None:
    cluster.execute(MARKED, database=DATABASE)

    def told() -> list[Any]:
        result = verify.verify({DATABASE: target_of(cluster, DATABASE)})[DATABASE]
        return [one for one in result["findings"] if (one["check"], one["attribute"]) == ("PHI", "logged")]

    (finding,) = told()
    assert (finding["level"], finding["expected"]) == (
        "notice", "every query through public.pupils_name in the server's log",
    )  # fmt: skip
    assert finding["found"] == "not logged: public.pupils_name, neither by pgaudit nor by log_statement = all"
    cluster.execute("ALTER SYSTEM SET log_statement = 'all'")
    cluster.execute("SELECT pg_reload_conf()")
    assert setting(cluster, "log_statement") == "all"
    assert told() == []
