import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.data import masks
from pipeline.data.coco_ap import AP_NAMES, Detection, RleDict, coco_ap, detections
from pipeline.data.errors import BadInput
from pipeline.data.records import RLE, Instance, Record, Role, Source

HEIGHT, WIDTH = 200, 260
CLASSES = (3, 9, 4)


def as_dict(rle: RLE) -> RleDict:
    return {"size": list(rle.size), "counts": rle.counts}


def bar(random: np.random.Generator) -> masks.Mask:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    top, left = random.integers(0, HEIGHT - 5), random.integers(0, WIDTH - 5)
    side = int(random.choice([8, 40, 130]))  # all three area ranges
    mask[top : top + random.integers(3, side + 3), left : left + random.integers(3, side + 3)] = True
    return mask


def random_set(seed: int) -> tuple[dict[str, object], list[Detection]]:
    """A truth with crowd regions, and results with ties, shifted masks, wrong classes and false ones."""
    random = np.random.default_rng(seed)
    images = [{"id": 7 * i + 1, "height": HEIGHT, "width": WIDTH, "file_name": "a"} for i in range(8)]
    truth: list[dict[str, object]] = []
    results: list[Detection] = []

    def found(image: dict[str, object], class_id: int, mask: masks.Mask) -> None:
        score = float(random.choice([0.1, 0.5, random.random()]))
        results.append(
            {
                "image_id": image["id"],
                "category_id": class_id,
                "segmentation": as_dict(masks.encode(mask)),
                "score": score,
            }  # type: ignore[typeddict-item]
        )

    for _ in range(120):  # more than the 100 that count
        found(images[0], 3, bar(random))
    for image in images:
        for _ in range(random.integers(0, 8)):
            mask, class_id = bar(random), int(random.choice(CLASSES))
            rle = masks.encode(mask)
            entry = {
                "image_id": image["id"],
                "category_id": class_id,
                "segmentation": as_dict(rle),
                "bbox": [0, 0, 1, 1],
            }
            truth.append(
                entry | {"id": len(truth) + 1, "area": masks.area(rle), "iscrowd": int(random.random() < 0.1)}
            )
            for _ in range(random.integers(0, 3)):
                shift = tuple(random.integers(-3, 4, 2).tolist())
                found(image, class_id if random.random() < 0.9 else 3, np.roll(mask, shift, (0, 1)))
        for _ in range(random.integers(0, 3)):
            found(image, int(random.choice(CLASSES[:2])), bar(random))
    categories = [{"id": c, "name": str(c)} for c in CLASSES]
    return {"info": {}, "images": images, "categories": categories, "annotations": truth}, results


def by_pycocotools(truth: dict[str, object], results: list[Detection]) -> list[float]:
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    evaluator = COCOeval(coco, coco.loadRes([dict(result) for result in results]), "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return [float(value) for value in evaluator.stats[:6]]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("seed", range(6))
def test_equal_to_pycocotools_to_the_last_digit(seed: int) -> None:
    truth, results = random_set(seed)
    assert [-1.0 if v is None else v for v in coco_ap(truth, results).values()] == by_pycocotools(
        truth, results
    )


def test_file_and_content_are_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, results = random_set(0)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert coco_ap(tmp_path / "truth.json", results) == coco_ap(truth, results)
    assert capsys.readouterr().out == ""


def test_results_that_need_a_closer_look_score_the_same() -> None:
    truth, results = random_set(2)
    expected = coco_ap(truth, results)
    for change in (
        lambda result: result | {"score": np.float64(result["score"])},
        lambda result: result | {"segmentation": uncompressed(result["segmentation"])},
        lambda result: result | {"segmentation": result["segmentation"] | {"counts": padded(result)}},
    ):
        assert coco_ap(truth, [change(result) for result in results]) == expected
        assert coco_ap(truth, [*results[:-1], change(results[-1])]) == expected


def test_the_first_bad_result_is_named() -> None:
    truth, results = random_set(0)
    bad = (results * 8)[:800]
    bad[700] = bad[700] | {"score": None}  # type: ignore[typeddict-item]
    bad[600] = bad[600] | {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "m3"}}
    with pytest.raises(BadInput, match=r"results\[600\].segmentation.counts"):
        coco_ap(truth, bad)
    left_out = {result["image_id"] for result in (bad[700], bad[600])}
    kept = [result for result in bad if result["image_id"] not in left_out]
    assert coco_ap(truth, bad, left_out=left_out) == coco_ap(truth, kept)


