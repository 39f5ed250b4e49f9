"""Images with human masks shown as the weak ones are: what a teacher would be asked about them, had they no masks."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.data.records import Ontology, WeakKind
from pipeline.data.weak import simulate
from pipeline.stages.propose import with_proposals
from teachers.protocols import Proposer, Sample


def as_weak(
    batch: Sequence[Sample],
    kind: WeakKind,
    *,
    proposer: Proposer | None,
    ontology: Ontology,
    seed: int,
    score: float,
) -> list[Sample]:
    """The batch with labels of `kind` alone and, if there is a proposer, what it proposes from `score` on."""
    weak = [replace(sample, record=simulate(sample.record, kind, seed)) for sample in batch]
    if proposer is None:
        return weak
    known = with_proposals(proposer, weak, ontology, score=score)
    return [replace(sample, record=record) for sample, record in zip(weak, known, strict=True)]
