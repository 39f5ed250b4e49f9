"""The fitting of AM-SAM: shots to halves, a detector where one is to be tuned, their boxes, the levels, the artifact.

Its files: am_sam_artifact.py's two; `boxes.json`, what each shot was asked with; `loss.json` (phase_losses.py), of D2
and of D1; `dice.json`, the Dice on D2 before each epoch and after the last.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch

from pipeline.data.photos import read_unchanged
from pipeline.data.records import Ontology
from pipeline.engine.context import Metrics, Records, TrainContext
from teachers.am_sam_artifact import AmSamFile, save_weights, told
from teachers.am_sam_boxes import Find, Question, question, surest
from teachers.am_sam_data import Shots, Truth, classes_of, halves, truth_of
from teachers.am_sam_detector import TunedDetector
from teachers.am_sam_network import AmSamNetwork
from teachers.am_sam_phases import Bench, Learner, tuning
from teachers.am_sam_settings import AmSamSettings
from teachers.embedding_cache import EmbeddingCache
from teachers.identity import sam_digest
from teachers.phase_losses import write_losses
from teachers.phases import run_phases, watching
from teachers.pool import Halves, Loader, Pool, RecordPool, training_images, write_pool
from teachers.protocols import Sample
from teachers.sam.predictor import SamPredictor
from teachers.settings import DETECTOR_SCALE

LEAST_IMAGES = 2  # with a mask: one for each half
KEPT_TRUTHS = 64  # images whose low-res masks are held
_GIB = 2**30


def new_network(predictor: SamPredictor, settings: AmSamSettings, classes: int) -> AmSamNetwork:
    """On SAM's device, in eval mode; what is random of it is torch's to draw."""
    network = AmSamNetwork(
        predictor.sam,
        classes=classes,
        rank=settings.rank,
        scope=settings.calibration,
        alpha=settings.calibration_alpha,
        learn_corners=settings.learn_corners,
        tokens=settings.tokens,
    )
    return network.to(predictor.sam.device).eval()


@dataclass(frozen=True)
class Fitting:
    """What a fit has besides its data. `find` looks for boxes; None where a detector is to be tuned for that."""

    settings: AmSamSettings
    predictor: SamPredictor
    ontology: Ontology
    find: Find | None
    context: TrainContext

    def run(self, data: Records) -> Metrics:
        """Tune and write the artifact; with masks on fewer than two images nothing is tuned, and that is told.

        Stopped with all states saved; BadInput for an unreadable image, a class that the ontology lacks, and a
        detector's weights that do not fit.
        """
        usable = (record for record in Shots(data) if record.dropped is None)
        masked = sum(any(classes_of([record], self.class_index)) for record in usable)
        if masked < LEAST_IMAGES:
            return self._zero_shot(masked)
        context, path = self.context, self.context.scratch / "pool.arrow"
        if context.team.leads:
            index, progress = self.class_index, context.progress
            write_pool(Shots(data), path, class_index=index, filter_empty=False, progress=progress)
        context.team.wait()
        return _Fit(self, RecordPool(path)).run()

    @cached_property
    def class_index(self) -> dict[int, int]:
        """Places of the classes in the ontology by their ids."""
        return {class_id: index for index, class_id in enumerate(self.ontology.ids)}

    @property
    def side(self) -> int:
        """Of SAM's square, in pixels."""
        return int(self.predictor.sam.image_encoder.img_size)

    @property
    def device(self) -> str:
        return str(self.predictor.sam.device)

    def file(self) -> AmSamFile:
        """What `teacher.json` says whatever was tuned."""
        settings, categories = told(self.settings), self.ontology.categories
        return AmSamFile(settings=settings, categories=categories, sam_sha256=sam_digest(self.settings))

    def _zero_shot(self, masked: int) -> Metrics:
        reason = f"tuning needs masks on {LEAST_IMAGES} or more human-masked images, found {masked}"
        self.file().model_copy(update={"zero_shot": True, "reason": reason}).save(self.context.out)
        return {"zero_shot": reason, "images": masked}


