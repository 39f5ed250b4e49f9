"""A teacher and a proposer without a model: what they answer follows from the pixels alone. Imports no torch.

They have the protocols of the others and mean nothing: for trying out a cluster, a disk or an engine in seconds.

An image in which a poisoned fake finds a deed spelled ends its worker in that way. The letters are the red values of
the first pixels of the first row: `omnimask propose segfault`, `omnimask label loop`; the verb says who is to do it.
The file must be lossless and at least LETTERS pixels wide.
"""

import ctypes
import hashlib
import os
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.data import masks
from pipeline.data.errors import BadInput
from pipeline.data.records import RLE, Instance, Origin, Prompt, Record, Source
from pipeline.engine.stage import Metrics, Records, TrainContext
from teachers.protocols import Sample
from teachers.settings import FakeSettings, SamSettings
from teachers.weak_prompts import requests

LETTERS = 32
SPELLED = b"omnimask "
PROPOSE, LABEL = "propose", "label"
MOST = 2  # proposals a class
BITE, BITE_SECONDS = 1 << 24, 0.02  # of memory: slow enough to be seen by whoever watches
WAYS = SamSettings.model_validate({})  # which labels ask for a mask: as for SAM


def _segfault() -> None:
    ctypes.string_at(0)


def _loop() -> None:
    while True:
        pass


def _stuck() -> None:
    """Native code that keeps the interpreter's lock: no other thread of the process runs any more."""
    pause = ctypes.PyDLL(None).sleep
    while True:
        pause(1000)


def _eat() -> None:
    eaten = []
    while True:
        eaten.append(b"x" * BITE)
        time.sleep(BITE_SECONDS)


DEEDS: dict[str, Callable[[], None]] = {
    "segfault": _segfault,
    "abort": os.abort,
    "loop": _loop,
    "stuck": _stuck,
    "memory": _eat,
}


class _Look:
    """One image as a fake sees it: numbers drawn from its pixels (height, width, 3) uint8."""

    def __init__(self, image: npt.NDArray[np.uint8], settings: FakeSettings) -> None:
        self._image, self._settings = image, settings
        self._digest = hashlib.sha256(image.tobytes()).digest()

    def share(self, *what: object) -> float:
        """A number in [0, 1) for that purpose."""
        found = hashlib.sha256(self._digest + repr(what).encode()).digest()
        return int.from_bytes(found[:4], "big") / (1 << 32)

    def work(self, verb: str) -> None:
        """Take the image's time, which is none for a blank, and do what it says."""
        if not self._image.any():
            return
        time.sleep(self._settings.delay * (0.5 + self.share("delay", verb)))
        if self._settings.poison:
            spelled = self._image[0, :LETTERS, 0].tobytes().rstrip(b"\0")
            for name, deed in DEEDS.items():
                if spelled == SPELLED + f"{verb} {name}".encode():
                    deed()


class FakeProposer:
    """`Proposer`: up to MOST boxes of each asked class."""

    def __init__(self, settings: FakeSettings) -> None:
        self._settings = settings

    def propose(self, batch: Sequence[Sample], names: Sequence[Sequence[int]]) -> list[list[Prompt]]:
        """Boxes that lie anywhere."""
        return [self._one(sample, asked) for sample, asked in zip(batch, names, strict=True)]

    def _one(self, sample: Sample, asked: Sequence[int]) -> list[Prompt]:
        if not asked:
            return []
        look = _Look(sample.image, self._settings)
        look.work(PROPOSE)
        found = [
            _proposal(look, class_id, number, sample.record)
            for class_id in asked
            for number in range(int(look.share("count", class_id) * (MOST + 1)))
        ]
        return sorted(found, key=lambda prompt: -(prompt.score or 0.0))


def _proposal(look: _Look, class_id: int, number: int, record: Record) -> Prompt:
    left, top, across, down, score = (look.share(class_id, number, part) for part in range(5))
    x, y = 0.6 * left * record.width, 0.6 * top * record.height
    box = (x, y, x + (0.1 + 0.3 * across) * record.width, y + (0.1 + 0.3 * down) * record.height)
    return Prompt(Origin.DINO, box, class_id=class_id, score=score)


class FakeTeacher:
    """`Teacher`: an ellipse for each label or proposal."""

    def __init__(self, settings: FakeSettings) -> None:
        self._settings = settings

    def fit(self, data: Records, context: TrainContext) -> Metrics:  # noqa: ARG002
        """BadInput: there is nothing to tune."""
        raise BadInput("finetune_teacher: model `fake_teacher` has nothing to tune")

    def label(self, batch: Sequence[Sample]) -> list[list[Instance]]:
        """Human labels in their order, then proposals, best first."""
        return [self._one(sample) for sample in batch]

    def _one(self, sample: Sample) -> list[Instance]:
        asked = requests(sample.record, WAYS)
        look = _Look(sample.image, self._settings)
        look.work(LABEL)
        found = []
        for number, request in enumerate(asked):
            label = request.human or Instance(Source.HUMAN, request.prompt.class_id, request.prompt.phrase)
            sure = look.share("sure", number)
            found.append(
                Instance(
                    Source.TEACHER,
                    label.class_id,
                    label.phrase,
                    points=label.points,
                    box_xyxy=label.box_xyxy,
                    rle=_ellipse(look, request.prompt, number, sample.record),
                    human_id=label.human_id,
                    weak_kind=request.weak_kind,
                    prompt=request.prompt,
                    score=sure * (1.0 if request.prompt.score is None else request.prompt.score),
                    pred_iou=sure,
                    stability=look.share("stability", number),
                )
            )
        return found


def _ellipse(look: _Look, prompt: Prompt, number: int, record: Record) -> RLE:
    """In the box or around the first point; at least the pixel in its middle."""
    width, height = record.width, record.height
    if prompt.box_xyxy is None:
        x, y = prompt.points[0].x, prompt.points[0].y
        across, down = (1 + look.share("radius", number, side) * 0.2 * width for side in "xy")
    else:
        left, top, right, bottom = prompt.box_xyxy
        x, y = (left + right) / 2, (top + bottom) / 2
        part = 0.5 + 0.5 * look.share("part", number)
        across, down = max(0.5, part * (right - left) / 2), max(0.5, part * (bottom - top) / 2)
    rows, columns = np.ogrid[:height, :width]
    mask = ((columns + 0.5 - x) / across) ** 2 + ((rows + 0.5 - y) / down) ** 2 <= 1
    mask[min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)] = True
    return masks.encode(mask)
