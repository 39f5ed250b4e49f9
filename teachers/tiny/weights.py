"""The embedded weights: fp16 safetensors in `weights/`, each listed in `weights.json` with its digest and origin."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from pipeline.data.errors import BadInput
from teachers.tiny.listing import FOLDER, LISTING, digest_of, read_listing


@dataclass(frozen=True)
class WeightFacts:
    """How a file came to be: its recipe's command, seed, steps and minutes, and what `--evaluate` said of it.

    `needs`: digests, by name, of the embedded weights it was trained upon and is of no use without.
    """

    command: str
    seed: int
    steps: int
    minutes: float
    score: Mapping[str, float]
    needs: Mapping[str, str]


def load_weights(name: str, folder: Path = FOLDER) -> dict[str, Tensor]:
    """The tensors of `<name>.safetensors`, halves as float32.

    Raises BadInput for a file that is missing, not listed, not of the listed sha256, or made for other weights than
    those beside it.
    """
    listing = read_listing(folder)
    file_name = f"{name}.safetensors"
    path = folder / file_name
    if not path.is_file() or file_name not in listing:
        known = sorted(set(listing) & {found.name for found in folder.glob("*.safetensors")})
        raise BadInput(f"{path}: no such embedded weights; there are {known}")
    data = path.read_bytes()
    found, expected = hashlib.sha256(data).hexdigest(), listing[file_name]["sha256"]
    if found != expected:
        raise BadInput(f"{path}: sha256 is {found}, {LISTING} lists {expected}")
    for needed, digest in _needs(listing[file_name]).items():
        if digest_of(needed, folder) != digest:
            raise BadInput(
                f"{path}: made for {needed} of sha256 {digest}, beside it lies another; train it again"
            )
    return {
        key: value.float() if value.dtype == torch.float16 else value for key, value in load(data).items()
    }


def save_weights(name: str, state: Mapping[str, Tensor], facts: WeightFacts, folder: Path = FOLDER) -> Path:
    """Write `<name>.safetensors` (floats as fp16; its digest is that of the tensors) and its entry in the listing.

    Returns the file. Raises BadInput if a value is too large for fp16.
    """
    halves = {key: _half(key, value) for key, value in state.items()}
    data = save(halves)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    path.write_bytes(data)
    listing = read_listing(folder) if (folder / LISTING).exists() else {}
    listing[path.name] = {"sha256": hashlib.sha256(data).hexdigest(), **asdict(facts)}
    (folder / LISTING).write_text(json.dumps(listing, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path


def _half(key: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value.detach().cpu().contiguous()
    half = value.detach().cpu().half().contiguous()
    if not bool(torch.isfinite(half).all()):
        raise BadInput(
            f"weights: {key} holds values beyond fp16, the largest is {value.abs().max().item():.3g}"
        )
    return half


def _needs(entry: Mapping[str, object]) -> dict[str, str]:
    needs = entry.get("needs") or {}
    assert isinstance(needs, dict)
    return needs
