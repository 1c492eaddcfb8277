// Copyright (c) 2026 White Cross pgops contributors
// SPDX-License-Identifier: GPL-3.0-or-later
// The password comes from the file that PGPASSFILE names.
'use strict';
const { PGHOST: host, PGPORT: port, PGUSER: username, PGDATABASE: database } = process.env;

module.exports = { dialect: 'postgres', host, port, username, database, logging: false };
