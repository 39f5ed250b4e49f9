"""The teacher's tuning in a team of two: its step is that of one process, embeddings are shared, it stops, goes on."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import Pair, team_context
from safetensors.torch import load_file
from small_models import build_small_sam
from tuning_cases import IDENTITY, NO_ZOOM, ONTOLOGY, Listed, TwoNames, reserved_after

from pipeline.data.records import Record
from pipeline.engine.context import SCRATCH, Stopped, TrainContext
from pipeline.engine.states import states
from pipeline.engine.team import ALONE, Team
from teachers.answerer import Answerer
from teachers.class_texts import ClassTexts
from teachers.embedding_cache import EmbeddingCache
from teachers.fit_head import Bench, HeadTask, HeadTrainer
from teachers.heads import new_head
from teachers.sam.predictor import SamPredictor
from teachers.sam_teacher import SamTeacher
from teachers.settings import ClassAwareSettings
from teachers.training_set import collect

SETTINGS = ClassAwareSettings(steps=5, lr=1e-3, batch_size=4, points=64, checkpoint_every=2)


@dataclass
class Asked:
    """How often one was asked whether to stop; says so from the given time on."""

    stop_after: int | None
    times: int = 0

    def __call__(self) -> bool:
        self.times += 1
        return self.stop_after is not None and self.times > self.stop_after


def context_of(folder: Path, name: str, team: Team, stop_after: int | None = None) -> TrainContext:
    asked = Asked(stop_after)
    return team_context(
        folder / name,
        ONTOLOGY,
        team,
        progress=lambda *_: None,
        should_stop=lambda: team.any(team.rank == 0 and asked()),
    )


def run_tune(
    team: Team, records: list[Record], folder: Path, name: str, stop_after: int | None = None
) -> str:
    answerer = Answerer(SamPredictor(build_small_sam(0)), {}, ClassTexts(TwoNames(), ONTOLOGY), zoom=NO_ZOOM)
    context = context_of(folder, name, team, stop_after)
    try:
        SamTeacher(answerer, SETTINGS, IDENTITY).fit(Listed(tuple(records)), context)
    except Stopped:
        return "stopped"
    return "done"


def one_step(team: Team, records: list[Record], folder: Path, variant: str) -> tuple[float, np.ndarray]:
    """Loss and gradient of a step."""
    predictor, texts = SamPredictor(build_small_sam(0)), ClassTexts(TwoNames(), ONTOLOGY)
    training = collect(Listed(tuple(records)))
    cache = EmbeddingCache(
        predictor,
        training.images,
        [target.part(variant, NO_ZOOM) for target in training.targets],
        dtype="float32",
        limit_bytes=1e9,
    )
    cache.build(context_of(folder, f"step-{variant}-{team.world}", team), lambda *_: None)
    bench = Bench(predictor, cache, texts, SETTINGS, 0, NO_ZOOM, team)
    head = new_head(predictor.sam, variant, SETTINGS, text_width=texts.width, seed=0)
    trainer = HeadTrainer(HeadTask(variant, variant, head, training.targets, bench), folder / "none")
    still = [{"params": list(trainer._parameters.values()), "full_lr": 0.0}]
    trainer._optimizer = torch.optim.SGD(still, lr=0.0)  # type: ignore[assignment]
    loss = trainer.step(1)
    gradients = [p.grad.flatten() for p in trainer._parameters.values() if p.grad is not None]
    return loss, torch.cat(gradients).numpy()


@pytest.mark.parametrize("variant", ["box", "point"])
def test_a_step_of_two_is_a_step_of_one(pair: Pair, tmp_path: Path, variant: str) -> None:
    records = reserved_after(3, tmp_path)
    loss, gradient = one_step(ALONE, records, tmp_path, variant)
    for shared_loss, shared in pair.run(one_step, records, tmp_path, variant):
        assert shared_loss == pytest.approx(loss, rel=1e-5)
        assert shared.shape == gradient.shape
        assert np.linalg.norm(shared - gradient) < 1e-4 * np.linalg.norm(gradient)


def features(team: Team, records: list[Record], folder: Path, stop_after: int | None) -> np.ndarray | str:
    predictor = SamPredictor(build_small_sam(0), embed_batch=2)
    training = collect(Listed(tuple(records)))
    parts = [(index, None) for index in range(len(training.images))]
    cache = EmbeddingCache(predictor, training.images, parts, dtype="float16", limit_bytes=1e9)
    try:
        cache.build(context_of(folder, f"cache-{team.world}", team, stop_after), lambda *_: None)
    except Stopped:
        return "stopped"
    return cache.gather(parts).features.numpy()


@pytest.mark.parametrize("images", [1, 5])
def test_embeddings_are_made_by_all_and_are_those_of_one(pair: Pair, tmp_path: Path, images: int) -> None:
    records = reserved_after(images, tmp_path)[:images]
    alone = features(ALONE, records, tmp_path, None)
    folder = tmp_path / "cache-2" / "work" / SCRATCH
    folder.mkdir(parents=True)
    (folder / "embeddings.bin").write_bytes(b"of one process")
    if images > 2:
        assert pair.run(features, records, tmp_path, 1) == ["stopped", "stopped"]
    for found in pair.run(features, records, tmp_path, None):
        assert np.array_equal(found, alone)
    made = {path.name for path in folder.glob("*.bin")}
    assert made == {f"embeddings-{rank}-of-2.bin" for rank in range(1 if images < 3 else 2)}


def test_two_stop_together_and_go_on(pair: Pair, tmp_path: Path) -> None:
    records = reserved_after(3, tmp_path)
    assert pair.run(run_tune, records, tmp_path, "parts", 6) == ["stopped"] * 2
    assert len(states(tmp_path / "parts" / "work", "box")) == 2
    assert pair.run(run_tune, records, tmp_path, "parts") == ["done"] * 2
    assert run_tune(ALONE, records, tmp_path, "alone") == "done"
    ways = [tmp_path / "alone" / "out-0", tmp_path / "parts" / "out-0", tmp_path / "parts" / "out-1"]
    losses = [json.loads((folder / "loss.json").read_text())["."] for folder in ways]
    assert losses[1] == losses[2]
    for variant in losses[0]:
        assert losses[1][variant] == pytest.approx(losses[0][variant], rel=1e-2)
        first, second = (load_file(folder / f"{variant}.safetensors") for folder in ways[1:])
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_damaged_state_costs_the_steps_since_the_one_before(tmp_path: Path) -> None:
    records = reserved_after(3, tmp_path)
    assert run_tune(ALONE, records, tmp_path, "whole") == "done"
    assert run_tune(ALONE, records, tmp_path, "parts", 6) == "stopped"
    last = states(tmp_path / "parts" / "work", "box")[-1]
    last.write_bytes(last.read_bytes()[:-100])
    assert run_tune(ALONE, records, tmp_path, "parts") == "done"
    ends = [(tmp_path / name / "out-0" / "box.safetensors").read_bytes() for name in ("whole", "parts")]
    assert ends[0] == ends[1]
