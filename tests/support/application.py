# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An application behind http or https on loopback: it notes what it is asked, and answers as a test wants."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Application:
    """`with Application() as application:` then `application.url`, `.asked` (`"POST /drain"`), `.headers`, `.bodies`.

    `application.answers["/health"]` is the status there (200 else) or a list of statuses, one a request; `.body` is what it says;
    `.drip_s` are the seconds between two bytes of that.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.answers: dict[str, Any] = {}
        self.body = b"{}"
        self.drip_s = 0.0
        application = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                application.bodies.append(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
                application.asked.append(f"{self.command} {self.path}")
                application.headers.append(dict(self.headers))
                status = application.answers.get(self.path.partition("?")[0], 200)
                if isinstance(status, list):
                    status = status.pop(0)
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(application.body)))
                self.end_headers()
                try:
                    for number in range(len(application.body)):
                        time.sleep(application.drip_s)  # a slow application
                        self.wfile.write(application.body[number : number + 1])
                except OSError:
                    return  # whoever asked has gone

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def certificate(folder: Path) -> Path:
    """A self-signed certificate of 127.0.0.1 with its key, as PEM in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "application")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "application.pem"
    file.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return file
