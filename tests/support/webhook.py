# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A webhook on loopback that keeps what it was told, and answers as a test wants."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class Webhook:
    """`with Webhook() as hook:` then `hook.url`, `hook.texts`; `hook.status`, `hook.headers` and `hook.delay_s` are its answer."""

    # Stands for the part of the address that whoever knows it may write with.
    SECRET = "T0hunter2"

    def __init__(self) -> None:
        self.texts: list[str] = []
        # What each request carried, to the byte.
        self.bodies: list[bytes] = []
        self.received: list[dict[str, str]] = []
        self.content_types: list[str] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.delay_s = 0.0
        self._over = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.bodies.append(body)
                hook.received.append({name: str(value) for name, value in self.headers.items()})
                hook.texts.append(json.loads(body)["text"])
                hook.content_types.append(str(self.headers["Content-Type"]))
                hook._over.wait(hook.delay_s)
                self.send_response(hook.status)
                for name, value in hook.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                hook.texts.append("GET")
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/services/{self.SECRET}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
