# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Which statements are watched for changes of privileges, comments and functions, told from their text."""

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import attributes_before

LEAVES_ALONE = [
    "INSERT INTO t (a) VALUES ('do not GRANT this') ON CONFLICT (a) DO NOTHING",
    "INSERT INTO t (a) VALUES (1) ON CONFLICT (a) DO\n  UPDATE SET a = excluded.a",
    "UPDATE t SET a = E'it\\'s a SELECT' WHERE b = 'DROP'",
    'ALTER TABLE t ADD COLUMN "DO" int -- REVOKE nothing\n',
    "/* CALL nobody */ ALTER TABLE t ADD CHECK (a <> 'it''s; SELECT')",
]
MAY_CHANGE = [
    "DO $$ BEGIN EXECUTE 'GRANT SELECT ON t TO nurse'; END $$",
    "DO LANGUAGE plpgsql 'BEGIN NULL; END'",
    "INSERT INTO t SELECT open_to_all()",
    "ALTER TABLE t ALTER a SET DEFAULT $x$it's$x$; GRANT SELECT ON t TO nurse",
    "INSERT INTO t VALUES ('it''s'); REVOKE ALL ON t FROM nurse",
    "-- it's\nGRANT SELECT ON t TO nurse",
    "COMMENT ON TABLE t IS 'x'",
]


def active(statement: str) -> bool:
    return attributes_before.up([{"sql": statement}], [], {}).active


@pytest.mark.parametrize("statement", LEAVES_ALONE)
def test_words_inside_strings_names_and_comments_change_nothing(statement):
    assert not active(statement)


@pytest.mark.parametrize("statement", MAY_CHANGE)
def test_a_word_that_may_change_something_is_seen(statement):
    assert active(statement)
