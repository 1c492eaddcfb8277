# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be settled before a run that may become an incident begins: whom to call, why it goes back, and what goes by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import contacts, typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.environments import Refusal

# Strategies that end what keeps clients out, or go back to where a rollback began: they wait for no reason.
WITHOUT_REASON = ("unfence", "swap", "undo_swap")
# Options of ansible-playbook that ask a person.
ASKING: Mapping[str, str] = {
    "ask_vault_pass": "--ask-vault-password",
    "ask_pass": "--ask-pass",
    "become_ask_pass": "--ask-become-pass",
}
_NAMED = 3


def refuse_uncalled(people: Any, run: Mapping[str, Any], limit: str) -> None:
    """For a migration of production; who has to go back is not kept from it by a form.

    :param people: ``pgops_contacts``
    :raises Refusal: somebody could not be called
    """
    missing = contacts.missing(people)
    if not missing:
        return
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    raise Refusal(
        f"pgops_contacts does not say whom to call should this migration of production fail: {', '.join(missing[:_NAMED])}{more} not "
        "filled in; docs/incident.md shows its form. When it is",
        typed_commands.again(run, limit),
    )


def refuse_without_reason(reason: str, strategy: Any, run: Mapping[str, Any], limit: str) -> None:
    """For a rollback of production.

    :param strategy: ``rollback_strategy``; empty is ``down``
    :raises Refusal: nobody has said why
    """
    if reason or str(strategy or "down") in WITHOUT_REASON:
        return
    given = dict(run[typed_commands.GIVEN])
    given["variables"] = {**given["variables"], "rollback_reason": "WHY"}
    raise Refusal(
        "A rollback of production is recorded with its reason, and rollback_reason is not set; say why",
        typed_commands.again({**run, typed_commands.GIVEN: given}, limit),
    )


def refuse_unjustified(justification: str, run: Mapping[str, Any], limit: str) -> None:
    """For a migration of production where ``audit_justification_required`` is on.

    :param justification: ``audit_justification``
    :raises Refusal: nobody has said why
    """
    if justification.strip():
        return
    given = dict(run[typed_commands.GIVEN])
    given["variables"] = {**given["variables"], "audit_justification": "WHY"}
    raise Refusal(
        "A migration of production is audited with its justification, and audit_justification is not set; say why",
        typed_commands.again({**run, typed_commands.GIVEN: given}, limit),
    )


def refuse_automatic(
    reason: str, is_production: bool, typed: Sequence[str], asking: Sequence[str], run: Mapping[str, Any], limit: str
) -> None:
    """For a migration with ``migrate_auto_rollback``.

    :param reason: ``migrate_auto_rollback_reason``
    :param typed: the variables given with -e
    :param asking: which of :data:`ASKING` were given
    :raises Refusal: it may not, or could not, roll back by itself
    """
    without = typed_commands.again(typed_commands.without(run, ["migrate_auto_rollback"]), limit)
    if is_production and not reason.strip():
        raise Refusal(
            "migrate_auto_rollback is on, and production goes back without anybody being asked only where somebody has said why; set "
            "migrate_auto_rollback_reason, or without it",
            without,
        )
    chosen = sorted(name for name in typed if name.startswith("rollback_"))
    if chosen:
        raise Refusal(
            f"{chosen[0]} says how rollback.yml goes back, and migrate_auto_rollback goes back what this run has changed and nothing else; "
            "leave it out",
            typed_commands.again(typed_commands.without(run, chosen), limit),
        )
    if asking:
        raise Refusal(
            f"{ASKING[asking[0]]} asks for a password, which nobody could give to a rollback that migrate_auto_rollback begins; name a file "
            "that has it, or without it",
            without,
        )