def uncompressed(mask: RleDict) -> dict[str, object]:
    runs = masks.runs_of(RLE((mask["size"][0], mask["size"][1]), mask["counts"]))
    return {"size": mask["size"], "counts": runs.tolist()}


def padded(result: Detection) -> str:
    """The same counts, the last number with a group more than it needs."""
    text = result["segmentation"]["counts"]
    last = ord(text[-1]) - 48
    return text[:-1] + chr(last + 32 + 48) + ("O" if last & 16 else "0")


def test_no_results_and_no_truth() -> None:
    truth, results = random_set(1)
    assert set(coco_ap(truth, []).values()) <= {0.0, None}
    assert coco_ap(truth | {"annotations": []}, results) == dict.fromkeys(AP_NAMES)


FULL = as_dict(masks.encode(np.ones((HEIGHT, WIDTH), bool)))
RESULT: Detection = {"image_id": 1, "category_id": 3, "segmentation": FULL, "score": 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 2}, r"results\[1\].image_id: expected the id of a true image, found 2"),
        ({"image_id": [1]}, r"results\[1\].image_id: expected an integer of at least 0, found \[1\]"),
        ({"image_id": None}, r"results\[1\].image_id: expected an integer"),
        ({"image_id": True}, r"results\[1\].image_id: expected an integer"),
        ({"category_id": "a"}, r"results\[1\].category_id: expected an integer of at least 0, found 'a'"),
        ({"category_id": -1}, r"results\[1\].category_id"),
        ({"category_id": 1.5}, r"results\[1\].category_id"),
        ({"score": float("nan")}, r"results\[1\].score: expected a finite number, found nan"),
        ({"score": "x"}, r"results\[1\].score: expected a finite number, found 'x'"),
        ({"score": None}, r"results\[1\].score"),
        ({"score": True}, r"results\[1\].score"),
        ({"score": 10**400}, r"results\[1\].score: expected a finite number, found a huge integer"),
        ({"segmentation": None}, r"results\[1\].segmentation: expected polygons or an RLE"),
        (
            {"segmentation": [["x"] * 6]},
            r"results\[1\].segmentation\[0\]: expected numbers as coordinates",
        ),
        (
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "m3"}},
            r"results\[1\].segmentation.counts: expected runs that sum",
        ),
        ({"segmentation": {"size": [WIDTH, HEIGHT], "counts": "m3"}}, r"results\[1\].segmentation.size"),
        ({"segmentation": FULL | {"size": [WIDTH, HEIGHT]}}, r"results\[1\].segmentation.size"),
        ({"segmentation": FULL | {"size": [float(HEIGHT), WIDTH]}}, r"results\[1\].segmentation.size"),
    ],
)
def test_bad_results_never_reach_native_code(change: dict[str, object], message: str) -> None:
    truth, _ = random_set(0)
    with pytest.raises(BadInput, match=message):
        coco_ap(truth, [RESULT, {**RESULT, **change}])


@pytest.mark.parametrize("result", [None, 3, [RESULT], {}])
def test_a_result_is_an_object(result: object) -> None:
    truth, _ = random_set(0)
    with pytest.raises(
        BadInput, match=r"results\[0\].(entry: expected an object|image_id: .* found nothing)"
    ):
        coco_ap(truth, [result])


def test_results_of_unknown_classes_count_for_nothing() -> None:
    truth, results = random_set(0)
    assert coco_ap(truth, [*results, {**RESULT, "category_id": 2**63 - 1, "score": 1}]) == coco_ap(
        truth, results
    )


def test_detections_of_a_record() -> None:
    rle = masks.encode(np.ones((3, 4), bool))
    good = Instance(Source.STUDENT, class_id=3, rle=rle, score=0.5)
    others = [
        Instance(Source.STUDENT, class_id=3, rle=rle),
        Instance(Source.STUDENT, class_id=3, score=0.5),
        Instance(Source.STUDENT, phrase="x", rle=rle, score=0.5),
        Instance(Source.STUDENT, class_id=3, rle=rle, score=0.5, dropped="low"),
    ]
    record = Record(8, "a", "", 4, 3, "val", Role.VAL)
    assert detections(record, [good, *others]) == [
        {"image_id": 8, "category_id": 3, "segmentation": as_dict(rle), "score": 0.5}
    ]
