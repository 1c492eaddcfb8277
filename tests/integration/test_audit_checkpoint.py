# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The beginning of an audit goes into an archive that is checked, and a signed checkpoint stands for it."""

from __future__ import annotations

import json
import sys
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
from support.audit import ENVIRONMENT, HOST, Audited, Checked, signing_key, verifier
from support.engine import rows, target_of
from support.module import call
from support.server import MIGRATOR, OWNER

BEFORE = "2019-01-01T00:00:00Z"


def append_old(conn: Any, count: int, year: int = 2015) -> None:
    """Rows as an audit of that year would have them."""
    head = ledger.audit_head(conn) or {"seq": 0, "hash": audit_verifier.GENESIS}
    seq, previous = int(head["seq"]), str(head["hash"])
    for number in range(1, count + 1):
        row = (seq + number, f"{year}-01-01T00:{number:02}:00.000000Z", "old", "applied", "1", MIGRATOR, "{}", previous)
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


def document_of(
    target: Any, path: Path, found: dict[str, Any], key: Path, place: audit_anchor.Place | None = None, **more: Any
) -> dict[str, Any]:
    """As the playbook makes it; `more` is what the signer is made to say otherwise."""
    named = {
        "format": 2, "environment": ENVIRONMENT, "host": HOST, "database": target.database, "at": "2026-01-01T00:00:00Z",
        "archive": str(path), "anchored": audit_anchor.last_until(place, found["seq"]) if place else None, **found, **more,
    }  # fmt: skip
    return signed(named, key)


def signed(document: dict[str, Any], key: Path) -> dict[str, Any]:
    text = audit_verifier.signed_text(document)
    return {**document, "signature": audit_anchor.sign(str(key), text, audit_verifier.CHECKPOINT_NAMESPACE)}


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
    done = cut(target, document_of(target, path, found, key, audited.place))
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
    cut(target, document_of(target, path, found, key, audited.place))
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
    for wrong in ({"hash": "f" * 64}, {"rows": 4}, {"seq": 8, "rows": 8}, {"system_identifier": "1"}):
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
    key, signers = signing_key(tmp_path / "officer", "officer@example.org")
    given = {"audit_archive_directory": str(tmp_path / "archives"), "audit_anchor_key": str(key)}
    assert playbook("status.yml", audit_anchor_key=str(key)).rc == 0  # copies the rows that are to go
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
    document = row["document"]
    assert json.dumps(document).count("BEGIN SSH SIGNATURE") == 1
    (cluster,) = rows(target, "SELECT system_identifier::text AS one FROM pg_control_system()")
    assert (document["environment"], document["host"], document["database"], document["system_identifier"]) == (
        "local", "local-1", target.database, cluster["one"],
    )  # fmt: skip
    audited.place = audit_anchor.Place.of(playbook.state, "local", "local-1", target.database)
    checked = look(audited, signers)
    assert (checked.rc, checked.codes) == (0, set()), checked.told
    without = look(audited, signers, copy=False)  # all anchors are of rows behind it
    assert (without.rc, without.codes) == (3, {"checkpoint_unknown"}), without.told


# -- what somebody with every right on the database, and without the signer's key, puts there -----------------------------------


class Forger:
    """A superuser of the database: takes all rows away and puts a document and new rows in their place, each hash as it has to be."""

    def __init__(self, audited: Audited, target: Any, server: Any) -> None:
        self._audited, self._target, self._server = audited, target, server

    def put(self, document: dict[str, Any], added: int = 3) -> None:
        text = json.dumps(document).replace("'", "''")
        database = self._target.database
        self._server.execute(audit_checkpoint._CREATE + ";" + audit_checkpoint._HAND_OVER, database=database)
        self._server.execute(
            "ALTER TABLE pgops.audit DISABLE TRIGGER ALL; DELETE FROM pgops.audit; DELETE FROM pgops.audit_checkpoint; "
            f"INSERT INTO pgops.audit_checkpoint (seq, document) VALUES ({document['seq']}, '{text}'); "
            "ALTER TABLE pgops.audit ENABLE ALWAYS TRIGGER audit_no_update; ALTER TABLE pgops.audit ENABLE ALWAYS TRIGGER "
            "audit_no_delete; ALTER TABLE pgops.audit ENABLE ALWAYS TRIGGER audit_no_truncate; SELECT pg_stat_reset()",
            database=database,
        )
        previous, seq = document["hash"], int(document["seq"])
        for number in range(1, added + 1):
            row = (seq + number, "2026-11-23T00:00:00.000000Z", "run-9", "tested", None, MIGRATOR, "{}", previous)
            previous = audit_verifier.entry_hash(*row)
            execute(
                self._audited.conn,
                "INSERT INTO pgops.audit VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                (*row, previous),
            )


