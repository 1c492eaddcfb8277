# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the gate asks of the environment before: that its evidence is signed, that the version was rehearsed there, and has run for a while.

The signature lies beside the evidence, ``staging.json.sig``; it is made by the run that leaves the evidence, with a key of that ops host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import promotion, signature, typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import write_private_file

NAMESPACE = "evidence@pgops.whitecross"


def signature_of(path: Path) -> Path:
    """:return: where the signature of an evidence lies."""
    return path.with_name(f"{path.name}.sig")


def sign(path: Path, key: str) -> Path:
    """Sign the evidence as it lies there. :return: the signature's file.

    :raises PgopsError: the key does not sign. :raises OSError: a file cannot be read or written."""
    signed = signature.sign(path.read_bytes(), key, NAMESPACE)
    write_private_file(signature_of(path), signed)
    return signature_of(path)


def look(
    path: Path,
    before: str,
    pending: Sequence[Mapping[str, Any]],
    *,
    waived: Iterable[str],
    signers: Any,
    soak: timedelta,
    rehearsed: bool,
    now: datetime,
) -> dict[str, Any]:
    """Hold what is pending against the evidence of the environment before.

    :param signers: the allowed-signers file for evidence; None where the inventory has none
    :param soak: for how long a version has to have run there
    :return: ``from``, ``file``, ``signed_by``, and ``lacking``: ``kind`` (``version``, ``signature``, ``rehearsal`` or ``soak``), ``version``
        and ``why``
    :raises PgopsError: the evidence or the allowed-signers file cannot be read
    """
    let = set(waived)
    asked = [item for item in pending if str(item["version"]) not in let]
    told: dict[str, Any] = {"from": before, "file": str(path), "signed_by": None, "lacking": []}
    if not asked:
        return told
    evidence = promotion.read(path) if path.exists() else None
    for lack in promotion.lacking(asked, evidence, before, ()):
        told["lacking"].append(
            {"kind": "version", "version": lack.version, "why": f"{lack.version}_{lack.name} {lack.why}"}
        )
    if evidence is None or told["lacking"]:
        return told
    try:
        told["signed_by"] = _signer(path, signers)
    except signature.NotSigned as fault:
        told["lacking"].append({"kind": "signature", "version": None, "why": f"{path} {fault.message}"})
    for item in asked:
        entry = evidence["versions"][str(item["version"])]
        name = f"{item['version']}_{item['name']}"
        if rehearsed and not entry.get("rehearsed"):
            why = f"{name} was not rehearsed in {before}"
            told["lacking"].append({"kind": "rehearsal", "version": str(item["version"]), "why": why})
        young = _too_young(entry, soak, now, before)
        if young:
            told["lacking"].append({"kind": "soak", "version": str(item["version"]), "why": f"{name} {young}"})
    return told


def _signer(path: Path, signers: Any) -> str:
    if not signers:
        raise signature.NotSigned("is signed by nobody who is known here (gate_signers has no evidence)")
    try:
        signed = signature_of(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise signature.NotSigned(f"is not signed: there is no {signature_of(path).name}") from None
    return signature.verify(path.read_bytes(), signed, str(signers), NAMESPACE).principal


def _too_young(entry: Mapping[str, Any], soak: timedelta, now: datetime, before: str) -> str | None:
    hours = soak.total_seconds() / 3600
    try:
        over = datetime.fromisoformat(str(entry.get("applied_at"))) + soak
        if over <= now:
            return None
    except (ValueError, TypeError):
        return f"has no moment at which it was applied in {before}"
    return f"was applied in {before} at {entry['applied_at']}, and has to run there for {hours:g} hours, until {over.isoformat(timespec='seconds')}"


def command(found: Mapping[str, Any], before: str, run: Mapping[str, Any]) -> str | None:
    """:return: what to type for the first thing that is lacking: the migration there, the verification that signs what it leaves, or the
    rehearsal; None where time alone brings it."""
    # What was typed says where production is, and would take the other environment's command there.
    bare = typed_commands.without(run, typed_commands.typed_variables(run))
    kind = next((str(lack["kind"]) for lack in found["lacking"]), "version")
    if kind == "signature":
        return typed_commands.other(bare, "verify", before, {"verify_evidence_key": "FILE"})
    return {
        "version": typed_commands.other(bare, "migrate", before),
        # What is applied there is pending in the backup of before.
        "rehearsal": typed_commands.other(
            bare, "rehearse", before, {"rehearse_backup": "BACKUP_OF_BEFORE", "verify_evidence_key": "FILE"}
        ),
    }.get(kind)
