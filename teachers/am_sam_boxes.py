"""Which box AM-SAM asks SAM with: the surest one of an image, or of each class on it, or all of the image.

Boxes are in pixels of the upright image.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor

from pipeline.data.errors import BadInput, printable, show
from pipeline.data.paths import open_file
from pipeline.data.records import Box, Origin, Prompt, Record
from teachers.detector import LEAST_SIDE
from teachers.protocols import Proposer, Sample
from teachers.sam.pixels import Frame

MOST_BYTES = 1 << 28  # of a box file
Find = Callable[[Sample, Sequence[int]], Sequence[Prompt]]  # box prompts of the classes asked, in any order


def proposed(sample: Sample, class_ids: Sequence[int]) -> Sequence[Prompt]:  # noqa: ARG001
    """The boxes that a record brings along, of a stage `propose`."""
    return sample.record.proposals


def asked(proposer: Proposer) -> Find:
    """What a proposer says of an image."""
    return lambda sample, class_ids: proposer.propose([sample], [class_ids])[0]


def nothing(sample: Sample, class_ids: Sequence[int]) -> Sequence[Prompt]:  # noqa: ARG001
    """Where nobody is asked."""
    return ()


def surest(prompts: Iterable[Prompt], class_ids: Sequence[int]) -> dict[int, Prompt]:
    """By class, of those asked: the box of the highest score, of equal ones the first."""
    found: dict[int, Prompt] = {}
    for prompt in prompts:
        class_id = prompt.class_id
        if class_id is None or class_id not in class_ids or prompt.box_xyxy is None:
            continue
        best = found.get(class_id)
        if best is None or _score(prompt) > _score(best):
            found[class_id] = prompt
    return found


def _score(prompt: Prompt) -> float:
    return prompt.score or 0.0


@dataclass(frozen=True)
class Question:
    """The prompts of an image, a class id each; None where all classes are asked together.

    `highest`: the score of the surest box that there was, whether it is among them or not.
    """

    prompts: tuple[tuple[int | None, Prompt], ...]
    highest: float

    def of(self, class_id: int) -> Prompt:
        """The prompt that a class is asked with."""
        return next(prompt for own, prompt in self.prompts if own in (class_id, None))

    @property
    def unfound(self) -> int:
        """Prompts that are all of the image, as nothing was found."""
        return sum(prompt.origin is Origin.IMAGE for _, prompt in self.prompts)

    def tensor(self, frame: Frame) -> Tensor:
        """Boxes (P, 4) float32 as SAM's prompt encoder takes them."""
        boxes = [np.array(prompt.box_xyxy).reshape(2, 2) for _, prompt in self.prompts]
        return torch.from_numpy(np.stack([frame.to_input(corners).ravel() for corners in boxes]))


def question(
    found: Mapping[int, Prompt], class_ids: Sequence[int], record: Record, *, by_class: bool, score: float
) -> Question:
    """One prompt a class in their order, or the surest of all; the whole image where none reaches `score`."""
    whole = Prompt(Origin.IMAGE, (0.0, 0.0, float(record.width), float(record.height)))
    highest = max(map(_score, found.values()), default=0.0)
    sure = {class_id: prompt for class_id, prompt in found.items() if _score(prompt) >= score}
    if by_class:
        return Question(tuple((class_id, sure.get(class_id, whole)) for class_id in class_ids), highest)
    return Question(((None, max(sure.values(), key=_score, default=whole)),), highest)


class BoxFile:
    """Boxes from a file: a JSON list of `{file_name or image_id, category_id, bbox: [x, y, w, h], score}`.

    As COCO results are, but for the name, which wins over an id; `score` is 1 where none is given. Boxes are clipped to
    the image; of one that lies beside it nothing is left.
    """

    def __init__(self, path: Path, class_ids: Sequence[int]) -> None:
        """BadInput, naming the file and the entry, for what is no such list, and for a class that is not known."""
        self._by_name: dict[str, list[Prompt]] = {}
        self._by_id: dict[int, list[Prompt]] = {}
        for index, entry in enumerate(_entries(path)):
            where = f"box_file {printable(str(path))}: [{index}]"
            prompt = _prompt(entry, class_ids, where)
            name, number = entry.get("file_name"), entry.get("image_id")
            if isinstance(name, str):
                self._by_name.setdefault(name, []).append(prompt)
            elif isinstance(number, int) and not isinstance(number, bool):
                self._by_id.setdefault(number, []).append(prompt)
            else:
                raise BadInput(f"{where}: expected a file_name or an image_id, found neither")

    def __call__(self, sample: Sample, class_ids: Sequence[int]) -> Sequence[Prompt]:  # noqa: ARG002
        """The boxes of an image; of a class that is not asked too."""
        record = sample.record
        listed = [*self._by_name.get(record.uri, ()), *self._by_id.get(record.image_id, ())]
        return [prompt for prompt in (_clipped(p, record) for p in listed) if prompt is not None]


def _entries(path: Path) -> list[dict[str, object]]:
    where = f"box_file {printable(str(path))}"
    try:
        with open_file(path) as file:
            data = file.read(MOST_BYTES + 1)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    if len(data) > MOST_BYTES:
        raise BadInput(f"{where}: expected at most {MOST_BYTES} bytes, found more")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: expected JSON: {error}") from None
    if not isinstance(found, list):
        raise BadInput(f"{where}: expected a list of boxes, found {type(found).__name__}")
    for index, entry in enumerate(found):
        if not isinstance(entry, dict):
            raise BadInput(f"{where}: [{index}]: expected a mapping, found {show(entry)}")
    return found


def _prompt(entry: Mapping[str, object], class_ids: Sequence[int], where: str) -> Prompt:
    class_id, score = entry.get("category_id"), entry.get("score", 1.0)
    if not isinstance(class_id, int) or isinstance(class_id, bool) or class_id not in class_ids:
        raise BadInput(
            f"{where}.category_id: expected one of {show(list(class_ids))}, found {show(class_id)}"
        )
    if not _is_number(score) or not 0 <= score <= 1:
        raise BadInput(f"{where}.score: expected a number in [0, 1], found {show(score)}")
    return Prompt(Origin.HUMAN, _box(entry.get("bbox"), where), class_id=class_id, score=float(score))


def _box(box: object, where: str) -> Box:
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)) or min(box[2:]) <= 0:
        raise BadInput(f"{where}.bbox: expected [x, y, width, height] with sides above 0, found {show(box)}")
    x, y, width, height = map(float, box)
    return (x, y, x + width, y + height)


def _is_number(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and abs(value) < 2**31


def _clipped(prompt: Prompt, record: Record) -> Prompt | None:
    assert prompt.box_xyxy is not None
    x0, y0, x1, y1 = prompt.box_xyxy
    box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(record.width)), min(y1, float(record.height)))
    if box[2] - box[0] < LEAST_SIDE or box[3] - box[1] < LEAST_SIDE:
        return None
    return Prompt(prompt.origin, box, class_id=prompt.class_id, score=prompt.score)
