"""What the gate needs of a teacher that was tuned; imports no torch.

teacher.compare(samples, seed=0)["box"].tuned        # IoU of each human mask on the samples, one number a mask
teacher.asked(WeakKind.POINT)                        # ("point", "point_box"): who answers when points are labelled
teacher.label_by(samples, [{"point": "zero_shot"}])  # what it would label if they were chosen so
teacher.folds                                        # with 2-19 masks: artifacts that have not seen `held_out`
teacher.select({"box": "zero_shot"})
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from pipeline.data.records import Instance, WeakKind
from teachers.protocols import Sample

Choice = Literal["tuned", "zero_shot"]


class Fold(BaseModel):
    """A teacher fitted without the `held_out` images, in the artifact's folder `path`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    held_out: tuple[int, ...]


@dataclass(frozen=True)
class Scores:
    """IoUs [0, 1], one a human mask: of the tuned head and of zero-shot SAM on the same prompts."""

    tuned: list[float]
    zero_shot: list[float]


@runtime_checkable
class GatedTeacher(Protocol):
    """A teacher with tuned variants, each of which can stand back for the zero-shot model."""

    zero_shot_reason: str | None  # why nothing was tuned
    folds: tuple[Fold, ...]

    @property
    def variants(self) -> tuple[str, ...]:
        """Variants that its settings have, tuned or not."""
        ...

    @property
    def tuned_variants(self) -> tuple[str, ...]:
        """Variants that have a tuned head."""
        ...

    def compare(self, samples: Sequence[Sample], *, seed: int) -> dict[str, Scores]:
        """Tuned and zero-shot IoUs of every tuned variant on the human masks of `samples`."""
        ...

    def asked(self, kind: WeakKind) -> tuple[str, ...]:
        """Variants that answer when labels of a kind are labelled; none for a kind that prompts nothing."""
        ...

    def label_by(
        self, batch: Sequence[Sample], choices: Sequence[Mapping[str, Choice]]
    ) -> list[list[list[Instance]]]:
        """What `label` says of a batch by each of these choices, whatever is selected; unnamed variants are tuned.

        Without what `label` may add of another teacher's opinion.
        """
        ...

    def select(self, choices: Mapping[str, Choice]) -> None:
        """Say for each variant whether the tuned head or the zero-shot model answers from now on."""
        ...
