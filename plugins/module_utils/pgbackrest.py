# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""pgBackRest: its configuration file, its commands, what it says as JSON, its errors as one sentence each.

It is started as PostgreSQL's own user with ``--config``, and no option that could be a secret is on its command line.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.os_user import OsUser, Output
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress

HEADER = "# Written by whitecross.pgops, which writes it again: change backup_repository instead.\n"
# The repository that backups go to unless another is named, and that a restore takes before all others.
FIRST = 1
_OPTION = re.compile(r"^[a-z][a-z0-9-]*$")
_SECRET = re.compile(r"(cipher-pass|s3-key|s3-key-secret|s3-token|azure-key|gcs-key|passphrase|secret)$")
_STANZA = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
_ERROR = re.compile(r"ERROR: \[(\d+)\]: (.*)$")
_REPOSITORY = re.compile(r"repo(\d+)-")
_SHARE = re.compile(r"\(([\d.]+ ?\w+), ([\d.]+)%\)")
# Behind an ERROR its HINTs and the processes that tried again stand indented.
_CONTINUED = re.compile(r"^\s+(?:\[\w+\] on|HINT:)?\s*")
# `verify` ends with 0 whatever it has found (2.45 and 2.55), so its lines are read.
_DAMAGE = re.compile(
    r"(invalid checksum|invalid size|invalid result|file missing|missing in backup|status: invalid)\b.*"
)

_HINTS = {
    "050": "Another pgBackRest works on this stanza; wait until it has ended, then run the same command again.",
    "082": "Look into the server's log for what its archive_command says, mend that, then run the same command again.",
    "095": "The repository was made with another passphrase, or without one: give the one that it was made with in backup_cipher_passfile, declare "
    "repoN-cipher-type: none for one in the clear, or name another place in backup_repository.",
    "087": "Set archive_mode = on and restart the server.",
    "028": "The stanza is of another cluster; name another backup_stanza, or run pgbackrest stanza-upgrade after a pg_upgrade.",
    "051": "The stanza is of another cluster; name another backup_stanza, or run pgbackrest stanza-upgrade after a pg_upgrade.",
}


def configuration(
    stanza: str, cluster: Mapping[str, str], options: Mapping[str, Any], secrets: Mapping[str, Any]
) -> str:
    """
    :param cluster: ``pg1-*`` options, from the server itself.
    :param options: options of ``[global]``; a list gives the option several times.
    :param secrets: more of them, that are shown nowhere.
    :return: the text of the configuration file.
    :raises PgopsError: an option that is none, a secret among those that are shown, or a value of several lines.
    """
    if not _STANZA.match(stanza):
        raise PgopsError(f"backup_stanza is {stanza!r}; it is a name of letters, digits, - and _.")
    if not options:
        raise PgopsError(
            "backup_repository is empty; say where the repository is, e.g. {'repo1-path': '/var/lib/pgbackrest'}."
        )
    lines = [HEADER, "[global]\n"]
    for given, where in ((options, "backup_repository"), (secrets, "backup_repository_secrets")):
        for name, value in sorted(given.items()):
            if not _OPTION.match(name) or re.match(r"pg\d+-|stanza$|config", name):
                raise PgopsError(f"{where} names {name!r}, which is no option of a repository.")
            if given is options and _SECRET.search(name):
                raise PgopsError(
                    f"backup_repository holds {name}, a secret that would be shown.",
                    hint="Give it in backup_repository_secrets, or name a file of the host in backup_cipher_passfile.",
                )
            for item in value if isinstance(value, (list, tuple)) else [value]:
                text = {True: "y", False: "n"}.get(item, str(item)) if isinstance(item, bool) else str(item)
                if not text or "\n" in text or "\r" in text:
                    raise PgopsError(f"{where} has no value of one line for {name}.")
                lines.append(f"{name}={text}\n")
    lines.append(f"\n[{stanza}]\n")
    lines += [f"{name}={value}\n" for name, value in sorted(cluster.items())]
    return "".join(lines)


