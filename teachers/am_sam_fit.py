"""The fitting of AM-SAM: shots to halves, a detector where one is to be tuned, their boxes, the levels, the artifact.

Its files: am_sam_artifact.py's two; `boxes.json`, what each shot was asked with; `loss.json` (phase_losses.py), of D2
and of D1; `dice.json`, the Dice on D2 before each epoch and after the last, of the second round behind the first's.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from pipeline.data.records import Ontology
from pipeline.engine.context import Metrics, Records, TrainContext
from teachers.am_sam_again import AGAIN, Joined, own_masks
from teachers.am_sam_artifact import AmSamFile, save_weights, told
from teachers.am_sam_asked import write_asked, write_list
from teachers.am_sam_boxes import Find
from teachers.am_sam_data import Shots, classes_of, halves
from teachers.am_sam_detector import TunedDetector
from teachers.am_sam_material import Material
from teachers.am_sam_network import AmSamNetwork
from teachers.am_sam_phases import Learner, tuning
from teachers.am_sam_settings import AmSamSettings
from teachers.checkpoint import Progress
from teachers.identity import sam_digest
from teachers.phase_losses import write_losses
from teachers.phases import Phase, run_phases
from teachers.pool import Halves, Loader, Pool, RecordPool, write_pool
from teachers.sam.predictor import SamPredictor
from teachers.self_training import Label
from teachers.settings import DETECTOR_SCALE

Labeller = Callable[[AmSamNetwork, Find, Sequence[int]], Label]
LEAST_IMAGES = 2  # with a mask: one for each half


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
    """What a fit has besides its data. `find` looks for boxes; None where a detector is to be tuned for that.

    `labeller`: labels weak images by a network, with whoever looks for boxes, the classes that it was taught.
    """

    settings: AmSamSettings
    predictor: SamPredictor
    ontology: Ontology
    find: Find | None
    labeller: Labeller
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
        return _Fit(self, data, RecordPool(path)).run()

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


@dataclass(frozen=True)
class _Again:
    """A second round; without phases if there was no mask to learn from."""

    phases: list[Phase]
    done: list[Progress]
    told: Metrics


class _Fit:
    """A fit on a pool of shots; `data` has the weak images too, if such were asked for."""

    def __init__(self, fitting: Fitting, data: Records, pool: Pool) -> None:
        self._fitting, self._data, self._pool, self._context = fitting, data, pool, fitting.context
        self._settings = fitting.settings
        self._classes = classes_of(pool, fitting.class_index)
        seed = self._context.seed
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            network = new_network(fitting.predictor, self._settings, len(fitting.class_index))
            self._detector = self._new_detector() if fitting.find is None else None
        split = halves(self._classes, seed)
        epoch = -(-len(split.lower) // self._settings.batch_size)  # D1 is the larger half
        steps = self._settings.steps or self._settings.epochs * epoch
        self._material = self._of(pool, self._context)
        self._bench = self._material.bench(network, split, epoch=epoch, steps=steps)
        self._judgements = -(-steps // epoch) + 1  # of a round
        self._learner = Learner(
            network,
            None if self._detector is None else self._detector.network,
            judgements=self._judgements * (2 if self._settings.self_training else 1),
        ).to(fitting.device)

    def run(self) -> Metrics:
        """Tune, write, sum up."""
        context, learner = self._context, self._learner
        self._material.build()
        phases = [] if self._detector is None else [self._detector.phase()]
        phases.append(tuning(self._bench, learner))
        done = self._run(phases, context)
        again = self._again() if self._settings.self_training else _Again([], [], {})
        asked = write_asked(self._pool, self._bench.question, self._settings, context)
        file = self._file()
        file.save(context.out)
        facts = None if self._detector is None else self._detector.facts()
        save_weights(context.out, learner.network, learner.detector, facts)
        write_list(context.out / "dice.json", _judged(learner.curve))
        return {
            **write_losses(phases + again.phases, done + again.done, context.out, lower="loss_of_d1"),
            **self._counts(),
            **asked,
            **again.told,
            "best_epoch": file.best_epoch,
            "dice": file.dice,
        }

    def _run(self, phases: Sequence[Phase], context: TrainContext) -> list[Progress]:
        """Run phases and go back to the best epoch."""
        recipe = json.dumps({**told(self._settings), "seed": context.seed}, sort_keys=True)
        every = self._settings.checkpoint_every
        done = run_phases(phases, self._learner, context, recipe=recipe, every=every)
        self._learner.take_best()
        return done

    def _again(self) -> _Again:
        """The second round, from the first one's best epoch."""
        own, context, bench = self._settings, self._context, self._bench
        folder = context.workdir / AGAIN
        folder.mkdir(exist_ok=True)
        context = replace(context, workdir=folder)
        path = context.scratch / "pool.arrow"
        if context.team.leads:
            taught = [self._fitting.ontology.ids[index] for index in sorted(self._shown())]
            label = self._fitting.labeller(self._learner.network, self._find, taught)
            found = own_masks(self._data, label, context, share=own.self_training)
            write_pool(
                Joined(self._pool, found),
                path,
                class_index=self._fitting.class_index,
                filter_empty=False,
                progress=context.progress,
            )
        context.team.wait()
        pool = RecordPool(path)
        more = range(len(self._pool), len(pool))
        told = {"own_masks": len(more), "dice_before": 1 - float(self._learner.best_loss)}
        if not more:
            return _Again([], [], told)
        split = Halves((*bench.halves.lower, *more), bench.halves.upper)
        material = self._of(pool, context)
        material.build()
        again = material.bench(self._learner.network, split, epoch=bench.epoch, steps=bench.steps)
        phase = tuning(again, self._learner, AGAIN, first=self._judgements)
        return _Again([phase], self._run([phase], context), told)

    def _of(self, pool: Pool, context: TrainContext) -> Material:
        own = self._fitting
        return Material(pool, own.settings, own.predictor, own.ontology, lambda: self._find, context)

    def _file(self) -> AmSamFile:
        ids = self._fitting.ontology.ids
        of, best = self._bench.halves, int(self._learner.best_epoch)
        facts = {
            "taught": tuple(ids[index] for index in sorted(self._shown())),
            "lower": tuple(self._pool[place].image_id for place in of.lower),
            "upper": tuple(self._pool[place].image_id for place in of.upper),
            "best_epoch": best if best >= 0 else None,
            "dice": 1 - float(self._learner.best_loss) if best >= 0 else None,
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

    @cached_property
    def _find(self) -> Find:
        if self._detector is not None:
            return self._detector.find()
        assert self._fitting.find is not None
        return self._fitting.find


def _judged(curve: Tensor) -> list[float]:
    return [round(dice, 5) for dice in curve[~curve.isnan()].tolist()]
