# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks the audit of a database, ``pgops.audit``, against itself and against the anchors that were kept outside of it.

This file needs Python 3.9 and nothing else; to read a database itself it needs psycopg2. It writes nothing. An auditor copies it
and types: ``python3 audit_verifier.py --export FILE --anchors FILE``, or ``--dsn "host=… dbname=… user=…"``.

It exits with 0 where everything holds, 1 where something was tampered with, 2 where it could not look, 3 where something needs a
person's explanation, such as a restore that this tool did not make, or an audit without any anchor.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

GENESIS = "0" * 64
COLUMNS = ("seq", "at", "run_id", "event", "version", "actor", "detail", "previous", "hash")
ANCHOR_NAMESPACE = "pgops-anchor"
CHECKPOINT_NAMESPACE = "pgops-checkpoint"
TAMPERED, EXPLAIN, NOTE = "tampered", "explain", "note"
HOLDS, EXIT_TAMPERED, CANNOT_LOOK, EXIT_EXPLAIN = 0, 1, 2, 3
# A rewritten table has as many findings as rows; so many are kept, and so many of these are shown.
KEPT_AT_MOST, TOLD_AT_MOST = 1000, 20
# The clock of a server is set back by seconds; a row that was put in with another time is older than that.
BACKDATED_S = 60.0

_OF_ROWS = ("edited", "missing", "replaced", "order", "backdated")
_TEXT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_CANONICAL = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode


class CannotLook(Exception):
    """A file or a database that cannot be read: nothing is known of the audit."""


@dataclass(frozen=True)
class Finding:
    """One sentence, how grave it is (``tampered``, ``explain`` or ``note``), and the first and last row that it is about."""

    code: str
    gravity: str
    sentence: str
    first: int | None = None
    last: int | None = None


@dataclass
class Result:
    """What was found; ``exit_code`` as the head of this file says."""

    database: str | None = None
    rows: int = 0
    first: int | None = None
    last: int | None = None
    head: str | None = None
    anchors: int = 0
    findings: list[Finding] = field(default_factory=list)
    more: int = 0

    def add(self, code: str, gravity: str, sentence: str, first: int | None = None, last: int | None = None) -> None:
        """Keep a finding; one that goes on with the next row of the one before is told as one."""
        before = self.findings[-1] if self.findings else None
        if before and before.code == code == "edited" and before.last is not None and before.last + 1 == first:
            told = f"Rows {before.first} to {last} were changed: their contents are not what their hashes say."
            self.findings[-1] = Finding(code, gravity, told, before.first, last)
            return
        # Those behind them are of the same kind; what the anchors and the catalog show comes after the rows and is never left out.
        if code in _OF_ROWS and len(self.findings) >= KEPT_AT_MOST:
            self.more += 1
            return
        self.findings.append(Finding(code, gravity, sentence, first, last))

    @property
    def exit_code(self) -> int:
        """:return: 0, 1 or 3."""
        found = {finding.gravity for finding in self.findings}
        return EXIT_TAMPERED if TAMPERED in found else EXIT_EXPLAIN if EXPLAIN in found else HOLDS

    def as_dict(self) -> dict[str, Any]:
        """:return: for ``--json`` and for Ansible."""
        return {
            **{
                name: getattr(self, name)
                for name in ("database", "rows", "first", "last", "head", "anchors", "more", "exit_code")
            },
            "ok": self.exit_code == HOLDS,
            "findings": [asdict(finding) for finding in self.findings],
        }


# -- the chain ------------------------------------------------------------------------------------------------------------


def entry_hash(
    seq: int, at: str, run_id: str | None, event: str, version: str | None, actor: str, detail: str, previous: str
) -> str:
    """:return: the hash of a row; the server computes the same one when it writes it."""
    return hashlib.sha256(_TEXT([seq, at, run_id, event, version, actor, detail, previous]).encode()).hexdigest()


def check_rows(
    rows: Iterable[Sequence[Any]], result: Result, start: tuple[int, str], wanted: set[int], kept: Kept | None = None
) -> dict[int, str]:
    """Follow the chain from its beginning to its head.

    :param rows: values in the order of :data:`COLUMNS`, by ``seq``.
    :param start: number and hash of the row before the first one; a checkpoint may stand for an archived beginning.
    :param wanted: numbers of rows whose hash is asked for.
    :param kept: the copy of the rows; which of them the chain has is noted in it.
    :return: these hashes, of the rows that are there.
    """
    known: dict[int, str] = {}
    before, previous, earlier = *start, ""
    for seq, at, run_id, event, version, actor, detail, link, digest in rows:
        if seq <= before:
            result.add("order", TAMPERED, f"Row {seq} stands twice, or behind row {before}.", seq, seq)
            continue
        if seq != before + 1:
            gap = f"Row {before + 1} is" if seq == before + 2 else f"Rows {before + 1} to {seq - 1} are"
            result.add("missing", TAMPERED, f"{gap} missing: deleted from the middle.", before + 1, seq - 1)
        elif link != previous:
            told = f"Row {seq} does not follow row {before}: one of the two was replaced."
            result.add("replaced", TAMPERED, told, before, seq)
        if entry_hash(seq, at, run_id, event, version, actor, detail, link) != digest:
            result.add("edited", TAMPERED, f"Row {seq} was changed: its contents are not what its hash says.", seq, seq)
        if (at or "") < earlier and _seconds(at, earlier) > BACKDATED_S:
            told = f"Row {seq} says {at}, and the row before it {earlier}: it was put in with another time, or the clock was set back."
            result.add("backdated", EXPLAIN, told, seq, seq)
        if seq in wanted:
            known[seq] = digest
        if kept:
            kept.saw(seq, digest)
        result.rows += 1
        result.first = seq if result.first is None else result.first
        before, previous, earlier = seq, digest, at or ""
    result.last, result.head = (before, previous) if result.rows else (None, None)
    return known