@pytest.fixture
def officer(tmp_path: Path) -> tuple[Path, Path]:
    return signing_key(tmp_path / "officer", "officer@example.org")


@pytest.fixture
def forger(audited: Audited, target: Any, server: Any) -> Forger:
    return Forger(audited, target, server)


def look(audited: Audited, signers: Path, *, copy: bool = True) -> Checked:
    more = ("--rows", str(audited.place.rows)) if copy else ()
    return audited.verify("--allowed-signers", str(signers), *more)


@pytest.mark.parametrize("copy", [True, False], ids=["with-copy", "anchors-alone"])
@pytest.mark.parametrize("rows_of_staging", [5, 40], ids=["shorter", "longer"])
def test_a_checkpoint_of_the_same_database_of_another_server_stands_for_nothing(
    audited: Audited,
    target: Any,
    own_server: Any,
    forger: Forger,
    officer: Any,
    tmp_path: Path,
    rows_of_staging: int,
    copy: bool,
) -> None:
    """Truly signed, for staging: production's audit is emptied and goes on behind it."""
    key, signers = officer
    own_server.create_database(target.database, OWNER)
    staging = target_of(own_server, target.database)
    with closing(connect(staging, application_name="test")) as conn:
        ledger.ensure(conn)
        append_old(conn, 5)
        append_old(conn, rows_of_staging - 5 + 1, year=2016)
        place = audit_anchor.Place.of(tmp_path / "state", "staging", "db-staging", target.database)
        Audited(conn, place, tmp_path).anchor(environment="staging", host="db-staging")
    path, found = archived(staging, tmp_path, "staging.jsonl")
    forger.put(document_of(staging, path, found, key, place, environment="staging", host="db-staging"))
    checked = look(audited, signers, copy=copy)
    assert (checked.rc, "checkpoint" in checked.codes) == (1, True), checked.told
    assert f"is that of database {target.database} of db-staging in staging" in checked.told
    audited.anchor()  # a later run keeps the head of what it finds, and explains nothing by that
    assert look(audited, signers, copy=copy).rc == 1
    dsn = f"host={target.host} port={target.port} dbname={target.database} user=postgres passfile={target.passfile}"
    online = verifier(tmp_path, "--dsn", dsn, "--anchors", str(audited.place.anchors), "--allowed-signers", str(signers),
                      python=(sys.executable, "-I"))  # fmt: skip
    assert (online.rc, "checkpoint" in online.codes) == (1, True), online.document


@pytest.mark.parametrize("seq", [5, 7, 100])
@pytest.mark.parametrize("copy", [True, False], ids=["with-copy", "anchors-alone"])
def test_a_checkpoint_whose_end_nothing_outside_knows_is_refused(
    audited: Audited, target: Any, forger: Forger, officer: Any, tmp_path: Path, seq: int, copy: bool
) -> None:
    """As of a database that had this name in this cluster before."""
    key, signers = officer
    path, found = archived(target, tmp_path)
    forger.put(document_of(target, path, {**found, "seq": seq, "rows": seq, "hash": "f" * 64}, key, anchored="e" * 64))
    checked = look(audited, signers, copy=copy)
    assert (checked.rc, "checkpoint" in checked.codes) == (1, True), checked.told
    assert "which neither the anchors nor the copied rows know" in checked.told


def test_a_checkpoint_of_a_branch_that_a_restore_has_ended_does_not_hide_the_branch_that_came_after(
    audited: Audited, target: Any, server: Any, forger: Forger, officer: Any, tmp_path: Path
) -> None:
    """Signed for rows 1 to 7; then the database went back to row 5 and wrote another row 6, which is to vanish."""
    key, signers = officer
    result = call(
        "audit_checkpoint", target, before="9999-01-01T00:00:00Z", archives={target.database: str(tmp_path / "b")}
    )
    older = document_of(target, tmp_path / "b", result["databases"][target.database], key, audited.place)
    assert older["seq"] == 7
    server.execute(
        "ALTER TABLE pgops.audit DISABLE TRIGGER ALL; DELETE FROM pgops.audit WHERE seq > 5; SELECT pg_stat_reset()",
        database=target.database,
    )
    audited.append(1, "cluster_restored")
    audited.anchor(run_id="back", parted={"common": 5, "explained": "rollback.yml (pitr)"}, timeline=7)
    audited.anchor()
    forger.put(older, added=9)
    checked = look(audited, signers)
    assert (checked.rc, checked.codes & {"tail_cut", "rewritten", "kept"} != set()) == (1, True), checked.told


