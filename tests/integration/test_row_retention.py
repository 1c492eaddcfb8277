# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Rows that a policy keeps no longer: counted, archived before they go, deleted in batches, audited; nothing else goes along."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import encryption, ledger, row_retention
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from ansible_collections.whitecross.pgops.plugins.module_utils.row_retention import Rule, Way
from ansible_collections.whitecross.pgops.plugins.plugin_utils import declared_retention
from support.engine import RUN, AtRows, do, holding, rows, target_of, wait_for
from support.keys import age_key
from support.podman import ROOT
from support.server import APP, Server
from support.site import Playbook

VISITS = Rule("visits", "at", 7, "records of visits are kept for seven years")
NOTES = Rule("notes", "written", 7, "as their visits")
POLICY = """
- {table: notes, column: written, years: 7, why: as their visits}
- {table: visits, column: at, years: 7, why: records of visits are kept for seven years}
"""


@pytest.fixture(autouse=True)
def schema(target: Any) -> None:
    """Ten old visits and ten new ones; one old visit has a note of this year."""
    do(
        target,
        "CREATE TABLE visits (id integer PRIMARY KEY, at timestamptz, said text)",
        "CREATE TABLE notes (id integer PRIMARY KEY, visit integer REFERENCES visits ON DELETE CASCADE, written date)",
        "INSERT INTO visits SELECT n, now() - interval '8 years' + n * interval '1 minute', 'line 1' || chr(10) || 'é ' || n FROM generate_series(1, 10) n",
        "INSERT INTO visits SELECT n, now(), 'new' FROM generate_series(11, 20) n",
        "INSERT INTO visits VALUES (21, NULL, 'no date')",
        "INSERT INTO notes VALUES (1, 3, now()), (2, 4, now() - interval '9 years')",
    )


def way(folder: Path, **more: Any) -> Way:
    given: dict[str, Any] = {
        "directory": str(folder), "encrypt_to": [], "batch_size": 4, "ends_at": time.monotonic() + 60,
        "progress": Progress(), "control": Control(), **more,
    }  # fmt: skip
    return Way(ledger.Run(RUN, "retention", "local", "tester", "ops-1"), **given)


def ids(target: Any, table: str = "visits") -> list[int]:
    return [row["id"] for row in rows(target, f"SELECT id FROM {table} ORDER BY 1")]


def archived(result: dict[str, Any], number: int = 0) -> list[dict[str, Any]]:
    lines = [line for file in result["tables"][number]["files"] for line in Path(file).read_text().splitlines()]
    return [json.loads(line) for line in lines]


