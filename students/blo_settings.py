"""Settings and numbers of the BLO-Inst student (Liao et al. 2026); imports no torch.

What the paper leaves open is from the code that its authors published, or marked (ours).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from teachers.detectors import DETECTORS, DetectorName
from teachers.settings import (
    DETECTOR_BOX,
    DETECTOR_CLIP,
    DETECTOR_CLS,
    DETECTOR_EPOCHS,
    DETECTOR_LR,
    DETECTOR_OBJ,
    refuse_idle,
)

BLO_INST = "blo_inst"  # its name in the catalog
Order = Literal["joint", "separate", "first", "second"]
Match = Literal["instance", "class_union"]
Part = Literal["decoder", "prompt_encoder", "both"]

EPOCHS = 20
RANK = 4
LR = 1e-3
MOMENTUM = 0.937
WEIGHT_DECAY = 5e-4  # of the detector alone
LAST_RATE = 0.1  # of the learning rate, in the last epoch
CLIP = DETECTOR_CLIP
PROMPT_CONFIDENCE, PROMPT_OVERLAP, PROMPT_MOST = 0.25, 0.25, 300
_OF_SAM = ("part", "rank", "lr_sam", "match", "confidence", "overlap", "patience")


def _focal(given: dict[str, object]) -> bool:
    """Whether a detector's own class loss is focal: FCOS's is, YOLO's is not."""
    entry = DETECTORS.get(str(given.get("detector")))
    return entry is not None and entry.focal


class BloInstSettings(BaseModel):
    """A detector and SAM's decoder, aligned.

    `sam`, `checkpoint`, `sha256`: as of a teacher; a fitted student looks for the file where it was, and in its own
    folder. `detector`: one of `teachers.detectors`; a YOLO wants the extra `yolo`, of another licence.
    `detector_weights`: a safetensors file, or the published `.pth` or `.pt`, of the whole detector, or of one of
    another number of classes, whose class head is then new (unset: `fcos_tiny` begins with embedded ones, a YOLO anew,
    `fcos_r50` is refused); a pickle that is not the published one wants its `detector_sha256`. `order`: `first`, the
    paper's default, and `second` are bi-level; `joint` trains both on everything at once, `separate` the detector first
    and SAM on its boxes then. `split`: share of the images that SAM's part learns from, the detector learns from the
    others. `part`: what of SAM is trained, its decoder (deltas of `rank` and its small output parts), how its prompt
    encoder sees the corners of boxes, or both. `match`: a box's target is the object it overlaps most, or, as
    published, all of its class, whatever its masks are trusted and whatever else is not known to be there.
    `pretrain_epochs` of the detector alone, `epochs` of both; `steps` of both, if given, in place of `epochs`. The best
    epoch is kept, by the masks of the detector's half; `patience`: epochs after which the training ends if they have
    not become better, 0 for never. `box`, `obj`, `cls`, `seg`: weights of the losses; a YOLO has none called `obj`;
    `seg: 0`, with `order: separate`, is the detector alone. `confidence`, `overlap`: which boxes prompt SAM in
    training. `focal`: the loss of the classes is focal, with the paper's focus of 1.5 (FCOS' own has 2), or
    cross-entropy, as published (unset: focal for FCOS, which learns them at every location, cross-entropy for YOLO).
    `trust_weights`: an object's losses count as much as its mask is trusted, and so does it in what is the best epoch.
    `filter_empty`: images without a mask are left out; else they are background, which is right only where nothing is.
    `checkpoint_every`: steps between saved states. What would do nothing beside the others is refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # The weights' digests are in the key.
    not_in_key: ClassVar[frozenset[str]] = frozenset(
        {"checkpoint", "sha256", "detector_weights", "detector_sha256", "checkpoint_every", "cache_gb"}
    )
    sam: Literal["tiny", "vit_b", "vit_l", "vit_h"] = "tiny"
    checkpoint: Path | None = None
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    detector: DetectorName = "fcos_tiny"
    detector_weights: Path | None = None
    detector_sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    order: Order = "first"
    split: float = Field(0.5, gt=0, lt=1)
    rank: int = Field(RANK, ge=1)
    part: Part = "decoder"
    match: Match = "instance"
    pretrain_epochs: int = Field(DETECTOR_EPOCHS, ge=0)
    epochs: int = Field(EPOCHS, ge=0)
    steps: int | None = Field(None, ge=1)
    patience: int = Field(0, ge=0)
    batch_size: int = Field(8, ge=1)
    lr_detector: float = Field(LR, gt=0)
    lr_sam: float = Field(LR, gt=0)
    pretrain_lr: float = Field(DETECTOR_LR, gt=0)
    box: float = Field(DETECTOR_BOX, ge=0)
    obj: float = Field(DETECTOR_OBJ, ge=0)
    cls: float = Field(DETECTOR_CLS, ge=0)
    seg: float = Field(0.7, ge=0)
    confidence: float = Field(PROMPT_CONFIDENCE, ge=0, le=1)
    overlap: float = Field(PROMPT_OVERLAP, ge=0, le=1)
    focal: bool = Field(default_factory=_focal)
    trust_weights: bool = True
    filter_empty: bool = True
    cache_gb: float = Field(40.0, ge=0)
    checkpoint_every: int = Field(50, ge=1)

    @property
    def aligns(self) -> bool:
        """Whether SAM's part learns too."""
        return bool(self.seg and (self.steps or self.epochs))

    @property
    def apart(self) -> bool:
        """Whether steps draw images of either half, not of all alike."""
        return self.order != "separate" and self.aligns

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        names = ["box", "obj", "cls"] if DETECTORS[self.detector].objectness else ["box", "cls"]
        detects = any(getattr(self, name) for name in names)
        listed = ", ".join(names)
        if not detects and not self.seg:
            raise ValueError(f"expected a weight above 0 among {listed} and seg")
        if not detects and (self.pretrain_epochs or self.order == "separate"):
            raise ValueError(
                f"the detector alone would learn nothing: expected a weight above 0 among {listed}"
            )
        if not self.seg and self.order != "separate":
            raise ValueError(
                f"with seg 0 nothing is aligned: expected order 'separate', found {self.order!r}"
            )
        if not self.pretrain_epochs + self.epochs + (self.steps or 0):
            raise ValueError("expected epochs or pretrain_epochs above 0")
        if self.detector_sha256 is not None and self.detector_weights is None:
            raise ValueError("detector_sha256 is that of detector_weights, found none")
        return self

    @model_validator(mode="after")
    def _all_do_something(self) -> Self:
        refuse_idle(self, self._idle())
        return self

    def _idle(self) -> Iterator[tuple[str, str]]:
        """Settings that change nothing beside the others, and why."""
        if not DETECTORS[self.detector].objectness:
            yield "obj", f"with {self.detector}, which has no such loss"
        if not self.pretrain_epochs:
            yield "pretrain_lr", "without pretrain_epochs"
        if self.order == "separate":
            yield "split", "in order 'separate', where both parts learn from all images"
        if self.steps:
            yield "epochs", "beside steps"
        if not (self.steps or self.epochs):
            yield from (
                (name, "without epochs") for name in ("order", "split", "seg", "lr_detector", *_OF_SAM)
            )
        elif not self.seg:
            yield from ((name, "with seg 0, as SAM's part learns nothing") for name in _OF_SAM)
        elif self.part == "prompt_encoder":
            yield "rank", "with part 'prompt_encoder', which has no deltas"
