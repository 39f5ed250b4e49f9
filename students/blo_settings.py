"""Settings and numbers of the BLO-Inst student (Liao et al. 2026); imports no torch.

What the paper leaves open is from the code that its authors published, or marked (ours).
"""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.data.errors import BadInput
from teachers.detectors import DETECTORS, find
from teachers.settings import (
    DETECTOR_BOX,
    DETECTOR_CLIP,
    DETECTOR_CLS,
    DETECTOR_EPOCHS,
    DETECTOR_LR,
    DETECTOR_OBJ,
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


def _focal(given: dict[str, object]) -> bool:
    """Whether a detector's own class loss is focal: FCOS's is, YOLO's is not."""
    entry = DETECTORS.get(str(given.get("detector")))
    return entry is not None and entry.focal


class BloInstSettings(BaseModel):
    """A detector and SAM's decoder, aligned.

    `sam`, `checkpoint`, `sha256`: as of a teacher; a fitted student looks for the file where it was, and in its own
    folder. `detector`: one of `teachers.detectors`; a YOLO wants the extra `yolo`, of another licence.
    `detector_weights`: a safetensors file, or the published `.pth` or `.pt`, of the whole detector, or of one of other
    classes, whose class head is then new (unset: `fcos_tiny` begins with embedded ones, a YOLO anew, `fcos_r50` is
    refused); a pickle that is not the published one wants its `detector_sha256`. `order`: `first`, the paper's default,
    and `second` are bi-level; `joint` trains both on everything at once, `separate` the detector first and SAM on its
    boxes then. `split`: share of the images that SAM's part learns from, the detector learns from the others. `part`:
    what of SAM is trained, its decoder (deltas of `rank` and its small output parts), how its prompt encoder sees the
    corners of boxes, or both. `match`: a box's target is the object it overlaps most, or, as published, all of its
    class, whatever its masks are trusted and whatever else is not known to be there. `pretrain_epochs` of the detector
    alone, `epochs` of both; `steps` of both, if given, in place of `epochs`. The best epoch is kept, by the masks of
    the detector's half; `patience`: epochs after which the training ends if they have not become better, 0 for never.
    `box`, `obj`, `cls`, `seg`: weights of the losses; a YOLO has none called `obj`. `focal`: the loss of the classes is
    focal, with the paper's focus of 1.5 (FCOS' own has 2), or cross-entropy, as published (unset: focal for FCOS, which
    learns them at every location, cross-entropy for YOLO). `trust_weights`: an object's losses count as much as its
    mask is trusted. `filter_empty`: images without a mask are left out; else they are background, which is right only
    where nothing is. `checkpoint_every`: steps between saved states.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # The weights' digests are in the key.
    not_in_key: ClassVar[frozenset[str]] = frozenset(
        {"checkpoint", "sha256", "detector_weights", "detector_sha256", "checkpoint_every", "cache_gb"}
    )
    sam: Literal["tiny", "vit_b", "vit_l", "vit_h"] = "tiny"
    checkpoint: Path | None = None
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    detector: str = "fcos_tiny"
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
    def embedded(self) -> bool:
        """Whether the detector begins with the weights that come with the package."""
        return DETECTORS[self.detector].embedded is not None and self.detector_weights is None

    @field_validator("detector")
    @classmethod
    def _is_known(cls, detector: str) -> str:
        try:
            find(detector)
        except BadInput as error:
            raise ValueError(str(error)) from None
        return detector

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        if not self.box + self.obj + self.cls + self.seg:
            raise ValueError("expected a weight above 0 among box, obj, cls and seg")
        if not self.pretrain_epochs + self.epochs + (self.steps or 0):
            raise ValueError("expected epochs or pretrain_epochs above 0")
        if self.detector_sha256 is not None and self.detector_weights is None:
            raise ValueError("detector_sha256 is that of detector_weights, found none")
        return self
