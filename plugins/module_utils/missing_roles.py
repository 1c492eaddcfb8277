# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The roles of a backup that a server lacks, made there as the backup has them.

Roles that are there are somebody else's: none of them is altered, nor made a member of anything; what differs is told. Whatever the
restoring role may not give is left out and told, never tried.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
    server_version,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.needed_roles import (
    ATTRIBUTES,
    MEMBERSHIP_OPTIONS_SINCE,
    ROLES,
    NeededRoles,
    described,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.role_differences import differences
from psycopg2 import sql

# From here on CREATEROLE alone gives none of them: who gives one has it.
_OWN_ATTRIBUTES_SINCE = 16
# Lists of names are stored as they are quoted, and must not be quoted again (pg_dump: variable_is_guc_list_quote).
_LISTS = frozenset(
    {
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    }
)
_LIST_ITEM = re.compile(r'"((?:[^"]|"")*)"|([^",\s]+)')

# So that a hash is in nobody's log; only a superuser may, and nobody can be made to.
_SILENT = (
    ("log_statement", "none"),
    ("log_min_duration_statement", "-1"),
    ("log_min_duration_sample", "-1"),
    ("log_transaction_sample_rate", "0"),
    ("log_min_error_statement", "panic"),
    ("pg_stat_statements.track_utility", "off"),
)

_ME = """
SELECT r.rolname::text AS name, r.rolsuper AS superuser, r.rolcreaterole AS createrole, r.rolcreatedb AS createdb,
       r.rolreplication AS replication, r.rolbypassrls AS bypassrls
FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user
"""
_NOT_MINE_TO_SET = """
SELECT wanted.name AS name,
       CASE WHEN s.name IS NULL AND strpos(wanted.name, '.') = 0 THEN 'unknown'
            -- One of the application's own: a session may set it, and only a superuser a role's.
            WHEN s.name IS NULL AND NOT has_parameter_privilege(wanted.name, 'SET') THEN 'forbidden'
            WHEN s.context IN ('superuser', 'superuser-backend') AND NOT has_parameter_privilege(s.name, 'SET') THEN 'forbidden'
            WHEN s.context IN ('internal', 'postmaster', 'sighup') THEN 'forbidden' END AS why
FROM unnest(%s::text[]) AS wanted (name) LEFT JOIN pg_catalog.pg_settings AS s ON lower(s.name) = lower(wanted.name)
"""
_ADMINISTERED = """
SELECT r.rolname::text AS name FROM pg_catalog.pg_roles AS r
WHERE r.rolname = ANY (%s::text[]) AND pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION')
"""


@dataclass(frozen=True)
class Statement:
    """One statement, and what may be shown of it."""

    sent: sql.Composable = field(repr=False)
    shown: str


@dataclass
class RolesToMake:
    """What a server lacks.

    :ivar missing: names, those of the backup that are not there.
    :ivar statements: that make them, in order; empty where they are not to be made.
    :ivar not_made: what of them cannot be, each with its reason.
    :ivar differences: of roles that are there, which stay as they are.
    """

    missing: list[str]
    statements: list[Statement] = field(default_factory=list)
    not_made: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def made(self) -> list[str]:
        """The names that :func:`make` makes."""
        return self.missing if self.statements else []

    def as_dict(self) -> dict[str, Any]:
        """:return: for a result; without what may not be shown."""
        return {
            "missing": self.missing,
            "made": self.made,
            "statements": [statement.shown for statement in self.statements],
            "not_made": self.not_made,
            "differences": self.differences,
        }


def look(conn: Connection, needed: NeededRoles, *, create: bool) -> RolesToMake:
    """Ask a server what it lacks; writes nothing.

    :param conn: as the role that restores.
    :param create: whether they are to be made, and existing ones compared.
    :raises PgopsError: they are to be made, and this role may not make any.
    """
    names = sorted(needed.roles)
    there = {row["name"]: described(row) for row in fetch_all(conn, ROLES, {"oids": [], "names": names})}
    found = RolesToMake([name for name in names if name not in there])
    if create:
        _Maker(conn, needed, there, found).fill()
    return found


def make(conn: Connection, roles: RolesToMake, database: str) -> None:
    """Make them all, or none.

    :raises PgopsError: with the statement as it may be shown.
    """
    execute(conn, "BEGIN")
    try:
        _be_silent(conn)
        for statement in roles.statements:
            try:
                execute(conn, statement.sent)
            except psycopg2.Error as exc:
                raise from_psycopg(
                    exc, "The roles of the backup cannot be made, none of them was", statement=statement.shown,
                    database=database,
                ) from None  # fmt: skip
        execute(conn, "COMMIT")
    except BaseException:
        if not conn.closed:
            execute(conn, "ROLLBACK")
        raise


def drop(conn: Connection, names: list[str]) -> None:
    """Drop roles that :func:`make` has made, of which nothing depends on any. In one statement: they are members of each other."""
    execute(conn, sql.SQL("DROP ROLE {}").format(sql.SQL(", ").join(map(sql.Identifier, names))))


def _be_silent(conn: Connection) -> None:
    for name, value in _SILENT:
        execute(conn, "SAVEPOINT silent")
        try:
            execute(conn, "SELECT pg_catalog.set_config(%s, %s, true)", (name, value))
        except psycopg2.errors.InsufficientPrivilege:
            execute(conn, "ROLLBACK TO SAVEPOINT silent")


class _Maker:
    """The statements that make what is missing, and what they leave out."""

    def __init__(
        self, conn: Connection, needed: NeededRoles, there: dict[str, dict[str, Any]], found: RolesToMake
    ) -> None:
        self._conn = conn
        self._needed = needed
        self._there = there
        self._found = found
        self._missing = set(found.missing)
        self._major = server_version(conn)[0]
        me = fetch_one(conn, _ME)
        assert me is not None
        self._me = me

    def fill(self) -> None:
        """Write down all of it. :raises PgopsError: this role may make none."""
        if self._missing:
            self._refuse_no_right()
        for name in self._found.missing:
            self._role(name)
        for name in self._found.missing:
            if name in self._needed.passwords:
                self._password(name)
        unknown = {row["name"]: row["why"] for row in fetch_all(self._conn, _NOT_MINE_TO_SET, (self._setting_names(),))}
        for name in self._found.missing:
            self._settings(name, unknown)
            self._comment(name)
        self._memberships()
        self._found.differences += differences(self._conn, self._needed, self._there)

    def _refuse_no_right(self) -> None:
        if self._me["superuser"] or self._me["createrole"]:
            return
        name = self._me["name"]
        raise PgopsError(
            f"Role {name} may not make the roles that this server lacks ({', '.join(self._found.missing)}); nothing was done.",
            sqlstate="42501",
            object_name=self._found.missing[0],
            hint=f'ALTER ROLE "{name}" CREATEROLE; or name a superuser in pgops_restore_user.',
            extra={"missing_roles": self._found.missing},
        )

    def _add(self, sent: sql.Composable, shown: sql.Composable | None = None) -> None:
        self._found.statements.append(Statement(sent, (shown or sent).as_string(self._conn)))

    # -- a role -----------------------------------------------------------------------------------------------------------

    def _role(self, name: str) -> None:
        role = self._needed.roles[name]
        words = []
        for attribute in ATTRIBUTES:
            if attribute == "inherit":
                words += [] if role["inherit"] else ["NOINHERIT"]
            elif role[attribute]:
                why = self._why_not(attribute)
                if why is None:
                    words.append(attribute.upper())
                else:
                    self._found.not_made.append(f"role {name} is made without {attribute.upper()}: {why}")
        parts = [sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)), *map(sql.SQL, words)]
        if role["connection_limit"] != -1:
            parts.append(sql.SQL("CONNECTION LIMIT {}").format(sql.Literal(role["connection_limit"])))
        if role["valid_until"] is not None:
            parts.append(sql.SQL("VALID UNTIL {}").format(sql.Literal(role["valid_until"])))
        self._add(sql.SQL(" ").join(parts))

    def _why_not(self, attribute: str) -> str | None:
        if self._me["superuser"] or attribute in ("login", "createrole"):
            return None
        if attribute == "superuser":
            return "only a superuser may give it"
        if self._major >= _OWN_ATTRIBUTES_SINCE:
            return None if self._me[attribute] else f"{self._me['name']} does not have it itself"
        return None if attribute == "createdb" else "only a superuser may give it"

    def _password(self, name: str) -> None:
        statement = sql.SQL("ALTER ROLE {} PASSWORD ").format(sql.Identifier(name))
        self._add(
            statement + sql.Literal(self._needed.passwords[name]), statement + sql.SQL("'(its hash in the backup)'")
        )

    def _setting_names(self) -> list[str]:
        settings = [setting for name in self._found.missing for setting in self._needed.roles[name]["settings"]]
        return sorted({setting.partition("=")[0] for setting in settings})

    def _settings(self, name: str, unknown: dict[str, str | None]) -> None:
        for setting in self._needed.roles[name]["settings"]:
            parameter, _, value = setting.partition("=")
            why = unknown.get(parameter)
            if why:
                told = "this server has no such parameter" if why == "unknown" else f"{self._me['name']} may not set it"
                self._found.not_made.append(f"role {name} is made without its setting of {parameter}: {told}")
                continue
            statement = sql.SQL("ALTER ROLE {} SET {} TO ").format(
                sql.Identifier(name), sql.SQL(".").join(map(sql.Identifier, parameter.split(".")))
            )
            # Many an application keeps a secret in a setting of its own.
            self._add(statement + _value(parameter, value), statement + sql.SQL("'…'") if "." in parameter else None)

    def _comment(self, name: str) -> None:
        comment = self._needed.roles[name]["comment"]
        if comment is not None:
            self._add(sql.SQL("COMMENT ON ROLE {} IS {}").format(sql.Identifier(name), sql.Literal(comment)))

    # -- memberships ------------------------------------------------------------------------------------------------------

    def _memberships(self) -> None:
        groups = {entry["role"] for entry in self._needed.memberships} - self._missing
        administered = {row["name"] for row in fetch_all(self._conn, _ADMINISTERED, (sorted(groups),))}
        wanted = []
        for entry in self._needed.memberships:
            if entry["member"] not in self._missing:
                continue  # is told as a difference
            group = entry["role"]
            if group in self._missing or self._me["superuser"] or group in administered:
                wanted.append(entry)
            else:
                self._found.not_made.append(
                    f"role {entry['member']} is made no member of {group}: {self._me['name']} has no ADMIN OPTION on it"
                )
        for entry in self._by_grantor(wanted):
            self._grant(entry)
        if not self._me["superuser"]:
            # Who makes a role may not act as it, and only who may can give it tables.
            for name in self._found.missing:
                mine = {"role": name, "member": self._me["name"], "admin": False, "inherit": True, "set": True}
                self._grant({**mine, "grantor": None})

    def _by_grantor(self, wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A grantor must have ADMIN OPTION before it grants.

        :return: the memberships in order, each once a grantor; ``grantor`` is None where it is the restoring role's own grant."""
        given: dict[tuple[str, str, str | None], dict[str, Any]] = {}
        waiting, administrators = list(wanted), set[tuple[str, str]]()
        while waiting:
            ready = [entry for entry in waiting if self._may_grant(entry, administrators)] or waiting
            known = ready is not waiting
            for entry in ready:
                grantor = entry["grantor"] if known and self._is_named(entry) else None
                if self._is_named(entry) and grantor is None:
                    self._found.not_made.append(
                        f"role {entry['member']} is a member of {entry['role']} by {self._me['name']} and not by {entry['grantor']}, "
                        "which cannot grant it here"
                    )
                key = (entry["role"], entry["member"], grantor)
                before = given.get(key, {"admin": False, "inherit": False, "set": False})
                merged = {word: _either(before[word], entry[word]) for word in ("admin", "inherit", "set")}
                given[key] = {**entry, **merged, "grantor": grantor}
                if entry["admin"]:
                    administrators.add((entry["role"], entry["member"]))
            waiting = [entry for entry in waiting if entry not in ready]
        return list(given.values())

    def _is_named(self, entry: dict[str, Any]) -> bool:
        """Whether somebody else than the role of initdb granted it, on whose behalf a superuser grants anyway."""
        return entry["grantor"] is not None and entry["grantor"] != self._needed.bootstrap

    def _may_grant(self, entry: dict[str, Any], administrators: set[tuple[str, str]]) -> bool:
        if not self._is_named(entry):
            return True
        return bool(self._me["superuser"]) and (entry["role"], entry["grantor"]) in administrators

    def _grant(self, entry: dict[str, Any]) -> None:
        statement = sql.SQL("GRANT {} TO {}").format(sql.Identifier(entry["role"]), sql.Identifier(entry["member"]))
        if self._major < MEMBERSHIP_OPTIONS_SINCE:
            options = ["ADMIN OPTION"] if entry["admin"] else []
        else:
            options = [
                f"{word.upper()} {'TRUE' if entry[word] else 'FALSE'}"
                for word in ("admin", "inherit", "set")
                if entry[word] is not None and (word != "admin" or entry[word])
            ]
        if options:
            statement += sql.SQL(" WITH " + ", ".join(options))
        if entry["grantor"] is not None:
            statement += sql.SQL(" GRANTED BY {}").format(sql.Identifier(entry["grantor"]))
        self._add(statement)


def _either(one: bool | None, other: bool | None) -> bool | None:
    return None if one is None or other is None else one or other


def _value(parameter: str, stored: str) -> sql.Composable:
    """:return: the value of a setting as ``SET`` takes it, of one that pg_db_role_setting stores."""
    if parameter.lower() not in _LISTS:
        return sql.Literal(stored)
    items = [(quoted.replace('""', '"') if not plain else plain) for quoted, plain in _LIST_ITEM.findall(stored)]
    return sql.SQL(", ").join(map(sql.Literal, items)) if items else sql.Literal("")
