# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that a run tells its user to type: they reach the same database, the same tree and the same inventory.

What was given with -e and -i decides where a run goes, so a command that leaves it out may go somewhere else.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible import constants, context
from ansible.utils.vars import load_extra_vars
from ansible_collections.whitecross.pgops.plugins.module_utils.extra_variables import extra_variables_argument
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import names_a_secret, without_secrets
from ansible_collections.whitecross.pgops.plugins.plugin_utils.unread_values import is_encrypted
from ansible_collections.whitecross.pgops.plugins.plugin_utils.variables import (
    known_variables,
    playbook_prefixes,
)

# Where in the run's fact it is kept.
GIVEN = "given"
_DEFAULT = "ansible-playbook migrate.yml"
# One run's file; the next one has its own.
_NEVER = frozenset({"pgops_json"})
# What says which versions, backup or rows, of one playbook; another playbook, or another choice, must not inherit it.
_SELECTION = re.compile(
    r"^(rollback_\w+|migrate_(target|steps|allow_out_of_order|canary|batches|reviewed_by|auto_rollback\w*|\w*waive)"
    r"|backup_(path|pin|unpin|pin_reason|list_\w+|expire_offline)|restore_(from|into|replace|confirm|table|schema)"
    r"|gate_(break_glass\w*|rehearse_first|planned_for)|(approve|request)_\w+|pgops_run_id"
    r"|drill_\w+|rehearse_backup|blue_green_(stage|confirm)|schedule_(?!host$)\w+|(inspect|test_migration|new_migration|lost_writes|lint|audit_verify)_\w+)$"
)
_WINDOWS = "migrate_windows"
_ROLLBACK = re.compile(r"(?:^|[/.])rollback(?:\.ya?ml)?$")
# Why it is rolled back stays why, and an emergency stays one, whichever way.
_STAYS = frozenset({"rollback_reason", "rollback_emergency"})
# How much longer a way down was given is no choice of what it takes.
_STAYS_DOWN = _STAYS | {"rollback_statement_timeout", "rollback_lock_budget"}
# A value that holds a secret under a harmless name: a URL with a password, a connection string, a whole-file vault's text, a private key.
_SECRET_VALUE = re.compile(
    r"://[^/\s]*:[^/\s]*@|passw\w*\s*=|\$ANSIBLE_VAULT|(?i:age-secret-key-|private key-----|secret_access_key\s*=)"
)


def is_selection(name: str) -> bool:
    """Whether a variable says what one run takes, and not where it goes."""
    return bool(_SELECTION.match(name))


