"""SAM from a file: segment-anything's classes, its official checkpoints or safetensors, and the embedded tiny one.

`.pt` and `.pth` files are pickles: they are read only with a known sha256 (official, or given in the settings) and with
`weights_only=True`.
"""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from segment_anything import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l
from segment_anything.modeling import Sam
from torch import Tensor

from pipeline.data.errors import BadInput
from teachers.identity import SAM_PICKLES, official_sha256, weights_digest
from teachers.sam.attention import use_fast_attention
from teachers.tiny import listing
from teachers.tiny import sam as tiny_sam
from teachers.tiny.weights import load_weights

Variant = Literal["tiny", "vit_b", "vit_l", "vit_h"]
AttentionKind = Literal["fast", "official"]

BUILDERS: dict[str, Callable[[], Sam]] = {
    "tiny": tiny_sam.build_tiny_sam,
    "vit_b": build_sam_vit_b,
    "vit_l": build_sam_vit_l,
    "vit_h": build_sam_vit_h,
}


def load_sam(
    variant: Variant,
    checkpoint: Path | None = None,
    *,
    sha256: str | None = None,
    attention: AttentionKind = "fast",
) -> Sam:
    """A frozen SAM in eval mode on the CPU, its weights from `checkpoint` (for `tiny`: the embedded file if None).

    `attention: official` keeps segment-anything's own encoder attention. Raises BadInput, naming the file, for a
    missing or damaged file, a digest that is not the expected one, or tensors that don't fit the variant.
    """
    weights = _weights(variant, checkpoint, sha256)
    sam = BUILDERS[variant]()
    _fill(sam, weights, checkpoint or tiny_sam.TINY_SAM_WEIGHTS, variant)
    if attention == "fast":
        use_fast_attention(sam.image_encoder)
    return sam.requires_grad_(False).eval()


def inspect_sam(variant: Variant, checkpoint: Path | None = None, *, sha256: str | None = None) -> None:
    """BadInput for what `load_sam` refuses, told without making room for the weights."""
    weights = _weights(variant, checkpoint, sha256)
    with torch.device("meta"):
        sam = BUILDERS[variant]()
    _fill(sam, weights, checkpoint or tiny_sam.TINY_SAM_WEIGHTS, variant, assign=True)


def _weights(variant: Variant, checkpoint: Path | None, sha256: str | None) -> dict[str, Tensor]:
    if checkpoint is not None:
        return _read(checkpoint, sha256 or official_sha256(variant, checkpoint))
    if variant == "tiny":
        return load_weights(listing.SAM)
    raise BadInput(f"sam: {variant} needs `checkpoint`, the path of its weights (.pth or .safetensors)")


def _read(path: Path, expected: str | None) -> dict[str, Tensor]:
    weights_digest(path, pickles=SAM_PICKLES, expected=expected)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Mapped, not read: ViT-H would be in memory twice. Pickles of before torch 1.6 cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
        return weights
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, SafetensorError) as error:
        why = str(error) or type(error).__name__
        raise BadInput(f"checkpoint {path}: not readable as weights: {why}") from error


def _fill(sam: Sam, weights: dict[str, Tensor], path: Path, variant: str, *, assign: bool = False) -> None:
    try:
        sam.load_state_dict(weights, assign=assign)
    except (RuntimeError, TypeError, AttributeError) as error:
        first = "; ".join(str(error).split("\n")[:4])
        raise BadInput(f"checkpoint {path}: its tensors do not fit SAM {variant}: {first}") from error
