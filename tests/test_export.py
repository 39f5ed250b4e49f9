"""`pipeline export` of COCO files that this tool did not make: what trainers can take, and why the rest is left out."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner

from pipeline.cli import app

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
QUARTER = 6  # EXIF orientation
Content = dict[str, list[dict[str, object]]]


def coco(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def export(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_a_real_file_keeps_its_pixels_and_ids(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "coco-tiny"
    done = export(source / "train.json", "--images", source / "images", "--out", tmp_path / "out")
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'out'}: 40 images\n"), done.stderr
    given, made = coco(source / "train.json"), coco(tmp_path / "out" / "coco" / "train.json")
    assert made.dataset["categories"] == given.dataset["categories"]
    assert set(made.imgs) == set(given.imgs)
    assert len(made.anns) == len(given.anns)
    by_human = {entry["pseudo"]["human_id"]: entry for entry in made.dataset["annotations"]}
    for number, entry in given.anns.items():
        assert [by_human[number][key] for key in ("image_id", "category_id", "iscrowd")] == [
            entry[key] for key in ("image_id", "category_id", "iscrowd")
        ]
        assert isinstance(by_human[number]["segmentation"]["counts"], str)
        assert np.array_equal(made.annToMask(by_human[number]), given.annToMask(entry))
    for image in made.imgs.values():
        copied = tmp_path / "out" / "images" / image["file_name"]
        assert copied.read_bytes() == (source / "images" / image["file_name"]).read_bytes()


@pytest.fixture
def content(tmp_path: Path) -> Content:
    """Forty photos of 20x16 with a polygon each, in a folder `photos`."""
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, 41):
        name = f"sub/{number}.png" if number == 2 else f"{number}.png"
        Image.new("RGB", (20, 16), (number, 0, 0)).save(tmp_path / "photos" / name)
        images.append({"id": number * 10, "file_name": name, "width": 20, "height": 16})
        corners = [2, 2, 9.5, 2, 9.5, 8, 2, 8]
        annotations.append(
            {"id": number - 1, "image_id": number * 10, "category_id": 7, "segmentation": [corners]}
        )
    return {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "square"}]}


@pytest.fixture
def exported(tmp_path: Path, content: Content) -> Callable[[], tuple[Result, Content]]:
    """A function that exports the content as it is then; what was said and written."""

    def run() -> tuple[Result, Content]:
        (tmp_path / "mine.json").write_text(json.dumps(content))
        done = export(tmp_path / "mine.json", "--images", tmp_path / "photos", "--out", tmp_path / "out")
        path = tmp_path / "out" / "coco" / "mine.json"
        return done, json.loads(path.read_text()) if path.exists() else {}

    return run


Exported = Callable[[], tuple[Result, Content]]


def test_what_a_trainer_gets(exported: Exported, tmp_path: Path) -> None:
    done, made = exported()
    assert (done.exit_code, done.stderr) == (0, "")
    assert [entry["id"] for entry in made["annotations"]] == list(
        range(1, 41)
    )  # 0 is unmatched to pycocotools
    assert {entry["iscrowd"] for entry in made["annotations"]} == {0}
    assert (tmp_path / "out" / "images" / "sub" / "2.png").is_file()
    again = export(tmp_path / "mine.json", "--images", tmp_path / "photos", "--out", tmp_path / "out")
    assert (again.exit_code, "is there already" in again.stderr) == (2, True)


def box_only(content: Content, folder: Path) -> None:  # noqa: ARG001
    del content["annotations"][2]["segmentation"]
    content["annotations"][2]["bbox"] = [2, 2, 7, 6]


def bad_mask(content: Content, folder: Path) -> None:  # noqa: ARG001
    content["annotations"][2]["segmentation"] = [[1, 2]]


def bad_image(content: Content, folder: Path) -> None:  # noqa: ARG001
    content["images"][2]["width"] = "20"


def no_photo(content: Content, folder: Path) -> None:  # noqa: ARG001
    (folder / "3.png").unlink()


def cut_photo(content: Content, folder: Path) -> None:  # noqa: ARG001
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:60])


def link_out(content: Content, folder: Path) -> None:  # noqa: ARG001
    (folder / "3.png").rename(folder.parent / "secret.png")
    (folder / "3.png").symlink_to(folder.parent / "secret.png")


def unlabelled(content: Content, folder: Path) -> None:
    """Of an image without annotations in a file that is not masks throughout, nothing is known."""
    box_only(content, folder)
    del content["annotations"][3]


@pytest.mark.parametrize(
    ("damage", "lost", "told"),
    [
        (box_only, {30}, "left out: 1 images of which not every object has a mask"),
        (unlabelled, {30, 40}, "left out: 2 images of which not every object has a mask"),
        (bad_mask, {30}, "mine.json: annotations[2] (id 2): segmentation[0]: expected an even number"),
        (bad_image, {30}, "mine.json: images[2] (id 30): width: expected an integer"),
        (no_photo, {30}, "mine.json: images[2] (id 30): file_name: expected a file, found nothing (3.png)"),
        (cut_photo, {30}, "expected a whole PNG, found a broken one: it ends too early (3.png)"),
        (link_out, {30}, "file_name: expected a file inside"),
    ],
)
def test_what_is_left_out_and_told(
    content: Content,
    exported: Exported,
    tmp_path: Path,
    damage: Callable[[Content, Path], None],
    lost: set[int],
    told: str,
) -> None:
    damage(content, tmp_path / "photos")
    done, made = exported()
    assert (done.exit_code, told in done.stderr) == (0, True), done.stderr
    assert {entry["id"] for entry in made["images"]} == {n * 10 for n in range(1, 41)} - lost
    assert {entry["image_id"] for entry in made["annotations"]} == {entry["id"] for entry in made["images"]}
    assert not (tmp_path / "out" / "images" / "3.png").exists()


def test_a_file_of_which_much_is_bad_ends_with_its_own_exit_code(exported: Exported, tmp_path: Path) -> None:
    for number in (3, 4, 5):
        (tmp_path / "photos" / f"{number}.png").unlink()
    done, made = exported()
    assert (done.exit_code, len(made["images"])) == (3, 37)
    assert "7.5% of the images or annotations are bad" in done.stderr


def test_an_image_that_is_known_to_be_empty_stays(content: Content, exported: Exported) -> None:
    del content["annotations"][2]  # every other annotation has a mask
    done, made = exported()
    assert (done.exit_code, len(made["images"]), len(made["annotations"])) == (0, 40, 39)


def test_a_photo_stored_turned_gets_the_masks_that_are_seen(exported: Exported, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = QUARTER
    Image.new("RGB", (20, 16)).save(tmp_path / "photos" / "3.png", exif=exif)
    done, made = exported()
    assert done.exit_code == 0, done.stderr
    assert (made["images"][2]["width"], made["images"][2]["height"]) == (16, 20)
    assert made["annotations"][2]["bbox"] == [8.0, 2.0, 6.0, 8.0]


def nothing_left(content: Content) -> None:
    content["annotations"] = [{"id": 1, "image_id": 10, "category_id": 7, "bbox": [1, 1, 2, 2]}]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (nothing_left, "expected an image with masks and a readable photo, found none"),
        (lambda content: content.pop("images"), "expected a section 'images' with at least one image"),
    ],
)
def test_nothing_is_written_where_nothing_can_be_taken(
    content: Content, exported: Exported, tmp_path: Path, spoil: Callable[[Content], object], message: str
) -> None:
    spoil(content)
    done, _ = exported()
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.json", "photos"]
