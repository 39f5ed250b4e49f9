"""The labelling stage against the bare encoder, and against the loop that other tools run.

    python -m benchmarks.labelling            (15 minutes on 2 cores)

SAM ViT-B with random weights, fp32, on scenes of 640 x 480. The stage is the whole of `pseudo_label` as the engine runs
it: photos read and decoded, embedded, prompted, masks at full size as RLE, the unit committed; with 1, 10 and 100 boxes
an image, and with 10 points and 20 proposals (Algorithm 1, two masks a point). The encoder alone gets the same images
ready-made. The loop is segment-anything's own, one image after the other: its encoder as published, one box at a time,
the mask on the full canvas, pycocotools' encode. `times the loop's` starts from given boxes; `times the whole loop's`
has the search for boxes before it: Grounding DINO (tiny, as published, random weights) on the same images, asked for 2
classes, one caption a class in the loop, one for both in ours. That ratio is of sums of medians of the same turns; the
boxes that random weights find mean nothing, so both go on from the given ones (captions: benchmarks/captions.py).

Random weights make masks that are noise all over the image, the most expensive ones there are. Prints one JSON line;
exits 1 unless the stage has at least 0.8 of the encoder's images/s with 1 and with 10 boxes, and its masks are the
loop's (mean IoU of at least 0.99: published attention and ours round differently).
"""

import itertools
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as native
from pydantic import JsonValue
from segment_anything.modeling import Sam
from torch import Tensor

from benchmarks import timing
from benchmarks.stand_ins import ONTOLOGY, boxed, clicked, grounding_dino, photos, sam_settings
from pipeline.data.arrow import from_table
from pipeline.data.masks import iou_matrix
from pipeline.data.records import RLE, Box, Record
from pipeline.engine import parquet
from pipeline.engine.context import WorkerContext
from pipeline.engine.machine import Heartbeat
from pipeline.engine.run_unit import Surroundings, run_unit
from pipeline.engine.store import Store
from pipeline.engine.streams import write_records
from pipeline.engine.tasks import StageTask, UnitTask
from pipeline.engine.units import Bucket, RecordSet, plan_unit
from pipeline.stages.pseudo_label import PseudoLabel, PseudoLabelConfig
from pipeline.stages.samples import read_sample
from teachers.catalog import ModelSpec
from teachers.grounding import load_grounding_dino
from teachers.sam.load import load_sam
from teachers.sam.pixels import Frame, to_input_pixels
from teachers.sam_teacher import SamTeacher

SIZE = (480, 640)
LEAST, ALIKE = 0.8, 0.99

Masks = Sequence[Sequence[RLE | None]]


@dataclass
class Stage:
    """`pseudo_label` set up once, run on units as the engine does, each time into another place of the store."""

    root: Path
    settings: dict[str, JsonValue]
    threads: int
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        config = PseudoLabelConfig(
            model=ModelSpec(name="teacher", use="class_aware_sam", settings=self.settings)
        )
        context = WorkerContext("cpu", ONTOLOGY, self.root / "images", {})
        self.stage = PseudoLabel(config)
        self.stage.setup(context)
        self.task = StageTask("pseudo_label", PseudoLabel, config.model_dump_json(), context, self.threads)
        self.store = Store(self.root / "store")

    @property
    def sam(self) -> Sam:
        """The model it runs."""
        assert isinstance(self.stage.teacher, SamTeacher)
        return self.stage.teacher.answerer.predictor.sam

    def unit(self, records: Sequence[Record]) -> Callable[[], Masks]:
        """What labels the records as one unit; the masks of each image."""
        folder = self.root / f"records-{next(self.numbers)}"
        write_records(folder, records)
        source = plan_unit(RecordSet.of_folder(folder).parts, Bucket(0, 0))
        around = Surroundings(self.store, Heartbeat(self.root / "heartbeat"), lambda _: None, lambda: False)

        def run() -> Masks:
            done = run_unit(self.stage, UnitTask(self.task, f"{next(self.numbers):064d}", source), around)
            made = from_table(parquet.read(self.store.unit_path(done.made)))
            return [[instance.rle for instance in record.instances] for record in made]

        return run


def encoder_alone(sam: Sam, root: Path, records: Sequence[Record]) -> Callable[[], Masks]:
    """The encoder on the images as it gets them in the stage."""
    squares = [
        to_input_pixels(read_sample(record, root / "images").image, sam)[0][None] for record in records
    ]

    @torch.no_grad()
    def run() -> Masks:
        for square in squares:
            sam.image_encoder(square)
        return []

    return run


