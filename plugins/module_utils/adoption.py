# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Take over a database that another tool has migrated: look at its catalog, record what is proved, repair what is certain."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    accepted_differences,
    as_if_made,
    baseline,
    bounded_look,
    catalog,
    declared,
    effects,
    encoding,
    ledger,
    legacy_fence,
    legacy_fence_refusals,
    legacy_ledger,
    legacy_mirror,
    other_schema,
    repair,
    repair_obstacles,
    text_ids,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.going_down import words_of
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import RunnerLock, application_name
from ansible_collections.whitecross.pgops.plugins.module_utils.migrate import Way

# What the catalog says of a version.
WHOLLY, PARTLY, NOT = "wholly present", "partly present", "not present"
OURS, UNTOLD, OF_REPAIR = "in our ledger", "changes rows or rights only", "a repair"
# What becomes of it.
ADOPT, REPAIR, PENDING, COMPLETE, UNNEEDED, REFUSE, NOTHING = (
    "adopt",
    "adopt and repair",
    "stays pending",
    "stays pending: its own up completes it",
    "stays pending: repairs nothing here",
    "refuse",
    "nothing",
)

_CHANGES_ROWS = re.compile(
    r"\s*(?:--[^\n]*\n\s*)*(?:WITH\b.*?\b)?(UPDATE|DELETE|MERGE|INSERT)\b", re.IGNORECASE | re.DOTALL
)
_SEED = re.compile(r"\bON\s+CONFLICT\b.*\bDO\s+NOTHING\b", re.IGNORECASE | re.DOTALL)

