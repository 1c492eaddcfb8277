# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Is the application that uses the database well: it is asked at an address, and its status code is believed."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

# Long enough for an application that has to ask its database, short enough for a look that is made twice a run.
TIMEOUT_S = 5.0


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirect is no answer: behind it stands a login page as often as the application."""

    def redirect_request(self, *_args: Any, **_keywords: Any) -> None:
        return None


def ask(url: str, *, timeout: float = TIMEOUT_S) -> tuple[bool, str]:
    """GET an address; what it answers beside its status code is not read, since it may be anything.

    :param url: http or https; certificates are checked as the machine's own store says
    :param timeout: seconds without an answer
    :return: whether the status is 2xx, and a sentence without the query of the address
    """
    try:
        parts = urllib.parse.urlsplit(url)
        told = f"{parts.scheme}://{parts.netloc}{parts.path}"
        if "@" in parts.netloc:
            return False, "preflight_health_url has a user in it; ask at an address that needs none"
        if parts.scheme not in ("http", "https") or not parts.netloc:
            return False, "preflight_health_url is no address that begins with http:// or https://"
        # A proxy is for the world outside; the application is asked itself.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay())
        with opener.open(url, timeout=timeout) as answer:
            status = int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            status = error.code
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return False, f"{told} has not answered for {timeout:g} s"
        return False, f"{told} does not answer: {getattr(reason, 'strerror', None) or reason}"
    except (ValueError, http.client.HTTPException) as error:  # an address or an answer that is none
        return False, f"preflight_health_url cannot be asked ({type(error).__name__})"
    return 200 <= status < 300, f"{told} answers {status}"