def naive_loop(sam: Sam, root: Path, records: Sequence[Record]) -> Callable[[], Masks]:
    """What other tools do with boxes."""

    @torch.no_grad()
    def run() -> Masks:
        made: list[list[RLE | None]] = []
        for record in records:
            pixels = np.asarray(Image.open(root / "images" / record.uri).convert("RGB"))
            square, frame = to_input_pixels(pixels, sam)
            features = sam.image_encoder(square[None])
            boxes = [instance.box_xyxy for instance in record.instances if instance.box_xyxy is not None]
            made.append([naive_mask(sam, features, frame, box) for box in boxes])
        return made

    return run


def naive_mask(sam: Sam, features: Tensor, frame: Frame, box: Box) -> RLE | None:
    """One box as segment_anything's SamPredictor answers it, on the full canvas; None without a pixel."""
    corners = torch.from_numpy(frame.to_input(np.array(box).reshape(2, 2)).reshape(1, 4))
    sparse, dense = sam.prompt_encoder(points=None, boxes=corners, masks=None)
    low_res, _ = sam.mask_decoder(
        image_embeddings=features,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    size = frame.height, frame.width
    mask = (sam.postprocess_masks(low_res, frame.input_size, size) > sam.mask_threshold)[0, 0].numpy()
    if not mask.any():
        return None
    return RLE(size, native.encode(np.asfortranarray(mask, np.uint8))["counts"].decode("ascii"))


def searches(
    model: Path, root: Path, records: Sequence[Record], classes: Sequence[int]
) -> dict[str, Callable[[], Masks]]:
    """The search for boxes of the classes: ours, and as the loop does it."""
    proposer = load_grounding_dino(model, ontology=ONTOLOGY)
    samples = [read_sample(record, root / "images") for record in records]

    def together() -> Masks:
        proposer.propose(samples, [classes] * len(samples))
        return []

    def one_by_one() -> Masks:
        for sample, class_id in itertools.product(samples, classes):
            proposer.propose([sample], [[class_id]])
        return []

    return {"search": together, "loop, search": one_by_one}


def likeness(ours: Masks, theirs: Masks) -> float:
    """Mean IoU of masks in the same places; an empty one is like no other, not even like an empty one."""
    pairs = [pair for one, other in zip(ours, theirs, strict=True) for pair in zip(one, other, strict=True)]
    return float(np.mean([_iou(one, other) for one, other in pairs]))


def _iou(one: RLE | None, other: RLE | None) -> float:
    return 0.0 if one is None or other is None else float(iou_matrix([one], [other])[0, 0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the line."""
    sizes = {"repeats": 3, "images": 2, "many": 100, "classes": 2, "shortest": 800}
    given = timing.options(__doc__, arguments, texts={"sam": "vit_b"}, **sizes)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        records = photos(root / "images", given.images, SIZE)
        settings = sam_settings(given.sam, root)
        stage = Stage(root, settings, given.threads)
        published = load_sam(given.sam, _checkpoint(settings), attention="official")
        ten = [boxed(record, 10) for record in records]
        ways = {
            "encoder": encoder_alone(stage.sam, root, records),
            "1 box": stage.unit([boxed(record, 1) for record in records]),
            "10 boxes": stage.unit(ten),
            "10 points": stage.unit([clicked(record, 10) for record in records]),
            f"{given.many} boxes": stage.unit([boxed(record, given.many) for record in records]),
            "loop, 10 boxes": naive_loop(published, root, ten),
        }
        stages = list(ways)[1:-1]
        dino = grounding_dino(root / "dino", shortest=given.shortest)
        ways |= searches(dino, root, records, ONTOLOGY.ids[: given.classes])
        timed = timing.in_turns(ways, repeats=given.repeats)
    speed = {way: timing.round3(given.images / found.median) for way, found in timed.items()}
    share = {way: timing.times_faster(timed["encoder"], timed[way]) for way in stages}
    alike = likeness(timed["10 boxes"].result, timed["loop, 10 boxes"].result)
    whole = sum(timed[way].median for way in ("loop, search", "loop, 10 boxes"))
    head = {name: getattr(given, name) for name in ("sam", *sizes, "threads") if name != "many"}
    numbers: dict[str, timing.Json] = {
        **head,
        "images/s": speed,
        "of the encoder's": share,
        "times the loop's": timing.times_faster(timed["loop, 10 boxes"], timed["10 boxes"]),
        "times the whole loop's": timing.round3(
            whole / sum(timed[way].median for way in ("search", "10 boxes"))
        ),
        "mean IoU with the loop's masks": alike,
    }
    checks = {
        f"at least {LEAST:g} of the encoder's": min(share["1 box"], share["10 boxes"]) >= LEAST,
        "the loop's masks": alike >= ALIKE,
    }
    return timing.finish("labelling", numbers, checks)


def _checkpoint(settings: Mapping[str, JsonValue]) -> Path | None:
    found = settings.get("checkpoint")
    return None if found is None else Path(str(found))


if __name__ == "__main__":
    sys.exit(main())
