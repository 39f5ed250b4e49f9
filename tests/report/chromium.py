"""Headless Chromium, driven by its DevTools protocol over a pipe: what a page shows, logs, requests and does.

Only what the report's tests need, with the standard library alone. The browser reads commands from its file descriptor
3 and writes to 4, each message JSON with a NUL byte behind it.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--mute-audio",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--force-color-profile=srgb", "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE = 30.0  # seconds for one answer
SAFE_FD = 10  # pipes are moved above the two numbers that the browser wants


def find_browser() -> str | None:
    """The path of an installed browser, None without one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Seen:
    """What happened on the page since it was opened: console texts and log entries, thrown errors, URLs asked for."""

    console: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


class Chromium:
    """One browser with one page; use it in a `with` block."""

    def __init__(self, path: str) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="omnimask-chromium-", ignore_cleanup_errors=True)
        to_child, self._write = _high_pipe()
        self._read, from_child = _high_pipe()

        def place() -> None:
            os.dup2(to_child, 3)
            os.dup2(from_child, 4)

        self._process = subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={self._profile.name}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(3, 4),
            preexec_fn=place,  # noqa: PLW1509 (two system calls, between fork and exec)
        )
        os.close(to_child)
        os.close(from_child)
        self._buffer, self._number, self._session = b"", 0, ""
        self.seen = Seen()
        self._loaded = False

    def __enter__(self) -> Self:
        page = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)
        os.close(self._read)
        os.close(self._write)
        self._profile.cleanup()

    def open(self, page: Path) -> Seen:
        """Load a file; what is seen of it fills up with every later call."""
        self.seen, self._loaded = Seen(), False
        self._send("Page.navigate", url=page.resolve().as_uri())
        self._until(lambda: self._loaded)
        self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
        return self.seen

    def look(self, *, width: int = 1280, height: int = 900, scheme: str = "light", media: str = "") -> None:
        """Set the window's size, the colour scheme, and the medium (`print`)."""
        self._send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._send("Emulation.setEmulatedMedia", media=media, features=features)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; AssertionError if it throws."""
        answer = self._send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, *, code: int, text: str = "") -> None:
        """One key: its name (`Tab`, `ArrowRight`, ` `), its Windows code, and what it types."""
        event = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
        down = "keyDown" if text else "rawKeyDown"
        self._send("Input.dispatchKeyEvent", type=down, text=text, **event)
        self._send("Input.dispatchKeyEvent", type="keyUp", **event)

    def screenshot(self, *, whole: bool = False) -> bytes:
        """The window, or the whole page, as PNG."""
        answer = self._send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

    def print_pdf(self) -> bytes:
        """The page as a printer gets it."""
        return base64.b64decode(self._send("Page.printToPDF", printBackground=True)["data"])

    def _send(self, method: str, **params: object) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message: dict[str, object] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answers: list[dict[str, Any]] = []

        def answered() -> bool:
            return any(answer.get("id") == number for answer in answers)

        self._until(answered, answers)
        answer = next(a for a in answers if a.get("id") == number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _until(self, done: Callable[[], bool], answers: list[dict[str, Any]] | None = None) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser did not answer"
            data = os.read(self._read, 1 << 20)
            assert data, "the browser has ended"
            *messages, self._buffer = (self._buffer + data).split(b"\0")
            for raw in messages:
                message = json.loads(raw)
                self._note(message.get("method"), message.get("params", {}))
                if answers is not None:
                    answers.append(message)

    def _note(self, method: str | None, params: dict[str, Any]) -> None:
        if method == "Runtime.consoleAPICalled":
            self.seen.console.append(" ".join(str(a.get("value")) for a in params["args"]))
        elif method == "Log.entryAdded":
            self.seen.console.append(f"{params['entry']['source']}: {params['entry']['text']}")
        elif method == "Runtime.exceptionThrown":
            self.seen.errors.append(params["exceptionDetails"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.seen.errors.append(f"dialog: {params['message']}")
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            self.seen.requests += [] if url.startswith("data:") else [url]
        elif method == "Page.loadEventFired":
            self._loaded = True


def _high_pipe() -> tuple[int, int]:
    """A pipe whose ends have numbers above those that the child gets."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, SAFE_FD) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]
