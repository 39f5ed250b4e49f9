"""Which heads label best: images with human masks, labelled as the weak ones are by every choice of heads."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

from pipeline.data.matching import match_image
from pipeline.data.records import Instance, Record
from pipeline.report.documents import LabelledGate
from teachers.gating import Choice

Chosen = Mapping[str, Choice]


class Trial:
    """IoU of every true object by each choice of heads for some `variants`, misses 0, in the same order."""

    def __init__(self, variants: Sequence[str]) -> None:
        self.variants = tuple(variants)
        uses: tuple[Choice, ...] = (
            "zero_shot",
            "tuned",
        )  # of choices that are as good the first one is taken
        self.choices: list[Chosen] = [
            dict(zip(variants, chosen, strict=True)) for chosen in product(uses, repeat=len(variants))
        ]
        self._ious = [array("d") for _ in self.choices]

    def note(self, truth: Record, found: Sequence[Sequence[Instance]]) -> None:
        """One image and what was found in it, by each choice."""
        for ious, instances in zip(self._ious, found, strict=True):
            drawn = tuple(instance for instance in instances if instance.rle is not None)
            pairs, _ = match_image(truth, replace(truth, instances=drawn))
            ious.extend(pair.iou for pair in pairs)

    def best(self) -> Chosen:
        """The choice of the highest mean; of the fewest tuned heads, nearly, if some are equal."""
        return max(self.choices, key=self._mean)

    def of(self, variant: str) -> LabelledGate | None:
        """Both means of a variant, the others as in the best choice; None if it was not tried, or on no object."""
        if variant not in self.variants or not self._ious[0]:
            return None
        tuned, zero_shot = (self._mean({**self.best(), variant: use}) for use in ("tuned", "zero_shot"))
        return LabelledGate(tuned=tuned, zero_shot=zero_shot, objects=len(self._ious[0]))

    def _mean(self, chosen: Mapping[str, str]) -> float:
        ious = self._ious[self.choices.index(chosen)]  # type: ignore[arg-type]
        return sum(ious) / max(len(ious), 1)
