"""What a BLO-Inst student leaves, with a SAM of 64 px: what its folder holds, what it answers, which are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from little_pictures import HEIGHT, ONTOLOGY, WIDTH, MakeContext, draw
from official import sha256
from safetensors.torch import load_file, save_file
from small_blo import new_student, sample_of
from small_models import build_small_sam
from torch import Tensor

from pipeline.data.errors import BadInput
from pipeline.data.masks import area, iou_matrix
from pipeline.data.records import Category, Ontology
from pipeline.engine.artifact import write_manifest
from students import blo_inst, catalog
from students.blo_artifact import SAM_FILE, WEIGHTS
from students.blo_inst import open_artifact
from students.blo_settings import BloInstSettings
from students.pretrain_scenes import NAMES
from teachers.catalog import ModelSpec
from teachers.fcos import build_fcos_tiny
from teachers.fitted_detector import FACTS, read_facts
from teachers.protocols import Sample
from teachers.tiny.weights import WeightFacts, save_weights

pytestmark = pytest.mark.usefixtures("small_sam")


def test_a_new_student_predicts_nothing(images: Path, trained: Path) -> None:
    with pytest.raises(RuntimeError, match="fit it or load"):
        new_student(trained).predict([sample_of(draw(1, images), images)])


@pytest.fixture
def artifact(images: Path, make_context: MakeContext, trained: Path) -> Path:
    context = make_context("run")
    new_student(trained, steps=1).fit([draw(index, images) for index in range(2)], context)
    return context.out


def boxed(_: object, __: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Stands for SAM's answers: the box itself, on 32 x 32 of its 64 x 64 pixels."""
    middle = 2.0 * torch.arange(32) + 1
    x0, y0, x1, y1 = (boxes[:, edge, None] for edge in range(4))
    across, down = (middle > x0) & (middle < x1), (middle > y0) & (middle < y1)
    return (down[:, :, None] & across[:, None, :]).float() * 8 - 4, torch.ones(len(boxes))