@pytest.mark.majors(15, 18, slow=(15,))
def test_what_is_due_is_archived_deleted_and_audited_and_nothing_else_goes(target: Any, tmp_path: Path) -> None:
    folder = tmp_path / "retired"
    result = row_retention.retire(target, [NOTES, VISITS], way(folder))
    notes, visits = result["tables"]
    assert (notes["deleted"], notes["referenced"]) == (1, 0)
    # One is pointed at by a note that stays; the other's note has gone before it, as the policy has it first.
    assert (visits["due"], visits["deleted"], visits["referenced"]) == (9, 9, 1)
    assert ids(target) == [3, *range(11, 22)] and ids(target, "notes") == [1]
    assert row_retention.retire(target, [NOTES, VISITS], way(folder))["changed"] is False
    gone = archived(result, 1)
    assert sorted(row["id"] for row in gone) == [1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert "line 1\né 1" in [row["said"] for row in gone]
    audit = rows(target, "SELECT detail FROM pgops.audit WHERE event = 'rows_retired' ORDER BY seq")
    assert [row["detail"]["rows"] for row in audit] == [1, 4, 4, 1]
    for detail in (row["detail"] for row in audit):
        file = Path(detail["file"])
        assert hashlib.sha256(file.read_bytes()).hexdigest() == detail["sha256"]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert detail["years"] == 7 and detail["why"]
    assert not list(folder.rglob("*.partial"))


# Each value as it was, to the byte: what a row can hold that JSON would write in another way.
EVERYTHING = """
CREATE TYPE pair AS (n numeric, who text);
CREATE DOMAIN told AS varchar(20);
CREATE TABLE kept (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz, twice bigint GENERATED ALWAYS AS (id * 2) STORED,
    said json, as_b jsonb, photo bytea, amount numeric, rate double precision, tags text[], grid integer[], days date[], who pair, span interval,
    fixed char(5), flags bit varying(9), one told, "odd ""%%s"" name" text, period tstzrange, yes boolean, address inet
)
"""
ROWS = r"""
INSERT INTO kept (at, said, as_b, photo, amount, rate, tags, grid, days, who, span, fixed, flags, one, "odd ""%%s"" name", period, yes, address)
VALUES ('2010-03-28 01:59:59.123456+00', E'{"a": 1,  "a": 2.500,\n "b": [1.0, "\\u00e9\\\\"]}', '{"n": 1.50}', '\xdeadbeef00', 1.50, 0.1,
        ARRAY['a,b', NULL, '"q"', E'l\n2', ''], '[2:3][0:1]={{1,2},{3,4}}', ARRAY['infinity'::date], ROW(1.10, E'x "y"\\'), '-1 mon +2 days',
        'ab', B'101', 'told', E'tab\there \\. é', '[2010-01-01 00:00+00,)', true, '10.0.0.1/8'),
       ('2011-01-01 00:00+00', 'null', 'null', '', 'NaN', '-Infinity', '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '', NULL, false, NULL),
       ('2011-06-01 00:00+02', '"text"', '[]', NULL, 12345678901234567890.000, 1e300, NULL, '{}', NULL, ROW(NULL, ''), '00:00:01.5', '', B'', '',
        NULL, 'empty', NULL, '::1')
"""


@pytest.mark.majors(15, 18, slow=(15,))
def test_rows_come_back_as_they_were_by_the_command_of_the_docs(server: Server, target: Any, tmp_path: Path) -> None:
    do(target, EVERYTHING.replace("%%", "%"), ROWS.replace("%%", "%"), f"GRANT SELECT ON kept TO {APP}")
    do(target, f"ALTER ROLE CURRENT_USER IN DATABASE {target.database} SET IntervalStyle = 'sql_standard'",
       f"ALTER ROLE CURRENT_USER IN DATABASE {target.database} SET bytea_output = 'escape'")  # fmt: skip
    query = "SELECT t::text AS whole, said::text, amount::text, twice FROM kept AS t ORDER BY id"
    before = rows(target, query)
    result = row_retention.retire(target, [Rule("kept", "at", 7, "so long")], way(tmp_path / "retired"))
    (file,) = result["tables"][0]["files"]
    assert rows(target, "SELECT count(*) AS n FROM kept") == [{"n": 0}]
    assert len(Path(file).read_text(encoding="utf-8").splitlines()) == 3
    do(target, "ALTER TABLE kept ADD COLUMN later text NOT NULL DEFAULT 'later'")
    told = bring_back(server, target, "public.kept", file)
    assert told.returncode == 0, told.stderr
    do(target, "ALTER TABLE kept DROP COLUMN later")
    assert rows(target, query) == before
    # All of a file or none: the rows are there.
    again = bring_back(server, target, "public.kept", file)
    assert (again.returncode, "duplicate key" in again.stderr) == (3, True)
    assert rows(target, query) == before


def bring_back(server: Server, target: Any, table: str, file: str) -> subprocess.CompletedProcess[str]:
    command = "psql -v table=public.messages -f docs/examples/bring_back.sql < FILE.jsonl"
    assert command in (ROOT / "docs" / "maintenance.md").read_text(encoding="utf-8")
    script = ROOT / "docs" / "examples" / "bring_back.sql"
    typed = [
        str(server.bindir / "psql"), "-X", "-q", "-h", server.host, "-p", str(server.port), "-U", target.user, "-d", target.database,
        "-v", f"table={table}", "-f", str(script),
    ]  # fmt: skip
    environment = {**os.environ, "PGPASSFILE": str(server.passfile)}
    with Path(file).open(encoding="utf-8") as lines:
        return subprocess.run(typed, stdin=lines, capture_output=True, text=True, check=False, env=environment)


def test_the_folders_of_an_archive_are_durable_before_its_rows_go(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each new folder's name stands in the one above it, which has to be on the disk as well."""
    synced: list[tuple[str, int]] = []
    true_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), len(ids(target))))
        true_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    row_retention.retire(target, [VISITS], way(tmp_path / "a" / "retired"))
    durable = {path for path, left in synced if left == 21}
    wanted = [tmp_path, tmp_path / "a", tmp_path / "a" / "retired", tmp_path / "a" / "retired" / target.database]
    assert {str(folder) for folder in wanted} <= durable
    assert stat.S_IMODE((tmp_path / "a" / "retired" / target.database).stat().st_mode) == 0o700


