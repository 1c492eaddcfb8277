# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A database that does not hold every text: no version gets into it, and what is in it is read as far as it is text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    dump,
    encoding,
    inspection,
    migrate,
    preview,
    up_down_up,
    verify,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import RUN, rows, way
from support.tree import TestTree

V1 = "20260101000000"
ENCODINGS = ("LATIN1", "SQL_ASCII")
NO_TEXT = r"in a database that is encoded in SQL_ASCII, which takes bytes that are no text; make it a UTF8 one"


@pytest.fixture
def tree(tmp_path: Path) -> TestTree:
    tree = TestTree(tmp_path / "sql")
    # A typographic dash stands in comments more often than anybody thinks.
    up = "-- The rooms \u2013 of the school.\nCREATE TABLE public.rooms (id integer PRIMARY KEY, name text);\n"
    tree.add_sql(V1, "rooms", up, "DROP TABLE public.rooms;\n")
    return tree


@pytest.fixture(params=ENCODINGS)
def other(request: Any, target: Target, server: Any) -> tuple[Target, str]:
    name = f"{target.database}_{request.param.lower()}"
    server.create_database(name, encoding=request.param)
    return target.with_(database=name), request.param


def migrated_before(other: Target, server: Any, tree: TestTree, of: str, patch: pytest.MonkeyPatch) -> None:
    """As a release that did not look at the encoding has left it, with a letter beyond ASCII since."""
    with patch.context() as earlier:
        earlier.setattr(encoding, "NEEDED", of)
        migrate.apply(other, tree.render(), Selection(), way())
    with server.session(other.database) as conn, conn.cursor() as cursor:
        cursor.execute(f"SET client_encoding = '{of}'")
        cursor.execute(b"INSERT INTO public.rooms VALUES (1, 'Fran\xe7ois')")
        cursor.execute(b"COMMENT ON COLUMN public.rooms.name IS 'Fran\xe7ois'")


def test_it_is_refused_before_any_change(other: tuple[Target, str], tree: TestTree) -> None:
    target, name = other
    told = f"{target.database}: it is encoded in {name}, and the texts .* need UTF8; dump the database, restore it"
    with pytest.raises(PgopsError, match=f"Nothing was applied to {told}") as caught:
        preview.preview(target, tree.render(), Selection())
    assert caught.value.extra["reason"] == "encoding"
    with pytest.raises(PgopsError, match=f"Nothing was applied to {told}"):
        migrate.apply(target, tree.render(), Selection(), way())
    with pytest.raises(PgopsError, match=f"Nothing was tried for {told}"):
        up_down_up.run(target, tree.render(), V1, way())
    assert rows(target, "SELECT to_regnamespace('pgops') IS NULL AS none") == [{"none": True}]


def test_one_with_latin_letters_is_verified_backed_up_and_goes_back(
    target: Target, server: Any, tree: TestTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latin = target.with_(database=f"{target.database}_latin1")
    server.create_database(latin.database, encoding="LATIN1")
    plain = TestTree(tmp_path / "plain")
    plain.add_sql(V1, "rooms", "CREATE TABLE public.rooms (id integer, name text);\n", "DROP TABLE public.rooms;\n")
    migrated_before(latin, server, plain, "LATIN1", monkeypatch)
    assert verify.verify({latin.database: latin})[latin.database]["passed"]
    assert dump.create_backup(latin, directory=str(tmp_path / "backups"), run_id=RUN)["tables"] > 0
    assert inspection.inspect(latin, "SELECT name FROM public.rooms", {}, name="rooms")["rows"] == [
        {"name": "François"}
    ]
    done = migrate.revert(latin, Reverts(), way("20260101T000000Z-000002"))
    assert [item["version"] for item in done["reverted"]] == [V1]
    # With nothing pending there is nothing to refuse.
    assert preview.preview(latin, [], Selection())["pending"] == []


def test_bytes_that_are_no_text_are_told_by_what_reads_them(
    target: Target, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ascii_ = target.with_(database=f"{target.database}_ascii")
    server.create_database(ascii_.database, encoding="SQL_ASCII")
    plain = TestTree(tmp_path / "plain")
    plain.add_sql(V1, "rooms", "CREATE TABLE public.rooms (id integer, name text);\n", "DROP TABLE public.rooms;\n")
    migrated_before(ascii_, server, plain, "SQL_ASCII", monkeypatch)
    for look in (
        lambda: verify.verify({ascii_.database: ascii_}),
        lambda: dump.create_backup(ascii_, directory=str(tmp_path / "backups"), run_id=RUN),
        lambda: inspection.inspect(ascii_, "SELECT name FROM public.rooms", {}, name="rooms"),
    ):
        with pytest.raises(PgopsError, match=NO_TEXT) as caught:
            look()
        assert caught.value.sqlstate == "22021"
    # The way down reads none of them.
    assert migrate.revert(ascii_, Reverts(), way("20260101T000000Z-000002"))["reverted"]
