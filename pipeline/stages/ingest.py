"""Stage `ingest`: always first. Takes the source in, gives every image its role and shows weak images weakly."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.data.errors import BadInput
from pipeline.data.records import Ontology, Record, WeakKind
from pipeline.data.weak import MaskShare, parse_kind, parse_masks
from pipeline.engine.stage import JobStage, Metrics, Records, StageConfig, TrainContext
from pipeline.engine.streams import write_records
from pipeline.report.documents import SummaryFile
from pipeline.stages.intake import Intake, Setting
from pipeline.stages.sources import (
    CocoData,
    Split,
    ToyworldData,
    coco_splits,
    render_toyworld,
    source_digest,
)
from pipeline.stages.stopping import heed_stop
from pipeline.stages.truth import TruthWriter


class IngestConfig(StageConfig):
    """The run's own `data`, `weak`, `masks` or `shots`, and `seed`."""

    data: Annotated[ToyworldData | CocoData, Field(discriminator="source")]
    weak: str = WeakKind.POINT.value
    masks: str | None = None
    shots: int | None = Field(None, ge=0)
    seed: int = 0

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        self.setting()
        if self.kind is WeakKind.INSTRUCTION:
            kinds = ", ".join(kind for kind in WeakKind if kind is not WeakKind.INSTRUCTION)
            raise ValueError(f"weak: no teacher reads an instruction yet; expected one of {kinds}")
        return self

    @property
    def kind(self) -> WeakKind:
        """The most a run may see of a weak image."""
        return parse_kind(self.weak)

    def setting(self) -> Setting:
        """What is simulated; BadInput unless exactly one of masks and shots is given."""
        fraction = None if self.masks is None else parse_masks(self.masks)
        semantic = isinstance(self.data, CocoData) and self.data.masks == "semantic"
        return Setting(self.kind, MaskShare(fraction, self.shots), self.seed, semantic)


class Ingest(JobStage):
    """Makes `dataset` (records, classes, summary, quarantine, toyworld's pictures) and `truth` (what was hidden)."""

    name = "ingest"
    version = 1
    Config = IngestConfig
    produces = "ingest"
    parts = ("dataset", "truth")

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, IngestConfig)
        self.config = config

    def identity(self, data_root: Path) -> str:
        """Digest of the user's JSON files and of every image's bytes; the toy world is all in the config."""
        data = self.config.data
        return "" if isinstance(data, ToyworldData) else source_digest(coco_splits(data, data_root))

    def run(self, data: Records, context: TrainContext) -> Metrics:  # noqa: ARG002
        """Take everything in; BadInput for a file that is not usable or holds no label of the weak kind."""
        dataset, truth = context.out / "dataset", context.out / "truth"
        splits = self._splits(context, dataset)
        with (
            Intake(splits, self.config.setting(), partial(heed_stop, context)) as intake,
            TruthWriter(truth) as hidden,
        ):
            count = write_records(dataset / "records", _visible(intake, hidden, context))
            if not count:
                raise BadInput(f"{splits[0].json_file}: expected at least one usable image, found none")
            write_ontology(intake.ontology, dataset / "ontology.json")
            intake.quarantine().write(dataset / "quarantine.json")
            summary = self._summary(intake)
            summary.write(dataset / "summary.json")
        return {
            "images": summary.images,
            "bad_images": summary.bad_images,
            "annotations": summary.annotations,
            "bad_annotations": summary.bad_annotations,
        }

    def _splits(self, context: TrainContext, dataset: Path) -> list[Split]:
        data = self.config.data
        if isinstance(data, CocoData):
            return coco_splits(data, context.data_root)
        return render_toyworld(data, scratch=context.workdir / "toyworld", images=dataset / "images")

    def _summary(self, intake: Intake) -> SummaryFile:
        return SummaryFile(
            images=intake.images,
            bad_images=len(intake.bad_images),
            annotations=intake.annotations,
            bad_annotations=len(intake.bad_annotations),
            classes=len(intake.ontology.ids),
            roles=dict(sorted(intake.roles.items())),
            weak=self.config.weak,
            semantic=self.config.setting().semantic,
            notes=intake.notes,
        )


def _visible(intake: Intake, hidden: TruthWriter, context: TrainContext) -> Iterator[Record]:
    """What the run may see; the rest goes to `hidden` on the way."""
    for done, (record, full) in enumerate(intake.records(), start=1):
        heed_stop(context)
        if full is not None:
            hidden.add(full)
        yield record
        context.progress(done, 0, "images")


def write_ontology(ontology: Ontology, path: Path) -> None:
    """The classes as JSON: {"categories": [{"id", "name", "supercategory"}]}."""
    rows = [{"id": c.id, "name": c.name, "supercategory": c.supercategory} for c in ontology.categories]
    path.write_text(json.dumps({"categories": rows}, indent=1) + "\n", encoding="utf-8")