def _seconds(earlier: str | None, later: str) -> float:
    """:return: between two times; infinite where one is none, such as ``infinity``."""
    try:
        first, last = (datetime.fromisoformat(str(text).rstrip("Z")) for text in (earlier, later))
    except ValueError:
        return float("inf")
    return (last - first).total_seconds()


# -- the anchors ----------------------------------------------------------------------------------------------------------


def line_hash(line: str) -> str:
    """:return: what the next line of a file of anchors names as its ``previous``."""
    return hashlib.sha256(line.rstrip("\n").encode()).hexdigest()


def signed_text(document: Mapping[str, Any]) -> str:
    """:return: what a signature of an anchor or of a checkpoint is over: all but the signature itself."""
    return _CANONICAL({name: value for name, value in document.items() if name != "signature"}) + "\n"


def check_anchor_lines(text: str, name: str, result: Result, digests: list[str] | None = None) -> list[dict[str, Any]]:
    """:param digests: gets the hash of each anchor's line.
    :return: the anchors of a file, oldest first; each names the hash of the line before, so that none goes unseen."""
    anchors: list[dict[str, Any]] = []
    previous, torn = GENESIS, False
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            anchor = json.loads(line)
            int(anchor.get("seq") or 0)
        except (ValueError, AttributeError, TypeError):
            torn = True  # what a crash left of a line; the next one names the one before it
            result.add("anchor_torn", NOTE, f"Line {number} of {name} is cut off and does not count.")
            continue
        if anchor.get("previous") != previous:
            between = " (a torn line stands between)" if torn else ""
            told = f"Line {number} of {name} does not follow the one before: a line was changed, added or taken out{between}."
            result.add("anchor_chain", TAMPERED, told)
        previous, torn = line_hash(line), False
        anchors.append(anchor)
        if digests is not None:
            digests.append(previous)
    if torn:
        told = f"The last line of {name} is cut off: a run was ended while it wrote it, or somebody cut it; the next run would have added one."
        result.add("anchors_cut", EXPLAIN, told)
    return anchors


def check_signatures(anchors: Sequence[Mapping[str, Any]], signers: str | None, result: Result) -> None:
    """The newest signature covers all lines before it, since each names the one before."""
    signed = [number for number, anchor in enumerate(anchors) if anchor.get("signature")]
    if not signers:
        if signed:
            result.add("unchecked", NOTE, "The anchors are signed; give --allowed-signers FILE to check by whom.")
        return
    if not signed:
        result.add("unsigned", EXPLAIN, "No anchor is signed, though signers were given.")
        return
    newest = anchors[signed[-1]]
    who = check_signature(newest, signers, ANCHOR_NAMESPACE)
    if who is None:
        told = f"The signature of the anchor of {newest.get('time')} (row {newest.get('seq')}) is not one of the allowed signers'."
        result.add("signature", TAMPERED, told)
    else:
        result.add("signed", NOTE, f"The anchors up to {newest.get('time')} are signed by {who}.")
    if signed[-1] + 1 < len(anchors):
        result.add("unsigned", EXPLAIN, f"The last {len(anchors) - signed[-1] - 1} anchors are not signed.")


def check_signature(document: Mapping[str, Any], signers: str, namespace: str) -> str | None:
    """:param signers: file of allowed signers, as ssh-keygen has it.
    :return: the principal whose key signed this very document, or None.
    :raises CannotLook: ssh-keygen is not there."""
    with tempfile.NamedTemporaryFile("w", suffix=".sig", encoding="utf-8") as file:
        file.write(str(document.get("signature") or ""))
        file.flush()
        try:
            found = _ssh_keygen(["find-principals", "-s", file.name, "-f", signers], "")
            for principal in found.stdout.split("\n")[:1] if found.returncode == 0 else []:
                arguments = ["verify", "-f", signers, "-I", principal, "-n", namespace, "-s", file.name]
                if _ssh_keygen(arguments, signed_text(document)).returncode == 0:
                    return principal
        except FileNotFoundError:
            raise CannotLook("ssh-keygen (of OpenSSH 8.2 or later) is needed to check a signature") from None
    return None


def _ssh_keygen(arguments: list[str], text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ssh-keygen", "-Y", *arguments], input=text, capture_output=True, text=True, check=False, timeout=60
    )


