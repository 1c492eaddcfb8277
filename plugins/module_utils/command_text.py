# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be typed as it stands, in a shell or in psql, and what is a sentence that says what is to be done.

A shell takes ``set pgops_host`` without a word and does nothing, so a sentence is never offered as the command to type next.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

_ANSIBLE = re.compile(r"^ansible(?:-[a-z]+)*$")
_TOOLS = re.compile(
    r"^(?:apt-get|chmod|dnf|pip|psql|python[\d.]*|vacuumdb|pg_\w+|pgbackrest|systemctl|journalctl|loginctl)$"
)
_SQL = re.compile(
    r"^(?:ALTER|ANALYZE|CREATE|DO|DROP|GRANT|REINDEX|REVOKE|(?:ROLLBACK|COMMIT) PREPARED|SELECT|UPDATE|VACUUM)\b"
)
_BLOCK = re.compile(r"^DO \$\$.*\$\$;$", re.DOTALL)
_LEFT_OUT = re.compile(r"…|\.\.\.")
# A comment of SQL, behind the last of those that are told.
_AND_MORE = re.compile(r" -- and \d+ more$")
# Where words go on behind a command of a tool: "pgbackrest info, on the host"; what is quoted belongs to the command.
_GOES_ON = re.compile(r"[,;:] [a-z]| (?:and|or|of the) ")
_QUOTED = re.compile(r"""'[^']*'|"(?:[^"\\]|\\.)*\"""")
# A comment of the shell, as the one of SQL.
_MORE_THERE = re.compile(r" # and \d+ more$")
_PLAYBOOK = "ansible-playbook"
# Of ansible-playbook, the options behind which a value stands.
_WITH_VALUE = re.compile(
    r"^(?:-[A-Za-z]*[eilftucMT]|--(?:limit|tags|skip-tags|extra-vars|inventory|start-at-task|forks|user|vault-[a-z-]+))$"
)


def is_sql(text: str) -> bool:
    """:return: whether it is statements for psql and nothing else, each with its semicolon."""
    told = _AND_MORE.sub("", text.strip())
    if not told.endswith(";") or _LEFT_OUT.search(told):
        return False
    if _BLOCK.match(told):
        return True
    return all(_SQL.match(statement.strip()) for statement in told[:-1].split("; "))


def is_command(text: str) -> bool:
    """:return: whether it can be typed as it stands."""
    if is_sql(text):
        return True
    told = _MORE_THERE.sub("", text)
    try:
        words = shlex.split(told)
    except ValueError:
        return False
    bare = _QUOTED.sub("''", told)
    if _GOES_ON.search(bare) or _LEFT_OUT.search(bare):
        return False
    commands: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            commands.append([])
        else:
            commands[-1].append(word)
    return all(map(_is_one, commands))


def _is_one(words: list[str]) -> bool:
    """:return: whether the words of a command begin with a tool, and say of a playbook nothing but its options."""
    if not words or not (_ANSIBLE.match(words[0]) or _TOOLS.match(words[0])):
        return False
    if words[0] != _PLAYBOOK:
        return True
    named = [
        word
        for before, word in zip(words, words[1:])
        if not word.startswith("-") and not (before.startswith("-") and _WITH_VALUE.match(before))
    ]
    return len(named) <= 1


def together(texts: Iterable[str]) -> str:
    """:return: several commands as one where all are commands of one kind; else one sentence after the other."""
    told = list(texts)
    if all(is_sql(text) for text in told):
        return " ".join(told)
    if all(is_command(text) and not is_sql(text) for text in told):
        return " && ".join(told)
    return "; ".join(text if number == len(told) - 1 else text.rstrip(";") for number, text in enumerate(told))
