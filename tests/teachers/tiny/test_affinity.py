"""Which pixels belong together: the regions of a scene, and the loss that asks for them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from teachers.tiny.affinity import FINER, MAPS, OFFSETS, Affinity, regions
from teachers.tiny.scenes import LEVELS, CachedScene, SceneCache


def scene(*things: tuple[str, tuple[int, int, int, int]]) -> CachedScene:
    masks = np.zeros((len(things), 256, 256), bool)
    for mask, (_, (x0, y0, x1, y1)) in zip(masks, things, strict=True):
        mask[y0:y1, x0:x1] = True
    return CachedScene(
        np.zeros((256, 256, 3), np.uint8),
        np.packbits(masks.reshape(len(things), -1), axis=1),
        np.zeros(len(things), np.int64),
        np.array([LEVELS.index(level) for level, _ in things]),
        np.array([box for _, box in things], np.float32),
    )


def test_regions_are_of_whole_things_and_of_their_parts() -> None:
    found = regions(
        scene(
            ("part", (10, 10, 20, 20)),
            ("whole", (0, 0, 50, 50)),
            ("group", (0, 0, 200, 200)),
            ("clutter", (100, 100, 120, 120)),
        )
    )
    assert found.shape == (MAPS, 256, 256)
    whole, finest = found
    assert (
        len(set(np.unique(whole))) == len(set(np.unique(finest))) - 1 == 3
    )  # ground, the thing, the clutter
    assert whole[15, 15] == whole[40, 40] == finest[40, 40] != 0
    assert finest[15, 15] not in (0, finest[40, 40])
    assert whole[110, 110] == finest[110, 110] != 0
    assert whole[80, 80] == finest[80, 80] == 0


def test_a_smaller_thing_lies_on_a_larger_one(tmp_path: Path) -> None:
    cached = SceneCache(tmp_path, world="pretrain", seed=5, count=1)[0]
    whole, finest = regions(cached)
    assert (finest[whole > 0] > 0).all()
    own = [row for row in range(len(cached.masks)) if LEVELS[int(cached.level[row])] != "group"]
    smallest = min(own, key=lambda row: int(cached.mask(row).sum()))
    (number,) = set(finest[cached.mask(smallest)].tolist())  # nothing lies on it
    assert (finest == number).sum() == cached.mask(smallest).sum()
    for row in own:
        shown = set(finest[cached.mask(row)].tolist()) - {0}
        covering = sum(int(cached.mask(other).sum()) <= int(cached.mask(row).sum()) for other in own)
        assert 0 < len(shown) <= covering  # itself and smaller ones


class Told(torch.nn.Module):
    """Answers as it is told, whatever the embedding."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.told = torch.nn.functional.pixel_unshuffle(logits.flatten(1, 2), FINER)

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.told


def loss_of(logits: torch.Tensor, found: torch.Tensor) -> float:
    head = Affinity(4)
    head.answer = Told(logits)  # type: ignore[assignment]
    return float(head.loss(torch.zeros(1, 4, 4, 4), found))


@pytest.mark.parametrize("split", ["rows", "columns", "diagonal"])
def test_the_right_answer_costs_nothing_and_a_wrong_one_much(split: str) -> None:
    y, x = np.mgrid[:16, :16]
    ids = {"rows": y // 5, "columns": x // 5, "diagonal": (x + y) // 7}[split].astype(np.uint8)
    found = torch.from_numpy(np.stack([ids, ids // 2]))[None]
    logits = torch.zeros(1, MAPS, len(OFFSETS), 16, 16)
    for index, (dy, dx) in enumerate(OFFSETS):
        for row, one in enumerate(found[0].numpy()):
            for py in range(16):
                for px in range(16):
                    inside = py + dy < 16 and 0 <= px + dx < 16
                    same = inside and one[py, px] == one[py + dy, px + dx]
                    logits[0, row, index, py, px] = 20.0 if same else -20.0

    assert loss_of(logits, found) < 1e-3
    assert loss_of(-logits, found) > 10
    assert 0.5 < loss_of(0 * logits, found) < 0.7


def test_the_head_answers_for_sixteen_pixels_a_cell() -> None:
    torch.manual_seed(0)
    head = Affinity(8)
    embedding = torch.randn(2, 8, 16, 16, requires_grad=True)
    loss = head.loss(embedding, torch.randint(0, 3, (2, MAPS, 64, 64), dtype=torch.uint8))
    torch.autograd.backward(loss)
    assert embedding.grad is not None
    assert float(embedding.grad.abs().sum()) > 0
