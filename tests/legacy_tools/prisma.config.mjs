// Copyright (c) 2026 White Cross pgops contributors
// SPDX-License-Identifier: GPL-3.0-or-later
// Prisma's schema engine as WebAssembly, which the package contains: the native one would be loaded from binaries.prisma.sh.
import { PrismaPg } from '@prisma/adapter-pg';

const { PGHOST: host, PGPORT: port, PGUSER: user, PGDATABASE: database } = process.env;

export default {
  schema: 'prisma/schema.prisma',
  engine: 'js',
  experimental: { adapter: true },
  adapter: async () => new PrismaPg({ host, port: Number(port), user, database }),
};
