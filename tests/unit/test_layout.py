# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shape of the collection: interfaces documented, defaults equal to specs, names and licences in order."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(p.parent.parent.name for p in (ROOT / "roles").glob("*/meta/argument_specs.yml"))
MODULES = sorted(p.stem for p in (ROOT / "plugins" / "modules").glob("*.py") if p.stem != "__init__")
PLAYBOOKS = sorted(p.name for p in (ROOT / "playbooks").glob("*.yml"))
LICENSED = {".py", ".yml", ".yaml", ".j2", ".sql", ".sh"}
FORBIDDEN_NAMES = {"utils", "common", "helpers", "helper", "util", "misc"}


def tracked_files() -> list[Path]:
    """What git knows or would take; never what lies below .local or .venv."""
    told = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    return [path for name in told.split("\0") if name and (path := ROOT / name).is_file() and not path.is_symlink()]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def specs(role: str) -> dict[str, dict[str, Any]]:
    return load(ROOT / "roles" / role / "meta" / "argument_specs.yml")["argument_specs"]


def defaults_differences(role_specs: dict[str, dict[str, Any]], defaults: dict[str, Any]) -> list[str]:
    """What differs between the defaults that the specs tell and those that the role has."""
    told = {}
    for entry in role_specs.values():
        for name, option in (entry.get("options") or {}).items():
            if "default" in option:
                told[name] = option["default"]
    missing = object()
    return [
        f"{name}: argument_specs {told.get(name, 'no default')!r}, defaults {defaults.get(name, 'absent')!r}"
        for name in sorted({*told, *defaults})
        if told.get(name, missing) != defaults.get(name, missing)
    ]


def test_every_role_has_argument_specs() -> None:
    folders = sorted(p.name for p in (ROOT / "roles").iterdir() if p.is_dir())
    assert folders == ROLES


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_those_of_the_argument_specs(role: str) -> None:
    path = ROOT / "roles" / role / "defaults" / "main.yml"
    assert defaults_differences(specs(role), (load(path) if path.exists() else None) or {}) == []


def test_a_default_that_the_specs_do_not_tell_is_seen() -> None:
    options = {"main": {"options": {"a_b": {"default": 1}, "a_c": {}}}}
    assert defaults_differences(options, {"a_b": 1}) == []
    assert len(defaults_differences(options, {"a_b": 2})) == 1
    assert len(defaults_differences(options, {"a_b": 1, "a_c": 3})) == 1
    assert len(defaults_differences(options, {})) == 1


@pytest.mark.parametrize("role", ROLES)
def test_a_role_names_its_variables_after_itself(role: str) -> None:
    for entry in specs(role).values():
        for name in entry.get("options") or {}:
            assert name.startswith(f"{role}_"), name


@pytest.mark.parametrize("role", ROLES)
def test_every_entry_point_has_its_specs(role: str) -> None:
    """`tasks_from` without specs would take any variable; `status.yml` has none, Ansible looks for a spec of that very name."""
    called = {"main"}
    for path in [*(ROOT / "playbooks").glob("*.yml"), *(ROOT / "roles").glob("*/tasks/*.yml")]:
        called |= set(entry_points(load(path), f"whitecross.pgops.{role}"))
    assert called <= set(specs(role))


