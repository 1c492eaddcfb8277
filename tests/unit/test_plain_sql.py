# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of a dump is read as psql reads it: what psql would obey is refused, and what only looks like it is not."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import plain_sql
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

DUMP = r"""--
-- PostgreSQL database dump
--

\restrict abc123

-- Dumped from database version 15.20 (Debian 15.20-1)
-- Dumped by pg_dump version 15.20 (Debian 15.20-1)

SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;

CREATE TABLE public.people (
    name text DEFAULT 'it''s \! not a command'::text,
    "odd \! name" text DEFAULT E'a\'\\! b'::text
);


ALTER TABLE public.people OWNER TO white_cross_owner;

CREATE FUNCTION public.f() RETURNS text
    LANGUAGE plpgsql
    AS $_$ begin /* ' */ return '\! ls'; end $_$;

/* a comment /* in a comment */ with \! in it */

COPY public.people (name, "odd \! name") FROM stdin;
Ann	\N
-- no comment
\\! no command
\.


COPY public."Odd; Table"  FROM stdin;
\.

BEGIN;

SELECT pg_catalog.lo_open('16385', 131072);

COMMIT;

CREATE POLICY own ON public.people FOR SELECT TO white_cross_app, "Odd Role" USING ((name = 'x'::text));

GRANT SELECT ON TABLE public.people TO white_cross_app WITH GRANT OPTION;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public GRANT SELECT ON TABLES TO reader;

--
-- PostgreSQL database dump complete
--

\unrestrict abc123

"""


def lines(text: str) -> list[bytes]:
    return text.encode().splitlines(keepends=True)


def read(text: str) -> plain_sql.Scan:
    return plain_sql.scan(lines(text), "x.sql")


def number(part: str) -> int:
    return next(place for place, line in enumerate(DUMP.splitlines(), 1) if line.startswith(part))


def test_a_dump_says_what_it_is_and_what_it_needs() -> None:
    found = read(DUMP)
    assert found.complete
    assert (found.server, found.client, found.encoding) == (15, 15, "UTF8")
    assert found.rows == {"public.people": 3, 'public."Odd; Table"': 0}
    assert found.owners == {"white_cross_owner", "white_cross_app", "postgres", "reader"}
    assert found.policy_roles == {"white_cross_app", "Odd Role"}
    assert found.session_lines == {number(part) for part in ("\\restrict", "BEGIN", "COMMIT", "\\unrestrict")}
    assert found.owner_lines == {number(part) for part in ("ALTER TABLE", "GRANT", "REVOKE", "ALTER DEFAULT")}


def test_rows_that_are_inserted_are_seen_and_not_counted() -> None:
    assert not read(DUMP).inserts
    for line in ("INSERT INTO public.people VALUES (1, 'x');", "insert into people VALUES ('a;\nb');"):
        found = read(DUMP.replace("COPY public.people", f"{line}\n\nCOPY public.people"))
        assert found.inserts
        assert found.rows["public.people"] == 3
    body = "CREATE FUNCTION f() RETURNS void LANGUAGE sql\n    BEGIN ATOMIC\n INSERT INTO a VALUES (1);\n INSERT INTO b VALUES (2);\nEND;"
    for text in (body, "SELECT '\nINSERT INTO x';", "-- INSERT INTO x", "/*\nINSERT INTO x */"):
        assert not read(DUMP.replace("COPY public.people", f"{text}\n\nCOPY public.people")).inserts


def test_lines_that_are_left_out_stay_as_empty_ones_so_that_a_line_number_is_the_files() -> None:
    left = list(plain_sql.kept(lines("a\nb\nc\n"), {2}))
    assert left == [b"a\n", b"\n", b"c\n"]


@pytest.mark.parametrize("share", [0.98, 0.95, 0.6, 0.2])
def test_a_text_that_is_cut_off_is_not_complete(share: float) -> None:
    text = DUMP[: DUMP.index("-- PostgreSQL database dump complete")]
    assert not read(text[: int(len(text) * share)]).complete


@pytest.mark.parametrize("more", ["SELECT 1;\n", "COPY public.people (name) FROM stdin;\nAnn\n\\.\n", "SELECT '"])
def test_what_stands_behind_the_closing_line_is_no_part_of_a_whole_dump(more: str) -> None:
    assert not read(DUMP + more).complete


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (r"\! touch /tmp/x", r"\!"),
        (r"  \copy public.people from program 'id'", r"\copy"),
        (r"SELECT 1 \gexec", r"\gexec"),
        (r"SELECT 'a' \! id", r"\!"),
        (r"SELECT $$ a $$; \! id", r"\!"),
        (r"SELECT E'a\\'; \! id --'", r"\!"),
        (r"SELECT 'a\'; \! id --'", r"\!"),
        (r"SELECT ''''; \! id", r"\!"),
        (r"/* /* */ ' */ \! id", r"\!"),
        (r"\connect template1", r"\connect"),
        (r"\i /etc/passwd", r"\i"),
        (r"\unrestrict abc 'x'", r"\unrestrict"),
        ("COPY public.people FROM PROGRAM 'id';", "COPY"),
        ("COPY public.people (name) FROM stdin WITH (FORMAT csv);", "COPY"),
        ("SELECT 1; COPY public.people TO '/tmp/x';", "COPY"),
        ("CREATE\tDATABASE other;", "CREATE DATABASE"),
        ("/* x */ drop database other;", "DROP DATABASE"),
        ("ALTER ROLE postgres SUPERUSER;", "ALTER ROLE"),
        ("CREATE USER eve;", "CREATE USER"),
        ("SET client_encoding = 'SJIS';", "SJIS"),
        ("SET standard_conforming_strings = off;", "standard_conforming_strings"),
        ("-- PostgreSQL database cluster dump", "whole cluster"),
    ],
)
def test_what_psql_would_be_told_beyond_a_restore_is_refused_with_its_line(line: str, told: str) -> None:
    with pytest.raises(PgopsError) as caught:
        read(DUMP.replace("/* a comment", line + "\n/* a comment"))
    assert told in caught.value.message
    assert f"line {number('/* a comment')}" in caught.value.message


def test_a_quote_with_escapes_goes_on_behind_a_line_break() -> None:
    assert read(DUMP.replace("/* a comment", "SELECT E'a' -- x\n'b\\'; \\! id';\n/* a comment")).complete


@pytest.mark.parametrize(
    "line", ["CREATE USER MAPPING FOR public SERVER s;", "SELECT 'DROP DATABASE x';", "SELECT a$b$ FROM c;"]
)
def test_what_only_looks_like_it_is_not_refused(line: str) -> None:
    assert read(DUMP.replace("/* a comment", line + "\n/* a comment")).complete
