"""The weights there are: what each is, its licence and size, where it comes from and how a config names it.

Sizes are those of the published files in millions of bytes, of embedded ones as they lie there; SAM's digests are
Meta's, FCOS's is that of public records and begins with what torchvision has put into the file's name. Hub models have
none published: `fetched.json` beside them holds the commit and the digests of what the first fetch brought.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from pipeline.data.errors import BadInput
from pipeline.problems import did_you_mean
from teachers.catalog import ModelSpec
from teachers.detectors import FCOS_SHA256, FCOS_URL
from teachers.identity import OFFICIAL_SHA256
from teachers.tiny import listing

SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything"
RECORD = "fetched.json"
SAFE_FILES = ("*.safetensors", "*.json", "*.txt")  # no pickles
OPEN_CLIP = (
    "open_clip_model.safetensors"  # open_clip's own names; model.safetensors beside it has transformers'
)
BACKBONE = "model.safetensors"


@dataclass(frozen=True)
class Download:
    """A file with a published digest."""

    url: str
    sha256: str


@dataclass(frozen=True)
class Repository:
    """A model on the Hugging Face hub: its one `file` that a config names or, without it, all safetensors and texts."""

    id: str
    file: str | None = None


@dataclass(frozen=True)
class Weights:
    """One set of weights. A config names it by `use`, `settings` and, unless it is embedded (`source` None), `key`.

    `key`: the setting that takes its file or folder. `part`: the part of the model whose weights they are, if others
    have their own. `megabytes`: unless it is embedded.
    """

    what: str
    use: str
    megabytes: float | None = None
    source: Download | Repository | None = None
    key: str = "checkpoint"
    settings: Mapping[str, JsonValue] = field(default_factory=dict)
    licence: str = "Apache-2.0"
    part: str | None = None

    def size(self, name: str) -> str:
        """In millions of bytes; `-` for an embedded file that is not there."""
        if self.megabytes is not None:
            return f"{self.megabytes:g}"
        file = listing.path_of(name)
        return f"{file.stat().st_size / 1e6:.1f}" if file.is_file() else "-"

    def place(self, name: str, folder: Path) -> Path | None:
        """Where it lies once fetched into `folder`: the file or folder that a config names; None if embedded."""
        if isinstance(self.source, Download):
            return folder / self.source.url.rsplit("/", 1)[-1]
        if isinstance(self.source, Repository):
            return folder / name / (self.source.file or "")
        return None

    def state(self, name: str, folder: Path) -> str:
        """`embedded`, `absent`, `fetched`, or `unrecorded`: a hub model without the record of a whole fetch."""
        place = self.place(name, folder)
        if place is None:
            return "embedded" if listing.path_of(name).is_file() else "absent"
        if not place.exists():
            return "absent"
        recorded = not isinstance(self.source, Repository) or (folder / name / RECORD).is_file()
        return "fetched" if recorded else "unrecorded"

    def spec(self, name: str, folder: Path) -> ModelSpec:
        """The model that these weights make."""
        path = self.place(name, folder)
        where: dict[str, JsonValue] = {} if path is None else {self.key: str(path)}
        return ModelSpec(name=name, use=self.use, settings={**self.settings, **where})


class Fetched(BaseModel):
    """fetched.json: which commit of which repository was fetched, and the sha256 of its files by path."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    commit: str
    files: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> "Fetched | None":
        """The record in a model's folder, None if there is none; BadInput if it is damaged."""
        path = folder / RECORD
        if not path.is_file():
            return None
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise BadInput(f"{path}: not the record of a fetch: {error.errors()[0]['msg']}") from error


def find_weights(name: str) -> Weights:
    """An entry by name; BadInput with the nearest one otherwise."""
    if name not in WEIGHTS:
        raise BadInput(f"weights {name!r}: nothing of that name, {did_you_mean(name, WEIGHTS)}")
    return WEIGHTS[name]


def _sam(variant: str, file: str, megabytes: float) -> Weights:
    source = Download(f"{SAM_URL}/{file}", OFFICIAL_SHA256[variant])
    return Weights(f"SAM ViT-{variant[-1].upper()}", "sam", megabytes, source, settings={"sam": variant})


def _clip(text: str, repository: str, megabytes: float) -> Weights:
    source = Repository(repository, OPEN_CLIP)
    settings: dict[str, JsonValue] = {"text": text}
    return Weights(
        f"CLIP {text}, its text tower",
        "class_aware_sam",
        megabytes,
        source,
        "text_checkpoint",
        settings,
        licence="MIT",
        part="text",
    )


def _backbone(what: str, variant: str, repository: str, megabytes: float) -> Weights:
    source = Repository(repository, BACKBONE)
    return Weights(what, "mask2former", megabytes, source, "weights", {"variant": variant})


WEIGHTS: dict[str, Weights] = {
    listing.SAM: Weights("the embedded SAM", "sam", settings={"sam": "tiny"}),
    listing.TEXT: Weights(
        "the embedded text tower", "class_aware_sam", settings={"text": "tiny"}, part="text"
    ),
    listing.GROUNDER: Weights("the embedded proposer", "tiny_grounder", part="tiny_grounder"),
    listing.STUDENT: Weights("the embedded student's start", "mask2former", settings={"variant": "tiny"}),
    listing.DETECTOR: Weights(
        "the embedded detector, where BLO-Inst's begins",
        "blo_inst",
        settings={"detector": "fcos_tiny"},
        part="detector",
    ),
    "sam_vit_b": _sam("vit_b", "sam_vit_b_01ec64.pth", 375),
    "sam_vit_l": _sam("vit_l", "sam_vit_l_0b3195.pth", 1250),
    "sam_vit_h": _sam("vit_h", "sam_vit_h_4b8939.pth", 2565),
    "clip_vit_b_32": _clip("ViT-B-32", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", 605),
    "clip_vit_b_16": _clip("ViT-B-16", "laion/CLIP-ViT-B-16-laion2B-s34B-b88K", 599),
    "clip_vit_l_14": _clip("ViT-L-14", "laion/CLIP-ViT-L-14-laion2B-s32B-b82K", 1711),
    "grounding_dino_tiny": Weights(
        "Grounding DINO, Swin-T", "grounding_dino", 690, Repository("IDEA-Research/grounding-dino-tiny")
    ),
    "grounding_dino_base": Weights(
        "Grounding DINO, Swin-B", "grounding_dino", 934, Repository("IDEA-Research/grounding-dino-base")
    ),
    "fcos_resnet_50": Weights(
        "FCOS ResNet-50 of COCO, where BLO-Inst's detector begins",
        "blo_inst",
        130,
        Download(FCOS_URL, FCOS_SHA256),
        "detector_weights",
        {"detector": "fcos_r50"},
        licence="BSD-3-Clause",
        part="detector",
    ),
    "resnet_50": _backbone("R-50 backbone of Mask2Former", "r50", "microsoft/resnet-50", 103),
    "swin_tiny": _backbone(
        "Swin-T backbone of Mask2Former", "swin_t", "microsoft/swin-tiny-patch4-window7-224", 114
    ),
}