def test_counting_writes_nothing(target: Any) -> None:
    found = row_retention.look(target, [VISITS], run_id=RUN, control=Control())
    (table,) = found["tables"]
    assert (table["due"], table["referenced"]) == (8, 2)
    assert len(ids(target)) == 21
    assert rows(target, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'") == []


def test_the_archive_is_encrypted_where_keys_are_given(target: Any, tmp_path: Path) -> None:
    key = age_key(tmp_path)
    result = row_retention.retire(target, [VISITS], way(tmp_path / "retired", encrypt_to=[key.public]))
    file = result["tables"][0]["files"][0]
    assert file.endswith(".jsonl.age") and b"line 1" not in Path(file).read_bytes()
    lines = encryption.decrypt(file, key.identity).splitlines()
    assert {json.loads(line)["id"] for line in lines} == {1, 2, 5, 6}


def test_what_cannot_be_archived_stays(target: Any, tmp_path: Path) -> None:
    (tmp_path / "retired").write_text("a file")
    with pytest.raises(PgopsError, match="cannot be made.*nothing was deleted without it"):
        row_retention.retire(target, [VISITS], way(tmp_path / "retired"))
    assert len(ids(target)) == 21


def test_a_batch_that_fails_leaves_neither_a_gap_nor_a_file(target: Any, tmp_path: Path) -> None:
    do(
        target,
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF OLD.id = 7 THEN RAISE EXCEPTION 'kept'; END IF; RETURN OLD; END $$",
        "CREATE TRIGGER keep BEFORE DELETE ON visits FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    with pytest.raises(PgopsError, match="stay, but for 4") as caught:
        row_retention.retire(target, [VISITS], way(tmp_path / "retired"))
    (table,) = caught.value.extra["databases"][target.database]["tables"]
    assert table["deleted"] == 4 and len(list((tmp_path / "retired").rglob("*.jsonl"))) == 1
    assert ids(target)[:6] == [3, 4, 7, 8, 9, 10]


def test_a_row_that_somebody_holds_waits_for_the_next_run(target: Any, tmp_path: Path) -> None:
    with holding(target, "SELECT 1 FROM visits WHERE id = 1 FOR UPDATE"):
        result = row_retention.retire(target, [VISITS], way(tmp_path / "retired"))
    assert result["tables"][0]["deleted"] == 7 and ids(target)[0] == 1


def test_a_row_that_somebody_points_at_while_the_batch_is_picked_stays_with_what_points_at_it(
    target: Any, server: Server, tmp_path: Path
) -> None:
    """The statement that picks has its snapshot already: what it does not see must not go by the cascade of a key."""
    do(
        target,
        "CREATE TYPE label AS ENUM ('3', '7')",
        "CREATE FUNCTION number_of(label) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN IF current_query() LIKE '%FOR UPDATE SKIP LOCKED%' "
        "THEN PERFORM pg_advisory_xact_lock(1); END IF; RETURN $1::text::integer; END $$",
        "CREATE CAST (label AS integer) WITH FUNCTION number_of(label) AS IMPLICIT",
        "CREATE TABLE labels (visit label REFERENCES visits ON DELETE CASCADE)",
        "INSERT INTO labels VALUES ('3')",
    )

    def points() -> None:
        with closing(server.connect(target.database)) as client, client.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(1)")
            picking.set()
            waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            wait_for(lambda: server.execute(waits, database=target.database), what="the batch that is picked")
            cursor.execute("INSERT INTO public.labels VALUES ('7')")

    picking = threading.Event()
    client = threading.Thread(target=points)
    client.start()
    assert picking.wait(10)
    result = row_retention.retire(target, [VISITS], way(tmp_path / "retired", batch_size=20))
    client.join()
    assert 7 in ids(target)
    assert rows(target, "SELECT visit::text FROM labels ORDER BY 1") == [{"visit": "3"}, {"visit": "7"}]
    assert sorted(row["id"] for row in archived(result)) == [1, 2, 5, 6, 8, 9, 10]


def test_it_ends_between_two_batches_and_goes_on_there(target: Any, tmp_path: Path) -> None:
    control = Control()
    told = AtRows([4], lambda: control.request("a test asked for it"))
    with pytest.raises(Interrupted) as caught:
        row_retention.retire(target, [VISITS], way(tmp_path / "retired", control=control, progress=told))
    assert caught.value.extra["databases"][target.database]["tables"][0]["deleted"] == 4
    result = row_retention.retire(target, [VISITS], way(tmp_path / "retired", ends_at=0.0))
    assert result["ended"] == "its time was over" and result["tables"][0]["deleted"] == 0
    assert row_retention.retire(target, [VISITS], way(tmp_path / "retired"))["tables"][0]["deleted"] == 4


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (Rule("nothing", "at", 7, "w"), "there is no such table"),
        (Rule("visits", "gone", 7, "w"), "its column gone is not there"),
        (Rule("visits", "said", 7, "w"), "its column said is text, and a date or a timestamp is wanted"),
        (Rule("visits", "at", 0, "w"), "keeps rows for 0 years"),
        (Rule("audit", "at", 7, "w", "pgops"), "the ledger and its audit are not for it"),
        (Rule("parts", "at", 7, "w"), "it is no table of its own"),
        (Rule("part", "at", 7, "w"), "it is no table of its own"),
    ],
)
def test_what_is_not_for_it_is_refused_before_anything_goes(target: Any, tmp_path: Path, rule: Rule, told: str) -> None:
    do(target, "CREATE TABLE parts (at date) PARTITION BY RANGE (at)", "CREATE TABLE part PARTITION OF parts DEFAULT")
    with pytest.raises(PgopsError, match=told):
        row_retention.retire(target, [VISITS, rule], way(tmp_path / "retired"))
    assert len(ids(target)) == 21


