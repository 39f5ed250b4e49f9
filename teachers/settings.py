"""Settings of the catalog's teachers and proposers, checked before any work; imports no torch.

Numbers of Das et al. 2024 are the defaults; what the paper leaves open is marked (ours).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PAPER_STEPS = 36874  # Das et al. 2024, the same for 1% and 10% masks
PAPER_LR = 1e-5
PAPER_BATCH = 246  # instances: the 32 images of Das et al. 2024, of 7.7 instances each on COCO
PAPER_DECAY_AT = 0.75  # 27655 of 36874 steps, then a tenth
PAPER_POINTS = 12544  # Mask2Former
PAPER_SCORE = 0.3  # of proposals on the none and class ways
PAPER_NMS = 0.9
PAPER_ALPHA, PAPER_BETA, PAPER_TAU = 5.0, 2.0, 0.1  # Algorithm 1
TINY_ZOOM = 0.55  # ours, measured (docs/tiny-family.md)
MOST_ZOOM = 0.8  # more would cut the box
# Standard deviations that a side of a moved box has room for in the part seen around the tight one. The part is that of
# a moved box itself: of boxes moved by 0.1 at a zoom of 0.55 one in a hundred sticks out of it a little.
JITTER_REACH = 3.75
# Of a detector's own training: the weights of its losses and the clipping are those of the code of Liao et al. 2026.
DETECTOR_BOX, DETECTOR_OBJ, DETECTOR_CLS = 0.3, 0.7, 0.3
DETECTOR_CLIP = 10.0
DETECTOR_EPOCHS = (
    100  # (ours) near convergence; the paper has 100 iterations from a detector that was trained before
)
DETECTOR_LR, DETECTOR_DECAY = 1e-3, 0.05  # (ours) of AdamW
DETECTOR_SCALE = (0.5, 1.5)  # (ours) of the large-scale jitter
DETECTOR_MET = 8  # (ours) images that a new YOLO's batch norms have their statistics of
WEIGHT_DECAY = 0.05  # not stated in the paper; Mask2Former's


def _own_zoom(before: Mapping[str, object]) -> float:
    """The default by the fields before it."""
    return TINY_ZOOM if before.get("sam") == "tiny" else 0.0


def refuse_idle(settings: BaseModel, idle: Iterable[tuple[str, str]]) -> None:
    """ValueError for settings that do nothing beside the others and are not as unset; `idle`: their names, and why."""
    fields = type(settings).model_fields
    found = [
        f"{name} does nothing {why}: expected it unset, or {fields[name].default!r}"
        for name, why in idle
        if getattr(settings, name) != fields[name].default
    ]
    if found:
        raise ValueError("; ".join(found))


class SamSettings(BaseModel):
    """Entry `sam`: zero-shot SAM with the paper's way from weak labels to prompts.

    `checkpoint`: a .pth as published or .safetensors (tiny: embedded); `sha256` is needed for other .pth and .pt files.
    `chunk`, `embed_batch`: prompts and images per forward (CPU: 1-4 and 1; GPU: as many as fit). `share_chunks`:
    prompts of several images fill a chunk together (unset: on a GPU only; see sam/predictor.py).
    `encoder_bf16`: the image encoder in bfloat16, for devices that have it in hardware; masks differ a little.
    `zoom`: a box is asked on the part of the image in which it takes this share of a side, 0 on the whole image (0.55
    is the default of `tiny`, whose grid is coarse; 0 that of the others, as in the paper), and several points without a
    box once more around what came of them (sam/zoom.py).
    `score`, `nms`: of proposals that become box prompts. `nms_by_class` keeps overlapping boxes of different classes.
    `alpha`, `beta`, `tau`: Algorithm 1. `refine: false` takes the point's own mask instead (the paper's "Point").
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    not_in_key: ClassVar[frozenset[str]] = frozenset({"checkpoint", "sha256"})  # the weights' digest is
    sam: Literal["tiny", "vit_b", "vit_l", "vit_h"] = "tiny"
    checkpoint: Path | None = None
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    attention: Literal["fast", "official"] = "fast"
    chunk: int = Field(4, ge=1)
    embed_batch: int = Field(1, ge=1)
    share_chunks: bool | None = None
    encoder_bf16: bool = False
    zoom: float = Field(default_factory=_own_zoom, ge=0, le=MOST_ZOOM)
    score: float = Field(PAPER_SCORE, ge=0, le=1)
    nms: float = Field(PAPER_NMS, ge=0, le=1)
    nms_by_class: bool = False
    refine: bool = True
    alpha: float = Field(PAPER_ALPHA, ge=0)
    beta: float = Field(PAPER_BETA, ge=0)
    tau: float = Field(PAPER_TAU, ge=0, le=1)