_NOT_OURS = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name, r.rolname::text AS owner, r.rolsuper AS superuser
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND (n.nspname, c.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
   AND NOT pg_has_role(current_user, c.relowner, 'USAGE')
 ORDER BY 1
"""
_TYPES_NOT_OURS = """
SELECT wanted.name, r.rolname::text AS owner, r.rolsuper AS superuser
  FROM unnest(%s::text[]) AS wanted (name) JOIN pg_type t ON t.oid = to_regtype(wanted.name) JOIN pg_roles r ON r.oid = t.typowner
 WHERE NOT pg_has_role(current_user, t.typowner, 'USAGE')
 ORDER BY 1
"""
_ROLES_NOT_OURS = "SELECT rolname::text AS owner, rolsuper AS superuser FROM pg_roles WHERE NOT pg_has_role(current_user, oid, 'USAGE')"
_EXTENSIONS_NOT_OURS = (
    "SELECT extname::text AS name FROM pg_extension WHERE NOT pg_has_role(current_user, extowner, 'USAGE')"
)


@dataclass(frozen=True)
class Request:
    """What is asked for.

    :ivar names: tool -> version -> the tool's names of that migration, where its number does not tell.
    :ivar force: the name of a database that is adopted although it looks like another application's.
    :ivar accept: objects whose difference somebody has looked at and takes as it is.
    :ivar mirror: ``sequelize`` keeps its ledger in step from now on, ``none`` ends that, None leaves it as it is.
    :ivar fence: True fences the other tools, False takes the fence away, None leaves it as it is.
    :ivar login: the role that the other tool connects as; by default the owner of its ledger.
    :ivar baseline: the name under which a database with text ids is taken as it is.
    """

    names: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    force: str | None = None
    accept: Sequence[str] = ()
    mirror: str | None = None
    fence: bool | None = None
    login: str | None = None
    baseline: str | None = None


@dataclass
class Verdict:
    """One version: what their ledger says, what the catalog says, how it differs, what becomes of it."""

    version: str
    name: str
    ledger: str
    catalog: str
    present: int
    of: int
    action: str
    differences: list[dict[str, Any]] = field(default_factory=list)

    def differs(self, object_name: str, told: str, fix: str | None) -> None:
        """Add a difference; without a fix it is a reason to refuse."""
        self.differences.append({"object": object_name, "difference": told, "repair": fix})


@dataclass
class Assessment:
    """What there is, and what becomes of it; plain data but for what recording needs.

    :ivar proofs: version -> what it is adopted by; ``progress`` see ``effects.Chain``.
    :ivar repairs: the migrations that complete what is adopted, in order; see :func:`repair.folder`.
    :ivar state: ledger head and catalog fingerprint, which must not move until it is recorded.
    :ivar baseline: see ``baseline.judge``, where one was asked for; ``objects`` is what it holds.
    :ivar kept_as: the name of the baseline that is recorded already.
    """

    verdicts: list[Verdict]
    ledgers: list[legacy_ledger.LegacyLedger]
    era: str
    strangers: list[str]
    state: dict[str, str]
    proofs: dict[str, dict[str, Any]] = field(default_factory=dict)
    repairs: list[dict[str, Any]] = field(default_factory=list)
    progress: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)
    text_ids: list[dict[str, Any]] = field(default_factory=list)
    baseline: dict[str, Any] | None = None
    objects: catalog.Inventory = field(default_factory=dict)
    kept_as: str | None = None

    @property
    def refused(self) -> list[Verdict]:
        """:return: the versions that stand in the way."""
        return [verdict for verdict in self.verdicts if verdict.action == REFUSE]

    @property
    def adopted(self) -> list[str]:
        """:return: the versions that are recorded."""
        return [verdict.version for verdict in self.verdicts if verdict.action in (ADOPT, REPAIR)]

    @property
    def pending(self) -> list[str]:
        """:return: the versions that migrate.yml applies next, the repairs among them."""
        later = [verdict.version for verdict in self.verdicts if verdict.action in (PENDING, COMPLETE)]
        return sorted({*later, *(item["version"] for item in self.repairs)})

    def as_dict(self) -> dict[str, Any]:
        """The assessment as plain data for a module's result."""
        return {
            "versions": [asdict(verdict) for verdict in self.verdicts],
            "ledgers": [
                {**found.as_dict(), "entries": [asdict(entry) for entry in found.entries]} for found in self.ledgers
            ],
            "era": self.era,
            "strangers": self.strangers,
            "repairs": self.repairs,
            "accepted": self.accepted,
            "text_ids": self.text_ids,
            "baseline": self.baseline,
            "adopted": self.adopted,
            "pending": self.pending,
            "state": self.state,
        }


def assess(target: Target, migrations: Sequence[Mapping[str, Any]], request: Request, way: Way) -> Assessment:
    """Look at a database and write nothing to it.

    Runs the tree in a scratch database; takes ACCESS SHARE on system catalogs of the database, and on tables whose values
    decide whether a column can be converted.

    :param migrations: the whole tree, rendered.
    :raises PgopsError: the database is another application's, is not encoded in UTF8, has the tree's tables in another schema, half a run of ours stands in it, its objects belong to a
        role that this one cannot act for, somebody holds a table of it for long, or it cannot be compared.
    """
    with closing(connect(target, application_name=application_name(way.run.id))) as conn:
        return _assess(target, conn, migrations, request, way)


def _assess(
    target: Target, conn: Connection, migrations: Sequence[Mapping[str, Any]], request: Request, way: Way
) -> Assessment:
    with bounded_look.bounded(conn, f"{target.database} could not be looked at"):
        return _looked_at(target, conn, migrations, request, way)


def _looked_at(
    target: Target, conn: Connection, migrations: Sequence[Mapping[str, Any]], request: Request, way: Way
) -> Assessment:
    _refuse_request(target, request)
    encoding.refuse(conn, "written to")
    book = ledger.read(conn)
    half = book.in_state("applying", "failed", "reverting")
    if half:
        raise PgopsError(
            f"Version {half[0].version} is {half[0].state} in {target.database}: finish that run first, then adopt.",
            database=target.database,
            extra={"reason": "half", "version": half[0].version},
        )
    if request.force != target.database:
        other_schema.refuse(conn, book, migrations, "written to")
    legacy = legacy_ledger.find(conn)
    found = catalog.inventory(conn)
    way.progress.emit("the tree in a scratch database", database=target.database)
    with effects.replayed(target, conn, migrations, control=way.control, run_id=way.run.id) as (chain, scratch):
        _refuse_stranger(target, chain, found, legacy, request)
        state = {"ledger_head": book.head, "catalog_fingerprint": catalog.fingerprint(found)}
        era = text_ids.era(chain, found)
        told = text_ids.report(target, chain, found) if era == text_ids.TEXT else []
        known = [f"table {key}" for key in _ledger_tables(conn, legacy)]
        kept_as = book.baseline.name if book.baseline else None
        if era == text_ids.TEXT or request.baseline is not None:
            # Of a tree with other ids every object differs; the tables are told instead.
            named = None
            if request.baseline is not None:
                named = baseline.judge(conn, book, found, era, request.baseline, state["catalog_fingerprint"])
            return Assessment(
                [],
                legacy,
                era,
                effects.strangers(chain, found, known),
                state,
                text_ids=told,
                baseline=named,
                objects=found,
                kept_as=kept_as,
            )
        obstacles = repair_obstacles.Obstacles(target, conn)
        twins = obstacles.of_twins(effects.twins(chain, found))
        swapped = [twin for twin in twins if twin.clash is None]
        later = effects.without_twins(found, swapped)
        _refuse_unknown_objects(request, chain, target.database)
        way.progress.emit("the catalog against the tree", database=target.database)
        judge = _Judge(
            conn,
            effects.presence(chain, later, scratch),
            twins,
            book,
            legacy,
            request,
            migrations,
            lambda schema, table, column: text_ids.as_uuid(target, schema, table, column),
            obstacles,
            way,
        )
        verdicts = judge.verdicts(scratch)
        assessment = Assessment(
            verdicts,
            legacy,
            era,
            effects.strangers(chain, later, known),
            state,
            proofs=judge.proofs,
            repairs=judge.repairs,
            progress=chain.progress,
            accepted=sorted(judge.accepted),
            kept_as=kept_as,
        )
    if assessment.adopted:
        _refuse_other_owner(target, conn, chain, swapped, found)
    return assessment


@dataclass
class _Portion:
    """What one repair does: it completes versions between which none is pending, so its place is right after the last.

    :ivar versions: that it completes.
    :ivar fixes: object -> what it does to it; where several of the versions made it, what the last makes of it.
    :ivar after: object -> as it is afterwards, for what later versions make of it.
    :ivar along: the same of objects that come along with another one, for the versions of this portion too.
    :ivar folder: see :func:`repair.folder`.
    """

    versions: set[str] = field(default_factory=set)
    swaps: dict[str, repair.Fix] = field(default_factory=dict)
    fixes: dict[str, list[repair.Fix]] = field(default_factory=dict)
    rows: list[repair.Fix] = field(default_factory=list)
    comments: dict[str, repair.Fix] = field(default_factory=dict)
    after: dict[str, catalog.Definition | None] = field(default_factory=dict)
    along: dict[str, catalog.Definition | None] = field(default_factory=dict)
    folder: dict[str, Any] | None = None

    def in_order(self) -> list[repair.Fix]:
        """:return: all of them; what another object stands on comes first: a type before its table, that before a column."""
        fixes = [*self.swaps.values(), *(fix for several in self.fixes.values() for fix in several)]
        fixes += [*self.rows, *self.comments.values()]
        # Both ends of a foreign key make it again.
        fixes = [fix for number, fix in enumerate(fixes) if fix not in fixes[:number]]
        order = {"table": 1, "column": 2, "constraint": 3, "function": 4, "trigger": 5}
        fixes.sort(
            key=lambda fix: (fix.told == "commented", fix.told == "inserted", order.get(catalog.kind_of(fix.object), 0))
        )
        return fixes


class _Judge:
    """Goes through the versions in order and collects what becomes of each."""

    def __init__(
        self,
        conn: Connection,
        presence: effects.Presence,
        twins: Sequence[effects.Twin],
        book: ledger.Ledger,
        legacy: Sequence[legacy_ledger.LegacyLedger],
        request: Request,
        migrations: Sequence[Mapping[str, Any]],
        uuids: Any,
        obstacles: repair_obstacles.Obstacles,
        way: Way,
    ) -> None:
        self._conn, self._presence, self._twins = conn, presence, twins
        self._book, self._legacy, self._request = book, legacy, request
        self._migrations, self._uuids, self._way = migrations, uuids, way
        self._obstacles = obstacles
        self._portions: list[_Portion] = [_Portion()]
        self._portion_of: dict[str, _Portion] = {}
        self._repaired_by: dict[str, list[_Portion]] = {}
        self.accepted: set[str] = set()
        self.proofs: dict[str, dict[str, Any]] = {}

    @property
    def repairs(self) -> list[dict[str, Any]]:
        """:return: the migrations that repair, in order."""
        return [portion.folder for portion in self._portions if portion.folder is not None]

    def verdicts(self, scratch: Connection) -> list[Verdict]:
        shop = repair.Workshop(self._presence, scratch, self._migrations, self._uuids, self._obstacles)
        verdicts = []
        for migration in self._migrations:
            verdict = self._verdict(shop, migration)
            verdicts.append(verdict)
            if verdict.action in (PENDING, COMPLETE) and not migration.get("repairs"):
                # It runs before what later versions are repaired by, and needs what earlier ones declare.
                self._portion_of[verdict.version] = _Portion()
                self._portions += [self._portion_of[verdict.version], _Portion()]
        self._refuse_loose_ends(verdicts)
        self._write()
        for verdict in verdicts:
            self._refuse_too_late(verdict, verdicts)
            if verdict.version in self.proofs:
                written = {id(portion): portion.folder for portion in self._repaired_by.get(verdict.version, [])}
                self.proofs[verdict.version]["repaired_by"] = [item["version"] for item in written.values() if item]
        wanted = {item["version"] for item in self.repairs}
        for verdict in verdicts:
            if verdict.version in wanted and verdict.action == UNNEEDED:
                verdict.action = PENDING
        return verdicts

    def _write(self) -> None:
        for portion in self._portions:
            fixes = portion.in_order()
            if fixes:
                portion.folder = repair.folder(fixes, sorted(portion.versions), self._migrations, self.repairs)

    def _refuse_loose_ends(self, verdicts: Sequence[Verdict]) -> None:
        """A foreign key is dropped and made again where one repair converts both of its ends and comes after who makes it."""
        for portion in self._portions:
            converted = {key for key, fixes in portion.fixes.items() if any(fix.phase == "types" for fix in fixes)}
            for key, fixes in portion.fixes.items():
                for tie in (tie for fix in fixes for tie in fix.ties):
                    why = None
                    if tie.other not in converted:
                        why = f"ties it to {tie.other}, which is not converted with it"
                    elif self._presence.chain.first(tie.key) > max(portion.versions):
                        why = f"is made by a later version, {self._presence.chain.first(tie.key)}"
                    if why is None:
                        continue
                    told = f"it should be uuid; the foreign key {repair.parts_of(catalog.name_of(tie.key))[-1]} {why}"
                    for verdict in verdicts:
                        for item in verdict.differences:
                            if item["object"] == key and item["repair"] not in (None, "accepted"):
                                item["difference"], item["repair"], verdict.action = told, None, REFUSE

    def _refuse_too_late(self, verdict: Verdict, verdicts: Sequence[Verdict]) -> None:
        """A version that follows without a free number between is applied before the repair: it must not need that."""
        portion = self._portion_of.get(verdict.version)
        if portion is None or portion.folder is None or verdict.version != max(portion.versions):
            return
        last, number = max(portion.versions), portion.folder["version"]
        between = {
            item.version for item in verdicts if last < item.version < number and item.action in (PENDING, COMPLETE)
        }
        for migration in self._migrations:
            version = str(migration["version"])
            if version not in between or migration.get("repairs"):
                continue
            words = _words(migration)
            for fix in portion.in_order():
                if fix.told not in ("commented", "inserted") and all(part <= words for part in self._named(fix)):
                    verdict.differs(
                        fix.object,
                        f"version {version} is applied before its repair, since no number is free between, and uses it",
                        None,
                    )
                    verdict.action = REFUSE

    def _named(self, fix: repair.Fix) -> list[set[str]]:
        """:return: the words of a statement that uses the object."""
        name = catalog.name_of(fix.object)
        twin = next((twin for twin in self._twins if f"type {twin.name}" == fix.object), None)
        parts = repair.parts_of((twin.named if twin else name).split("(", 1)[0])
        return [words_of('"' + part.replace('"', '""') + '"') for part in parts[1:] or parts]

    def _verdict(self, shop: repair.Workshop, migration: Mapping[str, Any]) -> Verdict:
        version = str(migration["version"])
        states = self._presence.effects(version)
        present = sum(state == effects.PRESENT for state in states.values())
        verdict = Verdict(version, migration["name"], self._their_word(version), OURS, present, len(states), NOTHING)
        self._portion_of[version] = self._portions[-1]
        row = self._book.get(version)
        if row is not None and row.state == "applied":
            return verdict
        if migration.get("repairs"):
            # Whatever it repairs here is told by the versions that lack it.
            verdict.catalog, verdict.present, verdict.of = OF_REPAIR, 0, 0
            verdict.action = PENDING if version in self._book.adopted_around else UNNEEDED
            return verdict
        # What was accepted as an earlier version's is no sign of this one.
        signs = [key for key in states if effects.is_sign(key) and key not in self.accepted] or list(states)
        bad = {key: state for key, state in states.items() if state != effects.PRESENT}
        if not states:
            verdict.catalog, verdict.action = UNTOLD, PENDING
        elif all(states[key] == effects.ABSENT for key in signs):
            verdict.catalog, verdict.action = NOT, PENDING
            for key, state in bad.items():
                if state == effects.DIFFERENT and key in self.accepted:
                    # As an earlier version has it; this one's own up changes what was accepted there.
                    verdict.differs(key, self._told(key, version), "accepted")
                elif state == effects.DIFFERENT:
                    verdict.differs(key, self._told(key, version), None)
                    verdict.action = REFUSE
        else:
            self._there(shop, migration, verdict, bad)
        return verdict

    def _there(
        self, shop: repair.Workshop, migration: Mapping[str, Any], verdict: Verdict, bad: Mapping[str, str]
    ) -> None:
        """A version that has left something: wholly, or not."""
        version = verdict.version
        portion = self._portions[-1]
        fixes: dict[str, list[repair.Fix]] = {}
        swaps: dict[str, repair.Fix] = {}
        along: dict[str, catalog.Definition | None] = {}
        earlier: list[_Portion] = []
        unsure = False
        for twin in self._twins:
            mine = [name for name in twin.columns if f"column {name}" in self._presence.chain.effects[version]]
            if not mine:
                continue
            if twin.clash is None:
                swaps[twin.named] = repair.swap(twin)
                for name in mine:
                    verdict.differs(
                        f"column {name}", f"type {twin.name}, declared {twin.named}", f"type {swaps[twin.named].told}"
                    )
        for key in bad:
            if key in self._request.accept:
                self.accepted.add(key)
                verdict.differs(key, self._told(key, version), "accepted")
                continue
            if self._comes_along(key, version, bad):
                along[key] = self._presence.chain.at(key, version)
                continue
            before = [one for one in self._portions[:-1] if key in one.after]
            there = before[-1].after[key] if before else self._presence.found.get(key)
            found = portion.along.get(key, there)
            earlier += before
            fix = shop.fix(key, version, found)
            if isinstance(fix, repair.Unsure):
                clash = next(
                    (t.clash for t in self._twins if t.clash and key.removeprefix("column ") in t.columns), None
                )
                verdict.differs(key, fix.why + (f" ({clash})" if clash else ""), None)
                unsure = True
            elif fix:
                fixes[key] = fix
                verdict.differs(key, self._told(key, version), "; ".join(one.told for one in fix))
        verdict.catalog = PARTLY if bad or swaps else WHOLLY
        if unsure:
            verdict.action = REFUSE
            return
        rows = self._missing_rows(migration, verdict, partly=bool(bad))
        seeds, changes = _row_statements(migration)
        changes = changes or any(
            step["kind"] == "backfill" and not self._ended(step, version) for step in migration["steps"]
        )
        if changes and (bad or rows):
            # Nobody can tell from the catalog how far it came with the rows; its own steps can, they look.
            only_missing = not swaps and all(self._presence.found.get(key) is None for key in bad)
            later = self._presence.of_later(version)
            verdict.action = COMPLETE if only_missing and not later else REFUSE
            if only_missing and later:
                # Its own up would meet that and stop, when the adoption is written already.
                verdict.differs(
                    f"version {version}", f"it changes rows as well, and its own up cannot complete it: {later[0]} is as a "
                    "later version makes it", None,
                )  # fmt: skip
            elif verdict.action == REFUSE:
                verdict.differs(
                    f"version {version}", "it changes rows as well, and what is there is not as it makes it", None
                )
            return
        if rows and not seeds:
            verdict.action = REFUSE
            return
        if rows or any(catalog.kind_of(key) == "table" for key in fixes):
            portion.rows += [
                repair.Fix("objects", f"rows of version {version}", "inserted", text, "true") for text in seeds
            ]
        portion.fixes |= fixes
        portion.along |= along
        portion.after |= along | {key: self._presence.chain.at(key, version) for key in fixes}
        comments = {key: text for key in self._presence.chain.effects[version] if (text := shop.comment(key, version))}
        portion.comments |= comments
        if comments:
            verdict.differs(f"{len(comments)} comment{'s' if len(comments) > 1 else ''}", "missing", "added")
        if fixes or rows or comments:
            portion.versions.add(version)
            earlier.append(portion)
        for named, swap in swaps.items():
            # A version between the one that makes the type and this one may use it.
            first = self._presence.chain.first(f"type {named}")
            self._portion_of[first].swaps[named] = swap
            self._portion_of[first].versions.add(first)
            earlier.append(self._portion_of[first])
        self._repaired_by[version] = earlier
        verdict.action = REPAIR if earlier else ADOPT
        self.proofs[version] = self._proof(version, shop.scratch)

    def _comes_along(self, key: str, version: str, bad: Mapping[str, str]) -> bool:
        """A column or constraint of a missing table, and the index of a missing constraint: made together with that."""
        chain = self._presence.chain
        value = chain.at(key, version)
        if value is None or key in self._presence.found:
            return False
        if catalog.kind_of(key) == "index" and value.get("constraint"):
            return True
        if catalog.kind_of(key) not in ("column", "constraint"):
            return False
        table = next(
            (
                other
                for other, state in bad.items()
                if catalog.kind_of(other) == "table"
                and state == effects.ABSENT
                and (made := chain.at(other, version))
                and (made["schema"], made["table"]) == (value["schema"], value["table"])
            ),
            None,
        )
        return table is not None and chain.states[key][1][0] == chain.states[table][1][0]

    def _told(self, key: str, version: str) -> str:
        told = self._presence.told(key, version, self._presence.found.get(key))
        return told.replace("expected, not found", "missing")

    def _their_word(self, version: str) -> str:
        words = []
        for found in self._legacy:
            entry = found.of(version, self._request.names.get(found.tool) or {})
            if entry is not None:
                words.append(str(entry) if len(self._legacy) == 1 else f"{found.tool}: {entry}")
        return ", ".join(words)

    def _ended(self, step: Mapping[str, Any], version: str) -> bool:
        """:return: whether the column that comes of what a backfill fills is there: then its rows are done."""
        if "ends_as" not in step:
            return False
        (key,) = effects.keys_of(self._conn, [("column", [step["schema"], step["table"], step["ends_as"]])])
        return key in self.accepted or self._presence.of(key, version) == effects.PRESENT

    def _missing_rows(self, migration: Mapping[str, Any], verdict: Verdict, *, partly: bool) -> bool:
        """Ask the version's own verification for what the catalog does not hold."""
        kinds = {*catalog.KINDS, "enum", "foreign key", "comment"}
        missing = False
        for finding in declared.check_statements(self._conn, migration, self._way.control):
            if finding.attribute in ("statement", "columns"):
                if not partly:
                    verdict.differs(finding.object, str(finding.found), None)
                    missing = True
                continue
            if any(finding.object.startswith(f"{kind} ") for kind in kinds):
                continue  # the catalog was compared already, object by object
            verdict.differs(
                finding.object, f"expected {finding.expected}, found {finding.found}", "its rows are inserted"
            )
            missing = True
        return missing

    def _proof(self, version: str, scratch: Connection) -> dict[str, Any]:
        """What the version is adopted by: the objects as they are declared, a fingerprint of them as they were found, and what
        is accepted.

        ``since`` has what the version and those after it make of an object, where that is not what was found: when the
        later ones are gone, it is there. ``unrepaired`` has the objects that a repair changes as they were found.
        """
        chain, found = self._presence.chain, self._presence.found
        states = self._presence.effects(version)
        objects, since, unrepaired = {}, {}, {}
        for key, state in states.items():
            # What is missing may be missing when the version goes down, too: a repair brings it, and takes it away.
            definition = found.get(key)
            if definition is None:
                continue
            if state != effects.PRESENT and key not in self.accepted:
                unrepaired[key] = accepted_differences.plain(definition)
                definition = chain.at(key, version)
            if definition is None:
                continue
            objects[key] = accepted_differences.plain(definition)
            others = [
                made for made in map(accepted_differences.plain, chain.since(key, version)) if made != objects[key]
            ]
            if others:
                since[key] = others
        seen = {key: found[key] for key in objects if key in found}
        return {
            "fingerprint": catalog.fingerprint(seen, ignore=catalog.ATTENDANT),
            "found": len(seen),
            "of": len(states),
            "objects": objects,
            "since": since,
            "unrepaired": unrepaired,
            "accepted": {
                key: accepted_differences.record(chain.at(key, version), found.get(key), key, scratch)
                for key, state in states.items()
                if key in self.accepted and state != effects.PRESENT
            },
        }


def _words(migration: Mapping[str, Any]) -> set[str]:
    """:return: the words and names of all that its way up runs."""
    words: set[str] = set()
    for step in migration["steps"]:
        for statement in step.get("up", []):
            words |= words_of(str(statement["sql"]))
        words |= words_of(json.dumps(step.get("indexes", [])))
    return words


def _row_statements(migration: Mapping[str, Any]) -> tuple[list[str], bool]:
    """:return: statements that insert what is missing and leave the rest, and whether others change rows as well; a backfill is
    none of them."""
    seeds: list[str] = []
    changes = False
    for step in migration["steps"]:
        for statement in step.get("up", []):
            text = str(statement["sql"]).rstrip().rstrip(";")
            if statement.get("creates") or not _CHANGES_ROWS.match(text):
                continue
            if _SEED.search(text):
                seeds.append(text)
            else:
                changes = True
    return seeds, changes


# ------------------------------------------------------------------------------------------------------------- refusals


def _refuse_request(target: Target, request: Request) -> None:
    if request.baseline is None:
        return
    baseline.refuse_name(target.database, request.baseline)
    besides = {
        "adopt_mirror_ledger": request.mirror is not None,
        "adopt_fence_legacy": request.fence is not None,
        "adopt_accept": bool(request.accept),
    }
    given = [name for name, there in besides.items() if there]
    if given:
        raise PgopsError(
            f"adopt_baseline takes {target.database} as it is and leaves it to its own tool, so {given[0]} does not go with it. "
            "Nothing was written.",
            database=target.database,
            extra={"reason": "baseline"},
        )


def _refuse_unknown_objects(request: Request, chain: effects.Chain, database: str) -> None:
    """:raises PgopsError: what is to be accepted is no object of the tree; who mistyped it would find it refused or repaired."""
    known = {key for made in chain.effects.values() for key in made}
    unknown = [name for name in request.accept if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], sorted(known), n=1)
        raise PgopsError(
            f"adopt_accept names {unknown[0]}, which no version makes"
            + (f"; the nearest is {near[0]}" if near else "")
            + f". Nothing was written to {database}.",
            database=database,
            object_name=unknown[0],
            hint="Name objects as the table of adopt.yml --check does.",
            extra={"reason": "unknown_object"},
        )


