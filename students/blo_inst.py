"""The BLO-Inst student (Liao et al. 2026): a detector whose boxes are made for SAM's decoder, and the other way round.

An artifact is `model.safetensors` (the detector and what was trained of SAM), `student.json` and `loss.json`. SAM
itself is not in it: the file names the digest of the weights it belongs to.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.data.errors import BadInput
from pipeline.data.masks import tight_box
from pipeline.data.records import Instance, Ontology, Source
from pipeline.engine.stage import Metrics, Records, TrainContext
from students.blo_bench import Bench
from students.blo_data import Halves, halves
from students.blo_detectors import new_detector
from students.blo_judge import Judged, implicit_share, judge
from students.blo_objective import AlignedSam
from students.blo_pair import Pair
from students.blo_phases import phases
from students.blo_settings import BLO_INST, BloInstSettings
from students.card import Card, read_card, write_card
from students.inference import full_masks
from teachers.checkpoint import Progress
from teachers.detector import keep
from teachers.detector_weights import DetectorNetwork
from teachers.detectors import FOUND_CONFIDENCE, FOUND_MOST, FOUND_OVERLAP, find
from teachers.embedding_cache import EmbeddingCache
from teachers.fit_detector import first_pixels
from teachers.fitted_detector import FACTS, PREFIX, WEIGHTS, DetectorFacts, read_facts
from teachers.identity import sam_digest
from teachers.phases import run_phases
from teachers.pool import Loader, Pool, RecordPool, training_images, write_pool
from teachers.protocols import Sample
from teachers.sam.load import load_sam
from teachers.sam.predictor import SamPredictor
from teachers.settings import DETECTOR_MET, DETECTOR_SCALE
from teachers.window import canvas_image, sam_window
from teachers.yolo import YoloDetector

CHUNK = 16  # boxes that SAM's decoder is asked at once
_GIB = 2**30
_NOT_IN_CARD = {"detector_weights", "detector_sha256", "checkpoint_every", "cache_gb"}


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
        self.sam = load_sam(settings.sam, settings.checkpoint, sha256=settings.sha256).to(device)
        self._pair: Pair | None = None
        if state is not None:
            bare = find(settings.detector).build(len(ontology.ids), focal=settings.focal)
            self._pair = self._paired(bare)
            fill(self._pair, state)

    @property
    def size(self) -> int:
        """Side S of the square that both see."""
        return int(self.sam.image_encoder.img_size)

    def fit(self, data: Records, context: TrainContext) -> Metrics:
        """Train on the records that have a mask of a known class; the same bits from the same seed on one CPU process.

        `BadInput` for a bad image, class or weights file, and if a half has no object; `Stopped` after a state was
        saved if the context asks for it.
        """
        index = {class_id: i for i, class_id in enumerate(self.ontology.ids)}
        pool = self._pool(data, context, index)
        split = halves(pool, self.settings.split, context.seed, index)
        cache = self._cache(pool, self.settings.cache_gb)
        cache.build(context, lambda done, whole: context.progress(done, whole, "embeddings"))
        pair = self._new_pair(context.seed)
        bench = self._bench(pair, split, pool, cache, context)
        if isinstance(pair.detector, YoloDetector):
            pair.detector.meet(first_pixels(bench.whole, DETECTOR_MET).to(self.device))
        done = run_phases(
            phases(bench),
            pair,
            context,
            recipe=self._recipe(context.seed),
            every=self.settings.checkpoint_every,
        )
        pair.take_best()
        self._pair = pair
        self._save(pair, context.out)
        judged = {"sam": judge(bench, split.lower), "detector": judge(bench, split.upper)}
        left = {f"missed_of_{half}": own.missed for half, own in judged.items()}
        found = {f"found_of_{half}": own.found for half, own in judged.items()}
        if self.settings.order == "second":
            found["implicit_share"] = implicit_share(bench)
        return {**_written(done, context.out), "images": len(pool), **_counts(pair, split), **left, **found}

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
        cache.build(context, lambda *_: None)
        return judge(self._bench(pair, Halves(every, every), pool, cache, context), every)

    def predict(self, batch: Sequence[Sample]) -> list[list[Instance]]:
        """Up to 100 instances of each image, best first: SAM's answers to the detector's boxes, and their scores."""
        pair = self._fitted()
        return [self._predict_one(pair, sample) for sample in batch]

    def _fitted(self) -> Pair:
        if self._pair is None:
            raise RuntimeError("this student knows nothing yet: fit it or load an artifact first")
        return self._pair

    @torch.inference_mode()
    def _predict_one(self, pair: Pair, sample: Sample) -> list[Instance]:
        window = sam_window(sample.image.shape[:2], self.size)
        canvas = canvas_image(sample.image, window, self.size)
        pixels = torch.from_numpy(canvas).permute(2, 0, 1)[None].float().to(self.device)
        raw = pair.detector.predict(pixels)
        kept = keep(raw, confidence=FOUND_CONFIDENCE, overlap=FOUND_OVERLAP, most=FOUND_MOST)
        if not len(kept.score):
            return []
        features = SamPredictor(self.sam).embed([np.asarray(sample.image)]).features
        boxes = kept.boxes(raw)
        logits = torch.cat(
            [pair.sam(features.expand(len(some), -1, -1, -1), some)[0] for some in torch.split(boxes, CHUNK)]
        )
        masks = full_masks(logits, range(len(logits)), window=window, size=self.size)
        scores, labels = kept.score.tolist(), kept.label.tolist()
        return [
            Instance(
                source=Source.STUDENT,
                class_id=self.ontology.ids[labels[row]],
                rle=rle,
                box_xyxy=tight_box(rle),
                score=scores[row],
            )
            for row, (rle, _) in masks.items()
        ]

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
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return self._paired(new_detector(self.settings, len(self.ontology.ids)))

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

    def _recipe(self, seed: int) -> str:
        """The settings and the seed that the bits of a training follow from.

        Weights and data are not in it: the folder of the states is the work unit's, whose key has them.
        """
        told = self.settings.model_dump(mode="json", exclude=set(self.settings.not_in_key))
        return json.dumps({**told, "seed": seed}, sort_keys=True)

    def _save(self, pair: Pair, out: Path) -> None:
        state = {name: tensor.cpu().contiguous() for name, tensor in learned(pair).items()}
        facts = DetectorFacts(
            detector=self.settings.detector,
            side=self.size,
            categories=self.ontology.categories,
            sam_sha256=sam_digest(self.settings),
        )
        save_file(state, out / WEIGHTS, {FACTS: facts.model_dump_json()})
        # All of the detector is in the artifact: it needs no file of its first weights.
        settings = self.settings.model_dump(mode="json", exclude=_NOT_IN_CARD)
        write_card(Card(use=BLO_INST, settings=settings, categories=self.ontology.categories), out)


def learned(pair: Pair) -> dict[str, Tensor]:
    """What training changes, by name: the whole detector, and of SAM the trained parameters."""
    detector = {f"{PREFIX}{name}": value for name, value in pair.detector.state_dict().items()}
    return detector | {f"sam.{name}": value.detach() for name, value in pair.sam.trained().items()}


def fill(pair: Pair, state: Mapping[str, Tensor]) -> None:
    """Put what was learned back; ValueError unless names and shapes are the same."""
    expected = {name: value.shape for name, value in learned(pair).items()}
    found = {name: value.shape for name, value in state.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))[:3]
        raise ValueError(f"weights do not fit the settings: {wrong}")
    with torch.no_grad():
        for name, value in learned(pair).items():
            value.copy_(state[name])


def open_artifact(artifact: Path, *, device: str) -> BloInst:
    """The fitted student in an artifact's folder, with the classes it was trained on; `BadInput` if it is broken."""
    card = read_card(artifact)
    try:
        settings = _with_sam(BloInstSettings.model_validate(card.settings), artifact)
        state = _read(artifact / WEIGHTS, settings, device)
        return BloInst(settings, ontology=card.ontology, device=device, state=state)
    except (OSError, SafetensorError, ValueError) as error:
        raise BadInput(f"{artifact}: cannot be opened as a BLO-Inst student: {error}") from error


