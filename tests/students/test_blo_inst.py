"""BLO-Inst as a whole, with a SAM of 64 px: it learns, and resumes to the bit."""

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
from small_blo import new_student, sample_of
from small_models import build_small_sam

from pipeline.data.errors import BadInput
from pipeline.data.masks import tight_box
from pipeline.data.records import Record, Source
from pipeline.engine.stage import Stopped
from pipeline.engine.team import ALONE, Team
from students import blo_inst, catalog
from students.blo_artifact import WEIGHTS
from students.blo_inst import open_artifact
from teachers.fcos import FcosDetector

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
    assert {name: {key: len(own) for key, own in phase.items()} for name, phase in losses.items()} == {
        "detector": {"loss": 8},
        "aligned": {"loss": 20, "loss_of_sam": 20},
    }
    for name in ("loss", "loss_of_sam"):
        first, last = (np.mean(losses["aligned"][name][part]) for part in (slice(5), slice(-5, None)))
        assert (metrics[f"{name}_first"], metrics[f"{name}_last"]) == (
            pytest.approx(first),
            pytest.approx(last),
        )
        assert metrics[f"{name}_last"] < metrics[f"{name}_first"]
    assert all(metrics[name] > 0 for name in ("core_seconds", "surest"))
    assert metrics["core_seconds_of_embeddings"] >= 0
    assert "warning" not in metrics
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


def test_a_detector_meets_some_images_before_it_learns(
    images: Path, make_context: MakeContext, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever it is: what it does with them is its own matter."""
    shown: list[tuple[int, ...]] = []
    monkeypatch.setattr(FcosDetector, "meet", lambda _, pixels: shown.append(tuple(pixels.shape)))
    new_student(trained, steps=1).fit([draw(index, images) for index in range(3)], make_context("run"))
    assert shown == [(3, 3, 64, 64)]


@pytest.mark.parametrize("half", ["SAM's half", "the detector's half"])
def test_what_is_judged_in_the_end_can_be_stopped(
    images: Path, make_context: MakeContext, trained: Path, half: str
) -> None:
    """Nothing is left but the states: the next attempt trains no step, and ends with the same bytes."""
    records = [draw(index, images) for index in range(3)]
    whole, context, told = make_context("whole"), make_context("parts"), []
    new_student(trained).fit(records, whole)
    stopping = replace(
        context,
        progress=lambda *said: told.append(said[2]),
        should_stop=lambda: told[-1:] == [f"judging {half}"],
    )
    with pytest.raises(Stopped, match=f"stopped while judging {half}"):
        new_student(trained).fit(records, stopping)
    assert not list(context.out.iterdir())
    told.clear()
    new_student(trained).fit(records, replace(context, progress=lambda *said: told.append(said[2])))
    assert not any(note.startswith("loss") for note in told)
    for name in FILES:
        assert (whole.out / name).read_bytes() == (context.out / name).read_bytes()


def test_opening_a_student_leaves_the_random_numbers_of_others_alone(
    images: Path, make_context: MakeContext, trained: Path
) -> None:
    context = make_context("run")
    new_student(trained, steps=1).fit([draw(index, images) for index in range(2)], context)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    open_artifact(context.out, device="cpu")
    assert torch.equal(torch.rand(3), expected)


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
    assert [len(phase["loss"]) for phase in losses[1].values()] == [3, 2]
    first = [found["detector"]["loss"][0] for found in losses]
    assert first[1] == pytest.approx(first[0], rel=0.2)  # each over the number of its own objects
