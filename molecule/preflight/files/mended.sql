-- Copyright (c) 2026 White Cross pgops contributors
-- SPDX-License-Identifier: GPL-3.0-or-later
-- What a person has to decide; the rest is typed as preflight says it.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name IN ('molecule holder', 'molecule waiter');
ROLLBACK PREPARED 'forgotten';
ALTER TABLE public.notes ADD PRIMARY KEY (line);
SELECT setval('public.counted', 1);
DROP ROLE bygone;
DROP ROLE almighty;
ALTER SYSTEM RESET ALL;