def test_an_audit_that_ends_at_its_checkpoint_was_emptied(
    audited: Audited, target: Any, forger: Forger, officer: Any, tmp_path: Path
) -> None:
    key, signers = officer
    path, found = archived(target, tmp_path)
    forger.put(document_of(target, path, found, key, audited.place), added=0)
    checked = verifier(tmp_path, "--export", str(audited.export()), "--allowed-signers", str(signers))
    assert (checked.rc, "emptied" in checked.codes) == (1, True), checked.told


def test_a_document_that_nobody_signed_is_told_without_a_list_of_signers(
    audited: Audited, target: Any, forger: Forger, officer: Any, tmp_path: Path
) -> None:
    path, found = archived(target, tmp_path)
    forger.put({**document_of(target, path, found, officer[0], audited.place), "signature": None})
    checked = audited.verify()
    assert (checked.rc, "nobody has signed that" in checked.told) == (1, True), checked.told


def test_a_document_that_names_no_cluster_never_holds(
    audited: Audited, target: Any, server: Any, officer: Any, tmp_path: Path
) -> None:
    """As an earlier version of this tool has signed them."""
    key, signers = officer
    path, found = archived(target, tmp_path)
    document = document_of(target, path, found, key, audited.place)
    assert not cut(target, document).get("failed")
    older = {
        name: document[name]
        for name in document
        if name not in ("system_identifier", "environment", "host", "anchored", "signature")
    }
    text = json.dumps(signed({**older, "format": 1}, key)).replace("'", "''")
    server.execute(f"UPDATE pgops.audit_checkpoint SET document = '{text}'", database=target.database)
    audited.anchor()
    checked = look(audited, signers)
    assert (checked.rc, checked.codes - {"unsigned"}) == (3, {"checkpoint_place"}), checked.told


@pytest.mark.parametrize(
    ("before", "told", "rc"),
    [
        ({"system_identifier": "1"}, "was signed in cluster 1, which the anchors know; the audit was restored into another one", 0),
        ({"host": "db-old"}, "database or host were renamed since", 3),
    ],
    ids=["restored-into-a-new-cluster", "renamed-host"],
)  # fmt: skip
def test_a_restore_into_a_new_cluster_and_a_new_name_are_explained(
    audited: Audited, target: Any, server: Any, officer: Any, tmp_path: Path, before: dict[str, str], told: str, rc: int
) -> None:
    """The anchors of before say where the audit lay when the checkpoint was signed."""
    key, signers = officer
    path, found = archived(target, tmp_path)
    assert not cut(target, document_of(target, path, found, key, audited.place)).get("failed")
    moved = audit_anchor.Place(tmp_path / "moved")
    sign = audit_anchor.signer(str(key))
    for line in audited.place.anchors.read_text(encoding="utf-8").splitlines():
        anchor = json.loads(line)
        one = {name: before[name] for name in before if name == "system_identifier"}
        audit_anchor.append(moved, {**anchor, **one}, [])
    audited.place = moved
    text = json.dumps(document_of(target, path, found, key, moved, **before)).replace("'", "''")
    server.execute(f"UPDATE pgops.audit_checkpoint SET document = '{text}'", database=target.database)
    audited.anchor(sign=sign)
    checked = look(audited, signers, copy=False)
    assert (checked.rc, told in checked.told) == (rc, True), checked.told


def test_anchors_that_begin_behind_the_checkpoint_cannot_confirm_it(
    audited: Audited, target: Any, officer: Any, tmp_path: Path
) -> None:
    """An ops host that was lost and set up anew."""
    key, signers = officer
    path, found = archived(target, tmp_path)
    assert not cut(target, document_of(target, path, found, key, audited.place)).get("failed")
    audited.place = audit_anchor.Place(tmp_path / "new")
    audited.anchor(sign=audit_anchor.signer(str(key)))
    checked = look(audited, signers)
    assert (checked.rc, checked.codes) == (3, {"checkpoint_unknown"}), checked.told
