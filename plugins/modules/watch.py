# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: watch
short_description: Look whether the clients of databases are as well as they were
version_added: 0.1.0
description:
  - One look of a watch after a migration, at what needs no declaration - transactions that roll back, indexes that become invalid, clients
    and standbys that go, standbys that fall behind. It writes nothing.
  - The role P(whitecross.pgops.hooks#role) calls it again and again for C(migrate_watch) minutes where neither C(hooks_health) nor C(hooks_metrics)
    is declared.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  seen:
    description:
      - By database the RV(databases.seen) of the look before. That before the apply has none; one without its C(counters) begins
        the watch. Neither finds anything.
    type: dict
    default: {}
  indexes:
    description: By database the indexes, C(schema.name), whose scans are wanted.
    type: dict
    default: {}
  health:
    description: What the clients may be cost.
    type: dict
    default: {}
    suboptions:
      pause:
        description: Of a batch only; a look judges what was since the one before.
        type: float
      error_rate:
        description: >-
          Percent of the transactions that may roll back; twice the usual share, where that is more, and no more than so many beyond it.
        type: float
        default: 5
      probe:
        description: A query of the application, which is run read-only and must not fail.
        type: str
      probe_limit:
        description: How long the probe may take, in milliseconds.
        type: float
        default: 1000
      replication_lag:
        description: How far a standby may be behind, in seconds.
        type: float
        default: 30
      performance:
        description: How much slower the probe may be than before the apply, in percent; less than 20 ms never count.
        type: float
        default: 50
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Look at a database for the first time
  whitecross.pgops.watch:
    databases: [white_cross]
  register: first

- name: Look again
  whitecross.pgops.watch:
    databases: [white_cross]
    seen:
      white_cross: "{{ first.databases.white_cross.seen }}"
"""

RETURN = r"""
databases:
  description: What was seen, by database.
  returned: always
  type: dict
  contains:
    findings:
      description: What is not well, a sentence each.
      type: list
      elements: str
    signals:
      description: The same with its kind, and the value and its limit where there are numbers.
      returned: where something was judged
      type: list
      elements: dict
    seen:
      description: What the next look is to be given.
      type: dict
    transactions:
      description: Transactions since the look before.
      type: int
    deadlocks:
      description: Deadlocks since then.
      type: int
    conflicts:
      description: Queries of a standby that recovery has cancelled since then; 0 on a primary.
      type: int
    error_rate:
      description: Percent of them that rolled back; null where they are too few to say.
      type: float
    probe_ms:
      description: Milliseconds of the probe, the median of three.
      type: float
    replication_lag_s:
      description: Seconds that a standby is behind; null where the role may not see it.
      type: float
    index_scans:
      description: How often each of O(indexes) has been scanned by now on the server that was asked; each standby counts on its own.
      returned: where indexes were named
      type: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Look at each database; what is not well is the caller's to judge."""
    module = pgops_module.create_module(
        {
            "seen": {"type": "dict", "default": {}},
            "indexes": {"type": "dict", "default": {}},
            "health": {
                "type": "dict",
                "default": {},
                "options": {
                    "pause": {"type": "float"},
                    "error_rate": {"type": "float", "default": 5},
                    "probe": {"type": "str"},
                    "probe_limit": {"type": "float", "default": 1000},
                    "replication_lag": {"type": "float", "default": 30},
                    "performance": {"type": "float", "default": 50},
                },
            },
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import batch_health, index_use
        from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control

        given = module.params
        limits = batch_health.Limits(**{name: value for name, value in given["health"].items() if value is not None})
        found = {}
        for name, target in pgops_module.targets(module).items():
            found[name] = batch_health.look_again(target, given["seen"].get(name), limits, control=Control())
            if given["indexes"].get(name):
                found[name]["index_scans"] = index_use.scans(target, given["indexes"][name])
        return {"databases": found}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
