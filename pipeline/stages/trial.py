"""Which heads label best: images with human masks, labelled as the weak ones are by every choice of heads."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

from pipeline.data.matching import match_image
from pipeline.data.records import Instance, Record
from pipeline.report.documents import LabelledGate
from teachers.gating import Choice

USES: tuple[Choice, ...] = ("zero_shot", "tuned")  # of choices that are equally good the first one is taken


class Trial:
    """IoU of every true object by each choice of heads for some `variants`, misses 0, in the same order."""

    def __init__(self, variants: Sequence[str]) -> None:
        self.variants = tuple(variants)
        self.choices: list[Mapping[str, Choice]] = [
            dict(zip(variants, chosen, strict=True)) for chosen in product(USES, repeat=len(variants))
        ]
        self._ious = [array("d") for _ in self.choices]

    def note(self, truth: Record, found: Sequence[Sequence[Instance]]) -> None:
        """One image and what was found in it, by each choice."""
        for ious, instances in zip(self._ious, found, strict=True):
            drawn = tuple(instance for instance in instances if instance.rle is not None)
            pairs, _ = match_image(truth, replace(truth, instances=drawn))
            ious.extend(pair.iou for pair in pairs)

    def of(self, variant: str) -> LabelledGate | None:
        """Both means of a variant, the others as in the best choice; None if it was not tried or nothing was found."""
        if variant not in self.variants or not any(any(ious) for ious in self._ious):
            return None
        best = max(self.choices, key=self._mean)
        return LabelledGate(
            tuned=self._mean({**best, variant: "tuned"}),
            zero_shot=self._mean({**best, variant: "zero_shot"}),
            objects=len(self._ious[0]),
        )

    def _mean(self, chosen: Mapping[str, Choice]) -> float:
        ious = self._ious[self.choices.index(chosen)]
        return sum(ious) / len(ious)
