# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is declared of timers, what becomes of it in units and crontabs, and what is thought of a heartbeat."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    schedule,
    schedule_calendar,
    schedule_cron,
    schedule_install,
    schedule_units,
    timer_state,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.schedule_ground import Wanted
from ansible_collections.whitecross.pgops.plugins.module_utils.timer_state import TimerPlace
from ansible_collections.whitecross.pgops.plugins.plugin_utils import schedule_jobs
from ansible_collections.whitecross.pgops.plugins.plugin_utils.schedule_jobs import Refused
from support.podman import ROOT

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
needs_systemd_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def setting(tmp_path: Path, **other: Any) -> schedule_units.Setting:
    given: dict[str, Any] = {
        "environment": "production", "system": True, "user": "root", "directory": str(tmp_path), "record": "/var/lib/pgops/schedule/production.json",
        "program": ["/usr/bin/python3", "-P", "/srv/scheduled_job.py"], "writable": ["/var/lib/pgops"],
    }  # fmt: skip
    return schedule_units.Setting(**{**given, **other})


def job(**other: Any) -> schedule_units.Job:
    given: dict[str, Any] = {
        "name": "backup", "command": ["/bin/ansible-playbook", "backup.yml"], "on_calendar": "*-*-* 01:30", "delay_s": 900, "timeout_s": 0,
    }  # fmt: skip
    return schedule_units.Job(**{**given, **other})


# -- which jobs -----------------------------------------------------------------------------------------------------------


def test_without_a_word_all_usual_jobs_whose_playbook_is_there() -> None:
    jobs, absent = schedule_jobs.chosen({}, {}, lambda playbook: playbook in ("backup.yml", "status.yml"))
    assert [(job.name, job.playbook) for job in jobs] == [("audit_anchor", "status.yml"), ("backup", "backup.yml")]
    assert list(absent) == ["maintenance", "retention", "drill", "preflight"]


def test_a_job_takes_what_is_usual_where_nothing_is_said() -> None:
    given = {
        "drill": {"on_calendar": "Sat *-*-*  04:00"},
        "own": {"playbook": "own.yml", "on_calendar": "daily", "variables": {"backup_jobs": 4}},
    }
    jobs, absent = schedule_jobs.chosen(given, {"backup_jobs": 2, "backup_rate_limit_mb": 5}, lambda _playbook: False)
    assert absent == {}
    assert [(job.playbook, job.on_calendar, job.delay) for job in jobs] == [
        ("restore_drill.yml", "Sat *-*-* 04:00", 900),
        ("own.yml", "daily", 900),
    ]
    command = jobs[1].command("/bin/ansible-playbook", "own.yml", ["/srv/hosts"], "production")
    assert command[:6] == ["/bin/ansible-playbook", "own.yml", "-i", "/srv/hosts", "-l", "production"]
    assert json.loads(command[7]) == {"backup_jobs": 4, "backup_rate_limit_mb": 5}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"backup": {"on_calender": "daily"}}, r"backup has no option on_calender \(did you mean on_calendar\?\)"),
        ({"backups": {}}, r"backups needs a playbook and an on_calendar \(did you mean backup\?\)"),
        ({"x": {"playbook": "x.yml"}}, "The job x needs a playbook and an on_calendar; without any"),
        ({"Backup": {}}, "names the job 'Backup'; a name begins with a letter"),
        ({"back-up": {}}, "names the job 'back-up'"),
        ({"failed": {"playbook": "x.yml", "on_calendar": "daily"}}, "the unit that tells of a failure"),
        ({"backup": "daily"}, "schedule_jobs.backup is a mapping of playbook"),
        ({"backup": {"delay": "5 min"}}, "backup.delay is 5 min; it is a number of seconds"),
        ({"backup": {"timeout": -1}}, "backup.timeout is -1"),
        ({"backup": {"variables": {"backup_cipher_passphrase": "hunter2"}}}, "has backup_cipher_passphrase, which is a secret or no variable"),
        ({"backup": {"variables": {"backup_jbos": 2}}}, "has backup_jbos, which is a secret or no variable"),
        (["backup"], "schedule_jobs is a mapping"),
    ],
)  # fmt: skip
def test_a_job_that_cannot_be_meant_is_refused(given: Any, told: str) -> None:
    with pytest.raises(Refused, match=told) as refused:
        schedule_jobs.chosen(given, {}, lambda _playbook: True)
    assert "hunter2" not in str(refused.value)


