# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copies on another machine: over SSH by rsync, in an object store by rclone."""

from __future__ import annotations

import hashlib
import posixpath
import shlex
from collections.abc import Sequence

from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store
from ansible_collections.whitecross.pgops.plugins.module_utils.copy_place import Check, Place, hashes, run
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

# A connection that is silent for so long is given up.
SILENT_SECONDS = 60
CONNECT_SECONDS = 15


class OverSsh(Place):
    """A folder of another host, by rsync, and by its shell for what rsync cannot do."""

    def __init__(self, host: str, path: str, ssh_config: str | None) -> None:
        self.shown = f"{host}:{path}"
        self._host, self._path = host, path
        # BatchMode: a question would wait for ever.
        self._ssh = [
            "ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}", "-o", "ServerAliveInterval=15",
            "-o", f"ServerAliveCountMax={SILENT_SECONDS // 15}", *(["-F", ssh_config] if ssh_config else []),
        ]  # fmt: skip

    def _at(self, below: str, published: bool = False) -> str:
        return posixpath.join(self._path, below) + ("" if published else backup_store.PARTIAL)

    def _shell(self, script: str, check: Check, names: Sequence[str] = (), fine: Sequence[int] = (0,)) -> str:
        return run([*self._ssh, "--", self._host, script], check, names=names, fine=fine)[1]

    def _rsync(self, source: str, destination: str, names: Sequence[str], check: Check) -> None:
        arguments = [
            "rsync", "--recursive", "--times", "--protect-args", "--partial", "--chmod=D0700,F0600", f"--timeout={SILENT_SECONDS}",
            "--from0", "--files-from=-", "--rsh", shlex.join(self._ssh), "--", f"{source}/", f"{self._host}:{destination}/",
        ]  # fmt: skip
        run(arguments, check, names=names)

    def look(self, source: str, check: Check) -> None:
        """:raises PgopsError: the host does not let us in, or the folder is not there."""
        path = shlex.quote(self._path)
        answer = self._shell(f"if [ -d {path} ] && [ -w {path} ]; then echo there; else echo not; fi", check)
        if answer.strip() != "there":
            raise PgopsError(
                f"There is no folder {self._path} on {self._host} that may be written.",
                hint="Make it there; it is never made, since a mistyped path would fill another disk.",
                extra={"final": True},
            )

    def has(self, below: str, manifest_sha256: str, check: Check) -> bool:
        """As the base says."""
        final = shlex.quote(self._at(below, published=True))
        script = (
            f"if [ -e {final} ]; then sha256sum < {final}/{backup_store.MANIFEST} || echo none; else echo nothing; fi"
        )
        answer = self._shell(script, check).split()
        if answer == ["nothing"]:
            return False
        if answer and answer[0] == manifest_sha256:
            return True
        raise self.another(below)

    def send(self, source: str, below: str, names: Sequence[str], check: Check) -> None:
        """What an earlier try has sent whole is not sent again."""
        partial = self._at(below)
        self._shell(f"umask 077 && mkdir -p -- {shlex.quote(partial)}", check)
        self._rsync(source, partial, names, check)

    def read_back(self, below: str, names: Sequence[str], check: Check, *, published: bool = False) -> dict[str, str]:
        """By the other host itself; a file that is missing is left out (123 of xargs)."""
        folder = shlex.quote(self._at(below, published))
        script = f"cd {folder} && {{ sync -f . 2>/dev/null || sync; }} && xargs -0 sha256sum -b --"
        return hashes(self._shell(script, check, names, fine=(0, 123)))

    def publish(self, source: str, below: str, check: Check) -> None:
        """By a rename."""
        partial, final = shlex.quote(self._at(below)), shlex.quote(self._at(below, published=True))
        self._shell(f"[ ! -e {final} ] && mv -- {partial} {final} && {{ sync -f {final} 2>/dev/null || sync; }}", check)

    def renew(self, source: str, below: str, name: str, check: Check) -> None:
        """rsync renames what it has received."""
        self._rsync(source, self._at(below, published=True), [name], check)

    def discard(self, below: str, check: Check) -> None:
        """As the base says."""
        self._shell(f"rm -rf -- {shlex.quote(self._at(below))}", check)


class ObjectStore(Place):
    """A remote of rclone's. A store has no rename: a backup is what has a manifest, so that is sent last."""

    def __init__(self, remote: str, config: str | None) -> None:
        self.shown = remote
        self._rclone = [
            "rclone", "--ask-password=false", "--retries=1", "--low-level-retries=3", f"--contimeout={CONNECT_SECONDS}s",
            f"--timeout={SILENT_SECONDS}s", *(["--config", config] if config else []),
        ]  # fmt: skip

    def look(self, source: str, check: Check) -> None:
        """:raises PgopsError: rclone is not there, or knows no such remote."""
        run([*self._rclone, "lsf", "--max-depth=1", "--files-only", self.shown], check, fine=(0, 3))

    def has(self, below: str, manifest_sha256: str, check: Check) -> bool:
        """As the base says."""
        folder = self.whole(below)
        code, listed = run([*self._rclone, "lsf", "--files-only", folder], check, fine=(0, 3))
        if code == 3 or backup_store.MANIFEST not in listed.split("\n"):
            return False
        _code, text = run([*self._rclone, "cat", f"{folder}/{backup_store.MANIFEST}"], check)
        if hashlib.sha256(text.encode()).hexdigest() == manifest_sha256:
            return True
        raise self.another(below)

    def _copy(self, source: str, below: str, names: Sequence[str], check: Check) -> None:
        run(
            [*self._rclone, "copy", "--ignore-times", "--no-traverse", "--files-from-raw=-", source, self.whole(below)],
            check, names=names, behind="\n",
        )  # fmt: skip

    def before(self, names: Sequence[str]) -> list[str]:
        """Everything but the manifest."""
        return [name for name in names if name != backup_store.MANIFEST]

    def send(self, source: str, below: str, names: Sequence[str], check: Check) -> None:
        """As the base says."""
        self._copy(source, below, names, check)

    def read_back(self, below: str, names: Sequence[str], check: Check, *, published: bool = False) -> dict[str, str]:
        """Each file is fetched again: what a store says of its hashes is what it was told."""
        _code, text = run([*self._rclone, "hashsum", "sha256", "--download", self.whole(below)], check)
        return hashes(text)

    def publish(self, source: str, below: str, check: Check) -> None:
        """By the manifest."""
        self._copy(source, below, [backup_store.MANIFEST], check)

    def renew(self, source: str, below: str, name: str, check: Check) -> None:
        """A store puts an object there whole."""
        self._copy(source, below, [name], check)

    def discard(self, below: str, check: Check) -> None:
        """As the base says; there is no manifest yet."""
        run([*self._rclone, "purge", self.whole(below)], check, fine=(0, 3))
