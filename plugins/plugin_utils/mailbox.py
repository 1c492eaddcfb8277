# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sends a mail through the house's mail server: encrypted by itself, its password from a file, within a time limit."""

from __future__ import annotations

import os
import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.notification import NotNotified, in_time, secret_in

# A mail server greets late on purpose; a run waits so long and no longer.
TIMEOUT_S = 15.0
STARTTLS, TLS, NONE = "starttls", "tls", "none"
_PORTS = {STARTTLS: 587, TLS: 465, NONE: 25}
OPTIONS = ("to", "from", "host", "port", "tls", "ca_path", "user", "password_file")


@dataclass(frozen=True)
class Mailbox:
    """Who gets it, and through which server."""

    to: tuple[str, ...]
    sender: str
    host: str
    port: int
    tls: str
    ca_path: str | None = None
    user: str | None = None
    password_file: str | None = None

    @classmethod
    def of(cls, given: Any) -> Mailbox:
        """:param given: ``pgops_mail``. :raises NotNotified: it cannot be meant"""
        if not isinstance(given, Mapping):
            raise NotNotified(f"pgops_mail is a mapping of {', '.join(OPTIONS)}")
        unknown = sorted(set(map(str, given)) - set(OPTIONS))
        if unknown:
            raise NotNotified(f"pgops_mail has {', '.join(unknown)}, and takes only {', '.join(OPTIONS)}")
        to = [given["to"]] if isinstance(given.get("to"), str) else list(given.get("to") or [])
        sender = str(given.get("from") or f"pgops@{os.uname().nodename}")
        for address in (*to, sender):
            if "@" not in str(address) or any(letter.isspace() for letter in str(address)):
                raise NotNotified(f"pgops_mail names {address!r}, which is no address")
        if not to:
            raise NotNotified("pgops_mail names nobody in `to`")
        tls = str(given.get("tls") or STARTTLS)
        if tls not in _PORTS:
            raise NotNotified(f"pgops_mail has tls {tls}; it is one of {', '.join(_PORTS)}")
        if tls == NONE and (given.get("user") or given.get("password_file")):
            raise NotNotified("pgops_mail has a password and no TLS, so everybody on the way could read it")
        if bool(given.get("user")) != bool(given.get("password_file")):
            raise NotNotified("pgops_mail needs both or neither of user and password_file")
        return cls(
            to=tuple(map(str, to)), sender=sender, host=str(given.get("host") or "localhost"),
            port=int(given.get("port") or _PORTS[tls]), tls=tls,
            **{name: str(given[name]) for name in ("ca_path", "user", "password_file") if given.get(name)},
        )  # fmt: skip

    def send(self, text: str, headers: Mapping[str, str], *, threads: bool = True) -> None:
        """:param text: its first line is the subject as well. :param threads: as in_time has it. :raises NotNotified: the server did not take it"""
        password = (
            secret_in("pgops_mail.password_file", self.password_file, "it is a password")
            if self.password_file
            else None
        )
        message = EmailMessage()
        message["From"], message["To"] = self.sender, ", ".join(self.to)
        message["Subject"] = text.partition("\n")[0]
        message["Date"], message["Message-ID"] = formatdate(), make_msgid("pgops", self.sender.rpartition("@")[2])
        # Nobody's absence answers it.
        message["Auto-Submitted"] = "auto-generated"
        for name, value in headers.items():
            message[name] = value
        message.set_content(text + "\n")
        in_time("the mail server", lambda: self._deliver(message, password), TIMEOUT_S, threads)

    def _deliver(self, message: EmailMessage, password: str | None) -> str | None:
        """:return: why it was not taken."""
        try:
            context = ssl.create_default_context(cafile=self.ca_path) if self.tls != NONE else None
            with self._connect(context) as server:
                if self.tls == STARTTLS:
                    server.starttls(context=context)
                if self.user and password is not None:
                    server.login(self.user, password)
                refused = server.send_message(message)
            return f"the mail server refuses {', '.join(sorted(refused))}" if refused else None
        except smtplib.SMTPResponseException as error:
            return f"the mail server answered {error.smtp_code}"
        except smtplib.SMTPRecipientsRefused as error:
            return f"the mail server refuses {', '.join(sorted(error.recipients))}"
        except smtplib.SMTPNotSupportedError:
            # No TLS to begin, or no way to log in: what was asked for is not left out.
            return f"the mail server does not offer what tls={self.tls} and a password need"
        except smtplib.SMTPException as error:
            if isinstance(error.__context__, TimeoutError):
                return f"the mail server has not answered for {TIMEOUT_S:g} s"
            return f"the mail server broke off ({type(error).__name__})"
        except ssl.SSLError as error:
            return f"the certificate of the mail server is not trusted: {error.reason or type(error).__name__}"
        except TimeoutError:
            return f"the mail server has not answered for {TIMEOUT_S:g} s"
        except OSError as error:
            return f"the mail server does not answer: {error.strerror or type(error).__name__}"
        except Exception as error:  # noqa: BLE001 -- whatever it is, the run ended as it ended
            return f"the mail server cannot be used ({type(error).__name__})"

    def _connect(self, context: ssl.SSLContext | None) -> smtplib.SMTP:
        # Longer than anybody waits: which of the two comes first is not left to chance.
        limit = TIMEOUT_S + 5
        if self.tls == TLS:
            return smtplib.SMTP_SSL(self.host, self.port, timeout=limit, context=context)
        return smtplib.SMTP(self.host, self.port, timeout=limit)
