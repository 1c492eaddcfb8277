// Copyright (c) 2026 White Cross pgops contributors
// SPDX-License-Identifier: GPL-3.0-or-later
// Loaded before a tool: whatever it wants of the world beyond this machine (an engine, a ping home) ends in an error.
'use strict';
const net = require('net');

const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function (...given) {
  const [options] = Array.isArray(given[0]) ? given[0] : given;
  const host = typeof options === 'object' ? options.host : given[1];
  const local = typeof options === 'object' && options.path;
  if (!local && !['127.0.0.1', '::1', 'localhost', undefined].includes(host)) {
    throw new Error(`loopback_only.js: no connection to ${host}`);
  }
  return connect.apply(this, given);
};
