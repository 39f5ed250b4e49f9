"""Initial weights: embedded ones, or a local safetensors file in transformers' format, of a whole Mask2Former or a
backbone alone.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Size, Tensor
from transformers import Mask2FormerForUniversalSegmentation, PreTrainedModel

from pipeline.data.errors import BadInput
from teachers.quiet import quiet
from teachers.tiny import weights as embedded
from teachers.tiny.listing import STUDENT

# What transformers' loader returns when asked for its report: names that are missing, or that differ in shape.
_Loaded = tuple[PreTrainedModel, dict[str, set[str] | set[tuple[str, Size, Size]]]]
_WHOLE = "model.pixel_level_module."
# What depends on the classes of the data set starts anew when these differ.
_HEAD = ("class_predictor.weight", "class_predictor.bias", "criterion.empty_weight")
_NEW_IN_BACKBONE = "hidden_states_norms."  # norms that only a segmentation model has (Swin)


def load_weights(
    model: Mask2FormerForUniversalSegmentation, path: Path
) -> Mask2FormerForUniversalSegmentation:
    """A model of `model`'s configuration with the weights of `path`; what the file lacks keeps `model`'s.

    A whole model's file may be of other classes: its class head is then new. `BadInput` if the file is missing, is no
    safetensors file, or does not hold every weight of the model or of its backbone in the right shape.
    """
    return _start(model, _read(path), str(path))


def load_embedded(model: Mask2FormerForUniversalSegmentation) -> Mask2FormerForUniversalSegmentation:
    """The tiny model with the weights that come with the package (`students.pretrain`); its class head is new.

    `BadInput` if they are damaged or of another architecture.
    """
    tensors = embedded.load_weights(STUDENT)
    return _start(model, {name: t for name, t in tensors.items() if name not in _HEAD}, STUDENT)


def _start(
    model: Mask2FormerForUniversalSegmentation, tensors: dict[str, Tensor], where: str
) -> Mask2FormerForUniversalSegmentation:
    if any(name.startswith(_WHOLE) for name in tensors):
        _check(where, _fill(model, tensors), new_allowed=_HEAD)
    else:
        encoder = model.model.pixel_level_module.encoder
        _check(
            where,
            _fill(encoder, tensors),
            new_allowed=[n for n in encoder.state_dict() if _NEW_IN_BACKBONE in n],
        )
    return model


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise BadInput(
            f"weights: {path}: no such file; expected a local safetensors file (nothing is downloaded)"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise BadInput(f"weights: {path}: not a safetensors file ({error})") from error


def _fill(module: PreTrainedModel, tensors: dict[str, Tensor]) -> list[str]:
    """Copies what fits into `module` and returns the names of its weights that got none.

    The file is read through transformers' own loader, which knows the names of its older versions.
    """
    with quiet():
        result = type(module).from_pretrained(
            None,
            config=module.config,
            state_dict=tensors,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    loaded, info = cast(_Loaded, result)
    lacking = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
    found = {name: tensor for name, tensor in loaded.state_dict().items() if name not in lacking}
    module.load_state_dict(found, strict=False)
    return sorted(lacking)


def _check(where: str, lacking: list[str], *, new_allowed: Iterable[str]) -> None:
    wrong = sorted(set(lacking) - set(new_allowed))
    if wrong:
        raise BadInput(
            f"weights: {where}: {len(wrong)} weights of the model are missing or of another shape, first {wrong[0]!r}; "
            "expected a file of the same architecture"
        )
