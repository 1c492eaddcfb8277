# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Comments and privileges of what a step makes itself are told from those of what may have been there before."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import own_objects

MADE = [
    {"sql": "CREATE TABLE public.rooms (id integer)", "creates": {"kind": "table", "schema": "public", "name": "rooms"}},
    {"sql": 'CREATE TABLE public."Beds" (id integer)', "creates": {"kind": "table", "schema": "public", "name": "Beds"}},
    {"sql": "ALTER TABLE public.users ADD COLUMN nick text",
     "creates": {"kind": "column", "schema": "public", "table": "users", "name": "nick"}},
]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "COMMENT ON TABLE public.rooms IS 'x'",
        "-- why\nCOMMENT ON TABLE PUBLIC.ROOMS IS 'x'",
        "COMMENT ON COLUMN public.rooms.id IS 'x'",
        'COMMENT ON COLUMN "public"."Beds".id IS NULL',
        "COMMENT ON COLUMN public.users.nick IS 'x'",
        "COMMENT ON CONSTRAINT rooms_pkey ON public.rooms IS 'x'",
        'GRANT SELECT ON TABLE public.rooms, public."Beds" TO nurse',
        "REVOKE ALL ON public.rooms FROM PUBLIC",
    ],
)
def test_of_its_own(text: str) -> None:
    assert own_objects.only([{"sql": text}], MADE) == [item["creates"] for item in MADE]


@pytest.mark.parametrize(
    "text",
    [
        "COMMENT ON TABLE public.users IS 'x'",
        "COMMENT ON COLUMN public.users.name IS 'x'",
        "COMMENT ON TABLE public.beds IS 'x'",
        "COMMENT ON TABLE rooms IS 'x'",
        "COMMENT ON SCHEMA public IS 'x'",
        "COMMENT ON FUNCTION public.rooms() IS 'x'",
        "GRANT SELECT ON public.rooms, public.users TO nurse",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO nurse",
        "GRANT white_cross_nurse TO app",
        "DO $$ BEGIN EXECUTE 'COMMENT ON TABLE public.users IS NULL'; END $$",
    ],
)
def test_of_what_may_have_been_there(text: str) -> None:
    assert own_objects.only([{"sql": text}], MADE) is None


def test_what_the_catalog_is_not_asked_for_may_have_been_there() -> None:
    made = [*MADE, {"sql": "CREATE CAST …", "creates": {"kind": "cast", "name": "x"}}]
    assert own_objects.only([{"sql": "COMMENT ON TABLE public.rooms IS 'x'"}], made) is None