def _ledger_tables(conn: Connection, legacy: Sequence[legacy_ledger.LegacyLedger]) -> list[str]:
    return [sql_name(conn, found.schema, found.table) for found in legacy]


def sql_name(conn: Connection, *names: str) -> str:
    """:return: a qualified name as an inventory has it."""
    row = fetch_one(
        conn,
        "SELECT string_agg(quote_ident(part), '.' ORDER BY n) AS name FROM unnest(%s::text[]) WITH ORDINALITY AS t(part, n)",
        (list(names),),
    )
    return str(row["name"]) if row else ".".join(names)


def _refuse_stranger(
    target: Target,
    chain: effects.Chain,
    found: catalog.Inventory,
    legacy: Sequence[legacy_ledger.LegacyLedger],
    request: Request,
) -> None:
    """Names alone are cheap: a table is known by half of its columns, the application by half of its first tables."""
    ledgers = {(item.schema, item.table) for item in legacy}
    tables = {
        key
        for key, value in found.items()
        if catalog.kind_of(key) == "table" and (value["schema"], value["table"]) not in ledgers
    }
    if not tables or request.force == target.database:
        return
    if request.force:
        raise PgopsError(
            f"adopt_force names {request.force}, and this is {target.database}; force a database by its own name.",
            database=target.database,
            extra={"reason": "force"},
        )
    first = _first_tables(chain)
    known = [key for key in first if key in tables and _is_known(chain, found, key)]
    if len(known) * 2 >= len(first):
        return
    raise PgopsError(
        f"{target.database} looks like the database of another application: of the {len(first)} tables of version "
        f"{chain.versions[0]} it has {len(known)}, and {len(tables)} tables in all ({', '.join(sorted(map(catalog.name_of, tables))[:5])}"
        f"{', ...' if len(tables) > 5 else ''}). Nothing was written.",
        database=target.database,
        extra={"reason": "stranger", "tables": sorted(map(catalog.name_of, tables))},
    )