def test_masks_lie_where_the_boxes_are(images: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("students.blo_objective.AlignedSam.forward", boxed)
    records = [draw(index, images) for index in range(5)]
    found = open_artifact(artifact, device="cpu").predict([sample_of(record, images) for record in records])
    overlaps = []
    for record, instances in zip(records, found, strict=True):
        disc = record.instances[0]
        best = next(instance for instance in instances if instance.class_id == disc.class_id)
        assert best.rle is not None
        assert disc.rle is not None
        overlaps.append(float(iou_matrix([best.rle], [disc.rle])[0, 0]))
    assert np.mean(overlaps) > 0.45


@pytest.mark.parametrize("shape", [(64, 64), (100, 333), (400, 90), (1, 50), (37, 1)])
def test_masks_have_the_images_own_size(images: Path, artifact: Path, shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    (found,) = open_artifact(artifact, device="cpu").predict([Sample(draw(0, images), pixels)])
    assert all(instance.rle is not None and instance.rle.size == shape for instance in found)
    assert all(area(instance.rle) > 0 for instance in found if instance.rle is not None)


def test_where_nothing_is_found_there_are_no_instances(
    images: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("students.blo_predict.FOUND_CONFIDENCE", 1.0)
    opened = open_artifact(artifact, device="cpu")
    assert opened.predict([sample_of(draw(0, images), images)] * 2) == [[], []]


def test_a_dark_image_is_no_trouble(images: Path, artifact: Path) -> None:
    black = Sample(draw(0, images), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (found,) = open_artifact(artifact, device="cpu").predict([black])
    assert all(0 <= (instance.score or 0.0) <= 1 for instance in found)


def test_an_artifact_tells_what_it_is_and_needs_no_detectors_file(
    images: Path, make_context: MakeContext, tmp_path: Path, trained: Path
) -> None:
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(trained.read_bytes())
    context = make_context("run")
    new_student(weights, steps=1, order="second", rank=2).fit(
        [draw(index, images) for index in range(2)], context
    )
    weights.unlink()
    card = json.loads((context.out / "student.json").read_text())
    assert card["use"] == "blo_inst"
    assert card["settings"]["order"] == "second"
    assert not card["settings"].keys() & BloInstSettings.not_in_key  # equal trainings, equal bytes
    opened = open_artifact(context.out, device="cpu")
    assert opened.ontology == ONTOLOGY
    assert opened.settings.rank == 2
    opened.predict([sample_of(draw(0, images), images)])


def test_an_artifact_holds_the_detector_and_of_sam_what_was_trained(artifact: Path) -> None:
    state = load_file(artifact / WEIGHTS)
    assert {name.split(".")[0] for name in state} == {"detector", "sam"}
    of_sam = {name for name in state if name.startswith("sam.")}
    assert not any("image_encoder" in name or ".base." in name for name in of_sam)


def test_the_detector_is_small_enough_for_the_package(tmp_path: Path) -> None:
    """As it would be embedded, of as many classes as both worlds of drawings have: within 2 MB."""
    facts = WeightFacts("made by a test", 0, 0, 0.0, {}, {})
    file = save_weights("detector", build_fcos_tiny(NAMES).model.state_dict(), facts, tmp_path)
    assert file.stat().st_size < 2_000_000


def rewritten(artifact: Path, change: dict[str, object]) -> None:
    card = json.loads((artifact / "student.json").read_text())
    card["settings"] |= change
    (artifact / "student.json").write_text(json.dumps(card))


def of_another_sam(artifact: Path) -> None:
    facts = read_facts(artifact).model_copy(update={"sam_sha256": "0" * 64})
    save_file(load_file(artifact / WEIGHTS), artifact / WEIGHTS, {FACTS: facts.model_dump_json()})


@pytest.fixture
def elsewhere(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SAM's file, which is not the embedded one; the manifest beside the artifact's files says where it was."""
    there = tmp_path / "sams" / "my_vit_b.pth"
    there.parent.mkdir()
    there.write_bytes(b"SAM")
    rewritten(artifact, {"sam": "vit_b"})
    facts = read_facts(artifact).model_copy(update={"sam_sha256": sha256(there)})
    save_file(load_file(artifact / WEIGHTS), artifact / WEIGHTS, {FACTS: facts.model_dump_json()})
    write_manifest(
        artifact, "key", stage="train_student", metrics={SAM_FILE: str(there)}, seconds=1.0, about={}
    )
    monkeypatch.chdir(tmp_path)
    return there


@pytest.mark.parametrize(
    "place", ["sams/my_vit_b.pth", "run/out/sam.pth", "weights/sam_vit_b.pth", "run/out/sam.safetensors"]
)
def test_sams_file_is_found_by_its_bytes(
    elsewhere: Path, artifact: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was, beside the student under any name, or where `fetch` puts such; another file there is passed by."""
    asked = []
    monkeypatch.setattr(blo_inst, "load_sam", lambda *given, **_: asked.append(given[1]) or build_small_sam())
    (artifact / "other.pth").write_bytes(b"another SAM")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    elsewhere.rename(tmp_path / place)
    open_artifact(artifact, device="cpu")
    assert [path.resolve() for path in asked] == [tmp_path / place]


def test_sams_file_is_nowhere(elsewhere: Path, artifact: Path) -> None:
    digest = sha256(elsewhere)
    elsewhere.unlink()
    with pytest.raises(BadInput) as told:
        open_artifact(artifact, device="cpu")
    assert str(told.value).startswith(
        f"{artifact}: trained with a SAM of sha256 {digest}, found no file of it"
    )
    assert str(elsewhere) in str(told.value)
    assert str(told.value).count(str(artifact)) == 1


def test_where_sams_file_is_stands_beside_the_artifacts_bytes(
    images: Path, make_context: MakeContext, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two equal trainings, whose SAM lies in two places under two names."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(f"{name}.safetensors").write_bytes(b"SAM")
        given = {"steps": 1, "sam": "vit_b", "checkpoint": f"{name}.safetensors"}
        metrics = new_student(trained, **given).fit(
            [draw(index, images) for index in range(2)], make_context(name)
        )
        assert metrics[SAM_FILE] == str(tmp_path / f"{name}.safetensors")
    first, second = (make_context(name).out for name in ("a", "b"))
    for name in (WEIGHTS, "student.json", "loss.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "student.json").unlink(), "expected a student's card"),
        (lambda folder: (folder / WEIGHTS).unlink(), "found no model.safetensors in it"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"x"), "not readable as safetensors"),
        (
            lambda folder: save_file({"x": torch.zeros(1)}, folder / WEIGHTS),
            "expected a detector that blo_inst fitted, found other weights",
        ),
        (of_another_sam, f"trained with a SAM of sha256 {'0' * 64}, found"),
        (lambda folder: rewritten(folder, {"rank": 7}), "weights do not fit the settings"),
        (lambda folder: rewritten(folder, {"detector": "fcos_r50"}), "weights do not fit the settings"),
        (lambda folder: rewritten(folder, {"order": "third"}), "order"),
        (lambda folder: rewritten(folder, {"size": 3}), "size"),
    ],
    ids=[
        "no card",
        "no weights",
        "garbage",
        "other weights",
        "another SAM",
        "rank",
        "detector",
        "order",
        "unknown setting",
    ],
)
def test_broken_artifacts_are_refused(artifact: Path, damage: object, message: str) -> None:
    assert callable(damage)
    damage(artifact)
    with pytest.raises(BadInput, match=message) as told:
        open_artifact(artifact, device="cpu")
    assert str(told.value).count(str(artifact)) == 1  # said once, by who knows it


def test_an_artifact_of_other_classes_is_refused(artifact: Path) -> None:
    other = Ontology((Category(3, "disc"), Category(8, "bar")))
    spec = ModelSpec(name="s", use="blo_inst")
    assert catalog.load(spec, ontology=ONTOLOGY, device="cpu", artifact=artifact)
    with pytest.raises(BadInput, match=r"knows the classes \[3 disc, 7 bar\]"):
        catalog.load(spec, ontology=other, device="cpu", artifact=artifact)


def test_the_embedded_detector_opens() -> None:
    assert catalog.identity(ModelSpec(name="s", use="blo_inst")).keys() == {"sam", "detector_weights"}
    catalog.inspect(ModelSpec(name="s", use="blo_inst"))
