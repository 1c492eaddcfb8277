# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of a run: one file of JSON lines on the ops host, the only thing written before a backup is proved.

It lies outside the database on purpose: a restore takes the database back in time, and the record of the run that
asked for the restore must not go with it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

EVENTS = (
    "run_started",
    "phase_started",
    "phase_finished",
    "phase_failed",
    "run_finished",
    "run_failed",
    "interrupted",
    # Of a migration that had stopped at its gate.
    "run_resumed",
    # Of approve.yml.
    "approved",
    # Of a run that brought back what this one took away; the beginning of a watch.
    "hook",
    "watch_started",
    # Of an expiry, one a backup.
    "backup_deleted",
    # A look of it at the databases; a rollback that the run begins by itself, and how that ended.
    "looked",
    "rollback_started",
    "rollback_finished",
    # The head of the audit of a database, as it was kept outside.
    "anchored",
)

# A key that says what it holds is never written with its value, whoever asks for it.
_SECRET_KEY = re.compile(r"passw|passphrase|secret|token|credential|private_?key|api_?key|webhook", re.IGNORECASE)
# ... but these only say where a secret lies.
_LOCATION_KEYS = frozenset(
    {"passfile", "pgops_passfile", "pgops_webhook_file", "pgops_webhook_form", "pgops_webhook_secret_file"}
)
# What stands below these is kept by the names of hosts, databases or both.
_NAMED = {"hosts": 2, "results": 2, "result": 1, "databases": 1, "versions": 1}
_RUN_ID = re.compile(r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}$")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")


def now() -> str:
    """The time of an event: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_run_id() -> str:
    """A run's name, ``YYYYMMDDTHHMMSSZ-xxxxxx``: sorts by time, and two runs in one second differ."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def is_run_id(text: str) -> bool:
    """Whether ``text`` is a name that :func:`new_run_id` could have made; anything else never becomes a path."""
    return bool(_RUN_ID.match(text))


