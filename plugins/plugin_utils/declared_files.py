# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The YAML files of a folder below ``sql/checks``, one thing each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import Finding
from ansible_collections.whitecross.pgops.plugins.plugin_utils.named_checks import NAME
from ansible_collections.whitecross.pgops.plugins.plugin_utils.strict_yaml import Document, YamlFault, load


def documents(directory: str | Path, folder: str, findings: list[Finding]) -> Iterator[tuple[str, str, Document]]:
    """Read ``<directory>/checks/<folder>``, which need not be there.

    :param findings: faults of files are added to it.
    :return: of each file that can be read its name without ``.yml``, its path in messages, and what stands in it."""
    place = Path(directory) / "checks" / folder
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        if path.name.startswith(".") or path.name == "README.md":
            continue
        file = f"checks/{folder}/{path.name}"
        if path.suffix != ".yml" or not NAME.fullmatch(path.stem) or not path.is_file() or path.is_symlink():
            findings.append(Finding(file, 0, "misnamed", f"only files <lower_case_name>.yml stand in checks/{folder}"))
            continue
        try:
            yield path.stem, file, load(path.read_text(encoding="utf-8"))
        except YamlFault as exc:
            findings.append(Finding(file, exc.line, "yaml", exc.message))
        except UnicodeDecodeError:
            findings.append(Finding(file, 0, "file", "the file is not UTF-8"))
