"""A SAM with its heads: prompts of a batch of images in, masks at original size out.

Three rings so far: tensors (sam/decode.py, class_aware.py), pixels (sam/predictor.py, sam/masks.py), and here the
choice of the head that answers. What to ask is policy (sam_teacher.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.data.errors import BadInput
from pipeline.data.records import Prompt
from teachers.class_texts import ClassTexts
from teachers.gating import Choice
from teachers.protocols import Sample
from teachers.sam.masks import PredictedMask, to_mask
from teachers.sam.predictor import Ask, Head, Rgb, SamPredictor
from teachers.sam.reframe import reframed
from teachers.sam.upsample import Upsampler
from teachers.sam.zoom import Part, Zoom


class View:
    """A batch of images: features of what was asked about, and the way back to each image's own size.

    An image, or an enlarged part of it, is embedded with the first question about it, and once.
    """

    def __init__(self, predictor: SamPredictor, images: Sequence[Rgb]) -> None:
        self._predictor = predictor
        self._images = images
        self._places: dict[Part, int] = {}
        self.embeddings = predictor.embed([])
        self.upsamplers: list[Upsampler] = []

    def size(self, image: int) -> tuple[int, int]:
        """Height and width of an image of the batch."""
        height, width = self._images[image].shape[:2]
        return height, width

    def places(self, parts: Sequence[Part]) -> list[int]:
        """Where each part is in `embeddings`; the new ones are embedded."""
        new = [part for part in dict.fromkeys(parts) if part not in self._places]
        if new:
            found = self._predictor.embed(
                [self._images[image] for image, _ in new], [window for _, window in new]
            )
            self._places |= {part: len(self._places) + rank for rank, part in enumerate(new)}
            self.embeddings = self.embeddings.followed_by(found)
            self.upsamplers += [Upsampler(frame, self._predictor.low_res) for frame in found.frames]
        return [self._places[part] for part in parts]


@dataclass(frozen=True)
class Question:
    """A prompt for image `image` of the batch, to be answered by the head of `variant`."""

    variant: str
    image: int
    prompt: Prompt


@dataclass(frozen=True)
class _Look:
    """A question, its row among those asked, what is seen with it, and the mask (4g, 4g) of a first look, if any."""

    row: int
    question: Question
    part: Part
    mask: npt.NDArray[np.float32] | None = None


class Answerer:
    """SAM with a tuned head for some variants; a variant without one, or told so, is answered by plain SAM.

    `zoom`: on which part of the image a prompt is asked.
    """

    def __init__(
        self,
        predictor: SamPredictor,
        heads: Mapping[str, Head],
        texts: ClassTexts | None,
        *,
        zoom: Zoom,
    ) -> None:
        self.predictor = predictor
        self.zoom = zoom
        self.texts = texts
        self._tuned = dict(heads)
        self._plain = predictor.plain_head()
        self._choices: dict[str, Choice] = {}

    @property
    def tuned_variants(self) -> tuple[str, ...]:
        """Variants that have a tuned head."""
        return tuple(self._tuned)

    @property
    def choices(self) -> Mapping[str, Choice]:
        """What was selected last."""
        return dict(self._choices)

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
        """The batch to ask about; the encoder runs with the questions."""
        return View(self.predictor, [sample.image for sample in batch])

    def answer(
        self, view: View, questions: Sequence[Question], *, zero_shot: bool = False
    ) -> list[PredictedMask]:
        """One mask for each question, by the head of its variant or, with `zero_shot`, by plain SAM."""
        masks: dict[int, PredictedMask] = {}
        for variant in dict.fromkeys(question.variant for question in questions):
            rows = [index for index, question in enumerate(questions) if question.variant == variant]
            head = self._plain if zero_shot else self._head(variant)
            first = [_Look(row, questions[row], self._part(questions[row], view)) for row in rows]
            second = self._answer(view, head, first, masks)
            self._answer(view, head, second, masks)
        return [masks[index] for index in range(len(questions))]

    def _answer(
        self, view: View, head: Head, looks: Sequence[_Look], masks: dict[int, PredictedMask]
    ) -> list[_Look]:
        """Put the mask of each look into `masks`, by its row; the looks that are to follow (see sam/zoom.py).

        A second look that finds nothing leaves the mask of the first.
        """
        places = view.places([look.part for look in looks])
        asks = [self._ask(look, place, head) for look, place in zip(looks, places, strict=True)]
        again = []
        for index, answer in self.predictor.decode(head, view.embeddings, asks):
            look, place = looks[index], places[index]
            mask = to_mask(answer, view.upsamplers[place])
            if look.mask is not None:
                masks[look.row] = masks[look.row] if mask.rle is None else mask
                continue
            masks[look.row] = mask
            image, prompt = look.question.image, look.question.prompt
            window = self.zoom.again(prompt, mask.box, *view.size(image))
            if window is not None:
                frame = view.embeddings.frames[place]
                seen = reframed(answer.low_res_logits, frame, replace(frame, window=window))
                again.append(_Look(look.row, look.question, (image, window), seen))
        return again

    def _head(self, variant: str) -> Head:
        if self._choices.get(variant) == "zero_shot":
            return self._plain
        return self._tuned.get(variant, self._plain)

    def _part(self, question: Question, view: View) -> Part:
        height, width = view.size(question.image)
        return question.image, self.zoom.window(question.prompt, height, width)

    def _ask(self, look: _Look, place: int, head: Head) -> Ask:
        prompt = look.question.prompt
        if head.branch is None or self.texts is None:
            return Ask(place, prompt, mask=look.mask)
        return Ask(place, prompt, self.texts.vector(prompt.class_id, prompt.phrase), look.mask)
