"""The table of detectors, and their first weights: which files are taken, from whom, and into what they go."""

import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from official import blank_pickle, randomise, sha256
from official_fcos import COCO_CLASSES, official_fcos
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models.detection import fcos_resnet50_fpn
from torchvision.models.detection.image_list import ImageList

from pipeline.data.errors import BadInput
from students.catalog import identity
from teachers import detectors, yolo_package
from teachers.catalog import ModelSpec
from teachers.detector_weights import fill, new_detector
from teachers.detectors import DETECTORS, FCOS_SHA256, FCOS_URL, first_weights

ROOT = Path(__file__).parents[2]
HEAD = "head.classification_head.cls_logits."


def tiny_state(classes: int = 3, seed: int = 0) -> dict[str, Tensor]:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return DETECTORS["fcos_tiny"].build(classes, focal=True).model.state_dict()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Torchvision's own network with random weights, statistics and all, as torch.save leaves it."""
    path = tmp_path / "fcos_resnet50_fpn_coco.pth"
    torch.save(official_fcos().state_dict(), path)
    return path


def test_every_row_says_what_it_is() -> None:
    assert set(DETECTORS) == {"fcos_tiny", "fcos_r50"} | {
        f"{family}{size}" for family in ("yolov8", "yolo11", "yolo26") for size in "nsmlx"
    }
    for name, entry in DETECTORS.items():
        yolo = name.startswith("yolo")
        assert (entry.licence == "AGPL-3.0", entry.extra == "yolo", entry.focal) == (yolo, yolo, not yolo)
        assert entry.sha256 is None or len(bytes.fromhex(entry.sha256)) == 32
    assert len({e.sha256 for e in DETECTORS.values()}) == len(DETECTORS)
    # torch.hub's convention: a file's name ends with the first digits of its digest.
    assert FCOS_URL.endswith(f"-{FCOS_SHA256[:8]}.pth")


def test_the_package_of_another_licence_is_an_extra_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = {
        "dependencies": project["project"]["dependencies"],
        **project["project"]["optional-dependencies"],
        **project["dependency-groups"],
    }
    assert [name for name, wanted in groups.items() if "ultralytics" in " ".join(wanted)] == ["yolo"]
    assert "ultralytics" not in (ROOT / "requirements.lock").read_text()
    for name in ("README.md", "docs/models.md"):
        text = (ROOT / name).read_text()
        assert yolo_package.INSTALL in text
        assert "AGPL-3.0" in text


