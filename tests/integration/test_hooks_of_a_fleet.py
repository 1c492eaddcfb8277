# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hooks of a run over several hosts: each batch has a host that runs those for all, and nothing stays away."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, swap
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from support import engine
from support.application import Application
from support.hooked_site import away, recorded, taken_away, with_hooks
from support.server import OWNER
from support.site import Playbook
from support.tree import TestTree

ALL_FOR = [
    "GET /metrics?{0}", "POST /drain?{0}", "POST /maintenance/on?{0}", "POST /stop?{0}",
    "POST /start?{0}", "POST /maintenance/off?{0}", "GET /health?{0}", "POST /smoke?{0}", "POST /undrain?{0}",
    "GET /metrics?{0}",
]  # fmt: skip


@pytest.fixture
def application() -> Iterator[Application]:
    with Application() as made:
        yield made


@pytest.fixture
def site(playbook: Playbook, application: Application) -> Playbook:
    """Three hosts with a database each; every hook says for which of them it is called."""
    with_hooks(playbook, application)
    for name in [name for name in playbook.variables if name.startswith("hooks_")]:
        (hook,) = playbook.variables[name]
        playbook.variables[name] = [{**hook, "url": hook["url"] + "?{{ inventory_hostname }}"}]
    for number in (2, 3):
        name = f"{playbook.database}_{number}"
        playbook.server.create_database(name)
        playbook.hosts["local"][f"local-{number}"] = {"pgops_database": name}
    return playbook


def database_of(site: Playbook, host: str) -> str:
    return site.hosts["local"][host].get("pgops_database", site.database)


def already(site: Playbook, *hosts: str) -> None:
    """The version is applied there, and nothing is pending any more."""
    for host in hosts:
        target = engine.target_of(site.server, database_of(site, host))
        migrate.apply(target, TestTree(site.folder / "sql").render(), Selection(), engine.way())


def migrated(site: Playbook) -> list[str]:
    return [
        host
        for host in site.hosts["local"]
        if site.server.execute("SELECT to_regclass('public.rooms')", database=database_of(site, host)) != [(None,)]
    ]


def for_each(site: Playbook, *kinds: str) -> None:
    """These kinds have a second hook, for each host."""
    for kind in kinds:
        (hook,) = site.variables[f"hooks_{kind}"]
        own = {**hook, "url": hook["url"].replace("?", "/each?"), "each_host": True}
        site.variables[f"hooks_{kind}"] = [hook, own]


