"""BLO-Inst as a whole, with a SAM of 64 px: it learns, resumes to the bit, and refuses what teaches nothing."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from little_pictures import HEIGHT, ONTOLOGY, WIDTH, MakeContext, draw
from ranks import Pair, team_context
from safetensors.torch import load_file
from small_blo import LEAST, new_student, sample_of, write_detector
from small_models import build_small_sam

from pipeline.data.errors import BadInput
from pipeline.data.masks import tight_box
from pipeline.data.records import Category, Ontology, Record, Source
from pipeline.engine.stage import Stopped
from pipeline.engine.team import ALONE, Team
from students import blo_inst, catalog
from students.blo_inst import WEIGHTS, BloInst, open_artifact
from students.blo_settings import BloInstSettings

FILES = (WEIGHTS, "student.json", "loss.json")
pytestmark = pytest.mark.usefixtures("small_sam")


def test_learns_pictures_and_opens_what_it_saved(
    images: Path, make_context: MakeContext, trained: Path
) -> None:
    records = [draw(index, images) for index in range(3)]
    context = make_context("run")
    learner = new_student(trained, pretrain_epochs=4, steps=20, lr_sam=2e-2, overlap=0.5)
    metrics = learner.fit(records, context)
    losses = json.loads((context.out / "loss.json").read_text())
    assert [len(phase) for phase in losses] == [8, 20]
    assert metrics["loss_last"] < metrics["loss_first"] == pytest.approx(np.mean(losses[1][:5]))
    counts = {name: metrics[name] for name in ("steps", "images", "images_of_sam", "images_of_detector")}
    assert counts == {"steps": 28, "images": 3, "images_of_sam": 2, "images_of_detector": 1}
    assert metrics["best_epoch"] > 0

    samples = [sample_of(record, images) for record in records]
    found = learner.predict(samples)
    for instances in found:
        assert 0 < len(instances) <= 100
        scores = [instance.score or 0.0 for instance in instances]
        assert scores == sorted(scores, reverse=True)
        for instance in instances:
            assert instance.source is Source.STUDENT
            assert instance.rle is not None
            assert instance.rle.size == (HEIGHT, WIDTH)
            assert instance.box_xyxy == tight_box(instance.rle)
    for again in (open_artifact(context.out, device="cpu"), catalog.load_artifact(context.out, device="cpu")):
        assert again.predict(samples) == found
        assert again.predict(samples[1:2]) == found[1:2]  # no neighbour matters
    assert learner.predict([]) == []


@pytest.mark.parametrize("order", ["joint", "separate", "first", "second"])
def test_the_same_bits_after_a_stop_and_from_the_same_seed(
    images: Path, make_context: MakeContext, trained: Path, order: str
) -> None:
    records = [draw(index, images) for index in range(3)]
    whole = make_context("whole")
    new_student(trained, order=order).fit(records, whole)
    with pytest.raises(Stopped, match="stopped after step 1 of 2 of al"):
        new_student(trained, order=order).fit(records, make_context("parts", stop_after=3))
    assert not list(make_context("parts").out.iterdir())
    new_student(trained, order=order, checkpoint_every=1).fit(records, make_context("parts"))
    for name in FILES:
        assert (whole.out / name).read_bytes() == (make_context("parts").out / name).read_bytes()
    if order == "first":
        other = make_context("other", seed=1)
        new_student(trained, order=order).fit(records, other)
        assert (whole.out / "loss.json").read_bytes() != (other.out / "loss.json").read_bytes()


def test_a_killed_training_goes_on(images: Path, make_context: MakeContext, trained: Path) -> None:
    class Killed(Exception):
        """Stands for a kill: no chance to save."""

    def kill(step: int, _: int, note: str) -> None:
        if note.startswith("loss") and step == 3:
            raise Killed

    records = [draw(index, images) for index in range(3)]
    whole, killed = make_context("whole"), make_context("killed")
    with pytest.raises(Killed):
        new_student(trained, checkpoint_every=1).fit(records, replace(killed, progress=kill))
    new_student(trained).fit(records, killed)
    new_student(trained).fit(records, whole)
    for name in FILES:
        assert (whole.out / name).read_bytes() == (killed.out / name).read_bytes()


def test_states_of_other_settings_are_refused(images: Path, make_context: MakeContext, trained: Path) -> None:
    records = [draw(index, images) for index in range(2)]
    with pytest.raises(Stopped):
        new_student(trained).fit(records, make_context("run", stop_after=1))
    with pytest.raises(BadInput, match="is of recipe"):
        new_student(trained, order="second").fit(records, make_context("run"))


def test_a_training_ends_early_and_keeps_the_best(
    images: Path, make_context: MakeContext, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worse from epoch to epoch: the weights are those before the first step of both levels."""
    told = chain([0.5, 0.6, 0.7], repeat(0.7))  # of three epochs, and of both halves at the end
    monkeypatch.setattr("students.blo_judge.missed", lambda *_: (next(told), 1, 1))
    records = [draw(index, images) for index in range(4)]
    context = make_context("run")
    metrics = new_student(trained, pretrain_epochs=0, steps=9, patience=2).fit(records, context)
    assert metrics["steps"] == 2
    assert metrics["best_epoch"] == 0
    given, saved = load_file(trained), load_file(context.out / WEIGHTS)
    assert all(torch.equal(saved[f"detector.model.{name}"], value) for name, value in given.items())


