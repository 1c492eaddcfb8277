# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where Ansible meets the engine: the only file of module_utils that imports Ansible."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import psycopg2

    PSYCOPG2_TRACEBACK = None
except ImportError:
    PSYCOPG2_TRACEBACK = traceback.format_exc()

OLDEST_PYTHON = (3, 9)

CONNECTION_OPTIONS: dict[str, dict[str, Any]] = {
    "host": {"type": "str", "default": "127.0.0.1"},
    "port": {"type": "str"},
    "databases": {"type": "list", "elements": "str", "required": True},
    "user": {"type": "str"},
    "owner": {"type": "str"},
    "backup_user": {"type": "str"},
    "restore_user": {"type": "str"},
    "passfile": {"type": "path"},
    "sslmode": {
        "type": "str",
        "default": "prefer",
        "choices": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
    },
    "sslrootcert": {"type": "path"},
    "connect_timeout": {"type": "int", "default": 10},
    "maintenance_database": {"type": "str", "default": "postgres"},
    "scratch_host": {"type": "str"},
    "scratch_port": {"type": "str"},
    "bindir": {"type": "path"},
    "run_id": {"type": "str"},
    "job_directory": {"type": "path"},
    "lease": {"type": "int", "default": 60},
}


def create_module(options: dict[str, dict[str, Any]], **kwargs: Any) -> AnsibleModule:
    """Make the module with the connection's options beside its own.

    :param options: the module's own argument spec.
    :return: the module; it has failed already, in one sentence, where Python or psycopg2 does not do.
    """
    kwargs.setdefault("supports_check_mode", True)
    module = AnsibleModule(argument_spec={**CONNECTION_OPTIONS, **options}, **kwargs)
    if sys.version_info[:2] < OLDEST_PYTHON:
        module.fail_json(
            msg=f"Python {sys.version_info[0]}.{sys.version_info[1]} on {os.uname().nodename} is too old: 3.9 or later is needed; set ansible_python_interpreter."
        )
    if PSYCOPG2_TRACEBACK:
        module.fail_json(msg=missing_required_lib("psycopg2-binary"), exception=PSYCOPG2_TRACEBACK)
    return module


def targets(module: AnsibleModule) -> dict[str, Any]:
    """:return: a ``connection.Target`` for each database asked for, by its name."""
    from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target

    shared = {
        name: module.params[name]
        for name in CONNECTION_OPTIONS
        if name not in ("databases", "run_id", "job_directory", "lease")
    }
    return {database: Target(database=database, **shared) for database in module.params["databases"]}


def job(module: AnsibleModule) -> tuple[Any, Any]:
    """:return: the Progress and the Control of this job; both do nothing where no controller watches."""
    from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress

    directory = module.params["job_directory"]
    if not directory:
        return Progress(None), Control(None)
    with open(os.path.join(directory, "pid"), "w", encoding="ascii") as stream:
        stream.write(str(os.getpid()))
    control = Control(os.path.join(directory, "lease"), float(module.params["lease"]))
    return Progress(os.path.join(directory, "progress")), control.start()


def run(module: AnsibleModule, work: Callable[[], dict[str, Any]]) -> None:
    """Do the work and leave with its result; an error of the engine leaves with its fields, a driver's in one sentence."""
    from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg

    old_umask = os.umask(0o077)
    try:
        result = work()
    except PgopsError as error:
        module.fail_json(msg=error.message, **error.as_dict())
    except psycopg2.Error as exc:
        told = from_psycopg(exc, f"{module._name} failed")
        module.fail_json(msg=told.message, **told.as_dict())
    except OSError as exc:
        where = f" ({exc.filename})" if exc.filename else ""
        module.fail_json(msg=f"{module._name} failed: {exc.strerror or exc}{where}.", errno=exc.errno)
    finally:
        os.umask(old_umask)
    module.exit_json(**{"changed": False, **result})
