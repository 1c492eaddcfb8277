-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- What PostgreSQL's own log has of the sessions of a run, from warnings on; no statement, no value. Its files are read in pieces, not by
-- this query alone.
-- Server log
-- Needs: run
SELECT %(run)s AS run
