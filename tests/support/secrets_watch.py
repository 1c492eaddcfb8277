# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks for a secret where it may not be, while something runs: command lines and environments of every process, files."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

LOOK_S = 0.05
READ_AT_MOST = 64 << 20


class Watch:
    """`with Watch(secrets, folders) as watch: …`, then `watch.found`: where a secret was seen, and `watch.looked`, how often."""

    def __init__(self, secrets: Iterable[str], folders: Sequence[Path] = ()) -> None:
        self.secrets = [secret.encode() for secret in secrets]
        assert all(len(secret) >= 8 for secret in self.secrets)
        self.folders = folders
        self.found: dict[str, None] = {}
        self.looked = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread.is_alive(), "the watch has ended before what it watched"
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        files_at = 0.0
        while not self._over.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    self.see(process / name)
            if time.monotonic() > files_at:
                for folder in self.folders:
                    self.see_folder(folder)
                files_at = time.monotonic() + 0.5
            self.looked += 1
            self._over.wait(LOOK_S)
        # What was left since the last look stays.
        for folder in self.folders:
            self.see_folder(folder)

    def see(self, path: Path) -> None:
        """Note the file where it has a secret; a process may be gone by now."""
        try:
            if path.parent.parent != Path("/proc") and not path.is_file():
                return  # a socket or a pipe would keep it waiting
            with path.open("rb") as file:
                text = file.read(READ_AT_MOST)
        except OSError:
            return
        if any(secret in text for secret in self.secrets):
            about = text.replace(b"\0", b" ")[:80].decode(errors="replace") if path.name == "cmdline" else ""
            self.found[f"{path} {about}".strip()] = None

    def see_folder(self, folder: Path) -> None:
        """Every file below a folder."""
        # What it lists may be gone a moment later.
        for above, _folders, names in os.walk(folder):
            for name in names:
                path = Path(above, name)
                if not path.is_symlink():
                    self.see(path)
