"""The right to work on something, on a store that knows no locks: an object that names its holder, who renews it.

A holder that is dead on this machine, or has not renewed for a while, has lost it. Clocks of machines are never
compared: who waits looks whether the object changes. A holder that was only frozen may work on, beside the new one, so
what it makes must be harmless: first commit wins.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pipeline.engine.machine import machine, process_start
from pipeline.engine.objects import Objects

EXPIRES_SECONDS = 60.0
LOOK_SECONDS = 1.0
RENEWALS = 6  # in the time in which it would expire


class Lease:
    """A lease by the name of its object."""

    def __init__(self, objects: Objects, name: str) -> None:
        self._objects, self._name = objects, name
        self._id, self._beat = uuid.uuid4().hex, 0
        self._seen: tuple[bytes, float] = (
            b"",
            0.0,
        )  # what another holder last wrote, and since when it stands
        self._ended = threading.Event()

    @contextmanager
    def held(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold it; `waiting` is called again and again while another does."""
        while not self.take():
            waiting()
            time.sleep(LOOK_SECONDS)
        renewer = threading.Thread(target=self._renew, daemon=True)
        renewer.start()
        try:
            yield
        finally:
            self._ended.set()
            renewer.join()
            with suppress(OSError):  # then it runs out by itself
                if self.is_ours():
                    self._objects.remove(self._name)

    def is_ours(self) -> bool:
        """Whether nobody has taken it over."""
        return _holder(self._objects.read(self._name) or b"").get("id") == self._id

    def take(self) -> bool:
        """Take it if nobody else holds it; whether it is ours."""
        if self._objects.create(self._name, self._text()):
            return True
        there = self._objects.read(self._name)
        if there is None or not self._is_stale(there):
            return False
        return self._objects.replace(self._name, there, self._text())

    def _is_stale(self, there: bytes) -> bool:
        now = time.monotonic()
        if there != self._seen[0]:
            self._seen = (there, now)
        holder = _holder(there)
        if holder.get("machine") == machine() and process_start(int(holder["pid"])) != holder["start"]:
            return True
        return now - self._seen[1] > EXPIRES_SECONDS

    def _text(self) -> bytes:
        pid = os.getpid()
        content = {
            "id": self._id,
            "machine": machine(),
            "pid": pid,
            "start": process_start(pid),
            "beat": self._beat,
        }
        return json.dumps(content).encode()

    def _renew(self) -> None:
        while not self._ended.wait(EXPIRES_SECONDS / RENEWALS):
            try:
                there = self._objects.read(self._name) or b""
                if _holder(there).get("id") != self._id:
                    return
                self._beat += 1
                self._objects.replace(self._name, there, self._text())
            except OSError:
                continue  # the network may be back in time; if not, another takes over


def _holder(content: bytes) -> dict[str, str | int]:
    """Who holds it; nothing if it is damaged."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and {"id", "machine", "pid", "start"} <= found.keys() else {}
