# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What an auditor finds who has one Python file, an export and the anchors of the ops host: whatever was done to the audit."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import audit_verifier, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, execute
from ansible_collections.whitecross.pgops.plugins.plugin_utils import audit_anchor
from support.audit import Audited, signing_key, verifier
from support.server import OWNER

OFF = "ALTER TABLE pgops.audit DISABLE TRIGGER ALL; "
ON = (
    "; ALTER TABLE pgops.audit ENABLE ALWAYS TRIGGER audit_no_update; ALTER TABLE pgops.audit ENABLE ALWAYS TRIGGER "
    "audit_no_delete; ALTER TABLE pgops.audit ENABLE ALWAYS TRIGGER audit_no_truncate"
)


@pytest.fixture
def audited(target: Any, tmp_path: Path) -> Iterator[Audited]:
    conn = connect(target, application_name="test")
    ledger.ensure(conn)
    found = Audited(conn, audit_anchor.Place.of(tmp_path / "state", "local", "local-1", target.database), tmp_path)
    found.append(3)
    found.anchor()
    found.append(3)
    found.anchor()
    yield found
    conn.close()


def tamper(connection: Any, statement: str, *, again: str = ON) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"{OFF}{statement}{again}")


def rewrite(audited: Audited, connection: Any, first: int) -> None:
    """As who knows how the chain is made: contents changed, every hash from there on computed anew."""
    rows = ledger.audit_rows(audited.conn)
    previous = rows[first - 2]["hash"] if first > 1 else audit_verifier.GENESIS
    statements = []
    for row in rows[first - 1 :]:
        values = {**row, "actor": "nobody", "previous": previous}
        previous = audit_verifier.entry_hash(*(values[name] for name in audit_verifier.COLUMNS[:-1]))
        statements.append(
            f"UPDATE pgops.audit SET actor = 'nobody', previous = '{values['previous']}', hash = '{previous}' WHERE seq = {row['seq']}"
        )
    tamper(connection, "; ".join(statements))


@pytest.mark.majors(15, 18, slow=(15,))
def test_a_whole_audit_with_anchors_holds(audited: Audited) -> None:
    found = audited.verify()
    assert (found.rc, found.codes) == (0, set())
    assert (found.document["rows"], found.document["anchors"], found.document["ok"]) == (6, 2, True)


@pytest.mark.parametrize(
    ("statement", "code", "told"),
    [
        ("""UPDATE pgops.audit SET detail = '{"n": 7}' WHERE seq = 2""", "edited", "Row 2 was changed"),
        ("UPDATE pgops.audit SET actor = 'x' WHERE seq IN (2, 3, 4)", "edited", "Rows 2 to 4 were changed"),
        ("UPDATE pgops.audit SET at = at + interval '1 microsecond' WHERE seq = 6", "edited", "Row 6 was changed"),
        ("DELETE FROM pgops.audit WHERE seq = 2", "missing", "Row 2 is missing: deleted from the middle"),
        ("DELETE FROM pgops.audit WHERE seq IN (1, 2)", "missing", "Rows 1 to 2 are missing"),
        ("DELETE FROM pgops.audit WHERE seq > 4", "tail_cut", "ends at row 4, and row 6 was anchored"),
        ("TRUNCATE pgops.audit", "emptied", "The audit is empty, and row 6 was anchored"),
    ],
    ids=["edit", "edits", "last", "middle", "beginning", "tail", "truncate"],
)
def test_what_a_superuser_forces_is_found_offline(
    audited: Audited, superuser_connection: Any, statement: str, code: str, told: str
) -> None:
    tamper(superuser_connection, statement)
    found = audited.verify()
    assert (found.rc, code in found.codes) == (1, True)
    assert told in found.told


@pytest.mark.parametrize("first", [1, 2, 5])
def test_a_full_rewrite_is_found_by_the_anchors(audited: Audited, superuser_connection: Any, first: int) -> None:
    rewrite(audited, superuser_connection, first)
    without = verifier(audited.folder, "--export", str(audited.export()))
    assert not without.codes & {"edited", "replaced", "missing"}
    assert without.rc == 3
    assert "no_anchor" in without.codes
    found = audited.verify()
    assert (found.rc, "rewritten" in found.codes) == (1, True)


