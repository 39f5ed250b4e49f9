"""What the workers of a trial say to have in hand, read from their heartbeat files again and again."""

import json
import threading
from collections import defaultdict
from pathlib import Path

PLACES = ("omworker-*", "omray-*/omworker-*")  # of Ray's workers; in a Ray that was started for the run
DELAYED = {"propose": "keys/01.txt", "pseudo_label": "keys/02.txt"}  # stages that take their time
PAUSE = 0.004  # seconds; a unit takes ten times as long


def heartbeats(run: Path, temp: Path, *, on_ray: bool) -> list[Path]:
    """The files in which the workers say what they have in hand; with Ray that of the run is its driver's summary."""
    if on_ray:
        return [path for place in PLACES for path in temp.glob(f"{place}/heartbeat.json")]
    return [run / ".heartbeat.json"]


def images_in_hand(paths: list[Path], pid: int) -> list[int]:
    """The images that a worker last said to have in hand."""
    beats = (json.loads(path.read_text()) for path in paths if path.exists())
    return next((beat["ids"] for beat in beats if beat["pid"] == pid), [])


class Watcher:
    """Counts, while it is entered, how often a unit was begun by another worker: what a kill made necessary."""

    def __init__(self, run: Path, temp: Path, *, on_ray: bool) -> None:
        self._run, self._temp, self._on_ray = run, temp, on_ray
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

    def wrong(self, lost: int) -> list[str]:
        """What is wrong at the end of a run that it has watched from its begin, with so many workers lost."""
        return [*self.excess(lost), *self.blind()]

    def blind(self) -> list[str]:
        """What is wrong if it has not seen most units of the stages that take their time."""
        lists = [self._run / keys for keys in DELAYED.values()]
        expected = sum(len(keys.read_text().split()) for keys in lists if keys.exists())
        seen = sum(about.split(" ")[0] in DELAYED for about in self._begun)
        return [f"only {seen} of {expected} units were seen in hand"] if 2 * seen < expected else []

    def excess(self, allowed: int) -> list[str]:
        """What is wrong if more units were begun again than so many workers were lost."""
        again = {about: sorted(pids) for about, pids in self._begun.items() if len(pids) > 1}
        return (
            [f"{self.redone} units redone, {allowed} workers lost: {again}"] if self.redone > allowed else []
        )

    def _watch(self) -> None:
        while not self._end.wait(PAUSE):
            for path in heartbeats(self._run, self._temp, on_ray=self._on_ray):
                try:
                    beat = json.loads(path.read_text())
                except (OSError, ValueError):
                    continue
                if " unit " in beat["about"] and ";" not in beat["about"] and beat["ids"]:
                    self._begun[beat["about"]].add(beat["pid"])
