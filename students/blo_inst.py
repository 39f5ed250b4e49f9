"""The BLO-Inst student (Liao et al. 2026): a detector whose boxes are made for SAM's decoder, and the other way round.

What it is made of: what it learns from (`blo_data`), by which losses (`blo_objective`) and in which phases
(`blo_phases`), how it is judged (`blo_judge`), what it answers (`blo_predict`) and what it leaves (`blo_artifact`).
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.data.errors import BadInput
from pipeline.data.records import Instance, Ontology
from pipeline.engine.stage import Metrics, Records, TrainContext
from students.blo_artifact import SAM_FILE, fill, read, save
from students.blo_bench import Bench
from students.blo_data import halves
from students.blo_judge import Judged, implicit_share, judge
from students.blo_metrics import counts, warning_of, worth
from students.blo_objective import AlignedSam
from students.blo_pair import Pair
from students.blo_phases import phases
from students.blo_predict import instances_of
from students.blo_settings import BloInstSettings
from teachers.detector import DetectorNetwork
from teachers.detector_weights import new_detector
from teachers.detectors import find
from teachers.embedding_cache import EmbeddingCache
from teachers.fit_detector import first_pixels
from teachers.phase_losses import write_losses
from teachers.phases import run_phases, watching
from teachers.pool import Halves, Loader, Pool, RecordPool, training_images, write_pool
from teachers.protocols import Sample
from teachers.sam.load import load_sam
from teachers.sam.predictor import SamPredictor
from teachers.settings import DETECTOR_MET, DETECTOR_SCALE

_GIB = 2**30


class BloInst:
    """A `Student`: new, or with the trained weights `state`; a new one cannot predict before it is fitted."""

    def __init__(
        self,
        settings: BloInstSettings,
        *,
        ontology: Ontology,
        device: str,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.settings, self.ontology, self.device = settings, ontology, device
        with torch.random.fork_rng([]):  # what new networks draw is nobody else's
            self.sam = load_sam(settings.sam, settings.checkpoint, sha256=settings.sha256).to(device)
            self._pair = None if state is None else self._filled(state)

    @property
    def size(self) -> int:
        """Side S of the square that both see."""
        return int(self.sam.image_encoder.img_size)

    def fit(self, data: Records, context: TrainContext) -> Metrics:
        """Train on the records that have a mask of a known class; the same bits from the same seed on one CPU process.

        `BadInput` for a bad image, class or weights file, and if a level has no object to learn from; `Stopped` after a
        state was saved if the context asks for it.
        """
        index = {class_id: i for i, class_id in enumerate(self.ontology.ids)}
        pool = self._pool(data, context, index)
        split = halves(pool, self.settings.split, context.seed, index, apart=self.settings.apart)
        cache = self._cache(pool, self.settings.cache_gb)
        began = time.process_time()
        cache.build(context, lambda done, whole: context.progress(done, whole, "embeddings"))
        embedded = time.process_time() - began
        pair = self._new_pair(context.seed)
        bench = self._bench(pair, split, pool, cache, context)
        pair.detector.meet(first_pixels(bench.whole, DETECTOR_MET).to(self.device))
        todo, every = phases(bench), self.settings.checkpoint_every
        done = run_phases(todo, pair, context, recipe=self._recipe(context.seed), every=every)
        pair.take_best()
        self._pair = pair
        judged = {
            name: judge(bench, half, watching(context, f"judging {name}"))
            for name, half in self._named(split)
        }
        found = {**counts(pair, split), **worth(*judged.values())}
        if self.settings.order == "second":
            watching(context, "judging the implicit term")(0, 1)
            found["implicit_share"] = implicit_share(bench)
        save(pair, self.settings, self.ontology, context.out)
        return {
            **write_losses(todo, done, context.out, lower="loss_of_sam"),
            "core_seconds_of_embeddings": round(embedded, 1),
            "images": len(pool),
            **found,
            **warning_of(self.settings, found),
            **self._where_sam_is(),
        }

    def missed(self, data: Records, context: TrainContext) -> Judged:
        """How good the pair's masks are, on up to 100 of the records with a mask of a known class.

        The difference between what it misses of images that were learned from and of others is the gap that two halves
        are to narrow (Liao et al. 2026).
        """
        pair = self._fitted()
        index = {class_id: i for i, class_id in enumerate(self.ontology.ids)}
        pool = self._pool(data, context, index)
        every = tuple(range(len(pool)))
        # Each image is seen once: nothing is worth keeping, and what a training keeps in its folder is left alone.
        cache = self._cache(pool, 0)
        cache.build(context, lambda done, whole: context.progress(done, whole, "embeddings"))
        bench = self._bench(pair, Halves(every, every), pool, cache, context)
        return judge(bench, every, watching(context, "judging images"))

    def predict(self, batch: Sequence[Sample]) -> list[list[Instance]]:
        """Up to 100 instances of each image, best first: SAM's answers to the detector's boxes, and their scores."""
        pair = self._fitted()
        return [instances_of(sample, pair, self.sam, ontology=self.ontology) for sample in batch]

    def _fitted(self) -> Pair:
        if self._pair is None:
            raise RuntimeError("this student knows nothing yet: fit it or load an artifact first")
        return self._pair

    def _cache(self, pool: Pool, gigabytes: float) -> EmbeddingCache:
        return EmbeddingCache(
            SamPredictor(self.sam),
            training_images(pool),
            [(place, None) for place in range(len(pool))],
            dtype="float32",
            limit_bytes=gigabytes * _GIB,
        )

    def _pool(self, data: Records, context: TrainContext, index: Mapping[int, int]) -> RecordPool:
        path = context.scratch / "pool.arrow"
        if context.team.leads:
            filter_empty = self.settings.filter_empty
            write_pool(data, path, class_index=index, filter_empty=filter_empty, progress=context.progress)
        context.team.wait()
        return RecordPool(path)

    def _new_pair(self, seed: int) -> Pair:
        own = self.settings
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            detector = new_detector(
                own.detector,
                len(self.ontology.ids),
                focal=own.focal,
                weights=own.detector_weights,
                sha256=own.detector_sha256,
            )
            return self._paired(detector)

    def _filled(self, state: Mapping[str, Tensor]) -> Pair:
        bare = find(self.settings.detector).build(len(self.ontology.ids), focal=self.settings.focal)
        pair = self._paired(bare)
        fill(pair, state)
        return pair

    def _paired(self, detector: DetectorNetwork) -> Pair:
        pair = Pair(detector, AlignedSam(self.sam, rank=self.settings.rank, part=self.settings.part))
        nn.Module.to(pair, self.device)
        pair.eval()  # batch norms, where a detector has such, keep their statistics
        return pair

    def _bench(
        self, pair: Pair, split: Halves, pool: Pool, cache: EmbeddingCache, context: TrainContext
    ) -> Bench:
        def loader(scale: tuple[float, float] | None) -> Loader:
            return Loader(
                pool=pool,
                images_root=context.images_root,
                class_index={class_id: i for i, class_id in enumerate(self.ontology.ids)},
                size=self.size,
                scale=scale,
                batch=self.settings.batch_size,
                seed=context.seed,
                trust_weights=self.settings.trust_weights,
                team=context.team,
            )

        return Bench(pair, self.settings, split, loader(DETECTOR_SCALE), loader(None), cache, self.device)

    @staticmethod
    def _named(split: Halves) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return ("SAM's half", split.lower), ("the detector's half", split.upper)

    def _where_sam_is(self) -> Metrics:
        """For who opens the artifact: its own bytes do not say it, as they are those of any equal training."""
        checkpoint = self.settings.checkpoint
        return {} if checkpoint is None else {SAM_FILE: str(checkpoint.resolve())}

    def _recipe(self, seed: int) -> str:
        """The settings and the seed that the bits of a training follow from.

        Weights and data are not in it: the folder of the states is the work unit's, whose key has them.
        """
        told = self.settings.model_dump(mode="json", exclude=set(self.settings.not_in_key))
        return json.dumps({**told, "seed": seed}, sort_keys=True)


def open_artifact(artifact: Path, *, device: str) -> BloInst:
    """The fitted student in an artifact's folder, with the classes it was trained on; `BadInput` if it is broken."""
    saved = read(artifact, device=device)
    try:
        return BloInst(saved.settings, ontology=saved.ontology, device=device, state=saved.state)
    except ValueError as error:
        raise BadInput(f"{artifact}: cannot be opened as a BLO-Inst student: {error}") from error
