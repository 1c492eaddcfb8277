# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A network between a client and its server that can be cut."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self


class Network:
    """Forwards TCP from a port of its own to a server's, until it is frozen or reset.

    :param watch: sees what clients send, when it is forwarded.
    :param lose_answer: sees it too, before; where it says yes the server gets it, and in the place of its answer the connection ends.
    """

    def __init__(
        self,
        host: str,
        port: int,
        watch: Callable[[Network, bytes], None] = lambda network, data: None,
        lose_answer: Callable[[bytes], bool] = lambda data: False,
    ) -> None:
        self._server = (host, port)
        self._watch = watch
        self._lose_answer = lose_answer
        self._stranded: set[socket.socket] = set()
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
        self.refuse()
        self.bury()

    def freeze(self) -> None:
        """Nothing comes through in either direction, and nobody is told."""
        self._open.clear()

    def thaw(self) -> None:
        """What was sent meanwhile arrives."""
        self._open.set()

    def reset(self) -> None:
        """Every connection ends at once."""
        for end in self._sockets:
            _end(end)
            end.close()
        self._sockets.clear()

    def refuse(self) -> None:
        """Every connection ends, and nobody gets another one."""
        # Shut down, since a thread that waits in accept would let one more in.
        _end(self._listener)
        self._listener.close()
        self.reset()

    def strand(self) -> None:
        """Every connection ends for its client; the server is told nothing until :meth:`bury`."""
        clients, servers = self._sockets[::2], self._sockets[1::2]
        self._sockets.clear()
        self._stranded.update(servers)
        for client in clients:
            _end(client)

    def bury(self) -> None:
        """The server hears of those who were stranded."""
        while self._stranded:
            _end(self._stranded.pop())

    def lead_to(self, host: str, port: int) -> None:
        """New connections go to another server."""
        self._server = (host, port)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._server)
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            lost = threading.Event()
            threading.Thread(target=self._forward, args=(client, server, True, lost), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, False, lost), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, from_client: bool, lost: threading.Event) -> None:
        try:
            while data := source.recv(65536):
                self._open.wait()
                if from_client and self._lose_answer(data):
                    lost.set()
                elif not from_client and lost.is_set():
                    break
                sink.sendall(data)
                if from_client:
                    self._watch(self, data)
        except OSError:
            pass
        for end in {source, sink} - self._stranded:
            _end(end)


def _end(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
