"""`pipeline evaluate` on files that this tool did not make: pycocotools' own numbers, or a reason."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from pycocotools import mask as native
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner

from pipeline.cli import app

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
TWELVE = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
Entry = dict[str, object]
SIZE = (60, 80)


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def by_pycocotools(truth: Path, results: list[Entry]) -> list[float | None]:
    """The twelve numbers of plain COCOeval, its -1 as None."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluator = COCOeval(coco, coco.loadRes([dict(result) for result in results]), "segm")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [None if value == -1 else float(value) for value in evaluator.stats]


def rle(mask: np.ndarray) -> Entry:
    encoded = native.encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def shifted(truth: Path, seed: int, *, step: int) -> list[Entry]:
    """Results made from a truth as people make them: masks moved a little, doubled, left out, of other classes."""
    random = np.random.default_rng(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
    results: list[Entry] = []
    for annotation in coco.dataset["annotations"]:
        mask = coco.annToMask(annotation)
        for _ in range(random.integers(0, 3)):
            moved = np.roll(mask, random.integers(-step, step + 1, 2), (0, 1))
            other = int(random.choice(list(coco.cats)))
            results.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": annotation["category_id"] if random.random() < 0.9 else other,
                    "segmentation": rle(moved),
                    "score": round(float(random.random()), 2),  # with ties
                }
            )
    return results


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_twelve_numbers_of_pycocotools_on_real_annotations(
    real_data: Path, tmp_path: Path, split: str
) -> None:
    """Polygons, real crowd regions, areas in fractions of pixels, results on some of the images only."""
    truth = real_data / "coco-tiny" / f"{split}.json"
    results = [r for r in shifted(truth, seed=0, step=12) if int(str(r["image_id"])) % 5]
    (tmp_path / "found.json").write_text(json.dumps(results))
    done = evaluate("--json", truth, "--results", tmp_path / "found.json")
    scores = json.loads(done.stdout)
    assert scores.pop("images") == 40
    assert tuple(scores) == TWELVE
    assert list(scores.values()) == by_pycocotools(truth, results)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Two photos with polygons whose listed areas put each mask into another size class than its pixels."""
    images = [{"id": n, "file_name": f"{n}.jpg", "height": SIZE[0], "width": SIZE[1]} for n in (3, 5)]
    annotations = []
    for number, (x, area) in enumerate([(2, 5000.5), (20, 20000.25), (40, 12.0), (60, 900.0)], start=1):
        for image in images:
            corners = [x, 5, x + 15.5, 5, x + 15.5, 40.5, x, 40.5]
            annotations.append(
                {
                    "id": 10 * number + int(image["id"]),
                    "image_id": image["id"],
                    "category_id": 7 + number % 2,
                    "segmentation": [corners],
                    "bbox": [x, 5, 15.5, 35.5],
                    "area": area,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 7, "name": "post"}, {"id": 8, "name": "wall"}]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.fixture
def score(truth: Path, tmp_path: Path) -> Callable[[object], Result]:
    """A function that scores what it is given as a results file."""

    def run(results: object) -> Result:
        (tmp_path / "found.json").write_text(json.dumps(results))
        return evaluate("--json", truth, "--results", tmp_path / "found.json")

    return run


def numbers(done: Result) -> list[float | None]:
    assert done.exit_code == 0, done.stderr
    return [json.loads(done.stdout)[name] for name in TWELVE]


def test_sizes_are_those_that_the_file_lists(truth: Path, score: Callable[[object], Result]) -> None:
    results = shifted(truth, seed=1, step=3)
    expected = by_pycocotools(truth, results)
    assert numbers(score(results)) == expected
    content = json.loads(truth.read_text())
    for annotation in content["annotations"]:
        del annotation["area"]
    truth.write_text(json.dumps(content))
    without = numbers(score(results))  # pycocotools would end with a KeyError
    assert without[:3] == expected[:3]
    assert without[3:6] != expected[3:6]


def polygons(result: Entry) -> Entry:
    return result | {"segmentation": [[2, 5, 17.5, 5, 17.5, 40.5, 2, 40.5]]}


def uncompressed(result: Entry) -> Entry:
    encoded = native.frPyObjects([[2, 5, 17.5, 5, 17.5, 40.5, 2, 40.5]], *SIZE)
    flat = native.decode(native.merge(encoded)).flatten(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], ends, [flat.size]]))
    return result | {"segmentation": {"size": list(SIZE), "counts": runs.tolist()}}


@pytest.mark.parametrize("form", [polygons, uncompressed])
def test_masks_in_any_form_of_coco(score: Callable[[object], Result], form: Callable[[Entry], Entry]) -> None:
    plain = [post() | {"score": 0.9}, post() | {"image_id": 5, "score": 0.3}]
    assert numbers(score([form(plain[0]), plain[1]])) == numbers(score(plain))


def test_a_byte_order_mark_is_no_part_of_the_results(truth: Path, tmp_path: Path) -> None:
    text = json.dumps([post()])
    for name, data in (("plain", text.encode()), ("marked", b"\xef\xbb\xbf" + text.encode())):
        (tmp_path / name).write_bytes(data)
    plain, marked = (evaluate("--json", truth, "--results", tmp_path / name) for name in ("plain", "marked"))
    assert numbers(plain) == numbers(marked)


def post() -> Entry:
    """The first object of photo 3, found."""
    parts = native.frPyObjects([[2, 5, 17.5, 5, 17.5, 40.5, 2, 40.5]], *SIZE)
    return {
        "image_id": 3,
        "category_id": 8,
        "segmentation": rle(native.decode(native.merge(parts))),
        "score": 0.5,
    }


def without(field: str) -> Entry:
    return {key: value for key, value in post().items() if key != field}


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (post() | {"image_id": 4}, "image_id: expected the id of a true image, found 4"),
        (without("score"), "score: expected a finite number, found None"),
        (post() | {"score": float("nan")}, "score: expected a finite number, found nan"),
        (post() | {"score": "0.5"}, "score: expected a finite number, found '0.5'"),
        (
            without("segmentation") | {"bbox": [2, 5, 15.5, 35.5]},
            "segmentation: expected a mask, found a bbox alone; boxes are not scored",
        ),
        (
            post() | {"segmentation": {"size": list(SIZE), "counts": "b'Rb01'"}},  # bytes, turned into text
            "segmentation.counts: expected COCO's compressed text, found characters outside",
        ),
        (post() | {"segmentation": rle(np.ones((80, 60), np.uint8))}, "expected the image's [60, 80]"),
    ],
)
def test_results_that_cannot_be_scored(
    score: Callable[[object], Result], result: Entry, message: str
) -> None:
    refused = score([post(), result])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "found.json: results[1]." in refused.stderr
    assert message in refused.stderr


def test_results_of_other_categories_are_told(truth: Path, score: Callable[[object], Result]) -> None:
    results = [post(), post() | {"category_id": 90, "score": 0.9}, post() | {"category_id": 91}]
    done = score(results)
    assert "2 of 3 results count for nothing: " in done.stderr
    assert "truth.json has no category 90, 91" in done.stderr
    assert numbers(done) == by_pycocotools(truth, results)


def test_no_results_find_nothing(score: Callable[[object], Result]) -> None:
    assert numbers(score([])) == [0.0] * 12  # pycocotools ends with an IndexError


def test_a_dataset_as_results_is_compared_as_pseudo_masks(
    truth: Path, score: Callable[[object], Result]
) -> None:
    content = json.loads(truth.read_text())
    content["annotations"] = content["annotations"][:4]
    scores = json.loads(score(content).stdout)
    assert (scores["images"], scores["instances"], scores["misses"]) == (2, 8, 4)
    assert scores["miou"] == pytest.approx(0.5)
