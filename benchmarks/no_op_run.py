# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""``migrate.yml`` with nothing pending against an empty play of as many roles, in turn, on the demo's server.

    make demo && .venv/bin/python benchmarks/no_op_run.py

The empty play imports as many roles as migrate.yml, each with a validated argument spec and one task that does nothing.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 3
SPEC = "argument_specs:\n  main:\n    short_description: nothing\n    options: {{}}\n"


def empty_play(folder: Path, roles: int) -> Path:
    """Write a play of ``roles`` imported roles. :return: its file."""
    lines = ["- hosts: all", "  gather_facts: false", "  tasks:"]
    for number in range(roles):
        role = folder / "roles" / f"empty_{number}"
        (role / "tasks").mkdir(parents=True)
        (role / "meta").mkdir()
        (role / "meta" / "argument_specs.yml").write_text(SPEC.format(), encoding="utf-8")
        (role / "tasks" / "main.yml").write_text(
            "- name: Nothing\n  ansible.builtin.assert: {that: true, quiet: true}\n", encoding="utf-8"
        )
        lines += [f"    - ansible.builtin.import_role: {{name: empty_{number}}}"]
    play = folder / "empty.yml"
    play.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return play


def seconds(*command: str) -> float:
    """:return: how long ansible-playbook took, in seconds."""
    begun = time.monotonic()
    subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), *command, "-l", "local"],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
    )  # fmt: skip
    return time.monotonic() - begun


def main() -> None:
    """Print each repeat's times and ratio, then the median."""
    roles = (ROOT / "playbooks" / "migrate.yml").read_text(encoding="utf-8").count("import_role")
    with tempfile.TemporaryDirectory() as folder:
        play = empty_play(Path(folder), roles)
        ratios = []
        for repeat in range(REPEATS + 1):
            ours, empty = seconds("migrate.yml"), seconds(str(play))
            if repeat == 0:
                continue  # warm-up
            ratios.append(ours / empty)
            print(
                f"migrate.yml, nothing pending {ours:.2f} s, {roles} empty roles {empty:.2f} s, ratio {ratios[-1]:.2f}"
            )
        print(f"median ratio {statistics.median(ratios):.2f} (aim: 3 or less)")


if __name__ == "__main__":
    main()
