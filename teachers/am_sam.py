"""AM-SAM and BLO-SAM as a teacher: whole classes from a handful of masks, by SAM's decoder and a box of each class.

Each pixel gets its likeliest class (`semantic_masks.py`); classes that a record says are not there, or that there was
no mask of to learn from, are left out. An image is asked by itself, so `calibration: batch` does here what `sample`
does.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.data.errors import BadInput
from pipeline.data.records import Instance, Ontology, Source, WeakKind
from pipeline.engine.context import Metrics, Records, TrainContext
from teachers.aligned_detector import AlignedDetector
from teachers.am_sam_artifact import check, load_weights, read_am_sam
from teachers.am_sam_boxes import BoxFile, Find, Question, asked, nothing, proposed, question, surest
from teachers.am_sam_fit import Fitting, new_network
from teachers.am_sam_network import AmSamNetwork, PlainSam
from teachers.am_sam_settings import AM_SAM, AmSamSettings
from teachers.fitted_detector import WEIGHTS, open_detector
from teachers.identity import file_sha256, sam_digest
from teachers.protocols import Sample
from teachers.sam.load import load_sam
from teachers.sam.predictor import SamPredictor
from teachers.sam.upsample import Upsampler
from teachers.sam_teacher import EMPTY_MASK
from teachers.self_training import Label
from teachers.semantic_masks import Found, Labelled, labelled
from teachers.weak_prompts import unlocated


class AmSam:
    """A `Teacher`; without a fit it is plain SAM, asked with the same boxes.

    `find` looks for boxes, None where a detector is to be tuned for that. `taught`: the classes that it knows. `model`:
    what stands for its weights.
    """

    def __init__(
        self,
        settings: AmSamSettings,
        predictor: SamPredictor,
        network: AmSamNetwork | PlainSam,
        *,
        ontology: Ontology,
        find: Find | None,
        taught: Sequence[int],
        model: str,
    ) -> None:
        self.settings, self.predictor, self.network = settings, predictor, network
        self.ontology, self._find, self._taught, self._model = ontology, find, frozenset(taught), model

    def fit(self, data: Records, context: TrainContext) -> Metrics:
        """Tune on the human-masked records (see `Fitting.run`); BadInput for `boxes: fitted`."""
        if self.settings.boxes == "fitted":
            raise BadInput(
                "am_sam: boxes: fitted are those of a tuned teacher; expected detector, found fitted"
            )
        return Fitting(self.settings, self.predictor, self.ontology, self._find, self._labeller, context).run(
            data
        )

    def _labeller(self, network: AmSamNetwork, find: Find, taught: Sequence[int]) -> Label:
        """As this teacher labels, by another network."""
        ontology, model = self.ontology, self._model
        return AmSam(
            self.settings, self.predictor, network, ontology=ontology, find=find, taught=taught, model=model
        ).label

    def label(self, batch: Sequence[Sample]) -> list[list[Instance]]:
        """Pseudo-masks of each sample, by the ontology's order of classes; semantic ones, or instances by `split`.

        `score` is the mean probability within the mask, times that of the box, if one was found. A class that tags say
        is there, and that got no pixel, is an instance without `rle`, dropped as "empty mask".
        """
        return [list(self._label(sample)) for sample in batch]

    def _label(self, sample: Sample) -> Iterator[Instance]:
        wanted = unlocated(sample.record)
        known = [
            class_id
            for class_id in self.ontology.ids
            if class_id in self._taught and (wanted is None or class_id in wanted)
        ]
        if not known:
            return
        asked_with = self._question(sample, known)
        found = self._seen(sample, known, asked_with)
        own = self.settings
        for index, class_id in enumerate(known, start=1):
            masks: list[Found | None] = [found.whole(index)]
            if own.split == "components":
                masks = [*found.components(index, least=own.min_area)] or [None]
            for mask in masks if wanted is not None else filter(None, masks):
                yield self._instance(class_id, mask, asked_with, tagged=wanted is not None)

    def _question(self, sample: Sample, known: Sequence[int]) -> Question | None:
        if self.settings.boxes == "none":
            return None
        found = surest((self._find or nothing)(sample, known), known)
        own, by_class = self.settings, self.settings.prompt == "class"
        return question(found, self.ontology.ids, sample.record, by_class=by_class, score=own.score)

    @torch.inference_mode()
    def _seen(self, sample: Sample, known: Sequence[int], asked_with: Question | None) -> Labelled:
        """Each pixel's class, the background or one of those known, as index 1 and on."""
        embeddings = self.predictor.embed([sample.image])
        (frame,), boxes = embeddings.frames, None
        if asked_with is not None:
            boxes = asked_with.tensor(frame)[None].to(self.predictor.sam.device)
        logits = self.network(embeddings.features, boxes)[0].float().cpu().numpy()
        rows = [0, *(self.ontology.ids.index(class_id) + 1 for class_id in known)]
        return labelled([logits[row] for row in rows], Upsampler(frame, self.predictor.low_res))

    def _instance(
        self, class_id: int, mask: Found | None, asked_with: Question | None, *, tagged: bool
    ) -> Instance:
        prompt = None if asked_with is None else asked_with.of(class_id)
        sure = 1.0 if prompt is None or prompt.score is None else prompt.score
        return Instance(
            Source.TEACHER,
            class_id,
            rle=None if mask is None else mask.rle,
            semantic=self.settings.split == "none",
            weak_kind=WeakKind.CLASS if tagged else WeakKind.NONE,
            prompt=None if prompt is None else replace(prompt, class_id=class_id),
            score=0.0 if mask is None else min(mask.probability, 1.0) * sure,
            dropped=EMPTY_MASK if mask is None else None,
            model=self._model,
        )


