"""A SAM with its heads: prompts of a batch of images in, masks at original size out.

Three rings so far: tensors (sam/decode.py, class_aware.py), pixels (sam/predictor.py, sam/masks.py), and here the
choice of the head that answers. What to ask is policy (sam_teacher.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.data.errors import BadInput
from pipeline.data.records import Prompt
from teachers.class_texts import ClassTexts
from teachers.gating import Choice
from teachers.protocols import Sample
from teachers.sam.masks import PredictedMask, to_mask
from teachers.sam.predictor import Ask, Embeddings, Head, SamPredictor
from teachers.sam.upsample import Upsampler


@dataclass(frozen=True)
class View:
    """A batch after the encoder pass: features, and the way back to each image's own size."""

    embeddings: Embeddings
    upsamplers: list[Upsampler]


@dataclass(frozen=True)
class Question:
    """A prompt for image `image` of the batch, to be answered by the head of `variant`."""

    variant: str
    image: int
    prompt: Prompt


class Answerer:
    """SAM with a tuned head for some variants; a variant without one, or told so, is answered by plain SAM."""

    def __init__(self, predictor: SamPredictor, heads: Mapping[str, Head], texts: ClassTexts | None) -> None:
        self.predictor = predictor
        self.texts = texts
        self._tuned = dict(heads)
        self._plain = predictor.plain_head()
        self._choices: dict[str, Choice] = {}

    @property
    def tuned_variants(self) -> tuple[str, ...]:
        """Variants that have a tuned head."""
        return tuple(self._tuned)

    def select(self, choices: Mapping[str, Choice]) -> None:
        """Say for each variant whether its tuned head or plain SAM answers; unnamed ones keep the tuned head.

        BadInput for a variant that is told to use a tuned head it does not have.
        """
        for variant, choice in choices.items():
            if choice == "tuned" and variant not in self._tuned:
                raise BadInput(f"variant {variant!r} has no tuned head; tuned are {list(self._tuned)}")
        self._choices = dict(choices)

    def is_tuned(self, variant: str) -> bool:
        """Whether a tuned head answers for a variant, not plain SAM."""
        return self._head(variant) is not self._plain

    def look(self, batch: Sequence[Sample]) -> View:
        """The encoder pass."""
        embeddings = self.predictor.embed([sample.image for sample in batch])
        return View(embeddings, [Upsampler(frame, self.predictor.low_res) for frame in embeddings.frames])

    def answer(
        self, view: View, questions: Sequence[Question], *, zero_shot: bool = False
    ) -> list[PredictedMask]:
        """One mask for each question, by the head of its variant or, with `zero_shot`, by plain SAM."""
        masks: dict[int, PredictedMask] = {}
        for variant in dict.fromkeys(question.variant for question in questions):
            rows = [index for index, question in enumerate(questions) if question.variant == variant]
            head = self._plain if zero_shot else self._head(variant)
            asks = [self._ask(questions[row], head) for row in rows]
            for index, answer in self.predictor.decode(head, view.embeddings, asks):
                masks[rows[index]] = to_mask(answer, view.upsamplers[asks[index].image])
        return [masks[index] for index in range(len(questions))]

    def _head(self, variant: str) -> Head:
        if self._choices.get(variant) == "zero_shot":
            return self._plain
        return self._tuned.get(variant, self._plain)

    def _ask(self, question: Question, head: Head) -> Ask:
        prompt = question.prompt
        if head.branch is None or self.texts is None:
            return Ask(question.image, prompt)
        return Ask(question.image, prompt, self.texts.vector(prompt.class_id, prompt.phrase))
