-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT x.extname AS extension, x.extversion AS version, a.default_version AS available
  FROM pg_catalog.pg_extension x JOIN pg_catalog.pg_available_extensions a ON a.name = x.extname
 WHERE x.extversion <> a.default_version
 ORDER BY 1
