"""Class names to text vectors: open_clip's text towers from a local file, and the embedded tiny one."""

import pickle
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from safetensors import SafetensorError
from torch import Tensor, nn

from pipeline.data.errors import BadInput
from teachers.identity import TEXT_PICKLES, weights_digest
from teachers.tiny import listing
from teachers.tiny import text as tiny_text
from teachers.tiny.weights import load_weights

_UNREADABLE = (
    *(RuntimeError, EOFError, OSError, pickle.UnpicklingError, SafetensorError),
    *(
        KeyError,
        TypeError,
        AttributeError,
        AssertionError,
    ),  # of open_clip, for what is no state dict of the model
)
PROMPT = "a photo of a {name}"  # Das et al. 2024 name none; CLIP's own


class TextEncoder:
    """Normalised text vectors of names, each computed once and alone, so that no name's bits depend on the others."""

    def __init__(self, embed: Callable[[str], Tensor]) -> None:
        self._embed = embed
        self._cache: dict[str, npt.NDArray[np.float32]] = {}

    def encode(self, names: Sequence[str]) -> npt.NDArray[np.float32]:
        """(K, d) float32 of length 1 each. Raises BadInput for a blank name and ValueError for no names at all."""
        if not names:
            raise ValueError("encode: no names")
        return np.stack([self._one(name) for name in names])

    def _one(self, name: str) -> npt.NDArray[np.float32]:
        if not name.strip():
            raise BadInput(f"class name {name!r}: blank, expected a word")
        if name not in self._cache:
            with torch.inference_mode():
                vector = F.normalize(self._embed(name).float(), dim=-1)
            self._cache[name] = vector.cpu().numpy()
        return self._cache[name]


def load_text(
    name: str = "tiny", *, checkpoint: Path | None = None, sha256: str | None = None, device: str = "cpu"
) -> TextEncoder:
    """The text tower `tiny`, or that of an open_clip model (`ViT-B-16`, `ViT-L-14` ...) from `checkpoint`.

    Never downloads. A checkpoint is .safetensors, or a pickle (.pt, .pth, .bin) whose `sha256` is given. Raises
    BadInput for an unknown name, a missing or damaged file, weights of another model, and for towers whose tokenizer
    open_clip does not bring along.
    """
    if name == "tiny":
        return _tiny(device)
    model = _read(name, _checked(name, checkpoint, sha256)).requires_grad_(False).eval()
    tokenizer = open_clip.get_tokenizer(name)
    model.visual = nn.Identity()  # the image tower is most of the memory and answers nothing here
    model.to(device)

    def embed(class_name: str) -> Tensor:
        prompt = PROMPT.format(name=class_name.replace("_", " "))
        vector: Tensor = model.encode_text(tokenizer([prompt]).to(device))[0]
        return vector

    return TextEncoder(embed)


def inspect_text(name: str = "tiny", *, checkpoint: Path | None = None, sha256: str | None = None) -> None:
    """BadInput for what `load_text` refuses, told without making room for the weights."""
    if name == "tiny":
        _tiny("cpu")
        return
    path = _checked(name, checkpoint, sha256)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is copied into tensors without room is the point
        _read(name, path, device="meta")


def _checked(name: str, checkpoint: Path | None, sha256: str | None) -> Path:
    if checkpoint is None:
        raise BadInput(f"text {name}: needs `checkpoint`, the path of its open_clip weights")
    _check_name(name)
    weights_digest(checkpoint, pickles=TEXT_PICKLES, expected=sha256)
    return checkpoint


def _tiny(device: str) -> TextEncoder:
    model = tiny_text.build_tiny_clip()
    model.load_state_dict(load_weights(listing.TEXT))
    model.requires_grad_(False).eval().to(device)
    return TextEncoder(lambda name: model.encode_text(tiny_text.tokenize([name]).to(device))[0])


def _check_name(name: str) -> None:
    config = open_clip.get_model_config(name)
    if config is None:
        raise BadInput(
            f"text {name!r}: not an open_clip model; known are tiny, {', '.join(open_clip.list_models())}"
        )
    text = config["text_cfg"]
    foreign = text.get("hf_model_name") or text.get("hf_tokenizer_name")
    if foreign:
        raise BadInput(
            f"text {name}: its tokenizer {foreign} would be downloaded; use a model with CLIP's own"
        )


def _read(name: str, path: Path, device: str = "cpu") -> CLIP | CustomTextCLIP:
    try:
        model: CLIP | CustomTextCLIP = open_clip.create_model(
            name,
            pretrained=str(path),
            device=device,
            pretrained_image=False,
            pretrained_text=False,
            weights_only=True,
        )
    except _UNREADABLE as error:
        first = "; ".join((str(error) or type(error).__name__).split("\n")[:4])
        raise BadInput(f"checkpoint {path}: not readable as weights of {name}: {first}") from error
    return model