def test_a_role_that_may_not_delete_is_refused(target: Any) -> None:
    do(target, "GRANT SELECT ON visits TO white_cross_nurse")
    with pytest.raises(PgopsError, match="may not read and delete its rows") as caught:
        row_retention.look(target.with_(user=APP, owner=None), [VISITS], run_id=RUN, control=Control())
    assert caught.value.sqlstate == "42501"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "is no list of tables"),
        ("- {table: a, column: b, years: 7}", "entry 1 lacks why"),
        ("- {table: a, column: b, years: seven, why: w}", "years of entry 1 is 'seven'"),
        ("- {table: a, column: b, years: true, why: w}", "years of entry 1 is True"),
        ("- {table: a, column: b, years: 7, why: w, where: x}", "entry 1 has 'where'"),
        (
            "- {table: a, column: b, years: 7, why: w}\n- {table: a, column: b, years: 8, why: w}",
            "public.a is declared twice",
        ),
        ("- {table: a, table: b}", "retention.yml:1"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "retention.yml").write_text(text)
    with pytest.raises(PgopsError, match=told):
        declared_retention.read(tmp_path / "retention.yml")


def test_the_playbook_counts_then_keeps_the_policy(server: Server, playbook: Playbook, tmp_path: Path) -> None:
    target = target_of(server, playbook.database)
    policy = tmp_path / "policy.yml"
    policy.write_text(POLICY)
    given = {"retention_policy_file": str(policy)}
    shown = playbook("retention.yml", "--check", **given)
    assert shown.rc == 0, shown.output
    assert "8 rows of public.visits from before" in shown.stdout and "would go; 2 stay" in shown.stdout
    assert len(ids(target)) == 21
    refused = playbook("retention.yml", **given)
    assert refused.rc == 2 and "retention_archive_directory names no folder" in refused.json["error"]["message"]
    done = playbook("retention.yml", **given, retention_archive_directory=str(tmp_path / "retired"))
    assert done.rc == 0, done.output
    assert "9 of 9 rows of public.visits" in done.stdout
    assert [row["event"] for row in rows(target, "SELECT event FROM pgops.audit ORDER BY seq")][-2:] == [
        "rows_retired",
        "run_ended",
    ]
    assert "line 1" not in done.output and "line 1" not in json.dumps(done.json)