def test_rows_put_behind_a_cut_tail_are_found(audited: Audited, superuser_connection: Any) -> None:
    tamper(superuser_connection, "DELETE FROM pgops.audit WHERE seq > 3")
    audited.append(5)
    found = audited.verify()
    assert (found.rc, "rewritten" in found.codes) == (1, True)
    assert "the rows from 4 on were rewritten" in found.told


def test_a_row_replaced_with_its_own_hash_is_found(audited: Audited, superuser_connection: Any) -> None:
    row = {**ledger.audit_rows(audited.conn)[1], "actor": "nobody"}
    digest = audit_verifier.entry_hash(*(row[name] for name in audit_verifier.COLUMNS[:-1]))
    tamper(superuser_connection, f"UPDATE pgops.audit SET actor = 'nobody', hash = '{digest}' WHERE seq = 2")
    assert "Row 3 does not follow row 2" in audited.verify().told


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("ALTER TABLE pgops.audit DISABLE TRIGGER audit_no_update", "audit_no_update is disabled"),
        ("ALTER TABLE pgops.audit ENABLE TRIGGER audit_no_delete", "is not ENABLE ALWAYS, so that session_replication_role"),
        ("DROP TRIGGER audit_no_truncate ON pgops.audit", "audit_no_truncate is gone"),
        (("CREATE OR REPLACE FUNCTION pgops.refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS "
         "'BEGIN RETURN NULL; END'"), "function of the trigger audit_no_update was replaced"),
        ("CREATE RULE hide AS ON INSERT TO pgops.audit DO INSTEAD NOTHING", "no plain table"),
        ("ALTER TABLE pgops.audit ENABLE ROW LEVEL SECURITY", "no plain table"),
        (("CREATE FUNCTION eat() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER eat BEFORE "
         "INSERT ON pgops.audit FOR EACH ROW EXECUTE FUNCTION eat()"), "not this tool's stand on pgops.audit: eat"),
        (("CREATE OR REPLACE FUNCTION pgops.refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS "
         "'BEGIN IF false THEN RAISE EXCEPTION ''pgops.audit is append-only''; END IF; RETURN NULL; END'"),
         "function of the trigger audit_no_truncate was replaced"),
        (("DROP TRIGGER audit_no_update ON pgops.audit; CREATE TRIGGER audit_no_update BEFORE UPDATE OF seq ON pgops.audit "
         "EXECUTE FUNCTION pgops.refuse_audit_change(); ALTER TABLE pgops.audit ENABLE ALWAYS TRIGGER audit_no_update"),
         "audit_no_update has a condition or is for some columns only"),
        (("DROP TRIGGER audit_no_delete ON pgops.audit; CREATE TRIGGER audit_no_delete BEFORE DELETE ON pgops.audit WHEN (false) "
         "EXECUTE FUNCTION pgops.refuse_audit_change(); ALTER TABLE pgops.audit ENABLE ALWAYS TRIGGER audit_no_delete"),
         "audit_no_delete has a condition or is for some columns only"),
        ("ALTER TABLE pgops.audit SET UNLOGGED", "is UNLOGGED"),
        ("ALTER TABLE pgops.audit DROP CONSTRAINT audit_pkey", "has lost its primary key"),
    ],
    ids=["disabled", "replication-role", "dropped", "function", "rule", "row-security", "trigger", "looks-like-it", "of-a-column",
         "never", "unlogged", "no-key"],
)  # fmt: skip
def test_a_guard_that_was_taken_away_is_found(
    audited: Audited, superuser_connection: Any, statement: str, told: str
) -> None:
    with superuser_connection.cursor() as cursor:
        cursor.execute(statement)
    found = audited.verify()
    assert (found.rc, told in found.told) == (1, True), found.told


def test_two_rows_that_changed_places_are_found(audited: Audited, superuser_connection: Any) -> None:
    """All but the number changed places, hashes and all; then the numbers as well, which leaves the hashes of the numbers."""
    columns = "(at, run_id, event, actor, detail, previous, hash)"
    swap = f"UPDATE pgops.audit AS a SET {columns} = (SELECT {columns[1:-1]} FROM pgops.audit AS b WHERE b.seq = 7 - a.seq) WHERE seq IN (3, 4)"
    tamper(superuser_connection, swap)
    found = audited.verify()
    assert (found.rc, found.codes >= {"edited", "replaced"}) == (1, True), found.told


