# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: verify
short_description: Compare a database with what its applied migrations declare
version_added: 0.1.0
description:
  - Runs the applied migrations again, as the ledger keeps them, in an empty database on the scratch server, and compares every object.
    What is missing or different fails; what no migration declares is told, as a warning where it changes writes to a declared table.
  - What they made there is remembered below V(~/.cache/whitecross.pgops) (or E(XDG_CACHE_HOME)) of the user that the module runs as, for these
    versions on this server. Where nothing differs from it, they are not run again; a difference is never told from memory.
  - A difference that was accepted when the database was adopted is a warning that says by whom and when, as long as it is the same one.
  - Of owners and privileges it compares those of functions that are C(SECURITY DEFINER), or of which a version granted or revoked C(EXECUTE).
    Another owner, C(EXECUTE) for C(PUBLIC) that a version revoked, and one that a version granted and that is gone, fail; what a
    site has granted a role beyond that is a notice. Other owners and privileges are not compared.
  - Runs the verification of each applied version.
  - Counts, for every foreign key of the database, the rows without a parent, and looks for an index that leads with its columns.
  - Runs the named checks of the tree, each where the versions that it needs are applied.
  - Looks for invalid indexes, constraints that are not validated or not enforced, and disabled triggers.
  - Warns of tables whose comment, or that of a column, begins with V(PHI) and that have no forced row-level security, or no trigger whose
    function's comment begins with V(AUDIT) (or V(APPEND-ONLY)) for every kind of change; tells those without a column C(deletedAt).
  - Looks into PostgreSQL's own log for errors of the sessions of the run, where the server collects its log and the migrator or O(restore_user) may
    read it. An error is a warning; a lock that was not had in time, to be tried again, and a statement that was cancelled are counted apart.
  - Writes nothing to the databases. In check mode no scratch database is made, so the schema is not compared.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  compare_schema:
    description:
      - Whether the applied migrations are run again and compared. Without it O(restore_user) need not create databases, and
        drift goes unseen, and what a later version has taken away of an earlier one fails with a note, unless a run that compared has left
        on this host what it saw.
    type: bool
    default: true
  verbose:
    description:
      - Whether the screen has a line for each object that passed as well. The result is the same.
    type: bool
    default: false
  evidence:
    description:
      - The file on the ops host that tells the next environment what is applied and verified in this one, outside production;
        C(evidence/<environment>.json) below C(pgops_state_directory) where it is not given. One that is another environment's is refused.
      - What holds no longer is taken out by the action plugin at once; what is new is put in by M(whitecross.pgops.report), when the whole
        run has ended well.
    type: path
  applied:
    description:
      - The versions that this run has applied, by database; one that is applied no longer fails. Filled by the action plugin.
    type: dict
    default: {}
  log_began:
    description:
      - The file of the server's log (C(file)) and its length (C(bytes)) when the run began. Filled by the action plugin.
    type: dict
  checks:
    description:
      - The named checks of C(sql/checks); the action plugin reads them from the tree that C(pgops_sql) names.
    type: list
    elements: dict
    default: []
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Verify after a migration
  whitecross.pgops.verify:
    databases: [white_cross]

- name: Verify where no scratch database may be made
  whitecross.pgops.verify:
    databases: [white_cross]
    compare_schema: false
"""

RETURN = r"""
databases:
  description: The verification of each database.
  returned: always
  type: dict
  contains:
    passed:
      description: Whether nothing failed; warnings and notices do not count.
      type: bool
    versions:
      description: The applied versions whose schema was expected.
      type: list
      elements: str
    ledger:
      description: Each of them with the checksum of its files, when it was applied and for how many seconds; the next environment's evidence.
      type: dict
    baseline:
      description: The baseline whose schema was expected, where the database is on one.
      type: str
    lines:
      description: Each declared object with V(kind), V(object) and V(passed).
      type: list
      elements: dict
    checks:
      description: Each named check with V(name), V(title), V(state) (V(passed), V(failed) or V(left out)) and V(why) it was left out.
      type: list
      elements: dict
    findings:
      description: What is not as it should be.
      type: list
      elements: dict
      contains:
        check:
          description: The check that found it.
          type: str
        level:
          description: V(fail), V(warn) or V(notice).
          type: str
        object:
          description: Kind and name of the object.
          type: str
        attribute:
          description: What of it differs.
          type: str
        expected:
          description: What should be there.
          type: raw
        found:
          description: What is there; counts and ids, never the contents of rows.
          type: raw
        note:
          description: Who accepted it when the database was adopted and when, or that it is another difference than the one they accepted.
          type: str
        declared:
          description: Whether an applied version makes the object; what none makes is not mended by going back.
          type: bool
    foreign_keys:
      description: Every foreign key with its table, columns, target, rows without a parent and whether an index leads with its columns.
      type: list
      elements: dict
    rows:
      description: Rows of each table, largest first, and whether the number is an estimate.
      type: list
      elements: dict
    extensions:
      description: Installed extensions with their versions.
      type: list
      elements: dict
    definitions:
      description: Every table (by its columns), index and constraint with V(kind), V(object) and V(definition), as it is now.
      type: list
      elements: dict
    server_log:
      description: What PostgreSQL's own log holds of the sessions of the run; where the module was given O(run_id).
      type: dict
      contains:
        looked:
          description: Whether it could be read.
          type: bool
        why:
          description: Why not.
          type: str
        hint:
          description: What to do to have it.
          type: str
        source:
          description: V(jsonlog), V(csvlog) or V(stderr).
          type: str
        gaps:
          description: What of the time of the run is not in what was read, a sentence each.
          type: list
          elements: str
        errors:
          description: Each error once, with V(severity), V(sqlstate), V(message), V(database), V(application), V(at) and V(times). No statement, no value.
          type: list
          elements: dict
        provoked:
          description: How often a lock was not had in time (V(lock timeout)) and a statement was V(cancelled).
          type: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Verify every database and leave with what was found, failed where one did not pass."""
    module = pgops_module.create_module(
        {
            "compare_schema": {"type": "bool", "default": True},
            "verbose": {"type": "bool", "default": False},
            "evidence": {"type": "path"},
            "applied": {"type": "dict", "default": {}},
            "log_began": {"type": "dict"},
            "checks": {"type": "list", "elements": "dict", "default": []},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import verify

        progress, control = pgops_module.job(module)
        try:
            databases = verify.verify(
                pgops_module.targets(module),
                control=control,
                progress=progress,
                run_id=module.params["run_id"],
                applied=module.params["applied"],
                compare_schema=module.params["compare_schema"] and not module.check_mode,
                checks=module.params["checks"],
                log_began=module.params["log_began"],
            )
        finally:
            control.stop()
        return {"changed": False, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
