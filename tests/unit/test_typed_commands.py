# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is printed to be typed next, read back as the shell and Ansible read it."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible import constants, context
from ansible.module_utils.common.collections import ImmutableDict
from ansible.parsing.dataloader import DataLoader
from ansible.utils.vars import load_extra_vars
from ansible_collections.whitecross.pgops.plugins.module_utils.extra_variables import extra_variables_argument
from ansible_collections.whitecross.pgops.plugins.plugin_utils import reporting, typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import without_secrets

ODD = "Odd \"DB' x"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`typed(*words)` makes them the command line of this process."""

    def be(*words: str, inventory: list[str] | None = None, **more: Any) -> None:
        options = tuple(words[number + 1] for number, word in enumerate(words) if word == "-e")
        sources = tuple(inventory if inventory is not None else constants.DEFAULT_HOST_LIST)
        monkeypatch.setattr(
            context, "CLIARGS", ImmutableDict(extra_vars=options, inventory=sources, args=("migrate.yml",), **more)
        )
        monkeypatch.setattr(load_extra_vars, "extra_vars", None, raising=False)

    return be


def read_back(typed: Any, command: str) -> dict[str, Any]:
    """The extra variables of a printed command."""
    typed(*shlex.split(command))
    return without_secrets(load_extra_vars(DataLoader()))


@pytest.mark.parametrize(
    "value",
    [
        "plain", "/var/lib/x", "a b", ODD, "it's", '"quoted"', "a=b", "back\\slash\\n", "~/state", "", "$HOME `id`", "#x",
        "{{ x }}", "ümlaut", "line\nbreak", "5433", "true", 5433, True, None, 1.5, ["a", "b c"], [{"check": "x", "reason": ODD}],
        "@file", "-x",
    ],
)  # fmt: skip
def test_a_value_comes_back_as_it_was(typed: Any, value: Any) -> None:
    variables = {"pgops_database": value, "pgops_user": "ada"}
    back = read_back(typed, f"ansible-playbook x.yml {extra_variables_argument(variables)}")
    assert back == variables
    assert type(back["pgops_database"]) is type(value)


def test_the_connection_to_a_host_is_tried_in_the_inventory_of_the_run(typed: Any) -> None:
    typed(inventory=["other hosts.yml"])
    assert typed_commands.ping("db 1") == "ansible 'db 1' -i 'other hosts.yml' -m ansible.builtin.ping"
    typed()
    assert typed_commands.ping("db1") == "ansible db1 -m ansible.builtin.ping"


def test_plain_words_stay_readable_and_all_others_are_one_argument() -> None:
    assert extra_variables_argument({"a": "x", "b": "1.2/3"}) == "-e a=x -e b=1.2/3"
    assert extra_variables_argument({"a": "x y", "b": "z", "c": 1}) == """-e b=z -e '{"a": "x y", "c": 1}'"""
    assert extra_variables_argument({}) == ""


def test_what_decides_where_is_repeated_and_no_secret(typed: Any, tmp_path: Path) -> None:
    vaulted = tmp_path / "vaulted.yml"
    vaulted.write_text("$ANSIBLE_VAULT;1.1;AES256\n00\n", encoding="utf-8")
    given = {
        "pgops_database": ODD,
        "pgops_port": 5433,
        "pgops_json": "x.json",
        "ansible_user": "root",
        "pgops_passfile": "/etc/pgpass",
        "pgops_password": "hunter2",
        "pgops_sql": "postgresql://u:hunter2@h/x",
        "preflight_waive": [{"check": "x", "api_token": "hunter2"}],
        "somebody_elses": "x",
        "backup_directory": "/backups",
    }
    typed(*shlex.split(f"x {extra_variables_argument(given)}"), inventory=["/else/where", f"{Path.cwd()}/here"])
    found = typed_commands.given(DataLoader())
    assert found == {
        "variables": {
            "pgops_database": ODD, "pgops_port": 5433, "pgops_passfile": "/etc/pgpass", "backup_directory": "/backups",
        },
        "files": [],
        "inventory": ["/else/where", "here"],
        "options": [],
    }  # fmt: skip
    run = {"command": "ansible-playbook playbooks/migrate.yml", "given": {**found, "files": [str(vaulted)]}}
    command = typed_commands.other(run, "status", "local")
    assert command.startswith(
        f"ansible-playbook playbooks/status.yml -i /else/where -i here -l local -e @{vaulted} -e pgops_passfile="
    )
    typed("x", inventory=list(constants.DEFAULT_HOST_LIST))
    assert typed_commands.given(DataLoader()) == {"variables": {}, "files": [], "inventory": [], "options": []}


RUN = {
    "playbook": "rollback",
    "environment": "local",
    "command": "ansible-playbook rollback.yml",
    "given": {
        "variables": {
            "pgops_database": ODD,
            "migrate_target": "20260101000000",
            "rollback_strategy": "restore",
            "rollback_confirm": ODD,
        }
    },
}


def test_each_command_has_the_place_and_only_its_own_choice(typed: Any) -> None:
    assert read_back(typed, typed_commands.again(RUN, "local")) == RUN["given"]["variables"]
    chosen = typed_commands.again(RUN, "local", {"rollback_through": "20260101000001"})
    assert read_back(typed, chosen) == {
        "pgops_database": ODD, "migrate_target": "20260101000000", "rollback_through": "20260101000001",
    }  # fmt: skip
    longer = typed_commands.again(RUN, "local", {"rollback_statement_timeout": 12})
    assert read_back(typed, longer) == {**RUN["given"]["variables"], "rollback_statement_timeout": 12}
    swap = typed_commands.other(RUN, "rollback", "local", {"rollback_strategy": "swap", "rollback_swap_to": f"{ODD}_x"})
    assert read_back(typed, swap) == {
        "pgops_database": ODD, "rollback_strategy": "swap", "rollback_swap_to": f"{ODD}_x",
    }  # fmt: skip
    assert read_back(typed, typed_commands.other(RUN, "status", "local")) == {"pgops_database": ODD}


def test_a_dry_run_is_told_to_be_typed_again_as_one(typed: Any) -> None:
    typed(check=True, diff=True, tags=["plan", "backup"], skip_tags=["prove"])
    run = {"command": "ansible-playbook migrate.yml", typed_commands.GIVEN: typed_commands.given(DataLoader())}
    again = "ansible-playbook migrate.yml --check --diff --tags backup,plan --skip-tags prove -l local"
    assert typed_commands.again(run, "local") == again
    assert typed_commands.before_limit(run, "X") == "X --check --diff --tags backup,plan --skip-tags prove"
    assert typed_commands.again(typed_commands.whole(run), "local") == "ansible-playbook migrate.yml -l local"
    assert typed_commands.other(run, "status", "local") == "ansible-playbook status.yml -l local"
    typed(check=False, tags=["all"], skip_tags=[])
    assert typed_commands.given(DataLoader())["options"] == []


def test_a_playbook_is_named_as_this_one_was() -> None:
    for typed_as, told in (
        ("ansible-playbook whitecross.pgops.migrate", "ansible-playbook whitecross.pgops.status -l local"),
        ("ansible-playbook 'my folder/migrate.yml'", "ansible-playbook 'my folder/status.yml' -l local"),
    ):
        assert typed_commands.other({"command": typed_as}, "status", "local") == told


def test_a_refused_restore_offers_a_restore_and_its_hint() -> None:
    hint = "Name one with -e rollback_backup=PATH."
    failed = {"msg": "There is no proved backup", "hint": hint}
    report = reporting.build([], run=RUN, error=failed)
    assert "rollback_strategy=restore" in report["next"][-1]
    assert reporting.result_document(report)["error"]["hint"] == hint
    assert f"    hint: {hint}" in reporting.screen(report, None)
    assert f"HINT {hint}" in reporting.as_log(report)
    assert hint in reporting.as_page(report)


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """Each text of a file of Python, with what is put into it as X; no docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(
                    str(getattr(part, "value", "")) if isinstance(part, ast.Constant) else "X" for part in node.values
                ),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts | alone:
            yield node.lineno, node.value


# An ellipsis is nothing to type; a value's blanks need quotes of Ansible's inside those of the shell.
NO_COMMAND = re.compile(r"-e [\w\"']+=\S*(…|\.\.\.)|\.yml (…|\.\.\.)|-e \w+=(['\"])[^'\"]* [^'\"]*\3")


@pytest.mark.parametrize("text", ["x.yml … -e a=b", "-e a='…'", "-e a=...", "-e a='why now'", "-e a='host=… user=X'"])
def test_what_is_no_command_is_seen(text: str) -> None:
    assert NO_COMMAND.search(text)
    assert not NO_COMMAND.search("x.yml -e a=b -e \"a='why now'\" -e c='{\"d\": 1}'")


def test_no_sentence_has_a_command_that_cannot_be_typed() -> None:
    root = Path(typed_commands.__file__).parents[1]
    found = [
        f"{path.relative_to(root)}:{line}: {text}"
        for path in sorted(root.rglob("*.py"))
        for line, text in _texts(path)
        if NO_COMMAND.search(text)
    ]
    assert found == []
