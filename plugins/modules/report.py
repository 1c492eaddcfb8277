# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: report
short_description: End a run with its report
version_added: 0.1.0
description:
  - Makes of the run's journal a report as JSON, as a page of HTML and as a log, below C(pgops_state_directory) on the ops host.
  - Prints the seconds of each version and of the whole run, what failed, what to type next, and where the report is.
  - Tells the address in C(pgops_webhook), or in the file (mode 0600, on the ops host) that C(pgops_webhook_file) names, how a run of
    migrate.yml or rollback.yml ended, as C({"text"}) in the form of Slack - environment, databases, seconds and the next command, no
    error and no statement. The address is shown nowhere. It has 5 seconds; one that does not take it is a warning and no more.
  - After a run that ended well and verified, outside production, it writes what is applied there into the file of evidence that the next
    environment asks for.
  - Writes the file that C(pgops_json) names, in check mode and for a refused run too.
  - Belongs into the C(always) of a play, with the tag C(always), so that a failed run has its report as well.
options:
  guard:
    description:
      - The registered result of M(whitecross.pgops.guard), which says why a refused run did not start.
    type: dict
attributes:
  check_mode:
    description: Prints and answers the same, writes no report and notifies nobody.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
notes:
  - This is an action plugin; nothing is sent to a host.
  - Without the callback P(whitecross.pgops.record#callback) it knows of a failure outside a phase only that a phase is missing.
seealso:
  - plugin: whitecross.pgops.record
    plugin_type: callback
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Leave a report whatever happened
  whitecross.pgops.report:
    guard: "{{ __guard_result | default({}) }}"
"""

RETURN = r"""
ok:
  description: Whether the run did all that it was to do.
  returned: always
  type: bool
report:
  description: The page, on the ops host.
  returned: when one was written
  type: str
  sample: /home/ops/.local/state/pgops/reports/staging/20260101T120000Z-0a1b2c.html
duration_s:
  description: Seconds from the guard to the report.
  returned: when the run had started
  type: float
notified:
  description: Whether a webhook was told of the run.
  returned: when a page was written
  type: bool
metrics:
  description: The file in C(pgops_metrics_directory), which Prometheus reads by way of node_exporter; null where none was written.
  returned: when a page was written
  type: str
"""
