# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which way back: all of them weighed for a person, and with ``auto`` the one that undoes the last change and nothing more.

The rules of ``auto`` stand as a table in docs/rollback.md:

- the last change was a swap: back to the database that it put aside;
- it applied versions: down, where all of them can go by their way down, since what was written meanwhile stays;
- else the backup that this very run took before it began, and no older one;
- it was a rollback of the whole cluster: none, since that is taken back by the cluster that it has put aside;
- it was a way down: none, since the next one would go further back than anybody asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Callable

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_choice,
    cannot_move,
    database_marks,
    last_change,
    swap_blockers,
    way_back,
    weighed_ways,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.last_change import APPLY, LastChange
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import EQUAL
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work
from ansible_collections.whitecross.pgops.plugins.module_utils.weighed_ways import (
    DOWN,
    RESTORE,
    SWAP,
    UNDO_SWAP,
    Situation,
    Way,
)

AUTO = "auto"


@dataclass(frozen=True)
class Asked:
    """What the rollback was typed for.

    :ivar strategy: ``rollback_strategy``.
    :ivar to: with ``swap``, the database that takes the name.
    :ivar backup: with ``restore``, the backup where one was named.
    :ivar selection: with ``down``, which versions.
    :ivar takes_backups: whether the way down is preceded by a proved backup in this environment.
    :ivar level: to which a backup must be proved before it is restored.
    """

    strategy: str
    to: str | None = None
    backup: str | None = None
    selection: way_back.Reverts = field(default_factory=way_back.Reverts)
    takes_backups: bool = True
    level: int = EQUAL


def weigh(target: Target, asked: Asked, *, directory: str, work: Work) -> dict[str, Any]:
    """Weigh every way back of one database; writes nothing.

    Reads the tables once for each way where the database is small (:data:`weighed_ways.EXACT_BYTES`), under ACCESS SHARE.

    :param directory: where the backups lie on this host.
    :return: ``chosen`` and ``why``, with ``auto`` also ``why_not`` of the others; ``ways`` by name; ``through``, the version down
        to which ``auto`` reverts; ``to`` and ``backup`` of the chosen way; ``last_change``; ``cannot_move``, what its consumers
        have to set up again; ``unreadable``, why the ledger cannot be read.
    :raises PgopsError: the server takes no writes; the way that was asked for is blocked; ``auto`` finds none. The ways are
        in ``extra["databases"]``.
    """
    database = target.database
    conn = connect(target.maintenance(), application_name=work.application_name)
    try:
        swap_blockers.refuse_recovery(conn, database)
        situation = _look(target, conn, asked, work)
        change = situation.change
        lowest = min(change.versions) if asked.strategy == AUTO and change and change.versions else None
        selection = way_back.Reverts(through=lowest) if lowest else asked.selection
        aside = change.aside if change else ""
        ways = {
            DOWN: _weighed(DOWN, lambda: weighed_ways.down(situation, selection)),
            RESTORE: _weighed(
                RESTORE, lambda: weighed_ways.to_a_backup(situation, directory, asked.backup, asked.level)
            ),
            UNDO_SWAP: _weighed(
                UNDO_SWAP,
                lambda: weighed_ways.to_a_kept_one(situation, *weighed_ways.last_kept(conn, database, aside)),
            ),
        }
        if asked.strategy == SWAP and asked.to:
            named = database_marks.database(conn, asked.to)
            ways[SWAP] = weighed_ways.to_a_kept_one(situation, named, f"there is no database {asked.to}", strategy=SWAP)
        found: dict[str, Any] = {
            "asked": asked.strategy,
            "chosen": asked.strategy,
            "why": "asked for by name",
            "ways": {name: way.as_dict() for name, way in ways.items()},
            "last_change": change.as_dict() if change else None,
            "unreadable": situation.unreadable,
        }
        if asked.strategy == AUTO:
            found.update(_choose(target, ways, situation, work, found))
            found["through"] = lowest if found["chosen"] == DOWN else None
        way = ways.get(found["chosen"])
        found.update(to=way.to if way else "", backup=way.backup if way else "")
        found["cannot_move"] = [] if found["chosen"] == DOWN else cannot_move.look(target, conn, found["backup"], work)
        _refuse_blocked(database, way, found)
        return found
    except psycopg2.Error as exc:
        raise from_psycopg(exc, f"The ways back of {database} cannot be weighed", database=database) from None
    finally:
        conn.close()


def _weighed(strategy: str, look: Callable[[], Way]) -> Way:
    """One way that cannot be looked at - a folder that may not be read, a file that is damaged - stops none of the others."""
    try:
        return look()
    except (PgopsError, psycopg2.Error, OSError) as error:
        told = error.message if isinstance(error, PgopsError) else str(error).strip().split("\n", 1)[0]
        return Way(strategy, why_not=f"it cannot be looked at: {told.rstrip('.')}")


