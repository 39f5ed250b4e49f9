"""Settings and numbers of the teacher `am_sam`, AM-SAM and BLO-SAM, checked before any work; imports no torch.

Numbers of the AM-SAM paper are the defaults; what it leaves open is from the code of BLO-SAM, or marked (ours).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from teachers.detectors import DetectorName
from teachers.settings import DETECTOR_EPOCHS, DETECTOR_LR, refuse_idle

AM_SAM = "am_sam"  # its name in the catalog
Mode = Literal["single_level", "blo_sam", "am_sam"]
Order = Literal["first", "second"]
BoxSource = Literal["none", "proposals", "detector", "fitted", "file"]

EPOCHS = 100
RANK = 4
LR_THETA, LR_PHI = 5e-3, 1e-3
BETAS = (0.9, 0.999)
WEIGHT_DECAY = 0.1
POLY = 0.9
DICE = 0.8
_OF_DETECTOR = (
    *("detector", "detector_weights", "detector_sha256"),
    *("detector_epochs", "detector_batch_size", "detector_lr"),
)
SCORE = 0.25  # (ours) what YOLO keeps unless told otherwise; the paper has the surest box, however unsure


def _boxes(given: dict[str, object]) -> BoxSource:
    return "detector" if given.get("mode", AM_SAM) == AM_SAM else "none"


class AmSamSettings(BaseModel):
    """Entry `am_sam`: SAM's decoder learns whole classes from 4 to 16 masks; a box of each class prompts it.

    `sam`, `checkpoint`, `sha256`: as of the other SAM teachers.
    `mode`: `am_sam`, bi-level with boxes; `blo_sam`, bi-level without; `single_level`, everything from all masks at
    once, as SAMed. It decides the default of `boxes`, and whether there are levels; boxes may be had in each mode.
    `order`: of the upper level's gradient, in the bi-level modes.
    `boxes`: who finds them. `proposals`: the run's stage `propose` (and `proposer` of `finetune_teacher`); `detector`:
    one that is tuned on the boxes of the masks, and goes into the teacher's artifact; `fitted`: that one, for labelling
    alone; `file`: a `box_file`; `none`: there are none.
    `prompt`: `class` asks each class with its own surest box, `image` all of them with the surest of the image. A box
    counts from `score` on; where there is none, the whole image is the box, and counted.
    `detector`, `detector_weights`, `detector_sha256`: as of the student `blo_inst`; `detector_epochs`,
    `detector_batch_size`, `detector_lr`: of its tuning.
    `rank`: of the deltas in the decoder's attentions. `tokens`: the decoder's outputs begin as `sam`'s own mask, ours,
    or `new`, as published. `learn_corners`: the upper level has what marks a box's corners too, ours.
    `calibration`, `calibration_alpha`: of the masks (mask_calibration.py); `learned` is ours.
    `epochs` over the larger half, or `steps` if given; the epoch with the best Dice on D2 is kept, in `single_level`
    the last. `batch_size`: images of each half a step. `lr`, `lr_prompt`: of the lower and upper level. `dice`: its
    share of the loss.
    `self_training`: a second round of as many steps, on D1 and that share of weak images with its own masks, the surest
    (am_sam_again.py); ours.
    `split`: `components` makes an instance of each connected part of at least `min_area` pixels, else a class is one
    semantic mask. What would do nothing beside the others is refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # Digests of the files are in the key.
    not_in_key: ClassVar[frozenset[str]] = frozenset(
        {
            "checkpoint",
            "sha256",
            "detector_weights",
            "detector_sha256",
            "box_file",
            "cache_gb",
            "checkpoint_every",
        }
    )
    sam: Literal["tiny", "vit_b", "vit_l", "vit_h"] = "tiny"
    checkpoint: Path | None = None
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    mode: Mode = "am_sam"
    order: Order = "first"
    boxes: BoxSource = Field(default_factory=_boxes)
    box_file: Path | None = None
    prompt: Literal["class", "image"] = "class"
    score: float = Field(SCORE, ge=0, le=1)
    detector: DetectorName = "fcos_tiny"
    detector_weights: Path | None = None
    detector_sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    detector_epochs: int = Field(DETECTOR_EPOCHS, ge=1)
    detector_batch_size: int = Field(4, ge=1)
    detector_lr: float = Field(DETECTOR_LR, gt=0)
    rank: int = Field(RANK, ge=1)
    tokens: Literal["sam", "new"] = "sam"
    learn_corners: bool = False
    calibration: Literal["off", "sample", "batch", "learned"] = "sample"
    calibration_alpha: float = Field(0.7, ge=0, le=1)
    epochs: int = Field(EPOCHS, ge=1)
    steps: int | None = Field(None, ge=1)
    batch_size: int = Field(1, ge=1)
    lr: float = Field(LR_THETA, gt=0)
    lr_prompt: float = Field(LR_PHI, gt=0)
    weight_decay: float = Field(WEIGHT_DECAY, ge=0)
    dice: float = Field(DICE, ge=0, le=1)
    self_training: float = Field(0.0, ge=0, le=1)
    split: Literal["none", "components"] = "none"
    min_area: int = Field(1, ge=1)
    cache_gb: float = Field(40.0, ge=0)
    checkpoint_every: int = Field(50, ge=1)

    @property
    def finds(self) -> bool:
        """Whether it finds its boxes by itself, or needs none, so that no stage `propose` is wanted."""
        return self.boxes != "proposals"

    @model_validator(mode="after")
    def _has_what_it_wants(self) -> Self:
        if (self.boxes == "file") != (self.box_file is not None):
            found = "none" if self.box_file is None else f"one with boxes: {self.boxes}"
            raise ValueError(f"expected a box_file with boxes: file, found {found}")
        if self.boxes == "none" and self.mode == AM_SAM:
            raise ValueError("mode am_sam wants boxes; without them it is blo_sam")
        if self.self_training and self.mode == "single_level":
            raise ValueError("self_training wants a D2 that judges it, mode single_level has none")
        if self.detector_sha256 is not None and self.detector_weights is None:
            raise ValueError("detector_sha256 is that of detector_weights, found none")
        return self

    @model_validator(mode="after")
    def _all_do_something(self) -> Self:
        refuse_idle(self, self._idle())
        return self

    def _idle(self) -> Iterator[tuple[str, str]]:
        """Settings that change nothing beside the others, and why."""
        if self.mode == "single_level":
            yield "order", "in mode single_level, which has one"
        if self.steps is not None:
            yield "epochs", "beside steps"
        if self.boxes == "none":
            yield from ((name, "without boxes") for name in ("prompt", "score", "learn_corners"))
        if self.boxes not in ("detector", "fitted"):
            yield from ((name, f"with boxes: {self.boxes}, as none is tuned") for name in _OF_DETECTOR)
        if self.calibration == "off":
            yield "calibration_alpha", "with calibration: off"
        if self.split == "none":
            yield "min_area", "with split: none"