def write_configuration(path: str, text: str, user: OsUser, *, pretend: bool = False) -> bool:
    """Write the configuration, 0600, for the user of the server.

    :param pretend: write nothing.
    :return: whether it differs from what is there.
    :raises PgopsError: a file that is not ours, or a folder that cannot be written.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            there = stream.read()
    except FileNotFoundError:
        there = None
    except OSError as exc:
        raise PgopsError(f"The configuration {path} cannot be read: {exc.strerror}.") from None
    if there is not None and not there.startswith(HEADER):
        raise PgopsError(
            f"{path} was not written by whitecross.pgops; it is left as it is.",
            hint="Name another file in backup_config, or move this one away.",
        )
    if there == text and os.stat(path).st_mode & 0o777 == 0o600 and os.stat(path).st_uid == user.uid:
        return False
    if not pretend:
        try:
            folder = os.path.dirname(path)
            if not os.path.isdir(folder):
                os.mkdir(folder, 0o755)
                os.chmod(folder, 0o755)
            user.write(path, text)
        except OSError as exc:
            raise PgopsError(
                f"The configuration {path} cannot be written: {exc.strerror}.",
                hint="Name a file in backup_config whose folder the connecting user may write.",
            ) from None
    return True


def options(path: str, stanza: str) -> dict[str, str]:
    """:return: what a configuration of ours says for all stanzas and for this one; empty where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return options_in(stream, stanza)
    except OSError:
        return {}


def options_in(lines: Iterable[str], stanza: str) -> dict[str, str]:
    """:param lines: of a configuration. :return: what it says for all stanzas and for this one."""
    found: dict[str, str] = {}
    section = None
    for line in lines:
        name, equals, value = line.rstrip("\n").partition("=")
        if line.startswith("["):
            section = line.strip()[1:-1]
        elif equals and section in ("global", stanza):
            found[name.strip()] = value.strip()
    return found


def configured(path: str, stanza: str, name: str) -> str | None:
    """:return: an option of the stanza in a configuration of ours, for when the server does not answer."""
    return options(path, stanza).get(name)


def repositories(names: Iterable[str]) -> list[int]:
    """:param names: of options. :return: the numbers of the repositories that they are about."""
    return sorted({int(found[1]) for name in names if (found := _REPOSITORY.match(name))})