def make_private_folder(folder: Path) -> None:
    """Create ``folder`` and what is missing above it, each 0700 whatever the umask says, and durable."""
    if folder.is_dir():
        return
    make_private_folder(folder.parent)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    folder.chmod(0o700)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make a new or renamed entry of ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_private_file(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` whole or not at all: 0600, ``.partial``, fsync, rename, fsync of the folder.

    :raises OSError: it cannot be written, or what is there is a device, a pipe or a link, whose place the file would take
    """
    make_private_folder(path.parent)
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OSError(errno.EINVAL, "there is something that is no file", str(path))
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def names_a_secret(name: str) -> bool:
    """Whether a key says of itself that it holds a secret."""
    return bool(_SECRET_KEY.search(name)) and name not in _LOCATION_KEYS


def _is_secret(key: Any, item: Any) -> bool:
    # Yes and no are none, and an option has no dot in its name, as a table with its schema has.
    return names_a_secret(str(key)) and not isinstance(item, bool) and item is not None and "." not in str(key)


def _below(key: Any, names: int) -> int:
    return names - 1 if names else _NAMED.get(str(key), 0)


def without_secrets(value: Any, names: int = 0) -> Any:
    """A JSON-able copy of ``value`` in which every key that names a secret has lost its value.

    :param names: how many levels of keys name hosts or databases: these say nothing of what they hold
    """
    if isinstance(value, dict):
        return {
            str(key): "(not recorded)"
            if not names and _is_secret(key, item)
            else without_secrets(item, _below(key, names))
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [without_secrets(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    # Plain types, not subclasses: Ansible's tagged strings must not reach json.
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return str(value)


class Journal:
    """The journal of one run, ``<state_directory>/journal/<environment>/<run_id>.jsonl``.

    :param state_directory: ``pgops_state_directory`` on the ops host; made with mode 0700 at the first event
    :param environment: name of the environment, a folder of its own so that none reads another's
    :param run_id: as :func:`new_run_id` makes it
    :raises ValueError: an environment or run id that is no plain name, and so could leave the folder
    """

    def __init__(self, state_directory: str | Path, environment: str, run_id: str) -> None:
        for name, what in ((environment, "environment"), (run_id, "run id")):
            if not _NAME.match(name):
                raise ValueError(f"{name!r} is no {what}: letters, digits, '_', '.' and '-' only")
        self.state_directory = Path(state_directory).expanduser()
        self.environment = str(environment)
        self.run_id = str(run_id)
        self.path = self.state_directory / "journal" / self.environment / f"{self.run_id}.jsonl"

    def append(self, event: dict[str, Any]) -> dict[str, Any]:
        """Add one event and have it on the disk when this returns; ``time`` is filled in when missing.

        Written under an exclusive flock of the file, as several hosts' workers share it. A line torn by a crash is
        closed first, so that it takes no later event with it.

        :returns: the event as written
        :raises OSError: the folder cannot be written
        """
        written = {"time": now(), **without_secrets(event)}
        line = json.dumps(written, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        is_new = not self.path.exists()
        make_private_folder(self.path.parent)
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            while line:
                line = line[os.write(descriptor, line) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            sync_folder(self.path.parent)
        return written

    @property
    def stop_path(self) -> Path:
        """Where a word to end is left for this run."""
        return self.path.with_suffix(".stop")

    def ask_to_stop(self, by: str) -> None:
        """Leave the run a word that it is to end; it looks before each phase, and at each poll of a long one."""
        write_private_file(self.stop_path, by)

    def stop_asked_by(self) -> str | None:
        """Who asked this run to end, or None."""
        try:
            return self.stop_path.read_text(encoding="utf-8") or "somebody"
        except OSError:
            return None

    def events(self) -> list[dict[str, Any]]:
        """All events of this run in the order they were written; empty when there is no file yet.

        Of one that went on after it had stopped, the stop is no end and what stopped it no failure: the file has it, this has not.
        """
        return without_stops(self.read(self.path)) if self.path.exists() else []

    @staticmethod
    def read(path: str | Path) -> list[dict[str, Any]]:
        """The events in a journal file; a line torn by a crash is left out, the rest is read.

        :raises OSError: the file cannot be read
        """
        events = []
        for line in Path(path).read_bytes().split(b"\n"):
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                events.append(event)
        return events

    def runs(self, environment: str | None = None) -> list[str]:
        """The run ids with a journal in ``environment`` (default: this run's), oldest first."""
        return runs(self.state_directory, environment or self.environment)

    def latest(self, environment: str | None = None) -> str | None:
        """The newest run id in ``environment`` (default: this run's), or None."""
        return latest(self.state_directory, environment or self.environment)


def without_stops(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """:return: the events without what ended a run that went on after it: the phase that failed or was cut off, and the end."""
    resumed = [number for number, event in enumerate(events) if event.get("event") == "run_resumed"]
    if not resumed:
        return events
    last, kept = resumed[-1], []
    for number, event in enumerate(events[:last]):
        kind, place = event.get("event"), (event.get("phase"), event.get("host"))
        if kind in ("run_failed", "interrupted", "phase_failed"):
            continue
        following = (later for later in events[number + 1 : last] if (later.get("phase"), later.get("host")) == place)
        if kind == "phase_started" and (next(following, None) or {}).get("event") != "phase_finished":
            continue
        kept.append(event)
    # Who asks whether it still goes on asks for the process of today.
    first = {**kept[0], "pid": events[last].get("pid")} if kept else {}
    return [*([first] if kept else []), *kept[1:], *events[last:]]


def runs(state_directory: str | Path, environment: str) -> list[str]:
    """The run ids with a journal in ``environment``, oldest first; files of another kind are passed over."""
    folder = Path(state_directory).expanduser() / "journal" / environment
    if not folder.is_dir():
        return []
    return sorted(file.stem for file in folder.glob("*.jsonl") if is_run_id(file.stem))


def latest(state_directory: str | Path, environment: str) -> str | None:
    """The newest run id in ``environment``, or None when nothing ran yet."""
    known = runs(state_directory, environment)
    return known[-1] if known else None


def unfinished(state_directory: str | Path, environment: str) -> Iterator[tuple[Journal, list[dict[str, Any]]]]:
    """The runs of this machine in ``environment`` that still go on, with their events; those that were killed left out."""
    for run_id in runs(state_directory, environment):
        journal = Journal(state_directory, environment, run_id)
        events = journal.events()
        if events and not finished(events) and is_alive(events[0].get("pid")):
            yield journal, events


def is_alive(pid: Any) -> bool:
    """Whether ``pid`` is a living ansible-playbook; where there is no /proc, any process of that number."""
    try:
        os.kill(int(pid), 0)
        return b"ansible" in Path(f"/proc/{int(pid)}/cmdline").read_bytes()
    except FileNotFoundError:
        return not Path("/proc/self/cmdline").exists()
    except PermissionError:
        return True
    except (OSError, TypeError, ValueError):
        return False


def finished(events: Iterable[dict[str, Any]]) -> bool:
    """Whether a run has an end in its journal; one without was killed, or still goes on."""
    return any(event.get("event") in ("run_finished", "run_failed", "interrupted") for event in events)
