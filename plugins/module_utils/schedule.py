# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Has an environment's playbooks run by themselves: looks at what is asked for, then lets systemd, or cron, have it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    schedule_calendar,
    schedule_cron,
    schedule_install,
    schedule_units,
    timer_state,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.schedule_ground import CRON, SYSTEMD, Ground, Wanted
from ansible_collections.whitecross.pgops.plugins.module_utils.schedule_install import Change, Crontab, Systemd
from ansible_collections.whitecross.pgops.plugins.module_utils.schedule_units import Job


def install(wanted: Wanted, *, check_mode: bool) -> dict[str, Any]:
    """Make what is there into what is asked for.

    :return: ``changed``, ``diff``, ``manager``, ``jobs``, ``exposure``, ``notes``
    :raises PgopsError: something asked for cannot be; nothing was changed then, unless the sentence says so
    """
    ground = Ground.of(wanted)
    ground.refuse_absent_files()
    ground.refuse_foreign_state()
    manager = ground.manager(check_mode)
    if manager == CRON:
        return _install_cron(ground, check_mode)
    return _install_systemd(ground, check_mode)


def remove(wanted: Wanted, *, check_mode: bool) -> dict[str, Any]:
    """Take exactly our units, or our lines of the crontab, away, and what is known of them.

    :return: as :func:`install`
    :raises PgopsError: a job runs just now
    """
    ground = Ground.of(wanted)
    systemd = Systemd(ground.setting(), ground.unit_folder)
    changes = systemd.changes({})
    known = ground.before
    table, after = _crontab_without_ours(ground)
    if not check_mode:
        if changes:
            systemd.apply(changes, [])
        if table != after:
            Crontab().write(after)
    leftover = ground.state_files()
    if not check_mode:
        ground.forget(leftover)
    diff = [change.diff() for change in changes] + _table_diff(table, after)
    diff += [Change(path, timer_text(path), "").diff() for path in leftover]
    return {
        "changed": bool(diff),
        "diff": diff,
        "manager": (known or {}).get("manager"),
        "jobs": [],
        "exposure": {},
        "notes": [],
    }


def _crontab_without_ours(ground: Ground) -> tuple[str, str]:
    """:return: the crontab as it is and as it would be; both empty where our lines are not in one."""
    if (ground.before or {}).get("manager") != CRON:
        return "", ""
    table = Crontab().read()
    return table, schedule_cron.replaced(table, ground.mark, "")


def _install_systemd(ground: Ground, check_mode: bool) -> dict[str, Any]:
    jobs = [(job, schedule_calendar.calendar(job["name"], job["on_calendar"])) for job in ground.wanted.jobs]
    setting = ground.setting()
    systemd = Systemd(setting, ground.unit_folder)
    units = schedule_units.units(setting, [_job(job) for job, _calendar in jobs])
    changes = systemd.changes(units)
    running = schedule_install.there_is_systemd()
    if running:
        systemd.refuse_silence()
    if changes:
        systemd.verify(units)
    record = ground.record(SYSTEMD, {job["name"]: calendar.longest_s for job, calendar in jobs})
    timers = [setting.unit(job["name"], "timer") for job, _calendar in jobs]
    off = [timer for timer in timers if not running or not systemd.is_on(timer)]
    off += systemd.stale(timers) if running else []
    missing = ground.missing_folders()
    # A host that had none got a systemd: both would run them.
    table, after = _crontab_without_ours(ground)
    notes = []
    if not setting.system and running and not schedule_install.lingers(ground.user.pw_name):
        notes.append(
            f"The timers of {ground.user.pw_name} stand still while that user is not logged in; type: loginctl enable-linger "
            f"{ground.user.pw_name}"
        )
    if not check_mode:
        ground.make_folders(missing)
        # Before the first timer fires: its run reads it.
        ground.write_record(record)
        if table != after:
            Crontab().write(after)
        systemd.apply(changes, timers)
        ground.forget(ground.state_files(keep=record["jobs"]))
    diff = [change.diff() for change in changes] + _table_diff(table, after) + record_diff(ground, record)
    return {
        "changed": bool(diff or off or missing or ground.state_files(keep=record["jobs"])),
        "diff": diff,
        "manager": SYSTEMD,
        "jobs": _told(record),
        "exposure": systemd.exposure(units) if changes else {},
        "notes": notes,
    }


def _install_cron(ground: Ground, check_mode: bool) -> dict[str, Any]:
    crontab = Crontab()
    table = crontab.read()
    lines, longest = [], {}
    program = list(ground.wanted.program)
    for job in ground.wanted.jobs:
        calendar = schedule_cron.calendar(job["name"], job["on_calendar"])
        longest[job["name"]] = calendar.longest_s
        words = [*program, "cron", ground.place.record, job["name"], "--", *job["command"]]
        lines.append(schedule_cron.line(calendar.fields, ground.wanted.directory, words))
    after = schedule_cron.replaced(table, ground.mark, schedule_cron.block(ground.mark, lines))
    record = ground.record(CRON, longest)
    if not check_mode:
        ground.make_folders(ground.missing_folders())
        ground.write_record(record)
        if table != after:
            crontab.write(after)
        ground.forget(ground.state_files(keep=record["jobs"]))
    diff = _table_diff(table, after) + record_diff(ground, record)
    told = "There is no systemd here: cron makes up for no run that the machine slept through"
    return {
        "changed": bool(diff),
        "diff": diff,
        "manager": CRON,
        "jobs": _told(record),
        "exposure": {},
        "notes": [told],
    }


def _job(job: Mapping[str, Any]) -> Job:
    return Job(
        name=str(job["name"]),
        command=[str(word) for word in job["command"]],
        on_calendar=str(job["on_calendar"]),
        delay_s=int(job["delay_s"]),
        timeout_s=int(job["timeout_s"]),
        ping_url_file=job.get("ping_url_file") or None,
    )


def _told(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, **job} for name, job in record["jobs"].items()]


def _table_diff(before: str, after: str) -> list[dict[str, str]]:
    return [Change("crontab", before, after).diff()] if before != after else []


def record_diff(ground: Ground, record: Mapping[str, Any]) -> list[dict[str, str]]:
    """:return: what changes of the record, for ``--diff``."""
    before = ground.before
    if before == record:
        return []
    return [Change(ground.place.record, _shown(before) if before else "", _shown(record)).diff()]


def timer_text(path: str) -> str:
    """:return: a file of ours as ``--diff`` shows it; a lock has none."""
    found = timer_state.read(path)
    return _shown(found) if found else "\n"


def _shown(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