class _Fit:
    """A fit on a pool of shots."""

    def __init__(self, fitting: Fitting, pool: Pool) -> None:
        self._fitting, self._pool, self._context = fitting, pool, fitting.context
        self._settings = fitting.settings
        self._classes = classes_of(pool, fitting.class_index)
        seed = self._context.seed
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            network = new_network(fitting.predictor, self._settings, len(fitting.class_index))
            self._detector = self._new_detector() if fitting.find is None else None
        self._bench = self._new_bench(network, halves(self._classes, seed))
        epochs = -(-self._bench.steps // self._bench.epoch)
        self._learner = Learner(
            network, None if self._detector is None else self._detector.network, epochs=epochs
        ).to(fitting.device)

    def run(self) -> Metrics:
        """Tune, write, sum up."""
        context, bench, learner = self._context, self._bench, self._learner
        bench.cache.build(context, lambda done, whole: context.progress(done, whole, "embeddings"))
        phases = [] if self._detector is None else [self._detector.phase()]
        phases.append(tuning(bench, learner))
        recipe = json.dumps({**told(self._settings), "seed": context.seed}, sort_keys=True)
        done = run_phases(phases, learner, context, recipe=recipe, every=self._settings.checkpoint_every)
        learner.take_best()
        asked = self._asked()
        file = self._file()
        file.save(context.out)
        facts = None if self._detector is None else self._detector.facts()
        save_weights(context.out, learner.network, learner.detector, facts)
        _write(context.out / "dice.json", [round(dice, 5) for dice in learner.curve.tolist()])
        return {
            **write_losses(phases, done, context.out, lower="loss_of_d1"),
            **self._counts(),
            **asked,
            "best_epoch": file.best_epoch,
            "dice": file.dice,
        }

    def _file(self) -> AmSamFile:
        ids = self._fitting.ontology.ids
        of = self._bench.halves
        facts = {
            "taught": tuple(ids[index] for index in sorted(self._shown())),
            "lower": tuple(self._pool[place].image_id for place in of.lower),
            "upper": tuple(self._pool[place].image_id for place in of.upper),
            "best_epoch": int(self._learner.best_epoch),
            "dice": 1 - float(self._learner.best_loss),
        }
        return self._fitting.file().model_copy(update=facts)

    def _counts(self) -> Metrics:
        network, of = self._learner.network, self._bench.halves
        unseen = self._shown() - self._shown(of.upper)
        return {
            "images": len(self._pool),
            "images_of_d1": len(of.lower),
            "images_of_d2": len(of.upper),
            "classes_unseen_by_d2": len(unseen),
            "classes_without_masks": len(self._fitting.ontology.ids) - len(self._shown()),
            "parameters_of_theta": sum(p.numel() for p in network.theta()),
            "parameters_of_phi": sum(p.numel() for p in network.phi()),
        }

    def _shown(self, places: Iterable[int] | None = None) -> frozenset[int]:
        """Indices of the classes with a mask on some of the images, or on any."""
        some = self._classes if places is None else [self._classes[place] for place in places]
        return frozenset[int]().union(*some)

    def _asked(self) -> Metrics:
        """How many prompts were no box but the whole image, and a warning if all were; `boxes.json` tells of which."""
        if self._bench.question is None:
            return {}
        questions = list(self._questions(self._bench.question))
        listed = [
            {
                "image_id": self._pool[place].image_id,
                "file_name": self._pool[place].uri,
                "category_id": class_id,
                "box_xyxy": prompt.box_xyxy,
                "score": prompt.score,
                "origin": prompt.origin,
            }
            for place, own in enumerate(questions)
            for class_id, prompt in own.prompts
        ]
        _write(self._context.out / "boxes.json", listed)
        unfound = sum(own.unfound for own in questions)
        return {
            "prompts": len(listed),
            "prompts_without_box": unfound,
            "images_without_box": sum(own.unfound == len(own.prompts) for own in questions),
            **(self._boxless(max(own.highest for own in questions)) if unfound == len(listed) else {}),
        }

    def _questions(self, of: Callable[[int], Question]) -> Iterator[Question]:
        watch = watching(self._context, "looking for boxes")
        for place in range(len(self._pool)):
            watch(place, len(self._pool))
            yield of(place)

    def _boxless(self, highest: float) -> Metrics:
        """What a run should tell its user if no box prompted anything."""
        own = self._settings
        better = "more detector_epochs, better detector_weights" if own.boxes == "detector" else "other boxes"
        said = (
            "no box was found on any image, so SAM was asked with the whole of each: the highest score is "
            f"{highest:.3f}, and `score` {own.score:g}; {better} or a lower `score` may help"
        )
        return {"warning": said}

    def _new_detector(self) -> TunedDetector:
        loader = Loader(
            pool=self._pool,
            images_root=self._context.images_root,
            class_index=self._fitting.class_index,
            size=self._fitting.side,
            scale=DETECTOR_SCALE,
            batch=self._settings.detector_batch_size,
            seed=self._context.seed,
            trust_weights=False,
            team=self._context.team,
        )
        fitting = self._fitting
        return TunedDetector.new(self._settings, loader, ontology=fitting.ontology, device=fitting.device)

    def _new_bench(self, network: AmSamNetwork, split: Halves) -> Bench:
        own, pool = self._settings, self._pool
        cache = EmbeddingCache(
            self._fitting.predictor,
            training_images(pool),
            [(place, None) for place in range(len(pool))],
            dtype="float32",
            limit_bytes=own.cache_gb * _GIB,
        )
        return Bench(
            network,
            own,
            split,
            cache,
            lru_cache(KEPT_TRUTHS)(self._truth),
            None if own.boxes == "none" else lru_cache(None)(self._question),
            device=self._fitting.device,
            seed=self._context.seed,
            team=self._context.team,
        )

    def _truth(self, place: int) -> Truth:
        fitting = self._fitting
        low = fitting.predictor.low_res[0]
        return truth_of(self._pool[place], fitting.class_index, side=fitting.side, low=low)

    def _question(self, place: int) -> Question:
        """Asked once the detector is tuned, not before: what it finds is kept."""
        record, ids = self._pool[place], self._fitting.ontology.ids
        image = read_unchanged(self._context.images_root / record.uri, record.sha256)
        found = surest(self._find(Sample(record, image), ids), ids)
        own = self._settings
        return question(found, ids, record, by_class=own.prompt == "class", score=own.score)

    @cached_property
    def _find(self) -> Find:
        if self._detector is not None:
            return self._detector.find()
        assert self._fitting.find is not None
        return self._fitting.find


def _write(path: Path, value: Sequence[object]) -> None:
    path.write_text(json.dumps(list(value)) + "\n")
