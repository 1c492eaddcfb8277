# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of the units that run an environment's playbooks: a timer and a service a job, and one service that tells of a failure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

_PLAIN = re.compile(r"[A-Za-z0-9_./:@=,+-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# What a run of ansible-playbook and libpq does without. Those that need a mount namespace of their own come apart: the manager of a
# user that is not root cannot make one everywhere, and would leave them out without a word.
_SECCOMP = (
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
)
_NAMESPACES = (
    "PrivateDevices=yes",
    "PrivateTmp=yes",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectSystem=strict",
)
# Of root: to read what others keep to themselves, and to become the server's user where a local host is connected to with become.
_ROOT_CAPABILITIES = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_SETGID CAP_SETUID"


@dataclass(frozen=True)
class Job:
    """One playbook that runs by itself.

    :ivar command: ``ansible-playbook`` with all its arguments, none of them a secret
    :ivar delay_s: it begins up to so many seconds later than the calendar says, by chance
    :ivar timeout_s: it is ended after so many seconds, 0 for never
    """

    name: str
    command: Sequence[str]
    on_calendar: str
    delay_s: int
    timeout_s: int
    # The file of an address that is asked at each end.
    ping_url_file: str | None = None


@dataclass(frozen=True)
class Setting:
    """What the units of an environment have in common.

    :ivar system: whether the system's manager runs them, and not a user's
    :ivar user: who runs the playbooks
    :ivar program: Python and the script that locks, beats and tells, as words
    :ivar record: the file that says which jobs there are
    :ivar writable: folders in which a run writes
    :ivar credentials: name -> file, loaded by systemd for each run
    :ivar told_with: the same for who tells of a failure
    :ivar directives: further lines of [Service]; the last word on a directive is theirs
    """

    environment: str
    system: bool
    user: str
    directory: str
    program: Sequence[str]
    record: str
    writable: Sequence[str]
    credentials: Mapping[str, str] = field(default_factory=dict)
    told_with: Mapping[str, str] = field(default_factory=dict)
    directives: Sequence[str] = ()

    @property
    def prefix(self) -> str:
        """What the names of all units begin with."""
        return f"pgops-{self.environment}-"

    @property
    def mark(self) -> str:
        """The first line of each unit; without it a file is not ours to touch."""
        return (
            f"# Written by schedule.yml of whitecross.pgops for {self.environment}; schedule_state=absent removes it."
        )

    def unit(self, job: str, kind: str = "service") -> str:
        """:return: the name of a job's unit."""
        return f"{self.prefix}{job}.{kind}"

    @property
    def failed(self) -> str:
        """The template unit that tells of a failure; its instance is the job."""
        return f"{self.prefix}failed@.service"


def units(setting: Setting, jobs: Iterable[Job]) -> dict[str, str]:
    """:return: file name -> text, of all units.

    :raises PgopsError: a path or an argument that no unit can hold
    """
    found = {setting.failed: _failed(setting)}
    for job in jobs:
        found[setting.unit(job.name)] = _service(setting, job)
        found[setting.unit(job.name, "timer")] = _timer(setting, job)
    return found


def _timer(setting: Setting, job: Job) -> str:
    return _lines(
        setting.mark,
        "[Unit]",
        f"Description=pgops: {job.name} of {setting.environment}",
        "",
        "[Timer]",
        f"OnCalendar={_text(job.on_calendar)}",
        f"RandomizedDelaySec={job.delay_s}",
        # A run that the machine slept through is made up for when it is up again.
        "Persistent=true",
        "AccuracySec=1s",
        f"Unit={setting.unit(job.name)}",
        "",
        "[Install]",
        "WantedBy=timers.target",
    )


def _service(setting: Setting, job: Job) -> str:
    program, record = list(setting.program), setting.record
    credentials = dict(setting.credentials)
    if job.ping_url_file:
        credentials["ping_url"] = job.ping_url_file
    return _lines(
        setting.mark,
        "[Unit]",
        f"Description=pgops: {job.name} of {setting.environment}",
        *_network(setting),
        f"OnFailure={setting.prefix}failed@{job.name}.service",
        "",
        "[Service]",
        *_shared(setting),
        f"ExecStart={words([*program, 'run', record, job.name, '--', *job.command])}",
        # Whatever ended it: its heartbeat.
        f"ExecStopPost={words([*program, 'ended', record, job.name])}",
        f"TimeoutStartSec={job.timeout_s or 'infinity'}",
        # ansible-playbook alone is told to end, and ends what it has begun at a safe point.
        "KillMode=mixed",
        "TimeoutStopSec=180",
        *_loaded(credentials),
        *_confined(setting, writable=True),
        *setting.directives,
    )


def _failed(setting: Setting) -> str:
    return _lines(
        setting.mark,
        "[Unit]",
        f"Description=pgops: tell that %i of {setting.environment} has failed",
        *_network(setting),
        "",
        "[Service]",
        *_shared(setting),
        # %i is the job's name, which no quoting may touch.
        f"ExecStart={words([*setting.program, 'tell', setting.record])} %i",
        "TimeoutStartSec=120",
        *_loaded(setting.told_with),
        *_confined(setting, writable=False),
    )


def _network(setting: Setting) -> list[str]:
    # A user's manager knows no such unit.
    return ["Wants=network-online.target", "After=network-online.target"] if setting.system else []


def _shared(setting: Setting) -> list[str]:
    return [
        "Type=oneshot",
        # Sets HOME as well, which root's units have not by themselves.
        *([f"User={setting.user}"] if setting.system else []),
        f"WorkingDirectory={_text(setting.directory)}",
        # Ansible refuses to run without a locale of UTF-8.
        "Environment=LANG=C.UTF-8 ANSIBLE_NOCOLOR=1",
        "UMask=0077",
    ]


def _loaded(credentials: Mapping[str, str]) -> list[str]:
    return [f"LoadCredential={name}:{_text(path)}" for name, path in sorted(credentials.items())]


def _confined(setting: Setting, *, writable: bool) -> list[str]:
    if not setting.system:
        return list(_SECCOMP)
    capabilities = _ROOT_CAPABILITIES if setting.user == "root" else ""
    return [
        *_SECCOMP,
        *_NAMESPACES,
        f"CapabilityBoundingSet={capabilities}",
        *([f"ReadWritePaths={words(setting.writable)}"] if writable else []),
    ]


def words(given: Iterable[str]) -> str:
    """:return: arguments as a unit has them: whatever they hold, systemd gives on exactly these.

    :raises PgopsError: one holds a line end or another control character
    """
    quoted = []
    for word in given:
        text = _text(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
        quoted.append(text if _PLAIN.fullmatch(text) else f'"{text}"')
    return " ".join(quoted)


def _text(given: str) -> str:
    if _CONTROL.search(given):
        raise PgopsError(
            f"{given!r} holds a line end or another control character, which no unit of systemd can; nothing was installed."
        )
    return given.replace("%", "%%")


def _lines(*lines: str) -> str:
    return "\n".join(lines) + "\n"
