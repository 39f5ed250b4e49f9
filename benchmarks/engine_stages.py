"""Stages for benchmarks/engine.py, apart so that workers can import them: a manifest, and a sleep."""

import json
import os
import tempfile
import time
from collections.abc import Sequence
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
from pipeline.engine.streams import write_records


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


class Sleep(MapStage[Record]):
    """Sleeps for each image and hands the record back."""

    name = "sleep"
    version = 1
    Config = SleepConfig

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, SleepConfig)
        self.config = config

    def setup(self, context: WorkerContext) -> None:
        """Nothing to load."""

    def load(self, record: Record) -> Record:
        return record

    def blank(self, record: Record) -> Record:
        return record

    def __call__(self, batch: Sequence[Record]) -> list[Record]:
        start = time.time()
        time.sleep(self.config.delay * len(batch))
        if self.config.log:
            path = Path(tempfile.mkstemp(dir=self.config.log, suffix=".json")[1])
            path.write_text(json.dumps([os.getpid(), start, time.time(), len(batch)]))
        return list(batch)