def test_ansible_checks_the_arguments_of_every_entry_point() -> None:
    """It says so itself: a check before each role of each playbook, by the name of the entry point."""
    called = []
    for name in PLAYBOOKS:
        (play,) = load(ROOT / "playbooks" / name)
        # Ansible lists what a block holds, and not its `always`.
        for role in {*ROLES} - {"report"}:
            called += [(role, entry) for entry in entry_points(play, f"whitecross.pgops.{role}", checked=True)]
    told = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "--list-tasks", "-l", "local,localhost", *PLAYBOOKS],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    checked = re.findall(r"whitecross\.pgops\.(\w+) : Validating arguments against arg spec '([\w.]+)'", told)
    assert sorted(checked) == sorted(called)


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_an_entry_point_goes_unchecked_only_where_its_arguments_were_checked_before(name: str) -> None:
    """A check costs a process, also of a role that does nothing. Those of hooks the guard checks, before the run begins."""
    (play,) = load(ROOT / "playbooks" / name)
    for role in {*ROLES} - {"hooks"}:
        checked = entry_points(play, f"whitecross.pgops.{role}", checked=True)
        before = {option for entry in checked for option in specs(role)[entry].get("options") or {}}
        for entry in entry_points(play, f"whitecross.pgops.{role}", checked=False):
            assert set(specs(role)[entry].get("options") or {}) <= before, (role, entry)


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_a_playbook_tells_its_guard_which_it_is(name: str) -> None:
    """The command line may name a playbook of the site that imports it."""
    (play,) = load(ROOT / "playbooks" / name)
    guards = [
        task
        for block in play["tasks"]
        for task in block.get("block") or []
        if (task.get("ansible.builtin.import_role") or {}).get("name") == "whitecross.pgops.guard"
    ]
    assert [task.get("vars") for task in guards] == [{"guard_playbook": name.removesuffix(".yml")}] * len(guards)
    assert guards or play["hosts"] == "localhost"


def test_the_guard_checks_what_the_spec_of_a_hook_says() -> None:
    from ansible_collections.whitecross.pgops.plugins.plugin_utils import application_hooks as hooks

    options = specs("hooks")["main"]["options"]
    assert {name for name, option in options.items() if option["type"] == "list"} == set(
        map(hooks.variable, hooks.KINDS)
    )
    assert options["hooks_run"]["choices"] == [
        "divert_traffic", "maintenance_on", "stop", "start", "maintenance_off", "health", "smoke_test", "restore_traffic",
        "metrics", "alert",
    ]  # fmt: skip
    assert set(options["hooks_run"]["choices"]) == set(hooks.KINDS)
    for kind in hooks.KINDS:
        assert set(options[hooks.variable(kind)]["options"]) == hooks.OPTIONS


@pytest.mark.parametrize("role", ROLES)
def test_an_entry_point_tells_every_variable_of_its_role_that_its_tasks_use(role: str) -> None:
    for entry, spec in specs(role).items():
        used = set(re.findall(rf"(?<![\w.]){role}_[a-z_]+", tasks_of(role, entry)))
        assert used <= set(spec.get("options") or {}), entry


def tasks_of(role: str, entry: str) -> str:
    """The text of an entry point's tasks and of all that they include."""
    seen: dict[str, str] = {}
    waiting = [f"{entry}.yml"]
    folder = ROOT / "roles" / role / "tasks"
    while waiting:
        pattern = waiting.pop()
        for path in folder.glob(re.sub(r"\{\{.*?\}\}", "*", pattern)):
            # A template for the whole name, as "{{ strategy }}.yml", stands for one of the choices.
            if path.name in seen or (
                "{{" in pattern
                and path.stem in ("main", "ask", "decide", "cleanup")
                or path.name == "main.yml" != pattern
            ):
                continue
            seen[path.name] = path.read_text(encoding="utf-8")
            waiting += re.findall(r"(?:include|import)_tasks: \"?([^\"\n]+)", seen[path.name])
    return "\n".join(line for text in seen.values() for line in text.splitlines() if not line.lstrip().startswith("#"))


