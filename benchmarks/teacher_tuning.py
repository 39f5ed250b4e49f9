"""A step of the teacher's tuning on cached embeddings against the same step with the encoder in the loop.

    python -m benchmarks.teacher_tuning            (3 minutes on 2 cores)

SAM ViT-B with random weights, fp32, embeddings kept as float32, one instance on each image of the step, variant `box`
of `class_aware_sam` with the paper's settings. Both run our own trainer; without room for the cache it embeds each
image anew. Prints one JSON line; exits 1 unless all losses are the same to the bit and the cache makes at least 20
times as many steps a second.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import timing
from benchmarks.stand_ins import ONTOLOGY, masked, photos, sam_settings
from pipeline.data.records import Record
from pipeline.engine.context import TrainContext
from teachers.catalog import ModelSpec, load_teacher
from teachers.embedding_cache import EmbeddingCache
from teachers.fit_head import Bench, HeadTask, HeadTrainer
from teachers.heads import new_head
from teachers.sam_teacher import SamTeacher
from teachers.settings import BOX, ClassAwareSettings
from teachers.training_set import collect

SIZE = (480, 640)
LEAST = 20.0


def trainer(
    teacher: SamTeacher, context: TrainContext, records: Sequence[Record], *, cached: bool
) -> HeadTrainer:
    """A trainer at its start."""
    settings = teacher.settings
    assert isinstance(settings, ClassAwareSettings)
    answerer, training = teacher.answerer, collect(records)
    cache = EmbeddingCache(
        answerer.predictor,
        training.images,
        (target.part(BOX, answerer.zoom) for target in training.targets),
        dtype=settings.cache_dtype,
        limit_bytes=settings.cache_gb * 2**30 if cached else 0,
    )
    cache.build(context, lambda _done, _total: None)
    assert answerer.texts is not None
    bench = Bench(answerer.predictor, cache, answerer.texts, settings, context.seed, answerer.zoom)
    head = new_head(answerer.predictor.sam, BOX, settings, text_width=answerer.texts.width, seed=context.seed)
    return HeadTrainer(HeadTask("benchmark", BOX, head, training.targets, bench), context.workdir / "none")


@dataclass
class Steps:
    """Calls of a trainer's next step, and the losses so far."""

    trainer: HeadTrainer
    losses: list[float] = field(default_factory=list)

    def __call__(self) -> None:
        """The next one."""
        self.losses.append(self.trainer.step(len(self.losses)))


def context(root: Path) -> TrainContext:
    """What the engine lends to a tuning."""
    for name in ("work", "out"):
        (root / name).mkdir()
    return TrainContext(
        device="cpu",
        ontology=ONTOLOGY,
        images_root=root / "images",
        artifacts={},
        seed=0,
        workdir=root / "work",
        out=root / "out",
        progress=lambda _done, _total, _note: None,
        should_stop=lambda: False,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the line."""
    given = timing.options(__doc__, arguments, texts={"sam": "vit_b"}, repeats=3, images=2)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        records = [masked(record) for record in photos(root / "images", given.images, SIZE)]
        tuning = {"batch_size": given.images, "cache_dtype": "float32"}
        spec = ModelSpec(
            name="teacher", use="class_aware_sam", settings=sam_settings(given.sam, root) | tuning
        )
        teacher = load_teacher(spec, ontology=ONTOLOGY, device="cpu")
        assert isinstance(teacher, SamTeacher)
        lent = context(root)
        ways = {
            "encoder in the loop": Steps(trainer(teacher, lent, records, cached=False)),
            "cached": Steps(trainer(teacher, lent, records, cached=True)),
        }
        timed = timing.in_turns(ways, repeats=given.repeats)
    ratio = timing.times_faster(timed["encoder in the loop"], timed["cached"])
    losses = [way.losses for way in ways.values()]
    head = {name: getattr(given, name) for name in ("sam", "images", "repeats", "threads")}
    speed = {way: timing.round3(1 / found.median) for way, found in timed.items()}
    checks = {"same losses": losses[0] == losses[1], f"at least {LEAST:g} times the steps": ratio >= LEAST}
    return timing.finish("teacher_tuning", {**head, "steps/s": speed, "ratio": ratio}, checks)


if __name__ == "__main__":
    sys.exit(main())
