"""A detector that knows the little pictures' colours, in the place of the tiny FCOS."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from teachers.detector import Assignment, DetectorNetwork, Raw, Targets
from teachers.detectors import DETECTORS


class Colours(DetectorNetwork):
    """Finds what is red and what is blue; its one parameter is that by which its boxes are moved."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.shift = nn.Parameter(torch.zeros(4))

    def predict(self, pixels: Tensor) -> Raw:
        found = torch.stack([torch.stack([self._box(i, 0), self._box(i, 2)]) for i in pixels])
        logits = torch.tensor([[4.0, -4.0], [-4.0, 4.0]]).expand(len(pixels), 2, 2)
        return Raw(found + self.shift, logits, None, torch.zeros(2, 2), torch.ones(2), pixels.shape[-1])

    def _box(self, image: Tensor, channel: int) -> Tensor:
        rows, columns = ((image[channel] > 170) & (image[1] < 90)).nonzero().unbind(1)
        return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()

    def assign(self, raw: Raw, targets: Sequence[Targets]) -> Assignment:  # noqa: ARG002
        none = torch.zeros(0, dtype=torch.int64)
        return Assignment(none, none, none, torch.zeros(raw.boxes.shape[:2], dtype=torch.bool))

    def losses(self, raw: Raw, targets: Sequence[Targets], assignment: Assignment) -> dict[str, Tensor]:
        del raw, targets, assignment
        return dict.fromkeys(("box", "obj", "cls"), self.shift.sum() * 0)


def take_the_place_of_fcos(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the table, in this process; it wants no weights."""
    entry = replace(DETECTORS["fcos_tiny"], build=lambda _classes, focal: Colours(), embedded=None)  # noqa: ARG005
    monkeypatch.setitem(DETECTORS, "fcos_tiny", entry)  # type: ignore[arg-type]