def check_anchors(
    anchors: Sequence[Mapping[str, Any]],
    known: Mapping[int, str],
    result: Result,
    cluster: Mapping[str, Any],
    kept: Kept | None,
    start: tuple[int, str],
    seen: Sequence[Mapping[str, Any]],
) -> None:
    """Hold the chain against what it was seen to be: only this shows a cut tail, a TRUNCATE and a full rewrite.

    :param known: hashes of the rows that the anchors name.
    :param cluster: ``system_identifier``, ``timeline`` and ``database_oid`` of what was read, as far as they are known.
    :param kept: the copy of the rows, without those that the chain has; None where none was given.
    :param start: number and hash of the row before the first one.
    :param seen: anchors that lay before it for whom signed the checkpoint; what was anchored later is of a branch that he has not seen.
    """
    archived = {id(anchor) for anchor in seen}
    heads = [anchor for anchor in anchors if anchor.get("seq")]
    result.anchors = len(heads)
    if not heads:
        told = "There is no anchor: a cut tail or a rewrite of the whole table could not be seen."
        result.add("no_anchor", EXPLAIN, told)
        return
    run: list[Mapping[str, Any]] = []
    good: Mapping[str, Any] | None = None
    held: dict[Any, int] = {}  # by cluster the newest row that was anchored there and is in this chain
    failed: list[tuple[list[Mapping[str, Any]], Mapping[str, Any] | None, int]] = []
    there: list[tuple[Mapping[str, Any], bool]] = []
    for number, anchor in enumerate(heads):
        seq = int(anchor["seq"])
        before = (seq < start[0] and id(anchor) in archived) or (seq == start[0] and anchor["hash"] == start[1])
        there.append((anchor, before or known.get(seq) == anchor["hash"]))
        if there[-1][1]:
            run, good = [], anchor
            held[anchor.get("system_identifier")] = seq
        elif run and _same_cluster(anchor, run[-1]):
            run.append(anchor)
            failed[-1] = (run, failed[-1][1], number)
        else:
            run = [anchor]
            failed.append((run, good, number))
    for run, good, last in failed:
        _branch(run, good, _Seen(there[last + 1 :], cluster, held.get(run[-1].get("system_identifier"))), result, kept)


