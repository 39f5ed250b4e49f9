"""Stage `ingest`: always first. Takes the source in, gives every image its role and shows weak images weakly."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from pipeline.data.errors import BadInput
from pipeline.data.paths import place_of
from pipeline.data.records import Ontology, Record, WeakKind
from pipeline.data.weak import MaskShare, parse_kind, parse_masks
from pipeline.engine.stage import JobStage, Metrics, Records, StageConfig, TrainContext
from pipeline.engine.streams import write_records
from pipeline.report.documents import SummaryFile
from pipeline.stages.folders import folder_digest, list_folder
from pipeline.stages.identity import Asked, source_digest
from pipeline.stages.intake import Intake, Setting
from pipeline.stages.looking import Looking
from pipeline.stages.sources import (
    CocoData,
    FolderData,
    Split,
    ToyworldData,
    Verify,
    coco_splits,
    render_toyworld,
)
from pipeline.stages.stopping import heed_stop
from pipeline.stages.truth import TruthWriter

ALL = "all"
MAX_SEED = (1 << 32) - 1  # of numpy and torch alike


class IngestConfig(StageConfig):
    """The run's own `data`, `weak`, `masks` or `shots`, `seed`, and `verify`.

    `masks: all` takes every image whose objects all have masks and leaves the others out: for training on masks alone.
    `verify: stat` takes an image for unchanged by its size and time of change, instead of its bytes.
    """

    # The job's identity holds the digests of what lies there.
    not_in_key: ClassVar[frozenset[str]] = frozenset(
        {"data.json", "data.images", "data.val_json", "data.val_images", "verify"}
    )
    data: Annotated[ToyworldData | CocoData | FolderData, Field(discriminator="source")]
    weak: str = WeakKind.POINT.value
    masks: str | None = None
    shots: int | None = Field(None, ge=0, validate_default=True)
    seed: int = Field(0, ge=0, le=MAX_SEED)
    verify: Verify = "bytes"

    # Field by field, not on the whole: so that every problem of a config is told, not only the first.
    @field_validator("weak", mode="before")
    @classmethod
    def _is_a_kind(cls, weak: object) -> object:
        kinds = [kind.value for kind in WeakKind if kind is not WeakKind.INSTRUCTION]
        if weak not in kinds:
            why = "no teacher reads an instruction yet; " if weak == WeakKind.INSTRUCTION else ""
            raise ValueError(f"{why}expected one of {', '.join(kinds)}")
        return weak

    @field_validator("masks", mode="before")
    @classmethod
    def _is_a_share(cls, masks: object) -> object:
        try:
            if masks not in (None, ALL):
                parse_masks(masks if isinstance(masks, str) else "")
        except BadInput:
            raise ValueError(f"expected a percentage from 0% to 100%, or {ALL}") from None
        return masks

    @field_validator("shots")
    @classmethod
    def _instead_of_masks(cls, shots: int | None, others: ValidationInfo) -> int | None:
        asked = others.data.get("masks", "given, but wrong") is not None
        if asked == (shots is not None):
            raise ValueError("expected masks or shots, not both" if asked else "expected masks or shots")
        return shots

    @property
    def kind(self) -> WeakKind:
        """The most a run may see of a weak image."""
        return parse_kind(self.weak)

    def setting(self) -> Setting:
        """What is simulated."""
        fraction = None if self.masks is None else 1.0 if self.masks == ALL else parse_masks(self.masks)
        semantic = isinstance(self.data, CocoData) and self.data.masks == "semantic"
        share = MaskShare(fraction, self.shots)
        return Setting(self.kind, share, self.seed, semantic, masked_only=self.masks == ALL)


class Ingest(JobStage):
    """Makes `dataset` (records, classes, summary, quarantine, toyworld's pictures) and `truth` (what was hidden)."""

    name = "ingest"
    version = 6
    Config = IngestConfig
    produces = "ingest"
    parts = ("dataset", "truth")
    publishes = MappingProxyType({"dataset/quarantine.json": "quarantine.json"})

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, IngestConfig)
        self.config = config

    def identity(self, data_root: Path) -> str:
        """Digest of the user's JSON files and of every image's bytes (or what `verify` says); the toy world is all in
        the config.
        """
        return self._identity(data_root, Asked(self.config.verify))

    def _identity(self, data_root: Path, asked: Asked) -> str:
        data = self.config.data
        if isinstance(data, ToyworldData):
            return ""
        if isinstance(data, FolderData):
            return folder_digest(place_of(data_root, data.images), asked)
        return source_digest(coco_splits(data, data_root), asked)

    def _check_identity(self, context: TrainContext, intake: Intake) -> None:
        """BadInput if what was read is not what the key says: somebody changes the files meanwhile."""
        known = intake.digests if self.config.verify == "bytes" else {}
        if not context.identity:
            return
        asked = Asked(self.config.verify, known, partial(heed_stop, context))
        if context.identity != self._identity(context.data_root, asked):
            raise BadInput("the images or their JSON files changed while they were read; run it again")

    def run(self, data: Records, context: TrainContext) -> Metrics:  # noqa: ARG002
        """Take everything in; BadInput for a file that is not usable or holds no label of the weak kind."""
        dataset, truth = context.out / "dataset", context.out / "truth"
        splits = self._splits(context, dataset)
        with (
            Intake(splits, self.config.setting(), _looking(context), partial(heed_stop, context)) as intake,
            TruthWriter(truth) as hidden,
        ):
            count = write_records(dataset / "records", _visible(intake, hidden, context))
            if not count:
                raise BadInput(f"{splits[0].json_file}: expected at least one usable image, found none")
            self._check_identity(context, intake)
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
        if isinstance(data, FolderData):
            place = place_of(context.data_root, data.images)
            told = partial(heed_stop, context)
            return [list_folder(data, place, scratch=context.scratch, looking=_looking(context), told=told)]
        return render_toyworld(
            data,
            scratch=context.scratch / "toyworld",
            images=dataset / "images",
            told=partial(_sign_of_life, context, "scenes"),
        )

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


def _looking(context: TrainContext) -> Looking:
    return Looking(partial(_sign_of_life, context, "photos"), context.in_hand)


def _sign_of_life(context: TrainContext, what: str) -> None:
    """Between photos or scenes: long work is not stalled work."""
    heed_stop(context)
    context.progress(0, 0, what)


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
