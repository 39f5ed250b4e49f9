"""Stage `propose`: boxes of named classes for the weak images whose labels need them (methods 3.4, 3.5)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from pipeline.data.records import Ontology, Prompt, Record, Role
from pipeline.engine.stage import MapConfig, MapStage, StageConfig, WorkerContext
from pipeline.stages.models import load_proposer
from pipeline.stages.samples import blank_sample, read_sample
from teachers.catalog import ModelSpec
from teachers.protocols import Proposer, Sample

SCORE_NAMES = 0.3  # Das et al. 2024, for weak kinds none and class
SCORE_POINTS = 0.1  # tau_c of Das et al. 2024, Alg. 1


class ProposeConfig(MapConfig):
    """`score`: least confidence of a proposal; unset: 0.3 for classes without a place, 0.1 for those with points."""

    model: ModelSpec
    score: float | None = Field(None, ge=0, le=1)


def wanted(record: Record, ontology: Ontology, score: float | None = None) -> dict[int, float]:
    """The classes to look for in a weak image, each with its least confidence; {} where no proposal is needed.

    Classes with a point are looked for to refine it; tags that no point or box covers are looked for to find them;
    where nothing at all is known, every class is. Open phrases have no class to look for.
    """
    located = [i for i in record.instances if i.rle is None and (i.points or i.box_xyxy is not None)]
    covered = {i.class_id for i in located}
    pointed = {i.class_id for i in located if i.box_xyxy is None and i.class_id is not None}
    known = record.tags if record.tags is not None or located else ontology.ids
    named = set(known or ()) - covered
    at_points = SCORE_POINTS if score is None else score
    at_names = SCORE_NAMES if score is None else score
    limits = dict.fromkeys(named, at_names) | dict.fromkeys(pointed, at_points)
    return dict(sorted(limits.items()))


class Propose(MapStage[Sample]):
    """Adds `proposals`, best first, to weak images."""

    name = "propose"
    version = 1
    Config = ProposeConfig
    needs = frozenset({"tags", "instances"})
    adds = frozenset({"proposals"})
    roles = frozenset({Role.WEAK})

    proposer: Proposer
    ontology: Ontology
    images_root: Path

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, ProposeConfig)
        self.config = config

    def setup(self, context: WorkerContext) -> None:
        """Load the proposer."""
        self.ontology = context.ontology
        self.images_root = context.images_root
        self.proposer = load_proposer(self.config.model, context)

    def load(self, record: Record) -> Sample:
        """The photo, unless no proposal is needed: then it is not even read."""
        needed = wanted(record, self.ontology)
        return read_sample(record, self.images_root) if needed else blank_sample(record)

    def blank(self, record: Record) -> Sample:
        """A black photo."""
        return blank_sample(record)

    def __call__(self, batch: Sequence[Sample]) -> list[Record]:
        limits = [wanted(sample.record, self.ontology, self.config.score) for sample in batch]
        found = self.proposer.propose(batch, [list(classes) for classes in limits])
        return [
            replace(sample.record, proposals=tuple(p for p in prompts if _sure(p, classes)))
            for sample, prompts, classes in zip(batch, found, limits, strict=True)
        ]


def _sure(prompt: Prompt, limits: dict[int, float]) -> bool:
    return prompt.class_id in limits and (prompt.score or 0.0) >= limits[prompt.class_id]
