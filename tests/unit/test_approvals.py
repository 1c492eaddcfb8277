# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An approval holds for exactly what was signed, by whoever may sign it, until it expires; signed and verified by ssh-keygen itself."""

from __future__ import annotations

import json
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import approvals, signature
from support.signers import People

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
V1, V2 = "20260101000000", "20260101000001"


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(tmp_path / "people")


def rehearsal(identity: str = "20261121T100000Z-000001", seconds: float = 10.0, **forecast: Any) -> dict[str, Any]:
    expected = {"seconds": seconds, "high": seconds, "blocks_reads": 0.1, "blocks_writes": 0.2, **forecast}
    return {"id": identity, "ok": True, "forecast": expected, "budget": {}}


def wanted(
    level: str = "HIGH", *, sql: str = "aa", at: dict[str, Any] | None = None, versions: Any = (V1,)
) -> dict[str, Any]:
    pending = [{"version": version, "rendered_checksum": sql} for version in versions]
    return approvals.place("db1", "white_cross", pending, level, at)


def approve(
    people: People, where: Path, name: str = "carol", role: str = "cto", *, place: Any = None, hours: float = 24, environment: str = "production",
    namespace: str = approvals.NAMESPACE, at: datetime = NOW,
) -> Path:  # fmt: skip
    made = approvals.statement(environment, role, [place or wanted(at=rehearsal())], at, hours)
    return approvals.store(where, made, signature.sign(signature.canonical(made), people.key(name), namespace))


def look(
    people: People, where: Path, today: dict[str, Any] | None = None, *, seen: dict[str, Any] | None = None, role: str = "cto",
    signers: str | None = None, now: datetime = NOW,
) -> tuple[list[str], list[str]]:  # fmt: skip
    held, void = approvals.find(
        where, environment="production", wanted=today or wanted(at=seen), rehearsal=seen, roles=[role],
        signers={role: signers or people.signers(role, "carol")}, now=now,
    )  # fmt: skip
    return [one.by for one in held], void[role]


def test_an_approval_that_was_signed_by_who_may_holds(people: People, tmp_path: Path) -> None:
    file = approve(people, tmp_path / "approvals")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert look(people, file.parent, seen=rehearsal()) == (["carol@hospital.org"], [])


def test_each_thing_that_is_more_than_was_approved_voids_it(people: People, tmp_path: Path) -> None:
    where = approve(people, tmp_path / "approvals").parent
    seen, later = rehearsal(), rehearsal("20261122T100000Z-000002", 12.0)
    people.signers("cto", "carol")
    assert look(people, where, seen=later)[0], "a later rehearsal within the budget keeps it"
    for today, found, why in (
        (wanted(sql="ab", at=seen), seen, f"{V1} has other SQL than what was approved"),
        (wanted(versions=(V1, V2), at=seen), seen, f"{V2} was not among what was approved"),
        (wanted("CRITICAL", at=seen), seen, "the risk is CRITICAL by now, and HIGH was approved"),
        (wanted(at=seen), rehearsal("x", 17.0), "the rehearsal x expects seconds 17.0 s, and 16.0 s were approved"),
        (wanted(at=seen), rehearsal("x", blocks_reads=30.0), "expects blocks reads 30.0 s, and 1.1 s were approved"),
    ):
        held, void = look(people, where, today, seen=found)
        assert held == [] and why in void[0], (why, void)
    assert look(people, where, wanted("MEDIUM", at=seen), seen=seen)[0], "a lower risk is within what was approved"


def test_what_was_declared_as_a_budget_is_what_is_approved() -> None:
    declared = {**rehearsal(), "budget": {"seconds": 11, "blocks_reads": True, "disk_bytes": 5}}
    assert approvals.budget_of(declared) == {"seconds": 11.0, "blocks_reads": 1.15, "blocks_writes": 1.3}
    assert approvals.budget_of(None) is None


