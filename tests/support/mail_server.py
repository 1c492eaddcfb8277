# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mail server on loopback that keeps what it was given, with STARTTLS and a password where a test wants them."""

from __future__ import annotations

import base64
import socketserver
import ssl
import subprocess
import threading
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from types import TracebackType
from typing import Self


def certificate(folder: Path, host: str = "127.0.0.1") -> tuple[Path, Path]:
    """:return: a certificate for this address that is its own authority, and its key."""
    made, key = folder / "mail.pem", folder / "mail.key"
    name = f"subjectAltName=IP:{host}" if host[0].isdigit() else f"subjectAltName=DNS:{host}"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=mail", "-addext", name,
         "-keyout", str(key), "-out", str(made)],
        check=True, capture_output=True,
    )  # fmt: skip
    return made, key


class MailServer:
    """`with MailServer() as server:` then `server.port`, `server.mails`; `server.password` asks for one, `server.answer` is to the mail."""

    def __init__(self, tls: tuple[Path, Path] | None = None, password: str | None = None) -> None:
        self.mails: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.encrypted: list[bool] = []
        self.answer = "250 taken"
        server = self
        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*map(str, tls))

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                stream, encrypted, known = self.request.makefile("rwb"), False, password is None

                def say(text: str) -> None:
                    stream.write(f"{text}\r\n".encode())
                    stream.flush()

                say("220 mail")
                while line := stream.readline().decode().strip():
                    word = line.upper()
                    if word.startswith(("EHLO", "HELO")):
                        offers = ["STARTTLS"] if context and not encrypted else ["AUTH PLAIN"] if password else []
                        for offer in ["mail", *offers]:
                            say(f"250-{offer}")
                        say("250 ok")
                    elif word == "STARTTLS" and context:
                        say("220 go on")
                        try:
                            wrapped = context.wrap_socket(self.request, server_side=True)
                        except OSError:  # the client does not trust us
                            return
                        stream, encrypted = wrapped.makefile("rwb"), True
                    elif word.startswith("AUTH PLAIN"):
                        given = base64.b64decode(line.split()[2]).decode().split("\0")[2]
                        known = given == password
                        say("235 in" if known else "535 no")
                    elif word.startswith("RCPT") and not known:
                        say("530 who are you")
                    elif word.startswith("RCPT"):
                        server.recipients.append(line.partition("<")[2].rstrip(">"))
                        say("250 ok")
                    elif word == "DATA":
                        say("354 go on")
                        lines = []
                        while (text := stream.readline()) != b".\r\n":
                            lines.append(text[1:] if text.startswith(b"..") else text)
                        mail = message_from_bytes(b"".join(lines), policy=policy.default)
                        assert isinstance(mail, EmailMessage)
                        server.mails.append(mail)
                        server.encrypted.append(encrypted)
                        say(server.answer)
                    elif word == "QUIT":
                        say("221 bye")
                        return
                    else:
                        say("250 ok")

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
