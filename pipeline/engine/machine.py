"""What the engine knows of the machine and its processes: who runs where, versions, threads, signs of life."""

import ctypes
import hashlib
import importlib
import importlib.util
import json
import os
import platform
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

import psutil

PACKAGES = (
    "omnimask", "torch", "torchvision", "transformers", "segment-anything", "open_clip_torch",
    "numpy", "scipy", "pyarrow", "pillow", "pycocotools", "hotcoco",
)  # fmt: skip
ENDED = "ZX"  # states of proc(5) in which a process does nothing any more
START = 18  # its `starttime`, counted from the field after the state
PR_SET_PDEATHSIG = 1  # of prctl(2)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def host() -> str:
    """The machine's name, without the characters that our temp file names use as separators."""
    return "".join(c for c in socket.gethostname() if c.isalnum() or c == ".") or "localhost"


@cache
def machine() -> str:
    """A name of this machine since it was started, or of the container that has process ids of its own: machines may be
    called alike.
    """
    boot, ids = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    known = f"{boot.read_text()}{ids.stat().st_ino}" if boot.exists() and ids.exists() else ""
    return f"{host()}.{hashlib.sha256(known.encode()).hexdigest()[:8]}"


def process_start(pid: int) -> int | None:
    """When a process of this machine started, in clock ticks since boot (0 where `/proc` does not tell); None if
    it is gone. One that has ended, and only waits for its parent to take notice, is gone.
    """
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _start_by_signal(pid)
    return None if state in ENDED else int(numbers[START])


def _start_by_signal(pid: int) -> int | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0
    return 0


@cache
def memory_of_machine() -> int:
    """Bytes of memory that this machine, or the container we are in, has."""
    limit = Path("/sys/fs/cgroup/memory.max")  # of control groups, version 2
    allowed = limit.read_text().strip() if limit.exists() else "max"
    total = psutil.virtual_memory().total
    return min(total, int(allowed)) if allowed.isdecimal() else total


@cache
def versions() -> Mapping[str, str]:
    """Versions of Python and of the packages that results depend on; a package that is not installed is left
    out.
    """
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def die_with_parent() -> None:
    """Have the kernel end this process with the thread that started it (Linux only): a process that is stopped, or that
    native code keeps from running Python, sees no pipe close.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def announce_threads(count: int) -> None:
    """Set the thread count for native libraries that are not loaded yet; only ever called in a worker
    process.
    """
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(count)


def load_torch() -> None:
    """Import torch if it is installed, for a process that cannot announce threads: other code runs in it too."""
    if importlib.util.find_spec("torch") is not None:
        importlib.import_module("torch")


def apply_threads(count: int) -> None:
    """Set torch's thread count, if the stage has imported torch."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)


Name = int | str  # of an image in hand: its id, or at ingest, where it has none yet, its entry


class Heartbeat:
    """A small file that names the images a worker has in hand, so that a crash can be traced to them.

    It survives the worker's death because each change is written at once; it is no run output and is not
    synced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ids: set[Name] = set()
        self._about = ""
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    def begin(self, about: str) -> None:
        """Name the unit or job that starts now; no image is in hand yet."""
        with self._lock:
            self._about = about
            self._ids.clear()
            self._write()

    def take(self, image_ids: Iterable[Name]) -> None:
        """These images are in hand from now on."""
        with self._lock:
            self._ids.update(image_ids)
            self._write()

    def drop(self, image_ids: Iterable[Name]) -> None:
        """These images are done with."""
        with self._lock:
            self._ids.difference_update(image_ids)
            self._write()

    def _write(self) -> None:
        text = json.dumps(
            {"pid": os.getpid(), "host": host(), "about": self._about, "ids": sorted(self._ids, key=str)}
        )
        temp = self.path.with_suffix(".new")
        temp.write_text(text)
        temp.replace(self.path)


def images_in_hand(heartbeat: Path) -> frozenset[Name]:
    """The images a worker last wrote to its heartbeat file; empty if there is none."""
    if not heartbeat.exists():
        return frozenset()
    return frozenset(json.loads(heartbeat.read_text())["ids"])
