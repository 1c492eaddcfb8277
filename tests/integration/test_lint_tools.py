# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The files of other tools, sent to a server as each tool sends them: they hurt, or do not, as lint says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_lint import script
from support.lint_corpus import ToolPiece, copy_of, tool_pieces, with_schema
from support.server import SUPERUSER, Server

LOCKS = "SELECT string_agg(mode, ' ') FROM pg_locks WHERE pid = pg_backend_pid() AND relation = '{}'::regclass"
STRONG = {"AccessExclusiveLock", "ExclusiveLock", "ShareRowExclusiveLock", "ShareLock"}


@pytest.fixture(scope="module")
def base(embedded_server: Server) -> Iterator[str]:
    """A database with the schema of the corpus."""
    with with_schema(embedded_server, "t_lint_tools") as name:
        yield name


@pytest.fixture
def database(embedded_server: Server, base: str) -> Iterator[str]:
    """A copy of it."""
    with copy_of(embedded_server, base) as name:
        yield name


def question(piece: ToolPiece) -> str:
    """:return: what is asked at the end of the last transaction."""
    word, _, what = piece.does.partition(" ")
    if word == "limit":
        return "SELECT current_setting('lock_timeout')"
    return LOCKS.format(what.rpartition(" ")[2]) if word in ("holds", "frees") else ""


def text_of(piece: ToolPiece) -> str:
    """:return: what the tool sends: the way up, with values for its placeholders."""
    up = re.split(r"^-- (?:Down Migration|\+goose Down)", piece.text, flags=re.MULTILINE)[0]
    return re.sub(r"\$\{([^}]+)\}", lambda match: piece.values[match.group(1)], up)


def statements_of(text: str) -> list[str]:
    return [part.text for part in script.read(text, "plain.sql").parts]


def send(conn: Any, piece: ToolPiece) -> Any:
    """:return: the answer to the question."""
    text, asked = text_of(piece), question(piece)
    if piece.sent == "query":
        # Some of one statement only: a question would make them two.
        return run(conn, f"{text};{asked}" if asked else text)
    if piece.sent == "singly":
        return [run(conn, statement) for statement in [*statements_of(text), *([asked] if asked else [])]][-1]
    answer = None
    pieces = re.split(r"^-- ?changeset", text, flags=re.MULTILINE)[1:] if piece.sent == "changesets" else [text]
    for one in pieces:
        header, _, sql = one.partition("\n") if piece.sent == "changesets" else ("", "", one)
        if "runInTransaction:false" in header:
            for statement in statements_of(sql):
                run(conn, statement)
            continue
        run(conn, "BEGIN")
        for statement in statements_of(sql):
            run(conn, statement)
        answer = run(conn, asked) if asked else None
        run(conn, "COMMIT")
    return answer


def run(conn: Any, text: str) -> Any:
    with conn.cursor() as cursor:
        cursor.execute(text)
        return cursor.fetchone()[0] if cursor.description else None


@pytest.mark.parametrize("piece", tool_pieces(), ids=lambda p: p.file)
def test_a_file_does_on_a_server_what_the_corpus_says(embedded_server: Server, database: str, piece: ToolPiece) -> None:
    word, _, what = piece.does.partition(" ")
    with embedded_server.session(database, SUPERUSER) as conn:
        if word == "fails":
            with pytest.raises(psycopg2.Error) as caught:
                send(conn, piece)
            assert caught.value.pgcode == what
            return
        answer = send(conn, piece)
    if word == "holds":
        assert what.split()[0] in answer.split()
    elif word == "frees":
        assert not STRONG & set((answer or "").split())
    elif word == "limit":
        assert answer == what
    else:
        assert word == "works"
