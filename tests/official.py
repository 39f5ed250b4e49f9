"""Weights with the official architectures and random numbers, written as their publishers write them.

What a published file has beside the weights that are asked for (classifiers, indices, a tokenizer's further files) is
there too. `blank_*` write the same names and shapes without numbers, in no time and space.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
)

# huggingface/transformers, models/grounding_dino/convert_grounding_dino_to_hf.py, get_grounding_dino_config: the rest
# of IDEA-Research's config.json are GroundingDinoConfig's defaults.
GROUNDING_DINO = {
    "tiny": {
        "window_size": 7,
        "image_size": 224,
        "embed_dim": 96,
        "depths": (2, 2, 6, 2),
        "num_heads": (3, 6, 12, 24),
    },
    "base": {
        "window_size": 12,
        "image_size": 384,
        "embed_dim": 128,
        "depths": (2, 2, 18, 2),
        "num_heads": (4, 8, 16, 32),
    },
}
# Keys of the published config.json that today's transformers does not write (4.40 did).
OLDER_KEYS = {
    "backbone": None,
    "backbone_kwargs": None,
    "use_pretrained_backbone": False,
    "use_timm_backbone": False,
    "torch_dtype": "float32",
}
# Where the shared box head lies: "tiny" has the detector's name of it, "base" the decoder's.
BOX_HEAD = {"tiny": "bbox_embed.", "base": "model.decoder.bbox_embed."}
# The same classes, small: two decoder layers, as the box head is shared.
NARROW_DINO = {
    "backbone_config": SwinConfig(
        embed_dim=16, depths=[1] * 4, num_heads=[2] * 4, window_size=4, image_size=64, out_indices=[2, 3, 4]
    ),
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_queries": 50,
    "text_config": BertConfig(
        num_hidden_layers=1, hidden_size=64, num_attention_heads=4, intermediate_size=64
    ),
}
BERT_WORDS = 30522  # of bert-base-uncased
BERT_SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
IMAGENET_CLASSES = 1000
SWIN_TINY = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight and statistic random, where it began as zero or one too, so that none can be mistaken."""
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not value.is_floating_point():
                continue
            if name.endswith(
                ("norm.weight", "norm1.weight", "norm2.weight", "running_var", "LayerNorm.weight")
            ):
                value.uniform_(0.8, 1.2, generator=numbers)
            else:
                value.normal_(std=0.03, generator=numbers)
    return module.eval().requires_grad_(False)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def grounding_dino(size: str, **narrower: object) -> GroundingDinoForObjectDetection:
    """The published architecture, or one with `narrower` numbers."""
    torch.manual_seed(0)
    backbone = SwinConfig(**GROUNDING_DINO[size], out_indices=[2, 3, 4])
    config = GroundingDinoConfig(**{"backbone_config": backbone, **narrower})
    model = GroundingDinoForObjectDetection(config)
    for name, value in model.named_parameters():  # zeros hide mistakes
        if "bbox_embed" in name or "fusion_layer" in name or "relative_position" in name:
            nn.init.normal_(value, std=0.05)
    return model.eval().requires_grad_(False)


def publish_grounding_dino(folder: Path, size: str, model: GroundingDinoForObjectDetection) -> Path:
    """The folder as on the hub."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tensors = published_names(load_file(folder / "model.safetensors"), size)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    del config["dtype"]
    (folder / "config.json").write_text(json.dumps(config | OLDER_KEYS, indent=2))
    _publish_processor(folder)
    return folder


def published_names(tensors: Mapping[str, Tensor], size: str) -> dict[str, Tensor]:
    """Without the norm that later versions added and never use, with the indices they no longer keep."""
    renamed = {}
    for name, tensor in tensors.items():
        if "swin.layernorm" in name:
            continue
        head = name.startswith("bbox_embed.")
        renamed[BOX_HEAD[size] + name.removeprefix("bbox_embed.") if head else name] = tensor
        if name.endswith("relative_position_bias_table"):
            window = (math.isqrt(len(tensor)) + 1) // 2  # the table has (2 w - 1)^2 rows
            index = torch.zeros(window**2, window**2, dtype=torch.int64)
            renamed[name.replace("bias_table", "index")] = index
    return renamed


def _publish_processor(folder: Path) -> None:
    words = {number: f"[unused{number}]" for number in range(BERT_WORDS)}
    words |= {number: word for word, number in BERT_SPECIAL.items()}
    words |= {2000 + i: word for i, word in enumerate(("red", "car", "person", "traffic", "light"))}
    BertTokenizer(vocab={word: number for number, word in words.items()}).save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{words[i]}\n" for i in range(BERT_WORDS)))
    special = {f"{word.strip('[]').lower()}_token": word for word in BERT_SPECIAL if word.startswith("[")}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    marks = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {str(n): {"content": word, **marks} for word, n in BERT_SPECIAL.items() if word.startswith("[")}
    tokenizer = {
        **special,
        "added_tokens_decoder": added,
        "clean_up_tokenization_spaces": True,
        "do_lower_case": True,
        "model_max_length": 512,
        "processor_class": "GroundingDinoProcessor",
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "tokenizer_class": "BertTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    GroundingDinoImageProcessor().save_pretrained(folder)  # shortest edge 800, longest 1333
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text()) | {"processor_class": "GroundingDinoProcessor"}
    path.write_text(json.dumps(settings | {"image_processor_type": "GroundingDinoImageProcessor"}))


def clip(name: str) -> open_clip.CLIP:
    torch.manual_seed(0)
    model: open_clip.CLIP = open_clip.create_model(name, pretrained_image=False, pretrained_text=False)
    return model.eval().requires_grad_(False)


def publish_clip(path: Path, model: open_clip.CLIP) -> Path:
    """open_clip_model.safetensors: open_clip's own names, in float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path


def resnet_50() -> ResNetForImageClassification:
    """ResNet v1.5: the stride is in the 3x3 convolution (downsample_in_bottleneck false, the default)."""
    return randomise(ResNetForImageClassification(ResNetConfig(num_labels=IMAGENET_CLASSES)))


def swin_tiny() -> SwinForImageClassification:
    return randomise(SwinForImageClassification(SwinConfig(**SWIN_TINY, num_labels=IMAGENET_CLASSES)))


def publish_backbone(folder: Path, model: nn.Module, dtype: torch.dtype = torch.float32) -> Path:
    """model.safetensors of a classifier, its head included, and Swin's indices as older versions kept them."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = published_names(load_file(path), "tiny") | {
        name: tensor for name, tensor in load_file(path).items() if "layernorm" in name
    }
    halved = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    save_file(halved, path, metadata={"format": "pt"})
    return path


def blank_pickle(path: Path, state: Mapping[str, Tensor]) -> Path:
    """A state dict of the right names and shapes, all zeros, in a few kilobytes: each tensor is one number repeated."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: torch.zeros(()).expand(tensor.shape) for name, tensor in state.items()}, path)
    return path


def blank_safetensors(path: Path, state: Mapping[str, Tensor]) -> Path:
    """The same as safetensors: a header, and a hole in place of the numbers."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in sorted(state.items()):
        whole = not tensor.is_floating_point()
        start, end = end, end + tensor.numel() * (8 if whole else 4)
        kind = "I64" if whole else "F32"
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path
