# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What every kind of step is given to work with."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    idle_blockers,
    label_text,
    ledger,
    lock_forecast,
    time_limits,
    uncopied,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute
from ansible_collections.whitecross.pgops.plugins.module_utils.existing import Explained
from ansible_collections.whitecross.pgops.plugins.module_utils.index_builds import IndexBuilds
from ansible_collections.whitecross.pgops.plugins.module_utils.lock_forecast import TableLock
from ansible_collections.whitecross.pgops.plugins.module_utils.lock_modes import ACCESS_EXCLUSIVE
from ansible_collections.whitecross.pgops.plugins.module_utils.lock_wait import LockWait
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import Session
from ansible_collections.whitecross.pgops.plugins.module_utils.monitor import Monitor
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from ansible_collections.whitecross.pgops.plugins.module_utils.throttle import Limits
from psycopg2 import errorcodes

# The same numbers as the tree's defaults, for a ledger written by hand or by an older tree.
DEFAULT_BUDGETS = {
    "lock_timeout_ms": 100,
    "lock_budget_s": 60,
    "statement_timeout_s": 300,
    "index_timeout_s": 3600,
    "batch_target_ms": 100,
    "rewrite_limit_mb": label_text.DEFAULT_LIMIT_MB,
}

# The server's clock and ours need not go equally fast.
CLOCKS = 0.99

T = TypeVar("T")


# Indexes that later versions put in the place of one, by schema and name.
Replacements = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]