def tellable(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables that a printed command repeats: the collection's own, and none that is or holds a secret."""
    known = known_variables()
    kept = {
        str(name): value
        for name, value in variables.items()
        if (name in known or str(name).startswith(playbook_prefixes()))
        and name not in _NEVER
        and not names_a_secret(name)
        and not _holds_secret(value)
        and not _is_loaded(value)
    }
    return {name: without_secrets({"value": value})["value"] for name, value in kept.items()}


def _is_loaded(value: Any) -> bool:
    """A file that systemd has made for this run is gone with it; the inventory knows where it came from."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(folder) and isinstance(value, str) and value.startswith(f"{folder}/")


def _holds_secret(value: Any) -> bool:
    if is_encrypted(value):
        return True
    if isinstance(value, Mapping):
        return any(names_a_secret(str(key)) or _holds_secret(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return any(_holds_secret(item) for item in value)
    return isinstance(value, str) and bool(_SECRET_VALUE.search(value))


def given(loader: Any) -> dict[str, Any]:
    """What the command line of this run has besides playbook and limit.

    :param loader: Ansible's data loader; load_extra_vars keeps what it has read, no file is read twice
    :return: ``variables`` (name -> value), ``files`` (vaulted files, named and never shown), ``inventory``, and ``options``, which make
        a run one that only looks or does a part
    """
    variables = tellable(load_extra_vars(loader))
    files = []
    for option in context.CLIARGS.get("extra_vars") or ():
        path = str(option).removeprefix("@")
        if path == str(option) or not _is_vaulted(path):
            continue
        files.append(path)
        for name in loader.load_from_file(path) or {}:
            variables.pop(str(name), None)
    return {"variables": variables, "files": files, "inventory": given_inventory(), "options": _options()}


def given_inventory() -> list[str]:
    """:return: what -i named, or nothing where it is the one of the configuration."""
    inventory = [str(source) for source in context.CLIARGS.get("inventory") or ()]
    if inventory == [str(source) for source in constants.DEFAULT_HOST_LIST or ()]:
        return []
    return [_short(source) for source in inventory]


def ping(host: str) -> str:
    """:return: the command that tries the connection to a host of this run's inventory."""
    where = _inventory({GIVEN: {"inventory": given_inventory()}})
    return " ".join(["ansible", shlex.quote(host), *where, "-m ansible.builtin.ping"])


def _options() -> list[str]:
    """Who tries a dry run must not be told to type the real one."""
    told = [f"--{name}" for name in ("check", "diff") if context.CLIARGS.get(name)]
    for name, default in (("tags", ["all"]), ("skip_tags", [])):
        chosen = sorted(str(tag) for tag in context.CLIARGS.get(name) or default)
        if chosen != default:
            told.append(f"--{name.replace('_', '-')} {shlex.quote(','.join(chosen))}")
    return told


def whole(run: Mapping[str, Any]) -> dict[str, Any]:
    """:return: the run as if it had been typed without --check, --diff, --tags and --skip-tags."""
    return {**run, GIVEN: {**(run.get(GIVEN) or {}), "options": []}}


def _is_vaulted(path: str) -> bool:
    try:
        with Path(path).expanduser().open("rb") as file:
            return file.read(14) == b"$ANSIBLE_VAULT"
    except OSError:
        return False


def _short(source: str) -> str:
    """Ansible has made it absolute; below the folder in which the user is, it is told as it was typed."""
    try:
        return source if "," in source else str(Path(source).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return source


def sibling(run: Mapping[str, Any], name: str) -> str:
    """The playbook ``name`` in the way this run's was called: beside its file, or by its name in the collection."""
    typed = shlex.split(str(run.get("command") or _DEFAULT))[-1]
    if typed.startswith("whitecross.pgops."):
        return f"ansible-playbook whitecross.pgops.{name}"
    return f"ansible-playbook {shlex.quote(str(Path(typed).with_name(f'{name}.yml')))}"


def again(run: Mapping[str, Any], limit: str | None, variables: Mapping[str, Any] | None = None) -> str:
    """The command that was typed, to type it again; a dry run stays one.

    :param limit: None for a playbook that reaches no host
    :param variables: another choice than this run's; any one of ``rollback_*`` takes the place of all of them, but for what stays
    """
    replaced = dict(variables or {})
    chosen = any(is_selection(name) and name.startswith("rollback_") and name not in _STAYS_DOWN for name in replaced)
    kept = {
        name: value
        for name, value in typed_variables(run).items()
        if name not in replaced and (name in _STAYS_DOWN or not (chosen and name.startswith("rollback_")))
    }
    command = " ".join([str(run.get("command") or _DEFAULT), *(run.get(GIVEN) or {}).get("options", [])])
    return _line(run, command, limit, _asked(command, {**kept, **replaced}))


def other(run: Mapping[str, Any], name: str, limit: str | None, variables: Mapping[str, Any] | None = None) -> str:
    """The command of the playbook ``name`` (without .yml) for the same place, with ``variables`` as its choice.

    :param limit: None for a playbook that reaches no host
    """
    replaced = dict(variables or {})
    kept = {
        known: value
        for known, value in typed_variables(run).items()
        if known not in replaced and (not is_selection(known) or (known in _STAYS and name == "rollback"))
    }
    command = sibling(run, name)
    return _line(run, command, limit, _asked(command, {**kept, **replaced}))


def _asked(command: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """:return: the variables without the windows of a migration, with which a rollback of production is refused and which no other reads."""
    back = any(_ROLLBACK.search(word) for word in shlex.split(command))
    return {name: value for name, value in variables.items() if not (back and name == _WINDOWS)}


def before_limit(run: Mapping[str, Any], command: str) -> str:
    """``command`` with -i, -e and what makes it a dry run, for a sentence that chooses the limit itself."""
    options = (run.get(GIVEN) or {}).get("options", [])
    return " ".join([command, *options, *_inventory(run), *_extra(run, _asked(command, typed_variables(run)))])


def typed_variables(run: Mapping[str, Any]) -> dict[str, Any]:
    """The variables that were given with -e, without secrets."""
    return dict((run.get(GIVEN) or {}).get("variables") or {})


def without(run: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """:return: the run as if these variables had not been given with -e."""
    gone = set(names)
    variables = {name: value for name, value in typed_variables(run).items() if name not in gone}
    return {**run, GIVEN: {**(run.get(GIVEN) or {}), "variables": variables}}


def _inventory(run: Mapping[str, Any]) -> list[str]:
    return [f"-i {shlex.quote(source)}" for source in (run.get(GIVEN) or {}).get("inventory") or []]


def _extra(run: Mapping[str, Any], variables: Mapping[str, Any]) -> list[str]:
    files = [f"-e {shlex.quote(f'@{path}')}" for path in (run.get(GIVEN) or {}).get("files") or []]
    argument = extra_variables_argument(variables)
    return [*files, argument] if argument else files


def _line(run: Mapping[str, Any], command: str, limit: str | None, variables: Mapping[str, Any]) -> str:
    where = ["-l", shlex.quote(limit)] if limit is not None else []
    return " ".join([command, *_inventory(run), *where, *_extra(run, variables)])