def test_a_chain_with_a_fork_is_found(audited: Audited, superuser_connection: Any) -> None:
    """A second row 4 that follows row 3 as well as the first one does."""
    row = {**ledger.audit_rows(audited.conn)[3], "actor": "nobody"}
    digest = audit_verifier.entry_hash(*(row[name] for name in audit_verifier.COLUMNS[:-1]))
    fork = "INSERT INTO pgops.audit SELECT seq, at, run_id, event, version, 'nobody', detail, previous, '{}' FROM pgops.audit WHERE seq = 4"
    tamper(superuser_connection, f"ALTER TABLE pgops.audit DROP CONSTRAINT audit_pkey; {fork.format(digest)}")
    found = audited.verify()
    assert (found.rc, found.codes >= {"order", "table"}) == (1, True), found.told
    assert "Row 4 stands twice" in found.told


def test_a_row_put_in_with_another_time_is_told(audited: Audited, target: Any) -> None:
    """Who may add rows may add one that says it is of last year, its hash and all."""
    head = ledger.audit_head(audited.conn) or {}
    row = (7, "2020-02-02T00:00:00.000000Z", "run-0", "applied", "1", "somebody else", "{}", head["hash"])
    with audited.conn.cursor() as cursor:
        values = (*row, audit_verifier.entry_hash(*row))
        cursor.execute("INSERT INTO pgops.audit VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)", values)
    found = audited.verify()
    assert (found.rc, found.codes) == (3, {"backdated"})
    assert "Row 7 says 2020-02-02T00:00:00.000000Z, and the row before it" in found.told


def test_a_time_that_is_none_is_no_reason_to_stop_looking(audited: Audited, superuser_connection: Any) -> None:
    tamper(superuser_connection, "UPDATE pgops.audit SET at = 'infinity' WHERE seq = 2")
    assert "Row 2 was changed" in audited.verify().told


def test_of_many_rows_that_do_not_hold_a_thousand_are_told_and_the_rest_counted() -> None:
    result = audit_verifier.Result()
    rows = [(number, "", None, "x", None, "a", "{}", "-", "f" * 64) for number in range(1, 3000)]
    audit_verifier.check_rows(rows, result, (0, audit_verifier.GENESIS), set())
    result.add("trigger", audit_verifier.TAMPERED, "told all the same")
    assert (len(result.findings), result.exit_code) == (1001, 1)
    assert f"{1001 - 20 + result.more} more findings" in audit_verifier.lines(result)[-2]
    assert result.more > 2000


def test_a_right_to_change_rows_is_told(audited: Audited, superuser_connection: Any) -> None:
    with superuser_connection.cursor() as cursor:
        cursor.execute("GRANT UPDATE, TRUNCATE ON pgops.audit TO white_cross_app")
    found = audited.verify()
    assert (found.rc, found.codes) == (3, {"rights"})
    assert "granted to white_cross_app" in found.told


@pytest.mark.majors(15, 18, slow=(15,))
def test_a_role_that_may_only_read_checks_the_database_itself(
    audited: Audited, server: Any, superuser_connection: Any, target: Any
) -> None:
    """With psycopg2 and no Ansible; the password lies in PGPASSFILE."""
    with superuser_connection.cursor() as cursor:
        cursor.execute("GRANT USAGE ON SCHEMA pgops TO white_cross_app; GRANT SELECT ON pgops.audit TO white_cross_app")
    dsn = f"host={server.host} port={server.port} dbname={target.database} user=white_cross_app passfile={server.passfile}"
    arguments = ("--dsn", dsn, "--anchors", str(audited.place.anchors))
    found = verifier(audited.folder, *arguments, python=(sys.executable, "-I"))
    assert (found.rc, found.document["rows"]) == (0, 6), found.told
    tamper(superuser_connection, "DELETE FROM pgops.audit WHERE seq = 6")
    found = verifier(audited.folder, *arguments, python=(sys.executable, "-I"))
    assert (found.rc, found.codes >= {"tail_cut"}) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--dsn", "host=127.0.0.1 password=sesame"), "PGPASSFILE"),
        (("--dsn", "host=127.0.0.1 port=1 dbname=x"), "cannot be read"),
        (("--export", "/nowhere"), "/nowhere cannot be read"),
        (("--export", "/proc/self/environ"), "no export"),
        (("--dsn", "nonsense"), "no connection string"),
    ],
    ids=["password", "no-server", "no-file", "no-export", "no-dsn"],
)
def test_what_cannot_be_looked_at_is_two_and_a_sentence(tmp_path: Path, arguments: tuple[str, str], told: str) -> None:
    found = verifier(tmp_path, *arguments, python=(sys.executable, "-I"))
    assert (found.rc, told in found.document["error"]) == (2, True), found.document
    assert "sesame" not in json.dumps(found.document)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-20],
        lambda text: "\n".join(text.split("\n")[:-2]),
        lambda text: text.replace('"end":6', '"end":7'),
        lambda text: text.replace('"seq":2', '"seq":"2"'),
        lambda text: text.replace('"event":"tested"', '"event":[]'),
        lambda text: text.replace('"checkpoint":null', '"checkpoint":{"seq":[]}'),
        lambda text: text.replace('"triggers":{', '"triggered":{'),
    ],
    ids=["cut", "no-end", "count", "number", "event", "checkpoint", "head"],
)
def test_an_export_that_was_cut_off_is_no_audit(audited: Audited, spoil: Any) -> None:
    export = audited.export()
    assert export.stat().st_mode & 0o777 == 0o600
    export.write_text(spoil(export.read_text(encoding="utf-8")), encoding="utf-8")
    assert audited.verify(export=export).rc == 2


