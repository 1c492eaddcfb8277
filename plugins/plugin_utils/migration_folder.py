# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""One folder of the migration tree: its files read as text, its ``migration.yml`` checked."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import Finding
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration import (
    FILE_NAME,
    FOLDER,
    METADATA,
    Migration,
    files_checksum,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_steps import read_step, use_file
from ansible_collections.whitecross.pgops.plugins.plugin_utils.strict_yaml import (
    Keys,
    YamlFault,
    check_keys,
    load,
)

VARIABLE = re.compile(r"[a-z][a-z0-9_]*")
VERIFY = "verify.sql.j2"

RISKS = ("low", "medium", "high", "critical")
PHASES = ("core", "enhancement")
STRATEGIES = ("online", "blue_green")
SAFETIES = ("complete", "partial", "none")

# lock_timeout: measured behind a reader of 6 s, clients wait 0.11 s at 100 ms and 4.5 s without. The others are
# generous ends of what must end: a step of minutes should have been split, an index of an hour is a big one.
# batch_target_ms: what a client does not notice when it meets a row of a batch.
# rewrite_limit_mb: a rewrite of 15 MB with its indexes took a second, so 1 MB is over before a client notices.
BUDGETS = {
    "lock_timeout_ms": 100,
    "lock_budget_s": 60,
    "statement_timeout_s": 300,
    "index_timeout_s": 3600,
    "batch_target_ms": 100,
    "rewrite_limit_mb": 1,
}
_MAY_BE_ZERO = ("rewrite_limit_mb",)
# What its rehearsal is held against; without them the role's variables count.
REHEARSAL_BUDGETS = ("blocked_reads_ms", "blocked_writes_ms", "duration_s")

# key: (type, required, choices)
_METADATA_KEYS: Keys = {
    "title": (str, True, ()),
    "why": (str, True, ()),
    "risk": (str, True, RISKS),
    "phi": (bool, True, ()),
    "phase": (str, False, PHASES),
    "depends_on": (list, False, ()),
    "repairs": (list, False, ()),
    "contract": (dict, False, ()),
    "rollback": (dict, True, ()),
    "variables": (dict, False, ()),
    "budgets": (dict, False, ()),
    "expected_seconds": (int, False, ()),
    "expected_by_rows": (dict, False, ()),
    "transaction": (bool, False, ()),
    "strategy": (str, False, STRATEGIES),
    "steps": (list, True, ()),
    "verify": (str, False, ()),
}
_ROLLBACK_KEYS: Keys = {
    "safety": (str, True, SAFETIES),
    "stays": (str, False, ()),
}
# Ages as people write them, in seconds.
_AGES = {"min": 60, "h": 3600, "d": 86400}
_AGE = re.compile(r"(?P<number>[1-9]\d*) ?(?P<unit>min|h|d)")
_CONTRACT_KEYS: Keys = {
    # A version without quotes is a number.
    "after": (object, True, ()),
    "min_age": (str, True, ()),
    "no_sessions_of": (list, False, ()),
}


def _printable(name: str) -> str:
    """:return: the name of a file as it can be shown; bytes that are not UTF-8 would break the output."""
    return name.encode("utf-8", "backslashreplace").decode()


def read_folder(root: Path, path: Path, findings: list[Finding]) -> Migration | None:
    match = FOLDER.fullmatch(path.name)
    if not path.is_dir():
        findings.append(
            Finding(
                _printable(path.name), 0, "misnamed", "only folders <14 digits>_<lower_case_name> stand in migrations"
            )
        )
        return None
    if not match:
        findings.append(
            Finding(
                _printable(path.name),
                0,
                "misnamed",
                "a migration's folder is named <14 digits>_<lower_case_name>, for example 20260131120000_add_x",
            )
        )
        return None
    if not path.resolve().is_relative_to(root.resolve()):
        findings.append(Finding(path.name, 0, "symlink", "the folder is a link to outside the tree"))
        return None
    contents = _read_files(path, findings)
    if METADATA not in contents:
        if not (path / METADATA).exists():
            findings.append(Finding(f"{path.name}/{METADATA}", 0, "file-missing", "the file is missing"))
        return None
    file = f"{path.name}/{METADATA}"
    try:
        document = load(contents[METADATA]["text"])
    except YamlFault as exc:
        findings.append(Finding(file, exc.line, "yaml", exc.message))
        return None
    migration = Migration(match["version"], match["name"], path, document)
    if not check_keys(document, (), _METADATA_KEYS, file, findings):
        return None
    _fill(migration, contents, findings)
    return migration


def _read_files(path: Path, findings: list[Finding]) -> dict[str, dict[str, str]]:
    """Read the files of a folder that can be read as text; a fault for each other one."""
    contents = {}
    for entry in sorted(path.iterdir()):
        # An editor's swap file or the desktop's .DS_Store is no part of a migration; it is not applied either.
        if entry.name.startswith("."):
            continue
        text, line, fault = _read_text(path, entry)
        if fault:
            findings.append(Finding(f"{path.name}/{_printable(entry.name)}", line, "file", fault))
        elif text is not None:
            digest = hashlib.sha256(text.encode()).hexdigest()
            contents[entry.name] = {"sha256": digest, "text": text}
    return contents


def _read_text(folder: Path, entry: Path) -> tuple[str | None, int, str | None]:
    """:return: text, line of the fault, the fault."""
    if not FILE_NAME.fullmatch(entry.name):
        return None, 0, "the file's name is not safe: letters, digits, dot, dash and underscore only"
    # Not by resolve(), which raises RuntimeError where a link leads to itself.
    if entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(os.path.realpath(folder)):
        return None, 0, "the file is a link to outside the migration's folder"
    try:
        if not stat.S_ISREG(entry.stat().st_mode):
            return None, 0, "only regular files stand in a migration's folder"
        data = entry.read_bytes()
    except OSError as exc:
        return None, 0, f"the file cannot be read: {exc.strerror}"
    if not data.strip():
        return None, 0, "the file is empty"
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return None, 1, "the file starts with a byte order mark; save it as UTF-8 without one"
    if b"\0" in data:
        return None, data.count(b"\n", 0, data.index(b"\0")) + 1, "the file holds a NUL byte; save it as UTF-8"
    try:
        return data.decode(), 0, None
    except UnicodeDecodeError as exc:
        return None, data.count(b"\n", 0, exc.start) + 1, "the file is not UTF-8"


def _fill(migration: Migration, contents: dict[str, dict[str, str]], findings: list[Finding]) -> None:
    """Take over the checked metadata; what is below the first level is checked here."""
    document, data, file = migration.document, migration.document.data, migration.location(METADATA)
    migration.title = data["title"].strip()
    migration.why = data["why"].strip()
    migration.risk, migration.phi = data["risk"], data["phi"]
    migration.phase = data.get("phase", "enhancement")
    migration.transaction = data.get("transaction", True)
    migration.strategy = data.get("strategy", "online")
    if check_keys(document, ("rollback",), _ROLLBACK_KEYS, file, findings):
        migration.rollback = {"safety": data["rollback"]["safety"], "stays": data["rollback"].get("stays", "")}
        if migration.rollback["safety"] != "complete" and not migration.rollback["stays"].strip():
            findings.append(
                Finding(
                    file,
                    document.line("rollback"),
                    "rollback",
                    f"a rollback that is '{migration.rollback['safety']}' must say under 'stays' what stays behind",
                )
            )
    migration.depends_on = [document.written.get(("depends_on", i), "") for i in range(len(data.get("depends_on", [])))]
    migration.repairs = [document.written.get(("repairs", i), "") for i in range(len(data.get("repairs", [])))]
    migration.depends_on += [version for version in migration.repairs if version not in migration.depends_on]
    migration.contract = _contract(migration, findings)
    migration.variables = _variables(migration, findings)
    migration.budgets = _budgets(migration, findings)
    migration.expected_seconds = data.get("expected_seconds")
    if migration.expected_seconds is not None and migration.expected_seconds < 1:
        fault = f"'expected_seconds' is {migration.expected_seconds}; give 1 or more, or leave the key out"
        findings.append(Finding(file, document.line("expected_seconds"), "wrong-value", fault))
    migration.expected_by_rows = _expected_by_rows(migration, findings)
    uses: dict[str, int] = {METADATA: 0}
    for i in range(len(data["steps"])):
        step = read_step(migration, i, contents, uses, findings)
        if step:
            migration.steps.append(step)
    if "verify" in data or VERIFY in contents:
        migration.verify = data.get("verify", VERIFY)
        use_file(migration, migration.verify, ".sql.j2", ("verify",), contents, uses, findings)
    # A step that was not understood names its files all the same.
    understood = len(migration.steps) == len(data["steps"])
    for name in sorted(set(contents) - set(uses)) if understood else ():
        findings.append(
            Finding(
                migration.location(name),
                0,
                "file-unused",
                f"{METADATA} does not name the file, so it would never run; name it in a step or remove it",
            )
        )
    migration.files = {name: contents[name] for name in sorted(uses) if name in contents}
    migration.checksum = files_checksum(migration.files)


def _expected_by_rows(migration: Migration, findings: list[Finding]) -> dict[str, int]:
    document, file = migration.document, migration.location(METADATA)
    result: dict[str, int] = {}
    for rows, seconds in document.data.get("expected_by_rows", {}).items():
        if not (rows.isdecimal() and type(seconds) is int and seconds >= 1):
            fault = (
                f"'{rows}: {seconds}' under 'expected_by_rows' is not 'up to how many rows: seconds', two whole numbers"
            )
            findings.append(Finding(file, document.line("expected_by_rows", rows), "wrong-value", fault))
        else:
            result[rows] = seconds
    return result


def _contract(migration: Migration, findings: list[Finding]) -> dict[str, Any]:
    document, file = migration.document, migration.location(METADATA)
    given = document.data.get("contract")
    if given is None or not check_keys(document, ("contract",), _CONTRACT_KEYS, file, findings):
        return {}
    age = _AGE.fullmatch(given["min_age"])
    names = given.get("no_sessions_of", [])
    if not age:
        text = f"'min_age' is '{given['min_age']}'; give a number and min, h or d, such as 7 d"
        findings.append(Finding(file, document.line("contract", "min_age"), "wrong-value", text))
        return {}
    if not all(isinstance(name, str) and name.strip("* ") for name in names):
        text = "'no_sessions_of' names the application_name of the old code, each a text that is more than *"
        findings.append(Finding(file, document.line("contract", "no_sessions_of"), "wrong-value", text))
        return {}
    after = document.written.get(("contract", "after"), "")
    if after not in migration.depends_on:
        migration.depends_on.append(after)
    seconds = int(age["number"]) * _AGES[age["unit"]]
    return {"after": after, "min_age_s": seconds, "no_sessions_of": list(names)}


def _variables(migration: Migration, findings: list[Finding]) -> dict[str, Any]:
    document, file = migration.document, migration.location(METADATA)
    result = {}
    for name, value in document.data.get("variables", {}).items():
        line = document.line("variables", name)
        if not VARIABLE.fullmatch(name):
            fault = f"the variable '{name}' must be lower case letters, digits and underscore"
        elif name == "schema":
            fault = "the variable 'schema' is always there and cannot be declared"
        elif value is None:
            fault = f"the variable '{name}' has no default, so the tree could not be checked without it"
        elif not isinstance(value, (str, int, float, bool, list, dict)):
            fault = f"the variable '{name}' became {value!r}; write it in quotes"
        elif "\0" in str(value):
            fault = f"the variable '{name}' holds a NUL byte"
        else:
            result[name] = value
            continue
        findings.append(Finding(file, line, "variable", fault))
    return result


def _budgets(migration: Migration, findings: list[Finding]) -> dict[str, int]:
    allowed: Keys = {name: (int, False, ()) for name in (*BUDGETS, *REHEARSAL_BUDGETS)}
    file, given = migration.location(METADATA), migration.document.data.get("budgets", {})
    if given and not check_keys(migration.document, ("budgets",), allowed, file, findings):
        return dict(BUDGETS)
    for name, value in given.items():
        if value < (0 if name in _MAY_BE_ZERO else 1):
            line = migration.document.line("budgets", name)
            why = "at least 0" if name in _MAY_BE_ZERO else "a wait without a limit stops every client"
            findings.append(Finding(file, line, "wrong-value", f"'{name}' is {value}: {why}"))
    return {**BUDGETS, **given}