def test_a_budget_below_the_forecast_voids_no_approval_of_the_very_rehearsal(people: People, tmp_path: Path) -> None:
    """A version may declare more for itself than the environment allows all others."""
    seen = {**rehearsal(blocks_reads=20.0), "budget": {"blocked_reads_s": 5, "duration_s": 8}}
    assert approvals.budget_of(seen) == {"seconds": 16.0, "blocks_reads": 31.0, "blocks_writes": 1.3}
    where = approve(people, tmp_path / "approvals", place=wanted(at=seen)).parent
    assert look(people, where, seen=seen) == (["carol@hospital.org"], [])


def test_a_blank_cheque_does_not_hold(people: People, tmp_path: Path) -> None:
    where = approve(people, tmp_path / "approvals", hours=approvals.LONGEST_HOURS).parent
    assert look(people, where)[0]
    where = approve(people, tmp_path / "more", hours=approvals.LONGEST_HOURS + 1).parent
    held, void = look(people, where)
    assert held == [] and "holds until 2027-02-21T13:00:00Z, and an approval ends after 92 days" in void[0], void


def test_an_approval_from_before_the_rehearsal_does_not_hold_after_it(people: People, tmp_path: Path) -> None:
    where = approve(people, tmp_path / "approvals", place=wanted()).parent
    assert look(people, where)[0] == ["carol@hospital.org"]
    assert "it was given before there was a rehearsal" in look(people, where, seen=rehearsal())[1][0]


def test_an_approval_expires(people: People, tmp_path: Path) -> None:
    where = approve(people, tmp_path / "approvals", hours=2).parent
    assert look(people, where, now=NOW + timedelta(minutes=119))[0]
    held, void = look(people, where, now=NOW + timedelta(hours=2))
    assert held == [] and "has expired at 2026-11-21T14:00:00Z" in void[0]


def test_the_key_of_somebody_else_does_not_count(people: People, tmp_path: Path) -> None:
    where = approve(people, tmp_path / "approvals", "mallory").parent
    held, void = look(people, where)
    assert held == [] and "is signed with a key that" in void[0] and "does not allow" in void[0]


def test_a_signature_of_another_namespace_does_not_count(people: People, tmp_path: Path) -> None:
    where = approve(people, tmp_path / "approvals", namespace="git").parent
    held, void = look(people, where)
    assert held == [] and "is signed for another purpose than" in void[0], void


def test_what_was_changed_after_it_was_signed_does_not_count(people: People, tmp_path: Path) -> None:
    file = approve(people, tmp_path / "approvals")
    document = json.loads(file.read_text())
    for change in ({"expires": "2036-01-01T00:00:00Z"}, {"places": [wanted(sql="ab")]}, {"role": "executive"}):
        file.write_text(json.dumps({**document, "statement": {**document["statement"], **change}}))
        held, void = look(people, file.parent, seen=rehearsal())
        assert held == [] and "was changed after it was signed" in void[0], (change, void)
    file.write_text(json.dumps({"statement": document["statement"]}))
    assert "is no approval that can be read" in look(people, file.parent)[1][0]


@pytest.mark.parametrize(
    "places", ["x", [{}], [{**wanted(), "versions": 1}], [{**wanted(), "risk": "SMALL"}], [{**wanted(), "budget": []}]]
)
def test_nonsense_that_somebody_has_signed_is_no_approval(people: People, tmp_path: Path, places: Any) -> None:
    made = {**approvals.statement("production", "cto", [], NOW, 24), "places": places}
    signed = signature.sign(signature.canonical(made), people.key("carol"), approvals.NAMESPACE)
    file = approvals.store(tmp_path / "approvals", made, signed)
    held, void = look(people, file.parent, seen=rehearsal())
    assert held == [] and "is no approval that can be read" in void[0]


def test_a_key_whose_time_is_over_does_not_count(people: People, tmp_path: Path) -> None:
    where = approve(people, tmp_path / "approvals").parent
    over = people.signers("cto", "carol", options='valid-before="20200101"')
    held, void = look(people, where, signers=over)
    assert held == [] and len(void) == 1, void


def test_the_approval_of_one_role_is_none_of_another(people: People, tmp_path: Path) -> None:
    file = approve(people, tmp_path / "approvals")
    renamed = file.rename(file.with_name(file.name.replace("cto", "executive")))
    held, void = look(people, renamed.parent, role="executive", signers=people.signers("executive", "carol"))
    assert held == [] and "is signed for the role cto" in void[0]


