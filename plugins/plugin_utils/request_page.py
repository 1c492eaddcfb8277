# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a developer learns of a version without a right in the database: one page, and the same as JSON. No value of a row is in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import now, without_secrets, write_private_file

TEMPLATE = Path(__file__).parents[2] / "roles" / "request" / "templates" / "request.html.j2"
_OF_VERSION = (
    "version",
    "name",
    "title",
    "why",
    "risk",
    "level",
    "phi",
    "rollback",
    "expected_seconds",
    "rendered_checksum",
)


def document(run: Mapping[str, Any], version: str, by: str, places: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """:param run: as the guard has begun it.
    :param places: ``host``, ``database``, ``plan`` and ``verdict`` (None with nothing pending) of each database.
    :return: plain data."""
    told = [_place(place) for place in places]
    errors = [one for place in told for one in place["findings"] if one["severity"] == "error"]
    failed = [place for place in told if place["rehearsal"] and not place["rehearsal"]["ok"]]
    found = {
        "request": version,
        "by": by,
        "at": now(),
        "run_id": run.get("id"),
        "environment": run.get("environment"),
        "ready": not errors and not failed,
        "why_not": [f"{one['file']}:{one['line']}: {one['message']}" for one in errors]
        + [f"its rehearsal {place['rehearsal']['id']} failed: {place['rehearsal']['why']}" for place in failed],
        "places": told,
    }
    return dict(without_secrets(found))


def _place(place: Mapping[str, Any]) -> dict[str, Any]:
    plan, verdict = place["plan"], place["verdict"] or {}
    return {
        "host": place["host"],
        "database": place["database"],
        "pending": [
            {**{name: item.get(name) for name in _OF_VERSION}, "steps": len(item.get("steps") or [])}
            for item in plan.get("pending") or []
        ],
        "waiting": plan.get("waiting") or [],
        "findings": plan.get("findings") or [],
        "tables": plan.get("tables") or [],
        "risk": verdict.get("risk"),
        "basis": verdict.get("basis"),
        "reasons": verdict.get("reasons") or [],
        "roles": verdict.get("roles") or [],
        "rehearsal": verdict.get("rehearsal"),
    }


def lines(request: Mapping[str, Any]) -> list[str]:
    """:return: the request as a person reads it on the screen."""
    told = []
    for place in request["places"]:
        where = f"{place['database']} on {place['host']}"
        if not place["pending"]:
            told.append(f"{where}: nothing is pending up to {request['request']}")
            continue
        told.append(
            f"{where}: {len(place['pending'])} pending up to {request['request']}, risk {place['risk']} ({place['basis']})"
        )
        told.append(f"    to be approved by {' and '.join(place['roles'])}")
    told += [f"    NOT READY: {why}" for why in request["why_not"]]
    return told


def path_of(state_directory: str, request: Mapping[str, Any]) -> Path:
    """:return: where the page lies where nobody says otherwise."""
    folder = Path(state_directory).expanduser() / "requests" / str(request["environment"])
    return folder / f"{quote(str(request['request']), safe='')}-{request['run_id']}.html"


def write(page: Path, request: Mapping[str, Any]) -> None:
    """Write page and JSON, each whole or not at all, 0600. :raises OSError: they cannot be written."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(request=request)
    write_private_file(page.with_suffix(".json"), json.dumps(request, indent=2, ensure_ascii=False) + "\n")
    write_private_file(page, text)