def _same_cluster(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """:return: whether nothing says that they are of two clusters."""
    names = one.get("system_identifier"), other.get("system_identifier")
    return not all(names) or names[0] == names[1]


@dataclass
class _Seen:
    """What is known beside anchors that the chain does not have.

    :ivar later: the anchors behind them, each with whether the chain has it. :ivar cluster: of what is verified.
    :ivar held: a row anchored in their cluster that the chain has.
    """

    later: Sequence[tuple[Mapping[str, Any], bool]]
    cluster: Mapping[str, Any]
    held: int | None

    def after(self, last: Mapping[str, Any]) -> Mapping[str, Any]:
        """:return: what their cluster was seen as next, where this chain went on in it; else what came in its place.

        A run on another server that comes between is no reason to take a cut for a restore.
        """
        here = _same_cluster(last, self.cluster)
        again = (one for one, held in self.later if _same_cluster(one, last) and (held or here))
        found = next(again, None)
        if found is None and not here:
            found = next((one for one, _held in self.later if not _same_cluster(one, last)), None)
        return self.cluster if found is None else found


def _branch(
    run: Sequence[Mapping[str, Any]],
    good: Mapping[str, Any] | None,
    seen_beside: _Seen,
    result: Result,
    kept: Kept | None,
) -> None:
    """Anchors one after the other of which the chain knows nothing: something was cut or rewritten, or a restore went back."""
    first = int(good["seq"]) + 1 if good else 1
    last = max(int(anchor["seq"]) for anchor in run)
    seen = f"anchored at {run[-1].get('time')} by run {run[-1].get('run_id')}"
    after, cluster = seen_beside.after(run[-1]), seen_beside.cluster
    parted = dict(after.get("parted") or {})
    common = int(parted.get("common") or 0)
    now = {name: after.get(name) or cluster.get(name) for name in ("system_identifier", "timeline", "database_oid")}
    moved = [name.replace("_", " ") for name in now if now[name] and run[-1].get(name) and now[name] != run[-1][name]]
    if parted.get("explained") and common < int(run[0]["seq"]):
        by = f"{parted['explained']} (run {parted.get('by') or after.get('run_id')})"
        told = f"Rows {common + 1} to {last} ({seen}) belong to a branch that ended when {by} took the database back to row {common}"
        if not moved and any(now.values()):
            told = (
                f"Rows {common + 1} to {last} ({seen}) are gone. {by} is said to have taken the database back, but system identifier, "
                "timeline and database OID are those of before: nothing was restored, they were cut"
            )
            result.add("rewritten", TAMPERED, f"{told}.", common + 1, last)
        elif kept is not None and all(kept.has(anchor) for anchor in run):
            result.add("restored", NOTE, f"{told}; both branches are kept and hold.", common + 1, last)
        else:
            more = (
                "give --rows FILE, the copy of the rows, to see it" if kept is None else "the copy of the rows lacks it"
            )
            result.add("restored", EXPLAIN, f"{told}; {more}.", common + 1, last)
        return
    if "system identifier" in moved:
        _other_cluster(run, first, last, seen_beside, now["system_identifier"], result)
    elif moved:
        told = (
            f"Rows {first} to {last} ({seen}) are not in this chain, and the {' and '.join(moved)} of the database changed since: it was "
            "restored or promoted outside of this tool; somebody has to say when and why."
        )
        result.add("restored_elsewhere", EXPLAIN, told, first, last)
    elif result.last is None:
        result.add(
            "emptied", TAMPERED, f"The audit is empty, and row {last} was {seen}: TRUNCATE or DELETE.", first, last
        )
    elif last > result.last and int(run[0]["seq"]) > result.last:
        told = f"The audit ends at row {result.last}, and row {last} was {seen}: its tail was cut."
        # What stands behind the last anchor that holds may have taken the place of rows that went.
        result.add("tail_cut", TAMPERED, told, min(first, result.last + 1), last)
    else:
        told = f"Row {run[0]['seq']} is not the one that was {seen}: the rows from {first} on were rewritten."
        result.add("rewritten", TAMPERED, told, first, result.last)


def _other_cluster(
    run: Sequence[Mapping[str, Any]], first: int, last: int, seen_beside: _Seen, now: Any, result: Result
) -> None:
    """initdb alone makes a system identifier: a restore into a new cluster brings the rows along, another server has its own."""
    was, held = run[-1]["system_identifier"], seen_beside.held
    seen = f"anchored at {run[-1].get('time')} by run {run[-1].get('run_id')} in cluster {was}"
    if held is not None:
        told = (
            f"Rows {first} to {last} ({seen}) are not in this chain, which has row {held} of that cluster and lies in cluster {now}: the audit "
            "was restored into a new cluster outside of this tool; somebody has to say when and why."
        )
        result.add("restored_elsewhere", EXPLAIN, told, first, last)
        return
    told = (
        f"Row {last} was {seen}, and no row that was anchored there is in this chain, which lies in cluster {now}: that is another server with a "
        "database of this name, or a server without this history took its place; nothing says that it was restored, and somebody has to say which."
    )
    result.add("another_server", EXPLAIN, told, 1, last)


@dataclass
class Kept:
    """The rows that were copied outside at each run, those of ended branches too: by number the hashes that the chain has not shown."""

    rows: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    last: int = 0

    def saw(self, seq: int, digest: str) -> None:
        """The chain has this row."""
        left = tuple(one for one in self.rows.get(seq, ()) if one != _raw(digest))
        if left:
            self.rows[seq] = left
        else:
            self.rows.pop(seq, None)

    def has(self, anchor: Mapping[str, Any]) -> bool:
        """:return: whether the row of this anchor is here, and not in the chain."""
        return _raw(str(anchor["hash"])) in self.rows.get(int(anchor["seq"]), ())


def _raw(digest: str) -> bytes:
    try:
        return bytes.fromhex(digest)
    except ValueError:
        return b""


def read_kept(path: str) -> Kept:
    """:return: the copy; a row whose hash is not that of its contents is left out: it proves nothing."""
    kept = Kept()
    with _open(path) as file:
        for line in file:
            try:
                row = json.loads(line)
                if entry_hash(*(row[name] for name in COLUMNS[:-1])) == row["hash"]:
                    kept.last = int(row["seq"])
                    kept.rows[kept.last] = (*kept.rows.get(kept.last, ()), _raw(row["hash"]))
            except (ValueError, KeyError, TypeError):
                continue
    return kept


def check_kept(kept: Kept, anchors: Sequence[Mapping[str, Any]], result: Result, span: tuple[int, int | None]) -> None:
    """What was copied outside and is not in the chain, and belongs to nothing that the anchors have told: they were changed as well.

    :param span: the row before the first one, and the last one that is looked at, None for all.
    """
    heads = [int(anchor["seq"]) for anchor in anchors if anchor.get("seq")]
    if heads and kept.last > max(heads):  # two runs that end at once anchor in either order
        told = (
            f"Row {kept.last} was copied to the ops host, and the last anchor is of row {max(heads)}: a run was ended between the two, or the "
            "end of the anchors was cut."
        )
        result.add("anchors_cut", EXPLAIN, told, max(heads) + 1, kept.last)
    told_of = [(one.first, one.last or one.first) for one in result.findings if one.first and one.code != "anchors_cut"]
    after, upto = span
    gone = sorted(
        seq
        for seq in kept.rows
        if after < seq and (upto is None or seq <= upto) and not any(first <= seq <= last for first, last in told_of)
    )
    if not gone:
        return
    # A branch may have had rows behind its last anchor, where its last run was killed.
    ended = [
        one.first
        for one in result.findings
        if one.code in ("restored", "restored_elsewhere", "another_server") and one.first
    ]
    gravity = EXPLAIN if ended and gone[0] >= min(ended) else TAMPERED
    told = f"{len(gone)} rows from {gone[0]} to {gone[-1]} were copied to the ops host and are not in this chain, and no anchor tells of them."
    result.add("kept", gravity, told, gone[0], gone[-1])


# -- a checkpoint, which stands for an archived beginning -----------------------------------------------------------------


@dataclass
class Outside:
    """What was kept outside of the database.

    :ivar anchors: oldest first. :ivar digests: the hash of each one's line. :ivar kept: the copy of the rows, None where none was given.
    """

    anchors: list[dict[str, Any]] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    kept: Kept | None = None

    def values(self, head: Mapping[str, Any], *names: str) -> set[tuple[Any, ...]]:
        """:return: what the anchors and the head of what is verified say of these, where they say all of them."""
        found = {tuple(one.get(name) for name in names) for one in (*self.anchors, head)}
        return {values for values in found if all(values)}


def check_checkpoint(
    head: Mapping[str, Any], outside: Outside, signers: str | None, result: Result
) -> tuple[tuple[int, str], Sequence[Mapping[str, Any]]]:
    """Who signed it, whether it is this audit's, and whether anything outside of the database knows the row that it ends at.

    A superuser of the database can put any document there that somebody has once signed: another server's, that of a branch
    which a restore has ended, that of a database that had this name before.

    :param head: of what is verified.
    :return: number and hash of the last archived row, or of the row before the first one; and the anchors that the signer has seen before
        that row.
    """
    checkpoint = head.get("checkpoint")
    if not checkpoint:
        return (0, GENESIS), []
    seq, digest = int(checkpoint["seq"]), str(checkpoint["hash"])
    told = f"Rows 1 to {seq} are in the archive {checkpoint.get('archive')} (sha256 {checkpoint.get('archive_sha256')})"
    who = check_signature(checkpoint, signers, CHECKPOINT_NAMESPACE) if signers else None
    if who:
        result.add("archived", NOTE, f"{told}; signed by {who} at {checkpoint.get('at')}.", 1, seq)
    elif signers or not checkpoint.get("signature"):
        by = "no allowed signer" if signers else "nobody"
        result.add("checkpoint", TAMPERED, f"{told}, and {by} has signed that: a beginning was cut off.", 1, seq)
    else:
        result.add("archived", EXPLAIN, f"{told}; give --allowed-signers FILE to check who signed that.", 1, seq)
    _check_whose(checkpoint, head, outside, result)
    return (seq, digest), _check_known(checkpoint, outside, result)


def _check_whose(checkpoint: Mapping[str, Any], head: Mapping[str, Any], outside: Outside, result: Result) -> None:
    """The cluster is what nobody types: where the anchors know it, another name is a new name, and not another audit."""
    seq = int(checkpoint["seq"])
    cluster, database = checkpoint.get("system_identifier"), checkpoint.get("database")
    place = (checkpoint.get("environment"), checkpoint.get("host"))
    clusters = outside.values(head, "system_identifier")
    places = outside.values(head, "environment", "host")
    named = f"database {database} of {place[1]} in {place[0]}, cluster {cluster}"
    if not cluster:
        told = (
            f"The checkpoint at row {seq} names database {database} and no cluster, as an earlier version of this tool made them: it may be "
            "that of another server; compare its archive with the copy of the rows."
        )
        result.add("checkpoint_place", EXPLAIN, told, 1, seq)
    elif clusters and (cluster,) not in clusters:
        told = f"The checkpoint at row {seq} is that of {named}, and this audit was never seen in that cluster"
        # A restore into a new cluster brings the checkpoint along; only anchors of before it could show that.
        reaches = [one for one in outside.anchors if one.get("seq") and int(one["seq"]) <= seq]
        if database == result.database and (not places or place in places) and not reaches:
            told += ": it was restored into a new cluster before its first anchor, or it stands for another audit; somebody has to say which."
            result.add("checkpoint_unknown", EXPLAIN, told, 1, seq)
        else:
            told += ": it stands for nothing of this audit, whose beginning was cut off, or whose database was made from that one's backup."
            result.add("checkpoint", TAMPERED, told, 1, seq)
    elif database != result.database or (places and place not in places):
        told = f"The checkpoint at row {seq} is that of {named}: database or host were renamed since, or it is another one's."
        result.add("checkpoint_place", EXPLAIN, told, 1, seq)
    elif clusters and cluster != (head.get("system_identifier") or cluster):
        told = f"The checkpoint at row {seq} was signed in cluster {cluster}, which the anchors know; the audit was restored into another one since."
        result.add("checkpoint_place", NOTE, told, 1, seq)


def _check_known(checkpoint: Mapping[str, Any], outside: Outside, result: Result) -> Sequence[Mapping[str, Any]]:
    """:return: the anchors that the signer has seen before the last archived row."""
    seq, digest = int(checkpoint["seq"]), str(checkpoint["hash"])
    older, kept = "anchored" not in checkpoint, outside.kept
    line = checkpoint.get("anchored")
    covered = outside.digests.index(line) + 1 if line in outside.digests else 0
    seen = outside.anchors if older else outside.anchors[:covered]
    reached = [one for one in outside.anchors if one.get("seq") and int(one["seq"]) <= seq]
    if covered or any(int(one["seq"]) == seq and one["hash"] == digest for one in reached):
        return seen
    if kept.has({"seq": seq, "hash": digest}) if kept else older:
        return seen
    ends = f"The checkpoint ends at row {seq} with the hash {digest}"
    if reached or (kept is not None and kept.rows and min(kept.rows) <= seq <= kept.last):
        told = f"{ends}, which neither the anchors nor the copied rows know, though they reach back to before it: it is not this audit's."
        result.add("checkpoint", TAMPERED, told, 1, seq)
    elif outside.anchors:
        more = "" if kept else " Give --rows FILE, the copy of the rows, if there is one."
        told = f"{ends}; what was kept outside begins behind that and cannot confirm it.{more}"
        result.add("checkpoint_unknown", EXPLAIN, told, 1, seq)
    return seen


# -- where the rows come from -----------------------------------------------------------------------------------------------


@contextmanager
def _open(path: str) -> Iterator[Any]:
    try:
        with open(path, encoding="utf-8") as file:
            yield file
    except (OSError, UnicodeDecodeError) as fault:
        raise CannotLook(f"{path} cannot be read: {getattr(fault, 'strerror', None) or fault}") from None


@contextmanager
def from_export(path: str, result: Result | None = None) -> Iterator[tuple[dict[str, Any], Iterator[tuple[Any, ...]]]]:
    """:param result: gets a finding where the file was changed since it was written; its last line has the sha256 of all before.
    :yield: the head of an export and its rows.
    :raises CannotLook: it is no export, or it is cut off; where no result is given, also if it was changed."""
    with _open(path) as file:
        first = file.readline()
        try:
            head = json.loads(first)
            if head["kind"] != "pgops.audit" or head["format"] != 1:
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise CannotLook(f"{path} is no export of pgops.audit, or of a later version of it") from None
        yield head, _export_rows(path, file, hashlib.sha256(first.encode()), result)


def _export_rows(path: str, file: Any, digest: Any, result: Result | None) -> Iterator[tuple[Any, ...]]:
    number = 0
    for line in file:
        try:
            row = json.loads(line)
            if "end" in row:
                if row["end"] != number or next(file, None) is not None:
                    raise CannotLook(
                        f"{path} has {number} rows and says that it has {row['end']}: the file was changed"
                    )
                if row.get("sha256") != digest.hexdigest():
                    told = f"{path} was changed since it was written: its last line has another sha256."
                    if result is None:
                        raise CannotLook(told.rstrip("."))
                    result.add("export", TAMPERED, told)
                return
            digest.update(line.encode())
            number += 1
            values = tuple(row[name] for name in COLUMNS)
            if type(values[0]) is not int or not all(value is None or isinstance(value, str) for value in values[1:]):
                raise ValueError
            yield values
        except (ValueError, KeyError, TypeError):
            raise CannotLook(f"Line {number + 1} of {path} cannot be read: the file was changed, or cut off") from None
    raise CannotLook(f"{path} ends without its last line: the file was cut off, export it again")


# The statement-level triggers that refuse UPDATE, DELETE and TRUNCATE: tgtype, as pg_trigger has it.
TRIGGERS = {"audit_no_update": 18, "audit_no_delete": 10, "audit_no_truncate": 34}
# What their function does, to the letter: one that only looks like it refuses nothing.
REFUSAL = """
BEGIN
    RAISE EXCEPTION 'pgops.audit is append-only: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END
"""
_PROTECTION = """
SELECT c.relkind::text, c.relpersistence::text AS persistence, c.relrowsecurity, pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       (SELECT coalesce(json_object_agg(t.tgname, json_build_object('type', t.tgtype, 'enabled', t.tgenabled, 'body', p.prosrc,
                 'whole', t.tgqual IS NULL AND cardinality(t.tgattr) = 0,
                 'language', (SELECT l.lanname FROM pg_catalog.pg_language l WHERE l.oid = p.prolang))), '{}')
          FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
         WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) AS triggers,
       EXISTS (SELECT FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'seq'
                WHERE k.conrelid = c.oid AND k.contype = 'p' AND k.conkey = ARRAY[a.attnum]) AS one_chain,
       (SELECT count(*) FROM pg_catalog.pg_rewrite w WHERE w.ev_class = c.oid) AS rules,
       (SELECT count(*) FROM pg_catalog.pg_inherits i WHERE c.oid IN (i.inhparent, i.inhrelid)) AS related,
       (SELECT coalesce(json_agg(DISTINCT coalesce(r.rolname, 'PUBLIC')), '[]')
          FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
         WHERE a.privilege_type IN ('UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER') AND a.grantee <> c.relowner) AS may_change,
       (SELECT coalesce(json_agg(DISTINCT o.relowner::regrole::text), '[]') FROM pg_catalog.pg_class o
         WHERE o.relnamespace = c.relnamespace AND o.relname = 'migration') AS migrators,
       pg_catalog.pg_stat_get_tuples_updated(c.oid) AS updated
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'pgops' AND c.relname = 'audit'
"""
# A long audit takes longer than a server may let sessions wait; not every major knows every limit.
SESSION = """
SET row_security = off;
SET search_path = pg_catalog;
SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout',
    'idle_in_transaction_session_timeout', 'idle_session_timeout')
"""
ROWS = """
SELECT seq, pg_catalog.to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at, run_id, event, version, actor,
       detail::text AS detail, previous, hash FROM ONLY pgops.audit ORDER BY seq
"""
CLUSTER = """
SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS system_identifier,
       (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()) AS timeline,
       (SELECT oid::bigint FROM pg_catalog.pg_database WHERE datname = current_database()) AS database_oid
"""
CHECKPOINT = """
SELECT document FROM pgops.audit_checkpoint ORDER BY seq DESC LIMIT 1
"""


def check_protection(found: Mapping[str, Any], result: Result) -> None:
    """What keeps rows from being changed unseen, as the database has it now.

    :param found: a row of the catalog, as an export has it under ``protection``.
    """
    triggers = dict(found["triggers"])
    for name, kind in TRIGGERS.items():
        told = _what_is_wrong(name, kind, triggers.pop(name, None))
        if told:
            result.add("trigger", TAMPERED, f"{told}: {name.rpartition('_')[2].upper()} is not refused.")
    if triggers:
        names = ", ".join(sorted(triggers))
        result.add("trigger", TAMPERED, f"Triggers that are not this tool's stand on pgops.audit: {names}.")
    if found["relkind"] != "r" or found["rules"] or found["related"] or found["relrowsecurity"]:
        told = "pgops.audit is no plain table: it has rules, row-level security or other tables above or below it, which hide rows."
        result.add("table", TAMPERED, told)
    if found["persistence"] != "p" or not found["one_chain"]:
        told = "pgops.audit has lost its primary key, which keeps the chain one chain, or is UNLOGGED, and so empty after a crash."
        result.add("table", TAMPERED, told)
    if found["may_change"]:
        result.add(
            "rights",
            EXPLAIN,
            f"UPDATE, DELETE, TRUNCATE or TRIGGER on pgops.audit is granted to {', '.join(found['may_change'])}.",
        )
    if found["owner"] in found["migrators"]:
        told = f"pgops.audit belongs to {found['owner']}, which also migrates and can switch its triggers off: audit_protect.yml."
        result.add("owner", NOTE, told)
    if found["updated"]:
        # Deletions are no sign: a writer who came second has counted as one.
        told = f"The server counted {found['updated']} updates of rows of pgops.audit, which is append-only."
        result.add("counted", EXPLAIN, told)


def _what_is_wrong(name: str, kind: int, trigger: Mapping[str, Any] | None) -> str | None:
    if trigger is None or trigger["type"] != kind:
        return f"The trigger {name} is gone or is another one"
    if trigger["enabled"] == "D":
        return f"The trigger {name} is disabled"
    if trigger["enabled"] != "A":
        return f"The trigger {name} is not ENABLE ALWAYS, so that session_replication_role passes it"
    if not trigger["whole"]:
        return f"The trigger {name} has a condition or is for some columns only"
    if trigger["language"] != "plpgsql" or trigger["body"].split() != REFUSAL.split():
        return f"The function of the trigger {name} was replaced"
    return None


@contextmanager
def from_database(dsn: str) -> Iterator[tuple[dict[str, Any], Iterator[tuple[Any, ...]]]]:
    """:param dsn: of libpq, without a password.
    :yield: what the head of an export has, and the rows, in one read-only snapshot.
    :raises CannotLook: no driver, no connection, no audit, or no right to read it."""
    try:
        import psycopg2
        import psycopg2.extras
    except ImportError:
        raise CannotLook("psycopg2 is needed to read a database; an export needs nothing (--export)") from None
    try:
        given = psycopg2.extensions.parse_dsn(dsn)
    except psycopg2.Error as fault:
        raise CannotLook(f"--dsn is no connection string: {str(fault).strip()}") from None
    if "password" in given:
        raise CannotLook(
            "a password does not belong into --dsn, where every process list shows it; write it into a PGPASSFILE"
        )
    try:
        # The hashes are over UTF-8; psycopg2 would read a database in SQL_ASCII as ASCII.
        with closing(psycopg2.connect(dsn, application_name="pgops audit_verifier", client_encoding="UTF8")) as conn:
            conn.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with conn.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
                cursor.execute(SESSION)
                yield head_of(cursor), _database_rows(conn)
    except psycopg2.Error as fault:
        raise CannotLook(f"The audit cannot be read: {str(fault).strip().splitlines()[0]}") from None


def head_of(cursor: Any) -> dict[str, Any]:
    """:param cursor: that gives rows as mappings.
    :return: what the first line of an export says of a database. :raises CannotLook: there is no audit."""
    cursor.execute(_PROTECTION)
    protection = cursor.fetchone()
    if protection is None:
        raise CannotLook("there is no pgops.audit in this database (was its schema dropped?)")
    cursor.execute(
        "SELECT to_regclass('pgops.audit_checkpoint') IS NOT NULL AS there, current_database()::text AS database"
    )
    there = cursor.fetchone()
    checkpoint = None
    if there["there"]:
        cursor.execute(CHECKPOINT)
        checkpoint = (cursor.fetchone() or {}).get("document")
    cursor.execute(CLUSTER)
    return {
        "database": there["database"],
        "checkpoint": checkpoint,
        "protection": protection,
        **cursor.fetchone(),
    }


def _database_rows(conn: Any) -> Iterator[tuple[Any, ...]]:
    with conn.cursor("pgops_audit") as cursor:
        cursor.itersize = 10000
        cursor.execute(ROWS)
        yield from cursor


# -- all of it --------------------------------------------------------------------------------------------------------------


def verify(
    export: str | None,
    dsn: str | None,
    anchors: str | None = None,
    rows: str | None = None,
    signers: str | None = None,
    *,
    archive: bool = False,
) -> Result:
    """Check an export or a database.

    :param anchors: file of anchors. :param rows: copy of the rows beside it. :param signers: allowed signers.
    :param archive: it is known to be the beginning of an audit only, as a checkpoint leaves it.
    :raises CannotLook: something that was named cannot be read.
    """
    try:
        return _verified(export, dsn, anchors, rows, signers, archive)
    except (ValueError, TypeError, KeyError, AttributeError) as fault:
        # A file that somebody made up is no reason to say that the audit was tampered with.
        raise CannotLook(f"what was given is no audit of this tool's ({type(fault).__name__}: {fault})") from None


def _verified(
    export: str | None, dsn: str | None, anchors: str | None, rows: str | None, signers: str | None, archive: bool
) -> Result:
    result, outside = Result(), Outside()
    if anchors:
        with _open(anchors) as file:
            text = file.read()
        outside.anchors = check_anchor_lines(text, os.path.basename(anchors), result, outside.digests)
    if signers and not os.access(signers, os.R_OK):
        raise CannotLook(f"{signers} cannot be read")
    kept = outside.kept = read_kept(rows) if rows else None
    lines_of = outside.anchors
    with from_export(str(export), result) if export else from_database(str(dsn)) as (head, found):
        result.database = head.get("database")
        start, seen = check_checkpoint(head, outside, signers, result)
        wanted = {int(anchor["seq"]) for anchor in lines_of if anchor.get("seq")}
        known = check_rows(found, result, start, wanted, kept)
        upto = head.get("upto")
    if start[0] and result.last is None:
        told = f"No row stands behind the checkpoint at row {start[0]}, which leaves the last row and adds its own: the audit was emptied."
        result.add("emptied", TAMPERED, told, 1, start[0])
    _refuse_other(lines_of, known, result)
    if head.get("protection"):
        check_protection(head["protection"], result)
    else:
        result.add("protection", EXPLAIN, "The export does not say what protects the audit in the database.")
    check_signatures(lines_of, signers, result)
    if upto:
        # What was anchored behind it is not its business; nobody is to pass a cut tail off for an archive, though.
        told = f"This is an archive: it says that it ends at row {upto}, and what was anchored behind that was not looked for."
        result.add("archive", NOTE if archive else EXPLAIN, told)
        lines_of = [anchor for anchor in lines_of if int(anchor.get("seq") or 0) <= int(upto)]
    check_anchors(lines_of, known, result, head, kept, start, seen)
    if kept:
        check_kept(kept, [] if upto else lines_of, result, (start[0], int(upto) if upto else None))
    return result


def _refuse_other(anchors: Sequence[Mapping[str, Any]], known: Mapping[int, str], result: Result) -> None:
    """Of a database that was renamed at least one anchor holds. :raises CannotLook: they are another database's."""
    of = next((anchor["database"] for anchor in reversed(anchors) if anchor.get("database")), None)
    if of in (None, result.database) or any(known.get(int(one.get("seq") or 0)) == one.get("hash") for one in anchors):
        return
    raise CannotLook(f"the anchors are those of database {of}, and the audit is that of {result.database}")


def lines(result: Result) -> list[str]:
    """:return: for a person: a line what was read, one a finding, one what that means."""
    span = f"rows {result.first} to {result.last}" if result.rows else "no row"
    told = [f"audit of {result.database}: {span}, {result.anchors} anchors, head {result.head}"]
    grave = sorted(result.findings, key=lambda finding: (TAMPERED, EXPLAIN, NOTE).index(finding.gravity))
    told += [f"  {finding.gravity:<9}{finding.sentence}" for finding in grave[:TOLD_AT_MOST]]
    if len(grave) > TOLD_AT_MOST:
        told.append(f"  and {len(grave) - TOLD_AT_MOST + result.more} more findings; --json has the first {len(grave)}")
    words = {
        HOLDS: "the audit holds",
        EXIT_TAMPERED: "TAMPERED WITH",
        EXIT_EXPLAIN: "holds as far as can be seen; see what needs explaining",
    }
    return [*told, words[result.exit_code]]


def main(arguments: Sequence[str] | None = None) -> int:
    """:return: the exit code."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", 1)[0], epilog=(__doc__ or "").split("\n\n")[-1]
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--export", metavar="FILE", help="what audit_export.yml has written; needs no database")
    source.add_argument(
        "--dsn", help="connect with libpq, for a role that may only read; its password lies in PGPASSFILE"
    )
    parser.add_argument("--anchors", metavar="FILE", help="anchors.jsonl of the ops host")
    parser.add_argument(
        "--rows", metavar="FILE", help="rows.jsonl beside it: shows that branches ended by a restore are kept"
    )
    parser.add_argument("--allowed-signers", metavar="FILE", help="whose signatures count, as for ssh-keygen -Y verify")
    parser.add_argument(
        "--archive", action="store_true", help="the file is an archive that audit_checkpoint.yml has made"
    )
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    given = parser.parse_args(arguments)
    try:
        result = verify(
            given.export, given.dsn, given.anchors, given.rows, given.allowed_signers, archive=given.archive
        )
    except CannotLook as fault:
        print(
            _TEXT({"ok": False, "exit_code": CANNOT_LOOK, "error": str(fault)})
            if given.json
            else f"cannot look: {fault}."
        )
        return CANNOT_LOOK
    print(json.dumps(result.as_dict(), ensure_ascii=False, indent=2) if given.json else "\n".join(lines(result)))
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main())
