"""The student in a team of two: its step is that of one process, it stops and goes on, damaged states are skipped."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from little_pictures import ONTOLOGY, draw
from PIL import Image
from ranks import Pair, team_context
from safetensors.torch import load_file
from torch import nn

from pipeline.data.records import Record
from pipeline.engine.files import file_digest
from pipeline.engine.stage import Stopped, TrainContext
from pipeline.engine.states import states
from pipeline.engine.team import ALONE, Team
from students.batch_norm import share_batch_norms
from students.mask2former import WEIGHTS, Mask2Former
from students.settings import RECIPES, TINY, Mask2FormerSettings
from students.trainer import Training
from teachers.checkpoint import CHECKPOINT
from teachers.pool import Loader, write_pool

INDEX = {3: 0, 7: 1}
SMALL = replace(TINY, size=128)


def context_of(folder: Path, name: str, team: Team, stop_after: int | None = None) -> TrainContext:
    done: list[int] = []
    return team_context(
        folder / name,
        ONTOLOGY,
        team,
        progress=lambda step, _total, note: done.append(step) if note.startswith("loss") else None,
        # Only the second one hears of it by itself.
        should_stop=lambda: team.any(team.rank == team.world - 1 and len(done) == stop_after),
    )


def fit(
    team: Team, records: Sequence[Record], folder: Path, name: str, stop_after: int | None, steps: int
) -> str:
    RECIPES["tiny"] = SMALL
    settings = Mask2FormerSettings(steps=steps, batch_size=4, checkpoint_every=2)
    student = Mask2Former(settings, ontology=ONTOLOGY, device="cpu")
    try:
        student.fit(list(records), context_of(folder, name, team, stop_after))  # type: ignore[arg-type]
    except Stopped as stopped:
        return str(stopped)
    finally:
        RECIPES["tiny"] = TINY
    return "done"


def one_step(team: Team, records: Sequence[Record], folder: Path, frozen: bool) -> tuple[float, np.ndarray]:
    """Loss and clipped gradient of a step."""
    RECIPES["tiny"] = SMALL
    try:
        student = Mask2Former(Mask2FormerSettings(batch_size=4), ontology=ONTOLOGY, device="cpu")
        model = student._new_model(0).train()
    finally:
        RECIPES["tiny"] = TINY
    if frozen:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    else:
        share_batch_norms(model, team)
    pool = write_pool(
        records,  # type: ignore[arg-type]
        folder / f"pool-{team.rank}-{team.world}-{frozen}",
        class_index=INDEX,
        filter_empty=True,
        progress=lambda *_: None,
    )
    loader = Loader(
        pool=pool,
        images_root=folder,
        class_index=INDEX,
        size=128,
        scale=(0.5, 2.0),
        batch=4,
        seed=0,
        trust_weights=False,
        team=team,
    )
    (batch,) = loader.batches(3, 4, threads=1)
    training = Training(model, replace(SMALL, clip=5.0), bf16=False, frozen=frozen)
    optimizer = torch.optim.SGD([{"params": list(model.parameters()), "factor": 1.0}], lr=0.0)
    loss = training._step(optimizer, batch, 3, loader=loader)
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return loss, torch.cat(gradients).numpy()


def _noisy(record: Record, folder: Path) -> Record:
    """On flat ground all pixels are alike, and rounding turns all of them at once on either side of a ReLU."""
    path = folder / record.uri
    flat = np.asarray(Image.open(path)).astype(np.float32)
    noise = np.random.default_rng(record.image_id).normal(0, 20, flat.shape)
    Image.fromarray((flat + noise).clip(0, 255).astype(np.uint8)).save(path)
    return replace(record, sha256=file_digest(path))


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    """Five pictures with two targets each, but one has a single target: the parts of a step are not alike."""
    drawn = [_noisy(draw(index, tmp_path), tmp_path) for index in range(5)]
    return [replace(drawn[0], instances=drawn[0].instances[:1]), *drawn[1:]]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_of_two_is_a_step_of_one(
    pair: Pair, tmp_path: Path, records: list[Record], frozen: bool
) -> None:
    loss, gradient = one_step(ALONE, records, tmp_path, frozen)
    for shared_loss, shared in pair.run(one_step, records, tmp_path, frozen):
        assert shared_loss == pytest.approx(loss, rel=1e-5)
        assert shared.shape == gradient.shape
        # Where the norms learn, rounding moves some pixels across a ReLU.
        assert np.linalg.norm(shared - gradient) < (1e-3 if frozen else 5e-3) * np.linalg.norm(gradient)


def test_two_stop_together_and_go_on(pair: Pair, tmp_path: Path, records: list[Record]) -> None:
    assert pair.run(fit, records, tmp_path, "parts", 3, 6) == ["stopped after step 3 of 6"] * 2
    assert len(states(tmp_path / "parts" / "work", CHECKPOINT)) == 2  # of steps 2 and 3, by one process
    assert pair.run(fit, records, tmp_path, "parts", None, 6) == ["done"] * 2
    assert fit(ALONE, records, tmp_path, "alone", None, 6) == "done"
    ways = [tmp_path / "alone" / "out-0", tmp_path / "parts" / "out-0", tmp_path / "parts" / "out-1"]
    losses = [json.loads((folder / "loss.json").read_text()) for folder in ways]
    assert losses[1] == losses[2]
    assert losses[1][:3] == pytest.approx(losses[0][:3], rel=1e-3)  # then rounding has grown
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    first, second = (load_file(folder / WEIGHTS) for folder in ways[1:])
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("damage", ["cut", "bit"])
def test_a_damaged_state_costs_the_steps_since_the_one_before(
    tmp_path: Path, records: list[Record], damage: str
) -> None:
    assert fit(ALONE, records, tmp_path, "whole", None, 5) == "done"
    assert fit(ALONE, records, tmp_path, "parts", 3, 5) == "stopped after step 3 of 5"
    last = states(tmp_path / "parts" / "work", CHECKPOINT)[-1]
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data if damage == "bit" else data[: len(data) // 2])
    assert fit(ALONE, records, tmp_path, "parts", None, 5) == "done"
    ends = [(tmp_path / name / "out-0" / WEIGHTS).read_bytes() for name in ("whole", "parts")]
    assert ends[0] == ends[1]
