# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A network between a client and its server that can be cut."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Self


class Network:
    """Forwards TCP from a port of its own to a server's, until it is frozen or reset.

    :param watch: sees what clients send, before it is forwarded.
    """

    def __init__(
        self, host: str, port: int, watch: Callable[[Network, bytes], None] = lambda network, data: None
    ) -> None:
        self._server = (host, port)
        self._watch = watch
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open = threading.Event()
        self._open.set()
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.set()
        self._listener.close()
        self.reset()

    def freeze(self) -> None:
        """Nothing comes through in either direction, and nobody is told."""
        self._open.clear()

    def thaw(self) -> None:
        """What was sent meanwhile arrives."""
        self._open.set()

    def reset(self) -> None:
        """Every connection ends at once."""
        for end in self._sockets:
            end.close()
        self._sockets.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
            except OSError:
                return
            self._sockets += [client, server]
            threading.Thread(target=self._forward, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, False), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, from_client: bool) -> None:
        try:
            while data := source.recv(65536):
                self._open.wait()
                sink.sendall(data)
                if from_client:
                    self._watch(self, data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
