# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run leaves must outlive it: a folder inside an execution environment goes with its container when the job ends."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Set by ansible-runner (AWX, navigator) inside the container that it starts, and by nobody else.
_LAUNCHED = "LAUNCHED_BY_RUNNER"
# Its folder for the artefacts of one job, in the private folder that AWX removes with the job.
_ARTIFACTS = "AWX_ISOLATED_DATA_DIR"
# Put into each image by ansible-builder; for one that somebody starts by hand.
_ENTRYPOINT = "/opt/builder/bin/entrypoint"
_IN_MEMORY = ("tmpfs", "ramfs")

# Written by these playbooks, on the inventory host; each with the default of its role.
_ON_THE_HOST = {
    **dict.fromkeys(
        ("migrate", "backup", "backup_rekey", "rollback"), ("backup_directory", "/var/backups/postgres/migrations")
    ),
    "export": ("export_directory", "/var/backups/postgres/exports"),
    # Without a default: a run that names none is refused for that.
    "retention": ("retention_archive_directory", ""),
}
# And these on the ops host.
_ON_THE_OPS_HOST = {
    "audit_export": ("audit_export_directory", "~/.local/state/pgops/audit-exports"),
    "audit_checkpoint": ("audit_archive_directory", "~/.local/state/pgops/audit-archives"),
}


def inside_one(environ: Mapping[str, str] = os.environ, entrypoint: str = _ENTRYPOINT) -> bool:
    """:return: whether this process runs in an execution environment. Another container is none: a workshop in one keeps its files."""
    return bool(environ.get(_LAUNCHED) or environ.get(_ARTIFACTS)) or os.path.exists(entrypoint)


def why_lost(path: str, environ: Mapping[str, str] = os.environ, mounts: str | None = None) -> str | None:
    """
    :param path: a file or folder that need not be there yet
    :param mounts: the text of ``/proc/self/mountinfo``; read there where it is not given
    :return: in words, why what is written there is gone when the container is; None where it stays
    """
    real = os.path.realpath(os.path.expanduser(path))
    artifacts = environ.get(_ARTIFACTS)
    if artifacts:
        private = os.path.realpath(os.path.join(artifacts, os.pardir, os.pardir))
        if private != "/" and _below(real, private):
            return f"below {private}, the private folder of one job"
    point, kind = _mount_of(real, mounts if mounts is not None else Path("/proc/self/mountinfo").read_text("utf-8"))
    if point == "/":
        return "in the container's own file system"
    return f"in memory ({kind} at {point})" if kind in _IN_MEMORY else None


def refuse_inside(
    playbook: str,
    state: str,
    variables_of: Mapping[str, Mapping[str, Any]],
    template: Callable[[Any], Any],
    run: Mapping[str, Any],
    limit: str,
) -> None:
    """
    :param run: what was typed, as :mod:`typed_commands` takes it; the others as of :func:`first_lost`
    :raises Refusal: what the run leaves would go with the container of its execution environment
    """
    found = first_lost(playbook, state, variables_of, template) if inside_one() else None
    if found:
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import environments, typed_commands

        name, path, why = found
        kept = f"/srv/pgops/{name.removeprefix('pgops_').removesuffix('_directory')}"
        raise environments.Refusal(
            f"{name}={path} lies inside the execution environment, {why}, and would be gone when the job ends; mount a volume into "
            "the container (docs/awx.md) and name a folder in it",
            typed_commands.again(run, limit, {name: kept}),
        )


def first_lost(
    playbook: str,
    state: str,
    variables_of: Mapping[str, Mapping[str, Any]],
    template: Callable[[Any], Any],
    environ: Mapping[str, str] = os.environ,
) -> tuple[str, str, str] | None:
    """
    :param playbook: which one runs
    :param state: ``pgops_state_directory``, with journal, reports, approvals and anchors
    :param variables_of: each host's; where its connection is local, the module runs in this container too
    :param template: renders a value as the play would
    :return: variable, path and why, of the first folder that would go with the container
    """
    places = {"pgops_state_directory": state}
    for host, variables in variables_of.items():
        written = [_ON_THE_OPS_HOST.get(playbook)]
        if _is_local(host, variables, template):
            written.append(_ON_THE_HOST.get(playbook))
        for name, default in filter(None, written):
            path = str(_read(template, variables.get(name)) or default)
            if path:
                places.setdefault(name, path)
    for name, path in places.items():
        why = why_lost(path, environ)
        if why:
            return name, path, why
    return None


def _is_local(host: str, variables: Mapping[str, Any], template: Callable[[Any], Any]) -> bool:
    connection = str(_read(template, variables.get("ansible_connection")) or "")
    return connection.rpartition(".")[2] == "local" or (not connection and host in ("localhost", "127.0.0.1"))


def _read(template: Callable[[Any], Any], value: Any) -> Any:
    """:return: the value as the play would render it; None for a template that only its own host can."""
    from ansible.errors import AnsibleError

    try:
        return template(value) if value else None
    except AnsibleError:
        return None


def _mount_of(real: str, mounts: str) -> tuple[str, str]:
    """:return: where the file system of the path is mounted, and its kind; of two at one place the later lies on top."""
    found = ("/", "")
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        # Blanks and the like are written as octal numbers.
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        if _below(real, point) and len(point) >= len(found[0]):
            found = (point, right.split()[0])
    return found


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
