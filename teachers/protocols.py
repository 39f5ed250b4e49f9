"""What a proposer and a teacher are to the rest of the system: pixels and records in, prompts or instances out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.data.records import Instance, Prompt, Record
from pipeline.engine.stage import Metrics, Records, TrainContext


@dataclass(frozen=True)
class Sample:
    """One image with its record; `image` (height, width, 3) uint8 RGB, upright."""

    record: Record
    image: npt.NDArray[np.uint8]


class Proposer(Protocol):
    """Finds things of named classes in images (Grounding DINO, the tiny grounder, a detector)."""

    def propose(self, batch: Sequence[Sample], names: Sequence[Sequence[int]]) -> list[list[Prompt]]:
        """Box prompts with class_id and score for each sample, best first, of the classes listed for it.

        `names[i]` holds the class ids to look for in sample i (all of the ontology's for weak kind `none`, the tags for
        the others); an empty list yields no prompt. No threshold or NMS is applied here.
        """
        ...


class Teacher(Protocol):
    """Turns the weak labels of records, and the proposals on them, into instances with masks."""

    def fit(self, data: Records, context: TrainContext) -> Metrics:
        """Tune on human-masked records; writes weights into `context.out`; resumes from `context.workdir`."""
        ...

    def label(self, batch: Sequence[Sample]) -> list[list[Instance]]:
        """A list of instances (rle, prompt, score, pred_iou, stability) a sample: labels in their order, proposals."""
        ...
