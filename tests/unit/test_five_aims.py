# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The five aims of a run: each is told by what the run has measured, and by nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils import five_aims

TRANSIT = "ssl is on, this session is encrypted, {} of 4 sessions come from elsewhere without TLS"
PHASES: dict[str, Any] = {
    "plan": {"pending": [{"version": "1", "phi": True}]},
    "backup": {"path": "/b", "encryption": {"tool": "age"}},
    "prove": {"level": 4},
    "rehearse": {"rehearsal": {"down_equal": True, "forecast": {"blocks_reads": 0.0, "blocks_writes": 0.4}}},
    "apply": {"applied": [], "audit": {"seq": 3}},
    "phi_close": {"phi_window": {"logging": "log_statement", "encryption_in_transit": TRANSIT.format(0), "encryption_at_rest": "attested: LUKS"}},
    "preflight_after": {"rows": {"fewer": [], "same": 7, "more": [{"table": "public.b"}], "not_compared": []}},
}  # fmt: skip


def hook(kind: str, at: str, done: str = "yes") -> list[dict[str, Any]]:
    begun, ended = (f"2026-01-01T12:00:{at}.{part}Z" for part in ("000", "500"))
    return [
        {"event": "phase_started", "time": begun, "host": "db1", "hook": {"kind": kind}},
        {"event": "phase_finished", "time": ended, "host": "db1", "hook": {"kind": kind, "done": done}},
    ]


def looked(before: float | None, after: float) -> dict[str, Any]:
    seen = {"clinic": {"before": {"probe_ms": before}}}
    return {"event": "looked", "host": "db1", "seen": seen, "figures": {"clinic": {"probe_ms": after}}}


AWAY_AND_BACK = [*hook("stop", "10"), *hook("start", "21")]


def told(events: list[dict[str, Any]], **changed: Any) -> dict[str, tuple[bool | None, str]]:
    phases = {name: found for name, found in {**PHASES, **changed}.items() if found is not None}
    aims = five_aims.of(events, {"db1": {"clinic": phases}})
    assert [aim["aim"] for aim in aims] == ["zero loss", "outage", "HIPAA", "way back", "speed"]
    return {aim["aim"]: (aim["met"], aim["figure"]) for aim in aims}


def test_all_five_are_met_with_their_figures() -> None:
    found = told([*AWAY_AND_BACK, looked(10.0, 12.5)])
    assert found["zero loss"] == (True, "no table of 8 has fewer rows than before")
    waiting = "the rehearsal foretold 0.4 s of waiting for locks"
    assert found["outage"] == (True, f"users were kept out for 11.5 s, and 30 s are the target; {waiting}")
    assert found["HIPAA"][0] is True
    for part in ("is in the audit", "logged by log_statement", "at rest: attested: LUKS", "the backup is encrypted"):
        assert part in found["HIPAA"][1]
    assert found["way back"] == (
        True,
        "the backup is proved at level 4 of 6, the way down left nothing in its rehearsal",
    )
    assert found["speed"] == (True, "clinic on db1: the probe took 10.0 ms before and 12.5 ms after")


def test_what_was_not_measured_says_so_and_is_neither_met_nor_missed() -> None:
    found = {aim["aim"]: aim for aim in five_aims.of([], {"db1": {"clinic": {}}})}
    assert {aim["met"] for aim in found.values()} == {None}
    assert all(aim["figure"].startswith("not measured") for aim in found.values())
    assert "met" not in "".join(five_aims.lines(found.values())).replace("not measured", "").lower()


def waits(**changed: Any) -> dict[str, Any]:
    return {"client_waits": {"looks": 12, "waits": 0, "longest_s": 0.0, "seconds": 12.3, **changed}}


@pytest.mark.parametrize(
    ("apply", "figure"),
    [
        (waits(), "no client was seen waiting for its locks in 12 looks, one each second"),
        (waits(looks=0, seconds=0.4), "no client can have waited for its locks longer than the 0.4 s that it worked"),
        (waits(waits=3, longest_s=2.26), "clients waited for its locks 3 times in 12 looks, the longest for 2.3 s"),
    ],
)
def test_who_waited_for_the_locks_is_part_of_the_outage(apply: dict[str, Any], figure: str) -> None:
    foretold = "and 30 s are the target; the rehearsal foretold 0.4 s of waiting for locks"
    assert told([], apply=apply)["outage"] == (True, f"no hook kept users out, {figure}, {foretold}")
    assert told([], apply=None, revert=apply)["outage"][0] is True


MISSED: list[tuple[str, list[dict[str, Any]], dict[str, Any], str]] = [
    ("zero loss", [], {"preflight_after": {"rows": {"fewer": [{"table": "public.a"}], "same": 1}}}, "fewer rows than before in public.a"),
    ("outage", [*hook("stop", "10"), *hook("start", "50")], {}, "40.5 s"),
    ("outage", hook("maintenance_on", "10"), {}, "kept out still"),
    ("outage", [*hook("stop", "10"), *hook("start", "20", "no")], {}, "kept out still"),
    ("outage", [*hook("stop", "10"), *hook("start", "20")], {"apply": waits(waits=1, longest_s=31.0)}, "the longest for 31.0 s"),
    ("HIPAA", [], {"backup": {"path": "/b", "encryption": None}}, "the backup is not encrypted"),
    ("HIPAA", [], {"phi_close": None}, "without a log of the statements"),
    ("HIPAA", [], {"phi_close": {"phi_window": {"logging": "pgaudit", "encryption_in_transit": TRANSIT.format(2)}}}, "2 of 4"),
    ("way back", [], {"prove": {"level": 2}}, "level 2 of 6"),
    ("way back", [], {"rehearse": {"rehearsal": {"down_equal": False}}}, "left something"),
    ("speed", [looked(10.0, 60.0)], {}, "60.0 ms after"),
]  # fmt: skip


@pytest.mark.parametrize(("aim", "events", "changed", "figure"), MISSED, ids=[f"{m[0]}-{m[3]}" for m in MISSED])
def test_an_aim_that_was_missed_is_told_with_its_figure(
    aim: str, events: list[dict[str, Any]], changed: dict[str, Any], figure: str
) -> None:
    met, said = told(events, **changed)[aim]
    assert met is False
    assert figure in said


def test_a_query_that_takes_a_millisecond_is_not_slower_by_its_noise() -> None:
    assert told([looked(1.0, 9.0)])["speed"][0] is True


@pytest.mark.parametrize(
    ("playbook", "result", "due"),
    [
        ("migrate", "changed", True),
        ("migrate", "skipped", False),
        ("rollback", "skipped", True),
        ("backup", "ok", False),
    ],
)
def test_only_a_run_that_changes_something_has_aims(playbook: str, result: str, due: bool) -> None:
    assert five_aims.due(playbook, [{"phase": "apply", "result": result}]) is due
