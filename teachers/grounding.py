"""Grounding DINO as a proposer, from a local folder in transformers' format (`save_pretrained`, safetensors)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    PreTrainedTokenizerFast,
)

from pipeline.data.boxes import clip, cxcywh_to_xyxy
from pipeline.data.errors import BadInput
from pipeline.data.records import Ontology, Origin, Prompt
from teachers.grounding_names import Caption, Phrase, Vocabulary, captions, token_spans
from teachers.identity import GROUNDING_DINO_FILE, file_sha256
from teachers.protocols import Sample
from teachers.quiet import quiet

# What transformers raises for files that hold something else, a list for a mapping, say.
_UNREADABLE = (
    *(OSError, ValueError, RuntimeError, KeyError, SafetensorError),
    *(TypeError, AttributeError, AssertionError, StrictDataclassError),
)

MAX_TOKENS = 256  # of a caption, [CLS], [SEP] and the full stops among them
SPECIAL_TOKENS = {
    "[CLS]": 101,
    "[SEP]": 102,
    ".": 1012,
    "?": 1029,
}  # fixed in the model, which parts names there


class _KeptBackbone(nn.Module):
    """The image backbone, which sees no text: asked again about the same tensor, it answers from memory."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self._asked: Tensor | None = None
        self._answer: tuple[list[tuple[Tensor, Tensor]], list[Tensor]] = ([], [])

    @property
    def position_embedding(self) -> nn.Module:
        """The model makes embeddings of its own further levels with it."""
        embedding: nn.Module = self.backbone.get_submodule("position_embedding")
        return embedding

    def forward(
        self, pixel_values: Tensor, pixel_mask: Tensor
    ) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
        """Features with masks, and position embeddings, of each level."""
        if self._asked is not pixel_values:
            self._answer = self.backbone(pixel_values, pixel_mask)
            self._asked = pixel_values
        features, positions = self._answer
        return features, list(positions)  # Trap: the model appends its further levels to the list it gets.


class GroundingDino:
    """Boxes of named classes; the class of a box comes from the tokens of each name, never from a decoded phrase.

    The score of class k at a query is the mean over k's tokens of the sigmoid of their logits, the box gets the class
    of the highest one (the official positive-map evaluation). Images go through one by one, so that none depends on
    its neighbours. Names beyond the token limit go into further captions, for which the image's backbone features are
    kept; the encoder behind the backbone fuses text and image and runs anew.
    """

    def __init__(
        self,
        model: GroundingDinoForObjectDetection,
        *,
        tokenizer: PreTrainedTokenizerFast,
        image_processor: GroundingDinoImageProcessor,
        ontology: Ontology,
        device: str = "cpu",
    ) -> None:
        self._model = model.requires_grad_(False).train(False).to(device)
        self._model.model.backbone = _KeptBackbone(model.model.backbone)
        self._tokenizer, self._image_processor, self._device = tokenizer, image_processor, device
        self._vocabulary = Vocabulary(ontology)
        self._limit = min(MAX_TOKENS, model.config.max_text_len)

    def propose(self, batch: Sequence[Sample], names: Sequence[Sequence[int]]) -> list[list[Prompt]]:
        """One prompt a query and caption, best first, boxes xyxy in pixels of the upright image (`Proposer.propose`).

        Raises BadInput for a class name that the text prompt cannot hold.
        """
        return [self._one(sample, asked) for sample, asked in zip(batch, names, strict=True)]

    def captions(self, phrases: Sequence[Phrase]) -> list[Caption]:
        """The text prompts that these names need."""
        return captions(phrases, count=self._count, limit=self._limit)

    def _count(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _one(self, sample: Sample, asked: Sequence[int]) -> list[Prompt]:
        phrases = self._vocabulary.phrases(asked, sample.record.tags)
        if not phrases:
            return []
        inputs = self._image_processor(images=[sample.image], return_tensors="pt").to(self._device)
        found = [prompt for text in self.captions(phrases) for prompt in self._ask(sample, inputs, text)]
        return sorted(found, key=lambda prompt: -(prompt.score or 0.0))

    @torch.inference_mode()
    def _ask(self, sample: Sample, image: Mapping[str, Tensor], caption: Caption) -> list[Prompt]:
        text = self._tokenizer(caption.text, return_tensors="pt", return_offsets_mapping=True)
        spans = token_spans(caption, [(int(low), int(high)) for low, high in text.pop("offset_mapping")[0]])
        out = self._model(**image, **text.to(self._device))
        chances = out.logits[0].float().sigmoid()
        scores = torch.stack([chances[:, tokens].mean(1) for tokens in spans], 1)
        best, label = (t.cpu().tolist() for t in scores.max(1))
        height, width = sample.image.shape[:2]
        relative = cxcywh_to_xyxy(out.pred_boxes[0].double().cpu().numpy())
        boxes = clip(relative * np.array([width, height, width, height], np.float64), height, width)
        return [
            Prompt(
                Origin.DINO,
                (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
                class_id=caption.phrases[k].class_id,
                score=score,
            )
            for box, score, k in zip(boxes, best, label, strict=True)
        ]


def load_grounding_dino(
    folder: Path, *, ontology: Ontology, sha256: str | None = None, device: str = "cpu"
) -> GroundingDino:
    """The model, tokenizer and image processor saved in `folder`; `sha256` is that of model.safetensors, if known.

    Never downloads. Raises BadInput, naming the folder, when files are missing or damaged, have another digest, or
    hold another model.
    """
    weights = folder / GROUNDING_DINO_FILE
    if not weights.is_file():
        raise BadInput(
            f"grounding_dino {folder}: no {GROUNDING_DINO_FILE} in it; expected a folder saved by transformers"
        )
    if sha256 is not None and (found := file_sha256(weights)) != sha256.lower():
        raise BadInput(f"grounding_dino {weights}: sha256 is {found}, expected {sha256}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        image_processor = GroundingDinoImageProcessor.from_pretrained(folder, local_files_only=True)
        with quiet():
            model = _read_model(folder)
    except _UNREADABLE as error:
        raise BadInput(f"grounding_dino {folder}: not readable as Grounding DINO: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise BadInput(
            f"grounding_dino {folder}: its tokenizer gives no offsets; save a fast one (tokenizer.json)"
        )
    numbers = {word: tokenizer.convert_tokens_to_ids(word) for word in SPECIAL_TOKENS}
    if numbers != SPECIAL_TOKENS:
        # Trap: without tokenizer.json transformers makes up an empty vocabulary and says nothing.
        raise BadInput(
            f"grounding_dino {folder}: its tokenizer has {numbers}, the model expects {SPECIAL_TOKENS}"
        )
    return GroundingDino(
        model, tokenizer=tokenizer, image_processor=image_processor, ontology=ontology, device=device
    )


def _read_model(folder: Path) -> GroundingDinoForObjectDetection:
    loaded: tuple[GroundingDinoForObjectDetection, dict[str, set[str]]]
    loaded = GroundingDinoForObjectDetection.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        disable_custom_kernels=True,
        output_loading_info=True,
        dtype=torch.float32,  # not the file's: half weights would meet pixels in float32
    )  # type: ignore[assignment]
    model, info = loaded
    if info["missing_keys"]:
        # Trap: transformers fills what is missing with random numbers and only logs it.
        missing = sorted(info["missing_keys"])
        raise BadInput(f"grounding_dino {folder}: {len(missing)} tensors are missing, the first {missing[0]}")
    return model
