# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The order of environments: what was not applied and verified in one is refused in the next, unless somebody says why not.

The evidence is a file on the ops host, one an environment. What binds is the checksum of a version's files: the SQL that they
render to may differ between environments. It is written at the end of a run that ended well, from the run's journal: what comes
after the verification, such as the smoke test, has a say, and a run that is cut off leaves none.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import waivers
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import (
    make_private_folder,
    now,
    write_private_file,
)

FORMAT = 1
# What a waiver may name, besides the version and the reason.
WAIVED_CHECKS = ("evidence", "contract", "schema", "window")


@dataclass(frozen=True)
class Lack:
    """A version that has no evidence, and why as the end of a sentence."""

    version: str
    name: str
    why: str


def path_of(state_directory: str | Path, environment: str, given: Any = None) -> Path:
    """:param given: the file that was named for it, if one was.
    :return: where the evidence of an environment lies on the ops host."""
    if given:
        return Path(str(given)).expanduser()
    return Path(state_directory).expanduser() / "evidence" / f"{environment}.json"


def previous(environment: str, environments: Sequence[str], production: Sequence[str]) -> str | None:
    """:return: the environment that a production one takes its evidence from: the last before it that is none; None for others."""
    if environment not in production or environment not in environments:
        return None
    before = [name for name in environments[: environments.index(environment)] if name not in production]
    return before[-1] if before else None


def refuse_another(path: Path, environment: str) -> None:
    """Who asks before a run begins has nothing to take back.

    :raises PgopsError: the file is there, and it is another environment's evidence, or none
    """
    if path.exists():
        _own(path, environment)


def record(
    path: Path,
    environment: str,
    host: str,
    database: str,
    run_id: str,
    ledger: Mapping[str, Mapping[str, Any]],
    rehearsal: Mapping[str, Any] | None = None,
) -> None:
    """Write down what a database of the environment has applied and verified; what it had before and has no longer goes.

    :param ledger: version -> ``checksum``, ``applied_at``, ``duration_s``
    :param rehearsal: what the run has rehearsed; a version that was rehearsed once with these files stays so
    :raises OSError: the file cannot be written
    :raises PgopsError: there is a file that is none of this tool's, or another environment's
    """
    place = {"host": host, "database": database}
    with _locked(path):
        known = _own(path, environment) if path.exists() else {}
        kept = {version: entry for version, entry in known.items() if not _is_of(entry, place)}
        for version, row in ledger.items():
            entry = {**row, "verified_at": now(), "run_id": run_id, **place}
            kept[version] = {**entry, **_rehearsed(version, row, known.get(version), rehearsal or {})}
        _write(path, environment, kept)


def withdraw(
    path: Path, environment: str, host: str, database: str, ledger: Mapping[str, Mapping[str, Any]] | None
) -> None:
    """Take out at once what a database of the environment has no longer, or not as it was; what is new waits for the run's end.

    :param ledger: version -> ``checksum`` of what holds still; None where the verification failed
    :raises OSError: the file cannot be written
    :raises PgopsError: there is a file that is none of this tool's, or another environment's
    """
    if not path.exists():
        return
    place = {"host": host, "database": database}
    with _locked(path):
        known = _own(path, environment)
        holds = {version: row["checksum"] for version, row in (ledger or {}).items()}
        kept = {
            version: entry
            for version, entry in known.items()
            if not _is_of(entry, place) or holds.get(version) == entry.get("checksum")
        }
        if kept != known:
            _write(path, environment, kept)


def leave(
    state_directory: str | Path, environment: str, run_id: str, events: Iterable[Mapping[str, Any]]
) -> list[Path]:
    """Write down what a run has verified. Only for a run that ended well.

    :param events: its journal
    :return: the files
    :raises OSError: a file cannot be written
    :raises PgopsError: see :func:`record`
    """
    given: dict[str, Any] = {}
    verified: dict[str, Mapping[str, Mapping[str, Any]]] = {}
    rehearsed: dict[str, Mapping[str, Mapping[str, Any]]] = {}
    for event in events:
        host = str(event.get("host"))
        if event.get("phase") == "rehearse" and event.get("event") == "phase_finished":
            rehearsed[host] = event.get("result") or {}
        if event.get("phase") != "verify":
            continue
        if event["event"] == "phase_started":
            given[host] = event.get("evidence")
        elif event["event"] == "phase_finished":
            verified[host] = event.get("result") or {}
    written = []
    for host, databases in verified.items():
        path = path_of(state_directory, environment, given.get(host))
        for database, found in databases.items():
            rehearsal = (rehearsed.get(host, {}).get(database) or {}).get("rehearsal")
            record(path, environment, host, database, run_id, found.get("ledger") or {}, rehearsal)
            written.append(path)
    for host, databases in rehearsed.items():
        # What was applied without one is rehearsed afterwards, on the backup that was made before it.
        path = path_of(state_directory, environment, given.get(host))
        rehearsals = [found.get("rehearsal") or {} for found in databases.values()] if host not in verified else []
        if rehearsals and path.exists() and note_rehearsals(path, environment, rehearsals):
            written.append(path)
    return list(dict.fromkeys(written))


