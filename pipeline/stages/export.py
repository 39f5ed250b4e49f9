"""Stage `export`: human masks and pseudo-masks as COCO files that any trainer reads (the design's section 5)."""

from collections.abc import Iterator
from types import MappingProxyType

from pipeline.data.coco import CocoWriter
from pipeline.data.coco_write import Json
from pipeline.data.records import Instance, Origin, Record, Role
from pipeline.engine.stage import JobStage, Metrics, Records, StageConfig, TrainContext
from pipeline.stages.stopping import heed_stop

Info = dict[str, Json]
BOXLESS = "boxless_masks"


class ExportConfig(StageConfig):
    """Nothing to set."""


class Export(JobStage):
    """`coco/train.json`: all images to train on; `coco/val.json`: human truth, crowd regions included.

    Masks that this run made carry its key as `pseudo.run`: the digest of all that the export was made from and with.
    """

    name = "export"
    version = 2
    Config = ExportConfig
    produces = "export"
    publishes = MappingProxyType({"coco": "export/coco"})

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, ExportConfig)
        self.config = config

    def run(self, data: Records, context: TrainContext) -> Metrics:
        """Write both files, one record in memory at a time; images in quarantine are left out."""
        folder = context.out / "coco"
        train_info: Info = {"description": "omnimask: human masks and pseudo-masks", "seed": context.seed}
        val_info: Info = {"description": "omnimask: human masks for scoring", "seed": context.seed}
        train = CocoWriter(folder / "train.json", context.ontology, info=train_info, run=context.key)
        val = CocoWriter(folder / "val.json", context.ontology, info=val_info, crowd=True)
        images, boxless = {"train": 0, "val": 0}, 0
        with train, val:
            for done, record in enumerate(_usable(data)):
                heed_stop(context)
                scoring = record.role is Role.VAL
                (val if scoring else train).add(record)
                images["val" if scoring else "train"] += 1
                boxless += sum(map(_is_boxless, record.instances))
                context.progress(done + 1, len(data), "images")
        return {
            "train_images": images["train"],
            "val_images": images["val"],
            "left_out": train.left_out,
            BOXLESS: boxless,
        }


def _is_boxless(instance: Instance) -> bool:
    """Whether a teacher was asked for it with the whole image, as no box was found."""
    return instance.prompt is not None and instance.prompt.origin is Origin.IMAGE


def _usable(data: Records) -> Iterator[Record]:
    return (record for record in data if record.dropped is None)