def entry_points(node: Any, role: str, *, checked: bool | None = None) -> list[str]:
    """:param checked: only those whose arguments Ansible checks, or only the others"""
    found = []
    if isinstance(node, dict):
        for key, value in node.items():
            if (
                key.endswith(("import_role", "include_role"))
                and value.get("name") == role
                and checked in (None, value.get("rolespec_validate", True))
            ):
                found.append(value.get("tasks_from", "main"))
            found += entry_points(value, role, checked=checked)
    elif isinstance(node, list):
        for value in node:
            found += entry_points(value, role, checked=checked)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_module_documents_itself(module: str) -> None:
    text = (ROOT / "plugins" / "modules" / f"{module}.py").read_text(encoding="utf-8")
    constants = {
        target.id: node.value.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    documentation = yaml.safe_load(constants["DOCUMENTATION"])
    assert documentation["module"] == module
    assert documentation["short_description"] and documentation["description"]
    assert f"whitecross.pgops.{module}" in constants["EXAMPLES"]
    assert isinstance(yaml.safe_load(constants["RETURN"]), dict)
    assert "GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)" in text


def test_the_action_group_names_every_module_that_takes_a_connection() -> None:
    """And none that does not: it would refuse what the group gives it."""
    connecting = [
        module
        for module in MODULES
        if re.search(
            r"^  - whitecross\.pgops\.pgops$",
            (ROOT / "plugins/modules" / f"{module}.py").read_text("utf-8"),
            re.MULTILINE,
        )
    ]
    assert len(connecting) > 40
    assert load(ROOT / "meta" / "runtime.yml")["action_groups"]["pgops"] == connecting


def test_every_action_plugin_has_a_module_of_its_name() -> None:
    actions = {p.stem for p in (ROOT / "plugins" / "action").glob("*.py") if p.stem != "__init__"}
    assert actions <= set(MODULES)


def test_every_playbook_has_a_shim_at_the_root_and_no_shim_is_left_over() -> None:
    others = ("galaxy.yml", "execution-environment.yml")
    shims = sorted(p.name for p in ROOT.glob("*.yml") if p.name not in others and not p.name.startswith("."))
    assert shims == PLAYBOOKS
    for name in shims:
        (play,) = load(ROOT / name)
        assert next(v for k, v in play.items() if k.endswith("import_playbook")) == f"playbooks/{name}"


def test_every_source_file_carries_the_licence() -> None:
    lacking = [
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if path.suffix in LICENSED and path.stat().st_size
        and not {"SPDX-License-Identifier: GPL-3.0-or-later"} <= {
            line.strip("#-{}*/ ") for line in path.read_text(encoding="utf-8").splitlines()[:6]
        }
    ]  # fmt: skip
    assert lacking == []


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [str(p) for p in tracked_files() if p.stem in FORBIDDEN_NAMES or p.parent.name in FORBIDDEN_NAMES] == []


def test_only_one_file_of_the_engine_imports_ansible() -> None:
    importing = []
    for path in (ROOT / "plugins" / "module_utils").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name == "ansible" or name.startswith("ansible.") for name in names):
                importing.append(path.name)
    assert sorted(set(importing)) == ["pgops_module.py"]


def test_what_runs_on_a_target_is_python_3_9() -> None:
    for folder in ("modules", "module_utils"):
        for path in (ROOT / "plugins" / folder).glob("*.py"):
            ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 9))


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-test.lock"])
def test_a_lock_pins_by_hash_and_names_no_index(lock: str) -> None:
    lines = (ROOT / lock).read_text(encoding="utf-8").splitlines()
    assert [
        line for line in lines if "://" in line or line.lstrip().startswith(("-i", "--index", "--extra", "--find"))
    ] == []
    pins = [number for number, line in enumerate(lines) if line and line[0] not in " #"]
    assert pins
    assert all("==" in lines[n] and "--hash=sha256:" in lines[n + 1] for n in pins)


@pytest.mark.parametrize("name", ["requirements", "requirements-test"])
def test_a_lock_has_every_direct_pin(name: str) -> None:
    locked = (ROOT / f"{name}.lock").read_text(encoding="utf-8").lower().replace("_", "-")
    for line in (ROOT / f"{name}.txt").read_text(encoding="utf-8").lower().replace("_", "-").splitlines():
        if "==" in line and not line.startswith("#"):
            assert f"\n{line.strip()} \\\n" in locked, line
