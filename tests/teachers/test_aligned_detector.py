"""The detector of a fitted BLO-Inst student as a proposer: its boxes in the image, of the asked classes alone."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fitted import fitted_detector
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.config import Request, load_plan
from pipeline.data.errors import BadInput
from pipeline.data.records import Category, Instance, Ontology, Point, Record, Role, Source, WeakKind
from pipeline.engine.faults import BadPlan
from teachers import catalog
from teachers.aligned_detector import AlignedDetector
from teachers.catalog import ModelSpec
from teachers.detector import Raw
from teachers.fitted_detector import FACTS, WEIGHTS, DetectorFacts, open_detector
from teachers.protocols import Sample

SIDE = 64
TRAINED = (Category(1, "car"), Category(4, "Traffic_Light"), Category(9, "wheel"))
FACTS_OF = DetectorFacts(detector="fcos_tiny", side=SIDE, categories=TRAINED, sam_sha256="0" * 64)
HERE = Ontology((Category(5, "wheel"), Category(6, "traffic light"), Category(7, "car"), Category(8, "dog")))


class Stub:
    """Says fixed boxes of the square with fixed logits for its classes, and keeps what it was shown."""

    def __init__(self, boxes: Sequence[Sequence[float]], logits: Sequence[Sequence[float]]) -> None:
        self.boxes, self.logits = torch.tensor([boxes]), torch.tensor([logits])
        self.shown: list[Tensor] = []

    def predict(self, pixels: Tensor) -> Raw:
        self.shown.append(pixels)
        count = self.boxes.shape[1]
        return Raw(self.boxes, self.logits, None, torch.zeros(count, 2), torch.ones(count), SIDE)


def sample(height: int = 32, width: int = 128, instances: tuple[Instance, ...] = ()) -> Sample:
    record = Record(1, "1.png", "0" * 64, width, height, "train", Role.WEAK, instances=instances)
    return Sample(record, np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def proposer(stub: Stub) -> AlignedDetector:
    return AlignedDetector(stub, FACTS_OF, ontology=HERE, device="cpu")  # type: ignore[arg-type]


def test_boxes_are_those_of_the_image() -> None:
    """128 x 32 pixels are seen as 64 x 16 at the square's top left; what lies below is padding."""
    stub = Stub(
        [[10, 4, 30, 12], [-5, -5, 20, 8], [40, 2, 90, 60], [5, 20, 30, 40]],
        [[3, -9, -9], [2, -9, -9], [1, -9, -9], [4, -9, -9]],
    )
    (found,) = proposer(stub).propose([sample()], [[7]])
    assert [prompt.box_xyxy for prompt in found] == [(20, 8, 60, 24), (0, 0, 40, 16), (80, 4, 128, 32)]
    assert [prompt.score for prompt in found] == pytest.approx(torch.tensor([3.0, 2, 1]).sigmoid().tolist())
    (pixels,) = stub.shown
    assert (tuple(pixels.shape), pixels.dtype) == ((1, 3, SIDE, SIDE), torch.float32)
    assert (pixels[..., 16:, :] == 128).all()
    assert pixels[..., :16, :].std() > 10


def test_sides_are_scaled_each_by_itself() -> None:
    """100 x 33 pixels are seen as 64 x 21, which is not quite as wide as it was."""
    (found,) = proposer(Stub([[8, 4, 32, 10.5]], [[3, -9, -9]])).propose([sample(33, 100)], [[7]])
    assert found[0].box_xyxy == pytest.approx((12.5, 4 * 33 / 21, 50, 16.5))


def test_of_a_place_the_best_of_the_asked_classes_counts() -> None:
    """The same three boxes, asked for as three things: by names, not by numbers."""
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]
    stub = Stub(boxes, [[5, 1, -20], [0, 4, -20], [-20, 2, 3]])
    asked = [([7], {7: 2}), ([6], {6: 3}), ([5, 7], {5: 1, 7: 2}), ([5, 6, 7], {5: 1, 6: 1, 7: 1})]
    for ids, counts in asked:
        (found,) = proposer(stub).propose([sample(64, 64)], [ids])
        assert {i: sum(p.class_id == i for p in found) for i in ids} == counts
        scores = [p.score or 0 for p in found]
        assert scores == sorted(scores, reverse=True)


