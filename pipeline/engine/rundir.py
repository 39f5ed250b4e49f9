"""A run's folder: its resolved config, its log, the keys of its results, its outputs, and its lock.

config.yaml      the resolved config, every default filled in
run.json         versions, seeds, data digest before work starts; then what each stage did
keys/NN.txt      the keys of stage NN's results, one a line
.lock            who works here; .heartbeat.json: the images in hand
"""

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import yaml
from pydantic import JsonValue

from pipeline.engine import files
from pipeline.engine.faults import BadPlan, FolderBusy
from pipeline.engine.keys import digest_of
from pipeline.engine.machine import host

CONFIG = "config.yaml"
LOG = "run.json"
LOCK = ".lock"
HEARTBEAT = ".heartbeat.json"
KEY = re.compile(r"[0-9a-f]{64}")
LOOK_SECONDS = 1.0  # longer than anyone needs to look whether a folder is locked
NOT_RESULTS = frozenset(
    {"resources", "stall_timeout", "image_timeout", "max_bad", "verify"}
)  # config keys that change no result


@dataclass
class StageLog:
    """What is known of one stage of a run; `units` counts a job as one, `made` are those this run had to
    make.
    """

    label: str
    kind: str
    state: str = "waiting"  # waiting | running | done
    units: int = 0
    images: int = 0
    made: int = 0
    seconds: float = 0.0
    images_per_second: float | None = None
    quarantined: int = 0
    metrics: dict[str, JsonValue] = field(default_factory=dict)


@dataclass
class RunLog:
    """The content of `run.json`."""

    name: str
    state: str
    seed: int
    device: str
    torch_threads: int
    data_digest: str
    config_digest: str
    store: str
    data_root: str
    versions: Mapping[str, str]
    stages: list[StageLog]
    records_digest: str | None = None
    quarantine: list[dict[str, JsonValue]] = field(default_factory=list)


class RunFolder:
    """The only writer of a run folder; enter `locked()` before writing."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    @property
    def heartbeat(self) -> Path:
        return self.path / HEARTBEAT

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; FolderBusy naming the holder if another process does."""
        self.path.mkdir(parents=True, exist_ok=True)
        # Opened without truncation: the text in it names the present holder. The kernel frees the lock of a dead one.
        with (self.path / LOCK).open("a+") as handle:
            self._lock(handle)
            handle.truncate(0)
            handle.write(json.dumps({"pid": os.getpid(), "host": host()}))
            handle.flush()
            try:
                yield
            finally:
                self.heartbeat.unlink(missing_ok=True)
                handle.truncate(0)

    def _lock(self, handle: IO[str]) -> None:
        end = time.monotonic() + LOOK_SECONDS
        while True:
            try:
                return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (
                BlockingIOError
            ):  # without a name in it, it may be held by someone who only looks whether it is
                holder = self.holder()
                if holder is not None or time.monotonic() > end:
                    raise FolderBusy(f"{self.path}: {holder or 'another process'} works here") from None
            time.sleep(0.01)

    def holder(self) -> str | None:
        """Who the lock file names, in words; None if nobody."""
        try:
            found = json.loads((self.path / LOCK).read_text())
        except (OSError, ValueError):
            return None
        return f"process {found['pid']} on {found['host']}"

    def check_config(self, resolved: dict[str, JsonValue], suggestion: str) -> None:
        """BadPlan if the folder holds a run with another config, or files that are no run's. Only reads."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise BadPlan((f"{self.path}: expected a folder, found a file; use --out {suggestion}",))
        path = self.path / CONFIG
        if not path.exists():
            strangers = sorted(p.name for p in self.path.iterdir() if not p.name.startswith("."))
            if strangers:
                found = ", ".join(strangers[:5])
                raise BadPlan(
                    (f"{self.path}: not a run folder, yet it holds {found}; use --out {suggestion}",)
                )
            return
        try:
            before = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (ValueError, yaml.YAMLError) as error:
            why = " ".join(str(error).split())
            raise BadPlan((f"{path}: damaged: {why}; use --out {suggestion}",)) from error
        changed = list(differences(results_only(before), results_only(resolved)))
        if changed:
            named = ", ".join(changed[:8])
            raise BadPlan(
                (
                    f"{self.path}: holds a run with another config (differs in {named}); use --out {suggestion}",
                )
            )

    def clean(self) -> None:
        """Remove what a killed run left half written in the folder itself; for after `check_config`."""
        for folder in (self.path, self.path / "keys"):
            files.clean_leftovers(folder)

    def read_log(self) -> RunLog | None:
        """The log as last written; None before the first run, or if it is damaged."""
        try:
            body = json.loads((self.path / LOG).read_text(encoding="utf-8"))
            stages = [StageLog(**stage) for stage in body.pop("stages")]
            return RunLog(stages=stages, **body)
        except (FileNotFoundError, AttributeError, KeyError, TypeError, ValueError):
            return None

    def write_config(self, resolved: dict[str, JsonValue]) -> None:
        """Write the resolved config."""
        files.commit_text(self.path / CONFIG, yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))

    def write_log(self, log: RunLog) -> None:
        """Replace `run.json`."""
        files.commit_text(self.path / LOG, json.dumps(asdict(log), indent=1) + "\n")

    def write_keys(self, number: int, keys: Sequence[str]) -> None:
        """Write the keys of a stage's results, if they changed."""
        if self.read_keys(number) != list(keys):
            files.commit_text(self._keys(number), "".join(f"{key}\n" for key in keys))

    def read_keys(self, number: int) -> list[str] | None:
        """The keys of a stage's results; None if it was not planned yet, or if they are damaged."""
        path = self._keys(number)
        if not path.exists():
            return None
        keys = path.read_bytes().decode("ascii", "replace").split("\n")
        return keys[:-1] if keys[-1] == "" and all(map(KEY.fullmatch, keys[:-1])) else None

    def _keys(self, number: int) -> Path:
        return self.path / "keys" / f"{number:02d}.txt"

    def publish(self, artifact: Path, mapping: Mapping[str, str]) -> int:
        """Place an artifact's files (or whole folders) in the run folder; how many were new or changed."""
        changed = 0
        for source, target in mapping.items():
            root = artifact / source
            found = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
            for path in found:
                place = self.path / target / path.relative_to(root)
                files.clean_leftovers(place.parent)
                changed += files.place(path, place)
        return changed


def results_only(config: JsonValue) -> JsonValue:
    """A config without the keys that change no result."""
    if isinstance(config, dict):
        return {key: results_only(value) for key, value in config.items() if key not in NOT_RESULTS}
    if isinstance(config, list):
        return [results_only(value) for value in config]
    return config


def config_text(resolved: dict[str, JsonValue]) -> str:
    """A config's result-changing part as YAML, for people."""
    return yaml.safe_dump(results_only(resolved), sort_keys=False, allow_unicode=True)


def differences(one: JsonValue, other: JsonValue, path: str = "") -> Iterator[str]:
    """Dotted paths at which two configs differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            yield from differences(one.get(key), other.get(key), f"{path}.{key}" if path else key)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from differences(left, right, f"{path}.{number}")
    elif one != other:
        yield path or "everything"


def config_digest(resolved: dict[str, JsonValue]) -> str:
    """Digest of a config's result-changing part."""
    return digest_of(results_only(resolved))
