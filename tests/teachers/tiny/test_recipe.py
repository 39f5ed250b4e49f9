"""The training loop: resumption gives the same bits, the schedule holds, other settings are refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.data.errors import BadInput
from teachers.tiny.recipe import LossFn, Recipe, lr_at, step_rng, train

RECIPE = Recipe(steps=12, lr=1e-2, seed=3, warmup=4, ema=0.9, save_every=5, log_every=3)


class Killed(Exception):
    pass


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.2), nn.Linear(16, 12), nn.Linear(12, 1))


def loss_of(model: nn.Module, *, die_at: int | None = None) -> LossFn:
    def loss_fn(step: int) -> dict[str, Tensor]:
        if step == die_at:
            raise Killed
        x = torch.from_numpy(step_rng(3, step).normal(size=(16, 6)).astype("float32"))
        return {"square": (model(x)[:, 0] - x.sum(1)).square().mean(), "small": 0 * model(x).mean()}

    return loss_fn


@pytest.mark.parametrize("muon", [0.0, 2.0])
def test_a_killed_run_ends_in_the_bits_of_one_that_was_not(tmp_path: Path, muon: float) -> None:
    recipe = replace(RECIPE, muon=muon)
    whole = net()
    straight = train(whole, loss_fn=loss_of(whole), recipe=recipe, workdir=tmp_path / "a")
    killed = net()
    with pytest.raises(Killed):
        train(killed, loss_fn=loss_of(killed, die_at=8), recipe=recipe, workdir=tmp_path / "b")
    again = net()
    resumed = train(again, loss_fn=loss_of(again), recipe=recipe, workdir=tmp_path / "b")
    assert straight.steps == resumed.steps == 12
    assert all(torch.equal(straight.state[name], resumed.state[name]) for name in straight.state)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    logs = [[json.loads(line) for line in (tmp_path / d / "log.jsonl").open()] for d in "ab"]
    assert [line["step"] for line in logs[0]] == [3, 6, 9, 12]
    assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    model = net()
    first = train(model, loss_fn=loss_of(model), recipe=RECIPE, workdir=tmp_path)
    other = net()
    second = train(other, loss_fn=loss_of(other, die_at=0), recipe=RECIPE, workdir=tmp_path)
    assert all(torch.equal(first.state[name], second.state[name]) for name in first.state)


def test_the_loss_falls_and_the_average_is_not_the_last_weights(tmp_path: Path) -> None:
    model = net()
    recipe = replace(RECIPE, steps=200, log_every=50)
    trained = train(model, loss_fn=loss_of(model), recipe=recipe, workdir=tmp_path)
    losses = [json.loads(line)["square"] for line in (tmp_path / "log.jsonl").open()]
    assert losses[-1] < 0.7 * losses[0]
    assert not torch.equal(trained.state["0.weight"], model.state_dict()["0.weight"])


def test_muon_moves_the_linear_layers_but_the_head_and_by_orthogonal_steps(tmp_path: Path) -> None:
    before, moved = net(), {}
    for muon in (0.0, 1.0, 3.0):
        model = net()
        recipe = replace(RECIPE, steps=1, warmup=1, ema=None, weight_decay=0.0, muon=muon)
        train(model, loss_fn=loss_of(model), recipe=recipe, workdir=tmp_path / str(muon))
        moved[muon] = {name: value - before.state_dict()[name] for name, value in model.state_dict().items()}
    same = {name for name in moved[1.0] if torch.equal(moved[1.0][name], moved[0.0][name])}
    assert set(moved[1.0]) - same == {"2.weight"}  # the first has too few inputs, the last one output
    singular = torch.linalg.svdvals(moved[1.0]["2.weight"])
    torch.testing.assert_close(moved[3.0]["2.weight"], 3 * moved[1.0]["2.weight"], rtol=0.02, atol=1e-6)
    assert singular[0] < 4 * singular[5] < 100 * singular[6]  # its gradient is of rank 6


@pytest.mark.parametrize("changed", [{"steps": 13}, {"lr": 2e-2}, {"seed": 4}, {"ema": None}, {"muon": 1.0}])
def test_other_settings_are_refused(tmp_path: Path, changed: dict[str, float | None]) -> None:
    model = net()
    train(model, loss_fn=loss_of(model), recipe=RECIPE, workdir=tmp_path)
    with pytest.raises(BadInput, match=next(iter(changed))):
        train(model, loss_fn=loss_of(model), recipe=replace(RECIPE, **changed), workdir=tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = net()
    with pytest.raises(FloatingPointError, match="step 0"):
        train(model, loss_fn=lambda _: model[0].weight.sum() / 0, recipe=RECIPE, workdir=tmp_path)


@pytest.mark.parametrize(("step", "share"), [(0, 0.25), (3, 1.0), (4, 1.0), (8, 0.505), (12, 0.01)], ids=str)
def test_the_schedule(step: int, share: float) -> None:
    assert lr_at(RECIPE, step) == pytest.approx(RECIPE.lr * share)


@pytest.mark.parametrize(
    ("step", "share"), [(0, 0.25), (4, 1.0), (5, 0.505), (6, 0.25), (10, 1.0), (12, 0.01)]
)
def test_the_schedule_begins_anew(step: int, share: float) -> None:
    assert lr_at(replace(RECIPE, restarts=(6,)), step) == pytest.approx(RECIPE.lr * share)


def test_bf16_runs_the_loss_under_autocast(tmp_path: Path) -> None:
    model, seen = net(), []

    def loss_fn(_: int) -> Tensor:
        out = model(torch.ones(2, 6))
        seen.append(out.dtype)
        return out.float().square().mean()

    train(model, loss_fn=loss_fn, recipe=replace(RECIPE, steps=1, bf16=True), workdir=tmp_path)
    assert seen == [torch.bfloat16]
