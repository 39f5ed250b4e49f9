"""From 1x1 to 8000x2: such photos go through every stage and every model, none is lost."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from odd_files import encoded
from PIL import Image
from typer.testing import CliRunner, Result

from pipeline.cli import app
from pipeline.data.masks import decode, encode
from pipeline.data.records import RLE
from pipeline.report.layers import MAX_SIDE, Shape, Window, colours, paint

SIZES = ((1, 1), (3, 3), (1, 8000), (8000, 1), (2, 8000), (8000, 2))  # height, width
NAMES = {f"{h}x{w}.png": (h, w) for h, w in SIZES}
CATEGORIES = [{"id": 1, "name": "car"}, {"id": 2, "name": "wheel"}]
MODELS = {
    "teacher": {
        "use": "class_aware_sam",
        "sam": "tiny",
        "text": "tiny",
        "batch_size": 2,
        "points": 256,
        "score": 0,
        "tau": 0,
    },
    "proposer": {"use": "tiny_grounder"},
    "student": {"use": "mask2former", "variant": "tiny"},
}
LABELLING = (
    {"propose": {"model": "proposer", "score": 0}},
    {"pseudo_label": {"model": "teacher"}},
    {"filter": {}},
    {"export": {}},
)
ALL_STAGES = (
    {"finetune_teacher": {"model": "teacher", "steps": 2}},
    {"gate": {"model": "teacher"}},
    *LABELLING,
    {"train_student": {"model": "student", "steps": 2}},
    {"evaluate": {}},
    {"cost": {}},
    {"report": {}},
)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """A function that runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMNIMASK_DATA", raising=False)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A photo of noise of each size in `photos`, and `train.json`: a mask over most of each."""
    dice = np.random.default_rng(1)
    (tmp_path / "photos").mkdir()
    images, annotations = [], []
    for number, (name, size) in enumerate(NAMES.items(), start=1):
        noise = Image.fromarray(dice.integers(0, 256, (*size, 3), dtype=np.uint8))
        (tmp_path / "photos" / name).write_bytes(encoded(noise, "PNG"))
        mask = np.zeros(size, bool)
        mask[size[0] // 4 :, size[1] // 4 :] = True
        rle = encode(mask)
        images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1 + number % 2,
                "segmentation": {"size": list(size), "counts": rle.counts},
            }
        )
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (tmp_path / "train.json").write_text(json.dumps(content))
    return tmp_path / "photos"


def write_run(folder: Path, *, weak: str, data: dict[str, object], stages: tuple[object, ...]) -> None:
    used = {name: MODELS[name] for name in MODELS if f"'model': '{name}'" in str(stages)}
    content = {"name": "sizes", "data": data, "weak": weak, "max_bad": 0, "models": used, "torch_threads": 1}
    content |= {"masks": "50%" if weak != "none" else "0%", "stages": list(stages)}
    (folder / "sizes.yaml").write_text(yaml.safe_dump(content))


@pytest.mark.usefixtures("photos")
def test_a_whole_run(cli: Callable[..., Result], tmp_path: Path) -> None:
    data = {"source": "coco", "json": "train.json", "images": "photos", "val_json": "train.json"}
    write_run(tmp_path, weak="point+class", data=data, stages=ALL_STAGES)
    done = cli("run", "sizes.yaml", "--workers", 0, "--out", "run")
    assert done.exit_code == 0, done.output
    for split in ("train", "val"):
        found = json.loads((tmp_path / "run" / "export" / "coco" / f"{split}.json").read_text())
        assert {image["file_name"] for image in found["images"]} == set(NAMES)
    assert "data:image/webp" in (tmp_path / "run" / "report" / "index.html").read_text()
    told = cli("predict", "photos", "--student", "run", "--json", "train.json", "--out", "found.json")
    assert told.exit_code == 0, told.output
    for item in json.loads((tmp_path / "found.json").read_text()):
        assert tuple(item["segmentation"]["size"]) == SIZES[item["image_id"] - 1]
    assert cli("evaluate", "--json", "train.json", "--results", "found.json").exit_code == 0


@pytest.mark.usefixtures("photos")
def test_labelling_with_nothing_known(cli: Callable[..., Result], tmp_path: Path) -> None:
    """With no threshold the grounder proposes boxes on the noise of the smallest photos too."""
    data = {"source": "folder", "images": "photos", "classes": {"car": 1, "wheel": 2}}
    write_run(tmp_path, weak="none", data=data, stages=LABELLING)
    done = cli("run", "sizes.yaml", "--workers", 0, "--out", "run")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "run" / "export" / "coco" / "train.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in found["images"]}
    assert set(sizes.values()) == set(SIZES)
    masked = set()
    for item in found["annotations"]:
        rle = RLE(tuple(item["segmentation"]["size"]), item["segmentation"]["counts"])
        assert rle.size == sizes[item["image_id"]]
        assert decode(rle).sum() == item["area"] > 0
        masked.add(rle.size)
    assert (1, 1) in masked


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ((1, 1), (1, 1)),
        ((3, 3), (3, 3)),
        ((1, 8000), (1, MAX_SIDE)),
        ((8000, 1), (MAX_SIDE, 1)),
        ((2, 8000), (1, MAX_SIDE)),
        ((8000, 2), (MAX_SIDE, 1)),
    ],
)
def test_overlays(size: tuple[int, int], drawn: tuple[int, int]) -> None:
    window = Window.whole(*size)
    assert window.photo(np.zeros((*size, 3), np.uint8)).shape == (*drawn, 3)
    mask = window.mask(encode(np.ones(size, bool)))
    assert mask.shape == drawn
    assert mask.all()  # the mask is seen, however thin the picture
    assert colours(paint([Shape(mask, 0)], window))[..., 3].all()