class ClassAwareSettings(SamSettings):
    """Entry `class_aware_sam`: SAM with the class-aware branch, and how it is tuned on human masks.

    `text`: the text tower that names classes, `tiny` or an open_clip model, whose weights are `text_checkpoint` (with
    `text_sha256` unless it is .safetensors). `class_aware: no_box`, the paper's, has no branch for human boxes, which
    get a fourth tuned variant, `plain_box`; `true` has it everywhere, `false` nowhere.
    `branch_lr`: the learning rate of what the branch adds to SAM, its projection and G_zero (unset: `lr`, the paper's).
    They start from nothing and get nowhere in few steps of a small `lr`: 36874 steps of 1e-5 are 600 of 6e-4.
    `lora`: tune deltas of that rank in the decoder's attentions and its small output parts, not the whole decoder; ours
    (sam/lora.py).
    `box_jitter`: the boxes that heads are tuned with are moved, each side by a normal draw of that share of the box's
    width or height (Kirillov et al. 2023 have 0.1, of at most 20 pixels at 1024); 0 is the paper's.
    `cross_fit: false` leaves out the teachers that `gate` and `calibrate` need where masks are too few to reserve some.
    `self_training`: after the tuning a second round of as many steps, on the human masks and that share of the masks
    that the tuned teacher makes of (up to 200) weak images' points and boxes, the surest first; ours.
    `batch_size`: instances a step. `points`: sampled points of a mask's loss. `cache_gb`: the most the embedding cache
    takes on disk; what is beyond it is embedded anew each time. `checkpoint_every`: steps between saved states.
    """

    not_in_key: ClassVar[frozenset[str]] = SamSettings.not_in_key | {
        *("text_checkpoint", "text_sha256"),
        *("cache_gb", "checkpoint_every"),  # they change time and nothing else
    }
    text: str = "tiny"
    text_checkpoint: Path | None = None
    text_sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    class_aware: Literal["no_box"] | bool = "no_box"
    lora: int | None = Field(None, ge=1)
    cross_fit: bool = True
    box_jitter: float = Field(0.0, ge=0, le=0.2)
    self_training: float = Field(0.0, ge=0, le=1)
    steps: int = Field(PAPER_STEPS, ge=1)
    lr: float = Field(PAPER_LR, gt=0)
    branch_lr: float | None = Field(None, gt=0)
    decay_at: float = Field(PAPER_DECAY_AT, gt=0, le=1)
    decay: float = Field(0.1, gt=0, le=1)
    weight_decay: float = Field(WEIGHT_DECAY, ge=0)
    batch_size: int = Field(PAPER_BATCH, ge=1)
    points: int = Field(PAPER_POINTS, ge=4)
    cache_gb: float = Field(40.0, ge=0)
    cache_dtype: Literal["float16", "float32"] = "float16"
    checkpoint_every: int = Field(500, ge=1)

    @model_validator(mode="after")
    def _moved_boxes_are_seen(self) -> Self:
        most = 1 / (1 + 2 * JITTER_REACH * self.box_jitter)
        if self.box_jitter and self.zoom > most:
            raise ValueError(
                f"box_jitter {self.box_jitter:g} needs a zoom of at most {most:.2f}, or many moved boxes would leave "
                f"what is seen; found {self.zoom:g}"
            )
        return self

    @property
    def decay_step(self) -> int:
        """The first 0-based step at the dropped learning rate."""
        return int(self.decay_at * self.steps)

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that are tuned: B-SAM, P-SAM, BP-SAM and, with `no_box`, B-SAM without the branch."""
        return (*VARIANTS, PLAIN_BOX) if self.class_aware == "no_box" else VARIANTS


class GroundingDinoSettings(BaseModel):
    """Entry `grounding_dino`: `checkpoint` is a folder saved by transformers, `sha256` that of its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    not_in_key: ClassVar[frozenset[str]] = frozenset({"checkpoint", "sha256"})
    checkpoint: Path
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")


class TinyGrounderSettings(BaseModel):
    """Entry `tiny_grounder`: the embedded proposer; nothing to set."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AlignedDetectorSettings(BaseModel):
    """Entry `aligned_detector`: `artifact` is the folder that a `blo_inst` student was fitted into."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    not_in_key: ClassVar[frozenset[str]] = frozenset({"artifact"})  # the weights' digest is
    artifact: Path


class FakeSettings(BaseModel):
    """Entries `fake_teacher` and `fake_proposer`: no model, for trying out a cluster.

    `delay`: mean seconds an image; each takes between half of it and one and a half, as its pixels say. `poison`: do
    what an image spells (see fake.py).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    not_in_key: ClassVar[frozenset[str]] = frozenset({"delay"})
    delay: float = Field(0.0, ge=0)
    poison: bool = False


BOX, POINT, POINT_BOX, PLAIN_BOX = "box", "point", "point_box", "plain_box"
VARIANTS = (BOX, POINT, POINT_BOX)  # B-SAM, P-SAM, BP-SAM
