"""The BLO-Inst student (Liao et al. 2026): a detector whose boxes are made for SAM's decoder, and the other way round.

An artifact is `model.safetensors` (the detector and what was trained of SAM), `student.json` and `loss.json`. SAM
itself is not in it: the file names the digest of the weights it belongs to.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.data.errors import BadInput
from pipeline.data.masks import tight_box
from pipeline.data.records import Instance, Ontology, Source
from pipeline.engine.stage import Metrics, Records, TrainContext
from students import blo_settings as numbers
from students.blo_data import Halves, first_pixels, halves, training_images
from students.blo_detectors import DetectorNetwork, bare_detector, new_detector
from students.blo_objective import AlignedSam
from students.blo_phases import Bench, phases
from students.blo_settings import BLO_INST, BloInstSettings, sam_digest
from students.blo_trainer import Pair, run_phases
from students.card import Card, read_card, write_card
from students.checkpoint import Progress
from students.doubt import Doubt
from students.inference import full_masks
from students.pool import Loader, RecordPool, write_pool
from students.window import canvas_image, fitted_window
from teachers.detector import keep
from teachers.embedding_cache import EmbeddingCache
from teachers.protocols import Sample
from teachers.sam.load import load_sam
from teachers.sam.predictor import SamPredictor
from teachers.yolo import YoloDetector

WEIGHTS = "model.safetensors"
SAM_DIGEST = "sam_sha256"
CHUNK = 16  # boxes that SAM's decoder is asked at once
MakeDetector = Callable[[BloInstSettings, int], DetectorNetwork]
_GIB = 2**30
_NOT_IN_CARD = {"detector_weights", "checkpoint_every", "cache_gb"}


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
            self._pair = self._new_pair(0, bare_detector)  # all of its numbers are in the state
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
        cache = EmbeddingCache(
            SamPredictor(self.sam),
            training_images(pool),
            [(place, None) for place in range(len(pool))],
            dtype="float32",
            limit_bytes=self.settings.cache_gb * _GIB,
        )
        cache.build(context, lambda done, whole: context.progress(done, whole, "embeddings"))
        pair = self._new_pair(context.seed)
        bench = self._bench(pair, split, pool, cache, context)
        if isinstance(pair.detector, YoloDetector):
            pair.detector.meet(first_pixels(bench.whole, numbers.MET).to(self.device))
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
        return {**_written(done, context.out), "images": len(pool), **_counts(pair, split)}

    def predict(self, batch: Sequence[Sample]) -> list[list[Instance]]:
        """Up to 100 instances of each image, best first: SAM's answers to the detector's boxes, and their scores."""
        if self._pair is None:
            raise RuntimeError("this student knows nothing yet: fit it or load an artifact first")
        return [self._predict_one(self._pair, sample) for sample in batch]

    @torch.inference_mode()
    def _predict_one(self, pair: Pair, sample: Sample) -> list[Instance]:
        window = fitted_window(sample.image.shape[:2], self.size)
        canvas = canvas_image(sample.image, window, self.size)
        pixels = torch.from_numpy(canvas).permute(2, 0, 1)[None].float().to(self.device)
        raw = pair.detector.predict(pixels)
        kept = keep(
            raw,
            confidence=numbers.FOUND_CONFIDENCE,
            overlap=numbers.FOUND_OVERLAP,
            most=numbers.FOUND_MOST,
        )
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

    def _pool(self, data: Records, context: TrainContext, index: Mapping[int, int]) -> RecordPool:
        path = context.scratch / "pool.arrow"
        if context.team.leads:
            filter_empty = self.settings.filter_empty
            write_pool(data, path, class_index=index, filter_empty=filter_empty, progress=context.progress)
        context.team.wait()
        return RecordPool(path)

    def _new_pair(self, seed: int, make: MakeDetector = new_detector) -> Pair:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            detector = make(self.settings, len(self.ontology.ids))
            pair = Pair(detector, AlignedSam(self.sam, rank=self.settings.rank))
        nn.Module.to(pair, self.device)
        pair.eval()  # batch norms, where a detector has such, keep their statistics
        return pair

    def _bench(
        self, pair: Pair, split: Halves, pool: RecordPool, cache: EmbeddingCache, context: TrainContext
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
                doubt=Doubt(weights=self.settings.trust_weights),
                team=context.team,
            )

        return Bench(
            pair, self.settings, split, loader(numbers.PRETRAIN_SCALE), loader(None), cache, self.device
        )

    def _recipe(self, seed: int) -> str:
        """All that the bits of a training follow from."""
        told = self.settings.model_dump(mode="json", exclude=set(self.settings.not_in_key))
        return json.dumps({**told, "seed": seed}, sort_keys=True)

    def _save(self, pair: Pair, out: Path) -> None:
        state = {name: tensor.cpu().contiguous() for name, tensor in learned(pair).items()}
        save_file(state, out / WEIGHTS, {SAM_DIGEST: sam_digest(self.settings)})
        # All of the detector is in the artifact: it needs no file of its first weights.
        settings = self.settings.model_dump(mode="json", exclude=_NOT_IN_CARD)
        write_card(Card(use=BLO_INST, settings=settings, categories=self.ontology.categories), out)


def learned(pair: Pair) -> dict[str, Tensor]:
    """What training changes, by name: the whole detector, and of SAM the trained parameters."""
    detector = {f"detector.{name}": value for name, value in pair.detector.state_dict().items()}
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
        settings = BloInstSettings.model_validate(card.settings)
        state = _read(artifact / WEIGHTS, settings, device)
        return BloInst(settings, ontology=card.ontology, device=device, state=state)
    except (OSError, SafetensorError, ValueError) as error:
        raise BadInput(f"{artifact}: cannot be opened as a BLO-Inst student: {error}") from error


def _read(path: Path, settings: BloInstSettings, device: str) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        made_for = (file.metadata() or {}).get(SAM_DIGEST)
    if made_for != (found := sam_digest(settings)):
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
