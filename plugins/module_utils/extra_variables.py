# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a variable is written on a command line that somebody is told to type."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

# Neither the shell nor Ansible's own key=value parser does anything to these; a ~ the shell may expand, a \ Ansible decodes.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,-]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def extra_variables_argument(variables: Mapping[str, Any]) -> str:
    """Write variables as ``-e`` arguments that give back exactly these values, of these types.

    :param variables: names and values as JSON knows them
    :return: ``-e name=value`` for each text without special characters, one quoted JSON ``-e '{...}'`` for all others;
        empty without variables. Ansible splits key=value at spaces and reads quotes and backslashes itself, so that
        quoting for the shell would not be enough.
    """
    words, others = [], {}
    for name, value in variables.items():
        if isinstance(value, str) and _PLAIN.fullmatch(value) and _NAME.fullmatch(name):
            words.append(f"-e {name}={value}")
        else:
            others[name] = value
    if others:
        words.append(f"-e {shlex.quote(json.dumps(others, ensure_ascii=False, default=str))}")
    return " ".join(words)
