"""What the study of AM-SAM works on: a data set as a run takes it in, shots of it, and how masks of its test score.

Images are read once, and their features made once, for all fits that a process runs.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from pipeline.data.masks import iou_matrix, tight_box, union
from pipeline.data.paths import Place
from pipeline.data.records import RLE, Box, Instance, Ontology, Record, Role
from pipeline.engine.runner import read_ontology
from pipeline.engine.status import find_results
from pipeline.engine.streams import RecordStream
from pipeline.engine.units import RecordSet
from pipeline.export import images_root
from pipeline.stages.samples import read_sample
from teachers.protocols import Sample
from teachers.sam.pixels import Window
from teachers.sam.predictor import Embeddings, Rgb, SamPredictor


@dataclass(frozen=True)
class Listed:
    """Records as a fit sees them."""

    records: Sequence[Record]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class World:
    """The classes, where the images are, and the records of both parts, each with all of its masks."""

    ontology: Ontology
    root: Place
    train: tuple[Record, ...]
    test: tuple[Record, ...]

    @classmethod
    def of(cls, run: Path, *, without: Iterable[str] = ()) -> "World":
        """What a run took in with the masks of all; `without` files of the train part."""
        (dataset,) = find_results(run, "ingest", part="dataset").values()

        def records(role: Role) -> tuple[Record, ...]:
            stream = RecordStream(RecordSet.of_folder(dataset / "records"), frozenset({role}), count=0)
            return tuple(record for record in stream if record.dropped is None)

        left_out = frozenset(without)
        masked = (*records(Role.HUMAN_MASKED), *records(Role.RESERVED))
        train = tuple(record for record in masked if record.uri not in left_out)
        return cls(read_ontology(dataset / "ontology.json"), images_root(run), train, records(Role.VAL))

    def drawn(self, count: int, seed: int) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
        """So many shots, and the rest of the train part; more shots of a seed hold the fewer ones."""
        order = np.random.default_rng([seed]).permutation(len(self.train)).tolist()
        shots, rest = sorted(order[:count]), order[count:]
        return tuple(self.train[place] for place in shots), tuple(self.train[place] for place in rest)

    def sample(self, record: Record) -> Sample:
        """The photo, with nothing known of it."""
        bare = replace(record, role=Role.WEAK, instances=(), tags=None)
        return Sample(bare, _photo(self.root, record.uri, record.sha256))


@lru_cache(maxsize=512)
def _photo(root: Place, uri: str, sha256: str) -> Rgb:
    blank = Record(0, uri, sha256, 1, 1, "train", Role.WEAK)
    return read_sample(blank, root).image


def by_class(instances: Iterable[Instance]) -> dict[int, RLE]:
    """All that is of a class as one mask."""
    found: dict[int, list[RLE]] = {}
    for instance in instances:
        if instance.class_id is not None and instance.rle is not None:
            found.setdefault(instance.class_id, []).append(instance.rle)
    return {class_id: union(masks) for class_id, masks in found.items()}


def boxes_of(instances: Iterable[Instance]) -> dict[int, Box]:
    """The tight box of each class."""
    found = {class_id: tight_box(mask) for class_id, mask in by_class(instances).items()}
    return {class_id: box for class_id, box in found.items() if box is not None}


def dice(truth: Mapping[int, RLE], found: Mapping[int, RLE]) -> float:
    """The mean over the classes that are there or were found; 1 where there is none."""
    classes = truth.keys() | found.keys()
    both = [class_id for class_id in classes if class_id in truth and class_id in found]
    overlaps = [float(iou_matrix([truth[c]], [found[c]])[0, 0]) for c in both]
    return sum(2 * iou / (1 + iou) for iou in overlaps) / len(classes) if classes else 1.0


class Remembering(SamPredictor):
    """Keeps the features of whole images, by their pixels."""

    def __init__(self, predictor: SamPredictor) -> None:
        super().__init__(predictor.sam, chunk=predictor.chunk)
        self._known: dict[str, Embeddings] = {}

    def embed(self, images: Sequence[Rgb], windows: Sequence[Window | None] | None = None) -> Embeddings:
        """As of any predictor; of windows nothing is kept."""
        if windows is not None and any(window is not None for window in windows):
            return super().embed(images, windows)
        each = [self._one(image) for image in images]
        frames = tuple(frame for one in each for frame in one.frames)
        return Embeddings(torch.cat([one.features for one in each]), frames)

    def _one(self, image: Rgb) -> Embeddings:
        key = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
        if key not in self._known:
            self._known[key] = super().embed([image])
        return self._known[key]
