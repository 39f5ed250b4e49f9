"""What clears up after a Ray that was started here: `python -m pipeline.engine.ray_reaper FOLDER`.

It waits until its standard input closes, which is when the driver ends, however it ends. Ray's own processes then end
by themselves, some of them only after a minute or two; those that are left after a moment are killed.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "OMNIMASK_RAY"  # names the folder in the environment of all that belongs to one Ray
GRACE_SECONDS = 1.0
TRIES = 20


def start_reaper(folder: Path) -> "subprocess.Popen[bytes]":
    """The process that clears up after the Ray which works in `folder`, once this process ends or closes its pipe."""
    os.environ[MARK] = str(folder)
    command = [sys.executable, "-m", __name__, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def main() -> None:
    """Wait, then clear up."""
    folder = Path(sys.argv[1])
    sys.stdin.buffer.read()
    for _ in range(TRIES):
        left = list(_left(folder))
        if not left:
            break
        psutil.wait_procs(left, timeout=GRACE_SECONDS)
        for process in left:
            with suppress(psutil.Error):
                process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def _left(folder: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            # The driver may still live, having closed the pipe, and keeps a log there too.
            if process.pid not in (os.getpid(), os.getppid()) and _belongs(process, str(folder)):
                yield process


def _belongs(process: psutil.Process, folder: str) -> bool:
    # Ray's processes give themselves titles, which overwrites their environment; but they write logs. Who only reads
    # these is somebody else.
    marked = process.environ().get(MARK) == folder
    return marked or any(
        file.path.startswith(f"{folder}/") and getattr(file, "mode", "") != "r"
        for file in process.open_files()
    )


if __name__ == "__main__":
    main()
