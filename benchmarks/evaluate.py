"""COCO's AP of a results file: our scoring against pycocotools', same digits.

    python -m benchmarks.evaluate            (a minute; --threads=2 for what a second thread adds)

A seeded set of the size of a small validation: 250 images of 480 x 640 with 8 true masks each (small, medium and
large, one in 20 a crowd) and 20 results each (2 near every true mask, one in 10 of them with another class, and 4
false ones), with 80 classes as COCO has, and with 10. Timed is all that comes after the parsing of JSON: ours is
`coco_ap`, which validates every result first, and reads the truth from its file within that time; pycocotools' is
createIndex, loadRes, evaluate, accumulate, summarize. `command` is the whole of `pipeline evaluate --results`, which
also validates every true mask, against pycocotools with its own reading of both files. Prints one JSON line; exits 1
unless all twelve numbers are the same and ours is at least 10 times as fast. pycocotools has one thread, so ours gets
one too; with more, the line tells the ratio but does not judge it.
"""

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks import timing
from benchmarks.shapes import Shapes, numbered, sized, xywh
from pipeline.data import masks
from pipeline.data.coco_ap import AP_NAMES, AR_NAMES, coco_scores
from pipeline.score import Truth, score_file

SIZE = (480, 640)
CLASSES = (80, 10)
LEAST = 10.0
TRUE, FALSE, CROWD, MISTAKEN = 8, 4, 0.05, 0.1  # an image; shares

Content = dict[str, list[dict[str, object]]]


def data_set(images: int, classes: int) -> tuple[Content, list[dict[str, object]]]:
    """A truth file's content and the results for it."""
    shapes = Shapes(SIZE, seed=classes)
    random = shapes.random
    content: Content = {
        "images": list(numbered(images, SIZE)),
        "categories": [{"id": number, "name": f"class {number}"} for number in range(1, classes + 1)],
        "annotations": [],
    }
    results: list[dict[str, object]] = []

    def any_class() -> int:
        return int(random.integers(1, classes + 1))

    def found(image: int, class_id: int, rle: masks.RLE) -> None:
        mask = {"image_id": image, "category_id": class_id, "segmentation": sized(rle)}
        results.append(mask | {"score": float(random.random())})

    for image in range(1, images + 1):
        for _ in range(TRUE):
            shape, class_id = shapes.new(), any_class()
            rle = shape.rle()
            entry = {"image_id": image, "category_id": class_id, "segmentation": sized(rle)}
            measured = {"area": masks.area(rle), "bbox": xywh(rle), "iscrowd": int(random.random() < CROWD)}
            content["annotations"].append({"id": len(content["annotations"]) + 1} | entry | measured)
            for _ in range(2):
                found(
                    image, any_class() if random.random() < MISTAKEN else class_id, shapes.near(shape).rle()
                )
        for _ in range(FALSE):
            found(image, any_class(), shapes.new().rle())
    return content, results


def by_pycocotools(truth: COCO, results: object) -> list[float]:
    """Its twelve numbers."""
    evaluator = COCOeval(truth, truth.loadRes(results), "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return [float(value) for value in evaluator.stats]


def parsed(content: Mapping[str, object], results: Sequence[Mapping[str, object]]) -> list[float]:
    """pycocotools on what a JSON parser gave; it writes into the results, so it gets copies."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dict(content)
        truth.createIndex()
        return by_pycocotools(truth, [dict(result) for result in results])


def files(truth: Path, results: Path) -> list[float]:
    """pycocotools on two files."""
    with contextlib.redirect_stdout(io.StringIO()):
        return by_pycocotools(COCO(str(truth)), str(results))


def command(truth: Path, results: Path) -> list[float]:
    """The twelve numbers as `pipeline evaluate --results` gives them, -1 for None."""
    with Truth(truth, None) as known:
        scores = score_file(known, results)
    return _digits([scores[name] for name in (*AP_NAMES, *AR_NAMES)])


def twelve(truth: Path, results: Sequence[object]) -> list[float]:
    """All that COCO reports: AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl."""
    return _digits(list(coco_scores(truth, results).values()))


def _digits(values: Sequence[float | int | None]) -> list[float]:
    return [-1.0 if value is None else float(value) for value in values]


def compare(
    folder: Path, classes: int, *, images: int, repeats: int
) -> tuple[dict[str, timing.Json], bool, float]:
    """The numbers of one set, whether all digits are the same, and how many times as fast ours is."""
    content, results = data_set(images, classes)
    truth, found = folder / f"truth-{classes}.json", folder / f"results-{classes}.json"
    truth.write_text(json.dumps(content))
    found.write_text(json.dumps(results))
    timed = timing.in_turns(
        {
            "pycocotools": lambda: parsed(content, results),
            "ours": lambda: twelve(truth, results),
            "pycocotools command": lambda: files(truth, found),
            "our command": lambda: command(truth, found),
        },
        repeats=repeats,
    )
    same = len({tuple(one.result) for one in timed.values()}) == 1
    ratio = timing.times_faster(timed["pycocotools"], timed["ours"])
    seconds = {f"{name} s": timing.round3(one.median) for name, one in timed.items()}
    whole = timing.times_faster(timed["pycocotools command"], timed["our command"])
    sizes = {"truths": len(content["annotations"]), "results": len(results)}
    return {**sizes, **seconds, "ratio": ratio, "command ratio": whole}, same, ratio


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the line."""
    given = timing.options(__doc__, arguments, repeats=5, images=250, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        found = {
            f"{classes} classes": compare(Path(folder), classes, images=given.images, repeats=given.repeats)
            for classes in CLASSES
        }
    numbers = {name: numbers for name, (numbers, _, _) in found.items()}
    checks = {"same twelve numbers": all(same for _, same, _ in found.values())}
    if given.threads == 1:
        fast = all(ratio >= LEAST for _, _, ratio in found.values())
        checks[f"at least {LEAST:g} times as fast"] = fast
    head = {"images": given.images, "repeats": given.repeats, "threads": given.threads}
    return timing.finish("evaluate", {**head, **numbers}, checks)


if __name__ == "__main__":
    sys.exit(main())