def test_training_leaves_the_random_numbers_of_others_alone(
    images: Path, make_context: MakeContext, trained: Path
) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    new_student(trained, steps=1).fit([draw(index, images) for index in range(2)], make_context("run"))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("count", "empty", "settings", "message"),
    [
        (1, (), {}, "expected 2 images or more, one for each level; found 1"),
        (3, (0, 1), {}, "expected 2 images or more, one for each level; found 1"),
        (3, (0, 1, 2), {}, "none of 3 images has a mask of a known class"),
        (3, (0, 1), {"filter_empty": False}, "none of (SAM's|the detector's) [12] images has an object"),
        (3, (0, 1, 2), {"filter_empty": False}, "none of SAM's 2 images has an object"),
    ],
    ids=["one image", "one with masks", "no masks", "a half without", "no objects"],
)
def test_data_that_teaches_nothing_is_refused(
    images: Path,
    make_context: MakeContext,
    trained: Path,
    count: int,
    empty: tuple[int, ...],
    settings: dict[str, object],
    message: str,
) -> None:
    records = [draw(index, images) for index in range(count)]
    records = [replace(r, instances=()) if r.image_id in empty else r for r in records]
    with pytest.raises(BadInput, match=message):
        new_student(trained, **settings).fit(records, make_context("run"))


@pytest.mark.parametrize("order", ["joint", "separate", "first", "second"])
def test_empty_images_and_a_detector_that_finds_nothing_are_learned_from(
    images: Path, make_context: MakeContext, tmp_path: Path, order: str
) -> None:
    records = [draw(index, images) for index in range(4)]
    records = [replace(r, instances=()) if r.image_id in (1, 3) else r for r in records]
    weights = write_detector(tmp_path / "new.safetensors")
    context = make_context("run")
    settings = {
        "order": order,
        "filter_empty": False,
        "confidence": 0.9,
        "pretrain_epochs": 0,
        "batch_size": 1,
    }
    metrics = new_student(weights, **settings).fit(records, context)
    assert all(np.isfinite(value) for value in metrics.values())
    state = load_file(context.out / WEIGHTS)
    assert all(value.isfinite().all() for value in state.values())


def test_bad_records_are_refused(images: Path, make_context: MakeContext, trained: Path) -> None:
    records = [draw(index, images) for index in range(2)]
    with pytest.raises(BadInput, match=r"lost\.png"):
        new_student(trained).fit(
            [*records, replace(records[0], image_id=9, uri="lost.png")], make_context("run")
        )
    own = BloInstSettings.model_validate({"detector_weights": trained, **LEAST})
    wrong = BloInst(own, ontology=Ontology((Category(1, "disc"),)), device="cpu")
    with pytest.raises(BadInput, match="class id 3 is not in the ontology"):
        wrong.fit(records, make_context("other"))


def fit(team: Team, records: Sequence[Record], folder: Path, weights: Path, stop_after: int | None) -> str:
    """In one process of a team, with the small SAM; only the second one hears of a stop."""
    load, blo_inst.load_sam = blo_inst.load_sam, lambda *_, **__: build_small_sam()
    done: list[int] = []
    context = team_context(
        folder,
        ONTOLOGY,
        team,
        progress=lambda step, _total, note: done.append(step) if note.startswith("loss") else None,
        should_stop=lambda: team.any(team.rank == team.world - 1 and len(done) == stop_after),
    )
    try:
        new_student(weights, steps=2).fit(list(records), context)  # type: ignore[arg-type]
    except Stopped as stopped:
        return str(stopped)
    finally:
        blo_inst.load_sam = load
    return "done"


def test_two_stop_together_go_on_and_end_with_the_same(pair: Pair, tmp_path: Path, trained: Path) -> None:
    """The uris are from the parent of the work folder: the pictures lie there."""
    records = [draw(index, tmp_path) for index in range(5)]
    parts, alone = tmp_path / "parts", tmp_path / "alone"
    assert pair.run(fit, records, parts, trained, 4) == ["stopped after step 1 of 2 of aligned"] * 2
    assert pair.run(fit, records, parts, trained, None) == ["done"] * 2
    assert fit(ALONE, records, alone, trained, None) == "done"
    ways = [alone / "out-0", parts / "out-0", parts / "out-1"]
    assert all((ways[1] / name).read_bytes() == (ways[2] / name).read_bytes() for name in FILES)
    losses = [json.loads((folder / "loss.json").read_text()) for folder in ways[:2]]
    assert [len(phase) for phase in losses[1]] == [3, 2]
    assert losses[1][0][0] == pytest.approx(
        losses[0][0][0], rel=0.2
    )  # each over the number of its own objects
