# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why a version cannot be reverted: something else would go with what its way down drops, or stands on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.going_down import Drop

_NAMED = 10


@dataclass(frozen=True)
class InTheWay:
    """An object in the way of a drop. :ivar told: as a person reads it. :ivar maker: the version that made it, if one did."""

    told: str
    maker: str | None

    def __str__(self) -> str:
        return self.told + (f" (version {self.maker} made it)" if self.maker else "")


@dataclass(frozen=True)
class Refused:
    """What differs between the reasons. :ivar but: what the server would do, after the drop.
    :ivar why: why that is no part of this rollback. :ivar yours: what to do about what no version made. :ivar reason: of the result."""

    but: str
    why: str
    yours: str
    reason: str


def refusal(
    database: str,
    drop: Drop,
    objects: Iterable[InTheWay],
    chosen: Sequence[tuple[ledger.Migration, Mapping[str, Any]]],
    standing: Iterable[str],
    refused: Refused,
) -> PgopsError:
    """:param chosen: the versions of this rollback. :param standing: those in the database.
    :return: the error that names the objects, what was reverted, and what to type next."""
    found = list(dict.fromkeys(objects))
    makers = {one.maker for one in found if one.maker}
    strange = any(one.maker is None for one in found)
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    begun = any(row.version == drop.version and row.state == "reverting" for row, _ in chosen)
    through = sorted((version for version in standing if version >= drop.version), reverse=True)
    hints = [f"-e rollback_through={drop.version} reverts {', '.join(through)}, in this order."] if makers else []
    return PgopsError(
        f"Version {drop.version} cannot be reverted in {database}: its way down drops {drop}, and {refused.but} "
        f"{'; '.join(map(str, found[:_NAMED]))}{more}, which {refused.why}. Nothing {'more ' if begun else ''}of it was reverted.",
        database=database,
        object_name=str(drop),
        hint=" ".join(hints + [refused.yours] * strange),
        extra={
            "reason": refused.reason if strange else "needed",
            "version": drop.version,
            "objects": list(map(str, found)),
            # With something of nobody's in the way, no other rollback helps by itself.
            **({"needed_by": min(makers)} if makers and not strange else {}),
        },
    )