def note_rehearsals(path: Path, environment: str, rehearsals: Iterable[Mapping[str, Any]]) -> bool:
    """Write beside what was verified that these very files were rehearsed. :return: whether there was any such version.

    :raises OSError: the file cannot be written
    :raises PgopsError: it is none of this tool's, or another environment's
    """
    with _locked(path):
        known = _own(path, environment)
        noted = {
            version: {**entry, **_rehearsed(version, entry, entry, rehearsal)}
            for rehearsal in rehearsals
            if rehearsal.get("ok")
            for version, entry in known.items()
            if (rehearsal.get("files") or {}).get(version) == entry.get("checksum")
        }
        if noted:
            _write(path, environment, {**known, **noted})
    return bool(noted)


def _rehearsed(
    version: str, row: Mapping[str, Any], before: Mapping[str, Any] | None, rehearsal: Mapping[str, Any]
) -> dict[str, Any]:
    """:return: ``rehearsed``, the run that has rehearsed a version with these very files; nothing where none has."""
    if rehearsal.get("ok") and (rehearsal.get("files") or {}).get(version, "") == row.get("checksum"):
        return {"rehearsed": str(rehearsal.get("id"))}
    same = before is not None and before.get("checksum") == row.get("checksum") and before.get("rehearsed")
    return {"rehearsed": before["rehearsed"]} if before is not None and same else {}


def _is_of(entry: Mapping[str, Any], place: Mapping[str, str]) -> bool:
    return {name: entry.get(name) for name in place} == place


def _own(path: Path, environment: str) -> dict[str, Any]:
    """:return: the versions in the file. :raises PgopsError: it is not the environment's."""
    document = read(path)
    if document.get("environment") != environment:
        raise PgopsError(
            f"{path} is the evidence of {document.get('environment')}, and what {environment} has verified is not put "
            "into it; name another file with verify_evidence"
        )
    return dict(document["versions"])


def _write(path: Path, environment: str, versions: Mapping[str, Any]) -> None:
    document = {"format": FORMAT, "environment": environment, "versions": dict(sorted(versions.items()))}
    write_private_file(path, json.dumps(document, indent=2) + "\n")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The hosts of a batch end side by side, and each reads the file before it writes it."""
    make_private_folder(path.parent)
    descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read(path: Path) -> dict[str, Any]:
    """:return: the evidence: ``environment``, ``versions``. :raises PgopsError: it cannot be read, or is something else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise PgopsError(f"The evidence {path} cannot be read: {exc.strerror}") from None
    except ValueError:
        raise PgopsError(f"The evidence {path} is no JSON") from None
    if (
        not isinstance(document, dict)
        or document.get("format") != FORMAT
        or not isinstance(document.get("versions"), dict)
    ):
        raise PgopsError(f"{path} is no evidence of an environment, of format {FORMAT}, as a verification leaves it")
    return document


def lacking(
    pending: Iterable[Mapping[str, Any]], evidence: Mapping[str, Any] | None, environment: str, waived: Iterable[str]
) -> list[Lack]:
    """The pending versions that may not be applied for want of evidence.

    :param pending: ``version``, ``name`` and ``checksum`` of each
    :param evidence: what :func:`read` gave; None where there is none
    :param environment: the one that should have had them before
    :param waived: versions that go without
    """
    found = []
    known = (evidence or {}).get("versions") or {}
    for item in pending:
        version, entry = str(item["version"]), known.get(str(item["version"]))
        if version in set(waived):
            continue
        if entry is None:
            found.append(
                Lack(
                    version,
                    str(item["name"]),
                    f"was not applied and verified in {environment} by a run that ended well",
                )
            )
        elif entry.get("checksum") != item["checksum"]:
            when = str(entry.get("verified_at"))[:10]
            found.append(
                Lack(version, str(item["name"]), f"was verified in {environment} on {when} with other files than these")
            )
    return found


def wrong_waiver(given: Any) -> str | None:
    """:return: what is wrong with ``migrate_waive``, as the end of a sentence; None where each names check, version and reason."""
    if not isinstance(given, list) or not all(isinstance(item, Mapping) for item in given):
        return "is no list of check, version and reason"
    for item in given:
        if str(item.get("check")) not in WAIVED_CHECKS:
            return f"has the check {item.get('check')}, and it takes {', '.join(WAIVED_CHECKS)}"
        missing = [name for name in ("version", "reason") if not str(item.get(name) or "").strip()]
        if missing:
            return f"has an entry without {' and '.join(missing)}"
        wrong = waivers.wrong_end(item)
        if wrong:
            return f"has an entry that {wrong}"
    return None


def waived(given: Iterable[Mapping[str, Any]], check: str) -> dict[str, str]:
    """:param given: ``migrate_waive``.
    :return: version -> reason, and whose it is until when, of one check today."""
    today = datetime.now(UTC).date()
    return {
        str(item["version"]): waivers.told(item)
        for item in given
        if item["check"] == check and waivers.in_force(item, today)
    }
