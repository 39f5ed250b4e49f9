"""The fakes: answers that follow from the pixels, time that does, and images that end whoever looks at them."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.data import masks
from pipeline.data.errors import BadInput
from pipeline.data.records import Instance, Ontology, Point, Record, Role, Source
from pipeline.engine.context import TrainContext
from teachers import catalog, fake
from teachers.protocols import Sample
from teachers.settings import FakeSettings

ROOT = Path(__file__).parents[2]
POINT = Instance(Source.HUMAN, 1, points=(Point(20.5, 10.5),))
LOOK = """
import sys, threading, time
from tests.teachers.test_fake import fake, spelling, FakeSettings
def tick():
    while True:
        time.sleep(0.05); print("tick", flush=True)
threading.Thread(target=tick, daemon=True).start()
print("begun", flush=True)
fake.FakeProposer(FakeSettings(poison=True)).propose([spelling("propose " + sys.argv[1])], [[1]])
"""


def sample(seed: int = 0) -> Sample:
    image = np.random.default_rng(seed).integers(1, 256, (40, 50, 3), np.uint8)
    return Sample(Record(1, "a", "0", 50, 40, "train", Role.WEAK, instances=(POINT,)), image)


def spelling(deed: str) -> Sample:
    found = sample()
    found.image[0, :, 0] = 0
    text = f"omnimask {deed}".encode()
    found.image[0, : len(text), 0] = np.frombuffer(text, np.uint8)
    return found


def looking(deed: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", LOOK, deed]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.parametrize(("deed", "code"), [("segfault", -11), ("abort", -6), ("sing", 0)])
def test_deeds_that_end(deed: str, code: int) -> None:
    with looking(deed) as process:
        assert process.wait(60) == code


@pytest.mark.parametrize(("deed", "others_run"), [("loop", True), ("stuck", False)])
def test_deeds_that_last(deed: str, others_run: bool) -> None:
    with looking(deed) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(1.0)
        assert process.poll() is None
        process.kill()
        assert (process.stdout.read().count("tick") > 5) is others_run


def test_memory_is_eaten_until_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    eaten = []

    def count(_: float) -> None:
        eaten.append(fake.BITE)
        if len(eaten) == 5:
            raise MemoryError

    monkeypatch.setattr(fake, "time", SimpleNamespace(sleep=count))
    with pytest.raises(MemoryError):
        fake.DEEDS["memory"]()


@pytest.mark.parametrize(
    ("settings", "deed"),
    [
        (FakeSettings(), "label segfault"),
        (FakeSettings(poison=True), "propose segfault"),
        (FakeSettings(poison=True), "label sing"),
        (FakeSettings(poison=True), "label segfaults"),
    ],
)
def test_not_addressed(settings: FakeSettings, deed: str) -> None:
    (found,) = fake.FakeTeacher(settings).label([spelling(deed)])
    assert len(found) == 1


def test_time_follows_from_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(fake, "time", SimpleNamespace(sleep=slept.append))  # not of other threads
    teacher = fake.FakeTeacher(FakeSettings(delay=0.1))
    batch = [sample(seed) for seed in range(200)]
    teacher.label(batch)
    teacher.label(batch)
    assert slept[:200] == slept[200:]
    assert sum(slept[:200]) == pytest.approx(200 * 0.1, rel=0.1)
    assert 0.05 <= min(slept) < max(slept) <= 0.15
    slept.clear()
    teacher.label([Sample(batch[0].record, np.zeros_like(batch[0].image))])
    assert slept == []


def test_masks_lie_at_their_points() -> None:
    for seed in range(20):
        ((found,),) = fake.FakeTeacher(FakeSettings()).label([sample(seed)])
        assert found.rle is not None
        assert masks.decode(found.rle)[10, 20]
        assert found.points == POINT.points


def test_nothing_to_tune(tmp_path: Path) -> None:
    context = TrainContext(
        "cpu", Ontology(()), tmp_path, {}, 0, tmp_path, tmp_path, lambda *_: None, lambda: False
    )
    with pytest.raises(BadInput, match="has nothing to tune"):
        fake.FakeTeacher(FakeSettings()).fit([], context)  # type: ignore[arg-type]


def test_the_way_to_them_imports_no_torch() -> None:
    heavy = ("torch", "transformers", "scipy")
    code = "import sys, teachers.fake, pipeline.engine.worker, pipeline.stages.propose, pipeline.stages.pseudo_label"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; sys.exit(any(name in sys.modules for name in {heavy}))"],
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0


def test_the_catalog_gives_them_their_settings() -> None:
    spec = catalog.ModelSpec(name="f", use="fake_proposer", settings={"delay": -1})
    with pytest.raises(BadInput, match=r"models\.f\.delay"):
        catalog.load_proposer(spec, ontology=Ontology(()), device="cpu")
    assert catalog.identity(spec.model_copy(update={"settings": {"delay": 1}})) == {}