def test_overlapping_boxes_of_one_class_are_one() -> None:
    stub = Stub([[0, 0, 20, 10], [1, 0, 20, 10]], [[5, -20, 3], [4, -20, -20]])
    (cars,) = proposer(stub).propose([sample(64, 64)], [[7]])
    assert [prompt.score for prompt in cars] == [pytest.approx(float(torch.tensor(5.0).sigmoid()))]


def test_classes_of_one_name_are_one_to_who_asks() -> None:
    facts = DetectorFacts(
        detector="fcos_tiny",
        side=SIDE,
        categories=(Category(1, "car"), Category(2, "Car")),
        sam_sha256="0" * 64,
    )
    stub = Stub([[0, 0, 10, 10], [20, 0, 30, 10]], [[5, -20], [-20, 5]])
    mine = AlignedDetector(stub, facts, ontology=HERE, device="cpu")  # type: ignore[arg-type]
    (found,) = mine.propose([sample(64, 64)], [[7]])
    assert [prompt.class_id for prompt in found] == [7, 7]


def test_a_class_it_was_not_trained_on() -> None:
    stub = Stub([[0, 0, 10, 10]], [[5, 1, 1]])
    with pytest.raises(
        BadInput, match=r"'dog' should be found in it, but the detector knows 'car', 'traffic light', "
    ):
        proposer(stub).propose([sample()], [[7, 8]])
    # A label says where the dog is: nothing is missed, and the car is looked for.
    dog = Instance(Source.HUMAN, 8, points=(Point(3, 3),), weak_kind=WeakKind.POINT)
    (found,) = proposer(stub).propose([sample(instances=(dog,))], [[7, 8]])
    assert {prompt.class_id for prompt in found} == {7}
    assert proposer(stub).propose([sample(instances=(dog,))], [[8]]) == [[]]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return fitted_detector(tmp_path / "artifact", TRAINED)


def spec(artifact: Path) -> ModelSpec:
    return ModelSpec(name="p", use="aligned_detector", settings={"artifact": str(artifact)})


def test_a_fitted_detector_is_that_of_its_artifact(artifact: Path) -> None:
    detector, facts = open_detector(artifact)
    assert (facts.detector, facts.side, facts.categories) == ("fcos_tiny", 256, TRAINED)
    saved = load_file(artifact / WEIGHTS)
    for name, value in detector.state_dict().items():
        assert torch.equal(value, saved[f"detector.{name}"])
    assert not any(p.requires_grad for p in detector.parameters())
    assert not detector.training


def test_the_catalog_keys_it_by_content(artifact: Path, tmp_path: Path) -> None:
    same, other = (
        fitted_detector(tmp_path / "same", TRAINED),
        fitted_detector(tmp_path / "b", TRAINED, seed=1),
    )
    assert catalog.identity(spec(artifact)) == catalog.identity(spec(same)) != catalog.identity(spec(other))
    catalog.inspect(spec(artifact))
    known = catalog.knows(spec(artifact))
    assert known is not None
    assert known.names == {"car", "traffic light", "wheel"}


def write(artifact: Path, facts: object = None, **change: Tensor | None) -> None:
    """The same file with other facts (None: without any) and other tensors (None: without)."""
    state = load_file(artifact / WEIGHTS)
    for name in change:
        state.pop(f"detector.model.{name}", None)
    state |= {f"detector.model.{n}": value for n, value in change.items() if value is not None}
    told = {} if facts is None else {FACTS: facts if isinstance(facts, str) else json.dumps(facts)}
    save_file(state, artifact / WEIGHTS, told)


