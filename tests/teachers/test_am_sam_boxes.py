"""The boxes that AM-SAM asks with: the surest of each class, a file's, and the whole image where there is none."""

import json
from pathlib import Path

import numpy as np
import pytest
from few_shots import ONTOLOGY, sample_of, shot

from pipeline.data.errors import BadInput
from pipeline.data.records import Origin, Prompt
from teachers.am_sam_boxes import BoxFile, asked, nothing, proposed, question, surest
from teachers.sam.pixels import Frame

IDS = ONTOLOGY.ids
DISC, BAR = IDS


def prompt(class_id: int, score: float, x: float = 1.0) -> Prompt:
    return Prompt(Origin.DINO, (x, 2.0, x + 20, 30.0), class_id=class_id, score=score)


def test_the_surest_box_of_each_class_counts() -> None:
    found = surest(
        [prompt(DISC, 0.5), prompt(BAR, 0.2), prompt(DISC, 0.9, 7), prompt(DISC, 0.9, 8), prompt(99, 1.0)],
        IDS,
    )
    assert found == {DISC: prompt(DISC, 0.9, 7), BAR: prompt(BAR, 0.2)}


@pytest.mark.parametrize("by_class", [True, False])
def test_what_is_not_found_is_asked_with_the_whole_image_and_counted(tmp_path: Path, by_class: bool) -> None:
    record = shot(1, tmp_path)
    none = question({}, IDS, record, by_class=by_class, score=0.25)
    assert none.unfound == len(none.prompts) == (2 if by_class else 1)
    assert none.of(BAR).box_xyxy == (0.0, 0.0, 64.0, 48.0)
    assert none.of(BAR).origin is Origin.IMAGE
    assert none.highest == 0
    one = question(
        {DISC: prompt(DISC, 0.4), BAR: prompt(BAR, 0.2)}, IDS, record, by_class=by_class, score=0.25
    )
    assert one.unfound == (1 if by_class else 0)
    unsure = question({DISC: prompt(DISC, 0.4)}, IDS, record, by_class=by_class, score=0.5)
    assert (unsure.prompts, unsure.highest) == (none.prompts, 0.4)
    assert one.of(DISC) == prompt(DISC, 0.4)
    assert (one.of(BAR) == prompt(DISC, 0.4)) == (not by_class)


def test_boxes_are_those_of_sams_square(tmp_path: Path) -> None:
    record = shot(1, tmp_path)
    found = question({DISC: prompt(DISC, 0.4)}, IDS, record, by_class=True, score=0.25)
    boxes = found.tensor(Frame(48, 64, 128))
    assert np.allclose(boxes, np.array([[2, 4, 42, 60], [0, 0, 128, 96]]) - 0.5)


def test_who_may_be_asked(tmp_path: Path) -> None:
    record = shot(1, tmp_path)
    sample = sample_of(record, tmp_path, proposals=(prompt(DISC, 0.4),))
    assert proposed(sample, IDS) == (prompt(DISC, 0.4),)
    assert nothing(sample, IDS) == ()

    class Proposer:
        def propose(self, batch: object, names: object) -> list[list[Prompt]]:
            assert (batch, names) == ([sample], [[BAR]])
            return [[prompt(BAR, 0.6)]]

    assert asked(Proposer())(sample, [BAR]) == [prompt(BAR, 0.6)]


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_file_names_images_or_their_ids(tmp_path: Path) -> None:
    records = [shot(i, tmp_path) for i in (1, 2)]
    listed = [
        {"file_name": "1.png", "category_id": DISC, "bbox": [1, 2, 3, 4.5], "score": 0.5},
        {"image_id": 2, "category_id": BAR, "bbox": [-5, 2, 20, 400]},
        {"image_id": 2, "category_id": DISC, "bbox": [100, 2, 20, 4]},
        {"file_name": "9.png", "category_id": DISC, "bbox": [1, 2, 3, 4]},
    ]
    file = BoxFile(write(tmp_path / "boxes.json", listed), IDS)
    first, second = (file(sample_of(record, tmp_path), IDS) for record in records)
    assert first == [Prompt(Origin.HUMAN, (1.0, 2.0, 4.0, 6.5), class_id=DISC, score=0.5)]
    assert second == [
        Prompt(Origin.HUMAN, (0.0, 2.0, 15.0, 48.0), class_id=BAR, score=1.0)
    ]  # one lies beside


ENTRY = {"file_name": "1.png", "category_id": DISC, "bbox": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"annotations": []}, r"boxes\.json: expected a list of boxes, found dict"),
        ([ENTRY, 7], r"boxes\.json: \[1\]: expected a mapping, found 7"),
        ([{**ENTRY, "category_id": 5}], r"\[0\]\.category_id: expected one of \[3, 8\], found 5"),
        ([{**ENTRY, "category_id": True}], r"\[0\]\.category_id: expected one of"),
        ([{**ENTRY, "bbox": [1, 2, 3]}], r"\[0\]\.bbox: expected \[x, y, width, height\]"),
        ([{**ENTRY, "bbox": [1, 2, 0, 4]}], r"\[0\]\.bbox: .* sides above 0"),
        ([{**ENTRY, "bbox": [1, 2, 3, "4"]}], r"\[0\]\.bbox"),
        ([{**ENTRY, "bbox": [1, 2, 3, 1e400]}], r"\[0\]\.bbox"),
        ([{**ENTRY, "score": 1.5}], r"\[0\]\.score: expected a number in \[0, 1\], found 1\.5"),
        ([{"category_id": DISC, "bbox": [1, 2, 3, 4]}], r"\[0\]: expected a file_name or an image_id"),
        ([{**ENTRY, "file_name": 3, "image_id": None}], r"\[0\]: expected a file_name or an image_id"),
    ],
)
def test_a_file_that_is_no_list_of_boxes_is_refused_by_its_entry(
    tmp_path: Path, content: object, told: str
) -> None:
    with pytest.raises(BadInput, match=told):
        BoxFile(write(tmp_path / "boxes.json", content), IDS)


def test_a_file_that_is_not_there_or_no_json(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"box_file .*none\.json: expected a file, found"):
        BoxFile(tmp_path / "none.json", IDS)
    (tmp_path / "broken.json").write_text("[{")
    with pytest.raises(BadInput, match=r"box_file .*broken\.json: expected JSON"):
        BoxFile(tmp_path / "broken.json", IDS)
