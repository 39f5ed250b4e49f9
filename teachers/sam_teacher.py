"""The SAM teachers' policy: which prompts each weak label becomes, which head answers, what the record keeps.

One encoder pass an image serves P-SAM and BP-SAM. The rules are those of weak_prompts.py and of Algorithm 1
(Das et al. 2024; point_way.py, refine.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.data.errors import BadInput
from pipeline.data.records import Instance, Match, Prompt, Source, WeakKind
from pipeline.engine.context import Metrics, Records, TrainContext
from teachers.answerer import Answerer, Question, View
from teachers.finetune import tune
from teachers.gating import Choice, Fold, Scores
from teachers.head_scores import compare
from teachers.heads import TeacherFile, load_head
from teachers.identity import ModelIdentity, mask_digest
from teachers.point_way import refined_prompts
from teachers.protocols import Sample
from teachers.sam.masks import PredictedMask
from teachers.self_training import Label
from teachers.settings import BOX, PLAIN_BOX, POINT, POINT_BOX, ClassAwareSettings, SamSettings
from teachers.weak_prompts import Request, Way, requests

EMPTY_MASK = "empty mask"


@dataclass(frozen=True)
class _Job:
    """A request of image `image` of the batch at its present state: prompt, head, and what Algorithm 1 did."""

    image: int
    request: Request
    prompt: Prompt
    variant: str
    match: Match | None = None

    @property
    def question(self) -> Question:
        return Question(self.variant, self.image, self.prompt)


class SamTeacher:
    """A `Teacher` and a `GatedTeacher`.

    `tuned` is what its artifact says of itself, None for a fresh one; `heads` are the digests of its heads' files.
    """

    def __init__(
        self,
        answerer: Answerer,
        settings: SamSettings,
        identity: ModelIdentity,
        *,
        tuned: TeacherFile | None = None,
        heads: Mapping[str, str] | None = None,
    ) -> None:
        self.answerer = answerer
        self.settings = settings
        self.identity = identity
        self._heads = heads or {}
        self.folds: tuple[Fold, ...] = tuned.folds if tuned else ()
        self.zero_shot_reason: str | None = tuned.reason if tuned else "not tuned"

    @property
    def variants(self) -> tuple[str, ...]:
        """Variants that the settings have; none for the entry that has nothing to tune."""
        return self.settings.variants if isinstance(self.settings, ClassAwareSettings) else ()

    @property
    def tuned_variants(self) -> tuple[str, ...]:
        """Variants that have a tuned head."""
        return self.answerer.tuned_variants

    def select(self, choices: Mapping[str, Choice]) -> None:
        """Say for each variant whether its tuned head or plain SAM answers (see `Answerer.select`)."""
        self.answerer.select(choices)

    def compare(self, samples: Sequence[Sample], *, seed: int) -> dict[str, Scores]:
        """Tuned and zero-shot IoUs of every tuned variant (see `head_scores.compare`)."""
        jitter = self.settings.box_jitter if isinstance(self.settings, ClassAwareSettings) else 0.0
        return compare(self.answerer, samples, seed=seed, jitter=jitter)

    def fit(self, data: Records, context: TrainContext) -> Metrics:
        """Tune the variants on human-masked records (see `tune`); BadInput for the entry that has none."""
        if not isinstance(self.settings, ClassAwareSettings):
            raise BadInput("finetune_teacher: model `sam` has nothing to tune; use `class_aware_sam`")
        return tune(
            data,
            context,
            settings=self.settings,
            answerer=self.answerer,
            identity=self.identity,
            labeller=self._labeller,
        )

    def _labeller(self, folder: Path) -> Label:
        """How this teacher labels with the heads in a folder."""
        plain = self.answerer
        assert isinstance(self.settings, ClassAwareSettings)
        width = plain.texts.width if plain.texts else 0
        heads = {
            variant: load_head(plain.predictor.sam, folder, variant, settings=self.settings, text_width=width)
            for variant in self.settings.variants
        }
        answerer = Answerer(plain.predictor, heads, plain.texts, zoom=plain.zoom)
        return SamTeacher(answerer, self.settings, self.identity).label

    def label(self, batch: Sequence[Sample]) -> list[list[Instance]]:
        """Pseudo-masks of each sample: human labels in their order, then proposals, best first.

        A mask without a pixel is an instance without `rle`, dropped as "empty mask". `score` is the proposal's
        confidence, if one was used, times the clipped predicted IoU.
        """
        view = self.answerer.look(batch)
        jobs, masks = self._answered(batch, view)
        return _instances(len(batch), jobs, masks=masks, model=self._model)

    def asked(self, kind: WeakKind) -> tuple[str, ...]:
        """Variants that answer when labels of a kind are labelled; none for `instruction`."""
        if kind is WeakKind.POINT:
            return (POINT, POINT_BOX) if self.settings.refine else (POINT,)
        ways = {
            WeakKind.BOX: Way.HUMAN_BOX,
            WeakKind.CLASS: Way.PROPOSAL,
            WeakKind.NONE: Way.PROPOSAL,
        }
        return (self._variant(ways[kind]),) if kind in ways else ()

    def label_by(
        self, batch: Sequence[Sample], choices: Sequence[Mapping[str, Choice]]
    ) -> list[list[list[Instance]]]:
        """What `label` says of a batch by each of these choices.

        The encoder sees a part of an image once for all.
        """
        before, view = self.answerer.choices, self.answerer.look(batch)
        found = []
        try:
            for chosen in choices:
                self.answerer.select(chosen)
                jobs, masks = self._answered(batch, view)
                found.append(_instances(len(batch), jobs, masks=masks, model=self._model))
        finally:
            self.answerer.select(before)
        return found

    def _answered(self, batch: Sequence[Sample], view: View) -> tuple[list[_Job], list[PredictedMask]]:
        """What SAM was asked in the end, and its answers."""
        jobs = [
            _Job(image, request, request.prompt, self._variant(request.way))
            for image, sample in enumerate(batch)
            for request in requests(sample.record, self.settings)
        ]
        if self.settings.refine:
            jobs = self._refine(batch, jobs, view)
        return jobs, self.answerer.answer(view, [job.question for job in jobs])

    def _model(self, variant: str) -> str:
        """The digest of the weights that answer for a variant."""
        tuned = self.answerer.is_tuned(variant)
        return mask_digest(self.identity, self._heads.get(variant) if tuned else None)

    def _variant(self, way: Way) -> str:
        if way is Way.HUMAN_POINT:
            return POINT
        plain = isinstance(self.settings, ClassAwareSettings) and self.settings.class_aware == "no_box"
        return PLAIN_BOX if plain and way is Way.HUMAN_BOX else BOX

    def _refine(self, batch: Sequence[Sample], jobs: list[_Job], view: View) -> list[_Job]:
        """Point jobs with P-SAM's boxes refined by Algorithm 1, to be answered by BP-SAM; others as they are."""
        clicked = [row for row, job in enumerate(jobs) if job.request.way is Way.HUMAN_POINT]
        boxes = {
            row: mask.box
            for row, mask in zip(
                clicked, self.answerer.answer(view, [jobs[row].question for row in clicked]), strict=True
            )
        }
        refined = list(jobs)
        for image, sample in enumerate(batch):
            rows = [row for row in clicked if jobs[row].image == image]
            found = refined_prompts(
                [jobs[row].prompt for row in rows],
                [boxes[row] for row in rows],
                sample.record.proposals,
                self.settings,
            )
            for row, (prompt, match) in zip(rows, found, strict=True):
                refined[row] = replace(jobs[row], prompt=prompt, match=match, variant=POINT_BOX)
        return refined


def _instances(
    images: int,
    jobs: Sequence[_Job],
    *,
    masks: Sequence[PredictedMask],
    model: Callable[[str], str],
) -> list[list[Instance]]:
    """The answers by image, each with the digest that `model` tells of its variant."""
    out: list[list[Instance]] = [[] for _ in range(images)]
    for job, mask in zip(jobs, masks, strict=True):
        out[job.image].append(_instance(job, mask, model(job.variant)))
    return out


def _instance(job: _Job, mask: PredictedMask, model: str) -> Instance:
    """What the record keeps: the human label's own points, box and id, and everything about the new mask."""
    label = job.request.human or Instance(Source.HUMAN, job.prompt.class_id, job.prompt.phrase)
    return replace(
        label,
        source=Source.TEACHER,
        weak_kind=job.request.weak_kind,
        rle=mask.rle,
        prompt=job.prompt,
        match=job.match,
        model=model,
        score=mask.pred_iou * (1.0 if job.prompt.score is None else job.prompt.score),
        pred_iou=mask.pred_iou,
        stability=mask.stability,
        dropped=EMPTY_MASK if mask.rle is None else None,
    )
