# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: export
short_description: Export a database to hand it on
version_added: 0.1.0
description:
  - Writes C(<database>_<YYYYMMDD_HHMMSS>) with C(.dump), C(.dir), C(.sql) or C(.sql.gz) into a folder of the database, large objects
    included, by the pg_dump of the server's own major, reads it back to its end, and gives it its name only then. Earlier exports are
    never touched.
  - Beside it lie what pg_dump has logged (C(.log), also of an export that failed) and the sha256 of each file (C(.sha256), as
    C(sha256sum -c) reads it). Files are 0600, folders 0700.
  - An export is no backup. It has no manifest to prove a restore by; no migration and no rollback takes one.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  directory:
    description:
      - The folder of the exports, on the host where the module runs.
    type: path
    required: true
  format:
    description:
      - One file for C(pg_restore), SQL for C(psql), or a folder that several processes write.
    type: str
    choices: [custom, plain, directory]
    default: custom
  compression:
    description:
      - What C(pg_dump --compress) takes; with O(format=plain) only gzip. V(1), and V(0) with O(format=plain), where it is not set.
    type: str
  jobs:
    description:
      - Processes of C(pg_dump), with O(format=directory).
    type: int
    default: 2
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Export as SQL
  whitecross.pgops.export:
    databases: [white_cross]
    directory: /var/backups/postgres/exports
    format: plain
"""

RETURN = r"""
databases:
  description: Each export, by database.
  returned: always
  type: dict
  contains:
    path:
      description: The file or the folder.
      type: str
    log:
      description: What pg_dump has logged.
      type: str
    format:
      description: V(custom), V(plain) or V(directory).
      type: str
    client:
      description: The pg_dump that made it.
      type: str
    bytes:
      description: Its size.
      type: int
    seconds:
      description: How long it took, reading it back included.
      type: float
    sha256:
      description: Of the file; of a folder, of the list of its files' sums.
      type: str
    snapshot_time:
      description: The moment that it shows.
      type: str
    not_included:
      description: What pg_dump leaves out, and why.
      type: list
      elements: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Export every database, one after the other."""
    module = pgops_module.create_module(
        {
            "directory": {"type": "path", "required": True},
            "format": {"type": "str", "choices": ["custom", "plain", "directory"], "default": "custom"},
            "compression": {"type": "str"},
            "jobs": {"type": "int", "default": 2},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import export
        from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import end_on_sigterm

        progress, control = pgops_module.job(module)
        end_on_sigterm(control)
        asked = export.Export(
            module.params["directory"],
            module.params["run_id"] or "by-hand",
            form=module.params["format"],
            compression=module.params["compression"] or "",
            jobs=module.params["jobs"],
            progress=progress,
            control=control,
        )
        make = export.preview if module.check_mode else export.create_export
        databases = {database: make(target, asked) for database, target in pgops_module.targets(module).items()}
        return {"changed": True, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