def build_am_sam(settings: AmSamSettings, *, ontology: Ontology, device: str, artifact: Path | None) -> AmSam:
    """New, so plain SAM, or with what an artifact holds.

    BadInput, naming the file, for an artifact that is damaged or does not fit SAM, settings or classes, and for a box
    file that is none.
    """
    with torch.random.fork_rng([]):  # what new networks draw is nobody else's
        sam = load_sam(settings.sam, settings.checkpoint, sha256=settings.sha256).to(device)
        return assembled(settings, SamPredictor(sam), ontology=ontology, artifact=artifact)


def assembled(
    settings: AmSamSettings, predictor: SamPredictor, *, ontology: Ontology, artifact: Path | None = None
) -> AmSam:
    """As `build_am_sam`, on a SAM that is there."""
    sam_sha256 = sam_digest(settings)
    taught, weights, tuned = ontology.ids, "", False
    network: AmSamNetwork | PlainSam = PlainSam(predictor.sam, classes=len(ontology.ids))
    if artifact is not None:
        found = read_am_sam(artifact)
        check(found, artifact, settings, ontology=ontology, sam_sha256=sam_sha256)
        if tuned := not found.zero_shot:
            network = load_weights(artifact, new_network(predictor, settings, len(ontology.ids)))
            taught, weights = found.taught, file_sha256(artifact / WEIGHTS)
    network.requires_grad_(False)
    stands_for = f"{AM_SAM} {settings.sam} {sam_sha256} {weights}"
    return AmSam(
        settings,
        predictor,
        network,
        ontology=ontology,
        find=_find(settings, predictor, ontology, artifact if tuned else None),
        taught=taught,
        model=hashlib.sha256(stands_for.encode()).hexdigest(),
    )


def _find(
    settings: AmSamSettings, predictor: SamPredictor, ontology: Ontology, tuned: Path | None
) -> Find | None:
    """Who looks for boxes; None where a detector is to be tuned for that."""
    if settings.boxes == "proposals":
        return proposed
    if settings.boxes == "file":
        assert settings.box_file is not None
        return BoxFile(settings.box_file, ontology.ids)
    if settings.boxes == "none":
        return nothing
    if tuned is None:
        return None
    detector, facts = open_detector(tuned)
    device = str(predictor.sam.device)
    return asked(AlignedDetector(detector.to(device), facts, ontology=ontology, device=device))
