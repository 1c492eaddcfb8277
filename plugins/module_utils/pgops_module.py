# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where Ansible meets the engine: the only file of module_utils that imports Ansible."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Collection
from datetime import date, datetime, timezone
from typing import Any, Callable, NoReturn

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import psycopg2

    PSYCOPG2_TRACEBACK = None
except ImportError:
    PSYCOPG2_TRACEBACK = traceback.format_exc()

OLDEST_PYTHON = (3, 9)

QUERY_CANCELED = "57014"

# The job that this process is, if it is one.
_job: Any = None
_control: Any = None

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

# Documented in the fragment whitecross.pgops.tree.
TREE_OPTIONS: dict[str, dict[str, Any]] = {
    "migrations": {"type": "list", "elements": "dict", "default": []},
    "variables": {"type": "dict", "default": {}},
}
# Documented in the fragment whitecross.pgops.tree.selection.
SELECTION_OPTIONS: dict[str, dict[str, Any]] = {
    "target": {"type": "str"},
    "steps": {"type": "int"},
    "allow_out_of_order": {"type": "bool", "default": False},
}
# Documented in the fragment whitecross.pgops.tree.waiver.
WAIVER_OPTIONS: dict[str, dict[str, Any]] = {
    "waive": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {name: {"type": "str"} for name in ("check", "version", "reason", "by", "until")},
    },
}
# Documented in the fragment whitecross.pgops.ledger_run.
LEDGER_RUN_OPTIONS: dict[str, dict[str, Any]] = {
    "run": {"type": "dict", "default": {}},
    "lock_wait": {"type": "float", "default": 30},
}
# Documented in the fragment whitecross.pgops.limits.
LIMIT_OPTIONS: dict[str, dict[str, Any]] = {
    "index_workers": {"type": "int", "default": 2},
    "index_workers_busy": {"type": "int", "default": 1},
    "index_memory_mb": {"type": "int"},
    "index_disk_mb": {"type": "int"},
    "index_timeout": {"type": "int"},
    "throttle": {"type": "dict", "default": {}},
    "terminate_idle_after": {"type": "float"},
}
# Documented in the fragment whitecross.pgops.physical.
PHYSICAL_OPTIONS: dict[str, dict[str, Any]] = {
    "stanza": {"type": "str", "default": "main"},
    "config": {"type": "path", "default": "/etc/pgbackrest/pgops.conf"},
    "pgbackrest": {"type": "str", "default": "pgbackrest"},
    "os_user": {"type": "str", "default": "postgres"},
    "archive_timeout": {"type": "float", "default": 60},
}
# Documented in the fragment whitecross.pgops.identity.
IDENTITY_OPTIONS: dict[str, dict[str, Any]] = {
    "identity_file": {"type": "path"},
    "identity_once": {"type": "bool", "default": False},
}
# Documented in the fragment whitecross.pgops.scratch.
SCRATCH_OPTIONS: dict[str, dict[str, Any]] = {
    "scratch_reason": {"type": "str"},
    "other_cluster_only": {"type": "bool", "default": False},
}
# Documented in the fragment whitecross.pgops.time_box.
TIME_BOX_OPTIONS: dict[str, dict[str, Any]] = {
    "timeout": {"type": "float", "default": 0},
    "tolerated": {"type": "bool", "default": False},
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
    run_id = module.params["run_id"]
    return {database: Target(database=database, run_id=run_id, **shared) for database in module.params["databases"]}


def refuse_several(databases: Collection[str], named: str) -> None:
    """For what can only be one database's.

    :param databases: those that the module is for.
    :param named: what was named, in a word.
    :raises PgopsError: there is not exactly one of them.
    """
    from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

    if len(databases) != 1:
        raise PgopsError(
            f"One {named} is named and there are {len(databases)} databases.",
            hint="Name one with -e pgops_database=NAME.",
        )


def waived(module: AnsibleModule, check: str) -> dict[str, str]:
    """:return: version -> reason, of what ``waive`` lets off that check today."""
    today = datetime.now(timezone.utc).date()
    return {
        item["version"]: item["reason"]
        for item in module.params["waive"]
        if item["check"] == check and (not item["until"] or today <= date.fromisoformat(item["until"].strip()))
    }


def job(module: AnsibleModule) -> tuple[Any, Any]:
    """Go on as a job that outlives the connection, where a controller asked for one; returns in the job's process only.

    Everything that the work needs must be imported by now: the archive that Ansible made of the module goes with the call.

    :return: the Progress and the Control of this job; both do nothing where no controller watches.
    """
    global _job, _control
    from ansible_collections.whitecross.pgops.plugins.module_utils import pending_swap  # noqa: F401 -- for _why_fenced
    from ansible_collections.whitecross.pgops.plugins.module_utils.job import LEASE, PROGRESS, Job
    from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress

    directory = module.params["job_directory"]
    if not directory:
        return Progress(None), Control(None)
    begun = Job(directory)
    answer = begun.begin()
    if answer is not None:
        _leave(module, answer)
    _job = begun
    _control = Control(begun.path(LEASE), float(module.params["lease"])).start()
    return Progress(begun.path(PROGRESS)), _control


def run(module: AnsibleModule, work: Callable[[], dict[str, Any]]) -> None:
    """Do the work and leave with its result; an error of the engine leaves with its fields, a driver's in one sentence."""
    try:
        result = _result(module, work)
    except Exception as exc:  # whatever it was: a job has no caller left that would show the traceback
        # An error of the server that it came after would be shown with its DETAIL, which may repeat a row.
        exc.__cause__, exc.__context__ = None, None
        if _job is not None:
            _job.break_off()
        raise
    if _job is not None:
        _job.finish(result)
    _leave(module, result)


def _result(module: AnsibleModule, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg

    old_umask = os.umask(0o077)
    try:
        return {"changed": False, **work()}
    except PgopsError as error:
        error = _why_fenced(module, error)
        told = error.as_dict()
        if _control is not None and _control.reason and error.sqlstate == QUERY_CANCELED:
            # Cancelled by us: why says more than the server's "user request".
            told.update(reason="interrupted")
            return {**told, "failed": True, "msg": f"Interrupted: {_control.reason}. {error.message}"}
        return {"failed": True, "msg": error.message, **told}
    except psycopg2.Error as exc:
        broken = from_psycopg(exc, f"{module._name} failed")
        return {"failed": True, "msg": broken.message, **broken.as_dict()}
    except OSError as exc:
        where = f" ({exc.filename})" if exc.filename else ""
        return {
            "failed": True,
            "msg": f"{module._name} failed: {exc.strerror or exc}{where}.",
            "errno": exc.errno,
        }
    finally:
        os.umask(old_umask)


def _why_fenced(module: AnsibleModule, error: Any) -> Any:
    """:return: where a swap that was cut off is why nobody is let in, the error that says so, whatever the module was about."""
    from ansible_collections.whitecross.pgops.plugins.module_utils import pending_swap

    if (
        error.sqlstate != pending_swap.NOT_ACCEPTING
        or "pending_swap" in error.extra
        or error.database not in module.params["databases"]
    ):
        return error
    pending = pending_swap.keeping_out(targets(module)[error.database])
    if pending is None:
        return error
    found = pending.error()
    found.extra.update(error.extra)
    return found


def _leave(module: AnsibleModule, result: dict[str, Any]) -> NoReturn:
    # Ansible tells with what a module was called; a whole tree of migrations would take longer back than its plan takes to make.
    told = {name: value for name, value in module.params.items() if name not in (*TREE_OPTIONS, "checks")}
    result.setdefault("invocation", {"module_args": told})
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)
    raise SystemExit  # not reached; the module leaves with its result
