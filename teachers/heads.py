"""Tuned heads as files: `<variant>.safetensors` with the trained parameters alone, and `teacher.json` beside them."""

from copy import deepcopy
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from segment_anything.modeling import Sam
from torch import Tensor, nn

from pipeline.data.errors import BadInput
from teachers.class_aware import ClassAwarePrompts
from teachers.gating import Fold
from teachers.identity import ModelIdentity
from teachers.sam import lora
from teachers.sam.predictor import Head
from teachers.settings import PLAIN_BOX, ClassAwareSettings

TEACHER_JSON = "teacher.json"


class TeacherFile(BaseModel):
    """`teacher.json`: what was tuned on what; with `zero_shot` nothing was, and `reason` says why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelIdentity
    zero_shot: bool
    reason: str | None = None
    variants: tuple[str, ...] = ()
    images: int
    instances: int
    folds: tuple[Fold, ...] = ()

    def save(self, folder: Path) -> None:
        """Write it into an artifact's folder."""
        (folder / TEACHER_JSON).write_text(self.model_dump_json(indent=2) + "\n")


def read_teacher(folder: Path) -> TeacherFile:
    """An artifact's `teacher.json`; BadInput naming it when it is missing or damaged."""
    path = folder / TEACHER_JSON
    try:
        return TeacherFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadInput(f"teacher {path}: not a tuned teacher: {error}") from error


def new_head(sam: Sam, variant: str, settings: ClassAwareSettings, *, text_width: int, seed: int) -> Head:
    """A head at its start: a copy of SAM's decoder, and a branch that adds nothing yet. Its parameters can train."""
    decoder = deepcopy(sam.mask_decoder).requires_grad_(True)
    has_branch = settings.class_aware and variant != PLAIN_BOX
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        branch = ClassAwarePrompts(sam.prompt_encoder, text_width).to(sam.device) if has_branch else None
        if settings.lora is not None:
            lora.adapt(decoder, settings.lora)
    return Head(decoder, branch)


def trained_parameters(head: Head) -> dict[str, nn.Parameter]:
    """Every parameter of a head that training changes, by a stable name, in a stable order."""
    parts = {"decoder": head.decoder} | ({"branch": head.branch} if head.branch is not None else {})
    return {
        f"{part}.{name}": value
        for part, module in parts.items()
        for name, value in module.named_parameters()
        if value.requires_grad
    }


def head_path(folder: Path, variant: str) -> Path:
    """Where an artifact keeps a variant's head."""
    return folder / f"{variant}.safetensors"


def save_head(head: Head, folder: Path, variant: str) -> None:
    """Write `<variant>.safetensors`."""
    weights = {name: value.detach().cpu().contiguous() for name, value in trained_parameters(head).items()}
    save_file(weights, head_path(folder, variant))


def load_head(sam: Sam, folder: Path, variant: str, *, settings: ClassAwareSettings, text_width: int) -> Head:
    """A tuned head, frozen; BadInput naming the file when it is missing, damaged or made for another model."""
    path = head_path(folder, variant)
    head = new_head(sam, variant, settings, text_width=text_width, seed=0)
    try:
        fill(trained_parameters(head), load_file(path))
    except (OSError, SafetensorError, ValueError) as error:
        raise BadInput(f"teacher {path}: not weights of this model: {error}") from error
    lora.merge(head.decoder)
    head.decoder.requires_grad_(False)
    if head.branch is not None:
        head.branch.requires_grad_(False)
    return head


@torch.no_grad()
def fill(parameters: dict[str, nn.Parameter], weights: dict[str, Tensor]) -> None:
    """Copy `weights` into `parameters`; ValueError unless names and shapes are the same."""
    if odd := sorted(parameters.keys() ^ weights.keys()):
        raise ValueError(f"expected {len(parameters)} tensors, found {len(weights)}; not in both: {odd[:3]}")
    for name, parameter in parameters.items():
        if parameter.shape != weights[name].shape:
            raise ValueError(f"{name}: expected {tuple(parameter.shape)}, found {tuple(weights[name].shape)}")
        parameter.copy_(weights[name])
