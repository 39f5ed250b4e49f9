"""What the workers of a trial say to have in hand, read from their heartbeat files again and again."""

import json
import threading
from collections import defaultdict
from pathlib import Path

PLACES = ("omworker-*", "omray-*/omworker-*")  # of Ray's workers; in a Ray that was started for the run
PAUSE = 0.004  # seconds; a unit takes ten times as long


class Watcher:
    """Counts, while it is entered, how often a unit was begun by another worker: what a kill made necessary."""

    def __init__(self, run: Path, temp: Path) -> None:
        self._run, self._temp = run, temp
        self._begun: dict[str, set[int]] = defaultdict(set)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    @property
    def redone(self) -> int:
        """Units that were begun again, once for each time."""
        return sum(len(pids) - 1 for pids in self._begun.values())

    def excess(self, allowed: int) -> list[str]:
        """What is wrong if more units were begun again than so many workers were lost."""
        again = {about: sorted(pids) for about, pids in self._begun.items() if len(pids) > 1}
        return (
            [f"{self.redone} units redone, {allowed} workers lost: {again}"] if self.redone > allowed else []
        )

    def _watch(self) -> None:
        while not self._end.wait(PAUSE):
            of_ray = (path for place in PLACES for path in self._temp.glob(f"{place}/heartbeat.json"))
            for path in (self._run / ".heartbeat.json", *of_ray):
                try:
                    beat = json.loads(path.read_text())
                except (OSError, ValueError):
                    continue
                if " unit " in beat["about"] and ";" not in beat["about"] and beat["ids"]:
                    self._begun[beat["about"]].add(beat["pid"])