class PgBackRest:
    """One stanza, in one repository or several."""

    def __init__(
        self,
        command: str,
        config: str,
        stanza: str,
        user: OsUser,
        *,
        progress: Progress | None = None,
        control: Control | None = None,
    ) -> None:
        """
        :param command: the program, by its whole path or as it is found in PATH.
        :param config: the configuration file.
        """
        self.command = command
        self.config = config
        self.stanza = stanza
        self.user = user
        self.progress = progress or Progress(None)
        self.control = control or Control(None)

    def repositories(self) -> list[int]:
        """:return: the numbers of the repositories that are configured, the one that a restore prefers first."""
        return repositories(options(self.config, self.stanza)) or [FIRST]

    def version(self) -> str:
        """:return: e.g. ``2.55.1``. :raises PgopsError: it is not installed."""
        try:
            done = self.user.run([self.command, "version"])
        except PgopsError:
            done = Output(127, ())
        found = re.search(r"pgBackRest (\S+)", done.text)
        if done.code or not found:
            raise PgopsError(
                f"pgBackRest is not installed on {os.uname().nodename}: {self.command} does not answer.",
                hint="Install the package pgbackrest, or name the program in backup_pgbackrest.",
            )
        return found.group(1)

    def create_stanza(self) -> None:
        """Make the stanza where it is not there; doing it again changes nothing."""
        self._succeed(["stanza-create"], "The stanza could not be made")

    def check(self) -> None:
        """Let pgBackRest push one WAL segment through the server's archive_command and look for it."""
        self._succeed(["check"], "The check of the archive failed")

    def backup(self, kind: str, repository: int = FIRST) -> None:
        """:param kind: ``full``, ``diff`` or ``incr``; without a full one before, pgBackRest makes that.
        :param repository: the number of the one that it goes to; WAL goes to each of them by itself."""
        where = [] if repository == FIRST else [f"--repo={repository}"]
        said = "The physical backup failed" if not where else f"The physical backup into repository {repository} failed"
        self._succeed(
            [*where, f"--type={kind}", "backup"], said, telling=f"backing up ({kind}, repository {repository})"
        )

    def restore(self, arguments: Sequence[str]) -> None:
        """Restore; pgBackRest compares every file with its checksum while it does."""
        self._succeed([*arguments, "restore"], "The restore failed", telling="restoring")

    def verify(self) -> None:
        """Let pgBackRest read each whole repository of the stanza and compare it with its checksums.

        :raises PgopsError: something is damaged; it names repository and first file, and ``extra["damage"]`` all. Where nothing is, a
            repository that could not be read.
        """
        numbers = self.repositories()
        found, unread = {}, []
        for number in numbers:
            try:
                damage = self._damage(number, len(numbers) > 1)
            except Interrupted:
                raise
            except PgopsError as error:
                unread.append(error)
                continue
            if damage:
                found[number] = damage
        if not found:
            if unread:
                raise unread[0]
            return
        number, damage = next(iter(found.items()))
        files = [entry for entry in damage if "status:" not in entry] or damage
        more = f", and {len(files) - 1} more" if len(files) > 1 else ""
        others = [str(other) for other in found if other != number]
        more += f"; so is repository {', '.join(others)}" if others else ""
        which = f"Repository {number}" if len(numbers) > 1 else "The repository"
        command = "Take a full backup now: backup.yml -e backup_physical_type=full"
        raise PgopsError(
            f"{which} of stanza {self.stanza} is damaged: {files[0]}{more}.",
            hint=f"{command}{' -e backup_copies_required=true' if number != FIRST else ''}; do not count on the damaged ones.",
            extra={"damage": [entry for entries in found.values() for entry in entries], "repositories": list(found)},
        )

    def _damage(self, repository: int, several: bool) -> list[str]:
        """:return: the lines that tell of damage in one repository."""
        damage: list[str] = []

        def read(line: str) -> None:
            found = _DAMAGE.search(line)
            if found:
                damage.append(found.group(0)[:300])

        done = self.user.run(
            self._line([f"--repo={repository}", "--log-level-console=info", "verify"]), tell=read, control=self.control
        )
        self._refuse(done, f"{f'Repository {repository}' if several else 'The repository'} could not be verified")
        return damage

    def info(self) -> dict[str, Any]:
        """:return: what ``info --output=json`` says of the stanza."""
        found = self._json(["info"])
        for entry in found:
            if entry.get("name") == self.stanza:
                return dict(entry)
        raise PgopsError(f"pgBackRest knows no stanza {self.stanza} in this repository.", hint=_MAKE_ONE)

    def files(self, path: str, repository: int = FIRST) -> dict[str, dict[str, Any]]:
        """:return: what lies below a folder of a repository, by relative name; empty where there is no such folder."""
        return dict(self._json([f"--repo={repository}", "--recurse", "repo-ls", path]))

    def manifest_option(self, label: str, repository: int, name: str) -> str | None:
        """:return: an option that a backup was made with, as its manifest in the repository has it; None where it has none."""
        section, value = "", None

        def read(line: str) -> None:
            nonlocal section, value
            if line.startswith("["):
                section = line
            elif section == "[backup:option]" and line.startswith(f"{name}="):
                value = line.partition("=")[2].strip('"')

        path = f"backup/{self.stanza}/{label}/backup.manifest"
        done = self.user.run(
            self._line(
                [f"--repo={repository}", "--log-level-console=off", "--log-level-stderr=error", "repo-get", path]
            ),
            tell=read,
            control=self.control,
        )
        self._refuse(done, f"The manifest of backup {label} could not be read")
        return value

    def fetch_wal(self, segment: str, folder: str) -> str | None:
        """Get a WAL segment or a timeline's history out of the archive, of whichever repository has it.

        :param folder: the user of the server may write there.
        :return: its path, or None where the archive has none of that name.
        """
        path = os.path.join(folder, segment)
        done = self.user.run(self._line(["--no-archive-async", "archive-get", segment, path]), control=self.control)
        if done.code == 1:
            return None
        self._refuse(done, f"{segment} could not be read from the archive")
        return path

    def _line(self, arguments: Sequence[str]) -> list[str]:
        fixed = [f"--config={self.config}", f"--stanza={self.stanza}", "--log-timestamp=n"]
        options = [word for word in arguments if word.startswith("--")]
        words = [word for word in arguments if not word.startswith("--")]
        levels = [] if any(word.startswith("--log-level-console") for word in options) else ["--log-level-console=warn"]
        return [self.command, *fixed, *levels, *options, *words]

    def _json(self, arguments: Sequence[str]) -> Any:
        done = self.user.run(
            self._line(["--log-level-console=off", "--log-level-stderr=error", "--output=json", *arguments]),
            control=self.control,
        )
        self._refuse(done, f"pgBackRest's {next(w for w in arguments if not w.startswith('--'))} failed")
        try:
            return json.loads(done.text)
        except ValueError:
            raise PgopsError("pgBackRest's answer is no JSON; its version is not the one this was made for.") from None

    def _succeed(self, arguments: Sequence[str], doing: str, telling: str = "") -> None:
        def follow(line: str) -> None:
            share = _SHARE.search(line)
            if telling and share:
                self.progress.emit(telling, done=round(float(share.group(2))), total=100, unit="%")

        level = ["--log-level-console=detail"] if telling else []
        done = self.user.run(self._line([*level, *arguments]), tell=follow, control=self.control)
        self._refuse(done, doing)

    def _refuse(self, done: Output, doing: str) -> None:
        if done.code == 0:
            return
        code, reason = told_error(done.lines)
        if "[VersionNotSupportedError]" in done.text or code == "046":
            raise PgopsError(
                f"{doing}: pgBackRest {self.version()} ({self.command}) does not know this version of PostgreSQL.",
                hint="Name one that does in backup_pgbackrest: Debian 12's 2.45 knows PostgreSQL up to 15, Debian 13's 2.55 up to 18.",
                extra={"pgbackrest_error": code},
            )
        if code == "050":
            raise PgopsError(f"{doing}: {reason}.", hint=_HINTS[code], extra={"locked": True, "pgbackrest_error": code})
        raise PgopsError(
            f"{doing}: {reason or f'{self.command} ended with {done.code} and said nothing'}.",
            hint=_HINTS.get(code),
            extra={"pgbackrest_error": code or str(done.code)},
        )


def of(given: Mapping[str, Any], progress: Progress | None = None, control: Control | None = None) -> PgBackRest:
    """:param given: a module's arguments, those of the fragment whitecross.pgops.physical among them.
    :return: pgBackRest as they ask for it. :raises PgopsError: this process may not act as the user of the server."""
    user = OsUser(given["os_user"])
    return PgBackRest(given["pgbackrest"], given["config"], given["stanza"], user, progress=progress, control=control)


_MAKE_ONE = "Run backup.yml -e backup_engine=physical first: it makes the stanza and a backup."


def told_error(lines: Sequence[str]) -> tuple[str, str]:
    """:return: the number and the first sentence of pgBackRest's first error, empty where it said none."""
    for line in lines:
        found = _ERROR.search(line)
        if found:
            reason = re.sub(r"^raised from [^:]+: ", "", found.group(2)).strip().rstrip(".:")
            return found.group(1), reason
    return "", ""
