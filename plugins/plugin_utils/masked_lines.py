# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What was masked in a copy, for the screen: what was looked for and where, and what was not; it claims no more than that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import masking_check

# Columns in a sentence.
NAMED = 10


def of(database: str, done: Mapping[str, Any] | None) -> Iterator[str]:
    """:param done: as ``masking.mask`` returns it; None where nothing was masked. :return: the lines."""
    if not done:
        return
    looked = done["looked"]
    yield (
        f"{database}: masked {done['columns']} columns of {done['tables']} tables, {done['rows']} rows; {looked['looked_for']} of their "
        f"{looked['distinct']} values of text were looked for in {looked['columns']} columns of {looked['tables']} tables, and none was found"
    )
    notes = {
        "values not looked for": f"{looked['short']} too short, {looked['ambiguous']} that the mask makes of others",
        f"of these columns {masking_check.SAMPLE} values were drawn at random": ", ".join(looked["drawn"]),
        "not looked at, as declared": ", ".join(looked["left_out"]),
        "search vectors emptied": ", ".join(done["vectors"]),
    }
    for about, told in notes.items():
        if told:
            yield f"    {about}: {told}"
    bare = done["bare"]
    if bare:
        more = f" and {len(bare) - NAMED} more" if len(bare) > NAMED else ""
        yield (
            f"    warn: tagged PHI and NOT masked, as masking.yml does not name them: {', '.join(bare[:NAMED])}{more}; what may stay is declared "
            "as keep"
        )
