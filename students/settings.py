"""Settings and numbers of the Mask2Former student: the paper's (`r50`, `swin_t`) and `tiny` for CPUs; imports no torch.

Sources: Cheng et al. 2022 (Mask2Former) and its official COCO configuration; Das et al. 2024 for batch and schedule.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

MASK2FORMER = "mask2former"  # its name in the catalog
Variant = Literal["tiny", "r50", "swin_t"]

# The learning rate falls to a tenth at these shares of the training: iterations 327778 and 355092 of the official
# 368750, 163889 and 177546 of the 184375 of Das et al. 2024.
LR_DROPS = (8 / 9, 26 / 27)

# Official and Das et al. 2024: learning rate at batch 16 and, literally, at batch 32; `lr` in the settings overrides.
PAPER_LR = 1e-4
PAPER_BATCH = 32  # Das et al. 2024 (official: 16)
PAPER_STEPS = 184375  # Das et al. 2024: 50 epochs of COCO at batch 32 (official: 368750 at batch 16)


@dataclass(frozen=True)
class Recipe:
    """How one variant is trained.

    `size`: side of the square canvas in pixels. `scale`: range of the large-scale jitter, 1 = fits the canvas.
    `backbone_lr`, `head_lr`: factors on the learning rates of the backbone and of the class head. `clip`: largest norm
    of the whole model's gradient.
    `frozen_norm`: a pretrained backbone keeps its batch statistics. `filter_empty`: images without a target are left
    out. `schedule`: `drops` follows `LR_DROPS`, `cosine` ends at zero; both after a linear warm-up of `warmup` steps.
    """

    size: int
    scale: tuple[float, float]
    batch: int
    steps: int
    lr: float
    backbone_lr: float
    head_lr: float
    weight_decay: float
    clip: float
    warmup: int
    schedule: Literal["drops", "cosine"]
    frozen_norm: bool
    filter_empty: bool
    checkpoint_every: int


PAPER = Recipe(
    size=1024,
    scale=(0.1, 2.0),
    batch=PAPER_BATCH,
    steps=PAPER_STEPS,
    lr=PAPER_LR,
    backbone_lr=0.1,
    head_lr=1.0,
    weight_decay=0.05,
    clip=0.01,
    warmup=0,
    schedule="drops",
    frozen_norm=True,
    filter_empty=True,
    checkpoint_every=5000,
)

# From the embedded start, whose class head alone is new, in few steps: many small batches, and only mirrored images are
# added to the given ones. Images without a target are left out: each step should teach masks.
TINY = Recipe(
    size=256,
    scale=(1.0, 1.0),
    batch=4,
    steps=400,
    lr=1e-3,
    backbone_lr=0.1,
    head_lr=20.0,
    weight_decay=0.05,
    clip=1.0,
    warmup=20,
    schedule="cosine",
    frozen_norm=True,
    filter_empty=True,
    checkpoint_every=50,
)

RECIPES: dict[Variant, Recipe] = {"tiny": TINY, "r50": PAPER, "swin_t": PAPER}


class Mask2FormerSettings(BaseModel):
    """What a user may choose; a number left out is the variant's own (`RECIPES`).

    `weights`: local safetensors file of a backbone or a whole model; the paper's variants are made for a pretrained
    backbone and need it. Without, `tiny` starts from embedded weights (`students.pretrain`). `from_scratch`: from
    random ones. `steps` moves the drops of the
    learning rate with it. `amp`: bfloat16 on a GPU; on a CPU only with `cpu_bf16`, as it pays off only where the CPU
    has it in hardware. `checkpoint_every`: steps between saved states.

    Past the paper: `trust_weights` lets a pseudo-mask's losses count as much as the mask is trusted (`teachers.trust`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # The digest of the weights is; the rest changes nothing that a trained student shows.
    not_in_key: ClassVar[frozenset[str]] = frozenset({"weights", "from_scratch", "checkpoint_every"})
    variant: Variant = "tiny"
    from_scratch: bool = False
    weights: Path | None = Field(default=None, validate_default=True)
    steps: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    lr: float | None = Field(default=None, gt=0)
    filter_empty: bool | None = None
    trust_weights: bool = False
    amp: bool = True
    cpu_bf16: bool = False
    checkpoint_every: int | None = Field(default=None, ge=1)

    @field_validator("weights")
    @classmethod
    def _backbone_is_known(cls, weights: Path | None, info: ValidationInfo) -> Path | None:
        variant, from_scratch = info.data.get("variant", "tiny"), info.data.get("from_scratch", False)
        if variant != "tiny" and weights is None and not from_scratch:
            raise ValueError(
                f"{variant} needs the safetensors file of a pretrained backbone; "
                "`from_scratch: true` starts from random weights instead"
            )
        if weights is not None and from_scratch:
            raise ValueError("expected a file, or `from_scratch: true`, found both")
        return weights

    @property
    def embedded(self) -> bool:
        """Whether it starts from the weights that come with the package."""
        return self.variant == "tiny" and self.weights is None and not self.from_scratch

    def recipe(self) -> Recipe:
        """The variant's recipe with this user's numbers."""
        base = RECIPES[self.variant]
        if self.variant == "tiny" and not self.embedded:
            base = _of_another_start(base, from_scratch=self.from_scratch)
        steps = base.steps if self.steps is None else self.steps
        return replace(
            base,
            steps=steps,
            warmup=min(base.warmup, steps // 4),
            batch=base.batch if self.batch_size is None else self.batch_size,
            lr=base.lr if self.lr is None else self.lr,
            # Batch statistics are worth keeping only if the backbone brought some.
            frozen_norm=base.frozen_norm and not self.from_scratch,
            filter_empty=base.filter_empty if self.filter_empty is None else self.filter_empty,
            checkpoint_every=self.checkpoint_every or base.checkpoint_every,
        )

    def bf16(self, device: str) -> bool:
        """Whether to compute in bfloat16 on a device."""
        return self.cpu_bf16 if device.startswith("cpu") else self.amp


def _of_another_start(tiny: Recipe, *, from_scratch: bool) -> Recipe:
    """The class head in a file need not be new; from nothing all learns at one rate, far higher than the paper's."""
    found = replace(tiny, head_lr=1.0)
    return replace(found, lr=2e-3, backbone_lr=1.0) if from_scratch else found