def _with_sam(settings: BloInstSettings, artifact: Path) -> BloInstSettings:
    """The settings with SAM's file where it is: where it was, or beside the student."""
    if settings.checkpoint is None or settings.checkpoint.is_file():
        return settings
    beside = artifact / settings.checkpoint.name
    if not beside.is_file():
        raise BadInput(
            f"{artifact}: SAM's weights are no longer at {settings.checkpoint}: expected them there or as {beside}"
        )
    return settings.model_copy(update={"checkpoint": beside})


def _read(path: Path, settings: BloInstSettings, device: str) -> dict[str, Tensor]:
    made_for, found = read_facts(path.parent).sam_sha256, sam_digest(settings)
    if made_for != found:
        raise BadInput(f"{path}: trained with a SAM of sha256 {made_for}, found {found}")
    return load_file(path, device=device)


def _written(done: Sequence[Progress], out: Path) -> Metrics:
    """Writes `loss.json` (a list a phase, one loss a step) and sums the training up in numbers."""
    losses = [[round(loss, 5) for loss in progress.losses] for progress in done]
    (out / "loss.json").write_text(json.dumps(losses) + "\n")
    last = losses[-1]
    window = max(min(20, len(last) // 4), 1)
    return {
        "steps": sum(progress.step for progress in done),
        "loss_first": float(np.mean(last[:window])),
        "loss_last": float(np.mean(last[-window:])),
        "seconds": round(sum(progress.seconds for progress in done), 1),
    }


def _counts(pair: Pair, split: Halves) -> Metrics:
    return {
        "images_of_sam": len(split.lower),
        "images_of_detector": len(split.upper),
        "parameters_of_sam": sum(p.numel() for p in pair.sam.trained().values()),
        "parameters_of_detector": sum(p.numel() for p in pair.detector.parameters()),
        "best_epoch": int(pair.best_epoch),
    }
