"""A folder for little pictures, a context to train on them, and what a small BLO-Inst begins with."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from little_pictures import ONTOLOGY, MakeContext, draw
from small_bench import MakeBench, new_bench
from small_blo import write_trained
from small_models import build_small_sam

from pipeline.engine.stage import TrainContext
from students import blo_inst
from students.blo_bench import Bench


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


@pytest.fixture
def make_context(tmp_path: Path, images: Path) -> MakeContext:
    """`make_context(name, stop_after=n)`: a context with folders of its own that asks to stop after n steps."""

    def make(name: str, *, stop_after: int | None = None, seed: int = 0) -> TrainContext:
        done: list[int] = []
        for folder in ("work", "out"):
            (tmp_path / name / folder).mkdir(parents=True, exist_ok=True)
        return TrainContext(
            device="cpu",
            ontology=ONTOLOGY,
            images_root=images,
            artifacts={},
            seed=seed,
            workdir=tmp_path / name / "work",
            out=tmp_path / name / "out",
            progress=lambda step, _total, note: done.append(step) if note.startswith("loss") else None,
            should_stop=lambda: len(done) == stop_after,
        )

    return make


@pytest.fixture
def small_sam(monkeypatch: pytest.MonkeyPatch) -> None:
    """BLO-Inst's SAM is one of 64 px."""
    monkeypatch.setattr(blo_inst, "load_sam", lambda *_, **__: build_small_sam())


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that finds most objects of the first pictures."""
    return write_trained(tmp_path_factory.mktemp("detector"))


@pytest.fixture
def make_bench(images: Path, trained: Path) -> MakeBench:
    """`make_bench(order=..., empty=(1,))`: five pictures, some without objects."""
    pictures = [draw(index, images) for index in range(5)]

    def make(*, empty: tuple[int, ...] = (), **settings: object) -> Bench:
        pool = [replace(p, instances=()) if i in empty else p for i, p in enumerate(pictures)]
        return new_bench(pool, images, trained, settings)

    return make
