"""What a small BLO-Inst is made of: a detector's weights in a file, pictures with features that tell their place."""

from collections.abc import Sequence
from pathlib import Path

import torch
from little_pictures import HEIGHT, ONTOLOGY, draw
from little_pictures import WIDTH as ACROSS
from safetensors.torch import save_file
from torch import Tensor

from pipeline.data.images import read_upright
from pipeline.data.records import Record
from students.blo_inst import BloInst
from students.blo_settings import BloInstSettings
from students.pretrain_fcos import begin
from teachers.fcos import build_fcos_tiny
from teachers.fit_detector import detector_targets, square_pixels
from teachers.pool import Loader
from teachers.protocols import Sample
from teachers.sam.pixels import Frame
from teachers.sam.predictor import Embeddings
from teachers.targets import collate

SIZE, WIDTH, GRID = 64, 32, 8  # of the small SAM
LEAST = {"pretrain_epochs": 1, "steps": 2, "batch_size": 2}
INDEX = {class_id: place for place, class_id in enumerate(ONTOLOGY.ids)}


def write_detector(path: Path, *, classes: int = 2, seed: int = 0) -> Path:
    """A tiny FCOS that has the grounder's pyramid and is new elsewhere."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        detector = begin(build_fcos_tiny(classes))
    save_file(detector.model.state_dict(), path)
    return path


def write_trained(folder: Path, *, steps: int = 40) -> Path:
    """Such a one that finds most of the first five pictures' objects, with boxes that overlap them by half.

    By one thread: with more, its bits, and in the end what it finds, would be those of the machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        detector = begin(build_fcos_tiny(2)).eval()
    whole = loader([draw(index, folder) for index in range(5)], folder)
    batch = collate([whole.example(0, 0, record) for record in whole.pool])  # type: ignore[attr-defined]
    pixels, targets = square_pixels(batch), detector_targets(batch)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    for _ in range(steps):
        raw = detector.predict(pixels)
        parts = detector.losses(raw, targets, detector.assign(raw, targets))
        optimizer.zero_grad()
        torch.stack(list(parts.values())).sum().backward()
        optimizer.step()
    torch.set_num_threads(threads)
    save_file(detector.model.state_dict(), folder / "detector.safetensors")
    return folder / "detector.safetensors"


def loader(records: Sequence[Record], folder: Path, *, batch: int = 2, **settings: object) -> Loader:
    given: dict[str, object] = {"scale": None, "seed": 0, "trust_weights": True}
    return Loader(  # type: ignore[arg-type]
        pool=list(records),
        images_root=folder,
        class_index=INDEX,
        size=SIZE,
        batch=batch,
        **{**given, **settings},
    )


def new_student(weights: Path, **settings: object) -> BloInst:
    """That begins with a detector's weights and learns for the fewest steps, unless told otherwise."""
    own = BloInstSettings.model_validate({"detector_weights": weights, **LEAST, **settings})
    return BloInst(own, ontology=ONTOLOGY, device="cpu")


def sample_of(record: Record, images: Path) -> Sample:
    return Sample(record, read_upright(images / record.uri).image)


class Places:
    """Stands for the cache of embeddings: random features of a place, with the place as the first number."""

    def gather(self, parts: Sequence[tuple[int, None]]) -> Embeddings:
        features = torch.stack([self._one(place) for place, _ in parts])
        return Embeddings(features, (Frame(HEIGHT, ACROSS, SIZE),) * len(parts))

    def _one(self, place: int) -> Tensor:
        features = torch.randn(WIDTH, GRID, GRID, generator=torch.Generator().manual_seed(place))
        features[0, 0, 0] = place
        return features


def places(features: Tensor) -> list[int]:
    """Where features of `Places` are of."""
    return [int(place) for place in features[:, 0, 0, 0]]