@dataclass
class StepContext:
    """One step of one version in one database.

    :ivar conn: the session that works and holds the runner lock, in autocommit.
    :ivar connect: opens another session of the same run, for a build beside it.
    :ivar budgets: ``lock_timeout_ms``, ``lock_budget_s``, ``statement_timeout_s``, ``index_timeout_s``,
        ``batch_target_ms``, ``rewrite_limit_mb``.
    :ivar accepted: objects, in the words of ``existing.describe``, that differ from what a version declares and were accepted so.
    :ivar progress_so_far: what the ledger knows of this step from an earlier attempt.
    :ivar replacements: what later versions make of indexes, by schema and name; on the way down those that are applied.
    :ivar applied: on the way down the versions of which something is in the database.
    :ivar orphans: ``stop``, ``quarantine`` or ``placeholder``: what becomes of rows without a parent when a foreign key is added.
    :ivar placeholders: the parents that this step declares for them, by foreign key.
    :ivar on_a_copy: the versions come from the tree in hand, on the way down too, and the database goes away: a rehearsal, a test.
    :ivar copy: on the way down the backup that has what goes; None where what has no copy may go too.
    :ivar terminate_idle_after_s: seconds after which a session that idles in a transaction and is in our way is ended; None
        ends nobody.
    :ivar terminated: the sessions that were ended; grows.
    :ivar settled: what this step has moved to quarantine or made a placeholder for; grows.
    :ivar builds: what the index builds of the run may take.
    :ivar built: each index that this step has built, with its bytes and seconds; grows.
    :ivar appeared: schema, table and name of each constraint and index that this step of SQL made without naming it; see :mod:`appeared`.
    :ivar notes: sentences for the result that nobody has to act on before the run goes on; grows.
    :ivar throttle: how much of what makes batches wait.
    :ivar already: on the way down what was gone, or as it was to become, before anything was done; grows.
    :ivar outcome: figures of this step for the run's result; grows.
    """

    conn: Connection
    connect: Callable[[], Connection]
    monitor: Monitor
    control: Control
    progress: Progress
    database: str
    version: str
    direction: str
    ordinal: int
    steps: int
    kind: str
    budgets: Mapping[str, int]
    explained: Explained = frozenset()
    accepted: frozenset[str] = frozenset()
    progress_so_far: dict[str, Any] = field(default_factory=dict)
    replacements: Replacements = field(default_factory=dict)
    applied: frozenset[str] = frozenset()
    orphans: str = "stop"
    placeholders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settled: list[dict[str, Any]] = field(default_factory=list)
    builds: IndexBuilds = field(default_factory=IndexBuilds)
    built: list[dict[str, Any]] = field(default_factory=list)
    appeared: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    throttle: Limits = field(default_factory=Limits)
    already: list[str] = field(default_factory=list)
    outcome: dict[str, Any] = field(default_factory=dict)
    on_a_copy: bool = False
    copy: uncopied.Copy | None = None
    run_id: str | None = None
    terminate_idle_after_s: float | None = None
    terminated: list[dict[str, Any]] = field(default_factory=list)
    sleep: Callable[[float], None] = time.sleep
    _wait: LockWait | None = None

    @property
    def doing(self) -> str:
        """:return: the step in words, for errors."""
        way = "" if self.direction == "up" else " on the way down"
        return f"Step {self.ordinal} of {self.steps} ({self.kind}) of version {self.version}{way} in {self.database}"

    def budget(self, name: str) -> int:
        """:return: a budget of this version in the unit of its name."""
        given = self.budgets.get(name)
        return int(DEFAULT_BUDGETS[name] if given is None else given)

    def tell(
        self,
        text: str,
        *,
        done: int | None = None,
        total: int | None = None,
        unit: str | None = None,
        left_s: float | None = None,
        size_bytes: int | None = None,
    ) -> None:
        """Tell the person who watches what is being done."""
        self.progress.emit(
            text,
            database=self.database,
            version=self.version,
            step=self.ordinal,
            steps=self.steps,
            done=done,
            total=total,
            unit=unit,
            left_s=left_s,
            size_bytes=size_bytes,
        )

    def note(self, text: str) -> None:
        """Tell it now, and again in the result."""
        self.notes.append(text)
        self.tell(text)

    @contextmanager
    def watched(
        self,
        what: str,
        *,
        conn: Connection | None = None,
        cancel: bool = False,
        rows: tuple[int, int] | None = None,
    ) -> Iterator[None]:
        """Tell ``what`` now, and every second how far the session is; with ``cancel`` an interrupt ends its statement.

        :param rows: how many are done before it, and of how many; told with each word, for the latest one alone is shown.
        """
        session = conn or self.conn
        pid = session.info.backend_pid
        tell: Callable[..., None] = self.tell
        if rows is not None:
            done, total = rows

            def tell_rows(text: str, **fields: Any) -> None:
                # The server's own figures are of one statement.
                self.tell(text, **{**fields, "done": done, "total": total, "unit": "rows"})

            tell = tell_rows
        tell(what)
        self.monitor.started(pid, what, tell)
        try:
            with self.stoppable(session) if cancel else nullcontext():
                yield
        finally:
            self.monitor.ended(pid)

    @contextmanager
    def stoppable(self, conn: Connection) -> Iterator[None]:
        """An interrupt ends the statement that the session runs in this block.

        :raises Interrupted: one came before it.
        """
        forget = self.control.on_interrupt(conn.cancel)
        try:
            # An interrupt that came just before the callback was registered.
            self.control.check()
            yield
        finally:
            forget()

    def timed_out(self, exc: psycopg2.Error, since: float, limit_s: float) -> bool:
        """:return: whether statement_timeout ended a statement, not a person.

        By the time that it ran: the SQLSTATE is the same for both, and the text is in the server's language.

        :param since: ``time.monotonic()`` when it was sent.
        :param limit_s: seconds of its statement_timeout.
        """
        ran_s = time.monotonic() - since
        return exc.pgcode == errorcodes.QUERY_CANCELED and ran_s >= CLOCKS * limit_s

    def patiently(
        self,
        attempt: Callable[[], T],
        tables: Sequence[tuple[str, str]] = (),
        *,
        wanted: Sequence[TableLock] | None = None,
    ) -> T:
        """Run a whole transaction of this step, again and again until it gets its locks; see :meth:`lock_wait.LockWait.run`.

        :param tables: (schema, table) that it locks in ACCESS EXCLUSIVE; looked at before it asks.
        :param wanted: in the place of that, the locks that it takes by :meth:`ask` before each of its statements. Of others
            who holds one is found out when it has to give way.
        """
        taken = wanted
        if taken is None:
            told = [{"schema": schema, "name": name, "mode": ACCESS_EXCLUSIVE} for schema, name in tables]
            taken = lock_forecast.forecast(self.conn, {0: told}).get(0, [])
        self._wait = LockWait(
            self.conn,
            self.monitor,
            taken,
            self.budget("lock_timeout_ms"),
            self.budget("lock_budget_s"),
            self.doing,
            self.control,
            self.tell,
            self.database,
            takes_ahead=wanted is not None,
            end_idle=self._end_idle,
            larger=time_limits.larger(self, "lock_budget_s"),
            sleep=self.sleep,
        )
        return self._wait.run(attempt)

    def _end_idle(self, sessions: Sequence[Session]) -> None:
        after_s = self.terminate_idle_after_s
        if after_s is None:
            return
        for session in sessions:
            try:
                ended = idle_blockers.terminate(self.conn, session, after_s, run_id=self.run_id, version=self.version)
            except psycopg2.Error as exc:
                told = idle_blockers.refusal(session, exc)
                if told is None:
                    raise
                self.tell(f"{self.doing}: {told}")
                self.terminate_idle_after_s = None
                return
            if ended:
                self.terminated.append(session.as_dict())
                self.tell(
                    f"{self.doing}: ended {session.sentence()}, idle in its transaction for more than {after_s:g} s"
                )

    def ask(self, wanted: Sequence[TableLock]) -> None:
        """Take the locks of the next statement in the open transaction without waiting, unless it may stand in line.

        :raises psycopg2.Error: 55P03, somebody came between the look and the question.
        """
        if wanted and self._wait is not None:
            self._wait.ask(wanted)

    def hold(self, wanted: Sequence[TableLock]) -> None:
        """Like :meth:`ask`, and where this attempt may stand in line, wait for them here, so that they are held from now on.

        :raises psycopg2.Error: 55P03, somebody else holds on.
        """
        if wanted and self._wait is not None:
            self._wait.ask(wanted)
            if self._wait.in_line:
                lock_forecast.ask(self.conn, wanted, wait=True)

    def save(self, state: str, progress: Mapping[str, Any] | None = None) -> None:
        """Record this step's state in the ledger, in the transaction that is open, or at once."""
        execute(self.conn, self.saved(state, progress))

    def saved(self, state: str, progress: Mapping[str, Any] | None = None) -> str:
        """:return: the statement of :meth:`save`, to end a transaction with."""
        return ledger.step_state_text(self.conn, self.version, self.direction, self.ordinal, state, progress)

    def limits(self, statement_timeout_s: int) -> str:
        """:return: the SET LOCAL of both limits, to begin a transaction with."""
        return (
            f"SET LOCAL lock_timeout = '{self.budget('lock_timeout_ms')}ms'; "
            f"SET LOCAL statement_timeout = '{int(statement_timeout_s)}s'"
        )


