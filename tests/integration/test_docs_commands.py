# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command in README.md and docs/ is typed here, in the order of its page, in a copy where `make demo` has run.

A command is a line that begins with `$ ` in a block marked `console`, with the lines that a closing backslash joins to
it. It must exit with 0, or as the comment before its block says: `<!-- exits 2 -->`. A block that cannot run here is not
marked `console`, and the last test below lists what may then stand in it.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from support import demo
from support.demo import Shell
from support.podman import ROOT, containers_conf, podman

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

# What a reader fills in, and the shell that finds it in the demo. Nothing else is replaced.
PLACEHOLDERS = {
    # The newest proved backup of the demo's database.
    "BACKUP": "$(ls -d .local/backups/white_cross/*/ | tail -n 1)",
    # The id of the oldest one.
    "BACKUP_ID": "$(basename $(ls -d .local/backups/white_cross/*/ | head -n 1))",
    # The newest run that the audit knows.
    "RUN_ID": "$(psql -XAtc 'SELECT max(run_id) FROM pgops.audit')",
    # The database that a swap has put aside.
    "FAILED": "$(psql -XAtc \"SELECT max(datname) FROM pg_database WHERE datname LIKE 'white_cross_failed_%'\")",
}

# Whole commands that this test must not type, and what it types in their place; each with its reason.
REPLACED = {
    # The copy stands for the clone.
    "git clone https://git.example.org/whitecross/pgops && cd pgops": "true",
    # The suite would start itself.
    "make test": "make --dry-run test",
    "make test-all": "make --dry-run test-all",
    # Made before the long tests begin.
    "make image": "make --dry-run image",
    # Smaller; a machine that runs tests is no quiet one, which ends it with 1 (and a crash shows a traceback, which fails).
    "PYTHONPATH=collections:tests .venv/bin/python benchmarks/under_load.py": (
        'ROWS=2000 REPEATS=1 ONLY="expert\'s hand,engine" PYTHONPATH=collections:tests .venv/bin/python benchmarks/under_load.py '
        "|| [ $? -eq 1 ]"
    ),
    "PYTHONPATH=collections:tests .venv/bin/python benchmarks/schema.py": (
        "REPEATS=1 PYTHONPATH=collections:tests .venv/bin/python benchmarks/schema.py"
    ),
}

# Where a wrong answer exits with 0 as well: what it has to look like.
ANSWERS = {
    "psql -c 'SET ROLE white_cross_owner' -c 'SELECT count(nickname) AS filled, count(*) AS students FROM students'": (
        r"^ +([1-9]\d*) \| +\1$"
    ),
}

FENCE = re.compile(
    r"(?:^<!-- exits (?P<rc>\d+) -->\n+)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Command:
    """One command of a page: its text, its first line there, and the exit code that the page says."""

    text: str
    line: int
    rc: int


def commands(page: Path) -> list[Command]:
    text = page.read_text(encoding="utf-8")
    found = []
    for block in FENCE.finditer(text):
        if block["language"] != "console":
            continue
        first = text[: block.start("body")].count("\n") + 1
        lines = block["body"].splitlines()
        number = 0
        while number < len(lines):
            begin = number
            if lines[number].startswith("$ "):
                typed = lines[number][2:]
                while typed.endswith("\\"):
                    number += 1
                    typed += "\n" + lines[number].removeprefix("> ")
                found.append(Command(typed, first + begin, int(block["rc"] or 0)))
            number += 1
    return found


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A copy in which the demo has run; its server is stopped, so that it may be copied."""
    with demo.place("docs") as parent:
        clone = demo.clone(parent / "made")
        shell = Shell(clone)
        answer = shell("make demo && make stop")
        shell.close()
        assert answer.rc == 0, answer.output
        yield clone


@pytest.fixture
def shell(made: Path, request: pytest.FixtureRequest) -> Iterator[Shell]:
    """A reader's shell in a copy of its own, where the server runs."""
    with demo.place("page") as parent:
        clone = demo.clone(parent / "clone")
        shutil.copytree(made / ".local", clone / ".local", symlinks=True)
        shell = Shell(clone)
        started = shell(".venv/bin/python demo/run.py --start")
        assert started.rc == 0, started.output
        if containers_conf():
            # Some machines need it for podman.
            assert shell(f"export CONTAINERS_CONF={shlex.quote(str(containers_conf()))}").rc == 0
        yield shell
        shell.close()
        if "quick-start-containers" in request.node.name:
            podman("rm", "--force", "--ignore", "--time", "0", "--volumes", "pgops-quick-start")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES if commands(page)]
)
def test_each_command_does_what_its_page_says(page: Path, shell: Shell) -> None:
    if page.name != "README.md":
        # Whoever reads another page has typed the README's commands in this shell.
        assert shell(". .local/psql.env").rc == 0
    for command in commands(page):
        typed = REPLACED.get(command.text, command.text)
        for placeholder, found in PLACEHOLDERS.items():
            typed = re.sub(rf"\b{placeholder}\b", lambda _match, found=found: found, typed)
        answer = shell(typed)
        where = f"{page.relative_to(ROOT)}:{command.line}: {command.text}"
        assert answer.rc == command.rc, f"{where} exited with {answer.rc}, not {command.rc}:\n{answer.output}"
        assert "Traceback" not in answer.output, f"{where} printed a traceback:\n{answer.output}"
        expected = ANSWERS.get(command.text, "")
        assert re.search(expected, answer.output, re.MULTILINE), f"{where} answered:\n{answer.output}"


def test_each_answer_that_is_looked_at_is_of_a_command_that_is_typed() -> None:
    typed = {command.text for page in PAGES for command in commands(page)}
    assert set(ANSWERS) <= typed


def test_each_block_with_a_shell_command_is_one_that_is_run() -> None:
    """A command in a block of another kind would escape: `text` is output, which begins with none, the others have none."""
    program = re.compile(r"^\s*(?:\$ |make |ansible-|psql |pg_|\. |\.venv/|podman |git |pip )", re.MULTILINE)
    escaped = [
        f"{page.relative_to(ROOT)}: {block['body'].splitlines()[0]}"
        for page in PAGES
        for block in FENCE.finditer(page.read_text(encoding="utf-8"))
        if block["language"] != "console"
        and (program.match(block["body"]) if block["language"] == "text" else program.search(block["body"]))
    ]
    assert not escaped


def test_what_the_pipeline_types_is_typed_in_the_demo() -> None:
    page = ROOT / "docs" / "ci.md"
    (workflow,) = (
        block["body"] for block in FENCE.finditer(page.read_text(encoding="utf-8")) if block["language"] == "yaml"
    )
    jobs = yaml.safe_load(workflow)["jobs"]
    typed = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    run = {command.text for command in commands(page)}
    assert [line for line in typed if line != "make demo" and line.replace("-l staging", "-l local") not in run] == []
    assert any(line.startswith("ansible-playbook migrate.yml -l staging") for line in typed)


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_each_link_of_a_page_leads_to_a_file() -> None:
    lost = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not lost
