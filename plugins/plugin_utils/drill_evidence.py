# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a drill leaves for a reviewer: who restored which backup when, how far it came, how long it took. A page, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import NAMES
from ansible_collections.whitecross.pgops.plugins.plugin_utils import proof_levels
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import without_secrets, write_private_file
from ansible_collections.whitecross.pgops.plugins.plugin_utils.reporting import files, seconds, size

TEMPLATE = Path(__file__).parents[2] / "roles" / "drill" / "templates" / "drill.html.j2"


def document(run: Mapping[str, Any], host: str, database: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """:param run: as the guard has begun it.
    :param found: of one database, as the module drill returns it.
    :return: the evidence as plain data."""
    about = {name: run.get(name) for name in ("environment", "who", "ops_host", "command", "limit")}
    return dict(without_secrets({"run_id": run["id"], **about, "host": host, "database": database, **found}))


def page(evidence: Mapping[str, Any]) -> str:
    """:return: the evidence as one page of HTML that needs nothing else."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(size=size, seconds=seconds)
    climbed = {entry["level"] for entry in evidence["levels"]}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        drill=evidence,
        forecast=proof_levels.forecast_line(evidence["forecast"]),
        missing=[(level, name) for level, name in enumerate(NAMES) if level not in climbed],
    )


def write(state_directory: str, evidence: Mapping[str, Any]) -> Path:
    """Write page and JSON beside the report of the run, each whole or not at all.

    :return: the page.
    :raises OSError: they cannot be written.
    """
    folder = files(state_directory, str(evidence["environment"]), str(evidence["run_id"]))["html"].parent
    name = f"{evidence['run_id']}.drill.{quote(str(evidence['host']), safe='')}.{quote(str(evidence['database']), safe='')}"
    write_private_file(folder / f"{name}.json", json.dumps(evidence, indent=2, ensure_ascii=False) + "\n")
    write_private_file(folder / f"{name}.html", page(evidence))
    return folder / f"{name}.html"
