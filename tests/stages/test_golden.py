"""What each map stage makes of two fixed scenes, kept in golden.json with the stage's version.

Store keys hold the version, not the code: a change of output without a new version would let old results pass for new
ones. When this test fails because the output was meant to change, bump the stage's `version` and write the file anew:

    python tests/stages/test_golden.py

New embedded weights change keys by themselves; then writing the file anew is enough. Numbers are compared with the
slack that other processors need.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))

from stage_fakes import context

from pipeline.data.masks import encode, iou_matrix
from pipeline.data.records import RLE, Category, Instance, Ontology, Prompt, Record, Role, Source, WeakKind
from pipeline.data.weak import simulate
from pipeline.engine.stage import MapStage
from pipeline.stages.filter import Filter, FilterConfig
from pipeline.stages.propose import Propose, ProposeConfig
from pipeline.stages.pseudo_label import PseudoLabel, PseudoLabelConfig
from pipeline.toyworld.scene import render
from pipeline.toyworld.world import classes
from teachers.catalog import ModelSpec

GOLDEN = Path(__file__).with_name("golden.json")
SEED = 77
LIKE = 0.95  # IoU of a mask with the kept one
PIXELS, SCORE = 0.5, 0.02  # slack of boxes and of scores
ONTOLOGY = Ontology(tuple(Category(c.id, c.name) for c in classes("demo")))
KINDS = (WeakKind.CLASS, WeakKind.POINT, WeakKind.BOX)

Rows = list[dict[str, Any]]


def weak_records(images: Path) -> list[Record]:
    """One scene a kind of label, their photos written to `images`."""
    images.mkdir(parents=True)
    found = []
    for index, kind in enumerate(KINDS):
        scene = render("demo", SEED, index)
        (images / f"{index}.jpg").write_bytes(scene.jpeg)
        instances = tuple(
            Instance(Source.HUMAN, thing.class_id, rle=encode(thing.mask), human_id=number)
            for number, thing in enumerate(scene.objects, start=1)
            if thing.class_id is not None
        )
        digest = hashlib.sha256(scene.jpeg).hexdigest()
        full = Record(index + 1, f"{index}.jpg", digest, 256, 256, "train", Role.WEAK, instances=instances)
        found.append(simulate(full, kind, SEED))
    return found


def made(folder: Path) -> dict[str, dict[str, Any]]:
    """Version and output of each stage, one after the other."""
    records = weak_records(folder / "images")
    teacher = ModelSpec(name="teacher", use="class_aware_sam")
    proposer = ModelSpec(name="proposer", use="tiny_grounder")
    stages: list[MapStage[Any]] = [
        Propose(ProposeConfig(model=proposer)),
        PseudoLabel(PseudoLabelConfig(model=teacher)),
        Filter(FilterConfig(preset="custom", min_score=0.4, min_area=60, point_inside=True)),
    ]
    out = {}
    for stage in stages:
        stage.setup(context(folder, ontology=ONTOLOGY))
        records = [stage([stage.load(record)])[0] for record in records]
        rows = [row for record in records for row in rows_of(record, stage)]
        out[stage.name] = {"version": stage.version, "rows": rows}
    return out


def rows_of(record: Record, stage: MapStage[Any]) -> Rows:
    """What the stage adds to a record, as JSON."""
    if "proposals" in stage.adds:
        return [{"image": record.image_id, **_prompt(prompt)} for prompt in record.proposals]
    return [{"image": record.image_id, **_instance(instance)} for instance in record.instances]


def _prompt(prompt: Prompt) -> dict[str, Any]:
    box = None if prompt.box_xyxy is None else [round(value, 2) for value in prompt.box_xyxy]
    score = None if prompt.score is None else round(prompt.score, 4)
    return {"origin": prompt.origin.value, "class": prompt.class_id, "box": box, "score": score}


def _instance(instance: Instance) -> dict[str, Any]:
    assert instance.prompt is not None
    return {
        **_prompt(replace(instance.prompt, score=instance.score)),
        "human": instance.human_id,
        "size": None if instance.rle is None else list(instance.rle.size),
        "counts": None if instance.rle is None else instance.rle.counts,
        "dropped": None if instance.dropped is None else instance.dropped.split(" ")[0],
    }


def differences(found: Rows, kept: Rows) -> list[str]:
    """Rows that are not alike, one line each; a differing number of rows is one line."""
    if len(found) != len(kept):
        return [f"{len(found)} rows, kept {len(kept)}"]
    return [f"{one} is not {other}" for one, other in zip(found, kept, strict=True) if not alike(one, other)]


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Same names and numbers, boxes and scores within the slack, masks of IoU 0.95."""
    near = all(
        (one[key] is None) == (other[key] is None)
        and (one[key] is None or np.allclose(one[key], other[key], rtol=0, atol=slack))
        for key, slack in (("box", PIXELS), ("score", SCORE))
    )
    named = ("image", "origin", "class", "human", "size", "dropped")
    same = all(one.get(key) == other.get(key) for key in named)
    return near and same and _same_mask(one, other)


def _same_mask(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if one.get("counts") is None or other.get("counts") is None:
        return one.get("counts") == other.get("counts")
    rles: Sequence[RLE] = [RLE((row["size"][0], row["size"][1]), row["counts"]) for row in (one, other)]
    return bool(iou_matrix(rles[:1], rles[1:])[0, 0] >= LIKE)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return made(tmp_path_factory.mktemp("golden") / "run")


@pytest.mark.parametrize("stage", ["propose", "pseudo_label", "filter"])
def test_the_output_changes_with_the_version_only(output: dict[str, dict[str, Any]], stage: str) -> None:
    kept = json.loads(GOLDEN.read_text())[stage]
    assert output[stage]["version"] == kept["version"], f"version changed: {__doc__}"
    assert not differences(output[stage]["rows"], kept["rows"]), __doc__


def test_a_change_is_seen(output: dict[str, dict[str, Any]]) -> None:
    rows = output["filter"]["rows"]
    assert {row["dropped"] for row in rows} > {None}
    assert not differences(rows, rows)
    assert differences(rows[1:], rows)
    for key, value in (("score", 0.03), ("box", [0.6, 0, 0, 0]), ("class", 1)):
        moved = [dict(row) for row in rows]
        row = next(row for row in moved if row[key] is not None)
        row[key] = (np.asarray(row[key]) + value).tolist()
        assert len(differences(moved, rows)) == 1
    masked = [index for index, row in enumerate(rows) if row["counts"] is not None]
    swapped = [dict(row) for row in rows]
    swapped[masked[0]]["counts"] = rows[masked[-1]]["counts"]
    assert len(differences(swapped, rows)) == 1


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(made(Path(folder) / "run"), indent=1) + "\n")
