# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Read the SQL text of a dump to its end before anything of it runs: whole or cut off, what psql would obey, what it needs.

psql obeys a backslash command wherever it stands outside of quotes, comments and the data of a COPY, also ``\\! rm`` in a file
that somebody sent. So the text is read as psql reads it. The same goes for the text that ``pg_restore --file=-`` makes of an
archive: it has the rows of each table between ``COPY`` and ``\\.``, and so says how many have to be there after a restore.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

COMPLETE = b"-- PostgreSQL database dump complete"
CLUSTER = b"-- PostgreSQL database cluster dump"

_HEAD_BYTES = 300  # of a statement; its first words are what is looked at
_NAME = rb'(?:"(?:[^"\n]|"")+"|[A-Za-z_\x80-\xff][\w$\x80-\xff]*)'
# What pg_dump writes and nothing else: psql and this reader must agree where data begins.
_COPY = re.compile(
    rb"COPY (?P<table>"
    + _NAME
    + rb"(?:\."
    + _NAME
    + rb")*) *(?:\("
    + _NAME
    + rb"(?:, "
    + _NAME
    + rb")*\) )?FROM stdin;\r?\n?$"
)
_VERSIONS = re.compile(rb"-- Dumped (from database|by pg_dump) version (\d+)(?:\.(\d+))?")
_RESTRICT = re.compile(rb"\\(?:un)?restrict [A-Za-z0-9]+\r?\n?$")
_TRANSACTION = re.compile(rb"(?:BEGIN|COMMIT);\r?\n?$")
_TOKEN = re.compile(
    rb"--[^\n]*|/\*|[eE]'|'|\"|\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$|\\|;|[A-Za-z_\x80-\xff][\w$\x80-\xff]*|[0-9][\w$.\x80-\xff]*"
)
_COMMENT_EDGE = re.compile(rb"/\*|\*/")
# Where a quote ends; a doubled one goes on, and so does a backslash in E''.
_ENDS = {b"'": re.compile(rb"''|'"), b'"': re.compile(rb'""|"'), b"E": re.compile(rb"\\.|\\|''|'", re.DOTALL)}

# What reaches beyond the database that is restored into, or beyond the server.
_OUTSIDE = re.compile(
    rb"(?P<what>COPY|(?:CREATE|ALTER|DROP)\s+(?:DATABASE|ROLE|GROUP|TABLESPACE|USER(?!\s+MAPPING)))\b", re.IGNORECASE
)
_INSERT = re.compile(rb"INSERT\s+INTO\b", re.IGNORECASE)
_OWNER = re.compile(rb"ALTER .* OWNER TO (" + _NAME + rb");\r?\n?$")
_GRANT = re.compile(rb"(?:GRANT|REVOKE) .* (?:TO|FROM) (" + _NAME + rb")(?: WITH GRANT OPTION)?;\r?\n?$")
_DEFAULTS = re.compile(
    rb"ALTER DEFAULT PRIVILEGES FOR ROLE (" + _NAME + rb") .* (?:TO|FROM) (" + _NAME + rb")(?: WITH GRANT OPTION)?;"
)
_POLICY = re.compile(rb"CREATE POLICY .*? TO (" + _NAME + rb"(?:, " + _NAME + rb")*)(?: USING| WITH CHECK|;|\r?\n)")
_SETTING = re.compile(rb"SET (client_encoding|standard_conforming_strings) = '?([\w-]+)'?;")
# Their second byte may be a backslash or a quote, which this reader would take for one.
_UNREADABLE_ENCODINGS = frozenset({b"SJIS", b"BIG5", b"GBK", b"UHC", b"GB18030", b"JOHAB", b"SHIFT_JIS_2004"})


