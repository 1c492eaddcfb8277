# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: maintenance_plan
short_description: Which tables and indexes need maintenance, why, and how long it will take
version_added: 0.1.0
description:
  - Reads what the server knows of its tables and indexes, and plans ANALYZE, VACUUM and REINDEX CONCURRENTLY by need, each with its reason in
    words and the seconds that it is expected to take; what the server would force first (the oldest transaction id) comes first.
  - An estimate ranks the indexes, C(pgstatindex) decides where the extension pgstattuple is there and may be used. An index that was rebuilt
    lately is left.
  - Reports what maintenance does not mend - tables whose free space VACUUM cannot give back, indexes that nobody uses or that another one
    makes needless, and invalid ones - with the evidence and the way out. It drops nothing.
  - Writes nothing.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.maintenance
options:
  modified_percent:
    description:
      - Statistics are made anew when so many percent of a table's rows were modified since.
    type: float
    default: 10
  analyze_after_days:
    description:
      - Statistics of a table of which any row was modified are no older than so many days.
    type: float
    default: 7
  dead_percent:
    description:
      - A table is vacuumed when it has so many dead rows, in percent of its rows.
    type: float
    default: 10
  inserted_percent:
    description:
      - A table is vacuumed when so many percent of its rows were inserted since the last VACUUM, so that index-only scans need not read it.
    type: float
    default: 20
  rows_least:
    description:
      - Fewer rows than this are no reason for any of the above.
    type: int
    default: 1000
  freeze_percent:
    description:
      - A table is frozen when its oldest transaction id or multixact is so old, in percent of C(autovacuum_freeze_max_age), from which on
        the server forces it in the middle of the day.
    type: float
    default: 50
  index_bloat_percent:
    description:
      - A B-tree is rebuilt when so many percent of it are air, as measured. Of one that could only be estimated it takes 20 more.
    type: float
    default: 40
  index_least_mb:
    description:
      - Smaller indexes stay as they are.
    type: float
    default: 10
  reindex_after_days:
    description:
      - Days between two rebuilds of one index.
    type: float
    default: 10
  measure_budget_s:
    description:
      - Seconds for reading indexes and tables with the extension pgstattuple, the most promising first.
    type: float
    default: 60
  exclude:
    description:
      - Tables that are left alone, as C(schema.table) with V(*) for anything.
    type: list
    elements: str
    default: []
  table_bloat_percent:
    description:
      - A table is reported when so many percent of it are free.
    type: float
    default: 40
  table_least_mb:
    description:
      - Smaller tables are not reported.
    type: float
    default: 100
  unused_after_days:
    description:
      - Days for which the server must have counted before an index is called unused.
    type: float
    default: 30
  standbys:
    description:
      - The standbys, as V(host) or V(host:port), whose counts are added. An index is only called unused when every standby that is connected
        was asked.
    type: list
    elements: str
    default: []
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: What needs maintenance
  whitecross.pgops.maintenance_plan:
    databases: [white_cross]
    standbys: [db2.example.org]
"""

RETURN = r"""
databases:
  description: The plan of each database.
  returned: always
  type: dict
  contains:
    items:
      description: Each with C(action), C(object), C(table), C(reasons), C(bytes), C(forecast_s), C(gain_bytes), C(lacks) and C(rank).
      type: list
      elements: dict
    left_out:
      description: Indexes that look like work and get none, with C(why).
      type: list
      elements: dict
    forecast_s:
      description: Seconds of all items, one after the other.
      type: float
    looked_at:
      description: How many tables and indexes.
      type: dict
    report:
      description: C(table_bloat), C(unused_indexes), C(duplicate_indexes), C(invalid_indexes) and C(evidence).
      type: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module

NEEDS: dict[str, dict[str, Any]] = {
    "modified_percent": {"type": "float", "default": 10},
    "analyze_after_days": {"type": "float", "default": 7},
    "dead_percent": {"type": "float", "default": 10},
    "inserted_percent": {"type": "float", "default": 20},
    "rows_least": {"type": "int", "default": 1000},
    "freeze_percent": {"type": "float", "default": 50},
    "index_bloat_percent": {"type": "float", "default": 40},
    "index_least_mb": {"type": "float", "default": 10},
    "reindex_after_days": {"type": "float", "default": 10},
    "measure_budget_s": {"type": "float", "default": 60},
    "exclude": {"type": "list", "elements": "str", "default": []},
}
REPORTED: dict[str, dict[str, Any]] = {
    "table_bloat_percent": {"type": "float", "default": 40},
    "table_least_mb": {"type": "float", "default": 100},
    "unused_after_days": {"type": "float", "default": 30},
    "standbys": {"type": "list", "elements": "str", "default": []},
}


def main() -> None:
    """Plan for database after database."""
    module = pgops_module.create_module(
        {**NEEDS, **REPORTED, "user_maintains": {"type": "str"}, "window": {"type": "raw"}}
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import maintenance_plan, maintenance_report

        given = module.params
        needs = maintenance_plan.Needs.of(given)
        reported = maintenance_report.Reported.of(given)
        progress, control = pgops_module.job(module)
        databases = {}
        try:
            for name, target in pgops_module.targets(module).items():
                run = {"run_id": given["run_id"] or "maintenance", "progress": progress, "control": control}
                plan = maintenance_plan.make(target, needs, user=given["user_maintains"], **run)
                report = maintenance_report.make(target, needs, reported, user=given["user_maintains"], **run)
                databases[name] = {**plan.as_dict(), "report": report}
        finally:
            control.stop()
        return {"changed": False, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