SOUND = json.loads(FACTS_OF.model_dump_json())
BIAS = "head.classification_head.cls_logits.bias"
WRONG: list[tuple[Callable[[Path], object], str]] = [
    (
        lambda a: (a / WEIGHTS).unlink(),
        r": expected the folder of a blo_inst student, found no model.safetensors",
    ),
    (lambda a: (a / WEIGHTS).write_bytes(b"x"), "/model.safetensors: not readable as safetensors"),
    (write, "/model.safetensors: expected a detector that blo_inst fitted, found other weights"),
    (lambda a: write(a, "{"), "what it says of its detector is wrong: Invalid JSON"),
    (lambda a: write(a, {**SOUND, "side": 0}), "is wrong: Input should be greater than or equal to 1"),
    (lambda a: write(a, {**SOUND, "categories": []}), "is wrong: Tuple should have at least 1 item"),
    (lambda a: write(a, {**SOUND, "detector": "fcos"}), "is wrong: no detector 'fcos'; nearest: fcos_"),
    (lambda a: write(a, {**SOUND, "detector": "fcos_r50"}), "missing, or not as a fcos_r50 has it"),
    (lambda a: write(a, SOUND, **{BIAS: None}), f"model.{BIAS}: missing, or not as a fcos_tiny"),
    (lambda a: write(a, SOUND, **{BIAS: torch.ones(1)}), f"{BIAS}: missing, or not as a fcos_tiny has it"),
    (lambda a: write(a, SOUND, more=torch.ones(1)), "model.more: missing, or not as a fcos_tiny has it"),
]


@pytest.mark.parametrize(("damage", "message"), WRONG)
def test_what_is_no_fitted_detector(artifact: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(artifact)
    with pytest.raises(BadInput, match=rf"artifact {artifact}.*{message}"):
        catalog.inspect(spec(artifact))
    assert catalog.knows(spec(artifact / "nothing")) is None


def problems(tmp_path: Path, artifact: Path, classes: Sequence[str]) -> list[str]:
    (tmp_path / "photos").mkdir(exist_ok=True)
    (tmp_path / "photos" / "1.png").touch()
    named = {name: number for number, name in enumerate(classes, 1)}
    config = {
        "name": "c",
        "data": {"source": "folder", "images": str(tmp_path / "photos"), "classes": named},
        "weak": "none",
        "masks": "0%",
        "models": {
            "finder": {"use": "aligned_detector", "artifact": str(artifact)},
            "sam": {"use": "sam", "sam": "tiny"},
        },
        "stages": [{"propose": {"model": "finder"}}, {"pseudo_label": {"model": "sam"}}, {"export": {}}],
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    try:
        load_plan(Request(tmp_path / "c.yaml", device="cpu"))
    except BadPlan as bad:
        return list(bad.problems)
    return []


def test_check_tells_before_any_work(artifact: Path, tmp_path: Path) -> None:
    assert problems(tmp_path, artifact, ["car", "wheel"]) == []
    assert problems(tmp_path, artifact, ["car", "dog"]) == [
        "propose.model: with weak: none, 'dog' should be found by 'finder', but the detector knows 'car', "
        "'Traffic_Light', 'wheel' only; use grounding_dino, or label points or boxes"
    ]
    many = fitted_detector(tmp_path / "many", [Category(i, f"c{i}") for i in range(1, 6)])
    (line,) = problems(tmp_path, many, ["dog"])
    assert "but the detector knows 'c1', 'c2', 'c3' and 2 more only" in line
    nowhere = tmp_path / "nowhere"
    assert problems(tmp_path, nowhere, ["dog"]) == [
        f"models.finder.artifact {nowhere}: expected the folder of a blo_inst student, found no {WEIGHTS} in it"
    ]


def test_looking_at_its_facts_imports_no_torch(artifact: Path) -> None:
    code = f"""
import sys
from teachers.catalog import ModelSpec, identity, knows
spec = ModelSpec(name="p", use="aligned_detector", settings={{"artifact": {str(artifact)!r}}})
assert identity(spec) and knows(spec)
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
