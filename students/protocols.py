"""What a student is to the rest of the system: records with masks in, a model that finds instances in pixels out."""

from collections.abc import Sequence
from typing import Protocol

from pipeline.data.records import Instance
from pipeline.engine.stage import Metrics, Records, TrainContext
from teachers.protocols import Sample


class Student(Protocol):
    """Learns from human masks and pseudo-masks alike; of a `Sample` it sees the pixels alone."""

    def fit(self, data: Records, context: TrainContext) -> Metrics:
        """Train on `data`; writes the artifact into `context.out`; resumes from `context.workdir`."""
        ...

    def predict(self, batch: Sequence[Sample]) -> list[list[Instance]]:
        """Instances (class_id, rle at the image's size, tight box, score) of each sample, best first."""
        ...