# Their constants are the definition; those of any other statement may be somebody's data.
_DEFINITION = re.compile(r"(CREATE|ALTER|DROP|COMMENT|GRANT|REVOKE)\b", re.IGNORECASE)
_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?\*/)
      | (?P<name>"[^"]*")
      | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ | [eE]'(?:[^'\\]|''|\\.)*' | '(?:[^']|'')*'
      | (?<![\w.$])\d[\w.]*""",
    re.DOTALL | re.VERBOSE,
)


def one_line(statement: str, width: int = 80) -> str:
    """:return: the start of a statement on one line, without comments, for progress."""
    text = " ".join(_TOKEN.sub(lambda token: " " if token["comment"] else token[0], statement).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def without_values(statement: str, width: int = 120) -> str:
    """:return: the start of a statement on one line, with ``?`` for the constants of one that reads or writes rows."""

    def shown(token: re.Match[str], constant: str | None) -> str:
        return " " if token["comment"] else token[0] if token["name"] or constant is None else constant

    text = " ".join(_TOKEN.sub(lambda token: shown(token, None), statement).split())
    if not _DEFINITION.match(text):
        text = " ".join(_TOKEN.sub(lambda token: shown(token, "?"), statement).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def without_strings(statement: str) -> str:
    """:return: a statement on one line without comments, with ``''`` for each string; names and numbers stay."""

    def shown(token: re.Match[str]) -> str:
        if token["comment"]:
            return " "
        return token[0] if token["name"] or token[0][0].isdigit() else "''"

    return " ".join(_TOKEN.sub(shown, statement).split())


def without_comments(text: str) -> str:
    """:return: a statement, or the body of a function, without its comments; all else stays."""
    return _TOKEN.sub(lambda token: " " if token["comment"] else token[0], text)