def test_the_table_imports_no_torch() -> None:
    code = "import sys, teachers.detectors, students.blo_settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_published_fcos_answers_as_torchvisions(published: Path) -> None:
    """Logits, centre-nesses and boxes of all locations; and what torchvision finds in the end is among them."""
    official = official_fcos()
    official.transform.min_size, official.transform.max_size, official.score_thresh = (128,), 128, 0.0
    ours = new_detector("fcos_r50", COCO_CLASSES, focal=True, weights=published, sha256=sha256(published))
    pixels = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1)) * 255
    with torch.inference_mode():
        normed = official.transform.normalize(pixels[0] / 255)[None]
        features = list(official.backbone(normed).values())
        expected = official.head(features)
        (anchors,) = official.anchor_generator(ImageList(normed, [(128, 128)]), features)
        boxes = official.box_coder.decode(expected["bbox_regression"], anchors)
        (found,) = official([pixels[0] / 255])
        raw = ours.eval().predict(pixels)
    assert raw.object_logits is not None
    torch.testing.assert_close(raw.class_logits, expected["cls_logits"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(raw.object_logits, expected["bbox_ctrness"][..., 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(raw.boxes, boxes, rtol=1e-4, atol=1e-2)
    scores = (raw.class_logits.sigmoid().amax(-1) * raw.object_logits.sigmoid()).sqrt()
    torch.testing.assert_close(found["scores"].max(), scores.max())
    apart = (found["boxes"][:, None] - raw.boxes[0].clamp(0, 128)).abs().amax(-1).amin(1)
    assert apart.max() < 1e-2
    assert raw.strides.unique().tolist() == [8, 16, 32, 64, 128]


def test_the_classes_of_a_file_need_not_be_ours(published: Path) -> None:
    """Their layer stays as it was made; all else is the file's."""
    made = []
    for weights in (None, published):
        torch.manual_seed(5)
        digest = None if weights is None else sha256(weights)
        made.append(
            new_detector("fcos_r50", 2, focal=True, weights=weights, sha256=digest).model.state_dict()
        )
    bare, ours = made
    given = torch.load(published, weights_only=True)
    for name, value in ours.items():
        assert torch.equal(value, (bare if name.startswith(HEAD) else given)[name]), name


def test_norms_that_counted_images_are_taken_too(tmp_path: Path) -> None:
    """A network that was trained by torchvision's own scripts has `num_batches_tracked` besides."""
    path = tmp_path / "own.pth"
    trained = randomise(fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)).state_dict()
    assert any("num_batches_tracked" in name for name in trained)
    torch.save(trained, path)
    ours = new_detector("fcos_r50", 2, focal=True, weights=path, sha256=sha256(path)).model.state_dict()
    assert all(torch.equal(ours[name], trained[name]) for name in ours)


class Hostile:
    """What a pickle does that is not read safely."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return (pytest.fail, ("the pickle ran",))


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != name}


TINY_FIRST = next(iter(tiny_state()))
WRONG: list[tuple[str, Callable[[Path], object], str]] = [
    ("a.pth", lambda p: torch.save({"x": Hostile()}, p), "not readable as weights: Weights only load failed"),
    ("a.pth", lambda p: torch.save([1, 2], p), "expected tensors by name, found list"),
    ("a.pth", lambda p: torch.save({"model": tiny_state()}, p), "expected tensors by name, found dict"),
    ("a.pth", lambda p: torch.save({"a": torch.ones(2)}, p), rf"{TINY_FIRST} and \d+ more missing or of an"),
    ("a.pth", lambda p: p.write_bytes(b"PK\x03\x04 and no more"), "not readable as weights"),
    ("a.pth", lambda p: p.write_bytes(b""), "not readable as weights"),
    ("a.safetensors", lambda p: p.write_bytes(b"no header"), "not readable as weights"),
    ("a.safetensors", lambda p: save_file(without(tiny_state(), TINY_FIRST), p), f"{TINY_FIRST} missing"),
    (
        "a.safetensors",
        lambda p: save_file({**tiny_state(), TINY_FIRST: torch.ones(1)}, p),
        f"{TINY_FIRST} missing or of another shape",
    ),
    ("a.bin", lambda p: torch.save(tiny_state(), p), "expected a .safetensors or .pth file"),
    ("a.pt", lambda p: torch.save(tiny_state(), p), "expected a .safetensors or .pth file"),
    ("a.pth", lambda _: None, "no such file"),
]


@pytest.mark.parametrize(("file", "make", "message"), WRONG)
def test_wrong_files(tmp_path: Path, file: str, make: Callable[[Path], object], message: str) -> None:
    path = tmp_path / file
    make(path)
    digest = sha256(path) if path.exists() else None
    with pytest.raises(BadInput, match=rf"detector_weights {path}: {message}"):
        new_detector("fcos_tiny", 3, focal=True, weights=path, sha256=digest)


def test_a_pickle_is_read_with_a_known_digest_only(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(weights: Path, sha256: str | None = None) -> str | None:
        return first_weights("fcos_r50", weights, sha256)

    digest = sha256(published)
    with pytest.raises(BadInput, match=rf"its sha256 is {digest}, expected {FCOS_SHA256}"):
        asked(published)
    with pytest.raises(BadInput, match=rf"its sha256 is {digest}, expected {FCOS_SHA256}"):
        new_detector("fcos_r50", 2, focal=True, weights=published)
    assert asked(published, digest.upper()) == digest
    monkeypatch.setitem(DETECTORS, "fcos_r50", replace(DETECTORS["fcos_r50"], sha256=digest))  # type: ignore[arg-type]
    assert asked(published) == digest
    # A pickle of a detector without a published one, and safetensors.
    torch.save(tiny_state(), tmp_path / "a.pth")
    with pytest.raises(BadInput, match="a pickle is read with a known sha256 only"):
        first_weights("fcos_tiny", tmp_path / "a.pth", None)
    save_file(tiny_state(), tmp_path / "a.safetensors")
    assert first_weights("fcos_tiny", tmp_path / "a.safetensors", None) == sha256(tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match="expected 0000"):
        first_weights("fcos_tiny", tmp_path / "a.safetensors", "0" * 64)


def test_only_a_detector_that_can_begins_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """The norms of `fcos_r50` are frozen: random ones would stay random."""
    entry = replace(DETECTORS["fcos_tiny"], embedded=None)
    monkeypatch.setitem(DETECTORS, "fcos_tiny", entry)  # type: ignore[arg-type]
    assert first_weights("fcos_tiny", None, None) is None
    with pytest.raises(BadInput, match="detector_weights: fcos_r50 cannot begin with random weights"):
        first_weights("fcos_r50", None, None)


def test_weights_of_other_places_stay_out() -> None:
    """What is in a file besides the network's own is no harm."""
    detector = DETECTORS["fcos_tiny"].build(3, focal=True)
    fill(detector, {**tiny_state(seed=1), "more": torch.ones(1)}, "a file")
    assert all(
        torch.equal(value, tiny_state(seed=1)[key]) for key, value in detector.model.state_dict().items()
    )


@pytest.mark.skipif(find_spec("ultralytics") is not None, reason="ultralytics is installed")
def test_a_missing_package_is_told_with_what_to_install(tmp_path: Path) -> None:
    blank_pickle(tmp_path / "yolo11n.pt", {})
    for ask in (
        lambda: first_weights("yolo11n", tmp_path / "yolo11n.pt", None),
        lambda: new_detector("yolo11n", 2, focal=False),
        lambda: identity(ModelSpec(name="s", use="blo_inst", settings={"detector": "yolo11n"})),
    ):
        with pytest.raises(BadInput, match=r"detector: yolo11n needs the package ultralytics .*'\.\[yolo\]'"):
            ask()


def test_other_detectors_ask_for_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(wanted_by: str) -> None:
        raise AssertionError(wanted_by)

    monkeypatch.setattr(yolo_package, "require", fail)
    detectors.require("fcos_r50")
    with pytest.raises(AssertionError, match="detector: yolov8x"):
        detectors.require("yolov8x")