def test_an_export_whose_head_was_mended_is_found(audited: Audited, superuser_connection: Any) -> None:
    with superuser_connection.cursor() as cursor:
        cursor.execute("ALTER TABLE pgops.audit DISABLE TRIGGER audit_no_update")
    export = audited.export()
    text = export.read_text(encoding="utf-8")
    assert '"enabled": "D"' in text or '"enabled":"D"' in text
    export.write_text(
        text.replace('"enabled":"D"', '"enabled":"A"').replace('"enabled": "D"', '"enabled": "A"'), encoding="utf-8"
    )
    found = audited.verify(export=export)
    assert (found.rc, found.codes) == (1, {"export"}), found.told


def test_an_export_that_does_not_say_what_protects_the_audit_asks_for_it(audited: Audited) -> None:
    export = audited.export()
    head, *lines = export.read_text(encoding="utf-8").splitlines()
    lines = [json.dumps({**json.loads(head), "protection": None}), *lines[:-1]]
    text = "".join(f"{line}\n" for line in lines)
    end = json.dumps({"end": 6, "sha256": hashlib.sha256(text.encode()).hexdigest()})
    export.write_text(f"{text}{end}\n", encoding="utf-8")
    assert audited.verify(export=export).codes == {"protection"}


def test_the_anchors_of_another_database_are_no_proof(audited: Audited) -> None:
    """A slip of whoever types it, and no reason to cry out."""
    other = audit_anchor.Place(audited.folder / "other")
    audit_anchor.append(other, {"seq": 4, "hash": "f" * 64, "database": "another", "time": "x"}, [])
    found = verifier(audited.folder, "--export", str(audited.export()), "--anchors", str(other.anchors))
    assert (found.rc, "the anchors are those of database another" in found.document["error"]) == (2, True)


def test_the_anchors_of_another_server_are_suspected(audited: Audited) -> None:
    other = audit_anchor.Place(audited.folder / "other")
    here = {"system_identifier": "1", "timeline": 1, "database_oid": 1, "database": audited.conn.info.dbname}
    audit_anchor.append(other, {"seq": 4, "hash": "f" * 64, "time": "x", **here}, [])
    found = verifier(audited.folder, "--export", str(audited.export()), "--anchors", str(other.anchors))
    assert (found.rc, found.codes) == (3, {"another_server"}), found.told
    assert "no row that was anchored there is in this chain" in found.told
    assert "nothing says that it was restored" in found.told


def test_a_run_on_another_server_between_two_hides_no_cut(audited: Audited, superuser_connection: Any) -> None:
    """The server's name led elsewhere for one run: its anchor is told, and those of this cluster count as ever."""
    for seq in (4, 9):
        audited.anchor(seq=seq, hash="f" * 64, system_identifier="1")
    found = audited.verify()
    assert (found.rc, found.codes) == (3, {"another_server"}), found.told
    tamper(superuser_connection, "DELETE FROM pgops.audit WHERE seq > 3")
    found = audited.verify()
    assert (found.rc, found.codes >= {"another_server", "tail_cut"}) == (1, True), found.told