def test_another_environment_host_or_database_is_another_approval(people: People, tmp_path: Path) -> None:
    where = approve(people, tmp_path / "approvals", environment="staging").parent
    assert "is for staging" in look(people, where)[1][0]
    other = approve(people, tmp_path / "other", place={**wanted(), "host": "db2"}).parent
    assert "is not for white_cross on db1" in look(people, other)[1][0]


def test_two_roles_need_two_keys(people: People, tmp_path: Path) -> None:
    where = tmp_path / "approvals"
    roles = ["cto", "database_admin"]
    signers = {role: people.signers(role, "carol", "dana") for role in roles}

    def both() -> list[str]:
        found = approvals.find(
            where, environment="production", wanted=wanted(at=rehearsal()), rehearsal=rehearsal(), roles=roles, signers=signers, now=NOW
        )[0]  # fmt: skip
        return [one.role for one in approvals.distinct(found, roles)]

    approve(people, where, "carol", "cto")
    approve(people, where, "carol", "database_admin")
    assert both() == ["cto"]
    approve(people, where, "dana", "cto")
    assert both() == roles, "dana is the one, and carol the other"


def test_many_approvals_of_the_same_people_are_judged_in_a_moment() -> None:
    roles = ["a", "b", "c", "d"]
    held = [approvals.Approval(role, "x", f"key {number % 3}", "", "", "") for role in roles for number in range(300)]
    assert len(approvals.distinct(held, roles)) == 3


@pytest.mark.parametrize(
    ("level", "roles"),
    [
        ("LOW", ["database_admin"]), ("MEDIUM", ["tech_lead", "database_admin"]), ("HIGH", ["cto", "database_admin"]), ("CRITICAL", ["executive"]),
    ],
)  # fmt: skip
def test_each_level_has_its_roles(level: str, roles: list[str]) -> None:
    assert approvals.roles_of(level) == roles
    assert approvals.roles_of(level, {level: ["owner"]}) == ["owner"]
    for wrong in ({"SMALL": ["cto"]}, {level: []}, {level: "cto"}, {level: ["../x"]}):
        with pytest.raises(PgopsError, match="gate_roles has"):
            approvals.roles_of(level, wrong)


def test_a_key_with_a_passphrase_is_used_through_an_agent_and_never_asked_for(people: People, tmp_path: Path) -> None:
    began = time.monotonic()
    locked = people.key("grace", passphrase="sesame open")
    with pytest.raises(PgopsError, match="has a passphrase, which is not asked for here") as refused:
        signature.sign(b"x", locked, approvals.NAMESPACE)
    assert time.monotonic() - began < signature.SIGN_TIMEOUT_S
    assert f"approve_key={locked}.pub" in str(refused.value.hint)
    with pytest.raises(PgopsError, match="is no file of this machine"):
        signature.sign(b"x", str(tmp_path / "nothing"), approvals.NAMESPACE)


def test_an_agent_signs_for_a_public_key(people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people.key("carol")
    agent = people.agent()
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(people.socket))
        private = Path(people.key("carol"))
        people.add("carol")
        private.rename(tmp_path / "away")
        signed = signature.sign(b"x", people.folder.joinpath("carol.pub").as_posix(), approvals.NAMESPACE)
        (tmp_path / "away").rename(private)
        assert (
            signature.verify(b"x", signed, people.signers("cto", "carol"), approvals.NAMESPACE).principal
            == "carol@hospital.org"
        )
    finally:
        agent.kill()
        agent.wait()


def test_a_file_that_others_may_write_says_nothing_about_who_may_sign(people: People, tmp_path: Path) -> None:
    where = approve(people, tmp_path / "approvals").parent
    file = people.signers("cto", "carol")
    Path(file).chmod(0o666)
    with pytest.raises(PgopsError, match="Others than its owner may write"):
        look(people, where, signers=file)
    for text, why in (("# nobody\n", "names nobody"), (None, "cannot be read")):
        Path(file).write_text(text) if text else Path(file).unlink()
        if text:
            Path(file).chmod(0o600)
        with pytest.raises(PgopsError, match=why):
            look(people, where, signers=file)
