# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Chromium without a window, spoken to over two pipes (its DevTools protocol), so that nothing but itself is needed."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ANSWER_S = 60.0
_KEYS = {"Tab": 9, "Enter": 13}


def program() -> str:
    """:return: the browser of this machine."""
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    assert found, f"no browser is installed, none of {', '.join(PROGRAMS)}: run 'make packages-all'"
    return found


class Browser:
    """One page of one browser, and what it has said and asked for.

    :ivar said: errors and messages of its console.
    :ivar asked: the addresses that it has asked for.
    """

    def __init__(self, process: subprocess.Popen[bytes], reads: int, writes: int) -> None:
        self._process, self._reads, self._writes = process, reads, writes
        self._number, self._rest = 0, b""
        self._session: str | None = None
        self.said: list[str] = []
        self.asked: list[str] = []
        self._loaded = 0
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """:return: the answer to one command."""
        self._number += 1
        number = self._number
        told = {"id": number, "method": method, "params": parameters}
        if self._session:
            told["sessionId"] = self._session
        os.write(self._writes, json.dumps(told).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_S
        while True:
            message = self._message(deadline)
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return dict(message["result"])

    def open(self, address: str, *, width: int = 1100, height: int = 900, dark: bool = False) -> None:
        """Open a page at a width in CSS pixels, and wait until all of it is there."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.size(width, height)
        loaded = self._loaded
        self.ask("Page.navigate", url=address)
        deadline = time.monotonic() + ANSWER_S
        while self._loaded == loaded:
            self._message(deadline)

    def size(self, width: int, height: int) -> None:
        """Give the page a width and a height."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def value(self, expression: str) -> Any:
        """:return: what an expression of JavaScript gives."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, as a person at the keyboard does."""
        code = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **code, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **code)

    def shot(self, path: Path, height: int | None = None) -> None:
        """Keep what is seen as a picture."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], height or 1e9), "scale": 1}
        shown = self.ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shown["data"]))

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            left = deadline - time.monotonic()
            assert left > 0, f"the browser has not answered for {ANSWER_S:g} s"
            if select.select([self._reads], [], [], left)[0]:
                data = os.read(self._reads, 1 << 20)
                assert data, f"the browser has ended with {self._process.poll()}"
                self._rest += data
        line, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params") or {})
        return message

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded += 1
        elif method == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.said.append(str(told["exceptionDetails"].get("text")))
        elif method == "Runtime.consoleAPICalled":
            self.said.append(f"{told['type']}: {[item.get('value') for item in told['args']]}")
        elif method == "Log.entryAdded":
            self.said.append(f"{told['entry']['level']}: {told['entry']['text']}")


@contextmanager
def opened(folder: Path) -> Iterator[Browser]:
    """:param folder: for what it keeps while it runs. :return: a browser that finds no host by its name."""
    to_read, to_write = os.pipe(), os.pipe()
    command = [
        program(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank",
    ]  # fmt: skip

    def own() -> None:
        # It reads commands from 3 and answers on 4.
        given, answers = os.dup(to_write[0]), os.dup(to_read[1])
        os.dup2(given, 3)
        os.dup2(answers, 4)

    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False,
        preexec_fn=own,  # noqa: PLW1509 -- it only calls dup2
        env={**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)},
    )  # fmt: skip
    os.close(to_write[0])
    os.close(to_read[1])
    try:
        yield Browser(process, to_read[0], to_write[1])
    finally:
        os.close(to_write[1])
        os.close(to_read[0])
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