def test_a_restore_into_a_new_cluster_is_told_by_the_row_that_both_have(
    audited: Audited, superuser_connection: Any
) -> None:
    before = audit_anchor.Place(audited.folder / "before")
    for line in audited.place.anchors.read_text(encoding="utf-8").splitlines():
        audit_anchor.append(before, {**json.loads(line), "system_identifier": "1"}, [])
    audited.place = before
    go_back(audited, superuser_connection, 4)
    found = audited.verify()
    assert (found.rc, found.codes) == (3, {"restored_elsewhere"}), found.told
    assert "which has row 3 of that cluster" in found.told
    assert "was restored into a new cluster outside of this tool" in found.told


# -- anchors -----------------------------------------------------------------------------------------------------------------


def test_anchors_are_private_and_each_names_the_one_before(audited: Audited) -> None:
    for file in (audited.place.anchors, audited.place.rows):
        assert file.stat().st_mode & 0o777 == 0o600
    assert audited.place.folder.stat().st_mode & 0o777 == 0o700
    first, second = map(json.loads, audited.place.anchors.read_text(encoding="utf-8").splitlines())
    assert (first["seq"], second["seq"], first["previous"]) == (3, 6, audit_verifier.GENESIS)
    assert [json.loads(line)["seq"] for line in audited.place.rows.read_text(encoding="utf-8").splitlines()] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


def test_an_end_of_the_anchors_that_was_cut_is_told_by_the_copy_of_the_rows(
    audited: Audited, superuser_connection: Any
) -> None:
    first = audited.place.anchors.read_text(encoding="utf-8").splitlines()[0]
    audited.place.anchors.write_text(f"{first}\n", encoding="utf-8")
    copy = ("--rows", str(audited.place.rows))
    found = audited.verify(*copy)
    assert (found.rc, found.codes) == (3, {"anchors_cut"})
    assert "Row 6 was copied to the ops host, and the last anchor is of row 3" in found.told
    # So who cuts the database's tail and the anchors', and forgets the copy.
    tamper(superuser_connection, "DELETE FROM pgops.audit WHERE seq > 3")
    found = audited.verify(*copy)
    assert (found.rc, "kept" in found.codes) == (1, True)
    assert "3 rows from 4 to 6 were copied to the ops host and are not in this chain" in found.told


def test_a_last_anchor_that_is_torn_asks_for_an_explanation(audited: Audited) -> None:
    text = audited.place.anchors.read_text(encoding="utf-8")
    audited.place.anchors.write_text(text[:-30], encoding="utf-8")
    found = audited.verify()
    assert (found.rc, found.codes) == (3, {"anchors_cut"}), found.told


@pytest.mark.parametrize("spoil", ["take out", "change"])
def test_a_line_of_the_anchors_that_was_changed_is_found(audited: Audited, spoil: str) -> None:
    lines = audited.place.anchors.read_text(encoding="utf-8").splitlines()
    lines[0] = "" if spoil == "take out" else lines[0].replace('"seq":3', '"seq":2')
    audited.place.anchors.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = audited.verify()
    assert (found.rc, "anchor_chain" in found.codes) == (1, True)


def test_a_line_torn_by_a_crash_takes_no_other_with_it(audited: Audited) -> None:
    with audited.place.anchors.open("a", encoding="utf-8") as file:
        file.write('{"seq": 6, "ha')
    audited.append(1)
    audited.anchor()
    found = audited.verify()
    assert (found.rc, found.document["anchors"]) == (0, 3), found.told
    assert "is cut off and does not count" in found.told