def test_the_page_tells_what_runs_when() -> None:
    page = (ROOT / "docs" / "schedule.md").read_text(encoding="utf-8")
    for job in schedule_jobs.USUAL.values():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{job.name}` |")]
        assert f"`{job.playbook}`" in row
        assert job.on_calendar[-5:] in row


# -- units ----------------------------------------------------------------------------------------------------------------


def test_a_unit_gives_on_exactly_the_words_that_it_was_given(tmp_path: Path) -> None:
    words = ["/bin/ansible-playbook", "-e", '{"a": "b c", "d": "100 %", "e": "$HOME \\n"}', "it's", "ü"]
    text = schedule_units.words(words)
    assert "%" not in text.replace("%%", "")
    # As systemd unquotes: shell quoting without expansion, and its own two escapes.
    assert shlex.split(text) == [word.replace("%", "%%").replace("$", "$$") for word in words]
    with pytest.raises(PgopsError, match="holds a line end"):
        schedule_units.units(setting(tmp_path), [job(command=["/bin/x", "a\nExecStart=/bin/y"])])


def test_units_hold_where_secrets_lie_and_what_shuts_them_in(tmp_path: Path) -> None:
    made = setting(
        tmp_path,
        credentials={"pgops_passfile": "/etc/pgops/passfile"},
        told_with={"pgops_webhook_file": "/etc/pgops/hook"},
    )
    units = schedule_units.units(made, [job(ping_url_file="/etc/pgops/ping", timeout_s=60)])
    assert sorted(units) == [
        "pgops-production-backup.service",
        "pgops-production-backup.timer",
        "pgops-production-failed@.service",
    ]
    service, failed = (
        units[name].splitlines() for name in ("pgops-production-backup.service", "pgops-production-failed@.service")
    )
    assert {
        "LoadCredential=pgops_passfile:/etc/pgops/passfile", "LoadCredential=ping_url:/etc/pgops/ping", "ProtectSystem=strict", "PrivateTmp=yes",
        "NoNewPrivileges=yes", "ReadWritePaths=/var/lib/pgops", "OnFailure=pgops-production-failed@backup.service", "TimeoutStartSec=60",
        "UMask=0077", "Type=oneshot", "User=root",
    } <= set(service)  # fmt: skip
    assert "LoadCredential=pgops_webhook_file:/etc/pgops/hook" in failed
    assert not [line for line in failed if line.startswith(("ReadWritePaths", "LoadCredential=pgops_passfile"))]
    timer = units["pgops-production-backup.timer"].splitlines()
    assert {"OnCalendar=*-*-* 01:30", "RandomizedDelaySec=900", "Persistent=true"} <= set(timer)


def test_directives_of_one_s_own_have_the_last_word(tmp_path: Path) -> None:
    text = schedule_units.units(setting(tmp_path, directives=["NoNewPrivileges=no"]), [job()])[
        "pgops-production-backup.service"
    ]
    assert text.rindex("NoNewPrivileges=no") > text.rindex("NoNewPrivileges=yes")


@needs_systemd_analyze
def test_systemd_has_no_word_against_the_units(tmp_path: Path) -> None:
    program = tmp_path / "a program"
    program.write_text("#!/bin/sh\n", encoding="ascii")
    program.chmod(0o755)
    made = setting(tmp_path, program=[str(program), "-P"])
    units = schedule_units.units(made, [job(command=[str(program), "100 %"])])
    systemd = schedule_install.Systemd(made, str(tmp_path / "units"))
    systemd.verify(units)
    score = systemd.exposure(units)["pgops-production-backup.service"]["score"]
    assert isinstance(score, float) and score < 4.5, "systemd calls more than that exposed"


@needs_systemd_analyze
@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"program": ["/nowhere/python3"]}, "/nowhere/python3"), ({"directives": ["ProtectSystm=yes"]}, "ProtectSystm")],
)
def test_a_unit_that_systemd_does_not_like_is_refused(tmp_path: Path, wrong: dict[str, Any], told: str) -> None:
    made = setting(tmp_path, **wrong)
    units = schedule_units.units(made, [job(command=["/bin/true"])])
    with pytest.raises(PgopsError, match=rf"systemd-analyze verify refuses the units: .*{told}.*nothing was installed"):
        schedule_install.Systemd(made, str(tmp_path)).verify(units)


def test_only_a_file_with_our_mark_is_ours(tmp_path: Path) -> None:
    made = setting(tmp_path)
    systemd = schedule_install.Systemd(made, str(tmp_path))
    units = schedule_units.units(made, [job()])
    for name, text in units.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for other in ("pgops-production-eu-backup.service", "pgops-backup.service", "pgops-production-own.service"):
        (tmp_path / other).write_text("[Service]\nExecStart=/bin/true\n", encoding="ascii")
    eu = setting(tmp_path, environment="production-eu")
    (tmp_path / "pgops-production-eu-drill.timer").write_text(f"{eu.mark}\n", encoding="ascii")
    assert sorted(systemd.ours()) == sorted(units)
    assert systemd.changes(units) == []
    assert {os.path.basename(change.path) for change in systemd.changes({})} == set(units)
    with pytest.raises(PgopsError, match=r"pgops-production-own.service is there and was not written by schedule.yml"):
        systemd.changes({"pgops-production-own.service": "x"})


# -- calendars ------------------------------------------------------------------------------------------------------------


@needs_systemd_analyze
@pytest.mark.parametrize(
    ("text", "hours"), [("*-*-* 01:30", 24), ("Mon..Fri *-*-* 01:30", 72), ("hourly", 1), ("*-*-01 04:30", 31 * 24)]
)
def test_the_longest_silence_of_a_calendar(text: str, hours: int) -> None:
    assert schedule_calendar.calendar("backup", text).longest_s == hours * 3600


@needs_systemd_analyze
@pytest.mark.parametrize("text", ["at night", "*-*-* 25:00", "Mon 99", "--help", "daily\n[Service]"])
def test_a_calendar_that_systemd_refuses_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(
        PgopsError, match="of the job backup is none that systemd understands .*; nothing was installed"
    ) as refused:
        schedule_calendar.calendar("backup", text)
    assert refused.value.message.count("\n") == 0
    assert "systemd-analyze calendar" in str(refused.value.hint)


@needs_systemd_analyze
def test_a_calendar_that_never_comes_again_is_refused() -> None:
    with pytest.raises(PgopsError, match="no two moments to come"):
        schedule_calendar.calendar("backup", "2020-01-01 00:00")


@pytest.mark.parametrize(
    ("text", "fields", "hours"),
    [
        ("*-*-* 01:30", "30 1 * * *", 24),
        ("daily", "0 0 * * *", 24),
        ("*-*-* 06,18:00:00", "0 6,18 * * *", 12),
        ("Mon..Fri *-*-* 01:30", "30 1 * * 1,2,3,4,5", 72),
        ("Sun 05:00", "0 5 * * 0", 168),
        ("Fri..Mon 05:00", "0 5 * * 0,1,5,6", 96),
        ("*-*-01 04:30", "30 4 1 * *", 31 * 24),
        ("quarterly", "0 0 1 1,4,7,10 *", 92 * 24),
        ("*-*-* *:00/15", "0,15,30,45 * * * *", 0.25),
    ],
)
def test_cron_gets_the_same_calendar(text: str, fields: str, hours: float) -> None:
    found = schedule_cron.calendar("backup", text)
    assert (found.fields, found.longest_s) == (fields, hours * 3600)


@pytest.mark.parametrize(
    "text",
    [
        "*-*-* 01:30 UTC",
        "2027-*-* 01:30",
        "*-*-* 01:30:15",
        "Mon *-*-01 01:30",
        "*-*-* 25:00",
        "Mun 01:30",
        "x",
        "*-*~03 01:30",
    ],
)
def test_what_cron_cannot_keep_is_refused(text: str) -> None:
    with pytest.raises(
        PgopsError, match="is none that cron can keep .*there is no systemd here; nothing was installed"
    ):
        schedule_cron.calendar("backup", text)


def test_a_crontab_keeps_all_lines_of_others() -> None:
    own = "MAILTO=dana\n5 4 * * * /bin/own\n"
    lines = schedule_cron.block("pgops production", [schedule_cron.line("30 1 * * *", "/srv/a b", ["/bin/x", "100 %"])])
    assert lines.splitlines()[1] == "30 1 * * * cd '/srv/a b' && exec /bin/x '100 \\%'"
    with_ours = schedule_cron.replaced(own, "pgops production", lines)
    assert with_ours == own + lines
    both = with_ours + schedule_cron.block("pgops staging", ["x"]) + "# last\n"
    changed = schedule_cron.replaced(both, "pgops production", lines.replace("30 1", "31 1"))
    assert changed == both.replace("30 1", "31 1")
    assert schedule_cron.replaced(with_ours, "pgops production", "") == own
    assert schedule_cron.replaced("5 4 * * * x", "pgops production", lines) == f"5 4 * * * x\n{lines}"


# -- heartbeats -----------------------------------------------------------------------------------------------------------


def test_a_heartbeat_keeps_the_last_success_through_failures(tmp_path: Path) -> None:
    place = TimerPlace(str(tmp_path / "state"), "production")
    timer_state.beat(place, "backup", 87300, ok=True, at=NOW, exit_code=0)
    timer_state.beat(place, "backup", 87300, ok=False, at=NOW + timedelta(days=1), exit_code=2)
    path = Path(place.heartbeat("backup"))
    assert path == tmp_path / "state" / "journal" / "production" / "timers" / "backup.json"
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "name": "backup", "last_success": "2026-11-23T12:00:00Z", "expected_every_s": 87300, "result": "failed",
        "at": "2026-11-24T12:00:00Z", "exit_code": 2,
    }  # fmt: skip
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["backup.json"], "no half-written file is left"


DAILY = {"expected_every_s": 86400, "installed_at": "2026-11-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("heartbeat", "active", "state"),
    [
        ({"last_success": "2026-11-23T01:30:00Z", "result": "success"}, True, "ok"),
        ({"last_success": "2026-11-23T01:30:00Z", "result": "success"}, None, "ok"),
        ({"last_success": "2026-11-22T11:30:00Z", "result": "success"}, True, "ok"),
        ({"last_success": "2026-11-22T10:30:00Z", "result": "success"}, True, "missed"),
        ({"last_success": "2026-11-23T01:30:00Z", "result": "success"}, False, "stopped"),
        ({"last_success": "2026-11-23T01:30:00Z", "result": "failed", "exit_code": 2}, True, "failed"),
        ({"last_success": "2026-11-20T01:30:00Z", "result": "failed"}, True, "missed"),
        ({"last_success": None, "result": "failed"}, True, "missed"),
        ({"last_success": "nonsense", "result": "success"}, True, "missed"),
        (None, True, "missed"),
    ],
)
def test_what_is_thought_of_a_heartbeat(heartbeat: dict[str, Any] | None, active: bool | None, state: str) -> None:
    judged = timer_state.judge(DAILY, heartbeat, now=NOW, grace_s=3600, active=active)
    assert judged.state == state
    assert (judged.why is None) is (state == "ok")


def test_a_timer_that_was_just_installed_waits() -> None:
    young = {**DAILY, "installed_at": "2026-11-23T11:00:00Z"}
    assert timer_state.judge(young, None, now=NOW, grace_s=3600, active=True).state == "waiting"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0 s"), (59, "59 s"), (900, "15 min"), (87300, "1 d"), (97200, "1 d 3 h"), (5400, "1 h 30 min")],
)
def test_a_span_is_told_in_two_words(seconds: int, told: str) -> None:
    assert timer_state.span(seconds) == told


# -- what is refused ------------------------------------------------------------------------------------------------------


def wanted(tmp_path: Path, **other: Any) -> Wanted:
    (tmp_path / "backup.yml").write_text("[]\n", encoding="ascii")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n", encoding="ascii")
    program.chmod(0o755)
    command = [str(program), "backup.yml"]
    own = {
        "name": "backup",
        "playbook": "backup.yml",
        "command": command,
        "on_calendar": "daily",
        "delay_s": 0,
        "timeout_s": 0,
    }
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    given: dict[str, Any] = {
        "environment": "production", "user": user, "directory": str(tmp_path), "state_directory": str(tmp_path / "state"), "manager": "systemd",
        "jobs": [own], "program": [str(program)],
    }  # fmt: skip
    return Wanted(**{**given, **other})


@needs_systemd_analyze
def test_check_mode_shows_the_units_and_writes_nothing(tmp_path: Path) -> None:
    found = schedule.install(wanted(tmp_path), check_mode=True)
    assert found["changed"] is True
    shown = {os.path.basename(diff["after_header"]): diff["after"] for diff in found["diff"]}
    assert "ExecStart=" in shown["pgops-production-backup.service"]
    assert '"expected_every_s": 86400' in shown["production.json"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["backup.yml", "program"]


@needs_systemd_analyze
def test_what_a_run_reads_and_is_not_on_that_host_is_refused(tmp_path: Path) -> None:
    gone = {"inventory": str(tmp_path / "inventories")}
    with pytest.raises(
        PgopsError, match=r"inventory=.*/inventories is not on .*, where the timers are to run; nothing"
    ):
        schedule.install(wanted(tmp_path, needed=gone), check_mode=True)
    (tmp_path / "inventories").mkdir()
    assert schedule.install(wanted(tmp_path, needed=gone), check_mode=True)["changed"]


@needs_systemd_analyze
def test_the_home_of_a_secret_is_that_of_who_runs_the_playbooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "passfile").touch(0o600)
    user = pwd.getpwuid(os.geteuid())
    there = pwd.struct_passwd((*user[:5], str(home), user.pw_shell))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: there)
    found = schedule.install(wanted(tmp_path, credentials={"pgops_passfile": "~/passfile"}), check_mode=True)
    shown = {os.path.basename(diff["after_header"]): diff["after"] for diff in found["diff"]}
    assert f"LoadCredential=pgops_passfile:{home}/passfile" in shown["pgops-production-backup.service"]


@pytest.mark.parametrize("secret", ["absent", "open", "folder"])
def test_a_secret_that_is_no_file_of_its_owner_alone_is_refused(tmp_path: Path, secret: str) -> None:
    path = tmp_path / "passfile"
    if secret == "open":
        path.write_text("x", encoding="ascii")
        path.chmod(0o644)
    elif secret == "folder":
        path.mkdir(0o700)
    told = "cannot be read: No such file" if secret == "absent" else "is no file of its owner alone"
    with pytest.raises(PgopsError, match=rf"pgops_passfile={path} .*{told}.*nothing was installed"):
        schedule.install(wanted(tmp_path, credentials={"pgops_passfile": str(path)}), check_mode=True)


def test_what_is_not_on_the_host_is_refused(tmp_path: Path) -> None:
    asked = wanted(tmp_path)
    (tmp_path / "backup.yml").unlink()
    with pytest.raises(
        PgopsError, match=r"The job backup names the playbook backup.yml, which is not in .*; nothing was installed"
    ):
        schedule.install(asked, check_mode=True)
    with pytest.raises(PgopsError, match="There is no user nobody-of-this-name on this host"):
        schedule.install(wanted(tmp_path, user="nobody-of-this-name"), check_mode=True)
    with pytest.raises(PgopsError, match="There is no folder /nowhere of"):
        schedule.install(wanted(tmp_path, directory="/nowhere"), check_mode=True)
    with pytest.raises(PgopsError, match="/nowhere/python3 is not on "):
        schedule.install(wanted(tmp_path, program=["/nowhere/python3"]), check_mode=True)


# -- without systemd ------------------------------------------------------------------------------------------------------

CRONTAB = """#!/bin/sh
# Keeps the table in a file, and says what cron's own says of a user without one.
table="$(dirname "$0")/table"
case "$1" in
  -l) [ -e "$table" ] || { echo "no crontab for $(id -un)" >&2; exit 1; }; cat "$table" ;;
  -) cat > "$table" ;;
esac
"""


@pytest.fixture
def only_cron(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH without systemctl, and with a crontab. :return: the file with the table."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "cat", "id", "dirname"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (programs / "crontab").write_text(CRONTAB, encoding="ascii")
    (programs / "crontab").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    return programs / "table"


def test_where_there_is_no_systemd_cron_runs_them(tmp_path: Path, only_cron: Path) -> None:
    only_cron.write_text("5 4 * * * /bin/own\n", encoding="ascii")
    asked = wanted_here(tmp_path)
    shown = schedule.install(asked, check_mode=True)
    assert shown["changed"] is True and only_cron.read_text(encoding="ascii") == "5 4 * * * /bin/own\n"
    first, second = (schedule.install(asked, check_mode=False) for _ in range(2))
    assert (first["changed"], first["manager"], second["changed"]) == (True, "cron", False)
    assert "makes up for no run" in first["notes"][0]
    table = only_cron.read_text(encoding="ascii")
    assert table.startswith("5 4 * * * /bin/own\n# BEGIN pgops production")
    assert (
        f"0 0 * * * cd {tmp_path} && exec {tmp_path}/program cron {tmp_path}/state/schedule/production.json backup -- "
        in table
    )
    assert schedule.remove(asked, check_mode=True)["changed"] is True
    assert only_cron.read_text(encoding="ascii") == table
    assert schedule.remove(asked, check_mode=False)["changed"] is True
    assert only_cron.read_text(encoding="ascii") == "5 4 * * * /bin/own\n"
    assert not (tmp_path / "state" / "schedule").exists()
    assert schedule.remove(asked, check_mode=False)["changed"] is False


def wanted_here(tmp_path: Path) -> Wanted:
    import getpass

    (tmp_path / "backup.yml").write_text("[]\n", encoding="ascii")
    (tmp_path / "program").write_text("#!/bin/sh\n", encoding="ascii")
    program = str(tmp_path / "program")
    own = {
        "name": "backup",
        "playbook": "backup.yml",
        "command": [program],
        "on_calendar": "daily",
        "delay_s": 0,
        "timeout_s": 0,
    }
    return Wanted(
        environment="production", user=getpass.getuser(), directory=str(tmp_path), state_directory=str(tmp_path / "state"), jobs=[own],
        program=[program],
    )  # fmt: skip


def test_where_there_is_neither_it_is_refused(tmp_path: Path, only_cron: Path) -> None:
    (only_cron.parent / "crontab").unlink()
    with pytest.raises(PgopsError, match="Neither systemd nor cron is here"):
        schedule.install(wanted_here(tmp_path), check_mode=False)
