# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: hook
short_description: Run one hook of the application
version_added: 0.1.0
description:
  - Runs a command without a shell, or makes a request, within a time limit. Nothing of what comes back is kept but the numbers of a
    metrics hook, and of a command that fails the last line of its errors, without secrets and without what PostgreSQL repeats of a row.
  - As a task of a play it is called with O(stage), O(kind) and O(number) only, by the role P(whitecross.pgops.hooks#role); the hook itself
    is the entry O(number) of the variable C(hooks_<kind>). What it takes away, traffic, say, is written down on the ops host first, so that
    it comes back after every end of the run.
options:
  stage:
    description: Where in the run it is called.
    type: str
    choices: [before, after, back, emergency, by_hand]
  kind:
    description: What it is for.
    type: str
  number:
    description: Which of the hooks of its kind.
    type: int
    default: 0
  last:
    description: Whether it is the last one of its kind.
    type: bool
    default: true
  first:
    description: Whether this host is the one of its batch that runs the hooks that are not for each host, and brings back what they took away.
    type: bool
    default: true
  at:
    description: Of a watch, the seconds after its beginning at which it looks.
    type: float
  argv:
    description: A command and its arguments. There is no shell. It must end with exit code 0.
    type: list
    elements: str
  environment:
    description: Variables of the command's environment, from a vault where they are secret.
    type: dict
    default: {}
  environment_files:
    description: Variables whose values are the content of files on the host, mode 0600.
    type: dict
    default: {}
  url:
    description: An address to ask, V(http://…) or V(https://…). The certificate is always checked. A redirect is not followed.
    type: str
  url_file:
    description: File on the host, mode 0600, that holds the address, where whoever knows it may use it.
    type: path
  method:
    description: The method of the request.
    type: str
    default: GET
  status:
    description: The status codes that count as done; any 2xx where it is not set.
    type: list
    elements: int
    default: []
  headers:
    description: Headers of the request, from a vault where they are secret.
    type: dict
    default: {}
  header_files:
    description: Headers whose values are the content of files on the host, mode 0600.
    type: dict
    default: {}
  body:
    description: What the request carries.
    type: str
  ca_path:
    description: File with the certificate authority of the server, where the host's own store does not know it.
    type: path
  client_cert:
    description: Certificate that the server asks for, as PEM.
    type: path
  client_key:
    description: Its key, where that is in a file of its own.
    type: path
  timeout:
    description: Seconds for all tries together.
    type: float
    default: 30
  retries:
    description: Tries after the first one that fails.
    type: int
    default: 0
  delay:
    description: Seconds between two tries.
    type: float
    default: 1
  metrics:
    description: Whether it answers with a JSON object of C(error_rate), C(p50_ms), C(p95_ms), C(p99_ms) and C(throughput).
    type: bool
    default: false
  limits:
    description: Metric and the number beyond which the hook fails.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Shows the hook and runs nothing.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: What the role hooks does before an apply
  whitecross.pgops.hook:
    stage: before
    kind: divert_traffic
    number: 0
  delegate_to: lb-1
  vars:
    hooks_divert_traffic:
      - argv: [/usr/local/bin/pool, drain, white_cross]
        delegate_to: lb-1
        timeout: 20
"""

RETURN = r"""
done:
  description: V(yes), V(no), or V(not applicable) where it was not due.
  returned: always
  type: str
seconds:
  description: How long it took.
  returned: when it was run
  type: float
tries:
  description: How often it was tried.
  returned: when it was run
  type: int
metrics:
  description: What a metrics hook told.
  returned: when it was asked for them
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.whitecross.pgops.plugins.module_utils import hook

_AS_GIVEN = (
    "method",
    "status",
    "body",
    "ca_path",
    "client_cert",
    "client_key",
    "timeout",
    "retries",
    "delay",
    "metrics",
)


def main() -> None:
    """Run it, with the secrets that lie in files of this host."""
    module = AnsibleModule(
        argument_spec={
            "argv": {"type": "list", "elements": "str"},
            "environment": {"type": "dict", "default": {}},
            "environment_files": {"type": "dict", "default": {}},
            "url": {"type": "str"},
            "url_file": {"type": "path"},
            "method": {"type": "str", "default": "GET"},
            "status": {"type": "list", "elements": "int", "default": []},
            "headers": {"type": "dict", "default": {}},
            "header_files": {"type": "dict", "default": {}},
            "body": {"type": "str"},
            "ca_path": {"type": "path"},
            "client_cert": {"type": "path"},
            "client_key": {"type": "path"},
            "timeout": {"type": "float", "default": 30},
            "retries": {"type": "int", "default": 0},
            "delay": {"type": "float", "default": 1},
            "metrics": {"type": "bool", "default": False},
            "limits": {"type": "dict", "default": {}},
        },
        mutually_exclusive=[("argv", "url", "url_file")],
        required_one_of=[("argv", "url", "url_file")],
        # The host's log gets no argument at all. Marked one by one, a value such as 1 would be taken out of every number too.
        no_log=True,
    )
    given = module.params
    secrets = [str(value) for name in ("environment", "headers") for value in given[name].values()]
    try:
        read = {}
        for name in ("environment_files", "header_files"):
            read[name] = {key: hook.secret_of(path, name) for key, path in given[name].items()}
            secrets += read[name].values()
        url = hook.secret_of(given["url_file"], "url_file") if given["url_file"] else given["url"]
        call = hook.Call(
            argv=given["argv"] or [],
            environment={**_texts(given["environment"]), **read["environment_files"]},
            url=url,
            called="the address in url_file" if given["url_file"] else None,
            headers={**_texts(given["headers"]), **read["header_files"]},
            limits={name: float(value) for name, value in given["limits"].items()},
            secrets=secrets,
            **{name: given[name] for name in _AS_GIVEN},
        )
        found = hook.run(call)
    except hook.HookFailed as error:
        module.fail_json(msg=hook.without(str(error), secrets))
    module.exit_json(changed=not given["metrics"], **found)


def _texts(values: dict[str, object]) -> dict[str, str]:
    return {str(name): str(value) for name, value in values.items()}


if __name__ == "__main__":
    main()
