"""Stages for benchmarks/engine.py, apart so that workers can import them: a manifest, and a sleep."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.data.records import Record, Role
from pipeline.engine.stage import (
    JobStage,
    MapConfig,
    MapStage,
    Metrics,
    Records,
    StageConfig,
    TrainContext,
    WorkerContext,
)
from pipeline.engine.store import Store
from pipeline.engine.streams import write_records

_COMMIT = Store.commit_unit


class ManifestConfig(StageConfig):
    images: int = 200


class Manifest(JobStage):
    """Stands for ingest: so many records of images that nobody reads."""

    name = "ingest"
    version = 1
    Config = ManifestConfig
    produces = "ingest"
    parts = ("dataset",)

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, ManifestConfig)
        self.config = config

    def run(self, data: Records, context: TrainContext) -> Metrics:  # noqa: ARG002
        folder = context.out / "dataset"
        write_records(folder / "records", map(_record, range(1, self.config.images + 1)))
        (folder / "ontology.json").write_text('{"categories": []}')
        return {"images": self.config.images}


def _record(image_id: int) -> Record:
    return Record(image_id, f"{image_id}.png", f"{image_id:064x}", 64, 64, "train", Role.WEAK)


class SleepConfig(MapConfig):
    delay: float = 0.0  # seconds an image
    log: str = ""  # a folder for the times of all calls; none: nothing is written down


class Sleep(MapStage[tuple[Record, bool]]):
    """Sleeps for each image, but not for what fills a batch up, and hands the record back."""

    name = "sleep"
    version = 1
    Config = SleepConfig

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, SleepConfig)
        self.config = config

    def setup(self, context: WorkerContext) -> None:  # noqa: ARG002
        """Nothing to load; where calls are written down, so are the commits of this worker."""
        if self.config.log:
            Store.commit_unit = _timed(_COMMIT, self.config.log)  # type: ignore[method-assign]

    def load(self, record: Record) -> tuple[Record, bool]:
        return record, True

    def blank(self, record: Record) -> tuple[Record, bool]:
        return record, False

    def __call__(self, batch: Sequence[tuple[Record, bool]]) -> list[Record]:
        start = time.time()
        time.sleep(self.config.delay * sum(real for _, real in batch))
        if self.config.log:
            _note(self.config.log, "call", start)
        return [record for record, _ in batch]


def _note(log: str, kind: str, start: float) -> None:
    path = Path(tempfile.mkstemp(dir=log, suffix=f".{kind}")[1])
    path.write_text(json.dumps([os.getpid(), start, time.time()]))


def _timed(commit: Callable[..., None], log: str) -> Callable[..., None]:
    def timed(*given: object, **named: object) -> None:
        start = time.time()
        commit(*given, **named)
        _note(log, "commit", start)

    return timed
