# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The beginning of an audit goes into an archive that is checked, and a signed checkpoint stands for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import audit_checkpoint, audit_verifier, history, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, execute
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import audit_anchor
from support.audit import Audited, signing_key, verifier
from support.engine import rows
from support.module import call
from support.server import MIGRATOR, OWNER

BEFORE = "2019-01-01T00:00:00Z"


def append_old(conn: Any, count: int, year: int = 2015) -> None:
    """Rows as an audit of that year would have them."""
    head = ledger.audit_head(conn) or {"seq": 0, "hash": audit_verifier.GENESIS}
    seq, previous = int(head["seq"]), str(head["hash"])
    for number in range(1, count + 1):
        row = (seq + number, f"{year}-01-{number:02}T00:00:00.000000Z", "old", "applied", "1", MIGRATOR, "{}", previous)
        previous = audit_verifier.entry_hash(*row)
        execute(conn, "INSERT INTO pgops.audit VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)", (*row, previous))


@pytest.fixture
def audited(target: Any, tmp_path: Path) -> Iterator[Audited]:
    """Five rows of 2015, and three of today."""
    conn = connect(target, application_name="test")
    ledger.ensure(conn)
    found = Audited(conn, audit_anchor.Place.of(tmp_path / "state", "local", "local-1", target.database), tmp_path)
    append_old(conn, 5)
    found.anchor()
    found.append(3)
    found.anchor()
    yield found
    conn.close()


def archived(target: Any, tmp_path: Path, name: str = "archive.jsonl") -> tuple[Path, dict[str, Any]]:
    path = tmp_path / "archives" / name
    result = call("audit_checkpoint", target, before=BEFORE, archives={target.database: str(path)})
    assert not result.get("failed"), result
    return path, result["databases"][target.database]


def document_of(target: Any, path: Path, found: dict[str, Any], key: Path) -> dict[str, Any]:
    named = {"format": 1, "database": target.database, "at": "2026-01-01T00:00:00Z", "archive": str(path), **found}
    return {
        **named,
        "signature": audit_anchor.sign(
            str(key), audit_verifier.signed_text(named), audit_verifier.CHECKPOINT_NAMESPACE
        ),
    }


def cut(target: Any, document: dict[str, Any]) -> dict[str, Any]:
    return call("audit_checkpoint", target, documents={target.database: document})


@pytest.mark.majors(15, 18, slow=(15,))
def test_an_archive_and_a_signed_checkpoint_stand_for_the_beginning(
    audited: Audited, target: Any, tmp_path: Path
) -> None:
    key, signers = signing_key(tmp_path / "officer", "officer@example.org")
    _other, others = signing_key(tmp_path / "other", "officer@example.org")
    path, found = archived(target, tmp_path)
    assert (found["seq"], found["rows"], path.stat().st_mode & 0o777) == (5, 5, 0o600)
    assert rows(target, "SELECT count(*) AS n FROM pgops.audit") == [{"n": 8}]
    anchors = ("--anchors", str(audited.place.anchors))
    assert verifier(tmp_path, "--export", str(path), "--archive", *anchors).rc == 0
    passed_off = verifier(tmp_path, "--export", str(path), *anchors)
    assert (passed_off.rc, passed_off.codes) == (3, {"archive"})
    done = cut(target, document_of(target, path, found, key))
    assert not done.get("failed"), done
    assert rows(target, "SELECT min(seq) AS first, max(seq) AS last FROM pgops.audit") == [{"first": 6, "last": 9}]
    audited.append(2)
    audited.anchor()
    checked = audited.verify("--allowed-signers", str(signers))
    assert checked.codes <= {"unsigned"}, checked.told
    assert "Rows 1 to 5 are in the archive" in checked.told
    assert "signed by officer@example.org" in checked.told
    assert audited.verify().codes == {"archived"}  # whose signature it is nobody has said
    forged = audited.verify("--allowed-signers", str(others))
    assert (forged.rc, "checkpoint" in forged.codes) == (1, True)
    for statement in ("DELETE FROM pgops.audit", "TRUNCATE pgops.audit"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="append-only"):
            execute(audited.conn, statement)


