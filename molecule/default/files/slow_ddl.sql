-- Copyright (c) 2026 White Cross pgops contributors
-- SPDX-License-Identifier: GPL-3.0-or-later
-- Holds the third migration in the middle of its transaction, so that the kill always meets the same moment.
CREATE SCHEMA molecule;
CREATE FUNCTION molecule.hold() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
  IF to_regclass('public.incident_reports') IS NOT NULL THEN
    PERFORM pg_sleep(60);
  END IF;
END $$;
CREATE EVENT TRIGGER molecule_hold ON ddl_command_end EXECUTE FUNCTION molecule.hold();
