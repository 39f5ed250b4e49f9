"""Stage `propose`: boxes of named classes for the weak images whose labels need them (methods 3.4, 3.5)."""

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from pipeline.data.paths import Place
from pipeline.data.records import Ontology, Record, Role
from pipeline.engine.stage import MapConfig, MapStage, StageConfig, WorkerContext
from pipeline.stages.models import load_proposer
from pipeline.stages.samples import blank_sample, read_sample
from teachers.catalog import ModelSpec
from teachers.protocols import Proposer, Sample
from teachers.settings import PAPER_TAU
from teachers.weak_prompts import is_located


class ProposeConfig(MapConfig):
    """`score`: least confidence of a proposal to keep; `pseudo_label`'s `score` and `tau` decide above it."""

    model: ModelSpec
    score: float = Field(PAPER_TAU, ge=0, le=1)


def wanted(record: Record, ontology: Ontology) -> list[int]:
    """The classes to look for in a weak image, ascending; none where no proposal is needed.

    Classes with a point are looked for to refine it; tags that no point or box covers are looked for to find them;
    where nothing at all is known, every class is. Open phrases have no class to look for.
    """
    located = [i for i in record.instances if is_located(i)]
    covered = {i.class_id for i in located}
    pointed = {i.class_id for i in located if i.rle is None and i.box_xyxy is None}
    known = record.tags if record.tags is not None or located else ontology.ids
    named = set(known or ()) - covered
    return sorted(class_id for class_id in named | pointed if class_id is not None)


def with_proposals(
    proposer: Proposer, batch: Sequence[Sample], ontology: Ontology, *, score: float
) -> list[Record]:
    """The records of weak images with the proposals that reach `score`, best first."""
    found = proposer.propose(batch, [wanted(sample.record, ontology) for sample in batch])
    return [
        replace(sample.record, proposals=tuple(p for p in prompts if (p.score or 0.0) >= score))
        for sample, prompts in zip(batch, found, strict=True)
    ]


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
    images_root: Place

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
        if wanted(record, self.ontology):
            return read_sample(record, self.images_root)
        return blank_sample(record)

    def blank(self, record: Record) -> Sample:
        """A black photo."""
        return blank_sample(record)

    def __call__(self, batch: Sequence[Sample]) -> list[Record]:
        return with_proposals(self.proposer, batch, self.ontology, score=self.config.score)