def test_a_second_checkpoint_goes_on_from_the_first(audited: Audited, target: Any, tmp_path: Path) -> None:
    key, signers = signing_key(tmp_path / "officer", "officer@example.org")
    path, found = archived(target, tmp_path)
    cut(target, document_of(target, path, found, key))
    result = call(
        "audit_checkpoint", target, before="9999-01-01T00:00:00Z", archives={target.database: str(tmp_path / "b.jsonl")}
    )
    found = result["databases"][target.database]
    assert (found["seq"], found["rows"]) == (8, 3)  # the last row always stays
    assert verifier(
        tmp_path, "--export", str(tmp_path / "b.jsonl"), "--archive", "--allowed-signers", str(signers)
    ).codes <= {
        "no_anchor",
        "unsigned",
    }
    assert not cut(target, document_of(target, tmp_path / "b.jsonl", found, key)).get("failed")
    assert [row["seq"] for row in ledger.audit_rows(audited.conn)] == [9, 10]
    assert ledger.broken_link(ledger.audit_rows(audited.conn), start=audit_checkpoint.start(audited.conn)) is None


def test_what_is_not_what_was_archived_is_not_cut(audited: Audited, target: Any, tmp_path: Path) -> None:
    key, _signers = signing_key(tmp_path / "officer", "officer@example.org")
    path, found = archived(target, tmp_path)
    for wrong in ({"hash": "f" * 64}, {"rows": 4}, {"seq": 8, "rows": 8}):
        done = cut(target, document_of(target, path, {**found, **wrong}, key))
        assert (done["failed"], "is not the one that was archived; nothing was changed" in done["msg"]) == (True, True)
    assert rows(target, "SELECT count(*) AS n FROM pgops.audit") == [{"n": 8}]
    assert audited.verify().rc == 0


def test_nothing_due_writes_nothing(audited: Audited, target: Any, tmp_path: Path) -> None:
    path = tmp_path / "x" / "archive.jsonl"
    given = {"archives": {target.database: str(path)}}
    assert call("audit_checkpoint", target, before="2010-01-01T00:00:00Z", **given)["databases"][target.database] == {}
    told = call("audit_checkpoint", target, check_mode=True, before=BEFORE, **given)["databases"][target.database]
    assert told == {"seq": 5, "rows": 5}
    assert not path.parent.exists()


def test_a_role_that_does_not_own_the_audit_is_told(audited: Audited, target: Any, tmp_path: Path) -> None:
    key, _signers = signing_key(tmp_path / "officer", "officer@example.org")
    path, found = archived(target, tmp_path)
    with closing(connect(target.as_restore(), application_name="test")) as admin:
        execute(
            admin,
            f"REVOKE ALL ON pgops.audit FROM {OWNER}; ALTER TABLE pgops.audit OWNER TO postgres; GRANT SELECT, INSERT ON pgops.audit TO {OWNER}",
        )
    with (
        closing(connect(target, application_name="test")) as conn,
        pytest.raises(PgopsError, match="may not cut the audit"),
    ):
        audit_checkpoint.cut(conn, document_of(target, path, found, key), None)
    assert rows(target, "SELECT count(*) AS n FROM pgops.audit") == [{"n": 8}]


def test_a_history_is_carried_across_behind_a_checkpoint(
    audited: Audited, target: Any, server: Any, tmp_path: Path
) -> None:
    key, _signers = signing_key(tmp_path / "officer", "officer@example.org")
    path, found = archived(target, tmp_path)
    older = f"{target.database}_older"
    audited.conn.close()
    server.create_database(older, OWNER, template=target.database)
    cut(target, document_of(target, path, found, key))
    newer = f"{target.database}_newer"
    server.create_database(newer, OWNER, template=target.database)
    with closing(connect(target, application_name="test")) as source:
        ledger.append_audit(source, "later")
        for name in (older, newer):
            with closing(connect(replace(target, database=name).as_restore(), application_name="test")) as restored:
                told = history.carry(source, restored, owner=OWNER)
                assert told["carried"], told


def test_the_playbook_checks_signs_and_cuts(playbook: Any, audited: Audited, target: Any, tmp_path: Path) -> None:
    key, _signers = signing_key(tmp_path / "officer", "officer@example.org")
    audited.conn.close()
    given = {"audit_archive_directory": str(tmp_path / "archives")}
    short = playbook("audit_checkpoint.yml", audit_retention_years=5, audit_checkpoint_key=str(key), **given)
    assert (short.rc, "HIPAA asks that documentation is kept for 6 years" in short.json["error"]["message"]) == (
        2,
        True,
    )
    done = playbook("audit_checkpoint.yml", audit_checkpoint_key=str(key), **given)
    assert done.rc == 0, done.output
    found = done.json["hosts"]["local-1"][target.database]["audit_checkpoint"]
    assert (found["seq"], Path(found["archive"]).stat().st_mode & 0o777) == (5, 0o600)
    (row,) = rows(target, "SELECT document FROM pgops.audit_checkpoint")
    assert json.dumps(row["document"]).count("BEGIN SSH SIGNATURE") == 1
