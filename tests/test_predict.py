"""Predicting and scoring outside of a run: what is left out is told, what is broken is never scored in silence."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.data.coco import CocoWriter
from pipeline.data.masks import decode, encode
from pipeline.data.records import Category, Instance, Ontology, Record, Role, Source
from teachers.protocols import Sample

SIZE = (16, 20)
ONTOLOGY = Ontology((Category(7, "square"),))
CATEGORIES = [{"id": 7, "name": "square"}]
UPSIDE_DOWN, QUARTER = 3, 6  # EXIF orientations


def square(at, size=SIZE):
    mask = np.zeros(size, bool)
    mask[at : at + 4, at : at + 4] = True
    return encode(mask)


def segmentation(rle):
    return {"size": list(rle.size), "counts": rle.counts}


def annotation(number, image_id, at):
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 7,
        "bbox": [at, at, 4, 4],
        "area": 16,
        "iscrowd": 0,
        "segmentation": segmentation(square(at)),
    }


def result(number, at, **change):
    return {
        "image_id": number,
        "category_id": 7,
        "segmentation": segmentation(square(at)),
        "score": 0.5,
    } | change


def content(images=4):
    """A COCO file of `images` photos, ids 10, 20, ..., with a square each."""
    listed = [
        {"id": n * 10, "file_name": f"{n}.png", "width": 20, "height": 16} for n in range(1, images + 1)
    ]
    squares = [annotation(n, n * 10, n % 10) for n in range(1, images + 1)]
    return {"images": listed, "categories": CATEGORIES, "annotations": squares}


class Squares:
    """A student that finds the square where the photo's red channel says it is, in the photo it is shown."""

    def predict(self, batch):
        return [[self.see(sample)] for sample in batch]

    def see(self, sample: Sample) -> Instance:
        rle = square(int(sample.image[0, 0, 0]), sample.image.shape[:2])
        return Instance(Source.STUDENT, class_id=7, rle=rle, score=0.5)


@pytest.fixture
def files(tmp_path):
    """A function that writes what it is given as a JSON file (text as it is) and returns its path."""

    def write(name, value):
        path = tmp_path / name
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return write


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(1, 5):
        Image.new("RGB", (20, 16), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def student(tmp_path, monkeypatch):
    from students import catalog

    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "student.json").write_text("{}")
    monkeypatch.setattr(catalog, "load_artifact", lambda _, *, device: Squares())  # noqa: ARG005
    return folder


