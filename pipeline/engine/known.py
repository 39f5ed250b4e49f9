"""What the stages of a run have left so far."""

from dataclasses import dataclass, field

from pipeline.data.records import Ontology
from pipeline.engine.artifact import Artifact
from pipeline.engine.units import RecordSet


@dataclass
class Known:
    """The records as they are now, artifacts by name, classes, times.

    `timings`: label -> machine seconds of a stage's results; `timed`: label -> digest of the keys those are of.
    """

    records: RecordSet = field(default_factory=lambda: RecordSet((), 0))
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    ontology: Ontology = field(default_factory=lambda: Ontology(()))
    ontology_digest: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    timed: dict[str, str] = field(default_factory=dict)
