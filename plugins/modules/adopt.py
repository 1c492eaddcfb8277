# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: adopt
short_description: Take over a database that Sequelize or Prisma migrated
version_added: 0.1.0
description:
  - Tells for every version of the tree what their ledger says, what the catalog says, and how the two differ. The tree is run
    in an empty database on the scratch server and its objects are compared with those that are there; the word of the other tool
    decides nothing.
  - A version that is wholly there is recorded as applied, with a fingerprint of its objects. One that is partly there is recorded
    together with a migration that repairs it, where the repair is certain; otherwise nothing is recorded and the differences are
    listed. One that is not there stays pending.
  - The action plugin writes the repair into the tree before anything is recorded. In check mode nothing is written anywhere.
  - Tables and columns that no version declares are listed and left alone, and so is the other tool's ledger unless O(mirror) or
    O(fence) ask for more.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.ledger_run
options:
  migrations:
    description:
      - The tree, rendered; filled by the action plugin from the folder that C(pgops_sql) names.
    type: list
    elements: dict
    default: []
  variables:
    description:
      - Values for variables that migrations declare, instead of their defaults. Used by the action plugin.
    type: dict
    default: {}
  names:
    description:
      - What the other tools called the versions, by tool and version; filled by the action plugin from C(legacy_names.yml) of the tree.
    type: dict
    default: {}
  force:
    description:
      - The name of a database that is to be adopted although it looks like another application's.
    type: str
  accept:
    description:
      - Objects whose difference from the tree somebody has looked at and takes as it is, as they are named in the result. They are
        recorded as they are, and M(whitecross.pgops.verify) warns of them as long as they stay so.
    type: list
    elements: str
    default: []
  mirror:
    description:
      - V(sequelize) keeps Sequelize's ledger in step with ours from now on, so that C(db:migrate:status) goes on to tell the truth; only
        versions that O(names) gives a file of Sequelize get a row there. V(none) ends that.
    type: str
    choices: [sequelize, none]
  fence:
    description:
      - Whether a migration by the other tool fails from now on, with a message that says why. Sequelize is stopped by an event trigger
        where O(restore_user) is a superuser, else its login loses ownership and CREATE and keeps its rights on rows; Prisma by a trigger
        on its ledger. V(false) takes the triggers away; ownership is not given back.
    type: bool
  legacy_login:
    description:
      - The role that the other tool connects as; by default the owner of its ledger.
    type: str
  baseline:
    description:
      - A name under which a database with text ids is taken as it is, since the tree does not fit it. One entry with a fingerprint of
        the catalog and the word of the other ledgers is recorded; nothing is compared with the tree.
      - Refused where ids are uuid, and together with O(mirror), O(fence) or O(accept).
    type: str
  record:
    description:
      - Whether what is proved is recorded. The action plugin looks first, writes the repair, and then records.
    type: bool
    default: true
  expected:
    description:
      - By database, ledger head and catalog fingerprint as they were shown. If something moved, nothing is recorded. Filled by the
        action plugin.
    type: dict
    default: {}
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: See what is there
  whitecross.pgops.adopt:
    databases: [white_cross]
  check_mode: true

- name: Take it over
  whitecross.pgops.adopt:
    databases: [white_cross]

- name: Take a database with text ids as it is
  whitecross.pgops.adopt:
    databases: [white_cross]
    baseline: text_ids
"""

RETURN = r"""
databases:
  description: What was found and recorded, by database.
  returned: always
  type: dict
  contains:
    versions:
      description: Every version with V(ledger) (their word), V(catalog), V(differences) and V(action).
      type: list
      elements: dict
    ledgers:
      description: The ledgers of other tools, with each of their entries.
      type: list
      elements: dict
    era:
      description: Whether ids are V(uuid) or V(text); V(none) where no table of the tree is there.
      type: str
    strangers:
      description: Objects that no version declares; they are left alone.
      type: list
      elements: str
    repairs:
      description: Version, name and files of each migration that repairs, in order, and which versions it completes.
      type: list
      elements: dict
    adopted:
      description: Versions that are recorded, or would be.
      type: list
      elements: str
    recorded:
      description: Versions that this call recorded.
      type: list
      elements: str
    pending:
      description: Versions that C(migrate.yml) applies next.
      type: list
      elements: str
    accepted:
      description: Objects of O(accept) that differ.
      type: list
      elements: str
    text_ids:
      description: Where ids are text, each table with its rows, ids that are no uuid, ids that differ only in case, and columns
        that hold ids without a foreign key.
      type: list
      elements: dict
    baseline:
      description: With O(baseline), its V(name), V(fingerprint), V(objects) and V(tables), whether it is V(new), and which one
        it V(replaces).
      type: dict
    mirror:
      description: Names added to and removed from the other ledger, where that was asked for and changed something.
      type: dict
    fence:
      description: What was put up or taken away.
      type: list
      elements: str
    state:
      description: Ledger head and catalog fingerprint.
      type: dict
    audit:
      description: Number and hash of the last audit row, to be kept outside the database.
      type: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Adopt database after database; the first that cannot be adopted ends it."""
    module = pgops_module.create_module(
        {
            "migrations": {"type": "list", "elements": "dict", "default": []},
            "variables": {"type": "dict", "default": {}},
            "names": {"type": "dict", "default": {}},
            "force": {"type": "str"},
            "accept": {"type": "list", "elements": "str", "default": []},
            "mirror": {"type": "str", "choices": ["sequelize", "none"]},
            "fence": {"type": "bool"},
            "legacy_login": {"type": "str"},
            "baseline": {"type": "str"},
            "record": {"type": "bool", "default": True},
            "expected": {"type": "dict", "default": {}},
            **pgops_module.LEDGER_RUN_OPTIONS,
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import adoption, migrate
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

        given = module.params
        writes = given["record"] and not module.check_mode
        request = adoption.Request(
            given["names"],
            given["force"],
            given["accept"],
            given["mirror"],
            given["fence"],
            given["legacy_login"],
            given["baseline"],
        )
        databases: dict[str, Any] = {}
        progress, control = pgops_module.job(module)
        try:
            for name, target in pgops_module.targets(module).items():
                way = migrate.Way(
                    migrate.run_of(given["run_id"], given["run"], name),
                    progress,
                    control,
                    lock_wait_s=given["lock_wait"],
                )
                if writes:
                    databases[name] = adoption.adopt(
                        target, given["migrations"], request, way, expected=given["expected"].get(name)
                    )
                else:
                    databases[name] = adoption.look(target, given["migrations"], request, way)
        except PgopsError as error:
            error.extra["databases"] = {**databases, **error.extra.get("databases", {})}
            raise
        finally:
            control.stop()
        return {
            "changed": any(
                found["adopted"]
                or found["mirror"]
                or found["fence"]
                or (found["baseline"] and found["baseline"]["new"])
                for found in databases.values()
            ),
            "databases": databases,
        }

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
