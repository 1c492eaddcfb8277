# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A change that cannot be online: made in a new database beside the live one, which is kept in step and then takes its place.

:func:`prepare` takes hours and nobody waits for it; :func:`change_over` takes a moment, by the fence and the renames of a rollback;
:func:`give_up` leaves nothing. Each of them first mends what a killed run has left, for a slot that nobody reads fills the disk.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    blue_green_change,
    blue_green_copy,
    blue_green_link,
    blue_green_record,
    blue_green_tables,
    blue_green_triggers,
    blue_green_versions,
    catalog,
    database_marks,
    disk_forecast,
    ledger,
    migrate,
    standby_readers,
    swap_blockers,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.blue_green_change import LEFT, NONE, OVER, READY, Change
from ansible_collections.whitecross.pgops.plugins.module_utils.blue_green_preparation import (
    Preparation,
    compare,
    settle,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.blue_green_swap import ChangeOver
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.database_marks import FENCED
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, as_pgops_error

_TOO_LATE = (
    "nothing is left to give up, since the names were swapped by a run that was cut off; what was left of that is done"
)
# Sessions that a comparison or a change-over opens at most.
_SESSIONS = 6

# ------------------------------------------------------------------------------------------------------------------ prepare


def prepare(
    change: Change, migrations: Sequence[Mapping[str, Any]], way: migrate.Way, *, check_only: bool = False
) -> dict[str, Any]:
    """Make the new database with the pending versions in it, copy the rows, keep it in step, and compare.

    The live database works on. From the freeze on nobody may change its schema.

    :param migrations: the whole tree, rendered.
    :param way: how the versions run in the empty copy.
    :return: state, green, versions, ``compared``, ``told`` and seconds; ``changed`` is false where it is prepared already.
    :raises PgopsError: refused before anything was made, or failed: then nothing of it is left.
    """
    began = time.monotonic()
    with blue_green_change.alone(change) as conn:
        swap_blockers.refuse_recovery(conn, change.database)
        blue_green_record.refuse_over(change, conn)
        before = blue_green_change.look(change, conn)
        # Without anything of an earlier run a pause is somebody else's.
        let_go = [] if check_only or before["state"] == NONE else _let_go(change)
        if before["state"] == READY:
            return {**_same(change, before, migrations), "told": let_go}
        pending = blue_green_versions.pending(change, migrations)
        if not pending:
            return {"state": NONE, "green": change.green, "versions": [], "told": let_go, "changed": False}
        if before["state"] == LEFT and not check_only:
            change.tell(f"taking away what a run has left ({before['why']})")
            blue_green_change.take_away(change, conn)
        told, connection = _refuse(change, conn, left=before["state"] == LEFT)
        versions = [str(version["version"]) for version in pending]
        result = {"green": change.green, "versions": versions, "told": [*let_go, *told], "changed": True}
        if check_only:
            return {**result, "state": NONE}
        try:
            compared = Preparation(change, conn, migrations, versions, way, connection).run()
        except BaseException as exc:  # noqa: BLE001 - whatever ends it, its slot must not stay
            raise _given_up(change, conn, exc) from None
    return {**result, "state": READY, "compared": compared, "seconds": round(time.monotonic() - began, 3)}


def _same(change: Change, found: Mapping[str, Any], migrations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    record = found["record"]
    blue_green_versions.refuse_edited(change, record, migrations)
    return {
        "state": READY, "green": change.green, "versions": record["versions"], "compared": record.get("compared"), "changed": False,
    }  # fmt: skip


def _refuse(change: Change, conn: Connection, *, left: bool) -> tuple[list[str], str]:
    """:return: what should be known, and how the server reaches itself. :raises PgopsError: it cannot be done; nothing has been made."""
    database = change.database
    # What a run has left is in the way of a check only, which takes nothing away.
    blockers = [
        entry
        for entry in swap_blockers.blockers(conn, [database], sessions=_SESSIONS)
        if not (left and entry["name"] == change.link.name)
    ]
    size = fetch_one(conn, "SELECT pg_catalog.pg_database_size(%s) AS bytes", (database,))
    blockers += swap_blockers.low_disk(
        database, int(size["bytes"]) if size else 0, disk_forecast.free_bytes(conn, database=database)
    )
    swap_blockers.refuse(blockers, database)
    connection, told = blue_green_link.refuse_ground(conn, change.settings, database)
    with closing(change.connect(change.live_target)) as live:
        blue_green_tables.refuse_live(live, database)
    return told, connection


def _given_up(change: Change, conn: Connection, exc: BaseException) -> BaseException:
    """Take it all away after a failure. :return: what is to be raised."""
    why = (
        as_pgops_error(exc, f"The blue-green change of {change.database} failed")
        if isinstance(exc, (PgopsError, psycopg2.Error))
        else None
    )
    try:
        with closing(change.connect(change.target.maintenance())) as fresh:
            blue_green_change.take_away(change, fresh)
        left = f"{change.green} and its replication were taken away again"
    except (PgopsError, psycopg2.Error) as failure:
        reason = as_pgops_error(failure, "They could not be taken away").message
        left = f"{change.green} AND ITS REPLICATION SLOT MAY BE LEFT ({reason.rstrip('.')}), and a slot keeps WAL back"
        if why:
            why.hint = " ".join(filter(None, ["Take it away with -e blue_green_stage=give_up.", why.hint]))
    if why is None:
        return exc
    why.message = f"{why.message.rstrip('.')}; {left}, and {change.database} works on."
    why.args = (why.message,)
    why.database = why.database or change.database
    return why


# -------------------------------------------------------------------------------------------------------------- change over


def change_over(
    change: Change,
    migrations: Sequence[Mapping[str, Any]],
    *,
    confirmed: bool,
    check_only: bool = False,
    run: ledger.Run | None = None,
) -> dict[str, Any]:
    """Compare once more, then let the new database take the place of the live one.

    :param confirmed: the name of the database was typed.
    :param run: for the ledger.
    :return: as ``swap.Swap.run``, with what ``blue_green_record.told`` tells, ``compared`` and ``left``, what could not be taken away afterwards.
    :raises PgopsError: refused or failed; the live database is the one that it was, and the two are kept in step further.
    """
    with blue_green_change.alone(change) as conn:
        looks = check_only or not confirmed
        ended = blue_green_record.told_over(change, conn) if looks else _ended(change, conn, migrations, run)
        if "state" in ended:
            return ended
        found = blue_green_change.look(change, conn)
        if _is_done(change, found, migrations):
            return _nothing_to_do(change, ended["told"])
        record = _refuse_unready(change, found, migrations)
        with closing(change.connect(change.live_target)) as live, closing(change.connect(change.green_target)) as green:
            if not found["link"]["enabled"] and not looks:
                # A change-over that was cut off under its fence had ended it, and nothing is lost: the slot has kept what came since.
                blue_green_triggers.lower(green)
                change.link.enable(green)
            tables = blue_green_tables.carried(blue_green_tables.shapes(live), blue_green_tables.shapes(green))
            if looks:
                return {
                    "state": READY, "green": change.green, "versions": record["versions"], "changed": True,
                    "standbys": standby_readers.look(conn, change.database),
                }  # fmt: skip
            settle(change, live, green)
            _refuse_moved(change, live, record)
        compared = compare(change, tables)
        return _over(change, conn, migrations, record, run, {**_swap(change, record), "compared": compared})


def _over(
    change: Change,
    conn: Connection,
    migrations: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
    run: ledger.Run | None,
    done: Mapping[str, Any],
) -> dict[str, Any]:
    """Behind the renames: write the run down, and take away what is left, whatever the ledger says."""
    unkept = blue_green_record.keep_run(change, run) if run is not None else []
    return {
        **done,
        **blue_green_record.told(record, migrations),
        "told": [*(done.get("told") or []), *unkept],
        "left": _cleaned(change, conn),
        "state": OVER,
        "changed": True,
    }


def _ended(
    change: Change, conn: Connection, migrations: Sequence[Mapping[str, Any]], run: ledger.Run | None
) -> dict[str, Any]:
    """Bring a change-over that was cut off to its end: its fence is lifted, or what is missing behind its renames is done.

    :return: ``told`` in words; where it is over, all that :func:`change_over` returns.
    """
    over = blue_green_record.over(change, conn)
    told = blue_green_change.finish_swap(change, conn)
    if over is None:
        return {"told": [*told, *blue_green_change.let_clients_go_on(change)]}
    record = blue_green_record.replaced(change, conn, over["aside"]) or {}
    told += _let_go(change)
    return _over(change, conn, migrations, record, run, {**over, "resumed": True, "told": told})


def _let_go(change: Change) -> list[str]:
    """Clients wait, but nothing of the rest needs the pool, so that a console that does not answer stops nothing.

    :return: what was done, or why it could not be, in words.
    """
    try:
        return blue_green_change.let_clients_go_on(change)
    except PgopsError as error:
        return [error.message]


def _is_done(change: Change, found: Mapping[str, Any], migrations: Sequence[Mapping[str, Any]]) -> bool:
    """A command for several databases, typed again, finds some of them over."""
    return found["state"] == NONE and not blue_green_versions.is_left(change, migrations)


def _nothing_to_do(change: Change, told: list[str]) -> dict[str, Any]:
    why = "nothing is prepared, and no version is pending that is to be changed over to"
    return {"state": NONE, "green": change.green, "versions": [], "told": [*told, why], "changed": False}


def begin(change: Change, migrations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Look whether a change-over can begin, and lift the fence of one that was cut off: nothing can be planned behind it.

    :return: ``state``, and ``told`` in words. :raises PgopsError: as :func:`change_over` before it compares.
    """
    with blue_green_change.alone(change) as conn:
        if blue_green_record.over(change, conn):
            return {
                "state": OVER,
                "told": [
                    *_let_go(change),
                    "the names were swapped by a run that was cut off; what is left of it is done now",
                ],
            }
        told = [*blue_green_change.finish_swap(change, conn), *blue_green_change.let_clients_go_on(change)]
        found = blue_green_change.look(change, conn)
        if _is_done(change, found, migrations):
            return _nothing_to_do(change, told)
        _refuse_unready(change, found, migrations)
        return {"state": READY, "told": told}


def _refuse_unready(
    change: Change, found: Mapping[str, Any], migrations: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    if found["state"] == NONE:
        raise PgopsError(
            f"There is nothing to change {change.database} over to.",
            database=change.database,
            hint="Prepare it first with -e blue_green_stage=prepare.",
            extra={"reason": "not_prepared"},
        )
    if found["state"] == LEFT:
        raise PgopsError(
            f"{change.green} cannot take the place of {change.database}: {found['why']}; nothing was touched.",
            database=change.database,
            hint="Give it up with -e blue_green_stage=give_up, or prepare it again, which does that first.",
            extra={"reason": "broken"},
        )
    blue_green_versions.refuse_edited(change, found["record"], migrations)
    return dict(found["record"])


def _refuse_moved(change: Change, live: Connection, record: Mapping[str, Any]) -> None:
    """A superuser can take the freeze off and put it back."""
    if catalog.fingerprint(catalog.inventory(live)) != record["fingerprint"]:
        raise PgopsError(
            f"The schema of {change.database} is not the one that {change.green} was made of; nothing was touched.",
            database=change.database,
            hint="Somebody went around the freeze. Give it up with -e blue_green_stage=give_up and prepare it again.",
            extra={"reason": "moved"},
        )


def _swap(change: Change, record: Mapping[str, Any]) -> dict[str, Any]:
    def carry() -> dict[str, Any]:
        return blue_green_copy.take_over_ledger(
            change.live_target,
            change.green_target,
            change.work,
            run_id=str(record["run_id"]),
            versions=record["versions"],
        )

    swapping = ChangeOver(
        change.target, change.green, run_id=change.work.run_id, progress=change.work.progress, control=change.work.control,
        pool=change.pool, reason=change.reason, after=change.after, link=change.link, carry=carry,
        triggers=record.get("triggers") or [],
    )  # fmt: skip
    try:
        return {**swapping.run(), "settings": swapping.set_meanwhile}
    except BaseException:
        # It may have been ended under the fence. What came since waits in the slot.
        _go_on(change)
        raise


def _go_on(change: Change) -> None:
    try:
        with closing(change.connect(change.target.maintenance())) as conn:
            there = database_marks.database(conn, change.green)
        if there and there.open and there.mark and there.mark.state != FENCED:
            with closing(change.connect(change.green_target)) as green:
                blue_green_triggers.lower(green)
                change.link.enable(green)
    except (PgopsError, psycopg2.Error):
        # What failed is told; the next run looks at it again.
        return


def _cleaned(change: Change, conn: Connection) -> str | None:
    """:return: why something of it is left in the databases, None where nothing is."""
    try:
        blue_green_change.take_away(change, conn)
    except (PgopsError, psycopg2.Error) as exc:
        why = as_pgops_error(exc, "What the change-over has left cannot be taken away").message
        return f"{why} A replication slot may be left, which keeps WAL back: take it away with -e blue_green_stage=give_up."
    return None


# ------------------------------------------------------------------------------------------------------- give up, and look


def give_up(change: Change, *, check_only: bool = False, run: ledger.Run | None = None) -> dict[str, Any]:
    """Take away whatever there is of it; the live database works on, and its schema may be changed again.

    Behind the renames there is nothing to give up: a change-over that was cut off there is brought to its end.

    :param run: for the ledger, in that case.
    :return: ``removed`` in words, and state before; or as :func:`change_over`. :raises PgopsError: something could not be taken away.
    """
    with blue_green_change.alone(change) as conn:
        if check_only:
            over = blue_green_record.told_over(change, conn)
            found = over if "state" in over else blue_green_change.look(change, conn)
            return {**found, **over, "removed": [], "changed": found["state"] != NONE}
        if blue_green_record.over(change, conn):
            done = _ended(change, conn, [], run)
            return {**done, "told": [_TOO_LATE, *done["told"]]}
        told = blue_green_change.finish_swap(change, conn)
        try:
            told += blue_green_change.let_clients_go_on(change)
        finally:
            # A slot that nobody reads fills the disk, whatever a console says.
            removed = blue_green_change.take_away(change, conn)
        return {"state": NONE, "removed": removed, "told": told, "changed": bool(removed or told)}


def status(change: Change) -> dict[str, Any]:
    """:return: as ``blue_green_change.look``, and that it is over where a change-over was cut off behind its renames; writes nothing and
    takes no lock."""
    with closing(change.connect(change.target.maintenance())) as conn:
        over = blue_green_record.told_over(change, conn)
        return {**(over if "state" in over else blue_green_change.look(change, conn)), "changed": False}
