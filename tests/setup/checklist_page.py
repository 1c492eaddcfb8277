# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Writes the empty form of docs/checklist.md from the code that fills it in for a run; the words around it stay."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "checklist.md"
COMMAND = "make schema"
BEGIN = f"<!-- form: written by '{COMMAND}' from plugins/plugin_utils/checklist.py; do not edit. -->"
END = "<!-- end of form -->"

sys.path.insert(0, str(ROOT / "collections"))
from ansible_collections.whitecross.pgops.plugins.plugin_utils import checklist


def page(text: str) -> str:
    """:param text: the page as it is. :return: the page with the form of today. :raises ValueError: it has no marks for it."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{PAGE.name} has no place for its form: {BEGIN} ... {END}")
    return f"{text.split(BEGIN)[0]}{BEGIN}\n\n{checklist.empty()}\n\n{END}{text.split(END)[1]}"


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    written = page(text)
    PAGE.write_text(written, encoding="utf-8")
    print(f"{'current' if written == text else 'wrote'} {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