def pipeline(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_predict_and_evaluate(files, photos, student, tmp_path):
    truth, out = files("truth.json", content()), tmp_path / "found.json"
    done = pipeline("predict", photos, "--student", student, "--json", truth, "--out", out)
    assert done.stdout == f"{out}: 4 instances in 4 images\n"
    assert [r["image_id"] for r in json.loads(out.read_text())] == [10, 20, 30, 40]
    scores = json.loads(pipeline("evaluate", "--json", truth, "--results", out).stdout)
    assert (scores["AP"], scores["images"]) == (1.0, 4)
    by_student = pipeline("evaluate", "--json", truth, "--images", photos, "--student", student)
    assert json.loads(by_student.stdout) == scores
    assert pipeline("predict", photos, "--student", student, "--out", out).exit_code == 2


def test_predict_numbers_photos_by_name_and_leaves_out_bad_ones(photos, student, tmp_path):
    (photos / "0.png").write_text("no picture")
    done = pipeline("predict", photos, "--student", student, "--out", tmp_path / "found.json")
    assert [r["image_id"] for r in json.loads((tmp_path / "found.json").read_text())] == [2, 3, 4, 5]
    assert done.exit_code == 3
    assert "0.png" in done.stderr


def test_predict_tells_listed_images_that_it_cannot_use(files, photos, student, tmp_path):
    listed = content()
    listed["images"][1]["width"] = "20"
    listed["annotations"][0]["segmentation"] = "?"  # not what is asked for
    truth = files("truth.json", listed)
    done = pipeline(
        "predict", photos, "--student", student, "--json", truth, "--out", tmp_path / "found.json"
    )
    assert [r["image_id"] for r in json.loads((tmp_path / "found.json").read_text())] == [10, 30, 40]
    assert "truth.json: images[1] (id 20): width: expected an integer" in done.stderr
    assert "annotations" not in done.stderr.splitlines()[0]
    assert (done.exit_code, "25.0%" in done.stderr) == (3, True)


def broken(section, **change):
    """The truth of 4 images with one entry changed; a value of None takes the key out."""
    value = content()
    for key, new in change.items():
        if new is None:
            del value[section][0][key]
        else:
            value[section][0][key] = new
    return value


NO_SIZE = {"size": list(SIZE), "counts": "1"}
TURNED = segmentation(square(1, SIZE[::-1]))


@pytest.mark.parametrize(
    ("truth", "code", "message"),
    [
        (broken("annotations", segmentation=NO_SIZE), 3, "annotations[0] (id 1): segmentation"),
        (broken("annotations", segmentation=TURNED), 3, "annotations[0] (id 1): segmentation"),
        (broken("annotations", segmentation=[[1, 2]]), 3, "annotations[0] (id 1): segmentation"),
        (broken("annotations", segmentation=[[1, 2, 3]]), 3, "annotations[0] (id 1): segmentation"),
        (broken("annotations", segmentation=[[1e300] * 6]), 3, "annotations[0] (id 1): segmentation"),
        (broken("annotations", segmentation=None), 3, "annotation 1 of image 10: expected a mask"),
        (broken("annotations", category_id=9), 3, "annotations[0] (id 1): category_id"),
        (broken("annotations", image_id=99), 3, "annotations[0] (id 1): image_id"),
        (broken("annotations", category_id=None, phrase="x"), 3, "expected a category_id, found a phrase"),
        ({k: v for k, v in content().items() if k != "categories"}, 3, "annotations[0] (id 1): category_id"),
        (broken("images", width="20"), 3, "images[0] (id 10): width: expected an integer"),
        ("{", 2, "truth.json: not a COCO dataset: line 1"),
        ("[]", 2, "truth.json: expected a COCO dataset"),
        ({"annotations": []}, 2, "expected a section 'images'"),
    ],
)
def test_a_broken_truth_is_not_scored(files, truth, code, message):
    path = files("truth.json", truth)
    done = pipeline("evaluate", "--json", path, "--results", files("found.json", [result(10, 1)]))
    assert (done.exit_code, done.stdout) == (code, ""), done.stderr
    assert str(path) in done.stderr
    assert message in done.stderr


@pytest.mark.parametrize(
    ("change", "message", "images"),
    [
        ({"segmentation": [[1, 2, 3]]}, "annotations[0] (id 1): segmentation", 39),
        ({"segmentation": None}, "annotation 1 of image 10: expected a mask", 39),
        ({"image_id": 20, "segmentation": None}, "annotation 1 of image 20: expected a mask", 40),
    ],
)
def test_a_little_that_is_broken_is_told(files, change, message, images):
    """An image of which nothing is left is not taken for an empty one: whatever was found there counts for nothing."""
    truth = content(images=40)
    truth["annotations"][0] |= change
    found = [result(n * 10, n % 10, score=0.9 if n > 1 else 1.0) for n in range(1, 41)]
    if images == 40:
        found = found[1:]
    done = pipeline("evaluate", "--json", files("truth.json", truth), "--results", files("found.json", found))
    scores = json.loads(done.stdout)
    assert (done.exit_code, scores["AP"], scores["images"]) == (0, 1.0, images)
    assert "left out: " in done.stderr
    assert message in done.stderr


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([result(10, 1, score="x")], "results[0].score: expected a finite number, found 'x'"),
        ([result(10, 1), result(10, 1, image_id=[1])], "results[1].image_id: expected an integer"),
        ([result(10, 1, category_id="a")], "results[0].category_id: expected an integer"),
        ([result(10, 1, segmentation=3)], "results[0].segmentation: expected polygons or an RLE"),
        ([result(99, 1)], "results[0].image_id: expected the id of a true image, found 99"),
        ([{"image_id": 10}], "results[0].category_id: expected an integer of at least 0, found nothing"),
        ([3], "results[0].entry: expected an object, found 3"),
        ("[1", "cannot be read as JSON"),
        ("nonsense", "found.json: expected a COCO dataset (an object), found text"),
        (broken("annotations", segmentation=[[1, 2]]), "annotations[0] (id 1): segmentation"),
        (broken("annotations", image_id=99), "annotations[0] (id 1): image_id"),
        (broken("images", width=21), "images[0] (id 10): expected 20x16 as in"),
        (content(images=5), "images[4] (id 50): expected an image of"),
    ],
)
def test_results_that_cannot_be_scored_are_named(files, found, message):
    if isinstance(found, dict) and message.startswith("images[0]"):
        found["annotations"] = found["annotations"][1:]  # its mask is of the other size
    path = files("found.json", found)
    done = pipeline("evaluate", "--json", files("truth.json", content()), "--results", path)
    assert done.exit_code == 2, done.stderr
    assert f"error: {path}: " in done.stderr
    assert message in done.stderr