def _first_tables(chain: effects.Chain) -> list[str]:
    for version in chain.versions:
        made = [key for key in chain.effects[version] if catalog.kind_of(key) == "table"]
        if made:
            return made
    return []


def _is_known(chain: effects.Chain, found: catalog.Inventory, table: str) -> bool:
    prefix = f"column {catalog.name_of(table)}."
    columns = [
        key for key in chain.states if key.startswith(prefix) and chain.states[key][1][0] == chain.states[table][1][0]
    ]
    return sum(key in found for key in columns) * 2 >= len(columns)


def _refuse_other_owner(
    target: Target,
    conn: Connection,
    chain: effects.Chain,
    swapped: Sequence[effects.Twin],
    there: catalog.Inventory,
) -> None:
    """What the tree makes, and the twins that take the place of its types: a version, its way down or the repair changes them."""
    tables = sorted(
        {
            (state["schema"], state["table"])
            for key in chain.states
            if catalog.kind_of(key) in ("table", "view", "materialized view", "foreign table")
            for state in chain.ever(key)
        }
    )
    types = {catalog.name_of(key) for key in chain.states if catalog.kind_of(key) == "type"}
    types |= {twin.name for twin in swapped}
    found = {
        "table": fetch_all(conn, _NOT_OURS, ([schema for schema, _ in tables], [table for _, table in tables])),
        "type": fetch_all(conn, _TYPES_NOT_OURS, (sorted(types),)),
        "function": [],
        "procedure": [],
    }
    others = {row["owner"]: row["superuser"] for row in fetch_all(conn, _ROLES_NOT_OURS)}
    for key in sorted(chain.states.keys() & there.keys()):
        owner = there[key].get("owner")
        if catalog.kind_of(key) in ("function", "procedure") and owner in others:
            found[catalog.kind_of(key)].append(
                {"name": catalog.name_of(key), "owner": owner, "superuser": others[owner]}
            )
    rows = [row for some in found.values() for row in some]
    if not rows:
        return
    told = " and ".join(f"{len(some)} {kind}{'s' if len(some) > 1 else ''}" for kind, some in found.items() if some)
    role = str((fetch_one(conn, "SELECT current_user::text AS role") or {})["role"])
    owners = sorted({row["owner"] for row in rows})
    names = ", ".join(row["name"] for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
    raise PgopsError(
        f"Role {role} may not change {told} of {target.database} ({names}): they belong to {', '.join(owners)}. "
        f"{_way_to_own(target.database, role, found)} Nothing was written.",
        sqlstate="42501",
        database=target.database,
        extra={"reason": "owner", **{f"{kind}s": [row["name"] for row in some] for kind, some in found.items()}},
    )


def _way_to_own(database: str, role: str, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """:return: what to type. Nobody is made a member of a superuser, whose rights it would have then; what that one owns is
    given over one by one, since some of it belongs to the server."""
    plain = sorted({str(row["owner"]) for some in found.values() for row in some if not row["superuser"]})
    alone = [
        f"ALTER {kind.upper()} {row['name']} OWNER TO {quoted(role)}"
        for kind, some in found.items()
        for row in some
        if row["superuser"]
    ]
    ways = []
    if plain:
        # The old login is most often the application's: whoever takes its tables away has to give it rights on rows again.
        grant = "; ".join(f"GRANT {quoted(owner)} TO {quoted(role)}" for owner in plain)
        take = "; ".join(f"REASSIGN OWNED BY {quoted(owner)} TO {quoted(role)}" for owner in plain)
        ways.append(
            f"As a superuser: {grant}; or, in {database}: {take}, and GRANT {', '.join(map(quoted, plain))} its rights on rows again, for an "
            "application that uses it loses them there."
        )
    if alone:
        ways.append(f"As a superuser, in {database}: {'; '.join(alone)}.")
    return " ".join(ways)


def look(target: Target, migrations: Sequence[Mapping[str, Any]], request: Request, way: Way) -> dict[str, Any]:
    """:return: what :func:`adopt` would record, as plain data; nothing is written.
    :raises PgopsError: it would be refused; ``extra["databases"]`` has all that was found."""
    assessment = assess(target, migrations, request, way)
    refuse(target, assessment)
    with closing(connect(target, application_name=application_name(way.run.id))) as conn:
        _refuse_measures(target, conn, assessment, request)
    return {**assessment.as_dict(), "recorded": [], "mirror": None, "fence": []}


def refuse(target: Target, assessment: Assessment) -> None:
    """:raises PgopsError: what was found cannot be adopted; names the first reason, the rest is in the table."""
    if assessment.baseline:
        return  # whatever speaks against it was said when it was judged
    extra = {"databases": {target.database: assessment.as_dict()}}
    if assessment.era == text_ids.TEXT:
        tables = assessment.text_ids
        foreign = sum(table["ids_without_uuid"] for table in tables)
        raise PgopsError(
            f"The ids of {target.database} are text: {len(tables)} tables, {foreign} ids that are no uuid. The tree has uuid ids, "
            "and half a mixture helps nobody"
            + (f"; it stays on baseline {assessment.kept_as}" if assessment.kept_as else "")
            + ". Nothing was written.",
            database=target.database,
            extra={**extra, "reason": "text_ids", "kept_as": assessment.kept_as},
        )
    refused = assessment.refused
    if refused:
        first = refused[0]
        reasons = [item for verdict in refused for item in verdict.differences if item["repair"] is None]
        told = f"{reasons[0]['object']}: {reasons[0]['difference']}" if reasons else "see above"
        more = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        raise PgopsError(
            f"{target.database} cannot be adopted as it is: version {first.version}, {told}{more}. Nothing was written.",
            database=target.database,
            object_name=reasons[0]["object"] if reasons else None,
            extra={**extra, "reason": "differences", "differences": reasons},
        )


# --------------------------------------------------------------------------------------------------------------- record


def adopt(
    target: Target,
    migrations: Sequence[Mapping[str, Any]],
    request: Request,
    way: Way,
    *,
    expected: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Record what is proved. Holds the runner lock of the database; the old ledger stays as it is.

    :param expected: ledger head and catalog fingerprint as they were shown; compared before the first write.
    :return: the assessment as plain data, with ``recorded``, ``ledger_head`` and ``audit``.
    :raises PgopsError: refused, or something moved since it was shown; then nothing was written.
    """
    with closing(connect(target, application_name=application_name(way.run.id))) as conn:
        lock = RunnerLock(
            conn,
            wait_s=way.lock_wait_s,
            control=way.control,
            tell=lambda told: way.progress.emit(told, database=target.database),
            sleep=way.sleep,
        )
        with lock:
            assessment = _assess(target, conn, migrations, request, way)
            refuse(target, assessment)
            moved = [name for name, value in (expected or {}).items() if assessment.state.get(name) != value]
            if moved:
                raise PgopsError(
                    f"Nothing was adopted in {target.database}: since it was looked at, {' and '.join(moved)} moved; look again.",
                    database=target.database,
                    extra={"reason": "moved", "moved": moved},
                )
            login = _refuse_measures(target, conn, assessment, request)
            named = assessment.baseline if assessment.baseline and assessment.baseline["new"] else None
            if named:
                found, told, legacy = assessment.objects, assessment.text_ids, assessment.ledgers
                baseline.record(conn, named, found, told, legacy, way.run, who=_who(conn, way))
            if assessment.adopted:
                _record(conn, migrations, assessment, way)
            mirrored = _mirror(conn, assessment, request, way)
            fenced = _fence(target, conn, assessment, request, login, way)
            wrote = bool(assessment.adopted or fenced or mirrored or named)
            return {
                **assessment.as_dict(),
                "recorded": assessment.adopted,
                "mirror": mirrored,
                "fence": fenced,
                "ledger_head": ledger.read(conn).head,
                "audit": ledger.audit_head(conn) if wrote else None,
            }


def _refuse_measures(target: Target, conn: Connection, assessment: Assessment, request: Request) -> str | None:
    """:return: the login to fence, where that is asked for. :raises PgopsError: mirror or fence cannot be had."""
    if request.mirror == legacy_ledger.SEQUELIZE:
        legacy_mirror.refuse(conn, assessment.ledgers, request.names.get(legacy_ledger.SEQUELIZE) or {})
    if request.fence:
        return legacy_fence_refusals.to_put_up(target, assessment.ledgers, request.login)
    if request.fence is False:
        legacy_fence_refusals.to_take_away(target, assessment.ledgers)
    return None


def _mirror(conn: Connection, assessment: Assessment, request: Request, way: Way) -> dict[str, Any] | None:
    """:return: names added to and removed from their ledger, or None where nothing changed."""
    if request.mirror is None:
        return None
    ledger.ensure(conn)
    wanted = request.mirror == legacy_ledger.SEQUELIZE
    before = legacy_mirror.is_on(conn)
    with ledger.transaction(conn):
        changed: dict[str, list[str]] = {"added": [], "removed": []}
        if wanted:
            names = request.names.get(legacy_ledger.SEQUELIZE) or {}
            legacy_mirror.switch_on(conn, legacy_mirror.refuse(conn, assessment.ledgers, names), names)
            changed = legacy_mirror.in_step(conn, ledger.read(conn))
        else:
            legacy_mirror.switch_off(conn)
        if wanted == before and not changed["added"] and not changed["removed"]:
            return None
        ledger.append_audit(
            conn, "mirror_on" if wanted else "mirror_off", run_id=way.run.id, detail={**changed, "who": way.run.who}
        )
    return {"on": wanted, **changed}


def _fence(
    target: Target, conn: Connection, assessment: Assessment, request: Request, login: str | None, way: Way
) -> list[str]:
    """:return: what was put up or taken away; nothing where it was so already."""
    if request.fence is None:
        return []
    ledger.ensure(conn)
    if request.fence:
        changed = legacy_fence.put_up(target, assessment.ledgers, str(login))
    else:
        changed = legacy_fence.take_away(target, assessment.ledgers)
    if changed:
        ledger.append_audit(
            conn,
            "fence_up" if request.fence else "fence_down",
            run_id=way.run.id,
            detail={"by": changed, "login": login, "who": way.run.who},
        )
    return changed


def _who(conn: Connection, way: Way) -> str:
    return way.run.who or str((fetch_one(conn, "SELECT session_user::text AS who") or {})["who"])


def _record(conn: Connection, migrations: Sequence[Mapping[str, Any]], assessment: Assessment, way: Way) -> None:
    who = _who(conn, way)
    verdicts = {verdict.version: verdict for verdict in assessment.verdicts}
    # They cannot be given over, and are often made by a superuser for everybody.
    others = {f"extension {row['name']}" for row in fetch_all(conn, _EXTENSIONS_NOT_OURS)}
    ledger.ensure(conn)
    ledger.start_run(conn, way.run)
    with ledger.transaction(conn, "SET LOCAL synchronous_commit = on"):
        if assessment.kept_as:
            baseline.end(conn, assessment.kept_as, way.run, who=who)
        for migration in migrations:
            version = str(migration["version"])
            if version not in assessment.adopted:
                continue
            verdict, proof = verdicts[version], assessment.proofs[version]
            words = {
                "their_ledger": verdict.ledger,
                "catalog": verdict.catalog,
                "fingerprint": proof["fingerprint"],
                "found": proof["found"],
                "of": proof["of"],
                "differences": verdict.differences,
                "repaired_by": proof["repaired_by"],
            }
            ledger.record_adopted(
                conn,
                migration,
                way.run,
                applied_by=who,
                adopted={**words, **{name: proof[name] for name in ("objects", "since", "unrepaired", "accepted")}},
                progress=as_if_made.leaving(assessment.progress[version], migration, others),
            )
            ledger.append_audit(
                conn, "adopted", run_id=way.run.id, version=version, detail={**words, "who": who, "why": way.run.why}
            )
        ledger.record_adoption(
            conn,
            way.run,
            who=who,
            pending=assessment.pending,
            detail={
                "era": assessment.era,
                "ledgers": [found.as_dict() for found in assessment.ledgers],
                "strangers": assessment.strangers,
                "accepted": assessment.accepted,
                "repairs": [item["version"] for item in assessment.repairs],
                "adopted": assessment.adopted,
            },
        )
    ledger.finish_run(conn, way.run.id, "adopted")