@dataclass
class Scan:
    """What the text of a dump says of itself.

    :ivar server: major version of the server it was taken from, ``client`` of the pg_dump that wrote it; None where it says nothing.
    :ivar rows: of each table that the text fills by COPY, its name as it stands there and its rows.
    :ivar inserts: whether rows stand in statements of their own (``pg_dump --inserts``), which ``rows`` does not count.
    :ivar owners: roles that own or are given something, ``policy_roles`` those that policies are for.
    :ivar session_lines: numbers of lines that are psql's and pg_dump's own frame, ``owner_lines`` those that give owners and privileges.
    """

    server: int | None = None
    client: int | None = None
    encoding: str | None = None
    complete: bool = False
    lines: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    inserts: bool = False
    owners: set[str] = field(default_factory=set)
    policy_roles: set[str] = field(default_factory=set)
    session_lines: set[int] = field(default_factory=set)
    owner_lines: set[int] = field(default_factory=set)


def unquoted(name: str) -> str:
    """:return: the name of a role or another object as the catalog has it."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def parts(name: str) -> tuple[str, ...]:
    """:return: the parts of a qualified name as the catalog has them."""
    found = re.findall(_NAME, name.encode())
    return tuple(unquoted(part.decode("utf-8", "replace")) for part in found)


def scan(lines: Iterable[bytes], path: str) -> Scan:
    """Read a dump's text to its end.

    :param path: the file, for the message.
    :raises PgopsError: a command of psql, a statement that reaches beyond the database, a text that cannot be told apart, or the
        text of a whole cluster. A text that is cut off is not refused here: see ``complete``.
    """
    reader = _Reader(path)
    for line in lines:
        reader.read(line)
    found = reader.found
    found.complete = found.complete and reader.at_rest
    return found


def kept(lines: Iterable[bytes], left_out: set[int]) -> Iterator[bytes]:
    """:return: the lines of a text with those that are left out empty, so that a message's line number is the file's."""
    for number, line in enumerate(lines, 1):
        yield b"\n" if number in left_out else line


class _Reader:
    """Reads line by line; between two lines it knows in what it is: a quote, a comment, the data of a COPY, a statement."""

    def __init__(self, path: str) -> None:
        self.found = Scan()
        self._path = path
        self._inside = b""  # ' " E, a dollar tag, or /* ; empty outside
        self._depth = 0  # of nested comments
        self._left_escapes = False  # an E'' ended: a quote behind a line break goes on with it
        self._table: str | None = None  # whose rows these lines are
        self._rows = 0
        self._head = b""  # of the statement in hand

    @property
    def at_rest(self) -> bool:
        """Whether the text may end here."""
        return self._table is None and not self._inside and not self._head.strip()

    def read(self, line: bytes) -> None:
        found = self.found
        found.lines += 1
        if self._table is not None:
            self._data(line)
            return
        if not self._inside and not self._head:
            if self._frame(line):
                return
            # At the very beginning of its line: inside the body of a function it stands indented.
            found.inserts = found.inserts or bool(_INSERT.match(line))
            first = found.lines
            self._statement(line)
            self._roles(line, first)
            return
        self._statement(line)

    def _data(self, line: bytes) -> None:
        if line in (b"\\.\n", b"\\.\r\n", b"\\."):
            assert self._table is not None
            self.found.rows[self._table] = self.found.rows.get(self._table, 0) + self._rows
            self._table = None
        else:
            self._rows += 1

    def _frame(self, line: bytes) -> bool:
        """:return: whether a line that begins a statement is none: a comment, the head of a COPY, or the frame of the dump."""
        found = self.found
        if line.startswith(b"--"):
            if line.startswith(COMPLETE):
                found.complete = True
            elif line.startswith(CLUSTER):
                raise self._refused(
                    "is the dump of a whole cluster (pg_dumpall)", "Dump the one database with pg_dump."
                )
            else:
                version = _VERSIONS.match(line)
                if version and version[1].startswith(b"from"):
                    found.server = int(version[2])
                elif version:
                    found.client = int(version[2])
            return True
        copy = _COPY.match(line) if line.startswith(b"COPY ") else None
        if copy:
            self._table, self._rows, found.complete = copy["table"].decode("utf-8", "replace"), 0, False
            return True
        if _RESTRICT.match(line) or _TRANSACTION.match(line):
            # pg_dump puts large objects into transactions of their own; the restore is one.
            found.session_lines.add(found.lines)
            return True
        if line.strip():
            found.complete = False
            setting = _SETTING.match(line)
            if setting:
                self._setting(setting[1], setting[2])
        return False

    def _setting(self, name: bytes, value: bytes) -> None:
        if name == b"client_encoding":
            if value.upper() in _UNREADABLE_ENCODINGS:
                raise self._refused(f"is encoded in {value.decode()}", "Make the dump with pg_dump --encoding=UTF8.")
            self.found.encoding = value.decode()
        elif value != b"on":
            raise self._refused("sets standard_conforming_strings off", "Make the dump in the custom format.")

    def _statement(self, line: bytes) -> None:
        place = 0
        while place < len(line):
            if self._inside:
                place = self._leave(line, place)
                continue
            token = _TOKEN.search(line, place)
            if token is None:
                self._take(line[place:])
                return
            between, word = line[place : token.start()], token[0]
            self._take(between)
            place = token.end()
            goes_on = self._left_escapes and not between.strip()
            self._left_escapes = goes_on and word.startswith(b"--")
            if word == b"\\":
                command = line[token.start() :].split(None, 1)[0].decode("ascii", "replace")
                raise self._refused(
                    f"has the psql command {command[:20]}",
                    "A file that psql is told to obey is not restored; restore only what pg_dump has written.",
                )
            if word == b";":
                self._end()
            elif word == b"/*":
                self._inside, self._depth = word, 1
            elif word in (b"e'", b"E'") or (word == b"'" and goes_on):
                self._inside = b"E"
                self._take(word)
            elif word in (b"'", b'"') or word.startswith(b"$"):
                self._inside = word
                self._take(word)
            elif not word.startswith(b"--"):
                self._take(word)

    def _leave(self, line: bytes, place: int) -> int:
        """:return: the place behind the end of the quote or the comment, or the end of the line."""
        if self._inside == b"/*":
            for edge in _COMMENT_EDGE.finditer(line, place):
                self._depth += 1 if edge[0] == b"/*" else -1
                if self._depth == 0:
                    self._inside = b""
                    return edge.end()
            return len(line)
        if self._inside.startswith(b"$"):
            end = line.find(self._inside, place)
            if end < 0:
                return len(line)
            end += len(self._inside)
            self._inside = b""
            return end
        for mark in _ENDS[self._inside].finditer(line, place):
            if len(mark[0]) == 1 and mark[0] != b"\\":
                self._left_escapes = self._inside == b"E"
                self._inside = b""
                return mark.end()
        return len(line)

    def _take(self, text: bytes) -> None:
        if len(self._head) < _HEAD_BYTES:
            self._head += text if self._head else text.lstrip()

    def _end(self) -> None:
        outside = _OUTSIDE.match(self._head)
        if outside:
            what = " ".join(outside["what"].decode().upper().split())
            why = "COPY in another form than pg_dump's" if what == "COPY" else f"the statement {what}"
            raise self._refused(
                f"has {why}, which reaches beyond the database that it is restored into",
                "Make the dump with pg_dump without --create, or restore the file by hand where you trust it.",
            )
        self._head = b""

    def _roles(self, line: bytes, number: int) -> None:
        found = self.found
        given = _DEFAULTS.match(line) or _OWNER.match(line) or _GRANT.match(line)
        if given and self.at_rest:
            found.owner_lines.add(number)
            found.owners.update(_role(name) for name in given.groups())
        policy = _POLICY.match(line)
        if policy:
            found.policy_roles.update(_role(name) for name in re.findall(_NAME, policy[1]))
        for roles in (found.owners, found.policy_roles):
            roles -= {"PUBLIC", "CURRENT_USER", "SESSION_USER"}

    def _refused(self, why: str, hint: str) -> PgopsError:
        return PgopsError(
            f"{self._path} {why} (line {self.found.lines}); nothing of it was run.",
            object_name=self._path,
            hint=hint,
            extra={"file": self._path, "line": self.found.lines},
        )


def _role(name: bytes) -> str:
    return unquoted(name.decode("utf-8", "replace"))