def test_a_photo_stored_turned_is_scored_as_it_is_seen(files, photos, student, tmp_path):
    """The truth is drawn in the stored frame, the student sees the upright one."""
    exif = Image.Exif()
    exif[0x0112] = QUARTER  # stored 20x16, seen as 16x20
    Image.new("RGB", (20, 16), (1, 0, 0)).save(photos / "1.png", exif=exif)
    stored = decode(square(1, (20, 16)))  # where the student will find it, upright
    listed = content()
    listed["annotations"][0]["segmentation"] = segmentation(encode(np.rot90(stored).copy()))
    truth = files("truth.json", listed)
    done = pipeline("evaluate", "--json", truth, "--images", photos, "--student", student)
    assert (done.exit_code, json.loads(done.stdout)["AP"]) == (0, 1.0), done.stderr
    out = tmp_path / "found.json"
    assert pipeline("predict", photos, "--student", student, "--json", truth, "--out", out).exit_code == 0
    given = pipeline("evaluate", "--json", truth, "--results", out, "--images", photos)
    assert json.loads(given.stdout)["AP"] == 1.0
    unseen = pipeline("evaluate", "--json", truth, "--results", out)
    assert "results[0].segmentation.size: expected the image's [16, 20], found [20, 16]" in unseen.stderr


def test_a_photo_that_cannot_be_read_is_left_out_of_truth_and_prediction(files, photos, student):
    (photos / "2.png").write_text("no picture")
    done = pipeline(
        "evaluate", "--json", files("truth.json", content()), "--images", photos, "--student", student
    )
    assert (done.exit_code, done.stdout) == (3, "")
    assert "2.png" in done.stderr


def test_masks_of_humans_are_no_pseudo_masks(files, tmp_path):
    """An export holds both; only images without a human's masks are scored."""
    roles = [Role.HUMAN_MASKED, Role.RESERVED, Role.WEAK, Role.WEAK]
    path = tmp_path / "export.json"
    with CocoWriter(path, ONTOLOGY, info={}) as writer:
        for number, role in enumerate(roles, start=1):
            record = Record(number * 10, f"{number}.png", "", 20, 16, "train", role)
            human = Instance(Source.HUMAN, class_id=7, rle=square(number), human_id=number)
            machine = replace(human, source=Source.TEACHER, human_id=None, rle=square(number + 2))
            given = role is not Role.WEAK or number == 4  # the last weak image came with a human's mask
            writer.add(replace(record, instances=(human, machine) if given else (machine,)))
    done = pipeline("evaluate", "--json", files("truth.json", content()), "--results", path)
    scores = json.loads(done.stdout)
    assert (scores["images"], scores["human_masked_images"]) == (1, 3)
    assert (scores["instances"], scores["pseudo_masks"], scores["misses"]) == (1, 1, 0)
    assert scores["miou"] == pytest.approx(4 / 28)


def test_the_masks_of_a_file_that_names_no_maker_are_all_scored(files):
    truth = files("truth.json", content())
    found = content()
    found["images"] = found["images"][:3]  # an image that is not in it is no miss
    found["annotations"] = found["annotations"][:2]
    scores = json.loads(pipeline("evaluate", "--json", truth, "--results", files("found.json", found)).stdout)
    assert (scores["images"], scores["human_masked_images"], scores["misses"]) == (3, 0, 1)
    assert scores["miou"] == pytest.approx(2 / 3)
