"""CLIP: class names to text vectors, by open_clip's towers from a local file or the embedded tiny ones."""

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
# What CLIP Surgery's code takes the mean of: CLIP's 80 prompts of ImageNet, and five of scenes.
SCENE_PROMPTS = tuple(
    f"{words} {{name}} in the scene."
    for words in ("there is a", "there is the", "this is a", "this is the", "this is one")
)


class TextEncoder:
    """Normalised text vectors of names, each computed once and alone, so that no name's bits depend on the others."""

    def __init__(self, embed: Callable[[str], Tensor]) -> None:
        self._embed = embed
        self._cache: dict[str, npt.NDArray[np.float32]] = {}

    def encode(self, names: Sequence[str]) -> npt.NDArray[np.float32]:
        """(K, d) float32 of length 1 each. Raises BadInput for a blank name and ValueError for no names at all."""
        if not names:
            raise ValueError("encode: no names")
        for name in names:
            if not name.strip():
                raise BadInput(f"class name {name!r}: blank, expected a word")
        return np.stack([self._one(name) for name in names])

    def nothing(self) -> npt.NDArray[np.float32]:
        """(d,) float32 of length 1: what is left of a prompt without a name."""
        return self._one("")

    def _one(self, name: str) -> npt.NDArray[np.float32]:
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
        return load_clip(name, device=device)[1]
    model = _read(name, _checked(name, checkpoint, sha256)).requires_grad_(False).eval()
    model.visual = nn.Identity()  # the image tower is most of the memory and answers nothing here
    prompted = _prompted(model.to(device), open_clip.get_tokenizer(name), device)
    return TextEncoder(lambda class_name: prompted([PROMPT.format(name=class_name.replace("_", " "))])[0])


def load_clip(
    name: str = "tiny", *, checkpoint: Path | None = None, sha256: str | None = None, device: str = "cpu"
) -> tuple[CLIP | CustomTextCLIP, TextEncoder]:
    """Both towers, frozen, and the texts of CLIP Surgery: the mean of 85 prompts a name; `tiny` has the name alone.

    Never downloads. Raises as `load_text`.
    """
    if name == "tiny":
        model = tiny_text.build_tiny_clip()
        model.load_state_dict(load_weights(listing.TEXT))
        model.requires_grad_(False).eval().to(device)
        return model, TextEncoder(lambda word: model.encode_text(tiny_text.tokenize([word]).to(device))[0])
    official = _read(name, _checked(name, checkpoint, sha256)).requires_grad_(False).eval().to(device)
    prompted = _prompted(official, open_clip.get_tokenizer(name), device)

    def embed(class_name: str) -> Tensor:
        words = class_name.replace("_", " ")
        prompts = [template(words) for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
        prompts += [prompt.format(name=words) for prompt in SCENE_PROMPTS]
        return F.normalize(prompted(prompts).float(), dim=-1).mean(0)

    return official, TextEncoder(embed)


def _prompted(
    model: CLIP | CustomTextCLIP, tokenizer: Callable[[list[str]], Tensor], device: str
) -> Callable[[list[str]], Tensor]:
    """What embeds P prompts as (P, d), not normalised."""

    def embed(prompts: list[str]) -> Tensor:
        vectors: Tensor = model.encode_text(tokenizer(prompts).to(device))
        return vectors

    return embed


def inspect_text(name: str = "tiny", *, checkpoint: Path | None = None, sha256: str | None = None) -> None:
    """BadInput for what `load_text` refuses, told without making room for the weights."""
    if name == "tiny":
        load_clip()
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