def test_a_full_disk_takes_no_anchor_that_is_there(audited: Audited, small_disk: Path) -> None:
    place = audit_anchor.Place(small_disk / "anchors")
    first = audit_anchor.append(place, {"seq": 1, "hash": "a"}, [])
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(OSError, match="No space left"):
        audit_anchor.append(place, {"seq": 2, "hash": "b" * 8192}, [])
    filler.unlink()
    second = audit_anchor.append(place, {"seq": 2, "hash": "c"}, [])
    assert second["previous"] == audit_verifier.line_hash(
        json.dumps(first, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    )
    assert [anchor["seq"] for anchor in audit_anchor.heads(place)] == [2, 1]


def test_names_of_hosts_and_databases_stay_below_the_folder(tmp_path: Path) -> None:
    for odd in ("..", "../../etc", "a/b", ".", "x\ny"):
        folder = audit_anchor.Place.of(tmp_path, odd, odd, odd).folder
        assert folder.resolve().is_relative_to(tmp_path.resolve() / "audit")
        assert len(folder.relative_to(tmp_path).parts) == 4


def test_signed_anchors_name_the_signer_and_another_key_is_refused(audited: Audited, tmp_path: Path) -> None:
    key, signers = signing_key(tmp_path / "auditor", "ops@example.org")
    audited.append(1)
    audited.anchor(sign=audit_anchor.signer(str(key)))
    found = audited.verify("--allowed-signers", str(signers))
    assert found.rc == 0, found.told
    assert "are signed by ops@example.org" in found.told
    _other, others = signing_key(tmp_path / "other", "ops@example.org")
    found = audited.verify("--allowed-signers", str(others))
    assert (found.rc, "signature" in found.codes) == (1, True)
    audited.append(1)
    audited.anchor()
    assert audited.verify("--allowed-signers", str(signers)).codes == {"unsigned"}


def test_a_signature_over_another_anchor_does_not_count(audited: Audited, tmp_path: Path) -> None:
    """Who rewrites database and anchors together lacks the key."""
    key, signers = signing_key(tmp_path / "auditor", "ops@example.org")
    audited.anchor(sign=audit_anchor.signer(str(key)))
    lines = audited.place.anchors.read_text(encoding="utf-8").splitlines()
    last = {**json.loads(lines[-1]), "time": "2026-06-06T00:00:00Z"}
    audited.place.anchors.write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n", encoding="utf-8")
    assert "signature" in audited.verify("--allowed-signers", str(signers)).codes


def test_a_key_that_cannot_sign_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(audit_anchor.NotAnchored, match="ssh-keygen refuses the key"):
        audit_anchor.signer(str(tmp_path / "nowhere"))("text")


def test_a_command_takes_each_anchor_and_its_failure_is_told(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    audit_anchor.hand_over(["sh", "-c", f"cat > '{taken}'"], {"seq": 1})
    assert json.loads(taken.read_text(encoding="utf-8")) == {"seq": 1}
    for command, told in (
        (["false"], "ended with 1"),
        ([str(tmp_path / "no")], "No such file"),
        (["sleep", "9"], "in time"),
    ):
        with pytest.raises(audit_anchor.NotAnchored, match=told):
            audit_anchor.hand_over(command, {"seq": 1}, seconds=0.2)


# -- a restore ---------------------------------------------------------------------------------------------------------------


def go_back(audited: Audited, connection: Any, to: int) -> None:
    """What a restore does to the audit, without its hours: the rows since are gone, and others come."""
    tamper(connection, f"DELETE FROM pgops.audit WHERE seq > {to}")
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_reset()")
    audited.append(1, "cluster_restored")


def test_a_restore_by_this_tool_is_explained_and_both_branches_are_kept(
    audited: Audited, superuser_connection: Any
) -> None:
    go_back(audited, superuser_connection, 2)
    audited.anchor(run_id="run-back", parted={"common": 2, "explained": "rollback.yml (pitr)"}, timeline=7)
    audited.append(4)
    audited.anchor()
    found = audited.verify("--rows", str(audited.place.rows))
    assert found.rc == 0, found.told
    assert "Rows 3 to 6 (anchored at" in found.told
    assert (
        "when rollback.yml (pitr) (run run-back) took the database back to row 2; both branches are kept and hold"
        in found.told
    )
    assert audited.verify().rc == 3  # without the copy nobody knows what the ended branch held


def test_a_changed_copy_of_an_ended_branch_does_not_count(audited: Audited, superuser_connection: Any) -> None:
    go_back(audited, superuser_connection, 2)
    audited.anchor(run_id="run-back", parted={"common": 2, "explained": "rollback.yml (pitr)"}, timeline=7)
    text = audited.place.rows.read_text(encoding="utf-8")
    audited.place.rows.write_text(text.replace('{\\"n\\": 6}', '{\\"n\\": 7}'), encoding="utf-8")
    found = audited.verify("--rows", str(audited.place.rows))
    assert (found.rc, "the copy of the rows lacks it" in found.told) == (3, True)


def test_a_restore_that_has_moved_nothing_explains_nothing(audited: Audited, superuser_connection: Any) -> None:
    """Each way back makes another database or another timeline; a run that is said to have gone back and has not hides a cut."""
    go_back(audited, superuser_connection, 2)
    audited.anchor(run_id="run-back", parted={"common": 2, "explained": "rollback.yml (pitr)"})
    found = audited.verify("--rows", str(audited.place.rows))
    assert (found.rc, found.codes) == (1, {"rewritten"})
    assert "timeline and database OID are those of before: nothing was restored" in found.told


def test_a_cut_tail_that_a_later_run_saw_is_no_restore(audited: Audited, superuser_connection: Any) -> None:
    go_back(audited, superuser_connection, 2)
    audited.anchor(parted={"common": 2, "explained": None})
    assert audited.verify("--rows", str(audited.place.rows)).rc == 1


def test_a_restore_outside_of_this_tool_asks_for_an_explanation(audited: Audited, superuser_connection: Any) -> None:
    go_back(audited, superuser_connection, 2)
    audited.anchor(timeline=7, parted={"common": 2, "explained": None})
    found = audited.verify()
    assert (found.rc, found.codes) == (3, {"restored_elsewhere"})
    assert "the timeline of the database changed since" in found.told


# -- many writers, many rows -------------------------------------------------------------------------------------------------


def _write(target: Any, count: int) -> None:
    own = connect(target, application_name="test")
    try:
        for number in range(count):
            ledger.append_audit(own, "tested", detail={"n": number})
    finally:
        own.close()


def writers(target: Any, number: int, count: int) -> None:
    threads = [threading.Thread(target=_write, args=(target, count)) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("count", [10, pytest.param(500, marks=pytest.mark.slow)])
def test_twenty_writers_keep_one_chain(audited: Audited, target: Any, count: int) -> None:
    writers(target, 20, count)
    found = audited.verify()
    assert (found.rc, found.document["rows"]) == (0, 6 + 20 * count)


def test_a_writer_in_a_transaction_that_rolls_back_leaves_no_gap(audited: Audited, target: Any) -> None:
    other = connect(target, application_name="other")
    with pytest.raises(ZeroDivisionError), ledger.transaction(other):
        ledger.append_audit(other, "never")
        raise ZeroDivisionError
    audited.append(1)
    other.close()
    assert audited.verify().document["rows"] == 7


def test_an_audit_in_a_database_in_sql_ascii_is_read(audited: Audited, server: Any, target: Any) -> None:
    name = f"{target.database}_ascii"
    server.execute(f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    with closing(connect(replace(target, database=name), application_name="test")) as conn:
        ledger.ensure(conn)
        ledger.append_audit(conn, "tested", detail={"why": 'é\u2028\u001f"/€'})
    dsn = f"host={server.host} port={server.port} dbname={name} user=postgres passfile={server.passfile}"
    found = verifier(audited.folder, "--dsn", dsn, python=(sys.executable, "-I"))
    assert (found.rc, found.codes) == (3, {"no_anchor"}), found.document
    server.drop_databases(name)


def test_no_right_to_read_is_a_sentence(audited: Audited, server: Any, target: Any) -> None:
    dsn = f"host={server.host} port={server.port} dbname={target.database} user=white_cross_app passfile={server.passfile}"
    found = verifier(audited.folder, "--dsn", dsn, python=(sys.executable, "-I"))
    assert (found.rc, "permission denied" in found.document["error"]) == (2, True)


def test_a_database_without_an_audit_is_a_sentence(audited: Audited, server: Any, target: Any) -> None:
    execute(audited.conn, "DROP SCHEMA pgops CASCADE")
    dsn = f"host={server.host} port={server.port} dbname={target.database} user=white_cross_app passfile={server.passfile}"
    found = verifier(audited.folder, "--dsn", dsn, python=(sys.executable, "-I"))
    assert (found.rc, "was its schema dropped" in found.document["error"]) == (2, True)


def test_the_file_takes_the_oldest_python_that_hosts_may_have() -> None:
    import ast

    ast.parse(Path(audit_verifier.__file__).read_text(encoding="utf-8"), feature_version=(3, 9))
    assert os.path.basename(audit_verifier.__file__) == "audit_verifier.py"
    assert psycopg2.__version__  # only --dsn needs it