@pytest.mark.slow
def test_where_the_first_host_has_nothing_pending_the_next_one_runs_the_hooks_of_all(
    site: Playbook, application: Application
) -> None:
    already(site, "local-1", "local-2")
    result = site("migrate.yml")
    assert result.rc == 0, result.output
    assert application.asked == [asked.format("local-3") for asked in ALL_FOR]
    assert {kind for kind, done in recorded(result).items() if done != "yes"} == {"alert"}
    assert (result.json["state"], away(site)) == ("complete", [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nothing_pending", "first", "others"),
    [("local-1", "local-2", ["local-3"]), ("local-2", "local-1", ["local-3"]), ("local-3", "local-1", ["local-2"])],
)
def test_the_first_host_of_those_that_are_changed_runs_what_is_not_for_each(
    site: Playbook, application: Application, nothing_pending: str, first: str, others: list[str]
) -> None:
    already(site, nothing_pending)
    for_each(site, "divert_traffic", "restore_traffic")
    result = site("migrate.yml")
    assert result.rc == 0, result.output
    for_all = [asked for asked in application.asked if "/each" not in asked]
    assert for_all == [asked.format(first) for asked in ALL_FOR]
    each = sorted(asked for asked in application.asked if "/each" in asked)
    assert each == sorted(f"POST /{path}/each?{host}" for path in ("drain", "undrain") for host in [first, *others])
    assert away(site) == []


@pytest.mark.slow
def test_the_host_that_failed_first_is_migrated_with_every_hook_when_it_is_mended(
    site: Playbook, application: Application
) -> None:
    server, spoilt = site.server, database_of(site, "local-2")
    server.execute(f"CREATE TABLE public.rooms (note text); ALTER TABLE public.rooms OWNER TO {OWNER}", database=spoilt)
    assert site("migrate.yml", limit="local-1,local-2").rc == 2
    assert away(site) == []
    server.execute("DROP TABLE public.rooms", database=spoilt)
    application.asked.clear()
    result = site("migrate.yml", limit="local-1,local-2")
    assert result.rc == 0, result.output
    assert application.asked == [asked.format("local-2") for asked in ALL_FOR]
    assert recorded(result)["divert_traffic"] == "yes"


def test_in_check_mode_the_hooks_are_shown_for_the_host_that_would_run_them(
    site: Playbook, application: Application
) -> None:
    already(site, "local-1")
    result = site("migrate.yml", "--check", limit="local-1,local-2")
    assert result.rc == 0, result.output
    for word in ("divert traffic", "maintenance mode off", "restore traffic", "smoke test"):
        assert f"local-2: {word} on localhost: would be run" in result.stdout
        assert f"local-1: {word}" not in result.stdout
    assert application.asked == []


@pytest.mark.slow
def test_each_batch_sends_its_own_users_away_and_one_with_nothing_pending_nobody(
    site: Playbook, application: Application
) -> None:
    already(site, "local-1", "local-2")
    for host in ("local-4", "local-5"):
        name = f"{site.database}_{host[-1]}"
        site.server.create_database(name)
        site.hosts["local"][host] = {"pgops_database": name}
    # local-2 alone, then local-1 and local-3, then the others.
    result = site("migrate.yml", migrate_canary="local-2", migrate_batches="2", migrate_health={"pause": 0})
    assert result.rc == 0, result.output
    assert application.asked == [asked.format(host) for host in ("local-3", "local-4") for asked in ALL_FOR]
    assert migrated(site) == list(site.hosts["local"])


@pytest.mark.slow
def test_a_hook_that_only_a_later_host_declares_is_run_by_it(site: Playbook, application: Application) -> None:
    names = [name for name in site.variables if name.startswith("hooks_")]
    declared = {name: site.variables.pop(name) for name in names}
    site.hosts["local"]["local-2"].update(declared)
    site.hosts["local"]["local-3"].update(declared)
    result = site("migrate.yml")
    assert result.rc == 0, result.output
    assert application.asked == [asked.format("local-2") for asked in ALL_FOR]


@pytest.mark.slow
def test_where_a_swap_was_cut_off_no_host_is_touched_and_no_user_sent_away_until_it_is_finished(
    site: Playbook, application: Application
) -> None:
    already(site, "local-1", "local-2")
    server, name = site.server, database_of(site, "local-1")
    staged = f"{name}_restore_x"
    server.execute(f"CREATE DATABASE {staged} TEMPLATE {name} OWNER {OWNER}")
    mark = swap.Mark("restored", name, "killed", "2026-01-01T00:00:00Z", state="verified")
    server.execute(f"COMMENT ON DATABASE {staged} IS '{mark.text()}'")

    class Killed(BaseException):
        pass

    def die(step: str) -> None:
        if step == "fence: commit":
            raise Killed

    dying = swap.Swap(engine.target_of(server, name), staged, run_id="killed", after=die)
    dying._lift = lambda mark: (_ for _ in ()).throw(Killed())  # type: ignore[method-assign]
    with pytest.raises(Killed):
        dying.run()
    result = site("rollback.yml", limit="local-1,local-2", rollback_confirm=database_of(site, "local-2"))
    assert result.rc == 2, result.output
    assert application.asked == []
    there = server.execute("SELECT to_regclass('public.rooms')", database=database_of(site, "local-2"))
    assert there != [(None,)]
    finish = shlex.split(result.json["error"]["next"][0])
    assert finish[:6] == ["ansible-playbook", "rollback.yml", "-l", "local-1", "-e", "rollback_strategy=swap"]
    result = site("rollback.yml", *finish[4:], limit="local-1")
    assert result.rc == 0, result.output
    application.asked.clear()
    result = site("rollback.yml", limit="local-2", rollback_confirm=database_of(site, "local-2"))
    assert result.rc == 0, result.output
    assert application.asked == [asked.format("local-2") for asked in ALL_FOR]
    assert migrated(site) == ["local-1"]
    assert away(site) == []


def lost_after_stop(site: Playbook, host: str) -> None:
    """This host cannot be reached any more as soon as the application is stopped."""
    lost = site.folder / "lost"
    site.hosts["local"][host].update(
        ansible_connection=f"{{{{ 'ssh' if '{lost}' is exists else 'local' }}}}",
        ansible_host="127.0.0.1",
        ansible_port=9,
    )
    site.variables["hooks_stop"] = [{"argv": ["touch", str(lost)]}]


@pytest.mark.slow
def test_where_a_host_is_lost_a_hook_of_another_one_that_fails_keeps_nothing_else_away(
    site: Playbook, application: Application
) -> None:
    for_each(site, "divert_traffic", "restore_traffic")
    lost_after_stop(site, "local-1")
    application.answers = {"/undrain/each": 500}
    result = site("migrate.yml", limit="local-1,local-2")
    assert result.rc == 4, result.output
    for path in ("start", "maintenance/off", "undrain", "undrain/each"):
        assert f"POST /{path}?local-1" in application.asked, path
    # What answers 500 for both is all that is away; both are named, and the command brings them back.
    assert [(taken.host, taken.kind) for taken in taken_away(site)] == [
        ("local-1", "divert_traffic"), ("local-2", "divert_traffic"),
    ]  # fmt: skip
    error = result.json["error"]
    command = "ansible-playbook hooks.yml -l local-1,local-2"
    told = f"NOT brought back: divert traffic for local-1, divert traffic for local-2. Mend it and type: {command}"
    assert told in error["message"]
    assert error["next"][0] == command
    assert f"NOT brought back: divert traffic for local-1, divert traffic for local-2; type: {command}" in result.stdout
    application.answers = {}
    assert site("hooks.yml", limit="local-1,local-2").rc == 0
    assert away(site) == []