def _look(target: Target, conn: Any, asked: Asked, work: Work) -> Situation:
    change: LastChange | None = None
    unreadable, rows, outages = "", 0, []
    try:
        with closing(connect(target.as_restore(), application_name=work.application_name)) as live:
            rows = weighed_ways.about_rows(live)
            change = last_change.look(live)
            outages = last_change.outages_ms(live)
    except PgopsError as error:
        unreadable = error.message.rstrip(".")
    except psycopg2.Error as exc:
        told = from_psycopg(exc, f"The ledger of {target.database} cannot be read", database=target.database)
        unreadable = told.message.rstrip(".")
    return Situation(
        target,
        conn,
        work,
        change,
        unreadable,
        weighed_ways.size_of(conn, target.database),
        rows,
        outages,
        asked.takes_backups,
    )


def _refuse_blocked(database: str, way: Way | None, found: Mapping[str, Any]) -> None:
    """What can be taken out of the way is named before anything begins: a restore may take hours until its swap."""
    if way is None or way.possible:
        return
    if way.strategy == UNDO_SWAP and not way.blockers:
        raise PgopsError(
            f"The last swap of {database} cannot be undone: {way.why_not}; nothing was changed.",
            database=database,
            hint="See what is kept with rollback_cleanup.yml --check.",
            extra={"reason": "no_way", "databases": {database: dict(found)}},
        )
    try:
        swap_blockers.refuse(way.blockers, database)
    except PgopsError as error:
        error.extra["databases"] = {database: dict(found)}
        raise


def _choose(
    target: Target, ways: Mapping[str, Way], situation: Situation, work: Work, found: Mapping[str, Any]
) -> dict[str, Any]:
    database, change = target.database, situation.change
    if change is None:
        raise _none(database, f"its last change cannot be told ({situation.unreadable})", found)
    if change.kind == last_change.NOTHING:
        raise _none(database, "nothing was done to it that this tool knows of", found)
    if change.kind == last_change.SWAP:
        if not ways[UNDO_SWAP].possible:
            raise _none(database, f"its last change was a swap, and {ways[UNDO_SWAP].why_not}", found)
        return {
            "chosen": UNDO_SWAP,
            "why": f"the last change was {change.told}: that is undone at once, and what was written since is kept",
            "why_not": {
                DOWN: "it would revert a version from before that swap",
                RESTORE: "it would go back to before that swap, too",
            },
        }
    if change.kind == last_change.CLUSTER_RESTORED:
        raise _none(
            database,
            f"its last change was {change.told}, and whatever comes next would go further back; that run has printed the command "
            "that takes the replaced cluster again",
            found,
        )
    behind = "the last change was no swap, so it would go back to before that one"
    aside = behind if ways[UNDO_SWAP].to else ways[UNDO_SWAP].why_not
    if change.kind == last_change.DOWN and not change.versions:
        raise _none(
            database, f"its last change was {change.told}, and whatever comes next would go further back", found
        )
    if ways[DOWN].possible and _only(target, change, work):
        return {
            "chosen": DOWN,
            "why": f"the last change was {change.told}: all of it can go by its way down, and what was written since stays",
            "why_not": {RESTORE: "it would leave behind what was written since its backup, too", UNDO_SWAP: aside},
        }
    not_down = ways[DOWN].why_not or "newer versions of other runs would have to go with it"
    own = _own_backup(target, change, work) if change.kind == APPLY else None
    if ways[RESTORE].possible and own and own == ways[RESTORE].backup:
        return {
            "chosen": RESTORE,
            "why": f"the last change was {change.told}, and the backup that it took before it began is proved",
            "why_not": {DOWN: not_down, UNDO_SWAP: aside},
        }
    not_restore = (
        ways[RESTORE].why_not or "the backup that this run took itself is not there, and an older one goes further back"
    )
    raise _none(database, f"down: {not_down}; restore: {not_restore}; undo_swap: {aside}", found)


def _only(target: Target, change: LastChange, work: Work) -> bool:
    """Whether the way down takes these versions and no other one: those of another run may lie above the lowest."""
    if not change.versions:
        return False
    taken = way_back.preview_revert(target, way_back.Reverts(through=min(change.versions)), run_id=work.run_id)
    return {item["version"] for item in taken["versions"]} <= set(change.versions)


def _own_backup(target: Target, change: LastChange, work: Work) -> str | None:
    last = backup_choice.last_apply(target, work.application_name)
    if last is None or last["run_id"] != change.run_id:
        return None
    recorded = last.get("backup")
    return str(recorded["path"]) if isinstance(recorded, dict) and recorded.get("path") else None


def _none(database: str, why: str, found: Mapping[str, Any]) -> PgopsError:
    return PgopsError(
        f"No way back of {database} was chosen, since {why}; nothing was changed.",
        database=database,
        hint="Name the way with -e rollback_strategy=down, restore or undo_swap.",
        extra={"reason": "no_way", "databases": {database: dict(found)}},
    )


def refuse_several(found: Mapping[str, Mapping[str, Any]]) -> None:
    """:raises PgopsError: ``auto`` comes to different ways for the databases of one host; they go one by one then."""
    ways = {(entry["chosen"], entry.get("through")) for entry in found.values()}
    if len(ways) > 1:
        told = "; ".join(f"{name}: {entry['chosen']}" for name, entry in found.items())
        raise PgopsError(
            f"rollback_strategy=auto comes to different ways for these databases ({told}); nothing was changed.",
            hint="Name one database with -e pgops_databases=NAME, or the way with -e rollback_strategy.",
            extra={"reason": "no_way", "databases": {name: dict(entry) for name, entry in found.items()}},
        )
