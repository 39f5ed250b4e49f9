"""What AM-SAM learns from, as tensors: features of a pool's images, their masks, and the boxes they are asked with."""

from collections.abc import Callable
from functools import lru_cache

from pipeline.data.photos import read_unchanged
from pipeline.data.records import Ontology
from pipeline.engine.context import TrainContext
from teachers.am_sam_boxes import Find, Question, question, surest
from teachers.am_sam_data import Truth, truth_of
from teachers.am_sam_network import AmSamNetwork
from teachers.am_sam_phases import Bench
from teachers.am_sam_settings import AmSamSettings
from teachers.embedding_cache import EmbeddingCache
from teachers.pool import Halves, Pool, training_images
from teachers.protocols import Sample
from teachers.sam.predictor import SamPredictor

KEPT_TRUTHS = 64  # images whose low-res masks are held
_GIB = 2**30


class Material:
    """Of one pool, by place. `find` is asked for boxes once these are needed, so a detector may be tuned before."""

    def __init__(
        self,
        pool: Pool,
        settings: AmSamSettings,
        predictor: SamPredictor,
        ontology: Ontology,
        find: Callable[[], Find],
        context: TrainContext,
    ) -> None:
        self.pool, self._context = pool, context
        self._settings, self._predictor, self._ontology, self._find = settings, predictor, ontology, find
        self._class_index = {class_id: index for index, class_id in enumerate(ontology.ids)}
        self._side = int(predictor.sam.image_encoder.img_size)
        self._cache = EmbeddingCache(
            predictor,
            training_images(pool),
            [(place, None) for place in range(len(pool))],
            dtype="float32",
            limit_bytes=settings.cache_gb * _GIB,
        )

    def build(self) -> None:
        """Make the features; Stopped as of the cache."""
        self._cache.build(
            self._context, lambda done, whole: self._context.progress(done, whole, "embeddings")
        )

    def bench(self, network: AmSamNetwork, split: Halves, *, epoch: int, steps: int) -> Bench:
        """To train a network with."""
        own, context = self._settings, self._context
        return Bench(
            network,
            own,
            split,
            self._cache,
            lru_cache(KEPT_TRUTHS)(self._truth),
            None if own.boxes == "none" else lru_cache(None)(self._question),
            epoch=epoch,
            steps=steps,
            device=str(self._predictor.sam.device),
            seed=context.seed,
            team=context.team,
        )

    def _truth(self, place: int) -> Truth:
        low = self._predictor.low_res[0]
        return truth_of(self.pool[place], self._class_index, side=self._side, low=low)

    def _question(self, place: int) -> Question:
        """Asked once the detector is tuned, not before: what it finds is kept."""
        record, ids, own = self.pool[place], self._ontology.ids, self._settings
        image = read_unchanged(self._context.images_root / record.uri, record.sha256)
        found = surest(self._find()(Sample(record, image), ids), ids)
        return question(found, ids, record, by_class=own.prompt == "class", score=own.score)
